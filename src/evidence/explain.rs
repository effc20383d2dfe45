//! The whole story of one thing: from a call, a grant, a request, a change or an approval to all the others, both ways.
//!
//! Reads the control plane's log and gateways' logs and knows nothing but them: what is told stands in a record, and each
//! line says in which. It does not verify; whoever must know verifies the logs beside it.

mod calls;
mod effect;
mod emergency;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::entry::{Basis, Change, Entry, Event, Intent};
use super::query::{Filter, Found, Query, QueryError};
use super::storage::Storage;
use super::tree::leaf_hash;
use crate::domain::Timestamp;
use crate::domain::name::{ApprovalId, BreakGlassId, CallId, ChangeId, GrantId, RequestId};

pub use effect::ApprovalStory;

/// Calls under one grant that are listed from its beginning, and as many from its end. All are counted.
const LISTED: usize = 10;

/// A log and what it is called in a story.
#[derive(Clone, Debug)]
pub struct Log {
    /// For example its directory.
    pub name: String,
    /// Where it is.
    pub storage: Arc<dyn Storage>,
}

/// What an identifier turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Subject {
    Call,
    Grant,
    Request,
    Approval,
    Change,
    BreakGlass,
}

/// A line of a story: one record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// When it was recorded.
    pub at: Timestamp,
    /// In which log.
    pub log: String,
    /// At which position.
    pub seq: u64,
    /// The record's leaf hash (RFC 6962 section 2.1), base64: what a proof of inclusion begins with.
    pub leaf: String,
    /// Who.
    pub who: String,
    /// What, for example `request.approved` or `call.allowed`.
    pub what: String,
    /// In words.
    pub text: String,
}

/// What is known of calls under one grant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// How many were allowed.
    pub count: u64,
    /// When the first one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Timestamp>,
    /// When the last one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
    /// How many were cut.
    pub cut: u64,
    /// Logs of gateways that decided on it: where it took effect, with the first revision that a decision was made on.
    pub enforced: BTreeMap<String, u64>,
}

/// A grant of a story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GrantStory {
    /// Its identifier.
    pub id: GrantId,
    /// As it was made.
    pub made: Option<Value>,
    /// The store's revision that holds it.
    pub revision: Option<u64>,
    /// How it ended, if it has: `revoked` or `expired`.
    pub ended: Option<String>,
    /// What was done with it.
    pub calls: Calls,
}

/// The whole story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Story {
    /// What was asked about.
    pub id: String,
    /// What it is.
    pub subject: Subject,
    /// The request as its last record tells it: who asked, what analysing it said, who approved seeing what. Of one that was
    /// too large for a record, what was kept of it. `None` for a grant that was made by hand, and where no record is there.
    pub request: Option<Value>,
    /// What became of each approval of it.
    pub approvals: Vec<ApprovalStory>,
    /// The version of the policy that decided: who published it, when and why; its files are in the record.
    pub policy: Option<Value>,
    /// The change of catalog or policy as its last record tells it: who wanted it, what it did, who approved seeing what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<Value>,
    /// The break-glass as its last record tells it: who opened it, having signed in how, whom it concerns, what its review
    /// came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<Value>,
    /// What was granted, and what came of it.
    pub grants: Vec<GrantStory>,
    /// Everything in the order of time.
    pub timeline: Vec<Line>,
}

/// What an identifier leads to.
#[derive(Debug, Default)]
struct Ties {
    request: Option<RequestId>,
    change: Option<ChangeId>,
    broken: Option<BreakGlassId>,
    /// The revision in which the change came true: what it put in place is told there.
    applied: Option<u64>,
    grants: BTreeSet<GrantId>,
    policy: Option<u64>,
}

