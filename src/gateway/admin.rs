//! The admin endpoints, on loopback: health, readiness, metrics, what decisions are made on, and drain.
//!
//! Whoever can connect to loopback may ask, so nothing here is a secret and the one thing that can be done is to drain.
//! A web page in a browser on the same machine cannot: requests that name another host, or come from a page, are refused.

mod picture;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::authority::AuthorityClock;
use super::budget::Budget;
use super::live::Registry;
use super::metrics::{Metrics, Seen};
use super::published::Published;
use super::{GatewayError, Shared};
use crate::decision::Authority;
use crate::domain::Clock;
use crate::domain::resource::DEFAULT_AUTHORITY;
use crate::evidence::archive::{Lag, LagStatus, Past};
use crate::evidence::journal::Journal;
use crate::issuers::TokenVerifier;

/// What the endpoints look at.
/// Connections at the same time; the rest wait.
const MAX_CONNECTIONS: usize = 256;

#[derive(Clone, Debug)]
struct Admin {
    authority: Arc<AuthorityClock>,
    published: Arc<Published>,
    registry: Arc<Registry>,
    inspection: Arc<Budget>,
    verifier: Arc<TokenVerifier>,
    journal: Journal,
    archive: Option<Arc<Lag>>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    draining: Arc<watch::Sender<bool>>,
}

/// Serves the endpoints at `address`. Sets `draining` when somebody asks for it. Returns the address in use.
pub(crate) async fn serve(
    address: SocketAddr,
    shared: &Arc<Shared>,
    archive: Option<Arc<Lag>>,
    draining: Arc<watch::Sender<bool>>,
    tasks: &mut JoinSet<()>,
    runtime: &Runtime,
) -> Result<SocketAddr, GatewayError> {
    let admin = Admin {
        authority: shared.authority.clone(),
        published: shared.published.clone(),
        registry: shared.registry.clone(),
        inspection: shared.inspection.clone(),
        verifier: shared.verifier.clone(),
        journal: shared.journal.clone(),
        archive,
        clock: shared.clock.clone(),
        metrics: shared.metrics.clone(),
        draining,
    };
    let failed = |source| GatewayError::Bind { address, source };
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let listener = crate::serve::Listener::bind(address, places).await.map_err(failed)?;
    let bound = listener.address();
    let router = router(admin);
    // They are served until the runtime ends: who drains wants to see it.
    let (never, stop) = watch::channel(false);
    let served = async move {
        crate::serve::serve(listener, None, router, stop).await;
        drop(never);
    };
    tasks.spawn_on(served, runtime);
    Ok(bound)
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/snapshot", get(snapshot))
        .route("/drain", post(drain))
        .layer(from_fn(local))
        .with_state(admin)
}

/// Lets nobody in whom a browser brings: by a name that was made to mean this machine, or from a page of another site.
async fn local(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) {
        return (StatusCode::FORBIDDEN, "requests from web pages are refused\n").into_response();
    }
    if !names_loopback(headers, request.uri()) {
        return (StatusCode::MISDIRECTED_REQUEST, "the Host header must name the loopback interface\n").into_response();
    }
    next.run(request).await
}

fn names_loopback(headers: &HeaderMap, uri: &Uri) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let named = |text: &str| {
        let authority: Option<axum::http::uri::Authority> = text.parse().ok();
        authority.is_some_and(|authority| {
            let host = authority.host();
            let address = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
            !text.contains('@')
                && (host.eq_ignore_ascii_case("localhost")
                    || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
        })
    };
    // A target in absolute form counts over the header (RFC 9112 section 3.2.2): both must be local.
    host.to_str().is_ok_and(named) && uri.authority().is_none_or(|authority| named(authority.as_str()))
}

/// What must hold for calls to be served.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    checks: Checks,
}

