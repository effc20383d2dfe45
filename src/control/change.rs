//! A second pair of eyes: once a policy is in force, what widens access is proposed by one person and comes true by
//! another's word.
//!
//! Planning only, over the model. What narrows, or is neutral, is done at once, and so is everything before the first
//! policy. The rest waits with what it was made from: the word that completes it makes it true in the same plan, worked
//! out anew, and only while nothing that it touches has changed. The control plane itself, on its own machine and at its
//! start, needs nobody.

mod anew;
mod settle;
mod who;

use std::time::Duration;

pub use settle::{plan_approve, plan_cancel, plan_deny, plan_expiry, plan_prune};

use super::authorize::Caller;
use super::catalog::{self, Diff, Wanted};
use super::model::Model;
use super::plan::{ChangeEvent, Context, Plan, Refused, checked_reason};
use super::policy;
use super::record::{Change, PolicyFile, PolicyRecord, Record};
use crate::domain::Timestamp;
use crate::domain::change::{Proposal, ProposalState, Proposed, ProposedDocument, ProposedFile};
use crate::domain::name::{ChangeId, OwnerName};

/// How long a change waits for its word.
const LIFE: Duration = Duration::from_secs(7 * 86_400);
/// Changes that may wait at once: each is held whole.
const MAX_OPEN: usize = 50;
/// The same of one author.
const MAX_OPEN_EACH: usize = 20;
/// Bytes of one, as JSON: with what it puts it fits one transaction.
const MAX_BYTES: usize = 768 * 1024;
/// How long a settled change is kept in the store, and how many. The evidence keeps them.
const SETTLED_KEPT: Duration = Duration::from_secs(90 * 86_400);
/// The same by number.
const MAX_SETTLED: usize = 1_000;

/// What asking for a change came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It is so.
    Done(T),
    /// It waits for another person; the answer is what it would be.
    Waits(T, Box<Proposal>),
}

impl<T> Outcome<T> {
    /// The answer, and what waits.
    pub fn parts(self) -> (T, Option<Proposal>) {
        match self {
            Self::Done(answer) => (answer, None),
            Self::Waits(answer, proposal) => (answer, Some(*proposal)),
        }
    }
}

/// Whose change takes another's word: a person's, once a policy is in force.
fn author(model: &Model, caller: &Caller) -> Option<OwnerName> {
    match caller {
        Caller::Person(person) if model.policy.is_some() => Some(person.name.clone()),
        // Whoever is at the control plane's machine can write its store with its key.
        Caller::System => None,
        Caller::Person(_) | Caller::Gateway(_) | Caller::Joining(..) | Caller::Attested(_) | Caller::Identity(_) => {
            None
        }
    }
}

/// Applies what is wanted of the catalog, or has it wait where it widens access.
///
/// # Errors
/// As [`catalog::plan_wanted`]; [`Refused::Unfit`] when nobody else could approve it, [`Refused::TooMuch`] when too much
/// waits.
pub fn plan_apply(
    model: &Model,
    context: &Context<'_>,
    wanted: &Wanted,
    draw: impl FnMut() -> u128,
) -> Result<Plan<Outcome<Vec<Diff>>>, Refused> {
    let plan = catalog::plan_wanted(model, context, wanted)?;
    let Some(author) = author(model, context.caller) else { return Ok(plan.map(Outcome::Done)) };
    if catalog::widenings_of(model, &plan.changes).is_empty() {
        return Ok(plan.map(Outcome::Done));
    }
    let documents = wanted.documents.iter().map(|it| ProposedDocument {
        kind: it.kind.clone(),
        name: it.name.clone(),
        spec_json: it.spec_json.clone(),
    });
    let (prune, end_grants) = (wanted.prune, wanted.end_grants);
    let proposed = Proposed::Catalog { documents: documents.collect(), prune, end_grants };
    let diffs = plan.answer;
    propose(model, context, author, wanted.reason.trim(), proposed, draw)
        .map(|plan| plan.map(|proposal| Outcome::Waits(diffs, Box::new(proposal))))
}

