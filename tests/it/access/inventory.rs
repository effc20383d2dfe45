//! Inventories that others keep: what is new, unowned, unused, and documents of what is new.

use serde_json::{Value, json};

use crate::access::text;
use crate::dev::Dev;

#[test]
fn an_inventory_shows_what_is_new_and_writes_documents_that_take_an_owner() {
    let dev = Dev::start();
    let home = dev.home.path();
    let table = "name,kind,owner,purpose,environment,spiffe\n\
                 billing,service,,,,spiffe://dev.portcullis.local/workload/billing\n\
                 another-name,service,,,,spiffe://dev.portcullis.local/workload/deployer\n\
                 reports,service,alice,\"monthly, and more\",production,spiffe://dev.portcullis.local/workload/reports\n\
                 orphan,agent,,nobody knows,production,\n";
    std::fs::write(home.join("callers.csv"), table).unwrap();
    dev.grant("billing", "api/orders", &["read"]);
    let import = ["identity", "import", "callers.csv", "--format", "csv", "--out", "new.yaml"];
    let answer = dev.json(&import);
    let of = |name: &str| -> Value {
        let found = answer["found"].as_array().unwrap();
        found.iter().find(|line| text(line, "/name") == name).unwrap().clone()
    };
    let flags = |name: &str| {
        let line = of(name);
        [line["new"].clone(), line["unowned"].clone(), line["unused"].clone()]
    };
    assert_eq!(flags("billing"), [json!(false), json!(false), json!(false)]);
    assert_eq!(flags("another-name"), [json!(false), json!(false), json!(true)], "known by its credential");
    assert_eq!(text(&of("another-name"), "/identity"), "deployer");
    assert_eq!(flags("reports"), [json!(true), json!(false), json!(false)]);
    assert_eq!(flags("orphan"), [json!(true), json!(true), json!(false)]);
    dev.cli(&import).exits(2);

    // What nobody answers for is refused until somebody does.
    let refused = dev.cli(&["apply", "-f", "new.yaml"]).exits(2);
    assert!(refused.stderr.contains("new.yaml:14:8: text is expected, found nothing"), "{refused:?}");
    let written = std::fs::read_to_string(home.join("new.yaml")).unwrap();
    std::fs::write(home.join("new.yaml"), written.replace("owner: # fill in", "owner: bob")).unwrap();
    dev.json(&["apply", "-f", "new.yaml"]);
    let spec = dev.json(&["identity", "show", "reports"])["spec"].clone();
    assert_eq!((&spec["owner"], &spec["purpose"]), (&json!("alice"), &json!("monthly, and more")));
    assert_eq!(dev.json(&["identity", "show", "orphan"])["spec"]["owner"], "bob");

    std::fs::write(home.join("bad.csv"), "name,spiffe\nx,http://x\n").unwrap();
    let bad = dev.cli(&["identity", "import", "bad.csv", "--format", "csv"]).exits(2);
    assert!(bad.stderr.contains("bad.csv:2:1: spiffe:"), "{bad:?}");
    std::fs::write(
        home.join("accounts.json"),
        r#"{"items":[{"kind":"ServiceAccount","metadata":{"name":"ci","namespace":"build"}}]}"#,
    )
    .unwrap();
    let accounts = ["identity", "import", "accounts.json", "--format", "kubernetes"];
    assert!(dev.cli(&accounts).exits(2).stderr.contains("--issuer"));
    let found = dev.json(&[&accounts[..], &["--issuer", "https://cluster.example"]].concat());
    assert_eq!(text(&found, "/found/0/name"), "build.ci");
}
