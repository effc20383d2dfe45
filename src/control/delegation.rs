//! Delegation of approvals: made by whose right it is, ended by either of the two, by its time, or when one of them leaves.
//!
//! Planning only. What a right that was handed on is good for is looked at where somebody approves, each time anew.

use std::time::Duration;

use super::authorize::Caller;
use super::grant::Endings;
use super::model::Model;
use super::plan::{ChangeEvent, Context, Plan, Refused, checked_reason};
use super::record::{Change, Person, PersonRole, Record};
use crate::domain::Timestamp;
use crate::domain::delegation::{Delegation, MAX_DELEGATION};
use crate::domain::name::{DelegationId, OwnerName};
use crate::domain::request::Settled;
use crate::domain::resource::Span;

/// Shortest time.
const MIN_DELEGATION: Duration = Duration::from_secs(60);
/// People who answer in one person's place at once.
const MAX_EACH: usize = 10;
/// People in whose place one answers at once.
const MAX_OF: usize = 20;
/// Delegations that are kept, those that are over too.
const MAX_KEPT: usize = 10_000;
/// How long one that is over is kept. The evidence keeps it.
const ENDED_KEPT: Duration = Duration::from_secs(90 * 86_400);
/// Those that are forgotten in one transaction.
const MAX_PRUNED: usize = 100;

/// Has `to` answer in the caller's place for a time.
///
/// # Errors
/// [`Refused::Denied`] for who is no person, [`Refused::NotFound`] for one who has no account, [`Refused::Invalid`] for
/// oneself, no reason or a time out of bounds, [`Refused::Conflict`] when they do already, [`Refused::TooMuch`].
pub fn plan_create(
    model: &Model,
    context: &Context<'_>,
    to: &OwnerName,
    duration: Span,
    reason: &str,
    mut draw: impl FnMut() -> u128,
) -> Result<Plan<Delegation>, Refused> {
    let from = &person(context)?.name;
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    if from == to {
        return Err(Refused::invalid("to: somebody else"));
    }
    if !(MIN_DELEGATION..=MAX_DELEGATION).contains(&duration.duration()) {
        let days = MAX_DELEGATION.as_secs() / 86_400;
        return Err(Refused::invalid(format!("duration: 1m to {days}d; make another when it is over")));
    }
    for name in [from, to] {
        if !model.people.contains_key(name) {
            return Err(Refused::NotFound(format!("{name} has no account here, and approves nothing")));
        }
    }
    if let Some(known) = model.delegations.between(from, to, context.now) {
        let (id, ends) = (known.id, known.ends);
        return Err(Refused::Conflict(format!("{to} answers in your place already, until {ends}: end {id} first")));
    }
    let of = model.delegations.delegators_of(to, context.now).len();
    if model.delegations.live_from(from, context.now).count() >= MAX_EACH
        || of >= MAX_OF
        || model.delegations.len() >= MAX_KEPT
    {
        return Err(Refused::TooMuch(format!(
            "{MAX_EACH} people answer in one's place at most, and one in the place of {MAX_OF}: end one of them"
        )));
    }
    let mut id = DelegationId::from_bits(draw());
    while model.delegations.get(id).is_some() {
        id = DelegationId::from_bits(draw());
    }
    let delegation = Delegation {
        id,
        from: from.clone(),
        to: to.clone(),
        reason: reason.clone(),
        created: context.now,
        ends: context.now.saturating_add(duration.duration()),
        ended: None,
    };
    Ok(put("delegation.created", None, delegation, &reason))
}

/// Ends one before its time: either of the two, or who watches over all access.
///
/// # Errors
/// [`Refused::NotFound`], [`Refused::Denied`] for anybody else, [`Refused::Conflict`] for one that is over.
pub fn plan_end(
    model: &Model,
    context: &Context<'_>,
    id: DelegationId,
    reason: &str,
) -> Result<Plan<Delegation>, Refused> {
    let person = person(context)?;
    let none = || Refused::NotFound(format!("there is no delegation {id}"));
    let before = model.delegations.get(id).map(|kept| kept.value.as_ref()).filter(|it| may_see(person, it));
    let before = before.ok_or_else(none)?;
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    if !before.is_live(context.now) {
        return Err(Refused::Conflict(format!("delegation {id} is over already")));
    }
    Ok(end(before, context, &reason))
}

/// Whether somebody sees a delegation, and may end it: the two, and who watches over all access.
pub fn may_see(person: &Person, delegation: &Delegation) -> bool {
    let watches = [PersonRole::Administrator, PersonRole::Security].iter().any(|role| person.roles.contains(role));
    watches || [&delegation.from, &delegation.to].contains(&&person.name)
}

/// Records the end of those whose time is over, or of whose people one has left. The answer: whether there may be more.
pub fn plan_ends(model: &Model, now: Timestamp) -> Plan<bool> {
    let mut plan = Plan { changes: Vec::new(), events: Vec::new(), audience: Default::default(), answer: false };
    let mut endings = Endings::default();
    let context = Context { caller: &Caller::System, now };
    for delegation in model.delegations.all().filter(|it| it.ended.is_none()) {
        let gone = [&delegation.from, &delegation.to].into_iter().find(|name| !model.people.contains_key(*name));
        let reason = match gone {
            Some(name) => format!("{name} has left"),
            None if delegation.ends <= now => "its time is over".to_owned(),
            None => continue,
        };
        let one = end(delegation, &context, &reason);
        if !endings.take(&one.changes) {
            plan.answer = true;
            break;
        }
        plan.changes.extend(one.changes);
        plan.events.extend(one.events);
    }
    plan
}

/// Forgets those that are long over. No evidence: it has told of their end. The answer: whether there may be more.
pub fn plan_prune(model: &Model, now: Timestamp) -> Plan<bool> {
    let mut plan = Plan::nothing(false);
    let is_old = |it: &&Delegation| it.ended.as_ref().is_some_and(|end| end.at.saturating_add(ENDED_KEPT) <= now);
    for delegation in model.delegations.all().filter(is_old) {
        if plan.changes.len() == MAX_PRUNED {
            plan.answer = true;
            break;
        }
        plan.changes.push(Change::Delete(Record::Delegation(delegation.clone())));
    }
    plan
}

fn person<'c>(context: &Context<'c>) -> Result<&'c Person, Refused> {
    match context.caller {
        Caller::Person(person) => Ok(person),
        Caller::Gateway(_) | Caller::Joining(..) | Caller::Attested(_) | Caller::Identity(_) | Caller::System => {
            Err(Refused::Denied("people have others answer in their place, and nobody for them".to_owned()))
        }
    }
}

fn end(before: &Delegation, context: &Context<'_>, reason: &str) -> Plan<Delegation> {
    let ended = Settled { at: context.now, by: context.caller.to_string(), reason: reason.to_owned() };
    put("delegation.ended", Some(before), Delegation { ended: Some(ended), ..before.clone() }, reason)
}

fn put(operation: &str, before: Option<&Delegation>, delegation: Delegation, reason: &str) -> Plan<Delegation> {
    let change = Change::Put(Record::Delegation(delegation.clone()));
    let before = before.cloned().map(Record::Delegation);
    let event = ChangeEvent::of(operation, before.as_ref(), &change, Some(reason));
    // No grant may be made by another writer on an approval that does not count any more.
    Plan { changes: vec![change], events: vec![event], audience: Default::default(), answer: delegation }
}

#[cfg(test)]
mod tests;
