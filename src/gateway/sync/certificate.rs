//! The gateway's certificate towards its control plane, renewed before its end.
//!
//! With the key that is there, over mutual TLS, when a third of its life is left. The next connection uses the new one;
//! so does every listener that shows the same file. When other authorities are to be trusted than before, or another one
//! issues, it comes at once, with what is to be trusted first; then the stream is opened anew.

use std::path::Path;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::pem::parse_x509_pem;

use super::connect::{self, ConnectError};
use super::{Parts, jittered};
use crate::domain::Timestamp;
use crate::files;
use crate::settings::gateway::ControlEndpoint;
use crate::wire::v1;

/// How often its end is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The same after a failure, during a rotation.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// Why there is no new one.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the certificate or its key cannot be used: {0}")]
    Unusable(String),
    #[error("the control plane refuses: {}", .0.message())]
    Refused(Box<tonic::Status>),
    #[error("what the control plane sent is not a certificate for this key that lasts longer")]
    Odd,
    #[error("it cannot be written: {0}")]
    Write(std::io::Error),
}

/// When a certificate begins and ends, and whose key it is for.
struct Certificate {
    starts: Timestamp,
    ends: Timestamp,
    key: Vec<u8>,
    /// Which key issued it, as it says itself.
    issuer: Vec<u8>,
}

impl Certificate {
    fn read(pem: &[u8]) -> Option<Self> {
        let (_, pem) = parse_x509_pem(pem).ok()?;
        let certificate = pem.parse_x509().ok()?;
        Some(Self {
            starts: Timestamp::from_unix_seconds(certificate.validity().not_before.timestamp()),
            ends: Timestamp::from_unix_seconds(certificate.validity().not_after.timestamp()),
            key: certificate.public_key().raw.to_vec(),
            issuer: certificate.iter_extensions().find_map(issuer).unwrap_or_default(),
        })
    }

    /// Whether a third of its life is left, or less.
    fn is_due(&self, now: Timestamp) -> bool {
        self.ends.saturating_since(now) <= self.ends.saturating_since(self.starts) / 3
    }
}

fn issuer(extension: &X509Extension<'_>) -> Option<Vec<u8>> {
    match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|key| key.0.to_vec()),
        _ => None,
    }
}

/// Looks after the certificate for as long as the gateway runs.
pub(super) async fn run(parts: Parts) {
    let mut failed = false;
    loop {
        match renew(&parts).await {
            Ok(None) => failed = false,
            Ok(Some(ends)) => {
                failed = false;
                tracing::info!(until = %ends, "this gateway's certificate was renewed");
            }
            Err(error) if failed => tracing::debug!(%error, "this gateway's certificate is still not renewed"),
            Err(error) => {
                failed = true;
                tracing::error!(%error, "this gateway's certificate is near its end and could not be renewed; trying again");
            }
        }
        // One that could not be renewed is looked at again soon where that is what a rotation waits for.
        let pause = if failed && !parts.trust.told().is_empty() { RETRY_EVERY } else { LOOK_EVERY };
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = parts.trust.changed.notified() => {}
        }
    }
}

/// Renews it when it is due; answers when the new one ends.
async fn renew(parts: &Parts) -> Result<Option<Timestamp>, RenewError> {
    let endpoint = &parts.endpoint;
    let unusable = |why: &str| RenewError::Unusable(why.to_owned());
    let pem = connect::read(&endpoint.certificate_file).await?;
    let current = Certificate::read(&pem).ok_or_else(|| unusable("it is not a certificate"))?;
    let told = parts.trust.told();
    let held = connect::read(&endpoint.ca_file).await?;
    let rotates = !told.is_empty() && crate::wire::trust_told(&held, &current.issuer) != told;
    if !rotates && !current.is_due(parts.clock.wall()) {
        return Ok(None);
    }
    let v1::CertifyResponse { certificate_pem, ca_pem, .. } = ask(endpoint).await?;
    let new = Certificate::read(certificate_pem.as_bytes()).filter(|new| new.key == current.key);
    let new =
        new.filter(|new| new.ends > current.ends || (rotates && new.ends == current.ends)).ok_or(RenewError::Odd)?;
    if rotates {
        // A crash here leaves a certificate of the authority before, which is trusted too, and the next start goes on.
        write(&endpoint.ca_file, ca_pem).await?;
    }
    write(&endpoint.certificate_file, certificate_pem).await?;
    if rotates {
        parts.trust.renewed.notify_one();
    }
    Ok(Some(new.ends))
}

async fn write(path: &Path, pem: String) -> Result<(), RenewError> {
    let path = path.to_owned();
    let written = tokio::task::spawn_blocking(move || files::write(&path, pem.as_bytes(), files::PUBLIC)).await;
    written.map_err(|error| RenewError::Write(error.into()))?.map_err(RenewError::Write)
}

async fn ask(endpoint: &ControlEndpoint) -> Result<v1::CertifyResponse, RenewError> {
    let unusable = |error: &dyn std::fmt::Display| RenewError::Unusable(error.to_string());
    let key = zeroize::Zeroizing::new(connect::read(&endpoint.key_file).await?);
    let text = std::str::from_utf8(&key).map_err(|error| unusable(&error))?;
    let key = KeyPair::from_pem(text).map_err(|error| unusable(&error))?;
    let request = CertificateParams::default().serialize_request(&key).map_err(|error| unusable(&error))?;
    let request = v1::CertifyRequest { certificate_request: request.der().to_vec(), ..v1::CertifyRequest::default() };
    let answer = connect::fleet(endpoint).await?.certify(request).await;
    Ok(answer.map_err(|status| RenewError::Refused(Box::new(status)))?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_when_a_third_of_its_life_is_left() {
        let at = Timestamp::from_unix_seconds;
        let certificate = Certificate { starts: at(0), ends: at(90), key: Vec::new(), issuer: Vec::new() };
        assert!(!certificate.is_due(at(59)));
        for late in [60, 89, 90, 1_000] {
            assert!(certificate.is_due(at(late)), "{late}");
        }
    }
}
