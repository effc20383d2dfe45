//! Admin endpoints. (being built)
use std::net::SocketAddr;
use std::sync::Arc;

use super::{GatewayError, Shared};

pub(crate) async fn serve(
    address: SocketAddr,
    shared: &Arc<Shared>,
    _draining: Arc<tokio::sync::watch::Sender<bool>>,
    tasks: &mut tokio::task::JoinSet<()>,
    runtime: &tokio::runtime::Handle,
) -> Result<SocketAddr, GatewayError> {
    let listener = tokio::net::TcpListener::bind(address).await.map_err(GatewayError::Runtime)?;
    let bound = listener.local_addr().map_err(GatewayError::Runtime)?;
    let shared = shared.clone();
    let ready = axum::routing::get(move || async move {
        let fresh = matches!(shared.authority.now().authority, crate::decision::Authority::Age(_));
        if fresh { axum::http::StatusCode::OK } else { axum::http::StatusCode::SERVICE_UNAVAILABLE }
    });
    let router = axum::Router::new().route("/healthz", axum::routing::get(|| async { "ok\n" })).route("/readyz", ready);
    tasks.spawn_on(async move { drop(axum::serve(listener, router).await) }, runtime);
    Ok(bound)
}
