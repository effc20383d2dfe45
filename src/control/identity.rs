//! Identities that are set aside, released, or sent off.
//!
//! The state comes first: from then on every gateway refuses whatever the identity does, and nothing new is granted to it.
//! What it holds ends after that, a bounded number at once. Nothing comes back with a release: while anything is left that
//! did not end, there is none.

use super::authorize::Caller;
use super::grant::{Endings, plan_revoke};
use super::model::Model;
use super::plan::{Audience, ChangeEvent, Context, Plan, Refused, checked_reason};
use super::record::{Change, GrantRecord, Record};
use super::request;
use crate::domain::Timestamp;
use crate::domain::identity::{Identity, IdentityState};
use crate::domain::name::IdentityName;
use crate::domain::request::Request;

/// What an identity held, or had asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// How many grants were live.
    pub grants: usize,
    /// How many requests were open.
    pub requests: usize,
}

impl Held {
    /// Whether it is nothing.
    pub fn is_empty(&self) -> bool {
        self.grants == 0 && self.requests == 0
    }
}

/// Sets an identity aside, lets it act again, or sends it off. Doing it twice changes nothing.
///
/// # Errors
/// [`Refused::NotFound`] without the identity; [`Refused::Conflict`] when it was sent off, or is to be released while
/// something that it held has not ended; [`Refused::Invalid`] without a reason.
pub fn plan_state(
    model: &Model,
    name: &IdentityName,
    state: IdentityState,
    reason: &str,
) -> Result<Plan<Identity>, Refused> {
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    let Some(kept) = model.identities.get(name) else {
        return Err(Refused::NotFound(format!("there is no identity {name}")));
    };
    let identity = kept.value.as_ref().clone();
    if identity.state == state {
        return Ok(Plan::nothing(identity));
    }
    if identity.state == IdentityState::Offboarded {
        return Err(Refused::Conflict(format!("{name} was offboarded, which is for good")));
    }
    // INVARIANT: nobody gets back by a release what ended with the quarantine.
    if state == IdentityState::Active && (model.grants_of.contains_key(name) || open(model, name).next().is_some()) {
        return Err(Refused::Conflict(format!("not everything that {name} held has ended yet; try again")));
    }
    let before = Record::Identity(identity.clone());
    let identity = Identity { state, ..identity };
    let change = Change::Put(Record::Identity(identity.clone()));
    let operation = match state {
        IdentityState::Active => "identity.released",
        IdentityState::Quarantined => "identity.quarantined",
        IdentityState::Offboarded => "identity.offboarded",
    };
    let event = ChangeEvent::of(operation, Some(&before), &change, Some(&reason));
    Ok(Plan { changes: vec![change], events: vec![event], audience: Default::default(), answer: identity })
}

/// Ends what an identity that may not act holds, a bounded number at once: until the answer is nothing, it is asked again.
/// Of one that may act, nothing.
///
/// # Errors
/// [`Refused::Invalid`] without a reason.
pub fn plan_end_held(
    model: &Model,
    context: &Context<'_>,
    name: &IdentityName,
    reason: &str,
) -> Result<Plan<Held>, Refused> {
    let reason = &checked_reason(reason).map_err(Refused::invalid)?;
    let answer = Held::default();
    let mut plan = Plan { changes: Vec::new(), events: Vec::new(), audience: Audience::Gateways, answer };
    if model.identities.get(name).is_none_or(|kept| kept.value.state == IdentityState::Active) {
        return Ok(plan);
    }
    let mut endings = Endings::default();
    let ids = model.grants_of.get(name).into_iter().flatten();
    for grant in ids.filter_map(|id| model.grants.get(id)).map(|kept| kept.value.as_ref()) {
        let record = GrantRecord { grant: grant.clone(), expiry_noted: false };
        let one = plan_revoke(context, &record, reason)?;
        if !endings.take(&one.changes) {
            return Ok(plan);
        }
        plan.changes.extend(one.changes);
        plan.events.extend(one.events);
        plan.answer.grants += 1;
    }
    for request in open(model, name) {
        let one = request::cancelled(context, request, reason);
        if !endings.take(&one.changes) {
            return Ok(plan);
        }
        plan.changes.extend(one.changes);
        plan.events.extend(one.events);
        plan.answer.requests += 1;
    }
    Ok(plan)
}

/// Ends what an identity that may not act has left, where the process ended before all of it had: a bounded number at
/// once. The answer: whether there may be more.
pub fn plan_left(model: &Model, now: Timestamp) -> Plan<bool> {
    let is_away = |name: &&IdentityName| {
        model.identities.get(*name).is_some_and(|kept| kept.value.state != IdentityState::Active)
    };
    let asked = model.requests.values().map(|kept| &kept.value.ask.identity);
    let left = model.grants_of.keys().chain(asked).find(is_away);
    let context = Context { caller: &Caller::System, now };
    let planned = left.and_then(|name| plan_end_held(model, &context, name, "the identity may not act").ok());
    planned.map_or_else(|| Plan::nothing(false), |plan| plan.map(|held| !held.is_empty()))
}

/// Open requests that are an identity's own, or for it.
fn open<'m>(model: &'m Model, name: &'m IdentityName) -> impl Iterator<Item = &'m Request> {
    let requests = model.requests.values().map(|kept| kept.value.as_ref());
    requests.filter(move |request| request.ask.identity == *name)
}

#[cfg(test)]
mod tests;
