//! What a call and the carrier of its TLS connection to an upstream have to tell each other, past the proxy library.
//!
//! The library knows such a connection by the number of its end of a socket pair, and a call learns that number.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A connection over TLS.
#[derive(Debug, Default)]
pub(crate) struct Link {
    truncated: AtomicBool,
    unwanted: AtomicBool,
    abandoned: Notify,
}

impl Link {
    /// The upstream's side ended without saying so in TLS: what came last may not be the end (RFC 8446 section 6.1).
    pub(crate) fn truncate(&self) {
        self.truncated.store(true, Ordering::Release);
    }

    pub(crate) fn is_truncated(&self) -> bool {
        self.truncated.load(Ordering::Acquire)
    }

    /// The call that has the connection is cut: nothing of it leaves any more.
    pub(crate) fn abandon(&self) {
        self.unwanted.store(true, Ordering::Release);
        // One carrier waits, or comes to it and finds it said.
        self.abandoned.notify_one();
    }

    /// Resolves when it is. For the connection's carrier alone.
    pub(crate) async fn abandoned(&self) {
        while !self.is_abandoned() {
            self.abandoned.notified().await;
        }
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.unwanted.load(Ordering::Acquire)
    }
}

/// The connections of one worker, by the library's descriptors.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<HashMap<RawFd, Weak<Link>, ahash::RandomState>>);

impl Links {
    /// A new connection. Its number may have been another's, which is over.
    pub(crate) fn begin(&self, number: RawFd) -> Arc<Link> {
        let link = Arc::<Link>::default();
        let mut links = self.0.lock();
        // As many as were ever open at a time, at most.
        links.insert(number, Arc::downgrade(&link));
        link
    }

    /// The connection with this number.
    pub(crate) fn of(&self, number: RawFd) -> Option<Arc<Link>> {
        self.0.lock().get(&number)?.upgrade()
    }
}
