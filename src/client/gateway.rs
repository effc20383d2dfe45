//! The gateway's token endpoints, as a caller uses them (RFC 8693, RFC 6749, RFC 7009).
//!
//! Knows how a token is asked for, not what the gate thinks about it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::target::ClientCertificate;
use crate::domain::route::UpstreamUrl;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer read.
const MAX_ANSWER_BYTES: usize = 256 << 10;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Nobody answers there.
    #[error("no gateway at {url}: {why}")]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// The gateway said no (RFC 6749 section 5.2), or answered a problem document (RFC 9457).
    #[error("{description}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The reason code, or the error code of OAuth.
        reason: String,
        /// What can be done about it.
        description: String,
    },
    /// The token would cross a network in the clear.
    #[error("{url} is not on this machine: a token is sent there by https only")]
    InClear {
        /// Where it would have gone.
        url: String,
    },
    /// The answer is not one of a token endpoint.
    #[error("the gateway at {url} answered what cannot be read")]
    Answer {
        /// Which one.
        url: String,
    },
}

/// Who asks for a token.
pub enum Subject {
    /// The holder of a token of a trusted issuer.
    Token(Zeroizing<String>),
    /// The holder of a client certificate.
    Certificate(ClientCertificate),
}

/// What a token is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The resource, the `audience` of RFC 8693.
    pub audience: String,
    /// Actions, the `scope`.
    pub scope: Vec<String>,
}

/// An issued token (RFC 8693 section 2.2.1).
#[derive(Clone, Serialize, Deserialize)]
pub struct Issued {
    /// The token.
    pub access_token: String,
    /// What kind of token it is, a URI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_token_type: Option<String>,
    /// How it is presented: `Bearer`.
    pub token_type: String,
    /// Its life in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    /// What it is good for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    error: String,
    error_description: String,
    reason: String,
    detail: String,
    title: String,
}

/// Asks the gateway at `base` (`http://HOST:PORT`) for a token. `ca_pem` is trusted for TLS, and nothing else.
///
/// # Errors
/// When nobody answers, the gateway refuses, or the address is plain HTTP elsewhere than on this machine.
pub async fn exchange(base: &str, ca_pem: &[u8], subject: Subject, wanted: &Wanted) -> Result<Issued, TokenError> {
    let url = format!("{}/.portcullis/token", base.trim_end_matches('/'));
    if is_in_clear(base) {
        return Err(TokenError::InClear { url });
    }
    let mut form: Vec<(&str, String)> = Vec::new();
    let certificate = match subject {
        Subject::Token(token) => {
            form.push(("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange".to_owned()));
            form.push(("subject_token_type", "urn:ietf:params:oauth:token-type:jwt".to_owned()));
            form.push(("subject_token", token.as_str().to_owned()));
            None
        }
        Subject::Certificate(certificate) => {
            form.push(("grant_type", "client_credentials".to_owned()));
            Some(certificate)
        }
    };
    form.push(("audience", wanted.audience.clone()));
    if !wanted.scope.is_empty() {
        form.push(("scope", wanted.scope.join(" ")));
    }
    let unreachable = |e: reqwest::Error| TokenError::Unreachable { url: url.clone(), why: super::causes(&e) };
    let client = http_client(ca_pem, certificate).map_err(unreachable)?;
    let answer = client.post(&url).form(&form).send().await.map_err(unreachable)?;
    let status = answer.status().as_u16();
    let body = bounded(answer).await.map_err(unreachable)?;
    if status == 200 {
        return serde_json::from_slice(&body).map_err(|_| TokenError::Answer { url });
    }
    let problem: Problem = serde_json::from_slice(&body).map_err(|_| TokenError::Answer { url })?;
    let first = |texts: [String; 3]| texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    Err(TokenError::Refused {
        status,
        reason: first([problem.reason, problem.error.clone(), String::new()]),
        description: first([
            problem.error_description,
            problem.detail,
            first([problem.title, problem.error, String::new()]),
        ]),
    })
}

/// Whether `base` is plain HTTP to anywhere but loopback. What cannot be read counts as elsewhere.
fn is_in_clear(base: &str) -> bool {
    if !base.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http:")) {
        return false;
    }
    let Ok(url) = base.parse::<UpstreamUrl>() else { return true };
    let host = url.host.as_str().trim_start_matches('[').trim_end_matches(']');
    host != "localhost" && !host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn http_client(ca_pem: &[u8], certificate: Option<ClientCertificate>) -> Result<reqwest::Client, reqwest::Error> {
    let roots = reqwest::Certificate::from_pem_bundle(ca_pem)?;
    let mut builder = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_only(roots);
    if let Some(certificate) = certificate {
        let mut pem = Zeroizing::new(certificate.chain_pem);
        pem.push(b'\n');
        pem.extend_from_slice(certificate.key_pem.as_bytes());
        builder = builder.identity(reqwest::Identity::from_pem(&pem)?);
    }
    builder.build()
}

async fn bounded(mut answer: reqwest::Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER_BYTES {
            break;
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leaves_the_machine_by_tls_only() {
        for here in ["http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:8080", "https://gate.example"] {
            assert!(!is_in_clear(here), "{here}");
        }
        for elsewhere in [
            "http://gate.example",
            "HTTP://gate.example",
            "http://10.0.0.1:80",
            "http://localhost.evil",
            "http://u@127.0.0.1",
        ] {
            assert!(is_in_clear(elsewhere), "{elsewhere}");
        }
    }
}
