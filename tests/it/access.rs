//! The way of a request, black-box: asked, approved, granted, enforced, ended, proven.

mod changes;
mod inventory;
mod matrix;
mod places;
mod policy;
mod replayed;

use std::time::Duration;

use serde_json::{Value, json};

use crate::dev::{Dev, Done, PATIENCE, curl, eventually};

/// A running `dev` whose door is closed: the policy to begin with is in force.
pub(crate) fn governed() -> Dev {
    let dev = Dev::start();
    let published = dev.json(&["policy", "publish", "--starter", "--reason", "to begin with"]);
    assert_eq!(published["version"], 1);
    dev
}

/// The change that a command of the administrator's came to, which waits.
pub(crate) fn change(dev: &Dev, arguments: &[&str]) -> String {
    let waits = dev.json(arguments);
    assert_eq!(waits["change"]["state"], "pending", "{waits}");
    text(&waits, "/change/id").to_owned()
}

/// Approved by somebody, as it is.
pub(crate) fn approved(dev: &Dev, person: &str, change: &str) -> Value {
    let done = as_person(dev, person, &["change", "approve", change, "--yes"]).exits(0).json();
    assert_eq!(done["change"]["state"], "applied", "{done}");
    done
}

/// Runs the command line as a person, with `-o json`.
pub(crate) fn as_person(dev: &Dev, person: &str, arguments: &[&str]) -> Done {
    dev.cli(&[&["-o", "json", "--as-person", person], arguments].concat())
}

/// The same with an identity's certificate.
pub(crate) fn as_identity(dev: &Dev, identity: &str, arguments: &[&str]) -> Done {
    let file = |name: &str| dev.identity(identity, name).display().to_string();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    dev.cli(&[&["-o", "json", "--auth-cert-file", &cert, "--auth-key-file", &key], arguments].concat())
}

/// Alice asks for `billing`: the request.
fn asks(dev: &Dev, role: &str, duration: &str, more: &[&str]) -> Done {
    let create = ["request", "create", "--identity", "billing", "--role", role, "--duration", duration];
    as_person(dev, "alice", &[&create[..], &["--reason", "month-end charges"], more].concat())
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {value}"))
}

fn state(dev: &Dev, id: &str) -> String {
    text(&dev.json(&["request", "show", id]), "/request/state").to_owned()
}

/// The story of an identifier, once the evidence tells all that `until` wants of it.
fn story(dev: &Dev, id: &str, until: impl Fn(&Value) -> bool) -> Value {
    let mut story = Value::Null;
    eventually("the evidence tells the story", PATIENCE, || {
        let done = dev.cli(&["-o", "json", "evidence", "explain", id]);
        // What was just done is not in the log yet.
        if done.code != 0 {
            assert_eq!(done.code, 4, "{done:?}");
            return false;
        }
        story = done.json();
        until(&story)
    });
    story
}

/// What the control plane's log tells of it.
fn decided(story: &Value) -> Vec<&Value> {
    let lines = story["timeline"].as_array().unwrap().iter();
    lines.filter(|line| line["log"].as_str().unwrap().contains("/control/")).collect()
}

fn told(story: &Value) -> Vec<&str> {
    story["timeline"].as_array().unwrap().iter().map(|line| line["what"].as_str().unwrap()).collect()
}

