//! Bodies that are read whole before the call is decided: all of it or nothing.

use std::io::Write as _;
use std::sync::mpsc;

use serde_json::{Value, json};

use super::tap::{Tap, put, route_with};
use crate::dev::{Dev, PATIENCE, Raw, curl, eventually};
use crate::world::{Fleet, Upstream, ends, evidence, record};

const CALL_ID: &str = "portcullis-call-id: ";

fn inspecting(dev: &Dev, tap: &Tap) {
    put(dev, &[route_with("box", tap.address, "  body: inspect(1MiB)\n")]);
}

fn head(bearer: &str, more: &str) -> String {
    format!("POST /box HTTP/1.1\r\nHost: box.test\r\n{bearer}\r\n{more}\r\n\r\n")
}

/// The id of the last call that was answered on a connection.
fn call_of(answers: &str) -> String {
    answers.rsplit_once(CALL_ID).expect("a call id").1.lines().next().unwrap().to_owned()
}

/// A body as the gateway's records have it, under its own key: HMAC-SHA-256 of the SHA-256.
fn hashed(dev: &Dev, bytes: &[u8]) -> Value {
    use aws_lc_rs::{digest, hmac};
    use base64::Engine as _;
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let file = std::fs::read_to_string(dev.dir().join("gateway/evidence-hash.key")).unwrap();
    let key = base64::engine::general_purpose::STANDARD.decode(file.trim().rsplit_once(':').unwrap().1).unwrap();
    let digest = digest::digest(&digest::SHA256, bytes);
    let id = digest::digest(&digest::SHA256, &[b"portcullis evidence hash key id\n", &key[..]].concat());
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), digest.as_ref());
    json!({ "bytes": bytes.len(), "hmac": hex(tag.as_ref()), "key": hex(&id.as_ref()[..8]) })
}

/// Bytes that look like nothing else.
fn body(length: usize) -> Vec<u8> {
    (0..length).map(|place| b'a' + u8::try_from(place * 7 % 26).unwrap()).collect()
}