/// Tells the story of `id`. `None` when no record of these logs names it.
///
/// # Errors
/// When a log cannot be read.
pub fn explain(id: u128, control: &Log, gateways: &[Log]) -> Result<Option<Story>, QueryError> {
    let Some((subject, ties, alone)) = ties(id, control, gateways)? else { return Ok(None) };
    let mut story = Story {
        id: GrantId::from_bits(id).to_string(),
        subject,
        request: None,
        approvals: Vec::new(),
        policy: None,
        change: None,
        break_glass: None,
        grants: Vec::new(),
        timeline: alone,
    };
    let mut grants: BTreeMap<GrantId, GrantStory> = BTreeMap::new();
    for id in &ties.grants {
        let id = *id;
        let none = GrantStory { id, made: None, revision: None, ended: None, calls: Calls::default() };
        grants.insert(id, none);
    }
    walk(control, Filter { kind: Some(super::entry::Kind::Change), ..Filter::default() }, |found| {
        if let Event::Change(change) = &found.entry.event
            && take_change(change, &ties, &mut grants, &mut story)
        {
            story.timeline.push(line(control, found, &change.actor, &change.operation, &words(change)));
        }
    })?;
    for log in gateways {
        for (id, grant) in &mut grants {
            calls::of(log, *id, CallId::from_bits(self::bits(&story.id)), grant, &mut story.timeline)?;
        }
    }
    story.grants = grants.into_values().collect();
    story.approvals = story.request.as_ref().map(|request| effect::of(request, &story.grants)).unwrap_or_default();
    story.timeline.sort_by(|a, b| (a.at, &a.log, a.seq).cmp(&(b.at, &b.log, b.seq)));
    story.timeline.dedup_by(|a, b| (&a.log, a.seq) == (&b.log, b.seq));
    Ok(Some(story))
}

fn bits(id: &str) -> u128 {
    id.parse().map_or(0, GrantId::bits)
}

fn walk(log: &Log, filter: Filter, mut each: impl FnMut(&Found)) -> Result<(), QueryError> {
    let mut query = Query::new(log.storage.clone(), 0, filter);
    while let Some(found) = query.next()? {
        each(&found);
    }
    Ok(())
}

/// What the identifier is, and the request and grants that belong to it; lines of a call that belongs to none.
fn ties(id: u128, control: &Log, gateways: &[Log]) -> Result<Option<(Subject, Ties, Vec<Line>)>, QueryError> {
    let changes = || Filter { kind: Some(super::entry::Kind::Change), ..Filter::default() };
    let (grant, request, approval) = (GrantId::from_bits(id), RequestId::from_bits(id), ApprovalId::from_bits(id));
    let (mut subject, mut ties, mut alone) = (None, Ties::default(), Vec::new());
    // A call leads to its grant.
    for log in gateways {
        let filter = Filter { call: Some(CallId::from_bits(id)), ..Filter::default() };
        walk(log, filter, |found| match &found.entry.event {
            Event::Intent(intent) => {
                subject = Some(Subject::Call);
                match &intent.basis {
                    Basis::Grant(id) => drop(ties.grants.insert(*id)),
                    Basis::Exception(_) => alone.push(call_line(log, found, intent)),
                }
            }
            Event::Denial(denial) => {
                subject = Some(Subject::Call);
                let who = denial.identity.as_ref().map(ToString::to_string);
                let who = who.or_else(|| denial.principal.as_ref().map(ToString::to_string)).unwrap_or_default();
                let text = format!("{} {} refused: {}", denial.method, denial.path, denial.reason);
                alone.push(line(log, found, &who, "call.denied", &text));
            }
            Event::Denials(denials) => {
                subject = Some(Subject::Call);
                let who = denials.identity.as_ref().map(ToString::to_string).unwrap_or_default();
                let text = format!("refused: {}, one of those that are counted together", denials.reason);
                alone.push(line(log, found, &who, "call.denied", &text));
            }
            _ => {}
        })?;
    }
    walk(control, changes(), |found| {
        let Event::Change(change) = &found.entry.event else { return };
        let Some(after) = change.after.as_deref() else { return };
        match &*change.object_kind {
            "request" if change.object == request.to_string() => subject = Some(Subject::Request),
            "grant" if change.object == grant.to_string() => {
                subject = Some(Subject::Grant);
                ties.grants.insert(grant);
            }
            "change" if change.object == ChangeId::from_bits(id).to_string() => subject = Some(Subject::Change),
            "breakglass" if change.object == BreakGlassId::from_bits(id).to_string() => {
                subject = Some(Subject::BreakGlass);
                ties.broken = Some(BreakGlassId::from_bits(id));
            }
            kind @ ("request" | "change") => {
                let approvals = after.get("approvals").and_then(Value::as_array);
                let names = |given: &Value| given.get("id").and_then(Value::as_str) == Some(&approval.to_string());
                if approvals.is_some_and(|approvals| approvals.iter().any(names)) {
                    subject = Some(Subject::Approval);
                    if kind == "request" {
                        ties.request = change.object.parse().ok();
                    } else {
                        ties.change = change.object.parse().ok();
                    }
                }
            }
            _ => {}
        }
    })?;
    let Some(subject) = subject else { return Ok(None) };
    if subject == Subject::Request {
        ties.request = Some(request);
    }
    if subject == Subject::Change {
        ties.change = Some(ChangeId::from_bits(id));
    }
    of_change(control, &mut ties)?;
    // A grant leads to its request, and a request to its grants and its policy.
    walk(control, changes(), |found| {
        let Event::Change(change) = &found.entry.event else { return };
        let Some(after) = change.after.as_deref() else { return };
        let is_ours = |id: &GrantId| change.object == id.to_string();
        if change.object_kind == "grant" && ties.grants.iter().any(is_ours) {
            let origin = after.pointer("/grant/lineage/origin");
            let named = origin.and_then(|origin| origin.get("request")).and_then(Value::as_str);
            ties.request = named.and_then(|id| id.parse().ok()).or(ties.request);
        }
    })?;
    if let Some(request) = ties.request {
        walk(control, changes(), |found| {
            let Event::Change(change) = &found.entry.event else { return };
            let Some(after) = change.after.as_deref() else { return };
            if change.object_kind == "request" && change.object == request.to_string() {
                let grants = after.get("grants").and_then(Value::as_array).into_iter().flatten();
                ties.grants.extend(grants.filter_map(|id| id.as_str()?.parse::<GrantId>().ok()));
                ties.policy = after.pointer("/analysis/policy").and_then(Value::as_u64).or(ties.policy);
            }
        })?;
    }
    emergency::tie(control, &mut ties)?;
    Ok(Some((subject, ties, alone)))
}

