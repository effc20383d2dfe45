//! What a webhook says, and whether its source said it. Pure.
//!
//! Only what a signature covers is believed: GitHub and Jira sign the body, so the kind of an event is told from the body
//! and not from a header, and the headers that name a delivery are for people to find it by.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::domain::Timestamp;
use crate::domain::ticket::TicketShape;

/// Shortest secret: one that can be guessed signs nothing.
const MIN_SECRET_BYTES: usize = 16;
/// Signatures of one webhook that are looked at: as many as are there while a secret is exchanged, and some.
const MAX_SIGNATURES: usize = 8;
/// How far from now an attempt at delivery may be (Standard Webhooks 1.0).
const TOLERANCE: Duration = Duration::from_secs(300);
/// Longest name of a delivery or an event that is told.
const MAX_NAME_CHARS: usize = 80;

/// The header of a name; `None` when it is not there, stands twice or is no text.
pub(super) type Headers<'h> = &'h dyn Fn(&str) -> Option<String>;

/// Why a webhook is not one of its source's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Untrue {
    /// Nobody signed it who has the secret.
    Unsigned,
    /// It was sent too long ago, or has yet to be.
    Stale,
}

/// Whether a body was signed with one of these secrets, as the source signs.
pub(super) fn verify(
    shape: TicketShape,
    secrets: &[u8],
    header: Headers<'_>,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Untrue> {
    let (name, given, prefix): (&str, char, &str) = match shape {
        TicketShape::Jira => ("x-hub-signature", ',', "sha256="),
        TicketShape::Github => ("x-hub-signature-256", ',', "sha256="),
        TicketShape::Pagerduty => ("x-pagerduty-signature", ',', "v1="),
        TicketShape::Generic => ("webhook-signature", ' ', "v1,"),
    };
    let signatures = header(name).ok_or(Untrue::Unsigned)?;
    let mut before = Vec::new();
    if shape == TicketShape::Generic {
        let (id, time) = (header("webhook-id"), header("webhook-timestamp"));
        let (id, time) = id.zip(time).ok_or(Untrue::Unsigned)?;
        let sent = time.parse::<i64>().map(Timestamp::from_unix_seconds).map_err(|_| Untrue::Unsigned)?;
        if sent.saturating_add(TOLERANCE) < now || sent > now.saturating_add(TOLERANCE) {
            return Err(Untrue::Stale);
        }
        before = format!("{id}.{time}.").into_bytes();
    }
    let decode = |text: &str| match shape {
        TicketShape::Generic => STANDARD.decode(text).ok(),
        TicketShape::Jira | TicketShape::Github | TicketShape::Pagerduty => unhex(text),
    };
    let signatures: Vec<Vec<u8>> = signatures
        .split(given)
        .take(MAX_SIGNATURES)
        .filter_map(|one| one.trim().strip_prefix(prefix).and_then(decode))
        .collect();
    before.extend_from_slice(body);
    for key in secrets.split(|byte| *byte == b'\n').filter_map(|line| key(shape, line)) {
        if signatures.iter().any(|signature| hmac::verify(&key, &before, signature).is_ok()) {
            return Ok(());
        }
    }
    Err(Untrue::Unsigned)
}

fn key(shape: TicketShape, line: &[u8]) -> Option<hmac::Key> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let bytes = match (shape, line.strip_prefix(b"whsec_")) {
        (TicketShape::Generic, Some(text)) => STANDARD.decode(text).ok()?,
        _ => line.to_vec(),
    };
    (bytes.len() >= MIN_SECRET_BYTES).then(|| hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) || text.len() > 128 {
        return None;
    }
    let pair = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..text.len()).step_by(2).map(pair).collect()
}

/// What a webhook says of a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// Which.
    pub(super) key: String,
    /// Whether it is closed.
    pub(super) closed: bool,
    /// Since when, by the source's clock.
    pub(super) since: Timestamp,
    /// The delivery, in words.
    pub(super) delivery: String,
}

/// What a body says: nothing, where it speaks of something else. `Err`: what it lacks.
pub(super) fn claim(shape: TicketShape, header: Headers<'_>, body: &Value) -> Result<Option<Claim>, &'static str> {
    match shape {
        TicketShape::Jira => jira(header, body),
        TicketShape::Github => github(header, body),
        TicketShape::Pagerduty => pagerduty(body),
        TicketShape::Generic => generic(header, body),
    }
}

fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer).and_then(Value::as_str)
}

fn time(value: &Value, pointer: &str) -> Option<Timestamp> {
    text(value, pointer).and_then(|text| Timestamp::parse_rfc3339(text).ok())
}

/// A delivery in words; what it is called is nobody's to write lines with.
fn named(event: &str, delivery: Option<String>) -> String {
    let plain = |text: &str| text.chars().filter(|c| !c.is_control()).take(MAX_NAME_CHARS).collect::<String>();
    let delivery = delivery.map(|delivery| format!(", delivery {}", plain(&delivery))).unwrap_or_default();
    format!("webhook {}{delivery}", plain(event))
}

