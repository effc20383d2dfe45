//! Break-glass: access at once, without anybody's approval, for those whom policy names; short, loud, and reviewed.
//!
//! Planning only, over the model. It takes a person who proved lately who they are, an identity that may act and a resource
//! that does not stand still; it waits for nobody. The grants are as any others. What is opened here stays open as a review
//! until another person closes it (`review`): whoever lets that be overdue breaks no glass until it is done.

mod review;
mod who;

use std::time::Duration;

pub(super) use review::found;
pub use review::{plan_close, plan_overdue, plan_prune, plan_review};

use super::analyse;
use super::approval::Subject;
use super::authorize::Caller;
use super::grant::{self, Checked, checked};
use super::model::Model;
use super::plan::{ChangeEvent, Context, Plan, Refused};
use super::policy::{Answer, PolicySet};
use super::record::{Change, Person, Record};
use super::{request, tickets};
use crate::domain::Timestamp;
use crate::domain::breakglass::{BreakGlass, SignedIn};
use crate::domain::grant::{Grant, Lineage};
use crate::domain::halt::HaltScope;
use crate::domain::name::{BreakGlassId, GrantId};
use crate::domain::request::{Ask, Requester};
use crate::domain::resource::Span;
use crate::domain::role::Permission;
use crate::domain::root::Root;
use crate::settings::control::BreakGlassSettings;

/// Reviews of what one person opened that may be open at once.
const MAX_UNREVIEWED_EACH: usize = 3;
/// Times that one person may break glass within a day.
const MAX_A_DAY_EACH: usize = 5;
/// Reviews that may be open at once, whoever opened them.
const MAX_UNREVIEWED: usize = 1_000;
/// What of one role can be had this way: with their end they fit one transaction.
const MAX_PERMISSIONS: usize = 50;
/// How far a provider's clock may be ahead.
const LEEWAY: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_secs(86_400);

/// Opens: the grants are made in the same plan. Without a duration (zero) it is for as long as it may be.
///
/// # Errors
/// [`Refused::Denied`] for whoever is no person, has not signed in lately, lets a review be overdue, or whom policy does not
/// name; [`Refused::Conflict`] past a halt, for an identity that may not act, and for what they have opened already;
/// [`Refused::TooMuch`] past its limits; [`Refused::Unfit`] without a policy, or when nobody could review it; for the rest
/// as [`grant::plan_create`].
pub fn plan_open(
    model: &Model,
    context: &Context<'_>,
    ask: &Ask,
    bounds: &BreakGlassSettings,
    mut draw: impl FnMut() -> u128,
) -> Result<Plan<BreakGlass>, Refused> {
    let now = context.now;
    let Caller::Person(person) = context.caller else {
        return Err(Refused::Denied("people break glass, and nobody in their place".to_owned()));
    };
    let signed_in = proven(person, now, bounds.recent)?;
    few_enough(model, person, now)?;
    let who = Breaker { person, signed_in, at: now };
    let allowed = allowed(model, who, ask, bounds)?;

    let mut id = BreakGlassId::from_bits(draw());
    while model.broken.contains_key(&id) {
        id = BreakGlassId::from_bits(draw());
    }
    let lineage = Lineage {
        created: now,
        created_by: person.name.clone(),
        reason: allowed.ask.reason.clone(),
        ticket: allowed.ask.ticket.clone(),
        until: tickets::bound_of(model, &allowed.ask)?,
        origin: None,
        exception: None,
        break_glass: Some(id),
    };
    let (asked, permissions) = (request::grant_request(&allowed.ask), allowed.good.permissions.clone());
    let grants = grant::issue(&asked, permissions, allowed.good.window, &lineage, || unused(model, &mut draw));
    let opened = recorded(model, who, id, allowed, &grants.answer, bounds.review)?;
    let reason = opened.ask.reason.clone();
    let mut plan = put("breakglass.opened", None, opened, Some(&reason));
    plan.changes.extend(grants.changes);
    plan.events.extend(grants.events);
    Ok(plan)
}

