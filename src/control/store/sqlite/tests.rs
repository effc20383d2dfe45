//! What holds for the file beyond the rules of every store: who may read it, what survives, what a bad disk does.

mod killed;

use std::os::unix::fs::PermissionsExt as _;

use futures_util::StreamExt as _;

use super::*;
use crate::control::store::{Compare, Op};
use crate::domain::Timestamp;
use crate::domain::clock::ManualClock;

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000)))
}

fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(path, clock())
}

async fn put(store: &SqliteStore, key: &str, value: impl Into<bytes::Bytes>) -> Result<Revision, StoreError> {
    Ok(store.txn(Txn::new().then(Op::put(key, value))).await?.revision)
}

#[tokio::test]
async fn the_files_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store.db")).unwrap();
    put(&store, "a", "1").await.unwrap();
    store.range(KeyRange::all(), None, None).await.unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["store.db", "store.db-lock", "store.db-shm", "store.db-wal"]);
}

#[tokio::test]
async fn each_commit_is_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    drop(open(&path).unwrap());
    let connection = tables::open_writer(&path).unwrap();
    let pragma =
        |name| connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0)).unwrap();
    assert_eq!(pragma("journal_mode"), rusqlite::types::Value::Text("wal".into()));
    assert_eq!(pragma("synchronous"), rusqlite::types::Value::Integer(2), "FULL");
}

#[tokio::test]
async fn an_empty_store_is_at_1_and_reopening_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = open(&path).unwrap();
    assert_eq!(store.current_revision().await.unwrap(), 1);
    let lease = store.lease_grant(Duration::from_secs(10)).await.unwrap().id;
    put(&store, "a", "1").await.unwrap();
    put(&store, "a", "2").await.unwrap();
    store.txn(Txn::new().then(Op::put_leased("b", "", lease))).await.unwrap();
    store.compact(3).await.unwrap();
    let before = store.range(KeyRange::all(), None, None).await.unwrap();
    drop(store);

    let clock = clock();
    let store = SqliteStore::open(&path, clock.clone()).unwrap();
    assert_eq!(store.range(KeyRange::all(), None, None).await.unwrap(), before);
    let compacted = Err(StoreError::Compacted { oldest: 3 });
    assert_eq!(store.range(KeyRange::all(), None, Some(2)).await, compacted);
    let mut watch = store.watch(KeyRange::all(), 4).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().revision, 4);
    // A restart gives a lease its whole time again, and no more than that.
    clock.advance(Duration::from_secs(9));
    store.tick().await.unwrap();
    assert_eq!(store.current_revision().await.unwrap(), 4);
    clock.advance(Duration::from_secs(1));
    store.tick().await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().revision, 5);
    assert_ne!(store.lease_grant(Duration::from_secs(10)).await.unwrap().id, lease);
}

#[tokio::test]
async fn a_lease_that_is_over_is_over_before_the_next_operation() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let store = SqliteStore::open(&dir.path().join("store.db"), clock.clone()).unwrap();
    let lease = store.lease_grant(Duration::from_secs(2)).await.unwrap().id;
    let kept = store.lease_grant(Duration::from_secs(2)).await.unwrap().id;
    store.txn(Txn::new().then(Op::put_leased("held", "", lease)).then(Op::put_leased("kept", "", kept))).await.unwrap();
    clock.advance(Duration::from_secs(1));
    store.lease_keep_alive(kept).await.unwrap();
    // Somebody sets the wall clock: no lease notices.
    clock.set_wall(Timestamp::MAX);
    store.tick().await.unwrap();
    assert_eq!(store.current_revision().await.unwrap(), 2);
    clock.advance(Duration::from_secs(1));
    let taken = Txn::new().when(Compare::absent("held")).when(Compare::present("kept")).then(Op::put("held", "mine"));
    let done = store.txn(taken).await.unwrap();
    assert_eq!((done.succeeded, done.revision), (true, 4), "the expiry is 3");
}

#[tokio::test]
async fn two_cannot_have_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let first = open(&path).unwrap();
    let refused = open(&path).unwrap_err();
    assert!(refused.detail().contains("another process"), "{}", refused.detail());
    assert_eq!(refused.to_string(), "the store is unavailable", "callers learn no paths");
    drop(first);
    open(&path).unwrap();
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    drop(open(&path).unwrap());
    let version = |set: Option<i64>| {
        let connection = rusqlite::Connection::open(&path).unwrap();
        if let Some(set) = set {
            connection.pragma_update(None, "user_version", set).unwrap();
        }
        connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(version(Some(2)), 2);
    assert!(open(&path).unwrap_err().detail().contains("schema 2"));
    assert_eq!(version(Some(1)), 1);
    open(&path).unwrap();
}