/// S01: a bounded credential for an identity.
#[test]
fn s01_a_short_lived_credential_is_asked_for_and_dies_by_itself() {
    let dev = governed();
    dev.call("billing", "GET", "/v1/orders/42").refuses(403, "grant_missing");

    // Longer than policy allows: refused, the ceiling named, nothing granted.
    let refused = asks(&dev, "orders-reader", "30d", &[]).exits(3);
    assert!(refused.error()["message"].as_str().unwrap().contains("30d is longer than the 8h"), "{refused:?}");
    assert_eq!(text(&refused.json(), "/request/analysis/longest"), "8h");
    dev.call("billing", "GET", "/v1/orders/42").refuses(403, "grant_missing");

    // Short, in development: needs nobody, and is there when the command returns.
    let answer = asks(&dev, "orders-reader", "6s", &["--wait=20s"]).exits(0).json();
    assert_eq!((text(&answer, "/request/state"), &answer["enforced"]), ("granted", &json!(true)));
    let request = text(&answer, "/request/id").to_owned();
    let grant = text(&answer, "/request/grants/0").to_owned();

    // The credential that it gives: for that resource and action, and no longer than the grant.
    let form = [
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange".to_owned(),
        "subject_token_type=urn:ietf:params:oauth:token-type:jwt".to_owned(),
        format!("subject_token={}", dev.token("billing")),
        "resource=api/orders".to_owned(),
    ];
    let mut arguments: Vec<&str> = form.iter().flat_map(|pair| ["--data-urlencode", pair.as_str()]).collect();
    let url = format!("{}/.portcullis/token", dev.addresses.gateway);
    arguments.push(&url);
    let issued = curl(&arguments).is(200).json();
    assert_eq!(issued["scope"], "read");
    assert!(issued["expires_in"].as_i64().unwrap() <= 6, "{issued}");
    let bearer = format!("Authorization: Bearer {}", issued["access_token"].as_str().unwrap());
    let call = |method: &str| curl(&["-X", method, "-H", &bearer, &format!("{}/v1/orders/42", dev.addresses.gateway)]);
    let allowed = call("GET").is(200);
    let id = allowed.header("portcullis-call-id").unwrap().to_owned();
    call("DELETE").refuses(403, "action_not_granted");
    dev.call("helper", "GET", "/v1/orders/42").refuses(403, "grant_missing");

    eventually("it has died by itself", Duration::from_secs(30), || call("GET").status != 200);
    dev.call("billing", "GET", "/v1/orders/42").refuses(403, "grant_expired");

    // The whole story, from each of its ends.
    let ended = |story: &Value| told(story).contains(&"grant.expired") && told(story).contains(&"call.ended");
    let from_call = story(&dev, &id, ended);
    assert_eq!(from_call["subject"], "call");
    assert_eq!(text(&from_call, "/request/id"), request);
    assert_eq!(text(&from_call, "/grants/0/id"), grant);
    assert_eq!(from_call["grants"][0]["ended"], "expired");
    assert_eq!(text(&from_call, "/request/requester/person"), "alice");
    assert_eq!(text(&from_call, "/policy/by"), "administrator");
    let whole =
        ["policy.published", "request.created", "request.granted", "grant.created", "call.allowed", "call.ended"];
    for what in whole {
        assert!(told(&from_call).contains(&what), "{what}: {from_call}");
    }
    for (other, subject) in [(&grant, "grant"), (&request, "request")] {
        let same = story(&dev, other, ended);
        assert_eq!((same["subject"].as_str(), &same["request"]), (Some(subject), &from_call["request"]));
        // Of many calls the one that is asked about is always among those listed.
        assert_eq!(decided(&same), decided(&from_call));
    }
    let shown = dev.cli(&["evidence", "explain", &id]).exits(0).stdout;
    for part in ["requested by  alice", "expired", "verified: "] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    dev.cli(&["evidence", "verify"]).exits(0);
    dev.cli(&["evidence", "verify", "--control"]).exits(0);
}

/// S03: elevated access for a maintenance window.
#[test]
fn s03_elevated_access_lives_in_its_window_and_nobody_has_to_end_it() {
    let dev = governed();
    let write = || dev.call("billing", "DELETE", "/v1/orders/42");
    write().refuses(403, "grant_missing");
    let starts = time::at(6);
    let answer = asks(&dev, "orders-writer", "5s", &["--starts", &starts, "--ticket", "CHG-7"]).exits(0).json();
    assert_eq!(text(&answer, "/request/state"), "pending");
    assert_eq!(answer["request"]["analysis"]["eligible"], json!(["bob", "carol"]));
    let request = text(&answer, "/request/id").to_owned();

    // Neither who asks, nor the machine, nor one person for two.
    as_person(&dev, "alice", &["request", "approve", &request, "--yes"]).exits(3);
    as_identity(&dev, "billing", &["request", "approve", &request, "--yes"]).exits(3);
    as_person(&dev, "bob", &["request", "approve", &request, "--digest", &"0".repeat(64)]).exits(5);
    // What would be approved is shown with every limit.
    let narrow = ["--parameter", "order=42", "--network", "10.0.0.0/8", "--uses-per", "5/1h"];
    let limited = asks(&dev, "orders-writer", "5m", &narrow).exits(0).json();
    let limited = text(&limited, "/request/id");
    let shown = dev.cli(&["request", "show", limited]).exits(0).stdout;
    assert!(["order=42", "10.0.0.0/8", "5 in 1h"].iter().all(|part| shown.contains(part)), "{shown}");
    as_person(&dev, "alice", &["request", "cancel", limited, "--reason", "no"]).exits(0);
    // Nobody who could be asked, nothing that was seen: nothing is approved, and the digest is told.
    let blind = as_person(&dev, "bob", &["request", "approve", &request]).exits(2);
    assert!(blind.error()["message"].as_str().unwrap().contains("--digest "), "{blind:?}");
    let once = as_person(&dev, "bob", &["request", "approve", &request, "--yes", "--comment", "for the migration"]);
    let approval = text(&once.exits(0).json(), "/request/approvals/0/id").to_owned();
    as_person(&dev, "bob", &["request", "approve", &request, "--yes"]).exits(0);
    assert_eq!(state(&dev, &request), "pending");
    write().refuses(403, "grant_missing");
    let granted = as_person(&dev, "carol", &["request", "approve", &request, "--yes"]).exits(0).json();
    assert_eq!(text(&granted, "/request/state"), "granted");
    // Who comes too late is told.
    let late = as_person(&dev, "bob", &["request", "deny", &request, "--reason", "no"]).exits(5);
    assert!(late.error()["message"].as_str().unwrap().contains("granted already"), "{late:?}");

    eventually("the gateway knows the grant", PATIENCE, || {
        let refused = write();
        refused.status == 200 || refused.json()["reason"] == "grant_not_yet_valid"
    });
    eventually("inside the window it is allowed", PATIENCE, || write().status == 200);
    eventually("after it, it is not", PATIENCE, || write().status == 403);
    // Until the gateway has been told that it is over, and from then on there is none.
    let reason = write().json()["reason"].clone();
    assert!(reason == "grant_expired" || reason == "grant_missing", "{reason}");

    let ended = |story: &Value| told(story).contains(&"grant.expired") && told(story).contains(&"call.ended");
    let story = story(&dev, &approval, ended);
    assert_eq!((story["subject"].as_str(), text(&story, "/request/id")), (Some("approval"), request.as_str()));
    assert_eq!(text(&story, "/request/ask/ticket"), "CHG-7");
    assert_eq!(text(&story, "/request/approvals/0/comment"), "for the migration");
    let digests = [0, 1].map(|index| text(&story, &format!("/request/approvals/{index}/digest")).to_owned());
    let bound = text(&story, "/grants/0/made/lineage/origin/digest");
    assert!(digests.iter().all(|digest| digest == bound), "{story}");
    assert_eq!(story["grants"][0]["calls"]["enforced"].as_object().unwrap().len(), 1, "where it took effect");
    assert_eq!(told(&story).iter().filter(|what| **what == "request.approved").count(), 2);
}

