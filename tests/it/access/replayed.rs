//! A policy that is not in force, asked about what was asked and called before.

use serde_json::Value;

use crate::access::{as_identity, as_person, governed, text};
use crate::dev::{PATIENCE, eventually, run};

fn rows(answer: &Value) -> Vec<(String, String)> {
    let rows = answer["rows"].as_array().unwrap();
    rows.iter().map(|row| (text(row, "/change").to_owned(), text(row, "/of").to_owned())).collect()
}

#[test]
fn a_candidate_says_who_would_be_denied_wait_or_get_access() {
    let dev = governed();
    let dir = dev.home.path().join("policy");
    let path = dir.to_str().unwrap();
    run(dev.home.path(), &["policy", "starter", "--out", path]).exits(0);
    let ask = |identity: &str, duration: &str| {
        let create = ["request", "create", "--identity", identity, "--role", "orders-reader", "--duration", duration];
        as_person(&dev, "alice", &[&create[..], &["--reason", "x", "--wait=1ms"]].concat()).json()
    };
    let look = ask("billing", "10m");
    let long = ask("billing", "6h");
    let too_long = ask("billing", "20h");
    let of = |asked: &Value| format!("request {}", text(asked, "/request/id"));
    let grant = format!("grant {}", text(&look, "/request/grants/0"));
    eventually("the gateway has it", PATIENCE, || dev.call("billing", "GET", "/v1/orders/42").status == 200);
    dev.call("helper", "POST", "/v1/orders/42").refuses(403, "grant_missing");

    let unchanged = dev.json(&["policy", "replay", "-f", path]);
    assert_eq!((rows(&unchanged), &unchanged["gone"]), (Vec::new(), &Value::from(0)), "{unchanged}");
    assert!(unchanged["replayed"].as_u64().unwrap() >= 4, "three requests and a grant: {unchanged}");

    // Nothing without people, six hours no more, twenty at last; and changing orders needs nobody in development.
    let rules = dir.join("access.cedar");
    let policy = std::fs::read_to_string(&rules).unwrap();
    let policy = policy
        .replacen("@approvers(\"none\")", "@approvers(\"resource-owner\")", 1)
        .replacen("@max_duration(\"8h\")", "@max_duration(\"24h\")", 1)
        .replacen(
            "context.actions == [\"read\"] &&\n  (context.duration > duration(\"15m\")",
            "context.actions == [\"read\"] &&\n  (context.duration > duration(\"10h\")",
            1,
        );
    std::fs::write(&rules, policy).unwrap();
    let log = dev.addresses.evidence.clone();
    let changed = dev.json(&["policy", "replay", "-f", path, "--gateway-log", &log]);
    let found = rows(&changed);
    for (shift, what) in [
        ("newly_needs_approval", of(&look)),
        ("newly_needs_approval", grant.clone()),
        ("newly_denied", of(&long)),
        ("newly_gets_access", of(&too_long)),
    ] {
        assert!(found.contains(&(shift.to_owned(), what.clone())), "{shift} {what} in {changed}");
    }
    let called = changed["rows"].as_array().unwrap().iter().find(|row| text(row, "/of") == grant).unwrap();
    assert!(called["calls"].as_u64().unwrap() >= 1, "{called}");
    let writes = changed["rows"].as_array().unwrap().iter().any(|row| text(row, "/access").starts_with("write"));
    assert!(!writes, "writing takes people under both: {changed}");
    let table = dev.cli(&["policy", "replay", "-f", path]).exits(0).stdout;
    assert!(table.contains("newly needs approval") && table.contains("newly denied"), "{table}");
    let late = dev.json(&["policy", "replay", "-f", path, "--since", "2999-01-01T00:00:00Z"]);
    assert_eq!(late["replayed"], 0, "{late}");

    // It changed nothing, and a set that does not compile is told as publishing tells it.
    assert_eq!(dev.json(&["policy", "show"])["version"], 1);
    std::fs::write(&rules, "permit (").unwrap();
    dev.cli(&["policy", "replay", "-f", path]).exits(2);
    as_identity(&dev, "helper", &["policy", "replay", "-f", path]).exits(3);
}
