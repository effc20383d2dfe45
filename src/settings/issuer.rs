//! Trusted issuers of tokens, as a settings file names them.
//!
//! Whose tokens are taken, meant for whom, with whose keys. Fetches nothing.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fault::child;
use super::parts::{Check, FilePath, seconds};
use crate::domain::resource::Span;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIssuer {
    /// The `iss` claim, exactly.
    issuer: String,
    /// A file with its keys, a JWK set. Either this or `jwks_url`.
    #[serde(default)]
    jwks_file: Option<FilePath>,
    /// Where its keys are fetched: `https:`, or `http:` on loopback. Either this or `jwks_file`.
    #[serde(default)]
    jwks_url: Option<String>,
    /// Accepted `aud` values. Default: the gateway's own audience; a control plane has none.
    #[serde(default)]
    audiences: Vec<String>,
    /// How far its clock may be off, at most 60s. Default: 5s.
    #[serde(default = "default_leeway")]
    leeway: Span,
    /// Longest accepted time from `iat` to `exp`, at most 366d. Default: 1d.
    #[serde(default = "default_max_lifetime")]
    max_lifetime: Span,
    /// How often its keys are read again, 1s to 1d. Default: 5m.
    #[serde(default = "default_refresh")]
    refresh: Span,
    /// How long its keys are used after they could last be read, at least `refresh`, at most 30d. Default: 1d.
    #[serde(default = "default_max_stale")]
    max_stale: Span,
}

/// A trusted issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSettings {
    /// The `iss` claim, exactly.
    pub issuer: String,
    /// Where its keys come from.
    pub keys: KeySource,
    /// Accepted `aud` values, at least one.
    pub audiences: Vec<String>,
    /// How far its clock may be off.
    pub leeway: Duration,
    /// Longest accepted time from `iat` to `exp`.
    pub max_lifetime: Duration,
    /// How often the keys are read again.
    pub refresh: Duration,
    /// How long keys are used after they could last be read.
    pub max_stale: Duration,
}

/// Where an issuer's keys (a JWK set, RFC 7517 section 5) come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file on this machine.
    File(PathBuf),
    /// `https:`, or `http:` on loopback.
    Url(String),
}

/// The issuers of a file's `issuers`. One that names no audience has that of the role, where the role has one.
pub(super) fn issuers(check: &mut Check<'_>, raw: &[RawIssuer], audience: Option<&str>) -> Vec<IssuerSettings> {
    issuers_at(check, "/issuers", raw, audience)
}

/// The same of another place in the file.
pub(super) fn issuers_at(
    check: &mut Check<'_>,
    base: &str,
    raw: &[RawIssuer],
    audience: Option<&str>,
) -> Vec<IssuerSettings> {
    let mut issuers: Vec<IssuerSettings> = Vec::with_capacity(raw.len());
    for (place, raw) in raw.iter().enumerate() {
        let at = |key: &str| format!("{base}/{place}/{key}");
        let issuer = check.text(&at("issuer"), &raw.issuer);
        if issuers.iter().any(|earlier| earlier.issuer == issuer) {
            check.fault(&at("issuer"), format!("the issuer `{issuer}` stands here twice"));
        }
        let keys = match (&raw.jwks_file, &raw.jwks_url) {
            (Some(file), None) => KeySource::File(check.path(file)),
            (None, Some(url)) => {
                if !fetchable(url) {
                    check.fault(&at("jwks_url"), "an https:// URL is expected (http:// on loopback only)");
                }
                KeySource::Url(url.clone())
            }
            (Some(_), Some(_)) | (None, None) => {
                check.fault(&child(base, place), "exactly one of `jwks_file` and `jwks_url` is expected");
                continue;
            }
        };
        let mut audiences = Vec::new();
        for (number, audience) in raw.audiences.iter().enumerate() {
            audiences.push(check.text(&format!("{base}/{place}/audiences/{number}"), audience));
        }
        match audience {
            Some(audience) if audiences.is_empty() => audiences.push(audience.to_owned()),
            None if audiences.is_empty() => {
                check.fault(&child(base, place), "`audiences` is expected: what its tokens call this control plane");
            }
            Some(_) | None => {}
        }
        issuers.push(IssuerSettings {
            issuer,
            keys,
            audiences,
            leeway: check.span(&at("leeway"), raw.leeway, seconds(0), seconds(60)),
            max_lifetime: check.span(&at("max_lifetime"), raw.max_lifetime, seconds(1), seconds(366 * 86_400)),
            refresh: check.span(&at("refresh"), raw.refresh, seconds(1), seconds(86_400)),
            max_stale: check.span(&at("max_stale"), raw.max_stale, raw.refresh, seconds(30 * 86_400)),
        });
    }
    issuers
}

/// Keys from elsewhere decide who is who: only over TLS, or from this machine.
pub(super) fn fetchable(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    // User information in a URL ends up in logs.
    if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
        return false;
    }
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) => !host.is_empty(),
        (Some("http"), Some(host)) => {
            let inside = host.trim_start_matches('[').trim_end_matches(']');
            inside.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
        _ => false,
    }
}

fn default_leeway() -> Span {
    seconds(5)
}

fn default_max_lifetime() -> Span {
    seconds(86_400)
}

fn default_refresh() -> Span {
    seconds(300)
}

fn default_max_stale() -> Span {
    seconds(86_400)
}
