//! How a change that waits ends: true by another's word, or not.

use super::super::authorize::Caller;
use super::super::grant::Endings;
use super::super::model::Model;
use super::super::plan::{ChangeEvent, Context, Plan, Refused, checked_reason};
use super::super::record::{Change, Person, Record};
use super::{MAX_SETTLED, SETTLED_KEPT, anew, put, who};
use crate::domain::Timestamp;
use crate::domain::change::{Proposal, ProposalState, Proposed};
use crate::domain::exception::Exception;
use crate::domain::name::{ApprovalId, ChangeId};
use crate::domain::request::{Approval, Settled};

/// Settled changes that are forgotten in one transaction.
const MAX_PRUNED: usize = 50;

/// Approves a change: `digest` is of what was seen. It comes true in the same plan.
///
/// # Errors
/// [`Refused::NotFound`] for one that is not there, [`Refused::Denied`] for its author and whoever may not,
/// [`Refused::Conflict`] when it is settled, or not what was seen any more. What it was made from having changed is no
/// error: the answer is a change that is stale.
pub fn plan_approve(
    model: &Model,
    context: &Context<'_>,
    id: ChangeId,
    digest: &str,
    comment: Option<&str>,
    mut draw: impl FnMut() -> u128,
) -> Result<Plan<Proposal>, Refused> {
    let before = open(model, context, id)?;
    let person = decider(context, "approve")?;
    let comment = comment.map(checked_reason).transpose().map_err(Refused::invalid)?;
    if !who::may_approve(model, before, &person.name) {
        return Err(Refused::Denied(not_eligible(model, person, before)));
    }
    let anew = match anew::unchanged(model, context.now, before) {
        Ok(anew) => anew,
        Err(why) => return Ok(close("change.stale", before, ProposalState::Stale, context, &why)),
    };
    if digest != anew.digest {
        return Err(Refused::Conflict(format!(
            "change {id} is not what was seen any more: look at it again (`portcullis change show {id}`)"
        )));
    }
    let approval = Approval {
        id: ApprovalId::from_bits(draw()),
        by: person.name.clone(),
        at: context.now,
        digest: digest.to_owned(),
        on_behalf_of: None,
        delegation: None,
        comment: comment.clone(),
    };
    let by = person.name.to_string();
    let applied = Proposal {
        state: ProposalState::Applied,
        effects: anew.effects,
        digest: anew.digest,
        approvals: vec![approval],
        version: anew.version,
        settled: Some(Settled { at: context.now, by, reason: "approved".to_owned() }),
        ..stripped(before)
    };
    let mut plan = put("change.approved", Some(before), applied, comment.as_deref());
    let change = plan.changes.first().cloned();
    plan.events.extend(change.map(|change| ChangeEvent::of("change.applied", None, &change, None).digested()));
    plan.events.extend(anew::led_to(anew.plan.events, before));
    let by_it = |change: Change| match change {
        Change::Put(Record::Exception(it)) => Change::Put(Record::Exception(Exception { change: Some(id), ..it })),
        other => other,
    };
    plan.changes.extend(anew.plan.changes.into_iter().map(by_it));
    Ok(plan)
}

/// Says no: whoever may approve it.
///
/// # Errors
/// As [`plan_approve`]; [`Refused::Invalid`] without a reason.
pub fn plan_deny(model: &Model, context: &Context<'_>, id: ChangeId, reason: &str) -> Result<Plan<Proposal>, Refused> {
    let before = open(model, context, id)?;
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    let person = decider(context, "deny")?;
    if !who::may_approve(model, before, &person.name) {
        return Err(Refused::Denied(not_eligible(model, person, before)));
    }
    Ok(close("change.denied", before, ProposalState::Denied, context, &reason))
}

/// Takes a change back: its author, and who watches over all of them.
///
/// # Errors
/// As [`plan_deny`].
pub fn plan_cancel(
    model: &Model,
    context: &Context<'_>,
    id: ChangeId,
    reason: &str,
) -> Result<Plan<Proposal>, Refused> {
    let before = open(model, context, id)?;
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    let person = decider(context, "cancel")?;
    if person.name != before.author && !who::watches(person) {
        return Err(Refused::Denied(format!("it is {}'s change: they can cancel it", before.author)));
    }
    Ok(close("change.cancelled", before, ProposalState::Cancelled, context, &reason))
}