/// Who breaks glass, how they had proved who they are, and when.
#[derive(Clone, Copy)]
struct Breaker<'a> {
    person: &'a Person,
    signed_in: &'a SignedIn,
    at: Timestamp,
}

/// What may be opened, and what policy says of it.
struct Allowed {
    ask: Ask,
    good: Checked,
    answer: Answer,
    longest: Span,
}

/// What somebody opens, once nothing stands in its way.
fn allowed(model: &Model, who: Breaker<'_>, ask: &Ask, bounds: &BreakGlassSettings) -> Result<Allowed, Refused> {
    let set = analyse::readable(analyse::in_force(model)?)?;
    let most = Span::new(bounds.longest.min(set.longest_request().map_or(Duration::MAX, |it| it.duration())));
    let is_said = !ask.duration.duration().is_zero();
    let ask = Ask { starts: None, duration: if is_said { ask.duration } else { most }, ..ask.clone() };
    let good = checked(model, who.at, &request::grant_request(&ask))?;
    tickets::bound_of(model, &ask)?;
    let ask = Ask { reason: good.reason.clone(), ..ask };
    if good.permissions.len() > MAX_PERMISSIONS {
        return Err(Refused::TooMuch(format!("it would open {} resources: name one", good.permissions.len())));
    }
    opened_already(model, who.person, &ask, &good.permissions, who.at)?;
    nothing_halted(model, &good.permissions, who.signed_in)?;
    let (ask, answer, longest) = decided(model, set, who, &ask, &good.permissions, (most, is_said))?;
    let good = checked(model, who.at, &request::grant_request(&ask))?;
    Ok(Allowed { ask, good, answer, longest })
}

/// What is kept of it, with whoever can review it.
fn recorded(
    model: &Model,
    who: Breaker<'_>,
    id: BreakGlassId,
    allowed: Allowed,
    grants: &[Grant],
    review: Duration,
) -> Result<BreakGlass, Refused> {
    let Allowed { ask, good: Checked { permissions, window, .. }, answer, longest } = allowed;
    let answering = who::answering(model, &ask.identity, &permissions);
    let (concerned, concerned_besides) = who::concerned(model, &answering, &who.person.name);
    let opened = BreakGlass {
        id,
        opener: who.person.name.clone(),
        signed_in: who.signed_in.clone(),
        identity_owner: who::identity_owner(model, &ask.identity)?,
        answering,
        concerned,
        concerned_besides,
        ask,
        permissions,
        grants: grants.iter().map(|grant| grant.id).collect(),
        opened: who.at,
        ends: window.ends,
        closed: None,
        longest,
        policy: model.policy.as_ref().map_or(0, |policy| policy.record.version),
        rules: answer.rules.into_iter().collect(),
        findings: answer.findings,
        due: window.ends.max(who.at.saturating_add(review)),
        overdue_noted: false,
        reviewers: Vec::new(),
        review: None,
    };
    let opened = BreakGlass { reviewers: who::reviewers(model, &opened), ..opened };
    if opened.reviewers.is_empty() {
        return Err(Refused::Unfit(vec![format!(
            "nobody could review it: it takes an administrator, somebody of security, or whoever answers for all that it opens, \
             and neither {} nor who answers for {}",
            opened.opener, opened.ask.identity
        )]));
    }
    Ok(opened)
}

/// That somebody proved lately who they are. A token of this control plane's own does not say when, nor does a certificate.
fn proven(person: &Person, now: Timestamp, recent: Duration) -> Result<&SignedIn, Refused> {
    let how = "prove who you are anew: `portcullis login --fresh`";
    let Some(signed_in) = person.signed_in.as_deref() else {
        return Err(Refused::Denied(format!(
            "nothing says when {} proved who they are: it takes an ID token with `auth_time`, of where people sign in \
             (`sign_in` of the control plane's settings); {how}",
            person.name
        )));
    };
    if signed_in.at > now.saturating_add(LEEWAY) {
        return Err(Refused::Denied(format!("`auth_time` says {}, which is in the future; {how}", signed_in.at)));
    }
    let age = now.saturating_since(signed_in.at);
    if age > recent {
        return Err(Refused::Denied(format!(
            "{} signed in {}s ago, and it takes at most {}; {how}",
            person.name,
            age.as_secs(),
            Span::new(recent)
        )));
    }
    Ok(signed_in)
}

