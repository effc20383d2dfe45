//! Grants that end with something of another system: a ticket, an incident, a change, a deployment, a job.
//!
//! What a source says of a ticket is kept with the time that the *source* gives it, which its signature covers: what is
//! older than what is known says nothing new, so that no webhook that is sent again undoes what came after it. A ticket
//! that closes ends in one plan what is bound to it; what one transaction does not hold is owed, and ends in the next ones,
//! after a crash too.

mod desk;
mod pace;
mod read;
mod webhook;

use std::collections::BTreeSet;
use std::time::Duration;

pub(super) use desk::{Desk, Fault, Taken};

use super::grant::{Endings, plan_revoke_some};
use super::model::Model;
use super::plan::{Audience, ChangeEvent, Context, Plan, Refused};
use super::record::{Change, Record, TicketRecord};
use super::request;
use crate::domain::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::name::TicketSourceName;
use crate::domain::request::{Ask, Request};
use crate::domain::ticket::{MAX_UNTIL, Ticket};

/// How far ahead of ours a source's clock may be.
const MAX_AHEAD: Duration = Duration::from_secs(300);
/// How old what a source says may be: the longest that one of them tries to deliver a webhook, or offers to do it again.
const MAX_AGE: Duration = Duration::from_secs(3 * 86_400);
/// How long a closed ticket is remembered. Longer than [`MAX_AGE`]: nothing that was said before is taken once it is
/// forgotten.
const KEPT: Duration = Duration::from_secs(30 * 86_400);
/// Tickets that are remembered; past them the oldest is forgotten before its time.
const MAX_TICKETS: usize = 20_000;
/// Tickets of one source that are remembered: past them the oldest of its own that nothing waits on goes for the next one, in
/// one transaction. So a source that tells of all that it has makes no other's be forgotten.
const MAX_EACH: usize = 2_000;
/// Of them, how many are forgotten in one transaction.
const MAX_FORGOTTEN: usize = 100;

/// What access ends with: the ticket that it belongs to, where that is one of a source, and what else was said.
///
/// # Errors
/// [`Refused::NotFound`] for a source that is not there, [`Refused::Invalid`] for a key that its shape does not have or too
/// many of them, [`Refused::Conflict`] for a ticket that is closed.
pub(super) fn bound_to(model: &Model, ticket: Option<&str>, until: &[Ticket]) -> Result<Vec<Ticket>, Refused> {
    let mut found: Vec<Ticket> = Vec::new();
    let named = ticket.map(|text| of_source(model, text)).transpose()?.flatten();
    for ticket in named.into_iter().chain(until.iter().cloned()) {
        let Some(source) = model.ticket_sources.get(&ticket.source) else {
            return Err(Refused::NotFound(format!("there is no ticket source {}", ticket.source)));
        };
        let shape = source.value.spec.shape;
        let ticket = ticket.of(shape);
        if !ticket.is_of(shape) {
            return Err(Refused::invalid(format!("{ticket}: {}", shape.keys())));
        }
        if let Some(known) = model.tickets.closed(&ticket) {
            let since = known.since;
            return Err(Refused::Conflict(format!("{ticket} is closed since {since}: access would end with it")));
        }
        if !found.contains(&ticket) {
            found.push(ticket);
        }
    }
    if found.len() > MAX_UNTIL {
        return Err(Refused::invalid(format!("until: at most {MAX_UNTIL} tickets")));
    }
    Ok(found)
}

/// The ticket of a source that a text names. A number, a link or the like is nobody's; where there are sources, a slip of
/// the pen in one's name is told, and not taken for such.
fn of_source(model: &Model, text: &str) -> Result<Option<Ticket>, Refused> {
    let Some((source, key)) = text.split_once(':') else { return Ok(None) };
    let Ok(source) = source.parse::<TicketSourceName>() else { return Ok(None) };
    if key.starts_with("//") || model.ticket_sources.is_empty() {
        return Ok(None);
    }
    Ticket::new(source, key).map(Some).map_err(|error| Refused::invalid(format!("ticket: {error}")))
}

/// What an ask would end with, as [`bound_to`] has it.
pub(super) fn bound_of(model: &Model, ask: &Ask) -> Result<Vec<Ticket>, Refused> {
    bound_to(model, ask.ticket.as_deref(), &ask.until)
}

