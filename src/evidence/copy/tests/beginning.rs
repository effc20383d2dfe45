//! A copy of a log that was pruned begins where the log has signed that it may, and nowhere else.

use super::*;
use crate::domain::Clock as _;
use crate::evidence::COSIGNED;
use crate::evidence::proof;
use crate::evidence::retention::{Bounds, PRUNED, Plan, Policy, gone};
use crate::evidence::sequencer::read_note;
use crate::evidence::storage::read_file;
use crate::evidence::tiles::TILE_WIDTH;
use crate::evidence::tree::Hash;

/// A log of which so many records and more are gone.
fn pruned(records: u64) -> (EvidenceLog, FakeStorage, Plan) {
    let (log, disk) = log(1);
    let plan = prune(&log, &disk, records);
    (log, disk, plan)
}

fn prune(log: &EvidenceLog, disk: &FakeStorage, records: u64) -> Plan {
    // In many batches, and so in many segments.
    (0..records / 20).for_each(|_| more(log, 20));
    disk.write_file(COSIGNED, &read_note(disk, CHECKPOINT).unwrap().unwrap(), Persist::Now).unwrap();
    let policy = Policy { age: None, bytes: Some(16 << 10) };
    let plan = log.prune(policy, Bounds::default(), clock().now(), |_| Ok(())).unwrap().unwrap();
    more(log, 3);
    plan
}

/// What the log says of a copy that begins at record `first` and has `has`.
fn claimed(log: &EvidenceLog, disk: &FakeStorage, first: u64, has: u64) -> Claimed {
    let (head, checkpoint) = log.checkpoint().unwrap();
    let pruned = read_file(disk, PRUNED, 4096).unwrap();
    let seq = Entry::place(&pruned).unwrap().0;
    Claimed {
        first,
        inclusion: proof::inclusion(disk, seq, head.size).unwrap(),
        extends: proof::consistency(disk, has, head.size).unwrap(),
        consistency: proof::consistency(disk, first, head.size).unwrap(),
        pruned,
        checkpoint,
    }
}

fn leaves(disk: &FakeStorage, first: u64) -> Vec<Hash> {
    let tile = |index| tiles::read_tile(disk, TileId { level: 0, index }, TILE_WIDTH).unwrap().unwrap();
    (0..first / 256).flat_map(tile).collect()
}

/// Has a copy begin, a tile at a time, and takes what is left of the log.
fn whole(kept: &FakeStorage, log: &EvidenceLog, disk: &FakeStorage, first: u64) -> Result<(), CopyError> {
    let (head, note) = log.checkpoint().unwrap();
    let mut copy = copy(kept, log)?;
    if copy.size() == 0 {
        let mut beginning = Beginning::check(&copy, claimed(log, disk, first, 0), None)?;
        for tile in leaves(disk, first).chunks(256) {
            beginning.put(&mut copy, tile)?;
        }
        assert!(beginning.is_whole());
        beginning.finish(&mut copy)?;
        assert_eq!(copy.size(), first);
    }
    if copy.size() < head.size {
        let from = copy.size();
        put(&mut copy, disk, from, head.size)?;
    }
    copy.compare(head.size, head.root)?;
    copy.checkpoint(&note)
}

#[test]
fn it_begins_behind_what_went_verifies_as_the_log_and_goes_on() {
    let (log, disk, plan) = pruned(1200);
    assert!(plan.before >= 512, "{plan:?}");
    let kept = FakeStorage::new();
    whole(&kept, &log, &disk, plan.before).unwrap();
    let options = VerifyOptions { key: Some(log.verifier_key().clone()), ..VerifyOptions::default() };
    let report = verify_in(Arc::new(kept.clone()), &options).unwrap();
    let (head, _) = log.checkpoint().unwrap();
    assert_eq!((report.records, report.checkpoint), (head.size, head));
    assert_eq!(report.pruned.unwrap().0, plan.before);
    assert_eq!(gone(&kept).unwrap().unwrap().0, plan.before, "readers are told");
    for record in [0, 255, plan.before - 1, plan.before, head.size - 1] {
        assert!(proof::inclusion(&kept, record, head.size).is_ok(), "{record}");
    }
    // It is opened again and gone on with.
    more(&log, 500);
    let mut open = copy(&kept, &log).unwrap();
    assert_eq!(open.used(), bytes_beside_in(&kept));
    assert_eq!(open.size(), head.size);
    let (now, note) = log.checkpoint().unwrap();
    put(&mut open, &disk, head.size, now.size).unwrap();
    open.checkpoint(&note).unwrap();
    assert_eq!(verify_in(Arc::new(kept), &options).unwrap().records, now.size);
}

