//! What the writer does by itself: it records what ended by the clock, and forgets what is over.

use super::super::authorize::Caller;
use super::super::model::Model;
use super::super::plan::Plan;
use super::super::{breakglass, change, delegation, grant, identity, request, tickets, uses};
use super::{Actor, Committed, Group, planned};
use crate::domain::Timestamp;

impl Actor {
    /// Records what ended by the clock, and forgets what is over.
    pub(super) async fn tidy(&mut self) {
        self.advance();
        if let Err(error) = self.refresh().await {
            tracing::error!(%error, "the store cannot be read");
            return;
        }
        let often: [fn(&Model, Timestamp) -> Plan<bool>; 13] = [
            tickets::plan_owed,
            grant::plan_expiry,
            request::plan_expiry,
            delegation::plan_ends,
            delegation::plan_prune,
            request::plan_prune,
            change::plan_expiry,
            change::plan_prune,
            breakglass::plan_overdue,
            breakglass::plan_prune,
            grant::plan_forget_tokens,
            uses::plan_forget_ledgers,
            tickets::plan_forget,
        ];
        let once: &[fn(&Model, Timestamp) -> Plan<bool>] = if self.interrupted { &[identity::plan_left] } else { &[] };
        for plan in often.iter().chain(once) {
            if self.tidied(|model, now, _| plan(model, now)).await == Committed::No {
                return;
            }
        }
        // After delegations ended: what was said by one of them counts no more.
        if self.tidied(request::plan_silence).await == Committed::No {
            return;
        }
        self.interrupted = false;
    }

    /// Carries out a plan for as long as there is more of it.
    async fn tidied(&mut self, plan: impl Fn(&Model, Timestamp, &mut request::Judged) -> Plan<bool>) -> Committed {
        loop {
            let plan = plan(&self.shared.model.load(), self.now, &mut self.judged);
            let more = plan.answer;
            if plan.is_empty() {
                return Committed::Yes;
            }
            let mut group = Group::new(&self.shared);
            let planned = planned(plan, &Caller::System, self.now, &mut self.identifiers, Box::new(|_| {}));
            if group.add(&self.shared, planned).is_err() {
                return Committed::Yes;
            }
            // What cannot be written is not in it, and would not be the next time either.
            let nothing = group.is_empty();
            if self.commit(group).await == Committed::No {
                return Committed::No;
            }
            if nothing || !more {
                return Committed::Yes;
            }
        }
    }
}
