//! What callers get back: promptly, without a body where none belongs, and with a reason where it still can be said.

use std::io::Write as _;
use std::process::Command;
use std::sync::{Mutex, mpsc};

use super::tap::{Tap, put, route_with};
use crate::dev::{Dev, PATIENCE, Stream, curl};
use crate::world::{Upstream, ends, record};

#[test]
fn half_an_answer_is_delivered_while_the_upstream_pauses() {
    let dev = Dev::start();
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nhello\n");
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        let _ = stream.write_all(b"world\n");
    });
    put(&dev, &[route_with("slow", upstream.address, "")]);
    dev.grant("billing", "api/orders", &["read"]);
    let mut raw = dev.raw();
    raw.send(format!("GET /slow HTTP/1.1\r\nHost: slow.test\r\n{}\r\n\r\n", dev.bearer("billing")));
    raw.until("\r\n\r\nhello\n");
    go.send(()).unwrap();
    raw.until("world\n");
    // The same through TLS, in either protocol.
    for version in ["--http1.1", "--http2"] {
        let mut command = Command::new("curl");
        command.args(["-sSN", "--max-time", "60", version, "-H", "Host: slow.test", "-H", &dev.bearer("billing")]);
        command.arg("--cacert").arg(dev.dir().join("ca.pem"));
        command.arg(format!("{}/slow", dev.addresses.gateway_tls));
        let stream = Stream::of(command);
        stream.line("hello");
        go.send(()).unwrap();
        stream.line("world");
    }
}

#[test]
fn a_call_that_is_cut_before_its_answer_began_is_told_why() {
    let dev = Dev::start();
    let (sender, came) = mpsc::channel();
    let upstream = Upstream::start(move |_, stream| {
        let _ = sender.send(());
        ends(stream);
    });
    put(&dev, &[route_with("mute", upstream.address, "")]);
    let grant = dev.grant("billing", "api/orders", &["read"]);
    let mut raw = dev.raw();
    raw.send(format!("GET /mute HTTP/1.1\r\nHost: mute.test\r\n{}\r\n\r\n", dev.bearer("billing")));
    came.recv_timeout(PATIENCE).expect("the upstream has it");
    let receipt = dev.revoke(&grant);
    let answer = raw.to_end();
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("grant_revoked"), "{answer}");
    let call = receipt["gateways"][0]["cut"][0]["call"].as_str().unwrap();
    assert!(answer.contains(&format!("portcullis-call-id: {call}\r\n")), "{answer}");
    assert_eq!(record(&dev, call, "outcome")["data"]["ended"], "cut");
}

#[test]
fn a_head_request_is_answered_without_a_body() {
    let dev = Dev::start();
    for authorization in ["X-None: 1".to_owned(), dev.bearer("billing")] {
        let head = format!("HEAD /v1/orders/7 HTTP/1.1\r\nHost: a\r\n{authorization}\r\n\r\n");
        let mut raw = dev.raw();
        raw.send(&head).until("\r\n\r\n");
        // What follows is the next answer and nothing else.
        raw.send(head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
        let answers = raw.to_end();
        assert!(answers.contains("application/problem+json") && !answers.contains('{'), "{answers}");
        assert_eq!(answers.matches("HTTP/1.1 40").count(), 2, "{answers}");
        assert!(answers.ends_with("\r\n\r\n"), "{answers}");
    }
    let url = format!("{}/v1/orders/7", dev.addresses.gateway);
    curl(&["--http2-prior-knowledge", "-I", &url]).is(401);
}

#[test]
fn a_preflight_is_a_call_like_any_other() {
    let (dev, tap) = (Dev::start(), Tap::start());
    put(&dev, &[route_with("box", tap.address, "")]);
    dev.grant("billing", "api/orders", &["read", "write"]);
    let url = format!("{}/box", dev.addresses.gateway);
    let preflight = ["-X", "OPTIONS", "-H", "Host: box.test", "-H", "Origin: https://evil.example"];
    let more = ["-H", "Access-Control-Request-Method: POST", &url];
    curl(&[&preflight[..], &more].concat()).refuses(401, "credential_missing");
    let bearer = dev.bearer("billing");
    let known = curl(&[&preflight[..], &["-H", &bearer], &more].concat()).refuses(405, "method_not_allowed");
    assert!(known.header("access-control-allow-origin").is_none(), "{known:?}");
    assert_eq!(tap.came.connections(), 0);
}
