//! Pruned logs: every proof stays, every lie about what is gone shows, and no crash in between matters.

use super::*;
use crate::evidence::EvidenceLog;
use crate::evidence::checkpoint::EvidenceKey;
use crate::evidence::entry::Kind;
use crate::evidence::export::{ExportError, StorageSink, export};
use crate::evidence::journal::tests::{clock, completed, intent, origin, small, writer};
use crate::evidence::proof::consistency;
use crate::evidence::query::{Filter, Query};
use crate::evidence::sequencer::CHECKPOINT;
use crate::evidence::storage::FakeStorage;
use crate::evidence::tlog_proof::{CannotProve, TlogProof};
use crate::evidence::verify::{Failure, Report, VerifyOptions, verify_in};

const LITTLE: Policy = Policy { age: None, bytes: Some(64 << 10) };

fn opened(disk: &FakeStorage, key: &EvidenceKey) -> EvidenceLog {
    let storage = Arc::new(disk.clone());
    EvidenceLog::open_in(storage, origin(), key.clone(), &writer(), small(), clock()).unwrap().0
}

fn called(log: &EvidenceLog, calls: std::ops::Range<u64>) {
    for n in calls {
        let (ticket, room) = log.journal().intent(&intent(n)).unwrap();
        log.journal().durable_blocking(ticket).unwrap();
        room.record(completed());
    }
    log.journal().flush().unwrap();
    log.checkpoint_now().unwrap();
}

/// As the control plane does after each renewal.
fn cosign(disk: &FakeStorage) {
    let note = read_note(disk, CHECKPOINT).unwrap().unwrap();
    disk.write_file(COSIGNED, &note, Persist::Now).unwrap();
}

fn log(calls: u64) -> (FakeStorage, EvidenceKey) {
    let (key, _) = EvidenceKey::generate().unwrap();
    let disk = FakeStorage::new();
    let log = opened(&disk, &key);
    called(&log, 0..calls);
    cosign(&disk);
    (disk, key)
}

fn check(disk: &FakeStorage) -> Result<Report, Failure> {
    verify_in(Arc::new(disk.clone()), &VerifyOptions::default())
}

fn prune(log: &EvidenceLog, policy: Policy, archived: Option<u64>) -> Result<Option<Plan>, PruneError> {
    log.prune(policy, Bounds { archived, stays: None }, crate::domain::Clock::now(&*clock()), |_| Ok(()))
}

fn pruned(calls: u64) -> (FakeStorage, EvidenceKey, Plan) {
    let (disk, key) = log(calls);
    let log = opened(&disk, &key);
    let plan = prune(&log, LITTLE, None).unwrap().unwrap();
    log.shutdown();
    (disk, key, plan)
}

#[test]
fn a_pruned_log_verifies_proves_and_goes_on() {
    let (disk, key, plan) = pruned(1000);
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    assert!(plan.before > 1000 && plan.before.is_multiple_of(256) && plan.stays <= plan.before, "{plan:?}");
    let report = check(&disk).unwrap();
    let (first, horizon) = report.pruned.unwrap();
    assert_eq!((first, horizon.before, horizon.policy.as_str()), (plan.stays, plan.before, "keep 64KiB"));
    // All growth is proven as before, from sizes that are gone too; a record that is there by itself.
    let size = report.checkpoint.size;
    for old in [1, 255, 256, 700, plan.before, size - 1] {
        assert!(!consistency(&*storage, old, size).unwrap().is_empty(), "{old}");
    }
    assert!(TlogProof::make(&storage, plan.stays).is_ok());
    assert!(matches!(TlogProof::make(&storage, 5), Err(CannotProve::Pruned { index: 5, .. })));
    // What is read begins where records do.
    let found = Query::new(storage.clone(), 0, Filter::default()).next().unwrap().unwrap();
    assert_eq!(found.entry.seq, plan.stays);
    let kind = Some(Kind::Pruned);
    let found = Query::new(storage, 0, Filter { kind, ..Filter::default() }).next().unwrap().unwrap();
    assert_eq!(Horizon::of(&found.entry), Some(horizon));
    // It is written on, pruned again, and its tiles are derived again when a loss of power took what was not synced.
    let log = opened(&disk, &key);
    called(&log, 1000..2000);
    cosign(&disk);
    let again = prune(&log, LITTLE, None).unwrap().unwrap();
    assert!(again.before > plan.before && again.from == plan.stays, "{again:?}");
    drop(log);
    let after = disk.reboot(None);
    let log = opened(&after, &key);
    called(&log, 0..1);
    log.shutdown();
    assert_eq!(check(&after).unwrap().pruned.unwrap().1.before, again.before);
}

#[test]
fn records_that_are_missing_without_a_record_or_beyond_it_are_found() {
    let (disk, key) = log(1000);
    let all = segments(&disk).unwrap();
    // Nobody said so.
    let thief = disk.kill();
    thief.steal(&segment::path(all[0]));
    let failure = check(&thief).unwrap_err();
    assert!(matches!(failure, Failure::Missing { from: 0, to } if to == all[1] - 1), "{failure}");
    // Somebody wrote a note that no record bears out.
    let (pruned, _, plan) = pruned(1000);
    thief.write_file(PRUNED, &read_file(&pruned, PRUNED, 4096).unwrap(), Persist::Now).unwrap();
    assert!(matches!(check(&thief), Err(Failure::Missing { from: 0, .. })));
    // One segment more than was said.
    let left = segments(&pruned).unwrap();
    pruned.steal(&segment::path(left[0]));
    let failure = check(&pruned).unwrap_err();
    assert!(matches!(failure, Failure::Missing { from, .. } if from == plan.before), "{failure}");
    // A record behind the last signature, which anybody who can write there can add.
    let log = opened(&disk, &key);
    let told = Pruned { before: 512, from: 0, cosigned: 2000, archived: None, policy: "keep nothing".into() };
    let before = disk.kill();
    let ticket = log.journal().append(&told).unwrap();
    log.journal().durable_blocking(ticket).unwrap();
    let after = disk.kill();
    drop(log);
    for file in [CHECKPOINT, crate::evidence::sequencer::SIGNED] {
        after.write_file(file, &read_file(&before, file, 4096).unwrap(), Persist::Now).unwrap();
    }
    after.steal(&segment::path(all[0]));
    assert!(check(&after).is_err());
}

