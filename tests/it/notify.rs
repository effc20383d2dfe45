//! People are told by webhooks: signed, in their own shape, without anything that decides.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::dev::{Done, PATIENCE, eventually};
use crate::world::{Fleet, Upstream};

/// Head and body of each notice.
type Taken = Arc<Mutex<Vec<(String, String)>>>;

/// A webhook that refuses the first so many notices, and keeps head and body of those that it takes.
fn webhook(refuses: usize) -> (Upstream, Taken) {
    let taken = Taken::default();
    let kept = taken.clone();
    let left = Mutex::new(refuses);
    let server = Upstream::start(move |head, stream| {
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).unwrap();
        let mut left = left.lock().unwrap();
        let status = if *left > 0 { "503 x" } else { "204 x" };
        if *left == 0 {
            kept.lock().unwrap().push((head.to_owned(), String::from_utf8(body).unwrap()));
        }
        *left = left.saturating_sub(1);
        drop(write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
    });
    (server, taken)
}

fn field<'h>(head: &'h str, name: &str) -> &'h str {
    let is = |line: &&str| line.split(':').next().is_some_and(|given| given.eq_ignore_ascii_case(name));
    head.lines().find(is).and_then(|line| line.split_once(": ")).map_or("", |(_, value)| value)
}

/// What OpenSSL says the signature is.
fn signed(secret: &str, text: &str) -> String {
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", secret, "-binary"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    openssl.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(openssl.wait_with_output().unwrap().stdout)
}

#[test]
fn whoever_can_approve_is_told_signed_and_again_until_it_is_taken() {
    let upstream = Upstream::ok();
    let mut fleet = Fleet::of(upstream.address, &[]);
    let ((plain, told), (chat, said)) = (webhook(1), webhook(0));
    let config = fleet.home.path().join("control.yaml");
    let mut settings: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    std::fs::write(fleet.home.path().join("secret"), "a secret of ours\n").unwrap();
    settings["public_url"] = "https://control.example.org".into();
    settings["notify"] = json!([
        { "url": format!("http://{}/hook", plain.address), "secret_file": "secret" },
        { "url": format!("http://{}/chat", chat.address), "format": "slack", "events": ["request.created"] },
    ]);
    std::fs::write(&config, settings.to_string()).unwrap();
    fleet.control.kill();
    let people = ["--person", "alice=developer", "--person", "orders=owner", "--person", "carol=security,owner"];
    let mut init = vec!["control", "init", "-c", "control.yaml"];
    init.extend(people);
    let made = crate::dev::run(fleet.home.path(), &[&["-o", "json"][..], &init].concat()).exits(0).json();
    assert_eq!(made["people"].as_array().unwrap().len(), 3);
    crate::dev::run(fleet.home.path(), &["control", "init", "-c", "control.yaml", "--person", "eve=root"]).exits(2);
    crate::dev::run(fleet.home.path(), &["control", "init", "-c", "control.yaml", "--person", "administrator=owner"])
        .exits(2);
    fleet.restart_control();
    fleet.apply(
        "kind: Identity\nname: reporter\nspec: { kind: agent, owner: alice, purpose: tests, environment: test }\n",
    );
    fleet.cli(&["policy", "publish", "--starter", "--reason", "to begin with"]).exits(0);
    let ask = ["request", "create", "--identity", "reporter", "--resource", "api/orders", "--action", "read"];
    let token = std::fs::read_to_string(fleet.home.path().join("control/people/alice")).unwrap();
    let mut alice =
        fleet.command(&[&["-o", "json"][..], &ask, &["--duration", "4h", "--reason", "<!channel> & more"]].concat());
    let asked = Done::of(alice.env("PORTCULLIS_TOKEN", token.trim()).output().unwrap()).exits(0).json();
    let id = asked.pointer("/request/id").and_then(Value::as_str).unwrap().to_owned();
    assert_eq!(asked.pointer("/request/state"), Some(&json!("pending")), "{asked}");
    fleet.cli(&["identity", "quarantine", "reporter", "--reason", "a leak"]).exits(0);

    eventually("all of it was told", PATIENCE, || told.lock().unwrap().len() >= 3 && !said.lock().unwrap().is_empty());
    let told = told.lock().unwrap();
    let types: Vec<Value> =
        told.iter().map(|(_, body)| serde_json::from_str::<Value>(body).unwrap()["type"].clone()).collect();
    // The first was refused once, and is not lost.
    assert_eq!(types, ["policy.published", "request.created", "identity.quarantined"]);
    for (head, body) in told.iter() {
        let (id, time) = (field(head, "webhook-id"), field(head, "webhook-timestamp"));
        let expected = format!("v1,{}", signed("a secret of ours", &format!("{id}.{time}.{body}")));
        assert_eq!(field(head, "webhook-signature"), expected, "{head}");
        assert!(time.parse::<i64>().unwrap().abs_diff(crate::world::now()) < 60);
    }
    let notice: Value = serde_json::from_str(&told[1].1).unwrap();
    assert_eq!(notice.pointer("/data/request/id"), Some(&json!(id)));
    assert_eq!(notice.pointer("/data/link"), Some(&json!(format!("https://control.example.org/v1/requests/{id}"))));
    assert!(!notice.pointer("/data/request/needs").unwrap().as_array().unwrap().is_empty(), "{notice}");

    let said = said.lock().unwrap();
    assert_eq!(said.len(), 1, "it wants to hear of one kind alone");
    let text = serde_json::from_str::<Value>(&said[0].1).unwrap()["text"].as_str().unwrap().to_owned();
    assert!(text.contains("&lt;!channel&gt; &amp; more") && !text.contains("<!channel>"), "{text}");
    assert!(text.contains(&format!("portcullis request show {id}")), "{text}");
    assert!(field(&said[0].0, "webhook-signature").is_empty());
}
