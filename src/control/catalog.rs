//! The catalog: documents in, objects that fit together out, all or nothing.
//!
//! [`plan_apply`] reads every document, finds every fault, and checks the catalog as it would be afterwards. It changes
//! nothing: the plan is the actor's to carry out, and a dry run is the same plan thrown away.

mod effects;
mod fit;
mod parse;
mod prune;
mod widening;

use std::collections::BTreeSet;

use super::model::Model;
use super::plan::{ChangeEvent, Context, MAX_CHANGES, Plan, Refused, checked_reason};
use super::record::{Change, Record};

pub use crate::domain::change::Effect;
pub(super) use fit::{actions_of, ancestors, expanded};
pub use parse::Document;

/// Documents in one request: as many as fit one transaction, and as many again that change nothing.
pub const MAX_DOCUMENTS: usize = 2_000;

/// What applying does to one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diff {
    /// `Identity`, `Person`, `Group`, `Resource`, `Route`, `Role`, `Exception` or `TicketSource`.
    pub kind: &'static str,
    /// The object's name.
    pub name: String,
    /// The spec before, if the object was there.
    pub before: Option<serde_json::Value>,
    /// The spec after, unless the object is removed.
    pub after: Option<serde_json::Value>,
}

impl Diff {
    /// `created`, `changed`, `unchanged` or `removed`.
    pub fn change(&self) -> &'static str {
        match (&self.before, &self.after) {
            (_, None) => "removed",
            (None, _) => "created",
            (before, after) if before == after => "unchanged",
            (Some(_), _) => "changed",
        }
    }
}

/// What somebody wants the catalog to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The documents.
    pub documents: Vec<Document>,
    /// Remove what none of them describes.
    pub prune: bool,
    /// End live grants of what is removed.
    pub end_grants: bool,
    /// Why, in the words of who wants it; may be empty.
    pub reason: String,
}

impl Wanted {
    /// These documents, beside what there is.
    pub fn of(documents: &[Document]) -> Self {
        Self { documents: documents.to_vec(), ..Self::default() }
    }
}

/// Applies documents: creates what is new, changes what differs, leaves the rest, or removes it where that is wanted.
///
/// # Errors
/// [`Refused::Invalid`] with every fault of the documents, [`Refused::Unfit`] with everything that would not fit together
/// afterwards, [`Refused::TooMuch`] past [`MAX_CHANGES`].
pub fn plan_wanted(model: &Model, context: &Context<'_>, wanted: &Wanted) -> Result<Plan<Vec<Diff>>, Refused> {
    let documents = &wanted.documents;
    let reason = match wanted.reason.as_str() {
        "" => None,
        reason => Some(checked_reason(reason).map_err(Refused::invalid)?),
    };
    if documents.len() > MAX_DOCUMENTS {
        return Err(Refused::TooMuch(format!("{} documents; at most {MAX_DOCUMENTS} at once", documents.len())));
    }
    let records = parse::parse(documents, model).map_err(Refused::Invalid)?;
    let mut after = model.clone();
    let mut plan = Plan { changes: Vec::new(), events: Vec::new(), audience: Default::default(), answer: Vec::new() };
    let named: BTreeSet<String> = records.iter().map(Record::key).collect();
    for record in records {
        let before = current(model, &record);
        let diff = Diff {
            kind: parse::kind(&record),
            name: parse::name(&record),
            before: before.as_ref().map(parse::spec),
            after: Some(parse::spec(&record)),
        };
        if diff.change() != "unchanged" {
            let record = match record {
                Record::Exception(it) => {
                    let known = model.exceptions.get(&it.name).map(|kept| kept.value.as_ref());
                    Record::Exception(it.put(known, context.now))
                }
                other => other,
            };
            let change = Change::Put(record);
            plan.events.push(ChangeEvent::of(&event(&diff), before.as_ref(), &change, reason.as_deref()));
            after.apply(&change, 0);
            plan.changes.push(change);
        }
        plan.answer.push(diff);
    }
    if wanted.prune {
        let removed = prune::plan_prune(model, context, &named, wanted.end_grants, reason.as_deref())?;
        removed.changes.iter().for_each(|change| after.apply(change, 0));
        plan.changes.extend(removed.changes);
        plan.events.extend(removed.events);
        plan.answer.extend(removed.answer);
    }
    let faults = fit::faults(&after, &plan.changes, context.now);
    if !faults.is_empty() {
        return Err(Refused::Unfit(faults));
    }
    if plan.changes.len() > MAX_CHANGES {
        let changes = plan.changes.len();
        return Err(Refused::TooMuch(format!("{changes} objects would change; at most {MAX_CHANGES} at once")));
    }
    Ok(plan)
}

/// Applies documents beside what there is.
///
/// # Errors
/// As [`plan_wanted`].
pub fn plan_apply(model: &Model, context: &Context<'_>, documents: &[Document]) -> Result<Plan<Vec<Diff>>, Refused> {
    plan_wanted(model, context, &Wanted::of(documents))
}

/// Who would gain or lose what by a plan, as many as are told.
pub fn effects_of(model: &Model, changes: &[Change]) -> Vec<Effect> {
    let mut after = model.clone();
    changes.iter().for_each(|change| after.apply(change, 0));
    effects::effects(model, &after, changes, widening::widenings(model, &after, changes))
}

/// What somebody would gain by a plan, whatever is live at the moment; nothing of one that narrows, or is neutral.
pub fn widenings_of(model: &Model, changes: &[Change]) -> Vec<Effect> {
    let mut after = model.clone();
    changes.iter().for_each(|change| after.apply(change, 0));
    widening::widenings(model, &after, changes).into_iter().collect()
}

/// `resource.created`, `route.changed` and so on.
fn event(diff: &Diff) -> String {
    format!("{}.{}", diff.kind.to_ascii_lowercase(), diff.change())
}

/// The object of the same kind and name as it is now.
fn current(model: &Model, record: &Record) -> Option<Record> {
    match record {
        Record::Identity(it) => model.identities.get(&it.name).map(|k| Record::Identity(k.value.as_ref().clone())),
        Record::Resource(it) => model.resources.get(&it.name).map(|k| Record::Resource(k.value.as_ref().clone())),
        Record::Route(it) => model.routes.get(&it.name).map(|k| Record::Route(k.value.as_ref().clone())),
        Record::Role(it) => model.roles.get(&it.name).map(|k| Record::Role(k.value.as_ref().clone())),
        Record::Entry(it) => model.entries.get(&it.name).map(|k| Record::Entry(k.value.as_ref().clone())),
        Record::Group(it) => model.groups.get(&it.name).map(|k| Record::Group(k.value.as_ref().clone())),
        Record::Exception(it) => model.exceptions.get(&it.name).map(|k| Record::Exception(k.value.as_ref().clone())),
        Record::TicketSource(it) => {
            model.ticket_sources.get(&it.name).map(|k| Record::TicketSource(k.value.as_ref().clone()))
        }
        Record::Meta(_)
        | Record::Grant(_)
        | Record::Ledger(_)
        | Record::Person(_)
        | Record::Gateway(_)
        | Record::Log(_)
        | Record::Halt(_)
        | Record::Trust(_)
        | Record::Token(_)
        | Record::Policy(_)
        | Record::Request(_)
        | Record::Proposal(_)
        | Record::Delegation(_)
        | Record::BreakGlass(_)
        | Record::Ticket(_) => None,
    }
}

#[cfg(test)]
mod tests;
