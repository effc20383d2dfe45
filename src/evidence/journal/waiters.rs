//! The calls of one worker that wait for their record: woken with one wake per batch.
//!
//! A worker is a thread with its own runtime. One task there sees to what the worker's calls queue in a turn, and is woken
//! when a batch is done; it wakes the calls whose records are decided, which costs no system call on the same thread.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::company::Rounds;
use super::queue::Class;
use super::shared::Call;
use super::{Journal, JournalError, OutcomeRoom, Ticket};
use crate::evidence::entry::{Encode, Intent};

#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Whether anybody waits here.
    armed: AtomicBool,
    /// Whether something was queued that nobody has seen to.
    queued: AtomicBool,
    notify: Notify,
    waiting: Mutex<Vec<(Ticket, Waker)>>,
    wakes: AtomicU64,
    closed: AtomicBool,
}

impl Slot {
    /// The task that runs behind those that are ready now sees to it.
    pub(super) fn call_soon(&self) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            self.notify.notify_one();
        }
    }

    /// Called by the journal after each batch. Says whether the worker is still there.
    pub(super) fn wake(&self) -> bool {
        if self.armed.swap(false, Ordering::SeqCst) {
            self.wakes.fetch_add(1, Ordering::Relaxed);
            self.notify.notify_one();
        }
        self.is_there()
    }

    /// Whether the worker still runs its calls.
    pub(super) fn is_there(&self) -> bool {
        !self.closed.load(Ordering::SeqCst)
    }
}

/// Where the calls of one worker wait. Clones are the same place.
#[derive(Clone, Debug)]
pub struct WorkerWaiters {
    journal: Journal,
    slot: Arc<Slot>,
    _end: Arc<End>,
}

/// Ends the task when the last clone of the place is gone.
#[derive(Debug)]
struct End(Arc<Slot>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::SeqCst);
        self.0.notify.notify_one();
    }
}

impl WorkerWaiters {
    /// A place to wait, and the task that wakes those who do. The worker must run the task on its own runtime; it
    /// ends with the last clone of the place.
    pub fn new(journal: &Journal) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let slot = Arc::new(Slot::default());
        journal.shared.workers.lock().push(Arc::downgrade(&slot));
        let (looking, left) = (journal.clone(), Left(journal.clone()));
        let mut rounds = Rounds::default();
        let see_to_queue = move || left.0.see_to_queue(&mut rounds);
        let driver = drive(slot.clone(), see_to_queue, move |ticket| looking.outcome_of(ticket).is_some());
        (Self { journal: journal.clone(), slot: slot.clone(), _end: Arc::new(End(slot)) }, driver)
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// As [`Journal::append`]. What the worker's calls queue in one turn is seen to once: waking a thread costs more than a
    /// record.
    ///
    /// # Errors
    /// As there.
    pub fn append(&self, record: &impl Encode) -> Result<Ticket, JournalError> {
        let ticket = self.journal.shared.append(record, Class::Promise, Call::Later)?;
        self.slot.call_soon();
        Ok(ticket)
    }

    /// As [`Journal::intent`], seen to as by [`append`](Self::append).
    ///
    /// # Errors
    /// As there.
    pub fn intent(&self, intent: &Intent<'_>) -> Result<(Ticket, OutcomeRoom), JournalError> {
        let shared = &self.journal.shared;
        let ticket = shared.append(intent, Class::Intent, Call::Later)?;
        self.slot.call_soon();
        Ok((ticket, OutcomeRoom::new(shared.clone(), intent.call, ticket, Some(self.slot.clone()))))
    }

