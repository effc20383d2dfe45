//! The calls on a resource in a span, each under what allowed it.
//!
//! A call counts by its intent, unless its outcome says that nothing of it went upstream. Of one whose outcome is not there,
//! as it still runs or its gateway died, nobody knows, and it counts.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::entry::{Basis, Event};
use super::super::super::query::{Filter, Query, QueryError};
use super::gaps::Whole;
use super::{Span, Used};
use crate::domain::Timestamp;
use crate::domain::name::{GrantId, ResourceName};

/// What allowed a call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum By {
    Grant(GrantId),
    Exception(String),
}

/// What was done by one of these.
#[derive(Debug, Default)]
pub(super) struct Use {
    pub(super) used: Used,
    pub(super) actions: BTreeSet<String>,
}

/// What was done, by what allowed it and by whom.
#[derive(Debug)]
pub(super) struct Uses<'e> {
    /// When grants were over.
    ends: &'e BTreeMap<GrantId, Timestamp>,
    all: BTreeMap<(By, String), Use>,
}

/// A call whose outcome is waited for.
struct Call {
    by: By,
    identity: String,
    action: String,
    at: Timestamp,
}

impl Used {
    /// With what was done elsewhere.
    pub(super) fn add(&mut self, other: &Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.late = self.late.saturating_add(other.late);
        self.never_sent = self.never_sent.saturating_add(other.never_sent);
        self.first = self.first.into_iter().chain(other.first).min();
        self.last = self.last.into_iter().chain(other.last).max();
    }
}

impl<'e> Uses<'e> {
    pub(super) const fn new(ends: &'e BTreeMap<GrantId, Timestamp>) -> Self {
        Self { ends, all: BTreeMap::new() }
    }

    pub(super) fn take(self) -> BTreeMap<(By, String), Use> {
        self.all
    }

    fn count(&mut self, call: Call, sent: bool) {
        let over = match &call.by {
            By::Grant(id) => self.ends.get(id),
            By::Exception(_) => None,
        };
        let at = Some(call.at);
        let used = match sent {
            true => Used {
                calls: 1,
                first: at,
                last: at,
                late: u64::from(over.is_some_and(|over| call.at >= *over)),
                never_sent: 0,
            },
            false => Used { never_sent: 1, ..Used::default() },
        };
        let it = self.all.entry((call.by, call.identity)).or_default();
        it.used.add(&used);
        it.actions.insert(call.action);
    }
}

/// Takes the calls of one log that began in the span. What two copies of it have is one call.
pub(super) fn of(log: &Whole<'_>, resource: &ResourceName, span: Span, uses: &mut Uses<'_>) -> Result<(), QueryError> {
    let filter = || Filter { resource: Some(resource.clone()), ..Filter::default() };
    let mut waiting: BTreeMap<u64, Call> = BTreeMap::new();
    // Calls before this record were taken.
    let mut taken = 0;
    for part in &log.parts {
        let storage = || part.log.storage.clone();
        let mut query = Query::new(storage(), 0, Filter { from: span.from, to: span.to, ..filter() });
        while let Some(found) = query.next()? {
            match &found.entry.event {
                Event::Intent(intent) if found.entry.seq >= taken => {
                    let by = match &intent.basis {
                        Basis::Grant(id) => By::Grant(*id),
                        Basis::Exception(name) => By::Exception(name.to_string()),
                    };
                    let (identity, action) = (intent.identity.to_string(), intent.action.to_string());
                    waiting.insert(found.entry.seq, Call { by, identity, action, at: found.entry.time });
                }
                Event::Outcome(outcome) => {
                    if let Some(call) = waiting.remove(&outcome.intent_seq) {
                        uses.count(call, outcome.ending.upstream_started);
                    }
                }
                _ => {}
            }
        }
        // What began in the span may have ended after it.
        if let (Some(first), Some(_)) = (waiting.keys().next(), span.to) {
            let mut query = Query::new(storage(), *first, filter());
            while !waiting.is_empty()
                && let Some(found) = query.next()?
            {
                if let Event::Outcome(outcome) = &found.entry.event
                    && let Some(call) = waiting.remove(&outcome.intent_seq)
                {
                    uses.count(call, outcome.ending.upstream_started);
                }
            }
        }
        taken = taken.max(part.size);
    }
    waiting.into_values().for_each(|call| uses.count(call, true));
    Ok(())
}
