//! The way of a call: denied, allowed, and what each side sees of it.

use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

use crate::dev::{Dev, curl, try_curl};
use crate::world::{Nginx, Upstream, apply, claims, everything_written, evidence, holds, now, record, route};

const CALL_ID: &str = "portcullis-call-id";

#[test]
fn a_denied_call_says_why_under_which_id_and_what_to_ask_for() {
    let dev = Dev::start();
    let denied = dev.call("billing", "GET", "/v1/orders/42").refuses(403, "grant_missing");
    assert_eq!(denied.header("content-type"), Some("application/problem+json"));
    assert_eq!(denied.header("cache-control"), Some("no-store"));
    let problem = denied.json();
    assert_eq!(problem["status"], 403);
    assert_eq!(problem["type"], "urn:portcullis:reason:grant_missing");
    assert_eq!(problem["identity"], "billing");
    assert_eq!(problem["resource"], "api/orders");
    assert_eq!(problem["action"], "read");
    let challenge = denied.header("www-authenticate").unwrap();
    assert!(challenge.contains("insufficient_scope") && challenge.contains("api/orders:read"), "{challenge}");

    let call = problem["call_id"].as_str().unwrap();
    assert_eq!(denied.header(CALL_ID), Some(call));
    // On disk before it was answered: no waiting here.
    let records = evidence(&dev, &["--call", call]);
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0]["kind"], "denial");
    assert_eq!(records[0]["data"]["reason"], "grant_missing");
    assert_eq!(records[0]["data"]["path"], "/v1/orders/42");

    // What the answer says to ask for is what opens the way.
    let ask = problem["ask"].as_str().unwrap().replace("'...'", "asked");
    let arguments: Vec<_> = ask.split(' ').skip(1).chain(["--wait"]).collect();
    dev.cli(&arguments).exits(0);
    dev.call("billing", "GET", "/v1/orders/42").is(200);
}

#[test]
fn nobody_is_challenged_without_a_hint_about_others() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let url = format!("{}/v1/orders/42", dev.addresses.gateway);
    let nobody = curl(&[&url]).refuses(401, "credential_missing");
    let challenge = nobody.header("www-authenticate").unwrap();
    assert!(challenge.starts_with("Bearer ") && !challenge.contains("error"), "{challenge}");
    let problem = nobody.json();
    assert!(problem.get("resource").is_none() && problem.get("ask").is_none(), "{problem}");
    for malformed in ["Basic YTpi", "Bearer", "Bearer a b"] {
        curl(&["-H", &format!("Authorization: {malformed}"), &url]).is(401);
    }
    curl(&["-H", "Authorization: Basic YTpi", &url]).refuses(401, "credential_malformed");
}

#[test]
fn the_upstream_gets_a_minted_token_of_its_own_audience_and_never_the_callers() {
    let dev = Dev::start();
    let grant = dev.grant("billing", "api/orders", &["read"]);
    let own = dev.token("billing");
    let url = format!("{}/v1/orders/42", dev.addresses.gateway);
    let bearer = dev.bearer("billing");
    let hop = ["-H", "Connection: x-hop", "-H", "x-hop: 1", "-H", "X-Forwarded-For: 1.2.3.4", "-H", "x-mine: kept"];
    let spoofed = ["-H", "Portcullis-Call-Id: forged", "-H", "Proxy-Authorization: Basic YTpi"];
    let answer = curl(&[&["-H", bearer.as_str()][..], &hop, &spoofed, &[url.as_str()]].concat()).is(200);
    assert!(!answer.body.contains(&own), "the caller's credential passed: {}", answer.body);
    let seen = &answer.json()["headers"];
    assert_eq!(seen["x-mine"], "kept");
    for gone in ["x-hop", "proxy-authorization", "connection"] {
        let value = seen.get(gone).and_then(Value::as_str).unwrap_or_default();
        assert!(!value.contains("x-hop") && !value.contains("YTpi") && value != "1", "{gone}: {seen}");
    }
    assert_eq!(seen[CALL_ID].as_str(), answer.header(CALL_ID), "one call id on both sides");
    assert_ne!(seen[CALL_ID], "forged");

    let token = seen["authorization"].as_str().unwrap().strip_prefix("Bearer ").unwrap();
    let set: JwkSet = serde_json::from_str(&curl(&[&dev_jwks(&dev)]).is(200).body).unwrap();
    let kid = decode_header(token).unwrap().kid.unwrap();
    let key = DecodingKey::from_jwk(set.find(&kid).expect("its key is in the set")).unwrap();
    let mut wanted = Validation::new(Algorithm::ES256);
    wanted.set_audience(&["api/orders"]);
    let minted: Value = decode(token, &key, &wanted).unwrap().claims;
    assert_eq!(minted["sub"], "billing");
    assert_eq!(minted["grant"], grant.as_str());
    assert_eq!(minted["scope"], "read");
    // The resource's authority is 10 s: nothing that cannot be recalled lives longer.
    let life = minted["exp"].as_i64().unwrap() - minted["iat"].as_i64().unwrap();
    assert!((0..=10).contains(&life), "{minted}");

    // What an upstream was given opens nothing here.
    let back = curl(&["-H", &format!("Authorization: Bearer {token}"), &url]);
    assert_eq!(back.status, 401, "{back:?}");
}

