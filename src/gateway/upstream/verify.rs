//! The check of an upstream that is known by its SPIFFE ID: a chain to the bundle, and exactly this ID.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::domain::principal::SpiffeId;
use crate::gateway::connection::{ClientCertificate, Purpose};

/// Verifies X.509-SVIDs (SPIFFE X.509-SVID section 5.2). The name that the connection was opened for counts for nothing.
#[derive(Debug)]
pub(super) struct SpiffeVerifier {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) expected: SpiffeId,
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let svid = ClientCertificate::of_leaf_for(end_entity, Purpose::Server).map_err(|error| {
            tracing::debug!(%error, "an upstream's certificate is no SVID");
            Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
        })?;
        if svid.spiffe != self.expected {
            tracing::debug!(found = %svid.spiffe, expected = %self.expected, "an upstream has another SPIFFE ID");
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
