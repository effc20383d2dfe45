//! How metrics are made: under one prefix, and registered.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
};

/// Seconds, from a commit on fast storage to a command that waited for its whole patience.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// Makes metrics of a registry: name without the prefix, help, labels.
pub(super) struct Maker<'r> {
    pub(super) registry: &'r Registry,
    pub(super) prefix: &'static str,
}

impl Maker<'_> {
    pub(super) fn count(&self, name: &str, help: &str) -> IntCounter {
        self.keep(IntCounter::with_opts(self.options(name, help)))
    }

    pub(super) fn counts(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.keep(IntCounterVec::new(self.options(name, help), labels))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.keep(Gauge::with_opts(self.options(name, help)))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.keep(GaugeVec::new(self.options(name, help), labels))
    }

    pub(super) fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.keep(IntGaugeVec::new(self.options(name, help), labels))
    }

    /// A histogram of seconds.
    pub(super) fn timed(&self, name: &str, help: &str) -> Histogram {
        self.keep(Histogram::with_opts(self.seconds(name, help)))
    }

    /// The same, by labels.
    pub(super) fn timed_by(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.keep(HistogramVec::new(self.seconds(name, help), labels))
    }

    fn options(&self, name: &str, help: &str) -> Opts {
        Opts::new(format!("{}_{name}", self.prefix), help)
    }

    fn seconds(&self, name: &str, help: &str) -> HistogramOpts {
        HistogramOpts::from(self.options(name, help)).buckets(BUCKETS.to_vec())
    }

    /// The names are constants and differ, so neither step fails; were one to, the metric would be missing from the output,
    /// and the golden test with it.
    fn keep<C: Collector + Clone + 'static>(&self, metric: prometheus::Result<C>) -> C {
        match metric {
            Ok(metric) => {
                if let Err(error) = self.registry.register(Box::new(metric.clone())) {
                    tracing::error!(%error, "a metric cannot be registered");
                }
                metric
            }
            Err(error) => unreachable!("a metric's name is not one: {error}"),
        }
    }
}