#[test]
fn what_is_not_a_store_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    files::write(&path, &[b'x'; 8192], files::PRIVATE).unwrap();
    assert!(matches!(open(&path), Err(StoreError::Corrupt { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), [b'x'; 8192], "nothing was written over it");
    assert!(matches!(open(&dir.path().join("none/store.db")), Err(StoreError::Unavailable { .. })));
}

/// The disk takes 64 pages more and no other one.
fn open_small(path: &Path) -> SqliteStore {
    let lock = lock(path).unwrap();
    let connection = tables::open_writer(path).unwrap();
    let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    connection.pragma_update_and_check(None, "max_page_count", pages + 64, |_| Ok(())).unwrap();
    SqliteStore::start(path, lock, connection, clock()).unwrap()
}

#[tokio::test]
async fn a_full_disk_refuses_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = open_small(&path);
    let mut watch = store.watch(KeyRange::all(), 0).await.unwrap();
    let mut acknowledged = 1;
    let refused = loop {
        match put(&store, &format!("key/{acknowledged}"), vec![1; 20_000]).await {
            Ok(revision) => acknowledged = revision,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused:?}");
    assert!(refused.detail().contains("full"), "{}", refused.detail());
    assert!(acknowledged > 5, "{acknowledged}");
    // Reads and watches go on, and what is smaller than what is left too.
    assert_eq!(store.range(KeyRange::all(), None, None).await.unwrap().revision, acknowledged);
    for revision in 2..=acknowledged {
        assert_eq!(watch.next().await.unwrap().unwrap().revision, revision);
    }
    assert_eq!(put(&store, "small", "").await.unwrap(), acknowledged + 1);
    drop(store);
    // With room again, everything that was acknowledged is there and nothing that was not.
    let store = open(&path).unwrap();
    let found = store.range(KeyRange::prefix("key/"), None, None).await.unwrap();
    assert_eq!((found.kvs.len() as u64 + 1, found.revision), (acknowledged, acknowledged + 1));
    assert_eq!(put(&store, "large", vec![1; 200_000]).await.unwrap(), acknowledged + 2);
}

#[tokio::test]
async fn what_does_not_fit_takes_nothing_else_along() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(&dir.path().join("store.db"));
    // Queued together, so that they share a commit; the second does not fit.
    let (first, large, last) =
        tokio::join!(put(&store, "first", "1"), put(&store, "large", vec![1; 1_000_000]), put(&store, "last", "1"));
    assert!(matches!(large, Err(StoreError::Unavailable { .. })), "{large:?}");
    assert_eq!((first, last), (Ok(2), Ok(3)));
    let found = store.range(KeyRange::all(), None, None).await.unwrap();
    assert_eq!((found.kvs.len(), found.revision), (2, 3));
}

#[tokio::test]
async fn queued_transactions_share_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = open(&path).unwrap();
    // Each commit that changes something counts once.
    let commits = || -> i64 {
        let head = rusqlite::Connection::open(&path).unwrap();
        head.query_row("SELECT count(*) FROM commits", [], |row| row.get(0)).unwrap()
    };
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch(
            "CREATE TABLE commits (at INTEGER);
             CREATE TRIGGER counted AFTER UPDATE ON head BEGIN INSERT INTO commits VALUES (new.revision); END;",
        )
        .unwrap();
    let revisions = futures_util::future::join_all((0..200).map(|n| {
        let (store, key) = (&store, format!("{n}"));
        async move { put(store, &key, "").await.unwrap() }
    }))
    .await;
    let mut sorted = revisions.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (2..202).collect::<Vec<u64>>(), "each has a revision of its own");
    assert!(commits() < 100, "{} commits for 200 transactions", commits());
}

#[tokio::test]
async fn a_watch_that_nobody_reads_delays_no_writer_and_ends_when_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store.db")).unwrap();
    let mut watch = store.watch(KeyRange::all(), 0).await.unwrap();
    for n in 0..1500 {
        put(&store, "a", n.to_string()).await.unwrap();
    }
    assert_eq!(watch.next().await.unwrap().unwrap().revision, 2);
    store.compact(1400).await.unwrap();
    // What it had read already comes first; there is no gap before the refusal.
    let mut expected = 3;
    let refused = loop {
        match watch.next().await.unwrap() {
            Ok(batch) => assert_eq!(batch.revision, expected),
            Err(error) => break error,
        }
        expected += 1;
    };
    assert_eq!(refused, StoreError::Compacted { oldest: 1400 });
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_closed_store_ends_its_watches_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store.db")).unwrap();
    let mut watch = store.watch(KeyRange::all(), 0).await.unwrap();
    drop(store);
    assert!(matches!(watch.next().await, Some(Err(StoreError::Unavailable { .. }))));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn compacted_rows_leave_the_disk_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = open(&path).unwrap();
    for n in 0..30 {
        let puts = (0..100).map(|key| Op::put(format!("{key}"), n.to_string())).collect();
        store.txn(Txn { then: puts, ..Txn::default() }).await.unwrap();
    }
    store.txn(Txn::new().then(Op::delete(KeyRange::key("7")))).await.unwrap();
    let last = put(&store, "end", "").await.unwrap();
    store.compact(last).await.unwrap();
    // Dropped in the middle of it, it is taken up when the store is opened next.
    drop(store);
    let store = open(&path).unwrap();
    let other = tables::open_reader(&path).unwrap();
    // Each tick is a commit, and a commit does a part.
    while tables::head(&other).unwrap().forgotten < last {
        store.tick().await.unwrap();
    }
    let rows: i64 = other.query_row("SELECT count(*) FROM history", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 100, "99 keys, and the last one");
    assert_eq!(store.range(KeyRange::all(), None, None).await.unwrap().kvs.len(), 100);
}
