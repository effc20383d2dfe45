//! The gate around one call: the library's work raced against the call's cut.
//!
//! Dropping the library's future is how a call is cut. It closes both sides, neither connection goes back to a pool, and
//! an HTTP/2 neighbour notices nothing. The record of the outcome is written by the drop of what the call holds.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use tokio::time::{Instant, Sleep};

use super::hooks::Hooks;
use super::lent::Exchange;
use crate::domain::Reason;
use crate::domain::name::CallId;
use crate::evidence::entry::Ended;
use crate::gateway::Shared;
use crate::gateway::connection::Connection;
use crate::gateway::live::Cut;
use crate::gateway::metrics::WorkerMetrics;
use crate::gateway::refusal::Refusal;
use crate::gateway::upstream::Link;
use crate::settings::gateway::GatewayLimits;

/// Streams that a caller opened and reset before the gate saw them, and streams that the gate reset and still remembers.
/// One more is an attack (rapid reset, CVE-2023-44487): GOAWAY, and the connection ends.
const MAX_RESETS_PENDING: usize = 20;
const MAX_RESETS_REMEMBERED: usize = 50;
/// Streams that the gate had to reset for what the caller sent on them (MadeYouReset, CVE-2025-8671), in a connection's
/// whole life.
const MAX_RESETS_FORCED: usize = 100;
/// What one stream holds for a caller that reads slowly. The library's own 400 KiB would be 40 MiB per connection.
const STREAM_SEND_BYTES: usize = 64 * 1024;
/// What a caller may send that nobody has read yet: on one stream, and on a connection.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024 - 1;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

tokio::task_local! {
    /// The call that the current task works on.
    static CALL: Arc<CallSlot>;
}

/// What the race and the hooks of one call share.
pub(super) struct CallSlot {
    pub(super) connection: Arc<Connection>,
    pub(super) cut: Arc<Cut>,
    /// Once set, a cut drops the call; before, the pipeline still answers the caller itself.
    forwarding: OnceLock<CallId>,
    /// The HTTP/1.1 connection that the library has; HTTP/2 frames bodies without chunks.
    exchange: Option<Arc<Exchange>>,
    /// While the caller's body is awaited and no answer has begun.
    awaited: Mutex<Option<Awaited>>,
    /// How the call ended, when its body did not go on.
    stalled: OnceLock<(Ended, Reason)>,
    /// Of a call over HTTP/1.1 to an upstream over TLS: it has the connection for itself.
    link: Mutex<Option<Arc<Link>>>,
    /// Whether the caller's connection ends with this call.
    last: AtomicBool,
    /// The caller's session, when the library had a replaying one in its place and is done with it.
    given_back: Mutex<Option<Box<ServerSession>>>,
}

/// A body that has to go on.
struct Awaited {
    /// When something of it came last.
    heard: Instant,
    limit: Duration,
    ending: (Ended, Reason),
}

impl CallSlot {
    /// The slot of the current task's call. `None` outside of one, which no hook is.
    pub(super) fn current() -> Option<Arc<Self>> {
        CALL.try_with(Clone::clone).ok()
    }

    /// From now on a cut drops the call.
    pub(super) fn forward(&self, call: CallId) {
        self.forwarding.get_or_init(|| call);
    }

    /// The caller's connection ends with this call.
    pub(super) fn close(&self) {
        self.last.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_last(&self) -> bool {
        self.last.load(Ordering::Relaxed)
    }

    /// A body is awaited: when nothing of it comes for `limit`, the call ends like this.
    pub(super) fn awaits_body(&self, limit: Duration, ending: (Ended, Reason)) {
        *self.awaited.lock() = Some(Awaited { heard: Instant::now(), limit, ending });
    }

    /// Some of it came, or its end.
    pub(super) fn has_heard(&self, end: bool) {
        let mut awaited = self.awaited.lock();
        if end {
            *awaited = None;
        } else if let Some(awaited) = &mut *awaited {
            awaited.heard = Instant::now();
        }
    }

    /// Until when something has to come.
    fn patience(&self) -> Option<Instant> {
        self.awaited.lock().as_ref().map(|awaited| awaited.heard + awaited.limit)
    }

    /// Nothing came.
    fn stall(&self) {
        if let Some(awaited) = self.awaited.lock().take() {
            self.stalled.get_or_init(|| awaited.ending);
        }
        self.abandon();
    }

    /// How the call ended, when its body did not go on.
    pub(super) fn stalled(&self) -> Option<(Ended, Reason)> {
        self.stalled.get().copied()
    }

    /// The call has this connection, and nobody else has.
    pub(super) fn has(&self, link: Arc<Link>) {
        *self.link.lock() = Some(link);
    }

    /// Whether the upstream's side of it ended without saying so.
    pub(super) fn is_truncated(&self) -> bool {
        self.link.lock().as_ref().is_some_and(|link| link.is_truncated())
    }

    /// What of the call has not left the gate is to stay here.
    fn abandon(&self) {
        if let Some(link) = self.link.lock().take() {
            link.abandon();
        }
    }

    /// Whether the body was framed in a way that is not the one.
    pub(super) fn is_misframed(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.is_misframed())
    }

