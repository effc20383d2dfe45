//! `can-i`: what decide would say, by the same code, on a picture that holds just what the question is about.

use tonic::Status;

use super::super::super::encode;
use super::super::super::model::Model;
use super::super::ApiError;
use super::super::error::refused;
use crate::control::plan::Refused;
use crate::control::record::ledger::Ledger;
use crate::decision::snapshot::SnapshotBuilder;
use crate::decision::{Authority, Call, Credential, Decision, Now, UsedUp, decide};
use crate::domain::name::{ActionName, IdentityName, ParameterName, ResourceName};
use crate::domain::{Reason, Timestamp};
use crate::wire::v1;

/// Parameters in one question: more than any path has.
const MAX_PARAMETERS: usize = 64;

/// A call that nobody makes yet.
#[derive(Clone, Debug)]
pub(in super::super) struct Question {
    pub(in super::super) identity: IdentityName,
    pub(in super::super) action: ActionName,
    pub(in super::super) resource: ResourceName,
    pub(in super::super) parameters: Vec<(ParameterName, String)>,
}

/// Answers one question, as of `now`.
pub(super) fn answer(model: &Model, request: v1::CanIRequest, now: Timestamp) -> Result<v1::CanIResponse, Status> {
    let question = question(request)?;
    if !model.identities.contains_key(&question.identity) {
        return Err(refused(Refused::NotFound(format!("there is no identity {}", question.identity))));
    }
    if !model.resources.contains_key(&question.resource) {
        return Err(refused(Refused::NotFound(format!("there is no resource {}", question.resource))));
    }
    question.answer(model, now)
}

impl Question {
    /// What decide says, as of `now`. Bindings and networks are left out: nobody is calling.
    pub(in super::super) fn answer(&self, model: &Model, now: Timestamp) -> Result<v1::CanIResponse, Status> {
        let decision = decided(model, self, now)?;
        let (reason, permit) = match decision {
            Ok(Decision::Allow(permit)) => (None, Some(permit)),
            Ok(Decision::Deny(reason)) | Err(reason) => (Some(reason), None),
            Ok(Decision::Hold(hold)) => (Some(hold.reason()), None),
        };
        let grant = permit.as_ref().and_then(|permit| permit.grant()).and_then(|live| model.grants.get(&live.id));
        Ok(v1::CanIResponse {
            allowed: permit.is_some(),
            reason: reason.map(|r| r.code().to_owned()).unwrap_or_default(),
            detail: reason.map(|r| r.info().detail.to_owned()).unwrap_or_default(),
            grant: grant.map(|kept| encode::grant(&kept.value, kept.revision)),
            revision: model.revision,
        })
    }
}

fn question(request: v1::CanIRequest) -> Result<Question, ApiError> {
    let fault = |field: &str, error: &dyn std::fmt::Display| ApiError::invalid(format!("{field}: {error}"));
    if request.parameters.len() > MAX_PARAMETERS {
        return Err(ApiError::invalid(format!("parameters: at most {MAX_PARAMETERS}")));
    }
    let mut parameters = Vec::with_capacity(request.parameters.len());
    for (name, value) in request.parameters {
        parameters.push((name.parse().map_err(|e| fault("parameters", &e))?, value));
    }
    Ok(Question {
        identity: request.identity.parse().map_err(|e| fault("identity", &e))?,
        action: request.action.parse().map_err(|e| fault("action", &e))?,
        resource: request.resource.parse().map_err(|e| fault("resource", &e))?,
        parameters,
    })
}

fn decided(model: &Model, question: &Question, now: Timestamp) -> Result<Result<Decision, Reason>, Status> {
    let mut builder = SnapshotBuilder::new();
    if let Some(kept) = model.identities.get(&question.identity) {
        builder.put_identity(&kept.value);
    }
    if let Some(kept) = model.resources.get(&question.resource) {
        builder.put_resource(&kept.value);
    }
    for kept in model.routes.values().filter(|kept| kept.value.spec.resource == question.resource) {
        builder.put_route(kept.value.as_ref().clone());
    }
    for kept in model.exceptions.values() {
        builder.put_exception(&kept.value);
    }
    model.halts.keys().for_each(|scope| builder.put_halt(scope));
    for kept in model.grants_on(&question.identity, &question.resource) {
        builder.put_grant(&kept.value);
    }
    let snapshot = builder.build(model.epoch, model.revision).map_err(|faults| {
        // The whole table was checked when it was applied; a part of it cannot overlap.
        tracing::error!(?faults, "the routes of a resource do not make a table");
        refused(Refused::Unavailable)
    })?;
    let Some(identity) = snapshot.identity_place(&question.identity) else {
        return Ok(Err(Reason::IdentityUnknown));
    };
    // The control plane vouches for itself.
    let now = Now { wall: now, authority: Authority::Age(std::time::Duration::ZERO) };
    // Grants are of resources, exceptions of routes: the answer is the best that any route gives.
    let rank = |decision: &Decision| match decision {
        Decision::Allow(permit) if permit.grant().is_some() => 0,
        Decision::Allow(_) => 1,
        Decision::Hold(_) => 2,
        Decision::Deny(_) => 3,
    };
    let assumed = snapshot.assume(&question.resource, &question.action, &question.parameters);
    let used_up = used_up(model, question, now.wall);
    let decisions = assumed.iter().map(|target| {
        let call = Call { identity, credential: Credential::Assumed, target, peer: None, used_up: &used_up };
        decide(&call, &snapshot, &now)
    });
    Ok(decisions.min_by_key(rank).ok_or(Reason::RouteUnknown))
}

/// Counted grants of which everything was given out. A gateway may have some of it left.
fn used_up(model: &Model, question: &Question, now: Timestamp) -> Vec<UsedUp> {
    let grants = model.grants_on(&question.identity, &question.resource);
    let counted = grants.filter(|kept| kept.value.limits.is_counted());
    let left = counted.map(|kept| {
        let ledger =
            model.ledgers.get(&kept.value.id).map_or_else(|| Ledger::new(kept.value.id), |l| l.value.as_ref().clone());
        (kept.value.id, ledger.left(&kept.value, now, model.restored))
    });
    let dry = left.filter(|(_, left)| left.uses == 0);
    dry.map(|(grant, left)| {
        let reason = if left.again.is_some() { Reason::UsesSpentForNow } else { Reason::UsesSpent };
        UsedUp { grant, reason }
    })
    .collect()
}
