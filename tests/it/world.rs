//! More of the harness: an upstream and an issuer of the test's own, and the gate's parts as separate processes.
//!
//! The issuer signs with a library that is not the gate's code. Everything listens on ports that the system picked.

#![allow(dead_code, reason = "tests of several subjects use different parts of it")]

mod agent;
mod credentials;
mod process;
mod tls;
mod tls_server;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use self::agent::*;
pub(crate) use self::credentials::*;
pub(crate) use self::process::*;
pub(crate) use self::tls::*;
pub(crate) use self::tls_server::*;
use crate::dev::{Answer, Dev, Done, PATIENCE, START, Stream, command, curl, eventually};

/// What dev's issuer is called, and what its tokens are for.
pub(crate) const DEV_ISSUER: &str = "https://issuer.dev.portcullis.local";
pub(crate) const DEV_AUDIENCE: &str = "https://gateway.dev.portcullis.local";

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// An address of loopback that nobody listens on: it was free just now.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

type Handler = dyn Fn(&str, &mut TcpStream) + Send + Sync;

/// An upstream of the test's own: it counts requests, keeps their heads, and answers by the test's function. One request
/// per connection.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    pub(crate) fn start(handler: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (kept, handler): (_, Arc<Handler>) = (heads.clone(), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), kept, handler) = (stream, kept.clone(), handler.clone()) else { return };
                std::thread::spawn(move || serve(stream, &kept, &*handler));
            }
        });
        Self { address, heads }
    }

    /// Answers every request with 200 and `ok`.
    pub(crate) fn ok() -> Self {
        Self::start(|_, stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        })
    }

    /// How many requests it has seen.
    pub(crate) fn seen(&self) -> usize {
        self.heads.lock().unwrap().len()
    }

    /// The heads of all requests.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, heads: &Mutex<Vec<String>>, handler: &Handler) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    heads.lock().unwrap().push(head.clone());
    handler(&head, &mut stream);
}

