//! Removing what no document describes: asked for, and said of each object.
//!
//! What lives under an object that goes ends with it, by the same plan that ends it at any other time.

use std::collections::BTreeSet;

use super::super::grant::plan_revoke;
use super::super::model::{Kept, Model};
use super::super::plan::{ChangeEvent, Context, Plan, Refused};
use super::super::record::{Change, GrantRecord, Record};
use super::super::{request, tickets};
use super::{Diff, parse};
use crate::domain::grant::Grant;
use crate::domain::request::Request;

/// Why a grant ended that nobody ended by itself.
const REASON: &str = "what it was for is no longer in the catalog";

/// Removes every object whose key is not among `named`.
///
/// # Errors
/// [`Refused::Unfit`] with everything of which grants are live, unless those are to end.
pub(super) fn plan_prune(
    model: &Model,
    context: &Context<'_>,
    named: &BTreeSet<String>,
    end_grants: bool,
    reason: Option<&str>,
) -> Result<Plan<Vec<Diff>>, Refused> {
    let mut plan = Plan { changes: Vec::new(), events: Vec::new(), audience: Default::default(), answer: Vec::new() };
    let (mut ending, mut cancelled, mut faults) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for record in objects(model).filter(|record| !named.contains(&record.key())) {
        let live: Vec<&Kept<Grant>> = model.grants.values().filter(|kept| is_of(&record, &kept.value)).collect();
        let (kind, name) = (parse::kind(&record), parse::name(&record));
        if !live.is_empty() && !end_grants {
            let count = live.len();
            faults.push(format!("{kind} {name}: has {count} live grants: end them first, or say --end-grants"));
        }
        ending.extend(live.iter().map(|kept| kept.value.id));
        let open = model.requests.values().map(|kept| kept.value.as_ref());
        for asked in open.filter(|asked| would_be_of(&record, asked) && cancelled.insert(asked.id)) {
            let cancelled = request::cancelled(context, asked, REASON);
            plan.changes.extend(cancelled.changes);
            plan.events.extend(cancelled.events);
        }
        plan.answer.push(Diff { kind, name, before: Some(parse::spec(&record)), after: None });
        let operation = format!("{}.removed", kind.to_ascii_lowercase());
        let before = record.clone();
        let change = Change::Delete(record);
        plan.events.push(ChangeEvent::of(&operation, Some(&before), &change, reason));
        plan.changes.push(change);
    }
    for kept in ending.iter().filter_map(|id| model.grants.get(id)) {
        let record = GrantRecord { grant: kept.value.as_ref().clone(), expiry_noted: false };
        let ended = plan_revoke(context, &record, REASON)?;
        plan.changes.extend(ended.changes);
        plan.events.extend(ended.events);
    }
    if faults.is_empty() { Ok(plan) } else { Err(Refused::Unfit(faults)) }
}

/// Whether a grant lives by an object being there.
fn is_of(record: &Record, grant: &Grant) -> bool {
    match record {
        Record::Identity(it) => it.name == grant.identity,
        Record::Resource(it) => it.name == grant.resource,
        // Nobody would say any more that what it ends with is over.
        Record::TicketSource(it) => grant.lineage.until.iter().any(|ticket| ticket.source == it.name),
        _ => false,
    }
}

/// Whether what a request asks for would.
fn would_be_of(record: &Record, asked: &Request) -> bool {
    match record {
        Record::Identity(it) => it.name == asked.ask.identity,
        Record::TicketSource(it) => tickets::is_of_source(asked, &it.name),
        _ => false,
    }
}

/// Every object of the catalog.
fn objects(model: &Model) -> impl Iterator<Item = Record> {
    fn all<'m, K: Ord, T: Clone + 'm>(
        kept: &'m imbl::OrdMap<K, Kept<T>>,
        record: fn(T) -> Record,
    ) -> impl Iterator<Item = Record> + 'm {
        kept.values().map(move |kept| record(kept.value.as_ref().clone()))
    }
    all(&model.exceptions, Record::Exception)
        .chain(all(&model.roles, Record::Role))
        .chain(all(&model.routes, Record::Route))
        .chain(all(&model.resources, Record::Resource))
        .chain(all(&model.identities, Record::Identity))
        .chain(all(&model.groups, Record::Group))
        .chain(all(&model.entries, Record::Entry))
        .chain(all(&model.ticket_sources, Record::TicketSource))
}
