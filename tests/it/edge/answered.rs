//! What upstreams answer: a head with two readings fails the call, half an answer never looks whole, and nobody gets the
//! answer to somebody else's call.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use super::tap::{put, route_with};
use crate::dev::{Dev, PATIENCE, curl};
use crate::world::{Certificate, TlsServer, Upstream, authority, record, workload};

/// An upstream that answers with the bytes of the case that the path names.
fn scripted(cases: &'static [(&'static str, &'static str)]) -> Upstream {
    Upstream::start(move |head, stream| {
        let place: usize = head.split(['/', ' ']).nth(2).and_then(|name| name.parse().ok()).unwrap_or(usize::MAX);
        if let Some((_, answer)) = cases.get(place) {
            let _ = stream.write_all(answer.as_bytes());
        }
    })
}

fn outcome(dev: &Dev, call: &str) -> serde_json::Value {
    record(dev, call, "outcome")["data"].clone()
}

/// What is wrong, and the answer.
const TWO_READINGS: &[(&str, &str)] = &[
    ("a list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello"),
    ("two equal lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    ("a signed length", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello"),
    ("a negative length", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello"),
    ("a hexadecimal length", "HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello"),
    ("no length", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello"),
    ("a huge length", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello"),
    ("an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ("a coding before", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ("a coding behind", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ("chunked twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    (
        "two codings",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    ("chunks of HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ("a length of nothing", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello"),
    ("chunks of nothing", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a high status", "HTTP/1.1 999 Beyond\r\nContent-Length: 5\r\n\r\nhello"),
    ("a low status", "HTTP/1.1 099 Below\r\nContent-Length: 5\r\n\r\nhello"),
    ("a short status", "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("a long status", "HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("another version", "HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("version 2 in text", "HTTP/2 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("no status line", "hello\r\n\r\n"),
    ("bytes before it", "x\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("a null in a value", "HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 5\r\n\r\nhello"),
    ("a null in a name", "HTTP/1.1 200 OK\r\nX\0A: b\r\nContent-Length: 5\r\n\r\nhello"),
    ("a bare CR in a value", "HTTP/1.1 200 OK\r\nX-A: a\rSet-Cookie: b\r\nContent-Length: 5\r\n\r\nhello"),
    ("a name with a space", "HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 5\r\n\r\nhello"),
    ("a line without a colon", "HTTP/1.1 200 OK\r\nX-A\r\nContent-Length: 5\r\n\r\nhello"),
    (
        "an upgrade nobody asked for",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello",
    ),
    (
        "hints with a length",
        "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ),
];

#[test]
fn an_answer_with_two_readings_fails_the_call() {
    let dev = Dev::start();
    let upstream = scripted(TWO_READINGS);
    put(&dev, &[route_with("odd", upstream.address, "")]);
    dev.grant("billing", "api/orders", &["read"]);
    for (place, (what, _)) in TWO_READINGS.iter().enumerate() {
        let url = format!("{}/{place}", dev.addresses.gateway);
        let answer = curl(&["-H", "Host: odd.test", "-H", &dev.bearer("billing"), &url]).refuses(502, "upstream_fault");
        let call = answer.json()["call_id"].as_str().unwrap().to_owned();
        let outcome = outcome(&dev, &call);
        assert_eq!(outcome["ended"], "upstream_failed", "{what}: {outcome}");
        assert_eq!((&outcome["reason"], &outcome["status"]), (&"upstream_fault".into(), &502.into()), "{what}");
    }
    assert_eq!(upstream.seen(), TWO_READINGS.len(), "none was tried twice");
}

#[test]
fn interim_answers_without_an_end_end_the_call() {
    let dev = Dev::start();
    let upstream =
        Upstream::start(
            |_, stream| while stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").is_ok() {},
        );
    put(&dev, &[route_with("hints", upstream.address, "")]);
    dev.grant("billing", "api/orders", &["read"]);
    let mut raw = dev.raw();
    raw.send(format!("GET /a HTTP/1.1\r\nHost: hints.test\r\n{}\r\n\r\n", dev.bearer("billing")));
    let text = raw.to_end();
    assert!(text.matches("HTTP/1.1 103 ").count() <= 16, "{text}");
    assert!(text.contains("HTTP/1.1 502 ") && text.contains("upstream_fault"), "{text}");
}

/// What is forgiven, the answer, and what the caller gets of its body.
const ONE_READING: &[(&str, &str)] = &[
    ("", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    ("", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"),
    (
        "hello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nConnection: close\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
    ),
    ("hello", "HTTP/1.0 200 OK\r\n\r\nhello"),
    ("hello", "HTTP/1.1 200 OK\nContent-Length: 5\nConnection: close\n\nhello"),
    ("hello", "HTTP/1.1 200 OK\r\nX-A: a\r\n b\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"),
    (
        "hello",
        "HTTP/1.1 200 OK\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
];

#[test]
fn what_is_forgiven_reaches_the_caller_in_one_form() {
    let dev = Dev::start();
    let upstream = scripted(ONE_READING);
    put(&dev, &[route_with("lax", upstream.address, "")]);
    dev.grant("billing", "api/orders", &["read"]);
    for (place, (body, answer)) in ONE_READING.iter().enumerate() {
        let mut raw = dev.raw();
        let call = format!(
            "GET /{place} HTTP/1.1\r\nHost: lax.test\r\n{}\r\nConnection: close\r\n\r\n",
            dev.bearer("billing")
        );
        let text = raw.send(call).to_end();
        let (head, rest) = text.split_once("\r\n\r\n").unwrap();
        let head = head.to_ascii_lowercase();
        assert!(!head.contains("\r\n ") && !head.replace("\r\n", "").contains(['\r', '\n']), "{answer:?}: {text:?}");
        let framed = (head.contains("content-length: "), head.contains("transfer-encoding: chunked"));
        match framed {
            (false, true) => assert_eq!(rest, format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()), "{answer:?}"),
            (_, false) => assert_eq!(rest, *body, "{answer:?}: {text:?}"),
            (true, true) => panic!("two framings: {text:?}"),
        }
    }
}

/// How an answer ends too early.
const CUT_SHORT: &[(&str, &str)] = &[
    ("within a length", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"),
    ("within a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n32\r\nhello"),
    ("between chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    ("within the last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"),
    (
        "by a chunk that is none",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "by a negative chunk",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n-1\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "by a huge chunk",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "by a chunk longer than it says",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nhello\r\n0\r\n\r\n",
    ),
];

#[test]
fn half_an_answer_never_looks_whole() {
    let dev = Dev::start();
    let upstream = scripted(CUT_SHORT);
    put(&dev, &[route_with("short", upstream.address, "")]);
    dev.grant("billing", "api/orders", &["read"]);
    for (place, (what, _)) in CUT_SHORT.iter().enumerate() {
        let mut raw = dev.raw();
        let call = format!("GET /{place} HTTP/1.1\r\nHost: short.test\r\n{}\r\n\r\n", dev.bearer("billing"));
        let text = raw.send(call).to_end();
        // It was closed, and what came is less than was announced.
        assert!(!text.ends_with("0\r\n\r\n"), "{what}: {text:?}");
        let call = text.split("portcullis-call-id: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
        let outcome = outcome(&dev, &call);
        assert_eq!(outcome["ended"], "upstream_failed", "{what}: {outcome}");
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole_only_if_tls_says_so() {
    let ca = Certificate::self_signed(&authority(&[]));
    let mut params = workload(&[]);
    params.subject_alt_names.push(rcgen::SanType::IpAddress([127, 0, 0, 1].into()));
    let server =
        TlsServer::serve(&Certificate::signed(ca.cert.as_ref(), ca.key.as_ref(), &params), None, |head, stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello");
            if head.contains("/whole") {
                stream.conn.send_close_notify();
            }
            let _ = stream.flush();
            false
        });
    let dev = Dev::start();
    let tls = serde_json::json!({ "ca": std::fs::read_to_string(&ca.cert).unwrap() });
    let route = route_with("tls", server.address, &format!("  tls: {tls}\n")).replace("http://", "https://");
    put(&dev, &[route]);
    dev.grant("billing", "api/orders", &["read"]);
    for (path, ended) in [("/whole", "completed"), ("/cut", "upstream_failed")] {
        let mut raw = dev.raw();
        let call =
            format!("GET {path} HTTP/1.1\r\nHost: tls.test\r\n{}\r\nConnection: close\r\n\r\n", dev.bearer("billing"));
        let text = raw.send(call).to_end();
        // Where all of it came at once, the caller can still be told.
        assert!(text.contains("5\r\nhello\r\n") || text.contains("upstream_fault"), "{text:?}");
        assert_eq!(text.ends_with("hello\r\n0\r\n\r\n"), path == "/whole", "{path}: {text:?}");
        let call = text.split("portcullis-call-id: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
        assert_eq!(outcome(&dev, &call)["ended"], ended, "{path}");
    }
}

const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";
const EVIL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

/// An upstream that keeps connections and sends `EVIL` behind its answer to `/more`: at once, or when it is told to.
struct Chatty {
    address: SocketAddr,
    go: Sender<()>,
    sent: Receiver<()>,
}

impl Chatty {
    fn start(at_once: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ((go, told), (sender, sent)) = (channel(), channel());
        std::thread::spawn(move || {
            let told = Arc::new(Mutex::new(told));
            for stream in listener.incoming() {
                let (Ok(mut stream), told, sender) = (stream, told.clone(), sender.clone()) else { return };
                std::thread::spawn(move || {
                    // Else what comes behind an answer waits for its acknowledgement, which comes with the next request.
                    stream.set_nodelay(true).unwrap();
                    while let Some(head) = read_head(&mut stream) {
                        let more = head.contains("/more");
                        let answer = if more && at_once { [GOOD, EVIL].concat() } else { GOOD.to_vec() };
                        let mut written = stream.write_all(&answer);
                        if more && !at_once {
                            let _ = told.lock().unwrap().recv_timeout(PATIENCE);
                            written = stream.write_all(EVIL);
                        }
                        if written.is_err() || (more && sender.send(()).is_err()) {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, go, sent }
    }
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

#[test]
fn nobody_gets_an_answer_that_an_upstream_sent_ahead() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    for (name, at_once) in [("ahead", true), ("late", false)] {
        let chatty = Chatty::start(at_once);
        put(&dev, &[route_with(name, chatty.address, "")]);
        let (host, bearer) = (format!("Host: {name}.test"), dev.bearer("billing"));
        let get =
            |path: &str| curl(&["-H", &host, "-H", &bearer, &format!("{}{path}", dev.addresses.gateway)]).is(200).body;
        for _ in 0..5 {
            assert_eq!(get("/more"), "good");
            // The caller has its answer, and the connection is kept; only now comes what nobody asked for.
            chatty.go.send(()).unwrap();
            chatty.sent.recv_timeout(PATIENCE).unwrap();
            assert_eq!(get("/other"), "good", "{name}");
        }
    }
}