/// The rest of what a peer sends, until it closes or resets: whether it ended within the patience of tests.
pub(crate) fn ends(stream: &mut TcpStream) -> bool {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut sink = [0; 4096];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// A control plane as a process of its own, and what gateways beside it need.
pub(crate) struct Fleet {
    pub(crate) home: TempDir,
    pub(crate) control: Process,
    pub(crate) address: String,
    pub(crate) key: Key,
}

/// Audience and issuer of a fleet's gateways.
pub(crate) const AUDIENCE: &str = "https://gate.test";
pub(crate) const ISSUER: &str = "https://issuer.test";

impl Fleet {
    /// A control plane with the gateway `edge` registered and a catalog with one route to `upstream`.
    #[track_caller]
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        Self::of(upstream, &["edge"])
    }

    /// The same with these gateways.
    #[track_caller]
    pub(crate) fn of(upstream: SocketAddr, gateways: &[&str]) -> Self {
        Self::in_home(tempfile::tempdir().unwrap(), upstream, gateways, |_| {})
    }

    /// The same in a directory of the test's, with settings that `edit` has changed.
    #[track_caller]
    pub(crate) fn in_home(
        home: TempDir,
        upstream: SocketAddr,
        gateways: &[&str],
        edit: impl FnOnce(&mut Value),
    ) -> Self {
        let key = Key::es256("k1");
        let at = |name: &str| home.path().join(name);
        std::fs::write(at("jwks.json"), jwks(&[&key])).unwrap();
        let mut config = json!({
            "role": "control", "trust_domain": "test.example", "state_dir": "control",
            "grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0",
            "tls": {
                "certificate_file": "control/control.pem", "key_file": "control/control.key",
                "client_ca_file": "control/clients.pem",
            },
            "log": { "format": "json" },
        });
        edit(&mut config);
        std::fs::write(at("control.yaml"), config.to_string()).unwrap();
        let mut init = vec!["control", "init", "-c", "control.yaml"];
        init.extend(gateways.iter().flat_map(|name| ["--gateway", name]));
        crate::dev::run(home.path(), &init).exits(0);
        let control = Process::spawn(home.path(), &["control", "run", "-c", "control.yaml"]);
        let ready = control.says("the control plane is ready");
        let address = format!("https://{}", ready["grpc"].as_str().unwrap());
        let fleet = Self { home, control, address, key };
        fleet.apply(&catalog(upstream));
        fleet
    }

    /// Starts the control plane again, at the same address.
    pub(crate) fn restart_control(&mut self) {
        let path = self.home.path().join("control.yaml");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["grpc_address"] = self.address.trim_start_matches("https://").into();
        std::fs::write(&path, config.to_string()).unwrap();
        self.control = Process::spawn(self.home.path(), &["control", "run", "-c", "control.yaml"]);
        self.control.says("the control plane is ready");
    }

    /// Starts the gateway `edge` with settings that `edit` has changed.
    #[track_caller]
    pub(crate) fn gateway(&self, edit: impl FnOnce(&mut Value)) -> Gate {
        self.gateway_of("edge", edit)
    }

    /// The same of another name.
    #[track_caller]
    pub(crate) fn gateway_of(&self, name: &str, edit: impl FnOnce(&mut Value)) -> Gate {
        let own = |file: &str| self.home.path().join(format!("control/gateways/{name}/{file}")).display().to_string();
        let at = |name: &str| self.home.path().join(name).display().to_string();
        let mut config = json!({
            "role": "gateway", "name": name, "state_dir": name, "audience": AUDIENCE,
            "listen": [
                { "address": "127.0.0.1:0" },
                { "address": "127.0.0.1:0", "tls": {
                    "certificate_file": own("gateway.pem"), "key_file": own("gateway.key"),
                    "client_ca_file": at("control/ca/ca.pem"), "client_certificate": "optional",
                } },
            ],
            "admin_address": "127.0.0.1:0", "workers": 1,
            "control": {
                "address": self.address, "ca_file": at("control/ca/ca.pem"),
                "certificate_file": own("gateway.pem"), "key_file": own("gateway.key"),
            },
            "issuers": [{ "issuer": ISSUER, "jwks_file": at("jwks.json") }],
            "log": { "format": "json" },
        });
        edit(&mut config);
        let file = if name == "edge" { "gateway.yaml".to_owned() } else { format!("{name}.yaml") };
        std::fs::write(self.home.path().join(&file), config.to_string()).unwrap();
        let process = Process::spawn(self.home.path(), &["gateway", "run", "-c", &file]);
        let line = process.says("the gateway listens");
        let listeners = line["listeners"].as_str().unwrap().trim_matches(['[', ']']).to_owned();
        let listeners: Vec<_> = listeners.split(", ").map(str::to_owned).collect();
        let tls_at: Vec<_> = listeners.iter().skip(1).map(|address| format!("https://{address}")).collect();
        let admin = format!("http://{}", line["admin"].as_str().unwrap());
        Gate {
            process,
            url: format!("http://{}", listeners[0]),
            tls: tls_at.first().cloned().unwrap_or_default(),
            tls_at,
            admin,
        }
    }

    /// The command line towards this control plane, to be run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let token = std::fs::read_to_string(self.home.path().join("control/people/administrator")).unwrap();
        let mut command = command(self.home.path());
        command.env("PORTCULLIS_ADDRESS", &self.address).env("PORTCULLIS_TOKEN", token.trim());
        command.env("PORTCULLIS_CA", self.home.path().join("control/ca/ca.pem")).args(arguments);
        command
    }

    #[track_caller]
    pub(crate) fn cli(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments).output().unwrap())
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<_> = ["-o", "json"].iter().chain(arguments).copied().collect();
        self.cli(&arguments).exits(0).json()
    }

    #[track_caller]
    pub(crate) fn apply(&self, documents: &str) {
        let file = self.home.path().join("catalog.yaml");
        std::fs::write(&file, documents).unwrap();
        self.cli(&["apply", "-f", file.to_str().unwrap()]).exits(0);
    }

    /// Grants `billing` reading for 15 minutes: the grant's id.
    #[track_caller]
    pub(crate) fn grant(&self, wait: &str) -> String {
        let create = ["grant", "create", "--identity", "billing", "--resource", "api/orders", "--action", "read"];
        let more = ["--duration", "15m", "--reason", "test"];
        let mut arguments = [&create[..], &more].concat();
        arguments.extend((!wait.is_empty()).then_some(wait));
        self.json(&arguments)["grants"][0]["id"].as_str().unwrap().to_owned()
    }

    /// `Authorization` of `billing`.
    pub(crate) fn bearer(&self) -> String {
        format!("Authorization: Bearer {}", self.key.sign(&plain_claims(ISSUER, AUDIENCE, "billing")))
    }
}

/// One identity, one sensitive resource, one that is not, and a route to each at `upstream`.
pub(crate) fn catalog(upstream: SocketAddr) -> String {
    format!(
        "kind: Identity\nname: billing\nspec: {{ kind: service, owner: payments, purpose: tests, environment: test,\n  \
         authenticate: [ {{ spiffe: \"spiffe://test.example/billing\" }}, {{ issuer: \"{ISSUER}\", subject: billing }} ] }}\n\
         ---\nkind: Resource\nname: api/orders\nspec: {{ owner: orders, sensitivity: high, authority: 10s }}\n\
         ---\nkind: Route\nname: orders\nspec:\n  upstream: http://{upstream}\n  resource: api/orders\n  actions:\n    \
         - {{ name: read, methods: [GET, HEAD], path: \"/v1/orders/**\" }}\n"
    )
}

