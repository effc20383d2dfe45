//! What has two readings, by class: refused with its status, closed, nothing upstream, and the next request works.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::tap::{Server, Tap, put, route_with};
use crate::dev::{Dev, PATIENCE, Raw, eventually};
use crate::world::{Fleet, Key, dev_claims, evidence, with};

/// A class of inputs, the status that refuses it, and inputs: `A` stands for a good `Host` and `Authorization`.
struct Class(&'static str, u16, &'static [&'static str]);

const G: &str = "GET /good HTTP/1.1\r\n";

const CLASSES: &[Class] = &[
    Class(
        "an upgrade to what is not a WebSocket, or one with a body",
        400,
        &[
            "GET /good HTTP/1.1\r\nAConnection: upgrade\r\nUpgrade: x\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /good HTTP/1.1\r\nAConnection: upgrade\r\nUpgrade: websocket, x\r\n\r\n",
            "GET /good HTTP/1.1\r\nAConnection: upgrade\r\nUpgrade: websocket\r\nUpgrade: x\r\n\r\n",
            "GET /good HTTP/1.1\r\nAConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc",
            "GET /good HTTP/1.1\r\nAConnection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET /good HTTP/1.1\r\nAConnection: upgrade\r\nUpgrade: TLS/1.0\r\n\r\n",
            "GET /good HTTP/1.1\r\nAConnection: upgrade\r\nUpgrade:\r\n\r\n",
        ],
    ),
    Class(
        "a tunnel by h2c",
        400,
        &[
            "GET /good HTTP/1.1\r\nAConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
            "GET /good HTTP/1.1\r\nAUpgrade: h2c\r\n\r\n",
            "GET /good HTTP/1.1\r\nAUpgrade: H2C\r\nConnection: upgrade\r\n\r\n",
            "GET /good HTTP/1.1\r\nAUpgrade: h2c, websocket\r\nConnection: upgrade\r\n\r\n",
            "GET /good HTTP/1.1\r\nAUpgrade: h2\r\nConnection: upgrade\r\n\r\n",
            "POST /good HTTP/1.1\r\nAUpgrade: h2c\r\nContent-Length: 0\r\n\r\n",
        ],
    ),
    Class(
        "transfer codings",
        400,
        &[
            "POST /good HTTP/1.0\r\nATransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding:\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding:\n chunked\r\n\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        ],
    ),
    Class(
        "lengths",
        400,
        &[
            "POST /good HTTP/1.1\r\nAContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
            "POST /good HTTP/1.1\r\nAContent-Length: 0x10\r\n\r\n0123456789abcdef",
            "POST /good HTTP/1.1\r\nAContent-Length: +5\r\n\r\nhello",
            "POST /good HTTP/1.1\r\nAContent-Length: -5\r\n\r\nhello",
            "POST /good HTTP/1.1\r\nAContent-Length: 5,5\r\n\r\nhello",
            "POST /good HTTP/1.1\r\nAContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            "POST /good HTTP/1.1\r\nAContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            "POST /good HTTP/1.1\r\nAContent-Length:\r\n\r\nhello",
            "POST /good HTTP/1.1\r\nAContent-Length: 5 5\r\n\r\nhello",
            "POST /good HTTP/1.1\r\nAContent-Length: 5.0\r\n\r\nhello",
            "POST /good HTTP/1.1\r\nAContent-Length: 1e1\r\n\r\n0123456789",
            "POST /good HTTP/1.1\r\nAContent-Length: 99999999999999999999\r\n\r\nhello",
            "POST /good HTTP/1.1\r\nAContent-Length : 5\r\n\r\nhello",
            "POST /good HTTP/1.1\r\nAContent-Length: 5;\r\n\r\nhello",
        ],
    ),
    Class(
        "the syntax of chunks",
        400,
        &[
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n0_2e\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n5\r;\nhello\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n5;x=\"\r\n0\r\n\r\n\"\r\nhello\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\n\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n5\u{b}\r\nhello\r\n0\r\n\r\n",
        ],
    ),
    Class(
        "trailers",
        400,
        &[
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nAuthorization: Bearer admin\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nHost: b\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST /good HTTP/1.1\r\nATrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
            "POST /good HTTP/1.1\r\nATransfer-Encoding: chunked\r\n\r\n0\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    ),
    Class(
        "headers that stand twice, lookalikes, names that are none",
        400,
        &[
            "GET /good HTTP/1.1\r\nAAuthorization: Bearer x\r\n\r\n",
            "GET /good HTTP/1.1\r\nAHost: b\r\n\r\n",
            "GET /good HTTP/1.1\r\nAHOST: a\r\n\r\n",
            "GET /good HTTP/1.1\r\nAX-Forwarded-User\u{85}: admin\r\n\r\n",
            "GET /good HTTP/1.1\r\nAX-Forwarded-User : admin\r\n\r\n",
            "GET /good HTTP/1.1\r\nA: admin\r\n\r\n",
            "GET /good HTTP/1.1\r\nAX Y: admin\r\n\r\n",
            "GET /good HTTP/1.1\r\nAno colon\r\n\r\n",
            "GET /good HTTP/1.1\r\nACookie: a=1\r\nCookie: b=2\r\n\r\n",
            "GET /good HTTP/1.1\r\nAContent-Type: a/b\r\nContent-Type: c/d\r\n\r\n",
            "GET /good HTTP/1.1\r\nAX: a\r\n b\r\n\r\n",
            "GET /good HTTP/1.1\r\nAX: a\rY: b\r\n\r\n",
            "GET /good HTTP/1.1\r\nAX: a\0b\r\n\r\n",
            "GET /good HTTP/1.1\r\nAX: a\n\r\n",
            "GET /good HTTP/1.1\nHost: a\n\n",
        ],
    ),
    Class(
        "hosts",
        400,
        &[
            "GET http://b/good HTTP/1.1\r\nA\r\n",
            "GET https://tap.test/good HTTP/1.1\r\nA\r\n",
            "GET //b/good HTTP/1.1\r\nA\r\n",
            "GET /good HTTP/1.1\r\n\r\n",
            "GET /good HTTP/1.1\r\nHost:\r\n\r\n",
            "GET /good HTTP/1.1\r\nHost: a/admin?\r\n\r\n",
            "GET /good HTTP/1.1\r\nHost: u@a\r\n\r\n",
            "GET /good HTTP/1.1\r\nHost: a, b\r\n\r\n",
            "GET /good HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET /good HTTP/1.1\r\nHost: a:b\r\n\r\n",
            "GET /good HTTP/1.0\r\n\r\n",
        ],
    ),
    Class(
        "matrix parameters",
        400,
        &[
            "GET /public/..;x=1/admin HTTP/1.1\r\nA\r\n",
            "GET /admin;x HTTP/1.1\r\nA\r\n",
            "GET /good;jsessionid=1 HTTP/1.1\r\nA\r\n",
            "GET /.;/good HTTP/1.1\r\nA\r\n",
            "GET /good%3Bx HTTP/1.1\r\nA\r\n",
            "GET /;/good HTTP/1.1\r\nA\r\n",
        ],
    ),
    Class(
        "separators and dots in disguise",
        400,
        &[
            "GET /public/%2e%2e%2fadmin HTTP/1.1\r\nA\r\n",
            "GET //admin HTTP/1.1\r\nA\r\n",
            "GET /public/\\..\\admin HTTP/1.1\r\nA\r\n",
            "GET /%252e/admin HTTP/1.1\r\nA\r\n",
            "GET /public/../admin HTTP/1.1\r\nA\r\n",
            "GET /public/./admin HTTP/1.1\r\nA\r\n",
            "GET /a%2Fb HTTP/1.1\r\nA\r\n",
            "GET /a%5Cb HTTP/1.1\r\nA\r\n",
            "GET /%61dmin HTTP/1.1\r\nA\r\n",
            "GET /a%c3%a9 HTTP/1.1\r\nA\r\n",
            "GET /a% HTTP/1.1\r\nA\r\n",
            "GET /good/.. HTTP/1.1\r\nA\r\n",
        ],
    ),
    Class(
        "fragments and controls in the target",
        400,
        &[
            "GET /admin#x HTTP/1.1\r\nA\r\n",
            "GET /admin%00 HTTP/1.1\r\nA\r\n",
            "GET /admin\0 HTTP/1.1\r\nA\r\n",
            "GET /admin%0D%0AX:%20y HTTP/1.1\r\nA\r\n",
            "GET /admin\u{7f} HTTP/1.1\r\nA\r\n",
            "GET /admin\t HTTP/1.1\r\nA\r\n",
            "GET /é HTTP/1.1\r\nA\r\n",
            "GET  /good HTTP/1.1\r\nA\r\n",
            "GET /good  HTTP/1.1\r\nA\r\n",
            "GET /good HTTP/2.0\r\nA\r\n",
            "GET /good HTTP/1.1 \r\nA\r\n",
            "GET /good\r\nA\r\n",
            "\r\nGET /good HTTP/1.1\r\nA\r\n",
        ],
    ),
    Class(
        "methods",
        405,
        &[
            "get /good HTTP/1.1\r\nA\r\n",
            "GeT /good HTTP/1.1\r\nA\r\n",
            "TRACE /good HTTP/1.1\r\nA\r\n",
            "CONNECT /good HTTP/1.1\r\nA\r\n",
            "GET! /good HTTP/1.1\r\nA\r\n",
            "X-GET /good HTTP/1.1\r\nA\r\n",
        ],
    ),
];

fn filled(input: &str, host: &str, bearer: &str) -> Vec<u8> {
    let good = format!("Host: {host}\r\n{bearer}\r\n");
    // The mark stands at the beginning of the second line, and nowhere else.
    input
        .replacen("\r\nA", &format!("\r\n{good}"), 1)
        .replace(&format!("{good}\r\n\r\n"), &format!("{good}\r\n"))
        .into_bytes()
}

#[test]
fn what_has_two_readings_is_refused_before_any_byte_goes_upstream() {
    let (dev, tap) = (Dev::start(), Tap::start());
    let servers =
        [("nginx", Server::nginx()), ("python", Server::python()), ("node", Server::node()), ("go", Server::go())];
    let upstreams: Vec<_> = [("tap", tap.address)]
        .into_iter()
        .chain(servers.iter().map(|(name, server)| (*name, server.address)))
        .collect();
    let routes: Vec<String> = upstreams.iter().map(|(name, address)| route_with(name, *address, "")).collect();
    put(&dev, &routes);
    dev.grant("billing", "api/orders", &["read", "write"]);
    let bearer = dev.bearer("billing");
    let mut refused = 0;
    let mut wrong = Vec::new();
    for (name, _) in &upstreams {
        let host = format!("{name}.test");
        for Class(class, status, inputs) in CLASSES {
            for input in *inputs {
                let answer = dev.raw().send(filled(input, &host, &bearer)).to_end();
                refused += 1;
                let closes = answer.to_ascii_lowercase().contains("connection: close");
                if !answer.starts_with(&format!("HTTP/1.1 {status} "))
                    || !closes
                    || answer.matches("HTTP/1.1 ").count() != 1
                {
                    wrong.push(format!("{class} at {name}: {input:?}: {answer}"));
                }
            }
            // The next request on a new connection works.
            let good = format!("{G}Host: {host}\r\n{bearer}\r\nConnection: close\r\n\r\n");
            let answer = dev.raw().send(good).to_end();
            assert!(answer.starts_with("HTTP/1.1 200 "), "after {class} at {name}: {answer}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let good = CLASSES.len();
    assert_eq!(
        (tap.came.requests(), tap.came.text().matches(" HTTP/1.1\r\n").count()),
        (good, good),
        "{}",
        tap.came.text()
    );
    for (server, logged) in servers.iter().map(|(name, server)| (name, server.logged())) {
        assert_eq!(logged.len(), good, "{server}: {logged:?}");
        assert!(logged.iter().all(|line| line.contains("GET /good ")), "{server}: {logged:?}");
    }
    eventually("every refusal is counted in the evidence", PATIENCE, || {
        let records = evidence(&dev, &["--kind", "refusals"]);
        let counts = records.iter().flat_map(|entry| entry["data"]["counts"].as_array().unwrap().clone());
        let accepted =
            |count: &Value| ["request_malformed", "method_not_allowed"].iter().any(|r| count["reason"] == *r);
        counts.filter(accepted).map(|count| count["count"].as_u64().unwrap()).sum::<u64>() == refused
    });
}

#[test]
fn a_body_that_goes_wrong_late_never_completes_a_request() {
    let (dev, tap) = (Dev::start(), Tap::start());
    put(&dev, &[route_with("tap", tap.address, "")]);
    dev.grant("billing", "api/orders", &["read", "write"]);
    let bearer = dev.bearer("billing");
    let head = format!("POST /good HTTP/1.1\r\nHost: tap.test\r\n{bearer}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let bad = [
        "0_2e\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5;a\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "0\n\n",
        "0\r\nAuthorization: Bearer x\r\n\r\n",
        "0\r\nContent-Length: 9\r\n\r\n",
        "g\r\n",
    ];
    for (count, late) in bad.iter().enumerate() {
        let mut raw = dev.raw();
        raw.send(&head).send("4\r\nabcd\r\n");
        eventually("the upstream has the beginning", PATIENCE, || tap.came.text().matches("abcd").count() == count + 1);
        let answer = raw.send(late).to_end();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("request_malformed"), "{late:?}: {answer}");
    }
    // Broken off: no end of it ever came.
    let mut raw = dev.raw();
    raw.send(&head).send("4\r\nabcd\r\n").finish();
    raw.to_end();
    assert_eq!(tap.came.requests(), 0, "{}", tap.came.text());
    let outcomes = evidence(&dev, &["--kind", "outcome"]);
    let malformed = outcomes.iter().filter(|entry| entry["data"]["reason"] == "request_malformed").count();
    assert_eq!(malformed, bad.len(), "{outcomes:?}");
}

#[test]
fn a_denied_bodys_bytes_are_never_a_request() {
    let (dev, tap) = (Dev::start(), Tap::start());
    put(&dev, &[route_with("tap", tap.address, "")]);
    let smuggled = "GET /admin HTTP/1.1\r\nHost: tap.test\r\n\r\n";
    let filler = "x".repeat(10_000);
    // The second caller may read and not write.
    dev.grant("helper", "api/orders", &["read"]);
    for identity in ["billing", "helper"] {
        let bearer = dev.bearer(identity);
        for body in [format!("{smuggled}{filler}"), format!("{filler}{smuggled}"), smuggled.to_owned()] {
            let head =
                format!("POST /x HTTP/1.1\r\nHost: tap.test\r\n{bearer}\r\nContent-Length: {}\r\n\r\n", body.len());
            let chunked = format!(
                "POST /x HTTP/1.1\r\nHost: tap.test\r\n{bearer}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            );
            for message in [format!("{head}{body}"), chunked] {
                let mut raw = dev.raw();
                let answer = raw.send(message).finish().to_end();
                assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
                assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
            }
        }
    }
    assert_eq!(tap.came.connections(), 0, "{}", tap.came.text());
}

#[test]
fn callers_that_dawdle_or_shout_are_turned_away() {
    let tap = Tap::start();
    let fleet = Fleet::start(tap.address);
    let limits = json!({ "head_deadline": "1s", "idle_timeout": "1s" });
    let gate = fleet.gateway(|config| config["limits"] = limits).ready();
    fleet.apply(&format!(
        "kind: Route\nname: orders\nspec:\n  upstream: http://{}\n  resource: api/orders\n  actions:\n    \
         - {{ name: read, methods: [GET, POST], path: \"/v1/orders/**\" }}\n",
        tap.address
    ));
    fleet.grant("--wait=20s");
    let bearer = fleet.bearer();
    // A head that drips: a byte now and then does not buy more time.
    let mut raw = Raw::connect(&gate.url);
    let began = Instant::now();
    let mut dripping = raw.again();
    let drip = std::thread::spawn(move || {
        for byte in std::iter::repeat_n("GET /v1/orders/7 HTTP/1.1\r\nX: ".bytes(), 50).flatten().take(200) {
            dripping.send([byte]);
            std::thread::park_timeout(Duration::from_millis(50));
        }
    });
    let answer = raw.to_end();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    drip.thread().unpark();
    // A megabyte of head, in one line and in many.
    for large in [format!("X: {}\r\n", "a".repeat(1 << 20)), "X: a\r\n".repeat(1 << 17)] {
        let answer =
            Raw::connect(&gate.url).send(format!("GET /v1/orders/7 HTTP/1.1\r\nHost: a\r\n{large}\r\n")).to_end();
        assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("head_too_large"), "{answer}");
    }
    let answer = Raw::connect(&gate.url)
        .send(format!("GET /v1/orders/7 HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: a\r\n".repeat(101)))
        .to_end();
    assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("head_too_large"), "{answer}");
    assert_eq!(tap.came.connections(), 0);
    // A body that makes no progress.
    for framing in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let head = format!("POST /v1/orders/7 HTTP/1.1\r\nHost: a\r\n{bearer}\r\n{framing}");
        let answer = Raw::connect(&gate.url).send(head).to_end();
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"), "{framing}: {answer}");
    }
    assert_eq!(tap.came.requests(), 0, "{}", tap.came.text());
    drip.join().unwrap();
}

#[test]
fn what_a_token_says_becomes_no_header() {
    let (dev, tap) = (Dev::start(), Tap::start());
    put(&dev, &[route_with("tap", tap.address, "")]);
    dev.grant("billing", "api/orders", &["read"]);
    let key = Key::of_dev(&dev);
    let hostile = "x\r\nX-Injected: yes\r\n\r\nGET /admin HTTP/1.1\r\n";
    let mut answers = Vec::new();
    for claim in ["sub", "jti", "name", "act", "scope", "azp"] {
        let token = key.sign(&with(dev_claims("billing"), claim, json!(hostile)));
        let request = format!(
            "GET /good HTTP/1.1\r\nHost: tap.test\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        let answer = dev.raw().send(request).to_end();
        assert!(!answer.to_ascii_lowercase().contains("\nx-injected"), "{claim}: {answer}");
        answers.push(answer);
    }
    assert!(answers[0].starts_with("HTTP/1.1 401 ") && answers[0].contains("token_invalid"), "{}", answers[0]);
    let came = tap.came.text();
    assert!(!came.contains("/admin") && !came.to_ascii_lowercase().contains("x-injected"), "{came}");
}