#[test]
fn it_begins_nowhere_that_the_log_has_not_signed_for() {
    let (log, disk, plan) = pruned(1200);
    let (other, other_disk, other_plan) = pruned(1300);
    let kept = FakeStorage::new();
    let mut open = copy(&kept, &log).unwrap();
    let good = claimed(&log, &disk, plan.before, 0);
    let refused = |copy: &LogCopy, claimed: Claimed| Beginning::check(copy, claimed, None).unwrap_err().code();
    for first in [0, 1, plan.before - 1, plan.before + 256] {
        assert_eq!(refused(&open, Claimed { first, ..good.clone() }), "beginning", "{first}");
    }
    let theirs = claimed(&other, &other_disk, other_plan.before, 0);
    assert_eq!(refused(&open, theirs.clone()), "malformed", "another key's checkpoint");
    assert_eq!(refused(&open, Claimed { pruned: theirs.pruned, ..good.clone() }), "beginning");
    assert_eq!(refused(&open, Claimed { inclusion: Vec::new(), ..good.clone() }), "beginning");
    // A record that says something else.
    let mut reader = JournalReader::new(Arc::new(disk.clone()), plan.before);
    let Next::Record(record) = reader.next().unwrap() else { panic!("no record") };
    assert_eq!(refused(&open, Claimed { pruned: record.bytes.to_vec(), ..good.clone() }), "beginning");
    // Other hashes in the place of what went.
    for (at, bit) in [(0, 1), (plan.before as usize - 1, 128)] {
        let mut hashes = leaves(&disk, plan.before);
        hashes[at].0[7] ^= bit;
        let mut beginning = Beginning::check(&open, good.clone(), None).unwrap();
        assert_eq!(beginning.put(&mut open, &hashes[..255]).unwrap_err().code(), "beginning", "no tile");
        beginning.put(&mut open, &hashes).unwrap();
        assert_eq!(beginning.put(&mut open, &hashes[..256]).unwrap_err().code(), "beginning", "more than all");
        assert_eq!(beginning.finish(&mut open).unwrap_err().code(), "fork");
    }
    // No room for them.
    let small = open_in(Arc::new(FakeStorage::new()), log.verifier_key().clone(), 0, 20 << 10).unwrap();
    assert_eq!(refused(&small, good.clone()), "limit");
    drop(open);
    whole(&kept, &log, &disk, plan.before).unwrap();
    // A copy that has it already, and one that has another beginning.
    let open = copy(&kept, &log).unwrap();
    assert_eq!(refused(&open, good), "beginning");
    let short = FakeStorage::new();
    let mut open = copy(&short, &log).unwrap();
    put(&mut open, &other_disk, other_plan.before, other_plan.before + 1).unwrap_err();
    let (unpruned, whole_disk) = self::log(300);
    put(&mut open, &whole_disk, 0, 300).unwrap();
    assert_eq!(refused(&open, claimed(&log, &disk, plan.before, 300)), "fork");
    drop(unpruned);
}

/// Has a copy begin and nothing more.
fn begun(
    kept: &FakeStorage,
    log: &EvidenceLog,
    disk: &FakeStorage,
    first: u64,
    cosigned: Option<TreeHead>,
) -> Result<LogCopy, CopyError> {
    let mut copy = copy(kept, log)?;
    let mut beginning = Beginning::check(&copy, claimed(log, disk, first, 0), cosigned)?;
    beginning.put(&mut copy, &leaves(disk, first))?;
    beginning.finish(&mut copy)?;
    Ok(copy)
}

#[test]
fn it_begins_with_no_log_that_is_behind_or_beside_what_was_cosigned() {
    let (log, disk, plan) = pruned(1200);
    let (head, _) = log.checkpoint().unwrap();
    let other = Hash([7; 32]);
    let code = |size, root| begun(&FakeStorage::new(), &log, &disk, plan.before, Some(TreeHead { size, root }));
    let refused = |size, root| code(size, root).unwrap_err().code();
    assert_eq!(refused(head.size + 1, other), "cut", "it was put back");
    assert_eq!(refused(head.size, other), "fork");
    assert_eq!(refused(300, other), "fork", "of what is gone");
    for size in [300, plan.before, plan.before + 1, head.size] {
        let root = proof::root(&disk, size, head.size).unwrap();
        let mut copy = code(size, root).unwrap();
        put(&mut copy, &disk, plan.before, head.size).unwrap();
    }
    // What was cosigned of what is not sent yet binds the records to come.
    let mut copy = code(plan.before + 2, other).unwrap();
    assert_eq!(put(&mut copy, &disk, plan.before, head.size).unwrap_err().code(), "fork");
}

