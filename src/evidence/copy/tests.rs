//! A copy is the log, as far as it goes, whatever is sent and whenever the machine dies.

mod beginning;

use std::sync::Arc;

use super::opening::open_in;
use super::*;
use crate::evidence::EvidenceLog;
use crate::evidence::checkpoint::EvidenceKey;
use crate::evidence::journal::segment::frame_header;
use crate::evidence::journal::tests::{clock, note, origin, small, writer};
use crate::evidence::read::{JournalReader, Next};
use crate::evidence::storage::{FakeStorage, Fault};
use crate::evidence::verify::{VerifyOptions, verify_in};

const LIMIT: u64 = 64 << 20;

/// A log with so many records, under a checkpoint.
fn log(records: u64) -> (EvidenceLog, FakeStorage) {
    let (key, disk) = (EvidenceKey::generate().unwrap().0, FakeStorage::new());
    let log = log_on(&disk, &key);
    more(&log, records - 1);
    (log, disk)
}

fn log_on(disk: &FakeStorage, key: &EvidenceKey) -> EvidenceLog {
    EvidenceLog::open_in(Arc::new(disk.clone()), origin(), key.clone(), &writer(), small(), clock()).unwrap().0
}

fn more(log: &EvidenceLog, records: u64) {
    for n in 0..records {
        let _ = log.journal().append(&note(n)).unwrap();
    }
    log.journal().flush().unwrap();
    log.checkpoint_now().unwrap();
}

/// The frames of a log's records from `from` to `end`.
fn frames(disk: &FakeStorage, from: u64, end: u64) -> Vec<u8> {
    let mut reader = JournalReader::new(Arc::new(disk.clone()), from);
    let mut frames = Vec::new();
    while reader.position() < end {
        let Next::Record(record) = reader.next().unwrap() else { panic!("too few records") };
        frames.extend_from_slice(&frame_header(record.bytes.len(), crc32c::crc32c(record.bytes)));
        frames.extend_from_slice(record.bytes);
    }
    frames
}

fn copy(disk: &FakeStorage, log: &EvidenceLog) -> Result<LogCopy, CopyError> {
    open_in(Arc::new(disk.clone()), log.verifier_key().clone(), 0, LIMIT)
}

fn put(copy: &mut LogCopy, disk: &FakeStorage, from: u64, end: u64) -> Result<(), CopyError> {
    copy.put(from, &frames(disk, from, end))?;
    copy.sync()
}

#[test]
fn a_copy_verifies_as_the_log_and_goes_on_where_it_ended() {
    let (log, disk) = log(300);
    let kept = FakeStorage::new();
    for end in [1, 2, 255, 256, 300] {
        let mut copy = copy(&kept, &log).unwrap();
        let from = copy.size();
        put(&mut copy, &disk, from, end).unwrap();
        assert_eq!(copy.size(), end);
    }
    let (head, note) = log.checkpoint().unwrap();
    let mut open = copy(&kept, &log).unwrap();
    assert_eq!(open.root(), head.root);
    open.compare(head.size, head.root).unwrap();
    open.checkpoint(&note).unwrap();
    assert_eq!(open.signed(), 300);
    // More records and checkpoints, one of them late.
    for _ in 0..5 {
        let from = open.size();
        more(&log, 100);
        put(&mut open, &disk, from, from + 100).unwrap();
        let (_, note) = log.checkpoint().unwrap();
        more(&log, 7);
        put(&mut open, &disk, from + 100, from + 107).unwrap();
        open.checkpoint(&note).unwrap();
        assert_eq!(open.signed(), from + 100);
    }
    drop(open);
    let options = VerifyOptions { key: Some(log.verifier_key().clone()), ..VerifyOptions::default() };
    let report = verify_in(Arc::new(kept.clone()), &options).unwrap();
    assert_eq!((report.records, report.past_checkpoint), (835, 7));
    assert_eq!(copy(&kept, &log).unwrap().size(), 835);
}

