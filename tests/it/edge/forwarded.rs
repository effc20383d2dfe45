//! What is forwarded: the decision's request and nothing that a caller slipped in beside it.

use super::tap::{Tap, put, route_with};
use crate::dev::{Dev, PATIENCE, curl, eventually};

fn ready() -> (Dev, Tap, String) {
    let (dev, tap) = (Dev::start(), Tap::start());
    put(&dev, &[route_with("tap", tap.address, "")]);
    dev.grant("billing", "api/orders", &["read", "write"]);
    let bearer = dev.bearer("billing");
    (dev, tap, bearer)
}

#[test]
fn a_caller_can_nominate_none_of_the_gates_own_headers() {
    let (dev, tap, bearer) = ready();
    let nominations = [
        "close, Portcullis-Call-Id",
        "close, Authorization",
        "close, Host",
        "close, X-Injected-Identity, Authorization, Portcullis-Call-Id, Host",
        "close, authorization , PORTCULLIS-CALL-ID",
        "close,,, host",
    ];
    for nominated in nominations {
        tap.came.forget();
        let head = format!("GET /good HTTP/1.1\r\nHost: tap.test\r\n{bearer}\r\nX-Injected-Identity: admin\r\n");
        let answer = dev.raw().send(format!("{head}Connection: {nominated}\r\n\r\n")).to_end();
        if answer.starts_with("HTTP/1.1 400 ") {
            // The library does not forward a request that nominates its own framing or host.
            assert!(nominated.to_ascii_lowercase().contains("host") && tap.came.bytes().is_empty(), "{nominated}");
            continue;
        }
        assert!(answer.starts_with("HTTP/1.1 200 "), "{nominated}: {answer}");
        let came = tap.came.text().to_ascii_lowercase();
        for field in ["portcullis-call-id: ", "authorization: bearer ", &format!("host: {}", tap.address)] {
            assert_eq!(came.matches(field).count(), 1, "{nominated}: {field}: {came}");
        }
        assert!(!came.contains(&bearer.to_ascii_lowercase()), "{came}");
    }
}

#[test]
fn headers_that_claim_what_only_a_proxy_knows_do_not_pass_in_any_spelling() {
    let (dev, tap, bearer) = ready();
    let spoofed = [
        "X-Forwarded-Uri: /public",
        "X-Original-URL: /public",
        "X-Rewrite-URL: /public",
        "X_Forwarded_User: admin",
        "X-Forwarded-User: admin",
        "x.forwarded.user: admin",
        "X-HTTP-Method-Override: DELETE",
        "X-HTTP-Method: DELETE",
        "X-Method-Override: DELETE",
        "Forwarded: for=1",
        "X-Real-IP: 1.2.3.4",
        "Portcullis_Call_Id: forged",
        "Content_Length: 50",
        "Transfer_Encoding: chunked",
        "Content_Encoding: gzip",
        "X-Remote-User: root",
        "Proxy: http://evil",
    ];
    for header in spoofed {
        tap.came.forget();
        let head = format!("GET /good HTTP/1.1\r\nHost: tap.test\r\n{bearer}\r\n{header}\r\nConnection: close\r\n\r\n");
        let answer = dev.raw().send(head).to_end();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{header}: {answer}");
        let came = tap.came.text();
        let name = header.split(':').next().unwrap().to_ascii_lowercase();
        assert!(came.starts_with("GET /good HTTP/1.1\r\n"), "{header}: {came}");
        assert!(!came.to_ascii_lowercase().contains(&format!("\n{name}: ")), "{header}: {came}");
    }
}

#[test]
fn bytes_behind_a_message_reach_nobody() {
    let (dev, tap, bearer) = ready();
    let second = "GET /admin HTTP/1.1\r\nHost: tap.test\r\n\r\n";
    let messages = [
        format!("GET /good HTTP/1.1\r\nHost: tap.test\r\n{bearer}\r\n\r\n{second}"),
        format!(
            "GET /good HTTP/1.1\r\nHost: tap.test\r\n{bearer}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n{second}"
        ),
        format!("POST /good HTTP/1.1\r\nHost: tap.test\r\n{bearer}\r\nContent-Length: 5\r\n\r\nhello{second}"),
        format!("POST /good HTTP/1.1\r\nHost: tap.test\r\n{bearer}\r\nContent-Length: 0\r\n\r\n{second}"),
        format!(
            "POST /good HTTP/1.1\r\nHost: tap.test\r\n{bearer}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{second}"
        ),
        format!("GET /good HTTP/1.0\r\nHost: tap.test\r\n{bearer}\r\n\r\n{second}"),
    ];
    for (place, message) in messages.iter().enumerate() {
        let answer = dev.raw().send(message).finish().to_end();
        assert!(answer.matches("HTTP/1.1 2").count() <= 1, "{place}: {answer}");
        assert!(!tap.came.text().contains("/admin"), "{place}: {}", tap.came.text());
    }
    let good = format!("GET /good HTTP/1.1\r\nHost: tap.test\r\n{bearer}\r\nConnection: close\r\n\r\n");
    let answer = dev.raw().send(good).to_end();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn what_http2_splits_is_whole_upstream() {
    let (dev, tap, bearer) = ready();
    let url = format!("{}/good", dev.addresses.gateway);
    let cookies = ["-H", "cookie: a=1", "-H", "cookie: b=2", "-H", "cookie: c=3"];
    let base = ["--http2-prior-knowledge", "-H", "Host: tap.test", "-H", &bearer];
    curl(&[&base[..], &cookies, &[&url]].concat()).is(200);
    eventually("it came", PATIENCE, || tap.came.requests() == 1);
    let came = tap.came.text().to_ascii_lowercase();
    assert_eq!(came.matches("cookie:").count(), 1, "{came}");
    assert!(came.contains("cookie: a=1; b=2; c=3\r\n"), "{came}");
}
