//! Gateways that join by somebody else's word: replicas of a template, by an X.509-SVID or a Kubernetes token.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::dev::{Done, PATIENCE, START, eventually, run};
use crate::world::{
    AUDIENCE, Certificate, Fleet, Gate, ISSUER, Key, Process, Upstream, authority, exchange, jwks, now, with, workload,
};

const CLUSTER: &str = "https://cluster.test";
const FOR_CONTROL: &str = "https://control.test";
const CALL: &str = "/v1/orders/7";

/// A control plane that takes the word of the trust domain `prod.example` and of one cluster.
struct World {
    fleet: Fleet,
    cluster: Key,
    bundle: Certificate,
}

fn world() -> World {
    let home = tempfile::tempdir().unwrap();
    let cluster = Key::rs256("cluster-1");
    let bundle = Certificate::self_signed(&authority(&["spiffe://prod.example"]));
    exchange(&home.path().join("cluster.json"), jwks(&[&cluster]));
    exchange(&home.path().join("bundle.pem"), std::fs::read(&bundle.cert).unwrap());
    let account = |name: &str| json!({ "issuer": CLUSTER, "namespace": "orders", "service_account": name });
    let fleet = Fleet::in_home(home, Upstream::ok().address, &[], |config| {
        config["attestation"] = json!({
            "spiffe": [{ "trust_domain": "prod.example", "bundle_file": "bundle.pem" }],
            "kubernetes": [{ "issuer": CLUSTER, "jwks_file": "cluster.json", "audiences": [FOR_CONTROL] }],
            "templates": [
                { "name": "pods", "kubernetes": account("gate"), "resources": ["api/orders"], "most": 3 },
                { "name": "svid", "spiffe": "spiffe://prod.example/ns/*/sa/gate", "routes": ["orders"], "gone_after": "10s" },
                { "name": "all", "kubernetes": account("other"), "everything": true },
            ],
        });
    });
    World { fleet, cluster, bundle }
}

/// Claims of a projected service account token.
fn pod(uid: &str, jti: &str) -> Value {
    json!({
        "iss": CLUSTER, "sub": "system:serviceaccount:orders:gate", "aud": [FOR_CONTROL],
        "iat": now() - 5, "nbf": now() - 5, "exp": now() + 3_600, "jti": jti,
        "kubernetes.io": {
            "namespace": "orders", "node": { "name": "n1", "uid": "n-1" },
            "pod": { "name": format!("gate-{uid}"), "uid": uid },
            "serviceaccount": { "name": "gate", "uid": "sa-1" },
        },
    })
}

impl World {
    /// Writes the settings of a replica with a state of its own; what the control plane is known by is there.
    fn settings(&self, template: &str, place: &str) -> String {
        let home = self.fleet.home.path();
        let config = json!({
            "role": "gateway", "name": template, "state_dir": place, "audience": AUDIENCE,
            "listen": [{ "address": "127.0.0.1:0" }],
            "admin_address": "127.0.0.1:0", "workers": 1,
            "control": {
                "address": self.fleet.address, "ca_file": home.join("control/ca/ca.pem"),
                "keys_file": format!("{place}/control.vkey"),
                "certificate_file": format!("{place}/gateway.pem"), "key_file": format!("{place}/gateway.key"),
            },
            "issuers": [{ "issuer": ISSUER, "jwks_file": home.join("jwks.json") }],
            "log": { "format": "json" },
        });
        let file = format!("{place}.yaml");
        std::fs::write(home.join(&file), config.to_string()).unwrap();
        file
    }

    fn join_with(&self, template: &str, place: &str, token: &str) -> Done {
        let file = self.settings(template, place);
        exchange(&self.fleet.home.path().join("token"), token);
        let arguments =
            ["-o", "json", "gateway", "join", "-c", &file, "--attest", "kubernetes", "--token-file", "token"];
        run(self.fleet.home.path(), &arguments)
    }

    fn join_pod(&self, place: &str, claims: &Value) -> Done {
        self.join_with("pods", place, &self.cluster.sign(claims))
    }

    fn join_svid(&self, place: &str, svid: &Certificate) -> Done {
        let file = self.settings("svid", place);
        let svid = ["--svid-file", &svid.cert, "--svid-key-file", &svid.key];
        let join = ["-o", "json", "gateway", "join", "-c", &file, "--attest", "spiffe"];
        run(self.fleet.home.path(), &[&join[..], &svid].concat())
    }

