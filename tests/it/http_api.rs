//! The control plane's HTTP API, by curl and by schemathesis.

mod authzen;

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::access::governed;
use crate::clients::clients;
use crate::dev::{Answer, Dev, Done, curl};

/// Does something as a person.
fn http(dev: &Dev, person: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let token = std::fs::read_to_string(dev.dir().join("people").join(person)).unwrap();
    let authorization = format!("Authorization: Bearer {token}");
    let url = format!("{}{path}", dev.addresses.http);
    let body = body.map(Value::to_string);
    let mut arguments = vec!["-X", method, "-H", &authorization, &url];
    if let Some(body) = &body {
        arguments.extend(["-H", "Content-Type: application/json", "--data-binary", body]);
    }
    curl(&arguments)
}

fn post(dev: &Dev, person: &str, path: &str, body: &Value) -> Answer {
    http(dev, person, "POST", path, Some(body))
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {value}"))
}

#[test]
fn the_way_of_a_request_over_http() {
    let dev = governed();
    let ask =
        json!({ "identity": "billing", "role": "orders-reader", "duration": "4h", "reason": "month-end charges" });
    let made = post(&dev, "alice", "/v1/requests", &ask).is(200).json();
    assert_eq!(made["request"]["state"], "pending");
    let id = text(&made, "/request/id").to_owned();
    // The same document as the command line's.
    let shown = http(&dev, "alice", "GET", &format!("/v1/requests/{id}"), None).is(200).json();
    assert_eq!(shown, dev.json(&["--as-person", "alice", "request", "show", &id]));
    let listed = http(&dev, "bob", "GET", "/v1/requests", None).is(200).json();
    assert_eq!(listed["requests"][0]["id"], id.as_str());

    // Nobody approves what they did not see, nor their own.
    let approve = format!("/v1/requests/{id}/approve");
    let seen = json!({ "digest": text(&shown, "/request/analysis/digest") });
    assert_eq!(post(&dev, "bob", &approve, &json!({ "digest": "0".repeat(64) })).is(409).json()["code"], "conflict");
    assert_eq!(post(&dev, "alice", &approve, &seen).is(403).json()["code"], "denied");
    let granted = post(&dev, "bob", &approve, &seen).is(200).json();
    assert_eq!(granted["request"]["state"], "granted");
    let shown = http(&dev, "alice", "GET", &format!("/v1/requests/{id}?wait=20s"), None).is(200).json();
    assert_eq!(shown["enforced"], true, "{shown}");
    dev.call("billing", "GET", "/v1/orders/42").is(200);

    let question = json!({ "identity": "billing", "action": "read", "resource": "api/orders" });
    assert_eq!(post(&dev, "alice", "/v1/can-i", &question).is(200).json()["allowed"], true);
    let grant = text(&granted, "/request/grants/0").to_owned();
    let shown = http(&dev, "alice", "GET", &format!("/v1/grants/{grant}"), None).is(200).json();
    assert_eq!(shown, dev.json(&["grant", "show", &grant]));
    let page = http(&dev, "alice", "GET", "/v1/grants?identity=billing&page_size=1", None).is(200).json();
    assert_eq!(page["grants"][0]["id"], grant.as_str());

    let end = json!({ "reason": "done", "wait": "20s" });
    let receipt = post(&dev, "bob", &format!("/v1/grants/{grant}/revoke"), &end).is(200).json();
    assert_eq!((&receipt["enforced"], &receipt["gateways"][0]["state"]), (&json!(true), &json!("enforced")));
    dev.call("billing", "GET", "/v1/orders/42").refuses(403, "grant_missing");
    assert_eq!(
        http(&dev, "alice", "GET", "/v1/grants?state=revoked", None).is(200).json()["grants"][0]["state"],
        "revoked"
    );
    let aside = json!({ "state": "quarantined", "reason": "a leak", "wait": "20s" });
    let done = post(&dev, "carol", "/v1/identities/billing/state", &aside).is(200).json();
    assert_eq!((&done["state"], &done["enforced"]), (&json!("quarantined"), &json!(true)));
    dev.call("billing", "GET", "/v1/orders/42").refuses(403, "identity_inactive");
    assert_eq!(http(&dev, "alice", "GET", "/v1/objects/Identity/billing", None).is(200).json()["state"], "quarantined");
    // Whoever may not, may not here either; and it is on record.
    post(&dev, "alice", "/v1/identities/billing/state", &json!({ "state": "active", "reason": "x" })).is(403);
}

