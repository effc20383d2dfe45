//! The gateway's certificate towards its control plane, renewed before its end.
//!
//! With the key that is there, over mutual TLS, when a third of its life is left. The next connection uses the new one;
//! so does every listener that shows the same file.

use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use x509_parser::pem::parse_x509_pem;

use super::connect::{self, ConnectError};
use super::{Parts, jittered};
use crate::domain::Timestamp;
use crate::files;
use crate::settings::gateway::ControlEndpoint;
use crate::wire::v1;

/// How often its end is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

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
}

impl Certificate {
    fn read(pem: &[u8]) -> Option<Self> {
        let (_, pem) = parse_x509_pem(pem).ok()?;
        let certificate = pem.parse_x509().ok()?;
        Some(Self {
            starts: Timestamp::from_unix_seconds(certificate.validity().not_before.timestamp()),
            ends: Timestamp::from_unix_seconds(certificate.validity().not_after.timestamp()),
            key: certificate.public_key().raw.to_vec(),
        })
    }

    /// Whether a third of its life is left, or less.
    fn is_due(&self, now: Timestamp) -> bool {
        self.ends.saturating_since(now) <= self.ends.saturating_since(self.starts) / 3
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
        tokio::time::sleep(jittered(LOOK_EVERY)).await;
    }
}

/// Renews it when it is due; answers when the new one ends.
async fn renew(parts: &Parts) -> Result<Option<Timestamp>, RenewError> {
    let endpoint = &parts.endpoint;
    let unusable = |why: &str| RenewError::Unusable(why.to_owned());
    let pem = connect::read(&endpoint.certificate_file).await?;
    let current = Certificate::read(&pem).ok_or_else(|| unusable("it is not a certificate"))?;
    if !current.is_due(parts.clock.wall()) {
        return Ok(None);
    }
    let pem = ask(endpoint).await?;
    let new = Certificate::read(pem.as_bytes()).filter(|new| new.key == current.key && new.ends > current.ends);
    let ends = new.ok_or(RenewError::Odd)?.ends;
    let path = endpoint.certificate_file.clone();
    let written = tokio::task::spawn_blocking(move || files::write(&path, pem.as_bytes(), files::PUBLIC)).await;
    written.map_err(|error| RenewError::Write(error.into()))?.map_err(RenewError::Write)?;
    Ok(Some(ends))
}

async fn ask(endpoint: &ControlEndpoint) -> Result<String, RenewError> {
    let unusable = |error: &dyn std::fmt::Display| RenewError::Unusable(error.to_string());
    let key = zeroize::Zeroizing::new(connect::read(&endpoint.key_file).await?);
    let text = std::str::from_utf8(&key).map_err(|error| unusable(&error))?;
    let key = KeyPair::from_pem(text).map_err(|error| unusable(&error))?;
    let request = CertificateParams::default().serialize_request(&key).map_err(|error| unusable(&error))?;
    let request = v1::CertifyRequest { certificate_request: request.der().to_vec(), evidence_key: String::new() };
    let answer = connect::fleet(endpoint).await?.certify(request).await;
    Ok(answer.map_err(|status| RenewError::Refused(Box::new(status)))?.into_inner().certificate_pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_when_a_third_of_its_life_is_left() {
        let at = Timestamp::from_unix_seconds;
        let certificate = Certificate { starts: at(0), ends: at(90), key: Vec::new() };
        assert!(!certificate.is_due(at(59)));
        for late in [60, 89, 90, 1_000] {
            assert!(certificate.is_due(at(late)), "{late}");
        }
    }
}
