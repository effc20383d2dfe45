//! A control plane whose store was put back from a backup: nobody follows it until that is declared, and nothing that was
//! ended lives again.

use rustix::process::Signal;
use serde_json::Value;

use crate::dev::{PATIENCE, eventually, run};
use crate::world::{Fleet, Gate, Process, Upstream};

const CALL: &str = "/v1/orders/7";
/// The store's files.
const STORE: [&str; 3] = ["control.db", "control.db-wal", "control.db-shm"];

fn stop(fleet: &mut Fleet) {
    fleet.control.signal(Signal::TERM);
    let _ = fleet.control.ended();
}

fn backup(fleet: &mut Fleet) {
    stop(fleet);
    for file in STORE {
        let _ = std::fs::copy(fleet.home.path().join("control").join(file), fleet.home.path().join(file));
    }
    fleet.restart_control();
}

/// Puts the backup back, with the control plane stopped.
fn put_back(fleet: &mut Fleet) {
    stop(fleet);
    for file in STORE {
        let (from, to) = (fleet.home.path().join(file), fleet.home.path().join("control").join(file));
        let _ = std::fs::remove_file(&to);
        let _ = std::fs::copy(from, to);
    }
}

fn restored(fleet: &Fleet) -> Value {
    let declare = ["-o", "json", "control", "restored", "-c", "control.yaml", "--reason", "the disk broke"];
    run(fleet.home.path(), &declare).exits(0).json()
}

fn grant(fleet: &Fleet, identity: &str, more: &[&str]) -> String {
    let create = ["grant", "create", "--identity", identity, "--resource", "api/orders", "--action", "read"];
    let arguments = [&create[..], more, &["--duration", "1h", "--reason", "test", "--wait"]].concat();
    fleet.json(&arguments)["grants"][0]["id"].as_str().unwrap().to_owned()
}

fn reason(gate: &Gate, bearer: &str) -> String {
    let answer = gate.get(bearer, CALL);
    if answer.status == 200 { "allowed".to_owned() } else { answer.json()["reason"].as_str().unwrap().to_owned() }
}

#[test]
fn a_store_that_was_put_back_is_declared_and_brings_nothing_back_to_life() {
    let upstream = Upstream::ok();
    let mut fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|_| {}).ready();
    let bearer = fleet.bearer();
    let revoked = grant(&fleet, "billing", &[]);
    backup(&mut fleet);
    eventually("it is followed again", PATIENCE, || {
        fleet.json(&["fleet", "status"])["gateways"][0]["connected"] == true && reason(&gate, &bearer) == "allowed"
    });
    fleet.cli(&["grant", "revoke", &revoked, "--reason", "leaked", "--wait"]).exits(0);
    let lost = grant(&fleet, "billing", &[]);
    put_back(&mut fleet);
    // The evidence knows better than the store.
    let mut refused = Process::spawn(fleet.home.path(), &["control", "run", "-c", "control.yaml"]);
    assert_ne!(refused.ended(), Some(0));
    eventually("it says what to do", PATIENCE, || refused.log().contains("control restored"));
    let declared = restored(&fleet);
    assert_eq!((&declared["epoch"], &declared["ended_again"]), (&2.into(), &1.into()));
    fleet.restart_control();
    eventually("the gateway follows", PATIENCE, || reason(&gate, &bearer) == "grant_missing");
    let listed = fleet.json(&["grant", "list", "--all"]);
    let states: Vec<_> = listed["grants"].as_array().unwrap().iter().map(|one| (&one["id"], &one["state"])).collect();
    assert_eq!(states, [(&revoked.into(), &"revoked".into())], "and {lost} is lost");
    grant(&fleet, "billing", &[]);
    gate.get(&bearer, CALL).is(200);
    // The evidence of before lies where it says, whole; the new one goes on.
    let before = declared["evidence"].as_str().unwrap().to_owned();
    let now = fleet.home.path().join("control/evidence").display().to_string();
    for log in [before.as_str(), now.as_str()] {
        run(fleet.home.path(), &["evidence", "verify", log]).exits(0);
    }
    let running = run(fleet.home.path(), &["control", "restored", "-c", "control.yaml", "--reason", "x"]);
    assert!(running.code != 0 && running.stderr.contains("stop the control plane first"), "{running:?}");
}

#[test]
fn uses_that_a_store_forgot_are_not_given_again() {
    let upstream = Upstream::ok();
    let mut fleet = Fleet::start(upstream.address);
    let mut gate = fleet.gateway(|_| {}).ready();
    let bearer = fleet.bearer();
    let id = grant(&fleet, "billing", &["--uses", "3"]);
    backup(&mut fleet);
    eventually("one is used", PATIENCE, || gate.get(&bearer, CALL).status == 200);
    gate.get(&bearer, CALL).is(200);
    // At once, so that nothing is known of it but the uses themselves.
    gate.process.kill();
    put_back(&mut fleet);
    // No revision and no evidence tells: what was given is no change of what is allowed. It is remembered beside the store.
    let mut refused = Process::spawn(fleet.home.path(), &["control", "run", "-c", "control.yaml"]);
    assert_ne!(refused.ended(), Some(0));
    assert!(refused.log().contains("control restored"), "{}", refused.log());
    // Where that was put back as well, the gateway knows.
    std::fs::remove_file(fleet.home.path().join("control/committed.json")).unwrap();
    fleet.restart_control();
    let gate = fleet.gateway(|_| {});
    eventually("it is told", PATIENCE, || gate.process.log().contains("its store is an old copy"));
    assert_ne!(gate.get(&bearer, CALL).status, 200);
    assert_eq!(fleet.json(&["grant", "show", &id])["uses_given"], 0, "so it is");
    stop(&mut fleet);
    restored(&fleet);
    fleet.restart_control();
    eventually("the gateway follows", PATIENCE, || reason(&gate, &bearer) == "uses_spent");
    let log = fleet.home.path().join("edge/evidence").display().to_string();
    let told = run(fleet.home.path(), &["evidence", "query", &log]).stdout;
    assert_eq!(upstream.seen(), 2, "{told}\n{}", upstream.heads().join("\n"));
}
