//! Where a gateway listens: addresses, TLS, and whose client certificates are taken.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::raw::{
    RawClientCertificate, RawClientTrust, RawListener, RawListenerTls, RawWorkloadApi, SniRule, TlsVersion,
};
use crate::domain::principal::TrustDomain;
use crate::settings::fault::child;
use crate::settings::parts::{Check, FilePath};

/// Where callers connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address; plain ones are loopback.
    pub address: SocketAddr,
    /// TLS, or none.
    pub tls: Option<ListenerTls>,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// Where its certificate and key come from.
    pub source: TlsSource,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// What the name in a handshake says of the requests that follow.
    pub sni: SniRule,
    /// Whose client certificates are taken; `None`: none is asked for.
    pub clients: Option<ListenerClients>,
}

/// Where a certificate and its key come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSource {
    /// Files, PEM.
    Files {
        /// The certificate chain.
        certificate_file: PathBuf,
        /// Its private key.
        key_file: PathBuf,
    },
    /// A SPIFFE Workload API.
    WorkloadApi {
        /// `unix:///ABSOLUTE/PATH`
        socket: String,
    },
}

/// Client certificates of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerClients {
    /// Whether a caller without one is turned away.
    pub certificate: ClientCertificate,
    /// Who signs them.
    pub trust: ClientTrust,
}

/// Whether a caller without a client certificate is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// It is.
    Required,
    /// It may identify by a token.
    Optional,
}

/// Who signs client certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientTrust {
    /// The same authorities, whatever the trust domain.
    AnyDomain(TrustBundle),
    /// Each of these trust domains has its own, and no other domain is taken.
    Domains(Vec<(TrustDomain, TrustBundle)>),
    /// As [`ClientTrust::Domains`], with the domains and bundles that the Workload API of [`TlsSource`] gives.
    WorkloadApi,
}

/// Authorities and what they revoked; files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// The authorities' certificates.
    pub file: PathBuf,
    /// Their lists of revoked certificates; none: revocation is not looked at.
    pub crl_files: Vec<PathBuf>,
}

pub(super) fn listener(check: &mut Check<'_>, place: usize, raw: &RawListener) -> Listener {
    let pointer = child("/listen", place);
    let Some(tls) = &raw.tls else {
        let why = "without `tls` credentials would cross the network in the clear";
        let address = check.loopback(&child(&pointer, "address"), "a plain listener", raw.address, why);
        return Listener { address, tls: None };
    };
    let clients = clients(check, &child(&pointer, "tls"), tls);
    let source = tls_source(check, &child(&pointer, "tls"), tls);
    let tls = ListenerTls { source, min_version: tls.min_version, sni: tls.sni, clients };
    Listener { address: raw.address.0, tls: Some(tls) }
}

fn tls_source(check: &mut Check<'_>, pointer: &str, tls: &RawListenerTls) -> TlsSource {
    if let Some(RawWorkloadApi { socket }) = &tls.spiffe_workload_api {
        let path = socket.strip_prefix("unix://").unwrap_or_default();
        if !path.starts_with('/') || path.len() < 2 || path.contains(['?', '#', '%']) {
            let form = format!("`{socket}` is not the socket of an agent: unix:///ABSOLUTE/PATH is expected");
            check.fault(&format!("{pointer}/spiffe_workload_api/socket"), form);
        }
        let files = [
            ("certificate_file", tls.certificate_file.is_some()),
            ("key_file", tls.key_file.is_some()),
            ("client_ca_file", tls.client_ca_file.is_some()),
            ("client_trust", !tls.client_trust.is_empty()),
        ];
        for (key, _) in files.into_iter().filter(|(_, given)| *given) {
            check.fault(&child(pointer, key), "with `spiffe_workload_api` this comes from there");
        }
        return TlsSource::WorkloadApi { socket: socket.clone() };
    }
    let mut file = |key: &str, file: &Option<FilePath>| {
        if file.is_none() {
            check.fault(pointer, format!("key `{key}` is missing, or `spiffe_workload_api`"));
        }
        file.as_ref().map(|file| check.path(file)).unwrap_or_default()
    };
    TlsSource::Files {
        certificate_file: file("certificate_file", &tls.certificate_file),
        key_file: file("key_file", &tls.key_file),
    }
}

fn clients(check: &mut Check<'_>, pointer: &str, tls: &RawListenerTls) -> Option<ListenerClients> {
    let at = |key: &str| child(pointer, key);
    for (place, raw) in tls.client_trust.iter().enumerate() {
        if tls.client_trust.iter().take(place).any(|earlier| earlier.trust_domain == raw.trust_domain) {
            let twice = format!("the trust domain `{}` stands here twice", raw.trust_domain);
            check.fault(&child(&child(&at("client_trust"), place), "trust_domain"), twice);
        }
    }
    let trust = match (&tls.client_ca_file, tls.client_trust.as_slice()) {
        (Some(file), []) => Some(ClientTrust::AnyDomain(bundle(check, file, &tls.client_crl_files))),
        (None, [_, ..]) => {
            let domain =
                |raw: &RawClientTrust| (raw.trust_domain.clone(), bundle(check, &raw.bundle_file, &raw.crl_files));
            Some(ClientTrust::Domains(tls.client_trust.iter().map(domain).collect()))
        }
        (None, []) => tls.spiffe_workload_api.as_ref().map(|_| ClientTrust::WorkloadApi),
        (Some(_), [_, ..]) => {
            check.fault(&at("client_trust"), "at most one of `client_ca_file` and `client_trust` is expected");
            return None;
        }
    };
    if tls.client_ca_file.is_none() && !tls.client_crl_files.is_empty() {
        check.fault(&at("client_crl_files"), "key `client_ca_file` is missing: whose revocations?");
    }
    let certificate = match tls.client_certificate.unwrap_or_default() {
        RawClientCertificate::Off => return None,
        RawClientCertificate::Required => ClientCertificate::Required,
        RawClientCertificate::Optional => ClientCertificate::Optional,
    };
    if trust.is_none() && tls.client_certificate.is_some() {
        let missing = "key `client_ca_file` or `client_trust` is missing: whose client certificates?";
        check.fault(&at("client_certificate"), missing);
    }
    trust.map(|trust| ListenerClients { certificate, trust })
}

fn bundle(check: &Check<'_>, file: &FilePath, crls: &[FilePath]) -> TrustBundle {
    TrustBundle { file: check.path(file), crl_files: crls.iter().map(|file| check.path(file)).collect() }
}
