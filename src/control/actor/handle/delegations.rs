//! Commands about who answers in whose place.

use super::super::super::authorize::Caller;
use super::super::super::delegation;
use super::super::super::plan::Refused;
use super::requests::drawing;
use super::{ControlHandle, Done};
use crate::domain::delegation::Delegation;
use crate::domain::name::{DelegationId, OwnerName};
use crate::domain::resource::Span;

impl ControlHandle {
    /// Has another person answer in the caller's place.
    ///
    /// # Errors
    /// As [`delegation::plan_create`].
    pub async fn create_delegation(
        &self,
        caller: &Caller,
        to: OwnerName,
        duration: Span,
        reason: String,
    ) -> Result<Done<Delegation>, Refused> {
        self.run(caller, "create_delegation", move |model, context, identifiers| {
            let draw = drawing(identifiers, context.now);
            delegation::plan_create(model, context, &to, duration, &reason, draw)
        })
        .await
    }

    /// Ends a delegation before its time.
    ///
    /// # Errors
    /// As [`delegation::plan_end`].
    pub async fn end_delegation(
        &self,
        caller: &Caller,
        id: DelegationId,
        reason: String,
    ) -> Result<Done<Delegation>, Refused> {
        self.run(caller, "end_delegation", move |model, context, _| delegation::plan_end(model, context, id, &reason))
            .await
    }
}
