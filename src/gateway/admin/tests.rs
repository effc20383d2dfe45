//! Who may ask, and what they are told.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::evidence::storage::Fault;
use crate::gateway::fixture::{Fixture, grant};

struct Served {
    fixture: Fixture,
    address: SocketAddr,
    draining: Arc<watch::Sender<bool>>,
}

async fn served() -> Served {
    let fixture = Fixture::new(&[grant(1)]).await;
    let draining = Arc::new(watch::Sender::new(false));
    let admin = Admin {
        authority: fixture.authority.clone(),
        published: fixture.published.clone(),
        registry: fixture.registry.clone(),
        inspection: super::Budget::new(1),
        verifier: fixture.verifier.clone(),
        journal: fixture.journal.clone(),
        archive: None,
        clock: Arc::new(crate::clock::SystemClock),
        metrics: fixture.metrics.clone(),
        draining: draining.clone(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(admin)).await });
    Served { fixture, address, draining }
}

impl Served {
    /// Sends a head, and returns status and body.
    async fn send(&self, head: &str) -> (u16, String) {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: {}\r\n", self.address)).await
    }

    async fn json(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.get(path).await;
        (status, serde_json::from_str(&body).unwrap())
    }
}

#[tokio::test]
async fn only_loopback_names_are_answered_and_no_web_page() {
    let served = served().await;
    for host in ["localhost", "LOCALHOST:9901", "127.0.0.1", "127.0.0.1:9901", "[::1]:9901"] {
        assert_eq!(served.send(&format!("GET /healthz HTTP/1.1\r\nhost: {host}\r\n")).await.0, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example", "a@localhost", ""] {
        assert_eq!(served.send(&format!("GET /healthz HTTP/1.1\r\nhost: {host}\r\n")).await.0, 421, "{host}");
    }
    assert_eq!(served.send("GET http://evil.example/healthz HTTP/1.1\r\nhost: localhost\r\n").await.0, 421);
    assert_eq!(served.send("GET /healthz HTTP/1.0\r\n").await.0, 421);
    let page = "POST /drain HTTP/1.1\r\nhost: localhost\r\norigin: http://localhost\r\ncontent-length: 0\r\n";
    assert_eq!(served.send(page).await.0, 403);
    assert!(!*served.draining.borrow());
}

#[tokio::test]
async fn readiness_says_what_is_wrong() {
    let served = served().await;
    assert_eq!(served.json("/readyz").await.0, 200);
    let failing = |body: &Value, check: &str| body["checks"][check]["failing"].as_str().map(str::to_owned);
    for _ in 0..200 {
        served.fixture.manual.advance(Duration::from_secs(2));
        served.fixture.authority.tick();
    }
    let (status, body) = served.json("/readyz").await;
    assert_eq!((status, &body["ready"]), (503, &Value::Bool(false)));
    assert_eq!(failing(&body, "authority").unwrap(), "the control plane was last heard 400 s ago");
    assert_eq!(failing(&body, "evidence"), None);
    served.fixture.renew();
    assert_eq!(served.json("/readyz").await.0, 200);
    served.fixture.storage.fail_everything(Fault::Error);
    let denied = crate::evidence::entry::TokenRevoked {
        call: crate::domain::name::CallId::from_bits(1),
        jti: "a".into(),
        by: "b".into(),
    };
    let ticket = served.fixture.journal.append(&denied).unwrap();
    served.fixture.journal.durable(ticket).await.unwrap_err();
    assert!(failing(&served.json("/readyz").await.1, "evidence").is_some());
    served.fixture.storage.mend();
}

#[tokio::test]
async fn a_gateway_without_a_snapshot_or_draining_is_not_ready() {
    let served = served().await;
    let (status, _) = served.send("POST /drain HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n").await;
    assert_eq!(status, 202);
    assert!(*served.draining.borrow());
    let (status, body) = served.json("/readyz").await;
    assert_eq!((status, body["checks"]["draining"]["failing"].as_str()), (503, Some("the gateway is draining")));
    let empty = Admin {
        published: Published::new(),
        authority: served.fixture.authority.clone(),
        registry: served.fixture.registry.clone(),
        inspection: super::Budget::new(1),
        verifier: served.fixture.verifier.clone(),
        journal: served.fixture.journal.clone(),
        metrics: served.fixture.metrics.clone(),
        draining: Arc::new(watch::Sender::new(false)),
        archive: None,
        clock: Arc::new(crate::clock::SystemClock),
    };
    assert!(!readiness(&empty).checks.snapshot.holds());
}

#[tokio::test]
async fn the_snapshot_is_shown_without_what_is_not_asked_for() {
    let served = served().await;
    let (_, summary) = served.json("/snapshot").await;
    assert_eq!((&summary["revision"], &summary["grants"], &summary["identities"]), (&7.into(), &1.into(), &1.into()));
    assert_eq!(summary["routes"][0]["actions"], serde_json::json!(["read", "write"]));
    let (_, identity) = served.json("/snapshot?identity=billing").await;
    assert_eq!(identity["grants"][0]["resource"], "api/orders");
    assert_eq!(served.get("/snapshot?identity=nobody").await.0, 404);
    assert_eq!(served.get("/snapshot?identity=%62illing").await.0, 404);
}

#[tokio::test]
async fn metrics_are_of_this_gateway() {
    let served = served().await;
    let (status, text) = served.get("/metrics").await;
    assert_eq!(status, 200);
    for line in ["portcullis_grants 1", "portcullis_evidence_writable 1", "portcullis_authority_age_seconds 0"] {
        assert!(text.lines().any(|l| l == line), "{line}");
    }
}