#[test]
fn administration_over_http() {
    let dev = Dev::start();
    let group = json!({ "kind": "Group", "name": "on-call", "spec": { "members": ["bob", "carol"] } });
    let apply = |dry_run: bool| {
        let documents = json!({ "objects": [group], "dry_run": dry_run });
        post(&dev, "administrator", "/v1/apply", &documents).is(200).json()
    };
    assert_eq!(apply(true)["objects"][0]["change"], "created");
    assert_eq!(apply(false)["objects"][0]["change"], "created");
    assert_eq!(apply(false)["objects"][0]["change"], "unchanged");
    let listed = http(&dev, "alice", "GET", "/v1/objects?kind=Group", None).is(200).json();
    assert_eq!(listed["objects"][0]["name"], "on-call");
    let resource = http(&dev, "alice", "GET", "/v1/objects/Resource/api%2Forders", None).is(200).json();
    assert_eq!(resource["spec"]["owner"], "bob");

    let by_hand = json!({ "identity": "billing", "resource": "api/orders", "actions": ["read"], "duration": "10m",
                          "limits": { "parameters": { "order": ["42"] } }, "reason": "x", "wait": "20s" });
    let made = post(&dev, "administrator", "/v1/grants", &by_hand).is(200).json();
    assert_eq!(made["grants"][0]["limits"]["parameters"]["order"][0], "42");
    dev.call("billing", "GET", "/v1/orders/42").is(200);
    let swept =
        post(&dev, "carol", "/v1/grants/revoke", &json!({ "identity": "billing", "reason": "x", "wait": "20s" }));
    let swept = swept.is(200).json();
    assert_eq!((&swept["revoked"], &swept["enforced"]), (&json!(1), &json!(true)));

    assert_eq!(http(&dev, "alice", "GET", "/v1/policy", None).is(404).json()["code"], "not_found");
    let publish = |body: &Value| http(&dev, "administrator", "PUT", "/v1/policy", Some(body));
    let bad = json!({ "files": { "a.cedar": "permit(principal, action, resource);" }, "reason": "x" });
    assert_eq!(publish(&bad).is(422).json()["code"], "unfit");
    assert_eq!(publish(&json!({ "starter": true, "reason": "x", "expected_version": 0 })).is(200).json()["version"], 1);
    assert_eq!(
        publish(&json!({ "starter": true, "reason": "x", "expected_version": 0 })).is(409).json()["code"],
        "conflict"
    );
    assert_eq!(http(&dev, "alice", "GET", "/v1/policy?version=1", None).is(200).json(), dev.json(&["policy", "show"]));
    post(&dev, "administrator", "/v1/grants", &by_hand).is(403);
}

#[test]
fn a_fuzzer_that_reads_the_description_finds_no_fault() {
    let dev = governed();
    let token = std::fs::read_to_string(dev.dir().join("people/administrator")).unwrap();
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                  negative_data_rejection,ignored_auth,unsupported_method";
    let mut schemathesis = Command::new(clients().join("venv/bin/schemathesis"));
    schemathesis
        .args(["run", &format!("{}/openapi.json", dev.addresses.http), "--no-color", "--seed", "7"])
        .args(["--header", &format!("Authorization: Bearer {token}"), "--checks", checks])
        .args(["--phases", "coverage,fuzzing", "--max-examples", "25"])
        .current_dir(dev.home.path())
        .env("HOME", dev.home.path())
        .stdin(Stdio::null());
    let done = Done::of(schemathesis.output().expect("schemathesis runs"));
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("Selected: 46/46"), "{}", done.stdout);
    // It is as well as before.
    assert_eq!(curl(&[&format!("{}/readyz", dev.addresses.http)]).status, 200);
}
