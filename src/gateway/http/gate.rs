//! The gate around one call: the library's work raced against the call's cut.
//!
//! Dropping the library's future is how a call is cut. It closes both sides, neither connection goes back to a pool, and
//! an HTTP/2 neighbour notices nothing. The record of the outcome is written by the drop of what the call holds.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;

use super::hooks::Hooks;
use crate::gateway::connection::Connection;
use crate::gateway::live::Cut;
use crate::settings::gateway::GatewayLimits;

/// Calls at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;

tokio::task_local! {
    /// The call that the current task works on.
    static CALL: Arc<CallSlot>;
}

/// What the race and the hooks of one call share.
#[derive(Debug)]
pub(super) struct CallSlot {
    pub(super) connection: Arc<Connection>,
    pub(super) cut: Arc<Cut>,
    /// Once set, a cut drops the call; before, the pipeline still answers the caller itself.
    forwarding: AtomicBool,
}

impl CallSlot {
    /// The slot of the current task's call. `None` outside of one, which no hook is.
    pub(super) fn current() -> Option<Arc<Self>> {
        CALL.try_with(Clone::clone).ok()
    }

    /// From now on a cut drops the call.
    pub(super) fn forward(&self) {
        self.forwarding.store(true, Ordering::Release);
    }
}

/// The library's application for one connection.
pub(super) struct Gate {
    pub(super) proxy: Arc<HttpProxy<Hooks>>,
    pub(super) connection: Arc<Connection>,
    pub(super) options: HttpServerOptions,
    pub(super) limits: GatewayLimits,
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
            forwarding: AtomicBool::new(false),
        });
        let call = CALL.scope(slot.clone(), self.proxy.process_new_http(session, shutdown));
        race(&slot, call).await.flatten()
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = H2Options::new();
        options
            .max_header_list_size(u32::try_from(self.limits.max_head_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(MAX_STREAMS);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    async fn http_cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

/// Runs `call` until it is done, or until it is cut while it forwards (`None`). The cut comes first: when both are
/// ready, the recorded reason is the true one.
async fn race<F: Future>(slot: &CallSlot, call: F) -> Option<F::Output> {
    let mut call = pin!(call);
    let mut fired = pin!(slot.cut.fired());
    poll_fn(|cx| {
        // Before the look: a cut that is fired behind it wakes this task.
        let cut = fired.as_mut().poll(cx).is_ready();
        if cut && slot.forwarding.load(Ordering::Acquire) {
            return Poll::Ready(None);
        }
        if let Poll::Ready(output) = call.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        // Cut before it began to forward, which it now does: nobody would wake it again.
        let armed = slot.forwarding.load(Ordering::Acquire);
        if armed && slot.cut.reason().is_some() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::name::CallId;
    use crate::domain::{Reason, Timestamp};
    use crate::evidence::entry::{Ended, Event};
    use crate::evidence::journal::{JournalOptions, tests as fixture};
    use crate::evidence::storage::FakeStorage;
    use crate::gateway::metrics::Metrics;
    use crate::gateway::record::OutcomeRecord;

    fn slot() -> CallSlot {
        CallSlot {
            connection: Arc::new(Connection::anonymous("127.0.0.1:1".parse().unwrap())),
            cut: Cut::new(),
            forwarding: AtomicBool::new(false),
        }
    }

    #[tokio::test]
    async fn a_forwarding_call_ends_when_it_is_cut_and_an_answered_one_does_not() {
        let slot = slot();
        slot.cut.fire(Reason::GrantRevoked);
        assert_eq!(race(&slot, async { 7 }).await, Some(7), "not forwarding yet: the pipeline answers");
        slot.forward();
        assert_eq!(race(&slot, async { 7 }).await, None, "the cut comes first");
        assert_eq!(slot.cut.reason(), Some(Reason::GrantRevoked));
    }

    #[tokio::test]
    async fn a_panic_while_a_call_is_running_leaves_its_outcome() {
        let disk = FakeStorage::new();
        let (journal, _) = fixture::open(&disk, JournalOptions::default()).unwrap();
        let (ticket, room) = journal.intent(&fixture::intent(7)).unwrap();
        journal.durable_blocking(ticket).unwrap();
        let slot = slot();
        slot.forward();
        let (clock, metrics) = (fixture::clock(), Metrics::new(1).worker(0));
        let outcome = OutcomeRecord::new(room, clock, metrics, Timestamp::default(), slot.cut.clone());
        let call = async move {
            // The library's future holds the call's context, and with it the record.
            let _held = outcome;
            tokio::task::yield_now().await;
            panic!("a fault in the middle of a call")
        };
        let task =
            tokio::spawn(async move { race::<futures_util::future::BoxFuture<'_, ()>>(&slot, Box::pin(call)).await });
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
        slot.forward();
        let cut = slot.cut.clone();
        let (result, ()) = tokio::join!(race(&slot, std::future::pending::<()>()), async move {
            tokio::task::yield_now().await;
            cut.fire(Reason::TokenRevoked);
        });
        assert_eq!((result, slot.cut.reason()), (None, Some(Reason::TokenRevoked)));
    }
}
