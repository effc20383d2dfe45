//! The SQL of the store, all of it: tables and the statements on them, each on whatever transaction is open.
//!
//! `history` has every change in order, until compaction; `live` points at the row of each key that exists. What the
//! rows must be for a transaction is decided by the writer, not here.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, params};

use crate::control::store::limits::MAX_KEY_BYTES;
use crate::control::store::{Event, KeyRange, KeyValue, LeaseId, Revision, StoreError, WatchBatch};

/// The layout below. A newer one was written by a newer program, which knows why.
const SCHEMA_VERSION: i64 = 1;

/// Ids are in revision order, and within a revision in the order of its operations. `version` 0 is a deletion.
const SCHEMA: &str = "
    CREATE TABLE head (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        revision INTEGER NOT NULL,
        compacted INTEGER NOT NULL,
        forgotten INTEGER NOT NULL
    ) STRICT;
    INSERT INTO head VALUES (1, 1, 0, 0);
    CREATE TABLE history (
        id INTEGER PRIMARY KEY,
        revision INTEGER NOT NULL,
        key BLOB NOT NULL,
        value BLOB NOT NULL,
        create_revision INTEGER NOT NULL,
        version INTEGER NOT NULL,
        lease INTEGER,
        previous INTEGER
    ) STRICT;
    CREATE INDEX history_by_revision ON history (revision);
    CREATE UNIQUE INDEX history_by_key ON history (key, revision);
    CREATE TABLE live (key BLOB PRIMARY KEY, id INTEGER NOT NULL, lease INTEGER) STRICT, WITHOUT ROWID;
    CREATE INDEX live_by_lease ON live (lease) WHERE lease IS NOT NULL;
    CREATE TABLE lease (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl_seconds INTEGER NOT NULL) STRICT;
";

const COLUMNS: &str = "h.key, h.value, h.create_revision, h.revision, h.version, h.lease, h.previous";

/// After every key there can be.
const PAST_ALL_KEYS: [u8; MAX_KEY_BYTES + 1] = [0xff; MAX_KEY_BYTES + 1];

/// A watch reads no more than this at a time, but always whole revisions.
const CHUNK_EVENTS: usize = 512;
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

type Sql<T> = Result<T, rusqlite::Error>;

/// Where the store stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) revision: Revision,
    /// The oldest revision that can be read.
    pub(super) compacted: Revision,
    /// The compaction whose rows are gone from the disk as well.
    pub(super) forgotten: Revision,
}

/// What the caller is told: nothing of what the database says.
pub(super) fn fault(error: rusqlite::Error) -> StoreError {
    let detail = error.to_string();
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            StoreError::Corrupt { detail }
        }
        _ => StoreError::Unavailable { detail },
    }
}

/// Opens the database at `path`, which exists (perhaps empty), to write, and brings it to this schema.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = open(path).map_err(fault)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(fault)?;
    if mode != "wal" {
        return Err(StoreError::Unavailable { detail: format!("the journal mode is {mode}, not wal") });
    }
    connection.pragma_update(None, "synchronous", "FULL").map_err(fault)?;
    let transaction = connection.transaction().map_err(fault)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(fault)?;
    match found {
        SCHEMA_VERSION => {}
        0 => {
            transaction.execute_batch(SCHEMA).map_err(fault)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(fault)?;
        }
        _ => {
            let detail = format!("the store has schema {found}, this program knows up to {SCHEMA_VERSION}");
            return Err(StoreError::Unavailable { detail });
        }
    }
    transaction.commit().map_err(fault)?;
    Ok(connection)
}

