//! Grants that end with something of another system, with their owner's word, or with a policy that would not give them.

mod webhooks;

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::access::{as_identity, as_person, governed};
use crate::dev::{Answer, Dev, Done, PATIENCE, curl, eventually};
use crate::world::{apply, now};

/// Of every source of these tests; sixteen bytes and more.
const SECRET: &str = "a secret of the source";

/// What OpenSSL says the HMAC is, in bytes.
fn hmac(text: &str) -> Vec<u8> {
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", SECRET, "-binary"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    openssl.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    openssl.wait_with_output().unwrap().stdout
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Now and some seconds, as RFC 3339.
fn at(seconds: i64) -> String {
    jiff::Timestamp::from_second(now() + seconds).unwrap().to_string()
}

/// Sources of every shape, each with the same secret.
fn sources(dev: &Dev) {
    let secrets = dev.dir().join("control/secrets");
    std::fs::create_dir_all(&secrets).unwrap();
    let source = |name: &str, shape: &str| {
        std::fs::write(secrets.join(name), format!("{SECRET}\n")).unwrap();
        format!(
            "kind: TicketSource\nname: {name}\nspec: {{ shape: {shape}, owner: orders, secret_file: {name} }}\n---\n"
        )
    };
    let shapes = [("pd", "pagerduty"), ("jira", "jira"), ("gh", "github"), ("change", "generic")];
    let documents: String = shapes.iter().map(|(name, shape)| source(name, shape)).collect();
    agreed(dev, documents.trim_end_matches("---\n"));
}

/// Applies documents that wait for another person, with their word.
fn agreed(dev: &Dev, documents: &str) {
    let file = dev.home.path().join("agreed.yaml");
    std::fs::write(&file, documents).unwrap();
    let change = crate::access::change(dev, &["apply", "-f", file.to_str().unwrap()]);
    crate::access::approved(dev, "carol", &change);
}

/// Sends a body as it stands, with these headers.
fn post(dev: &Dev, source: &str, headers: &[String], body: &str) -> Answer {
    let file = dev.dir().join(format!("{source}.body"));
    std::fs::write(&file, body).unwrap();
    let (data, url) = (format!("@{}", file.display()), format!("{}/webhooks/{source}", dev.addresses.http));
    let mut arguments = vec!["-H", "content-type: application/json", "--data-binary", &data, &url];
    headers.iter().for_each(|header| arguments.extend(["-H", header]));
    curl(&arguments)
}

/// The same, signed as its source signs.
fn hook(dev: &Dev, source: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let signed = hex(&hmac(&body));
    let headers = match source {
        "pd" => vec![format!("x-pagerduty-signature: v1={},v1={signed}", "0".repeat(64))],
        "jira" => vec![format!("x-hub-signature: sha256={signed}"), "x-atlassian-webhook-identifier: w-1".to_owned()],
        "gh" => vec![format!("x-hub-signature-256: sha256={signed}"), "x-github-delivery: 72d3162e".to_owned()],
        _ => standard("msg_1", &now().to_string(), &body),
    };
    post(dev, source, &headers, &body)
}

/// Headers of a Standard Webhook.
fn standard(id: &str, time: &str, body: &str) -> Vec<String> {
    use base64::Engine as _;
    let signature = base64::engine::general_purpose::STANDARD.encode(hmac(&format!("{id}.{time}.{body}")));
    vec![
        format!("webhook-id: {id}"),
        format!("webhook-timestamp: {time}"),
        format!("webhook-signature: v1,{signature}"),
    ]
}

fn incident(kind: &str, status: &str, seconds: i64) -> Value {
    json!({ "event": { "id": "5ac64822", "event_type": kind, "resource_type": "incident", "occurred_at": at(seconds),
        "data": { "id": "PT4KHLK", "type": "incident", "status": status } } })
}

fn change(state: &str, seconds: i64) -> Value {
    json!({ "type": "change.updated", "timestamp": at(seconds), "data": { "ticket": "CHG-7", "state": state } })
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {value}"))
}

/// What the evidence tells of a grant, once it tells all of this.
fn story(dev: &Dev, id: &str, whole: &[&str]) -> Value {
    let mut story = Value::Null;
    eventually("the evidence tells the story", PATIENCE, || {
        let done = dev.cli(&["-o", "json", "evidence", "explain", id]);
        story = if done.code == 0 { done.json() } else { return false };
        let told: Vec<&str> = story["timeline"].as_array().unwrap().iter().map(|it| text(it, "/what")).collect();
        whole.iter().all(|what| told.contains(what))
    });
    story
}

fn line<'s>(story: &'s Value, what: &str) -> &'s str {
    text(story["timeline"].as_array().unwrap().iter().find(|line| line["what"] == what).unwrap(), "/text")
}

