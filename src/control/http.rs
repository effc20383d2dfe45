//! The HTTP address: health, readiness and metrics, on loopback. Nothing here says anything about access.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::actor::ControlHandle;
use super::listen::Listener;

/// How long the store may take to answer and still count as ready.
const READY_PATIENCE: Duration = Duration::from_secs(2);

/// Binds, and serves until stopped.
///
/// # Errors
/// When the address cannot be had.
pub(super) async fn start(
    handle: ControlHandle,
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
        .with_state(handle);
    let task = tokio::spawn(async move {
        let stopped = async move { super::stopped(&mut stop).await };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
    Ok((bound, task))
}

/// Ready is who can commit: the store answers.
async fn ready(State(handle): State<ControlHandle>) -> impl IntoResponse {
    let asked = handle.shared().vault.store().current_revision();
    match tokio::time::timeout(READY_PATIENCE, asked).await {
        Ok(Ok(_)) => (StatusCode::OK, "ready\n"),
        Ok(Err(_)) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n"),
    }
}

async fn metrics(State(handle): State<ControlHandle>) -> impl IntoResponse {
    let shared = handle.shared();
    let text = shared.metrics.render(&handle.model(), &handle.gateways(), shared.clock.now());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