    /// An SVID that the bundle's authority signs.
    fn svid(&self, uri: &str) -> Certificate {
        Certificate::signed(&PathBuf::from(&self.bundle.cert), &PathBuf::from(&self.bundle.key), &workload(&[uri]))
    }

    fn start(&self, place: &str) -> Gate {
        let process = Process::spawn(self.fleet.home.path(), &["gateway", "run", "-c", &format!("{place}.yaml")]);
        let line = process.says("the gateway listens");
        let listener = line["listeners"].as_str().unwrap().trim_matches(['[', ']']).to_owned();
        let admin = format!("http://{}", line["admin"].as_str().unwrap());
        Gate { process, url: format!("http://{listener}"), tls: String::new(), tls_at: Vec::new(), admin }.ready()
    }

    fn gateways(&self) -> Vec<Value> {
        self.fleet.json(&["fleet", "status"])["gateways"].as_array().unwrap().clone()
    }

    fn evidence(&self) -> String {
        let log = self.fleet.home.path().join("control/evidence").display().to_string();
        run(self.fleet.home.path(), &["-o", "json", "evidence", "query", &log]).exits(0).stdout
    }

    fn told(&self, operation: &str) -> usize {
        self.evidence().matches(&format!("\"{operation}\"")).count()
    }
}

fn name(done: &Done) -> String {
    done.json()["gateway"].as_str().unwrap().to_owned()
}

#[test]
fn pods_join_as_replicas_each_with_keys_a_log_and_the_templates_scope() {
    let world = world();
    let bearer = world.fleet.bearer();
    world.fleet.grant("");
    let mut gates = Vec::new();
    for (place, uid) in [("one", "uid-1"), ("two", "uid-2")] {
        let joined = world.join_pod(place, &pod(uid, uid)).exits(0);
        let gate = world.start(place);
        let found = world.gateways().into_iter().find(|it| it["name"] == name(&joined).as_str()).unwrap();
        assert!(name(&joined).starts_with("pods-") && found["connected"] == true, "{found}");
        assert_eq!(found["scope"]["resources"], json!(["api/orders"]), "what the template says");
        eventually("its log is cosigned", PATIENCE, || {
            gate.get(&bearer, CALL).is(200);
            let all = world.gateways();
            let log = &all.iter().find(|it| it["name"] == name(&joined).as_str()).unwrap()["log"];
            log["cosigned_size"].as_u64() > Some(0) && log["key"].as_str().unwrap().contains(&name(&joined))
        });
        gates.push(gate);
    }
    assert_eq!(world.told("gateway.attested"), 2);
    assert!(world.evidence().matches("\"attested/").count() >= 2, "and whoever it was that joined");

    // Its container began anew and lost what it had: with the pod's next token it takes its own place.
    let before = world.gateways().len();
    let refused = world.join_pod("again", &pod("uid-1", "uid-1"));
    assert_eq!(refused.code, 1, "the token was used");
    assert!(refused.stderr.contains("good once"), "{}", refused.stderr);
    world.join_pod("again", &pod("uid-1", "next")).exits(0);
    assert_eq!((world.gateways().len(), world.told("gateway.let_go")), (before, 1));
    eventually("the one before is let go", START, || gates[0].process.log().contains("is not recorded"));
    world.start("again").get(&bearer, CALL).is(200);
    // As many as the template lets be.
    world.join_pod("third", &pod("uid-3", "t3")).exits(0);
    let many = world.join_pod("fourth", &pod("uid-4", "t4"));
    assert!(many.code == 1 && many.stderr.contains("3 gateways"), "{}", many.stderr);
}