/// A change leads to the revision in which it came true, and to the version of the policy that it brought; so does a
/// change that brought the version which decided.
fn of_change(control: &Log, ties: &mut Ties) -> Result<(), QueryError> {
    let Some(id) = ties.change.map(|id| id.to_string()) else { return Ok(()) };
    walk(control, Filter { kind: Some(super::entry::Kind::Change), ..Filter::default() }, |found| {
        let Event::Change(change) = &found.entry.event else { return };
        if change.object_kind == "change" && change.object == id && change.operation == "change.approved" {
            ties.applied = Some(change.revision);
            let version = change.after.as_deref().and_then(|after| after.get("version")).and_then(Value::as_u64);
            ties.policy = version.or(ties.policy);
        }
    })
}

/// Whether a change belongs to the story; what it tells of is taken in.
fn take_change(
    change: &Change<'_>,
    ties: &Ties,
    grants: &mut BTreeMap<GrantId, GrantStory>,
    story: &mut Story,
) -> bool {
    let after = change.after.as_deref();
    match &*change.object_kind {
        "change" if ties.change.is_some_and(|id| change.object == id.to_string()) => {
            if let Some(after) = after.filter(|after| after.get("author").is_some()) {
                match &mut story.change {
                    Some(before) if after.get("sha256").is_some() => laid_over(before, after),
                    told => *told = Some(after.clone()),
                }
            }
            true
        }
        "request" if ties.request.is_some_and(|id| change.object == id.to_string()) => {
            // A digest alone tells less than the record before it, and so does what is kept of one that was too large.
            if let Some(after) = after.filter(|after| after.get("ask").is_some()) {
                match &mut story.request {
                    Some(before) if after.get("sha256").is_some() => laid_over(before, after),
                    request => *request = Some(after.clone()),
                }
            }
            true
        }
        "grant" => {
            let grant = change.object.parse().ok().and_then(|id: GrantId| grants.get_mut(&id));
            let Some(grant) = grant else { return false };
            match &*change.operation {
                "grant.created" => {
                    grant.made = after.and_then(|after| after.get("grant")).cloned();
                    grant.revision = Some(change.revision);
                }
                "grant.revoked" => grant.ended = Some("revoked".to_owned()),
                "grant.expired" => grant.ended = Some("expired".to_owned()),
                _ => {}
            }
            true
        }
        "breakglass" => emergency::take(change, ties, story),
        // What a grant ends with, and what gateways had to show for it.
        "ticket" => grants.values().any(|grant| {
            let until = grant.made.as_ref().and_then(|made| made.pointer("/lineage/until")).and_then(Value::as_array);
            until.is_some_and(|until| until.iter().any(|ticket| ticket.as_str() == Some(&*change.object)))
        }),
        "policy" if ties.policy.is_some_and(|version| change.object.parse() == Ok(version)) => {
            story.policy = after.cloned().map(|mut record| {
                if let Some(record) = record.as_object_mut() {
                    record.remove("files");
                }
                record
            });
            true
        }
        // What a change put in place is told with it, each leading to it.
        _ => ties.change.is_some_and(|id| {
            let lead = format!("change {id} of ");
            Some(change.revision) == ties.applied && change.reason.as_deref().is_some_and(|it| it.starts_with(&lead))
        }),
    }
}

