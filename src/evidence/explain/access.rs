//! Who had access to a resource in a span of time: since when, asked for and approved by whom, used how, and removed when.
//!
//! From records alone: grants as the control plane's log tells them, calls as gateways' logs do. A call that began after its
//! grant had ended is counted as late, and there is none where access was removed in time. What the logs do not tell, or not
//! any more, is said: calls under grants that are not told of, logs that begin after the span does or end before it, and
//! what may have been given before the control plane's log begins.

mod calls;
mod excepted;
mod gaps;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use self::calls::{By, Uses};
use self::excepted::Exceptions;
pub use self::excepted::InForce;
use self::gaps::Lineage;
pub use self::gaps::{Gap, Missing};
use super::super::entry::{Change, Event, Kind};
use super::super::query::{Filter, QueryError};
use super::{Log, walk};
use crate::domain::Timestamp;
use crate::domain::name::{GrantId, ResourceName};

/// A span of time, from its first moment to the first one after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Not before; absent: from the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Before; absent: up to now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
}

/// Calls in the span.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Used {
    /// How many were allowed, but for those of which it is recorded that nothing was sent on.
    pub calls: u64,
    /// When the first one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Timestamp>,
    /// When the last one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
    /// Those that began after the grant's recorded end.
    pub late: u64,
    /// Calls that were allowed and then ended before anything of them went upstream: no access.
    pub never_sent: u64,
}

/// How a grant ended before its time, or that its time had come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// `revoked` or `expired`.
    pub how: String,
    /// From when on it was over.
    pub at: Timestamp,
    /// Who ended it.
    pub by: String,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Access that somebody had under a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The grant: `evidence explain` tells its whole story.
    pub grant: GrantId,
    /// Whose.
    pub identity: String,
    /// To do what. Empty: the record was too large, and its actions were left out.
    pub actions: Vec<String>,
    /// Actions that the record leaves out: it was too large.
    #[serde(skip_serializing_if = "is_none")]
    pub actions_left_out: u64,
    /// Since when.
    pub since: Timestamp,
    /// Until when it was given.
    pub until: Timestamp,
    /// How it ended, where that is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<End>,
    /// Who asked for it, or made it.
    pub requested_by: String,
    /// Who approved it, in order.
    pub approved_by: Vec<String>,
    /// On what it stands: a request, a break-glass, or that it was made by hand.
    pub basis: String,
    /// What for.
    pub reason: String,
    /// The record that tells of it first, in the control plane's log.
    pub record: u64,
    /// What was done with it in the span.
    pub used: Used,
}

/// Access that an identity had by an exception, without a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Excepted {
    /// Whose.
    pub identity: String,
    /// The exception.
    pub exception: String,
    /// What was done by it in the span.
    pub used: Used,
}

/// Access of which only the calls are told: under a grant that the control plane's log does not tell of, as it was pruned or
/// is another one's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Untold {
    /// The grant.
    pub grant: GrantId,
    /// Whose calls.
    pub identity: String,
    /// What they did.
    pub actions: Vec<String>,
    /// What was done under it in the span.
    pub used: Used,
}

/// Everybody who had access.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Accesses {
    /// By grants, in the order in which they began.
    pub grants: Vec<Held>,
    /// By exceptions.
    pub exceptions: Vec<Excepted>,
    /// Exceptions by which every identified caller had access, whether one called or not.
    pub exceptions_in_force: Vec<InForce>,
    /// Calls under grants that this control plane's log does not tell of.
    pub untold: Vec<Untold>,
    /// What the logs do not tell of the span.
    pub gaps: Vec<Gap>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_none(count: &u64) -> bool {
    *count == 0
}

/// Who asked and who approved, of a request or a break-glass.
#[derive(Debug, Default)]
struct Asked {
    by: String,
    approved_by: Vec<String>,
}

