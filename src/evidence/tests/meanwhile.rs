//! What a writer does while somebody reads: nothing of it is damage.

use super::*;
use crate::evidence::journal::Durability;
use crate::evidence::read::{JournalReader, Next};

/// The rest of a disk that is read.
macro_rules! no_writing {
    () => {
        fn create_segment(&self, _: &str, _: &[u8], _: u64) -> io::Result<Box<dyn storage::SegmentFile>> {
            unreachable!("a reader does not write")
        }

        fn write_file(&self, _: &str, _: &[u8], _: storage::Persist) -> io::Result<()> {
            unreachable!("a reader does not write")
        }

        fn truncate(&self, _: &str, _: u64) -> io::Result<()> {
            unreachable!("a reader does not write")
        }

        fn sync_file(&self, _: &str) -> io::Result<()> {
            unreachable!("a reader does not write")
        }

        fn remove(&self, _: &str) -> io::Result<()> {
            unreachable!("a reader does not write")
        }
    };
}

/// A disk that fails under the writer when a reader comes to the end of the segment, once.
#[derive(Debug)]
struct FailsMeanwhile {
    disk: FakeStorage,
    journal: Journal,
    /// The record that is being synced.
    victim: parking_lot::Mutex<Option<Ticket>>,
}

impl Storage for FailsMeanwhile {
    fn read_at(&self, path: &str, offset: u64, max: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        let at_the_end = path.starts_with("journal/") && offset > 0;
        if let Some(victim) = at_the_end.then(|| self.victim.lock().take()).flatten() {
            self.disk.fail(Operation::Sync, 0, Fault::Error);
            // What failed stays in the file, as it does on a disk that fails altogether.
            self.disk.fail(Operation::Cut, 0, Fault::Error);
            self.disk.release();
            assert_eq!(self.journal.durable_blocking(victim), Err(JournalError::Unavailable));
            eventually("recovered", || self.journal.status().broken.is_none());
            self.journal.flush().unwrap();
        }
        self.disk.read_at(path, offset, max, into)
    }

    fn list(&self, directory: &str) -> io::Result<Vec<storage::Item>> {
        self.disk.list(directory)
    }

    no_writing!();
}

#[test]
fn a_writer_that_goes_on_and_turns_while_the_end_is_read_is_no_alarm() {
    #[derive(Debug)]
    struct TurnsMeanwhile(FakeStorage, Journal, parking_lot::Mutex<bool>);
    impl Storage for TurnsMeanwhile {
        fn read_at(&self, path: &str, offset: u64, max: usize, into: &mut Vec<u8>) -> io::Result<usize> {
            self.0.read_at(path, offset, max, into)
        }

        fn list(&self, directory: &str) -> io::Result<Vec<storage::Item>> {
            // Not at the first look, which finds the segment.
            if directory == "journal" && std::mem::replace(&mut *self.2.lock(), true) {
                let segments = || self.0.list("journal").unwrap().len();
                let before = segments();
                while segments() == before {
                    calls(&self.1, 1, 1);
                }
            }
            self.0.list(directory)
        }

        no_writing!();
    }
    for options in [small(), JournalOptions { durability: Durability::Process, ..small() }] {
        let disk = FakeStorage::new();
        let (journal, _) = Journal::open(Arc::new(disk.clone()), origin(), &writer(), options, clock()).unwrap();
        calls(&journal, 0, 1);
        journal.flush().unwrap();
        let storage = TurnsMeanwhile(disk, journal.clone(), parking_lot::Mutex::new(false));
        let mut reader = JournalReader::new(Arc::new(storage), 0);
        for _ in 0..30 {
            match reader.next().unwrap() {
                Next::Record(_) | Next::CaughtUp { .. } => {}
                Next::Damaged { place, why } => panic!("{place}: {why}"),
            }
        }
        assert!(reader.position() > 10);
        journal.close();
    }
}

#[test]
fn a_segment_that_is_superseded_while_it_is_read_is_no_alarm() {
    let disk = FakeStorage::new();
    let log = open(&disk, &key()).unwrap();
    calls(log.journal(), 0, 3);
    log.checkpoint_now();
    log.journal().flush().unwrap();
    let durable = log.journal().durable_seq();
    disk.hold(Operation::Sync);
    let victims: Vec<_> = (10..13).map(|n| log.journal().append(&note(n)).unwrap()).collect();
    let written = || disk.files().iter().any(|(_, bytes)| bytes.windows(11).any(|found| found == b"\"jti\":\"10\"}"));
    eventually("written", written);
    let reader = FailsMeanwhile {
        disk: disk.clone(),
        journal: log.journal().clone(),
        victim: parking_lot::Mutex::new(victims.first().copied()),
    };
    let report = verify_in(Arc::new(reader), &VerifyOptions::default()).unwrap();
    assert_eq!(report.records, durable + 1, "the note about the failure, and nothing that failed");
    log.shutdown();
}
