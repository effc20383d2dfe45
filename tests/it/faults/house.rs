//! A control plane, its gateways' settings and the command line, each in a namespace of its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::disturbed::Disturbed;
use super::ground::Ground;
use super::ledger::Ledger;
use crate::dev::Done;
use crate::world::{AUDIENCE, ISSUER, Key, jwks, plain_claims, with};

/// How long anything may take that is not a fault.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
/// How old authority may be for the resources here.
pub(crate) const AUTHORITY: Duration = Duration::from_secs(5);
/// Where the operator's command line and the upstream are.
const OPERATOR: &str = "operator";
const UPSTREAM: &str = "upstream";
/// Where the control plane is.
pub(crate) const CONTROL: &str = "control";
const PORT: u16 = 7443;
/// Where a gateway listens: its callers are in its namespace, as those of a sidecar are.
pub(crate) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// The largest disk; what is written is all that it takes of memory.
const DISK: &str = "1g";

/// Of each gateway an identity, a sensitive resource for its trials, and one that shows whether it serves.
fn catalog(upstream: SocketAddr, place: usize) -> String {
    format!(
        "kind: Identity\nname: b{place}\nspec: {{ kind: service, owner: payments, purpose: tests, environment: test,\n  \
         authenticate: [ {{ issuer: \"{ISSUER}\", subject: b{place} }} ] }}\n\
         ---\nkind: Resource\nname: api/trial{place}\nspec: {{ owner: orders, authority: 5s }}\n\
         ---\nkind: Resource\nname: api/canary{place}\nspec: {{ owner: orders, authority: 5s }}\n\
         ---\nkind: Route\nname: trial{place}\nspec:\n  upstream: http://{upstream}\n  resource: api/trial{place}\n  \
         actions:\n    - {{ name: read, methods: [GET], path: \"/g{place}/**\" }}\n\
         ---\nkind: Route\nname: canary{place}\nspec:\n  upstream: http://{upstream}\n  resource: api/canary{place}\n  \
         actions:\n    - {{ name: read, methods: [GET], path: \"/c{place}/**\" }}\n"
    )
}

/// What the drivers share.
pub(crate) struct House {
    home: TempDir,
    pub(crate) ground: Ground,
    pub(crate) ledger: Ledger,
    /// What is being done to the control plane.
    pub(crate) disturbed: Disturbed,
    key: Key,
    control: Ipv4Addr,
    pub(crate) gateways: Vec<String>,
    token: String,
}

