//! A whole log: written, verified, attacked.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::checkpoint::EvidenceKey;
use super::entry::{Event, Kind};
use super::journal::tests::{clock, completed, eventually, intent, note, origin, small, writer};
use super::journal::{Journal, JournalError, JournalOptions, Ticket};
use super::query::{Filter, Query, records};
use super::storage::{DiskStorage, FakeStorage, Fault, Operation, Storage};
use super::tree::TreeHead;
use super::verify::{Failure, RecordFault, Report, VerifyOptions, verify, verify_in};
use super::*;
use crate::domain::name::CallId;

#[path = "tests/faults.rs"]
mod faults;
#[path = "tests/meanwhile.rs"]
mod meanwhile;
#[path = "tests/tamper.rs"]
mod tamper;

fn key() -> Vec<u8> {
    EvidenceKey::generate().unwrap().1
}

fn open(disk: &FakeStorage, der: &[u8]) -> Result<EvidenceLog, LogError> {
    let key = EvidenceKey::from_pkcs8(der).unwrap();
    EvidenceLog::open_in(Arc::new(disk.clone()), origin(), key, &writer(), small(), clock()).map(|(log, _)| log)
}

fn calls(journal: &Journal, from: u64, count: u64) -> u64 {
    let mut allowed = 0;
    for n in from..from + count {
        let Ok((ticket, room)) = journal.intent(&intent(n)) else { continue };
        if journal.durable_blocking(ticket).is_ok() {
            allowed += 1;
            room.record(completed());
        }
    }
    allowed
}

fn check(disk: &FakeStorage) -> Result<Report, Failure> {
    verify_in(Arc::new(disk.clone()), &VerifyOptions::default())
}

/// A log of some segments and tiles, closed.
fn written(der: &[u8], count: u64) -> FakeStorage {
    let disk = FakeStorage::new();
    let log = open(&disk, der).unwrap();
    calls(log.journal(), 0, count / 2);
    log.checkpoint_now();
    calls(log.journal(), count, count / 2);
    log.shutdown();
    disk
}

fn draw(state: &mut u64, below: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state % below as u64).unwrap()
}

#[test]
fn a_good_log_verifies_and_says_what_is_in_it() {
    let der = key();
    let disk = written(&der, 200);
    let report = check(&disk).unwrap();
    assert_eq!((report.records, report.checkpoint.size, report.past_checkpoint), (401, 401, 0));
    assert_eq!((report.open_intents, report.in_flight_bytes, report.incarnations), (0, 0, 1));
    let log = open(&disk, &der).unwrap();
    let (ticket, room) = log.journal().intent(&intent(7)).unwrap();
    log.journal().durable_blocking(ticket).unwrap();
    let report = check(&disk).unwrap();
    assert_eq!((report.records, report.open_intents, report.incarnations), (403, 1, 2));
    assert!(report.past_checkpoint <= 1);
    drop(room);
    log.shutdown();
    assert_eq!(check(&disk).unwrap().past_checkpoint, 0);
}

#[test]
fn every_changed_byte_is_found_and_its_record_named() {
    let disk = written(&key(), 200);
    assert!(check(&disk).is_ok());
    let files: Vec<_> = disk.files().into_iter().filter(|(path, _)| path != "lock").collect();
    assert!(files.iter().filter(|(path, _)| path.starts_with("journal/")).count() > 10);
    // Where each record's frame ends, by segment.
    let mut ends: Vec<(Arc<str>, u64, u64)> = Vec::new();
    let mut query = Query::new(Arc::new(disk.clone()), 0, Filter::default());
    while let Some(found) = query.next().unwrap() {
        ends.push((found.place.segment, found.place.offset + 8 + found.bytes.len() as u64, found.place.seq));
    }
    let mut state = 0x1234_5678_9abc_def1;
    for (path, bytes) in &files {
        // Headers, lengths and marks stand at the beginning of a segment; the rest by chance.
        let head = if path.starts_with("journal/") { 110 } else { 0 };
        for pick in 0..9 {
            let at = draw(&mut state, if pick < 3 { bytes.len().min(head).max(1) } else { bytes.len() });
            let bit = draw(&mut state, 8);
            disk.alter(path, |bytes| bytes[at] ^= 1 << bit);
            let failure = check(&disk).expect_err(&format!("{path} byte {at} bit {bit}"));
            if path.starts_with("journal/") {
                let expected =
                    ends.iter().find(|(segment, end, _)| **segment == **path && (at as u64) < *end).unwrap().2;
                match &failure {
                    Failure::Record { place, .. } => {
                        assert_eq!((&*place.segment, place.seq), (path.as_str(), expected), "byte {at}: {failure}");
                    }
                    other => panic!("{path} byte {at}: {other}"),
                }
            } else if path.starts_with("tile/0/") {
                assert!(failure.record().is_some(), "{path} byte {at}: {failure}");
            }
            disk.alter(path, |bytes| bytes[at] ^= 1 << bit);
        }
    }
    assert!(check(&disk).is_ok());
}

