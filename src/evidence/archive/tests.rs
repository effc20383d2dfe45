//! Archives in directories: gone on with, attacked, behind.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::domain::Clock as _;
use crate::evidence::EvidenceLog;
use crate::evidence::checkpoint::EvidenceKey;
use crate::evidence::journal::tests::{clock, completed, intent, origin, small, writer};
use crate::evidence::journal::{Durability, JournalError, JournalOptions};
use crate::evidence::retention::Policy;
use crate::evidence::sequencer::{CHECKPOINT, read_note};
use crate::evidence::storage::{FakeStorage, Persist};
use crate::evidence::verify::{VerifyOptions, verify};

fn opened(disk: &FakeStorage, key: &EvidenceKey) -> Arc<EvidenceLog> {
    let storage = Arc::new(disk.clone());
    Arc::new(EvidenceLog::open_in(storage, origin(), key.clone(), &writer(), small(), clock()).unwrap().0)
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

fn records(archive: &Path) -> u64 {
    verify(archive, &VerifyOptions::default()).unwrap().records
}

fn storage(disk: &FakeStorage) -> Arc<dyn Storage> {
    Arc::new(disk.clone())
}

#[test]
fn an_archive_grows_with_its_log_and_verifies_at_each_step() {
    let (key, _) = EvidenceKey::generate().unwrap();
    let (disk, home) = (FakeStorage::new(), tempfile::tempdir().unwrap());
    let place = DirectoryPlace::new(home.path()).unwrap();
    let log = opened(&disk, &key);
    let mut last = 0;
    for calls in [0..3, 3..130, 130..300] {
        called(&log, calls);
        let done = archive(&storage(&disk), &place).unwrap();
        assert_eq!((done.before, records(home.path())), (last, done.head.size));
        last = done.head.size;
    }
    // Partial forms of what is full went.
    assert!(!home.path().join("tile/entries/000.p").exists() && home.path().join("tile/entries/002.p").exists());
    // Nothing new: nothing is put.
    archive(&storage(&disk), &place).unwrap();
    assert!(DirectoryPlace::new(home.path()).is_ok());
    assert!(recheck(&storage(&disk), &place, 0, 512).is_ok());
}

#[test]
fn what_stands_there_is_never_written_over_and_what_changed_is_found() {
    let (key, _) = EvidenceKey::generate().unwrap();
    let (disk, home) = (FakeStorage::new(), tempfile::tempdir().unwrap());
    let place = DirectoryPlace::new(home.path()).unwrap();
    let log = opened(&disk, &key);
    called(&log, 0..200);
    // Something else under the name of a bundle.
    let bundle = home.path().join("tile/entries/000");
    std::fs::create_dir_all(bundle.parent().unwrap()).unwrap();
    crate::files::write(&bundle, b"somebody's", crate::files::PUBLIC).unwrap();
    let error = archive(&storage(&disk), &place).unwrap_err();
    assert!(error.to_string().contains("tile/entries/000: what is archived is something else"), "{error}");
    assert_eq!(std::fs::read(&bundle).unwrap(), b"somebody's");
    assert!(!home.path().join(CHECKPOINT).exists(), "nothing is claimed of it");
    std::fs::remove_file(&bundle).unwrap();
    archive(&storage(&disk), &place).unwrap();
    // Another history of a log of this name, with the same key.
    let other = FakeStorage::new();
    let log = opened(&other, &key);
    called(&log, 500..800);
    let before = std::fs::read(home.path().join(CHECKPOINT)).unwrap();
    assert!(matches!(archive(&storage(&other), &place), Err(ExportError::Other { .. })));
    assert_eq!(std::fs::read(home.path().join(CHECKPOINT)).unwrap(), before);
    // A byte that changed since.
    let mut bytes = std::fs::read(&bundle).unwrap();
    bytes[100] ^= 1;
    crate::files::write(&bundle, &bytes, crate::files::PUBLIC).unwrap();
    assert!(verify(home.path(), &VerifyOptions::default()).is_err());
    assert!(recheck(&storage(&disk), &place, 0, 256).is_err());
    std::fs::remove_file(&bundle).unwrap();
    assert!(recheck(&storage(&disk), &place, 0, 256).is_err());
}

/// A place that fails when told to, and then after some files.
#[derive(Debug)]
struct Shaky {
    place: DirectoryPlace,
    left: parking_lot::Mutex<u64>,
}

impl Shaky {
    fn spend(&self) -> io::Result<()> {
        let mut left = self.left.lock();
        *left = left.checked_sub(1).ok_or_else(|| io::Error::other("no connection"))?;
        Ok(())
    }
}

impl Place for Shaky {
    fn put(&self, files: &[Outgoing]) -> io::Result<()> {
        files.iter().try_for_each(|file| {
            self.spend()?;
            self.place.put(std::slice::from_ref(file))
        })
    }

    fn read(&self, path: &str, max: usize) -> io::Result<Option<(Vec<u8>, Version)>> {
        self.spend()?;
        self.place.read(path, max)
    }

    fn replace(&self, path: &str, bytes: &[u8], before: Option<&Version>) -> io::Result<()> {
        self.spend()?;
        self.place.replace(path, bytes, before)
    }

    fn forget(&self, directory: &str) -> io::Result<()> {
        self.spend()?;
        self.place.forget(directory)
    }
}

#[test]
fn an_archive_that_ends_at_any_step_is_whole_as_far_as_it_says_and_is_gone_on_with() {
    let (key, _) = EvidenceKey::generate().unwrap();
    let (disk, home) = (FakeStorage::new(), tempfile::tempdir().unwrap());
    let log = opened(&disk, &key);
    called(&log, 0..150);
    archive(&storage(&disk), &DirectoryPlace::new(home.path()).unwrap()).unwrap();
    let before = records(home.path());
    called(&log, 150..600);
    for steps in 0.. {
        let place = Shaky { place: DirectoryPlace::new(home.path()).unwrap(), left: parking_lot::Mutex::new(steps) };
        let done = archive(&storage(&disk), &place);
        let there = records(home.path());
        if let Ok(done) = done {
            assert_eq!(there, done.head.size);
            assert!(steps > 10, "{steps}");
            return;
        }
        assert!(there == before || there == log.checkpoint().unwrap().0.size);
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    crate::evidence::journal::tests::eventually(what, &mut holds);
}

#[test]
fn past_its_bound_calls_are_refused_until_the_archive_has_caught_up() {
    let (key, _) = EvidenceKey::generate().unwrap();
    let (disk, home) = (FakeStorage::new(), tempfile::tempdir().unwrap());
    let log = opened(&disk, &key);
    let root = home.path().join("archive");
    crate::files::write(&root, b"no directory", crate::files::PUBLIC).unwrap();
    let bound = Bound { records: Some(20), age: None, past: Past::Refuse };
    let place: Box<dyn Place> = Box::new(DirectoryPlace::new(&root).unwrap());
    let every = Duration::from_millis(5);
    let options = KeeperOptions { place: Some((place, bound)), every, retention: Policy::default(), stays: None };
    let keeper = Keeper::start(&log, options, clock()).unwrap();
    let lag = keeper.lag().unwrap();
    called(&log, 0..10);
    let mut refused = None;
    for n in 10..40 {
        match log.journal().intent(&intent(n)) {
            Ok((ticket, room)) => {
                log.journal().durable_blocking(ticket).unwrap();
                room.record(completed());
                log.journal().flush().unwrap();
            }
            Err(error) => refused = Some((n, error)),
        }
    }
    assert!(matches!(refused, Some((_, JournalError::Behind))), "{refused:?}");
    assert_eq!(log.journal().within_bound(), Err(JournalError::Behind));
    let status = lag.status(log.journal().durable_seq(), clock().now());
    // The bound, and the outcome of the last call within it.
    assert!(status.past && (21..=22).contains(&status.records), "{status:?}");
    eventually("told", || lag.status(0, clock().now()).error.is_some());
    std::fs::remove_file(&root).unwrap();
    eventually("caught up", || log.journal().within_bound().is_ok());
    assert!(log.journal().intent(&intent(50)).is_ok());
    keeper.stop();
    assert!(records(&root) >= 21);
}

#[test]
fn nothing_is_pruned_whose_archived_copy_is_not_what_it_was() {
    let (key, _) = EvidenceKey::generate().unwrap();
    let (disk, home) = (FakeStorage::new(), tempfile::tempdir().unwrap());
    let log = opened(&disk, &key);
    called(&log, 0..1000);
    archive(&storage(&disk), &DirectoryPlace::new(home.path()).unwrap()).unwrap();
    disk.write_file(crate::evidence::COSIGNED, &read_note(&disk, CHECKPOINT).unwrap().unwrap(), Persist::Now).unwrap();
    let bundle = home.path().join("tile/entries/001");
    let good = std::fs::read(&bundle).unwrap();
    let mut bad = good.clone();
    bad[77] ^= 1;
    crate::files::write(&bundle, &bad, crate::files::PUBLIC).unwrap();
    let kept = || {
        let place: Box<dyn Place> = Box::new(DirectoryPlace::new(home.path()).unwrap());
        let retention = Policy { age: None, bytes: Some(64 << 10) };
        let place = Some((place, Bound::default()));
        let keeper = Keeper::start(
            &log,
            KeeperOptions { place, every: Duration::from_secs(60), retention, stays: None },
            clock(),
        );
        let keeper = keeper.unwrap();
        keeper.stop();
        keeper.lag().unwrap().status(0, clock().now())
    };
    let status = kept();
    assert!(status.error.is_some_and(|error| error.contains("tile/entries/001")));
    assert_eq!(crate::evidence::read::first(&disk).unwrap(), 0);
    crate::files::write(&bundle, &good, crate::files::PUBLIC).unwrap();
    assert!(kept().pruned > 0);
    assert!(crate::evidence::read::first(&disk).unwrap() > 0);
    assert!(verify(home.path(), &VerifyOptions::default()).unwrap().pruned.is_none(), "the archive has all");
}

#[test]
fn nothing_is_pruned_that_the_copy_on_another_machine_is_not_known_to_have() {
    let (key, _) = EvidenceKey::generate().unwrap();
    let disk = FakeStorage::new();
    let options = JournalOptions { durability: Durability::Remote, ..small() };
    let opened = EvidenceLog::open_in(Arc::new(disk.clone()), origin(), key, &writer(), options, clock());
    let log = Arc::new(opened.unwrap().0);
    log.journal().remote_attached(0);
    called(&log, 0..1000);
    disk.write_file(crate::evidence::COSIGNED, &read_note(&disk, CHECKPOINT).unwrap().unwrap(), Persist::Now).unwrap();
    let pruned = || {
        let retention = Policy { age: None, bytes: Some(16 << 10) };
        let every = Duration::from_secs(60);
        let keeper =
            Keeper::start(&log, KeeperOptions { place: None, every, retention, stays: None }, clock()).unwrap();
        keeper.stop();
        crate::evidence::read::first(&disk).unwrap()
    };
    assert_eq!(pruned(), 0, "it has none of them");
    log.journal().remote_kept(255);
    assert_eq!(pruned(), 0, "and not all of a bundle");
    log.journal().remote_kept(600);
    let first = pruned();
    assert!((1..=512).contains(&first), "{first}");
    // It went away after it had said more: it may have lost its disk since, and says so when it is back.
    log.journal().remote_kept(1500);
    log.journal().remote_lost("no connection".to_owned());
    assert_eq!(pruned(), first);
    log.journal().remote_attached(700);
    assert!((first..=512).contains(&pruned()));
    log.journal().remote_kept(log.journal().durable_seq());
    assert!(pruned() > 1024);
}
