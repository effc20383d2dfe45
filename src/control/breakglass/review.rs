//! How a break-glass ends: its access by the word of whoever it concerns, its review by that of another person.

use std::time::Duration;

use super::super::authorize::Caller;
use super::super::grant::{Endings, plan_revoke_some};
use super::super::model::{Kept, Model};
use super::super::plan::{Context, Plan, Refused, checked_reason};
use super::super::record::{Change, Person, Record};
use super::{put, who};
use crate::domain::Timestamp;
use crate::domain::breakglass::{BreakGlass, Review, ReviewVerdict};
use crate::domain::name::BreakGlassId;
use crate::domain::request::Settled;

/// How long one is kept in the store after its review, and how many. The evidence keeps them.
const REVIEWED_KEPT: Duration = Duration::from_secs(90 * 86_400);
/// The same by number.
const MAX_REVIEWED: usize = 1_000;
/// How many are forgotten in one transaction.
const MAX_PRUNED: usize = 50;

/// Closes the review with a verdict. What still lives of the access ends with it.
///
/// # Errors
/// [`Refused::NotFound`]; [`Refused::Denied`] for who opened it, has an interest, or does not answer for what was opened;
/// [`Refused::Conflict`] when it is closed already; [`Refused::Invalid`] without a comment.
pub fn plan_review(
    model: &Model,
    context: &Context<'_>,
    id: BreakGlassId,
    verdict: ReviewVerdict,
    comment: &str,
) -> Result<Plan<BreakGlass>, Refused> {
    let before = &found(model, id)?.value;
    let person = person(context, "review what was opened")?;
    let comment = checked_reason(comment).map_err(|fault| Refused::invalid(fault.replacen("reason", "comment", 1)))?;
    if !who::may_review(model, before, &person.name) {
        return Err(Refused::Denied(not_eligible(model, person, before)));
    }
    if let Some(review) = &before.review {
        return Err(Refused::Conflict(format!(
            "its review is closed already, by {}: {}, {}",
            review.by,
            review.verdict.as_str(),
            review.comment
        )));
    }
    let ending = format!("the review of break-glass {id} is closed: {}", verdict.as_str());
    let review = Review { at: context.now, by: person.name.clone(), verdict, comment: comment.clone() };
    let after = BreakGlass { review: Some(review), reviewers: Vec::new(), ..before.as_ref().clone() };
    let mut plan = put("breakglass.reviewed", Some(before), after, Some(&comment));
    end(model, context, before, &ending, &mut plan)?;
    Ok(plan)
}

/// Ends the access before its time: who opened it, whoever it concerns, and who watches over all access. The review stays.
///
/// # Errors
/// As [`plan_review`]; [`Refused::Conflict`] when nothing of it lives any more.
pub fn plan_close(
    model: &Model,
    context: &Context<'_>,
    id: BreakGlassId,
    reason: &str,
) -> Result<Plan<BreakGlass>, Refused> {
    let before = &found(model, id)?.value;
    let person = person(context, "close what was opened")?;
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    let may =
        model.are_one(&before.opener, &person.name) || who::is_concerned(model, before, person) || who::watches(person);
    if !may {
        return Err(Refused::Denied(format!("{} opened it, and it does not concern {}", before.opener, person.name)));
    }
    if !before.is_live(context.now) {
        return Err(Refused::Conflict(format!("nothing of break-glass {id} lives any more")));
    }
    let closed = Settled { at: context.now, by: person.name.to_string(), reason: reason.clone() };
    let after = BreakGlass { closed: Some(closed), ..before.as_ref().clone() };
    let mut plan = put("breakglass.closed", Some(before), after, Some(&reason));
    end(model, context, before, &reason, &mut plan)?;
    Ok(plan)
}

/// Records, once, that a review is overdue, a bounded number at once. The answer: whether there may be more.
pub fn plan_overdue(model: &Model, now: Timestamp) -> Plan<bool> {
    let mut plan = Plan { changes: Vec::new(), events: Vec::new(), audience: Default::default(), answer: false };
    let mut endings = Endings::default();
    let all = model.broken.values().map(|kept| kept.value.as_ref());
    for it in all.filter(|it| it.is_overdue(now) && !it.overdue_noted) {
        let after = BreakGlass { overdue_noted: true, reviewers: who::reviewers(model, it), ..it.clone() };
        let why = format!("nobody has closed its review by {}: {} breaks no glass until then", it.due, it.opener);
        let one = put("breakglass.overdue", Some(it), after, Some(&why));
        if !endings.take(&one.changes) {
            plan.answer = true;
            break;
        }
        plan.changes.extend(one.changes);
        plan.events.extend(one.events);
    }
    plan
}

/// Forgets those that were reviewed long ago, and the oldest of too many. No evidence: it has told of their end. The
/// answer: whether there may be more.
pub fn plan_prune(model: &Model, now: Timestamp) -> Plan<bool> {
    let mut plan = Plan::nothing(false);
    let reviewed =
        || model.broken.values().filter_map(|kept| kept.value.review.as_ref().map(|it| (it.at, &kept.value)));
    let mut over = reviewed().count().saturating_sub(MAX_REVIEWED);
    for (at, it) in reviewed() {
        if over == 0 && at.saturating_add(REVIEWED_KEPT) > now {
            continue;
        }
        if plan.changes.len() == MAX_PRUNED {
            plan.answer = true;
            break;
        }
        over = over.saturating_sub(1);
        plan.changes.push(Change::Delete(Record::BreakGlass(Box::new(it.as_ref().clone()))));
    }
    plan
}

/// What still lives of it ends.
fn end(
    model: &Model,
    context: &Context<'_>,
    it: &BreakGlass,
    reason: &str,
    plan: &mut Plan<BreakGlass>,
) -> Result<(), Refused> {
    let live = it.grants.iter().filter_map(|id| model.grants.get(id)).map(|kept| kept.value.as_ref());
    let ended = plan_revoke_some(context, live, reason)?;
    plan.changes.extend(ended.changes);
    plan.events.extend(ended.events);
    Ok(())
}

/// The one with an identifier.
///
/// # Errors
/// [`Refused::NotFound`].
pub(in super::super) fn found(model: &Model, id: BreakGlassId) -> Result<&Kept<BreakGlass>, Refused> {
    let none = || {
        Refused::NotFound(format!(
            "there is no break-glass {id}; of one that was reviewed long ago `portcullis evidence explain {id}` tells"
        ))
    };
    model.broken.get(&id).ok_or_else(none)
}

fn person<'c>(context: &Context<'c>, does: &str) -> Result<&'c Person, Refused> {
    match context.caller {
        Caller::Person(person) => Ok(person),
        Caller::Gateway(_) | Caller::Joining(..) | Caller::Attested(_) | Caller::Identity(_) | Caller::System => {
            Err(Refused::Denied(format!("people {does}, and nobody in their place")))
        }
    }
}

fn not_eligible(model: &Model, person: &Person, it: &BreakGlass) -> String {
    let name = &person.name;
    if model.are_one(&it.opener, name) {
        return format!("{name} opened it, and does not close its review: it takes another person");
    }
    format!(
        "{name} may not close its review: it takes an administrator, security, or the owner of all that it opened, and nobody \
         who answers for {}",
        it.ask.identity
    )
}