/// Records the end of changes that nobody approved in time. The answer: whether there may be more.
pub fn plan_expiry(model: &Model, now: Timestamp) -> Plan<bool> {
    let mut plan = Plan { changes: Vec::new(), events: Vec::new(), audience: Default::default(), answer: false };
    let context = Context { caller: &Caller::System, now };
    let mut endings = Endings::default();
    let open = model.proposals.values().map(|kept| kept.value.as_ref()).filter(|it| it.is_open());
    for proposal in open.filter(|it| it.expires <= now) {
        let one = close("change.expired", proposal, ProposalState::Expired, &context, "nobody approved it in time");
        if !endings.take(&one.changes) {
            plan.answer = true;
            break;
        }
        plan.changes.extend(one.changes);
        plan.events.extend(one.events);
    }
    plan
}

/// Forgets settled changes that are old, and the oldest of too many. No evidence: it has told of their end. The answer:
/// whether there may be more.
pub fn plan_prune(model: &Model, now: Timestamp) -> Plan<bool> {
    let mut plan = Plan::nothing(false);
    let settled = || model.proposals.values().map(|kept| kept.value.as_ref()).filter(|it| !it.is_open());
    let mut over = settled().count().saturating_sub(MAX_SETTLED);
    for proposal in settled() {
        let old = proposal.settled.as_ref().is_none_or(|it| it.at.saturating_add(SETTLED_KEPT) <= now);
        if over == 0 && !old {
            continue;
        }
        if plan.changes.len() == MAX_PRUNED {
            plan.answer = true;
            break;
        }
        over = over.saturating_sub(1);
        plan.changes.push(Change::Delete(Record::Proposal(Box::new(proposal.clone()))));
    }
    plan
}

fn open<'m>(model: &'m Model, context: &Context<'_>, id: ChangeId) -> Result<&'m Proposal, Refused> {
    let none = || Refused::NotFound(format!("there is no change {id}"));
    let proposal = model.proposals.get(&id).map(|kept| kept.value.as_ref()).ok_or_else(none)?;
    if let Some(settled) = &proposal.settled {
        let (state, by, reason) = (proposal.state.as_str(), &settled.by, &settled.reason);
        return Err(Refused::Conflict(format!("change {id} is {state} already, by {by}: {reason}")));
    }
    if proposal.expires <= context.now {
        return Err(Refused::Conflict(format!("change {id} has expired")));
    }
    Ok(proposal)
}

fn decider<'c>(context: &Context<'c>, verb: &str) -> Result<&'c Person, Refused> {
    match context.caller {
        Caller::Person(person) => Ok(person),
        Caller::Gateway(_) | Caller::Joining(..) | Caller::Attested(_) | Caller::Identity(_) | Caller::System => {
            Err(Refused::Denied(format!("people {verb}, and nobody in their place")))
        }
    }
}

fn not_eligible(model: &Model, person: &Person, proposal: &Proposal) -> String {
    let (name, author) = (&person.name, &proposal.author);
    if name == author {
        return format!("{name} wants it, and may not decide it: it takes somebody else");
    }
    if model.are_one(name, author) {
        return format!("{name} is one person with {author}, who wants it: it takes somebody else");
    }
    format!("{name} may not decide it: it takes an administrator, security, or the owner of all that it touches")
}

fn close(
    operation: &str,
    before: &Proposal,
    state: ProposalState,
    context: &Context<'_>,
    reason: &str,
) -> Plan<Proposal> {
    let settled = Settled { at: context.now, by: context.caller.to_string(), reason: reason.to_owned() };
    let after = Proposal { state, settled: Some(settled), ..stripped(before) };
    put(operation, Some(before), after, Some(reason))
}

/// Without what would have been put in place: the evidence has it, and what came of it is there.
fn stripped(proposal: &Proposal) -> Proposal {
    let proposed = match &proposal.proposed {
        Proposed::Catalog { prune, end_grants, .. } => {
            Proposed::Catalog { documents: Vec::new(), prune: *prune, end_grants: *end_grants }
        }
        Proposed::Policy { over, .. } => Proposed::Policy { files: Vec::new(), over: *over },
    };
    Proposal { proposed, eligible: Vec::new(), interested: Vec::new(), ..proposal.clone() }
}
