//! Draining into logs that die.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::authorize::Caller;
use super::super::sample::{NOW, furnished, request};
use super::super::store::Compare;
use super::*;
use crate::domain::clock::ManualClock;

/// A log in memory that dies after some records.
#[derive(Debug, Default)]
struct Mortal {
    told: Mutex<Vec<Told>>,
    dies_after: AtomicUsize,
    /// How often it was asked how far it has come.
    asked: AtomicUsize,
}

#[async_trait]
impl Sink for Mortal {
    async fn reached(&self) -> Result<Reached, SinkError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let told = self.told.lock().unwrap();
        let last = told.last().map_or(0, |t| t.revision);
        Ok(Reached { revision: last, events: told.iter().filter(|t| t.revision == last).count() })
    }

    async fn append(&self, told: &[Told]) -> Result<(), SinkError> {
        for one in told {
            if self.dies_after.fetch_sub(1, Ordering::SeqCst) == 0 {
                return Err(SinkError("dead".into()));
            }
            self.told.lock().unwrap().push(one.clone());
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_dies_anywhere_has_no_gap_and_no_double_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let (_core, handle) = furnished(dir.path(), &clock).await;
    // Several events in one revision, several commands in one revision, several pages of keys.
    let made: Vec<_> = (0..300).map(|_| handle.create_grants(&Caller::System, request())).collect();
    let mut grants: Vec<String> = futures_util::future::join_all(made)
        .await
        .into_iter()
        .map(|d| format!("grant/{}", d.unwrap().answer[0].id))
        .collect();
    let shared = handle.shared();
    let log = Mortal::default();
    let mut lives = 0;
    loop {
        lives += 1;
        log.dies_after.store(lives % 11 + 1, Ordering::SeqCst);
        if drain(shared, &log, &mut None).await.is_ok() {
            break;
        }
    }
    assert!(lives > 30);
    let told = log.told.lock().unwrap().clone();
    assert!(told.is_sorted_by_key(|t| t.revision));
    let mut objects: Vec<String> =
        told.iter().filter(|t| t.event.operation == "grant.created").map(|t| t.event.object.clone()).collect();
    objects.sort();
    grants.sort();
    assert_eq!(objects, grants);
    assert_eq!(told.len(), 300 + 4);
    let left = shared.vault.store().range(KeyRange::prefix(OUTBOX), None, None).await.unwrap();
    assert!(left.kvs.is_empty());
}

#[tokio::test]
async fn events_that_are_in_the_log_already_are_only_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let (_core, handle) = furnished(dir.path(), &clock).await;
    let store = handle.shared().vault.store();
    let before = store.range(KeyRange::prefix(OUTBOX), None, None).await.unwrap().kvs;
    let log = Mortal::default();
    log.dies_after.store(usize::MAX, Ordering::SeqCst);
    drain(handle.shared(), &log, &mut None).await.unwrap();
    let told = log.told.lock().unwrap().clone();
    assert_eq!(told.len(), 4);
    // As after a crash between the log and the deletion: what stands in the outbox is in the log.
    let reached = log.reached().await.unwrap();
    let (untold, after) = untold(handle.shared(), &before, reached).unwrap();
    assert_eq!((untold.len(), after), (0, reached));
    // A forged event does not get into the evidence.
    let forged = Txn::new().when(Compare::absent("/v1/outbox/x")).then(Op::put("/v1/outbox/x", "{}"));
    store.txn(forged).await.unwrap();
    assert!(matches!(drain(handle.shared(), &log, &mut None).await, Err(DrainError::Vault(VaultError::Seal { .. }))));
}

#[tokio::test]
async fn what_an_older_store_commits_is_not_taken_for_told() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let (_core, handle) = furnished(dir.path(), &clock).await;
    let store = handle.shared().vault.store();
    let waiting = store.range(KeyRange::prefix(OUTBOX), None, None).await.unwrap().kvs.len();
    // A log that was written from this store's later revisions, before the backup was restored.
    let log = Mortal::default();
    let event = ChangeEvent { operation: "x".into(), object: "x/y".into(), before: None, after: None, reason: None };
    log.told.lock().unwrap().push(Told { revision: 1_000, at: NOW, actor: "x".into(), event });
    assert!(matches!(drain(handle.shared(), &log, &mut None).await, Err(DrainError::Restored(_))));
    assert_eq!(store.range(KeyRange::prefix(OUTBOX), None, None).await.unwrap().kvs.len(), waiting);
    let current = store.current_revision().await.unwrap();
    assert!(Reached { revision: current, events: 1 }.check(current).is_ok());
}

#[tokio::test]
async fn the_log_is_read_once_and_not_at_every_commit() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let (_core, handle) = furnished(dir.path(), &clock).await;
    let log = Mortal::default();
    log.dies_after.store(usize::MAX, Ordering::SeqCst);
    let mut reached = None;
    for _ in 0..3 {
        handle.create_grants(&Caller::System, request()).await.unwrap();
        drain(handle.shared(), &log, &mut reached).await.unwrap();
    }
    assert_eq!((log.asked.load(Ordering::SeqCst), log.told.lock().unwrap().len()), (1, 4 + 3));
    assert_eq!(log.reached().await.unwrap(), reached.unwrap());
}
