//! A caller's HTTP/1.1 connection while the library has it.
//!
//! Watches what the library cannot be asked about: how a chunked body is framed, and whether an answer has begun. When the
//! library drops the connection before any answer, as it does with a call that is cut, the connection comes back here, and
//! the gate can still say why.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{ALPN, SslDigest, TlsRef};
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::chunks::{ChunkReader, Misframed};
use crate::gateway::refusal::Refusal;

/// What is known of a connection that the library has, or has dropped.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    misframed: AtomicBool,
    /// Why the call was cut.
    cut: Mutex<Option<Refusal>>,
    /// The connection, when it was dropped before an answer began.
    unanswered: Mutex<Option<Stream>>,
}

impl Exchange {
    /// Whether the body was framed in a way that is not the one.
    pub(super) fn is_misframed(&self) -> bool {
        self.misframed.load(Ordering::Relaxed)
    }

    /// The call was cut.
    pub(super) fn cut(&self, refusal: Refusal) {
        *self.cut.lock() = Some(refusal);
    }

    /// The connection of a call that was cut before its answer began, and what to answer.
    pub(super) fn unanswered(&self) -> Option<(Stream, Refusal)> {
        let stream = self.unanswered.lock().take()?;
        Some((stream, self.cut.lock().take()?))
    }
}

/// The connection.
#[derive(Debug)]
pub(super) struct Lent {
    /// `None` only while it is dropped.
    stream: Option<Stream>,
    /// Of a request whose body is chunked.
    chunks: Option<ChunkReader>,
    /// Whether a byte of an answer was written.
    answered: bool,
    exchange: Arc<Exchange>,
}

impl Lent {
    pub(super) fn new(stream: Stream, exchange: Arc<Exchange>) -> Self {
        Self { stream: Some(stream), chunks: None, answered: false, exchange }
    }

    /// A request begins; `chunked` holds what was read of its body when that is chunked.
    ///
    /// # Errors
    /// [`Misframed`], by those bytes already.
    pub(super) fn begin(&mut self, chunked: Option<&[u8]>) -> Result<(), Misframed> {
        self.answered = false;
        self.chunks = None;
        if let Some(bytes) = chunked {
            self.chunks.insert(ChunkReader::default()).read(bytes)?;
        }
        Ok(())
    }

    /// The request is over; what comes next is a head.
    pub(super) fn end(&mut self) {
        self.chunks = None;
    }

    fn stream(&mut self) -> io::Result<Pin<&mut Stream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.answered {
            *self.exchange.unanswered.lock() = self.stream.take();
        }
    }
}

impl AsyncRead for Lent {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        ready!(self.stream()?.poll_read(cx, out))?;
        if let Some(chunks) = &mut self.chunks
            && let Err(error) = chunks.read(out.filled().get(before..).unwrap_or_default())
        {
            self.exchange.misframed.store(true, Ordering::Relaxed);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lent {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.answered = true;
        self.stream()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.answered = true;
        self.stream()?.poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Lent {
    async fn shutdown(&mut self) {
        self.answered = true;
        if let Some(stream) = &mut self.stream {
            stream.shutdown().await;
        }
    }
}

impl Peek for Lent {}

impl UniqueID for Lent {
    fn id(&self) -> UniqueIDType {
        self.stream.as_ref().map_or(-1, |stream| stream.id())
    }
}

impl Ssl for Lent {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.as_ref()?.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.as_ref()?.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.as_ref()?.selected_alpn_proto()
    }
}

impl GetTimingDigest for Lent {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.as_ref().map(|stream| stream.get_timing_digest()).unwrap_or_default()
    }
}

impl GetProxyDigest for Lent {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.as_ref()?.get_proxy_digest()
    }
}

impl GetSocketDigest for Lent {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.as_ref()?.get_socket_digest()
    }
}