fn dev_jwks(dev: &Dev) -> String {
    format!("{}/.portcullis/jwks.json", dev.addresses.gateway)
}

#[test]
fn the_access_log_is_the_evidence_seen_by_calls() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let allowed = dev.call("billing", "GET", "/v1/orders/42").is(200);
    let denied = dev.call("billing", "POST", "/v1/orders/42").refuses(403, "action_not_granted");
    record(&dev, allowed.header(CALL_ID).unwrap(), "outcome");
    let lines = dev.cli(&["evidence", "query", "--access-log", "--identity", "billing"]).exits(0).stdout;
    let of = |call: &str| lines.lines().find(|line| line.ends_with(call)).unwrap_or_else(|| panic!("{call}: {lines}"));
    let line = of(allowed.header(CALL_ID).unwrap());
    assert!(line.contains(" billing [") && line.contains("\"GET 127.0.0.1 /v1/orders/42\" 200 "), "{line}");
    let line = of(denied.header(CALL_ID).unwrap());
    assert!(line.contains("\"POST 127.0.0.1 /v1/orders/42\" 403 0 - denied action_not_granted "), "{line}");
    let tail = dev.cli(&["evidence", "tail", "--access-log", "-n", "100", "-o", "json"]).exits(0).stdout;
    let calls: Vec<Value> = tail.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        calls.iter().any(|call| call["call"] == allowed.header(CALL_ID).unwrap() && call["status"] == 200),
        "{tail}"
    );
}

#[test]
fn a_query_reaches_the_upstream_and_stands_in_no_record() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let answer = dev.call("billing", "GET", "/v1/orders/42?api_key=s3cr3t-in-the-query&x=%2F..").is(200);
    assert_eq!(answer.json()["query"], "api_key=s3cr3t-in-the-query&x=%2F..");
    let call = answer.header(CALL_ID).unwrap();
    assert_eq!(record(&dev, call, "intent")["data"]["path"], "/v1/orders/42");
    let outcome = record(&dev, call, "outcome");
    assert_eq!(outcome["data"]["ended"], "completed");
    assert_eq!(outcome["data"]["status"], 200);
    let denied = dev.call("helper", "GET", "/v1/orders/42?api_key=s3cr3t-in-the-query").refuses(403, "grant_missing");
    record(&dev, denied.header(CALL_ID).unwrap(), "denial");
    assert!(!holds(&everything_written(&dev), "s3cr3t-in-the-query"));
    let token = dev.token("billing");
    let signature = token.rsplit('.').next().unwrap();
    assert!(!holds(&everything_written(&dev), signature), "a credential was written");
}