#[test]
fn a_changed_tile_of_records_that_are_gone_is_found() {
    let (disk, _, plan) = pruned(1000);
    for path in ["tile/0/000", "tile/0/003"] {
        let copy = disk.kill();
        copy.alter(path, |bytes| bytes[77] ^= 1);
        assert!(check(&copy).is_err(), "{path}");
        copy.steal(path);
        assert!(check(&copy).is_err(), "{path} is missing");
    }
    assert!(plan.before >= 1024);
}

#[test]
fn nothing_goes_that_is_not_cosigned_or_not_archived() {
    let (disk, key) = log(1000);
    let log = opened(&disk, &key);
    let before = segments(&disk).unwrap();
    assert_eq!(prune(&log, LITTLE, Some(255)).unwrap(), None);
    let plan = prune(&log, LITTLE, Some(700)).unwrap().unwrap();
    assert_eq!(plan.before, 512);
    disk.steal(COSIGNED);
    assert_eq!(prune(&log, LITTLE, None).unwrap(), None);
    let after = segments(&disk).unwrap();
    assert!(before.iter().filter(|first| **first >= plan.stays).all(|first| after.contains(first)));
    // A log without a policy keeps all, and a young one by age.
    cosign(&disk);
    assert_eq!(prune(&log, Policy::default(), None).unwrap(), None);
    assert_eq!(prune(&log, Policy { age: Some(Duration::from_secs(60)), bytes: None }, None).unwrap(), None);
    let old = Timestamp::from_unix_seconds(1_795_324_140 + 60);
    let policy = Policy { age: Some(Duration::from_secs(60)), bytes: None };
    assert!(log.prune(policy, Bounds::default(), old, |_| Ok(())).unwrap().is_some_and(|plan| plan.before > 1500));
    log.shutdown();
    check(&disk).unwrap();
}

#[test]
fn a_tile_that_does_not_stand_for_its_records_keeps_them() {
    let (disk, key) = log(1000);
    let log = opened(&disk, &key);
    disk.alter("tile/0/001", |bytes| bytes[5] ^= 1);
    let before = segments(&disk).unwrap();
    assert!(matches!(prune(&log, LITTLE, None), Err(PruneError::Tile(path)) if path == "tile/0/001"));
    assert_eq!(segments(&disk).unwrap(), before);
}

#[test]
fn a_crash_at_any_step_of_pruning_leaves_a_log_that_holds_and_is_finished() {
    let (disk, key) = log(700);
    let (mut recorded, mut half) = (0, 0);
    for step in 0.. {
        let copy = disk.kill();
        let log = opened(&copy, &key);
        copy.crash_after(step);
        let done = prune(&log, LITTLE, None).is_ok();
        let killed = copy.kill();
        let lost = copy.reboot(None);
        drop(log);
        // Tiles that a loss of power took are there again when the log was opened, and not before.
        let there = check(&killed).unwrap_or_else(|failure| panic!("step {step}: {failure}"));
        assert!(segments(&killed).unwrap()[0] == 0 || there.pruned.is_some(), "step {step}");
        for after in [killed, lost] {
            let noted = told(&after).unwrap();
            recorded += u64::from(noted.is_some());
            half += u64::from(
                noted.as_ref().is_some_and(|noted| going(&segments(&after).unwrap(), noted.before).next().is_some()),
            );
            let log = opened(&after, &key);
            if let Some(noted) = &noted {
                assert_eq!(going(&segments(&after).unwrap(), noted.before).next(), None, "step {step}");
            }
            cosign(&after);
            prune(&log, LITTLE, None).unwrap();
            log.shutdown();
            assert!(check(&after).unwrap().pruned.is_some(), "step {step}");
        }
        if done {
            break;
        }
    }
    assert!(recorded > 2 && half > 2, "{recorded} {half}");
}

#[test]
fn an_export_of_what_is_left_verifies_and_an_older_one_has_no_hole() {
    let (disk, key) = log(300);
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let (old, new) = (FakeStorage::new(), FakeStorage::new());
    export(&storage, &mut StorageSink(Arc::new(old.clone()))).unwrap();
    let log = opened(&disk, &key);
    called(&log, 300..1000);
    cosign(&disk);
    let plan = prune(&log, LITTLE, None).unwrap().unwrap();
    log.shutdown();
    let error = export(&storage, &mut StorageSink(Arc::new(old.clone()))).unwrap_err();
    assert!(matches!(error, ExportError::Pruned { there: 601.., .. }), "{error}");
    check(&old).unwrap();
    export(&storage, &mut StorageSink(Arc::new(new.clone()))).unwrap();
    let report = check(&new).unwrap();
    assert_eq!(report.pruned.map(|(first, _)| first), Some(plan.before));
    // A bundle less than was said, full or not.
    let first = crate::evidence::bundle::path(plan.before / 256, 256);
    let (bundle, _) = new.files().into_iter().find(|(path, _)| path.starts_with(&first)).unwrap();
    new.steal(&bundle);
    assert!(check(&new).is_err());
}
