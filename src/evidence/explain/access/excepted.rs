//! Exceptions that let callers pass without a grant: which were in force on a resource, whether somebody called or not.
//!
//! From the control plane's changes of exceptions and routes. One is in force on the resources of its route, for as long as
//! both are there and its own time has not come. Where the log does not tell of the route any more, it is listed rather than
//! left out.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::super::super::entry::Change;
use super::Span;
use crate::domain::Timestamp;
use crate::domain::name::ResourceName;

/// The rule that is left where callers pass without a grant.
const OBSERVE: &str = "observe";

/// An exception by which every identified caller had access.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InForce {
    /// The exception.
    pub exception: String,
    /// The route on which it was.
    pub route: String,
    /// Whether no change tells where the route led, as of one from before the log's beginning: it may have been elsewhere.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub route_untold: bool,
    /// Who answers for it.
    pub owner: String,
    /// Why it was needed.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when: its own end, or when it or its route was changed or removed.
    pub until: Timestamp,
}

/// What changes tell of exceptions on one resource.
#[derive(Debug, Default)]
pub(super) struct Exceptions {
    leaves: BTreeMap<String, Vec<InForce>>,
    /// When a route led to the resource: from, and before.
    routes: BTreeMap<String, Vec<(Timestamp, Timestamp)>>,
}

impl Exceptions {
    /// Takes a change of an exception.
    pub(super) fn take(&mut self, change: &Change<'_>, at: Timestamp) {
        let spells = self.leaves.entry(change.object.to_string()).or_default();
        let now = change.after.as_deref().and_then(|after| leave(&change.object, after, at));
        let same = |last: &InForce, now: &InForce| last.route == now.route && last.until >= at;
        if let Some(last) = spells.last_mut() {
            match now {
                // Its end, owner or reason is another: it goes on.
                Some(now) if same(last, &now) => *last = InForce { since: last.since, ..now },
                now => {
                    last.until = last.until.min(at);
                    spells.extend(now.map(|now| InForce { since: at, ..now }));
                }
            }
        } else {
            spells.extend(now);
        }
    }

    /// Takes a change of a route.
    pub(super) fn take_route(&mut self, change: &Change<'_>, at: Timestamp, resource: &ResourceName) {
        let spells = self.routes.entry(change.object.to_string()).or_default();
        let leads = change.after.as_deref().and_then(|after| after.pointer("/spec/resource")).and_then(Value::as_str);
        let led = spells.last_mut().filter(|last| last.1 == Timestamp::MAX);
        match (led, leads == Some(resource.as_str())) {
            (Some(last), false) => last.1 = at,
            (None, true) => spells.push((at, Timestamp::MAX)),
            (Some(_), true) | (None, false) => {}
        }
    }

    /// Those that were in force in the span, in the order in which they began.
    pub(super) fn in_force(self, span: Span) -> Vec<InForce> {
        let Self { leaves, routes } = self;
        let mut all: Vec<InForce> = Vec::new();
        for leave in leaves.into_values().flatten() {
            let told = routes.get(&leave.route);
            let route_untold = told.is_none();
            for (from, to) in told.cloned().unwrap_or_else(|| vec![(leave.since, leave.until)]) {
                let (since, until) = (leave.since.max(from), leave.until.min(to));
                let (begins, ends) =
                    (span.from.map_or(since, |from| from.max(since)), span.to.map_or(until, |to| to.min(until)));
                if begins < ends {
                    all.push(InForce { since, until, route_untold, ..leave.clone() });
                }
            }
        }
        all.sort_by(|one, other| (one.since, &one.exception).cmp(&(other.since, &other.exception)));
        all
    }
}

/// What a record of an exception says, if it lets callers pass.
fn leave(name: &str, after: &Value, at: Timestamp) -> Option<InForce> {
    let text = |pointer: &str| after.pointer(pointer).and_then(Value::as_str);
    let time = |pointer: &str| text(pointer).and_then(|text| Timestamp::parse_rfc3339(text).ok());
    if text("/spec/rule") != Some(OBSERVE) {
        return None;
    }
    Some(InForce {
        exception: name.to_owned(),
        route: text("/spec/route")?.to_owned(),
        route_untold: false,
        owner: text("/spec/owner").unwrap_or_default().to_owned(),
        reason: text("/spec/reason").unwrap_or_default().to_owned(),
        since: time("/since").unwrap_or(at).min(at),
        until: time("/spec/expires")?,
    })
}
