//! `can-i`: what decide would say, by the same code, on a picture that holds just what the question is about.

use std::net::IpAddr;
use std::sync::Arc;

use tonic::Status;

use super::super::super::encode;
use super::super::super::model::Model;
use super::super::ApiError;
use super::super::error::refused;
use crate::control::plan::Refused;
use crate::control::record::ledger::Ledger;
use crate::decision::snapshot::SnapshotBuilder;
use crate::decision::{Authority, Call, Credential, Decision, Now, UsedUp, decide};
use crate::domain::grant::{Binding, Grant, Limits};
use crate::domain::name::{ActionName, IdentityName, ParameterName, ResourceName};
use crate::domain::principal::{CertificateThumbprint, SpiffeId};
use crate::domain::{Reason, Timestamp};
use crate::wire::v1;

/// Parameters in one question: more than any path has.
const MAX_PARAMETERS: usize = 64;

/// A call that nobody makes yet.
#[derive(Clone, Debug)]
pub(in super::super) struct Question {
    identity: IdentityName,
    action: ActionName,
    resource: ResourceName,
    parameters: Vec<(ParameterName, String)>,
    presented: Presented,
}

/// What is known of who would call, and from where.
#[derive(Clone, Debug)]
pub(in super::super) enum Presented {
    /// Whatever a grant wants: bindings, networks and counts are left out.
    Anything,
    /// This, and no more: what it does not settle is a no.
    Only {
        /// The credential, where it is known.
        credential: Option<KnownCredential>,
        /// The address.
        peer: Option<IpAddr>,
    },
}

/// A credential by what it says of itself.
#[derive(Clone, Debug)]
pub(in super::super) enum KnownCredential {
    /// A certificate with this SPIFFE ID.
    Workload(SpiffeId),
    /// A token of this issuer.
    Token(Arc<str>),
}

/// Answers one question, as of `now`.
pub(super) fn answer(model: &Model, request: v1::CanIRequest, now: Timestamp) -> Result<v1::CanIResponse, Status> {
    let question = read(request)?;
    if !model.identities.contains_key(&question.identity) {
        return Err(refused(Refused::NotFound(format!("there is no identity {}", question.identity))));
    }
    if !model.resources.contains_key(&question.resource) {
        return Err(refused(Refused::NotFound(format!("there is no resource {}", question.resource))));
    }
    question.answer(model, now)
}

fn read(request: v1::CanIRequest) -> Result<Question, ApiError> {
    let fault = |field: &str, error: &dyn std::fmt::Display| ApiError::invalid(format!("{field}: {error}"));
    let mut parameters = Vec::with_capacity(request.parameters.len().min(MAX_PARAMETERS));
    for (name, value) in request.parameters {
        parameters.push((name.parse().map_err(|e| fault("parameters", &e))?, value));
    }
    let identity = request.identity.parse().map_err(|e| fault("identity", &e))?;
    let action = request.action.parse().map_err(|e| fault("action", &e))?;
    let resource = request.resource.parse().map_err(|e| fault("resource", &e))?;
    Question::new(identity, action, (resource, parameters), Presented::Anything)
}

impl Question {
    /// Whether an identity may do something to a resource, with these parameters.
    ///
    /// # Errors
    /// When there are too many parameters.
    pub(in super::super) fn new(
        identity: IdentityName,
        action: ActionName,
        (resource, parameters): (ResourceName, Vec<(ParameterName, String)>),
        presented: Presented,
    ) -> Result<Self, ApiError> {
        if parameters.len() > MAX_PARAMETERS {
            return Err(ApiError::invalid(format!("parameters: at most {MAX_PARAMETERS}")));
        }
        Ok(Self { identity, action, resource, parameters, presented })
    }

    /// What decide says, as of `now`.
    pub(in super::super) fn answer(&self, model: &Model, now: Timestamp) -> Result<v1::CanIResponse, Status> {
        let settled = |grant: &Grant| self.presented.settles(&grant.limits);
        let mut decision = decided(model, self, now, |grant| settled(grant).is_ok())?;
        if !matches!(decision, Ok(Decision::Allow(_))) && matches!(self.presented, Presented::Only { .. }) {
            // One that would open, if more were known, tells what is missing.
            let anything = Self { presented: Presented::Anything, ..self.clone() };
            let lenient = decided(model, &anything, now, |_| true)?;
            let grant = lenient.ok().and_then(|it| match it {
                Decision::Allow(permit) => permit.grant().map(|live| live.id),
                Decision::Deny(_) | Decision::Hold(_) => None,
            });
            let missing = grant.and_then(|id| settled(&model.grants.get(&id)?.value).err());
            decision = missing.map_or(decision, Err);
        }
        // An exception is of a route, and which one it would be is not said.
        let by_grant = matches!(&decision, Ok(Decision::Allow(permit)) if permit.grant().is_some());
        if matches!(self.presented, Presented::Only { .. }) && matches!(decision, Ok(Decision::Allow(_))) && !by_grant {
            decision = Err(Reason::GrantMissing);
        }
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

impl Presented {
    /// Whether what is known is enough to judge a grant's limits by. A count is spent by calls alone.
    fn settles(&self, limits: &Limits) -> Result<(), Reason> {
        let Self::Only { credential, peer } = self else { return Ok(()) };
        let bound = match (&limits.binding, credential) {
            (None, _) | (Some(Binding::Spiffe(_) | Binding::Issuer(_)), Some(_)) => Ok(()),
            (Some(_), _) => Err(Reason::BindingNotGranted),
        };
        bound?;
        if !limits.networks.is_empty() && peer.is_none() {
            return Err(Reason::NetworkNotGranted);
        }
        if limits.is_counted() { Err(Reason::UsesUnavailable) } else { Ok(()) }
    }
}

fn decided(
    model: &Model,
    question: &Question,
    now: Timestamp,
    takes: impl Fn(&Grant) -> bool,
) -> Result<Result<Decision, Reason>, Status> {
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
    for kept in model.grants_on(&question.identity, &question.resource).filter(|kept| takes(&kept.value)) {
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
    let (credential, peer) = match &question.presented {
        Presented::Anything | Presented::Only { credential: None, peer: None } => (Credential::Assumed, None),
        Presented::Only { credential, peer } => {
            let credential = match credential {
                None => Credential::Assumed,
                // INVARIANT: no grant that is bound to a certificate is looked at, so which one it is does not matter.
                Some(KnownCredential::Workload(spiffe)) => {
                    Credential::Certificate { spiffe, thumbprint: CertificateThumbprint::from_bytes([0; 32]) }
                }
                Some(KnownCredential::Token(issuer)) => Credential::Token { issuer, certificate: None },
            };
            (credential, *peer)
        }
    };
    let assumed = snapshot.assume(&question.resource, &question.action, &question.parameters);
    let used_up = used_up(model, question, now.wall);
    let decisions = assumed.iter().map(|target| {
        let call = Call { identity, credential, target, peer, used_up: &used_up };
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