/// What is known by now over what was known before.
fn laid_over(before: &mut Value, after: &Value) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in after {
                laid_over(before.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (before, after) => *before = after.clone(),
    }
}

fn words(change: &Change<'_>) -> String {
    let reason = change.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let text = |pointer: &str| change.after.as_deref().and_then(|after| after.pointer(pointer)).and_then(Value::as_str);
    let about = match &*change.operation {
        "request.created" => format!(
            " for {}, because: {}",
            text("/ask/identity").unwrap_or_default(),
            text("/ask/reason").unwrap_or_default()
        ),
        "request.approved" | "change.approved" => {
            let approvals = change.after.as_deref().and_then(|after| after.get("approvals")).and_then(Value::as_array);
            let last = approvals.and_then(|approvals| approvals.last());
            let of = |key: &str| last.and_then(|last| last.get(key)).and_then(Value::as_str).unwrap_or_default();
            format!(", approval {} of what has the digest {}", of("id"), of("digest"))
        }
        "change.proposed" => {
            let objects = change.after.as_deref().and_then(|after| after.get("objects")).and_then(Value::as_array);
            let of = |it: &Value, key: &str| it.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let named = objects.into_iter().flatten().map(|it| format!("{} {}", of(it, "kind"), of(it, "name")));
            let named: Vec<String> = named.take(LISTED).collect();
            let why = text("/reason").map(|reason| format!(", because: {reason}")).unwrap_or_default();
            format!(" of {}{why}", named.join(", "))
        }
        "breakglass.opened" => emergency::words(change),
        "grant.created" => format!(
            " to {} on {}",
            text("/grant/identity").unwrap_or_default(),
            text("/grant/resource").unwrap_or_default()
        ),
        _ => String::new(),
    };
    format!("{} {} in revision {}{about}{reason}", change.object_kind, change.object, change.revision)
}

fn call_line(log: &Log, found: &Found, intent: &Intent<'_>) -> Line {
    let basis = match &intent.basis {
        Basis::Grant(id) => format!("grant {id}"),
        Basis::Exception(name) => format!("exception {name}"),
    };
    let text = format!(
        "call {} under {basis}: {} {}, {} on {}, decided on revision {}",
        intent.call, intent.method, intent.path, intent.action, intent.resource, intent.revision
    );
    line(log, found, intent.identity.as_str(), "call.allowed", &text)
}

fn line(log: &Log, found: &Found, who: &(impl ToString + ?Sized), what: &str, text: &str) -> Line {
    use base64::Engine as _;
    let Entry { seq, time, .. } = &found.entry;
    let leaf = base64::engine::general_purpose::STANDARD.encode(leaf_hash(&found.bytes).0);
    let (log, what, text) = (log.name.clone(), what.to_owned(), text.to_owned());
    Line { at: *time, log, seq: *seq, leaf, who: who.to_string(), what, text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_kept_of_a_large_record_is_laid_over_the_whole_one_before() {
        let mut before =
            json!({ "state": "pending", "ask": { "reason": "r", "limits": 1 }, "analysis": { "rules": ["a"] } });
        laid_over(
            &mut before,
            &json!({ "state": "granted", "ask": { "reason": "r" }, "analysis": { "policy": 2 }, "grants": ["g"] }),
        );
        let whole = json!({ "state": "granted", "ask": { "reason": "r", "limits": 1 }, "analysis": { "rules": ["a"], "policy": 2 }, "grants": ["g"] });
        assert_eq!(before, whole);
    }
}
