//! Connections to upstreams, as the library wants them.
//!
//! Plain ones are the library's own, with sockets that keep nothing back when they are closed. For TLS it gets one end of a socket pair; the other end is pumped to a TLS connection
//! of ours: the library's own TLS towards upstreams knows no SPIFFE ID, and verifies nothing when a name is empty.
//!
//! INVARIANT: to the library such a connection has no address, so its pool keeps connections apart by `group_key` alone.
//! That is a hash of the target's number and the address.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use http::uri::{PathAndQuery, Scheme};
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr as AnyAddress;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use socket2::SockRef;
use tokio::io::{AsyncWriteExt as _, Interest, WriteHalf, copy};
use tokio::net::unix::ReadHalf;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::domain::Reason;
use crate::domain::route::RouteSpec;
use crate::gateway::upstream::{Link, Links, Target};
use crate::gateway::worker::Worker;

/// Kept connections to upstreams are closed after this long without a call.
const UPSTREAM_IDLE: Duration = Duration::from_secs(60);
/// Calls at a time on one HTTP/2 connection to an upstream, which may allow fewer. More make another connection.
const UPSTREAM_STREAMS: usize = 100;
/// What an upstream has to take the last bytes of a connection that is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// How often a connection whose upstream does not read is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What is carried at a time.
const PUMP_BYTES: usize = 8 * 1024;

/// What the library does to a socket before it connects.
type SocketHook = Arc<dyn Fn(&TcpSocket) -> Result<()> + Send + Sync>;

/// A plain connection that is closed takes what the kernel has not sent yet with it: of a call that was cut, nothing leaves
/// any more. One that is closed at rest is reset, too, and leaves no TIME_WAIT behind.
static UNLINGERING: LazyLock<SocketHook> = LazyLock::new(|| {
    Arc::new(|socket| {
        socket.set_zero_linger().map_err(|error| Error::because(ErrorType::SocketError, "a socket's linger", error))
    })
});

/// Where a call of `route` goes.
///
/// # Errors
/// Why there is no such place.
pub(super) async fn peer(worker: &Worker, route: &RouteSpec) -> std::result::Result<Box<HttpPeer>, Reason> {
    let upstream = &route.upstream;
    let address = worker.resolver.resolve(upstream).await?;
    let limits = &worker.shared.limits;
    let mut peer = if upstream.tls {
        let target = worker.targets.of(&worker.shared.upstream_trust, route).map_err(|error| {
            tracing::error!(%upstream, %error, "the upstream cannot be called");
            Reason::UpstreamUnreachable
        })?;
        let group = worker.groups.hash_one((target.number, address));
        // This address is the one that the library does not compare with the socket's.
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, upstream.port));
        let mut peer = HttpPeer::new(nowhere, false, String::new());
        peer.group_key = group;
        let limit = limits.upstream_connect_timeout;
        peer.options.custom_l4 = Some(Arc::new(Dialer { target, address, limit, links: worker.links.clone() }));
        peer
    } else {
        let name = upstream.host.as_str().trim_start_matches('[').trim_end_matches(']');
        let mut peer = HttpPeer::new(address, false, name.to_owned());
        peer.options.upstream_tcp_sock_tweak_hook = Some(UNLINGERING.clone());
        peer
    };
    if route.protocol.is_http2() {
        peer.options.set_http_version(2, 2);
        peer.options.max_h2_streams = UPSTREAM_STREAMS;
    }
    peer.options.connection_timeout = Some(limits.upstream_connect_timeout);
    peer.options.total_connection_timeout = Some(limits.upstream_connect_timeout);
    peer.options.read_timeout = limits.upstream_read_timeout;
    // An upstream that takes nothing for as long as a caller may be silent is not there.
    peer.options.write_timeout = Some(limits.idle_timeout);
    peer.options.idle_timeout = Some(UPSTREAM_IDLE);
    Ok(Box::new(peer))
}

/// Names the upstream in a request for it: in `Host`, or for HTTP/2 over TLS in the target.
pub(super) fn name(request: &mut RequestHeader, route: &RouteSpec, authority: &str) -> Result<()> {
    if route.protocol.is_http2() {
        // True of every route over HTTP/2, and servers of gRPC want it said.
        request.insert_header("TE", "trailers")?;
    }
    if !(route.protocol.is_http2() && route.upstream.tls) {
        return request.insert_header("Host", authority);
    }
    // From a `Host` the library would make `:scheme: http`, since to it the connection is plain. Some servers refuse that.
    let path = request.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let uri = http::Uri::builder().scheme(Scheme::HTTPS).authority(authority).path_and_query(path).build();
    request.remove_header("Host");
    request.set_uri(uri.map_err(|error| Error::because(ErrorType::InternalError, "the upstream's name", error))?);
    Ok(())
}

