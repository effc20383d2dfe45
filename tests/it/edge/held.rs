//! What hangs, leaves too late or is told wrongly: callers and upstreams that stop in the middle.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use serde_json::{Value, json};

use super::tap::{Tap, put, route_with};
use crate::dev::{Dev, PATIENCE, Raw, eventually};
use crate::world::{Fleet, Upstream, apply, catalog, ends, evidence};

fn get(dev: &Dev, host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}.test\r\n{}\r\n\r\n", dev.bearer("billing"))
}

/// The end of the latest call.
fn outcome(dev: &Dev) -> Value {
    let mut last = None;
    eventually("the outcome is recorded", PATIENCE, || {
        let records = evidence(dev, &["--kind", "outcome"]);
        last = records.last().cloned();
        let intents = evidence(dev, &["--kind", "intent"]).into_iter().filter(|i| i["data"]["decision"] != "deny");
        records.len() >= intents.count() && last.is_some()
    });
    last.unwrap()["data"].clone()
}

#[test]
fn of_a_cut_call_nothing_more_leaves_for_a_plain_upstream() {
    let dev = Dev::start();
    let (go, wait) = mpsc::channel::<()>();
    let (sender, read) = mpsc::channel();
    let (wait, sender) = (Mutex::new(wait), Mutex::new(sender));
    // Busy with something else, while the whole body lies in the sockets' buffers.
    let upstream = Upstream::start(move |_, stream| {
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        let (mut count, mut part) = (0, vec![0; 65_536]);
        while let Ok(length @ 1..) = stream.read(&mut part) {
            count += length;
        }
        let _ = sender.lock().unwrap().send(count);
    });
    put(&dev, &[route_with("late", upstream.address, "")]);
    let grant = dev.grant("billing", "api/orders", &["read", "write"]);
    let body = vec![b'x'; 2_000_000];
    let mut raw = dev.raw();
    let head =
        get(&dev, "late", "/late").replace("GET", "POST").replace("\r\n\r\n", "\r\nContent-Length: 2000000\r\n\r\n");
    raw.send(head);
    eventually("it runs", PATIENCE, || upstream.seen() == 1);
    let mut writer = raw.again();
    let upload = std::thread::spawn(move || {
        // Cut in the middle, it gets stuck or is reset.
        let _ = writer.try_send(&body);
    });
    std::thread::sleep(Duration::from_millis(500));
    let revoke = ["-o", "json", "grant", "revoke", &grant, "--reason", "over", "--wait=20s"];
    let receipt = dev.cli(&revoke).exits(0).json();
    assert_eq!(receipt["gateways"][0]["cut"].as_array().unwrap().len(), 1, "{receipt}");
    go.send(()).unwrap();
    let read = read.recv_timeout(PATIENCE).unwrap();
    assert!(read < 2_000_000, "the upstream had all of the call after its cut");
    drop(raw);
    upload.join().unwrap();
}

#[test]
fn a_stranger_that_reads_no_answers_is_let_go() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|config| config["limits"] = json!({ "idle_timeout": "1s" })).ready();
    let mut stream = TcpStream::connect(gate.url.trim_start_matches("http://")).unwrap();
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || {
        // Answers to HEAD have no body, and the library no limit for them.
        let many = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1_000);
        while stream.write_all(many.as_bytes()).is_ok() {}
        let _ = sender.send(());
    });
    ended.recv_timeout(PATIENCE).expect("it was let go");
}

#[test]
fn what_was_sent_ahead_hides_neither_a_leaving_caller_nor_half_an_answer() {
    let dev = Dev::start();
    let (sender, ended) = mpsc::channel();
    let sender = Mutex::new(sender);
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |head, stream| {
        if head.starts_with("GET /half") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nfirst half");
            let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
            let _ = stream.write_all(b"other half");
        } else {
            let _ = sender.lock().unwrap().send(ends(stream));
        }
    });
    put(&dev, &[route_with("odd", upstream.address, "")]);
    dev.grant("billing", "api/orders", &["read"]);
    let mut raw = dev.raw();
    raw.send(get(&dev, "odd", "/half")).send(get(&dev, "odd", "/next")).until("first half");
    go.send(()).unwrap();
    raw.until("other half");
    // Who leaves before its next call begins has none.
    eventually("the next one runs", PATIENCE, || upstream.seen() > 1);
    drop(raw);
    assert!(ended.recv_timeout(PATIENCE).unwrap(), "the next one ran, and its caller left");
    for ahead in ["G", &get(&dev, "odd", "/next"), &"x".repeat(10_000)] {
        let seen = upstream.seen();
        let mut raw = dev.raw();
        raw.send(get(&dev, "odd", "/silent"));
        eventually("it runs", PATIENCE, || upstream.seen() > seen);
        raw.send(ahead);
        drop(raw);
        assert!(ended.recv_timeout(PATIENCE).expect("the upstream's side has ended"));
        let outcome = outcome(&dev);
        assert_eq!((&outcome["ended"], &outcome["reason"]), (&json!("client_gone"), &Value::Null), "{outcome}");
        assert_eq!(outcome["status"], Value::Null, "nobody got an answer: {outcome}");
    }
}

