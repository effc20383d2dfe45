//! The store in one SQLite file: for a control plane on one machine.
//!
//! Writes go to one thread, which acknowledges after the commit is flushed (WAL, `synchronous=FULL`); reads and watches
//! have connections of their own and never wait for a write. A watch reads the history at its own pace, so the slowest
//! reader costs a writer nothing. Another process that opens the same file is turned away.

mod reader;
mod tables;
mod writer;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use self::reader::{Readers, Watching};
use self::writer::{Answer, Job, Work, Writer};
use super::limits::{check_lease, check_txn};
use super::{KeyRange, Lease, LeaseId, RangeResult, Revision, Store, StoreError, Txn, TxnResult, WatchStream};
use crate::domain::Clock;
use crate::files;

/// What may wait for the writer; past it, callers wait to be queued.
const QUEUE: usize = 256;

/// A store in a file. Dropping it waits until what was queued is written.
#[derive(Debug)]
pub struct SqliteStore {
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    readers: Arc<Readers>,
    published: watch::Receiver<Revision>,
    /// Held as long as the file is ours.
    _lock: File,
}

impl SqliteStore {
    /// Opens the store at `path`, or creates it with mode 0600. Blocks; the directory must exist.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when another process has it, its schema is newer than this program, or the file
    /// system refuses; [`StoreError::Corrupt`] when it is not a store.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        let connection = tables::open_writer(path)?;
        Self::start(path, lock, connection, clock)
    }

    fn start(
        path: &Path,
        lock: File,
        connection: rusqlite::Connection,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let writer = Writer::new(connection, clock)?;
        let published = writer.subscribe();
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("store-writer".into());
        let writer = thread.spawn(move || writer.run(queue)).map_err(unavailable)?;
        let readers = Arc::new(Readers::new(path));
        Ok(Self { jobs: Some(jobs), writer: Some(writer), readers, published, _lock: lock })
    }

    async fn ask(&self, work: Work) -> Result<Answer, StoreError> {
        let stopped = || StoreError::Unavailable { detail: "the writer has stopped".into() };
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(Job { work, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn range(
        &self,
        range: KeyRange,
        limit: Option<usize>,
        at: Option<Revision>,
    ) -> Result<RangeResult, StoreError> {
        range.check()?;
        self.readers.read(move |db| reader::range(db, &range, limit, at)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        check_txn(&txn)?;
        if txn.is_read_only() {
            return self.readers.read(move |db| reader::transact(db, &txn)).await;
        }
        match self.ask(Work::Txn(txn)).await? {
            Answer::Txn(result) => Ok(result),
            Answer::Lease(_) | Answer::Done => Err(crossed()),
        }
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        range.check()?;
        Ok(Watching::new(Arc::clone(&self.readers), self.published.clone(), range, from).stream())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(Work::Compact(revision)).await.map(drop)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let ttl_seconds = check_lease(ttl)?;
        match self.ask(Work::GrantLease { ttl_seconds }).await? {
            Answer::Lease(lease) => Ok(lease),
            Answer::Txn(_) | Answer::Done => Err(crossed()),
        }
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(Work::KeepLeaseAlive(lease)).await.map(drop)
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(Work::RevokeLease(lease)).await.map(drop)
    }

    async fn tick(&self) -> Result<(), StoreError> {
        self.ask(Work::Tick).await.map(drop)
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        Ok(*self.published.borrow())
    }
}

/// Makes the file ours, privately: SQLite would create it as the umask says, and give its journal the same mode.
fn lock(path: &Path) -> Result<File, StoreError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push("-lock");
    let private = |path: &Path| {
        OpenOptions::new().create(true).truncate(false).write(true).mode(files::PRIVATE).open(path).map_err(unavailable)
    };
    let lock = private(Path::new(&beside))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        StoreError::Unavailable { detail: format!("{} is open in another process: {error}", path.display()) }
    })?;
    private(path)?;
    Ok(lock)
}

fn unavailable(error: std::io::Error) -> StoreError {
    StoreError::Unavailable { detail: error.to_string() }
}

fn crossed() -> StoreError {
    StoreError::Unavailable { detail: "the writer answered something else".into() }
}

#[cfg(test)]
mod tests;
