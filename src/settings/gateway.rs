//! The settings of a gateway: where it listens, whom it trusts, what it may take.
//!
//! Nothing here says what is allowed: that comes from the control plane alone.

mod listen;
mod raw;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use listen::listener;
pub use listen::{ClientCertificate, ClientTrust, Listener, ListenerClients, ListenerTls, TlsSource, TrustBundle};
pub use raw::{RawGateway, SniRule, TlsVersion};
use raw::{RawGatewayLimits, RawUpstreams};

use super::fault::Faults;
use super::issuer::{IssuerSettings, issuers};
use super::load::{Loaded, json_schema, load, parse};
use super::parts::{Check, EvidenceSettings, LogSettings, base_of, seconds};
use super::size::Size;
use crate::domain::name::GatewayName;
use crate::domain::route::UpstreamUrl;

/// Default port of the plain listener.
pub const DEFAULT_PLAIN_PORT: u16 = 8080;
/// Usual port of a mutual-TLS listener.
pub const DEFAULT_TLS_PORT: u16 = 8443;
/// Default port of the admin endpoints.
pub const DEFAULT_ADMIN_PORT: u16 = 9901;
/// Most workers: each is a thread with its own listener and its own pool of upstream connections.
pub const MAX_WORKERS: usize = 64;

/// What a gateway runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// Its name, the one that its record at the control plane has.
    pub name: GatewayName,
    /// The directory for what it keeps.
    pub state_dir: PathBuf,
    /// The audience that tokens for this gateway carry; also the issuer of its own.
    pub audience: String,
    /// Where callers connect, at least one.
    pub listen: Vec<Listener>,
    /// Health, metrics, drain; loopback.
    pub admin_address: SocketAddr,
    /// Worker threads, 1 to [`MAX_WORKERS`].
    pub workers: usize,
    /// The control plane, and this gateway's own certificate towards it.
    pub control: ControlEndpoint,
    /// Whose tokens are taken.
    pub issuers: Vec<IssuerSettings>,
    /// How upstreams are reached.
    pub upstreams: UpstreamSettings,
    /// The local log of evidence.
    pub evidence: EvidenceSettings,
    /// Limits on what callers and upstreams can take.
    pub limits: GatewayLimits,
    /// How long running calls may go on after the signal to stop.
    pub drain: Duration,
    /// The log on standard error.
    pub log: LogSettings,
}

/// The control plane, and this gateway's own certificate towards it; files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlEndpoint {
    /// Where it is; always TLS.
    pub address: UpstreamUrl,
    /// The authority that signs its certificate.
    pub ca_file: PathBuf,
    /// The keys that sign its authorities, one C2SP verifier key a line.
    pub keys_file: PathBuf,
    /// This gateway's certificate chain.
    pub certificate_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// How upstreams are reached: what a catalog cannot say about the machine that the gateway runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// The certificate that the gateway shows where a route says so.
    pub certificate: Option<UpstreamCertificate>,
    /// Networks of link-local and metadata addresses that upstreams may be in after all.
    pub allow_networks: Vec<IpNet>,
}

/// The gateway's certificate towards upstreams; files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamCertificate {
    /// The certificate chain.
    pub certificate_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// Limits on what callers and upstreams can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayLimits {
    /// Connections of callers at the same time.
    pub max_connections: usize,
    /// Connections of one client address (IPv6: one /64 network) at the same time.
    pub max_connections_per_address: usize,
    /// Calls at a time on one HTTP/2 connection.
    pub max_streams_per_connection: u32,
    /// Time for a TLS handshake.
    pub handshake_deadline: Duration,
    /// Largest request head, in bytes.
    pub max_head_bytes: usize,
    /// Time for a whole request head, from its first byte (or the connection's begin).
    pub head_deadline: Duration,
    /// Time that a kept connection may wait for the next request, and a request's body for its next part.
    pub idle_timeout: Duration,
    /// Time to connect to an upstream, TLS included.
    pub upstream_connect_timeout: Duration,
    /// Longest silence of an upstream within an answer; `None`: streams may be silent.
    pub upstream_read_timeout: Option<Duration>,
    /// Memory for verified tokens, in bytes.
    pub token_cache_bytes: u64,
    /// Longest time that a held call waits.
    pub hold: Duration,
    /// Time for the whole body of a request whose route inspects it.
    pub inspect_deadline: Duration,
    /// Memory for all inspected bodies together, in bytes.
    pub inspect_bytes: u64,
    /// Denials of one identity that are recorded one by one in a burst; those beyond it are counted.
    pub denials_burst: u32,
    /// Denials of one identity that are recorded one by one in the long run, a minute.
    pub denials_per_minute: u32,
}

/// The JSON Schema (2020-12) of a gateway's file.
pub fn schema() -> serde_json::Value {
    json_schema::<RawGateway>()
}