/// A gateway as a process of its own.
pub(crate) struct Gate {
    pub(crate) process: Process,
    pub(crate) url: String,
    pub(crate) tls: String,
    /// Every TLS listener, the first among them.
    pub(crate) tls_at: Vec<String>,
    pub(crate) admin: String,
}

impl Gate {
    /// Waits until it has its picture and authority.
    #[track_caller]
    pub(crate) fn ready(self) -> Self {
        eventually("the gateway is ready", START, || curl(&[&format!("{}/readyz", self.admin)]).status == 200);
        self
    }

    #[track_caller]
    pub(crate) fn get(&self, authorization: &str, path: &str) -> Answer {
        curl(&["-H", authorization, &format!("{}{path}", self.url)])
    }

    /// The value of a metric, by its name and labels.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = curl(&[&format!("{}/metrics", self.admin)]).is(200).body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }

    /// Opens a stream by curl.
    pub(crate) fn open(&self, authorization: &str, path: &str) -> Stream {
        let mut command = Command::new("curl");
        command.args(["-sSN", "--max-time", "120", "-H", authorization, &format!("{}{path}", self.url)]);
        Stream::of(command)
    }
}

/// nginx in the foreground, on a free port, with a location block of the test's.
pub(crate) struct Nginx {
    child: Child,
    pub(crate) url: String,
    _dir: TempDir,
}

impl Nginx {
    #[track_caller]
    pub(crate) fn start(location: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = free_address();
        let root = dir.path().display();
        let config = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\n\
             events {{}}\nhttp {{ access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p;\n\
             fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s; root {root};\n\
             server {{ listen {address}; {location} }} }}\n"
        );
        std::fs::write(dir.path().join("nginx.conf"), config).unwrap();
        let mut nginx = Command::new("/usr/sbin/nginx");
        nginx.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf"));
        let child = nginx.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nginx");
        let nginx = Self { child, url: format!("http://{address}"), _dir: dir };
        eventually("nginx listens", PATIENCE, || TcpStream::connect(address).is_ok());
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a catalog file and applies it beside a dev.
#[track_caller]
pub(crate) fn apply(dev: &Dev, documents: &str) -> Done {
    let file = dev.home.path().join("more.yaml");
    std::fs::write(&file, documents).unwrap();
    dev.cli(&["apply", "-f", file.to_str().unwrap()])
}

/// A route of dev's resource `api/orders` at a host of its own, to `upstream`.
pub(crate) fn route(name: &str, host: &str, upstream: &str) -> String {
    format!(
        "kind: Route\nname: {name}\nspec:\n  host: {host}\n  upstream: {upstream}\n  resource: api/orders\n  actions:\n    \
         - {{ name: read, methods: [GET, HEAD], path: \"/**\" }}\n    \
         - {{ name: write, methods: [POST, PUT, DELETE], path: \"/**\" }}\n"
    )
}

/// Records of the gateway's log, as `evidence query` prints them.
#[track_caller]
pub(crate) fn evidence(dev: &Dev, arguments: &[&str]) -> Vec<Value> {
    let arguments: Vec<_> = ["-o", "json", "evidence", "query"].iter().chain(arguments).copied().collect();
    let done = dev.cli(&arguments).exits(0);
    done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The record of this kind about a call; waits for it, as an outcome follows the answer.
#[track_caller]
pub(crate) fn record(dev: &Dev, call: &str, kind: &str) -> Value {
    let mut found = None;
    eventually(&format!("a record of kind {kind} for call {call}"), PATIENCE, || {
        found = evidence(dev, &["--call", call, "--kind", kind]).into_iter().next();
        found.is_some()
    });
    found.unwrap()
}

/// Every byte of the gateway's and the control plane's logs, and of what the process said.
pub(crate) fn everything_written(dev: &Dev) -> Vec<u8> {
    fn walk(dir: &Path, out: &mut Vec<u8>) {
        for entry in std::fs::read_dir(dir).unwrap().filter_map(Result::ok) {
            let path: PathBuf = entry.path();
            if path.is_dir() {
                walk(&path, out);
            } else {
                out.extend(std::fs::read(&path).unwrap_or_default());
            }
        }
    }
    let mut out = dev.log().into_bytes();
    walk(&dev.dir().join("gateway/evidence"), &mut out);
    walk(&dev.dir().join("control/evidence"), &mut out);
    out
}

pub(crate) fn holds(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}
