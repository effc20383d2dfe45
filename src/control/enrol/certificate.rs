//! Certificates and their keys, as files.

use std::path::Path;
use std::time::Duration;

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;

use super::{CONTROL_SERVER_NAME, CertificateAuthority, EnrolError, LEAF_DAYS, Subject};
use crate::domain::{Clock, Timestamp};
use crate::files;

/// How far back certificates begin: clocks differ.
const SKEW: Duration = Duration::from_secs(300);

/// A certificate for somebody else's key.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate.
    pub pem: String,
    /// The key that it is for, as its SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
}

/// Whether anything had to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issued {
    /// What was there is good.
    Kept,
    /// There is a new certificate.
    New,
}

fn file(path: &Path, source: std::io::Error) -> EnrolError {
    EnrolError::File { path: path.to_owned(), source }
}

fn unusable(path: &Path, why: impl Into<String>) -> EnrolError {
    EnrolError::Unusable { path: path.to_owned(), why: why.into() }
}

/// A certificate as it is in `path`, if it is there.
pub(super) fn read(path: &Path) -> Result<Option<String>, EnrolError> {
    match std::fs::read_to_string(path) {
        Ok(pem) => Ok(Some(pem)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file(path, error)),
    }
}

/// The CA that is there is the one for this key and this trust domain.
pub(super) fn check_ca(path: &Path, pem: &str, key: &[u8], trust_domain: &str) -> Result<(), EnrolError> {
    let found = Found::read(pem).ok_or_else(|| unusable(path, "is not a certificate"))?;
    if found.public_key != key {
        return Err(unusable(path, "does not belong to the key beside it"));
    }
    let wanted = format!("uri:spiffe://{trust_domain}");
    if found.names != [wanted] {
        return Err(unusable(path, format!("is not the CA of the trust domain {trust_domain}")));
    }
    Ok(())
}

/// See [`CertificateAuthority::issue`].
pub(super) async fn issue(
    ca: &CertificateAuthority,
    subject: &Subject,
    certificate: &Path,
    key_file: &Path,
    clock: &dyn Clock,
) -> Result<Issued, EnrolError> {
    let key = super::key(key_file)?;
    let mut params = params(ca, subject)?;
    if let Some(pem) = read(certificate)?
        && Found::read(&pem).is_some_and(|found| found.serves(ca, &params, &key, clock.now()))
    {
        return Ok(Issued::Kept);
    }
    params.serial_number = Some(serial()?);
    validity(&mut params, LEAF_DAYS, clock);
    let issued = ca.signed(&params, &key).await?;
    if let Some(dir) = certificate.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        files::private_dir(dir).map_err(|source| file(dir, source))?;
    }
    // A crash before this leaves a key and the old certificate, which is for that key too.
    files::write(certificate, issued.pem().as_bytes(), files::PUBLIC).map_err(|source| file(certificate, source))?;
    Ok(Issued::New)
}

/// See [`CertificateAuthority::certify`].
pub(super) async fn certify(
    ca: &CertificateAuthority,
    subject: &Subject,
    request: &[u8],
    clock: &dyn Clock,
) -> Result<Certified, EnrolError> {
    let request = CertificateSigningRequestParams::from_der(&request.into())?;
    let mut params = params(ca, subject)?;
    params.serial_number = Some(serial()?);
    validity(&mut params, LEAF_DAYS, clock);
    let public_key = request.public_key.subject_public_key_info();
    Ok(Certified { pem: ca.signed(&params, &request.public_key).await?.pem(), public_key })
}

/// The identifier of the key that issued a certificate, PEM, as it says itself.
pub(in super::super) fn issuer_of(pem: &str) -> Option<Vec<u8>> {
    Found::read(pem)?.issuer_key
}

/// The identifier of the key that a certificate is for (RFC 5280 section 4.2.1.2), PEM.
pub(in super::super) fn identifier_of(pem: &str) -> Option<Vec<u8>> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

/// Has the server's certificate in a file issued anew by `ca`, for its key and its names, when whoever issued it is among
/// `gone`. One that somebody else issued is theirs.
pub(in super::super) async fn renew_server(
    ca: &CertificateAuthority,
    (certificate, key): (&Path, &Path),
    gone: &[Vec<u8>],
    clock: &dyn Clock,
) -> Result<Issued, EnrolError> {
    let pem = read(certificate)?.ok_or_else(|| unusable(certificate, "is not there"))?;
    let found = Found::read(&pem).ok_or_else(|| unusable(certificate, "is not a certificate"))?;
    if !found.issuer_key.is_some_and(|issuer| gone.contains(&issuer)) {
        return Ok(Issued::Kept);
    }
    issue(ca, &Subject::Server { names: found.hosts }, certificate, key, clock).await
}

/// See [`CertificateAuthority::check`].
pub(super) fn check(ca: &CertificateAuthority, subject: &Subject) -> Result<(), EnrolError> {
    params(ca, subject).map(drop)
}

