//! A caller's HTTP/1.1 connection while the library has it.
//!
//! Watches what the library cannot be asked about: how a chunked body is framed, and whether an answer has begun. It hands
//! out one message and nothing behind it: what a caller sends ahead waits for its turn, and is judged like any other
//! head (RFC 9112 section 9.3.2). When the library drops the connection before any answer, as it does with a call that is cut, the connection comes back here, and
//! the gate can still say why.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::BytesMut;
use parking_lot::Mutex;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{ALPN, SslDigest, TlsRef};
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::chunks::{ChunkReader, Misframed};
use super::head::{Framing, Message};
use crate::gateway::refusal::Refusal;

/// What is read of a caller that sends ahead at a time, and before it has to wait.
const AHEAD_BYTES: usize = 512;
const MAX_AHEAD_BYTES: usize = 16 * 1024;

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
    rest: Rest,
    /// What was read behind the message.
    ahead: BytesMut,
    /// Whether a byte of an answer was written.
    answered: bool,
    exchange: Arc<Exchange>,
}

/// What is still to come of the message.
#[derive(Debug)]
enum Rest {
    /// There is none: a head is read.
    Head,
    Length(u64),
    Chunks(ChunkReader),
    /// It has no end.
    Tunnel,
}

impl Rest {
    const fn of(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunks(ChunkReader::new()),
            Framing::Upgrade => Self::Tunnel,
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunks(chunks) => chunks.is_done(),
            Self::Head | Self::Tunnel => false,
        }
    }

    /// How many of these bytes belong to the message.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Misframed> {
        match self {
            Self::Head | Self::Tunnel => Ok(bytes.len()),
            Self::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                Ok(taken)
            }
            Self::Chunks(chunks) => chunks.read(bytes),
        }
    }
}

impl Lent {
    pub(super) fn new(stream: Stream, exchange: Arc<Exchange>) -> Self {
        Self { stream: Some(stream), rest: Rest::Head, ahead: BytesMut::new(), answered: false, exchange }
    }

    /// A request begins. `bytes` hold its head and what was read with it; they keep what is the message's.
    ///
    /// # Errors
    /// [`Misframed`], by those bytes already.
    pub(super) fn begin(&mut self, message: Message, bytes: &mut BytesMut) -> Result<(), Misframed> {
        self.answered = false;
        self.rest = Rest::of(message.framing);
        let behind = bytes.get(message.head..).unwrap_or_default();
        // Nobody has agreed to a WebSocket yet.
        if matches!(self.rest, Rest::Tunnel) && !behind.is_empty() {
            return Err(Misframed);
        }
        let taken = self.rest.take(behind);
        if taken.is_err() {
            // Nothing is judged any more: what still comes is read away behind the refusal.
            self.rest = Rest::Head;
        }
        let end = message.head + taken?;
        if end < bytes.len() {
            let mut behind = bytes.split_off(end);
            behind.extend_from_slice(&self.ahead);
            self.ahead = behind;
        }
        Ok(())
    }

    /// The request is over; what comes next is a head.
    pub(super) fn end(&mut self) {
        self.rest = Rest::Head;
    }

    fn judged(&self, taken: Result<usize, Misframed>) -> io::Result<usize> {
        taken.map_err(|error| {
            self.exchange.misframed.store(true, Ordering::Relaxed);
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }

    /// A caller that sends nothing of its message any more may send what comes next, or leave.
    fn poll_behind(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Read on also where something waits already: else nobody would see that the caller left, nor would half of an
        // answer move on.
        while self.ahead.len() < MAX_AHEAD_BYTES {
            let mut space = [0; AHEAD_BYTES];
            let mut read = ReadBuf::new(&mut space);
            ready!(self.stream()?.poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(read.filled());
        }
        // Who sends more than that waits, and is seen to leave when its answer is written.
        if let Poll::Ready(Err(error)) = self.stream()?.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Pending
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
        let this = &mut *self;
        if this.rest.is_over() {
            return this.poll_behind(cx);
        }
        if !this.ahead.is_empty() {
            let length = this.ahead.len().min(out.remaining());
            let taken = this.rest.take(this.ahead.get(..length).unwrap_or_default());
            return Poll::Ready(this.judged(taken).map(|taken| out.put_slice(&this.ahead.split_to(taken))));
        }
        let before = out.filled().len();
        ready!(this.stream()?.poll_read(cx, out))?;
        let fresh = out.filled().get(before..).unwrap_or_default();
        let taken = this.rest.take(fresh);
        let taken = this.judged(taken)?;
        this.ahead.extend_from_slice(fresh.get(taken..).unwrap_or_default());
        out.set_filled(before + taken);
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
