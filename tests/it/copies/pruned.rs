//! Logs whose old records went: a copy that was lost begins behind them, and what cannot go on says what to do.

use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{House, copies};
use crate::dev::{PATIENCE, curl, eventually, run};
use crate::world::Gate;

fn stop(gate: &mut Gate) {
    gate.process.signal(Signal::TERM);
    assert_eq!(gate.process.ended(), Some(0));
}

/// A gateway that waits for its copy for longer than a busy machine takes.
fn gateway(house: &House) -> Gate {
    house.fleet.gateway(|config| {
        config["evidence"] = json!({ "durability": "remote", "remote_within": "30s", "segment_bytes": "64KiB" });
    })
}

/// With enough behind it that a part can go, all of it cosigned and in the copy.
fn with_a_long_log(house: &House) -> Gate {
    let gate = gateway(house).ready();
    let before = gate.metric("portcullis_evidence_durable_seq");
    let written = || gate.metric("portcullis_evidence_durable_seq");
    eventually("much was called", PATIENCE, || {
        let urls = format!("{}/v1/orders/[1-60]/{}", gate.url, "x".repeat(700));
        let mut curl = Command::new("curl");
        curl.args(["-s", "--no-progress-meter", "-Z", "--parallel-max", "8", "-o", "/dev/null", "--max-time", "60"]);
        curl.args(["-H", &house.fleet.bearer(), &urls]).status().unwrap();
        written() >= before + 450.0
    });
    let written = written();
    eventually("all is cosigned", PATIENCE, || {
        verified(house, &house.home().join("edge/evidence"))["cosigned_size"].as_f64() >= Some(written)
    });
    gate
}

fn verified(house: &House, log: &std::path::Path) -> Value {
    run(house.home(), &["-o", "json", "evidence", "verify", log.to_str().unwrap()]).exits(0).json()
}

/// What of the log went from the gateway's disk, whatever the copy has.
fn prune(house: &House) -> u64 {
    let (log, key) = (house.home().join("edge/evidence"), house.home().join("edge/evidence.key"));
    let line = ["evidence", "prune", log.to_str().unwrap(), "--keep-size", "64KiB", "--without-archive"];
    run(house.home(), &[&line[..], &["--signing-key", key.to_str().unwrap()]].concat()).exits(0);
    verified(house, &log)["pruned"]["present_from"].as_u64().expect("something went")
}

#[test]
fn a_copy_that_was_lost_begins_behind_what_was_pruned_and_calls_go_on() {
    let mut house = House::start(json!({}));
    house.fleet.grant("");
    let mut gate = with_a_long_log(&house);
    stop(&mut gate);
    let older = house.home().join("older");
    let lost = house.copy();
    assert!(Command::new("cp").arg("-a").args([&lost, &older]).status().unwrap().success());
    let present = prune(&house);
    // The disk with the copies is a new one.
    house.end_control();
    std::fs::remove_dir_all(house.home().join("control/copies")).unwrap();
    house.control(json!({}), &[]);
    let gate = gateway(&house).ready();
    eventually("calls are allowed", PATIENCE, || house.call(&gate, "/v1/orders/again").status == 200);
    eventually("the copy is signed for", PATIENCE, || {
        run(house.home(), &["evidence", "verify", house.copy().to_str().unwrap()]).code == 0
    });
    let told = verified(&house, &house.copy());
    let begins = told["pruned"]["present_from"].as_u64().unwrap();
    assert!(begins >= present && begins < present + 256, "{told}");
    assert!(gate.process.log().contains("its copy is to begin behind what went"));
    let paths = house.records(&house.copy(), "intent");
    assert!(paths.iter().any(|record| record["data"]["path"] == "/v1/orders/again"), "{}", paths.len());
    // It is gone on with, over a restart of both.
    let mut gate = gate;
    stop(&mut gate);
    house.end_control();
    house.control(json!({}), &[]);
    let mut gate = gateway(&house).ready();
    house.call(&gate, "/v1/orders/later").is(200);
    assert_eq!(verified(&house, &house.copy())["pruned"]["present_from"].as_u64(), Some(begins));
    stop(&mut gate);

    // A backup of the copies is put back that ends before the log begins now: it stays, set aside, and holds.
    let mut gate = with_a_long_log(&house);
    stop(&mut gate);
    let had = verified(&house, &older)["records"].as_u64().unwrap();
    let present = prune(&house);
    assert!(present > had, "{present} {had}");
    house.end_control();
    std::fs::remove_dir_all(house.copy()).unwrap();
    std::fs::rename(&older, &lost).unwrap();
    house.control(json!({}), &[]);
    let gate = gateway(&house).ready();
    house.call(&gate, "/v1/orders/last").is(200);
    let there = copies(&house.home().join("control/copies/edge"));
    let aside = there.iter().find(|path| **path != lost).expect("the older one");
    assert!(there.len() == 2 && aside.to_str().unwrap().ends_with(&format!(".until-{had}")), "{there:?}");
    assert_eq!(verified(&house, aside)["records"].as_u64(), Some(had));
    let begins = || {
        let done = run(house.home(), &["-o", "json", "evidence", "verify", lost.to_str().unwrap()]);
        (done.code == 0).then(|| done.json()["pruned"]["present_from"].as_u64()).flatten()
    };
    eventually("the copy begins behind what went", PATIENCE, || begins() >= Some(present));
}

#[test]
fn a_log_that_lost_records_without_a_word_is_refused_and_says_what_to_do() {
    let mut house = House::start(json!({}));
    house.fleet.grant("");
    let mut gate = with_a_long_log(&house);
    stop(&mut gate);
    house.end_control();
    std::fs::remove_dir_all(house.home().join("control/copies")).unwrap();
    prune(&house);
    // Nobody has said so any more.
    std::fs::remove_file(house.home().join("edge/evidence/pruned")).unwrap();
    house.control(json!({}), &[]);
    let gate = gateway(&house);
    let ready = || curl(&[&format!("{}/readyz", gate.admin)]);
    eventually("it says what to do", PATIENCE, || ready().body.contains("gateway seal"));
    assert_eq!(ready().status, 503);
    assert_ne!(house.call(&gate, "/v1/orders/1").status, 200);
    drop(gate);
    run(house.home(), &["gateway", "seal", "-c", "gateway.yaml"]).exits(0);
    let gate = gateway(&house).ready();
    house.call(&gate, "/v1/orders/1").is(200);
}
