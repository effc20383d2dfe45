//! The first screen, by copy and paste: denied, granted, allowed, cut, proven.

use crate::dev::{Dev, Stream, curl};

#[test]
fn denied_granted_allowed_cut_and_proven() {
    let mut dev = Dev::start();
    let denied = dev.call("billing", "GET", "/v1/orders/42").refuses(403, "grant_missing");
    assert!(denied.header("portcullis-call-id").is_some(), "{denied:?}");

    let grant = dev.grant("billing", "api/orders", &["read"]);
    let allowed = dev.call("billing", "GET", "/v1/orders/42").is(200);
    let seen = allowed.json();
    assert_eq!(seen["order"], "42");
    let upstream_token = seen["headers"]["authorization"].as_str().unwrap_or_default();
    assert!(upstream_token.starts_with("Bearer ") && !upstream_token.contains(&dev.token("billing")), "{seen}");

    let events = dev.open("billing", "/v1/orders/events");
    events.line("data:");
    let receipt = dev.revoke(&grant);
    assert_eq!(receipt["enforced"], true, "{receipt}");
    assert_eq!(receipt["gateways"][0]["cut"][0]["reason"], "grant_revoked", "{receipt}");
    events.ended();
    dev.call("billing", "GET", "/v1/orders/42").refuses(403, "grant_missing");

    assert!(dev.stop().success());
    assert_eq!(dev.json(&["evidence", "verify"])["verified"], true);
    let denials = dev.cli(&["-ojson", "evidence", "query", "--reason", "grant_missing"]).exits(0);
    assert_eq!(denials.stdout.lines().count(), 2, "{}", denials.stdout);

    let journal = dev.dir().join("gateway/evidence/journal");
    let segment = std::fs::read_dir(&journal).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(10).position(|window| window == b"/v1/orders").expect("the path is in the log");
    bytes[at + 1] = b'w';
    std::fs::write(&segment, bytes).unwrap();
    let done = dev.cli(&["-ojson", "evidence", "verify"]).exits(8);
    assert!(done.error()["message"].as_str().unwrap().contains("record 1"), "{done:?}");
}

#[test]
fn an_idle_websocket_is_cut_by_the_revocation() {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

    let dev = Dev::start();
    let grant = dev.grant("billing", "api/orders", &["read"]);
    let url = format!("{}/v1/orders/socket", dev.addresses.gateway.replace("http://", "ws://"));
    let mut request = url.into_client_request().unwrap();
    let bearer = format!("Bearer {}", dev.token("billing"));
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
        let receipt = dev.revoke(&grant);
        assert_eq!(receipt["gateways"][0]["cut"].as_array().map(Vec::len), Some(1), "{receipt}");
        let ended = tokio::time::timeout(crate::dev::PATIENCE, socket.next()).await.expect("the socket was cut");
        assert!(!matches!(ended, Some(Ok(Message::Text(_) | Message::Binary(_)))), "{ended:?}");
    });
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let events = dev.open("billing", "/v1/orders/events");
    events.line("data:");
    dev.signal(rustix::process::Signal::INT);
    crate::dev::eventually("it drains", crate::dev::PATIENCE, || dev.log().contains("ending"));
    events.line("data:");
    let asked = std::time::Instant::now();
    dev.signal(rustix::process::Signal::INT);
    assert_eq!(dev.ended().code(), Some(1));
    assert!(asked.elapsed() < std::time::Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[test]
fn a_client_certificate_identifies_as_a_token_does() {
    let dev = Dev::start();
    dev.call_tls("billing", "GET", "/v1/orders/42").refuses(403, "grant_missing");
    dev.grant("billing", "api/orders", &["read"]);
    dev.call_tls("billing", "GET", "/v1/orders/42").is(200);
    dev.call_tls("helper", "GET", "/v1/orders/42").refuses(403, "grant_missing");
}

#[test]
fn a_token_is_exchanged_and_dies_when_revoked() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let exchanged = dev.json(&["token", "exchange", "--identity", "billing", "--resource", "api/orders"]);
    let token = exchanged["access_token"].as_str().unwrap().to_owned();
    let url = format!("{}/v1/orders/42", dev.addresses.gateway);
    let bearer = format!("Authorization: Bearer {token}");
    curl(&["-H", &bearer, &url]).is(200);
    dev.cli(&["token", "revoke", &token]).exits(0);
    crate::dev::eventually("the token is dead", crate::dev::PATIENCE, || curl(&["-H", &bearer, &url]).status == 401);
    dev.cli(&["token", "exchange", "--identity", "helper", "--resource", "api/orders"]).exits(3);
}

#[test]
fn the_users_own_service_is_put_behind_the_gate() {
    let service = crate::dev::service("HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nmine");
    let dev = Dev::start_with(&["--upstream", &service.url]);
    dev.call("billing", "GET", "/anything").refuses(403, "grant_missing");
    assert!(service.heads.try_recv().is_err(), "a denied call reached the service");
    dev.grant("billing", "api/upstream", &["read"]);
    for path in ["/", "/anything?x=1", "/v1/orders/42"] {
        assert_eq!(dev.call("billing", "GET", path).is(200).body, "mine");
        let head = service.heads.recv_timeout(crate::dev::PATIENCE).unwrap();
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{head}");
        assert!(!head.contains(&dev.token("billing")), "the caller's credential went upstream: {head}");
    }
    dev.call("billing", "POST", "/anything").refuses(403, "action_not_granted");
}

#[test]
fn tail_follows_what_happens() {
    let dev = Dev::start();
    let tail: Stream = dev.stream(&["-ojson", "evidence", "tail", "--follow"]);
    dev.call("billing", "GET", "/v1/orders/7").refuses(403, "grant_missing");
    let line: serde_json::Value = serde_json::from_str(&tail.line("denial")).unwrap();
    assert_eq!(line["data"]["path"], "/v1/orders/7");
}
