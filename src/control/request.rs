//! The state machine of a request: asked, then granted, denied, cancelled or expired, once.
//!
//! Planning only, over the model. Every step that leads to a grant goes through `settle`, which asks policy anew, counts
//! the approvals that are bound to what is true now, and makes the grants in the same plan as the request's end: so there
//! is no approval that is not enforced, and no grant without its approvals.

mod approve;
mod bounds;
mod silence;

use std::time::Duration;

use approve::again;
pub use approve::{Yes, analysed, plan_approve};
use bounds::few_enough;
pub use bounds::{SETTLED_KEPT, plan_prune, unknown};
pub use silence::{Judged, plan_silence};

use super::analyse::{Analysed, analyse};
use super::approval;
use super::authorize::{Caller, SYSTEM};
use super::grant::{self, Endings, GrantRequest, checked};
use super::model::Model;
use super::plan::{ChangeEvent, Context, Plan, Refused, checked_reason, identity_author};
use super::record::{Change, PersonRole, Record};
use super::tickets;
use crate::domain::Timestamp;
use crate::domain::grant::{Grant, Lineage, Origin};
use crate::domain::name::{GrantId, RequestId};
use crate::domain::request::{Access, Analysis, Ask, Request, Requester, Settled, State, Verdict};

/// Requests that may be open at once.
const MAX_OPEN: usize = 10_000;
/// The same of one requester.
const MAX_OPEN_EACH: usize = 100;
/// Longest key that a request is found again by.
const MAX_KEY_BYTES: usize = 128;
/// How far ahead access may begin that policy lets be had without anybody's approval.
const MAX_LEAD: Duration = Duration::from_secs(300);

/// What making a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// This request, as it now stands.
    Request(Box<Request>),
    /// One with the same key is there already.
    Known(RequestId),
}

/// Makes a request, and grants it where policy needs nobody. What policy refuses is kept as denied, with what was found.
///
/// # Errors
/// [`Refused::Denied`] for an identity that asks for another, [`Refused::Unfit`] without a policy, [`Refused::TooMuch`]
/// when too many are open; for the rest as [`grant::plan_create`].
pub fn plan_create(
    model: &Model,
    context: &Context<'_>,
    ask: &Ask,
    key: Option<&str>,
    draw: impl FnMut() -> u128,
) -> Result<Plan<Created>, Refused> {
    let mut draw = unused(model, draw);
    let requester = requester(context.caller, ask)?;
    if let Some(key) = key {
        if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refused::invalid(format!("key: 1 to {MAX_KEY_BYTES} printable characters, no spaces")));
        }
        if let Some(id) = model.request_keys.get(&(requester.clone(), key.to_owned())) {
            return Ok(Plan::nothing(Created::Known(*id)));
        }
    }
    let open = model.requests.values().filter(|kept| kept.value.requester == requester).count();
    if open >= MAX_OPEN_EACH || model.requests.len() >= MAX_OPEN {
        return Err(Refused::TooMuch(format!(
            "{open} requests of {requester} are open: cancel those that are not needed"
        )));
    }
    let good = checked(model, context.now, &grant_request(ask))?;
    tickets::bound_of(model, ask)?;
    let ask = Ask { reason: good.reason, ..ask.clone() };
    let id = RequestId::from_bits(draw());
    let Analysed { analysis, expires, .. } = analyse(model, context.now, id, &requester, &ask, good.permissions)?;
    // Otherwise one window after the other, asked for at once, would be longer than policy lets any be, unseen by anybody.
    if analysis.verdict == Verdict::Grant && good.window.starts > context.now.saturating_add(MAX_LEAD) {
        let minutes = MAX_LEAD.as_secs() / 60;
        return Err(Refused::invalid(format!(
            "starts: what needs nobody's approval begins within {minutes} minutes; ask again when it is to begin"
        )));
    }
    let mut expires = context.now.saturating_add(expires.duration());
    if ask.starts.is_some() {
        // What is asked for a time that is over cannot be granted any more.
        expires = expires.min(good.window.ends);
    }
    let request = Request {
        id,
        requester,
        ask,
        key: key.map(str::to_owned),
        created: context.now,
        expires,
        state: State::Pending,
        analysis,
        approvals: Vec::new(),
        turn: None,
        escalated: Vec::new(),
        grants: Vec::new(),
        settled: None,
    };
    let plan = match request.analysis.verdict {
        Verdict::Refuse => refuse(request, context.now),
        // With whoever answers in another's place: they are told, too.
        Verdict::Approve if !model.delegations.is_empty() => {
            put("request.created", None, approve::analysed(model, context.now, &request)?, None)
        }
        Verdict::Approve => put("request.created", None, request, None),
        Verdict::Grant => settle(model, context, None, request, &mut draw)?,
    };
    Ok(plan.map(|request| Created::Request(Box::new(request))))
}

