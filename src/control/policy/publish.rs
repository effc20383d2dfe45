//! Checking a set as publishing does, and publishing it.

use super::super::model::Model;
use super::super::plan::{ChangeEvent, Context, Plan, Refused, checked_reason};
use super::super::record::{Change, Digest, PolicyFile, PolicyRecord, Record};
use super::cases::{self, Outcome};
use super::set::PolicySet;
use crate::domain::Timestamp;
use crate::domain::name::{ChangeId, OwnerName};
use crate::settings;

/// Whether a set could be published: how each of its cases came out.
///
/// # Errors
/// Everything that stands in the way: faults and warnings of the rules, cases that fail, rules that decide none.
pub fn check(files: &[PolicyFile]) -> Result<Vec<Outcome>, Vec<String>> {
    super::small_enough(files)?;
    let mut faults = Vec::new();
    let mut asked = Vec::new();
    for file in files {
        if file.name.ends_with(".yaml") || file.name.ends_with(".yml") {
            match settings::cases::read(&file.name, &file.text) {
                Ok(cases) => asked.extend(cases),
                Err(wrong) => faults.extend(wrong.as_slice().iter().map(ToString::to_string)),
            }
        } else if !file.name.ends_with(".cedar") {
            faults.push(format!("{}: neither rules (*.cedar) nor cases (*.yaml)", file.name));
        }
    }
    let set = match PolicySet::compile(files) {
        Ok(set) => set,
        Err(wrong) => {
            faults.extend(wrong);
            return Err(faults);
        }
    };
    let outcomes = cases::run(&set, &asked);
    for outcome in outcomes.iter().filter(|outcome| !outcome.wrong.is_empty()) {
        faults.push(format!("case `{}`: {}", outcome.name, outcome.wrong.join("; ")));
    }
    if faults.is_empty() {
        let undecided = cases::undecided(&set, &outcomes);
        faults.extend(undecided.iter().map(|rule| format!("rule {rule}: no case is decided by it: add one")));
    }
    if faults.is_empty() { Ok(outcomes) } else { Err(faults) }
}

/// Publishes a set: the next version. The same files again change nothing.
///
/// # Errors
/// [`Refused::Unfit`] with everything that [`check`] finds, [`Refused::Invalid`] without a reason, [`Refused::Conflict`]
/// when another version is in force than the one it was made from.
pub fn plan_publish(
    model: &Model,
    context: &Context<'_>,
    files: &[PolicyFile],
    expected: Option<u64>,
    reason: &str,
) -> Result<Plan<PolicyRecord>, Refused> {
    plan_publish_as(model, context.now, &context.author()?, files, expected, reason, None)
}

/// The same by whoever proposed it, and as the change that it was proposed as.
///
/// # Errors
/// As [`plan_publish`].
pub fn plan_publish_as(
    model: &Model,
    now: Timestamp,
    by: &OwnerName,
    files: &[PolicyFile],
    expected: Option<u64>,
    reason: &str,
    change: Option<ChangeId>,
) -> Result<Plan<PolicyRecord>, Refused> {
    let reason = checked_reason(reason).map_err(Refused::invalid)?;
    let mut files = files.to_vec();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    check(&files).map_err(Refused::Unfit)?;
    let current = model.policy.as_ref().map(|policy| policy.record.as_ref());
    let version = current.map_or(0, |current| current.version);
    if let Some(expected) = expected.filter(|expected| *expected != version) {
        let why = format!("version {version} of the policy is in force, not {expected}: look at what changed first");
        return Err(Refused::Conflict(why));
    }
    let digest = digest(&files);
    if let Some(current) = current.filter(|current| current.digest == digest) {
        return Ok(Plan::nothing(current.clone()));
    }
    let record = PolicyRecord {
        version: version.saturating_add(1),
        published: now,
        by: by.clone(),
        reason: reason.clone(),
        change,
        digest,
        files,
    };
    let change = Change::Put(Record::Policy(record.clone()));
    let before = current.cloned().map(Record::Policy);
    let event = ChangeEvent::of("policy.published", before.as_ref(), &change, Some(&reason));
    // Gateways are not told of anything, but no grant may be made by another writer on the version before it.
    Ok(Plan { changes: vec![change], events: vec![event], audience: Default::default(), answer: record })
}

fn digest(files: &[PolicyFile]) -> String {
    let mut text = Vec::new();
    for file in files {
        for part in [&file.name, &file.text] {
            text.extend_from_slice(&(part.len() as u64).to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
    }
    Digest::of(text).hex()
}