#[test]
fn a_record_that_was_rewritten_with_care_is_named() {
    let disk = written(&key(), 400);
    let found = {
        let mut query =
            Query::new(Arc::new(disk.clone()), 300, Filter { kind: Some(Kind::Intent), ..Filter::default() });
        query.next().unwrap().unwrap()
    };
    let text = String::from_utf8(found.bytes.clone()).unwrap().replace("orders/7", "orders/8").into_bytes();
    assert_eq!(text.len(), found.bytes.len());
    let frame = [&journal::segment::frame_header(text.len(), crc32c::crc32c(&text))[..], &text].concat();
    let at = found.place.offset as usize;
    disk.alter(&found.place.segment, |bytes| bytes[at..at + frame.len()].copy_from_slice(&frame));
    match check(&disk) {
        Err(Failure::Record { place, why: RecordFault::Leaf }) => assert_eq!(place, found.place),
        other => panic!("{other:?}"),
    }
    // With its leaf in the tile made to fit, the tile above or the signature still shows it.
    let tile = tiles::TileId { level: 0, index: found.place.seq / 256 };
    let hash = tree::leaf_hash(&text);
    let slot = (found.place.seq % 256) as usize * 32;
    for (path, bytes) in disk.files() {
        if tiles::TileId::parse(&path).is_some_and(|(id, _)| id == tile) && bytes.len() >= slot + 32 {
            disk.alter(&path, |bytes| bytes[slot..slot + 32].copy_from_slice(&hash.0));
        }
    }
    match check(&disk) {
        Err(Failure::Tile { first, last, .. }) => assert!((first..=last).contains(&found.place.seq)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn cut_dropped_swapped_and_rolled_back_logs_are_found() {
    let der = key();
    let disk = written(&der, 400);
    let fresh = || {
        let copy = FakeStorage::new();
        for (path, bytes) in disk.files() {
            copy.write_file(&path, &bytes, storage::Persist::Now).unwrap();
        }
        copy
    };
    let segments: Vec<_> =
        disk.files().into_iter().map(|(path, _)| path).filter(|path| path.starts_with("journal/")).collect();
    let copy = fresh();
    copy.alter(segments.last().unwrap(), |bytes| bytes.truncate(bytes.len() - 10));
    assert!(matches!(check(&copy), Err(Failure::Cut { records: 800, known: 801, lost: 1 })));
    let copy = fresh();
    copy.steal(segments.last().unwrap());
    assert!(matches!(check(&copy), Err(Failure::Cut { .. })));
    for gone in [0, segments.len() / 2] {
        let copy = fresh();
        copy.steal(&segments[gone]);
        let failure = check(&copy).unwrap_err();
        // The first could have been pruned, and no record says so.
        let found = match gone {
            0 => matches!(failure, Failure::Missing { from: 0, .. }),
            _ => matches!(failure, Failure::Record { .. }),
        };
        assert!(found, "segment {gone}: {failure}");
    }
    let copy = fresh();
    let (one, two) = (&disk.files()[6], &disk.files()[7]);
    assert!(one.0.starts_with("journal/") && two.0.starts_with("journal/"));
    copy.alter(&one.0, |bytes| bytes.clone_from(&two.1));
    assert!(check(&copy).is_err());
    for path in ["checkpoint", "log.json", "tile/0/000", "tile/0/003.p/33"] {
        let copy = fresh();
        assert!(copy.files().iter().any(|(file, _)| file == path), "{path}");
        copy.steal(path);
        // What was signed last stands in for the checkpoint, which is only its copy.
        assert_eq!(check(&copy).is_err(), path != "checkpoint", "{path}");
    }
    let copy = fresh();
    copy.write_file("tile/0/000x", b"", storage::Persist::Now).unwrap();
    assert!(matches!(check(&copy), Err(Failure::NotATile { .. })));
}

#[test]
fn a_log_of_another_key_or_an_older_one_is_found_by_what_is_remembered() {
    let (der, theirs) = (key(), key());
    let ours = EvidenceKey::from_pkcs8(&der).unwrap().verifier(&origin());
    let (disk, forged) = (written(&der, 20), written(&theirs, 20));
    let with = |against| VerifyOptions { key: Some(ours.clone()), against, cosigner: None };
    let head = verify_in(Arc::new(disk.clone()), &with(None)).unwrap().checkpoint;
    assert!(check(&forged).is_ok(), "by its own word it is good");
    assert!(matches!(verify_in(Arc::new(forged), &with(None)), Err(Failure::OtherKey { .. })));
    let storage: Arc<dyn Storage> = Arc::new(disk);
    assert!(verify_in(storage.clone(), &with(Some(head))).is_ok());
    let longer = TreeHead { size: head.size + 1, ..head };
    assert!(matches!(verify_in(storage.clone(), &with(Some(longer))), Err(Failure::Cut { .. })));
    let other = TreeHead { size: head.size - 1, ..head };
    assert!(matches!(verify_in(storage, &with(Some(other))), Err(Failure::Root { .. })));
}

#[test]
fn a_log_is_good_after_a_crash_at_any_step_and_after_any_fault() {
    let der = key();
    let whole = FakeStorage::new();
    let run = |disk: &FakeStorage| -> Result<u64, LogError> {
        let log = open(disk, &der)?;
        let allowed = calls(log.journal(), 0, 140);
        log.shutdown();
        Ok(allowed)
    };
    run(&whole).unwrap();
    let steps = whole.operations();
    for step in (0..steps).step_by(5) {
        let disk = FakeStorage::new();
        disk.crash_after(step);
        let allowed = run(&disk).unwrap_or(0);
        let after = disk.reboot(Some(step));
        let more = run(&after).unwrap_or_else(|error| panic!("step {step}: {error}"));
        assert_eq!(more, 140);
        let report = check(&after).unwrap_or_else(|failure| panic!("step {step}: {failure}"));
        assert!(report.records >= allowed + 2 * more, "step {step}");
        assert_eq!(report.past_checkpoint, 0, "step {step}");
    }
    for operation in [Operation::Create, Operation::Append, Operation::Sync, Operation::Write] {
        for after in 0..10 {
            let disk = FakeStorage::new();
            disk.fail(operation, after, Fault::Half);
            let first = run(&disk);
            disk.mend();
            run(&disk).unwrap_or_else(|error| panic!("{operation:?} {after} {first:?}: {error}"));
            check(&disk).unwrap_or_else(|failure| panic!("{operation:?} {after}: {failure}"));
        }
    }
}

#[test]
fn a_log_that_is_being_written_verifies_without_false_alarms() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("evidence");
    let key = EvidenceKey::load_or_create(&directory.path().join("key")).unwrap();
    let options = JournalOptions { segment_bytes: 64 << 10, ..JournalOptions::default() };
    let clock = clock();
    let (log, _) = EvidenceLog::open(&path, origin(), key, &writer(), options.clone(), clock.clone()).unwrap();
    let busy = EvidenceKey::load_or_create(&directory.path().join("key")).unwrap();
    assert!(matches!(
        EvidenceLog::open(&path, origin(), busy, &writer(), options.clone(), clock.clone()),
        Err(LogError::Busy(_))
    ));
    let mut last = 0;
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let log = &log;
            scope.spawn(move || {
                for round in 0..40 {
                    let begun: Vec<_> = (0..50)
                        .filter_map(|n| log.journal().intent(&intent(thread * 1_000_000 + round * 50 + n)).ok())
                        .collect();
                    for (ticket, room) in begun {
                        log.journal().durable_blocking(ticket).unwrap();
                        room.record(completed());
                    }
                }
            });
        }
        for round in 0..12 {
            clock.advance(Duration::from_secs(1));
            if round % 4 == 0 {
                log.checkpoint_now();
            }
            match verify(&path, &VerifyOptions::default()) {
                Ok(report) => {
                    assert!(report.records >= last);
                    last = report.records;
                }
                Err(failure) => panic!("round {round}: {failure}"),
            }
        }
    });
    log.shutdown();
    drop(log);
    let report = verify(&path, &VerifyOptions::default()).unwrap();
    assert_eq!((report.past_checkpoint, report.open_intents, report.in_flight_bytes), (0, 0, 0));
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&directory.path().join("key"))), (0o700, 0o600));
}

