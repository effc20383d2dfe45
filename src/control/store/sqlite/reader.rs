//! Reading beside the writer: ranges now and at a revision, transactions that only read, and watches. Each read is one
//! snapshot of what is committed.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::stream;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{Semaphore, watch};

use super::tables::{self, fault};
use super::writer;
use crate::control::store::{
    KeyRange, Op, OpResult, RangeResult, Revision, StoreError, Txn, TxnResult, WatchBatch, WatchStream,
};

/// Reads at a time. More do not make a disk faster, and each has a page cache.
const CONNECTIONS: usize = 4;

/// Connections that read, opened when first needed.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        let turns = Arc::new(Semaphore::new(CONNECTIONS));
        Self { path: path.to_owned(), idle: Mutex::default(), turns }
    }

    /// Runs `question` on a snapshot, off the runtime's threads.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let stopped = |detail: String| StoreError::Unavailable { detail };
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|error| stopped(error.to_string()))?;
        let readers = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            // Kept until the read is over, also when nobody waits for it any more.
            let _turn = turn;
            let idle = readers.idle.lock().pop();
            let mut connection = match idle {
                Some(connection) => connection,
                None => tables::open_reader(&readers.path).map_err(fault)?,
            };
            let snapshot = connection.transaction().map_err(fault)?;
            let answer = question(&snapshot);
            // On an error of its own the connection is not trusted again.
            if snapshot.finish().is_ok() {
                readers.idle.lock().push(connection);
            }
            answer
        });
        task.await.map_err(|error| stopped(error.to_string()))?
    }
}

pub(super) fn range(
    db: &Connection,
    range: &KeyRange,
    limit: Option<usize>,
    at: Option<Revision>,
) -> Result<RangeResult, StoreError> {
    let head = tables::head(db).map_err(fault)?;
    let at = at.filter(|at| *at > 0).unwrap_or(head.revision);
    if at > head.revision {
        return Err(StoreError::FutureRevision { current: head.revision });
    }
    if at < head.compacted {
        return Err(StoreError::Compacted { oldest: head.compacted });
    }
    let found =
        if at == head.revision { tables::range(db, range, limit) } else { tables::range_at(db, range, limit, at) };
    let (kvs, more) = found.map_err(fault)?;
    Ok(RangeResult { kvs, more, revision: head.revision })
}

/// A transaction without puts and deletes.
pub(super) fn transact(db: &Connection, txn: &Txn) -> Result<TxnResult, StoreError> {
    let revision = tables::head(db).map_err(fault)?.revision;
    let (succeeded, ops) = writer::choose(db, txn).map_err(fault)?;
    let gets = ops.iter().filter_map(|op| match op {
        Op::Get { range, limit } => Some((range, *limit)),
        Op::Put { .. } | Op::Delete { .. } => None,
    });
    let responses = gets.map(|(range, limit)| writer::get(db, range, limit, revision).map(OpResult::Get));
    Ok(TxnResult { succeeded, revision, responses: responses.collect::<Result<_, _>>().map_err(fault)? })
}

/// Where a watch stands.
pub(super) struct Watching {
    readers: Arc<Readers>,
    published: watch::Receiver<Revision>,
    range: KeyRange,
    /// The first revision that was not looked at.
    next: Revision,
    ready: VecDeque<WatchBatch>,
    over: bool,
}

impl Watching {
    pub(super) fn new(
        readers: Arc<Readers>,
        published: watch::Receiver<Revision>,
        range: KeyRange,
        from: Revision,
    ) -> Self {
        let next = if from == 0 { published.borrow().saturating_add(1) } else { from };
        Self { readers, published, range, next, ready: VecDeque::new(), over: false }
    }

    pub(super) fn stream(self) -> WatchStream {
        Box::pin(stream::unfold(self, |mut watching| async move {
            if watching.over {
                return None;
            }
            let item = watching.advance().await;
            watching.over = item.is_err();
            Some((item, watching))
        }))
    }

    async fn advance(&mut self) -> Result<WatchBatch, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            if *self.published.borrow_and_update() < self.next {
                let closed = |_| StoreError::Unavailable { detail: "the store was closed".into() };
                self.published.changed().await.map_err(closed)?;
                continue;
            }
            let (range, next) = (self.range.clone(), self.next);
            let (batches, reached) = self.readers.read(move |db| changes(db, &range, next)).await?;
            self.ready.extend(batches);
            self.next = reached.saturating_add(1);
        }
    }
}

fn changes(db: &Connection, range: &KeyRange, from: Revision) -> Result<(Vec<WatchBatch>, Revision), StoreError> {
    let head = tables::head(db).map_err(fault)?;
    if from < head.compacted {
        return Err(StoreError::Compacted { oldest: head.compacted });
    }
    tables::changes(db, range, from).map_err(fault)
}
