//! Workers: a thread each, with its own runtime, its own listeners and its own pool of upstream connections.
//!
//! Nothing is stolen and nothing waits for a neighbour. What workers share is read without locks, or written under one that
//! nobody holds for long.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::address_limit::Place;
use super::credential::Minter;
use super::http::Engine;
use super::live::Verdict;
use super::metrics::WorkerMetrics;
use super::tls::TlsListener;
use super::upstream::{Links, Resolver, Targets};
use super::{GatewayError, Shared};
use crate::domain::name::CallId;
use crate::domain::{Reason, Timestamp};
use crate::evidence::journal::WorkerWaiters;

/// Connections that may wait to be accepted, per listener.
const BACKLOG: i32 = 1024;
/// After a failed accept (no file descriptors left) nothing is gained by trying at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What cut calls have at the end of a drain, to write down how they ended.
const CUT_WITHIN: Duration = Duration::from_secs(1);

/// What one worker has of its own.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) minter: Minter,
    pub(crate) resolver: Resolver,
    pub(crate) targets: Targets,
    pub(crate) links: Arc<Links>,
    /// Hashes what keeps pooled connections apart.
    pub(crate) groups: ahash::RandomState,
    pub(crate) waiters: WorkerWaiters,
    pub(crate) metrics: Arc<WorkerMetrics>,
    call_base: u64,
    call_count: AtomicU64,
}

impl Worker {
    /// The identifier of a call that begins now: the time, and 80 bits that no other worker or process uses.
    pub(crate) fn next_call(&self, now: Timestamp) -> CallId {
        let count = self.call_count.fetch_add(1, Ordering::Relaxed);
        let random = (u128::from(self.call_base) << 24) ^ u128::from(count);
        CallId::new(now, random)
    }
}

/// A listener of one worker.
pub(crate) struct Listening {
    socket: std::net::TcpListener,
    tls: Option<Arc<TlsListener>>,
}

impl Listening {
    /// Binds `address`, which other workers bind as well. Port 0 picks one; the address in use is
    /// [`Listening::address`].
    pub(crate) fn bind(address: SocketAddr, tls: Option<Arc<TlsListener>>) -> Result<Self, GatewayError> {
        let failed = |source| GatewayError::Bind { address, source };
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).map_err(failed)?;
        socket.set_reuse_address(true).map_err(failed)?;
        socket.set_reuse_port(true).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        socket.bind(&address.into()).map_err(failed)?;
        socket.listen(BACKLOG).map_err(failed)?;
        Ok(Self { socket: socket.into(), tls })
    }

    /// The address in use.
    pub(crate) fn address(&self) -> Result<SocketAddr, GatewayError> {
        self.socket.local_addr().map_err(GatewayError::Runtime)
    }
}

/// A running worker.
#[derive(Debug)]
pub(crate) struct Handle {
    thread: std::thread::JoinHandle<()>,
}

impl Handle {
    /// Waits for its end.
    pub(crate) fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("a worker ended in a panic");
        }
    }
}

/// Starts a worker. It stops accepting when `shutdown` turns true, and ends when its connections have, or after `drain`.
pub(crate) fn start(
    index: usize,
    shared: Arc<Shared>,
    listeners: Vec<Listening>,
    shutdown: watch::Receiver<bool>,
    drain: Duration,
) -> Result<Handle, GatewayError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(GatewayError::Runtime)?;
    let mut base = [0; 8];
    aws_lc_rs::rand::fill(&mut base).map_err(|_| GatewayError::Random)?;
    let work = move || {
        runtime.block_on(async move {
            let (waiters, waking) = WorkerWaiters::new(&shared.journal);
            tokio::spawn(waking);
            let worker = Arc::new(Worker {
                index,
                minter: Minter::new(
                    shared.upstream_key.clone(),
                    shared.issuer.clone(),
                    shared.registry.handed().clone(),
                ),
                resolver: Resolver::new(shared.clock.clone(), shared.reach.clone()),
                targets: Targets::default(),
                links: Arc::default(),
                groups: ahash::RandomState::new(),
                waiters,
                metrics: shared.metrics.worker(index),
                call_base: u64::from_ne_bytes(base) >> 8,
                call_count: AtomicU64::new(0),
                shared,
            });
            let ending = worker.shared.clone();
            tokio::spawn(async move {
                let Shared { registry, authority, .. } = &*ending;
                registry.keep_ends(index, || authority.reckoning()).await;
            });
            run(worker, listeners, shutdown, drain).await;
        });
    };
    let thread =
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(work).map_err(GatewayError::Runtime)?;
    Ok(Handle { thread })
}

