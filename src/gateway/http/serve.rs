//! Connections: TLS, HTTP/1.1 or HTTP/2, and the loop that reads one head after another.

use std::fmt::Display;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::HeaderName;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ServerApp};
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::tls::{ALPN, TlsStream};
use pingora_core::protocols::{Ssl as _, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, http_proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::gate::Gate;
use super::head::{HeadReader, Message, Verdict};
use super::hooks::Hooks;
use super::io::{Ahead, CallerIo};
use super::lent::{Exchange, Lent};
use crate::domain::Reason;
use crate::gateway::accept::Fault;
use crate::gateway::connection::{ClientCertificate, Connection};
use crate::gateway::refusal::{Answer, Dialect, Refusal};
use crate::gateway::tls::TlsListener;
use crate::gateway::worker::Worker;

/// The connection preface of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Connections to upstreams that one worker keeps: a pool of four doubled the cost of a call.
const UPSTREAM_POOL: usize = 512;
/// One try, and one more when a kept connection had gone stale.
const MAX_TRIES: usize = 2;
/// What is read from a refused caller, so that closing does not destroy the answer on its way: a head of a megabyte, too.
const LINGER_BYTES: usize = 2 * 1024 * 1024;
const LINGER_LIMIT: Duration = Duration::from_millis(500);
const MISFRAMED: Fault = Fault::malformed("what follows the head is not framed in the one way");
/// What is read at a time.
const READ_BYTES: usize = 4096;

/// The HTTP engine of one worker, with its own pool of upstream connections.
pub(crate) struct Engine {
    worker: Arc<Worker>,
    proxy: Arc<HttpProxy<Hooks>>,
}

/// What a connection's first bytes are.
enum First {
    Http1(Message),
    Http2,
}

/// What may come next on a connection.
#[derive(Clone, Copy)]
enum Expect {
    /// The first bytes of a plain connection: HTTP/1.1 or HTTP/2.
    Preface,
    /// The first head of a connection that is HTTP/1.1.
    FirstHead,
    /// The next head of a kept connection.
    NextHead,
}

/// Why no head came.
enum NoHead {
    /// The caller is gone, or may go: nothing was said.
    Closed,
    /// It was bad.
    Refused(Fault),
}

/// A deadline that moves with each head. One timer for all of them: it is set anew when it fires too early, which costs
/// nothing while calls follow each other.
struct Deadline {
    at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    fn after(patience: Duration) -> Self {
        let at = Instant::now() + patience;
        Self { at, timer: Box::pin(tokio::time::sleep_until(at)) }
    }

    fn set(&mut self, patience: Duration) {
        self.at = Instant::now() + patience;
        if self.at < self.timer.deadline() {
            self.timer.as_mut().reset(self.at);
        }
    }

    async fn passed(&mut self) {
        loop {
            self.timer.as_mut().await;
            if self.timer.deadline() >= self.at {
                return;
            }
            self.timer.as_mut().reset(self.at);
        }
    }
}

impl Engine {
    pub(crate) fn new(worker: Arc<Worker>) -> Self {
        let conf = ServerConf {
            threads: 1,
            upstream_keepalive_pool_size: UPSTREAM_POOL,
            max_retries: MAX_TRIES,
            ..ServerConf::default()
        };
        let proxy = Arc::new(http_proxy(&Arc::new(conf), Hooks::new(worker.clone())));
        Self { worker, proxy }
    }

    pub(crate) fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    /// Wakes idle HTTP/2 connections so that they can end.
    pub(crate) async fn drain(&self) {
        use pingora_core::apps::HttpServerApp as _;
        self.proxy.http_cleanup().await;
    }

    /// Serves a connection to its end.
    pub(crate) async fn serve(
        &self,
        tcp: TcpStream,
        tls: Option<Arc<TlsListener>>,
        shutdown: ShutdownWatch,
    ) -> std::io::Result<()> {
        let peer = tcp.peer_addr()?;
        tcp.set_nodelay(true)?;
        let established = std::time::UNIX_EPOCH
            + Duration::from_micros(u64::try_from(self.worker.shared.clock.now().unix_micros()).unwrap_or(0));
        let shared = &self.worker.shared;
        let mut io = CallerIo::new(tcp, established, shared.limits.idle_timeout, shared.authority.clone());
        let mut deadline = Deadline::after(self.worker.shared.limits.head_deadline);
        let Some(listener) = tls else {
            let connection = Arc::new(Connection::anonymous(peer));
            let mut bytes = BytesMut::with_capacity(READ_BYTES);
            match self.read_head(&mut io, &mut bytes, Expect::Preface, &mut deadline, &mut shutdown.clone()).await {
                Ok(First::Http2) => {
                    self.serve_http2(Box::new(Ahead::new(io, bytes.freeze())), connection, &shutdown).await;
                }
                Ok(First::Http1(message)) => {
                    self.serve_http1(Box::new(io), bytes, message, connection, deadline, shutdown).await;
                }
                Err(NoHead::Refused(fault)) => self.refuse(&mut io, &connection, fault).await,
                Err(NoHead::Closed) => {}
            }
            return Ok(());
        };
        let Some((mut stream, connection)) = self.handshake(io, &listener, peer).await else {
            self.worker.metrics.connection_refused();
            return Ok(());
        };
        let mut bytes = BytesMut::with_capacity(READ_BYTES);
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            // Our deadline, not the library's, which has none: silence must not hold a connection.
            if let Ok(First::Http2) =
                self.read_head(&mut stream, &mut bytes, Expect::Preface, &mut deadline, &mut shutdown.clone()).await
            {
                self.serve_http2(Box::new(Ahead::new(stream, bytes.freeze())), connection, &shutdown).await;
            }
            return Ok(());
        }
        let mut stream: Stream = Box::new(stream);
        match self.read_head(&mut stream, &mut bytes, Expect::FirstHead, &mut deadline, &mut shutdown.clone()).await {
            Ok(First::Http2) => {}
            Ok(First::Http1(message)) => {
                self.serve_http1(stream, bytes, message, connection, deadline, shutdown).await;
            }
            Err(NoHead::Refused(fault)) => self.refuse(&mut stream, &connection, fault).await,
            Err(NoHead::Closed) => {}
        }
        Ok(())
    }

    /// Who is at the other end of a connection over TLS. `None`: nobody who comes in.
    async fn handshake(
        &self,
        io: CallerIo,
        listener: &Arc<TlsListener>,
        peer: SocketAddr,
    ) -> Option<(TlsStream<CallerIo>, Arc<Connection>)> {
        let refused = |what: &str, error: &dyn Display| tracing::debug!(%peer, %error, "{what}");
        let current = listener.current();
        let handshake = Acceptor::from_server_config(current.config.clone());
        let patience = self.worker.shared.limits.handshake_deadline;
        let done = tokio::time::timeout(patience, handshake.tls_handshake(io)).await;
        let done = done.inspect_err(|late| refused("a TLS handshake took too long", late)).ok()?;
        let stream = done.inspect_err(|error| refused("a TLS handshake failed", error)).ok()?;
        let tls = stream.get_ssl()?;
        let named = tls.server_name().filter(|_| listener.holds_to_names());
        let name = named.map(str::parse).transpose().inspect_err(|error| refused("a server name was refused", error));
        let name = name.ok()?;
        let chain = tls.peer_cert_chain_der().map(<[_]>::to_vec);
        // The verifier has read the same leaf, so this fails for nobody who came through it.
        let leaf = chain.as_ref().and_then(|chain| chain.first());
        let certificate = leaf.map(|leaf| ClientCertificate::of_leaf(leaf)).transpose();
        let certificate = certificate.inspect_err(|error| refused("a client certificate was refused", error)).ok()?;
        let client = chain.map(|chain| self.worker.shared.tls.enter(listener, &current, chain));
        // The old configuration goes when its last handshake is over, not with the connection.
        drop(current);
        Some((stream, Arc::new(Connection::of(peer, name, certificate, client))))
    }

    fn gate(&self, connection: Arc<Connection>, exchange: Option<Arc<Exchange>>) -> Arc<Gate> {
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(self.worker.shared.limits.idle_timeout);
        Arc::new(Gate {
            proxy: self.proxy.clone(),
            connection,
            options,
            limits: self.worker.shared.limits,
            metrics: self.worker.metrics.clone(),
            exchange,
            shared: self.worker.shared.clone(),
        })
    }

    async fn serve_http2(&self, stream: Stream, connection: Arc<Connection>, shutdown: &ShutdownWatch) {
        self.gate(connection, None).process_new(stream, shutdown).await;
    }

    /// `bytes` holds an approved head and perhaps the beginning of its body.
    async fn serve_http1(
        &self,
        stream: Stream,
        mut bytes: BytesMut,
        mut message: Message,
        connection: Arc<Connection>,
        mut deadline: Deadline,
        mut shutdown: ShutdownWatch,
    ) {
        let exchange = Arc::<Exchange>::default();
        let gate = self.gate(connection.clone(), Some(exchange.clone()));
        let mut lent = Box::new(Lent::new(stream, exchange.clone()));
        let keep = self.worker.shared.limits.idle_timeout.as_secs().max(1);
        let mut settings: Option<HttpPersistentSettings> = None;
        loop {
            if lent.begin(message, &mut bytes).is_err() {
                return self.refuse(&mut lent, &connection, MISFRAMED).await;
            }
            let mut session = ServerSession::new_http1(lent);
            session.set_keepalive((!*shutdown.borrow()).then_some(keep));
            if let Some(settings) = settings.take() {
                settings.apply_to_session(&mut session);
            }
            // The library parses exactly these bytes and reads nothing before them. What comes behind the message waits
            // in `lent` until the answer is whole: a second head would reach the library unchecked.
            session.set_pipelined_prefix(std::mem::take(&mut bytes));
            let Some(reused) = gate.process_new_http(session, &shutdown).await else {
                if let Some((mut stream, refusal)) = exchange.unanswered() {
                    turn_away(&mut stream, &refusal).await;
                }
                return;
            };
            let (stream, kept) = reused.consume();
            let Ok(back) = stream.into_any().downcast() else { return };
            (lent, settings) = (back, kept);
            lent.end();
            bytes.reserve(READ_BYTES);
            match self.read_head(&mut lent, &mut bytes, Expect::NextHead, &mut deadline, &mut shutdown).await {
                Ok(First::Http1(next)) => message = next,
                Ok(First::Http2) | Err(NoHead::Closed) => return,
                Err(NoHead::Refused(fault)) => return self.refuse(&mut lent, &connection, fault).await,
            }
        }
    }

    /// Reads one head. On the first of a plain connection, also tells HTTP/2 by its preface.
    async fn read_head(
        &self,
        io: &mut (impl AsyncReadExt + Unpin),
        bytes: &mut BytesMut,
        expect: Expect,
        deadline: &mut Deadline,
        shutdown: &mut ShutdownWatch,
    ) -> Result<First, NoHead> {
        let limits = &self.worker.shared.limits;
        let mut reader = HeadReader::new(limits.max_head_bytes);
        let patience = match expect {
            Expect::Preface | Expect::FirstHead => limits.head_deadline,
            Expect::NextHead => limits.idle_timeout,
        };
        let first = matches!(expect, Expect::Preface);
        deadline.set(patience);
        let mut begun = false;
        loop {
            let preface = first && (PREFACE.starts_with(bytes) || bytes.starts_with(PREFACE));
            if preface && bytes.len() >= PREFACE.len() {
                return Ok(First::Http2);
            }
            if !preface {
                match reader.read(bytes) {
                    Verdict::Whole => return Ok(First::Http1(reader.message())),
                    Verdict::Refused(fault) => return Err(NoHead::Refused(fault)),
                    Verdict::Partial => {}
                }
            }
            if !bytes.is_empty() && !begun {
                begun = true;
                deadline.set(limits.head_deadline);
            }
            bytes.reserve(READ_BYTES);
            tokio::select! {
                biased;
                read = io.read_buf(bytes) => match read {
                    Ok(count) if count > 0 => {}
                    _ => return Err(NoHead::Closed),
                },
                _ = shutdown.changed(), if !begun => return Err(NoHead::Closed),
                () = deadline.passed() => {
                    let slow = Fault { reason: Reason::RequestTimeout, detail: "the head did not arrive in time" };
                    return Err(if begun { NoHead::Refused(slow) } else { NoHead::Closed });
                }
            }
        }
    }

    /// Answers a head that was not accepted, and closes.
    async fn refuse(
        &self,
        io: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
        connection: &Connection,
        fault: Fault,
    ) {
        let call = self.worker.next_call(self.worker.shared.clock.now());
        tracing::debug!(peer = %connection.peer, reason = %fault.reason, detail = fault.detail, "a request was refused");
        self.worker.metrics.refused(fault.reason);
        if fault.reason == Reason::HeadTooLarge {
            self.worker.metrics.head_limit_hit();
        }
        self.worker.shared.refusals.note(fault.reason, connection.peer, "", "");
        turn_away(io, &Refusal::new(fault.reason, call)).await;
    }
}

