//! How a route's upstream is spoken to and verified. There is no way to say "do not verify".
//!
//! What stands here is public: authorities, names. The gateway's own certificate and key come from files of its machine,
//! and a private key in a document is refused.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use rustls::pki_types::{CertificateDer, ServerName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::principal::SpiffeId;
use super::route::Host;

/// Certificates in one bundle: a few authorities and their successors.
pub const MAX_BUNDLE_CERTIFICATES: usize = 32;
/// Largest bundle, as text. Every gateway holds it.
pub const MAX_BUNDLE_BYTES: usize = 64 * 1024;

/// What is spoken to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: with `https` by ALPN and nothing else, with `http` by prior knowledge.
    Http2,
    /// gRPC over HTTP/2: trailers pass in both directions, and refusals of failing upstreams are gRPC statuses.
    Grpc,
}

impl Protocol {
    /// Whether it is carried by HTTP/2.
    pub const fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }
}

/// How an `https` upstream is verified, and whom the gateway says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTls {
    /// The authorities that sign the upstream's certificate, PEM. Default: those that the gateway's system trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<TrustBundle>,
    /// The DNS name or address that its certificate must have. Default: the host of the upstream's URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<Host>,
    /// The SPIFFE ID that its certificate must have, exactly, in place of a name. Needs `ca`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<SpiffeId>,
    /// Whether the gateway shows a certificate of its own.
    #[serde(default, skip_serializing_if = "is_none")]
    pub client_certificate: ClientIdentity,
}

fn is_none(identity: &ClientIdentity) -> bool {
    *identity == ClientIdentity::None
}

/// Whether a gateway shows its own certificate to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientIdentity {
    /// It shows none.
    #[default]
    None,
    /// The one that the gateway's settings name under `upstreams`. A gateway without one refuses the call.
    Gateway,
}

impl UpstreamTls {
    /// What does not go together, for an upstream at `host` that is spoken to with TLS or without.
    pub fn faults(&self, host: &Host, tls: bool) -> Vec<&'static str> {
        let mut faults = Vec::new();
        if !tls {
            faults.push("tls: the upstream is http://, which nothing verifies; https:// is expected");
        }
        if self.spiffe_id.is_some() && self.server_name.is_some() {
            faults.push("tls: `spiffe_id` takes the place of `server_name`: one of them is expected");
        }
        if self.spiffe_id.is_some() && self.ca.is_none() {
            faults.push("tls: `spiffe_id` needs `ca`: authorities for names of the web vouch for no SPIFFE ID");
        }
        if self.spiffe_id.is_none() && verified_name(self.server_name.as_ref().unwrap_or(host)).is_none() {
            faults.push("tls: no certificate can have this server name");
        }
        faults
    }
}

/// The name that a certificate is verified against. `None`: no certificate can have it.
pub fn verified_name(host: &Host) -> Option<ServerName<'static>> {
    ServerName::try_from(host.as_str().trim_start_matches('[').trim_end_matches(']')).ok().map(|name| name.to_owned())
}

/// Authorities, as one or more certificates in PEM. Equal when their texts are.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("format" = "certificates"))]
pub struct TrustBundle {
    pem: Arc<str>,
    roots: Arc<RootCertStore>,
}

/// Why a text is not a bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a bundle of certificates: {0}")]
pub struct TrustBundleError(&'static str);

impl TrustBundle {
    /// The authorities.
    pub fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }
}

impl FromStr for TrustBundle {
    type Err = TrustBundleError;

    fn from_str(text: &str) -> Result<Self, TrustBundleError> {
        let fail = |why| Err(TrustBundleError(why));
        if text.len() > MAX_BUNDLE_BYTES {
            return fail("longer than 64 KiB");
        }
        let mut roots = RootCertStore::empty();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
            match section {
                Ok((SectionKind::Certificate, der)) => {
                    if roots.add(CertificateDer::from(der)).is_err() {
                        return fail("a certificate cannot be read");
                    }
                }
                Ok((SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, _)) => {
                    return fail("a private key is in it, which must not leave its machine");
                }
                Ok(_) | Err(_) => return fail("PEM blocks of CERTIFICATE are expected"),
            }
        }
        match roots.len() {
            0 => fail("PEM blocks of CERTIFICATE are expected"),
            1..=MAX_BUNDLE_CERTIFICATES => Ok(Self { pem: text.into(), roots: Arc::new(roots) }),
            _ => fail("more than 32 certificates"),
        }
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pem, &other.pem) || self.pem == other.pem
    }
}

impl Eq for TrustBundle {}

impl std::hash::Hash for TrustBundle {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.pem.hash(state);
    }
}

impl TryFrom<String> for TrustBundle {
    type Error = TrustBundleError;
    fn try_from(text: String) -> Result<Self, TrustBundleError> {
        text.parse()
    }
}

impl From<TrustBundle> for String {
    fn from(bundle: TrustBundle) -> Self {
        bundle.pem.as_ref().to_owned()
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.roots.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_bundle_is_certificates_and_nothing_else() {
        let (certificate, key) = authority();
        let two: TrustBundle = format!("{certificate}{certificate}").parse().unwrap();
        assert_eq!(two.roots().len(), 2);
        for (bad, why) in [
            (String::new(), "PEM blocks"),
            ("nothing".to_owned(), "PEM blocks"),
            (format!("{certificate}{key}"), "a private key is in it"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), "cannot be read"),
            (certificate.repeat(33), "more than 32"),
            (" ".repeat(MAX_BUNDLE_BYTES + 1), "longer than"),
        ] {
            let error = bad.parse::<TrustBundle>().unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
    }

    #[test]
    fn what_would_verify_nothing_is_a_fault() {
        let host: Host = "orders.internal".parse().unwrap();
        let ca = Some(authority().0.parse().unwrap());
        let spiffe_id = Some("spiffe://example.org/orders".parse().unwrap());
        assert!(UpstreamTls::default().faults(&host, true).is_empty());
        assert!(UpstreamTls::default().faults(&host, false)[0].contains("nothing verifies"));
        let spiffe = UpstreamTls { spiffe_id, ..UpstreamTls::default() };
        assert!(spiffe.faults(&host, true)[0].contains("needs `ca`"));
        let spiffe = UpstreamTls { ca, ..spiffe };
        assert!(spiffe.faults(&host, true).is_empty());
        let both = UpstreamTls { server_name: Some(host.clone()), ..spiffe };
        assert!(both.faults(&host, true)[0].contains("takes the place"));
        let nameless = UpstreamTls { server_name: Some("a_-.b-".parse().unwrap()), ..UpstreamTls::default() };
        assert!(nameless.faults(&host, true)[0].contains("no certificate"));
        assert!(verified_name(&"[::1]".parse().unwrap()).is_some());
    }
}