#[test]
fn a_websocket_whose_upstream_breaks_gets_no_document() {
    let dev = Dev::start();
    let upstream = Upstream::start(|head, stream| {
        if head.starts_with("GET /never") {
            let _ = ends(stream);
            return;
        }
        let agreed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nHELLO";
        let _ = stream.write_all(agreed);
        // What it did not read makes its close a reset.
        let mut one = [0];
        let _ = stream.peek(&mut one);
    });
    put(&dev, &[route_with("socket", upstream.address, "")]);
    dev.grant("billing", "api/orders", &["read"]);
    let wish = |path: &str| {
        get(&dev, "socket", path).replace("\r\n\r\n", "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    };
    let mut raw = dev.raw();
    let mut seen = raw.send(wish("/breaks")).until("HELLO");
    seen.push_str(&raw.send("unread").to_end());
    assert!(seen.starts_with("HTTP/1.1 101 ") && !seen.contains("portcullis:reason"), "{seen}");
    let broken = outcome(&dev);
    assert_eq!(broken["status"], 101, "{broken}");
    // Bytes before anybody agreed to anything are the caller's fault.
    let seen = upstream.seen();
    let mut raw = dev.raw();
    raw.send(wish("/never"));
    eventually("it runs", PATIENCE, || upstream.seen() > seen);
    let answer = raw.send("EARLY").to_end();
    assert!(!answer.contains("upstream_unreachable"), "{answer}");
    let early = outcome(&dev);
    assert_ne!(early["reason"], "upstream_unreachable", "{early}");
}

#[test]
fn a_caller_over_http2_that_cancels_is_gone_and_did_nothing_wrong() {
    let dev = Dev::start();
    let upstream = Upstream::start(|_, stream| {
        let _ = ends(stream);
    });
    put(&dev, &[route_with("silent", upstream.address, "")]);
    dev.grant("billing", "api/orders", &["read"]);
    let mut command = std::process::Command::new("curl");
    command.args(["-sS", "--http2-prior-knowledge", "--max-time", "1", "-H", "Host: silent.test", "-H"]);
    command.args([&dev.bearer("billing"), &format!("{}/x", dev.addresses.gateway)]);
    assert!(!command.output().unwrap().status.success());
    let outcome = outcome(&dev);
    assert_eq!((&outcome["ended"], &outcome["reason"]), (&json!("client_gone"), &Value::Null), "{outcome}");
}

#[test]
fn an_upstream_that_takes_nothing_of_a_long_body_is_at_fault() {
    let (finish, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |_, _| {
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
    });
    let fleet = Fleet::start(upstream.address);
    fleet.apply(&catalog(upstream.address).replace("[GET, HEAD]", "[GET, HEAD, POST]"));
    let gate = fleet.gateway(|config| config["limits"] = json!({ "idle_timeout": "1s" })).ready();
    fleet.grant("--wait");
    let mut raw = Raw::connect(&gate.url);
    let bearer = fleet.bearer();
    raw.send(format!("POST /v1/orders/7 HTTP/1.1\r\nHost: a\r\n{bearer}\r\nContent-Length: 100000000\r\n\r\n"));
    let mut writer = raw.again();
    let upload = std::thread::spawn(move || {
        let part = vec![b'x'; 1_000_000];
        while writer.try_send(&part).is_ok() {}
    });
    let began = std::time::Instant::now();
    let answer = raw.to_end();
    assert!(began.elapsed() < PATIENCE / 2, "the upstream would have left by then");
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("upstream_timeout"), "{answer}");
    eventually("it has ended", PATIENCE, || gate.metric("portcullis_running_calls") == 0.0);
    drop(finish);
    drop(raw);
    upload.join().unwrap();
}

#[test]
fn a_body_over_http2_that_ends_in_an_empty_frame_leaves_nothing_for_the_next_call() {
    let (dev, tap) = (Dev::start(), Tap::start());
    put(&dev, &[route_with("tap", tap.address, "")]);
    dev.grant("billing", "api/orders", &["read", "write"]);
    tap.came.forget();
    for _ in 0..3 {
        let mut command = std::process::Command::new("curl");
        command.args(["-sS", "--http2-prior-knowledge", "--max-time", "20", "-T", "-", "-X", "POST"]);
        command.args(["-H", "Host: tap.test", "-H", &dev.bearer("billing"), &format!("{}/x", dev.addresses.gateway)]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"abc\n").unwrap();
        // The end comes alone, in a frame of its own.
        std::thread::sleep(Duration::from_millis(200));
        drop(stdin);
        assert!(child.wait().unwrap().success());
    }
    let came = tap.came.text();
    assert_eq!(came.matches("\r\n0\r\n\r\n").count(), 3, "{came}");
    assert!(!came.contains("0\r\n\r\n0\r\n\r\n"), "{came}");
}

#[test]
fn an_escaped_letter_of_a_literal_is_the_letter() {
    let dev = Dev::start();
    let upstream = Upstream::ok();
    let route = route_with("go", upstream.address, "");
    let i = route.find("  actions:").unwrap();
    let actions = "  actions:\n    - { name: read, methods: [GET], path: \"/v1/**\" }\n    \
                   - { name: admin, methods: [GET], path: \"/v1/users:export\" }\n    \
                   - { name: me, methods: [GET], path: \"/v1/@me/secret\" }\n";
    apply(&dev, &format!("{}{actions}", &route[..i])).exits(0);
    dev.grant("billing", "api/orders", &["read"]);
    let status = |path: &str| {
        let answer =
            dev.raw().send(get(&dev, "go", path).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).to_end();
        answer[9..12].to_owned()
    };
    eventually("the route is live", PATIENCE, || status("/v1/users") == "200");
    let seen = upstream.seen();
    for path in ["/v1/users:export", "/v1/users%3Aexport", "/v1/@me/secret", "/v1/%40me/secret"] {
        assert_eq!(status(path), "403", "{path}");
    }
    assert_eq!(upstream.seen(), seen);
}
