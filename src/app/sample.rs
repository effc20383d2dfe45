//! The sample upstream of `portcullis dev`: orders that nobody keeps, and a mirror.
//!
//! It answers with what it received, so that one sees what the gate changed on the way. It knows nothing of the gate,
//! trusts nobody and keeps nothing; it listens on loopback alone.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, Path};
use axum::http::{HeaderMap, Method, StatusCode, Uri, Version};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Largest body taken.
const MAX_BODY_BYTES: usize = 1 << 20;
/// Largest WebSocket message echoed.
const MAX_MESSAGE_BYTES: usize = 64 << 10;
/// Between two events.
const EVENT_EVERY: Duration = Duration::from_secs(1);

/// The running sample upstream. It ends with this value.
pub(super) struct Sample {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Sample {
    /// Listens on a free port of loopback.
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router()).await {
                tracing::error!(%error, "the sample upstream ended");
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn router() -> Router {
    Router::new()
        .route("/v1/orders", get(all).post(all).delete(all))
        .route("/v1/orders/", get(all).post(all).delete(all))
        .route("/v1/orders/{order}", get(one).post(one).delete(one))
        .route("/v1/orders/events", get(events))
        .route("/v1/orders/socket", get(socket))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

/// What a call looks like from here.
#[derive(Serialize)]
struct Mirror {
    upstream: &'static str,
    method: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<String>,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<String>,
    /// As received; several of one name joined as RFC 9110 section 5.3 has it.
    headers: BTreeMap<String, String>,
    body_bytes: usize,
}

async fn all(method: Method, version: Version, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    mirror(&method, version, &uri, None, &headers, body.len())
}

async fn one(
    method: Method,
    version: Version,
    uri: Uri,
    Path(order): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    mirror(&method, version, &uri, Some(order), &headers, body.len())
}

fn mirror(
    method: &Method,
    version: Version,
    uri: &Uri,
    order: Option<String>,
    received: &HeaderMap,
    body_bytes: usize,
) -> Response {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in received {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.to_string())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    let version = if version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" };
    let status = if method == Method::POST { StatusCode::CREATED } else { StatusCode::OK };
    let mirror = Mirror {
        upstream: "sample",
        method: method.to_string(),
        path: uri.path().to_owned(),
        query: uri.query().map(str::to_owned),
        version,
        order,
        headers,
        body_bytes,
    };
    (status, Json(mirror)).into_response()
}

async fn events() -> Response {
    let ticks = tokio::time::interval(EVENT_EVERY);
    let stream = futures_util::stream::unfold((ticks, 1u64), async |(mut ticks, number)| {
        ticks.tick().await;
        let event = Event::default().event("order").id(number.to_string()).data(format!("{{\"order\":{number}}}"));
        Some((Ok::<_, Infallible>(event), (ticks, number + 1)))
    });
    Sse::new(stream).into_response()
}

async fn socket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(MAX_MESSAGE_BYTES).on_upgrade(echo)
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let answer = match message {
            Message::Text(_) | Message::Binary(_) => message,
            // The library answers pings and closes by itself.
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Close(_) => return,
        };
        if socket.send(answer).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn call(address: SocketAddr, request: &str, until: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        // A server that refuses a body need not read it to its end.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut text = String::new();
        let mut chunk = [0; 4096];
        while !text.contains(until) {
            let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut chunk)).await.unwrap().unwrap();
            assert_ne!(read, 0, "ended before `{until}`: {text}");
            text.push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
        text
    }

    #[tokio::test]
    async fn shows_what_it_received() {
        let sample = Sample::start().await.unwrap();
        let request =
            "POST /v1/orders/42?x=1 HTTP/1.1\r\nhost: a\r\nx-seen: one\r\nx-seen: two\r\ncontent-length: 3\r\n\r\nabc";
        let answer = call(sample.address, request, "body_bytes\":3}").await;
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        for part in ["\"order\":\"42\"", "\"x-seen\":\"one, two\"", "\"method\":\"POST\"", "\"query\":\"x=1\""] {
            assert!(answer.contains(part), "{part}: {answer}");
        }
    }

    #[tokio::test]
    async fn streams_events_and_bounds_bodies() {
        let sample = Sample::start().await.unwrap();
        let events = call(sample.address, "GET /v1/orders/events HTTP/1.1\r\nhost: a\r\n\r\n", "id: 2").await;
        assert!(events.contains("text/event-stream") && events.contains("data: {\"order\":1}"), "{events}");
        let body = "x".repeat(MAX_BODY_BYTES + 1);
        let large = format!("POST /v1/orders HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        assert!(call(sample.address, &large, "\r\n\r\n").await.starts_with("HTTP/1.1 413 "));
    }
}
