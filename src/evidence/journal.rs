//! The journal: the truth of a gateway. Append, group commit, `fdatasync`.
//!
//! Callers encode their record, take its position under a short lock and wait. A thread of the journal's own writes
//! everything queued with one write and one `fdatasync`, moves `durable`, and wakes each worker once. Where a record
//! counts as soon as the kernel has it, a worker writes what its calls queued by itself, as long as that is quick. An
//! intent reserves room for its outcome, so that an outcome never fails for want of space. When the disk fails, what was
//! not yet durable fails with it, outcomes wait in memory, and the thread goes on by itself in a new segment once the
//! disk is well again.
//!
//! Refuses to know what a record means, the Merkle tree, and any runtime.

mod company;
mod options;
mod queue;
pub(super) mod recovery;
mod remote;
mod room;
pub(crate) mod segment;
mod segments;
mod shared;
mod status;
mod waiters;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use self::company::{Queued, Rounds};
pub use self::options::{Durability, JournalOptions, Writer};
use self::queue::Class;
pub use self::recovery::{OpenError, RecoveryReport};
pub use self::remote::RemoteStatus;
pub use self::room::OutcomeRoom;
use self::shared::{Call, Shared};
pub use self::status::{JournalStatus, SYNC_BUCKETS_US, SyncLatency};
pub use self::waiters::WorkerWaiters;
use super::archive::Lag;
use super::checkpoint::Origin;
use super::entry::{Encode, Intent};
use super::storage::Storage;
use crate::domain::{Clock, Reason};

/// Room that an intent reserves for its outcome: the longest outcome, its frame, and a mark if it is written alone.
pub const OUTCOME_ROOM_BYTES: u64 = 768;

/// Why a record was not written. Nothing that it stands for may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// There is no room on the disk.
    #[error("no room for the record")]
    Full,
    /// The disk fails, does not keep up, or the journal is closed.
    #[error("the record cannot be written")]
    Unavailable,
    /// The archive is further behind than it may be.
    #[error("the archive of the evidence is too far behind")]
    Behind,
    /// The record is longer than 65,535 bytes.
    #[error("the record is too large")]
    TooLarge,
}

impl JournalError {
    /// What a caller is told.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Full => Reason::EvidenceFull,
            Self::Behind => Reason::ArchiveBehind,
            Self::Unavailable | Self::TooLarge => Reason::EvidenceUnavailable,
        }
    }
}

/// A record that was given its position and is not yet promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "nothing may happen before the record is durable"]
pub struct Ticket {
    /// Its position in the log, should it become durable.
    pub seq: u64,
    /// Counts failures of the disk: positions are given anew after each.
    epoch: u64,
}

/// In place of an epoch: the record is known to be durable, whatever ended since.
const PROMISED: u64 = u64::MAX;

/// Somebody syncs segments.
#[derive(Debug)]
pub(crate) struct Syncing<'j>(&'j AtomicBool);

impl Drop for Syncing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// The files, for one at a time. Nothing behind the journal's end.
type Files = Arc<Mutex<Option<segments::SegmentWriter>>>;

/// A handle to the journal. Cheap to clone; [`close`](Self::close) ends the thread.
#[derive(Clone, Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    files: Files,
    thread: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
}

impl Journal {
    /// Opens the journal in `storage` for writing, recovers what a crash left, and starts its thread.
    ///
    /// # Errors
    /// When the disk fails, or holds something that no crash leaves.
    pub fn open(
        storage: Arc<dyn Storage>,
        origin: Origin,
        writer: &Writer,
        options: JournalOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        recovery::open(storage, origin, writer, options, clock)
    }

    /// Gives a record its position.
    ///
    /// # Errors
    /// At once when the journal is broken, full or closed; otherwise waiting on the ticket tells.
    pub fn append(&self, record: &impl Encode) -> Result<Ticket, JournalError> {
        self.shared.append(record, Class::Promise, Call::Now)
    }

    /// As [`append`](Self::append), for a record that is good when it is on this disk: it is taken also while another
    /// machine, which others wait for, is away. To be waited for with [`written`](Self::written).
    ///
    /// # Errors
    /// As there.
    pub fn append_here(&self, record: &impl Encode) -> Result<Ticket, JournalError> {
        self.shared.append(record, Class::Here, Call::Now)
    }