#[test]
fn a_token_that_is_not_wholly_what_a_template_means_lets_nobody_join() {
    let world = world();
    let good = pod("uid-1", "t1");
    let deep = |path: &[&str], value: Value| {
        let mut claims = good.clone();
        let mut at = &mut claims["kubernetes.io"];
        for key in path {
            at = &mut at[*key];
        }
        *at = value;
        claims
    };
    let attacks = [
        ("another audience", with(good.clone(), "aud", json!(["https://kubernetes.default.svc"]))),
        ("a gateway's audience", with(good.clone(), "aud", json!([AUDIENCE]))),
        ("more than one audience", with(good.clone(), "aud", json!([FOR_CONTROL, "https://elsewhere"]))),
        ("another issuer", with(good.clone(), "iss", json!("https://other.test"))),
        ("expired", with(with(good.clone(), "iat", json!(now() - 7_200)), "exp", json!(now() - 60))),
        ("not yet", with(good.clone(), "nbf", json!(now() + 600))),
        ("another account", with(good.clone(), "sub", json!("system:serviceaccount:orders:gate2"))),
        ("an account that begins so", deep(&["serviceaccount", "name"], json!("gate-2"))),
        ("another namespace", deep(&["namespace"], json!("orders2"))),
        ("no pod", deep(&["pod"], Value::Null)),
        ("an empty pod", deep(&["pod", "uid"], json!(""))),
        ("no claims of the cluster", with(good.clone(), "kubernetes.io", Value::Null)),
    ];
    for (what, claims) in &attacks {
        let refused = world.join_pod("attacker", claims);
        assert_ne!(refused.code, 0, "{what}");
    }
    let stranger = Key::rs256("cluster-1");
    assert_ne!(world.join_with("pods", "attacker", &stranger.sign(&good)).code, 0, "signed by somebody else");
    // What it may not become it does not, and nothing in its settings gives it more: not a template of another account.
    for template in ["all", "svid", "none"] {
        let refused = world.join_with(template, "attacker", &world.cluster.sign(&good));
        assert!(refused.stderr.contains("meant by no template"), "{template}: {}", refused.stderr);
    }
    assert!(world.gateways().is_empty());
    // The token opens nothing else at the control plane.
    let mut status = world.fleet.command(&["fleet", "status"]);
    status.env("PORTCULLIS_TOKEN", world.cluster.sign(&good));
    assert_eq!(Done::of(status.output().unwrap()).code, 3);
    // None of this spent it.
    world.join_pod("honest", &good).exits(0);
}

#[test]
fn svids_join_as_replicas_and_one_that_is_gone_is_let_go_by_itself() {
    let world = world();
    let svid = world.svid("spiffe://prod.example/ns/orders/sa/gate");
    let joined = world.join_svid("one", &svid).exits(0);
    let other = world.join_svid("two", &svid).exits(0);
    assert_ne!(name(&joined), name(&other), "one identity, and keys of their own");
    let mut gate = world.start("one");
    // The other one never comes: who waited for its word would wait for long.
    world.fleet.grant("");
    eventually("calls are allowed", PATIENCE, || gate.get(&world.fleet.bearer(), CALL).status == 200);
    gate.process.signal(Signal::TERM);
    eventually("it has ended", START, || gate.process.ended().is_some());
    eventually("both are let go", START, || world.gateways().is_empty());
    assert_eq!(world.told("gateway.let_go"), 2);
    // It comes back as it came.
    world.join_svid("one", &svid).exits(0);
    let gate = world.start("one");
    eventually("calls are allowed", PATIENCE, || gate.get(&world.fleet.bearer(), CALL).status == 200);
}

#[test]
fn an_svid_that_is_not_wholly_what_a_template_means_lets_nobody_join() {
    let world = world();
    for id in [
        "spiffe://prod.example/ns/orders/sa/gate/more",
        "spiffe://prod.example/ns/orders/sa/gateway",
        "spiffe://prod.example/ns/orders/more/sa/gate",
        "spiffe://prod.example/ns/sa/gate",
        "spiffe://prod.example.evil/ns/orders/sa/gate",
        "spiffe://other.example/ns/orders/sa/gate",
        // What this control plane's own CA alone may say.
        "spiffe://test.example/gateway/edge",
    ] {
        let refused = world.join_svid("attacker", &world.svid(id));
        assert_ne!(refused.code, 0, "{id}");
    }
    // Another authority that clients are trusted by here says so of the trust domain.
    let own = |file: &str| world.fleet.home.path().join("control/ca").join(file);
    let wanted = workload(&["spiffe://prod.example/ns/orders/sa/gate"]);
    let forged = Certificate::signed(&own("ca.pem"), &own("ca.key"), &wanted);
    assert_ne!(world.join_svid("attacker", &forged).code, 0);
    assert_ne!(world.join_svid("attacker", &Certificate::self_signed(&wanted)).code, 0);
    assert!(world.gateways().is_empty());
}
