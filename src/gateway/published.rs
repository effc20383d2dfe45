//! The snapshot in force, for everybody who decides.
//!
//! Replaced whole by the one task that follows the control plane; read by every worker without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use crate::decision::snapshot::Snapshot;

/// The snapshot in force.
#[derive(Debug)]
pub struct Published {
    snapshot: ArcSwap<Snapshot>,
    ready: watch::Sender<bool>,
    governed: AtomicBool,
}

impl Published {
    /// Nothing yet: an empty picture, in which everything is refused.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            ready: watch::Sender::new(false),
            governed: AtomicBool::new(false),
        })
    }

    /// The snapshot in force, to keep.
    pub fn load(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The snapshot in force, for a moment: costs no reference count, and must not be held across an await.
    pub fn peek(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Whether `snapshot` is still the one in force.
    pub fn is_current(&self, snapshot: &Arc<Snapshot>) -> bool {
        Arc::ptr_eq(&self.snapshot.load(), snapshot)
    }

    /// From now on this one. Returns the one before.
    pub fn publish(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let before = self.snapshot.swap(Arc::new(snapshot));
        self.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
        before
    }

    /// The same picture under another generation. For what is not in the snapshot and ends calls all the same: a call
    /// between its decision and its last look decides again.
    pub fn touch(&self) {
        self.snapshot.rcu(|snapshot| Snapshot::clone(snapshot));
    }

    /// Whether the control plane said last that a policy is in force. Nothing is decided on it: refusals tell by it how
    /// access is asked for.
    pub fn is_governed(&self) -> bool {
        self.governed.load(Relaxed)
    }

    /// What the control plane says of it.
    pub fn govern(&self, governed: bool) {
        self.governed.store(governed, Relaxed);
    }

    /// Whether there is a snapshot of the control plane, and a way to wait for it.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::snapshot::SnapshotBuilder;

    #[tokio::test]
    async fn a_publication_is_seen_and_makes_ready() {
        let published = Published::new();
        let (before, mut ready) = (published.load(), published.ready());
        assert!(published.is_current(&before) && !*ready.borrow());
        let first = published.publish(SnapshotBuilder::new().build(1, 7).unwrap());
        assert!(Arc::ptr_eq(&first, &before) && !published.is_current(&before));
        assert_eq!(published.peek().revision(), 7);
        let (first, revision) = (published.load(), published.peek().revision());
        published.touch();
        assert!(!published.is_current(&first) && published.peek().revision() == revision);
        assert!(*ready.wait_for(|ready| *ready).await.unwrap());
    }
}