#[test]
fn a_deleted_segment_refuses_calls_on_a_real_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (key, _) = EvidenceKey::generate().unwrap();
    let (log, _) =
        EvidenceLog::open(directory.path(), origin(), key, &writer(), JournalOptions::default(), clock()).unwrap();
    assert_eq!(calls(log.journal(), 0, 2), 2);
    for entry in std::fs::read_dir(directory.path().join("journal")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(calls(log.journal(), 2, 2), 0);
}

#[test]
fn a_segment_that_was_cut_where_it_stands_refuses_calls_on_a_real_disk() {
    for left in [0, 100] {
        let directory = tempfile::tempdir().unwrap();
        let (key, _) = EvidenceKey::generate().unwrap();
        let (log, _) =
            EvidenceLog::open(directory.path(), origin(), key, &writer(), JournalOptions::default(), clock()).unwrap();
        assert_eq!(calls(log.journal(), 0, 2), 2);
        // As log rotation by copying does.
        let segment = directory.path().join("journal/00000000000000000000.log");
        std::fs::OpenOptions::new().write(true).open(segment).unwrap().set_len(left).unwrap();
        assert_eq!(calls(log.journal(), 2, 2), 0);
    }
}

#[test]
fn a_log_that_lost_signed_records_does_not_open_however_often_it_is_tried() {
    let lose_all = |bytes: &mut Vec<u8>| bytes.clear();
    let lose_last = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1);
    let change_last = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    for (n, lose) in [lose_all, lose_last, change_last].into_iter().enumerate() {
        let disk = tempfile::tempdir().unwrap();
        let open = || {
            let key = EvidenceKey::load_or_create(&disk.path().join("key")).unwrap();
            let directory = disk.path().join("evidence");
            EvidenceLog::open(&directory, origin(), key, &writer(), JournalOptions::default(), clock())
        };
        let (log, _) = open().unwrap();
        assert_eq!(calls(log.journal(), 0, 3), 3);
        log.shutdown();
        let signed = log.checkpoint().unwrap().0.size;
        drop(log);
        let segment = disk.path().join("evidence/journal/00000000000000000000.log");
        let mut bytes = std::fs::read(&segment).unwrap();
        lose(&mut bytes);
        match bytes.is_empty() {
            true => std::fs::remove_file(&segment).unwrap(),
            false => crate::files::write(&segment, &bytes, crate::files::PRIVATE).unwrap(),
        }
        for start in 0..=signed {
            assert!(matches!(open(), Err(LogError::Sequencer(_))), "loss {n}, start {start}");
        }
    }
}