impl House {
    /// Everything but processes.
    pub(crate) fn new(seed: u64, gateways: usize) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (control, upstream) = (Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 3));
        let mut names = vec![
            (CONTROL.to_owned(), control),
            (OPERATOR.to_owned(), Ipv4Addr::new(10, 77, 0, 2)),
            (UPSTREAM.to_owned(), upstream),
        ];
        let address = |place: usize| Ipv4Addr::new(10, 77, 1, u8::try_from(place).unwrap() + 1);
        names.extend((0..gateways).map(|place| (format!("g{place}"), address(place))));
        let at = |name: &str| home.path().join(name);
        let mut disks = vec![(at("control"), DISK)];
        disks.extend((0..gateways).map(|place| (at(&format!("g{place}")), DISK)));
        let ground = Ground::start(home.path(), seed, &names, &disks);
        let ledger = std::thread::scope(|scope| {
            let listening = scope.spawn(|| {
                ground.enter(UPSTREAM);
                Ledger::start(upstream)
            });
            listening.join().unwrap()
        });
        let key = Key::es256("k1");
        std::fs::write(at("jwks.json"), jwks(&[&key])).unwrap();
        let gateways = (0..gateways).map(|place| format!("g{place}")).collect();
        let mut house = Self {
            home,
            ground,
            ledger,
            disturbed: Disturbed::default(),
            key,
            control,
            gateways,
            token: String::new(),
        };
        house.settle();
        house
    }

    /// Writes settings and makes the control plane's keys.
    fn settle(&mut self) {
        let config = json!({
            "role": "control", "trust_domain": "test.example", "state_dir": "control",
            "grpc_address": format!("{}:{PORT}", self.control), "http_address": "127.0.0.1:7080",
            "tls": {
                "certificate_file": "control/control.pem", "key_file": "control/control.key",
                "client_ca_file": "control/clients.pem",
            },
            "log": { "format": "json" },
        });
        self.write("control.yaml", &config.to_string());
        let mut init = vec!["control", "init", "-c", "control.yaml"];
        init.extend(self.gateways.iter().flat_map(|name| ["--gateway", name]));
        Done::of(self.ground.command(CONTROL, &init).output().unwrap()).exits(0);
        for name in &self.gateways {
            let own = |file: &str| format!("control/gateways/{name}/{file}");
            let config = json!({
                "role": "gateway", "name": name, "state_dir": name, "audience": AUDIENCE,
                "listen": [{ "address": LISTEN }], "admin_address": "127.0.0.1:0", "workers": 1,
                "control": {
                    "address": format!("https://{}:{PORT}", self.control), "ca_file": "control/ca/ca.pem",
                    "certificate_file": own("gateway.pem"), "key_file": own("gateway.key"),
                },
                "issuers": [{ "issuer": ISSUER, "jwks_file": "jwks.json" }],
                "limits": { "hold": "500ms" },
                "log": { "format": "json" },
            });
            self.write(&format!("{name}.yaml"), &config.to_string());
        }
        let seen = self.ground.seen(&self.at("control/people/administrator"));
        std::fs::read_to_string(seen).unwrap().trim().clone_into(&mut self.token);
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.at(name), text).unwrap();
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The catalog, and a grant on each gateway's canary. The control plane runs.
    pub(crate) fn furnish(&self) {
        for place in 0..self.gateways.len() {
            self.write("catalog.yaml", &catalog(self.ledger.address, place));
            self.cli(&["apply", "-f", "catalog.yaml"]).exits(0);
            self.grant("canary", place, &[]).exits(0);
        }
    }

    /// The command line, towards the control plane without a fault of the network.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Done {
        let arguments = [&["-o", "json"], arguments].concat();
        let mut command = self.ground.command(OPERATOR, &arguments);
        command.env("PORTCULLIS_ADDRESS", format!("https://{}:{PORT}", self.control));
        command.env("PORTCULLIS_TOKEN", &self.token).env("PORTCULLIS_CA", self.at("control/ca/ca.pem"));
        Done::of(command.output().unwrap())
    }

    /// What the logs of gateways and of the control plane tell of calls on a path, and of the grants that they went under.
    pub(crate) fn told_of(&self, path: &str) -> String {
        let records = |of: &str, kind: &[&str]| -> Vec<Value> {
            let log = format!("{of}/evidence");
            let query = [&["-o", "json", "evidence", "query", &log][..], kind].concat();
            let done = Done::of(self.ground.command(OPERATOR, &query).output().unwrap());
            done.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
        };
        let (mut told, mut grants) = (String::new(), BTreeSet::new());
        for gateway in &self.gateways {
            for record in records(gateway, &["--kind", "intent"]) {
                let data = &record["data"];
                if data["path"].as_str().is_some_and(|it| it.starts_with(path)) {
                    grants.insert(data["basis"]["grant"].as_str().unwrap_or_default().to_owned());
                    let (time, basis) = (&record["time"], &data["basis"]);
                    let (epoch, revision, allotment) = (&data["epoch"], &data["revision"], &data["allotment"]);
                    told += &format!("{gateway} {time} {basis} {epoch}/{revision} {allotment}\n");
                }
            }
        }
        let of_them = |record: &&Value| {
            let text = record.to_string();
            grants.iter().any(|grant| !grant.is_empty() && text.contains(grant))
                || ["restored", "incarnation"].iter().any(|word| text.contains(word))
        };
        let control = records(CONTROL, &[]);
        control.iter().filter(of_them).fold(told, |told, record| told + &record.to_string() + "\n")
    }

    pub(crate) fn bearer(&self, place: usize) -> String {
        // Wrong clocks run ahead of it by minutes at most.
        let claims =
            with(plain_claims(ISSUER, AUDIENCE, &format!("b{place}")), "exp", (crate::world::now() + 7_200).into());
        format!("Authorization: Bearer {}", self.key.sign(&claims))
    }

    pub(crate) fn grant(&self, kind: &str, place: usize, limits: &[&str]) -> Done {
        let (identity, resource) = (format!("b{place}"), format!("api/{kind}{place}"));
        let create = ["grant", "create", "--identity", &identity, "--resource", &resource, "--action", "read"];
        self.cli(&[&create[..], limits, &["--duration", "8h", "--reason", "trial"]].concat())
    }

    /// Makes a trial's grant, and no second one: where nobody knows whether it was made, it is ended first.
    pub(crate) fn give(&self, place: usize, uses: Option<usize>) {
        let uses = uses.map(|uses| uses.to_string());
        let limits: Vec<&str> = uses.iter().flat_map(|uses| ["--uses", uses.as_str()]).collect();
        let from = Instant::now();
        loop {
            let done = self.grant("trial", place, &limits);
            if done.code == 0 {
                return;
            }
            assert!(from.elapsed() < PATIENCE, "no grant can be made: {done:?}");
            self.revoke(place, Duration::from_secs(1));
        }
    }

    /// Ends every grant of a trial: what the gateways have to show, and when that was said.
    pub(crate) fn revoke(&self, place: usize, wait: Duration) -> (Vec<Value>, SystemTime) {
        let (identity, resource) = (format!("b{place}"), format!("api/trial{place}"));
        let wait = format!("{}ms", wait.as_millis().max(1));
        let revoke = ["grant", "revoke", "--identity", &identity, "--resource", &resource, "--reason", "over"];
        let arguments = [&revoke[..], &["--wait", &wait]].concat();
        let from = Instant::now();
        loop {
            let done = self.cli(&arguments);
            let at = SystemTime::now();
            // 7 is also what a control plane that is away comes to.
            if [0, 7].contains(&done.code) && !done.stdout.is_empty() {
                return (done.json()["gateways"].as_array().unwrap().clone(), at);
            }
            assert!(from.elapsed() < PATIENCE, "{done:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
