//! The settings of a control plane.

mod attestation;
mod break_glass;
mod ca_signer;
mod copies;
mod sign_in;
mod witness;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fault::Faults;
use super::issuer::{IssuerSettings, RawIssuer, issuers};
use super::load::{Loaded, json_schema, load, parse};
use super::parts::{
    Address, Check, DEFAULT_DRAIN, Durability, EvidenceSettings, FilePath, LogSettings, RawEvidence, base_of,
};
use super::size::Size;
use crate::domain::principal::SpiffeId;
use crate::domain::resource::Span;
pub use attestation::{AttestationSettings, AttestedWho, TemplateSettings};
use attestation::{RawAttestation, attestation};
pub use break_glass::BreakGlassSettings;
use break_glass::{RawBreakGlass, break_glass};
pub use ca_signer::CaSignerSettings;
use ca_signer::{RawCaSigner, ca_signer};
pub use copies::CopiesSettings;
use copies::{RawCopies, copies};
use sign_in::RawSignIn;
pub use sign_in::{PersonClaim, SignInSettings};

pub use witness::{CosigningSettings, WitnessSettings, WitnessingSettings};
use witness::{RawCosigning, RawWitnessing, cosigning, witnessing};

/// Default port of the gRPC service.
pub const DEFAULT_GRPC_PORT: u16 = 7443;
/// Default port of the HTTP API.
pub const DEFAULT_HTTP_PORT: u16 = 7080;

