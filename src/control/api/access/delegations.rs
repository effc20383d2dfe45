//! Delegations of approvals, as the API has them.

use std::time::Duration;

use tonic::{Request, Response, Status};

use super::super::super::actor::Done;
use super::super::super::authorize::{Caller, Operation};
use super::super::super::delegation::may_see;
use super::super::error::malformed;
use super::super::{ApiError, authorized};
use super::AccessService;
use super::fields::parsed;
use crate::domain::delegation::Delegation;
use crate::domain::name::{DelegationId, OwnerName};
use crate::domain::resource::Span;
use crate::wire::{bytes128, v1};

/// Delegations that are listed: the latest.
const MAX_LISTED: usize = 1_000;

type Answer = Result<Response<v1::DelegationResponse>, Status>;

impl AccessService {
    pub(super) async fn delegate(&self, request: Request<v1::CreateDelegationRequest>) -> Answer {
        let caller = authorized(&self.handle, &request, Operation::Delegate, None).await?;
        let v1::CreateDelegationRequest { to, duration_ms, reason } = request.into_inner();
        let mut faults = Vec::new();
        let Some(to) = parsed::<OwnerName>("to", &to, &mut faults) else {
            return Err(ApiError::invalid(faults.join("; ")).into());
        };
        let duration = Span::new(Duration::from_millis(duration_ms));
        let done = self.handle.create_delegation(&caller, to, duration, reason).await;
        answered(self.told(&caller, Operation::Delegate, done).await?)
    }

    pub(super) async fn delegations(
        &self,
        request: Request<v1::ListDelegationsRequest>,
    ) -> Result<Response<v1::ListDelegationsResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::Delegate, None).await?;
        let Caller::Person(person) = caller else { return Ok(Response::new(Default::default())) };
        let (all, model, now) = (request.get_ref().all, self.handle.model(), self.handle.shared().clock.now());
        let seen = model.delegations.all().rev().filter(|it| (all || it.is_live(now)) && may_see(&person, it));
        let mut delegations = seen.take(MAX_LISTED + 1).map(message).collect::<Result<Vec<_>, _>>()?;
        let more = delegations.len() > MAX_LISTED;
        delegations.truncate(MAX_LISTED);
        Ok(Response::new(v1::ListDelegationsResponse { delegations, more }))
    }

    pub(super) async fn end_delegation_of(&self, request: Request<v1::EndDelegationRequest>) -> Answer {
        let caller = authorized(&self.handle, &request, Operation::Delegate, None).await?;
        let v1::EndDelegationRequest { id, reason } = request.into_inner();
        let id = bytes128("id", &id).map(DelegationId::from_bits).map_err(malformed)?;
        let done = self.handle.end_delegation(&caller, id, reason).await;
        answered(self.told(&caller, Operation::Delegate, done).await?)
    }
}

fn answered(done: Done<Delegation>) -> Answer {
    let delegation = Some(message(&done.answer)?);
    Ok(Response::new(v1::DelegationResponse { delegation, revision: done.revision }))
}

fn message(delegation: &Delegation) -> Result<v1::Delegation, Status> {
    let json = serde_json::to_string(delegation).map_err(|error| Status::from(ApiError::invalid(error.to_string())))?;
    Ok(v1::Delegation { id: delegation.id.bits().to_be_bytes().to_vec(), delegation_json: json })
}
