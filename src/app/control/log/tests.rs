//! What counts as told, on disks that fail.

use std::time::Duration;

use super::*;
use crate::clock::SystemClock;
use crate::control::plan::ChangeEvent;
use crate::domain::Timestamp;
use crate::evidence::entry::Kind;
use crate::evidence::query::{Filter, Query};
use crate::evidence::storage::{FakeStorage, Fault, Operation};

fn log(disk: &FakeStorage) -> ControlLog {
    log_with(disk, JournalOptions::default())
}

fn log_with(disk: &FakeStorage, options: JournalOptions) -> ControlLog {
    let origin: Origin = "portcullis/control/example.org".parse().unwrap();
    let options = JournalOptions { retry: Duration::from_millis(1), ..options };
    let key = EvidenceKey::generate().unwrap().0;
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let (log, _) =
        EvidenceLog::open_in(storage.clone(), origin, key, &writer(), options, Arc::new(SystemClock)).unwrap();
    ControlLog { log: Arc::new(log), keeper: None, storage }
}

fn told(revision: u64, reason: &str) -> Told {
    let event = ChangeEvent {
        operation: "grant.created".into(),
        object: "grant/one".into(),
        before: None,
        after: None,
        reason: Some(reason.into()),
    };
    Told { revision, at: Timestamp::from_unix_seconds(1_795_324_140), actor: "alice".into(), event }
}

/// The revisions that the log tells, in order, once nothing more is queued.
fn revisions(disk: &FakeStorage) -> Vec<u64> {
    let mut query = Query::new(Arc::new(disk.clone()), 0, Filter { kind: Some(Kind::Change), ..Filter::default() });
    let mut revisions = Vec::new();
    while let Some(found) = query.next().unwrap() {
        if let Event::Change(change) = found.entry.event {
            revisions.push(change.revision);
        }
    }
    revisions
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_write_left_readable_does_not_count_as_told() {
    let disk = FakeStorage::new();
    let log = log(&disk);
    log.append(&[told(1, "one")]).await.unwrap();
    // It stays broken for as long as there is no next segment.
    disk.hold(Operation::Create);
    disk.fail(Operation::Sync, 0, Fault::Error);
    log.append(&[told(2, "two")]).await.unwrap_err();
    assert_eq!(revisions(&disk), [1, 2], "the frames are there to be read, and will be superseded");
    log.reached().await.unwrap_err();
    disk.release();
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_with_the_disk_is_told_again_once() {
    let disk = FakeStorage::new();
    let log = log(&disk);
    log.append(&[told(1, "one")]).await.unwrap();
    disk.fail(Operation::Sync, 0, Fault::Error);
    log.append(&[told(2, "two")]).await.unwrap_err();
    let reached = loop {
        match log.reached().await {
            Ok(reached) => break reached,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(reached, Reached { revision: 1, events: 1 });
    log.append(&[told(2, "two")]).await.unwrap();
    assert_eq!(log.reached().await.unwrap(), Reached { revision: 2, events: 1 });
    assert_eq!(revisions(&disk), [1, 2]);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_half_failed_append_queued_is_told() {
    let disk = FakeStorage::new();
    // A queue that a few records fill: while nothing is written, a later one finds no room.
    let log = log_with(&disk, JournalOptions { queue_bytes: 2_048, ..JournalOptions::default() });
    disk.hold(Operation::Append);
    let many: Vec<Told> = (1..100).map(|revision| told(revision, "many")).collect();
    log.append(&many).await.unwrap_err();
    let (reached, ()) = tokio::join!(log.reached(), async {
        tokio::task::yield_now().await;
        disk.release();
    });
    let queued = reached.unwrap().revision;
    assert!((1..99).contains(&queued), "{queued}");
    assert_eq!(revisions(&disk), (1..=queued).collect::<Vec<_>>());
    log.close().await;
}

/// Whoever did it is named in the evidence as the store's event names them, however long or odd that is.
#[tokio::test(flavor = "multi_thread")]
async fn the_evidence_names_an_actor_as_they_are_and_nobody_in_their_place() {
    let disk = FakeStorage::new();
    let log = log(&disk);
    let long = format!("attested/spiffe://example.org/{}", "a".repeat(1_900));
    let actors = [
        "alice",
        "portcullis",
        "gateway/edge",
        // A person's name, and not that of a gateway.
        "gateway.edge",
        &format!("identity/{}", "b".repeat(128)),
        "attested/spiffe://example.org/ns/prod/sa/Edge_1",
        "attested/cluster/system:serviceaccount:prod:edge",
        &long,
    ];
    let all: Vec<Told> = actors
        .iter()
        .enumerate()
        .map(|(n, actor)| Told { actor: (*actor).to_owned(), ..told(n as u64 + 1, "because") })
        .collect();
    log.append(&all).await.unwrap();
    let mut query = Query::new(Arc::new(disk.clone()), 0, Filter { kind: Some(Kind::Change), ..Filter::default() });
    let mut found = Vec::new();
    while let Some(next) = query.next().unwrap() {
        if let Event::Change(change) = next.entry.event {
            found.push(change.actor.into_owned());
        }
    }
    assert_eq!(found, actors);
}
