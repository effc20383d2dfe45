//! Whose client certificate is taken: an X.509-SVID, by a chain to the bundle of its own trust domain and to no other.
//!
//! The rules of the leaf are looked at before the chain, since the leaf's trust domain says which bundle counts. So what
//! is refused is refused in the handshake, and after it every leaf has been read once. Chains, signatures and lists of
//! revoked certificates are webpki's.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};

use super::TlsError;
use super::material::{BundleMaterial, TrustMaterial};
use crate::gateway::connection;
use crate::settings::gateway::ClientCertificate;

/// Verifies the client certificates of a listener.
#[derive(Debug)]
pub(super) struct SvidVerifier {
    certificate: ClientCertificate,
    chains: Chains,
    /// The authorities' names, by which a caller with several certificates picks one.
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

/// Who verifies a chain.
#[derive(Debug)]
enum Chains {
    AnyDomain(Arc<dyn ClientCertVerifier>),
    Domains(HashMap<String, Arc<dyn ClientCertVerifier>>),
}

impl SvidVerifier {
    /// # Errors
    /// When an authority or a list of revoked certificates cannot be used.
    pub(super) fn new(
        certificate: ClientCertificate,
        trust: &TrustMaterial,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let mut hints = Vec::new();
        let mut chain = |bundle: &BundleMaterial| {
            let verifier = of_bundle(bundle, provider)?;
            hints.extend_from_slice(verifier.root_hint_subjects());
            Ok::<_, TlsError>(verifier)
        };
        let chains = match trust {
            TrustMaterial::AnyDomain(bundle) => Chains::AnyDomain(chain(bundle)?),
            TrustMaterial::Domains(domains) => Chains::Domains(
                domains
                    .iter()
                    .map(|(domain, bundle)| Ok((domain.as_str().to_owned(), chain(bundle)?)))
                    .collect::<Result<_, TlsError>>()?,
            ),
        };
        Ok(Self { certificate, chains, hints, provider: provider.clone() })
    }
}

/// With lists, the status of every certificate of a chain must be known from one that has not ended: silence of an
/// authority is no proof that nothing was revoked.
fn of_bundle(bundle: &BundleMaterial, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let fault = |why: String| TlsError::File { file: bundle.source.clone(), why };
    let mut roots = RootCertStore::empty();
    for authority in &bundle.authorities {
        roots.add(authority.clone()).map_err(|error| fault(error.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .with_crls(bundle.crls.iter().cloned())
        .enforce_revocation_expiration()
        .build()
        .map_err(|error| fault(error.to_string()))
}

impl ClientCertVerifier for SvidVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.certificate == ClientCertificate::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let leaf = connection::ClientCertificate::of_leaf(end_entity)
            .map_err(|error| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error)))))?;
        let chain = match &self.chains {
            Chains::AnyDomain(verifier) => verifier,
            // INVARIANT: only the bundle of the leaf's own trust domain is ever asked.
            Chains::Domains(domains) => domains
                .get(leaf.spiffe.trust_domain())
                .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?,
        };
        chain.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
