//! Every metric of a gateway, in one place: names, help texts, and the text form that Prometheus reads.
//!
//! Calls count in their worker's own [`WorkerMetrics`]; what other parts know of themselves (running calls, authority,
//! the journal) is asked for when the metrics are read. Labels are closed sets: nothing that a caller sends becomes one.

mod evidence;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder as _, TextEncoder};

use worker::{ByReason, Distribution, Durations, ENFORCE_BUCKETS_US};
pub use worker::{MintedFor, WorkerMetrics};

use crate::decision::Authority;
use crate::domain::Reason;
use crate::evidence::archive::LagStatus;
use crate::evidence::journal::{JournalStatus, RemoteStatus};

/// Every metric of a gateway.
#[derive(Debug)]
pub struct Metrics {
    workers: Vec<Arc<WorkerMetrics>>,
    connected: AtomicBool,
    connects: AtomicU64,
    applied: AtomicU64,
    resyncs: AtomicU64,
    renewals: AtomicU64,
    enforced: Durations,
    lingering: AtomicU64,
    tls_reloads: AtomicU64,
    tls_reload_failures: AtomicU64,
    tls_reload_failing: AtomicBool,
    withdrawn: AtomicU64,
}

/// What other parts know of themselves at the moment of reading.
#[derive(Debug)]
pub struct Seen {
    /// Calls in the registry.
    pub running: usize,
    /// Memory that inspected bodies take.
    pub inspection_bytes: u64,
    /// How far the control plane can be relied on.
    pub authority: Authority,
    /// Live grants in the snapshot in force.
    pub grants: usize,
    /// Tokens verified from memory, and anew.
    pub token_hits_and_misses: (u64, u64),
    /// Revoked tokens that are remembered.
    pub revoked_tokens: usize,
    /// The journal.
    pub evidence: Option<JournalStatus>,
    /// Its copy on another machine, where records wait for one.
    pub remote: Option<RemoteStatus>,
    /// Its archive, where there is one.
    pub archive: Option<LagStatus>,
}

