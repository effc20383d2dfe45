//! Policy and catalog as files: checked where they are written, refused with what is wrong, and with where.

use crate::access::{as_person, governed};
use crate::dev::{Dev, run};

/// `WHO gains WHAT`.
fn effect(effect: &serde_json::Value) -> String {
    let verb = if effect["gains"] == true { "gains" } else { "loses" };
    format!("{} {verb} {}", effect["who"].as_str().unwrap(), effect["what"].as_str().unwrap())
}

#[test]
fn a_policy_is_checked_offline_published_whole_and_compared() {
    let dev = governed();
    let dir = dev.home.path().join("policy");
    let path = dir.to_str().unwrap();
    let home = dev.home.path();
    run(home, &["policy", "starter", "--out", path]).exits(0);
    run(home, &["policy", "starter", "--out", path]).exits(2);
    run(home, &["policy", "validate", "-f", path]).exits(0);
    assert!(run(home, &["policy", "test", "-f", path]).exits(0).stdout.contains("16 cases hold"));
    assert_eq!(dev.json(&["policy", "diff", "-f", path])["rules"], serde_json::json!([]));

    // A slip of the pen, a rule that no case decides, a case that does not hold: each is told with its place.
    let rules = dir.join("access.cedar");
    let good = std::fs::read_to_string(&rules).unwrap();
    std::fs::write(&rules, good.replacen("context.duration", "context.duratoin", 1)).unwrap();
    let wrong = run(home, &["policy", "validate", "-f", path]).exits(2);
    assert!(wrong.stderr.contains("duratoin"), "{wrong:?}");
    std::fs::write(&rules, good.replacen("permit (", "permit ((", 1)).unwrap();
    let wrong = run(home, &["policy", "validate", "-f", path]).exits(2);
    assert!(wrong.stderr.contains("access.cedar:12:"), "{wrong:?}");
    std::fs::write(&rules, good.replacen("@max_duration(\"8h\")", "@max_duration(\"2h\")", 1)).unwrap();
    let publish = ["policy", "publish", "-f", path, "--reason", "shorter"];
    let refused = dev.cli(&publish).exits(2);
    assert!(refused.stderr.contains("case `reading for hours takes the owner`"), "{refused:?}");
    assert_eq!(dev.json(&["policy", "show"])["version"], 1, "nothing was published");

    let cases = dir.join("cases.yaml");
    let text = std::fs::read_to_string(&cases).unwrap();
    let text = text.replace("duration: 8h\n", "duration: 2h\n").replace("max_duration: 8h", "max_duration: 2h");
    std::fs::write(&cases, text).unwrap();
    let diff = dev.json(&["policy", "diff", "-f", path]);
    assert_eq!(
        (diff["rules"][0]["rule"].as_str(), diff["rules"][0]["change"].as_str()),
        (Some("read"), Some("changed"))
    );
    as_person(&dev, "alice", &publish).exits(3);
    dev.cli(&[&publish[..], &["--expect-version", "7"]].concat()).exits(5);
    let change = crate::access::change(&dev, &publish);
    assert_eq!(dev.json(&["policy", "show"])["version"], 1, "it waits");
    assert_eq!(crate::access::approved(&dev, "carol", &change)["change"]["version"], 2);
    assert_eq!(dev.json(&publish)["version"], 2, "the same again is no version");
    assert_eq!(dev.json(&["policy", "show"])["change_id"], change.as_str());
    assert_eq!(dev.json(&["policy", "show", "--version", "1"])["version"], 1);
    dev.cli(&["policy", "show", "--version", "3"]).exits(4);

    // In force at once.
    let create = ["request", "create", "--identity", "billing", "--role", "orders-reader", "--duration", "4h"];
    let refused = as_person(&dev, "alice", &[&create[..], &["--reason", "x"]].concat()).exits(3);
    assert!(refused.error()["message"].as_str().unwrap().contains("the 2h that policy allows"), "{refused:?}");
}

