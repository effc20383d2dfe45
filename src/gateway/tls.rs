//! TLS of the listeners: our own rustls configuration, TLS 1.3, client certificates by the trust domain's authority.
//!
//! No resumption: a resumed session would carry the identity of the first one without the verifier having run.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::settings::gateway::{ClientCertificate, ListenerTls};

/// Why a listener cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not what it should be.
    #[error("{file}: {why}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// The parts do not go together.
    #[error(transparent)]
    Config(#[from] rustls::Error),
}

pub(crate) fn file_error(file: &std::path::Path, why: impl ToString) -> TlsError {
    TlsError::File { file: file.display().to_string(), why: why.to_string() }
}

/// The certificates in a PEM file, at least one.
pub(crate) fn certificates(file: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let list: Vec<_> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(|error| file_error(file, error))?;
    if list.is_empty() { Err(file_error(file, "it holds no certificate")) } else { Ok(list) }
}

/// The configuration of a listener.
///
/// # Errors
/// When a file cannot be used or the parts do not fit.
pub(crate) fn server_config(tls: &ListenerTls) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match &tls.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(&clients.ca_file)? {
                roots.add(certificate).map_err(|error| file_error(&clients.ca_file, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match clients.certificate {
                ClientCertificate::Required => verifier,
                ClientCertificate::Optional => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| file_error(&clients.ca_file, error))?)
        }
    };
    let chain = certificates(&tls.certificate_file)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key_file).map_err(|error| file_error(&tls.key_file, error))?;
    let mut config = builder.with_single_cert(chain, key)?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
