//! Commands about what ends grants from outside: tickets, and a policy that would not give them any more.

use super::super::super::authorize::Caller;
use super::super::super::plan::{Audience, ChangeEvent, Plan, Refused};
use super::super::super::reconsider;
use super::super::super::tickets::{self, Heard, Said};
use super::{ControlHandle, Done};
use crate::domain::grant::Grant;
use crate::domain::name::GrantId;
use crate::domain::ticket::Ticket;

impl ControlHandle {
    /// Takes in what a source says of a ticket.
    ///
    /// # Errors
    /// As [`tickets::plan_heard`].
    pub(in super::super::super) async fn hear_of_ticket(&self, said: Said) -> Result<Done<Heard>, Refused> {
        self.run(&Caller::System, "hear_of_ticket", move |model, context, _| tickets::plan_heard(model, context, &said))
            .await
    }

    /// Takes back the next requests that wait and would end with a closed ticket: until the answer is none, it is asked
    /// again.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(in super::super::super) async fn cancel_waiting(&self, ticket: Ticket) -> Result<Done<usize>, Refused> {
        self.run(&Caller::System, "cancel_waiting", move |model, context, _| {
            tickets::plan_cancel_waiting(model, context, &ticket)
        })
        .await
    }

    /// Records what the gateways have to show for the end of what was bound to a ticket.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(in super::super::super) async fn note_ticket(
        &self,
        ticket: &Ticket,
        receipt: serde_json::Value,
        reason: String,
    ) -> Result<Done<()>, Refused> {
        self.note_receipt("ticket.enforced", format!("ticket/{ticket}"), receipt, reason).await
    }

    /// Ends those of these grants that policy would not give any more.
    ///
    /// # Errors
    /// As [`reconsider::plan_end_denied`].
    pub(in super::super::super) async fn end_denied(&self, ids: Vec<GrantId>) -> Result<Done<Vec<Grant>>, Refused> {
        self.run(&Caller::System, "end_denied", move |model, context, _| {
            reconsider::plan_end_denied(model, context, &ids)
        })
        .await
    }

    /// Records what the gateways have to show for the end of what a version of the policy would not give any more.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(in super::super::super) async fn note_reconsidered(
        &self,
        version: u64,
        receipt: serde_json::Value,
        reason: String,
    ) -> Result<Done<()>, Refused> {
        self.note_receipt("grants.reconsidered", format!("reconsidered/{version}"), receipt, reason).await
    }

    async fn note_receipt(
        &self,
        operation: &str,
        object: String,
        receipt: serde_json::Value,
        reason: String,
    ) -> Result<Done<()>, Refused> {
        let (operation, after, reason) = (operation.to_owned(), Some(receipt), Some(reason));
        let event = ChangeEvent { operation, object, before: None, after, reason };
        self.run(&Caller::System, "note_receipt", move |_, _, _| {
            Ok(Plan { changes: Vec::new(), events: vec![event], audience: Audience::Control, answer: () })
        })
        .await
    }
}
