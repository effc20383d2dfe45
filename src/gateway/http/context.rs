//! What is known of one call while the library works on it.

use std::sync::Arc;

use http::HeaderValue;

use super::gate::CallSlot;
use super::reply::Replies;
use crate::domain::name::CallId;
use crate::domain::trust::Protocol;
use crate::domain::{Reason, Timestamp};
use crate::gateway::pipeline::Admitted;
use crate::gateway::record::OutcomeRecord;
use crate::gateway::refusal::Dialect;

/// What the hooks of one call share.
pub(super) struct CallContext {
    pub(super) slot: Option<Arc<CallSlot>>,
    pub(super) call: CallId,
    pub(super) started: Timestamp,
    /// What the caller speaks; asked before a body is replayed, which hides it.
    pub(super) dialect: Dialect,
    /// Why the call is refused, once that is known.
    pub(super) refusal: Option<Reason>,
    pub(super) replies: Replies,
    pub(super) running: Option<Running>,
}

impl CallContext {
    /// What the route's upstream speaks, once the call is allowed.
    pub(super) fn protocol(&self) -> Option<Protocol> {
        self.running.as_ref().map(|running| running.admitted.permit.route().route().spec.protocol)
    }

    /// The record of an allowed call's end.
    pub(super) fn outcome(&mut self) -> Option<&mut OutcomeRecord> {
        self.running.as_mut().map(|running| &mut running.admitted.outcome)
    }
}

/// A call that goes on.
pub(super) struct Running {
    pub(super) call_id: HeaderValue,
    // INVARIANT: the last one, dropped with the context: its drop records the outcome.
    pub(super) admitted: Admitted,
}

impl Drop for CallContext {
    fn drop(&mut self) {
        let stalled = self.slot.as_ref().and_then(|slot| slot.stalled());
        if let (Some((ended, reason)), Some(outcome)) = (stalled, self.outcome()) {
            outcome.end(ended, Some(reason));
        }
    }
}
