//! A look into a token without verifying it.
//!
//! For people who ask what a token says and why the gate would refuse it. Nothing here says that a token is good: no
//! signature is checked, and only what the token shows by itself can be found.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::domain::{Reason, Timestamp};

/// Largest token looked at: far above what a gate accepts in a header.
const MAX_TOKEN_BYTES: usize = 64 << 10;
/// Algorithms that a gate verifies.
const ALGORITHMS: [&str; 3] = ["ES256", "RS256", "EdDSA"];
/// Header parameters that a gate refuses: each of them lets the token say how it is to be trusted.
const REFUSED_PARAMETERS: [&str; 5] = ["crit", "jku", "x5u", "jwk", "zip"];

/// What a token shows.
#[derive(Clone, Debug, Serialize)]
pub struct Look {
    /// The JOSE header (RFC 7515 section 4).
    pub header: Map<String, Value>,
    /// The claims (RFC 7519 section 4).
    pub claims: Map<String, Value>,
    /// What a gate would refuse it for, as far as the token alone shows it.
    pub findings: Vec<Finding>,
}

/// One thing that a gate would refuse a token for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The reason code.
    pub reason: Reason,
    /// What is wrong.
    pub detail: String,
}

/// Why a text is not a token that can be looked into.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a signed JSON web token: {0}")]
pub struct NotAToken(&'static str);

/// Decodes `token` and says what a gate would object to at `now`.
///
/// # Errors
/// When it is not three base64url parts of which the first two are JSON objects.
pub fn look(token: &str, now: Timestamp) -> Result<Look, NotAToken> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(NotAToken("longer than 64 KiB"));
    }
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts.as_slice() else { return Err(NotAToken("it has not three parts")) };
    let header = object(header, "its header is not a JSON object in base64url")?;
    let claims = object(claims, "its claims are not a JSON object in base64url")?;
    let mut findings = of_header(&header);
    if signature.is_empty() || URL_SAFE_NO_PAD.decode(signature).is_err() {
        findings.push(finding(Reason::TokenInvalid, "it is not signed"));
    }
    findings.extend(of_claims(&claims, now));
    Ok(Look { header, claims, findings })
}

fn object(part: &str, fault: &'static str) -> Result<Map<String, Value>, NotAToken> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| NotAToken(fault))?;
    serde_json::from_slice(&bytes).map_err(|_| NotAToken(fault))
}

fn finding(reason: Reason, detail: impl Into<String>) -> Finding {
    Finding { reason, detail: detail.into() }
}

fn of_header(header: &Map<String, Value>) -> Vec<Finding> {
    let mut findings = Vec::new();
    match header.get("alg").and_then(Value::as_str) {
        Some(alg) if ALGORITHMS.contains(&alg) => {}
        Some(alg) => findings.push(finding(Reason::TokenInvalid, format!("algorithm `{alg}` is not accepted"))),
        None => findings.push(finding(Reason::TokenInvalid, "its header names no algorithm (`alg`)")),
    }
    for parameter in REFUSED_PARAMETERS.iter().filter(|parameter| header.contains_key(**parameter)) {
        findings.push(finding(Reason::TokenInvalid, format!("header parameter `{parameter}` is not accepted")));
    }
    findings
}

fn of_claims(claims: &Map<String, Value>, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in ["iss", "sub"] {
        if claims.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
            findings.push(finding(Reason::TokenInvalid, format!("claim `{name}` is missing")));
        }
    }
    if !claims.contains_key("aud") {
        findings.push(finding(Reason::TokenAudience, "claim `aud` is missing"));
    }
    match time(claims, "exp") {
        Some(end) if end <= now => findings.push(finding(Reason::CredentialExpired, format!("it ended at {end}"))),
        Some(_) => {}
        None => findings.push(finding(Reason::TokenInvalid, "claim `exp` is missing")),
    }
    if let Some(begin) = time(claims, "nbf").filter(|begin| *begin > now) {
        findings.push(finding(Reason::CredentialExpired, format!("it begins at {begin}")));
    }
    findings
}

/// A `NumericDate` (RFC 7519 section 2): seconds, perhaps with a fraction.
pub fn time(claims: &Map<String, Value>, name: &str) -> Option<Timestamp> {
    match claims.get(name)? {
        Value::Number(number) => match number.as_i64() {
            Some(seconds) => Some(Timestamp::from_unix_seconds(seconds)),
            None => number.as_f64().filter(|s| s.abs() < 1e12).map(|s| Timestamp::from_unix_micros((s * 1e6) as i64)),
        },
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.{}", part(header), part(claims), URL_SAFE_NO_PAD.encode([1; 64]))
    }

    fn reasons(header: &Value, claims: &Value) -> Vec<Reason> {
        let look = look(&token(header, claims), Timestamp::from_unix_seconds(1000)).unwrap();
        look.findings.into_iter().map(|finding| finding.reason).collect()
    }

    #[test]
    fn says_what_a_gate_would_object_to() {
        let good = json!({"iss": "i", "sub": "s", "aud": "a", "exp": 1001});
        assert_eq!(reasons(&json!({"alg": "ES256"}), &good), []);
        assert_eq!(reasons(&json!({"alg": "none"}), &good), [Reason::TokenInvalid]);
        assert_eq!(reasons(&json!({"alg": "ES256", "jku": "https://evil"}), &good), [Reason::TokenInvalid]);
        let late = json!({"iss": "i", "sub": "s", "exp": 1000, "nbf": 2000.5});
        let expected = [Reason::TokenAudience, Reason::CredentialExpired, Reason::CredentialExpired];
        assert_eq!(reasons(&json!({"alg": "RS256"}), &late), expected);
        assert_eq!(reasons(&json!({"alg": "EdDSA"}), &json!({})).len(), 4);
    }

    #[test]
    fn what_is_no_token_is_said_to_be_none() {
        for bad in ["", "a.b", "a.b.c.d", "!.!.!", &"a".repeat(70_000)] {
            assert!(look(bad, Timestamp::default()).is_err(), "{bad:.20}");
        }
    }
}