    /// The caller's session, its answer being whole.
    pub(super) fn give_back(&self, session: ServerSession) {
        *self.given_back.lock() = Some(Box::new(session));
    }
}

/// The library's application for one connection.
pub(super) struct Gate {
    pub(super) proxy: Arc<HttpProxy<Hooks>>,
    pub(super) connection: Arc<Connection>,
    pub(super) options: HttpServerOptions,
    pub(super) limits: GatewayLimits,
    pub(super) metrics: Arc<WorkerMetrics>,
    /// Of an HTTP/1.1 connection.
    pub(super) exchange: Option<Arc<Exchange>>,
    pub(super) shared: Arc<Shared>,
}

impl Gate {
    /// A process that stood still may hold calls that ended meanwhile: they are looked for before anything of theirs goes
    /// on, whoever of the process comes to run first.
    fn wake(&self) {
        if self.shared.authority.stood_still() {
            self.shared.registry.sweep(&self.shared.authority.reckoning());
        }
    }
}

#[async_trait]
impl HttpServerApp for Gate {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let slot = Arc::new(CallSlot {
            connection: self.connection.clone(),
            cut: Cut::new(),
            forwarding: OnceLock::new(),
            exchange: self.exchange.clone(),
            awaited: Mutex::default(),
            stalled: OnceLock::new(),
            link: Mutex::default(),
            last: AtomicBool::new(false),
            given_back: Mutex::default(),
        });
        let call = CALL.scope(slot.clone(), self.proxy.process_new_http(session, shutdown));
        match race(&slot, || self.wake(), call).await {
            Some(Some(reused)) => Some(reused),
            Some(None) => kept(&slot, shutdown).await,
            None => {
                let stalled = slot.stalled().map(|(_, reason)| reason);
                if stalled.is_some() {
                    self.metrics.body_stalled();
                }
                if let (Some(exchange), Some(reason), Some(call)) =
                    (&self.exchange, slot.cut.reason().or(stalled), slot.forwarding.get())
                {
                    exchange.cut(Refusal::new(reason, *call));
                }
                None
            }
        }
    }

    /// All that is set here is a bound; the library closes on floods of CONTINUATION and of empty DATA by itself, the first
    /// by the size of a header list.
    fn h2_options(&self) -> Option<H2Options> {
        let mut options = H2Options::new();
        options
            .max_header_list_size(u32::try_from(self.limits.max_head_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(self.limits.max_streams_per_connection)
            .max_pending_accept_reset_streams(MAX_RESETS_PENDING)
            .max_concurrent_reset_streams(MAX_RESETS_REMEMBERED)
            .max_local_error_reset_streams(Some(MAX_RESETS_FORCED))
            .max_send_buffer_size(STREAM_SEND_BYTES)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    async fn http_cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

/// The connection of a call whose body was replayed, which the library does not keep by itself.
async fn kept(slot: &CallSlot, shutdown: &ShutdownWatch) -> Option<ReusedHttpStream> {
    let mut session = slot.given_back.lock().take().filter(|session| !session.is_http2())?;
    if *shutdown.borrow() {
        session.set_keepalive(None);
    }
    let settings = HttpPersistentSettings::for_session(&session);
    let reusable = session.finish().await.ok().flatten()?;
    Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
}

/// Runs `call` until it is done, or until it is cut while it forwards, or its body does not go on (`None`). The cut comes first: when both are ready, the recorded reason is the true one.
async fn race<F: Future>(slot: &CallSlot, wake: impl Fn(), call: F) -> Option<F::Output> {
    let mut call = pin!(call);
    let mut fired = pin!(slot.cut.fired());
    let mut silent: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        if slot.forwarding.get().is_some() {
            wake();
        }
        // Before the look: a cut that is fired behind it wakes this task.
        let cut = fired.as_mut().poll(cx).is_ready();
        if cut && slot.forwarding.get().is_some() {
            slot.abandon();
            return Poll::Ready(None);
        }
        if let Poll::Ready(output) = call.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        // Cut before it began to forward, which it now does: nobody would wake it again.
        let armed = slot.forwarding.get().is_some();
        if armed && slot.cut.reason().is_some() {
            slot.abandon();
            return Poll::Ready(None);
        }
        while let Some(until) = slot.patience() {
            let timer = silent.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            ready!(timer.as_mut().poll(cx));
            // One timer for all parts of a body: it is set anew when it fires too early.
            match slot.patience() {
                Some(until) if until > Instant::now() => timer.as_mut().reset(until),
                Some(_) => {
                    slot.stall();
                    return Poll::Ready(None);
                }
                None => break,
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;
    use crate::evidence::entry::Event;
    use crate::evidence::journal::{JournalOptions, tests as fixture};
    use crate::evidence::storage::FakeStorage;
    use crate::gateway::metrics::Metrics;
    use crate::gateway::record::OutcomeRecord;

    const LONG: Duration = Duration::from_secs(60);

    fn slot() -> CallSlot {
        CallSlot {
            connection: Arc::new(Connection::anonymous("127.0.0.1:1".parse().unwrap())),
            cut: Cut::new(),
            forwarding: OnceLock::new(),
            exchange: None,
            awaited: Mutex::default(),
            stalled: OnceLock::new(),
            link: Mutex::default(),
            last: AtomicBool::new(false),
            given_back: Mutex::default(),
        }
    }

    #[tokio::test]
    async fn a_forwarding_call_ends_when_it_is_cut_and_an_answered_one_does_not() {
        let slot = slot();
        slot.cut.fire(Reason::GrantRevoked);
        assert_eq!(race(&slot, || (), async { 7 }).await, Some(7), "not forwarding yet: the pipeline answers");
        slot.forward(CallId::from_bits(7));
        assert_eq!(race(&slot, || (), async { 7 }).await, None, "the cut comes first");
        assert_eq!(slot.cut.reason(), Some(Reason::GrantRevoked));
    }

    #[tokio::test]
    async fn a_panic_while_a_call_is_running_leaves_its_outcome() {
        let disk = FakeStorage::new();
        let (journal, _) = fixture::open(&disk, JournalOptions::default()).unwrap();
        let (ticket, room) = journal.intent(&fixture::intent(7)).unwrap();
        journal.durable_blocking(ticket).unwrap();
        let slot = slot();
        slot.forward(CallId::from_bits(7));
        let (clock, metrics) = (fixture::clock(), Metrics::new(1).worker(0));
        let outcome = OutcomeRecord::new(room, clock, metrics, Timestamp::default(), slot.cut.clone());
        let call = async move {
            // The library's future holds the call's context, and with it the record.
            let _held = outcome;
            tokio::task::yield_now().await;
            panic!("a fault in the middle of a call")
        };
        let task =
            tokio::spawn(
                async move { race::<futures_util::future::BoxFuture<'_, ()>>(&slot, || (), Box::pin(call)).await },
            );
        assert!(task.await.unwrap_err().is_panic());
        journal.flush().unwrap();
        let entries = fixture::entries(&disk);
        let Event::Outcome(outcome) = entries.last().unwrap().event else { panic!("{:?}", entries.last()) };
        assert_eq!((outcome.call, outcome.intent_seq), (CallId::from_bits(7), ticket.seq));
        assert_eq!((outcome.ending.ended, outcome.ending.reason), (Ended::Panicked, Some(Reason::InternalFault)));
        journal.close();
    }

    #[tokio::test]
    async fn a_cut_wakes_a_call_that_waits() {
        let slot = slot();
        slot.forward(CallId::from_bits(7));
        let cut = slot.cut.clone();
        let (result, ()) = tokio::join!(race(&slot, || (), std::future::pending::<()>()), async move {
            tokio::task::yield_now().await;
            cut.fire(Reason::TokenRevoked);
        });
        assert_eq!((result, slot.cut.reason()), (None, Some(Reason::TokenRevoked)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_awaited_for_too_long_ends_its_call_and_one_that_comes_does_not() {
        let slot = slot();
        let silence = Duration::from_secs(5);
        assert_eq!(race(&slot, || (), tokio::time::sleep(LONG)).await, Some(()), "no body is awaited");
        let began = Instant::now();
        slot.awaits_body(silence, (Ended::ClientGone, Reason::RequestTimeout));
        let (ended, ()) = tokio::join!(race(&slot, || (), tokio::time::sleep(LONG)), async {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                slot.has_heard(false);
            }
        });
        assert_eq!((ended, began.elapsed().as_secs()), (None, 4 * 4 + 5));
        assert_eq!(slot.stalled(), Some((Ended::ClientGone, Reason::RequestTimeout)));
        slot.awaits_body(silence, (Ended::ClientGone, Reason::RequestTimeout));
        slot.has_heard(true);
        assert_eq!(race(&slot, || (), tokio::time::sleep(LONG)).await, Some(()), "it came whole");
    }
}
