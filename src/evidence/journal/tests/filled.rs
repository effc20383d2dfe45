//! Zeros that the writer puts behind the end, where each batch is synced: no reader may take them, or what is being written
//! over them, for anything but the end.

use super::*;
use crate::evidence::journal::segment::{FRAME_HEADER_BYTES, Frame};
use crate::evidence::read::written;
use crate::evidence::storage::{DiskStorage, Storage};

fn roomy() -> JournalOptions {
    JournalOptions { allocate_bytes: 1 << 20, segment_bytes: 1 << 20, ..small() }
}

/// A disk on which a process with so many records was killed, and its only segment.
fn killed(records: u64) -> (FakeStorage, String) {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, roomy()).unwrap();
    for n in 0..records {
        let ticket = journal.append(&note(n)).unwrap();
        journal.durable_blocking(ticket).unwrap();
    }
    let left = disk.kill();
    let (path, bytes) = left.files().pop().unwrap();
    assert!(bytes.len() > written(&bytes) + 100_000, "filled");
    (left, path)
}

/// The records that are there, and what stands behind them.
fn read(storage: Arc<dyn Storage>) -> (u64, Result<u64, &'static str>) {
    let mut reader = JournalReader::new(storage, 0);
    loop {
        match reader.next().unwrap() {
            Next::Record(_) => {}
            Next::CaughtUp { torn } => return (reader.position(), Ok(torn)),
            Next::Damaged { why, .. } => return (reader.position(), Err(why)),
        }
    }
}

/// The bytes of the last frame.
fn last_frame(bytes: &[u8]) -> std::ops::Range<usize> {
    let end = written(bytes);
    let mut start = bytes.windows(8).position(|at| at == b"{\"data\":").unwrap() - FRAME_HEADER_BYTES;
    loop {
        let length = Frame::read(&bytes[start..end]).bytes();
        assert!(length > 0);
        if start + length == end {
            return start..end;
        }
        start += length;
    }
}

#[test]
fn zeros_behind_the_end_are_nothing_and_go_with_the_next_opening() {
    let (left, path) = killed(3);
    assert_eq!(read(Arc::new(left.clone())), (4, Ok(0)));
    let (journal, report) = open(&left, roomy()).unwrap();
    assert_eq!((report.resumed_from, report.discarded_bytes), (4, 0));
    let (_, before) = left.files().into_iter().find(|(name, _)| *name == path).unwrap();
    assert_eq!(before.len(), written(&before), "the room was given back");
    assert_eq!(count(&left, Kind::Recovered), 0);
    journal.close();
    let (_, last) = left.files().pop().unwrap();
    assert_eq!(last.len(), written(&last), "a journal that is closed gives it back");
}

#[test]
fn whoever_read_as_far_as_the_zeros_reads_what_takes_their_place() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, roomy()).unwrap();
    let mut reader = JournalReader::new(Arc::new(disk.clone()), 0);
    for n in 0..50 {
        let ticket = journal.append(&note(n)).unwrap();
        journal.durable_blocking(ticket).unwrap();
        while let Next::Record(_) = reader.next().unwrap() {}
        assert_eq!(reader.position(), journal.durable_seq());
        assert!(matches!(reader.next().unwrap(), Next::CaughtUp { torn: 0 }));
    }
}

#[test]
fn a_record_that_was_not_written_whole_is_torn_wherever_that_ended() {
    let (left, path) = killed(3);
    let frame = last_frame(&left.files().pop().unwrap().1);
    for cut in frame.start + 1..frame.end {
        let torn = left.kill();
        torn.alter(&path, |bytes| bytes[cut..].fill(0));
        let there = cut - frame.start;
        let (records, end) = read(Arc::new(torn.clone()));
        // The last of what is there may be a zero of its own.
        assert!(records == 3 && end.is_ok_and(|torn| torn > 0 && torn <= there as u64), "{there}: {records}, {end:?}");
        let (journal, report) = open(&torn, roomy()).unwrap();
        assert!(report.resumed_from == 3 && report.discarded_bytes > 0, "{there}: {report:?}");
        drop(journal);
        assert_eq!(count(&torn, Kind::Recovered), 1);
    }
}

#[test]
fn what_was_changed_in_front_of_the_zeros_is_damage_and_what_was_put_into_them_is_no_record() {
    let (left, path) = killed(3);
    let frame = last_frame(&left.files().pop().unwrap().1);
    for at in frame.clone() {
        let damaged = left.kill();
        damaged.alter(&path, |bytes| bytes[at] ^= 1);
        let (records, end) = read(Arc::new(damaged));
        assert!(records == 3 && end.is_err(), "byte {}: {end:?}", at - frame.start);
    }
    // Nearer than a frame's header it is the beginning of one, as anything behind the end of a file that is not filled.
    for behind in [FRAME_HEADER_BYTES, 5_000, 200_000] {
        let damaged = left.kill();
        damaged.alter(&path, |bytes| bytes[frame.end + behind] = 7);
        assert_eq!(read(Arc::new(damaged)), (4, Ok(behind as u64 + 1)));
    }
}