impl Metrics {
    /// With counters for each of `workers` workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            workers: (0..workers.max(1)).map(|_| Arc::new(WorkerMetrics::new())).collect(),
            connected: AtomicBool::new(false),
            connects: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            resyncs: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
            enforced: Durations::new(ENFORCE_BUCKETS_US),
            lingering: AtomicU64::new(0),
            tls_reloads: AtomicU64::new(0),
            tls_reload_failures: AtomicU64::new(0),
            tls_reload_failing: AtomicBool::new(false),
            withdrawn: AtomicU64::new(0),
        })
    }

    /// The counters of a worker. Another one's where there are fewer.
    pub fn worker(&self, worker: usize) -> Arc<WorkerMetrics> {
        let place = worker % self.workers.len().max(1);
        self.workers.get(place).cloned().unwrap_or_else(|| Arc::new(WorkerMetrics::new()))
    }

    /// The stream to the control plane begins (`true`) or is over.
    pub(super) fn stream(&self, connected: bool) {
        self.connected.store(connected, Relaxed);
        self.connects.fetch_add(u64::from(connected), Relaxed);
    }

    /// Whether the stream to the control plane is there.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    pub(super) fn applied(&self, revision: u64) {
        self.applied.store(revision, Relaxed);
    }

    pub(super) fn resync(&self) {
        self.resyncs.fetch_add(1, Relaxed);
    }

    pub(super) fn renewed(&self) {
        self.renewals.fetch_add(1, Relaxed);
    }

    pub(super) fn enforced(&self, took: Duration) {
        self.enforced.observe(took);
    }

    /// Cut calls that were still running after the time they have.
    pub(super) fn lingering(&self, calls: usize) {
        self.lingering.fetch_add(u64::try_from(calls).unwrap_or(u64::MAX), Relaxed);
    }

    /// The TLS files were read again and are in force.
    pub(super) fn tls_reloaded(&self) {
        self.tls_reloads.fetch_add(1, Relaxed);
        self.tls_reload_failing.store(false, Relaxed);
    }

    /// The TLS files were read again and cannot be used.
    pub(super) fn tls_reload_failed(&self) {
        self.tls_reload_failures.fetch_add(1, Relaxed);
        self.tls_reload_failing.store(true, Relaxed);
    }

    /// Open connections whose client certificate is trusted no more.
    pub(super) fn connections_withdrawn(&self, connections: usize) {
        self.withdrawn.fetch_add(u64::try_from(connections).unwrap_or(u64::MAX), Relaxed);
    }

    /// The text form (Prometheus exposition format 0.0.4).
    pub fn render(&self, seen: &Seen) -> Vec<u8> {
        let mut families = Families::default();
        self.calls(&mut families);
        self.edges(&mut families);
        self.control(&mut families, seen);
        parts(&mut families, seen);
        let mut text = Vec::new();
        // Writing to memory fails only for families without metrics, and there are none.
        let _ = TextEncoder::new().encode(&families.all, &mut text);
        text
    }

    fn calls(&self, families: &mut Families) {
        let mut calls = vec![
            counter(&[("decision", "allow"), ("reason", "granted")], self.sum(|w| &w.allowed)),
            counter(&[("decision", "allow"), ("reason", "observed")], self.sum(|w| &w.observed)),
        ];
        calls.extend(self.by_reason(|w| &w.denied, |code| vec![("decision", "deny"), ("reason", code)]));
        families.counters(
            "portcullis_calls_total",
            "Calls of identified callers by decision and reason, counted when decided; refused token requests among the denied.",
            calls,
        );
        families.counter(
            "portcullis_denials_counted_total",
            "Denied calls beyond the budget of their identity, counted in an aggregate of the evidence in place of a record each. They are among portcullis_calls_total.",
            self.sum(|w| &w.denials_counted),
        );
        families.counters(
            "portcullis_refusals_total",
            "Requests refused before a caller was identified, by reason. They are not among portcullis_calls_total.",
            self.by_reason(|w| &w.refused, |code| vec![("reason", code)]),
        );
        families.counters(
            "portcullis_cuts_total",
            "Allowed calls ended by the gate while they ran, by reason. They are among the allowed of portcullis_calls_total.",
            self.by_reason(|w| &w.cut, |code| vec![("reason", code)]),
        );
        families.histogram(
            "portcullis_call_seconds",
            "Time from the approved head to the end of the answer, of allowed calls that are over, streams included.",
            &self.distribution(|w| &w.call),
        );
        families.histogram(
            "portcullis_decision_seconds",
            "Time to identify, match and decide a call, without waiting for evidence, keys or authority.",
            &self.distribution(|w| &w.decision),
        );
    }

    fn edges(&self, families: &mut Families) {
        families.counter(
            "portcullis_connections_total",
            "Connections of callers that were taken.",
            self.sum(|w| &w.connections),
        );
        let open: i64 = self.workers.iter().map(|w| w.open.load(Relaxed)).sum();
        families.gauge("portcullis_connections_open", "Connections of callers that are open.", open.max(0) as f64);
        families.counter(
            "portcullis_connections_refused_total",
            "Connections closed before a request: over a limit of connections, or with a failed TLS handshake.",
            self.sum(|w| &w.connections_refused),
        );
        families.counter(
            "portcullis_address_limit_hits_total",
            "Connections closed because their client address had as many as it may. They are among portcullis_connections_refused_total.",
            self.sum(|w| &w.address_limit),
        );
        families.counter(
            "portcullis_connections_withdrawn_total",
            "Open connections that lost their calls because their client certificate was trusted no more.",
            self.withdrawn.load(Relaxed),
        );
        families.counters(
            "portcullis_tls_reloads_total",
            "Times that the TLS files were read again, by whether they could be put in force. Files that cannot are tried again.",
            vec![
                counter(&[("result", "failed")], self.tls_reload_failures.load(Relaxed)),
                counter(&[("result", "in_force")], self.tls_reloads.load(Relaxed)),
            ],
        );
        let failing = if self.tls_reload_failing.load(Relaxed) { 1.0 } else { 0.0 };
        families.gauge(
            "portcullis_tls_reload_failing",
            "1 while the TLS files cannot be used and what was in force before stays so.",
            failing,
        );
        families.counter(
            "portcullis_head_limit_hits_total",
            "Request heads that were over the limit of bytes or of header fields.",
            self.sum(|w| &w.head_limit),
        );
        families.counter(
            "portcullis_body_limit_hits_total",
            "Bodies to be inspected that were over the limit of their route.",
            self.sum(|w| &w.body_limit),
        );
        families.counter(
            "portcullis_inspection_limit_hits_total",
            "Bodies to be inspected for which there was no memory left.",
            self.sum(|w| &w.inspection_limit),
        );
        families.counter(
            "portcullis_stalled_bodies_total",
            "Allowed calls that ended because nothing of their body came for as long as a connection may be idle.",
            self.sum(|w| &w.stalled_bodies),
        );
        families.counter(
            "portcullis_upstream_connects_total",
            "Connections to upstreams that were made anew; calls on pooled connections make none.",
            self.sum(|w| &w.upstream_connects),
        );
        families.counters(
            "portcullis_upstream_errors_total",
            "Allowed calls that failed at the upstream, by reason.",
            self.by_reason(|w| &w.upstream_errors, |code| vec![("reason", code)]),
        );
        families.counters(
            "portcullis_minted_tokens_total",
            "Tokens signed by this gateway, for callers (token endpoint) and for upstreams. Use from memory signs none.",
            vec![
                counter(&[("for", "caller")], self.sum(|w| &w.minted_access)),
                counter(&[("for", "upstream")], self.sum(|w| &w.minted_upstream)),
            ],
        );
    }

    fn control(&self, families: &mut Families, seen: &Seen) {
        let connected = if self.is_connected() { 1.0 } else { 0.0 };
        families.gauge("portcullis_stream_connected", "1 while the stream to the control plane is there.", connected);
        families.counter(
            "portcullis_stream_connects_total",
            "Streams to the control plane that began; all but the first are reconnects.",
            self.connects.load(Relaxed),
        );
        families.counter(
            "portcullis_stream_resyncs_total",
            "Times that what came on the stream could not be applied, so that a whole snapshot was asked for.",
            self.resyncs.load(Relaxed),
        );
        families.counter(
            "portcullis_renewals_total",
            "Renewals of authority that the control plane answered.",
            self.renewals.load(Relaxed),
        );
        families.gauge(
            "portcullis_applied_revision",
            "Revision of the store that decisions are made on.",
            self.applied.load(Relaxed) as f64,
        );
        let age = match seen.authority {
            Authority::Age(age) => age.as_secs_f64(),
            Authority::Missing | Authority::Unknown => f64::INFINITY,
        };
        families.gauge(
            "portcullis_authority_age_seconds",
            "Time since the last answered renewal was sent; infinite before the first and after a pause of the process.",
            age,
        );
        let mut enforced = Distribution::default();
        self.enforced.add_to(&mut enforced);
        families.histogram(
            "portcullis_enforcement_seconds",
            "Time from the arrival of a revision that ended grants, tokens or calls to its last cut call being over and recorded.",
            &enforced,
        );
        families.counter(
            "portcullis_lingering_calls_total",
            "Cut calls that were still running a second later, counted once per second; such a revision is not acknowledged.",
            self.lingering.load(Relaxed),
        );
    }

    fn sum(&self, which: impl Fn(&WorkerMetrics) -> &AtomicU64) -> u64 {
        self.workers.iter().map(|w| which(w).load(Relaxed)).sum()
    }

    fn by_reason(
        &self,
        which: impl Fn(&WorkerMetrics) -> &ByReason,
        labels: impl Fn(&'static str) -> Vec<(&'static str, &'static str)>,
    ) -> Vec<Metric> {
        let mut sums = vec![0; Reason::ALL.len()];
        self.workers.iter().for_each(|w| which(w).add_to(&mut sums));
        Reason::ALL.iter().zip(sums).map(|(reason, sum)| counter(&labels(reason.code()), sum)).collect()
    }

    fn distribution(&self, which: impl Fn(&WorkerMetrics) -> &Durations) -> Distribution {
        let mut sums = Distribution::default();
        self.workers.iter().for_each(|w| which(w).add_to(&mut sums));
        sums
    }
}

