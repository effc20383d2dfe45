//! Tiles and checkpoints through losses, faults and lies.

use super::*;
use crate::domain::clock::ManualClock;
use crate::evidence::journal::JournalOptions;
use crate::evidence::journal::tests::{clock, eventually, note, open as open_journal, origin, small};
use crate::evidence::storage::{FakeStorage, Fault, Operation};

pub(crate) fn key() -> (EvidenceKey, Vec<u8>) {
    EvidenceKey::generate().unwrap()
}

fn copy(der: &[u8]) -> EvidenceKey {
    EvidenceKey::from_pkcs8(der).unwrap()
}

fn append(journal: &Journal, records: u64) {
    let tickets: Vec<_> = (0..records).map(|n| journal.append(&note(n)).unwrap()).collect();
    tickets.into_iter().for_each(|ticket| journal.durable_blocking(ticket).unwrap());
}

fn sequencer(disk: &FakeStorage, journal: &Journal, der: &[u8]) -> Result<Sequencer, SequencerError> {
    Sequencer::open(Arc::new(disk.clone()), journal.clone(), copy(der), Durability::Disk)
}

fn published(disk: &FakeStorage, der: &[u8]) -> TreeHead {
    let note = read_note(disk, CHECKPOINT).unwrap().unwrap();
    Checkpoint::verify(&note, &copy(der).verifier(&origin())).unwrap().head
}

#[test]
fn checkpoints_come_once_a_second_and_when_asked() {
    let (disk, (_, der)) = (FakeStorage::new(), key());
    let (journal, _) = open_journal(&disk, small()).unwrap();
    let mut sequencer = sequencer(&disk, &journal, &der).unwrap();
    let at = |millis| Duration::from_millis(millis);
    sequencer.step(at(10), Asked::No).unwrap();
    assert_eq!(published(&disk, &der).size, 1);
    append(&journal, 300);
    sequencer.step(at(900), Asked::No).unwrap();
    assert_eq!(published(&disk, &der).size, 1, "not yet");
    sequencer.step(at(1010), Asked::No).unwrap();
    assert_eq!(published(&disk, &der).size, 301);
    append(&journal, 1);
    sequencer.step(at(1020), Asked::Now).unwrap();
    assert_eq!(published(&disk, &der).size, 302);
    let operations = disk.operations();
    sequencer.step(at(9000), Asked::No).unwrap();
    assert_eq!(disk.operations(), operations, "nothing new, nothing written");
}

#[test]
fn tiles_that_are_missing_or_short_are_derived_again() {
    let (disk, (_, der)) = (FakeStorage::new(), key());
    let (journal, _) = open_journal(&disk, small()).unwrap();
    append(&journal, 1000);
    let mut first = sequencer(&disk, &journal, &der).unwrap();
    first.step(Duration::ZERO, Asked::Now).unwrap();
    let tiles = |disk: &FakeStorage| -> Vec<(String, Vec<u8>)> {
        disk.files().into_iter().filter(|(path, _)| path.starts_with("tile/")).collect()
    };
    let whole = tiles(&disk);
    assert_eq!(
        whole.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(),
        ["tile/0/000", "tile/0/001", "tile/0/002", "tile/0/003.p/233", "tile/1/000.p/3",]
    );
    let lost = disk.reboot(None);
    assert!(tiles(&lost).is_empty(), "they are not synced");
    let (journal, _) = open_journal(&lost, small()).unwrap();
    sequencer(&lost, &journal, &der).unwrap().step(Duration::ZERO, Asked::Now).unwrap();
    assert_eq!(tiles(&lost)[..3], whole[..3]);
    lost.alter("tile/0/001", |bytes| bytes.truncate(100));
    let mut again = sequencer(&lost, &journal, &der).unwrap();
    again.step(Duration::ZERO, Asked::Now).unwrap();
    assert_eq!(tiles(&lost)[..3], whole[..3]);
}

