//! Failures behind an interim answer, and peers that take nothing: each call has an end, and the caller is told.

use std::io::{Read as _, Write as _};
use std::sync::{Mutex, mpsc};

use serde_json::json;

use super::tap::{put, route_with};
use crate::dev::{Dev, PATIENCE, Raw, curl, eventually};
use crate::world::{Fleet, Upstream, apply, catalog, record};

/// An upstream that takes a request and closes.
fn failing() -> Upstream {
    Upstream::start(|_, _| {})
}

#[test]
fn a_call_that_fails_behind_an_interim_answer_is_answered() {
    let dev = Dev::start();
    let upstream = failing();
    put(&dev, &[route_with("box", upstream.address, "  body: inspect\n")]);
    dev.grant("billing", "api/orders", &["read", "write"]);
    let mut raw = dev.raw();
    let more = "Content-Length: 5\r\nExpect: 100-continue";
    raw.send(format!("POST /box HTTP/1.1\r\nHost: box.test\r\n{}\r\n{more}\r\n\r\n", dev.bearer("billing")));
    raw.until("HTTP/1.1 100 Continue\r\n\r\n");
    let text = raw.send("hello").to_end();
    let (_, answer) = text.split_once("\r\n\r\n").unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("upstream_fault"), "{text}");
    // The connection of a replayed call that failed is not kept, and the caller knows.
    assert!(answer.to_ascii_lowercase().contains("connection: close\r\n"), "{text}");
    let call = answer.split("portcullis-call-id: ").nth(1).unwrap().split("\r\n").next().unwrap();
    let outcome = record(&dev, call, "outcome")["data"].clone();
    assert_eq!((&outcome["ended"], &outcome["status"]), (&json!("upstream_failed"), &json!(502)));
}

#[test]
fn a_replayed_call_that_fails_is_answered_in_its_own_protocol() {
    let dev = Dev::start();
    let upstream = failing();
    let route = route_with("box", upstream.address, "  protocol: grpc\n  body: inspect\n");
    let (head, _) = route.split_once("  actions:").unwrap();
    apply(&dev, &format!("{head}  actions: [{{ name: write, methods: [POST], path: \"/**\" }}]\n")).exits(0);
    dev.grant("billing", "api/orders", &["read", "write"]);
    let base = ["--http2-prior-knowledge", "-H", "Host: box.test", "-H", &dev.bearer("billing")];
    let url = format!("{}/box", dev.addresses.gateway);
    let grpc = ["-H", "Content-Type: application/grpc", "-H", "TE: trailers", "--data-binary", "hello"];
    let call = || curl(&[&base[..], &grpc, &[&url]].concat()).is(200);
    // Until the route is live: PERMISSION_DENIED.
    eventually("the route is live", PATIENCE, || call().header("grpc-status") != Some("7"));
    let answer = call();
    // UNAVAILABLE, in the head: there is nothing behind it.
    assert_eq!(answer.header("grpc-status"), Some("14"), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/grpc"), "{answer:?}");
    assert_eq!(answer.header("connection"), None, "{answer:?}");
    assert_eq!(answer.body, "");
    put(&dev, &[route_with("plain", upstream.address, "  body: inspect\n")]);
    let base = ["--http2-prior-knowledge", "-H", "Host: plain.test", "-H", &dev.bearer("billing")];
    // HEAD: a head, and nothing behind it.
    let answer = curl(&[&base[..], &["-I", &url]].concat()).is(502);
    assert!(
        answer.header("content-length").is_some_and(|length| length != "0") && answer.body.is_empty(),
        "{answer:?}"
    );
    let answer = curl(&[&base[..], &["--data-binary", "hello", &url]].concat()).refuses(502, "upstream_fault");
    assert_eq!(answer.header("connection"), None, "{answer:?}");
}

/// A fleet whose gateway lets nobody be silent for longer than a second.
fn impatient(upstream: &Upstream) -> (Fleet, crate::world::Gate) {
    let fleet = Fleet::start(upstream.address);
    fleet.apply(&catalog(upstream.address).replace("[GET, HEAD]", "[GET, HEAD, POST]"));
    let gate = fleet.gateway(|config| config["limits"] = json!({ "idle_timeout": "1s" })).ready();
    fleet.grant("--wait");
    (fleet, gate)
}

#[test]
fn a_caller_that_takes_nothing_of_its_answer_has_an_end() {
    let (sender, ended) = mpsc::channel();
    let sender = Mutex::new(sender);
    let upstream = Upstream::start(move |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[b'x'; 65536]).is_ok() {}
        let _ = sender.lock().unwrap().send(());
    });
    let (fleet, gate) = impatient(&upstream);
    let mut raw = Raw::connect(&gate.url);
    raw.send(format!("GET /v1/orders/7 HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", fleet.bearer()));
    eventually("it runs", PATIENCE, || gate.metric("portcullis_running_calls") == 1.0);
    eventually("it has ended", PATIENCE, || gate.metric("portcullis_running_calls") == 0.0);
    ended.recv_timeout(PATIENCE).expect("the upstream's side has ended");
}

#[test]
fn an_upstream_that_takes_nothing_of_a_body_has_an_end() {
    let (sender, finish) = mpsc::channel::<()>();
    let finish = Mutex::new(finish);
    let upstream = Upstream::start(move |_, _| {
        let _ = finish.lock().unwrap().recv_timeout(PATIENCE);
    });
    let (fleet, gate) = impatient(&upstream);
    let mut raw = Raw::connect(&gate.url);
    let mut reader = raw.again();
    raw.send(format!(
        "POST /v1/orders/7 HTTP/1.1\r\nHost: a\r\n{}\r\nTransfer-Encoding: chunked\r\n\r\n",
        fleet.bearer()
    ));
    // More than every buffer on the way holds, from a thread of its own: it gets stuck.
    let upload = std::thread::spawn(move || {
        let part = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        for _ in 0..2_000 {
            raw.send(&part);
        }
    });
    let text = reader.to_end();
    assert!(text.starts_with("HTTP/1.1 504 ") && text.contains("upstream_timeout"), "{text}");
    assert_eq!(gate.metric("portcullis_running_calls"), 0.0);
    drop(sender);
    upload.join().unwrap();
}

#[test]
fn a_body_over_http2_that_stalls_has_an_end() {
    let upstream = Upstream::start(|_, stream| {
        // Waits for the rest of the body.
        let mut sink = [0; 4096];
        while matches!(stream.read(&mut sink), Ok(1..)) {}
    });
    let (fleet, gate) = impatient(&upstream);
    let mut command = std::process::Command::new("curl");
    command.args(["-sS", "--http2-prior-knowledge", "--max-time", "60", "-T", "-", "-X", "POST"]);
    command.args(["-H", "Host: a", "-H", &fleet.bearer(), &format!("{}/v1/orders/7", gate.url)]);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Half of a body, and then nothing.
    child.stdin.as_mut().unwrap().write_all(b"half").unwrap();
    eventually("it runs", PATIENCE, || gate.metric("portcullis_running_calls") == 1.0);
    eventually("it has ended", PATIENCE, || gate.metric("portcullis_running_calls") == 0.0);
    assert_eq!(gate.metric("portcullis_stalled_bodies_total"), 1.0);
    let _ = child.kill();
    let _ = child.wait();
}