/// Grants a request whose analysis is of now and whose approvals are enough.
fn settle(
    model: &Model,
    context: &Context<'_>,
    approved: Option<(&Request, Option<&str>)>,
    mut request: Request,
    draw: &mut impl FnMut() -> u128,
) -> Result<Plan<Request>, Refused> {
    let mut asked = grant_request(&request.ask);
    if let Some(starts) = asked.starts.filter(|starts| *starts < context.now) {
        // What is granted late ends when it was to end.
        let ends = starts.saturating_add(asked.duration);
        (asked.starts, asked.duration) = (None, ends.saturating_since(context.now));
    }
    // Whoever asks may want it sooner, and never later.
    asked.limits.unused = [asked.limits.unused, request.analysis.unused].into_iter().flatten().min();
    let good = checked(model, context.now, &asked)?;
    let counting = request.approvals.iter().filter(|approval| approval.digest == request.analysis.digest);
    let origin = Origin {
        request: request.id,
        approvals: counting.map(|approval| approval.id).collect(),
        policy: request.analysis.policy,
        role: match &request.ask.access {
            Access::Role(role) => Some(role.clone()),
            Access::Resource(_) => None,
        },
        digest: request.analysis.digest.clone(),
    };
    let created_by = match &request.requester {
        Requester::Person(name) => name.clone(),
        Requester::Identity(name) => identity_author(name)?,
    };
    if origin.approvals.is_empty() {
        few_enough(model, &request.ask.identity, &created_by, good.permissions.len())?;
    }
    let lineage = Lineage {
        created: context.now,
        created_by,
        reason: request.ask.reason.clone(),
        ticket: request.ask.ticket.clone(),
        until: tickets::bound_of(model, &request.ask)?,
        origin: Some(Box::new(origin)),
        exception: None,
        break_glass: None,
    };
    let grants = grant::issue(&asked, good.permissions, good.window, &lineage, || GrantId::from_bits(draw()));
    request.state = State::Granted;
    request.grants = grants.answer.iter().map(|grant| grant.id).collect();
    let by = context.caller.to_string();
    let reason = if request.analysis.stages.is_empty() { "policy needs nobody" } else { "the approvals are complete" };
    request.settled = Some(Settled { at: context.now, by, reason: reason.to_owned() });
    let mut plan = match approved {
        Some((before, comment)) => put("request.approved", Some(before), request, comment),
        None => put("request.created", None, request, None),
    };
    let change = plan.changes.first().cloned();
    plan.events.extend(change.map(|change| ChangeEvent::of("request.granted", None, &change, Some(reason)).digested()));
    plan.changes.extend(grants.changes);
    plan.events.extend(grants.events);
    Ok(plan)
}