#[test]
fn a_log_that_was_cut_or_rewritten_is_not_signed_again() {
    let (disk, (_, der)) = (FakeStorage::new(), key());
    let (journal, _) = open_journal(&disk, JournalOptions { segment_bytes: 1 << 20, ..small() }).unwrap();
    append(&journal, 10);
    let early = disk.reboot(None);
    append(&journal, 10);
    sequencer(&disk, &journal, &der).unwrap().step(Duration::ZERO, Asked::Now).unwrap();
    journal.close();
    // The journal of before, with the signature of now: a restored backup.
    early.alter(&early.files()[0].0, |_| ());
    let signed = read_note(&disk, SIGNED).unwrap().unwrap();
    early.write_file(SIGNED, &signed, Persist::Now).unwrap();
    let (journal, _) = open_journal(&early, small()).unwrap();
    assert!(matches!(sequencer(&early, &journal, &der), Err(SequencerError::Rollback { records: 12, signed: 21 })));
    append(&journal, 30);
    assert!(matches!(sequencer(&early, &journal, &der), Err(SequencerError::Fork { size: 21 })));
    let other = key().1;
    assert!(matches!(sequencer(&early, &journal, &other), Err(SequencerError::Note(_))));
}

#[test]
fn a_failing_disk_stalls_it_and_it_catches_up() {
    let (disk, (_, der)) = (FakeStorage::new(), key());
    let (journal, _) = open_journal(&disk, small()).unwrap();
    let mut sequencer = sequencer(&disk, &journal, &der).unwrap();
    sequencer.step(Duration::ZERO, Asked::Now).unwrap();
    append(&journal, 700);
    let mut failures = 0;
    for fault in [Fault::Full, Fault::Error, Fault::Done] {
        for after in 0..8 {
            disk.fail(Operation::Write, after, fault);
            append(&journal, 300);
            failures += usize::from(sequencer.step(Duration::MAX, Asked::Now).is_err());
            disk.mend();
        }
    }
    assert!(failures >= 9, "{failures}");
    sequencer.step(Duration::MAX, Asked::Now).unwrap();
    assert_eq!(published(&disk, &der).size, journal.durable_seq());
    crate::evidence::key::write_log_file(&disk, &copy(&der).verifier(&origin())).unwrap();
    let report = crate::evidence::verify::verify_in(Arc::new(disk), &Default::default()).unwrap();
    assert_eq!(report.past_checkpoint, 0);
}

#[test]
fn the_thread_publishes_by_its_clock_and_at_the_end() {
    let (disk, (_, der)) = (FakeStorage::new(), key());
    let (journal, _) = open_journal(&disk, small()).unwrap();
    let time: Arc<ManualClock> = clock();
    let storage = Arc::new(disk.clone());
    let handle = SequencerHandle::start(storage, journal.clone(), copy(&der), Durability::Disk, time.clone()).unwrap();
    assert_eq!(handle.checkpoint().unwrap().0.size, 1);
    append(&journal, 5);
    time.advance(Duration::from_secs(2));
    eventually("a checkpoint by the clock", || handle.checkpoint().unwrap().0.size == 6);
    append(&journal, 5);
    assert_eq!(handle.checkpoint_now().unwrap().0.size, 11);
    append(&journal, 5);
    handle.stop();
    assert_eq!(published(&disk, &der).size, 16);
    assert_eq!(handle.status().error, None);
}

#[test]
fn what_is_signed_is_on_disk_before_it_is_published() {
    let whole = FakeStorage::new();
    let (_, der) = key();
    for step in 0..200 {
        let disk = FakeStorage::new();
        let Ok((journal, _)) = open_journal(&disk, small()) else { continue };
        append(&journal, 20);
        disk.crash_after(step);
        let done = sequencer(&disk, &journal, &der).and_then(|mut it| it.step(Duration::ZERO, Asked::Now));
        let after = disk.reboot(Some(step));
        if read_note(&disk, CHECKPOINT).unwrap().is_some() {
            assert_eq!(read_note(&after, SIGNED).unwrap(), read_note(&disk, CHECKPOINT).unwrap(), "step {step}");
        }
        let (journal, _) = open_journal(&after, small()).unwrap();
        sequencer(&after, &journal, &der).unwrap().step(Duration::ZERO, Asked::Now).unwrap();
        if done.is_ok() {
            return;
        }
    }
    drop(whole);
    panic!("never came to the end");
}

