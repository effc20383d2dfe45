//! How the journal is doing: for readiness and metrics.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::JournalError;

/// Upper bounds of the buckets of `fdatasync` latency, microseconds; one more counts what is above.
pub const SYNC_BUCKETS_US: [u64; 10] = [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 1_000_000];

/// How long `fdatasync` took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncLatency {
    /// The last one.
    pub last: Duration,
    /// The longest.
    pub max: Duration,
    /// All together.
    pub sum: Duration,
    /// How many took at most [`SYNC_BUCKETS_US`] and not less than the bound before; the last one has no bound.
    pub buckets: [u64; 11],
}

/// How the journal is doing.
#[derive(Clone, Debug)]
pub struct JournalStatus {
    /// Records before this one are promised.
    pub durable: u64,
    /// The position that the next record gets.
    pub next: u64,
    /// Bytes that wait to be written.
    pub queued_bytes: u64,
    /// Allowed calls whose outcome is not recorded yet.
    pub open_intents: u64,
    /// Why intents are refused just now, if they are.
    pub broken: Option<JournalError>,
    /// The last error of the disk, if there was one since the start.
    pub last_error: Option<String>,
    /// Errors of the disk since the start.
    pub errors: u64,
    /// Bytes written since the start.
    pub written_bytes: u64,
    /// Batches written since the start.
    pub batches: u64,
    /// Outcomes that could not be kept: the journal was closed with the disk broken.
    pub outcomes_lost: u64,
    /// How long `fdatasync` takes.
    pub sync: SyncLatency,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    written_bytes: AtomicU64,
    batches: AtomicU64,
    outcomes_lost: AtomicU64,
    errors: AtomicU64,
    last_error: Mutex<Option<String>>,
    sync: Mutex<SyncLatency>,
}

impl Shared {
    pub(super) fn outcome_lost(&self) {
        self.outcomes_lost.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, error: &std::io::Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock() = Some(error.to_string());
    }

    pub(super) fn batch(&self, bytes: usize) {
        self.written_bytes.fetch_add(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn synced(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = SYNC_BUCKETS_US.iter().position(|bound| micros <= *bound).unwrap_or(SYNC_BUCKETS_US.len());
        let mut sync = self.sync.lock();
        sync.last = took;
        sync.max = sync.max.max(took);
        sync.sum += took;
        if let Some(count) = sync.buckets.get_mut(bucket) {
            *count += 1;
        }
    }
}

impl super::shared::Shared {
    pub(super) fn status(&self) -> JournalStatus {
        let state = self.state.lock();
        let own = &self.status;
        let remote = self.remote.as_ref().and_then(super::remote::Remote::broken);
        JournalStatus {
            durable: self.durable.load(Ordering::SeqCst),
            next: state.next_seq,
            queued_bytes: if state.queue.is_empty() { 0 } else { u64::try_from(state.queue.len()).unwrap_or(u64::MAX) },
            open_intents: state.rooms,
            broken: if state.closed { Some(JournalError::Unavailable) } else { state.broken.or(remote) },
            last_error: own.last_error.lock().clone(),
            errors: own.errors.load(Ordering::Relaxed),
            written_bytes: own.written_bytes.load(Ordering::Relaxed),
            batches: own.batches.load(Ordering::Relaxed),
            outcomes_lost: own.outcomes_lost.load(Ordering::Relaxed),
            sync: own.sync.lock().clone(),
        }
    }
}
