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

mod options;
mod queue;
pub(super) mod recovery;
mod remote;
mod room;
pub(crate) mod segment;
mod segments;
mod status;
mod waiters;
mod writer;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

pub use self::options::{Durability, JournalOptions, Writer};
use self::queue::{Class, Queue};
pub use self::recovery::{OpenError, RecoveryReport};
use self::remote::Remote;
pub use self::remote::RemoteStatus;
pub use self::room::OutcomeRoom;
pub use self::status::{JournalStatus, SYNC_BUCKETS_US, SyncLatency};
pub use self::waiters::WorkerWaiters;
use super::archive::Lag;
use super::checkpoint::Origin;
use super::entry::{Encode, Intent, MAX_ENTRY_BYTES, MAX_SUFFIX_BYTES, encode_body};
use super::storage::Storage;
use crate::domain::{Clock, Reason, Timestamp};

/// Room that an intent reserves for its outcome: the longest outcome, its frame, and a mark if it is written alone.
pub const OUTCOME_ROOM_BYTES: u64 = 768;
/// With so many together, a sync costs each of them little: nothing is gained by waiting for more.
const GATHER_ENOUGH: usize = 32;
/// Failures of the disk that tickets can still be told apart by; an older ticket is told that its record failed.
const MAX_FAILURES_KEPT: usize = 1024;

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

/// The end of an epoch: what was not durable then never became so.
#[derive(Clone, Copy, Debug)]
struct Failure {
    epoch: u64,
    durable: u64,
    error: JournalError,
}

/// What the writer's thread is doing, as far as those who append must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    /// It looks at the queue before it sleeps again.
    Awake,
    /// It sleeps until something comes.
    Idle,
    /// It waits for company for records that somebody waits for.
    Gathering,
    /// It waits for company for an outcome.
    Lingering,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// Whether somebody waits for something in the queue.
    urgent: bool,
    /// How many records of the queue somebody waits for.
    awaited: usize,
    next_seq: u64,
    last_time: i64,
    /// Intents whose outcome is not yet in the queue.
    rooms: u64,
    broken: Option<JournalError>,
    closing: bool,
    closed: bool,
    activity: Activity,
    failures: VecDeque<Failure>,
}

/// When a record is seen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// The writer's thread is called at once.
    Now,
    /// By whoever appended, once for several records.
    Later,
}

/// What those who append and the writer's thread have in common.
#[derive(Debug)]
struct Shared {
    origin: Origin,
    clock: Arc<dyn Clock>,
    options: JournalOptions,
    state: Mutex<State>,
    /// The writer's thread sleeps here.
    work: Condvar,
    /// Threads that wait for a commit sleep here.
    committed: Condvar,
    /// Tasks that wait for a commit, other than a worker's.
    committed_async: Notify,
    workers: Mutex<Vec<std::sync::Weak<waiters::Slot>>>,
    /// Records before this one are promised. Written by whoever holds the files, with the lock held.
    durable: AtomicU64,
    /// The current epoch. Written with the lock held.
    epoch: AtomicU64,
    /// How far the archive may be behind before intents are refused.
    lag: OnceLock<Arc<Lag>>,
    /// What another machine has of it, where records wait for that.
    remote: Option<Remote>,
    /// Somebody wants the next batch to begin a new segment.
    turn: AtomicBool,
    /// What the kernel has is being written to the disk: a write may have to wait for that.
    syncing: AtomicBool,
    status: status::Shared,
}

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