#[test]
fn what_does_not_fit_together_is_refused_with_file_and_line() {
    let dev = Dev::start();
    let file = dev.home.path().join("catalog.yaml");
    let path = file.to_str().unwrap();
    let documents = "\
kind: Role
name: a
spec: { parents: [b], permissions: [ { resource: api/orders, actions: [read] } ] }
---
kind: Role
name: b
spec: { parents: [a] }
---
kind: Role
name: c
spec:
  parents: [nobody]
---
kind: Person
name: erin
spec: { email: erin@example.org }
---
kind: Group
name: payments
spec:
  members: [erin, stranger]
  groups: [inner]
---
kind: Group
name: inner
spec: { groups: [payments] }
---
kind: Identity
name: orphan
spec:
  kind: agent
  owner: gone
  purpose: x
  environment: test
";
    std::fs::write(&file, documents).unwrap();
    let refused = dev.cli(&["apply", "-f", path]).exits(2).stderr;
    for told in [
        "catalog.yaml:3:9: Role a: parents: b includes a itself",
        "catalog.yaml:12:3: Role c: parents: there is no role nobody",
        "catalog.yaml:21:3: Group payments: members: there is no person stranger",
        "catalog.yaml:22:3: Group payments: groups: inner has payments itself in it",
        "catalog.yaml:32:3: Identity orphan: owner: nobody is gone",
    ] {
        // The place is that of the value: its column depends on how long the key is.
        let (place, fault) = told.split_once(": ").unwrap();
        let line = place.rsplit_once(':').unwrap().0;
        assert!(refused.lines().any(|l| l.contains(line) && l.contains(fault)), "{told} in\n{refused}");
    }
    let good = documents
        .replace("parents: [a] }", "permissions: [ { resource: api/orders, actions: [write] } ] }")
        .replace("[nobody]", "[a]")
        .replace(", stranger", "")
        .replace("{ groups: [payments] }", "{}")
        .replace("gone", "payments");
    std::fs::write(&file, good).unwrap();
    let planned = dev.json(&["apply", "-f", path, "--dry-run"]);
    assert_eq!(planned["objects"].as_array().unwrap().len(), 7);
    let effects: Vec<String> = planned["effects"].as_array().unwrap().iter().map(effect).collect();
    for told in [
        "person erin gains a place in group payments, and with it what the group owns and approves",
        "role c gains read on api/orders, for grants from now on: live ones stay as they are",
        "role c gains write on api/orders, for grants from now on: live ones stay as they are",
        "owner payments gains the say about identity orphan",
    ] {
        assert!(effects.iter().any(|effect| effect == told), "{told} in {effects:#?}");
    }
    dev.json(&["apply", "-f", path]);
    // A role gives what the roles that it includes give.
    let create = ["grant", "create", "--identity", "billing", "--role", "c", "--duration", "1m", "--reason", "x"];
    assert_eq!(dev.json(&create)["grants"][0]["actions"], serde_json::json!(["read", "write"]));

    // A route that leads elsewhere, and a credential, are what a live grant opens by now; a role widens none.
    let documents = "kind: Route\nname: more\nspec:\n  host: more\n  upstream: http://127.0.0.1:9\n  resource: api/orders\n  \
         actions: [ { name: read, methods: [GET], path: \"/export/**\" } ]\n---\nkind: Identity\nname: billing\n\
         spec: { kind: service, owner: alice, purpose: x, environment: development,\n  authenticate: \
         [ { spiffe: \"spiffe://dev.portcullis.local/workload/other\" } ] }\n---\nkind: Role\nname: b\n\
         spec: { permissions: [ { resource: api/orders, actions: [read] } ] }\n---\nkind: Exception\nname: look\n\
         spec: { rule: observe, route: orders, owner: erin, reason: x, expires: EXPIRES }\n";
    let expires = portcullis::domain::Timestamp::from_unix_seconds(crate::world::now() + 3600).to_string();
    let documents = documents.replace("EXPIRES", &expires);
    std::fs::write(&file, documents).unwrap();
    let planned = dev.json(&["apply", "-f", path, "--dry-run"]);
    let effects: Vec<String> = planned["effects"].as_array().unwrap().iter().map(effect).collect();
    for told in [
        "identity billing gains GET /export/** of host more at http://127.0.0.1:9, as read on api/orders under grant",
        &format!("every identity gains to call route orders without a grant until {expires}, by exception look"),
        "identity billing gains to be called by spiffe://dev.portcullis.local/workload/other, with 1 live grants",
        "identity billing loses to be called by spiffe://dev.portcullis.local/workload/billing, with 1 live grants",
        "role c loses write on api/orders",
    ] {
        assert!(effects.iter().any(|effect| effect.starts_with(told)), "{told} in {effects:#?}");
    }
    assert_eq!(dev.json(&["identity", "show", "billing"])["spec"]["purpose"], "charges customers nightly");
}
