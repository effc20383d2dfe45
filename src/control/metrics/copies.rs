//! What the copies of gateways' logs tell of themselves.

use prometheus::{Gauge, GaugeVec, IntCounterVec, IntGaugeVec, Registry};

use super::super::copies::Copies;
use super::float;
use super::maker::Maker;

/// Copies of gateways' logs, where any are kept.
#[derive(Clone, Debug)]
pub(in super::super) struct CopyMetrics {
    bytes: GaugeVec,
    records: IntGaugeVec,
    limit: Gauge,
    /// Times that a copy did not go on, by why.
    pub(in super::super) refused: IntCounterVec,
}

impl CopyMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let made = Maker { registry, prefix: "portcullis_control_copy" };
        Self {
            bytes: made.gauges(
                "bytes",
                "Bytes of the copies of a gateway's logs, as of its last records.",
                &["gateway"],
            ),
            records: made.int_gauges(
                "records",
                "Records of a gateway's log that are in its copy, on this machine's disk.",
                &["gateway"],
            ),
            limit: made
                .gauge("limit_bytes", "Most bytes of the copies of one gateway's logs; past it its calls are refused."),
            refused: made.counts(
                "refused_total",
                "Times that the copy of a gateway's log did not go on, by why; cut, fork and rewrite are alarms.",
                &["reason"],
            ),
        }
    }

    pub(in super::super) fn read(&self, copies: &Copies) {
        self.bytes.reset();
        self.records.reset();
        self.limit.set(float(copies.limit()));
        for (gateway, seen) in copies.status() {
            self.bytes.with_label_values(&[gateway.as_str()]).set(float(seen.bytes));
            self.records.with_label_values(&[gateway.as_str()]).set(i64::try_from(seen.records).unwrap_or(i64::MAX));
        }
    }
}
