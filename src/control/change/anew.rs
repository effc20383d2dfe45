//! A change that waits, worked out once more on what is true now.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::super::authorize::Caller;
use super::super::catalog::{self, Diff, Document, Wanted};
use super::super::model::Model;
use super::super::plan::{ChangeEvent, Context, Plan, Refused};
use super::super::policy::{self, PolicySet};
use super::super::record::{Digest, PolicyFile};
use crate::domain::Timestamp;
use crate::domain::change::{Effect, Proposal, Proposed, Touched};
use crate::domain::name::{ChangeId, OwnerName};

/// Rules that are told with what they say, in bytes: past that the files alone tell it.
const MAX_RULE_BYTES: usize = 256 * 1024;

/// What a change comes to.
#[derive(Debug)]
pub(super) struct Anew {
    /// What it would put in place.
    pub(super) plan: Plan<()>,
    pub(super) objects: Vec<Touched>,
    pub(super) effects: Vec<Effect>,
    pub(super) digest: String,
    /// Of a policy: the version that it would be.
    pub(super) version: Option<u64>,
}

/// What an approval is bound to. Not what is live at the moment: grants come and go.
#[derive(Serialize)]
struct Seen<'a> {
    change: ChangeId,
    author: &'a OwnerName,
    proposed: &'a Proposed,
    objects: &'a [Touched],
    gains: &'a [Effect],
}

/// Works a change out.
///
/// # Errors
/// Whatever stands in its way by now.
pub(super) fn work_out(model: &Model, now: Timestamp, proposal: &Proposal) -> Result<Anew, Refused> {
    let (plan, objects, version) = match &proposal.proposed {
        Proposed::Catalog { documents, prune, end_grants } => {
            let documents = documents.iter().map(|it| Document {
                kind: it.kind.clone(),
                name: it.name.clone(),
                spec_json: it.spec_json.clone(),
            });
            let reason = proposal.reason.clone();
            let wanted = Wanted { documents: documents.collect(), prune: *prune, end_grants: *end_grants, reason };
            let context = Context { caller: &Caller::System, now };
            let (plan, diffs) = catalog::plan_wanted(model, &context, &wanted)?.take_answer();
            (plan, diffs.into_iter().filter(|diff| diff.change() != "unchanged").map(touched).collect(), None)
        }
        Proposed::Policy { files, over } => {
            let files: Vec<PolicyFile> =
                files.iter().map(|it| PolicyFile { name: it.name.clone(), text: it.text.clone() }).collect();
            let (author, reason) = (&proposal.author, &proposal.reason);
            let plan = policy::plan_publish_as(model, now, author, &files, Some(*over), reason, Some(proposal.id))?;
            let (plan, record) = plan.take_answer();
            (plan, rules(model, &files), Some(record.version))
        }
    };
    let gains = match &proposal.proposed {
        Proposed::Catalog { .. } => catalog::widenings_of(model, &plan.changes),
        Proposed::Policy { .. } => Vec::new(),
    };
    let (change, author, proposed) = (proposal.id, &proposal.author, &proposal.proposed);
    let seen = Seen { change, author, proposed, objects: &objects, gains: &gains };
    // Structs, lists and sorted maps: the same is the same text, and it is always one.
    let digest = Digest::of(serde_json::to_vec(&seen).unwrap_or_default()).hex();
    let effects = catalog::effects_of(model, &plan.changes);
    Ok(Anew { plan, objects, effects, digest, version })
}

/// The same, while all that it touches is as it was when it was proposed.
///
/// # Errors
/// What is not.
pub(super) fn unchanged(model: &Model, now: Timestamp, proposal: &Proposal) -> Result<Anew, String> {
    let anew = work_out(model, now, proposal).map_err(|refused| refused.to_string())?;
    if anew.objects == proposal.objects {
        return Ok(anew);
    }
    let names = |objects: &[Touched], others: &[Touched]| -> Vec<String> {
        let other = objects.iter().filter(|it| !others.contains(it));
        other.map(|it| format!("{} {}", it.kind, it.name)).collect()
    };
    let mut differ = names(&proposal.objects, &anew.objects);
    differ.extend(names(&anew.objects, &proposal.objects));
    differ.sort();
    differ.dedup();
    Err(format!("what it was made from has changed since: {}", differ.join(", ")))
}

/// The events of what a change puts in place, each leading to it.
pub(super) fn led_to(events: Vec<ChangeEvent>, proposal: &Proposal) -> impl Iterator<Item = ChangeEvent> {
    let lead = format!("change {} of {}", proposal.id, proposal.author);
    events.into_iter().map(move |event| {
        let reason = event.reason.as_ref().filter(|reason| !reason.is_empty());
        let reason = reason.map_or_else(|| lead.clone(), |reason| format!("{lead}: {reason}"));
        ChangeEvent { reason: Some(reason), ..event }
    })
}

fn touched(diff: Diff) -> Touched {
    let change = diff.change().to_owned();
    Touched { kind: diff.kind.to_owned(), name: diff.name, change, before: diff.before, after: diff.after }
}

/// What a set says otherwise than the one in force, rule by rule; and other files, by their digest.
fn rules(model: &Model, files: &[PolicyFile]) -> Vec<Touched> {
    let none = Vec::new();
    let current = model.policy.as_ref().map_or(&none, |policy| &policy.record.files);
    let texts = |files: &[PolicyFile]| PolicySet::compile(files).map(|set| set.texts()).unwrap_or_default();
    let digests = |files: &[PolicyFile]| -> BTreeMap<String, String> {
        files.iter().map(|file| (file.name.clone(), Digest::of(&file.text).hex())).collect()
    };
    let mut found = differences("Rule", &texts(current), &texts(files));
    let bytes: usize =
        found.iter().flat_map(|it| [&it.before, &it.after]).flatten().map(|it| it.to_string().len()).sum();
    if bytes > MAX_RULE_BYTES {
        found.iter_mut().for_each(|it| (it.before, it.after) = (None, None));
    }
    found.extend(differences("File", &digests(current), &digests(files)));
    found
}

fn differences(kind: &str, before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<Touched> {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let touched = |name: &String| {
        let (old, new) = (before.get(name), after.get(name));
        let change = match (old, new) {
            (None, _) => "created",
            (_, None) => "removed",
            (old, new) if old == new => return None,
            _ => "changed",
        };
        Some(Touched {
            kind: kind.to_owned(),
            name: name.clone(),
            change: change.to_owned(),
            before: old.cloned().map(Value::from),
            after: new.cloned().map(Value::from),
        })
    };
    names.into_iter().filter_map(touched).collect()
}
