//! What the copies of gateways' logs tell of themselves.

use prometheus::{Gauge, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::super::copies::Copies;
use super::{float, keep};

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
        let opts = |name: &str, help: &str| Opts::new(format!("portcullis_control_copy_{name}"), help);
        Self {
            bytes: keep(
                registry,
                GaugeVec::new(
                    opts("bytes", "Bytes of the copies of a gateway's logs, as of its last records."),
                    &["gateway"],
                ),
            ),
            records: keep(
                registry,
                IntGaugeVec::new(
                    opts("records", "Records of a gateway's log that are in its copy, on this machine's disk."),
                    &["gateway"],
                ),
            ),
            limit: keep(
                registry,
                Gauge::with_opts(opts(
                    "limit_bytes",
                    "Most bytes of the copies of one gateway's logs; past it its calls are refused.",
                )),
            ),
            refused: keep(
                registry,
                IntCounterVec::new(
                    opts(
                        "refused_total",
                        "Times that the copy of a gateway's log did not go on, by why; cut, fork and rewrite are alarms.",
                    ),
                    &["reason"],
                ),
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
