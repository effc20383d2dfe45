//! Reading a ticket where it is kept: over HTTP, with a bearer token from a file, bounded.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::webhook::DEPLOYED;
use crate::domain::ticket::{Ticket, TicketReadSpec, TicketShape};
use crate::settings::read_secret;

/// How long a source may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer: an issue with all that is said in it.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Nesting of an answer.
const MAX_DEPTH: usize = 64;

/// Why a ticket could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReadError {
    /// The source gave no answer that says.
    #[error("{0} does not tell what became of {1}: {2}")]
    Unknown(String, String, String),
}

/// Whether a ticket is closed.
pub(super) async fn is_closed(
    secrets: &Path,
    shape: TicketShape,
    spec: &TicketReadSpec,
    ticket: &Ticket,
) -> Result<bool, ReadError> {
    let fault = |why: String| ReadError::Unknown(ticket.source.to_string(), ticket.key.to_string(), why);
    let url = address(shape, &spec.url, &ticket.key).ok_or_else(|| fault("it has no such keys".to_owned()))?;
    // A second call changes nothing: the process has one provider, and it is this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(PATIENCE);
    // Without TLS there is nothing to check a certificate against, and a bare machine has no roots.
    let builder = if url.starts_with("https://") { builder } else { builder.no_proxy().tls_certs_only([]) };
    let client = builder.build().map_err(|error| fault(error.to_string()))?;
    let mut asking = client.get(&url).header("accept", "application/json").header("user-agent", "portcullis");
    if let Some(name) = &spec.token_file {
        let token = read_secret(&secrets.join(name.as_str())).map_err(|error| fault(error.to_string()))?;
        asking = asking.bearer_auth(String::from_utf8_lossy(&token));
    }
    let mut answer = asking.send().await.map_err(|error| fault(error.without_url().to_string()))?;
    if matches!(answer.status().as_u16(), 404 | 410) {
        return Err(fault("there is none, or the token may not see it".to_owned()));
    }
    if !answer.status().is_success() {
        return Err(fault(format!("it answered {}", answer.status())));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| fault(error.without_url().to_string()))? {
        if body.len().saturating_add(chunk.len()) > MAX_ANSWER_BYTES {
            return Err(fault(format!("it answered with more than {MAX_ANSWER_BYTES} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    let json = crate::token::json::value(&body, MAX_DEPTH).map_err(|error| fault(error.to_string()))?;
    closed_by(shape, &json).ok_or_else(|| fault("its answer has no state".to_owned()))
}

/// Where a ticket is read: Jira's REST API v3, GitHub's REST API, PagerDuty's REST API v2.
fn address(shape: TicketShape, base: &str, key: &str) -> Option<String> {
    let base = base.trim_end_matches('/');
    match shape {
        TicketShape::Jira => Some(format!("{base}/rest/api/3/issue/{}?fields=status", encoded(key))),
        TicketShape::Pagerduty => Some(format!("{base}/incidents/{}", encoded(key))),
        TicketShape::Generic => Some(base.replace("{key}", &encoded(key))),
        TicketShape::Github => {
            if let Some((repository, number)) = key.split_once('#') {
                return Some(format!("{base}/repos/{repository}/issues/{number}"));
            }
            let (rest, id) = key.rsplit_once('/')?;
            let (repository, kind) = rest.rsplit_once('/')?;
            match kind {
                "job" => Some(format!("{base}/repos/{repository}/actions/jobs/{id}")),
                "run" => Some(format!("{base}/repos/{repository}/actions/runs/{id}")),
                "deployment" => Some(format!("{base}/repos/{repository}/deployments/{id}/statuses?per_page=1")),
                _ => None,
            }
        }
    }
}

/// RFC 3986 section 2.3: everything that is not unreserved is encoded, so that a key stays one segment.
fn encoded(key: &str) -> String {
    key.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    })
}

fn closed_by(shape: TicketShape, json: &Value) -> Option<bool> {
    let text = |pointer: &str| json.pointer(pointer).and_then(Value::as_str);
    match shape {
        TicketShape::Jira => Some(text("/fields/status/statusCategory/key")? == "done"),
        TicketShape::Pagerduty => Some(text("/incident/status")? == "resolved"),
        TicketShape::Generic => match text("/state")? {
            "closed" => Some(true),
            "open" => Some(false),
            _ => None,
        },
        // Statuses of a deployment, the newest first; none yet is one that has begun.
        TicketShape::Github if json.is_array() => Some(text("/0/state").is_some_and(|state| DEPLOYED.contains(&state))),
        TicketShape::Github => match (text("/state"), text("/status")) {
            (Some(state), _) => Some(state == "closed"),
            (None, Some(status)) => Some(status == "completed"),
            (None, None) => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_leads_to_one_place_of_its_source() {
        let at = |shape, key: &str| address(shape, "https://api.example/", key).unwrap();
        assert_eq!(at(TicketShape::Jira, "OPS-1"), "https://api.example/rest/api/3/issue/OPS-1?fields=status");
        assert_eq!(at(TicketShape::Github, "a/b#7"), "https://api.example/repos/a/b/issues/7");
        assert_eq!(at(TicketShape::Github, "a/b/job/7"), "https://api.example/repos/a/b/actions/jobs/7");
        assert_eq!(at(TicketShape::Github, "a/b/run/7"), "https://api.example/repos/a/b/actions/runs/7");
        let deployment = "https://api.example/repos/a/b/deployments/7/statuses?per_page=1";
        assert_eq!(at(TicketShape::Github, "a/b/deployment/7"), deployment);
        let own = address(TicketShape::Generic, "https://own.example/t/{key}?full=1", "../x/y?z").unwrap();
        assert_eq!(own, "https://own.example/t/%2E%2E%2Fx%2Fy%3Fz?full=1");
    }

    #[test]
    fn an_answer_says_whether_it_is_closed_or_nothing() {
        let said = closed_by;
        let jira = |key: &str| json!({ "fields": { "status": { "statusCategory": { "key": key } } } });
        assert_eq!(said(TicketShape::Jira, &jira("done")), Some(true));
        assert_eq!(said(TicketShape::Jira, &jira("indeterminate")), Some(false));
        assert_eq!(said(TicketShape::Pagerduty, &json!({ "incident": { "status": "resolved" } })), Some(true));
        assert_eq!(said(TicketShape::Github, &json!({ "state": "open" })), Some(false));
        assert_eq!(said(TicketShape::Github, &json!({ "status": "completed" })), Some(true));
        assert_eq!(said(TicketShape::Github, &json!([])), Some(false));
        assert_eq!(said(TicketShape::Github, &json!([{ "state": "inactive" }])), Some(true));
        for shape in [TicketShape::Jira, TicketShape::Pagerduty, TicketShape::Github, TicketShape::Generic] {
            assert_eq!(said(shape, &json!({ "message": "Not Found" })), None);
        }
    }
}
