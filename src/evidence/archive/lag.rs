//! How far an archive is behind its log, and what that means for calls.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::Timestamp;

/// What happens past the bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Past {
    /// Calls go on; metrics and readiness tell.
    #[default]
    Continue,
    /// Calls are refused until the archive has caught up.
    Refuse,
}

/// How far an archive may be behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// Records that are durable here and not archived.
    pub records: Option<u64>,
    /// Age of the oldest of them.
    pub age: Option<Duration>,
    /// What happens beyond.
    pub past: Past,
}

/// How an archive is doing, as of now.
#[derive(Clone, Debug)]
pub struct LagStatus {
    /// Records that are archived and were read back.
    pub archived: u64,
    /// Records that are not.
    pub records: u64,
    /// For how long the oldest of them may have been waiting.
    pub age: Duration,
    /// Whether that is past the bound.
    pub past: bool,
    /// What is done about it.
    pub then: Past,
    /// Why it does not go on, if it does not.
    pub error: Option<String>,
    /// Times that it did not go on.
    pub failures: u64,
    /// Files that were put or found there, and read back.
    pub files: u64,
    /// Records before this one may have been pruned.
    pub pruned: u64,
}

/// What is known of an archive; shared between its keeper and all who ask.
#[derive(Debug)]
pub struct Lag {
    bound: Bound,
    archived: AtomicU64,
    /// Every record that was durable by then is archived: microseconds since 1970.
    whole_until: AtomicI64,
    failures: AtomicU64,
    files: AtomicU64,
    pruned: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Lag {
    /// Of an archive that was known to have `archived` records, all that there were at `whole_until`.
    pub fn new(bound: Bound, archived: u64, whole_until: Timestamp) -> Self {
        Self {
            bound,
            archived: AtomicU64::new(archived),
            whole_until: AtomicI64::new(whole_until.unix_micros()),
            failures: AtomicU64::new(0),
            files: AtomicU64::new(0),
            pruned: AtomicU64::new(0),
            error: Mutex::default(),
        }
    }

    /// Records that are archived and were read back.
    pub fn archived(&self) -> u64 {
        self.archived.load(SeqCst)
    }

    /// Whether calls are to be refused, with `durable` records here at `now`.
    pub fn refuses(&self, durable: u64, now: Timestamp) -> bool {
        self.bound.past == Past::Refuse && self.is_past(durable, now)
    }

    fn is_past(&self, durable: u64, now: Timestamp) -> bool {
        self.bound.records.is_some_and(|most| self.records(durable) > most)
            || self.bound.age.is_some_and(|most| self.age(durable, now) > most)
    }

    fn records(&self, durable: u64) -> u64 {
        durable.saturating_sub(self.archived())
    }

    fn age(&self, durable: u64, now: Timestamp) -> Duration {
        if self.records(durable) == 0 {
            return Duration::ZERO;
        }
        now.saturating_since(Timestamp::from_unix_micros(self.whole_until.load(SeqCst)))
    }

    /// How it is doing.
    pub fn status(&self, durable: u64, now: Timestamp) -> LagStatus {
        LagStatus {
            archived: self.archived(),
            records: self.records(durable),
            age: self.age(durable, now),
            past: self.is_past(durable, now),
            then: self.bound.past,
            error: self.error.lock().clone(),
            failures: self.failures.load(SeqCst),
            files: self.files.load(SeqCst),
            pruned: self.pruned.load(SeqCst),
        }
    }

    pub(super) fn reached(&self, archived: u64, files: u64) {
        self.archived.store(archived, SeqCst);
        self.files.fetch_add(files, SeqCst);
    }

    pub(super) fn whole(&self, until: Timestamp) {
        self.whole_until.fetch_max(until.unix_micros(), SeqCst);
    }

    pub(super) fn pruned(&self, before: u64) {
        self.pruned.fetch_max(before, SeqCst);
    }

    /// Takes note of why it does not go on, or that it does; says whether that is news.
    pub(super) fn fault(&self, error: Option<String>) -> bool {
        self.failures.fetch_add(u64::from(error.is_some()), SeqCst);
        let mut known = self.error.lock();
        let news = *known != error;
        *known = error;
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_are_kept_and_only_refusing_refuses() {
        let at = |seconds: i64| Timestamp::from_unix_seconds(1_000 + seconds);
        let bound = Bound { records: Some(10), age: Some(Duration::from_secs(60)), past: Past::Refuse };
        let lag = Lag::new(bound, 100, at(0));
        assert!(!lag.refuses(110, at(60)) && lag.refuses(111, at(0)) && lag.refuses(101, at(61)));
        // Nothing waits, however long ago the last record was.
        assert!(!lag.refuses(100, at(100_000)));
        lag.reached(111, 3);
        lag.whole(at(61));
        assert!(!lag.refuses(112, at(120)));
        let lag = Lag::new(Bound { past: Past::Continue, ..bound }, 0, at(0));
        assert!(!lag.refuses(500, at(500)));
        let status = lag.status(500, at(500));
        assert_eq!((status.records, status.age, status.past), (500, Duration::from_secs(500), true));
    }
}