/// Answers a caller whose connection ends here, and closes it.
async fn turn_away(io: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), refusal: &Refusal) {
    let bytes = http1(&refusal.answer(Dialect::Http));
    let linger = async {
        io.write_all(&bytes).await?;
        io.flush().await?;
        io.shutdown().await?;
        let mut sink = [0; READ_BYTES];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match io.read(&mut sink).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        std::io::Result::Ok(())
    };
    // Whether the caller still listens is its own affair.
    let _ = tokio::time::timeout(LINGER_LIMIT, linger).await;
}

/// An answer in HTTP/1.1's own bytes, closing the connection.
fn http1(answer: &Answer) -> Vec<u8> {
    let status = http::StatusCode::from_u16(answer.status).unwrap_or(http::StatusCode::BAD_REQUEST);
    let mut bytes =
        format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or("Refused")).into_bytes();
    let length = answer.body.len().to_string();
    let ours = [("content-length", length.as_str()), ("connection", "close")];
    for (name, value) in answer.headers.iter().map(|(n, v)| (*n, v.as_str())).chain(ours) {
        // Our own constants and table texts: a name or value that is none never gets here.
        if HeaderName::from_bytes(name.as_bytes()).is_ok() && http::HeaderValue::from_str(value).is_ok() {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&answer.body);
    bytes
}
