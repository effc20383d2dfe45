//! Refusals, in the caller's protocol: `application/problem+json` with a challenge, or a gRPC status.
//!
//! What a refusal says comes from the table of reasons, the call id and, where access can be asked for, the caller's own
//! identity, resource and action. It knows nothing else, so it can tell nothing about others' access.

use std::fmt::Write as _;

use bytes::Bytes;
use serde::Serialize;

use crate::domain::Reason;
use crate::domain::name::{ActionName, CallId, IdentityName, ResourceName};
use crate::domain::reason::Fault;

/// The header that carries the call id, towards the upstream and on the answer.
pub(crate) const CALL_ID_HEADER: &str = "portcullis-call-id";

/// Why a call ends here, and what the caller may know.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    /// The reason.
    pub(crate) reason: Reason,
    /// The call.
    pub(crate) call: CallId,
    /// What could be asked for.
    pub(crate) wanted: Option<Box<Wanted>>,
}

/// What the caller would have needed.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) identity: IdentityName,
    pub(crate) resource: ResourceName,
    pub(crate) action: ActionName,
    /// Whether a policy is in force, so that nobody makes grants by hand.
    pub(crate) is_governed: bool,
}

/// An answer of the gate's own.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

/// The protocol that a caller speaks over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Plain HTTP.
    Http,
    /// gRPC over HTTP/2.
    Grpc,
}

/// An RFC 9457 problem document.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'static str,
    reason: &'static str,
    call_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ask: Option<String>,
}

impl Refusal {
    pub(crate) const fn new(reason: Reason, call: CallId) -> Self {
        Self { reason, call, wanted: None }
    }

    /// The answer that a caller gets.
    pub(crate) fn answer(&self, dialect: Dialect) -> Answer {
        match dialect {
            Dialect::Http => self.problem(),
            Dialect::Grpc => self.grpc(),
        }
    }

    fn problem(&self) -> Answer {
        let info = self.reason.info();
        let wanted = self.wanted.as_deref();
        let problem = Problem {
            r#type: format!("urn:portcullis:reason:{}", info.code),
            title: title(info.status),
            status: info.status,
            detail: info.detail,
            reason: info.code,
            call_id: self.call.to_string(),
            identity: wanted.map(|w| w.identity.as_str()),
            resource: wanted.map(|w| w.resource.as_str()),
            action: wanted.map(|w| w.action.as_str()),
            ask: wanted.filter(|_| can_be_asked_for(self.reason)).map(|w| {
                let verb = if w.is_governed { "request" } else { "grant" };
                format!(
                    "portcullis {verb} create --identity {} --resource {} --action {} --duration 15m --reason '...'",
                    w.identity, w.resource, w.action
                )
            }),
        };
        let mut headers = vec![
            ("content-type", "application/problem+json".to_owned()),
            ("cache-control", "no-store".to_owned()),
            (CALL_ID_HEADER, self.call.to_string()),
        ];
        headers.extend(self.challenge().map(|challenge| ("www-authenticate", challenge)));
        headers.extend(retry_after(self.reason).map(|seconds| ("retry-after", seconds.to_owned())));
        // A problem document holds strings and numbers only: it always serialises.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        Answer { status: info.status, headers, body: body.into() }
    }

    /// RFC 6750 section 3: no error code where no credential was presented.
    fn challenge(&self) -> Option<String> {
        let realm = "Bearer realm=\"portcullis\"";
        match (self.reason, self.reason.info().status) {
            (Reason::CredentialMissing, _) => Some(realm.to_owned()),
            (Reason::CredentialMalformed, _) => Some(format!("{realm}, error=\"invalid_request\"")),
            (_, 401) => Some(format!("{realm}, error=\"invalid_token\", error_description=\"{}\"", self.reason.code())),
            (_, 403) if self.reason.info().fault == Fault::Access => {
                let mut challenge = format!("{realm}, error=\"insufficient_scope\"");
                if let Some(wanted) = &self.wanted {
                    let _ = write!(challenge, ", scope=\"{}:{}\"", wanted.resource, wanted.action);
                }
                Some(challenge)
            }
            _ => None,
        }
    }

    /// A trailers-only response (gRPC over HTTP/2, "Responses").
    fn grpc(&self) -> Answer {
        let info = self.reason.info();
        let message: String = format!("{} (reason {}, call {})", info.detail, info.code, self.call);
        Answer {
            status: 200,
            headers: vec![
                ("content-type", "application/grpc".to_owned()),
                ("grpc-status", (info.grpc as u8).to_string()),
                ("grpc-message", message.replace('%', "%25")),
                (CALL_ID_HEADER, self.call.to_string()),
            ],
            body: Bytes::new(),
        }
    }
}

/// Whether asking for a grant would help.
fn can_be_asked_for(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::GrantMissing
            | Reason::ActionNotGranted
            | Reason::ParameterNotGranted
            | Reason::GrantExpired
            | Reason::GrantRevoked
    )
}

/// Seconds after which trying again makes sense.
fn retry_after(reason: Reason) -> Option<&'static str> {
    match reason.info().status {
        503 if reason == Reason::AuthorityStale || reason == Reason::AuthorityMissing => Some("3"),
        503 => Some("1"),
        _ => None,
    }
}

fn title(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Refused")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(reason: Reason) -> Refusal {
        let wanted = Wanted {
            identity: "billing".parse().unwrap(),
            resource: "api/orders".parse().unwrap(),
            action: "read".parse().unwrap(),
            is_governed: false,
        };
        Refusal { reason, call: CallId::from_bits(7), wanted: Some(Box::new(wanted)) }
    }

    #[test]
    fn every_reason_has_an_answer_that_says_what_the_table_says() {
        for reason in Reason::ALL.iter().copied() {
            let answer = refusal(reason).answer(Dialect::Http);
            let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(answer.status, reason.info().status);
            assert_eq!(body["reason"], reason.code());
            assert_eq!(body["call_id"], CallId::from_bits(7).to_string());
            let header = |name| answer.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
            assert_eq!(header("www-authenticate").is_some(), matches!(answer.status, 401) || (answer.status == 403));
            assert_eq!(header("retry-after").is_some(), answer.status == 503);
            let grpc = refusal(reason).answer(Dialect::Grpc);
            assert_eq!(grpc.status, 200);
            assert!(
                grpc.headers.iter().any(|(n, v)| *n == "grpc-status" && *v == (reason.info().grpc as u8).to_string())
            );
        }
    }

    #[test]
    fn what_to_ask_for_is_what_the_control_plane_would_take() {
        let asked = |is_governed| {
            let mut refusal = refusal(Reason::GrantMissing);
            refusal.wanted.as_mut().unwrap().is_governed = is_governed;
            let body: serde_json::Value = serde_json::from_slice(&refusal.answer(Dialect::Http).body).unwrap();
            body["ask"].as_str().unwrap().to_owned()
        };
        assert!(asked(false).starts_with("portcullis grant create --identity billing"));
        assert!(asked(true).starts_with("portcullis request create --identity billing"));
    }

    #[test]
    fn no_credential_is_no_error() {
        let answer = refusal(Reason::CredentialMissing).answer(Dialect::Http);
        let challenge = answer.headers.iter().find(|(n, _)| *n == "www-authenticate").unwrap();
        assert!(!challenge.1.contains("error"), "RFC 6750 section 3.1");
    }
}
