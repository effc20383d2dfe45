//! Who cosigns a control plane's log, and whose logs it cosigns.

use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::resource::Span;
use crate::settings::parts::{Address, Check, seconds};

/// Most witnesses that are asked, and most logs that are witnessed.
const MAX_EACH: usize = 64;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCosigning {
    /// Those who are asked to cosign this control plane's own log.
    witnesses: Vec<RawWitness>,
    /// How often, 1s to 1d. Default: 1m.
    #[serde(default = "default_every")]
    every: Span,
    /// How long one may take to answer, 100ms to 5m. Default: 10s.
    #[serde(default = "default_timeout")]
    timeout: Span,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawWitness {
    /// Its address, to which `/add-checkpoint` is added (C2SP tlog-witness). What is sent is no secret, and signed.
    url: String,
    /// Its key, NAME+ID+BASE64.
    vkey: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWitnessing {
    /// Where others' checkpoints are taken, over HTTP: they are no secret, and signed. Put TLS before it where you want it.
    pub(super) address: Address,
    /// The name that it cosigns under. Default: portcullis/witness/TRUST_DOMAIN.
    #[serde(default)]
    name: Option<String>,
    /// The keys of the logs that it watches, NAME+ID+BASE64: `vkey` of their `log.json`.
    #[serde(default)]
    logs: Vec<String>,
}

fn default_every() -> Span {
    seconds(60)
}

fn default_timeout() -> Span {
    seconds(10)
}

/// Who cosigns this control plane's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CosigningSettings {
    /// Address and key of each.
    pub witnesses: Vec<WitnessSettings>,
    /// How often they are asked.
    pub every: Duration,
    /// How long one may take to answer.
    pub timeout: Duration,
}

/// A witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessSettings {
    /// Its address.
    pub url: String,
    /// Its key.
    pub vkey: String,
}

/// Whose logs this control plane cosigns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessingSettings {
    /// Where it is asked.
    pub address: SocketAddr,
    /// The name that it cosigns under.
    pub name: String,
    /// The logs' keys.
    pub logs: Vec<String>,
}

pub(super) fn cosigning(check: &mut Check<'_>, raw: &RawCosigning) -> CosigningSettings {
    if raw.witnesses.is_empty() || raw.witnesses.len() > MAX_EACH {
        check.fault("/cosigning/witnesses", format!("1 to {MAX_EACH} witnesses are expected"));
    }
    let mut witnesses: Vec<WitnessSettings> = Vec::new();
    for (place, witness) in raw.witnesses.iter().enumerate() {
        let at = |key: &str| format!("/cosigning/witnesses/{place}/{key}");
        if !is_address(&witness.url) {
            check.fault(&at("url"), "not a witness's address: https://HOST[:PORT][/PATH], or http");
        }
        key(check, &at("vkey"), &witness.vkey);
        if witnesses.iter().any(|earlier| earlier.vkey == witness.vkey) {
            check.fault(&at("vkey"), "this witness stands here twice");
        }
        witnesses.push(WitnessSettings { url: witness.url.clone(), vkey: witness.vkey.clone() });
    }
    let least = Span::new(Duration::from_millis(100));
    CosigningSettings {
        witnesses,
        every: check.span("/cosigning/every", raw.every, seconds(1), seconds(86_400)),
        timeout: check.span("/cosigning/timeout", raw.timeout, least, seconds(300)),
    }
}

pub(super) fn witnessing(check: &mut Check<'_>, raw: &RawWitnessing, trust_domain: &str) -> WitnessingSettings {
    if raw.logs.len() > MAX_EACH {
        check.fault("/witness/logs", format!("at most {MAX_EACH} logs are expected"));
    }
    for (place, log) in raw.logs.iter().enumerate() {
        key(check, &format!("/witness/logs/{place}"), log);
    }
    let name = raw.name.clone().unwrap_or_else(|| format!("portcullis/witness/{trust_domain}"));
    WitnessingSettings { address: raw.address.0, name, logs: raw.logs.clone() }
}

fn key(check: &mut Check<'_>, at: &str, text: &str) {
    // What the parts say is read by whoever uses the key.
    if text.split('+').take(3).filter(|part| !part.is_empty()).count() < 3 {
        check.fault(at, "not a verifier key: NAME+ID+BASE64");
    }
}

fn is_address(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let authority = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    authority && uri.query().is_none() && matches!(uri.scheme_str(), Some("https" | "http"))
}
