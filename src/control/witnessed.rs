//! How the witnesses of the control plane's own log are doing: told in metrics and readiness, and nothing depends on it.
//!
//! Whoever asks them says here what came of it.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use prometheus::{GaugeVec, IntCounterVec};

use crate::domain::Timestamp;

/// Why a witness did not cosign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCosignature {
    /// It cannot be reached, or does not answer in time.
    Unreachable,
    /// It refuses: it does not know the log, its key or its form.
    Refused,
    /// It answered with something that is no cosignature of its key.
    Unsigned,
    /// It cosigned more records than this log has: the log was cut, or an older copy of it put back. An alarm.
    Behind,
    /// It cosigned other records than this log has. An alarm.
    Forked,
    /// The log cannot be read here.
    Log,
}

impl NoCosignature {
    /// The metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Unsigned => "unsigned",
            Self::Behind => "behind",
            Self::Forked => "forked",
            Self::Log => "log",
        }
    }

    /// Whether somebody has to look at once: what the witness remembers is not this log.
    pub const fn is_alarm(self) -> bool {
        matches!(self, Self::Behind | Self::Forked)
    }
}

/// The witnesses of a control plane's log.
#[derive(Debug)]
pub struct Witnessed {
    each: Vec<Witness>,
    failures: IntCounterVec,
    age: GaugeVec,
    alarm: GaugeVec,
    since: Timestamp,
}

#[derive(Debug)]
struct Witness {
    name: String,
    /// Microseconds since the Unix epoch; the least number before the first time.
    cosigned: AtomicI64,
}

impl Witnessed {
    pub(super) fn new(
        names: Vec<String>,
        failures: IntCounterVec,
        gauges: (GaugeVec, GaugeVec),
        now: Timestamp,
    ) -> Self {
        let witness = |name| Witness { name, cosigned: AtomicI64::new(i64::MIN) };
        let (age, alarm) = gauges;
        Self { each: names.into_iter().map(witness).collect(), failures, age, alarm, since: now }
    }

    /// Nobody.
    #[cfg(test)]
    pub(super) fn none(metrics: &super::metrics::Metrics) -> Self {
        let gauges = metrics.witness_gauges.clone();
        Self::new(Vec::new(), metrics.witness_failures.clone(), gauges, Timestamp::default())
    }

    /// A witness cosigned the log's latest checkpoint.
    pub fn cosigned(&self, witness: &str, at: Timestamp) {
        if let Some(witness) = self.each.iter().find(|it| it.name == witness) {
            witness.cosigned.store(at.unix_micros(), Relaxed);
        }
        self.alarm.with_label_values(&[witness]).set(0.0);
    }

    /// It did not.
    pub fn failed(&self, witness: &str, why: NoCosignature) {
        self.failures.with_label_values(&[witness, why.as_str()]).inc();
        if why.is_alarm() {
            self.alarm.with_label_values(&[witness]).set(1.0);
        }
    }

    /// To be called before metrics are written.
    pub(super) fn read(&self, now: Timestamp) {
        for witness in &self.each {
            let last = witness.last().unwrap_or(self.since);
            self.age.with_label_values(&[witness.name.as_str()]).set(now.saturating_since(last).as_secs_f64());
        }
    }

    /// A line for each witness, for readiness.
    pub(super) fn lines(&self, now: Timestamp) -> String {
        let line = |witness: &Witness| match witness.last() {
            Some(last) => {
                format!("witness {}: cosigned {} s ago\n", witness.name, now.saturating_since(last).as_secs())
            }
            None => format!("witness {}: has not cosigned since the start\n", witness.name),
        };
        self.each.iter().map(line).collect()
    }
}

impl Witness {
    fn last(&self) -> Option<Timestamp> {
        let at = self.cosigned.load(Relaxed);
        (at != i64::MIN).then(|| Timestamp::from_unix_micros(at))
    }
}
