//! Who had access: what the auditor's command tells of a span of time, and what it does not.

use std::process::Command;

use serde_json::{Value, json};

use crate::dev::{Dev, PATIENCE, eventually};
use crate::world::apply;

fn accesses(dev: &Dev, more: &[&str]) -> Value {
    dev.json(&[&["evidence", "access", "api/orders"][..], more].concat())
}

/// RFC 3339, so many seconds from now.
fn at(seconds: i64) -> String {
    let spec = format!("{seconds} seconds");
    let out = Command::new("date").args(["-u", "-d", &spec, "+%FT%TZ"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[test]
fn access_is_told_where_it_was_in_the_span_by_grant_or_by_exception_and_with_its_calls() {
    let dev = Dev::start();
    let grant = dev.grant("billing", "api/orders", &["read"]);
    dev.call("billing", "GET", "/v1/orders/1").is(200);
    dev.call("billing", "GET", "/v1/orders/2").is(200);
    dev.revoke(&grant);
    dev.call("billing", "GET", "/v1/orders/3").is(403);
    let leave = format!(
        "kind: Exception\nname: look\nspec: {{ rule: observe, route: orders, owner: bob, reason: who would break, expires: {} }}\n",
        at(3600)
    );
    apply(&dev, &leave).exits(0);
    eventually("the exception is in force", PATIENCE, || dev.call("helper", "GET", "/v1/orders/4").status == 200);

    let mut told = Value::Null;
    eventually("the end is in the evidence", PATIENCE, || {
        told = accesses(&dev, &["--from", &at(-3600)]);
        told["grants"][0]["ended"]["how"] == "revoked"
    });
    let one = &told["grants"][0];
    assert_eq!(
        (&one["grant"], &one["identity"], &one["actions"]),
        (&json!(grant), &json!("billing"), &json!(["read"]))
    );
    assert_eq!((&one["basis"], &one["requested_by"]), (&json!("made by hand"), &json!("administrator")));
    assert_eq!((&one["used"]["calls"], &one["used"]["late"]), (&json!(2), &json!(0)), "{told}");
    let excepted = &told["exceptions"][0];
    assert_eq!((&excepted["identity"], &excepted["exception"]), (&json!("helper"), &json!("look")), "{told}");
    assert!(excepted["used"]["calls"].as_u64().unwrap() >= 1 && told["exceptions"][1].is_null(), "{told}");
    assert_eq!(told["proofs"].as_array().unwrap().len(), 2);
    // Both logs are there from their beginning, and the control plane's tells that the gateway had none before.
    assert_eq!(told["gaps"], json!([]), "{told}");
    let in_force = &told["exceptions_in_force"];
    assert_eq!((&in_force[0]["exception"], &in_force[0]["route"]), (&json!("look"), &json!("orders")), "{told}");
    // The same log twice is one log.
    let twice = |log: &str| dev.dir().join(log).display().to_string();
    let (control, gateway) = (twice("control/evidence"), twice("gateway/evidence"));
    let both = ["--control-log", &control, "--gateway-log", &gateway, "--gateway-log", &gateway];
    assert_eq!(accesses(&dev, &both)["grants"][0]["used"]["calls"], json!(2));

    // Neither before nor after it, nor on anything else, and never from a log that does not hold.
    for span in [["--to", &at(-3600)], ["--from", &at(3600)]] {
        let none = accesses(&dev, &span);
        assert_eq!((&none["grants"], &none["exceptions"]), (&json!([]), &json!([])), "{span:?} {none}");
        assert_eq!(none["exceptions_in_force"], json!([]), "{span:?} {none}");
    }
    assert_eq!(dev.json(&["evidence", "access", "api/nothing"])["grants"], json!([]));
    dev.cli(&["evidence", "access", "api/orders", "--from", &at(60), "--to", &at(0)]).exits(2);
    let segment =
        std::fs::read_dir(dev.dir().join("gateway/evidence/journal")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    let place = bytes.windows(12).position(|it| it == b"/v1/orders/2").expect("a call's path");
    bytes[place + 11] = b'9';
    std::fs::write(&segment, bytes).unwrap();
    dev.cli(&["evidence", "access", "api/orders"]).exits(8);
}
