//! The control plane's metrics: names, help texts, and how they are written out.
//!
//! What can be read off the model and the fleet is read when somebody asks; only what passes is counted here.

mod copies;
mod maker;

use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Registry,
    TextEncoder,
};

use self::copies::CopyMetrics;
use self::maker::Maker;
use super::fleet::GatewayStatus;
use super::model::Model;
use crate::domain::Timestamp;
use crate::domain::breakglass::BreakGlassState;

/// What is counted as it passes, and a place for what is read on demand.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    registry: Registry,
    /// From handing a command to the writer until its answer, by command.
    pub(super) command_seconds: HistogramVec,
    /// One transaction of the store.
    pub(super) commit_seconds: Histogram,
    /// Snapshots sent, by why.
    pub(super) resyncs: IntCounterVec,
    /// What drills took on each gateway, by step.
    pub(super) drill_seconds: HistogramVec,
    /// Renewals, by how they were answered.
    pub(super) renewals: IntCounterVec,
    /// Notices to webhooks, by what became of them.
    pub(super) notices: IntCounterVec,
    /// Webhooks of ticket sources, by what became of them.
    pub(super) webhooks: IntCounterVec,
    /// Requests refused by the table of operations and roles.
    pub(super) denied: IntCounter,
    /// Requests refused because nobody known made them.
    pub(super) unauthenticated: IntCounter,
    pub(super) witness_failures: IntCounterVec,
    /// Since a witness cosigned last, and whether it remembers another log.
    pub(super) witness_gauges: (GaugeVec, GaugeVec),
    pub(super) copies: CopyMetrics,
    grants: IntGaugeVec,
    break_glass: IntGaugeVec,
    gateways: IntGaugeVec,
    lag: IntGaugeVec,
    answered: GaugeVec,
    revision: Gauge,
    epoch: Gauge,
    /// Events that wait for the evidence.
    pub(super) backlog: Gauge,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let registry = Registry::new();
        let made = Maker { registry: &registry, prefix: "portcullis_control" };
        Self {
            command_seconds: made.timed_by(
                "command_duration_seconds",
                "Time from handing a command to the writer until its answer, refusals included.",
                &["command"],
            ),
            commit_seconds: made.timed(
                "store_commit_duration_seconds",
                "Time of one store transaction; commands that waited together share one.",
            ),
            resyncs: made.counts(
                "stream_resyncs_total",
                "Whole snapshots sent to gateways: new ones, ones that were away for too long, ones too slow \
                 to keep up, ones whose scope changed.",
                &["cause"],
            ),
            drill_seconds: made.timed_by(
                "drill_duration_seconds",
                "From a drill's change until a gateway said that it is enforced: cut, or allow.",
                &["step"],
            ),
            renewals: made.counts(
                "renewals_total",
                "Renewals of authority that gateways asked for: answered, or withheld because the gateway lags.",
                &["result"],
            ),
            notices: made.counts(
                "notices_total",
                "Notices to webhooks: sent, failed after the last try, dropped because too many wait.",
                &["result"],
            ),
            webhooks: made.counts(
                "webhooks_total",
                "Webhooks of ticket sources: closed, reopened, known, ignored, later (unsigned, of a ticket \
                 that was read a moment ago: what came of reading it again is counted then); refused as \
                 unknown, unsigned, stale, malformed, oversized, busy, unreadable, failed.",
                &["result"],
            ),
            denied: made.count("denied_total", "Requests of known callers that their roles do not allow."),
            unauthenticated: made.count("unauthenticated_total", "Requests without a credential that is known here."),
            witness_failures: made.counts(
                "witness_failures_total",
                "Times that a witness did not cosign the control plane's log, by why; behind and forked are alarms.",
                &["witness", "kind"],
            ),
            witness_gauges: (
                made.gauges(
                    "witness_cosignature_age_seconds",
                    "Time since a witness last cosigned the control plane's log; at a start, since the start.",
                    &["witness"],
                ),
                made.gauges(
                    "witness_alarm",
                    "1 while a witness remembers another log than the control plane's, 0 since it cosigned again.",
                    &["witness"],
                ),
            ),
            copies: CopyMetrics::new(&registry),
            grants: made.int_gauges(
                "grants",
                "Grants by state, at this moment's clock; expired and revoked ones are all there ever were.",
                &["state"],
            ),
            break_glass: made.int_gauges(
                "break_glass",
                "Break-glass whose review is open: access that lives, unreviewed, overdue.",
                &["state"],
            ),
            gateways: made.int_gauges(
                "gateways",
                "Recorded gateways, by whether a stream of theirs lives.",
                &["state"],
            ),
            lag: made.int_gauges(
                "gateway_lag_revisions",
                "Newest revision less the one that the gateway said is enforced; revisions have gaps.",
                &["gateway"],
            ),
            answered: made.gauges(
                "gateway_answered_timestamp_seconds",
                "When the gateway's last renewal was answered; at a start, the start.",
                &["gateway"],
            ),
            revision: made.gauge("revision", "Newest revision that gateways hear of."),
            epoch: made.gauge("epoch", "Which life of the store this is."),
            backlog: made.gauge(
                "outbox_backlog",
                "Commits whose events are not in the evidence yet, when last looked; counted up to 120.",
            ),
            registry,
        }
    }

    /// All metrics in the Prometheus text format.
    pub(super) fn render(&self, model: &Model, gateways: &[GatewayStatus], now: Timestamp) -> Vec<u8> {
        self.read_grants(model, now);
        for state in [BreakGlassState::Open, BreakGlassState::Unreviewed, BreakGlassState::Overdue] {
            let count = model.broken.values().filter(|kept| kept.value.state(now) == state).count();
            self.break_glass.with_label_values(&[state.as_str()]).set(int(count));
        }
        self.gateways.reset();
        self.lag.reset();
        self.answered.reset();
        for state in ["connected", "away"] {
            let connected = state == "connected";
            let count = gateways.iter().filter(|g| g.connected == connected).count();
            self.gateways.with_label_values(&[state]).set(int(count));
        }
        for gateway in gateways {
            let lag = model.revision.saturating_sub(gateway.applied);
            self.lag.with_label_values(&[gateway.name.as_str()]).set(i64::try_from(lag).unwrap_or(i64::MAX));
            let answered = self.answered.with_label_values(&[gateway.name.as_str()]);
            answered.set(float(u64::try_from(gateway.answered.unix_micros()).unwrap_or(0)) / 1e6);
        }
        self.revision.set(float(model.revision));
        self.epoch.set(float(model.epoch));
        let mut text = Vec::new();
        // Writing to memory fails only for metrics without samples, which are left out.
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
        text
    }

    fn read_grants(&self, model: &Model, now: Timestamp) {
        // Ends are sorted; those past now that are not noted yet count as expired.
        let over = model.ends.iter().take_while(|(ends, _)| *ends <= now).count();
        let scheduled = model.ahead.iter().rev().take_while(|(starts, _)| *starts > now).count();
        let active = model.grants.len().saturating_sub(over).saturating_sub(scheduled);
        let expired = model.ended.expired.saturating_add(over as u64);
        self.grants.with_label_values(&["scheduled"]).set(int(scheduled));
        self.grants.with_label_values(&["active"]).set(int(active));
        self.grants.with_label_values(&["expired"]).set(i64::try_from(expired).unwrap_or(i64::MAX));
        self.grants.with_label_values(&["revoked"]).set(i64::try_from(model.ended.revoked).unwrap_or(i64::MAX));
    }
}

fn int(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floating point; 2^53 revisions are centuries")]
const fn float(count: u64) -> f64 {
    count as f64
}
