//! The command line beside a running `dev`: what it answers, how it exits, who may do what.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::dev::{Dev, Done, run};

const NO_GRANT: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

fn create(dev: &Dev, more: &[&str]) -> Value {
    let mut arguments = vec!["grant", "create", "--identity", "billing", "--role", "orders-reader"];
    arguments.extend(["--duration", "15m", "--reason", "a test"]);
    arguments.extend(more);
    dev.json(&arguments)
}

fn id(created: &Value) -> String {
    created["grants"][0]["id"].as_str().unwrap().to_owned()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_grant_lives_from_create_to_revoke_in_stable_json() {
    let dev = Dev::start();
    let created = create(&dev, &["--ticket", "T-1", "--parameter", "order=42", "--network", "127.0.0.0/8"]);
    let grant = &created["grants"][0];
    assert_eq!(grant["identity"], "billing");
    assert_eq!(grant["resource"], "api/orders");
    assert_eq!(grant["actions"], serde_json::json!(["read"]));
    assert_eq!(grant["state"], "active");
    assert_eq!(grant["limits"]["parameters"]["order"], serde_json::json!(["42"]));
    assert_eq!(grant["lineage"]["ticket"], "T-1");
    let id = id(&created);

    assert_eq!(dev.json(&["grant", "show", &id])["id"], id.as_str());
    assert_eq!(dev.json(&["grant", "list", "--identity", "billing"])["grants"][0]["id"], id.as_str());
    assert_eq!(dev.json(&["grant", "list", "--identity", "helper"])["grants"], serde_json::json!([]));
    assert_eq!(dev.cli(&["grant", "list", "--no-headers"]).exits(0).stdout.lines().count(), 1);

    dev.cli(&["can-i", "--as", "billing", "read", "api/orders", "--parameter", "order=42"]).exits(0);
    let other = ["can-i", "--as", "billing", "read", "api/orders", "--parameter", "order=43", "-o", "json"];
    assert_eq!(dev.cli(&other).exits(3).json()["reason"], "parameter_not_granted");
    dev.cli(&["can-i", "--as", "helper", "read", "api/orders"]).exits(3);

    let revoked = dev.json(&["grant", "revoke", &id, "--reason", "done"]);
    assert_eq!(revoked["grant"]["state"], "revoked");
    let again = dev.json(&["grant", "revoke", &id, "--reason", "twice"]);
    assert_eq!(again["grant"]["revoked"]["reason"], "done", "revoking twice answers as the first time");
    dev.cli(&["can-i", "--as", "billing", "read", "api/orders", "--parameter", "order=42"]).exits(3);
    assert_eq!(dev.json(&["grant", "list"])["grants"], serde_json::json!([]));
    assert_eq!(dev.json(&["grant", "list", "--state", "revoked"])["grants"][0]["id"], id.as_str());
}

#[test]
fn exit_codes_say_what_went_wrong() {
    let dev = Dev::start();
    dev.cli(&["grant", "show", NO_GRANT]).exits(4);
    dev.cli(&["identity", "show", "nobody"]).exits(4);
    let denied =
        ["--as-person", "alice", "-ojson", "grant", "create", "--identity", "billing", "--role", "orders-reader"];
    let denied = [&denied[..], &["--duration", "1m", "--reason", "mine"]].concat();
    assert_eq!(dev.cli(&denied).exits(3).error()["code"], "denied");
    let stranger = Done::of(dev.command(&["-ojson", "grant", "list"]).env("PORTCULLIS_TOKEN", "x").output().unwrap());
    assert_eq!(stranger.exits(6).error()["code"], "unauthenticated");
    dev.cli(&["--as-person", "mallory", "grant", "list"]).exits(2);
    dev.cli(&["identity", "offboard", "helper", "--reason", "gone"]).exits(0);
    dev.cli(&["identity", "release", "helper", "--reason", "back?"]).exits(5);
}

#[test]
fn another_ca_is_nobody() {
    let dev = Dev::start();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let file = dev.home.path().join("other.pem");
    std::fs::write(&file, other.cert.pem()).unwrap();
    let done = dev.cli(&["-ojson", "--ca-file", file.to_str().unwrap(), "grant", "list"]).exits(7);
    assert_eq!(done.error()["code"], "unavailable");
}

#[test]
fn identities_are_set_aside_and_released() {
    let dev = Dev::start();
    let names: Vec<_> = dev.json(&["identity", "list"])["identities"]
        .as_array()
        .unwrap()
        .iter()
        .map(|identity| identity["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["billing", "deployer", "helper"]);
    create(&dev, &[]);
    let shown = dev.cli(&["identity", "quarantine", "billing", "--reason", "leak", "--wait"]).exits(0).stdout;
    assert!(shown.contains("identity billing is quarantined") && shown.contains("grants ended: 1"), "{shown}");
    let asked = dev.cli(&["-ojson", "can-i", "--as", "billing", "read", "api/orders"]).exits(3);
    assert_eq!(asked.json()["reason"], "identity_inactive");
    assert_eq!(dev.json(&["identity", "release", "billing", "--reason", "false alarm"])["state"], "active");
    let asked = dev.cli(&["-ojson", "can-i", "--as", "billing", "read", "api/orders"]).exits(3);
    assert_eq!(asked.json()["reason"], "grant_missing");
    create(&dev, &[]);
    dev.cli(&["can-i", "--as", "billing", "read", "api/orders"]).exits(0);
}

#[test]
fn apply_is_all_or_nothing_and_dry_run_changes_nothing() {
    let dev = Dev::start();
    let file = dev.home.path().join("catalog.yaml");
    let path = file.to_str().unwrap();
    let good = "kind: Role\nname: auditor\nspec: { permissions: [ { resource: api/orders, actions: [read] } ] }\n";
    std::fs::write(&file, good).unwrap();
    let planned = dev.json(&["apply", "-f", path, "--dry-run"]);
    assert_eq!(planned["objects"][0]["change"], "created");
    let planned = dev.json(&["apply", "-f", path, "--dry-run"]);
    assert_eq!(planned["objects"][0]["change"], "created", "a dry run changes nothing");
    assert_eq!(dev.json(&["apply", "-f", path])["objects"][0]["change"], "created");
    assert_eq!(dev.json(&["apply", "-f", path])["objects"][0]["change"], "unchanged");

    std::fs::write(&file, format!("{}---\nkind: Role\nname: bad\nspec: {{ permissions: 7 }}\n", good)).unwrap();
    let done = dev.cli(&["apply", "-f", path]).exits(2);
    assert!(done.stderr.contains("catalog.yaml:7:"), "{}", done.stderr);

    let misfit = "kind: Role\nname: misfit\nspec: { permissions: [ { resource: api/nothing, actions: [read] } ] }\n";
    std::fs::write(&file, misfit).unwrap();
    dev.cli(&["apply", "-f", path]).exits(2);
    dev.cli(&["--as-person", "alice", "apply", "-f", path]).exits(3);

    let mut piped = dev.command(&["-ojson", "apply", "-f", "-"]);
    piped.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = piped.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), good.as_bytes()).unwrap();
    let done = Done::of(child.wait_with_output().unwrap()).exits(0);
    assert_eq!(done.json()["objects"][0]["change"], "unchanged");
}

#[test]
fn watch_prints_each_change_as_one_line() {
    let dev = Dev::start();
    let first = create(&dev, &[]);
    let revision = (first["revision"].as_u64().unwrap() - 1).to_string();
    let watch = dev.stream(&["-ojson", "grant", "watch", "--from", &revision]);
    let line: Value = serde_json::from_str(&watch.line(&id(&first))).unwrap();
    assert_eq!(line["event"], "created");
    dev.json(&["grant", "revoke", &id(&first), "--reason", "over"]);
    let line: Value = serde_json::from_str(&watch.line("revoked")).unwrap();
    assert_eq!(line["event"], "revoked");
    assert_eq!(line["grant"]["revoked"]["reason"], "over");
}

#[test]
fn hostile_reasons_are_shown_harmless() {
    let dev = Dev::start();
    let hostile = "looks\u{202e}fine\u{200b}";
    let made = dev.cli(&[
        "grant",
        "create",
        "--identity",
        "billing",
        "--role",
        "orders-reader",
        "--duration",
        "1m",
        "--reason",
        hostile,
    ]);
    if made.code == 0 {
        for format in ["table", "json", "yaml"] {
            let text = dev.cli(&["-o", format, "grant", "list"]).exits(0).stdout;
            assert!(text.contains("looks") && !text.contains(['\u{202e}', '\u{200b}']), "{format}: {text:?}");
        }
    } else {
        let done = made.exits(2);
        assert!(!done.stderr.contains(['\u{202e}', '\u{200b}']), "{:?}", done.stderr);
    }
    let bell = ["grant", "create", "--identity", "billing", "--role", "orders-reader", "--duration", "1m"];
    let done = dev.cli(&[&bell[..], &["--reason", "\u{1b}[31m"]].concat()).exits(2);
    assert!(!done.stderr.contains('\u{1b}'), "{:?}", done.stderr);
}

#[test]
fn state_survives_a_restart_and_fresh_begins_anew() {
    let dev = Dev::start();
    let grant = id(&create(&dev, &[]));
    let read = |dev: &Dev, file: &str| std::fs::read(dev.dir().join(file)).unwrap();
    let kept = ["ca.pem", "people/carol", "issuer/jwks.json", "identities/billing/key.pem"];
    let before: Vec<_> = kept.iter().map(|file| read(&dev, file)).collect();
    let dev = dev.restart(&[]);
    let after: Vec<_> = kept.iter().map(|file| read(&dev, file)).collect();
    assert_eq!(before, after);
    assert_eq!(dev.json(&["grant", "show", &grant])["state"], "active");
    dev.cli(&["can-i", "--as", "billing", "read", "api/orders"]).exits(0);

    let dev = dev.restart(&["--fresh"]);
    assert_ne!(read(&dev, "ca.pem"), before[0]);
    dev.cli(&["grant", "show", &grant]).exits(4);
}

#[test]
fn a_killed_dev_comes_back() {
    let mut dev = Dev::start();
    let grant = id(&create(&dev, &[]));
    dev.kill();
    let done = dev.cli(&["grant", "list"]).exits(7);
    assert!(done.stderr.contains("portcullis dev"), "{}", done.stderr);
    let dev = dev.restart(&[]);
    assert_eq!(dev.json(&["grant", "show", &grant])["state"], "active");
}

#[test]
fn one_dev_per_directory_and_only_on_loopback() {
    let dev = Dev::start();
    let dir = dev.dir().display().to_string();
    for more in [&["dev", "--dir", &dir][..], &["dev", "--dir", &dir, "--fresh"]] {
        let done = run(dev.home.path(), more).exits(5);
        assert!(done.stderr.contains("another `portcullis dev` runs"), "{}", done.stderr);
    }
    create(&dev, &[]);
    let flags =
        ["--gateway-address", "--gateway-tls-address", "--admin-address", "--control-address", "--http-address"];
    let gateway = dev.addresses.gateway.trim_start_matches("http://");
    let control = dev.addresses.control.trim_start_matches("https://");
    for (taken, address) in [("--gateway-address", gateway), ("--control-address", control)] {
        let mut arguments = vec!["dev", "--dir", "second"];
        arguments.extend(flags.iter().flat_map(|flag| [*flag, if *flag == taken { address } else { "127.0.0.1:0" }]));
        let done = run(dev.home.path(), &arguments).exits(5);
        assert!(done.stderr.contains(taken), "{}", done.stderr);
    }
    for flag in ["--gateway-address", "--gateway-tls-address", "--admin-address", "--control-address", "--http-address"]
    {
        run(dev.home.path(), &["dev", "--dir", "other", flag, "0.0.0.0:0"]).exits(2);
    }
    assert!(!dev.home.path().join("other").exists());
    std::fs::create_dir(dev.home.path().join("mine")).unwrap();
    std::fs::write(dev.home.path().join("mine/thesis.txt"), "years of work").unwrap();
    run(dev.home.path(), &["dev", "--dir", "mine", "--fresh"]).exits(2);
    assert!(dev.home.path().join("mine/thesis.txt").exists());
}

#[test]
fn secrets_are_the_owners_alone_and_addresses_are_exact() {
    let mut dev = Dev::start();
    assert_eq!(mode(&dev.dir()), 0o700);
    let secrets = ["people/administrator", "identities/billing/key.pem", "identities/billing/token", "issuer/key.pem"];
    for file in secrets.iter().chain(&["control/ca.key", "control/control.key", "control/seal.key"]) {
        assert_eq!(mode(&dev.dir().join(file)), 0o600, "{file}");
    }
    let text = std::fs::read_to_string(dev.dir().join("dev.json")).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    let keys: std::collections::BTreeSet<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(Vec::from_iter(keys), ["admin", "control", "evidence", "gateway", "gateway_tls", "http"]);
    assert!(!text.contains(":0\""), "{text}");
    assert!(dev.stop().success());
    assert!(!dev.dir().join("dev.json").exists());
}

#[test]
fn the_control_planes_log_verifies_and_a_changed_byte_is_named() {
    let mut dev = Dev::start();
    let grant = id(&create(&dev, &[]));
    dev.json(&["grant", "revoke", &grant, "--reason", "over"]);
    assert!(dev.stop().success());

    let verified = dev.json(&["evidence", "verify", "--control"]);
    assert_eq!(verified["verified"], true);
    let told = dev.cli(&["-ojson", "evidence", "query", "--control", "--grant", &grant]).exits(0);
    let told: Vec<Value> = told.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(dev.cli(&["evidence", "tail", "--control", "-n", "3"]).exits(0).stdout.lines().count(), 3);

    let journal = dev.dir().join("control/evidence/journal");
    let segment = std::fs::read_dir(&journal).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(4).position(|window| window == b"over").expect("the reason is in the log");
    bytes[at] = b'0';
    std::fs::write(&segment, bytes).unwrap();
    let seq = told[1]["seq"].as_u64().unwrap();
    let done = dev.cli(&["-ojson", "evidence", "verify", "--control"]).exits(8);
    assert!(done.error()["message"].as_str().unwrap().contains(&format!("record {seq}")), "{done:?}");
    run(dev.home.path(), &["evidence", "verify", "nowhere"]).exits(4);
}
