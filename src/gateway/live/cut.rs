//! The cut of one call: the flag that its task waits for, and what it leaves behind for the receipt.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::task::Poll;

use futures_util::task::AtomicWaker;

use crate::domain::Reason;

/// Whether, and why, a running call must end. Shared by the call's task and the registry.
///
/// One task waits for it at a time: of several, only the last to poll is woken.
#[derive(Debug, Default)]
pub struct Cut {
    /// 0: not fired; otherwise one more than the reason's place in the table.
    reason: AtomicU8,
    waker: AtomicWaker,
    pub(super) intent: AtomicU64,
    pub(super) response_bytes: AtomicU64,
    /// What `response_bytes` was when it was fired.
    pub(super) fired_at: AtomicU64,
    gone: AtomicBool,
}

impl Cut {
    /// A cut that nobody has fired.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Ends the call. The first reason stays.
    pub fn fire(&self, reason: Reason) {
        let code = (reason as u8).saturating_add(1);
        let bytes = self.response_bytes.load(SeqCst);
        if self.reason.compare_exchange(0, code, SeqCst, SeqCst).is_ok() {
            self.fired_at.store(bytes, SeqCst);
            self.waker.wake();
        }
    }

    /// Why the call must end, when it must.
    pub fn reason(&self) -> Option<Reason> {
        let place = usize::from(self.reason.load(SeqCst)).checked_sub(1)?;
        Reason::ALL.get(place).copied()
    }

    /// Resolves when the call must end.
    pub fn fired(&self) -> impl Future<Output = Reason> + '_ {
        std::future::poll_fn(|context| {
            if let Some(reason) = self.reason() {
                return Poll::Ready(reason);
            }
            self.waker.register(context.waker());
            // Fired between the look above and the registration: nobody would wake us.
            self.reason().map_or(Poll::Pending, Poll::Ready)
        })
    }

    pub(super) fn enter(&self) {
        self.gone.store(false, SeqCst);
    }

    pub(super) fn leave(&self) {
        self.gone.store(true, SeqCst);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_and_the_first_one_stays() {
        for reason in Reason::ALL {
            let cut = Cut::new();
            assert_eq!(cut.reason(), None);
            cut.fire(*reason);
            cut.fire(Reason::Draining);
            assert_eq!(cut.reason(), Some(*reason));
        }
    }

    #[tokio::test]
    async fn whoever_waits_is_woken() {
        let cut = Cut::new();
        let waiting = tokio::spawn({
            let cut = cut.clone();
            async move { cut.fired().await }
        });
        tokio::task::yield_now().await;
        cut.fire(Reason::GrantRevoked);
        assert_eq!(waiting.await.unwrap(), Reason::GrantRevoked);
        assert_eq!(cut.fired().await, Reason::GrantRevoked);
    }
}
