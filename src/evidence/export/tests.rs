//! Exports: whole, gone on with, attacked.

use super::*;
use crate::evidence::EvidenceLog;
use crate::evidence::checkpoint::EvidenceKey;
use crate::evidence::journal::tests::{clock, completed, intent, origin, small, writer};
use crate::evidence::storage::{FakeStorage, Persist};
use crate::evidence::verify::{Failure, VerifyOptions, verify_in};

fn written(disk: &FakeStorage, key: &EvidenceKey, calls: std::ops::Range<u64>) {
    let storage = Arc::new(disk.clone());
    let (log, _) = EvidenceLog::open_in(storage, origin(), key.clone(), &writer(), small(), clock()).unwrap();
    for n in calls {
        let (ticket, room) = log.journal().intent(&intent(n)).unwrap();
        log.journal().durable_blocking(ticket).unwrap();
        room.record(completed());
    }
    log.shutdown();
}

fn exported(disk: &FakeStorage, to: &FakeStorage) -> Result<Exported, ExportError> {
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    export(&storage, &mut StorageSink(Arc::new(to.clone())))
}

fn check(disk: &FakeStorage) -> Result<u64, Failure> {
    verify_in(Arc::new(disk.clone()), &VerifyOptions::default()).map(|report| report.records)
}

#[test]
fn an_export_verifies_without_a_journal_and_goes_on_where_it_ended() {
    let (key, _) = EvidenceKey::generate().unwrap();
    let (disk, to) = (FakeStorage::new(), FakeStorage::new());
    written(&disk, &key, 0..300);
    let first = exported(&disk, &to).unwrap();
    assert_eq!((first.before, first.head.size), (0, 601));
    assert_eq!(check(&to).unwrap(), 601);
    written(&disk, &key, 300..310);
    let second = exported(&disk, &to).unwrap();
    assert_eq!((second.before, second.head.size), (601, 622));
    // One bundle and three tiles that changed, and the two files beside them.
    assert_eq!(second.files, 5);
    assert_eq!(check(&to).unwrap(), 622);
    assert!(to.files().iter().all(|(name, _)| !name.starts_with("journal")));
    // What a copier asks for is what is there.
    let there: Vec<String> = to.files().into_iter().map(|(name, _)| name).collect();
    let mut asked = files(622).map(|file| file.path);
    assert!(asked.all(|path| there.contains(&path)));
    assert_eq!(files(70_000).count(), 274 * 2 + 2 + 1);
}

#[test]
fn every_changed_or_missing_file_of_an_export_is_found() {
    let (key, _) = EvidenceKey::generate().unwrap();
    let (disk, to) = (FakeStorage::new(), FakeStorage::new());
    written(&disk, &key, 0..300);
    exported(&disk, &to).unwrap();
    for (name, bytes) in to.files() {
        for at in (0..bytes.len()).step_by(bytes.len().div_ceil(40)) {
            let copy = to.reboot(None);
            copy.alter(&name, |bytes| bytes[at] ^= 4);
            assert!(check(&copy).is_err(), "{name} at {at}");
        }
        if name != LOG_FILE && name != CHECKPOINT {
            let copy = to.reboot(None);
            copy.steal(&name);
            assert!(check(&copy).is_err(), "{name} is missing");
        }
    }
    // A record written anew, its length kept: its own hash tells which.
    let copy = to.reboot(None);
    copy.alter("tile/entries/001", |bytes| {
        let at = bytes.windows(9).position(|window| window == b"\"billing\"").unwrap();
        bytes[at + 1..at + 8].copy_from_slice(b"nobody1");
    });
    let failure = check(&copy).unwrap_err();
    assert!(failure.record().is_some_and(|record| (256..259).contains(&record)), "{failure}");
}

#[test]
fn an_export_goes_on_from_no_other_history() {
    let (key, _) = EvidenceKey::generate().unwrap();
    let (one, other, to) = (FakeStorage::new(), FakeStorage::new(), FakeStorage::new());
    written(&one, &key, 0..20);
    written(&other, &key, 100..130);
    exported(&one, &to).unwrap();
    assert!(matches!(exported(&other, &to), Err(ExportError::Other { there: 41, here: 61 })));
    assert_eq!(check(&to).unwrap(), 41);
    // Records that were changed here do not get there.
    written(&one, &key, 20..30);
    one.alter("journal/00000000000000000000.log", |bytes| {
        let at = bytes.windows(9).rposition(|window| window == b"\"billing\"").unwrap();
        bytes[at + 1] ^= 1;
    });
    assert!(exported(&one, &to).is_err());
    assert_eq!(check(&to).unwrap(), 41);
}

#[test]
fn an_export_that_was_cut_short_has_nothing_cosigned_past_its_checkpoint() {
    let (key, _) = EvidenceKey::generate().unwrap();
    let (disk, to) = (FakeStorage::new(), FakeStorage::new());
    let cosigned = || disk.write_file(COSIGNED, &read_note(&disk, CHECKPOINT).unwrap().unwrap(), Persist::Now).unwrap();
    written(&disk, &key, 0..20);
    cosigned();
    exported(&disk, &to).unwrap();
    written(&disk, &key, 20..30);
    cosigned();
    for step in 0.. {
        let copy = to.kill();
        copy.crash_after(step);
        let done = exported(&disk, &copy).is_ok();
        let size = |file| -> u64 {
            let note = String::from_utf8(read_note(&copy, file).unwrap().unwrap()).unwrap();
            note.lines().nth(1).unwrap().parse().unwrap()
        };
        assert!(size(COSIGNED) <= size(CHECKPOINT), "step {step}");
        if done {
            assert_eq!((size(COSIGNED), check(&copy).unwrap()), (62, 62));
            return;
        }
    }
}
