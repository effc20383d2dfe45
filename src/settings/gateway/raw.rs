//! A gateway's file as it is written: shapes and defaults, nothing that needs two values to be judged.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::issuer::RawIssuer;
use super::super::parts::{Address, DEFAULT_DRAIN, FilePath, LogSettings, RawEvidence, seconds};
use super::super::size::Size;
use super::{DEFAULT_ADMIN_PORT, DEFAULT_PLAIN_PORT};
use crate::domain::name::GatewayName;
use crate::domain::principal::TrustDomain;
use crate::domain::resource::Span;
use crate::domain::route::UpstreamUrl;

/// A gateway's file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Settings of a Portcullis gateway")]
pub struct RawGateway {
    /// What the file is for: `gateway`.
    pub(super) role: GatewayRole,
    /// This gateway's name, the one that its record at the control plane has.
    pub(super) name: GatewayName,
    /// The directory for what this gateway keeps.
    pub(super) state_dir: FilePath,
    /// The audience that tokens for this gateway carry, usually its URL. It is also the issuer of the gateway's own tokens.
    pub(super) audience: String,
    /// Where callers connect. Default: plain on 127.0.0.1:8080.
    #[serde(default = "default_listen")]
    pub(super) listen: Vec<RawListener>,
    /// Health, metrics and drain, on loopback only. Default: 127.0.0.1:9901.
    #[serde(default = "default_admin_address")]
    pub(super) admin_address: Address,
    /// Worker threads, 1 to 64. Default: one per core.
    #[serde(default)]
    pub(super) workers: Option<u64>,
    /// The control plane, and this gateway's own certificate towards it.
    pub(super) control: RawControlEndpoint,
    /// Whose tokens are taken. Default: nobody's, callers identify by certificate.
    #[serde(default)]
    pub(super) issuers: Vec<RawIssuer>,
    /// How upstreams are reached.
    #[serde(default)]
    pub(super) upstreams: RawUpstreams,
    /// The local log of evidence.
    #[serde(default)]
    pub(super) evidence: RawEvidence,
    /// Limits on what callers and upstreams can take.
    #[serde(default)]
    pub(super) limits: RawGatewayLimits,
    /// How long running calls may go on after the signal to stop, at most 1h. Default: 20s.
    #[serde(default = "default_drain")]
    pub(super) drain: Span,
    /// The log on standard error.
    #[serde(default)]
    pub(super) log: LogSettings,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum GatewayRole {
    Gateway,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListener {
    /// IP and port; without `tls` on loopback only.
    pub(super) address: Address,
    /// TLS. Default: none.
    #[serde(default)]
    pub(super) tls: Option<RawListenerTls>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListenerTls {
    /// The certificate chain, PEM. This and `key_file`, or `spiffe_workload_api`.
    #[serde(default)]
    pub(super) certificate_file: Option<FilePath>,
    /// Its private key, PEM.
    #[serde(default)]
    pub(super) key_file: Option<FilePath>,
    /// In place of all files: certificate, key, and the bundles of all trust domains that it gives.
    #[serde(default)]
    pub(super) spiffe_workload_api: Option<RawWorkloadApi>,
    /// The oldest version of TLS that is spoken. Default: `"1.3"`.
    #[serde(default)]
    pub(super) min_version: TlsVersion,
    /// What the name in a TLS handshake (SNI) says of the requests that follow. Default: `match`.
    #[serde(default)]
    pub(super) sni: SniRule,
    /// The authorities whose client certificates are taken, whatever their trust domain, PEM. Either this or `client_trust`.
    #[serde(default)]
    pub(super) client_ca_file: Option<FilePath>,
    /// Lists of what the authorities of `client_ca_file` revoked (CRL), PEM. With one there must be one, and one that has
    /// not ended, for each authority below the topmost that signs in a chain, or the chain is refused.
    #[serde(default)]
    pub(super) client_crl_files: Vec<FilePath>,
    /// The trust domains whose client certificates are taken, each by its own authorities alone. Either this or
    /// `client_ca_file`. Default: no client certificate is asked for.
    #[serde(default)]
    pub(super) client_trust: Vec<RawClientTrust>,
    /// Whether a caller without a client certificate is turned away. Default, with `client_ca_file`, `client_trust` or
    /// `spiffe_workload_api`: `required`.
    #[serde(default)]
    pub(super) client_certificate: Option<RawClientCertificate>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWorkloadApi {
    /// The agent's socket: `unix:///ABSOLUTE/PATH`.
    pub(super) socket: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawClientTrust {
    /// The trust domain, as in `spiffe://TRUST-DOMAIN/…`.
    pub(super) trust_domain: TrustDomain,
    /// Its authorities, PEM.
    pub(super) bundle_file: FilePath,
    /// Lists of what its authorities revoked (CRL), PEM; as `client_crl_files`.
    #[serde(default)]
    pub(super) crl_files: Vec<FilePath>,
}

/// What the server name of a TLS handshake says of the requests on its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SniRule {
    /// Their host is that name, where one was sent: others are answered 421 (RFC 9110 section 15.5.20).
    #[default]
    Match,
    /// Nothing: for callers who name the gateway in the handshake and a service in the request.
    Any,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// RFC 5246, for callers that cannot do better.
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
    #[default]
    #[serde(rename = "1.3")]
    Tls13,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawClientCertificate {
    /// A caller without one is turned away.
    #[default]
    Required,
    /// A caller without one may identify by a token.
    Optional,
    /// None is asked for.
    Off,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawControlEndpoint {
    /// The control plane's gRPC address: `https://HOST:PORT`.
    pub(super) address: UpstreamUrl,
    /// The authority that signs the control plane's certificate, PEM.
    pub(super) ca_file: FilePath,
    /// The keys by which this gateway knows the control plane's word: one C2SP verifier key a line. Default:
    /// `control.vkey` beside `ca_file`.
    #[serde(default)]
    pub(super) keys_file: Option<FilePath>,
    /// This gateway's certificate chain, PEM.
    pub(super) certificate_file: FilePath,
    /// Its private key, PEM.
    pub(super) key_file: FilePath,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawUpstreams {
    /// The certificate chain that the gateway shows to upstreams whose route says so, PEM. Default: none.
    pub(super) certificate_file: Option<FilePath>,
    /// Its private key, PEM.
    pub(super) key_file: Option<FilePath>,
    /// Networks of link-local and metadata addresses that upstreams may be in. Default: none, such upstreams are refused.
    pub(super) allow_networks: Vec<Network>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(with = "String", extend("format" = "network"))]
pub(super) struct Network(pub(super) ipnet::IpNet);

#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawGatewayLimits {
    /// Connections of callers at the same time: 1 to 1000000.
    pub(super) max_connections: u64,
    /// Connections of one client address (IPv6: one /64 network) at the same time: 1 to 1000000.
    pub(super) max_connections_per_address: u64,
    /// Calls at a time on one HTTP/2 connection. Each that waits for a caller to read takes some 30 KiB. Default: 32.
    pub(super) max_streams_per_connection: u64,
    /// Time for a TLS handshake: 100ms to 1m.
    pub(super) handshake_deadline: Span,
    /// Largest request head: 4KiB to 1MiB.
    pub(super) max_head_bytes: Size,
    /// Time for a whole request head: 100ms to 5m.
    pub(super) head_deadline: Span,
    /// Time that a kept connection may wait for the next request, and a request's body for its next part: 100ms to 1h.
    pub(super) idle_timeout: Span,
    /// Time to connect to an upstream, TLS included: 100ms to 5m.
    pub(super) upstream_connect_timeout: Span,
    /// Longest silence of an upstream within an answer: 100ms to 1d. Default: none, so that streams may be silent.
    pub(super) upstream_read_timeout: Option<Span>,
    /// Memory for verified tokens: 64KiB to 16GiB.
    pub(super) token_cache_bytes: Size,
    /// Longest time that a held call waits: at most 10m.
    pub(super) hold: Span,
    /// Time for the whole body of a request whose route inspects it: 100ms to 1h.
    pub(super) inspect_deadline: Span,
    /// Memory for all inspected bodies together: 64KiB to 64GiB.
    pub(super) inspect_bytes: Size,
    /// Denials of one identity that the evidence records one by one in a burst, 1 to 1000000; those beyond it are counted
    /// in one record per reason. Default: 1000.
    pub(super) denials_burst: u64,
    /// The same in the long run, a minute: 1 to 60000. Default: 20.
    pub(super) denials_per_minute: u64,
}

impl Default for RawGatewayLimits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: 1_000,
            max_streams_per_connection: 32,
            handshake_deadline: seconds(5),
            max_head_bytes: Size::bytes(64 << 10),
            head_deadline: seconds(10),
            idle_timeout: seconds(60),
            upstream_connect_timeout: seconds(5),
            upstream_read_timeout: None,
            token_cache_bytes: Size::mebibytes(64),
            hold: seconds(30),
            inspect_deadline: seconds(30),
            inspect_bytes: Size::mebibytes(256),
            denials_burst: DENIALS_BURST,
            denials_per_minute: DENIALS_PER_MINUTE,
        }
    }
}

/// Some 700 KiB of log: what a deployment with a forgotten grant does before somebody looks is all there to read.
const DENIALS_BURST: u64 = 1_000;
/// Some 20 MiB of log a day from one identity that never stops.
const DENIALS_PER_MINUTE: u64 = 20;

fn default_listen() -> Vec<RawListener> {
    vec![RawListener { address: Address::loopback(DEFAULT_PLAIN_PORT), tls: None }]
}

fn default_admin_address() -> Address {
    Address::loopback(DEFAULT_ADMIN_PORT)
}

fn default_drain() -> Span {
    DEFAULT_DRAIN
}