/// What other parts know of themselves.
fn parts(families: &mut Families, seen: &Seen) {
    families.gauge(
        "portcullis_running_calls",
        "Allowed calls that are running, streams included.",
        seen.running as f64,
    );
    families.gauge(
        "portcullis_inspection_bytes",
        "Memory that inspected bodies take, until their calls are over.",
        seen.inspection_bytes as f64,
    );
    families.gauge("portcullis_grants", "Grants in the snapshot that decisions are made on.", seen.grants as f64);
    families.gauge(
        "portcullis_revoked_tokens",
        "Revoked tokens that are remembered until their own end.",
        seen.revoked_tokens as f64,
    );
    let (hits, misses) = seen.token_hits_and_misses;
    families.counter("portcullis_token_cache_hits_total", "Uses of tokens that were verified before.", hits);
    families.counter(
        "portcullis_token_cache_misses_total",
        "Uses of tokens that had to be verified anew, good ones and bad ones.",
        misses,
    );
    if let Some(status) = &seen.remote {
        evidence::remote(families, status);
    }
    if let Some(status) = &seen.archive {
        evidence::archive(families, status);
    }
    if let Some(status) = &seen.evidence {
        evidence::journal(families, status);
    }
    families.push(
        "portcullis_build_info",
        "Always 1; the label says which version runs.",
        MetricType::GAUGE,
        vec![gauge(&[("version", env!("CARGO_PKG_VERSION"))], 1.0)],
    );
}

/// Families in the order in which they are shown.
#[derive(Default)]
struct Families {
    all: Vec<MetricFamily>,
}

impl Families {
    fn push(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.all.push(family);
    }

    fn counters(&mut self, name: &str, help: &str, metrics: Vec<Metric>) {
        self.push(name, help, MetricType::COUNTER, metrics);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, vec![counter(&[], value)]);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.push(name, help, MetricType::GAUGE, vec![gauge(&[], value)]);
    }

    fn histogram(&mut self, name: &str, help: &str, distribution: &Distribution) {
        let mut seen = 0;
        let mut buckets = Vec::new();
        for (bound, count) in distribution.bounds.iter().zip(&distribution.counts) {
            seen += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(Duration::from_micros(*bound).as_secs_f64());
            bucket.set_cumulative_count(seen);
            buckets.push(bucket);
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(distribution.counts.iter().sum());
        histogram.set_sample_sum(distribution.sum.as_secs_f64());
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.push(name, help, MetricType::HISTOGRAM, vec![metric]);
    }
}

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    pairs.iter().map(pair).collect()
}

fn counter(pairs: &[(&str, &str)], value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(labels(pairs));
    metric.set_counter(counter);
    metric
}

fn gauge(pairs: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels(pairs));
    metric.set_gauge(gauge);
    metric
}

#[cfg(test)]
mod tests;
