//! The HTTP server: health, readiness and metrics for everybody, and the API beside them.
//!
//! In plain text on loopback, and with TLS where the settings say so. Who calls and what they may is the API's business.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

use super::actor::ControlHandle;
use super::api::PeerCertificate;
use super::listen::Listener;

/// How long a TLS handshake may take.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How long the head of a request may take, and how long a connection may stand idle.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// How long a peer may take nothing of what is written to it.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
const MAX_HEADERS: usize = 64;
/// Longest head.
const MAX_HEAD_BYTES: usize = 32 * 1024;

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

/// What is served, and where.
pub(super) struct Http {
    /// Without TLS.
    pub(super) plain: Listener,
    /// With it; callers may show a certificate.
    pub(super) secure: Option<(Listener, Arc<ServerConfig>)>,
    /// The API, to stand beside what is here.
    pub(super) api: Router,
}

/// TLS with this certificate, for callers who may show one of the authorities'.
///
/// # Errors
/// What is not PEM, a key that is not the certificate's, authorities that are none.
pub(super) fn tls(certificate: &[u8], key: &[u8], authorities: &[u8]) -> Result<Arc<ServerConfig>, String> {
    let fault = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| fault("certificate", &error))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| fault("key", &error))?;
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities) {
        let authority = authority.map_err(|error| fault("client CA", &error))?;
        roots.add(authority).map_err(|error| fault("client CA", &error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let clients = clients.allow_unauthenticated().build().map_err(|error| fault("client CA", &error))?;
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| fault("TLS", &error))?.with_client_cert_verifier(clients);
    let mut config = config.with_single_cert(chain, key).map_err(|error| fault("certificate and key", &error))?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves until stopped.
pub(super) fn start(handle: ControlHandle, parts: Parts, http: Http, stop: watch::Receiver<bool>) -> JoinHandle<()> {
    let router = http.api.route("/healthz", get(|| async { "alive\n" }));
    // How it does in detail is for those on this machine.
    let local = Router::new().route("/readyz", get(ready)).route("/metrics", get(metrics));
    let local = local.with_state(Served { handle, parts }).merge(router.clone());
    tokio::spawn(async move {
        let plain = listen(http.plain, None, local, stop.clone());
        match http.secure {
            None => plain.await,
            Some((listener, config)) => {
                let acceptor = TlsAcceptor::from(config);
                tokio::join!(plain, listen(listener, Some(acceptor), router, stop));
            }
        }
    })
}

/// Takes connections until stopped, then waits for those that are there.
async fn listen(mut listener: Listener, tls: Option<TlsAcceptor>, router: Router, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let connection = tokio::select! {
            () = super::stopped(&mut stop) => break,
            // Their results are of no use to anybody; their places are.
            _ = connections.join_next(), if !connections.is_empty() => continue,
            (connection, _) = listener.next() => connection,
        };
        let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            match tls {
                None => speak(connection, router, stop).await,
                Some(tls) => {
                    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_PATIENCE, tls.accept(connection)).await else {
                        return;
                    };
                    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
                    let router = match shown {
                        Some(certificate) => router.layer(Extension(PeerCertificate(certificate.into_owned()))),
                        None => router,
                    };
                    speak(stream, router, stop).await;
                }
            }
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// HTTP/1.1 on one connection, until its end; what is in hand when all is to stop, is finished.
async fn speak<S>(stream: S, router: Router, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    let stream = TokioIo::new(Impatient { stream, stalled: None });
    let connection = http.serve_connection(stream, TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // What a caller does to its own connection is its own matter.
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = super::stopped(&mut stop) => None,
    };
    if ended.is_none() {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

/// A stream whose peer has to take what is written to it: one that does not would hold its place for ever.
struct Impatient<S> {
    stream: S,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    fn write<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match write(&mut self.stream, cx) {
            Poll::Ready(done) => {
                self.stalled = None;
                Poll::Ready(done)
            }
            Poll::Pending => {
                let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_PATIENCE)));
                stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |stream, cx| Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, |stream, cx| Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, |stream, cx| Pin::new(stream).poll_shutdown(cx))
    }
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
        let (stop, stopped) = watch::channel(false);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let places = Arc::new(Semaphore::new(8));
        let plain = Listener::bind(any, places).await.unwrap();
        let address = plain.address();
        let http = Http { plain, secure: None, api: Router::new() };
        let serving = start(core.handle().clone(), parts.clone(), http, stopped);
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