/// Denies a request: whoever may approve it, and who watches over all access.
///
/// # Errors
/// [`Refused::NotFound`] when it is not open, [`Refused::Denied`] for anybody else, [`Refused::Invalid`] without a reason.
pub fn plan_deny(model: &Model, context: &Context<'_>, id: RequestId, reason: &str) -> Result<Plan<Request>, Refused> {
    let before = open(model, context, id)?;
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    let Caller::Person(person) = context.caller else {
        return Err(Refused::Denied("people deny, and nobody in their place".to_owned()));
    };
    let watches = [PersonRole::Administrator, PersonRole::Security].iter().any(|role| person.roles.contains(role));
    // A no does not wait for a policy that can be evaluated.
    let may = watches
        || approval::is_named(model, before, &person.name)
        || again(model, context.now, before, &person.name).is_ok_and(|(_, rights)| !rights.is_empty());
    if !may {
        return Err(Refused::Denied(approve::not_eligible(&person.name, &before.analysis)));
    }
    Ok(close("request.denied", before, State::Denied, context, &reason))
}

/// Takes a request back: whoever made it or answers for the identity, and who watches over all access.
///
/// # Errors
/// [`Refused::NotFound`] when it is not open, [`Refused::Denied`] for anybody else, [`Refused::Invalid`] without a reason.
pub fn plan_cancel(
    model: &Model,
    context: &Context<'_>,
    id: RequestId,
    reason: &str,
) -> Result<Plan<Request>, Refused> {
    let before = open(model, context, id)?;
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    may_give_back(model, context, before)?;
    Ok(close("request.cancelled", before, State::Cancelled, context, &reason))
}

/// Gives back what was granted, before its time: whoever may take the request back. The answer: the grants that end.
///
/// # Errors
/// [`Refused::Denied`] for anybody else, [`Refused::Invalid`] without a reason.
pub fn plan_give_back(
    model: &Model,
    context: &Context<'_>,
    request: &Request,
    reason: &str,
) -> Result<Plan<Vec<Grant>>, Refused> {
    may_give_back(model, context, request)?;
    checked_reason(reason).map_err(Refused::invalid)?;
    let live = request.grants.iter().filter_map(|id| model.grants.get(id)).map(|kept| kept.value.as_ref());
    grant::plan_revoke_some(context, live, reason)
}

/// A request is whoever's who made it or answers for the identity, and of those who watch over all access.
fn may_give_back(model: &Model, context: &Context<'_>, request: &Request) -> Result<(), Refused> {
    let may = match context.caller {
        Caller::Person(person) => {
            let owner = model.identities.get(&request.ask.identity).map(|kept| &kept.value.spec.owner);
            request.requester == Requester::Person(person.name.clone())
                || owner.is_some_and(|owner| person.is_owner(owner))
                || [PersonRole::Administrator, PersonRole::Security].iter().any(|role| person.roles.contains(role))
        }
        Caller::Identity(name) => request.requester == Requester::Identity(name.clone()),
        Caller::System => true,
        Caller::Gateway(_) | Caller::Joining(..) | Caller::Attested(_) => false,
    };
    if may {
        return Ok(());
    }
    Err(Refused::Denied(format!("it is {}'s request: they can cancel it", request.requester)))
}

/// The end of a request whose identity may not act any more.
pub(super) fn cancelled(context: &Context<'_>, request: &Request, reason: &str) -> Plan<Request> {
    close("request.cancelled", request, State::Cancelled, context, reason)
}

/// Records the end of requests that nobody approved in time. The answer: whether there may be more.
pub fn plan_expiry(model: &Model, now: Timestamp) -> Plan<bool> {
    let mut plan = Plan { changes: Vec::new(), events: Vec::new(), audience: Default::default(), answer: false };
    let mut endings = Endings::default();
    for (expires, id) in &model.request_ends {
        if *expires > now {
            break;
        }
        let Some(kept) = model.requests.get(id) else { continue };
        let context = Context { caller: &Caller::System, now };
        let one = close("request.expired", &kept.value, State::Expired, &context, "nobody approved it in time");
        if !endings.take(&one.changes) {
            plan.answer = true;
            break;
        }
        plan.changes.extend(one.changes);
        plan.events.extend(one.events.into_iter().map(ChangeEvent::digested));
    }
    plan
}

