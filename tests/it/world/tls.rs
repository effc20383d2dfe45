//! TLS towards a gate, with keys of the test's own: rustls as a caller, and authorities that sign and revoke.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;

use super::{Certificate, authority};
use crate::dev::PATIENCE;

/// The library's own choice of everything; trusts the authority in `ca`.
pub(crate) fn client_config(ca: &Path, certificate: Option<&Certificate>) -> rustls::ClientConfig {
    client_config_with(rustls::crypto::aws_lc_rs::default_provider(), ca, certificate)
}

/// As [`client_config`], with another choice of algorithms.
pub(crate) fn client_config_with(
    provider: rustls::crypto::CryptoProvider,
    ca: &Path,
    certificate: Option<&Certificate>,
) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let chain = vec![CertificateDer::from_pem_file(&certificate.cert).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&certificate.key).unwrap()).unwrap()
        }
    }
}

/// A TLS connection on which the test writes HTTP/1.1 by hand.
pub(crate) struct Tls {
    pub(crate) stream: rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream>,
}

impl Tls {
    /// Connects to `https://127.0.0.1:PORT`; the handshake is done by the first call.
    pub(crate) fn connect(url: &str, config: &Arc<rustls::ClientConfig>) -> Self {
        let address = url.trim_start_matches("https://");
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connection = rustls::ClientConnection::new(config.clone(), name).unwrap();
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream: rustls::StreamOwned::new(connection, stream) }
    }

    /// Sends a request without a body, with these header lines.
    pub(crate) fn send(&mut self, path: &str, headers: &[&str]) -> std::io::Result<()> {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        self.stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n").as_bytes())
    }

    /// One call on the kept connection: everything of the answer.
    pub(crate) fn try_get(&mut self, path: &str, headers: &[&str]) -> std::io::Result<String> {
        self.send(path, headers)?;
        let mut text = String::new();
        let mut chunk = [0; 4096];
        loop {
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(": ")?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
                });
                if body.len() >= length.unwrap_or(0) {
                    return Ok(text);
                }
            }
            match self.stream.read(&mut chunk)? {
                0 => return Err(std::io::Error::other(format!("closed: {text}"))),
                read => text.push_str(&String::from_utf8_lossy(&chunk[..read])),
            }
        }
    }

    /// As [`Tls::try_get`]; there must be an answer.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> String {
        self.try_get(path, &[]).unwrap()
    }

    /// Reads until `part` was seen.
    #[track_caller]
    pub(crate) fn until(&mut self, part: &str) -> String {
        let mut text = String::new();
        let mut chunk = [0; 4096];
        while !text.contains(part) {
            let read = self.stream.read(&mut chunk).unwrap();
            assert_ne!(read, 0, "closed before `{part}`: {text}");
            text.push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
        text
    }

    /// Whether the other side ends the connection in time.
    pub(crate) fn ends(&mut self) -> bool {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return !matches!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
    }

    /// SHA-256 of the certificate that the gate showed.
    pub(crate) fn server_certificate(&self) -> Vec<u8> {
        self.stream.conn.peer_certificates().unwrap()[0].to_vec()
    }
}

/// An authority of the test's own. All of them have the same name: only their keys tell them apart.
pub(crate) struct Authority {
    _dir: TempDir,
    pub(crate) pem: PathBuf,
    key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = authority(&[]);
        params.key_usages.push(KeyUsagePurpose::CrlSign);
        let key = KeyPair::generate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (pem, key_file) = (dir.path().join("ca.pem"), dir.path().join("ca.key"));
        std::fs::write(&pem, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        Self { _dir: dir, pem, key: key_file }
    }

    pub(crate) fn sign(&self, params: &CertificateParams) -> Certificate {
        Certificate::signed(&self.pem, &self.key, params)
    }

    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.pem).unwrap()
    }

    /// A list of revoked certificates by serial number, that ends after `life` (or so long ago).
    pub(crate) fn crl(&self, serials: &[u64], ended: bool) -> String {
        let hour = Duration::from_secs(3_600);
        let now = SystemTime::now();
        let (issued, ends) = if ended { (now - 2 * hour, now - hour) } else { (now - hour, now + hour) };
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: issued.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: issued.into(),
            next_update: ends.into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let key = KeyPair::from_pem(&std::fs::read_to_string(&self.key).unwrap()).unwrap();
        params.signed_by(&Issuer::from_ca_cert_pem(&self.text(), key).unwrap()).unwrap().pem().unwrap()
    }
}

/// Exchanges a file in one step, as tools that renew certificates do.
pub(crate) fn exchange(file: &Path, content: impl AsRef<[u8]>) {
    let new = file.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, file).unwrap();
}
