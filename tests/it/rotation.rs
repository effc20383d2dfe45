//! The CA of gateways is rotated: under load, with gateways that were away, with one of a key that a command keeps, and at
//! once when its key was stolen.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::dev::{Dev, PATIENCE, START, curl, eventually, run, try_curl};
use crate::world::{Fleet, Gate, Upstream, exchange};

const CALL: &str = "/v1/orders/7";

/// A gateway with a CA file of its own, as on a machine of its own.
fn apart(fleet: &Fleet, name: &str) -> Gate {
    let own = fleet.home.path().join(format!("control/gateways/{name}/ca.pem")).display().to_string();
    fleet.gateway_of(name, |config| config["control"]["ca_file"] = own.into())
}

fn stop(mut gate: Gate) {
    gate.process.signal(Signal::TERM);
    eventually("the gateway has ended", START, || gate.process.ended().is_some());
}

/// Which authority's certificate a gateway showed last.
fn by(fleet: &Fleet, name: &str) -> Value {
    let told = fleet.json(&["control", "ca", "status"]);
    let gateways = told["gateways"].as_array().unwrap().clone();
    gateways.iter().find(|it| it["gateway"] == name).map_or(Value::Null, |it| it["authority"].clone())
}

fn standings(fleet: &Fleet) -> Vec<(String, String)> {
    let told = fleet.json(&["control", "ca", "status"]);
    let of = |it: &Value, key: &str| it[key].as_str().unwrap().to_owned();
    told["authorities"].as_array().unwrap().iter().map(|it| (of(it, "label"), of(it, "standing"))).collect()
}

fn step(fleet: &Fleet, arguments: &[&str]) {
    let all = [&["control", "ca"][..], arguments, &["--reason", "yearly"]].concat();
    fleet.cli(&all).exits(0);
}

/// Calls one after the other until told to stop: how many there were, and what was not 200.
fn load(url: &str, bearer: &str, stop: &AtomicBool, made: &AtomicUsize) -> Vec<u16> {
    let mut bad = Vec::new();
    while !stop.load(SeqCst) {
        let status = curl(&["-H", bearer, &format!("{url}{CALL}")]).status;
        made.fetch_add(1, SeqCst);
        bad.extend((status != 200).then_some(status));
    }
    bad
}

#[test]
fn under_load_no_call_fails_while_another_authority_takes_over_and_who_was_away_comes_back() {
    let fleet = Fleet::of(Upstream::ok().address, &["edge", "far", "late", "lost"]);
    let (edge, far) = (apart(&fleet, "edge").ready(), apart(&fleet, "far").ready());
    for name in ["late", "lost"] {
        stop(apart(&fleet, name).ready());
    }
    fleet.grant("");
    let bearer = fleet.bearer();
    for gate in [&edge, &far] {
        eventually("calls are allowed", PATIENCE, || gate.get(&bearer, CALL).status == 200);
    }
    let read = |path: &str| std::fs::read(fleet.home.path().join(path)).unwrap();
    let (old_ca, old_leaf) = (read("control/ca/ca.pem"), read("control/gateways/edge/gateway.pem"));
    let urls = [edge.url.clone(), far.url.clone()];
    let (stop_now, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let under_way = |at: usize| eventually("calls go on", PATIENCE, || made.load(SeqCst) > at + 20);
    std::thread::scope(|scope| {
        let callers: Vec<_> = urls.iter().map(|url| scope.spawn(|| load(url, &bearer, &stop_now, &made))).collect();
        under_way(0);
        fleet.cli(&["control", "ca", "issue", "--reason", "too early"]).exits(5);
        step(&fleet, &["rotate"]);
        assert_eq!(standings(&fleet), [("ca".into(), "issuing".into()), ("ca-2".into(), "published".into())]);
        // Everybody trusts both before the new one issues anything.
        let bundle = String::from_utf8(read("control/ca/ca.pem")).unwrap();
        assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 2);
        eventually("the gateways have what is trusted", START, || {
            ["edge", "far"].iter().all(|name| read(&format!("control/gateways/{name}/ca.pem")) == bundle.as_bytes())
        });
        under_way(made.load(SeqCst));
        step(&fleet, &["issue"]);
        eventually("both have renewed", START, || by(&fleet, "edge") == "ca-2" && by(&fleet, "far") == "ca-2");
        // One that was away in the overlap renews as it comes.
        let late = apart(&fleet, "late").ready();
        eventually("the late one has renewed", START, || by(&fleet, "late") == "ca-2");
        under_way(made.load(SeqCst));
        step(&fleet, &["retire", "--wait", "20s"]);
        under_way(made.load(SeqCst));
        stop(late);
        stop_now.store(true, SeqCst);
        for caller in callers {
            assert_eq!(caller.join().unwrap(), Vec::<u16>::new(), "no call fails");
        }
    });
    println!("{} calls", made.load(SeqCst));
    assert_eq!(standings(&fleet), [("ca".into(), "retired".into()), ("ca-2".into(), "issuing".into())]);
    assert!(!fleet.home.path().join("control/ca/ca.key").exists(), "the old key is no more");

    // One that was away all the time is told what to do, and does it.
    let lost = apart(&fleet, "lost");
    eventually("it says what to do", START, || lost.process.log().contains("`portcullis fleet invite` it and"));
    stop(lost);
    join(&fleet, "lost").exits(0);
    apart(&fleet, "lost").ready();

    // Whoever pins the old CA alone knows the control plane no more, and old certificates open nothing.
    let at = |name: &str| fleet.home.path().join(name);
    exchange(&at("old-ca.pem"), &old_ca);
    let mut pinned = fleet.command(&["fleet", "status"]);
    pinned.env("PORTCULLIS_CA", at("old-ca.pem"));
    let said = crate::dev::Done::of(pinned.output().unwrap());
    assert_eq!(said.code, 7, "{}", said.stderr);
    exchange(&at("old.pem"), &old_leaf);
    let key = at("control/gateways/edge/gateway.key");
    let shown = asks(&fleet, &at("old.pem"), &key);
    assert_ne!(shown.code, 0, "{}", shown.stdout);
    // The new one is known for who it is: a gateway, which may not ask for that.
    assert_eq!(asks(&fleet, &at("control/gateways/edge/gateway.pem"), &key).code, 3);

    // The steps are evidence, and what is kept survives a start.
    let log = at("control/evidence").display().to_string();
    for operation in ["ca.published", "ca.issuing", "ca.retired"] {
        let found = run(fleet.home.path(), &["-o", "json", "evidence", "query", &log]).exits(0).stdout;
        assert_eq!(found.matches(&format!("\"{operation}\"")).count(), 1, "{operation}");
    }
    let mut fleet = fleet;
    fleet.control.signal(Signal::TERM);
    eventually("the control plane has ended", START, || fleet.control.ended().is_some());
    fleet.restart_control();
    assert_eq!(standings(&fleet), [("ca".into(), "retired".into()), ("ca-2".into(), "issuing".into())]);
    eventually("the gateways are back", START, || by(&fleet, "edge") == "ca-2" && by(&fleet, "far") == "ca-2");
    edge.get(&bearer, CALL).is(200);
}

