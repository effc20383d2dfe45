//! A second pair of eyes, black-box: what widens access waits for another person, who sees what it would do.

use serde_json::{Value, json};

use crate::access::{approved, as_person, change, governed, text, time};
use crate::dev::{Dev, PATIENCE, eventually, run};
use crate::world::Fleet;

const READ: [&str; 12] = [
    "grant",
    "create",
    "--identity",
    "billing",
    "--resource",
    "api/orders",
    "--action",
    "read",
    "--duration",
    "5m",
    "--reason",
    "x",
];

fn write(dev: &Dev, name: &str, documents: &str) -> String {
    let path = dev.home.path().join(name);
    std::fs::write(&path, documents).unwrap();
    path.display().to_string()
}

fn role(actions: &str) -> String {
    format!(
        "kind: Role\nname: orders-reader\nspec: {{ permissions: [ {{ resource: api/orders, actions: [{actions}] }} ] }}\n"
    )
}

#[test]
fn one_administrator_alone_widens_nothing_and_the_story_tells_who_did() {
    let dev = governed();
    let path = write(&dev, "role.yaml", &role("read, write"));
    let apply = ["apply", "-f", &path, "--reason", "writers too"];
    assert_eq!(dev.json(&["apply", "-f", &path, "--dry-run"])["waits"], json!(true));
    let id = change(&dev, &apply);
    assert_eq!(change(&dev, &apply), id, "asked for again it is the same one");
    assert_eq!(text(&dev.json(&["change", "list"]), "/changes/0/id"), id);
    let shown = dev.json(&["change", "show", &id]);
    assert_eq!(text(&shown, "/change/author"), "administrator");
    assert_eq!(shown.pointer("/change/objects/0/after/permissions/0/actions"), Some(&json!(["read", "write"])));
    let effects = shown["change"]["effects"].as_array().unwrap();
    assert!(
        effects.iter().any(|effect| effect["gains"] == true && text(effect, "/who") == "role orders-reader"),
        "{shown}"
    );
    let digest = text(&shown, "/change/digest").to_owned();
    // Not its author, nobody whose word does not count, and nobody for what they did not see.
    dev.cli(&["change", "approve", &id, "--yes"]).exits(3);
    as_person(&dev, "alice", &["change", "approve", &id, "--yes"]).exits(3);
    as_person(&dev, "carol", &["change", "approve", &id, "--digest", "00"]).exits(5);
    let done =
        as_person(&dev, "bob", &["change", "approve", &id, "--digest", &digest, "--comment", "agreed"]).exits(0).json();
    assert_eq!((text(&done, "/change/state"), text(&done, "/change/approvals/0/by")), ("applied", "bob"));
    as_person(&dev, "carol", &["change", "approve", &id, "--digest", &digest]).exits(5);
    assert!(dev.json(&apply)["change"].is_null(), "there is nothing more to change");

    let approval = text(&done, "/change/approvals/0/id").to_owned();
    for about in [id.as_str(), &approval] {
        let tell = || dev.cli(&["-o", "json", "evidence", "explain", about]);
        eventually("the story is in the evidence", PATIENCE, || {
            let told = tell();
            told.code == 0 && told.json().pointer("/change/state") == Some(&json!("applied"))
        });
        let story = tell().json();
        let whats: Vec<&str> = story["timeline"].as_array().unwrap().iter().map(|line| text(line, "/what")).collect();
        assert_eq!(whats, ["change.proposed", "change.approved", "change.applied", "role.changed"], "{story}");
        assert_eq!(text(&story, "/change/approvals/0/by"), "bob");
    }
    assert_eq!(dev.json(&["change", "list"])["changes"], json!([]));
    assert_eq!(dev.json(&["change", "list", "--all"])["changes"].as_array().unwrap().len(), 1);
}

#[test]
fn what_narrows_is_done_at_once_and_makes_what_waits_on_it_stale() {
    let dev = governed();
    let wide = write(
        &dev,
        "wide.yaml",
        "kind: Resource\nname: api/orders\nspec: { owner: alice, sensitivity: high, authority: 10s }\n",
    );
    let id = change(&dev, &["apply", "-f", &wide]);
    let narrow = write(
        &dev,
        "narrow.yaml",
        "kind: Resource\nname: api/orders\nspec: { owner: bob, sensitivity: high, authority: 5s }\n",
    );
    assert!(dev.json(&["apply", "-f", &narrow])["change"].is_null());
    assert!(text(&dev.json(&["change", "show", &id]), "/change/stale").contains("Resource api/orders"));
    let late = as_person(&dev, "carol", &["change", "approve", &id, "--yes"]).exits(5);
    assert_eq!(text(&late.json(), "/change/state"), "stale");
    let denied = change(&dev, &["apply", "-f", &wide]);
    as_person(&dev, "carol", &["change", "deny", &denied, "--reason", "no"]).exits(0);
    let back = change(&dev, &["apply", "-f", &wide]);
    as_person(&dev, "bob", &["change", "cancel", &back, "--reason", "no"]).exits(3);
    dev.cli(&["change", "cancel", &back, "--reason", "not needed"]).exits(0);
}

