//! Keys, certificates and tokens: what somebody needs to be known here.
//!
//! The CA certifies servers, gateways and workloads of one trust domain; people get tokens, of which only the digest is
//! kept. Everything here can be run again and leaves what is good in place. What the bearer may do is not known here.

mod ca_key;
mod certificate;
mod person;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyUsagePurpose, PublicKeyData, SanType};

use super::model::Model;
use super::record::AuthorityStanding;
use crate::domain::Clock;
use crate::domain::name::GatewayName;
use crate::domain::principal::SpiffeId;
use crate::files;
use crate::settings::ControlSettings;
use crate::settings::control::CaSignerSettings;
use crate::wire::CONTROL_SERVER_NAME;

use ca_key::CaKey;
pub use ca_key::{CaAlgorithm, CaKeyError, CaKeys};
pub use certificate::{Certified, Issued};
pub(super) use certificate::{identifier_of, issuer_of, renew_server};
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
    /// The CA's key signs nothing.
    #[error(transparent)]
    Key(#[from] CaKeyError),
    /// A name cannot stand in a certificate.
    #[error("a certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// Only the control plane goes by this name.
    #[error("`{0}` covers the control plane's own name: only its certificate may have it")]
    Reserved(String),
    /// The key of whoever issues is not there.
    #[error("the key of the CA that issues is not there")]
    NoKey,
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

/// A certificate authority: its certificate, and a key that others may keep.
#[derive(Clone)]
pub struct CertificateAuthority {
    trust_domain: String,
    pem: String,
    key: CaKey,
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CertificateAuthority of {} with {:?}", self.trust_domain, self.key)
    }
}

/// The file of a CA directory with the certificate of its first CA.
pub const CA_FILE: &str = "ca.pem";
/// The label of the first CA's key.
pub const FIRST_LABEL: &str = "ca";

/// Makes sure of a control plane's files in `dir`: the CA, and the server's `control.pem` and `control.key`, valid for
/// `names` and loopback. Run again it keeps what is good.
///
/// # Errors
/// When a file cannot be written, or one that is there belongs to another trust domain or does not read.
pub async fn init(
    dir: &Path,
    trust_domain: &str,
    names: &[String],
    clock: &dyn Clock,
) -> Result<CertificateAuthority, EnrolError> {
    files::private_dir(dir).map_err(|source| EnrolError::File { path: dir.to_owned(), source })?;
    let ca = CertificateAuthority::open_or_create(dir, None, trust_domain, clock).await?;
    let subject = Subject::Server { names: names.to_vec() };
    ca.issue(&subject, &dir.join("control.pem"), &dir.join("control.key"), clock).await?;
    Ok(ca)
}

/// Who issues for a control plane that does not run, and what is to be trusted.
#[derive(Debug)]
pub struct Issuing {
    /// Who issues.
    pub ca: CertificateAuthority,
    /// What is to be trusted, PEM.
    pub bundle: String,
}

impl Issuing {
    /// As the store says, or the CA in the settings' directory, which is made where there is none.
    ///
    /// # Errors
    /// When a file or a key cannot be used.
    pub async fn open(settings: &ControlSettings, model: &Model, clock: &dyn Clock) -> Result<Self, EnrolError> {
        let (dir, signer, domain) = (&settings.ca_dir, settings.ca_signer.as_ref(), &settings.trust_domain);
        files::private_dir(dir).map_err(|source| EnrolError::File { path: dir.clone(), source })?;
        let Some(trust) = model.trust.as_ref().map(|kept| &kept.value) else {
            let ca = CertificateAuthority::open_or_create(dir, signer, domain, clock).await?;
            let bundle = ca.pem().to_owned();
            return Ok(Self { ca, bundle });
        };
        let it = trust.of(AuthorityStanding::Issuing).next().ok_or(EnrolError::NoKey)?;
        let ca = CertificateAuthority::known(&ca_keys(dir, signer), &it.label, &it.certificate, domain).await?;
        Ok(Self { ca: ca.ok_or(EnrolError::NoKey)?, bundle: trust.bundle() })
    }
}

/// The key in `path`, ECDSA P-256; made, with its directory, when there is none.
///
/// # Errors
/// When the file cannot be read or written, or holds something else.
pub fn key(path: &Path) -> Result<rcgen::KeyPair, EnrolError> {
    ca_key::key(path)
}

/// Where the keys of a CA are: in `dir`, or with whom `signer` asks.
pub fn ca_keys(dir: &Path, signer: Option<&CaSignerSettings>) -> Arc<dyn CaKeys> {
    ca_key::keys(dir, signer)
}