impl GatewaySettings {
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

fn checked(loaded: &Loaded<RawGateway>, base: &Path) -> Result<GatewaySettings, Faults> {
    let raw = &loaded.raw;
    let mut check = Check::new(&loaded.places, base);
    let state_dir = check.path(&raw.state_dir);
    let why = "its endpoints steer the gateway";
    let admin_address = check.loopback("/admin_address", "the admin endpoint", raw.admin_address, why);
    let listen: Vec<Listener> =
        raw.listen.iter().enumerate().map(|(place, raw)| listener(&mut check, place, raw)).collect();
    if listen.is_empty() {
        check.fault("/listen", "at least one listener is expected");
    }
    let mut taken: Vec<_> =
        listen.iter().enumerate().map(|(place, l)| (format!("/listen/{place}/address"), l.address)).collect();
    taken.push(("/admin_address".to_owned(), admin_address));
    check.distinct(&taken);
    if !raw.control.address.tls {
        check.fault("/control/address", "https:// is expected: a gateway and its control plane speak mutual TLS");
    }
    let audience = check.text("/audience", &raw.audience);
    let settings = GatewaySettings {
        name: raw.name.clone(),
        listen,
        admin_address,
        workers: workers(&mut check, raw.workers),
        control: ControlEndpoint {
            address: raw.control.address.clone(),
            keys_file: match &raw.control.keys_file {
                Some(file) => check.path(file),
                None => check.path(&raw.control.ca_file).with_file_name("control.vkey"),
            },
            ca_file: check.path(&raw.control.ca_file),
            certificate_file: check.path(&raw.control.certificate_file),
            key_file: check.path(&raw.control.key_file),
        },
        issuers: issuers(&mut check, &raw.issuers, Some(&audience)),
        upstreams: upstreams(&mut check, &raw.upstreams),
        audience,
        evidence: check.evidence(&raw.evidence, &state_dir),
        limits: limits(&mut check, &raw.limits),
        drain: check.drain(raw.drain),
        log: raw.log,
        state_dir,
    };
    check.finish(settings)
}

fn workers(check: &mut Check<'_>, raw: Option<u64>) -> usize {
    match raw {
        Some(number) => check.number("/workers", number, 1, MAX_WORKERS as u64),
        None => std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_WORKERS)),
    }
}

fn upstreams(check: &mut Check<'_>, raw: &RawUpstreams) -> UpstreamSettings {
    let certificate = match (&raw.certificate_file, &raw.key_file) {
        (Some(certificate), Some(key)) => {
            Some(UpstreamCertificate { certificate_file: check.path(certificate), key_file: check.path(key) })
        }
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            check.fault("/upstreams", "`certificate_file` and `key_file` belong together");
            None
        }
    };
    UpstreamSettings { certificate, allow_networks: raw.allow_networks.iter().map(|network| network.0).collect() }
}

fn limits(check: &mut Check<'_>, raw: &RawGatewayLimits) -> GatewayLimits {
    let bytes = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let (least, hour) = (crate::domain::resource::Span::new(Duration::from_millis(100)), seconds(3_600));
    GatewayLimits {
        max_connections: check.number("/limits/max_connections", raw.max_connections, 1, 1_000_000),
        max_connections_per_address: check.number(
            "/limits/max_connections_per_address",
            raw.max_connections_per_address,
            1,
            1_000_000,
        ),
        max_streams_per_connection: count(
            check,
            "/limits/max_streams_per_connection",
            raw.max_streams_per_connection,
            1_000,
        ),
        handshake_deadline: check.span("/limits/handshake_deadline", raw.handshake_deadline, least, seconds(60)),
        max_head_bytes: bytes(check.size(
            "/limits/max_head_bytes",
            raw.max_head_bytes,
            Size::bytes(4 << 10),
            Size::mebibytes(1),
        )),
        head_deadline: check.span("/limits/head_deadline", raw.head_deadline, least, seconds(300)),
        idle_timeout: check.span("/limits/idle_timeout", raw.idle_timeout, least, hour),
        upstream_connect_timeout: check.span(
            "/limits/upstream_connect_timeout",
            raw.upstream_connect_timeout,
            least,
            seconds(300),
        ),
        upstream_read_timeout: raw
            .upstream_read_timeout
            .map(|s| check.span("/limits/upstream_read_timeout", s, least, seconds(86_400))),
        token_cache_bytes: check.size(
            "/limits/token_cache_bytes",
            raw.token_cache_bytes,
            Size::bytes(64 << 10),
            Size::mebibytes(16 << 10),
        ),
        hold: check.span("/limits/hold", raw.hold, seconds(0), seconds(600)),
        inspect_deadline: check.span("/limits/inspect_deadline", raw.inspect_deadline, least, hour),
        inspect_bytes: check.size(
            "/limits/inspect_bytes",
            raw.inspect_bytes,
            Size::bytes(64 << 10),
            Size::mebibytes(64 << 10),
        ),
        denials_burst: count(check, "/limits/denials_burst", raw.denials_burst, 1_000_000),
        denials_per_minute: count(check, "/limits/denials_per_minute", raw.denials_per_minute, 60_000),
    }
}

fn count(check: &mut Check<'_>, at: &str, raw: u64, most: u64) -> u32 {
    u32::try_from(check.number(at, raw, 1, most)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
