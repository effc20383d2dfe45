//! The whole story of one thing: from a call, a grant, a request, a change or an approval to all the others, both ways.
//!
//! Reads the control plane's log and gateways' logs and knows nothing but them: what is told stands in a record, and each
//! line says in which. It does not verify; whoever must know verifies the logs beside it.

pub mod access;
mod calls;
mod effect;
mod emergency;
mod prove;
mod ties;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::entry::{Basis, Change, Entry, Event, Intent};
use super::query::{Filter, Found, Query, QueryError};
use super::storage::Storage;
use super::tree::leaf_hash;
use crate::domain::Timestamp;
use crate::domain::name::{CallId, GrantId};

pub use effect::ApprovalStory;
pub use prove::prove;
use ties::{Ties, ties};

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
    /// The record with the proof that it is in its log, as a file of `evidence prove` has it (C2SP tlog-proof). Where it was
    /// asked for, and there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Why there is none, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unproven: Option<String>,
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
            let place = match of("on_behalf_of") {
                "" => String::new(),
                from => format!(", in the place of {from}"),
            };
            format!(", approval {} of what has the digest {}{place}", of("id"), of("digest"))
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
    Line { at: *time, log, seq: *seq, leaf, who: who.to_string(), what, text, proof: None, unproven: None }
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
