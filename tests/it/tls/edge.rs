//! A gateway with TLS files of the test's own, and openssl at both ends.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rcgen::{CertificateParams, SanType};
use serde_json::{Value, json};

use crate::dev::{PATIENCE, eventually, try_curl};
use crate::world::{Authority, Certificate, Fleet, Gate, Upstream, client_config, exchange, free_address};

pub(super) const BILLING: &str = "spiffe://test.example/billing";
pub(super) const ORDERS: &str = "/v1/orders/7";

/// A fleet whose gateway has TLS files of the test's own, in a directory that the test writes.
pub(super) struct Edge {
    pub(super) fleet: Fleet,
    pub(super) upstream: Upstream,
    /// Signs the listener's certificate.
    pub(super) server: Authority,
    /// Of `test.example`.
    pub(super) ours: Authority,
    /// Of `other.example`.
    pub(super) theirs: Authority,
}

impl Edge {
    pub(super) fn new(upstream: Upstream) -> Self {
        let fleet = Fleet::start(upstream.address);
        let edge = Self { fleet, upstream, server: Authority::new(), ours: Authority::new(), theirs: Authority::new() };
        edge.put("ours.pem", edge.ours.text());
        edge.put("theirs.pem", edge.theirs.text());
        edge.renew();
        edge
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.fleet.home.path().join(name)
    }

    pub(super) fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        exchange(&self.at(name), content);
    }

    /// A new certificate and key for the listener.
    pub(super) fn renew(&self) {
        let mut params = CertificateParams::default();
        // Not the authority's name: openssl would take it for one that signed itself.
        params.distinguished_name.push(rcgen::DnType::CommonName, "gate");
        params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
        let certificate = self.server.sign(&params);
        self.put("tls.pem", std::fs::read(&certificate.cert).unwrap());
        self.put("tls.key", std::fs::read(&certificate.key).unwrap());
    }

    /// The `tls` of a listener with `more`.
    pub(super) fn tls(&self, more: &Value) -> Value {
        let mut tls = json!({ "certificate_file": self.at("tls.pem"), "key_file": self.at("tls.key") });
        let more = more.as_object().unwrap().clone();
        tls.as_object_mut().unwrap().extend(more);
        json!({ "address": "127.0.0.1:0", "tls": tls })
    }

    /// Both trust domains.
    pub(super) fn domains(&self) -> Value {
        json!([
            { "trust_domain": "test.example", "bundle_file": self.at("ours.pem") },
            { "trust_domain": "other.example", "bundle_file": self.at("theirs.pem") },
        ])
    }

    /// A gateway with a plain listener and these; `billing` has its grant.
    pub(super) fn gate(&self, listeners: &[Value]) -> Gate {
        let gate = self.fleet.gateway(|config| {
            let plain = config["listen"][0].clone();
            config["listen"] = [&[plain], listeners].concat().into();
            config["log"]["level"] = "debug".into();
        });
        let gate = gate.ready();
        self.fleet.grant("--wait=20s");
        gate
    }

    pub(super) fn config(&self, certificate: Option<&Certificate>) -> Arc<rustls::ClientConfig> {
        Arc::new(client_config(&self.server.pem, certificate))
    }

    /// What a call with this certificate comes to, by curl: its status; nothing where there is no answer at all.
    pub(super) fn call(&self, url: &str, certificate: Option<&Certificate>) -> Option<u16> {
        let ca = self.server.pem.display().to_string();
        let url = format!("{url}{ORDERS}");
        let mut arguments = vec!["--cacert", &ca];
        if let Some(certificate) = certificate {
            arguments.extend(["--cert", &certificate.cert, "--key", &certificate.key]);
        }
        arguments.push(&url);
        let done = try_curl(&arguments);
        (done.code == 0).then(|| done.stdout.split(' ').nth(1).unwrap().parse().unwrap())
    }
}

pub(super) fn days(mut params: CertificateParams, from: i64, to: i64) -> CertificateParams {
    let now = std::time::SystemTime::now();
    let at = |day: i64| {
        let span = std::time::Duration::from_secs(86_400 * day.unsigned_abs());
        if day < 0 { now - span } else { now + span }
    };
    (params.not_before, params.not_after) = (at(from).into(), at(to).into());
    params
}

/// What `openssl s_client` and the gate said to each other.
pub(super) fn openssl(url: &str, more: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-ign_eof", "-connect", url.trim_start_matches("https://")]).args(more);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("openssl is installed");
    let request = format!("GET {ORDERS} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let _ = child.stdin.take().unwrap().write_all(request.as_bytes());
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
}

/// openssl's own server with the listener's certificate, which gives sessions and resumes them.
pub(super) struct SessionServer {
    child: std::process::Child,
    pub(super) url: String,
}

impl SessionServer {
    pub(super) fn start(edge: &Edge) -> Self {
        let address = free_address();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-www", "-quiet", "-accept", &address.to_string(), "-cert"]).arg(edge.at("tls.pem"));
        command.arg("-key").arg(edge.at("tls.key")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { child: command.spawn().expect("openssl is installed"), url: format!("https://{address}") };
        eventually("it listens", PATIENCE, || std::net::TcpStream::connect(address).is_ok());
        server
    }
}

impl Drop for SessionServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
