//! The HTTP address: health, readiness and metrics, on loopback. Nothing here says anything about access.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinHandle};

use super::actor::ControlHandle;
use super::listen::Listener;

/// How long the store may take to answer and still count as ready.
const READY_PATIENCE: Duration = Duration::from_secs(2);

/// What runs for as long as the control plane does, by names. One that has ended, has ended by a fault.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts(Arc<OnceLock<Vec<(&'static str, AbortHandle)>>>);

impl Parts {
    /// Names them, once all have been started.
    pub(super) fn are<const N: usize>(&self, parts: [(&'static str, &JoinHandle<()>); N]) {
        self.0.get_or_init(|| parts.into_iter().map(|(name, task)| (name, task.abort_handle())).collect());
    }

    /// What is missing of them, if anything is.
    fn missing(&self) -> Option<&'static str> {
        let Some(parts) = self.0.get() else { return Some("not everything has started\n") };
        parts.iter().find(|(_, task)| task.is_finished()).map(|(fault, _)| *fault)
    }
}

#[derive(Clone)]
struct Served {
    handle: ControlHandle,
    parts: Parts,
}

/// Binds, and serves until stopped.
///
/// # Errors
/// When the address cannot be had.
pub(super) async fn start(
    handle: ControlHandle,
    parts: Parts,
    address: SocketAddr,
    places: Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = Listener::bind(address, places).await?;
    let bound = listener.address();
    let router = Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Served { handle, parts });
    let task = tokio::spawn(async move {
        let stopped = async move { super::stopped(&mut stop).await };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
    Ok((bound, task))
}

/// Ready is who can commit: all parts are at work, and the store answers.
async fn ready(State(served): State<Served>) -> impl IntoResponse {
    if let Some(fault) = served.parts.missing() {
        return (StatusCode::SERVICE_UNAVAILABLE, fault);
    }
    let asked = served.handle.shared().vault.store().current_revision();
    match tokio::time::timeout(READY_PATIENCE, asked).await {
        Ok(Ok(_)) => (StatusCode::OK, "ready\n"),
        Ok(Err(_)) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n"),
    }
}

async fn metrics(State(Served { handle, .. }): State<Served>) -> impl IntoResponse {
    let shared = handle.shared();
    let text = shared.metrics.render(&handle.model(), &handle.gateways(), shared.clock.now());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::control::sample;
    use crate::domain::Timestamp;
    use crate::domain::clock::ManualClock;

    async fn ask(address: SocketAddr) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        format!("{} {}", head.split(' ').nth(1).unwrap(), body.trim())
    }

    #[tokio::test]
    async fn a_control_plane_with_a_part_that_has_ended_is_not_ready() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000)));
        let core = sample::core(dir.path(), &clock).await;
        let parts = Parts::default();
        let (stop, stopped) = watch::channel(false);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let places = Arc::new(Semaphore::new(8));
        let (address, serving) = start(core.handle().clone(), parts.clone(), any, places, stopped).await.unwrap();
        assert_eq!(ask(address).await, "503 not everything has started");
        let (one, two) = (tokio::spawn(std::future::pending()), tokio::spawn(std::future::pending()));
        parts.are([("the first has ended\n", &one), ("the second has ended\n", &two)]);
        assert_eq!(ask(address).await, "200 ready");
        two.abort();
        assert!(two.await.unwrap_err().is_cancelled());
        assert_eq!(ask(address).await, "503 the second has ended");
        stop.send_replace(true);
        serving.await.unwrap();
        core.shutdown().await;
    }
}