/// A control plane's file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Settings of a Portcullis control plane")]
pub struct RawControl {
    /// What the file is for: `control`.
    role: ControlRole,
    /// The trust domain that this control plane answers for, as in SPIFFE IDs: `example.org`.
    trust_domain: String,
    /// The directory for what this control plane keeps.
    state_dir: FilePath,
    /// Where gateways and the command line connect, mutual TLS. Default: 127.0.0.1:7443.
    #[serde(default = "default_grpc_address")]
    grpc_address: Address,
    /// Where health, metrics and the HTTP API listen without TLS, on loopback only. Default: 127.0.0.1:7080.
    #[serde(default = "default_http_address")]
    http_address: Address,
    /// Where the same listens with TLS, with the certificate below; callers may show one too. Default: nowhere.
    #[serde(default)]
    https_address: Option<Address>,
    /// What callers reach the HTTP API by, where that is another name or a proxy: `https://control.example.org`. Default:
    /// the HTTP address.
    #[serde(default)]
    public_url: Option<String>,
    /// The certificate of the gRPC service, and whose client certificates it takes.
    tls: RawControlTls,
    /// Where the state is kept. Default: SQLite in the state directory.
    #[serde(default)]
    store: RawStore,
    /// The file with the key that seals what the store holds. Default: `seal.key` in the state directory.
    #[serde(default)]
    seal_key_file: Option<FilePath>,
    /// The directory of the CA that certifies gateways which join: `ca.pem` and `ca.key`. Default: `ca` in the state
    /// directory. Without a key there, nobody can join.
    #[serde(default)]
    ca_dir: Option<FilePath>,
    /// Who keeps the CA's keys and signs with them, where that is not this process. Default: files in `ca_dir`.
    #[serde(default)]
    ca_signer: Option<RawCaSigner>,
    /// Gateways that join by attestation: whose word counts, and what whoever is attested becomes. Default: none.
    #[serde(default)]
    attestation: RawAttestation,
    /// The local log of evidence.
    #[serde(default)]
    evidence: RawEvidence,
    /// Keep copies of the logs of gateways whose own disk does not last (`durability: remote` there). Default: none.
    #[serde(default)]
    evidence_copies: Option<RawCopies>,
    /// Webhooks that people are told by: of requests that wait for them, and of what they should not overlook.
    #[serde(default)]
    notify: Vec<RawWebhook>,
    /// Whose tokens identities may show here, besides certificates: each with the audience that they have for this control
    /// plane, another than a gateway's.
    #[serde(default)]
    issuers: Vec<RawIssuer>,
    /// Where people sign in, OpenID Connect. Default: nowhere; their tokens are those that `control init` makes.
    #[serde(default)]
    sign_in: Option<RawSignIn>,
    /// Bounds on break-glass.
    #[serde(default)]
    break_glass: RawBreakGlass,
    /// Witnesses of this control plane's own log: without one, nobody but itself stands for it. Default: none.
    #[serde(default)]
    cosigning: Option<RawCosigning>,
    /// Be a witness of others' logs. Default: none.
    #[serde(default)]
    witness: Option<RawWitnessing>,
    /// Limits on what clients can take.
    #[serde(default)]
    limits: RawControlLimits,
    /// How long running requests may go on after the signal to stop, at most 1h. Default: 20s.
    #[serde(default = "default_drain")]
    drain: Span,
    /// The log on standard error.
    #[serde(default)]
    log: LogSettings,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ControlRole {
    Control,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawControlTls {
    /// The certificate chain, PEM.
    certificate_file: FilePath,
    /// Its private key, PEM.
    key_file: FilePath,
    /// The authorities whose client certificates are taken, PEM.
    client_ca_file: FilePath,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct RawStore {
    /// SQLite, on this machine.
    sqlite: RawSqlite,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct RawSqlite {
    /// The database. Default: `control.db` in the state directory.
    file: Option<FilePath>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawWebhook {
    /// Where notices are sent: https://HOST/PATH; http on loopback only.
    url: String,
    /// As what. Default: json.
    #[serde(default)]
    format: NotifyFormat,
    /// The file with the secret that signs them (Standard Webhooks): as it stands, or `whsec_` and base64. Default: unsigned.
    #[serde(default)]
    secret_file: Option<FilePath>,
    /// Of which events, for example `request.created`. Default: of requests, of identities' states, of policy, of exceptions.
    #[serde(default)]
    events: Vec<String>,
}

/// The shape of a notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NotifyFormat {
    /// Standard Webhooks 1.0: `type`, `timestamp`, `data`.
    #[default]
    Json,
    /// What Slack's incoming webhooks take: `text`.
    Slack,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct RawControlLimits {
    /// Connections at the same time, at each address: 1 to 100000.
    max_connections: u64,
    /// Largest message or request body: 64KiB to 64MiB.
    max_message_bytes: Size,
}

impl Default for RawControlLimits {
    fn default() -> Self {
        Self { max_connections: 4_096, max_message_bytes: Size::mebibytes(4) }
    }
}

fn default_grpc_address() -> Address {
    Address::loopback(DEFAULT_GRPC_PORT)
}

fn default_http_address() -> Address {
    Address::loopback(DEFAULT_HTTP_PORT)
}

fn default_drain() -> Span {
    DEFAULT_DRAIN
}

/// What a control plane runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSettings {
    /// The trust domain it answers for.
    pub trust_domain: String,
    /// The directory for what it keeps.
    pub state_dir: PathBuf,
    /// Where gateways and the command line connect, mutual TLS.
    pub grpc_address: SocketAddr,
    /// Where health, metrics and the HTTP API listen without TLS; loopback.
    pub http_address: SocketAddr,
    /// Where the same listens with TLS.
    pub https_address: Option<SocketAddr>,
    /// What callers reach the HTTP API by, without a slash at its end.
    pub public_url: Option<String>,
    /// The gRPC service's certificate and client authorities.
    pub tls: ControlTls,
    /// Where the state is kept.
    pub store: StoreSettings,
    /// The file with the key that seals what the store holds; read it with [`super::read_secret`].
    pub seal_key_file: PathBuf,
    /// The directory of the CA that certifies gateways which join.
    pub ca_dir: PathBuf,
    /// Who keeps its keys; `None`: files in that directory.
    pub ca_signer: Option<CaSignerSettings>,
    /// Gateways that join by attestation.
    pub attestation: AttestationSettings,
    /// The local log of evidence.
    pub evidence: EvidenceSettings,
    /// Copies of gateways' logs.
    pub evidence_copies: Option<CopiesSettings>,
    /// Webhooks that people are told by.
    pub notify: Vec<WebhookSettings>,
    /// Whose tokens identities may show.
    pub issuers: Vec<IssuerSettings>,
    /// Where people sign in.
    pub sign_in: Option<SignInSettings>,
    /// Bounds on break-glass.
    pub break_glass: BreakGlassSettings,
    /// Who cosigns its own log.
    pub cosigning: Option<CosigningSettings>,
    /// Whose logs it cosigns.
    pub witness: Option<WitnessingSettings>,
    /// Limits on what clients can take.
    pub limits: ControlLimits,
    /// How long running requests may go on after the signal to stop.
    pub drain: Duration,
    /// The log on standard error.
    pub log: LogSettings,
}

/// Files of the gRPC service's mutual TLS, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlTls {
    /// The certificate chain.
    pub certificate_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// The authorities whose client certificates are taken.
    pub client_ca_file: PathBuf,
}

/// Where the state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSettings {
    /// SQLite, on this machine.
    Sqlite {
        /// The database.
        file: PathBuf,
    },
}

/// A webhook that people are told by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Where notices are sent.
    pub url: String,
    /// As what.
    pub format: NotifyFormat,
    /// The file with the secret that signs them; read it with [`super::read_secret`].
    pub secret_file: Option<PathBuf>,
    /// Of which events; none for the usual ones.
    pub events: Vec<String>,
}

/// Limits on what clients can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlLimits {
    /// Connections at the same time, at each address.
    pub max_connections: usize,
    /// Largest message or request body, in bytes.
    pub max_message_bytes: usize,
}

