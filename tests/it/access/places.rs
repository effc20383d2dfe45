//! Approvals in another's place, by the command line and over HTTP; and a story that can be checked alone.

use std::process::Command;

use serde_json::{Value, json};

use super::{as_person, asks, governed, story, text, told};
use crate::dev::{Done, PATIENCE, eventually};

#[test]
fn a_person_has_another_approve_in_their_place_and_the_story_can_be_checked_alone() {
    let dev = governed();
    let asked = asks(&dev, "orders-reader", "4h", &[]).exits(0).json();
    let (id, digest) = (text(&asked, "/request/id"), text(&asked, "/request/analysis/digest"));
    as_person(&dev, "carol", &["request", "approve", id, "--digest", digest]).exits(3);
    let create = ["delegation", "create", "--to", "carol", "--duration", "14d", "--reason", "on leave"];
    let made = as_person(&dev, "bob", &create).exits(0).json();
    assert_eq!((text(&made, "/delegation/from"), text(&made, "/delegation/to")), ("bob", "carol"));
    as_person(&dev, "bob", &create).exits(5);
    let too_long = ["delegation", "create", "--to", "alice", "--duration", "31d", "--reason", "on leave"];
    as_person(&dev, "bob", &too_long).exits(2);
    let listed = |who: &str| as_person(&dev, who, &["delegation", "list"]).exits(0).json();
    assert_eq!(listed("carol")["delegations"][0], made["delegation"]);
    assert_eq!(listed("alice")["delegations"], json!([]), "it is none of hers");
    let shown = dev.json(&["request", "show", id]);
    assert!(shown["request"]["analysis"]["eligible"].as_array().unwrap().contains(&json!("carol")), "{shown}");
    // In the place of somebody who gave her no right, and then by the one that she has.
    let approve = ["request", "approve", id, "--digest", digest];
    as_person(&dev, "carol", &[&approve[..], &["--on-behalf-of", "alice"]].concat()).exits(3);
    let granted = as_person(&dev, "carol", &approve).exits(0).json();
    assert_eq!(text(&granted, "/request/state"), "granted");
    assert_eq!(text(&granted, "/request/approvals/0/on_behalf_of"), "bob");
    // Ended, it is good for nothing more.
    let delegation = text(&made, "/delegation/id").to_owned();
    as_person(&dev, "alice", &["delegation", "end", &delegation, "--reason", "x"]).exits(4);
    let ended = as_person(&dev, "bob", &["delegation", "end", &delegation, "--reason", "back"]).exits(0).json();
    assert_eq!(text(&ended, "/delegation/ended/by"), "bob");
    let other = asks(&dev, "orders-reader", "3h", &[]).exits(0).json();
    as_person(&dev, "carol", &["request", "approve", text(&other, "/request/id"), "--yes"]).exits(3);

    // The story names both, and each record of it is proven without the log.
    let whole = story(&dev, id, |story| told(story).contains(&"grant.created"));
    let line = whole["timeline"].as_array().unwrap().iter().find(|line| line["what"] == "request.approved").unwrap();
    assert!(text(line, "/text").contains("in the place of bob"), "{line}");
    let proofs = dev.home.path().join("proofs");
    std::fs::create_dir(&proofs).unwrap();
    let to = proofs.display().to_string();
    let mut proven = Value::Null;
    eventually("a checkpoint covers it", PATIENCE, || {
        proven = dev.cli(&["-o", "json", "evidence", "explain", id, "--proof", "--to", &to]).exits(0).json();
        let lines = proven["timeline"].as_array().unwrap();
        assert!(lines.iter().all(|line| line["proof"].is_string() != line["unproven"].is_string()), "{proven}");
        lines.iter().all(|line| line["proof"].is_string())
    });
    let file: Value =
        serde_json::from_str(&std::fs::read_to_string(dev.dir().join("control/evidence/log.json")).unwrap()).unwrap();
    let key = text(&file, "/vkey");
    for line in proven["timeline"].as_array().unwrap() {
        let file = proofs.join(format!("control-{}.tlog-proof", line["seq"]));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text(line, "/proof"));
        let elsewhere = tempfile::tempdir().unwrap();
        let mut verify = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        verify.current_dir(elsewhere.path()).args(["evidence", "verify", &file.display().to_string(), "--key", key]);
        Done::of(verify.output().unwrap()).exits(0);
    }
}