/// Appends without waiting, until the records stand in the file; their sync is held.
fn hang(disk: &FakeStorage, journal: &Journal, records: u64) -> Vec<crate::evidence::journal::Ticket> {
    let length = || disk.files().iter().map(|(_, bytes)| crate::evidence::read::written(bytes)).sum::<usize>();
    let before = length();
    disk.hold(Operation::Sync);
    let tickets = (0..records).map(|n| journal.append(&note(7000 + n)).unwrap()).collect();
    eventually("they are written", || length() > before + 100);
    tickets
}

fn holds(disk: &FakeStorage, der: &[u8]) {
    crate::evidence::key::write_log_file(disk, &copy(der).verifier(&origin())).unwrap();
    crate::evidence::verify::verify_in(Arc::new(disk.clone()), &Default::default()).unwrap();
}

#[test]
fn records_that_failed_after_they_were_read_ahead_are_never_signed() {
    for before in [0, 5, 40] {
        let (disk, (_, der)) = (FakeStorage::new(), key());
        let (journal, _) = open_journal(&disk, JournalOptions { segment_bytes: 1 << 20, ..small() }).unwrap();
        let mut sequencer = sequencer(&disk, &journal, &der).unwrap();
        append(&journal, before);
        let failed = hang(&disk, &journal, 10);
        // What is durable is read, and what stands behind it comes along.
        sequencer.step(Duration::ZERO, Asked::Now).unwrap();
        disk.fail(Operation::Sync, 0, Fault::Error);
        disk.release();
        assert!(failed.into_iter().any(|ticket| journal.durable_blocking(ticket).is_err()));
        eventually("the journal goes on", || {
            journal.append(&note(1)).is_ok_and(|t| journal.durable_blocking(t).is_ok())
        });
        for step in 0..4 {
            append(&journal, 6);
            sequencer.step(Duration::from_secs(step), Asked::Now).unwrap();
            assert_eq!(published(&disk, &der).size, journal.durable_seq());
            holds(&disk, &der);
        }
    }
}

/// What a killed process left is signed by the next one, and is there after a loss of power; how many records are.
fn signed_for_good(killed: &FakeStorage, der: &[u8]) -> u64 {
    let (journal, _) = open_journal(killed, small()).unwrap();
    sequencer(killed, &journal, der).unwrap().step(Duration::ZERO, Asked::Now).unwrap();
    let signed = published(killed, der).size;
    let after = killed.reboot(None);
    let (journal, _) = open_journal(&after, small()).unwrap();
    assert!(journal.durable_seq() >= signed);
    sequencer(&after, &journal, der).unwrap().step(Duration::ZERO, Asked::Now).unwrap();
    holds(&after, der);
    signed
}

#[test]
fn what_a_killed_process_had_not_synced_is_synced_before_anything_stands_behind_it() {
    let (disk, (_, der)) = (FakeStorage::new(), key());
    let (journal, _) = open_journal(&disk, small()).unwrap();
    append(&journal, 3);
    hang(&disk, &journal, 4);
    let killed = disk.kill();
    disk.release();
    signed_for_good(&killed, &der);
}

#[test]
fn what_a_process_that_did_not_sync_left_is_synced_before_it_is_signed_by_one_that_does() {
    let (disk, (_, der)) = (FakeStorage::new(), key());
    let loose = JournalOptions { durability: Durability::Process, segment_bytes: 1 << 20, ..small() };
    let (journal, _) = open_journal(&disk, loose).unwrap();
    (0..100).for_each(|_| append(&journal, 1));
    // The segment of those is given up as it is, and another one begun.
    disk.fail(Operation::Append, 0, Fault::Error);
    disk.fail(Operation::Cut, 0, Fault::Error);
    let failed = journal.append(&note(100)).unwrap();
    journal.durable_blocking(failed).unwrap_err();
    assert!(journal.well_within(Duration::from_secs(20)));
    append(&journal, 5);
    let killed = disk.kill();
    assert!(signed_for_good(&killed, &der) > 100);
}