#[test]
fn a_grant_opens_its_actions_its_resource_and_nothing_beside() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    dev.call("billing", "GET", "/v1/orders").is(200);
    dev.call("billing", "GET", "/v1/orders/7").is(200);
    dev.call("billing", "POST", "/v1/orders/7").refuses(403, "action_not_granted");
    dev.call("billing", "DELETE", "/v1/orders/7").refuses(403, "action_not_granted");
    dev.call("billing", "GET", "/elsewhere").refuses(404, "route_unknown");
    dev.call("billing", "TRACE", "/v1/orders/7").refuses(405, "method_not_allowed");
    dev.call("billing", "PURGE", "/v1/orders/7").refuses(405, "method_not_allowed");
    dev.call("deployer", "GET", "/v1/orders/7").refuses(403, "grant_missing");
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read", "write"]);
    let bearer = dev.bearer("billing");
    let head = |line: &str, more: &str| format!("{line}\r\nHost: a\r\n{bearer}\r\n{more}\r\n");
    let cases = [
        ("GET /v1/orders/../orders/7 HTTP/1.1", ""),
        ("GET /v1//orders/7 HTTP/1.1", ""),
        ("GET /v1/orders/%2e%2e/x HTTP/1.1", ""),
        ("GET /v1/orders/a%2Fb HTTP/1.1", ""),
        ("GET http://other/v1/orders/7 HTTP/1.1", ""),
        ("GET /v1/orders/7 HTTP/1.1", "Host: b\r\n"),
        ("POST /v1/orders/7 HTTP/1.1", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
        ("POST /v1/orders/7 HTTP/1.1", "Content-Length: 3\r\nContent-Length: 4\r\n"),
        ("POST /v1/orders/7 HTTP/1.1", "Transfer-Encoding: xchunked\r\n"),
        ("GET /v1/orders/7 HTTP/1.1", "X-A: b\r\n folded\r\n"),
        ("GET /v1/orders/7 HTTP/1.1", "Authorization: Bearer other\r\n"),
        ("GET /v1/orders/7 HTTP/1.1", "Upgrade: h2c\r\nConnection: upgrade\r\n"),
        ("GET /v1/orders/7 HTTP/1.1", "Cookie: a=1\r\nCookie: b=2\r\n"),
    ];
    for (line, more) in cases {
        let answer = dev.raw().send(head(line, more)).to_end();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{line} {more:?}: {answer}");
        assert!(answer.contains("\"request_malformed\"") && answer.contains("connection: close"), "{answer}");
    }
    let large = format!("X-Large: {}\r\n", "a".repeat(70 << 10));
    let answer = dev.raw().send(head("GET /v1/orders/7 HTTP/1.1", &large)).to_end();
    assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("head_too_large"), "{answer}");
    // A second request behind the first one's body never slips through unchecked.
    let smuggled = format!(
        "{}abcGET /v1/orders/../x HTTP/1.1\r\nHost: a\r\n\r\n",
        head("POST /v1/orders/7 HTTP/1.1", "Content-Length: 3\r\n")
    );
    let answer = dev.raw().send(smuggled).to_end();
    assert_eq!(answer.matches("HTTP/1.1 201").count(), 1, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 2").count(), 1, "{answer}");
}

#[test]
fn both_protocols_and_both_listeners_serve_the_same_call() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let (bearer, url) = (dev.bearer("billing"), format!("{}/v1/orders/42", dev.addresses.gateway));
    assert_eq!(curl(&["--http1.1", "-H", &bearer, &url]).is(200).version, "HTTP/1.1");
    assert_eq!(curl(&["--http2-prior-knowledge", "-H", &bearer, &url]).is(200).version, "HTTP/2");
    assert_eq!(dev.call_tls("billing", "GET", "/v1/orders/42").is(200).version, "HTTP/2");
    curl(&["--http2-prior-knowledge", &url]).refuses(401, "credential_missing");
    // gRPC callers get a gRPC status.
    let grpc = ["--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers"];
    let refused = curl(&[&grpc[..], &[url.as_str()]].concat()).is(200);
    assert_eq!(refused.header("grpc-status"), Some("16"), "{refused:?}");
}

#[test]
fn an_upstream_that_fails_is_said_to_have_failed() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let closed = crate::world::free_address();
    let rude = Upstream::start(|_, stream| {
        use std::io::Write as _;
        let _ = stream.write_all(b"this is not HTTP\r\n\r\n");
    });
    let documents = [
        route("closed", "closed.test", &format!("http://{closed}")),
        route("rude", "rude.test", &format!("http://{}", rude.address)),
        route("nameless", "nameless.test", "http://does-not-exist.invalid"),
    ];
    apply(&dev, &documents.join("---\n")).exits(0);
    let bearer = dev.bearer("billing");
    let get =
        |host: &str| curl(&["-H", &bearer, "-H", &format!("Host: {host}"), &format!("{}/x", dev.addresses.gateway)]);
    crate::dev::eventually("the routes are live", crate::dev::PATIENCE, || get("closed.test").status != 404);
    let answer = get("closed.test").refuses(502, "upstream_unreachable");
    let outcome = record(&dev, answer.header(CALL_ID).unwrap(), "outcome");
    assert_eq!(outcome["data"]["ended"], "upstream_failed", "{outcome}");
    assert_eq!(outcome["data"]["reason"], "upstream_unreachable");
    get("rude.test").refuses(502, "upstream_fault");
    get("nameless.test").refuses(502, "upstream_unreachable");
}