/// The JSON Schema (2020-12) of a control plane's file.
pub fn schema() -> serde_json::Value {
    json_schema::<RawControl>()
}

impl ControlSettings {
    /// Reads and checks the file `path`.
    ///
    /// # Errors
    /// All of its faults.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        checked(&load(path)?, &base_of(path))
    }

    /// Checks `text`; `file` is what faults call it, and its directory what relative paths are relative to.
    ///
    /// # Errors
    /// All of its faults.
    pub fn parse(file: &str, text: &str) -> Result<Self, Faults> {
        checked(&parse(file, text)?, &base_of(Path::new(file)))
    }
}

fn checked(loaded: &Loaded<RawControl>, base: &Path) -> Result<ControlSettings, Faults> {
    let raw = &loaded.raw;
    let mut check = Check::new(&loaded.places, base);
    let ControlRole::Control = raw.role;
    // A trust domain is what a SPIFFE ID takes for one.
    if format!("spiffe://{}/x", raw.trust_domain).parse::<SpiffeId>().is_err() || raw.trust_domain.contains('/') {
        check.fault("/trust_domain", "not a trust domain: 1 to 255 of a-z 0-9 . - _, as in example.org");
    }
    let why = "it has no TLS; put what must be reached from elsewhere behind a proxy that has";
    let http_address = check.loopback("/http_address", "the HTTP API", raw.http_address, why);
    let mut addresses =
        vec![("/grpc_address".to_owned(), raw.grpc_address.0), ("/http_address".to_owned(), http_address)];
    addresses.extend(raw.https_address.map(|address| ("/https_address".to_owned(), address.0)));
    addresses.extend(raw.witness.as_ref().map(|raw| ("/witness/address".to_owned(), raw.address.0)));
    check.distinct(&addresses);
    let public_url = raw.public_url.as_deref().map(|url| url.trim_end_matches('/').to_owned());
    if public_url.as_deref().is_some_and(|url| !is_origin(url)) {
        check.fault(
            "/public_url",
            "not where it can be reached: https://HOST[:PORT], without a path; http on loopback only",
        );
    }
    if public_url.is_none() && raw.https_address.is_some() {
        check.fault("/https_address", "needs `public_url`: what callers are told to reach it by, https://HOST[:PORT]");
    }
    let issuers = issuers(&mut check, &raw.issuers, None);
    let sign_in = raw.sign_in.as_ref().and_then(|raw| sign_in::sign_in(&mut check, raw, &issuers));
    let state_dir = check.path(&raw.state_dir);
    let in_state = |file: Option<&FilePath>, name: &str| {
        file.map_or_else(|| state_dir.join(name), |file| base.join(check.path(file)))
    };
    let seal_key_file = in_state(raw.seal_key_file.as_ref(), "seal.key");
    let ca_dir = in_state(raw.ca_dir.as_ref(), "ca");
    let store = StoreSettings::Sqlite { file: in_state(raw.store.sqlite.file.as_ref(), "control.db") };
    let raw_domain = raw.trust_domain.clone();
    let ca_signer = raw.ca_signer.as_ref().map(|raw| ca_signer(&mut check, raw));
    let attestation = attestation(&mut check, &raw.attestation, &raw.trust_domain);
    let settings = ControlSettings {
        ca_signer,
        attestation,
        trust_domain: raw.trust_domain.clone(),
        grpc_address: raw.grpc_address.0,
        http_address,
        https_address: raw.https_address.map(|address| address.0),
        public_url,
        tls: ControlTls {
            certificate_file: check.path(&raw.tls.certificate_file),
            key_file: check.path(&raw.tls.key_file),
            client_ca_file: check.path(&raw.tls.client_ca_file),
        },
        store,
        seal_key_file,
        ca_dir,
        evidence: control_evidence(&mut check, &raw.evidence, raw.cosigning.is_some(), &state_dir),
        evidence_copies: raw.evidence_copies.as_ref().map(|raw| copies(&mut check, raw, &state_dir)),
        notify: webhooks(&mut check, &raw.notify),
        issuers,
        sign_in,
        break_glass: break_glass(&mut check, &raw.break_glass),
        cosigning: raw.cosigning.as_ref().map(|raw| cosigning(&mut check, raw)),
        witness: raw.witness.as_ref().map(|raw| witnessing(&mut check, raw, &raw_domain)),
        limits: ControlLimits {
            max_connections: check.number("/limits/max_connections", raw.limits.max_connections, 1, 100_000),
            max_message_bytes: usize::try_from(check.size(
                "/limits/max_message_bytes",
                raw.limits.max_message_bytes,
                Size::bytes(64 << 10),
                Size::mebibytes(64),
            ))
            .unwrap_or(usize::MAX),
        },
        drain: check.drain(raw.drain),
        log: raw.log,
        state_dir,
    };
    check.finish(settings)
}