#[derive(Debug, Serialize)]
struct Checks {
    snapshot: Check,
    authority: Check,
    evidence: Check,
    #[serde(skip_serializing_if = "Option::is_none")]
    archive: Option<Check>,
    draining: Check,
}

/// `"ok"`, or what is wrong.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Check {
    Ok(&'static str),
    Failing { failing: String },
}

impl Check {
    fn new(holds: bool, otherwise: impl Into<String>) -> Self {
        if holds { Self::Ok("ok") } else { Self::Failing { failing: otherwise.into() } }
    }

    fn holds(&self) -> bool {
        matches!(self, Self::Ok(_))
    }
}

impl Admin {
    fn archive(&self) -> Option<LagStatus> {
        self.archive.as_ref().map(|lag| lag.status(self.journal.durable_seq(), self.clock.now()))
    }
}

fn archived(status: &LagStatus) -> Check {
    let why = status.error.as_deref().unwrap_or("it is slower than the log");
    let behind = format!("{} records and {} s behind: {why}", status.records, status.age.as_secs());
    Check::new(!status.past, behind)
}

fn readiness(admin: &Admin) -> Readiness {
    let authority = match admin.authority.now().authority {
        Authority::Missing => Check::new(false, "the control plane has not been heard yet"),
        Authority::Unknown => Check::new(false, "the process stood still and waits for the control plane's answer"),
        Authority::Age(age) => Check::new(
            age <= DEFAULT_AUTHORITY.duration(),
            format!("the control plane was last heard {} s ago", age.as_secs()),
        ),
    };
    let evidence = match admin.journal.status().broken {
        None => Check::new(true, ""),
        Some(error) => {
            let why = admin.journal.remote().and_then(|remote| remote.refuses.and(remote.error));
            Check::new(false, why.map_or_else(|| error.to_string(), |why| format!("the copy of the log: {why}")))
        }
    };
    let archive = admin.archive();
    let checks = Checks {
        snapshot: Check::new(*admin.published.ready().borrow(), "no snapshot of the control plane has arrived yet"),
        authority,
        evidence,
        archive: archive.as_ref().map(archived),
        draining: Check::new(!*admin.draining.borrow(), "the gateway is draining"),
    };
    let ready = [&checks.snapshot, &checks.authority, &checks.evidence, &checks.draining].iter().all(|c| c.holds());
    // Where calls go on all the same, whoever sends them here has no reason to stop.
    let ready = ready && !archive.is_some_and(|archive| archive.past && archive.then == Past::Refuse);
    Readiness { ready, checks }
}

async fn ready(State(admin): State<Admin>) -> Response {
    let readiness = readiness(&admin);
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let seen = Seen {
        running: admin.registry.len(),
        inspection_bytes: admin.inspection.taken(),
        authority: admin.authority.now().authority,
        grants: admin.published.peek().grant_count(),
        token_hits_and_misses: admin.verifier.hits_and_misses(),
        revoked_tokens: admin.verifier.revoked().len(),
        evidence: Some(admin.journal.status()),
        remote: admin.journal.remote(),
        archive: admin.archive(),
    };
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], admin.metrics.render(&seen)).into_response()
}

async fn snapshot(State(admin): State<Admin>, uri: Uri) -> Response {
    let snapshot = admin.published.load();
    let mut asked = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    match asked.find(|(name, _)| *name == "identity") {
        None => Json(picture::summary(&snapshot)).into_response(),
        // Names need no escapes: one that has some is none.
        Some((_, name)) => match name.parse().ok().and_then(|name| picture::identity(&snapshot, &name)) {
            Some(identity) => Json(identity).into_response(),
            None => (StatusCode::NOT_FOUND, "there is no such identity\n").into_response(),
        },
    }
}

async fn drain(State(admin): State<Admin>) -> Response {
    tracing::info!("a drain was asked for at the admin endpoint");
    admin.draining.send_replace(true);
    (StatusCode::ACCEPTED, "draining\n").into_response()
}