/// Asks as somebody, and has `bob` approve: the grant.
fn approved(dev: &Dev, asks: impl Fn(&[&str]) -> Done, more: &[&str]) -> String {
    let create = ["request", "create", "--role", "orders-reader", "--reason", "x", "--duration", "30m"];
    let asked = asks(&[&create[..], more].concat()).exits(0).json();
    let request = text(&asked, "/request/id").to_owned();
    let granted = as_person(dev, "bob", &["request", "approve", &request, "--yes"]).exits(0).json();
    assert_eq!(text(&granted, "/request/state"), "granted");
    dev.json(&["request", "show", &request, "--wait=20s"]);
    text(&granted, "/request/grants/0").to_owned()
}

/// S16: an incident gives an agent half an hour, and is over before.
#[test]
fn s16_access_for_an_incident_ends_with_the_incident_and_open_sessions_are_cut() {
    let dev = governed();
    sources(&dev);
    let helper = |arguments: &[&str]| as_identity(&dev, "helper", arguments);
    let grant = approved(&dev, helper, &["--identity", "helper", "--ticket", "pd:PT4KHLK"]);
    assert!(dev.cli(&["grant", "show", &grant]).exits(0).stdout.contains("pd:PT4KHLK"));
    dev.call("helper", "GET", "/v1/orders/42").is(200);
    let session = dev.open("helper", "/v1/orders/events");
    session.line("data: {\"order\":1}");

    // It goes on while the incident does.
    let going = hook(&dev, "pd", &incident("incident.acknowledged", "acknowledged", -20)).is(200).json();
    assert_eq!(going["result"], "ignored");
    dev.call("helper", "GET", "/v1/orders/42").is(200);

    let over = hook(&dev, "pd", &incident("incident.resolved", "resolved", 0)).is(200).json();
    assert_eq!((&over["result"], &over["ended"], text(&over, "/ticket")), (&json!("closed"), &json!(1), "pd:PT4KHLK"));
    session.ended();
    eventually("it is over", PATIENCE, || dev.call("helper", "GET", "/v1/orders/42").status == 403);

    // Nothing more on that incident, neither asked nor approved; after it was opened again, there is.
    let again = ["request", "create", "--identity", "helper", "--role", "orders-reader", "--duration", "30m"];
    let again = [&again[..], &["--reason", "x", "--ticket", "pd:PT4KHLK"]].concat();
    let refused = helper(&again).exits(5);
    assert!(text(&refused.error(), "/message").contains("pd:PT4KHLK is closed since"), "{refused:?}");
    hook(&dev, "pd", &incident("incident.reopened", "triggered", 1)).is(200);
    helper(&again).exits(0);

    // The story says when, why, by which delivery, and what every gateway had to show.
    let whole = ["request.approved", "grant.created", "ticket.closed", "grant.revoked", "ticket.enforced"];
    let told = story(&dev, &grant, &whole);
    let why = "pd:PT4KHLK was closed: webhook incident.resolved, delivery 5ac64822";
    assert!(line(&told, "grant.revoked").contains(why), "{told}");
    assert!(line(&told, "ticket.enforced").contains("1 grants ended, 1 calls cut"), "{told}");
    assert_eq!(told["grants"][0]["ended"], "revoked");
    assert_eq!(told["grants"][0]["calls"]["cut"], 1, "{told}");
    let receipts = dev.cli(&["-o", "json", "evidence", "query", "--control", "--kind", "change"]).exits(0).stdout;
    let receipt = receipts.lines().find(|line| line.contains("ticket.enforced")).expect("the receipt is evidence");
    let receipt: Value = serde_json::from_str(receipt).unwrap();
    let gateways = receipt.pointer("/data/after/gateways").unwrap_or_else(|| panic!("{receipt}"));
    assert_eq!((&gateways[0]["state"], &gateways[0]["calls"]), (&json!("enforced"), &json!(1)));
    dev.cli(&["evidence", "verify"]).exits(0);
    dev.cli(&["evidence", "verify", "--control"]).exits(0);
}