/// What a source says of a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Which.
    pub(super) ticket: Ticket,
    /// Whether it is closed.
    pub(super) closed: bool,
    /// Since when, by the source's clock.
    pub(super) since: Timestamp,
    /// How we know, in words.
    pub(super) by: String,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The ticket is closed now. Everything that was bound to it: what the transaction does not hold ends after it.
    Closed(Vec<Grant>),
    /// It is open again. What ended stays ended.
    Reopened,
    /// It says what is known.
    Known,
    /// It says that a ticket is open of which nothing else was ever heard.
    Ignored,
}

/// Takes in what a source says.
///
/// # Errors
/// [`Refused::Conflict`] for what is older than what is known, or too old to be new; [`Refused::Invalid`] for what is of the
/// future.
pub(super) fn plan_heard(model: &Model, context: &Context<'_>, said: &Said) -> Result<Plan<Heard>, Refused> {
    let Said { ticket, closed, since, by } = said;
    if *since > context.now.saturating_add(MAX_AHEAD) {
        return Err(Refused::invalid(format!("{ticket}: {since} is ahead of this clock")));
    }
    if since.saturating_add(MAX_AGE) < context.now {
        return Err(Refused::Conflict(format!("{ticket}: {since} is too long ago to be new")));
    }
    let before = model.tickets.get(ticket).map(|kept| kept.value.as_ref().clone());
    match &before {
        None if !closed => return Ok(Plan::nothing(Heard::Ignored)),
        // What its closing ends would live on.
        Some(_) if !closed && model.tickets.owed().contains(ticket) => {
            return Err(Refused::Conflict(format!("{ticket}: what was bound to it is being ended; say so again")));
        }
        Some(known) if *since < known.since => {
            let known = known.since;
            return Err(Refused::Conflict(format!("{ticket}: {since} is before {known}, of which we have heard")));
        }
        // Of two things that were said in one instant, that it is closed stands.
        Some(known) if *since == known.since && (known.closed || !closed) => return Ok(Plan::nothing(Heard::Known)),
        None | Some(_) => {}
    }
    let heard = context.now;
    let record = TicketRecord { ticket: ticket.clone(), closed: *closed, since: *since, heard, by: by.clone() };
    let change = Change::Put(Record::Ticket(record));
    let mut plan = Plan { changes: Vec::new(), events: Vec::new(), audience: Audience::Control, answer: Heard::Known };
    if before.as_ref().is_some_and(|known| known.closed == *closed) {
        // Nothing new but the time, before which nothing is taken any more.
        plan.changes.push(change);
        return Ok(plan);
    }
    let operation = if *closed { "ticket.closed" } else { "ticket.reopened" };
    let known = before.clone().map(Record::Ticket);
    plan.events.push(ChangeEvent::of(operation, known.as_ref(), &change, Some(by)));
    plan.changes.push(change);
    if before.is_none() {
        plan.changes.extend(room_for(model, ticket));
    }
    if !closed {
        plan.answer = Heard::Reopened;
        return Ok(plan);
    }
    // In the order of the stream: another writer makes no grant on what it has not heard of.
    plan.audience = Audience::Gateways;
    let live = || model.tickets.bound(ticket).filter_map(|id| model.grants.get(id)).map(|kept| kept.value.as_ref());
    let ended = plan_revoke_some(context, live(), &why(ticket, by))?;
    let all = live().cloned().collect();
    Ok(plan.and(ended).map(|_| Heard::Closed(all)))
}

/// What is forgotten of a source so that another of its tickets can be remembered.
fn room_for(model: &Model, ticket: &Ticket) -> Option<Change> {
    let known = model.tickets.of_source(&ticket.source);
    if known.len() < MAX_EACH {
        return None;
    }
    let asked = asked_with(model);
    let is_idle =
        |it: &&Ticket| !model.tickets.owed().contains(*it) && !model.tickets.is_awaited(it) && !asked.contains(*it);
    let oldest = known.iter().map(|(_, it)| it).find(is_idle)?;
    let record = model.tickets.get(oldest)?.value.as_ref().clone();
    Some(Change::Delete(Record::Ticket(record)))
}

fn why(ticket: &Ticket, by: &str) -> String {
    format!("{ticket} was closed: {by}")
}

/// Ends what is still bound to closed tickets, a bounded number at once. The answer: whether there may be more.
pub(super) fn plan_owed(model: &Model, now: Timestamp) -> Plan<bool> {
    let Some(ticket) = model.tickets.owed().get_min() else { return Plan::nothing(false) };
    let context = Context { caller: &super::authorize::Caller::System, now };
    let by = model.tickets.get(ticket).map(|kept| kept.value.by.clone()).unwrap_or_default();
    let live = model.tickets.bound(ticket).filter_map(|id| model.grants.get(id)).map(|kept| kept.value.as_ref());
    let planned = plan_revoke_some(&context, live, &why(ticket, &by));
    planned.map_or_else(|_| Plan::nothing(false), |plan| plan.map(|ended| !ended.is_empty()))
}