fn params(ca: &CertificateAuthority, subject: &Subject) -> Result<CertificateParams, EnrolError> {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let (common_name, uri, names, usages) = match subject {
        Subject::Server { names } => ("control".to_owned(), None, Some(names), vec![ServerAuth]),
        Subject::Gateway { name, names } => {
            (format!("gateway {name}"), Some(ca.gateway_id(name)), Some(names), vec![ServerAuth, ClientAuth])
        }
        Subject::Workload(id) => ("workload".to_owned(), Some(id.to_string()), None, vec![ClientAuth]),
    };
    let mut hosts: Vec<String> = Vec::new();
    if let Some(names) = names {
        hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        hosts.extend(names.iter().cloned());
        // Gateways and command lines know the control plane by this name alone.
        match subject {
            Subject::Server { .. } => hosts.push(CONTROL_SERVER_NAME.to_owned()),
            Subject::Gateway { .. } | Subject::Workload(_) => refuse_reserved(&hosts)?,
        }
        hosts.sort();
        hosts.dedup();
    }
    let mut params = CertificateParams::new(hosts)?;
    if let Some(uri) = uri {
        params.subject_alt_names.push(SanType::URI(uri.try_into()?));
    }
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The control plane's name stands in no other certificate, nor does a wildcard above it.
fn refuse_reserved(hosts: &[String]) -> Result<(), EnrolError> {
    let above = CONTROL_SERVER_NAME.split_once('.').map_or(CONTROL_SERVER_NAME, |(_, above)| above);
    let reserved = |host: &str| {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        host == CONTROL_SERVER_NAME || host.strip_prefix("*.").is_some_and(|rest| rest == above)
    };
    match hosts.iter().find(|host| reserved(host)) {
        Some(host) => Err(EnrolError::Reserved(host.clone())),
        None => Ok(()),
    }
}

/// A serial number of 127 random bits (RFC 5280 section 4.1.2.2: positive).
pub(super) fn serial() -> Result<SerialNumber, EnrolError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| EnrolError::NoRandomness)?;
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

/// From just before now on, for `days`.
pub(super) fn validity(params: &mut CertificateParams, days: u64, clock: &dyn Clock) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds = u64::try_from(clock.now().unix_seconds()).unwrap_or(0);
    params.not_before = epoch + Duration::from_secs(seconds.saturating_sub(SKEW.as_secs()));
    params.not_after = epoch + Duration::from_secs(seconds.saturating_add(days * 86_400));
}

/// What a certificate says.
struct Found {
    public_key: Vec<u8>,
    issuer_key: Option<Vec<u8>>,
    names: Vec<String>,
    /// Host names and addresses among them.
    hosts: Vec<String>,
    starts: Timestamp,
    ends: Timestamp,
}

impl Found {
    fn read(pem: &str) -> Option<Self> {
        let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
        let certificate = pem.parse_x509().ok()?;
        let (mut names, mut hosts) = (Vec::new(), Vec::new());
        for name in &certificate.subject_alternative_name().ok()??.value.general_names {
            names.push(match name {
                GeneralName::URI(uri) => format!("uri:{uri}"),
                GeneralName::DNSName(name) => format!("dns:{name}"),
                GeneralName::IPAddress(bytes) => format!("ip:{bytes:?}"),
                _ => return None,
            });
            hosts.extend(match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                GeneralName::IPAddress(bytes) => address(bytes),
                _ => None,
            });
        }
        names.sort();
        let issuer_key = certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|key| key.0.to_vec()),
            _ => None,
        });
        Some(Self {
            public_key: certificate.public_key().raw.to_vec(),
            issuer_key,
            names,
            hosts,
            starts: Timestamp::from_unix_seconds(certificate.validity().not_before.timestamp()),
            ends: Timestamp::from_unix_seconds(certificate.validity().not_after.timestamp()),
        })
    }

    /// Whether it is what would be issued now, with more than a third of its life left.
    fn serves(&self, ca: &CertificateAuthority, wanted: &CertificateParams, key: &KeyPair, now: Timestamp) -> bool {
        let mut names: Vec<String> = wanted.subject_alt_names.iter().map(shown).collect();
        names.sort();
        let life = self.ends.saturating_since(self.starts);
        let left = self.ends.saturating_since(now);
        let by_us = self.issuer_key == Some(ca.key.identifier());
        by_us
            && self.public_key == key.subject_public_key_info()
            && self.names == names
            && now >= self.starts
            && left > life / 3
    }
}

/// An address of a certificate, as text.
fn address(bytes: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
    let sixteen = || <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from);
    four.or_else(|_| sixteen()).ok().map(|address| address.to_string())
}

fn shown(name: &SanType) -> String {
    match name {
        SanType::URI(uri) => format!("uri:{}", uri.as_str()),
        SanType::DnsName(name) => format!("dns:{}", name.as_str()),
        SanType::IpAddress(std::net::IpAddr::V4(ip)) => format!("ip:{:?}", ip.octets()),
        SanType::IpAddress(std::net::IpAddr::V6(ip)) => format!("ip:{:?}", ip.octets()),
        other => format!("{other:?}"),
    }
}
