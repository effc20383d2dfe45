//! The HTTP API over TLS, and what it does with requests that are none.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::super::enrol::Subject;
use super::plane::Bench;
use crate::wire::v1;

async fn said(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_ask_over_tls_with_their_certificate_and_people_with_their_token() {
    let bench = Bench::start().await;
    bench.apply().await;
    let publish = v1::PublishPolicyRequest { starter: true, reason: "x".into(), ..Default::default() };
    bench.catalog("admin").await.publish_policy(publish).await.unwrap();
    let workload = Subject::Workload("spiffe://example.org/sa/billing".parse().unwrap());
    let (client, base) = bench.https(Some(workload));
    let (status, me) = said(client.get(format!("{base}/v1/me")).send().await.unwrap()).await;
    assert_eq!((status, &me["kind"], &me["name"]), (200, &json!("identity"), &json!("billing")));
    let ask = json!({ "identity": "billing", "role": "orders-reader", "duration": "10m", "reason": "x" }).to_string();
    let asking = || client.post(format!("{base}/v1/requests")).header("content-type", "application/json");
    let (status, made) = said(asking().header("idempotency-key", "k1").body(ask.clone()).send().await.unwrap()).await;
    assert_eq!((status, &made["request"]["requester"]["identity"]), (200, &json!("billing")), "{made}");
    let (_, again) = said(asking().header("idempotency-key", "k1").body(ask).send().await.unwrap()).await;
    assert_eq!(again["request"]["id"], made["request"]["id"]);
    let other = json!({ "identity": "billing", "role": "orders-reader", "duration": "9m", "reason": "x" }).to_string();
    let (status, problem) = said(asking().header("idempotency-key", "k1").body(other).send().await.unwrap()).await;
    assert_eq!((status, &problem["code"]), (409, &json!("conflict")));

    // A certificate that is nobody's, and none at all, are nobody; a token beside one is whose it is.
    let stranger = Subject::Workload("spiffe://example.org/sa/stranger".parse().unwrap());
    for subject in [Some(stranger.clone()), None] {
        let (client, base) = bench.https(subject);
        let (status, problem) = said(client.get(format!("{base}/v1/me")).send().await.unwrap()).await;
        assert_eq!((status, &problem["code"]), (401, &json!("unauthenticated")));
    }
    let (client, base) = bench.https(Some(stranger));
    let (status, me) =
        said(client.get(format!("{base}/v1/me")).bearer_auth(bench.token("alice")).send().await.unwrap()).await;
    assert_eq!((status, &me["name"]), (200, &json!("alice")));
}

/// Sends bytes to the plain address, and reads to the end.
async fn raw(bench: &Bench, bytes: &str) -> String {
    let address = bench.plane.as_ref().unwrap().http_address();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut text)).await;
    read.expect("the connection ends").unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_body_ends_is_no_matter_of_opinion() {
    let bench = Bench::start().await;
    bench.apply().await;
    let token = bench.token("alice");
    let post = |more: &str, body: &str| {
        format!(
            "POST /v1/can-i HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\n{more}\r\n\r\n{body}"
        )
    };
    let question = r#"{"identity":"billing","action":"read","resource":"api/orders"}"#;
    let smuggled = "GET /v1/me HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = question.len();
    let chunked = format!("{length:x}\r\n{question}\r\n0\r\n\r\n{smuggled}");
    for (more, body, status) in [
        (format!("Content-Length: {length}\r\nConnection: close"), question.to_owned(), "200"),
        ("Transfer-Encoding: chunked".to_owned(), chunked.clone(), "411"),
        (format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"), chunked.clone(), "4"),
        (format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"), chunked, "4"),
        (format!("Content-Length: {length}\r\nContent-Length: 3"), question.to_owned(), "400"),
        ("Content-Length: 99999999".to_owned(), question.to_owned(), "413"),
        (format!("Content-Length: +{length}"), question.to_owned(), "400"),
    ] {
        let answer = raw(&bench, &post(&more, &body)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{more}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{more}: {answer}");
    }
    let get =
        |more: &str| format!("GET /v1/me HTTP/1.1\r\nAuthorization: Bearer {token}\r\n{more}Connection: close\r\n\r\n");
    for (more, status) in [
        ("Host: a\r\n", "200"),
        ("", "400"),
        ("Host: a\r\nHost: b\r\n", "400"),
        ("Host: a\r\nTransfer-Encoding: chunked\r\n", "411"),
        ("Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n", "411"),
        ("Host: a\r\nContent-Length: 0\r\n", "200"),
        ("Host: a\r\nContent-Length: 3\r\n", "400"),
    ] {
        let answer = raw(&bench, &get(more)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{more}: {answer}");
    }
    // Who is not known has no body read, whatever it says of itself.
    let nobody = "POST /v1/can-i HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\nConnection: close\r\n\r\n";
    assert!(raw(&bench, nobody).await.starts_with("HTTP/1.1 401"));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_takes_nothing_of_its_answers_loses_its_place() {
    use super::super::super::http::Http;
    use crate::serve::Listener;
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
    let plain = Listener::bind("127.0.0.1:0".parse().unwrap(), places.clone()).await.unwrap();
    let address = plain.address();
    let large = axum::routing::get(|| async { vec![b'x'; 64 << 20] });
    let http = Http { plain, secure: None, api: axum::Router::new().route("/large", large) };
    let dir = tempfile::tempdir().unwrap();
    let clock = std::sync::Arc::new(crate::domain::clock::ManualClock::at(super::super::super::sample::NOW));
    let core = super::super::super::sample::core(dir.path(), &clock).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let witnessed = std::sync::Arc::new(crate::control::witnessed::Witnessed::none(&core.handle().shared().metrics));
    let serving = super::super::super::http::start(core.handle().clone(), Default::default(), witnessed, http, stopped);
    let mut greedy = TcpStream::connect(address).await.unwrap();
    greedy.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    // It holds the one place, and reads nothing; the next is served when its time is over.
    let mut next = TcpStream::connect(address).await.unwrap();
    next.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    let answered = tokio::time::timeout(Duration::from_secs(60), next.read_to_string(&mut text)).await;
    answered.expect("it gets its turn").unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    stop.send_replace(true);
    serving.await.unwrap();
    core.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_the_input_that_is_not_known_or_stands_twice_is_refused() {
    let bench = Bench::start().await;
    bench.apply().await;
    let (client, base) = bench.https(None);
    let ask = async |body: &str, kind: &str| {
        let request = client.post(format!("{base}/v1/can-i")).bearer_auth(bench.token("alice"));
        said(request.header("content-type", kind).body(body.to_owned()).send().await.unwrap()).await
    };
    let good = r#"{"identity":"billing","action":"read","resource":"api/orders"}"#;
    for (body, kind, status) in [
        (good, "application/json", 200),
        (good, "application/json; charset=utf-8", 200),
        (good, "text/json", 415),
        (r#"{"identity":"billing","action":"read","resource":"api/orders","as":"admin"}"#, "application/json", 400),
        (r#"{"identity":"x","identity":"billing","action":"read","resource":"api/orders"}"#, "application/json", 400),
        (r#"{"identity":"billing","action":"read"}"#, "application/json", 400),
        (
            r#"{"identity":"billing","action":"read","resource":"api/orders","parameters":{"a":"1","a":"2"}}"#,
            "application/json",
            400,
        ),
        (r#"["billing"]"#, "application/json", 400),
        ("", "application/json", 400),
        (r#"{"identity":"nobody","action":"read","resource":"api/orders"}"#, "application/json", 404),
    ] {
        let (got, answer) = ask(body, kind).await;
        assert_eq!(got, status, "{body}: {answer}");
        if status != 200 {
            assert_eq!(answer["status"], status);
            assert!(answer["detail"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
        }
    }
    // Deeper than anything that is asked for.
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(ask(&deep, "application/json").await.0, 400);
    for (path, status) in [
        ("/v1/requests?all=true&all=false", 400),
        ("/v1/requests?al=true", 400),
        ("/v1/me?x=1", 400),
        ("/v1/requests/..%2f..%2fmetrics", 400),
        ("/v1/grants/%00", 400),
        ("/v1/nothing", 404),
    ] {
        let (got, _) =
            said(client.get(format!("{base}{path}")).bearer_auth(bench.token("admin")).send().await.unwrap()).await;
        assert_eq!(got, status, "{path}");
    }
    for path in ["/metrics", "/readyz"] {
        let (got, _) = said(client.get(format!("{base}{path}")).send().await.unwrap()).await;
        assert_eq!(got, 404, "{path} is for those on this machine");
    }
    assert_eq!(client.get(format!("{base}/healthz")).send().await.unwrap().status().as_u16(), 200);
    let broken = client.get(format!("{base}/v1/grants/%ff")).bearer_auth(bench.token("admin")).send().await.unwrap();
    assert_eq!(
        (broken.status().as_u16(), &broken.headers()["content-type"]),
        (400, &"application/problem+json".parse().unwrap())
    );
    assert_eq!(client.get(format!("{base}/v1/grants/%ff")).send().await.unwrap().status().as_u16(), 401);
    let keyed = |path: &str, key: &str| {
        let post =
            client.post(format!("{base}{path}")).bearer_auth(bench.token("admin")).header("idempotency-key", key);
        post.header("content-type", "application/json").body("{}").send()
    };
    for (path, key, says) in [("/v1/grants", "k", "takes none"), ("/v1/requests", "", "is empty")] {
        let (got, problem) = said(keyed(path, key).await.unwrap()).await;
        assert_eq!(got, 400);
        assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
    }
    let patched = client.patch(format!("{base}/v1/grants")).bearer_auth(bench.token("admin")).send().await.unwrap();
    assert_eq!((patched.status().as_u16(), patched.headers().contains_key("allow")), (405, true));
}
