//! What the TLS of a listener is made of, read from its files, and how a change of a file is noticed.
//!
//! Knows no rustls configuration: it reads, and says which file is bad.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::TlsError;
use super::workload::Workloads;
use crate::domain::principal::TrustDomain;
use crate::settings::gateway::{ClientTrust, ListenerTls, TlsSource, TrustBundle};

/// Largest file that is read: lists of revoked certificates grow with what was revoked, some 40 bytes each.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// A listener's certificate and key, and whom it trusts.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// What a listener that asks for no client certificate leaves aside; `None`: there is nobody.
    pub(super) trust: Option<TrustMaterial>,
}

/// Whom a listener trusts.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TrustMaterial {
    /// The same authorities, whatever the trust domain.
    AnyDomain(BundleMaterial),
    /// Each trust domain by its own.
    Domains(Vec<(TrustDomain, BundleMaterial)>),
}

/// Authorities, at least one, and what they revoked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BundleMaterial {
    /// Where they come from, for messages.
    pub(super) source: String,
    pub(super) authorities: Vec<CertificateDer<'static>>,
    pub(super) crls: Vec<CertificateRevocationListDer<'static>>,
}

impl Material {
    /// Reads the files of a listener, or takes what its agent gave.
    pub(super) fn read(tls: &ListenerTls, workloads: &Workloads) -> Result<Self, TlsError> {
        let (certificate_file, key_file) = match &tls.source {
            TlsSource::WorkloadApi { socket } => return workloads.material(socket),
            TlsSource::Files { certificate_file, key_file } => (certificate_file, key_file),
        };
        let trust = match tls.clients.as_ref().map(|clients| &clients.trust) {
            None | Some(ClientTrust::WorkloadApi) => None,
            Some(ClientTrust::AnyDomain(bundle)) => Some(TrustMaterial::AnyDomain(BundleMaterial::read(bundle)?)),
            Some(ClientTrust::Domains(domains)) => {
                let read = |(domain, bundle): &(TrustDomain, TrustBundle)| {
                    BundleMaterial::read(bundle).map(|bundle| (domain.clone(), bundle))
                };
                Some(TrustMaterial::Domains(domains.iter().map(read).collect::<Result<_, _>>()?))
            }
        };
        let (chain, key) = chain_and_key(certificate_file, key_file)?;
        Ok(Self { chain, key, trust })
    }
}

impl BundleMaterial {
    fn read(bundle: &TrustBundle) -> Result<Self, TlsError> {
        let mut crls = Vec::new();
        for file in &bundle.crl_files {
            crls.extend(all(file, "list of revoked certificates")?);
        }
        let authorities = all(&bundle.file, "certificate")?;
        Ok(Self { source: bundle.file.display().to_string(), authorities, crls })
    }
}

fn fault(file: &Path, why: impl ToString) -> TlsError {
    TlsError::File { file: file.display().to_string(), why: why.to_string() }
}

/// A certificate chain and its private key, for whoever shows one.
pub(crate) fn chain_and_key(
    certificate_file: &Path,
    key_file: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let key = PrivateKeyDer::from_pem_slice(&read(key_file)?).map_err(|error| fault(key_file, error))?;
    Ok((all(certificate_file, "certificate")?, key))
}

/// Everything of one kind in a PEM file, at least one.
fn all<T: PemObject>(file: &Path, what: &str) -> Result<Vec<T>, TlsError> {
    let bytes = read(file)?;
    let list: Vec<T> = T::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(|error| fault(file, error))?;
    if list.is_empty() { Err(fault(file, format!("it holds no {what}"))) } else { Ok(list) }
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = std::fs::File::open(file).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| fault(file, error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(fault(file, format!("it is larger than {} MiB", MAX_FILE_BYTES >> 20)));
    }
    Ok(bytes)
}

/// Every file that a listener's TLS is read from.
pub(super) fn files(tls: &ListenerTls) -> Vec<PathBuf> {
    let mut files = match &tls.source {
        TlsSource::Files { certificate_file, key_file } => vec![certificate_file.clone(), key_file.clone()],
        TlsSource::WorkloadApi { .. } => return Vec::new(),
    };
    let mut add = |bundle: &TrustBundle| {
        files.push(bundle.file.clone());
        files.extend(bundle.crl_files.iter().cloned());
    };
    match tls.clients.as_ref().map(|clients| &clients.trust) {
        None | Some(ClientTrust::WorkloadApi) => {}
        Some(ClientTrust::AnyDomain(bundle)) => add(bundle),
        Some(ClientTrust::Domains(domains)) => domains.iter().for_each(|(_, bundle)| add(bundle)),
    }
    files
}

/// Tells one state of a file from another without reading it. Links are followed: a mounted volume changes its link. The
/// time of the last change of the inode is among it, which nobody can set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None`: it cannot be looked at.
    pub(crate) fn of(file: &Path) -> Option<Self> {
        let data = std::fs::metadata(file).ok()?;
        Some(Self {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }
}
