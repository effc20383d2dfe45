//! What callers of the control plane try: garbage, what is too large, another gateway's name, and races about one approval.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::gateway::Gateway;
use super::plane::Bench;
use crate::evidence::checkpoint::Origin;
use crate::wire::v1;
use v1::gateway_message::Message as Up;

/// A question of a person's, or of nobody's, over HTTPS.
async fn http(bench: &Bench, person: Option<&str>, path: &str, body: Option<Value>) -> (u16, Value) {
    let (client, base) = bench.https(None);
    let url = format!("{base}{path}");
    let mut request = match body {
        None => client.get(url),
        Some(body) => client.post(url).header("content-type", "application/json").body(body.to_string()),
    };
    if let Some(person) = person {
        request = request.bearer_auth(bench.token(person));
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null))
}

/// A bench whose policy is in force, with `helper`, an agent of alice's.
async fn governed() -> Bench {
    let bench = Bench::start().await;
    bench.apply().await;
    let spec = json!({ "kind": "agent", "owner": "alice", "purpose": "x", "environment": "test" });
    let helper = json!({ "objects": [{ "kind": "Identity", "name": "helper", "spec": spec }] });
    assert_eq!(http(&bench, Some("admin"), "/v1/apply", Some(helper)).await.0, 200);
    let publish = v1::PublishPolicyRequest { starter: true, reason: "x".into(), ..Default::default() };
    bench.catalog("admin").await.publish_policy(publish).await.unwrap();
    bench
}

/// Alice asks for something that takes bob, who speaks for the orders, and carol of security: its id and digest.
async fn asked(bench: &Bench) -> (String, String) {
    let ask = json!({ "identity": "helper", "resource": "api/orders", "actions": ["write"], "duration": "1h", "reason": "x" });
    let (status, made) = http(bench, Some("alice"), "/v1/requests", Some(ask)).await;
    assert_eq!((status, &made["request"]["state"]), (200, &json!("pending")), "{made}");
    let of = |pointer: &str| made.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
    (of("/request/id"), of("/request/analysis/digest"))
}

async fn approve(bench: &Bench, person: &str, id: &str, digest: &str) -> (u16, Value) {
    http(bench, Some(person), &format!("/v1/requests/{id}/approve"), Some(json!({ "digest": digest }))).await
}