/// Opens the database to read beside the writer.
pub(super) fn open_reader(path: &Path) -> Sql<Connection> {
    let connection = open(path)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn open(path: &Path) -> Sql<Connection> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

pub(super) fn head(db: &Connection) -> Sql<Head> {
    db.prepare_cached("SELECT revision, compacted, forgotten FROM head")?.query_row([], |row| {
        Ok(Head { revision: count(row, 0)?, compacted: count(row, 1)?, forgotten: count(row, 2)? })
    })
}

pub(super) fn set_head(db: &Connection, head: Head) -> Sql<()> {
    db.prepare_cached("UPDATE head SET revision = ?1, compacted = ?2, forgotten = ?3")?.execute(params![
        integer(head.revision),
        integer(head.compacted),
        integer(head.forgotten)
    ])?;
    Ok(())
}

pub(super) fn key(db: &Connection, key: &[u8]) -> Sql<Option<KeyValue>> {
    let sql = format!("SELECT {COLUMNS} FROM live l JOIN history h ON h.id = l.id WHERE l.key = ?1");
    db.prepare_cached(&sql)?.query_row([key], key_value).optional()
}

/// What is in `range`, and whether `limit` left some out.
pub(super) fn range(db: &Connection, range: &KeyRange, limit: Option<usize>) -> Sql<(Vec<KeyValue>, bool)> {
    let sql = format!(
        "SELECT {COLUMNS} FROM live l JOIN history h ON h.id = l.id
         WHERE l.key >= ?1 AND l.key < ?2 ORDER BY l.key"
    );
    let (from, to) = range.bounds();
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map(params![&from[..], end(to.as_ref())], key_value)?;
    limited(rows, limit)
}

/// What was in `range` at `revision`, which is not compacted.
pub(super) fn range_at(
    db: &Connection,
    range: &KeyRange,
    limit: Option<usize>,
    revision: Revision,
) -> Sql<(Vec<KeyValue>, bool)> {
    let sql = format!(
        "SELECT {COLUMNS} FROM history h INDEXED BY history_by_key
         WHERE h.key >= ?1 AND h.key < ?2 AND h.version > 0 AND h.revision = (
             SELECT max(n.revision) FROM history n WHERE n.key = h.key AND n.revision <= ?3)
         ORDER BY h.key"
    );
    let (from, to) = range.bounds();
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map(params![&from[..], end(to.as_ref()), integer(revision)], key_value)?;
    limited(rows, limit)
}

fn limited(rows: impl Iterator<Item = Sql<KeyValue>>, limit: Option<usize>) -> Sql<(Vec<KeyValue>, bool)> {
    let limit = limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let mut kvs = Vec::new();
    for kv in rows {
        let kv = kv?;
        if kvs.len() == limit {
            return Ok((kvs, true));
        }
        kvs.push(kv);
    }
    Ok((kvs, false))
}

/// Appends a put and makes it what the key is.
pub(super) fn put(db: &Connection, kv: &KeyValue, previous: Option<Revision>) -> Sql<()> {
    let lease = kv.lease.map(|lease| lease.0);
    let id = append(db, kv, previous)?;
    db.prepare_cached("INSERT OR REPLACE INTO live (key, id, lease) VALUES (?1, ?2, ?3)")?.execute(params![
        &kv.key[..],
        id,
        lease
    ])?;
    Ok(())
}

/// Appends a deletion of each key in `range`, in key order; gives their number.
pub(super) fn delete(db: &Connection, range: &KeyRange, revision: Revision) -> Sql<u64> {
    let (from, to) = range.bounds();
    let mut statement = db.prepare_cached(
        "SELECT l.key, h.revision FROM live l JOIN history h ON h.id = l.id
         WHERE l.key >= ?1 AND l.key < ?2 ORDER BY l.key",
    )?;
    let found =
        statement.query_map(params![&from[..], end(to.as_ref())], |row| Ok((bytes(row, 0)?, count(row, 1)?)))?;
    delete_all(db, found.collect::<Sql<_>>()?, revision)
}

/// Appends a deletion of each key of a lease, in key order; gives their number.
pub(super) fn delete_leased(db: &Connection, lease: LeaseId, revision: Revision) -> Sql<u64> {
    let mut statement = db.prepare_cached(
        "SELECT l.key, h.revision FROM live l JOIN history h ON h.id = l.id WHERE l.lease = ?1 ORDER BY l.key",
    )?;
    let found = statement.query_map([lease.0], |row| Ok((bytes(row, 0)?, count(row, 1)?)))?;
    delete_all(db, found.collect::<Sql<_>>()?, revision)
}

fn delete_all(db: &Connection, keys: Vec<(Bytes, Revision)>, revision: Revision) -> Sql<u64> {
    let mut deleted = 0;
    for (key, previous) in keys {
        db.prepare_cached("DELETE FROM live WHERE key = ?1")?.execute([&key[..]])?;
        let gone =
            KeyValue { key, value: Bytes::new(), create_revision: 0, mod_revision: revision, version: 0, lease: None };
        append(db, &gone, Some(previous))?;
        deleted += 1;
    }
    Ok(deleted)
}

fn append(db: &Connection, kv: &KeyValue, previous: Option<Revision>) -> Sql<i64> {
    db.prepare_cached(
        "INSERT INTO history (revision, key, value, create_revision, version, lease, previous)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .insert(params![
        integer(kv.mod_revision),
        &kv.key[..],
        &kv.value[..],
        integer(kv.create_revision),
        integer(kv.version),
        kv.lease.map(|lease| lease.0),
        previous.map(integer),
    ])
}