/// Asks the control plane something as whoever has a certificate.
fn asks(fleet: &Fleet, certificate: &Path, key: &Path) -> crate::dev::Done {
    let mut command = crate::dev::command(fleet.home.path());
    command.env("PORTCULLIS_ADDRESS", &fleet.address).env("PORTCULLIS_CA", fleet.home.path().join("control/ca/ca.pem"));
    command.arg("--auth-cert-file").arg(certificate).arg("--auth-key-file").arg(key).args(["fleet", "status"]);
    crate::dev::Done::of(command.output().unwrap())
}

/// Invites a gateway whose settings lie in `NAME.yaml`, and has it join.
fn join(fleet: &Fleet, name: &str) -> crate::dev::Done {
    let invitation = fleet.home.path().join(format!("{name}.json"));
    fleet.cli(&["fleet", "invite", name, "--out", invitation.to_str().unwrap()]).exits(0);
    let settings = format!("{name}.yaml");
    run(fleet.home.path(), &["gateway", "join", "-c", &settings, "--invitation", invitation.to_str().unwrap()])
}

#[test]
fn a_stolen_ca_is_replaced_at_once_and_what_the_thief_made_is_refused_everywhere() {
    let fleet = Fleet::of(Upstream::ok().address, &["edge", "far"]);
    let (edge, far) = (apart(&fleet, "edge").ready(), apart(&fleet, "far").ready());
    // The thief makes a gateway's certificate for a key of their own, before and after.
    let at = |name: &str| fleet.home.path().join(name);
    let read = |path: &str| std::fs::read(at(path)).unwrap();
    exchange(&at("stolen-ca.pem"), read("control/ca/ca.pem"));
    exchange(&at("stolen-ca.key"), read("control/ca/ca.key"));
    let forge = |uri: &str| {
        let params = crate::world::workload(&[uri]);
        crate::world::Certificate::signed(&at("stolen-ca.pem"), &at("stolen-ca.key"), &params)
    };
    let thief = forge("spiffe://test.example/gateway/far");
    fleet.cli(&["control", "ca", "rotate", "--stolen", "--reason", "the key was stolen"]).exits(0);
    assert_eq!(standings(&fleet), [("ca".into(), "retired".into()), ("ca-2".into(), "issuing".into())]);
    assert_ne!(asks(&fleet, Path::new(&thief.cert), Path::new(&thief.key)).code, 3, "nobody is known by it");
    assert_ne!(
        asks(&fleet, &at("control/gateways/edge/gateway.pem"), &at("control/gateways/edge/gateway.key")).code,
        3
    );
    // Every gateway is cut off, and says what to do.
    for gate in [&edge, &far] {
        eventually("it says what to do", START, || gate.process.log().contains("`portcullis fleet invite` it and"));
    }
    let connected = || fleet.json(&["fleet", "status"])["gateways"].as_array().unwrap().clone();
    assert!(connected().iter().all(|it| it["connected"] == false));
    // They join again under their names, and go on with their logs.
    for (name, gate) in [("edge", edge), ("far", far)] {
        stop(gate);
        if name == "edge" {
            std::fs::copy(at("gateway.yaml"), at("edge.yaml")).unwrap();
        }
        join(&fleet, name).exits(0);
        apart(&fleet, name).ready();
    }
}