#[test]
fn an_upgrade_that_nobody_asked_for_is_no_answer() {
    let tunnel = Upstream::start(|_, stream| {
        use std::io::Write as _;
        let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: foo\r\nconnection: upgrade\r\n\r\nRAW");
        crate::world::ends(stream);
    });
    let dev = Dev::start_with(&["--upstream", &format!("http://{}", tunnel.address)]);
    dev.grant("billing", "api/upstream", &["read"]);
    let bearer = dev.bearer("billing");
    let socket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    for upgrade in ["", socket] {
        let answer = dev.raw().send(format!("GET /x HTTP/1.1\r\nHost: a\r\n{bearer}\r\n{upgrade}\r\n")).to_end();
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("upstream_fault"), "{answer}");
        assert!(!answer.contains("RAW"), "{answer}");
    }
}

#[test]
fn nginx_behind_the_gate_serves_without_a_change() {
    let nginx = Nginx::start(
        "location / { add_header X-Got-Host $host; add_header X-Got-Id $http_portcullis_call_id; \
         return 200 \"$http_authorization\"; }",
    );
    let dev = Dev::start_with(&["--upstream", &nginx.url]);
    dev.call("billing", "GET", "/any/path").refuses(403, "grant_missing");
    dev.grant("billing", "api/upstream", &["read"]);
    let answer = dev.call("billing", "GET", "/any/path?q=1").is(200);
    let minted = claims(answer.body.strip_prefix("Bearer ").unwrap());
    assert_eq!(minted["aud"], "api/upstream");
    assert!(minted["exp"].as_i64().unwrap() <= now() + 300);
    assert_eq!(answer.header("x-got-id"), answer.header(CALL_ID));
    assert_eq!(answer.header("x-got-host"), Some("127.0.0.1"));
    dev.call("billing", "POST", "/any/path").refuses(403, "action_not_granted");
    // A kept upstream connection that went stale costs nobody an answer.
    for _ in 0..20 {
        dev.call("billing", "GET", "/again").is(200);
    }
}

/// An upstream that answers the first request of a connection, keeps it, and hangs up on the second without a word.
/// Gives its address and the request lines as they came.
fn forgetful() -> (std::net::SocketAddr, std::sync::mpsc::Receiver<String>) {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), sender) = (stream, sender.clone()) else { return };
            std::thread::spawn(move || {
                let mut reader = BufReader::new(&stream);
                for answered in [true, false] {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") && matches!(reader.read_line(&mut head), Ok(1..)) {}
                    let Some(line) = head.lines().next() else { return };
                    let _ = sender.send(line.to_owned());
                    if answered {
                        let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                    }
                }
            });
        }
    });
    (address, lines)
}

#[test]
fn a_write_on_a_connection_that_went_stale_is_never_sent_twice() {
    let (address, lines) = forgetful();
    let dev = Dev::start_with(&["--upstream", &format!("http://{address}"), "--workers", "1"]);
    dev.grant("billing", "api/upstream", &["read", "write"]);
    let seen = || lines.try_iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>();
    for method in ["PUT", "DELETE", "POST"] {
        dev.call("billing", "GET", "/first").is(200);
        dev.call("billing", method, "/second").is(502);
        assert_eq!(seen(), ["GET", method]);
    }
    // A read has no effect: it is sent once more, on a connection of its own.
    dev.call("billing", "GET", "/first").is(200);
    dev.call("billing", "GET", "/second").is(200);
    assert_eq!(seen(), ["GET", "GET", "GET"]);
}

#[test]
fn a_body_passes_whole_in_both_directions() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["write"]);
    let url = format!("{}/v1/orders/7", dev.addresses.gateway);
    let file = dev.home.path().join("body");
    std::fs::write(&file, vec![b'x'; 700_000]).unwrap();
    let body = format!("@{}", file.display());
    let bearer = dev.bearer("billing");
    for framing in [&[][..], &["-H", "Transfer-Encoding: chunked"], &["--http2-prior-knowledge"]] {
        let answer = curl(&[framing, &["-H", bearer.as_str(), "--data-binary", body.as_str(), url.as_str()]].concat());
        assert_eq!(answer.is(201).json()["body_bytes"], 700_000, "{framing:?}");
    }
    let refused = try_curl(&["--data-binary", &body, "-H", "Expect: 100-continue", &url]).exits(0);
    assert!(refused.stdout.contains("401"), "{refused:?}");
}

#[test]
fn a_slow_head_is_not_waited_for() {
    let upstream = Upstream::ok();
    let fleet = crate::world::Fleet::start(upstream.address);
    let gate = fleet.gateway(|config| config["limits"] = serde_json::json!({ "head_deadline": "1s" })).ready();
    let mut raw = crate::dev::Raw::connect(&gate.url);
    let began = std::time::Instant::now();
    let answer = raw.send("GET /v1/orders/7 HTTP/1.1\r\nHost: a\r\n").to_end();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(upstream.seen(), 0);
}
