//! HTTP/1.1 for our own endpoints: bounded in connections, in time and in what is read before anybody is known.
//!
//! The way of a call does not come through here. Routes are whoever serves' own.

mod listen;
pub(crate) mod tls;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
pub(crate) use listen::{Connection, Listener};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

pub(crate) use self::tls::LiveTls;

/// How long a TLS handshake may take.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How long the head of a request may take, and how long a connection may stand idle.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// How long a peer may take nothing of what is written to it.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
const MAX_HEADERS: usize = 64;
/// Longest head.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// The certificate that a caller showed. TLS verified the chain.
#[derive(Clone, Debug)]
pub(crate) struct PeerCertificate(pub(crate) CertificateDer<'static>);

/// Waits until somebody says stop, or nobody can any more.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// TLS as a server speaks it.
#[derive(Clone)]
pub(crate) struct Secure {
    live: Arc<LiveTls>,
    acceptor: TlsAcceptor,
}

impl Secure {
    /// HTTP/1.1 with what `live` holds.
    ///
    /// # Errors
    /// When the library takes no version of TLS.
    pub(crate) fn of(live: &Arc<LiveTls>) -> Result<Self, String> {
        Ok(Self { live: live.clone(), acceptor: live.config(b"http/1.1")?.into() })
    }
}

/// Takes connections until stopped, then waits for those that are there.
pub(crate) async fn serve(
    mut listener: Listener,
    tls: Option<Secure>,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let connection = tokio::select! {
            () = stopped(&mut stop) => break,
            // Their results are of no use to anybody; their places are.
            _ = connections.join_next(), if !connections.is_empty() => continue,
            (connection, _) = listener.next() => connection,
        };
        let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            match tls {
                None => speak(connection, router, stop).await,
                Some(Secure { live, acceptor }) => {
                    let since = live.since();
                    let shaken = tokio::time::timeout(HANDSHAKE_PATIENCE, acceptor.accept(connection)).await;
                    let Ok(Ok(stream)) = shaken else { return };
                    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
                    let router = match shown {
                        Some(certificate) => router.layer(Extension(PeerCertificate(certificate.into_owned()))),
                        None => router,
                    };
                    speak(live.guard(stream, since), router, stop).await;
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
        () = stopped(&mut stop) => None,
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
