//! The counters of one worker. Each worker has its own, so that calls never wait for another core's cache line; they are
//! added up when somebody asks.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::domain::Reason;

/// Counts per reason.
#[derive(Debug)]
pub(super) struct ByReason([AtomicU64; Reason::ALL.len()]);

impl Default for ByReason {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Reason::ALL.len()])
    }
}

impl ByReason {
    fn count(&self, reason: Reason) {
        if let Some(count) = self.0.get(reason as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn add_to(&self, sums: &mut [u64]) {
        for (sum, count) in sums.iter_mut().zip(&self.0) {
            *sum += count.load(Relaxed);
        }
    }
}

/// Upper bounds of the buckets for whole calls, in microseconds: up to a minute, above that are streams.
pub(super) const CALL_BUCKETS_US: &[u64] =
    &[500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000, 60_000_000];
/// Upper bounds of the buckets for decisions, in microseconds.
pub(super) const DECISION_BUCKETS_US: &[u64] = &[1, 2, 5, 10, 25, 50, 100, 1_000, 10_000];
/// Upper bounds of the buckets for enforcing a revision, in microseconds.
pub(super) const ENFORCE_BUCKETS_US: &[u64] =
    &[1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000];
const MAX_BUCKETS: usize = 13;

/// A distribution of durations.
#[derive(Debug)]
pub(super) struct Durations {
    bounds: &'static [u64],
    /// Not cumulative; the last one counts what is above every bound.
    counts: [AtomicU64; MAX_BUCKETS + 1],
    sum_ns: AtomicU64,
}

impl Durations {
    pub(super) fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: [const { AtomicU64::new(0) }; MAX_BUCKETS + 1], sum_ns: AtomicU64::new(0) }
    }

    pub(super) fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // A part of a microsecond counts as over.
        let over = u64::from(!took.subsec_nanos().is_multiple_of(1_000));
        let place = self.bounds.partition_point(|bound| *bound < micros.saturating_add(over));
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Relaxed);
        }
        self.sum_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn add_to(&self, sums: &mut Distribution) {
        sums.bounds = self.bounds;
        sums.counts.resize(self.bounds.len() + 1, 0);
        for (sum, count) in sums.counts.iter_mut().zip(&self.counts) {
            *sum += count.load(Relaxed);
        }
        sums.sum += Duration::from_nanos(self.sum_ns.load(Relaxed));
    }
}

/// Distributions, added up.
#[derive(Debug, Default)]
pub(super) struct Distribution {
    pub(super) bounds: &'static [u64],
    pub(super) counts: Vec<u64>,
    pub(super) sum: Duration,
}

/// What one worker counts.
#[derive(Debug)]
pub struct WorkerMetrics {
    pub(super) allowed: AtomicU64,
    pub(super) observed: AtomicU64,
    pub(super) denied: ByReason,
    pub(super) denials_counted: AtomicU64,
    pub(super) refused: ByReason,
    pub(super) cut: ByReason,
    pub(super) call: Durations,
    pub(super) decision: Durations,
    pub(super) connections: AtomicU64,
    pub(super) open: AtomicI64,
    pub(super) connections_refused: AtomicU64,
    pub(super) address_limit: AtomicU64,
    pub(super) head_limit: AtomicU64,
    pub(super) body_limit: AtomicU64,
    pub(super) inspection_limit: AtomicU64,
    pub(super) stalled_bodies: AtomicU64,
    pub(super) upstream_connects: AtomicU64,
    pub(super) upstream_errors: ByReason,
    pub(super) minted_access: AtomicU64,
    pub(super) minted_upstream: AtomicU64,
}

/// What a minted token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MintedFor {
    /// A caller, by the token endpoint.
    Caller,
    /// An upstream.
    Upstream,
}

impl WorkerMetrics {
    pub(super) fn new() -> Self {
        Self {
            allowed: AtomicU64::default(),
            observed: AtomicU64::default(),
            denied: ByReason::default(),
            denials_counted: AtomicU64::default(),
            refused: ByReason::default(),
            cut: ByReason::default(),
            call: Durations::new(CALL_BUCKETS_US),
            decision: Durations::new(DECISION_BUCKETS_US),
            connections: AtomicU64::default(),
            open: AtomicI64::default(),
            connections_refused: AtomicU64::default(),
            address_limit: AtomicU64::default(),
            head_limit: AtomicU64::default(),
            body_limit: AtomicU64::default(),
            inspection_limit: AtomicU64::default(),
            stalled_bodies: AtomicU64::default(),
            upstream_connects: AtomicU64::default(),
            upstream_errors: ByReason::default(),
            minted_access: AtomicU64::default(),
            minted_upstream: AtomicU64::default(),
        }
    }

    /// A call of an identified caller was allowed by a grant.
    pub fn allowed(&self) {
        self.allowed.fetch_add(1, Relaxed);
    }

    /// A call of an identified caller was let through by an exception.
    pub fn observed(&self) {
        self.observed.fetch_add(1, Relaxed);
    }

    /// A call of an identified caller was refused.
    pub fn denied(&self, reason: Reason) {
        self.denied.count(reason);
    }

    /// A denial was beyond its identity's budget.
    pub fn denial_counted(&self) {
        self.denials_counted.fetch_add(1, Relaxed);
    }

    /// A request was refused before anybody was identified.
    pub fn refused(&self, reason: Reason) {
        self.refused.count(reason);
    }

    /// A running call was cut.
    pub fn cut(&self, reason: Reason) {
        self.cut.count(reason);
    }

    /// An allowed call is over.
    pub fn call_took(&self, took: Duration) {
        self.call.observe(took);
    }

    /// From the approved head to the decision, without waiting.
    pub fn decision_took(&self, took: Duration) {
        self.decision.observe(took);
    }

    /// A caller connected.
    pub fn connection_opened(&self) {
        self.connections.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    /// A caller's connection is over.
    pub fn connection_closed(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    /// A connection was closed at once, because of a limit or a failed handshake.
    pub fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Relaxed);
    }

    /// A client address had as many connections as it may.
    pub fn address_limit_hit(&self) {
        self.address_limit.fetch_add(1, Relaxed);
    }

    /// A request head was over the limit.
    pub fn head_limit_hit(&self) {
        self.head_limit.fetch_add(1, Relaxed);
    }

    /// A body that was to be inspected could not be had whole.
    pub fn body_refused(&self, reason: Reason) {
        if reason == Reason::BodyTooLarge {
            self.body_limit.fetch_add(1, Relaxed);
        } else if reason == Reason::InspectionFull {
            self.inspection_limit.fetch_add(1, Relaxed);
        }
    }

    /// Nothing of a body came for as long as a caller may be silent.
    pub fn body_stalled(&self) {
        self.stalled_bodies.fetch_add(1, Relaxed);
    }

    /// A connection to an upstream was made anew.
    pub fn upstream_connected(&self) {
        self.upstream_connects.fetch_add(1, Relaxed);
    }

    /// An upstream did not do its part.
    pub fn upstream_failed(&self, reason: Reason) {
        self.upstream_errors.count(reason);
    }

    /// A token was minted.
    pub fn minted(&self, purpose: MintedFor) {
        match purpose {
            MintedFor::Caller => self.minted_access.fetch_add(1, Relaxed),
            MintedFor::Upstream => self.minted_upstream.fetch_add(1, Relaxed),
        };
    }
}