async fn run(worker: Arc<Worker>, listeners: Vec<Listening>, mut shutdown: watch::Receiver<bool>, drain: Duration) {
    let engine = Arc::new(Engine::new(worker.clone()));
    let open = Arc::new(AtomicUsize::new(0));
    let mut accepting = tokio::task::JoinSet::new();
    for listening in listeners {
        match TcpListener::from_std(listening.socket) {
            Ok(listener) => {
                accepting.spawn(accept(listener, listening.tls, engine.clone(), open.clone(), shutdown.clone()));
            }
            Err(error) => tracing::error!(%error, "a listener could not be used"),
        }
    }
    // A dropped sender is a process that ends.
    let _ = shutdown.wait_for(|stop| *stop).await;
    while accepting.join_next().await.is_some() {}
    engine.drain().await;
    if empty(&worker, &open, drain).await {
        return;
    }
    let left = open.load(Ordering::Acquire);
    tracing::warn!(worker = worker.index, connections = left, "connections were still open at the end of the drain");
    // Cut rather than dropped with the runtime: so the records say who ended them.
    let cut = worker.shared.registry.review(|_| Verdict::Cut(Reason::Draining));
    if !cut.is_empty() {
        empty(&worker, &open, CUT_WITHIN).await;
    }
}

/// Waits until no connection is open: whether that came true in time.
async fn empty(worker: &Worker, open: &AtomicUsize, within: Duration) -> bool {
    let gone = async {
        loop {
            let changed = worker.shared.connections_changed.notified();
            if open.load(Ordering::Acquire) == 0 {
                break;
            }
            changed.await;
        }
    };
    tokio::time::timeout(within, gone).await.is_ok()
}

/// Counts a connection for as long as it lives.
struct Open {
    open: Arc<AtomicUsize>,
    worker: Arc<Worker>,
    /// Among those of its address.
    place: Option<Place>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.worker.shared.connections.fetch_sub(1, Ordering::AcqRel);
        self.worker.shared.connections_changed.notify_waiters();
        self.worker.metrics.connection_closed();
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<Arc<TlsListener>>,
    engine: Arc<Engine>,
    open: Arc<AtomicUsize>,
    shutdown: watch::Receiver<bool>,
) {
    let mut stop = shutdown.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => serve(tcp, peer, tls.clone(), &engine, &open, shutdown.clone()),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn serve(
    tcp: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<TlsListener>>,
    engine: &Arc<Engine>,
    open: &Arc<AtomicUsize>,
    shutdown: watch::Receiver<bool>,
) {
    let worker = engine.worker();
    let shared = &worker.shared;
    let count = shared.connections.fetch_add(1, Ordering::AcqRel);
    open.fetch_add(1, Ordering::AcqRel);
    worker.metrics.connection_opened();
    let mut counted = Open { open: open.clone(), worker: worker.clone(), place: None };
    if count >= shared.limits.max_connections {
        // Closed at once: an answer would cost what the limit is there to save.
        worker.metrics.connection_refused();
        return;
    }
    counted.place = shared.addresses.take(peer.ip());
    if counted.place.is_none() {
        worker.metrics.connection_refused();
        worker.metrics.address_limit_hit();
        return;
    }
    let engine = engine.clone();
    tokio::spawn(async move {
        let _counted = counted;
        if let Err(error) = engine.serve(tcp, tls, shutdown).await {
            tracing::debug!(%error, "a connection ended");
        }
    });
}