/// S20: a service is elevated in a deployment window, and the change closes early.
#[test]
fn s20_elevation_for_a_change_ends_with_the_change_and_what_waits_for_approval_with_it() {
    let dev = governed();
    sources(&dev);
    let alice = |arguments: &[&str]| as_person(&dev, "alice", arguments);
    let bound = ["--identity", "billing", "--ticket", "change:CHG-7"];
    let grant = approved(&dev, alice, &bound);
    let create = ["request", "create", "--role", "orders-writer", "--reason", "x", "--duration", "1h"];
    let waiting = alice(&[&create[..], &bound].concat()).exits(0).json();
    let waiting = text(&waiting, "/request/id").to_owned();
    // A run of the pipeline that deploys, whichever of the two is over first.
    let both = ["--identity", "billing", "--ticket", "change:CHG-8", "--until-job", "gh:Acme/Shop/job/29"];
    let other = approved(&dev, alice, &both);
    assert_eq!(
        dev.json(&["grant", "show", &other])["lineage"]["until"],
        json!(["change:CHG-8", "gh:acme/shop/job/29"])
    );

    assert_eq!(hook(&dev, "change", &change("closed", 0)).is(200).json()["ended"], 1);
    eventually("it is over", PATIENCE, || dev.json(&["grant", "show", &grant])["state"] == "revoked");
    eventually("nobody can approve what waited", PATIENCE, || {
        dev.json(&["request", "show", &waiting]).pointer("/request/state") == Some(&json!("cancelled"))
    });
    as_person(&dev, "carol", &["request", "approve", &waiting, "--yes"]).exits(5);
    dev.call("billing", "GET", "/v1/orders/42").is(200);

    let job = |status: &str, ended: Value| {
        json!({ "action": status, "repository": { "full_name": "Acme/Shop" }, "workflow_job": { "id": 29, "run_id": 3,
            "status": status, "started_at": at(-60), "completed_at": ended } })
    };
    assert_eq!(hook(&dev, "gh", &job("in_progress", Value::Null)).is(200).json()["result"], "ignored");
    dev.call("billing", "GET", "/v1/orders/42").is(200);
    assert_eq!(hook(&dev, "gh", &job("completed", json!(at(0)))).is(200).json()["result"], "closed");
    eventually("the job is over", PATIENCE, || dev.call("billing", "GET", "/v1/orders/42").status == 403);
    let told = story(&dev, &other, &["ticket.closed", "grant.revoked", "ticket.enforced"]);
    assert!(
        line(&told, "grant.revoked")
            .contains("gh:acme/shop/job/29 was closed: webhook workflow_job, delivery 72d3162e")
    );
    dev.cli(&["evidence", "verify", "--control"]).exits(0);
}