/// What somebody has opened before lets them open more.
fn few_enough(model: &Model, person: &Person, now: Timestamp) -> Result<(), Refused> {
    let all = || model.broken.values().map(|kept| kept.value.as_ref());
    let own = || all().filter(|it| model.are_one(&it.opener, &person.name));
    if let Some(overdue) = own().find(|it| it.is_overdue(now)) {
        return Err(Refused::Denied(format!(
            "the review of break-glass {} was due {}: another person closes it first (`portcullis breakglass review {}`)",
            overdue.id, overdue.due, overdue.id
        )));
    }
    let open = own().filter(|it| it.is_unreviewed()).count();
    if open >= MAX_UNREVIEWED_EACH {
        return Err(Refused::TooMuch(format!(
            "{open} reviews of what {} opened are open: have one closed",
            person.name
        )));
    }
    let today = own().filter(|it| now.saturating_since(it.opened) < DAY).count();
    if today >= MAX_A_DAY_EACH {
        return Err(Refused::TooMuch(format!("{} has broken glass {today} times within a day", person.name)));
    }
    if all().filter(|it| it.is_unreviewed()).count() >= MAX_UNREVIEWED {
        return Err(Refused::TooMuch(format!("{MAX_UNREVIEWED} reviews are open: have some closed")));
    }
    Ok(())
}

/// Once is enough: while it lives, the same is not opened for the same identity again, so that nobody prolongs it.
fn opened_already(
    model: &Model,
    person: &Person,
    ask: &Ask,
    permissions: &[Permission],
    now: Timestamp,
) -> Result<(), Refused> {
    let shares = |one: &Permission, other: &Permission| {
        one.resource == other.resource && one.actions.iter().any(|action| other.actions.contains(action))
    };
    let same = |it: &&BreakGlass| {
        let overlaps = it.permissions.iter().any(|one| permissions.iter().any(|other| shares(one, other)));
        it.is_live(now) && it.ask.identity == ask.identity && overlaps && model.are_one(&it.opener, &person.name)
    };
    match model.broken.values().map(|kept| kept.value.as_ref()).find(same) {
        Some(known) => {
            Err(Refused::Conflict(format!("break-glass {} is open already, until {}", known.id, known.ends)))
        }
        None => Ok(()),
    }
}

/// An emergency is no way past a halt: whoever halted it lets it go on.
fn nothing_halted(model: &Model, permissions: &[Permission], signed_in: &SignedIn) -> Result<(), Refused> {
    let resources = permissions.iter().map(|permission| HaltScope::Resource(permission.resource.clone()));
    let kids = [None, signed_in.kid.as_deref()].map(|kid| kid.map(std::sync::Arc::from));
    let vouched = kids.map(|kid| HaltScope::Credential(Root::Issuer { issuer: signed_in.issuer.as_str().into(), kid }));
    let mut scopes = std::iter::once(HaltScope::All).chain(vouched).chain(resources);
    match scopes.find_map(|scope| model.halts.get(&scope)) {
        Some(halt) => Err(Refused::Conflict(format!(
            "`{}` is halted by {}: {}; an administrator lets it go on (`portcullis fleet resume`)",
            halt.value.scope, halt.value.by, halt.value.reason
        ))),
        None => Ok(()),
    }
}

