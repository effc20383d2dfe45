//! Who had access to a resource in a span of time: since when, asked for and approved by whom, used how, and removed when.
//!
//! From records alone: grants as the control plane's log tells them, calls as gateways' logs do. A call that began after its
//! grant had ended is counted as late, and there is none where access was removed in time.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::super::entry::{Basis, Change, Event, Intent, Kind};
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
    /// How many were allowed.
    pub calls: u64,
    /// When the first one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Timestamp>,
    /// When the last one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
    /// Those that began after the grant's recorded end.
    pub late: u64,
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
    /// To do what.
    pub actions: Vec<String>,
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
    /// The record that made it, in the control plane's log.
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

/// Everybody who had access.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Accesses {
    /// By grants, in the order in which they began.
    pub grants: Vec<Held>,
    /// By exceptions.
    pub exceptions: Vec<Excepted>,
}

/// Who asked and who approved, of a request or a break-glass.
#[derive(Debug, Default)]
struct Asked {
    by: String,
    approved_by: Vec<String>,
}

/// Tells who had access to `resource`.
///
/// # Errors
/// When a log cannot be read.
pub fn access(resource: &ResourceName, span: Span, control: &Log, gateways: &[Log]) -> Result<Accesses, QueryError> {
    let mut held: BTreeMap<GrantId, Held> = BTreeMap::new();
    let mut asked: BTreeMap<String, Asked> = BTreeMap::new();
    walk(control, Filter { kind: Some(Kind::Change), ..Filter::default() }, |found| {
        let Event::Change(change) = &found.entry.event else { return };
        match &*change.object_kind {
            "request" | "breakglass" => note_asked(change, &mut asked),
            "grant" => take(change, found.entry.time, found.entry.seq, resource, &mut held),
            _ => {}
        }
    })?;
    for it in held.values_mut() {
        if let Some(asked) = asked.get(&it.basis) {
            it.requested_by.clone_from(&asked.by);
            it.approved_by.clone_from(&asked.approved_by);
        }
    }
    let mut excepted: BTreeMap<(String, String), Used> = BTreeMap::new();
    let filter = || Filter { resource: Some(resource.clone()), from: span.from, to: span.to, ..Filter::default() };
    for log in gateways {
        walk(log, filter(), |found| {
            let (at, Event::Intent(intent)) = (found.entry.time, &found.entry.event) else { return };
            used(intent, at, &mut held, &mut excepted);
        })?;
    }
    // A call in the span is told of, also under a grant that was over before it began.
    held.retain(|_, it| {
        let over = it.ended.as_ref().map_or(it.until, |end| end.at.min(it.until));
        it.used.calls > 0 || (span.to.is_none_or(|to| it.since < to) && span.from.is_none_or(|from| over > from))
    });
    let mut grants: Vec<Held> = held.into_values().collect();
    grants.sort_by_key(|it| (it.since, it.grant));
    let exceptions = excepted.into_iter().map(|((exception, identity), used)| Excepted { identity, exception, used });
    Ok(Accesses { grants, exceptions: exceptions.collect() })
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
    let Some(it) = held.get_mut(&id) else { return };
    // It is recorded that its time had come after gateways ended it by themselves; and a revocation may be recorded late.
    let revoked = change.after.as_deref().and_then(|after| after.pointer("/grant/revoked/at")).and_then(Value::as_str);
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

fn used(
    intent: &Intent<'_>,
    at: Timestamp,
    held: &mut BTreeMap<GrantId, Held>,
    excepted: &mut BTreeMap<(String, String), Used>,
) {
    let (used, is_late) = match &intent.basis {
        Basis::Grant(id) => {
            let Some(it) = held.get_mut(id) else { return };
            let over = it.ended.as_ref().map_or(it.until, |end| end.at.min(it.until));
            (&mut it.used, at >= over)
        }
        Basis::Exception(name) => (excepted.entry((name.to_string(), intent.identity.to_string())).or_default(), false),
    };
    used.calls = used.calls.saturating_add(1);
    used.late = used.late.saturating_add(u64::from(is_late));
    used.first = Some(used.first.map_or(at, |first| first.min(at)));
    used.last = Some(used.last.map_or(at, |last| last.max(at)));
}