    /// Gives an intent its position and reserves room for its outcome.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn intent(&self, intent: &Intent<'_>) -> Result<(Ticket, OutcomeRoom), JournalError> {
        let ticket = self.shared.append(intent, Class::Intent, Call::Now)?;
        Ok((ticket, OutcomeRoom::new(self.shared.clone(), intent.call, ticket, None)))
    }

    /// Sees to what was queued with [`Call::Later`], for a worker's thread; says whether it did. It is to ask again when its
    /// other tasks had their turn otherwise: what they queue is written with it, and calls that go on together cost less.
    fn see_to_queue(&self, rounds: &mut Rounds) -> bool {
        let options = &self.shared.options;
        if options.durability != Durability::Remote {
            let now = self.shared.clock.since_boot();
            let state = self.shared.state.lock();
            let queued = Queued { records: state.queue.records(), awaited: state.awaited };
            if !state.closing && rounds.go_on(&state.company, queued, options.gather, now) {
                return false;
            }
        }
        *rounds = Rounds::default();
        self.write_or_call();
        true
    }

    /// Writes what was queued with [`Call::Later`] where that is quick, or calls the writer's thread for it. For a worker's
    /// thread. Where records count once the kernel has them, two threads would wake each other for each batch, which costs
    /// more than the write does.
    fn write_or_call(&self) {
        let is_written =
            |files: &mut Option<_>| files.as_mut().is_some_and(segments::SegmentWriter::write_queue_quickly);
        if !self.files.try_lock().is_some_and(|mut files| is_written(&mut files)) {
            self.call();
        }
    }

    /// Calls the writer's thread for what was queued with [`Call::Later`].
    fn call(&self) {
        let mut state = self.shared.state.lock();
        if !state.queue.is_empty() {
            let urgent = state.urgent;
            self.shared.wake_writer(&mut state, urgent);
        }
    }

    /// What became of a record, if that is known.
    pub fn outcome_of(&self, ticket: Ticket) -> Option<Result<(), JournalError>> {
        self.shared.promise_of(ticket)
    }

    /// The same of this disk alone, whatever another machine has of it.
    pub fn outcome_here(&self, ticket: Ticket) -> Option<Result<(), JournalError>> {
        self.shared.outcome_of(ticket)
    }

    /// Waits until a record is durable. For tasks other than a worker's: those use [`WorkerWaiters`].
    ///
    /// # Errors
    /// When the record was not written, and will not be.
    pub async fn durable(&self, ticket: Ticket) -> Result<(), JournalError> {
        loop {
            let mut committed = std::pin::pin!(self.shared.committed_async.notified());
            committed.as_mut().enable();
            if let Some(outcome) = self.shared.promise_of(ticket) {
                return outcome;
            }
            committed.await;
        }
    }

    /// Waits until a record is on this disk, whatever another machine has of it.
    ///
    /// # Errors
    /// When the record was not written, and will not be.
    pub async fn written(&self, ticket: Ticket) -> Result<(), JournalError> {
        loop {
            let mut committed = std::pin::pin!(self.shared.committed_async.notified());
            committed.as_mut().enable();
            if let Some(outcome) = self.shared.outcome_of(ticket) {
                return outcome;
            }
            committed.await;
        }
    }

    /// As [`written`](Self::written), for a thread.
    ///
    /// # Errors
    /// When the record was not written, and will not be.
    pub fn durable_blocking(&self, ticket: Ticket) -> Result<(), JournalError> {
        let mut state = self.shared.state.lock();
        loop {
            if let Some(outcome) = self.shared.outcome_with(&state, ticket) {
                return outcome;
            }
            self.shared.committed.wait(&mut state);
        }
    }

    /// Records that are on this disk: those before this position.
    pub fn durable_seq(&self) -> u64 {
        self.shared.durable.load(Ordering::SeqCst)
    }

    /// The log that is written.
    pub fn origin(&self) -> &Origin {
        &self.shared.origin
    }

    /// How the journal is doing.
    pub fn status(&self) -> JournalStatus {
        self.shared.status()
    }

    /// Refuses intents from now on while the archive is too far behind. The first word counts.
    pub(crate) fn bound(&self, lag: Arc<Lag>) {
        let _ = self.shared.lag.set(lag);
    }

    /// Whether what is allowed may be recorded: the archive is not further behind than it may be.
    ///
    /// # Errors
    /// [`JournalError::Behind`].
    pub fn within_bound(&self) -> Result<(), JournalError> {
        let now = self.shared.clock.now();
        let refuses = self.shared.lag.get().is_some_and(|lag| lag.refuses(self.durable_seq(), now));
        if refuses { Err(JournalError::Behind) } else { Ok(()) }
    }

    /// Says for how long segments are synced by somebody else: as long as the answer lives.
    pub(crate) fn syncing(&self) -> Syncing<'_> {
        self.shared.syncing.store(true, Ordering::SeqCst);
        Syncing(&self.shared.syncing)
    }

    /// Has the next batch begin a new segment, so that the one that is being written can be pruned in time.
    pub(crate) fn turn(&self) {
        self.shared.turn.store(true, Ordering::SeqCst);
    }

    /// Writes everything that is queued, outcomes too, and waits for it.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn flush(&self) -> Result<(), JournalError> {
        let last = {
            let mut state = self.shared.state.lock();
            if state.closed && !state.queue.is_empty() {
                return Err(JournalError::Unavailable);
            }
            if state.queue.is_empty() && state.next_seq == self.durable_seq() {
                return state.broken.map_or(Ok(()), Err);
            }
            state.urgent = true;
            self.shared.wake_writer(&mut state, true);
            Ticket { seq: state.next_seq.saturating_sub(1), epoch: self.shared.epoch.load(Ordering::SeqCst) }
        };
        self.durable_blocking(last)
    }

    /// Waits until a disk that failed is well again, about so long at most; says whether it is.
    pub fn well_within(&self, limit: Duration) -> bool {
        let mut state = self.shared.state.lock();
        while state.broken.is_some() && !state.closed {
            if self.shared.committed.wait_for(&mut state, limit).timed_out() {
                break;
            }
        }
        state.broken.is_none() && !state.closed
    }

    /// Writes what is queued and ends the thread. Appending fails from now on.
    pub fn close(&self) {
        {
            let mut state = self.shared.state.lock();
            state.closing = true;
            self.shared.wake_writer(&mut state, true);
        }
        if let Some(thread) = self.thread.lock().take() {
            // A panic in there has closed the journal, which is all that matters here.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
#[path = "journal/tests.rs"]
pub(crate) mod tests;