/// Most webhooks: each has a queue and a task of its own.
const MAX_WEBHOOKS: usize = 16;

fn webhooks(check: &mut Check<'_>, raw: &[RawWebhook]) -> Vec<WebhookSettings> {
    if raw.len() > MAX_WEBHOOKS {
        check.fault("/notify", format!("{} webhooks; at most {MAX_WEBHOOKS}", raw.len()));
    }
    let mut all = Vec::new();
    for (n, webhook) in raw.iter().enumerate() {
        if !is_safe(&webhook.url) {
            check.fault(
                &format!("/notify/{n}/url"),
                "not where notices can be sent: https://HOST[:PORT]/PATH; http on loopback only",
            );
        }
        let is_event = |event: &String| {
            let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            event.split_once('.').is_some_and(|(kind, verb)| word(kind) && word(verb))
        };
        for (at, event) in webhook.events.iter().enumerate().filter(|(_, event)| !is_event(event)) {
            check.fault(&format!("/notify/{n}/events/{at}"), format!("`{event}` is no event: as in request.created"));
        }
        all.push(WebhookSettings {
            url: webhook.url.clone(),
            format: webhook.format,
            secret_file: webhook.secret_file.as_ref().map(|file| check.path(file)),
            events: webhook.events.clone(),
        });
    }
    all
}

/// Whether what is sent to a URL is read by whom it is meant for alone.
fn is_safe(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let parts = uri.scheme_str().zip(uri.authority());
    parts.is_some_and(|(scheme, authority)| {
        let is_local = ["localhost", "127.0.0.1", "[::1]"].contains(&authority.host());
        !authority.as_str().contains('@') && (scheme == "https" || (scheme == "http" && is_local))
    })
}

/// The same of one that is scheme, host and port alone.
fn is_origin(url: &str) -> bool {
    let bare = |uri: http::Uri| uri.scheme_str().zip(uri.authority()).is_some_and(|(s, a)| format!("{s}://{a}") == url);
    is_safe(url) && url.parse().is_ok_and(bare)
}

/// Nothing is pruned for which nobody else has signed.
fn control_evidence(check: &mut Check<'_>, raw: &RawEvidence, cosigned: bool, state_dir: &Path) -> EvidenceSettings {
    if !cosigned && (raw.retention.age.is_some() || raw.retention.size.is_some()) {
        check.fault("/evidence/retention", "needs `cosigning`: nothing goes that no witness has cosigned");
    }
    if raw.durability == Durability::Remote {
        check.fault("/evidence/durability", "`remote` is for gateways: disk or process is expected");
    }
    check.evidence(raw, state_dir)
}

#[cfg(test)]
mod tests;