/// What policy says of it, for how long it then is, and the longest that it may be. What nobody said a duration for is as
/// long as it may be.
fn decided(
    model: &Model,
    set: &PolicySet,
    who: Breaker<'_>,
    ask: &Ask,
    permissions: &[Permission],
    (most, is_said): (Span, bool),
) -> Result<(Ask, Answer, Span), Refused> {
    let answer = asked(model, set, who, ask, permissions, None)?;
    let longest = answer.longest.map_or(most, |longest| longest.min(most));
    let ask = Ask { duration: if is_said { ask.duration } else { longest }, ..ask.clone() };
    let answer = if is_said { answer } else { asked(model, set, who, &ask, permissions, None)? };
    if !answer.allows {
        let told: Vec<&str> =
            answer.findings.iter().filter(|it| it.code != "sensitive").map(|finding| finding.text.as_str()).collect();
        return Err(Refused::Denied(format!(
            "policy does not let {} break glass for it: {}",
            who.person.name,
            told.join("; ")
        )));
    }
    if ask.duration > longest {
        return Err(Refused::Denied(format!(
            "{} is longer than the {longest} that break-glass may be for",
            ask.duration
        )));
    }
    Ok((ask, answer, longest))
}

/// What policy says of it; of access that lives, by what is true at `live`: now, and when it was given.
fn asked(
    model: &Model,
    set: &PolicySet,
    who: Breaker<'_>,
    ask: &Ask,
    permissions: &[Permission],
    live: Option<(Timestamp, Timestamp)>,
) -> Result<Answer, Refused> {
    let requester = Requester::Person(who.person.name.clone());
    let mut together = analyse::together(model, &who::identity_owner(model, &ask.identity)?);
    together.extend(permissions.iter().flat_map(analyse::spelled));
    let now = live.map_or(who.at, |(now, _)| now);
    let subject = Subject::new(model, now, set, (&requester, ask), permissions, &together);
    let subject = match live {
        Some((_, given)) => subject.begun(who.at, given),
        None => subject,
    };
    subject.emergency(&analyse::actor_of(model, &requester), who.signed_in, who.at)
}

/// Why the policy in force would not let a live grant of a break-glass be any more. `None`: it would, or nothing is known.
pub(super) fn denied_by(model: &Model, now: Timestamp, set: &PolicySet, grant: &Grant) -> Option<String> {
    let opened = &model.broken.get(&grant.lineage.break_glass?)?.value;
    let person = match model.people.get(&opened.opener) {
        Some(kept) => kept.value.as_ref().clone(),
        None => super::sign_in::developer(&opened.opener),
    };
    let permission = [Permission { resource: grant.resource.clone(), actions: grant.actions.clone() }];
    // Whoever opened it had proved who they are by then: time alone takes nothing from it. Leave from a rule that is over
    // by now is none.
    let who = Breaker { person: &person, signed_in: &opened.signed_in, at: opened.opened };
    match asked(model, set, who, &opened.ask, &permission, Some((now, grant.lineage.created))) {
        Ok(answer) if answer.allows => None,
        Ok(answer) => Some(answer.findings.iter().map(|it| it.text.as_str()).collect::<Vec<_>>().join("; ")),
        Err(error) => Some(error.to_string()),
    }
}

/// A break-glass as it is now: who could close its review.
pub fn seen(model: &Model, it: &BreakGlass) -> BreakGlass {
    match it.is_unreviewed() {
        true => BreakGlass { reviewers: who::reviewers(model, it), ..it.clone() },
        false => it.clone(),
    }
}

fn unused(model: &Model, draw: &mut impl FnMut() -> u128) -> GrantId {
    let mut id = GrantId::from_bits(draw());
    while model.grants.contains_key(&id) {
        id = GrantId::from_bits(draw());
    }
    id
}

fn put(operation: &str, before: Option<&BreakGlass>, it: BreakGlass, reason: Option<&str>) -> Plan<BreakGlass> {
    let change = Change::Put(Record::BreakGlass(Box::new(it.clone())));
    let before = before.cloned().map(Box::new).map(Record::BreakGlass);
    let event = ChangeEvent::of(operation, before.as_ref(), &change, reason);
    // Gateways hear of the grants alone; but the order with what policy and catalog say is that of the stream.
    Plan { changes: vec![change], events: vec![event], audience: Default::default(), answer: it }
}

#[cfg(test)]
mod tests;
