//! A caller's connection as the library wants it: our TCP stream with a small write buffer and no read buffer, and around
//! it, or around TLS, the bytes that were read ahead to tell HTTP/1.1 from HTTP/2.

use std::future::Future as _;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{ALPN, SslDigest, TlsRef};
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::gateway::authority::AuthorityClock;

/// One segment on most networks: a head and a short body leave in one packet.
const WRITE_BUFFER_BYTES: usize = 1460;

/// A caller's TCP connection.
#[derive(Debug)]
pub(crate) struct CallerIo {
    stream: BufWriter<TcpStream>,
    socket: Arc<SocketDigest>,
    established: SystemTime,
    /// What was buffered when a read last found nothing: when it is still there the next time, the answer has paused.
    stalled: usize,
    /// How long a caller may take nothing of what is written.
    patience: Duration,
    /// While it takes nothing.
    impatience: Option<Pin<Box<Sleep>>>,
    authority: Arc<AuthorityClock>,
    /// The pause that was known when something was last written.
    paused: Duration,
}

impl CallerIo {
    pub(crate) fn new(
        stream: TcpStream,
        established: SystemTime,
        patience: Duration,
        authority: Arc<AuthorityClock>,
    ) -> Self {
        let socket = Arc::new(SocketDigest::from_raw_fd(stream.as_raw_fd()));
        let stream = BufWriter::with_capacity(WRITE_BUFFER_BYTES, stream);
        let paused = authority.paused();
        Self { stream, socket, established, stalled: 0, patience, impatience: None, authority, paused }
    }

    /// Whether what is written may leave. Where the process stood still between the look at the call and here, it is looked
    /// at again first: the task that writes is woken for that.
    ///
    /// The pulse may have looked by now, and cut the call, while this thread still stood between the two: then the pause is
    /// known that was not when something was last written.
    fn poll_fresh(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let stood_still = self.authority.stood_still();
        let known = std::mem::replace(&mut self.paused, self.authority.paused());
        if !stood_still && known == self.paused {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives up on a caller that takes nothing for too long, whatever is written: the library's own limit knows bodies alone.
    fn within<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.impatience = None;
            return written;
        }
        let patience = self.patience;
        let timer = self.impatience.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for CallerIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(self.stream.get_mut()).poll_read(cx, out) {
            return Poll::Ready(read);
        }
        // The library flushes an answer of known length at its end alone; while it waits it listens for the caller. What
        // is buffered then would lie here for as long as the upstream pauses. One turn is left for the rest of a small
        // answer to come, so that it still leaves in one packet.
        let buffered = self.stream.buffer().len();
        if buffered > 0 && buffered == self.stalled {
            self.stalled = 0;
            ready!(self.poll_fresh(cx));
            if let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
        } else if buffered > 0 {
            self.stalled = buffered;
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl AsyncWrite for CallerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_fresh(cx));
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.within(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_fresh(cx));
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.within(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for CallerIo {
    async fn shutdown(&mut self) {
        // The peer may be gone already; there is nobody left to tell.
        let _ = self.stream.shutdown().await;
    }
}

impl Peek for CallerIo {}

impl UniqueID for CallerIo {
    fn id(&self) -> UniqueIDType {
        self.stream.get_ref().as_raw_fd()
    }
}

impl Ssl for CallerIo {}

impl GetTimingDigest for CallerIo {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest {
            established_ts: self.established,
            establishment_duration: None,
            offload_wait_duration: None,
        })]
    }
}

impl GetProxyDigest for CallerIo {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for CallerIo {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

/// A connection of which some bytes were read already; they are handed out before anything else is read.
#[derive(Debug)]
pub(crate) struct Ahead<S> {
    inner: S,
    ahead: Bytes,
}

impl<S> Ahead<S> {
    pub(crate) fn new(inner: S, ahead: Bytes) -> Self {
        Self { inner, ahead }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.has_remaining() {
            let length = self.ahead.len().min(out.remaining());
            out.put_slice(&self.ahead.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(cx, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl<S: Shutdown + Send> Shutdown for Ahead<S> {
    async fn shutdown(&mut self) {
        self.inner.shutdown().await;
    }
}

#[async_trait]
impl<S: AsyncRead + Send + Unpin> Peek for Ahead<S> {
    async fn try_peek(&mut self, out: &mut [u8]) -> io::Result<bool> {
        let length = self.read_exact(out).await?;
        let mut ahead = Vec::with_capacity(length + self.ahead.len());
        ahead.extend_from_slice(out);
        ahead.extend_from_slice(&self.ahead);
        self.ahead = ahead.into();
        Ok(true)
    }
}

impl<S: UniqueID> UniqueID for Ahead<S> {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl<S: Ssl> Ssl for Ahead<S> {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl<S: GetTimingDigest> GetTimingDigest for Ahead<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }
}

impl<S: GetProxyDigest> GetProxyDigest for Ahead<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner.get_proxy_digest()
    }
}

impl<S: GetSocketDigest> GetSocketDigest for Ahead<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Read as _;

    use super::*;
    use crate::domain::Timestamp;
    use crate::domain::clock::ManualClock;
    use crate::gateway::authority::MAX_TICK_GAP;

    fn authority() -> Arc<AuthorityClock> {
        AuthorityClock::new(Arc::new(crate::clock::SystemClock), crate::gateway::authority::Memory::volatile())
    }

    #[tokio::test]
    async fn a_pause_that_somebody_else_noticed_first_is_looked_at_before_more_is_written() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _caller = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix_seconds(1_000)));
        let authority = AuthorityClock::new(clock.clone(), crate::gateway::authority::Memory::volatile());
        let mut io = CallerIo::new(stream, SystemTime::UNIX_EPOCH, Duration::MAX, authority.clone());
        let mut writes = async || poll_fn(|cx| Poll::Ready(Pin::new(&mut io).poll_write(cx, b"x").is_ready())).await;
        assert!(writes().await);
        // The process stood still while this task was about to write, and the pulse came first.
        clock.advance(MAX_TICK_GAP * 2);
        authority.tick();
        authority.looked(authority.coarse());
        assert!(!writes().await, "the call is looked at first");
        assert!(writes().await);
    }

    /// One look for what the caller sends: nothing, as it waits for its answer.
    async fn listens(io: &mut CallerIo) {
        let mut space = [0; 16];
        poll_fn(|cx| {
            let mut out = ReadBuf::new(&mut space);
            assert!(Pin::new(&mut *io).poll_read(cx, &mut out).is_pending());
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_small_answer_leaves_in_one_piece_and_half_of_one_is_not_held() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut caller = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        caller.set_nonblocking(true).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut io = CallerIo::new(stream, SystemTime::UNIX_EPOCH, Duration::MAX, authority());
        let mut space = [0; 64];
        let mut seen =
            || caller.read(&mut space).map_or(String::new(), |read| space[..read].escape_ascii().to_string());
        io.write_all(b"head").await.unwrap();
        listens(&mut io).await;
        assert_eq!(seen(), "", "the rest may follow at once");
        io.write_all(b" and body").await.unwrap();
        listens(&mut io).await;
        assert_eq!(seen(), "", "it did, and more may");
        io.flush().await.unwrap();
        assert_eq!(seen(), "head and body");
        io.write_all(b"half").await.unwrap();
        listens(&mut io).await;
        listens(&mut io).await;
        assert_eq!(seen(), "half", "nothing came for a whole turn");
        listens(&mut io).await;
        assert_eq!(seen(), "");
    }
}