/// Takes back the requests that wait for approval and would end with a closed ticket, a bounded number at once. The
/// answer: how many.
pub(super) fn plan_cancel_waiting(
    model: &Model,
    context: &Context<'_>,
    ticket: &Ticket,
) -> Result<Plan<usize>, Refused> {
    let mut plan = Plan { changes: Vec::new(), events: Vec::new(), audience: Audience::Gateways, answer: 0 };
    let Some(known) = model.tickets.closed(ticket) else { return Ok(plan) };
    let mut endings = Endings::default();
    for request in model.requests.values().map(|kept| kept.value.as_ref()).filter(|it| waits_for(model, it, ticket)) {
        let one = request::cancelled(context, request, &why(ticket, &known.by));
        if !endings.take(&one.changes) {
            break;
        }
        plan.changes.extend(one.changes);
        plan.events.extend(one.events);
        plan.answer += 1;
    }
    Ok(plan)
}

/// Whether a request would end with a ticket of a source.
pub(super) fn is_of_source(request: &Request, source: &TicketSourceName) -> bool {
    let named = request.ask.ticket.as_deref().and_then(|text| text.parse::<Ticket>().ok());
    named.into_iter().chain(request.ask.until.iter().cloned()).any(|it| it.source == *source)
}

/// Whether somebody waits to hear of a ticket: a live grant, or a request.
pub(super) fn is_awaited(model: &Model, ticket: &Ticket) -> bool {
    model.tickets.is_awaited(ticket) || model.requests.values().any(|kept| waits_for(model, &kept.value, ticket))
}

fn waits_for(model: &Model, request: &Request, ticket: &Ticket) -> bool {
    tickets_of(model, request).any(|it| it == *ticket)
}

/// What a request would end with.
fn tickets_of(model: &Model, request: &Request) -> impl Iterator<Item = Ticket> {
    let named = request.ask.ticket.as_deref().and_then(|text| text.parse::<Ticket>().ok());
    let all = named.into_iter().chain(request.ask.until.iter().cloned());
    all.filter_map(|it| {
        let shape = model.ticket_sources.get(&it.source)?.value.spec.shape;
        Some(it.of(shape))
    })
}

/// What open requests would end with. While one of them is open it is known that such a ticket is closed: access would be
/// given otherwise that nothing ends.
fn asked_with(model: &Model) -> BTreeSet<Ticket> {
    model.requests.values().flat_map(|kept| tickets_of(model, &kept.value)).collect()
}

/// Forgets tickets of which nothing can be heard again that was said before, those of sources that are no more, and the oldest
/// of too many. No evidence: it has told of them. The answer: whether there may be more.
pub(super) fn plan_forget(model: &Model, now: Timestamp) -> Plan<bool> {
    let mut plan = Plan::nothing(false);
    for ticket in model.tickets.gone(&model.ticket_sources) {
        if plan.changes.len() == MAX_FORGOTTEN {
            plan.answer = true;
            return plan;
        }
        let known = model.tickets.get(ticket).filter(|_| !model.tickets.owed().contains(ticket));
        plan.changes.extend(known.map(|kept| Change::Delete(Record::Ticket(kept.value.as_ref().clone()))));
    }
    if !plan.is_empty() {
        // The rest of it looks at what is left.
        plan.answer = true;
        return plan;
    }
    let mut over = model.tickets.len().saturating_sub(MAX_TICKETS);
    let mut asked = None;
    for (heard, ticket) in model.tickets.ages() {
        if over == 0 && heard.saturating_add(KEPT) > now {
            break;
        }
        if asked.get_or_insert_with(|| asked_with(model)).contains(ticket) {
            continue;
        }
        if plan.changes.len() == MAX_FORGOTTEN {
            plan.answer = true;
            break;
        }
        over = over.saturating_sub(1);
        let known = model.tickets.get(ticket).filter(|_| !model.tickets.owed().contains(ticket));
        plan.changes.extend(known.map(|kept| Change::Delete(Record::Ticket(kept.value.as_ref().clone()))));
    }
    plan
}

#[cfg(test)]
mod tests;