/// Jira Cloud: `timestamp` is in milliseconds; a status belongs to one of three categories, of which `done` is the last.
fn jira(header: Headers<'_>, body: &Value) -> Result<Option<Claim>, &'static str> {
    let event = text(body, "/webhookEvent").ok_or("webhookEvent")?;
    if !event.starts_with("jira:issue_") {
        return Ok(None);
    }
    let key = text(body, "/issue/key").ok_or("issue.key")?.to_owned();
    let millis = body.pointer("/timestamp").and_then(Value::as_i64).ok_or("timestamp")?;
    let closed = match event {
        "jira:issue_deleted" => true,
        _ => {
            text(body, "/issue/fields/status/statusCategory/key").ok_or("issue.fields.status.statusCategory.key")?
                == "done"
        }
    };
    let since = Timestamp::from_unix_micros(millis.saturating_mul(1_000));
    Ok(Some(Claim { key, closed, since, delivery: named(event, header("x-atlassian-webhook-identifier")) }))
}

/// States of a deployment after which nothing more happens to it.
pub(super) const DEPLOYED: [&str; 4] = ["success", "failure", "error", "inactive"];

fn github(header: Headers<'_>, body: &Value) -> Result<Option<Claim>, &'static str> {
    let Some(repository) = text(body, "/repository/full_name") else { return Ok(None) };
    let id = |pointer: &str| body.pointer(pointer).and_then(Value::as_u64);
    let is = |name: &str| body.get(name).is_some_and(Value::is_object);
    // A deployment's event tells of the run and the job behind it too; a job's of neither.
    let (event, place, closed, since) = if is("deployment_status") {
        let state = text(body, "/deployment_status/state").ok_or("deployment_status.state")?;
        let place = id("/deployment/id").map(|id| format!("/deployment/{id}"));
        ("deployment_status", place, DEPLOYED.contains(&state), time(body, "/deployment_status/updated_at"))
    } else if is("workflow_job") {
        let place = id("/workflow_job/id").map(|id| format!("/job/{id}"));
        let closed = text(body, "/workflow_job/status") == Some("completed");
        let times = ["/workflow_job/completed_at", "/workflow_job/started_at", "/workflow_job/created_at"];
        ("workflow_job", place, closed, times.iter().find_map(|pointer| time(body, pointer)))
    } else if is("workflow_run") {
        let place = id("/workflow_run/id").map(|id| format!("/run/{id}"));
        let closed = text(body, "/workflow_run/status") == Some("completed");
        ("workflow_run", place, closed, time(body, "/workflow_run/updated_at"))
    } else if is("issue") {
        let place = id("/issue/number").map(|number| format!("#{number}"));
        let gone = matches!(text(body, "/action"), Some("deleted" | "transferred")) && !is("comment");
        ("issues", place, gone || text(body, "/issue/state") == Some("closed"), time(body, "/issue/updated_at"))
    } else if is("pull_request") {
        let place = id("/pull_request/number").map(|number| format!("#{number}"));
        let closed = text(body, "/pull_request/state") == Some("closed");
        ("pull_request", place, closed, time(body, "/pull_request/updated_at"))
    } else {
        return Ok(None);
    };
    let key = format!("{repository}{}", place.ok_or("the object's id or number")?);
    let since = since.ok_or("the object's time")?;
    Ok(Some(Claim { key, closed, since, delivery: named(event, header("x-github-delivery")) }))
}

/// PagerDuty, webhooks v3.
fn pagerduty(body: &Value) -> Result<Option<Claim>, &'static str> {
    let event = text(body, "/event/event_type").ok_or("event.event_type")?;
    if !event.starts_with("incident.") || text(body, "/event/data/type") != Some("incident") {
        return Ok(None);
    }
    let key = text(body, "/event/data/id").ok_or("event.data.id")?.to_owned();
    let status = text(body, "/event/data/status").ok_or("event.data.status")?;
    let since = time(body, "/event/occurred_at").ok_or("event.occurred_at")?;
    let delivery = text(body, "/event/id").map(str::to_owned);
    Ok(Some(Claim { key, closed: status == "resolved", since, delivery: named(event, delivery) }))
}

/// Standard Webhooks: `timestamp` is when it happened, which an attempt at delivery does not change.
fn generic(header: Headers<'_>, body: &Value) -> Result<Option<Claim>, &'static str> {
    let event = text(body, "/type").ok_or("type")?;
    let key = text(body, "/data/ticket").ok_or("data.ticket")?.to_owned();
    let since = time(body, "/timestamp").ok_or("timestamp")?;
    let closed = match text(body, "/data/state") {
        Some("closed") => true,
        Some("open") => false,
        _ => return Err("data.state: open or closed"),
    };
    Ok(Some(Claim { key, closed, since, delivery: named(event, header("webhook-id")) }))
}

#[cfg(test)]
mod tests;
