//! The HTTP server: health, readiness and metrics for everybody, and the API beside them.
//!
//! In plain text on loopback, and with TLS where the settings say so. Who calls and what they may is the API's business.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

use super::actor::ControlHandle;
use super::witnessed::Witnessed;
use crate::serve::{Listener, Secure, serve};

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
    witnessed: Arc<Witnessed>,
}

/// What is served, and where.
pub(super) struct Http {
    /// Without TLS.
    pub(super) plain: Listener,
    /// With it; callers may show a certificate.
    pub(super) secure: Option<(Listener, Secure)>,
    /// The API, to stand beside what is here.
    pub(super) api: Router,
}

/// Serves until stopped.
pub(super) fn start(
    handle: ControlHandle,
    parts: Parts,
    witnessed: Arc<Witnessed>,
    http: Http,
    stop: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let router = http.api.route("/healthz", get(|| async { "alive\n" }));
    // How it does in detail is for those on this machine.
    let local = Router::new().route("/readyz", get(ready)).route("/metrics", get(metrics));
    let local = local.with_state(Served { handle, parts, witnessed }).merge(router.clone());
    tokio::spawn(async move {
        let plain = serve(http.plain, None, local, stop.clone());
        match http.secure {
            None => plain.await,
            Some((listener, secure)) => {
                tokio::join!(plain, serve(listener, Some(secure), router, stop));
            }
        }
    })
}

/// Ready is who can commit: all parts are at work, and the store answers.
async fn ready(State(served): State<Served>) -> impl IntoResponse {
    if let Some(fault) = served.parts.missing() {
        return (StatusCode::SERVICE_UNAVAILABLE, fault.to_owned());
    }
    let witnesses = served.witnessed.lines(served.handle.shared().clock.now());
    let asked = served.handle.shared().vault.store().current_revision();
    match tokio::time::timeout(READY_PATIENCE, asked).await {
        Ok(Ok(_)) => (StatusCode::OK, format!("ready\n{witnesses}")),
        Ok(Err(_)) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n".to_owned()),
    }
}

async fn metrics(State(Served { handle, witnessed, .. }): State<Served>) -> impl IntoResponse {
    let shared = handle.shared();
    witnessed.read(shared.clock.now());
    if let Some(copies) = shared.copies.get() {
        shared.metrics.copies.read(copies);
    }
    let text = shared.metrics.render(&handle.model(), &handle.gateways(), shared.clock.now());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Semaphore;

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
        let witnessed = Arc::new(Witnessed::none(&core.handle().shared().metrics));
        let (stop, stopped) = watch::channel(false);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let places = Arc::new(Semaphore::new(8));
        let plain = Listener::bind(any, places).await.unwrap();
        let address = plain.address();
        let http = Http { plain, secure: None, api: Router::new() };
        let serving = start(core.handle().clone(), parts.clone(), witnessed, http, stopped);
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