fn metric(admin: &str, name: &str) -> f64 {
    let text = curl(&[&format!("{admin}/metrics")]).is(200).body;
    let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).expect("the metric");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn an_inspected_body_is_whole_before_anything_goes_upstream_and_is_what_goes() {
    let (dev, tap) = (Dev::start(), Tap::start());
    inspecting(&dev, &tap);
    dev.grant("billing", "api/orders", &["read", "write"]);
    let bearer = dev.bearer("billing");
    let sent = body(700_000);
    let mut raw = dev.raw();
    raw.send(head(&bearer, "Content-Length: 700000")).send(&sent[..699_999]);
    let admin = dev.addresses.admin.clone();
    eventually("it is being read", PATIENCE, || metric(&admin, "portcullis_inspection_bytes") >= 700_000.0);
    assert_eq!(tap.came.connections(), 0, "{}", tap.came.text());
    let answer = raw.send(&sent[699_999..]).until("\r\n\r\nok");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let came = tap.came.bytes();
    assert!(came.ends_with(&sent), "the very bytes");
    let forwarded = String::from_utf8_lossy(&came[..came.len() - sent.len()]).to_ascii_lowercase();
    assert!(
        forwarded.contains("content-length: 700000\r\n") && !forwarded.contains("transfer-encoding"),
        "{forwarded}"
    );
    assert!(forwarded.contains(&format!("host: {}\r\n", tap.address)), "{forwarded}");
    let call = call_of(&answer);
    assert_eq!(
        record(&dev, &call, "intent")["data"]["body"],
        hashed(&dev, &sent),
        "what was decided on is what was forwarded"
    );
    assert_eq!(record(&dev, &call, "outcome")["data"]["request_bytes"], 700_000);

    // The connection goes on: chunked, with leave to send, and without a body.
    let chunked: Vec<u8> = sent[..200_000].chunks(9_999).fold(Vec::new(), |mut all, part| {
        all.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        [all, part.to_vec(), b"\r\n".to_vec()].concat()
    });
    for round in 0..3 {
        raw.seen.clear();
        tap.came.forget();
        raw.send(head(&bearer, "Transfer-Encoding: chunked"));
        raw.send(&chunked).send("0\r\n\r\n");
        let answer = raw.until("\r\n\r\nok");
        assert!(
            answer.starts_with("HTTP/1.1 200") && tap.came.bytes().ends_with(&sent[..200_000]),
            "{round}: {answer}"
        );
        let forwarded = tap.came.text().to_ascii_lowercase();
        assert!(forwarded.contains("content-length: 200000\r\n") && !forwarded.contains("transfer-encoding"));
        assert_eq!(record(&dev, &call_of(&answer), "intent")["data"]["body"], hashed(&dev, &sent[..200_000]));
    }
    raw.seen.clear();
    tap.came.forget();
    raw.send(head(&bearer, "Expect: 100-continue\r\nContent-Length: 5")).until("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(tap.came.bytes().len(), 0);
    let answer = raw.send("hello").until("\r\n\r\nok");
    assert!(answer.contains("HTTP/1.1 200") && tap.came.text().ends_with("\r\n\r\nhello"), "{answer}");
    assert!(!tap.came.text().to_ascii_lowercase().contains("expect:"), "{}", tap.came.text());
    raw.seen.clear();
    let get = format!("GET /box HTTP/1.1\r\nHost: box.test\r\n{bearer}\r\n\r\n");
    let answer = raw.send(get).until("\r\n\r\nok");
    assert_eq!(record(&dev, &call_of(&answer), "intent")["data"]["body"]["bytes"], 0);
    assert!(tap.came.connections() <= 2, "connections to the upstream are kept");

    // HTTP/2.
    let file = dev.home.path().join("body");
    std::fs::write(&file, &sent).unwrap();
    tap.came.forget();
    let data = format!("@{}", file.display());
    let url = format!("{}/box", dev.addresses.gateway);
    let http2 = ["--http2-prior-knowledge", "-H", "Host: box.test", "-H", &bearer, "--data-binary", &data, &url];
    let answer = curl(&http2).is(200);
    assert!(tap.came.bytes().ends_with(&sent));
    assert!(tap.came.text().starts_with("POST /box HTTP/1.1\r\n"), "{}", &tap.came.text()[..200]);
    let call = answer.header("portcullis-call-id").unwrap();
    assert_eq!(record(&dev, call, "intent")["data"]["body"], hashed(&dev, &sent));
    eventually("the memory is free again", PATIENCE, || metric(&admin, "portcullis_inspection_bytes") == 0.0);
    dev.cli(&["evidence", "verify"]).exits(0);
}

#[test]
fn a_body_that_cannot_be_had_whole_is_refused_and_nothing_goes_upstream() {
    let (dev, tap) = (Dev::start(), Tap::start());
    inspecting(&dev, &tap);
    dev.grant("billing", "api/orders", &["read", "write"]);
    let bearer = dev.bearer("billing");
    let large = body(1_100_000);
    let chunk = |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    let cases: [(&str, Vec<u8>, &str, &str); 12] = [
        ("Content-Length: 1048577", vec![], "413", "body_too_large"),
        ("Content-Length: 1100000", large.clone(), "413", "body_too_large"),
        ("Transfer-Encoding: chunked", chunk(&large), "413", "body_too_large"),
        ("Content-Length: 5\r\nContent-Encoding: gzip", b"hello".to_vec(), "415", "body_unreadable"),
        ("Content-Length: 5\r\nContent-Encoding: zstd", b"hello".to_vec(), "415", "body_unreadable"),
        (
            "Content-Length: 5\r\nContent-Encoding: identity\r\nContent-Encoding: br",
            b"hello".to_vec(),
            "415",
            "body_unreadable",
        ),
        ("Connection: upgrade\r\nUpgrade: websocket", vec![], "415", "body_unreadable"),
        ("Content-Length: 10", b"hello".to_vec(), "400", "body_incomplete"),
        ("Transfer-Encoding: chunked", b"5\r\nhello\r\n".to_vec(), "400", "body_incomplete"),
        ("Transfer-Encoding: chunked", b"5\r\nhel".to_vec(), "400", "body_incomplete"),
        (
            "Transfer-Encoding: chunked",
            [chunk(&large[..300_000]), b"0x5\r\nhello\r\n0\r\n\r\n".to_vec()].concat(),
            "400",
            "request_malformed",
        ),
        (
            "Transfer-Encoding: chunked",
            [chunk(&large[..300_000]), b"0\r\nX: y\r\n\r\n".to_vec()].concat(),
            "400",
            "request_malformed",
        ),
    ];
    for (framing, bytes, status, reason) in &cases {
        let mut raw = dev.raw();
        // The head alone first: nothing of the body is judged as if it belonged to it.
        raw.send(head(&bearer, framing)).send(bytes).finish();
        let answer = raw.to_end();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(reason), "{framing}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
        let denial = record(&dev, &call_of(&answer), "denial");
        assert_eq!((&denial["data"]["reason"], &denial["data"]["route"]), (&json!(reason), &json!("box")));
    }
    let url = format!("{}/box", dev.addresses.gateway);
    let file = dev.home.path().join("large");
    std::fs::write(&file, &large).unwrap();
    let data = format!("@{}", file.display());
    let http2 = ["--http2-prior-knowledge", "-H", "Host: box.test", "-H", &bearer, "--data-binary", &data, &url];
    curl(&http2).refuses(413, "body_too_large");
    // A caller that nobody knows, or that has no grant, spends no memory: it is answered before its body.
    for (authorization, status) in [("X-None: 1".to_owned(), "401"), (dev.bearer("helper"), "403")] {
        let answer = dev.raw().send(head(&authorization, "Content-Length: 1000000")).to_end();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    assert_eq!(tap.came.connections(), 0, "{}", tap.came.text());
    assert_eq!(metric(&dev.addresses.admin, "portcullis_body_limit_hits_total"), 4.0);
    assert_eq!(metric(&dev.addresses.admin, "portcullis_inspection_bytes"), 0.0);
    // A caller that vanishes leaves a record, and nothing upstream.
    let mut raw = dev.raw();
    raw.send(head(&bearer, "Content-Length: 10")).send("hello");
    eventually("it is being read", PATIENCE, || metric(&dev.addresses.admin, "portcullis_inspection_bytes") > 0.0);
    drop(raw);
    eventually("its end is recorded", PATIENCE, || {
        let incomplete = |entry: &&Value| entry["data"]["reason"] == "body_incomplete";
        evidence(&dev, &["--kind", "denial"]).iter().filter(incomplete).count() == 4
    });
    assert_eq!(tap.came.connections(), 0, "{}", tap.came.text());
}

#[test]
fn a_grant_that_ends_while_its_body_is_read_lets_nothing_through() {
    let (dev, tap) = (Dev::start(), Tap::start());
    inspecting(&dev, &tap);
    let grant = dev.grant("billing", "api/orders", &["read", "write"]);
    let mut raw = dev.raw();
    raw.send(head(&dev.bearer("billing"), "Content-Length: 10")).send("hello");
    eventually("it is being read", PATIENCE, || metric(&dev.addresses.admin, "portcullis_inspection_bytes") > 0.0);
    assert_eq!(dev.revoke(&grant)["enforced"], true);
    let answer = raw.send("world").until("\r\n\r\n{");
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("grant_missing"), "{answer}");
    record(&dev, &call_of(&answer), "denial");
    assert_eq!(tap.came.connections(), 0);
}

#[test]
fn an_inspected_call_is_cut_like_any_other_and_gives_its_memory_back() {
    let dev = Dev::start();
    let (sender, came) = mpsc::channel();
    let upstream = Upstream::start(move |head, stream| {
        if head.contains("/stream") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n");
        }
        let _ = sender.send(());
        if ends(stream) {
            let _ = sender.send(());
        }
    });
    put(&dev, &[route_with("box", upstream.address, "  body: inspect\n")]);
    for (path, answer) in [("/mute", "HTTP/1.1 403 "), ("/stream", "HTTP/1.1 200 ")] {
        let grant = dev.grant("billing", "api/orders", &["read", "write"]);
        let mut raw = dev.raw();
        raw.send(head(&dev.bearer("billing"), "Content-Length: 5").replace("/box", path)).send("hello");
        came.recv_timeout(PATIENCE).expect("the upstream has it");
        assert_eq!(metric(&dev.addresses.admin, "portcullis_inspection_bytes"), 5.0);
        let receipt = dev.revoke(&grant);
        let text = raw.to_end();
        assert!(text.starts_with(answer), "{text}");
        came.recv_timeout(PATIENCE).expect("the upstream's side has ended");
        let call = receipt["gateways"][0]["cut"][0]["call"].as_str().unwrap();
        assert_eq!(record(&dev, call, "outcome")["data"]["reason"], "grant_revoked");
        assert_eq!(metric(&dev.addresses.admin, "portcullis_inspection_bytes"), 0.0);
    }
}