/// Tells who had access to `resource`, as of `now`. Logs of one key are one log: what several of them have counts once.
///
/// # Errors
/// When a log cannot be read.
pub fn access(
    resource: &ResourceName,
    span: Span,
    now: Timestamp,
    control: &Log,
    gateways: &[Log],
) -> Result<Accesses, QueryError> {
    let mut held: BTreeMap<GrantId, Held> = BTreeMap::new();
    let mut asked: BTreeMap<String, Asked> = BTreeMap::new();
    let (mut leaves, mut lineage) = (Exceptions::default(), Lineage::default());
    walk(control, Filter { kind: Some(Kind::Change), ..Filter::default() }, |found| {
        let Event::Change(change) = &found.entry.event else { return };
        match &*change.object_kind {
            "request" | "breakglass" => note_asked(change, &mut asked),
            "grant" => take(change, found.entry.time, found.entry.seq, resource, &mut held),
            "exception" => leaves.take(change, found.entry.time),
            "route" => leaves.take_route(change, found.entry.time, resource),
            "log" => lineage.take(change, found.entry.time),
            _ => {}
        }
    })?;
    for it in held.values_mut() {
        if let Some(asked) = asked.get(&it.basis) {
            it.requested_by.clone_from(&asked.by);
            it.approved_by.clone_from(&asked.approved_by);
        }
    }
    let over = |it: &Held| it.ended.as_ref().map_or(it.until, |end| end.at.min(it.until));
    let ends: BTreeMap<GrantId, Timestamp> = held.iter().map(|(id, it)| (*id, over(it))).collect();
    let mut uses = Uses::new(&ends);
    let logs = gaps::whole(gateways)?;
    for log in &logs {
        calls::of(log, resource, span, &mut uses)?;
    }
    let (mut exceptions, mut untold) = (Vec::new(), Vec::new());
    for ((by, identity), it) in uses.take() {
        let used = it.used;
        match by {
            By::Exception(exception) => exceptions.push(Excepted { identity, exception, used }),
            By::Grant(grant) => match held.get_mut(&grant) {
                Some(held) => held.used.add(&used),
                None => untold.push(Untold { grant, identity, actions: it.actions.into_iter().collect(), used }),
            },
        }
    }
    // A call in the span is told of, also under a grant that was over before it began.
    held.retain(|_, it| {
        let called = it.used.calls > 0 || it.used.never_sent > 0;
        called || (span.to.is_none_or(|to| it.since < to) && span.from.is_none_or(|from| over(it) > from))
    });
    let mut grants: Vec<Held> = held.into_values().collect();
    grants.sort_by_key(|it| (it.since, it.grant));
    let upto = span.to.map_or(now, |to| to.min(now));
    let mut gaps = gaps::of_control(control, upto)?;
    gaps.extend(gaps::of_gateways(&logs, &lineage, span, upto));
    Ok(Accesses { grants, exceptions, exceptions_in_force: leaves.in_force(span), untold, gaps })
}

fn note_asked(change: &Change<'_>, asked: &mut BTreeMap<String, Asked>) {
    let Some(after) = change.after.as_deref() else { return };
    let whose = |value: &Value| match value {
        Value::String(name) => Some(name.clone()),
        Value::Object(one) => one.values().find_map(Value::as_str).map(str::to_owned),
        _ => None,
    };
    let it = asked.entry(format!("{} {}", change.object_kind, change.object)).or_default();
    if let Some(by) = after.get("requester").or_else(|| after.get("opener")).and_then(whose) {
        it.by = by;
    }
    if let Some(approvals) = after.get("approvals").and_then(Value::as_array) {
        let by = approvals.iter().filter_map(|approval| approval.get("by").and_then(Value::as_str));
        it.approved_by = by.map(str::to_owned).collect();
    }
}

fn take(change: &Change<'_>, at: Timestamp, seq: u64, resource: &ResourceName, held: &mut BTreeMap<GrantId, Held>) {
    let Ok(id) = change.object.parse::<GrantId>() else { return };
    let how = match &*change.operation {
        "grant.created" => {
            held.extend(change.after.as_deref().and_then(|after| made(id, seq, after, resource)).map(|it| (id, it)));
            return;
        }
        "grant.revoked" => "revoked",
        "grant.expired" => "expired",
        _ => return,
    };
    // Where the record that made it was pruned, this one may tell of it too.
    let after = change.after.as_deref();
    if !held.contains_key(&id) {
        held.extend(after.and_then(|after| made(id, seq, after, resource)).map(|it| (id, it)));
    }
    let Some(it) = held.get_mut(&id) else { return };
    // It is recorded that its time had come after gateways ended it by themselves; and a revocation may be recorded late.
    let revoked = after.and_then(|after| after.pointer("/grant/revoked/at")).and_then(Value::as_str);
    let revoked = revoked.and_then(|text| Timestamp::parse_rfc3339(text).ok());
    let at = if how == "expired" { it.until } else { revoked.unwrap_or(at) };
    let (by, reason) = (change.actor.to_string(), change.reason.as_deref().map(str::to_owned));
    it.ended = Some(End { how: how.to_owned(), at, by, reason });
}

/// A grant as it was made, if it is one on the resource.
fn made(id: GrantId, seq: u64, after: &Value, resource: &ResourceName) -> Option<Held> {
    let grant = after.get("grant")?;
    let text = |pointer: &str| grant.pointer(pointer).and_then(Value::as_str);
    let time = |pointer: &str| text(pointer).and_then(|text| Timestamp::parse_rfc3339(text).ok());
    if text("/resource") != Some(resource.as_str()) {
        return None;
    }
    let of = |kind: &str, id: &str| format!("{kind} {id}");
    let basis = text("/lineage/origin/request").map(|id| of("request", id));
    let basis = basis.or_else(|| text("/lineage/break_glass").map(|id| of("breakglass", id)));
    let actions = grant.get("actions").and_then(Value::as_array).into_iter().flatten();
    Some(Held {
        grant: id,
        identity: text("/identity")?.to_owned(),
        actions: actions.filter_map(Value::as_str).map(str::to_owned).collect(),
        actions_left_out: grant.get("actions_left_out").and_then(Value::as_u64).unwrap_or_default(),
        since: time("/window/starts")?,
        until: time("/window/ends")?,
        ended: None,
        requested_by: text("/lineage/created_by").unwrap_or_default().to_owned(),
        approved_by: Vec::new(),
        basis: basis.unwrap_or_else(|| "made by hand".to_owned()),
        reason: text("/lineage/reason").unwrap_or_default().to_owned(),
        record: seq,
        used: Used::default(),
    })
}

#[cfg(test)]
mod tests;