    /// Waits until a record is durable.
    ///
    /// # Errors
    /// When the record was not written, and will not be.
    pub async fn durable(&self, ticket: Ticket) -> Result<(), JournalError> {
        poll_fn(|context| {
            if let Some(outcome) = self.journal.outcome_of(ticket) {
                return Poll::Ready(outcome);
            }
            if !self.slot.is_there() {
                // The task ended in a panic: nobody would wake this one.
                return Poll::Ready(Err(JournalError::Unavailable));
            }
            self.slot.waiting.lock().push((ticket, context.waker().clone()));
            self.slot.armed.store(true, Ordering::SeqCst);
            // The batch may have been done between the look and the arming: look again.
            self.journal.outcome_of(ticket).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// How often the worker has been woken.
    pub fn wakes(&self) -> u64 {
        self.slot.wakes.load(Ordering::Relaxed)
    }
}

/// However the task ends, also by a panic: what it has not seen to is the journal's thread's.
struct Left(Journal);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.call();
    }
}

/// However the task ends, also by a panic: nobody waits for it any more, and all who do look again.
struct Gone(Arc<Slot>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::SeqCst);
        let waiting = std::mem::take(&mut *self.0.waiting.lock());
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

/// Sees to what the worker's calls queued, and wakes those whose record is decided, each time that one of them or the
/// journal calls. `see_to_queue` says whether that was done, or is to be done when the worker's other tasks had their turn.
async fn drive(slot: Arc<Slot>, mut see_to_queue: impl FnMut() -> bool, is_decided: impl Fn(Ticket) -> bool) {
    let mut decided: Vec<Waker> = Vec::new();
    let _gone = Gone(slot.clone());
    let mut is_left = false;
    loop {
        if is_left {
            tokio::task::yield_now().await;
        } else {
            slot.notify.notified().await;
        }
        if slot.queued.swap(false, Ordering::SeqCst) || is_left {
            is_left = !see_to_queue();
        }
        if slot.closed.load(Ordering::SeqCst) {
            // Nobody queues any more: it ends.
            while is_left {
                is_left = !see_to_queue();
            }
            return;
        }
        let mut armed = false;
        loop {
            let mut waiting = slot.waiting.lock();
            waiting.retain_mut(|(ticket, waker)| {
                let stays = !is_decided(*ticket);
                if !stays {
                    decided.push(std::mem::replace(waker, Waker::noop().clone()));
                }
                stays
            });
            let left = waiting.len();
            drop(waiting);
            let woken = decided.len();
            decided.drain(..).for_each(Waker::wake);
            // INVARIANT: between arming and sleeping there is a look. A batch that is done before the arming wakes
            // nobody, and this is the look that finds it.
            if left == 0 || (woken == 0 && armed) {
                break;
            }
            slot.armed.store(true, Ordering::SeqCst);
            armed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Call(AtomicBool);

    impl Wake for Call {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// The batch of `ticket` is done while the worker looks for the `look`th time, behind the look.
    fn woken_when_done_at(look: u64) -> bool {
        let slot = Arc::new(Slot::default());
        let call = Arc::new(Call::default());
        slot.waiting.lock().push((Ticket { seq: 10, epoch: 0 }, call.clone().into()));
        slot.armed.store(true, Ordering::SeqCst);
        let looks = AtomicU64::new(0);
        let journal = slot.clone();
        let mut driver = pin!(drive(
            slot.clone(),
            || true,
            |_| {
                let now = looks.fetch_add(1, Ordering::SeqCst) + 1;
                if now == look {
                    journal.wake();
                }
                now > look
            }
        ));
        let mut context = Context::from_waker(Waker::noop());
        while looks.load(Ordering::SeqCst) < look {
            // A batch before: it wakes the worker and holds nothing for this call.
            slot.wake();
            assert!(driver.as_mut().poll(&mut context).is_pending());
        }
        call.0.load(Ordering::SeqCst) && slot.waiting.lock().is_empty()
    }

    #[test]
    fn what_is_queued_in_a_turn_is_seen_to_once() {
        let slot = Arc::new(Slot::default());
        let calls = AtomicU64::new(0);
        let mut driver = pin!(drive(
            slot.clone(),
            || {
                calls.fetch_add(1, Ordering::SeqCst);
                true
            },
            |_| true
        ));
        let mut context = Context::from_waker(Waker::noop());
        for turn in 1..=3 {
            (0..20).for_each(|_| slot.call_soon());
            assert!(driver.as_mut().poll(&mut context).is_pending());
            assert_eq!(calls.load(Ordering::SeqCst), turn);
        }
        slot.wake();
        assert!(driver.as_mut().poll(&mut context).is_pending());
        assert_eq!(calls.load(Ordering::SeqCst), 3, "nothing was queued");
    }

    #[test]
    fn what_is_to_be_seen_to_later_is_and_not_forgotten_at_the_end() {
        let slot = Arc::new(Slot::default());
        let calls = AtomicU64::new(0);
        let mut driver = pin!(drive(slot.clone(), || calls.fetch_add(1, Ordering::SeqCst) % 3 == 2, |_| true));
        let mut context = Context::from_waker(Waker::noop());
        slot.call_soon();
        (0..9).for_each(|_| assert!(driver.as_mut().poll(&mut context).is_pending()));
        assert_eq!(calls.load(Ordering::SeqCst), 3, "until it is done, and not again");
        slot.call_soon();
        assert!(driver.as_mut().poll(&mut context).is_pending());
        slot.closed.store(true, Ordering::SeqCst);
        assert!(driver.as_mut().poll(&mut context).is_ready());
        assert_eq!(calls.load(Ordering::SeqCst), 6);
    }

    #[test]
    fn a_batch_that_is_done_just_after_a_look_wakes_its_calls() {
        for look in 1..=3 {
            assert!(woken_when_done_at(look), "done behind look {look}: the call waits for ever");
        }
    }
}