#[test]
fn gaps_rewrites_forks_and_what_is_no_record_are_refused_by_name() {
    let (log, disk) = log(20);
    let (other, other_disk) = self::log(5);
    more(&other, 15);
    let kept = FakeStorage::new();
    let mut open = copy(&kept, &log).unwrap();
    put(&mut open, &disk, 0, 10).unwrap();
    let code = |taken: Result<(), CopyError>| taken.unwrap_err().code();
    assert_eq!(code(put(&mut open, &disk, 11, 12)), "gap");
    assert_eq!(code(put(&mut open, &disk, 9, 10)), "rewrite");
    assert_eq!(code(open.put(10, &frames(&disk, 11, 12))), "malformed");
    let good = frames(&disk, 10, 12);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert_eq!(code(open.put(10, &bad)), "malformed", "byte {at}");
        assert_eq!(code(open.put(10, &good[..good.len() - 1])), "malformed");
    }
    let (head, note) = log.checkpoint().unwrap();
    assert_eq!(code(open.checkpoint(&note)), "gap", "of records that were not sent");
    assert_eq!(code(open.checkpoint(&other.checkpoint().unwrap().1)), "malformed", "by another key");
    assert_eq!(code(open.compare(9, head.root)), "cut");
    assert_eq!(code(open.compare(10, head.root)), "fork");
    // Another log's records, in the place of this one's: found by the first checkpoint.
    put(&mut open, &other_disk, 10, 20).unwrap();
    assert_eq!(code(open.checkpoint(&note)), "fork");
    drop(open);
    assert_eq!(copy(&kept, &other).unwrap_err().code(), "other_log");
    assert!(CopyError::CODES.contains(&"fork"));
}

/// Sends everything that is missing, in small parts; how far it was said to be kept.
fn sent(kept: &FakeStorage, log: &EvidenceLog, disk: &FakeStorage) -> (u64, Result<(), CopyError>) {
    let (head, note) = log.checkpoint().unwrap();
    let mut said = 0;
    let mut run = || {
        let mut open = copy(kept, log)?;
        said = open.size();
        while open.size() < head.size {
            let from = open.size();
            put(&mut open, disk, from, (from + 7).min(head.size))?;
            said = open.size();
        }
        open.compare(head.size, head.root)?;
        open.checkpoint(&note)
    };
    let done = run();
    (said, done)
}

#[test]
fn what_was_said_to_be_kept_is_there_after_any_fault_and_any_loss_of_power() {
    let (log, disk) = log(60);
    for fault in [None, Some(Fault::Error), Some(Fault::Half), Some(Fault::Done), Some(Fault::Lost), Some(Fault::Full)]
    {
        for step in 0.. {
            let kept = FakeStorage::new();
            match fault {
                None => kept.crash_after(step),
                Some(fault) => kept.fail_after(step, fault),
            }
            let (said, done) = sent(&kept, &log, &disk);
            let kept = kept.reboot(Some(step));
            let has = copy(&kept, &log).unwrap().size();
            assert!(has >= said, "{fault:?} at {step}: {has} of {said}");
            let (_, mended) = sent(&kept, &log, &disk);
            mended.unwrap();
            verify_in(Arc::new(kept), &VerifyOptions::default()).unwrap();
            if done.is_ok() && step > 40 {
                break;
            }
        }
    }
}

#[test]
fn a_copy_has_its_limit_and_one_that_was_cut_is_not_gone_on_with() {
    let (log, disk) = log(100);
    let kept = FakeStorage::new();
    let open = |limit| open_in(Arc::new(kept.clone()), log.verifier_key().clone(), 1000, limit);
    let room = 1000 + frames(&disk, 0, 50).len() as u64 + 50 * TILE_BYTES;
    let mut small = open(room + 1000).unwrap();
    put(&mut small, &disk, 0, 50).unwrap();
    let full = put(&mut small, &disk, 50, 60).unwrap_err();
    assert!(small.used() <= room + 1000);
    assert!(full.is_full() && full.code() == "limit", "{full}");
    drop(small);
    let mut larger = open(LIMIT).unwrap();
    put(&mut larger, &disk, 50, 100).unwrap();
    larger.checkpoint(&log.checkpoint().unwrap().1).unwrap();
    drop(larger);
    let journal: Vec<_> = kept.list("journal").unwrap();
    for item in journal.iter().skip(1) {
        kept.remove(&format!("journal/{}", item.name)).unwrap();
    }
    assert_eq!(open(LIMIT).unwrap_err().code(), "damaged");
}

