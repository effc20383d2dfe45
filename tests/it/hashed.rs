//! Nothing secret stands in the evidence, what was hashed is found by whoever holds the key, and hostile text stays text.

use std::path::Path;

use serde_json::Value;

use crate::dev::{Dev, PATIENCE, curl, eventually};
use crate::world::{Fleet, Upstream, apply, everything_written, holds, record};

const CALL_ID: &str = "portcullis-call-id";

/// What a caller may send that must stand nowhere afterwards.
const SECRETS: [&str; 6] = ["q-s3cr3t-1", "q-s3cr3t-2", "c-s3cr3t", "h-s3cr3t", "b-s3cr3t", "l-s3cr3t"];

fn lines(dev: &Dev, arguments: &[&str]) -> Vec<Value> {
    let arguments = [&["-o", "json", "evidence", "query"], arguments].concat();
    let done = dev.cli(&arguments).exits(0);
    done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_secret_of_a_call_is_in_no_record_and_is_found_by_its_key() {
    let dev = Dev::start();
    let upstream = Upstream::ok();
    let route = format!(
        "kind: Route\nname: box\nspec:\n  host: box.test\n  upstream: http://{}\n  resource: api/orders\n  body: inspect\n  \
         actions:\n    - {{ name: write, methods: [POST], path: \"/box/{{order}}\" }}\n",
        upstream.address
    );
    apply(&dev, &route).exits(0);
    dev.grant("billing", "api/orders", &["read", "write"]);
    let bearer = dev.bearer("billing");
    let long = format!("{}{}", "l-s3cr3t".repeat(40), "x");
    let url = format!("{}/box/{long}?token=q-s3cr3t-1&q-s3cr3t-2&plain=a%20b", dev.addresses.gateway);
    let post = [
        "-H",
        bearer.as_str(),
        "-H",
        "Host: box.test",
        "-H",
        "Cookie: c=c-s3cr3t",
        "-H",
        "X-Key: h-s3cr3t",
        "--data",
        "b-s3cr3t",
        url.as_str(),
    ];
    let mut call = String::new();
    eventually("the route is there", PATIENCE, || {
        let answer = curl(&post);
        call = answer.header(CALL_ID).unwrap_or_default().to_owned();
        answer.status == 200
    });
    let denied =
        curl(&["-H", &dev.bearer("helper"), &format!("{}/v1/orders/7?token=q-s3cr3t-1", dev.addresses.gateway)]);
    let denied = denied.is(403).header(CALL_ID).unwrap().to_owned();
    record(&dev, &call, "outcome");
    let token = bearer.rsplit(' ').next().unwrap();
    let written = everything_written(&dev);
    for secret in SECRETS.iter().chain([&token]).filter(|secret| **secret != "l-s3cr3t") {
        assert!(!holds(&written, secret), "{secret} is written down");
    }
    let intent = record(&dev, &call, "intent");
    assert!(!intent["data"]["parameters"].to_string().contains("s3cr3t"), "{intent}");
    let names: Vec<_> = intent["data"]["query"]["values"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, [&Value::from("token"), &Value::Null, &Value::from("plain")]);

    // Who holds the key finds each, and nobody else does.
    let key = dev.dir().join("gateway/evidence-hash.key").display().to_string();
    let found = |value: &str, keys: &[&str]| {
        let keys = keys.iter().flat_map(|key| ["--hash-key", key]);
        let arguments: Vec<_> = ["--value", value].into_iter().chain(keys).collect();
        lines(&dev, &arguments).iter().map(|it| it["data"]["call"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for value in ["q-s3cr3t-2", "a b", "a%20b", "b-s3cr3t", long.as_str()] {
        assert!(found(value, &[&key]).contains(&call), "{value}");
        assert!(found(value, &[]).is_empty(), "{value} is found without the key");
    }
    let both = found("q-s3cr3t-1", &[&key]);
    assert!(both.contains(&call) && both.contains(&denied), "{both:?}");
    assert!(found("q-s3cr3t-3", &[&key]).is_empty());
    dev.cli(&["evidence", "query", "--value", "x", "--hash-key", "no.such.file"]).exits(2);
    let log = dev.addresses.evidence.clone();
    dev.cli(&["evidence", "verify", &log]).exits(0);
}

#[test]
fn a_rotated_key_is_taken_by_a_running_gateway_and_the_old_one_still_finds() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|_| {}).ready();
    fleet.grant("--wait=20s");
    let bearer = fleet.bearer();
    let state = fleet.home.path().join("edge");
    let log = state.join("evidence").display().to_string();
    let of = |path: &Path| path.display().to_string();
    let current = of(&state.join("evidence-hash.key"));
    let first = gate.get(&bearer, "/v1/orders/7?v=one").is(200).header(CALL_ID).unwrap().to_owned();

    let rotated = fleet.json(&["gateway", "rotate-hash-key", "-c", "gateway.yaml"]);
    let kept = rotated["kept"].as_str().unwrap().to_owned();
    assert!(kept.contains(rotated["before"].as_str().unwrap()));
    let key_of = |call: &str| {
        let done = fleet.cli(&["-o", "json", "evidence", "query", &log, "--call", call, "--kind", "intent"]).exits(0);
        serde_json::from_str::<Value>(&done.stdout).unwrap()["data"]["query"]["key"].clone()
    };
    assert_eq!(key_of(&first), rotated["before"]);
    let mut second = String::new();
    eventually("the gateway hashes with the new key", PATIENCE, || {
        second = gate.get(&bearer, "/v1/orders/7?v=one").is(200).header(CALL_ID).unwrap().to_owned();
        key_of(&second) == rotated["key"]
    });
    let found = |keys: &[&str]| {
        let keys = keys.iter().flat_map(|key| ["--hash-key", key]);
        let query = ["-o", "json", "evidence", "query", &log, "--kind", "intent", "--value", "one"];
        let arguments: Vec<_> = query.into_iter().chain(keys).collect();
        fleet.cli(&arguments).exits(0).stdout
    };
    let (old, new, both) = (found(&[&kept]), found(&[&current]), found(&[&kept, &current]));
    assert!(old.contains(&first) && !old.contains(&second));
    assert!(!new.contains(&first) && new.contains(&second));
    assert!(both.contains(&first) && both.contains(&second));

    // A file that is simply replaced is taken too, and the one before is kept by the gateway.
    let third = std::fs::read_to_string(&current).unwrap();
    let copy = std::fs::read_to_string(fleet.home.path().join(&kept)).unwrap();
    std::fs::write(&current, copy).unwrap();
    let beside = state.join(format!("evidence-hash-{}.key", rotated["key"].as_str().unwrap()));
    eventually("the replaced key is kept", PATIENCE, || {
        std::fs::read_to_string(&beside).is_ok_and(|text| text == third)
    });
    // One that is none changes nothing.
    std::fs::write(&current, "nonsense").unwrap();
    gate.process.says("the key for hashes cannot be used");
    let call = gate.get(&bearer, "/v1/orders/7?v=two").is(200).header(CALL_ID).unwrap().to_owned();
    assert_eq!(key_of(&call), rotated["before"]);
}

/// Text that is turned around or hidden. Control characters are refused where a reason is given.
const HOSTILE: &str = "x\u{202e}evil\u{2066}\u{200b}y";

#[test]
fn hostile_text_cannot_break_a_line_a_terminal_or_a_page() {
    let dev = Dev::start();
    let create = ["grant", "create", "--identity", "billing", "--resource", "api/orders", "--action", "read"];
    dev.cli(&[&create[..], &["--duration", "15m", "--reason", "x\u{1b}[31m\u{7}\u{9b}2J"]].concat()).exits(2);
    dev.cli(&[&create[..], &["--duration", "15m", "--reason", HOSTILE]].concat()).exits(0);
    let path = "/v1/orders/%1b%5b31m%e2%80%ae";
    let answer = curl(&["-H", &dev.bearer("helper"), &format!("{}{path}", dev.addresses.gateway)]);
    let call = answer.header(CALL_ID).unwrap().to_owned();
    let grants = dev.cli(&["-o", "json", "grant", "list", "--identity", "billing"]).exits(0).json();
    let grant = grants["grants"][0]["id"].as_str().or(grants[0]["id"].as_str()).unwrap().to_owned();
    let control = dev.dir().join("control/evidence").display().to_string();
    eventually("the grant is told", PATIENCE, || {
        dev.cli(&["evidence", "query", &control, "--grant", &grant]).exits(0).stdout.contains("evil")
    });
    for format in ["table", "json", "yaml"] {
        for arguments in [
            vec!["evidence", "tail", "-n", "1000"],
            vec!["evidence", "tail", "-n", "1000", "--access-log"],
            vec!["evidence", "tail", &control, "-n", "1000"],
            vec!["evidence", "query", &control],
            vec!["evidence", "query", "--call", &call],
            vec!["evidence", "explain", &grant],
            vec!["grant", "show", &grant],
        ] {
            let done = dev.cli(&[&["-o", format], &arguments[..]].concat()).exits(0);
            let acts = |c: char| {
                (c.is_control() && c != '\n')
                    || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            };
            let bad: Vec<char> = done.stdout.chars().filter(|c| acts(*c)).collect();
            assert!(bad.is_empty(), "{format} {arguments:?}: {bad:?}");
            if format == "json" && arguments[1] != "explain" && arguments[0] == "evidence" {
                done.stdout.lines().for_each(|line| drop(serde_json::from_str::<Value>(line).unwrap()));
            }
        }
    }
    let told = dev.cli(&["-o", "json", "evidence", "query", &control, "--grant", &grant]).exits(0).stdout;
    let told: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    assert_eq!(told["data"]["reason"], HOSTILE, "the record itself says what was said");
}
