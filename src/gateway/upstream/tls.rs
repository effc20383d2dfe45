//! TLS towards upstreams: one configuration per target, and a number that no other target has.
//!
//! Connections are pooled by that number: what was verified for one identity, against one bundle, under one certificate of
//! ours, never serves another. No resumption: a resumed session would not be verified again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};

use super::own::{OwnCertificate, Shown};
use super::verify::SpiffeVerifier;
use crate::domain::route::{Host, RouteSpec};
use crate::domain::trust::{ClientIdentity, Protocol, UpstreamTls, verified_name};
use crate::gateway::authority::AuthorityClock;
use crate::gateway::tls::GateTime;

/// Targets that one worker keeps; past it all are made anew as they are needed, and so are their connections.
const MAX_TARGETS: usize = 4_096;

/// What every worker's targets are made from.
#[derive(Debug)]
pub(crate) struct UpstreamTrust {
    own: Option<OwnCertificate>,
    clock: Arc<AuthorityClock>,
    /// The system's authorities, read when the first route needs them.
    system: OnceLock<Arc<RootCertStore>>,
    /// The next target's number.
    next: AtomicU64,
}

impl UpstreamTrust {
    pub(crate) fn new(own: Option<OwnCertificate>, clock: Arc<AuthorityClock>) -> Self {
        Self { own, clock, system: OnceLock::new(), next: AtomicU64::new(1) }
    }

    /// The gateway's certificate towards upstreams, if it has one.
    pub(crate) const fn own(&self) -> Option<&OwnCertificate> {
        self.own.as_ref()
    }

    fn system(&self) -> Arc<RootCertStore> {
        let read = || {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::warn!(%error, "authorities of the system could not be read");
            }
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(found.certs);
            Arc::new(roots)
        };
        self.system.get_or_init(read).clone()
    }
}

/// Why a target cannot be had. The call is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("the route asks for the gateway's certificate, and the settings name none under `upstreams`")]
    NoCertificate,
    #[error("no certificate can have the name of this upstream")]
    NoName,
    #[error(transparent)]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    #[error(transparent)]
    Config(#[from] rustls::Error),
}

/// An upstream over TLS: who it must be, and what is spoken to it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
    pub(crate) protocol: Protocol,
    /// No other target of this process has it.
    pub(crate) number: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    host: Host,
    tls: Option<UpstreamTls>,
    protocol: Protocol,
    /// Which of the gateway's certificates is shown: the second after the first one's renewal, and so on.
    own: u64,
}

/// The targets of one worker.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    kept: Mutex<HashMap<Key, Arc<Target>, ahash::RandomState>>,
}

impl Targets {
    /// The target of a route whose upstream is `https`. One and the same for routes that say the same.
    ///
    /// # Errors
    /// When the route and this gateway do not go together.
    pub(crate) fn of(&self, trust: &UpstreamTrust, route: &RouteSpec) -> Result<Arc<Target>, TargetError> {
        let own = trust.own.as_ref().map(OwnCertificate::current);
        let place = own.as_ref().map_or(0, |own| own.place);
        let (host, tls) = (route.upstream.host.clone(), route.tls.clone());
        let key = Key { host, tls, protocol: route.protocol, own: place };
        let mut kept = self.kept.lock();
        if let Some(target) = kept.get(&key) {
            return Ok(target.clone());
        }
        let target = Arc::new(target(trust, &key, own.as_deref())?);
        kept.retain(|key, _| key.own == place);
        if kept.len() >= MAX_TARGETS {
            kept.clear();
        }
        kept.insert(key, target.clone());
        Ok(target)
    }
}

fn target(trust: &UpstreamTrust, key: &Key, own: Option<&Shown>) -> Result<Target, TargetError> {
    let tls = key.tls.clone().unwrap_or_default();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = tls.ca.as_ref().map_or_else(|| trust.system(), |bundle| bundle.roots().clone());
    let named = verified_name(tls.server_name.as_ref().unwrap_or(&key.host));
    let time = Arc::new(GateTime(trust.clock.clone()));
    let builder =
        ClientConfig::builder_with_details(provider.clone(), time).with_protocol_versions(&[&TLS13, &TLS12])?;
    let (builder, name) = match tls.spiffe_id {
        Some(expected) => {
            let verifier = SpiffeVerifier { roots, expected, provider };
            // Sent as SNI, and no part of the check. An address is not sent.
            let name = named.unwrap_or_else(|| ServerName::from(std::net::IpAddr::from([0, 0, 0, 0])));
            (builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)), name)
        }
        None => {
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build()?;
            (builder.with_webpki_verifier(verifier), named.ok_or(TargetError::NoName)?)
        }
    };
    let mut config = match tls.client_certificate {
        ClientIdentity::None => builder.with_no_client_auth(),
        ClientIdentity::Gateway => {
            let own = own.ok_or(TargetError::NoCertificate)?;
            builder.with_client_cert_resolver(own.certificate.clone())
        }
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![if key.protocol.is_http2() { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let number = trust.next.fetch_add(1, Ordering::Relaxed);
    Ok(Target { config: Arc::new(config), name, protocol: key.protocol, number })
}