thread_local! {
    /// Where records are encoded, before the lock.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
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

    /// Writes what was queued with [`Call::Later`] where that is quick, or calls the writer's thread for it. For a worker's
    /// thread. Where records count once the kernel has them, two threads would wake each other for each batch, which costs
    /// more than the write does.
    fn write_or_call(&self) {
        let is_written =
            |files: &mut Option<_>| files.as_mut().is_some_and(segments::SegmentWriter::write_queue_quickly);
        if self.files.try_lock().is_some_and(|mut files| is_written(&mut files)) {
            return;
        }
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

impl Shared {
    fn append(&self, record: &impl Encode, class: Class, call: Call) -> Result<Ticket, JournalError> {
        SCRATCH.with_borrow_mut(|body| {
            body.clear();
            encode_body(record, self.origin.as_str(), body);
            if body.len() + MAX_SUFFIX_BYTES > MAX_ENTRY_BYTES {
                return Err(JournalError::TooLarge);
            }
            let crc = crc32c::crc32c(body);
            let now = self.clock.now().unix_micros();
            let mut state = self.state.lock();
            if let Class::Outcome { intent } = class {
                state.rooms = state.rooms.saturating_sub(1);
                // Asked with the lock held: after a failure the intent's position belongs to another record.
                if let Some(Err(error)) = self.outcome_with(&state, intent) {
                    return Err(error);
                }
            }
            self.admit(&state, class, now)?;
            let ticket = Ticket { seq: state.next_seq, epoch: self.epoch.load(Ordering::Relaxed) };
            state.push(body, crc, class, now);
            let urgent = !matches!(class, Class::Outcome { .. });
            if class == Class::Intent {
                state.rooms += 1;
            }
            state.urgent |= urgent;
            state.awaited += usize::from(urgent);
            if call == Call::Now {
                self.wake_writer(&mut state, urgent);
            }
            Ok(ticket)
        })
    }

    fn admit(&self, state: &State, class: Class, now: i64) -> Result<(), JournalError> {
        if state.closed {
            return Err(JournalError::Unavailable);
        }
        if matches!(class, Class::Outcome { .. } | Class::Note) {
            return Ok(());
        }
        if let Some(error) = state.broken {
            return Err(error);
        }
        if class != Class::Here
            && let Some(error) = self.remote.as_ref().and_then(Remote::broken)
        {
            return Err(error);
        }
        if class == Class::Intent
            && let Some(lag) = self.lag.get()
            && lag.refuses(self.durable.load(Ordering::SeqCst), Timestamp::from_unix_micros(now))
        {
            return Err(JournalError::Behind);
        }
        if state.closing || state.queue.len() > self.options.queue_bytes {
            return Err(JournalError::Unavailable);
        }
        Ok(())
    }

    /// Wakes the writer if it sleeps; for what nobody waits for, only to let it linger.
    fn wake_writer(&self, state: &mut State, urgent: bool) {
        let asleep = match state.activity {
            Activity::Awake => false,
            Activity::Idle => true,
            Activity::Gathering => state.awaited >= GATHER_ENOUGH || state.closing,
            Activity::Lingering => urgent,
        };
        if asleep {
            state.activity = Activity::Awake;
            self.work.notify_one();
        }
    }

    /// What became of a record: it counts once it is on this disk, and on another machine's where it waits for that.
    fn promise_of(&self, ticket: Ticket) -> Option<Result<(), JournalError>> {
        match (self.outcome_of(ticket), &self.remote) {
            (Some(Ok(())), Some(remote)) if ticket.epoch != PROMISED => remote.outcome(ticket.seq),
            (outcome, _) => outcome,
        }
    }

    /// What became of it on this disk.
    fn outcome_of(&self, ticket: Ticket) -> Option<Result<(), JournalError>> {
        // The epoch is read on both sides: positions are given anew when it changes.
        let before = self.epoch.load(Ordering::SeqCst);
        let durable = self.durable.load(Ordering::SeqCst);
        let after = self.epoch.load(Ordering::SeqCst);
        if (before, after) == (ticket.epoch, ticket.epoch) {
            return (ticket.seq < durable).then_some(Ok(()));
        }
        self.outcome_with(&self.state.lock(), ticket)
    }

    fn outcome_with(&self, state: &State, ticket: Ticket) -> Option<Result<(), JournalError>> {
        if ticket.epoch == PROMISED {
            return Some(Ok(()));
        }
        if ticket.epoch == self.epoch.load(Ordering::SeqCst) {
            let durable = ticket.seq < self.durable.load(Ordering::SeqCst);
            return match durable {
                true => Some(Ok(())),
                false if state.closed => Some(Err(JournalError::Unavailable)),
                false => None,
            };
        }
        let failure = state.failures.iter().find(|failure| failure.epoch == ticket.epoch);
        Some(match failure {
            Some(failure) if ticket.seq < failure.durable => Ok(()),
            Some(failure) => Err(failure.error),
            None => Err(JournalError::Unavailable),
        })
    }

    /// Nobody may wait for anything any more.
    fn close_for_good(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let durable = self.durable.load(Ordering::SeqCst);
        if state.next_seq != durable {
            self.end_epoch(&mut state, durable, JournalError::Unavailable);
        }
        drop(state);
        self.announce();
    }

    /// What is not durable never will be: whoever waits for it is told by `error`.
    fn end_epoch(&self, state: &mut State, durable: u64, error: JournalError) {
        let epoch = self.epoch.load(Ordering::SeqCst);
        if state.failures.len() >= MAX_FAILURES_KEPT {
            state.failures.pop_front();
        }
        state.failures.push_back(Failure { epoch, durable, error });
        self.epoch.store(epoch + 1, Ordering::SeqCst);
        state.next_seq = durable;
    }

    /// Tells everybody who waits that there is news. Each worker is woken at most once.
    fn announce(&self) {
        self.committed.notify_all();
        self.committed_async.notify_waiters();
        self.workers.lock().retain(|worker| worker.upgrade().is_some_and(|slot| slot.wake()));
    }
}

impl State {
    fn push(&mut self, body: &[u8], crc: u32, class: Class, now: i64) {
        // Time never goes back in a log.
        self.last_time = self.last_time.max(now);
        self.queue.push(body, crc, class, self.next_seq, self.last_time);
        self.next_seq += 1;
    }
}

#[cfg(test)]
#[path = "journal/tests.rs"]
pub(crate) mod tests;