/// Whole revisions of changes in `range` from `from` on, as many as fit a chunk, and up to which revision that is all.
pub(super) fn changes(db: &Connection, range: &KeyRange, from: Revision) -> Sql<(Vec<WatchBatch>, Revision)> {
    // The plus keeps the planner off the index by key: it would sort all of the range's history.
    let sql = format!(
        "SELECT {COLUMNS} FROM history h INDEXED BY history_by_revision
         WHERE h.revision >= ?1 AND +h.key >= ?2 AND +h.key < ?3 ORDER BY h.revision, h.id"
    );
    let reached = head(db)?.revision;
    let (first, to) = range.bounds();
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(params![integer(from), &first[..], end(to.as_ref())])?;
    let mut batches: Vec<WatchBatch> = Vec::new();
    let (mut events, mut size) = (0, 0);
    while let Some(row) = rows.next()? {
        let kv = key_value(row)?;
        let revision = kv.mod_revision;
        let previous = row.get::<_, Option<i64>>(6)?.map(|value| unsigned(6, value)).transpose()?;
        events += 1;
        size += kv.key.len() + kv.value.len();
        let event = match kv.version {
            0 => Event::Delete { key: kv.key, previous },
            _ => Event::Put { kv, previous },
        };
        match batches.last_mut() {
            Some(batch) if batch.revision == revision => batch.events.push(event),
            Some(batch) if events > CHUNK_EVENTS || size > CHUNK_BYTES => {
                let reached = batch.revision;
                return Ok((batches, reached));
            }
            _ => batches.push(WatchBatch { revision, events: vec![event] }),
        }
    }
    Ok((batches, reached))
}

/// The last row before `revision`, where a compaction at it may stop looking.
pub(super) fn last_before(db: &Connection, revision: Revision) -> Sql<i64> {
    db.prepare_cached("SELECT coalesce(max(id), 0) FROM history WHERE revision < ?1")?
        .query_row([integer(revision)], |row| row.get(0))
}

/// Removes, of the rows after `after` up to `upto`, what nobody can see from `revision` on.
pub(super) fn forget(db: &Connection, after: i64, upto: i64, revision: Revision) -> Sql<()> {
    db.prepare_cached(
        "DELETE FROM history AS h WHERE h.id > ?1 AND h.id <= ?2 AND h.revision < ?3 AND (h.version = 0 OR EXISTS (
             SELECT 1 FROM history n WHERE n.key = h.key AND n.revision > h.revision AND n.revision <= ?3))",
    )?
    .execute(params![after, upto, integer(revision)])?;
    Ok(())
}

pub(super) fn add_lease(db: &Connection, ttl_seconds: u64) -> Sql<LeaseId> {
    let id = db.prepare_cached("INSERT INTO lease (ttl_seconds) VALUES (?1)")?.insert([integer(ttl_seconds)])?;
    Ok(LeaseId(id))
}

pub(super) fn remove_lease(db: &Connection, lease: LeaseId) -> Sql<()> {
    db.prepare_cached("DELETE FROM lease WHERE id = ?1")?.execute([lease.0])?;
    Ok(())
}

pub(super) fn leases(db: &Connection) -> Sql<Vec<(LeaseId, Duration)>> {
    let mut statement = db.prepare_cached("SELECT id, ttl_seconds FROM lease")?;
    let rows = statement.query_map([], |row| Ok((LeaseId(row.get(0)?), Duration::from_secs(count(row, 1)?))))?;
    rows.collect()
}

fn key_value(row: &Row<'_>) -> Sql<KeyValue> {
    Ok(KeyValue {
        key: bytes(row, 0)?,
        value: bytes(row, 1)?,
        create_revision: count(row, 2)?,
        mod_revision: count(row, 3)?,
        version: count(row, 4)?,
        lease: row.get::<_, Option<i64>>(5)?.map(LeaseId),
    })
}

fn end(to: Option<&Bytes>) -> &[u8] {
    to.map_or(&PAST_ALL_KEYS, |to| to)
}

fn bytes(row: &Row<'_>, column: usize) -> Sql<Bytes> {
    Ok(Bytes::copy_from_slice(row.get_ref(column)?.as_blob()?))
}

fn count(row: &Row<'_>, column: usize) -> Sql<u64> {
    unsigned(column, row.get(column)?)
}

fn unsigned(column: usize, value: i64) -> Sql<u64> {
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// Numbers here count transactions, seconds and puts: they do not come near the end.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