#[test]
fn a_ca_whose_key_a_command_keeps_certifies_gateways_and_is_rotated_to_a_key_that_is_made_there() {
    let home = tempfile::tempdir().unwrap();
    let keeper = home.path().join("keeper");
    std::fs::create_dir(&keeper).unwrap();
    let make = |label: &str| {
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"]);
        assert!(openssl.arg(keeper.join(format!("{label}.pem"))).output().unwrap().status.success());
    };
    make("ca");
    let signer = keeper.join("sign");
    let text = "#!/bin/sh\nkey=$(dirname \"$0\")/$2.pem\n[ -e \"$key\" ] || exit 3\ncase $1 in\n\
                public-key) exec openssl pkey -in \"$key\" -pubout ;;\nsign) exec openssl dgst -sha256 -sign \"$key\" ;;\nesac\n";
    exchange(&signer, text);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&signer, mode).unwrap();
    let fleet = Fleet::in_home(home, Upstream::ok().address, &["edge"], |config| {
        config["ca_signer"] = json!({ "command": [signer] });
    });
    assert!(!fleet.home.path().join("control/ca/ca.key").exists());
    let edge = apart(&fleet, "edge").ready();
    // A key that is not there makes no authority, and says so in the log alone.
    fleet.cli(&["control", "ca", "rotate", "--reason", "yearly"]).exits(7);
    eventually("the log says why", PATIENCE, || fleet.control.log().contains("make it there first"));
    make("ca-2");
    step(&fleet, &["rotate"]);
    step(&fleet, &["issue"]);
    eventually("it has renewed", START, || by(&fleet, "edge") == "ca-2");
    step(&fleet, &["retire", "--wait", "20s"]);
    fleet.grant("--wait=20s");
    edge.get(&fleet.bearer(), CALL).is(200);
}

/// Whether `billing` is taken with its certificate: a listener takes what is new within two seconds.
fn calls(dev: &Dev) -> bool {
    let at = |path: PathBuf| path.display().to_string();
    let (ca, url) = (at(dev.dir().join("ca.pem")), format!("{}{CALL}", dev.addresses.gateway_tls));
    let (cert, key) = (at(dev.identity("billing", "cert.pem")), at(dev.identity("billing", "key.pem")));
    let done = try_curl(&["--cacert", &ca, "--cert", &cert, "--key", &key, &url]);
    done.code == 0 && done.stdout.contains(" 200 ")
}

#[test]
fn beside_dev_the_command_line_callers_and_the_gateway_follow_by_themselves() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    dev.call_tls("billing", "GET", CALL).is(200);
    let read = |path: PathBuf| std::fs::read(path).unwrap();
    let (ca, certificate) = (read(dev.dir().join("ca.pem")), read(dev.identity("billing", "cert.pem")));
    for step in [&["rotate"][..], &["issue"], &["retire", "--wait", "20s"]] {
        let all = [&["control", "ca"][..], step, &["--reason", "yearly"]].concat();
        dev.cli(&all).exits(0);
    }
    eventually("the new one alone is pinned", PATIENCE, || {
        let pinned = read(dev.dir().join("ca.pem"));
        pinned != ca && String::from_utf8_lossy(&pinned).matches("BEGIN").count() == 1
    });
    assert_ne!(read(dev.identity("billing", "cert.pem")), certificate, "callers have other certificates");
    eventually("callers are taken by them", PATIENCE, || calls(&dev));
    dev.cli(&["fleet", "status"]).exits(0);
    // Started again it is the same CA.
    let dev = dev.restart(&[]);
    eventually("callers are taken as before", PATIENCE, || calls(&dev));
    let told = dev.json(&["control", "ca", "status"]);
    assert_eq!(told["authorities"].as_array().unwrap().len(), 2, "{told}");
}
