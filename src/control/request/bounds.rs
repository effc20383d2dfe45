//! How much may come of requests that nobody approves, and how long what is settled is kept.

use std::time::Duration;

use super::super::model::{Model, SettledRequest};
use super::super::plan::{Plan, Refused};
use super::super::record::{Change, Record};
use crate::domain::Timestamp;
use crate::domain::name::{IdentityName, OwnerName, RequestId};
use crate::domain::request::{Access, Analysis, Ask, Request, State, Verdict};
use crate::domain::resource::Span;

/// Live grants that one identity may have of requests that took nobody's approval: past them somebody has to look.
pub(super) const MAX_UNAPPROVED_EACH: usize = 200;
/// The same of all that one requester asked for.
pub(super) const MAX_UNAPPROVED_BY: usize = 1_000;
/// How long a settled request is kept in the store. The evidence keeps it.
pub const SETTLED_KEPT: Duration = Duration::from_secs(90 * 86_400);
/// Settled requests that are kept at most.
const MAX_SETTLED: usize = 100_000;
/// Settled requests that are forgotten in one transaction.
const MAX_PRUNED: usize = 100;

/// Whether so many more grants may come of a request that took nobody's approval.
///
/// # Errors
/// [`Refused::TooMuch`] when they would be too many of one identity, or of one requester.
pub(super) fn few_enough(model: &Model, identity: &IdentityName, by: &OwnerName, more: usize) -> Result<(), Refused> {
    let of = model.unapproved_of.get(identity).copied().unwrap_or(0);
    let asked = model.unapproved_by.get(by).copied().unwrap_or(0);
    let what = "grants that nobody approved are live";
    let how = "use those, wait until they end, or end them (`portcullis grant revoke`)";
    if of.saturating_add(more) > MAX_UNAPPROVED_EACH {
        return Err(Refused::TooMuch(format!(
            "{of} {what} for {identity}, and there may be {MAX_UNAPPROVED_EACH}: {how}"
        )));
    }
    if asked.saturating_add(more) > MAX_UNAPPROVED_BY {
        return Err(Refused::TooMuch(format!(
            "{asked} {what} that {by} asked for, and there may be {MAX_UNAPPROVED_BY}: {how}"
        )));
    }
    Ok(())
}

/// What is told of a request that is not there.
pub fn unknown(id: RequestId) -> Refused {
    let days = SETTLED_KEPT.as_secs() / 86_400;
    Refused::NotFound(format!(
        "there is no request {id}; of one that was settled {days} days ago or more `portcullis evidence explain {id}` tells"
    ))
}

/// Forgets settled requests that are old, and the oldest of too many. No evidence: it has told of their end. The answer:
/// whether there may be more.
pub fn plan_prune(model: &Model, now: Timestamp) -> Plan<bool> {
    let mut plan = Plan::nothing(false);
    let mut over = model.settled_ages.len().saturating_sub(MAX_SETTLED);
    for (at, id) in &model.settled_ages {
        if over == 0 && at.saturating_add(SETTLED_KEPT) > now {
            break;
        }
        if plan.changes.len() == MAX_PRUNED {
            plan.answer = true;
            break;
        }
        over = over.saturating_sub(1);
        let place = model.settled.get(id).and_then(|known| place_of(*id, known));
        plan.changes.extend(place.map(|place| Change::Delete(Record::Request(Box::new(place)))));
    }
    plan
}

/// A request of which little more than the key is known, to delete what is under it.
fn place_of(id: RequestId, known: &SettledRequest) -> Option<Request> {
    let analysis = Analysis {
        verdict: Verdict::Refuse,
        permissions: Vec::new(),
        adds: Vec::new(),
        held: Vec::new(),
        findings: Vec::new(),
        rules: Vec::new(),
        policy: 0,
        stages: Vec::new(),
        eligible: Vec::new(),
        longest: None,
        unused: None,
        digest: String::new(),
    };
    Some(Request {
        id,
        requester: known.requester.clone(),
        ask: Ask {
            identity: known.identity.clone(),
            access: Access::Role("forgotten".parse().ok()?),
            starts: None,
            duration: Span::new(Duration::ZERO),
            limits: Default::default(),
            reason: String::new(),
            ticket: None,
            until: Vec::new(),
        },
        key: None,
        created: known.at,
        expires: known.at,
        state: State::Denied,
        analysis,
        approvals: Vec::new(),
        turn: None,
        escalated: Vec::new(),
        grants: Vec::new(),
        settled: None,
    })
}
