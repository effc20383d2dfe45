//! What those who append and those who write have in common: the queue, positions, and what became of each record.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::company::Company;
use super::options::JournalOptions;
use super::queue::{Class, Queue};
use super::remote::Remote;
use super::{JournalError, PROMISED, Ticket, status, waiters};
use crate::domain::{Clock, Timestamp};
use crate::evidence::archive::Lag;
use crate::evidence::checkpoint::Origin;
use crate::evidence::entry::{Encode, MAX_ENTRY_BYTES, MAX_SUFFIX_BYTES, encode_body};

/// Failures of the disk that tickets can still be told apart by; an older ticket is told that its record failed.
pub(super) const MAX_FAILURES_KEPT: usize = 1024;

/// The end of an epoch: what was not durable then never became so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) epoch: u64,
    pub(super) durable: u64,
    pub(super) error: JournalError,
}

/// What the writer's thread is doing, as far as those who append must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
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
pub(super) struct State {
    pub(super) queue: Queue,
    /// Whether somebody waits for something in the queue.
    pub(super) urgent: bool,
    /// How many records of the queue somebody waits for.
    pub(super) awaited: usize,
    /// How many of those came together of late.
    pub(super) company: Company,
    pub(super) next_seq: u64,
    pub(super) last_time: i64,
    /// Intents whose outcome is not yet in the queue.
    pub(super) rooms: u64,
    pub(super) broken: Option<JournalError>,
    pub(super) closing: bool,
    pub(super) closed: bool,
    pub(super) activity: Activity,
    pub(super) failures: VecDeque<Failure>,
}

/// When a record is seen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// The writer's thread is called at once.
    Now,
    /// By whoever appended, once for several records.
    Later,
}

/// What those who append and the writer's thread have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) origin: Origin,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: JournalOptions,
    pub(super) state: Mutex<State>,
    /// The writer's thread sleeps here.
    pub(super) work: Condvar,
    /// Threads that wait for a commit sleep here.
    pub(super) committed: Condvar,
    /// Tasks that wait for a commit, other than a worker's.
    pub(super) committed_async: Notify,
    pub(super) workers: Mutex<Vec<Weak<waiters::Slot>>>,
    /// Records before this one are promised. Written by whoever holds the files, with the lock held.
    pub(super) durable: AtomicU64,
    /// The current epoch. Written with the lock held.
    pub(super) epoch: AtomicU64,
    /// How far the archive may be behind before intents are refused.
    pub(super) lag: OnceLock<Arc<Lag>>,
    /// What another machine has of it, where records wait for that.
    pub(super) remote: Option<Remote>,
    /// Somebody wants the next batch to begin a new segment.
    pub(super) turn: AtomicBool,
    /// What the kernel has is being written to the disk: a write may have to wait for that.
    pub(super) syncing: AtomicBool,
    pub(super) status: status::Shared,
}

thread_local! {
    /// Where records are encoded, before the lock.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Shared {
    pub(super) fn append(&self, record: &impl Encode, class: Class, call: Call) -> Result<Ticket, JournalError> {
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

    pub(super) fn admit(&self, state: &State, class: Class, now: i64) -> Result<(), JournalError> {
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
    pub(super) fn wake_writer(&self, state: &mut State, urgent: bool) {
        let asleep = match state.activity {
            Activity::Awake => false,
            Activity::Idle => true,
            Activity::Gathering => state.company.is_whole(state.awaited) || state.closing,
            Activity::Lingering => urgent,
        };
        if asleep {
            state.activity = Activity::Awake;
            self.work.notify_one();
        }
    }

    /// What became of a record: it counts once it is on this disk, and on another machine's where it waits for that.
    pub(super) fn promise_of(&self, ticket: Ticket) -> Option<Result<(), JournalError>> {
        match (self.outcome_of(ticket), &self.remote) {
            (Some(Ok(())), Some(remote)) if ticket.epoch != PROMISED => remote.outcome(ticket.seq),
            (outcome, _) => outcome,
        }
    }

    /// What became of it on this disk.
    pub(super) fn outcome_of(&self, ticket: Ticket) -> Option<Result<(), JournalError>> {
        // The epoch is read on both sides: positions are given anew when it changes.
        let before = self.epoch.load(Ordering::SeqCst);
        let durable = self.durable.load(Ordering::SeqCst);
        let after = self.epoch.load(Ordering::SeqCst);
        if (before, after) == (ticket.epoch, ticket.epoch) {
            return (ticket.seq < durable).then_some(Ok(()));
        }
        self.outcome_with(&self.state.lock(), ticket)
    }

    pub(super) fn outcome_with(&self, state: &State, ticket: Ticket) -> Option<Result<(), JournalError>> {
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
    pub(super) fn close_for_good(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let durable = self.durable.load(Ordering::SeqCst);
        if state.next_seq != durable {
            state.broken.get_or_insert(JournalError::Unavailable);
            self.end_epoch(&mut state, durable, JournalError::Unavailable);
        }
        drop(state);
        self.work.notify_one();
        self.announce();
    }

    /// What is not durable never will be: whoever waits for it is told by `error`.
    pub(super) fn end_epoch(&self, state: &mut State, durable: u64, error: JournalError) {
        let epoch = self.epoch.load(Ordering::SeqCst);
        if state.failures.len() >= MAX_FAILURES_KEPT {
            state.failures.pop_front();
        }
        state.failures.push_back(Failure { epoch, durable, error });
        self.epoch.store(epoch + 1, Ordering::SeqCst);
        state.next_seq = durable;
    }

    /// Tells everybody who waits that there is news. Each worker is woken at most once.
    pub(super) fn announce(&self) {
        self.committed.notify_all();
        self.committed_async.notify_waiters();
        self.workers.lock().retain(|worker| worker.upgrade().is_some_and(|slot| slot.wake()));
    }
}

impl State {
    pub(super) fn push(&mut self, body: &[u8], crc: u32, class: Class, now: i64) {
        // Time never goes back in a log.
        self.last_time = self.last_time.max(now);
        self.queue.push(body, crc, class, self.next_seq, self.last_time);
        self.next_seq += 1;
    }
}