/// Publishes a policy, or has it wait where one is in force.
///
/// # Errors
/// As [`policy::plan_publish`]; as [`plan_apply`].
pub fn plan_publish(
    model: &Model,
    context: &Context<'_>,
    files: &[PolicyFile],
    expected: Option<u64>,
    reason: &str,
    draw: impl FnMut() -> u128,
) -> Result<Plan<Outcome<PolicyRecord>>, Refused> {
    let plan = policy::plan_publish(model, context, files, expected, reason)?;
    let Some(author) = author(model, context.caller) else { return Ok(plan.map(Outcome::Done)) };
    if plan.is_empty() {
        return Ok(plan.map(Outcome::Done));
    }
    let over = model.policy.as_ref().map_or(0, |policy| policy.record.version);
    let files = plan.answer.files.iter();
    let files = files.map(|it| ProposedFile { name: it.name.clone(), text: it.text.clone() }).collect();
    let (record, reason) = (plan.answer.clone(), plan.answer.reason.clone());
    propose(model, context, author, &reason, Proposed::Policy { files, over }, draw)
        .map(|plan| plan.map(|proposal| Outcome::Waits(record, Box::new(proposal))))
}

/// Stores a change to wait; one that waits already with the same in it is that one.
fn propose(
    model: &Model,
    context: &Context<'_>,
    author: OwnerName,
    reason: &str,
    proposed: Proposed,
    mut draw: impl FnMut() -> u128,
) -> Result<Plan<Proposal>, Refused> {
    let reason = if reason.is_empty() { String::new() } else { checked_reason(reason).map_err(Refused::invalid)? };
    let waiting = || model.proposals.values().map(|kept| kept.value.as_ref()).filter(|it| it.is_open());
    let same = |it: &&Proposal| it.author == author && it.proposed == proposed && context.now < it.expires;
    if let Some(known) = waiting().find(same) {
        return Ok(Plan::nothing(seen(model, context.now, known)));
    }
    let (all, own) = (waiting().count(), waiting().filter(|it| it.author == author).count());
    if all >= MAX_OPEN || own >= MAX_OPEN_EACH {
        let why = format!("{own} changes of {author} wait already, {all} in all: have them decided, or cancel some");
        return Err(Refused::TooMuch(why));
    }
    let mut id = ChangeId::from_bits(draw());
    while model.proposals.contains_key(&id) {
        id = ChangeId::from_bits(draw());
    }
    let proposal = Proposal {
        id,
        author,
        reason,
        proposed,
        objects: Vec::new(),
        effects: Vec::new(),
        created: context.now,
        expires: context.now.saturating_add(LIFE),
        state: ProposalState::Pending,
        eligible: Vec::new(),
        interested: Vec::new(),
        approvals: Vec::new(),
        digest: String::new(),
        stale: None,
        version: None,
        settled: None,
    };
    let anew = anew::work_out(model, context.now, &proposal)?;
    let proposal = Proposal { objects: anew.objects, effects: anew.effects, digest: anew.digest, ..proposal };
    let proposal = Proposal { interested: who::interested(model, &proposal), ..proposal };
    let proposal = Proposal { eligible: who::eligible(model, &proposal), ..proposal };
    if proposal.eligible.is_empty() {
        return Err(Refused::Unfit(vec![format!(
            "this widens access, and nobody but {} could approve it: make somebody who can while the control plane does not \
             run (`portcullis control init --person NAME=security`, or `=administrator`), or do it there (`portcullis \
             control apply`, `portcullis control publish`)",
            proposal.author
        )]));
    }
    let bytes = serde_json::to_string(&proposal).map_or(usize::MAX, |json| json.len());
    if bytes > MAX_BYTES {
        let why = format!(
            "a change of {bytes} bytes cannot wait, with what it would put in place: at most {MAX_BYTES}; do it in parts"
        );
        return Err(Refused::TooMuch(why));
    }
    Ok(put("change.proposed", None, proposal, None))
}

/// A change as it is now: what it would do, and whether it still can. A settled one is as it was.
pub fn seen(model: &Model, now: Timestamp, proposal: &Proposal) -> Proposal {
    if !proposal.is_open() {
        return proposal.clone();
    }
    match anew::unchanged(model, now, proposal) {
        Ok(anew) => Proposal {
            objects: anew.objects,
            effects: anew.effects,
            digest: anew.digest,
            eligible: who::eligible(model, proposal),
            ..proposal.clone()
        },
        Err(why) => Proposal { stale: Some(why), ..proposal.clone() },
    }
}

fn put(operation: &str, before: Option<&Proposal>, proposal: Proposal, reason: Option<&str>) -> Plan<Proposal> {
    let change = Change::Put(Record::Proposal(Box::new(proposal.clone())));
    let before = before.cloned().map(Box::new).map(Record::Proposal);
    let event = ChangeEvent::of(operation, before.as_ref(), &change, reason);
    // The order with what the catalog says is that of the stream.
    Plan { changes: vec![change], events: vec![event], audience: Default::default(), answer: proposal }
}

#[cfg(test)]
mod tests;