#[test]
fn once_a_policy_is_in_force_nobody_makes_grants_by_hand() {
    let dev = Dev::start();
    let before = dev.grant("billing", "api/orders", &["read"]);
    let call = dev.call("helper", "GET", "/v1/orders/42").json();
    assert!(call["ask"].as_str().unwrap().starts_with("portcullis grant create --identity helper"), "{call}");
    let early = asks(&dev, "orders-reader", "5m", &[]).exits(5);
    assert!(early.error()["message"].as_str().unwrap().contains("no policy is in force"), "{early:?}");
    dev.json(&["policy", "publish", "--starter", "--reason", "to begin with"]);
    let create = ["grant", "create", "--identity", "billing", "--role", "orders-reader", "--duration", "1m"];
    let refused = dev.cli(&[&["-o", "json"], &create[..], &["--reason", "quickly"]].concat()).exits(3);
    assert!(refused.error()["message"].as_str().unwrap().contains("request create"), "{refused:?}");
    // Whoever is refused is told of the way that there is by now.
    let call = || dev.call("helper", "GET", "/v1/orders/42").json();
    eventually("the gateway knows of the policy", PATIENCE, || {
        call()["ask"].as_str().unwrap().starts_with("portcullis request create --identity helper --resource api/orders")
    });
    // What was there stays until its end, and its story says that nobody approved it.
    assert_eq!(dev.json(&["grant", "show", &before])["state"], "active");
    let story = story(&dev, &before, |_| true);
    assert_eq!((&story["request"], told(&story)), (&Value::Null, vec!["grant.created"]));
}

#[test]
fn machines_ask_for_themselves_with_their_own_credential() {
    let dev = governed();
    let create = |who: &str, whom: &str, key: &str, duration: &str| {
        let create = ["request", "create", "--identity", whom, "--role", "orders-reader", "--duration", duration];
        as_identity(
            &dev,
            who,
            &[&create[..], &["--reason", "one retrieval task", "--uses", "1", "--key", key]].concat(),
        )
    };
    let first = create("helper", "helper", "task-1", "5m").exits(0).json();
    assert_eq!(text(&first, "/request/requester/identity"), "helper");
    let again = create("helper", "helper", "task-1", "5m").exits(0).json();
    assert_eq!(text(&again, "/request/id"), text(&first, "/request/id"), "the same key is the same request");
    create("helper", "helper", "task-1", "4m").exits(5);
    create("helper", "billing", "task-2", "5m").exits(3);
    let grant = text(&first, "/request/grants/0");
    eventually("the gateway has it", PATIENCE, || dev.call("helper", "GET", "/v1/orders/42").status == 200);
    assert_eq!(dev.json(&["grant", "show", grant])["lineage"]["created_by"], "identity.helper");
    dev.call("helper", "GET", "/v1/orders/42").refuses(403, "uses_spent");

    // It sees its own and nobody else's; set aside, it is nobody.
    let other = text(&asks(&dev, "orders-reader", "4h", &[]).exits(0).json(), "/request/id").to_owned();
    as_identity(&dev, "helper", &["request", "show", &other]).exits(4);
    as_identity(&dev, "helper", &["request", "cancel", &other, "--reason", "x"]).exits(4);
    as_person(&dev, "alice", &["request", "cancel", &other, "--reason", "x"]).exits(0);
    as_identity(&dev, "helper", &["request", "cancel", &other, "--reason", "x"]).exits(4);
    let listed = as_identity(&dev, "helper", &["request", "list", "--all"]).exits(0).json();
    assert_eq!(listed["requests"].as_array().unwrap().len(), 1);
    dev.json(&["identity", "quarantine", "helper", "--reason", "odd"]);
    create("helper", "helper", "task-3", "5m").exits(6);
}

