//! The catalog: documents in, objects that fit together out, all or nothing.
//!
//! [`plan_apply`] reads every document, finds every fault, and checks the catalog as it would be afterwards. It changes
//! nothing: the plan is the actor's to carry out, and a dry run is the same plan thrown away.

mod effects;
mod fit;
mod parse;

use super::model::Model;
use super::plan::{ChangeEvent, Context, MAX_CHANGES, Plan, Refused};
use super::record::{Change, Record};

pub use effects::Effect;
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
    /// The spec after.
    pub after: serde_json::Value,
}

impl Diff {
    /// `created`, `changed` or `unchanged`.
    pub fn change(&self) -> &'static str {
        match &self.before {
            None => "created",
            Some(before) if *before == self.after => "unchanged",
            Some(_) => "changed",
        }
    }
}

/// Applies documents: creates what is new, changes what differs, leaves the rest.
///
/// # Errors
/// [`Refused::Invalid`] with every fault of the documents, [`Refused::Unfit`] with everything that would not fit together
/// afterwards, [`Refused::TooMuch`] past [`MAX_CHANGES`].
pub fn plan_apply(model: &Model, context: &Context<'_>, documents: &[Document]) -> Result<Plan<Vec<Diff>>, Refused> {
    if documents.len() > MAX_DOCUMENTS {
        return Err(Refused::TooMuch(format!("{} documents; at most {MAX_DOCUMENTS} at once", documents.len())));
    }
    let records = parse::parse(documents, model).map_err(Refused::Invalid)?;
    let mut after = model.clone();
    let mut plan = Plan { changes: Vec::new(), events: Vec::new(), audience: Default::default(), answer: Vec::new() };
    for record in records {
        let before = current(model, &record);
        let diff = Diff {
            kind: parse::kind(&record),
            name: parse::name(&record),
            before: before.as_ref().map(parse::spec),
            after: parse::spec(&record),
        };
        if diff.change() != "unchanged" {
            let change = Change::Put(record);
            plan.events.push(ChangeEvent::of(&event(&diff), before.as_ref(), &change, None));
            after.apply(&change, 0);
            plan.changes.push(change);
        }
        plan.answer.push(diff);
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

/// Who would gain or lose what by a plan.
pub fn effects_of(model: &Model, changes: &[Change]) -> Vec<Effect> {
    let mut after = model.clone();
    changes.iter().for_each(|change| after.apply(change, 0));
    effects::effects(model, &after, changes)
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
        | Record::Token(_)
        | Record::Policy(_)
        | Record::Request(_)
        | Record::Ticket(_) => None,
    }
}

#[cfg(test)]
mod tests;