#[test]
fn a_log_that_signed_another_history_before_is_found_when_its_records_come() {
    let (key, disk) = (EvidenceKey::generate().unwrap().0, FakeStorage::new());
    let log = log_on(&disk, &key);
    let plan = prune(&log, &disk, 900);
    drop(log);
    let other_disk = disk.reboot(None);
    let (log, other) = (log_on(&disk, &key), log_on(&other_disk, &key));
    more(&log, 5);
    let (shown, _) = log.checkpoint().unwrap();
    for n in 0..9 {
        let _ = other.journal().append(&note(1000 + n)).unwrap();
    }
    other.journal().flush().unwrap();
    let (head, checkpoint) = other.checkpoint_now().unwrap();
    assert!(head.size > shown.size);
    let kept = FakeStorage::new();
    let open = begun(&kept, &log, &disk, plan.before, None).unwrap();
    drop(open);
    // Also after the machine died.
    for kept in [kept.kill(), kept.reboot(None)] {
        let mut open = copy(&kept, &log).unwrap();
        assert_eq!(open.size(), plan.before, "it knows where it began");
        put(&mut open, &other_disk, plan.before, shown.size - 1).unwrap();
        assert_eq!(put(&mut open, &other_disk, shown.size - 1, head.size).unwrap_err().code(), "fork");
        assert_eq!(open.checkpoint(&checkpoint).unwrap_err().code(), "gap", "nothing of it was taken");
    }
    let mut open = copy(&kept, &log).unwrap();
    put(&mut open, &disk, plan.before, shown.size).unwrap();
    open.checkpoint(&log.checkpoint().unwrap().1).unwrap();
    drop(open);
    more(&log, 5);
    let mut open = copy(&kept, &log).unwrap();
    let (now, note) = log.checkpoint().unwrap();
    put(&mut open, &disk, shown.size, now.size).unwrap();
    open.checkpoint(&note).unwrap();
}

#[test]
fn one_that_has_begun_is_opened_from_its_last_tiles_or_from_all_hashes() {
    let (log, disk, plan) = pruned(1200);
    let kept = FakeStorage::new();
    drop(begun(&kept, &log, &disk, plan.before, None).unwrap());
    assert_eq!(gone(&kept).unwrap().unwrap().0, plan.before, "readers are told before the first record is there");
    let first = TileId { level: 0, index: 0 }.path(TILE_WIDTH);
    let hashes = kept.files().into_iter().find(|(path, _)| *path == first).unwrap().1;
    kept.remove(&first).unwrap();
    assert_eq!(copy(&kept, &log).unwrap().size(), plan.before, "not every hash is read again");
    kept.write_file(&first, &hashes, Persist::Now).unwrap();
    for (path, _) in kept.files().into_iter().filter(|(path, _)| path.starts_with("tile/1/")) {
        kept.remove(&path).unwrap();
    }
    drop(copy(&kept, &log).unwrap());
    let bad = kept.kill();
    bad.write_file("begun.json", b"{}", Persist::Now).unwrap();
    assert_eq!(copy(&bad, &log).unwrap_err().code(), "damaged", "what binds it is not there");
    let mut open = copy(&kept, &log).unwrap();
    let (head, note) = log.checkpoint().unwrap();
    put(&mut open, &disk, plan.before, head.size).unwrap();
    open.checkpoint(&note).unwrap();
    drop(open);
    verify_in(Arc::new(kept), &VerifyOptions::default()).unwrap();
}

#[test]
fn a_beginning_that_ends_at_any_step_is_begun_again() {
    let (log, disk, plan) = pruned(700);
    for fault in [None, Some(Fault::Error), Some(Fault::Half), Some(Fault::Lost)] {
        for step in (0..).step_by(3) {
            let kept = FakeStorage::new();
            match fault {
                None => kept.crash_after(step),
                Some(fault) => kept.fail_after(step, fault),
            }
            let done = whole(&kept, &log, &disk, plan.before);
            let kept = kept.reboot(Some(step));
            whole(&kept, &log, &disk, plan.before).unwrap();
            let report = verify_in(Arc::new(kept), &VerifyOptions::default()).unwrap();
            assert_eq!(report.pruned.unwrap().0, plan.before, "{fault:?} at {step}");
            if done.is_ok() && step > 40 {
                break;
            }
        }
    }
}
