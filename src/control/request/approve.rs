//! Saying yes to a request: by whose right, in whose turn, and whether it is enough.

use std::collections::BTreeSet;

use super::super::analyse::{self, Analysed, analyse};
use super::super::approval::{self, Progress, Right, Subject};
use super::super::authorize::Caller;
use super::super::grant;
use super::super::model::Model;
use super::super::plan::{Context, Plan, Refused, checked_reason};
use super::super::tickets;
use super::{grant_request, open, put, settle, told, unused};
use crate::domain::Timestamp;
use crate::domain::name::{ApprovalId, OwnerName, RequestId};
use crate::domain::request::{Analysis, Approval, Request, Stage, Turn, Verdict, in_words};

/// Approvals that one request takes.
pub(super) const MAX_APPROVALS: usize = 100;

/// Somebody's yes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Yes {
    /// The digest of the analysis that was seen.
    pub digest: String,
    /// In whose place it is given; without one by one's own right, or else by the one that there is.
    pub on_behalf_of: Option<OwnerName>,
    /// What there is to say about it.
    pub comment: Option<String>,
}

/// Approves a request. The last approval that it takes makes the grants.
///
/// # Errors
/// [`Refused::NotFound`] when it is not open, [`Refused::Denied`] for somebody whose word does not count,
/// [`Refused::Conflict`] when it is not what was seen any more, or not their turn yet.
pub fn plan_approve(
    model: &Model,
    context: &Context<'_>,
    id: RequestId,
    yes: &Yes,
    draw: impl FnMut() -> u128,
) -> Result<Plan<Request>, Refused> {
    let mut draw = unused(model, draw);
    let before = open(model, context, id)?;
    // Nobody says yes to what would be over as it began.
    tickets::bound_of(model, &before.ask)?;
    let comment = yes.comment.as_deref().map(checked_reason).transpose().map_err(Refused::invalid)?;
    let Caller::Person(person) = context.caller else {
        return Err(Refused::Denied("people approve, and nobody in their place".to_owned()));
    };
    // INVARIANT: nobody approves their own request, whatever policy says by now and under whatever name.
    if approval::is_requester(model, &before.requester, &person.name) {
        return Err(Refused::Denied(not_eligible(&person.name, &before.analysis)));
    }
    let (now, rights) = again(model, context.now, before, &person.name)?;
    // Where nobody's word is needed by now, or none would help, those may whom it took when it was made.
    let may = match now.analysis.verdict {
        Verdict::Approve => !rights.is_empty(),
        Verdict::Grant | Verdict::Refuse => approval::is_named(model, before, &person.name),
    };
    if !may {
        return Err(Refused::Denied(not_eligible(&person.name, &before.analysis)));
    }
    if now.analysis.verdict == Verdict::Refuse {
        // It may be otherwise by the time that somebody approves again; whoever knows that it will not be denies it.
        let why = told(&now.analysis);
        return Err(Refused::Conflict(format!("policy would refuse it as of now, so it waits on: {why}")));
    }
    if yes.digest != now.analysis.digest {
        return Err(Refused::Conflict(format!(
            "request {id} is not what was seen any more: look at it again (`portcullis request show {id}`)"
        )));
    }
    let mut request = Request { analysis: now.analysis, ..before.clone() };
    let so_far = progressed(model, context.now, &request, &now.together)?;
    let right = right(&request, &so_far, &rights, &person.name, yes.on_behalf_of.as_ref());
    if is_given(&request, &so_far, &rights, &person.name, yes, right.as_ref().ok()) {
        // Others may have become those whose word counts.
        return match so_far.open {
            None => settle(model, context, Some((before, comment.as_deref())), request, &mut draw),
            Some(_) => Ok(Plan::nothing(before.clone())),
        };
    }
    let (on_behalf_of, delegation) = right?.on_behalf_of.unzip();
    if request.approvals.len() >= MAX_APPROVALS {
        return Err(Refused::TooMuch(format!("{MAX_APPROVALS} approvals are given already")));
    }
    request.approvals.push(Approval {
        id: ApprovalId::from_bits(draw()),
        by: person.name.clone(),
        at: context.now,
        digest: yes.digest.clone(),
        on_behalf_of,
        delegation,
        comment: comment.clone(),
    });
    let by_now = progressed(model, context.now, &request, &now.together)?;
    match by_now.open {
        None => settle(model, context, Some((before, comment.as_deref())), request, &mut draw),
        Some(_) => {
            request.turn = turn(before, &request.analysis.stages, &by_now, context.now);
            Ok(put("request.approved", Some(before), request, comment.as_deref()))
        }
    }
}

/// Whether somebody has said yes already by a right that they have now: the one that they approve by, or any where they would
/// approve by none. What they said in another's place by a delegation that is over is neither their own word nor one by a
/// later delegation.
fn is_given(
    request: &Request,
    so_far: &Progress,
    rights: &[Right],
    name: &OwnerName,
    yes: &Yes,
    by: Option<&Right>,
) -> bool {
    let is_by = |it: &Approval, right: &Right| {
        let place = right.on_behalf_of.as_ref();
        (it.on_behalf_of.as_ref(), it.delegation) == (place.map(|(from, _)| from), place.map(|(_, id)| *id))
    };
    let is_wanted = |it: &Approval| yes.on_behalf_of.is_none() || it.on_behalf_of == yes.on_behalf_of;
    // One from before the stages were open that are open now counts for none of them.
    let mut said =
        request.approvals.iter().filter(|it| it.by == *name && it.digest == yes.digest && it.at >= so_far.since);
    said.any(|it| match by {
        Some(right) => is_by(it, right),
        None => is_wanted(it) && rights.iter().any(|right| is_by(it, right)),
    })
}

