//! A caller's connection as the library wants it: our TCP stream with a small write buffer, no read buffer, and the bytes
//! that were read ahead to tell HTTP/1.1 from HTTP/2.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::TcpStream;

/// One segment on most networks: a head and a short body leave in one packet.
const WRITE_BUFFER_BYTES: usize = 1460;

/// A caller's TCP connection.
#[derive(Debug)]
pub(crate) struct CallerIo {
    stream: BufWriter<TcpStream>,
    /// Read ahead; handed out before anything else is read.
    ahead: Bytes,
    socket: Arc<SocketDigest>,
    established: SystemTime,
}

impl CallerIo {
    pub(crate) fn new(stream: TcpStream, established: SystemTime) -> Self {
        let socket = Arc::new(SocketDigest::from_raw_fd(stream.as_raw_fd()));
        Self { stream: BufWriter::with_capacity(WRITE_BUFFER_BYTES, stream), ahead: Bytes::new(), socket, established }
    }

    /// Gives back bytes that were read.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        self.ahead = bytes;
    }
}

impl AsyncRead for CallerIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.has_remaining() {
            let length = self.ahead.len().min(out.remaining());
            out.put_slice(&self.ahead.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Pin::new(self.stream.get_mut()).poll_read(cx, out)
    }
}

impl AsyncWrite for CallerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
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

#[async_trait]
impl Peek for CallerIo {
    async fn try_peek(&mut self, out: &mut [u8]) -> io::Result<bool> {
        let length = self.read_exact(out).await?;
        let mut ahead = Vec::with_capacity(length + self.ahead.len());
        ahead.extend_from_slice(out);
        ahead.extend_from_slice(&self.ahead);
        self.ahead = ahead.into();
        Ok(true)
    }
}

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
