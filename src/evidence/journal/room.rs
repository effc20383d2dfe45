//! The outcome that is owed for an intent: recorded once, whatever becomes of the call.
//!
//! Refuses to know how room is kept on the disk, and how a call ends.

use std::fmt;
use std::sync::Arc;

use super::queue::Class;
use super::shared::{Call, Shared};
use super::waiters::Slot;
use super::{PROMISED, Ticket};
use crate::domain::name::CallId;
use crate::evidence::entry::{Ended, Ending, Outcome};

/// Room for the outcome of one intent.
///
/// Dropped without [`record`](Self::record), it says that nobody knows how the call ended. If the intent was not
/// written, nothing is said.
pub struct OutcomeRoom {
    shared: Arc<Shared>,
    call: CallId,
    ticket: Ticket,
    /// The worker that sees to it, with whatever else it queues in the same turn.
    worker: Option<Arc<Slot>>,
    used: bool,
}

impl fmt::Debug for OutcomeRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutcomeRoom").field("call", &self.call).field("intent", &self.ticket.seq).finish()
    }
}

impl OutcomeRoom {
    pub(super) fn new(shared: Arc<Shared>, call: CallId, ticket: Ticket, worker: Option<Arc<Slot>>) -> Self {
        Self { shared, call, ticket, worker, used: false }
    }

    /// Where the intent stands, should it become durable.
    pub fn intent_seq(&self) -> u64 {
        self.ticket.seq
    }

    /// The intent is known to be durable: its outcome is owed, however often the disk fails before the call ends.
    pub fn promised(&mut self) {
        self.ticket.epoch = PROMISED;
    }

    /// Records how the call ended. It is written with the next batch, or when the disk is well again.
    pub fn record(mut self, ending: Ending) {
        self.put(ending);
    }

    fn put(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.used, true) {
            return;
        }
        let outcome = Outcome { call: self.call, intent_seq: self.ticket.seq, ending };
        let worker = self.worker.as_ref().filter(|worker| worker.is_there());
        let call = if worker.is_some() { Call::Later } else { Call::Now };
        match self.shared.append(&outcome, Class::Outcome { intent: self.ticket }, call) {
            Ok(_) => worker.into_iter().for_each(|worker| worker.call_soon()),
            // Nothing is owed for an intent that was not written.
            Err(_) if matches!(self.shared.outcome_of(self.ticket), Some(Err(_))) => {}
            Err(_) => self.shared.status.outcome_lost(),
        }
    }
}

impl Drop for OutcomeRoom {
    fn drop(&mut self) {
        let ended = if std::thread::panicking() { Ended::Panicked } else { Ended::Unknown };
        self.put(Ending {
            ended,
            status: None,
            reason: None,
            request_bytes: 0,
            response_bytes: 0,
            duration_us: 0,
            upstream_started: false,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;
    use crate::domain::clock::ManualClock;
    use crate::domain::{Clock, Timestamp};
    use crate::evidence::entry::Event;
    use crate::evidence::journal::tests::{clock, completed, entries, eventually, intent, note, origin, small, writer};
    use crate::evidence::journal::{Journal, Ticket};
    use crate::evidence::storage::{FakeStorage, Fault, Operation};

    /// A clock that lets the disk fail while somebody asks for the time. A record is given its time between the
    /// moment that it is put together and the moment that it is queued.
    #[derive(Debug)]
    struct FailingClock {
        clock: Arc<ManualClock>,
        disk: FakeStorage,
        journal: OnceLock<Journal>,
        /// The record that is to fail.
        victim: Mutex<Option<Ticket>>,
    }

    impl Clock for FailingClock {
        fn now(&self) -> Timestamp {
            let victim = self.victim.lock().take();
            if let (Some(victim), Some(journal)) = (victim, self.journal.get()) {
                self.disk.fail(Operation::Sync, 0, Fault::Error);
                self.disk.release();
                eventually("failed", || journal.outcome_of(victim).is_some());
                eventually("recovered", || journal.status().broken.is_none());
            }
            self.clock.now()
        }

        fn since_boot(&self) -> Duration {
            self.clock.since_boot()
        }
    }

    #[test]
    fn an_outcome_is_written_however_often_the_disk_failed_since_its_intent() {
        let disk = FakeStorage::new();
        let (journal, _) = Journal::open(Arc::new(disk.clone()), origin(), &writer(), small(), clock()).unwrap();
        let (ticket, mut room) = journal.intent(&intent(1)).unwrap();
        journal.durable_blocking(ticket).unwrap();
        room.promised();
        // More than are remembered, each after something was written.
        let mut failed = 0;
        while failed < crate::evidence::journal::shared::MAX_FAILURES_KEPT + 10 {
            disk.fail(Operation::Append, 0, Fault::Error);
            let done = journal.append(&note(7)).and_then(|ticket| journal.durable_blocking(ticket));
            failed += usize::from(done.is_err());
            disk.mend();
            eventually("recovered", || journal.status().broken.is_none());
        }
        room.record(completed());
        journal.flush().unwrap();
        let outcomes = entries(&disk).into_iter().filter(|entry| matches!(entry.event, Event::Outcome(_))).count();
        assert_eq!((outcomes, journal.status().outcomes_lost), (1, 0));
        journal.close();
    }

    #[test]
    fn an_outcome_is_not_written_when_its_intent_fails_meanwhile() {
        let disk = FakeStorage::new();
        let time = Arc::new(FailingClock {
            clock: clock(),
            disk: disk.clone(),
            journal: OnceLock::new(),
            victim: Mutex::default(),
        });
        let (journal, _) = Journal::open(Arc::new(disk.clone()), origin(), &writer(), small(), time.clone()).unwrap();
        time.journal.set(journal.clone()).unwrap();
        journal.flush().unwrap();
        disk.hold(Operation::Sync);
        let (failed, room) = journal.intent(&intent(1)).unwrap();
        *time.victim.lock() = Some(failed);
        room.record(completed());
        let (ticket, other) = journal.intent(&intent(2)).unwrap();
        journal.durable_blocking(ticket).unwrap();
        other.record(completed());
        journal.flush().unwrap();
        let ended: Vec<_> = entries(&disk)
            .iter()
            .filter_map(|entry| match &entry.event {
                Event::Outcome(it) => Some((it.call, it.intent_seq)),
                _ => None,
            })
            .collect();
        assert_eq!(ended, [(CallId::from_bits(2), ticket.seq)]);
        let status = journal.status();
        assert_eq!((status.open_intents, status.outcomes_lost), (0, 0));
        journal.close();
    }
}