impl CertificateAuthority {
    /// Reads the CA in `dir`, or makes it: a certificate of ten years, for a key that `signer` keeps, or an ECDSA P-256 key
    /// beside it.
    ///
    /// # Errors
    /// When a file cannot be read or written, is of another trust domain, or the key does not sign.
    pub async fn open_or_create(
        dir: &Path,
        signer: Option<&CaSignerSettings>,
        trust_domain: &str,
        clock: &dyn Clock,
    ) -> Result<Self, EnrolError> {
        let (file, keys) = (dir.join(CA_FILE), ca_keys(dir, signer));
        if let Some(pem) = certificate::read(&file)? {
            let key = CaKey::open(&keys, FIRST_LABEL).await?;
            let why = "is there, and its key is not".to_owned();
            let key = key.ok_or_else(|| EnrolError::Unusable { path: file.clone(), why })?;
            certificate::check_ca(&file, &pem, &key.spki(), trust_domain)?;
            return Ok(Self { trust_domain: trust_domain.to_owned(), pem, key });
        }
        let ca = Self::make(&keys, FIRST_LABEL, trust_domain, clock).await?;
        // A crash before this leaves a key without a certificate, which the next run certifies.
        let written = files::create_new(&file, ca.pem.as_bytes(), files::PUBLIC);
        written.map_err(|source| EnrolError::File { path: file, source })?;
        Ok(ca)
    }

    /// Reads the CA in `dir`; `None` when its key is not there.
    ///
    /// # Errors
    /// When a file cannot be read, is of another trust domain, or the key cannot be asked for.
    pub async fn open(
        dir: &Path,
        signer: Option<&CaSignerSettings>,
        trust_domain: &str,
        clock: &dyn Clock,
    ) -> Result<Option<Self>, EnrolError> {
        match ca_keys(dir, signer).public_key(FIRST_LABEL).await? {
            Some(_) => Self::open_or_create(dir, signer, trust_domain, clock).await.map(Some),
            None => Ok(None),
        }
    }

    /// Makes a CA for the key of that label, which is made where there is none.
    ///
    /// # Errors
    /// When the key cannot be made or does not sign.
    pub async fn make(
        keys: &Arc<dyn CaKeys>,
        label: &str,
        trust_domain: &str,
        clock: &dyn Clock,
    ) -> Result<Self, EnrolError> {
        keys.make(label).await?;
        let key = CaKey::open(keys, label).await?.ok_or(EnrolError::NoKey)?;
        let params = ca_params(trust_domain, label, clock)?;
        let pem = key.signing(|written| params.self_signed(written)).await?.pem();
        Ok(Self { trust_domain: trust_domain.to_owned(), pem, key })
    }

    /// The CA with this certificate, and the key of that label; `None` when the key is not there.
    ///
    /// # Errors
    /// When they do not belong together, or the key cannot be asked for.
    pub async fn known(
        keys: &Arc<dyn CaKeys>,
        label: &str,
        pem: &str,
        trust_domain: &str,
    ) -> Result<Option<Self>, EnrolError> {
        let Some(key) = CaKey::open(keys, label).await? else { return Ok(None) };
        certificate::check_ca(Path::new(label), pem, &key.spki(), trust_domain)?;
        Ok(Some(Self { trust_domain: trust_domain.to_owned(), pem: pem.to_owned(), key }))
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
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
    pub async fn certify(&self, subject: &Subject, request: &[u8], clock: &dyn Clock) -> Result<Certified, EnrolError> {
        certificate::certify(self, subject, request, clock).await
    }

    /// The key that a certificate signing request is for, as a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// When the request does not hold.
    pub fn requested_key(&self, request: &[u8]) -> Result<Vec<u8>, EnrolError> {
        let request = rcgen::CertificateSigningRequestParams::from_der(&request.into())?;
        Ok(request.public_key.subject_public_key_info())
    }

    /// Whether a certificate for `subject` could be issued.
    ///
    /// # Errors
    /// When a name cannot stand in it.
    pub fn check(&self, subject: &Subject) -> Result<(), EnrolError> {
        certificate::check(self, subject)
    }

    /// Makes sure of a certificate for `subject` in `certificate`, its key in `key` (mode 0600). A good one with more
    /// than a third of its life left stays; otherwise a new one is issued, for the key that is there.
    ///
    /// # Errors
    /// When a file cannot be read or written, or a name cannot stand in this certificate.
    pub async fn issue(
        &self,
        subject: &Subject,
        certificate: &Path,
        key: &Path,
        clock: &dyn Clock,
    ) -> Result<Issued, EnrolError> {
        certificate::issue(self, subject, certificate, key, clock).await
    }

    /// A certificate by this CA for somebody's key.
    async fn signed(
        &self,
        params: &CertificateParams,
        public: &(impl PublicKeyData + Sync),
    ) -> Result<rcgen::Certificate, EnrolError> {
        self.key.signing(|written| params.signed_by(public, &Issuer::from_ca_cert_pem(&self.pem, written)?)).await
    }
}

fn ca_params(trust_domain: &str, label: &str, clock: &dyn Clock) -> Result<CertificateParams, EnrolError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // Each has a name of its own: who looks for a certificate's authority by name finds one.
    let place = label.strip_prefix(FIRST_LABEL).unwrap_or(label).trim_start_matches('-');
    let name = if place.is_empty() { "Portcullis CA".to_owned() } else { format!("Portcullis CA {place}") };
    params.distinguished_name.push(DnType::CommonName, format!("{name} of {trust_domain}"));
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