#[test]
fn a_wait_ends_with_the_decision() {
    let dev = governed();
    let waiting = dev.command(&[
        "-ojson",
        "--as-person",
        "alice",
        "request",
        "create",
        "--identity",
        "billing",
        "--role",
        "orders-reader",
        "--duration",
        "4h",
        "--reason",
        "month-end",
        "--wait=60s",
    ]);
    let mut waiting = waiting;
    waiting.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = waiting.spawn().unwrap();
    let mut id = String::new();
    eventually("it is there to be decided", PATIENCE, || {
        let listed = dev.json(&["request", "list"]);
        id = listed.pointer("/requests/0/id").and_then(Value::as_str).unwrap_or_default().to_owned();
        !id.is_empty()
    });
    as_person(&dev, "bob", &["request", "approve", &id, "--yes"]).exits(0);
    let done = Done::of(child.wait_with_output().unwrap()).exits(0).json();
    assert_eq!((text(&done, "/request/state"), &done["enforced"]), ("granted", &json!(true)));
    dev.call("billing", "GET", "/v1/orders/42").is(200);
    // Nobody decides in time: 7, and it goes on waiting; taken back, it is over.
    let late = asks(&dev, "orders-writer", "10m", &["--wait=50ms"]).exits(7).json();
    let id = text(&late, "/request/id");
    as_person(&dev, "alice", &["request", "cancel", id, "--reason", "not needed"]).exits(0);
    assert_eq!(state(&dev, id), "cancelled");
}

#[test]
fn a_grant_is_renewed_by_asking_and_given_back_by_whoever_asked() {
    let dev = governed();
    let first = asks(&dev, "orders-reader", "10m", &["--wait"]).exits(0).json();
    let (request, grant) = (text(&first, "/request/id"), text(&first, "/grants/0/id"));
    let renew = |duration: &str, more: &[&str]| {
        as_person(&dev, "alice", &[&["grant", "renew", grant, "--duration", duration], more].concat())
    };
    let second = renew("5m", &["--wait"]).exits(0).json();
    assert_eq!(text(&second, "/request/ask/reason"), "month-end charges");
    assert_eq!(
        second.pointer("/request/ask/access/resource").unwrap(),
        &json!({"resource": "api/orders", "actions": ["read"]})
    );
    // It is asked for as anything is: policy says how long, and who must agree.
    let waiting = renew("4h", &["--reason", "a long one"]).exits(0).json();
    assert_eq!(text(&waiting, "/request/state"), "pending");
    renew("400h", &[]).exits(3);

    // An early return: whoever may take a request back may give back what it was granted.
    as_identity(&dev, "helper", &["request", "cancel", request, "--reason", "x"]).exits(4);
    as_person(&dev, "bob", &["request", "cancel", request, "--reason", "x"]).exits(3);
    let back =
        as_person(&dev, "alice", &["request", "cancel", request, "--reason", "done early", "--wait"]).exits(0).json();
    assert_eq!((&back["enforced"], text(&back, "/grants/0/state")), (&json!(true), "revoked"));
    assert_eq!(text(&back, "/grants/0/revoked/reason"), "done early");
    dev.call("billing", "GET", "/v1/orders/42").is(200);
    as_person(&dev, "alice", &["request", "cancel", text(&second, "/request/id"), "--reason", "x", "--wait"]).exits(0);
    dev.call("billing", "GET", "/v1/orders/42").refuses(403, "grant_missing");
    as_person(&dev, "alice", &["request", "cancel", request, "--reason", "again"]).exits(5);
    let open = text(&waiting, "/request/id");
    as_person(&dev, "alice", &["request", "cancel", open, "--reason", "not needed"]).exits(0);
    assert_eq!(state(&dev, open), "cancelled");
}

mod time {
    /// So many seconds from now, RFC 3339.
    pub(crate) fn at(seconds: i64) -> String {
        portcullis::domain::Timestamp::from_unix_seconds(crate::world::now() + seconds).to_string()
    }
}
