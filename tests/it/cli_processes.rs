//! Control plane and gateway as processes of their own: what `dev` does in one, joined by `control init`.

use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use portcullis::domain::{Clock as _, Timestamp};
use portcullis::token::keys::{KeyAlgorithm, SigningKey};
use portcullis::token::mint::{PlainToken, plain_token};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::dev::{self, Done, PATIENCE, START, command, curl, eventually};

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "https://orders.example";

/// A part that runs.
struct Part {
    child: Child,
    log: Receiver<String>,
}

impl Part {
    #[track_caller]
    fn start(home: &Path, arguments: &[&str]) -> Self {
        let mut command = command(home);
        let mut child = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = dev::lines_of(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// The value of `field` in the first line that holds `part`.
    #[track_caller]
    fn says(&self, part: &str, field: &str) -> String {
        loop {
            let line = self.log.recv_timeout(START).unwrap_or_else(|e| panic!("{e}: no line with `{part}`"));
            if line.contains(part) {
                let (_, value) = line.split_once(&format!("{field}=")).unwrap_or_else(|| panic!("{line}"));
                return value.split(' ').next().unwrap().trim_matches(['[', ']', ',']).to_owned();
            }
            assert!(!line.starts_with("error"), "{line}");
        }
    }

    #[track_caller]
    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        eventually("the part has ended", Duration::from_secs(30), || self.child.try_wait().unwrap().is_some());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const CONTROL: &str = "role: control
trust_domain: example.org
state_dir: control
grpc_address: 127.0.0.1:0
http_address: 127.0.0.1:0
tls: { certificate_file: control/tls.pem, key_file: control/tls.key, client_ca_file: control/clients.pem }
";

fn gateway_settings(control: &str) -> String {
    format!(
        "role: gateway
name: edge-1
state_dir: gateway
audience: {AUDIENCE}
listen: [ {{ address: 127.0.0.1:0 }} ]
admin_address: 127.0.0.1:0
control:
  address: https://{control}
  ca_file: control/gateways/edge-1/ca.pem
  certificate_file: control/gateways/edge-1/gateway.pem
  key_file: control/gateways/edge-1/gateway.key
issuers: [ {{ issuer: '{ISSUER}', jwks_file: jwks.json }} ]
"
    )
}

fn catalog(upstream: &str) -> String {
    format!(
        "kind: Identity
name: billing
spec: {{ kind: service, owner: payments, purpose: tests, environment: test,
        authenticate: [ {{ issuer: '{ISSUER}', subject: billing }} ] }}
---
kind: Resource
name: api/orders
spec: {{ owner: orders }}
---
kind: Route
name: orders
spec:
  upstream: {upstream}
  resource: api/orders
  actions: [ {{ name: read, methods: [GET], path: '/v1/orders/**' }} ]
"
    )
}

#[test]
fn parts_as_processes_of_their_own_are_joined_over_mutual_tls() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    std::fs::write(at("control.yaml"), CONTROL).unwrap();
    let init = ["-ojson", "control", "init", "-c", "control.yaml", "--gateway", "edge-1"];
    let made = dev::run(home.path(), &init).exits(0).json();
    let (ca, token) = (made["ca"].as_str().unwrap(), made["administrator"].as_str().unwrap());
    let before = std::fs::read(at(ca)).unwrap();
    dev::run(home.path(), &init).exits(0);
    assert_eq!(std::fs::read(at(ca)).unwrap(), before, "what is good stays");

    let control = Part::start(home.path(), &["control", "run", "-c", "control.yaml"]);
    let address = control.says("the control plane is ready", "grpc");
    let cli = |arguments: &[&str]| {
        let url = format!("https://{address}");
        let mut command = command(home.path());
        command.args(["-ojson", "--address", &url, "--ca-file", ca, "--auth-token-file", token]);
        Done::of(command.args(arguments).output().unwrap())
    };
    let service = dev::service("HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\norders");
    std::fs::write(at("catalog.yaml"), catalog(&service.url)).unwrap();
    cli(&["apply", "-f", "catalog.yaml"]).exits(0);

    let key = SigningKey::generate(KeyAlgorithm::Es256).unwrap();
    std::fs::write(at("jwks.json"), SigningKey::public_jwks([&key]).to_string()).unwrap();
    std::fs::write(at("gateway.yaml"), gateway_settings(&address)).unwrap();
    let gateway = Part::start(home.path(), &["gateway", "run", "-c", "gateway.yaml"]);
    let url = format!("http://{}/v1/orders/1", gateway.says("the gateway listens", "listeners"));

    let now: Timestamp = portcullis::clock::SystemClock.now();
    let expires = now.saturating_add(Duration::from_secs(300));
    let plain = PlainToken { issuer: ISSUER, subject: "billing", audience: AUDIENCE, expires, random: [7; 16] };
    let bearer = format!("Authorization: Bearer {}", plain_token(&key, &plain, now).unwrap().token);
    let call = || curl(&["-H", &bearer, &url]);
    eventually("the gateway has the picture", PATIENCE, || call().status == 403);
    call().refuses(403, "grant_missing");

    let create = ["grant", "create", "--identity", "billing", "--resource", "api/orders", "--action", "read"];
    let created = cli(&[&create[..], &["--duration", "5m", "--reason", "test", "--wait=20s"]].concat()).exits(0).json();
    assert_eq!(call().is(200).body, "orders");
    let grant = created["grants"][0]["id"].as_str().unwrap();
    let receipt = cli(&["grant", "revoke", grant, "--reason", "over", "--wait=20s"]).exits(0).json();
    assert_eq!(receipt["gateways"][0]["gateway"], "edge-1");
    assert_eq!(receipt["gateways"][0]["state"], "enforced");
    call().refuses(403, "grant_missing");

    gateway.stop();
    let created = cli(&[&create[..], &["--duration", "5m", "--reason", "unheard"]].concat()).exits(0).json();
    let grant = created["grants"][0]["id"].as_str().unwrap();
    let unheard = cli(&["grant", "revoke", grant, "--reason", "unheard", "--wait=1s"]).exits(7);
    assert_eq!(unheard.error()["code"], "unavailable");
    let unheard = unheard.json()["gateways"][0].clone();
    assert_eq!((&unheard["state"], &unheard["connected"]), (&json!("pending"), &json!(false)));
    assert!(unheard["stops_by"].is_string(), "{unheard}");
    control.stop();
    for log in ["gateway/evidence", "control/evidence"] {
        dev::run(home.path(), &["evidence", "verify", log]).exits(0);
    }
}
