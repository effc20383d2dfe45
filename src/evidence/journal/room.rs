//! The outcome that is owed for an intent: recorded once, whatever becomes of the call.
//!
//! Refuses to know how room is kept on the disk, and how a call ends.

use std::fmt;
use std::sync::Arc;

use super::queue::Class;
use super::{Shared, Ticket};
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
    used: bool,
}

impl fmt::Debug for OutcomeRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutcomeRoom").field("call", &self.call).field("intent", &self.ticket.seq).finish()
    }
}

impl OutcomeRoom {
    pub(super) fn new(shared: Arc<Shared>, call: CallId, ticket: Ticket) -> Self {
        Self { shared, call, ticket, used: false }
    }

    /// Where the intent stands, should it become durable.
    pub fn intent_seq(&self) -> u64 {
        self.ticket.seq
    }

    /// Records how the call ended. It is written with the next batch, or when the disk is well again.
    pub fn record(mut self, ending: Ending) {
        self.put(ending);
    }

    fn put(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.used, true) {
            return;
        }
        if let Some(Err(_)) = self.shared.outcome_of(self.ticket) {
            let mut state = self.shared.state.lock();
            state.rooms = state.rooms.saturating_sub(1);
            return;
        }
        let outcome = Outcome { call: self.call, intent_seq: self.ticket.seq, ending };
        if self.shared.append(&outcome, Class::Outcome { intent: self.ticket }).is_err() {
            self.shared.status.outcome_lost();
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