fn open<'m>(model: &'m Model, context: &Context<'_>, id: RequestId) -> Result<&'m Request, Refused> {
    let none = || Refused::NotFound(format!("there is no open request {id}"));
    let request = model.requests.get(&id).map(|kept| kept.value.as_ref()).ok_or_else(none)?;
    if request.expires <= context.now {
        return Err(Refused::Conflict(format!("request {id} has expired")));
    }
    Ok(request)
}

/// Draws identifiers that nothing open or live has: another writer may have drawn the same, and what is there is never
/// put over. One of something that has ended is found by the store.
fn unused(model: &Model, mut draw: impl FnMut() -> u128) -> impl FnMut() -> u128 {
    move || {
        let mut drawn = draw();
        while model.requests.contains_key(&RequestId::from_bits(drawn))
            || model.settled.contains_key(&RequestId::from_bits(drawn))
            || model.grants.contains_key(&GrantId::from_bits(drawn))
        {
            drawn = draw();
        }
        drawn
    }
}

fn requester(caller: &Caller, ask: &Ask) -> Result<Requester, Refused> {
    match caller {
        Caller::Person(person) => Ok(Requester::Person(person.name.clone())),
        Caller::Identity(name) if *name == ask.identity => Ok(Requester::Identity(name.clone())),
        Caller::Identity(name) => {
            Err(Refused::Denied(format!("{name} asks for itself, with its own credential, and for nobody else")))
        }
        Caller::Gateway(_) | Caller::Joining(..) | Caller::Attested(_) | Caller::System => {
            Err(Refused::Denied("people and identities ask for access".to_owned()))
        }
    }
}

/// The same as grants are made from.
pub(super) fn grant_request(ask: &Ask) -> GrantRequest {
    GrantRequest {
        identity: ask.identity.clone(),
        access: match &ask.access {
            Access::Role(role) => grant::Access::Role(role.clone()),
            Access::Resource(it) => grant::Access::Actions(it.resource.clone(), it.actions.clone()),
        },
        starts: ask.starts,
        duration: ask.duration.duration(),
        limits: ask.limits.clone(),
        reason: ask.reason.clone(),
        ticket: ask.ticket.clone(),
        until: ask.until.clone(),
    }
}

/// What stands in the way, in words.
fn told(analysis: &Analysis) -> String {
    let findings = analysis.findings.iter().filter(|finding| finding.code != "sensitive");
    findings.map(|finding| finding.text.as_str()).collect::<Vec<_>>().join("; ")
}

fn refuse(mut request: Request, now: Timestamp) -> Plan<Request> {
    let reason = format!("policy: {}", told(&request.analysis));
    request.state = State::Denied;
    request.settled = Some(Settled { at: now, by: SYSTEM.to_owned(), reason: reason.clone() });
    put("request.refused", None, request, Some(&reason))
}

fn close(operation: &str, before: &Request, state: State, context: &Context<'_>, reason: &str) -> Plan<Request> {
    let settled = Settled { at: context.now, by: context.caller.to_string(), reason: reason.to_owned() };
    put(operation, Some(before), Request { state, settled: Some(settled), ..before.clone() }, Some(reason))
}

fn put(operation: &str, before: Option<&Request>, request: Request, reason: Option<&str>) -> Plan<Request> {
    let change = Change::Put(Record::Request(Box::new(request.clone())));
    let before = before.cloned().map(Box::new).map(Record::Request);
    let event = ChangeEvent::of(operation, before.as_ref(), &change, reason);
    // Gateways hear of it with the grants alone; but the order with what policy and catalog say is that of the stream.
    Plan { changes: vec![change], events: vec![event], audience: Default::default(), answer: request }
}

#[cfg(test)]
mod tests;