/// The right that somebody approves by: one that counts now, their own before another's.
fn right(
    request: &Request,
    so_far: &Progress,
    rights: &[Right],
    name: &OwnerName,
    on_behalf_of: Option<&OwnerName>,
) -> Result<Right, Refused> {
    let stages = &request.analysis.stages;
    let wanted = |right: &Right| match (on_behalf_of, &right.on_behalf_of) {
        (None, _) => true,
        (Some(wanted), Some((from, _))) => wanted == from,
        (Some(_), None) => false,
    };
    let all: Vec<Right> = rights.iter().filter(|right| wanted(right)).cloned().collect();
    if let (true, Some(from)) = (all.is_empty(), on_behalf_of) {
        return Err(Refused::Denied(format!(
            "{name} may not approve it in the place of {from}: it takes a delegation of {from} that is good now, of a right \
             that {from} has, and never for what either of them asks for or answers for"
        )));
    }
    if so_far.open.is_none() {
        // Nobody's word is needed by now; this one is recorded all the same.
        let own = Right { on_behalf_of: None, of: BTreeSet::new() };
        return Ok(all.into_iter().next().unwrap_or(own));
    }
    let is_open = |place: &usize| stages.get(*place).is_some_and(|stage| Some(stage.order) == so_far.open);
    let mut open = all.into_iter().filter(|right| right.of.iter().any(is_open)).peekable();
    let first = open.next().ok_or_else(|| {
        let earlier: Vec<Stage> = stages.iter().filter(|stage| Some(stage.order) == so_far.open).cloned().collect();
        Refused::Conflict(format!("it is not {name}'s turn: first it takes {}", in_words(&earlier)))
    })?;
    match (&first.on_behalf_of, open.peek().and_then(|right| right.on_behalf_of.as_ref())) {
        (Some((one, _)), Some((other, _))) => {
            Err(Refused::invalid(format!("say in whose place: {one} or {other} (`--on-behalf-of`)")))
        }
        _ => Ok(first),
    }
}

pub(super) fn not_eligible(name: &OwnerName, analysis: &Analysis) -> String {
    format!("{name} may not approve it: it takes {}, and never who asks", in_words(&analysis.stages))
}

/// The analysis as of now, and the rights by which somebody may approve.
pub(super) fn again(
    model: &Model,
    at: Timestamp,
    request: &Request,
    name: &OwnerName,
) -> Result<(Analysed, Vec<Right>), Refused> {
    let now = as_of(model, at, request)?;
    let set = analyse::readable(analyse::in_force(model)?)?;
    let who = (&request.requester, &request.ask);
    let subject = Subject::new(model, at, set, who, &now.analysis.permissions, &now.together).with(&request.escalated);
    let rights = approval::rights(&subject, &now.analysis.stages, name);
    Ok((now, rights))
}

/// An open request with the analysis as of now, and all who can answer.
///
/// # Errors
/// When what it names is gone, or no policy is in force.
pub fn analysed(model: &Model, at: Timestamp, request: &Request) -> Result<Request, Refused> {
    progressed_by(model, at, request).map(|(now, _)| now)
}

/// The same, with the order of the stages that are open; `None` where words suffice. Then the turn is the last one: only
/// words say so, and they may be too few again.
pub(super) fn progressed_by(
    model: &Model,
    at: Timestamp,
    request: &Request,
) -> Result<(Request, Option<u32>), Refused> {
    let Analysed { mut analysis, together, .. } = as_of(model, at, request)?;
    let set = analyse::readable(analyse::in_force(model)?)?;
    let who = (&request.requester, &request.ask);
    let subject = Subject::new(model, at, set, who, &analysis.permissions, &together).with(&request.escalated);
    let eligible = approval::answering(&subject, &analysis.stages, &analysis.eligible);
    analysis.eligible = eligible;
    let mut now = Request { analysis, ..request.clone() };
    let progress = progressed(model, at, &now, &together)?;
    now.turn = turn(request, &now.analysis.stages, &progress, at).or(now.turn);
    Ok((now, progress.open))
}

/// Permissions of a request as of now, of each of which policy is asked.
pub(super) fn asked_of(model: &Model, request: &Request) -> usize {
    grant::permissions(model, &grant_request(&request.ask).access).map_or(1, |it| it.len())
}

fn as_of(model: &Model, at: Timestamp, request: &Request) -> Result<Analysed, Refused> {
    let permissions = grant::permissions(model, &grant_request(&request.ask).access)?;
    analyse(model, at, request.id, &request.requester, &request.ask, permissions)
}

/// Whose turn it is, where it was `before`'s.
fn turn(before: &Request, stages: &[Stage], progress: &Progress, now: Timestamp) -> Option<Turn> {
    let answered = progress.answered.iter().filter_map(|place| stages.get(*place));
    let answered = answered.map(|stage| stage.approvers.clone()).collect();
    progress.open.map(|order| before.turn_by(stages, order, answered, now))
}

/// How far the approvals that are bound to the request's analysis, of people whose word counts now, have brought it.
fn progressed(
    model: &Model,
    at: Timestamp,
    request: &Request,
    together: &BTreeSet<String>,
) -> Result<Progress, Refused> {
    let set = analyse::readable(analyse::in_force(model)?)?;
    let stages = &request.analysis.stages;
    let who = (&request.requester, &request.ask);
    let subject = Subject::new(model, at, set, who, &request.analysis.permissions, together).with(&request.escalated);
    let counting = request.approvals.iter().filter(|approval| approval.digest == request.analysis.digest);
    let words = approval::words(&subject, stages, &counting.collect::<Vec<_>>());
    Ok(approval::progress(stages, &words, request.created))
}
