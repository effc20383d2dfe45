//! Keys, certificates and tokens: what somebody needs to be known here.
//!
//! The CA certifies servers, gateways and workloads of one trust domain; people get tokens, of which only the digest is
//! kept. Everything here can be run again and leaves what is good in place. What the bearer may do is not known here.

mod certificate;
mod person;

use std::io;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

use crate::domain::Clock;
use crate::domain::name::GatewayName;
use crate::domain::principal::SpiffeId;
use crate::files;
use crate::wire::CONTROL_SERVER_NAME;

pub use certificate::{Certified, Issued, key};
pub use person::{PersonSpec, ensure_gateway, ensure_person, random_token};

/// Life of the CA.
const CA_DAYS: u64 = 3_650;
/// Life of everything that it issues.
const LEAF_DAYS: u64 = 90;
/// Largest key or certificate that is read back.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Why something could not be issued.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is there and is not what it should be. It is not replaced: somebody may rely on it.
    #[error("{}: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A name cannot stand in a certificate.
    #[error("a certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// Only the control plane goes by this name.
    #[error("`{0}` covers the control plane's own name: only its certificate may have it")]
    Reserved(String),
    /// The writer did not take the record.
    #[error(transparent)]
    Refused(#[from] super::plan::Refused),
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    NoRandomness,
}

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The control plane, by host names and addresses. `localhost`, `127.0.0.1`, `::1` and [`CONTROL_SERVER_NAME`] are
    /// added.
    Server {
        /// Host names and addresses.
        names: Vec<String>,
    },
    /// A gateway: client and server.
    Gateway {
        /// Its name.
        name: GatewayName,
        /// Host names and addresses under which callers reach it. `localhost`, `127.0.0.1` and `::1` are added.
        names: Vec<String>,
    },
    /// A workload: client.
    Workload(SpiffeId),
}

/// A certificate authority in a directory: `ca.pem` and `ca.key`.
pub struct CertificateAuthority {
    dir: PathBuf,
    trust_domain: String,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CertificateAuthority of {} in {}", self.trust_domain, self.dir.display())
    }
}

/// Makes sure of a control plane's files in `dir`: the CA, and the server's `control.pem` and `control.key`, valid for
/// `names` and loopback. Run again it keeps what is good.
///
/// # Errors
/// When a file cannot be written, or one that is there belongs to another trust domain or does not read.
pub fn init(
    dir: &Path,
    trust_domain: &str,
    names: &[String],
    clock: &dyn Clock,
) -> Result<CertificateAuthority, EnrolError> {
    files::private_dir(dir).map_err(|source| EnrolError::File { path: dir.to_owned(), source })?;
    let ca = CertificateAuthority::open_or_create(dir, trust_domain, clock)?;
    let subject = Subject::Server { names: names.to_vec() };
    ca.issue(&subject, &dir.join("control.pem"), &dir.join("control.key"), clock)?;
    Ok(ca)
}

impl CertificateAuthority {
    /// Reads the CA in `dir`, or makes it: an ECDSA P-256 key and a certificate of ten years.
    ///
    /// # Errors
    /// When a file cannot be read or written, or is of another trust domain.
    pub fn open_or_create(dir: &Path, trust_domain: &str, clock: &dyn Clock) -> Result<Self, EnrolError> {
        let (certificate, key_file) = (dir.join("ca.pem"), dir.join("ca.key"));
        let key = certificate::key(&key_file)?;
        let pem = match certificate::read(&certificate)? {
            Some(pem) => pem,
            None => {
                let pem = ca_params(trust_domain, clock)?.self_signed(&key)?.pem();
                // A crash before this leaves a key without a certificate, which the next run certifies.
                let written = files::create_new(&certificate, pem.as_bytes(), files::PUBLIC);
                written.map_err(|source| EnrolError::File { path: certificate.clone(), source })?;
                pem
            }
        };
        certificate::check_ca(&certificate, &pem, &key, trust_domain)?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key)?;
        Ok(Self { dir: dir.to_owned(), trust_domain: trust_domain.to_owned(), pem, issuer })
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Where its certificate is.
    pub fn certificate_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The trust domain that it certifies.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The SPIFFE ID of a gateway: `spiffe://DOMAIN/gateway/NAME`.
    pub fn gateway_id(&self, name: &GatewayName) -> String {
        format!("spiffe://{}/gateway/{name}", self.trust_domain)
    }

    /// A certificate, PEM, for `subject` and the key of a certificate signing request (PKCS#10, DER), whose signature
    /// proves that the asker has it. Nothing else of the request counts.
    ///
    /// # Errors
    /// When the request does not hold, or a name cannot stand in this certificate.
    pub fn certify(&self, subject: &Subject, request: &[u8], clock: &dyn Clock) -> Result<Certified, EnrolError> {
        certificate::certify(self, subject, request, clock)
    }

    /// Whether a certificate for `subject` could be issued.
    ///
    /// # Errors
    /// When a name cannot stand in it.
    pub fn check(&self, subject: &Subject) -> Result<(), EnrolError> {
        certificate::check(self, subject)
    }

    /// Reads the CA in `dir`; `None` when its key is not there.
    ///
    /// # Errors
    /// When a file cannot be read, or is of another trust domain.
    pub fn open(dir: &Path, trust_domain: &str, clock: &dyn Clock) -> Result<Option<Self>, EnrolError> {
        if dir.join("ca.key").exists() { Self::open_or_create(dir, trust_domain, clock).map(Some) } else { Ok(None) }
    }

    /// Makes sure of a certificate for `subject` in `certificate`, its key in `key` (mode 0600). A good one with more
    /// than a third of its life left stays; otherwise a new one is issued, for the key that is there.
    ///
    /// # Errors
    /// When a file cannot be read or written, or a name cannot stand in this certificate.
    pub fn issue(
        &self,
        subject: &Subject,
        certificate: &Path,
        key: &Path,
        clock: &dyn Clock,
    ) -> Result<Issued, EnrolError> {
        certificate::issue(self, subject, certificate, key, clock)
    }
}

fn ca_params(trust_domain: &str, clock: &dyn Clock) -> Result<CertificateParams, EnrolError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Portcullis CA of {trust_domain}"));
    // SPIFFE X.509-SVID section 4.1: a signing certificate may carry the trust domain's own ID.
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(certificate::serial()?);
    certificate::validity(&mut params, CA_DAYS, clock);
    Ok(params)
}

#[cfg(test)]
mod tests;