#[test]
fn whoever_answers_for_an_identity_or_a_resource_ends_its_grants_and_nobody_elses() {
    let dev = Dev::start();
    let spec = "{ kind: service, owner: carol, purpose: x, environment: development, authenticate: [] }";
    apply(&dev, &format!("kind: Identity\nname: spare\nspec: {spec}\n")).exits(0);
    let billing = dev.grant("billing", "api/orders", &["read"]);
    let spare = dev.grant("spare", "api/orders", &["read"]);
    let revoke =
        |person: &str, what: &[&str]| as_person(&dev, person, &[&["grant", "revoke", "--reason", "x"], what].concat());
    // Alice answers for billing, and neither for spare nor for the orders.
    let denied = revoke("alice", &[&spare]).exits(3);
    assert!(text(&denied.error(), "/message").contains("the owner of the resource or of the identity"), "{denied:?}");
    for others in [&["--identity", "spare"][..], &["--resource", "api/orders"], &["--all"]] {
        revoke("alice", others).exits(3);
    }
    dev.call("billing", "GET", "/v1/orders/1").is(200);
    revoke("alice", &[&billing]).exits(0);
    dev.grant("billing", "api/orders", &["read"]);
    assert_eq!(revoke("alice", &["--identity", "billing"]).exits(0).json()["revoked"], 1);
    eventually("it is over", PATIENCE, || dev.call("billing", "GET", "/v1/orders/1").status == 403);
    let state = |id: &str| dev.json(&["grant", "show", id])["state"].as_str().unwrap().to_owned();
    assert_eq!(state(&spare), "active");
    revoke("bob", &[&spare]).exits(0);
    assert_eq!(state(&spare), "revoked");
}

/// What policy would not give any more ends on the day that it says so, and what it would still give goes on.
#[test]
fn a_policy_that_would_not_give_a_grant_any_more_ends_it_and_shows_what_for() {
    let dev = governed();
    let alice = |arguments: &[&str]| as_person(&dev, "alice", arguments);
    let kept = approved(&dev, alice, &["--identity", "billing"]);
    let look = ["request", "create", "--identity", "billing", "--role", "orders-reader", "--reason", "x"];
    let look = alice(&[&look[..], &["--duration", "15m", "--wait=20s"]].concat()).exits(0).json();
    let ends = text(&look, "/request/grants/0").to_owned();
    let session = dev.open("billing", "/v1/orders/events");
    session.line("data: {\"order\":1}");

    let dir = dev.dir().join("policy");
    let at = dir.display().to_string();
    dev.cli(&["policy", "starter", "--out", &at]).exits(0);
    let file = dir.join("access.cedar");
    let text_of = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text_of.replace("@approvers(\"none\")", "@approvers(\"resource-owner\")")).unwrap();
    let cases = dir.join("cases.yaml");
    let mended = std::fs::read_to_string(&cases).unwrap().replacen(
        "{ decision: grant }",
        "{ decision: approve, approvers: [resource-owner] }",
        2,
    );
    std::fs::write(&cases, mended).unwrap();
    let diff = as_person(&dev, "alice", &["policy", "diff", "-f", &at]).exits(0).json();
    assert_eq!((&diff["ends"], &diff["grants"][0]["id"]), (&json!(1), &json!(ends)), "{diff}");
    let waits = crate::access::change(&dev, &["policy", "publish", "-f", &at, "--reason", "nobody looks alone"]);
    assert_eq!(crate::access::approved(&dev, "carol", &waits)["change"]["version"], 2);
    let state = |id: &str| dev.json(&["grant", "show", id])["state"].as_str().unwrap().to_owned();
    eventually("what nobody approved has ended", PATIENCE, || state(&ends) == "revoked");
    let told = story(&dev, &ends, &["grant.revoked"]);
    let why = "version 2 of the policy would not give it any more: nobody approved it, and it takes owner:bob";
    assert!(line(&told, "grant.revoked").contains(why), "{told}");
    assert_eq!(state(&kept), "active");
    dev.call("billing", "GET", "/v1/orders/42").is(200);
    eventually("the receipt is evidence", PATIENCE, || {
        dev.cli(&["evidence", "query", "--control", "--kind", "change"]).exits(0).stdout.contains("grants.reconsidered")
    });
    drop(session);
}
