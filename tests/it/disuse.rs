//! Grants that nothing uses end, those in use do not, and nobody guesses where a gateway cannot say.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::dev::{Dev, PATIENCE, eventually};
use crate::world::{Fleet, Upstream};

const UNUSED: [&str; 4] = ["--unused", "5s", "--duration", "15m"];

fn shown(dev: &Dev, grant: &str) -> Value {
    dev.json(&["grant", "show", grant])
}

#[test]
fn what_nothing_uses_ends_by_itself_and_what_runs_goes_on() {
    let dev = Dev::start();
    let idle = dev.grant_with("helper", "api/orders", &["read"], &UNUSED);
    let running = dev.grant_with("billing", "api/orders", &["read"], &UNUSED);
    let stream = dev.open("billing", "/v1/orders/events");
    eventually("the stream runs", PATIENCE, || shown(&dev, &running)["last_use"]["running"] == true);
    assert_eq!(shown(&dev, &idle)["last_use"], serde_json::json!({ "running": false }), "no call is known of");

    eventually("nothing used it", PATIENCE, || shown(&dev, &idle)["state"] == "revoked");
    let why = shown(&dev, &idle)["revoked"]["reason"].as_str().unwrap().to_owned();
    assert_eq!(why, "unused for 5s: no call was ever made under it");
    assert_eq!(shown(&dev, &idle)["revoked"]["by"], "portcullis");
    eventually("the gateway knows", PATIENCE, || dev.call("helper", "GET", "/v1/orders/42").status == 403);
    // The stream began as long ago: what runs is in use.
    assert_eq!(shown(&dev, &running)["state"], "active");

    drop(stream);
    eventually("it is in nobody's use any more", PATIENCE, || shown(&dev, &running)["state"] == "revoked");
    let why = shown(&dev, &running)["revoked"]["reason"].as_str().unwrap().to_owned();
    assert!(why.starts_with("unused for 5s: last used 2"), "{why}");
    let story = || dev.cli(&["evidence", "explain", &running]).stdout;
    eventually("the evidence tells why", PATIENCE, || story().contains("unused for 5s: last used 2"));
}

#[test]
fn a_gateway_that_does_not_answer_ends_nothing_and_it_is_said() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|_| {}).ready();
    let create = ["grant", "create", "--identity", "billing", "--resource", "api/orders", "--action", "read"];
    let made = fleet.json(&[&create[..], &UNUSED, &["--reason", "test", "--wait=20s"]].concat());
    let grant = made["grants"][0]["id"].as_str().unwrap().to_owned();
    gate.get(&fleet.bearer(), "/v1/orders/7").is(200);
    // It is frozen with what it knows: it may have allowed calls that nobody else can tell of.
    gate.process.signal(Signal::STOP);
    let show = || fleet.json(&["grant", "show", &grant]);
    let made = show()["lineage"]["created"].as_str().unwrap().to_owned();
    let unsaid = |shown: &Value| {
        let last = &shown["last_use"];
        last["missing"].get("edge").is_some() || last["unknown_until"].is_string()
    };
    eventually("its time is over, and nobody can say", Duration::from_secs(60), || {
        let shown = show();
        assert_eq!(shown["state"], "active", "{shown}");
        let at = |text: &str| portcullis::domain::Timestamp::parse_rfc3339(text).unwrap();
        let age = crate::world::now() - at(&made).unix_seconds();
        age > 9 && unsaid(&shown)
    });
    let told = fleet.cli(&["grant", "show", &grant]).stdout;
    assert!(told.contains("last use"), "{told}");
    // It goes on, is asked, and says that nothing used it since.
    gate.process.signal(Signal::CONT);
    eventually("it is known, and ends", Duration::from_secs(120), || show()["state"] == "revoked");
    let why = show()["revoked"]["reason"].as_str().unwrap().to_owned();
    assert!(why.starts_with("unused for 5s: last used 2"), "{why}");
}