#[test]
fn grants_are_made_by_hand_again_under_an_exception_of_two_people_until_it_ends() {
    let dev = governed();
    dev.cli(&READ).exits(3);
    let spec = |seconds: i64, more: &str| {
        format!(
            "kind: Exception\nname: by-hand\nspec: {{ rule: no_grants_by_hand, owner: bob, reason: migration, expires: {}{more} }}\n",
            time::at(seconds)
        )
    };
    for bad in [spec(8 * 86_400, ""), spec(60, ", route: orders")] {
        let bad = write(&dev, "leave.yaml", &bad);
        dev.cli(&["apply", "-f", &bad]).exits(2);
    }
    let path = write(&dev, "leave.yaml", &spec(3600, ""));
    let id = change(&dev, &["apply", "-f", &path]);
    dev.cli(&READ).exits(3);
    approved(&dev, "carol", &id);
    let made = dev.json(&[&READ[..], &["--wait"]].concat());
    assert_eq!(text(&made, "/grants/0/lineage/exception"), "by-hand");
    dev.call("billing", "GET", "/v1/orders/42").is(200);
    as_person(&dev, "carol", &READ).exits(3);
    // Ending it sooner narrows.
    let sooner = write(&dev, "leave.yaml", &spec(2, ""));
    assert!(dev.json(&["apply", "-f", &sooner])["change"].is_null());
    eventually("the exception ends", PATIENCE, || dev.cli(&READ).code == 3);
}