#[test]
fn whatever_a_loss_of_power_left_of_a_batch_is_torn_before_the_log_is_opened_again_and_after() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, roomy()).unwrap();
    let first = journal.append(&note(0)).unwrap();
    journal.durable_blocking(first).unwrap();
    let durable = journal.durable_seq();
    disk.hold(Operation::Sync);
    let mut worker = by_itself::Turns::of(&journal);
    let batch: Vec<_> = (0..20).map(|n| worker.waiters.append(&note(n)).unwrap()).collect();
    worker.turn();
    eventually("written", || disk.is_held_up());
    let mut torn_ones = 0;
    for seed in 0..120 {
        let lost = disk.reboot(Some(seed));
        let (records, end) = read(Arc::new(lost.clone()));
        assert!((durable..=durable + batch.len() as u64).contains(&records), "seed {seed}: {records}");
        let torn = end.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        let (again, report) = open(&lost, roomy()).unwrap();
        assert_eq!((report.resumed_from, report.discarded_bytes), (records, torn), "seed {seed}");
        torn_ones += u64::from(torn > 1_000);
        again.close();
    }
    assert!(torn_ones > 30, "{torn_ones}: hardly anything was torn");
    disk.release();
    journal.close();
}

#[test]
fn zeros_in_front_of_what_was_promised_are_damage_however_many_they_are() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, JournalOptions { segment_bytes: 4 << 20, ..roomy() }).unwrap();
    for n in 0..5_000 {
        let ticket = journal.append(&note(n)).unwrap();
        journal.durable_blocking(ticket).unwrap();
    }
    let (path, bytes) = disk.files().pop().unwrap();
    let third = bytes.windows(8).enumerate().filter(|(_, at)| at == b"{\"data\":").nth(2).unwrap().0;
    for (from, zeros) in [(third + 100, 700_000), (third - FRAME_HEADER_BYTES, 700_000), (third + 100, 64)] {
        let damaged = disk.kill();
        damaged.alter(&path, |bytes| bytes[from..from + zeros].fill(0));
        assert!(read(Arc::new(damaged.clone())).1.is_err(), "{zeros} zeros");
        let opened = open(&damaged, roomy()).map(drop);
        assert!(matches!(opened, Err(OpenError::Damaged { .. })), "{zeros} zeros: {opened:?}");
        assert_eq!(damaged.files().len(), 1, "and nothing is cut or begun");
    }
    journal.close();
}

#[test]
fn a_disk_that_cannot_fill_serves_on() {
    for fault in [Fault::Full, Fault::Error, Fault::Half, Fault::Done] {
        let disk = FakeStorage::new();
        disk.fail(Operation::Fill, 0, fault);
        let opened = open(&disk, roomy());
        let Ok((journal, _)) = opened else {
            assert_ne!(fault, Fault::Full, "that is no fault: the records have their room");
            assert!(open(&disk, roomy()).is_ok());
            continue;
        };
        let ticket = journal.append(&note(1)).unwrap();
        journal.durable_blocking(ticket).unwrap();
    }
}

#[test]
fn who_reads_while_a_real_file_is_written_sees_records_or_their_end_and_never_damage() {
    let home = tempfile::tempdir().unwrap();
    let disk = Arc::new(DiskStorage::open(home.path()).unwrap());
    let options = JournalOptions { linger: Duration::from_micros(50), ..JournalOptions::default() };
    let (journal, _) = Journal::open(disk, origin(), &writer(), options, clock()).unwrap();
    let wanted = 30_000;
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut turns, mut ends) =
                        (JournalReader::new(Arc::new(DiskStorage::read_only(home.path())), 0), 0u64);
                    while turns.position() < wanted {
                        match turns.next().unwrap() {
                            Next::Record(_) => {}
                            Next::CaughtUp { .. } => ends += 1,
                            Next::Damaged { place, why } => panic!("{place}: {why}"),
                        }
                    }
                    ends
                })
            })
            .collect();
        let mut last = None;
        while journal.durable_seq() < wanted {
            // Batches of every size, many of them longer than a page.
            for n in 0..(journal.durable_seq() % 97) {
                last = Some(journal.append(&note(n)).unwrap());
            }
            if let Some(ticket) = last.take() {
                journal.durable_blocking(ticket).unwrap();
            }
            let _lone = journal.append(&note(1)).and_then(|ticket| journal.durable_blocking(ticket));
        }
        let ends: Vec<u64> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        assert!(ends.iter().any(|ends| *ends > 100), "{ends:?}: nobody read at the end");
    });
}

#[test]
fn a_file_that_is_cut_within_its_zeros_is_not_in_place() {
    let home = tempfile::tempdir().unwrap();
    let disk = DiskStorage::open(home.path()).unwrap();
    let mut file = disk.create_segment("journal/1.log", b"header", 1 << 16).unwrap();
    file.append(b"record").unwrap();
    file.fill(1 << 15).unwrap();
    assert!(file.in_place().unwrap());
    let length = || std::fs::metadata(home.path().join("journal/1.log")).unwrap().len();
    assert_eq!(length(), 12 + (1 << 15));
    file.append(b"another").unwrap();
    assert_eq!(length(), 12 + (1 << 15), "they are in the zeros");
    disk.truncate("journal/1.log", 5_000).unwrap();
    assert!(!file.in_place().unwrap());
    file.finish().unwrap();
    assert_eq!(length(), 19);
}
