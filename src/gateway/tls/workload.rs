//! Certificate, key and bundles from a SPIFFE Workload API in place of files (SPIFFE Workload API section 5).
//!
//! The stream to each socket is kept by the library, which comes back after an agent's restart; what it gave last stays in
//! force meanwhile, until it ends by its own dates. Lists of revoked certificates are not among what it hands on.

use std::fmt;
use std::time::Duration;

use futures_util::future::select_all;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use spiffe::x509_source::{X509Source, X509SourceUpdates};

use super::TlsError;
use super::material::{BundleMaterial, Material, TrustMaterial};
use crate::domain::principal::TrustDomain;
use crate::settings::gateway::{Listener, TlsSource};

/// How long an agent may take until it has given the first certificate. A gateway without one does not start.
const FIRST_WITHIN: Duration = Duration::from_secs(20);

/// The agents of all listeners, each by its socket.
#[derive(Default)]
pub(super) struct Workloads {
    sources: Vec<(String, X509Source)>,
}

impl fmt::Debug for Workloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.sources.iter().map(|(socket, _)| socket)).finish()
    }
}

impl Workloads {
    /// Connects to the agents that `listeners` name, on this runtime.
    pub(super) async fn connect(listeners: &[Listener]) -> Result<Self, TlsError> {
        let mut workloads = Self::default();
        for listener in listeners {
            let Some(TlsSource::WorkloadApi { socket }) = listener.tls.as_ref().map(|tls| &tls.source) else {
                continue;
            };
            if workloads.source(socket).is_none() {
                let source = X509Source::builder().endpoint(socket).initial_sync_timeout(FIRST_WITHIN).build();
                let source = source.await.map_err(|error| fault(socket, error))?;
                workloads.sources.push((socket.clone(), source));
            }
        }
        Ok(workloads)
    }

    fn source(&self, socket: &str) -> Option<&X509Source> {
        self.sources.iter().find(|(known, _)| known == socket).map(|(_, source)| source)
    }

    /// What the agent gave last.
    pub(super) fn material(&self, socket: &str) -> Result<Material, TlsError> {
        let state = self.source(socket).ok_or_else(|| fault(socket, "it is not connected"))?.state();
        let svid = state.svid().map_err(|error| fault(socket, error))?;
        let context = state.context().map_err(|error| fault(socket, error))?;
        let mut domains = Vec::new();
        for (domain, bundle) in context.bundle_set().iter() {
            let domain: TrustDomain = domain.as_str().parse().map_err(|error| fault(socket, error))?;
            let authorities: Vec<_> = bundle.authorities().iter().map(|a| der(a.as_bytes())).collect();
            // A domain without authorities is one that nobody can come from.
            if !authorities.is_empty() {
                domains.push((domain, BundleMaterial { source: socket.to_owned(), authorities, crls: Vec::new() }));
            }
        }
        domains.sort_by(|(one, _), (other, _)| one.cmp(other));
        let key = PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec());
        Ok(Material {
            chain: svid.cert_chain().iter().map(|certificate| der(certificate.as_bytes())).collect(),
            key: PrivateKeyDer::from(key),
            trust: Some(TrustMaterial::Domains(domains)),
        })
    }

    /// Tells one state of the agents from another.
    pub(super) fn revisions(&self) -> Vec<u64> {
        self.sources.iter().map(|(_, source)| source.state().revision()).collect()
    }

    /// For [`changed`].
    pub(super) fn updates(&self) -> Vec<X509SourceUpdates> {
        self.sources.iter().map(|(_, source)| source.updated()).collect()
    }
}

/// Waits until an agent has given something else.
pub(super) async fn changed(updates: &mut Vec<X509SourceUpdates>) {
    if updates.is_empty() {
        return std::future::pending().await;
    }
    let (change, place, _) = select_all(updates.iter_mut().map(|updates| Box::pin(updates.changed()))).await;
    // Nothing more comes from a source that is closed.
    if change.is_err() {
        updates.swap_remove(place);
    }
}

fn der(bytes: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from(bytes.to_vec())
}

fn fault(socket: &str, why: impl ToString) -> TlsError {
    TlsError::File { file: socket.to_owned(), why: why.to_string() }
}