#[test]
fn prune_removes_what_no_file_describes_and_says_so() {
    let dev = governed();
    let kinds = "kind: Identity\nname: spare\nspec: { kind: agent, owner: alice, purpose: x, environment: test }\n";
    let id = change(&dev, &["apply", "-f", &write(&dev, "spare.yaml", kinds)]);
    approved(&dev, "carol", &id);
    // Everything but the identities `spare` and `helper`, and the role that writes.
    let all = "\
kind: Identity\nname: billing\nspec: { kind: service, owner: alice, purpose: charges customers nightly, environment: development, authenticate: [ { spiffe: 'spiffe://dev.portcullis.local/workload/billing' } ] }\n---
kind: Identity\nname: deployer\nspec: { kind: pipeline, owner: alice, purpose: ships what was merged, environment: development }\n---
kind: Resource\nname: api/orders\nspec: { owner: bob, sensitivity: high, authority: 10s }\n---
kind: Role\nname: orders-reader\nspec: { permissions: [ { resource: api/orders, actions: [read] } ] }\n---\n";
    let file = std::fs::read_to_string(dev.dir().join("sample.address"));
    let address = file.unwrap().trim().to_owned();
    let rules = ["/v1/orders/**", "/v1/orders/events", "/v1/orders/socket", "/v1/orders/{order}"].map(|path| {
        format!(
            "{{ name: read, methods: [GET, HEAD], path: '{path}' }}, {{ name: write, methods: [POST, PUT, PATCH, DELETE, OPTIONS], path: '{path}' }}"
        )
    });
    let route = format!(
        "kind: Route\nname: orders\nspec:\n  upstream: {address}\n  resource: api/orders\n  actions: [ {} ]\n",
        rules.join(", ")
    );
    let path = write(&dev, "all.yaml", &format!("{all}{route}"));
    let asked = [
        "request",
        "create",
        "--identity",
        "helper",
        "--role",
        "orders-reader",
        "--duration",
        "10m",
        "--reason",
        "x",
        "--wait",
    ];
    let grant = as_person(&dev, "alice", &asked).exits(0).json();
    let prune = ["apply", "-f", &path, "--prune"];
    let planned = dev.cli(&[&["-o", "json"], &prune[..], &["--dry-run"]].concat()).exits(2);
    assert!(planned.stderr.contains("Identity helper: has 1 live grants"), "{planned:?}");
    let planned = dev.json(&[&prune[..], &["--end-grants", "--dry-run"]].concat());
    let removed = |answer: &Value| -> Vec<String> {
        let objects = answer["objects"].as_array().unwrap().iter().filter(|it| it["change"] == "removed");
        objects.map(|it| text(it, "/name").to_owned()).collect()
    };
    assert_eq!(removed(&planned), ["orders-writer", "helper", "spare"], "{planned}");
    let told: Vec<String> = planned["effects"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert!(
        told.iter().any(|it| it.contains("identity helper") && it.contains("1 live grants, which end")),
        "{told:?}"
    );
    assert_eq!(planned["waits"], Value::Null, "it only narrows: {planned}");
    dev.call("helper", "GET", "/v1/orders/42").is(200);
    let done = dev.json(&[&prune[..], &["--end-grants"]].concat());
    assert!(done["change"].is_null());
    dev.cli(&["identity", "show", "helper"]).exits(4);
    eventually("the gateway knows it no more", PATIENCE, || {
        [401, 403].contains(&dev.call("helper", "GET", "/v1/orders/42").status)
    });
    let ended = dev.json(&["grant", "show", text(&grant, "/grants/0/id")]);
    assert_eq!(text(&ended, "/state"), "revoked");
    // Brought back, it is somebody new.
    change(&dev, &["apply", "-f", &write(&dev, "spare.yaml", kinds)]);
}

#[test]
fn who_is_alone_is_told_what_to_do_and_does_it_where_the_control_plane_is() {
    let mut fleet = Fleet::start("127.0.0.1:9".parse().unwrap());
    fleet.json(&["policy", "publish", "--starter", "--reason", "begin"]);
    let wide = "kind: Role\nname: extra\nspec: { permissions: [ { resource: api/orders, actions: [read] } ] }\n";
    std::fs::write(fleet.home.path().join("wide.yaml"), wide).unwrap();
    let refused = fleet.cli(&["-o", "json", "apply", "-f", "wide.yaml"]).exits(2);
    assert!(refused.stderr.contains("control init --person"), "{refused:?}");
    let offline = ["-o", "json", "control", "apply", "-c", "control.yaml", "-f", "wide.yaml", "--reason", "alone"];
    let running = run(fleet.home.path(), &offline).exits(1);
    assert!(running.stderr.contains("stop the control plane first"), "{running:?}");
    fleet.control.signal(rustix::process::Signal::TERM);
    let _ = fleet.control.ended();
    let done = run(fleet.home.path(), &offline).exits(0).json();
    assert_eq!(done["objects"], json!(["Role extra created"]));
    let init = ["-o", "json", "control", "init", "-c", "control.yaml", "--person", "carol=security"];
    run(fleet.home.path(), &init).exits(0);
    fleet.restart_control();
    let told = || fleet.cli(&["-o", "json", "evidence", "query", "control/evidence", "--kind", "change"]).stdout;
    eventually("the act is in the evidence", PATIENCE, || told().contains("\"alone\""));
    assert!(told().contains("role.created"), "{}", told());
    // From now on there is somebody.
    let wide = wide.replace("extra", "another");
    std::fs::write(fleet.home.path().join("wide.yaml"), &wide).unwrap();
    assert_eq!(fleet.json(&["apply", "-f", "wide.yaml"])["change"]["eligible"], json!(["carol"]));
    // And who left is nobody any more: neither approver nor token.
    let token = std::fs::read_to_string(fleet.home.path().join("control/people/carol")).unwrap();
    assert_eq!(asks(&fleet, &token), 0);
    fleet.control.signal(rustix::process::Signal::TERM);
    let _ = fleet.control.ended();
    let gone = ["-o", "json", "control", "init", "-c", "control.yaml", "--person", "carol=none"];
    run(fleet.home.path(), &gone).exits(0);
    assert!(!fleet.home.path().join("control/people/carol").exists());
    fleet.restart_control();
    assert_eq!(asks(&fleet, &token), 6);
    let another = wide.replace("another", "third");
    std::fs::write(fleet.home.path().join("wide.yaml"), another).unwrap();
    fleet.cli(&["-o", "json", "apply", "-f", "wide.yaml"]).exits(2);
}

/// How it ends when somebody with this token lists requests.
fn asks(fleet: &Fleet, token: &str) -> i32 {
    let mut command = fleet.command(&["-o", "json", "request", "list"]);
    crate::dev::Done::of(command.env("PORTCULLIS_TOKEN", token).output().unwrap()).code
}