#[test]
fn queries_filter_follow_and_give_outcomes_with_their_intents() {
    let disk = FakeStorage::new();
    let log = open(&disk, &key()).unwrap();
    calls(log.journal(), 0, 3);
    let ticket = log.journal().append(&note(1)).unwrap();
    log.journal().durable_blocking(ticket).unwrap();
    log.journal().flush().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let kinds = |filter: Filter| {
        let mut query = Query::new(storage.clone(), 0, filter);
        let mut kinds = Vec::new();
        while let Some(found) = query.next().unwrap() {
            kinds.push(found.entry.event.kind());
        }
        kinds
    };
    let identity = |name: &str| Filter { identity: Some(name.parse().unwrap()), ..Filter::default() };
    assert_eq!(kinds(identity("billing")), [Kind::Intent, Kind::Outcome].repeat(3));
    assert_eq!(kinds(identity("helper")), []);
    assert_eq!(kinds(Filter { call: Some(CallId::from_bits(1)), ..Filter::default() }).len(), 3);
    assert_eq!(kinds(Filter { kind: Some(Kind::Outcome), ..identity("billing") }), [Kind::Outcome; 3]);
    let later = clock();
    later.advance(Duration::from_secs(1));
    assert_eq!(kinds(Filter { from: Some(crate::domain::Clock::now(&*later)), ..Filter::default() }), []);
    let mut tail = Query::new(storage.clone(), records(&storage).unwrap(), Filter::default());
    assert!(tail.next().unwrap().is_none());
    calls(log.journal(), 3, 1);
    assert!(matches!(tail.next().unwrap().unwrap().entry.event, Event::Intent(_)));
    log.shutdown();
    assert!(matches!(tail.next().unwrap().unwrap().entry.event, Event::Outcome(_)));
    assert!(tail.next().unwrap().is_none());
}

#[test]
fn a_directory_opened_for_reading_is_not_written_to() {
    let directory = tempfile::tempdir().unwrap();
    let storage = DiskStorage::read_only(directory.path());
    assert!(storage.write_file("x", b"y", storage::Persist::Now).is_err());
    assert_eq!(storage.list("").unwrap(), []);
}