#[test]
fn a_log_that_lost_power_behind_a_turn_opens_also_where_nothing_is_synced() {
    let (disk, (_, der)) = (FakeStorage::new(), key());
    let loose = || JournalOptions { durability: Durability::Process, ..small() };
    let signs = |disk: &FakeStorage, journal: &Journal| {
        let disk = Arc::new(disk.clone());
        let mut sequencer = Sequencer::open(disk, journal.clone(), copy(&der), Durability::Process).unwrap();
        sequencer.step(Duration::ZERO, Asked::Now).unwrap();
    };
    let (journal, _) = open_journal(&disk, loose()).unwrap();
    signs(&disk, &journal);
    let mut failed = 0;
    for n in 0..60 {
        if n == 20 {
            // At the next turn: what the disk could not write, it takes for written the next time.
            disk.fail(Operation::Sync, 0, Fault::Error);
        }
        let ticket = journal.append(&note(n)).unwrap();
        failed += usize::from(journal.durable_blocking(ticket).is_err());
        assert!(journal.well_within(Duration::from_secs(20)));
        let lost = disk.reboot((n % 3 > 0).then_some(n));
        let (journal, _) = open_journal(&lost, loose()).unwrap();
        signs(&lost, &journal);
        holds(&lost, &der);
        journal.close();
    }
    assert_eq!(failed, 1, "nobody goes on in a segment of which a sync failed");
    assert!(disk.files().iter().filter(|(path, _)| path.starts_with("journal/")).count() > 2);
}

#[test]
fn a_tile_of_which_a_part_is_there_is_no_alarm_and_is_written_again() {
    let (disk, (_, der)) = (FakeStorage::new(), key());
    let (journal, _) = open_journal(&disk, small()).unwrap();
    let mut sequencer = sequencer(&disk, &journal, &der).unwrap();
    sequencer.step(Duration::ZERO, Asked::Now).unwrap();
    for (records, tile) in [(300, "tile/0/000"), (10, "tile/0/001.p/55")] {
        append(&journal, records);
        disk.fail(Operation::Write, 0, Fault::Half);
        sequencer.step(Duration::MAX, Asked::Now).unwrap_err();
        let length = disk.files().into_iter().find(|(path, _)| path == tile).map(|(_, bytes)| bytes.len());
        assert!(length.is_none_or(|length| length == TILE_WIDTH * tiles::HASH_BYTES / 2), "{tile}: {length:?}");
        holds(&disk, &der);
        sequencer.step(Duration::MAX, Asked::Now).unwrap();
        holds(&disk, &der);
    }
    // One that a checkpoint speaks of must be whole.
    disk.alter("tile/0/000", |bytes| bytes.truncate(TILE_WIDTH * tiles::HASH_BYTES / 2));
    assert!(crate::evidence::verify::verify_in(Arc::new(disk), &Default::default()).is_err());
}

#[test]
fn partial_tiles_that_lost_power_left_empty_do_not_stay() {
    let (disk, (_, der)) = (FakeStorage::new(), key());
    let (journal, _) = open_journal(&disk, small()).unwrap();
    append(&journal, 300);
    let mut first = sequencer(&disk, &journal, &der).unwrap();
    first.step(Duration::ZERO, Asked::Now).unwrap();
    append(&journal, 5);
    first.step(Duration::from_secs(2), Asked::Now).unwrap();
    let partial = tiles::partial_files(&disk).unwrap();
    assert!(partial.len() >= 3, "{partial:?}");
    for path in &partial {
        disk.alter(path, Vec::clear);
    }
    journal.close();
    let (journal, _) = open_journal(&disk, small()).unwrap();
    sequencer(&disk, &journal, &der).unwrap().step(Duration::ZERO, Asked::Now).unwrap();
    holds(&disk, &der);
}

#[test]
fn a_checkpoint_that_could_not_be_published_is_published_without_anything_new() {
    for after in 0..6 {
        let (disk, (_, der)) = (FakeStorage::new(), key());
        let (journal, _) = open_journal(&disk, small()).unwrap();
        let mut sequencer = sequencer(&disk, &journal, &der).unwrap();
        sequencer.step(Duration::ZERO, Asked::Now).unwrap();
        append(&journal, 300);
        disk.fail(Operation::Write, after, Fault::Error);
        let failed = sequencer.step(Duration::MAX, Asked::Now).is_err();
        disk.mend();
        sequencer.step(Duration::MAX, Asked::Now).unwrap();
        assert_eq!(published(&disk, &der).size, journal.durable_seq(), "write {after} failed: {failed}");
        holds(&disk, &der);
    }
}