async fn grants(bench: &Bench) -> usize {
    http(bench, Some("admin"), "/v1/grants?all=true", None).await.1["grants"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_approvers_in_the_same_millisecond_make_one_grant() {
    let bench = std::sync::Arc::new(governed().await);
    // The clock stands still: all of it is the same moment.
    for round in 1..=8 {
        let (id, digest) = asked(&bench).await;
        let mut racing = JoinSet::new();
        for person in ["bob", "carol", "carol", "bob", "bob", "carol"] {
            let (bench, id, digest) = (bench.clone(), id.clone(), digest.clone());
            racing.spawn(async move { approve(&bench, person, &id, &digest).await });
        }
        for (status, answer) in racing.join_all().await {
            // Whoever comes when it is settled is told so, and nobody anything else.
            assert!(status == 200 || status == 409, "{status} {answer}");
        }
        let shown = http(&bench, Some("alice"), &format!("/v1/requests/{id}"), None).await.1;
        assert_eq!(shown["request"]["state"], "granted", "{shown}");
        let by: Vec<&Value> = shown["request"]["approvals"].as_array().unwrap().iter().map(|it| &it["by"]).collect();
        assert!(by.len() == 2 && by.contains(&&json!("bob")) && by.contains(&&json!("carol")), "{shown}");
        assert_eq!(grants(&bench).await, round, "one request, one grant");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_edited_after_an_approval_is_approved_anew() {
    let bench = governed().await;
    let (id, digest) = asked(&bench).await;
    assert_eq!(approve(&bench, "bob", &id, &digest).await.0, 200);
    // It narrows: what widens would wait for another person.
    let spec = json!({ "owner": "orders", "sensitivity": "high", "authority": "5s" });
    let edit = json!({ "objects": [{ "kind": "Resource", "name": "api/orders", "spec": spec }] });
    let (status, applied) = http(&bench, Some("admin"), "/v1/apply", Some(edit)).await;
    assert_eq!((status, &applied["change"]), (200, &Value::Null), "done at once: {applied}");
    let (status, answer) = approve(&bench, "carol", &id, &digest).await;
    assert_eq!((status, &answer["code"]), (409, &json!("conflict")), "what carol saw is not what there is");
    let shown = http(&bench, Some("carol"), &format!("/v1/requests/{id}"), None).await.1;
    let now = shown.pointer("/request/analysis/digest").and_then(Value::as_str).unwrap();
    assert_ne!(now, digest);
    let (status, answer) = approve(&bench, "carol", &id, now).await;
    assert_eq!((status, &answer["request"]["state"]), (200, &json!("pending")), "bob has not seen it: {answer}");
    assert_eq!(grants(&bench).await, 0);
    assert_eq!(approve(&bench, "bob", &id, now).await.1["request"]["state"], "granted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_request_takes_no_approval() {
    let bench = governed().await;
    let (id, digest) = asked(&bench).await;
    assert_eq!(approve(&bench, "bob", &id, &digest).await.0, 200);
    // Whether the control plane has noticed the end by itself yet or not.
    bench.clock.advance(Duration::from_secs(86_400));
    let (status, answer) = approve(&bench, "carol", &id, &digest).await;
    assert_eq!(status, 409, "{answer}");
    assert_eq!(grants(&bench).await, 0);
    let (status, _) = approve(&bench, "carol", &id, &digest).await;
    assert_eq!((status, grants(&bench).await), (409, 0), "not the second time either");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_leaves_every_accept_loop_alive() {
    let bench = governed().await;
    let plane = bench.plane.as_ref().unwrap();
    let listeners = [plane.grpc_address(), plane.https_address().unwrap(), plane.http_address()];
    let garbage: [&[u8]; 7] = [
        b"",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\xff\xff\xff\x09\0\0\0\0\x01",
        // A TLS record that promises more than there may be, one that ends early, an alert, and no protocol at all.
        b"\x16\x03\x01\xff\xff\x01",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03",
        b"\x15\x03\x03\x00\x02\x02\x28",
        &[0xff; 4096],
    ];
    for address in listeners {
        let mut open = Vec::new();
        for round in 0..4 {
            for bytes in garbage {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let _ = stream.write_all(bytes).await;
                match round {
                    // Gone at once, gone by a reset, or still there.
                    0 => drop(stream),
                    1 => stream.set_zero_linger().unwrap(),
                    _ => open.push(stream),
                }
            }
        }
        let done = tokio::time::timeout(Duration::from_secs(30), async {
            assert_eq!(http(&bench, Some("alice"), "/v1/me", None).await.0, 200, "{address}");
            bench.access("alice").await.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
        });
        done.await.expect("others are served meanwhile");
        let mut plain = TcpStream::connect(listeners[2]).await.unwrap();
        plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        plain.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateways_message_that_is_too_large_ends_its_own_stream_alone() {
    let bench = governed().await;
    let mut other = Gateway::attach(&bench, "two", 0, 0).await.unwrap();
    let hello = v1::Hello { version: "x".repeat(64 << 20), ..Default::default() };
    let refused = greet(&bench, "one", hello).await;
    assert!(matches!(refused, Some(Code::OutOfRange | Code::ResourceExhausted)), "{refused:?}");
    other.renew(1).await;
    other.authority().await.unwrap();
    drop(Gateway::attach(&bench, "one", 0, 0).await.unwrap());
}

/// What a gateway that says this is refused with, if it is.
async fn greet(bench: &Bench, certificate: &str, hello: v1::Hello) -> Option<Code> {
    let (up, messages) = tokio::sync::mpsc::channel(4);
    up.send(v1::GatewayMessage { message: Some(Up::Hello(hello)) }).await.unwrap();
    let mut client = v1::grant_stream_client::GrantStreamClient::new(bench.as_gateway(certificate).await);
    match client.attach(ReceiverStream::new(messages)).await {
        Err(status) => Some(status.code()),
        Ok(answer) => answer.into_inner().message().await.err().map(|status| status.code()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_cannot_be_another_one() {
    let bench = governed().await;
    let mut two = Gateway::attach(&bench, "two", 0, 0).await.unwrap();
    drop(Gateway::attach(&bench, "one", 0, 0).await.unwrap());
    // The certificate of `one`, and the log of `two`: with its key, and with a key of its own under that name.
    let origin: Origin = "portcullis/gateway/two".parse().unwrap();
    for key in ["two", "one"] {
        let evidence_key = bench.evidence_key(key).verifier(&origin).to_string();
        let log_origin = origin.to_string();
        let hello = v1::Hello { log_origin, version: "0".into(), evidence_key, ..Default::default() };
        let refused = greet(&bench, "one", hello).await;
        assert!(matches!(refused, Some(Code::PermissionDenied | Code::FailedPrecondition)), "{key}: {refused:?}");
    }
    // Its stream is still its own, and it goes on.
    two.renew(1).await;
    two.authority().await.unwrap();
    // It asks for no access, sees no grants by the API, and joins nobody.
    let mut access = v1::access_client::AccessClient::new(bench.as_gateway("one").await);
    let denied = access.list_grants(v1::ListGrantsRequest::default()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let denied = access.create_request(v1::CreateRequestRequest::default()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
}