#[test]
fn bodies_have_their_time_and_their_memory() {
    let tap = Tap::start();
    let fleet = Fleet::start(tap.address);
    let limits = json!({ "inspect_deadline": "2s", "inspect_bytes": "64KiB", "idle_timeout": "30s" });
    let gate = fleet.gateway(|config| config["limits"] = limits).ready();
    fleet.apply(&format!(
        "kind: Route\nname: orders\nspec:\n  upstream: http://{}\n  resource: api/orders\n  body: inspect\n  actions:\n    \
         - {{ name: read, methods: [GET, POST], path: \"/v1/orders/**\" }}\n",
        tap.address
    ));
    fleet.grant("--wait=20s");
    let head = |length: usize| {
        format!("POST /v1/orders/1 HTTP/1.1\r\nHost: a\r\n{}\r\nContent-Length: {length}\r\n\r\n", fleet.bearer())
    };
    let mut first = Raw::connect(&gate.url);
    first.send(head(60_000)).send(body(59_999));
    eventually("it is being read", PATIENCE, || metric(&gate.admin, "portcullis_inspection_bytes") >= 59_999.0);
    // One that has only announced its length takes nothing yet.
    let mut announced = Raw::connect(&gate.url);
    announced.send(head(60_000));
    let full = Raw::connect(&gate.url).send(head(60_000)).send(body(1)).to_end();
    assert!(full.starts_with("HTTP/1.1 503 ") && full.contains("inspection_full"), "{full}");
    assert!(full.contains("retry-after: ") || full.contains("Retry-After: "), "{full}");
    assert_eq!(metric(&gate.admin, "portcullis_inspection_limit_hits_total"), 1.0);
    // Who dawdles is not waited for, however steadily the bytes drip.
    let slow = first.to_end();
    assert!(slow.starts_with("HTTP/1.1 408 ") && slow.contains("request_timeout"), "{slow}");
    assert_eq!(tap.came.connections(), 0);
    let mut second = Raw::connect(&gate.url);
    second.send(head(60_000)).send(body(60_000)).until("\r\n\r\nok");
}