/// Opens verified connections to one target at one address.
#[derive(Debug)]
struct Dialer {
    target: Arc<Target>,
    address: SocketAddr,
    limit: Duration,
    links: Arc<Links>,
}

impl Dialer {
    async fn dial(&self) -> Result<TlsStream<TcpStream>> {
        let Target { config, name, protocol, .. } = &*self.target;
        let tcp = TcpStream::connect(self.address)
            .await
            .map_err(|error| Error::because(ErrorType::ConnectError, "connecting", error))?;
        // A connection without it is slower, and a connection.
        let _ = tcp.set_nodelay(true);
        let tls = TlsConnector::from(config.clone()).connect(name.clone(), tcp).await.map_err(|error| {
            tracing::warn!(address = %self.address, name = ?name, %error, "the TLS handshake with an upstream failed");
            Error::because(ErrorType::TLSHandshakeFailure, "verifying", error)
        })?;
        if protocol.is_http2() && tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            tracing::warn!(address = %self.address, name = ?name, "an upstream does not speak HTTP/2");
            return Error::e_explain(ErrorType::TLSHandshakeFailure, "the upstream does not speak HTTP/2");
        }
        Ok(tls)
    }
}

#[async_trait]
impl Connect for Dialer {
    async fn connect(&self, _address: &AnyAddress) -> Result<Stream> {
        let far = tokio::time::timeout(self.limit, self.dial())
            .await
            .map_err(|_| Error::explain(ErrorType::ConnectTimedout, "connecting took too long"))??;
        let (ours, near) =
            UnixStream::pair().map_err(|error| Error::because(ErrorType::SocketError, "a socket pair", error))?;
        tokio::spawn(pump(near, far, self.links.begin(ours.as_raw_fd())));
        Ok(ours.into())
    }
}

/// Carries bytes both ways until either side ends, and then ends the other: a call that is cut leaves no connection
/// behind, whatever its upstream does. The library never closes half of a connection: when its end is gone, nobody waits
/// for an answer, and what it had written has [`CLOSE_LIMIT`] to leave; of a call that was cut, nothing leaves.
async fn pump(mut near: UnixStream, far: TlsStream<TcpStream>, link: Arc<Link>) {
    let (near_read, mut near_write) = near.split();
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let ended = {
        let mut downward = pin!(copy(&mut far_read, &mut near_write));
        tokio::select! {
            ended = upward(&near_read, &mut far_write, &link) => match ended {
                Ok(()) => Ok(()),
                // An upstream that takes no more may have said why.
                Err(error) => {
                    let _ = tokio::time::timeout(CLOSE_LIMIT, &mut downward).await;
                    Err(error)
                }
            },
            ended = &mut downward => ended.map(drop).inspect_err(|_| link.truncate()),
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to an upstream ended");
    }
    if link.is_abandoned() {
        // What the kernel has not sent yet goes, too.
        let far = far_read.unsplit(far_write);
        let _ = SockRef::from(far.get_ref().0).set_linger(Some(Duration::ZERO));
        return;
    }
    // Politeness: the upstream learns from the closing socket, too.
    let _ = tokio::time::timeout(CLOSE_LIMIT, far_write.shutdown()).await;
}

/// From the library to the upstream, until the library's end is gone.
async fn upward(near: &ReadHalf<'_>, far: &mut WriteHalf<TlsStream<TcpStream>>, link: &Link) -> io::Result<()> {
    let mut bytes = vec![0; PUMP_BYTES];
    loop {
        near.ready(Interest::READABLE).await?;
        let count = match near.try_read(&mut bytes) {
            // INVARIANT: a call is abandoned before the library lets go of its connection.
            _ if link.is_abandoned() => return Ok(()),
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let mut write = pin!(async {
            far.write_all(bytes.get(..count).unwrap_or_default()).await?;
            far.flush().await
        });
        tokio::select! {
            written = &mut write => written?,
            // An upstream that does not read must not keep what nobody wants any more.
            () = link.abandoned() => return Ok(()),
            () = gone(near) => {
                if link.is_abandoned() {
                    return Ok(());
                }
                match tokio::time::timeout(CLOSE_LIMIT, write).await {
                    Ok(written) => written?,
                    Err(_) => return Ok(()),
                }
            }
        }
    }
}

/// Resolves when the library's end is gone, within [`LOOK_EVERY`]: bytes that wait to be read hide it from a waker.
async fn gone(near: &ReadHalf<'_>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Some(Ok(ready)) = near.ready(Interest::READABLE).now_or_never()
            && ready.is_read_closed()
        {
            return;
        }
    }
}