#[test]
fn what_nobody_signs_for_is_taken_up_to_a_bound_and_the_log_signs_for_any_of_its_beginnings() {
    let (log, disk) = log(60);
    let mut open = copy(&FakeStorage::new(), &log).unwrap();
    open.at_most_unsigned(20);
    for end in [20, 25, 40, 60] {
        let from = open.size();
        if end - open.signed() > 20 {
            let refused = put(&mut open, &disk, from, end).unwrap_err();
            assert!(refused.code() == "unsigned" && refused.remedy().is_some(), "{refused}");
            open.checkpoint(&log.checkpoint_of(from).unwrap()).unwrap();
            assert_eq!(open.signed(), from);
        }
        put(&mut open, &disk, from, end).unwrap();
    }
    assert!(log.checkpoint_of(61).is_err(), "of what is not there");
    // A tile that rotted is no second history.
    for (tile, _) in disk.files().into_iter().filter(|(path, _)| path.starts_with("tile/0/")) {
        disk.alter(&tile, |bytes| bytes[7] ^= 1);
    }
    let refused = log.checkpoint_of(20).unwrap_err();
    assert!(matches!(refused, crate::evidence::PrefixError::Damaged(20)), "{refused}");
}

#[test]
fn records_that_do_not_lead_to_what_was_cosigned_are_refused() {
    let (one, disk) = log(60);
    let (head, _) = one.checkpoint().unwrap();
    // Of the same length and another content.
    let (other, forked) = log(2);
    more(&other, 58);
    let mut open = copy(&FakeStorage::new(), &one).unwrap();
    put(&mut open, &disk, 0, 20).unwrap();
    open.bound_by(head);
    put(&mut open, &disk, 20, 40).unwrap();
    assert!(matches!(put(&mut open, &forked, 40, 60), Err(CopyError::Forked { size: 60 })));
    let mut open = copy(&FakeStorage::new(), &one).unwrap();
    for size in 100..1000 {
        open.bound_by(TreeHead { size, ..head });
    }
    assert_eq!(open.promised.len(), MAX_PROMISED);
    put(&mut open, &disk, 0, 60).unwrap();
    open.bound_by(head);
    assert_eq!(open.promised.len(), MAX_PROMISED, "it has that already");
}

#[test]
fn everything_that_is_on_disk_counts_and_nothing_is_written_for_what_is_not_new() {
    let (log, disk) = log(10);
    let kept = FakeStorage::new();
    let mut open = copy(&kept, &log).unwrap();
    for round in 0..12 {
        let from = open.size();
        more(&log, [1, 90, 300][round % 3]);
        let (head, note) = log.checkpoint().unwrap();
        put(&mut open, &disk, from, head.size).unwrap();
        open.checkpoint(&note).unwrap();
        // Of a file the room that is reserved behind it does not count, and what is in it does.
        let there: usize = kept.files().iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(kept.files().iter().any(|(path, _)| path.starts_with("tile/")));
        assert_eq!(open.used(), there as u64, "round {round}");
        let before = kept.operations();
        (0..3).for_each(|_| open.checkpoint(&note).unwrap());
        assert_eq!(kept.operations(), before, "the same checkpoint again");
        assert_eq!(open.put(head.size, &[]).unwrap_err().code(), "malformed");
        assert_eq!(kept.operations(), before, "and no records");
    }
    let used = open.used();
    drop(open);
    assert_eq!(copy(&kept, &log).unwrap().used(), used, "as it is counted anew");
    assert_eq!(bytes_beside_in(&kept), used);
}

/// As another copy beside it counts it.
fn bytes_beside_in(kept: &FakeStorage) -> u64 {
    kept.files().iter().map(|(_, bytes)| bytes.len() as u64).sum()
}
