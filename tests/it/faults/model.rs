//! What must hold of a trial, whatever happened.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::ledger::Seen;

/// From a decision to the note that somebody else made of its effect, on a machine that does much else.
pub(crate) const IN_FLIGHT: Duration = Duration::from_millis(300);

/// How soon a gateway should serve again after a fault is over.
pub(crate) const BACK: Duration = Duration::from_secs(1);

/// From when on nothing may go on, and which state of a receipt says so.
pub(crate) type Limit = (&'static str, SystemTime);

/// What a trial came to.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) seed: u64,
    pub(crate) fault: String,
    /// Uses that the grant counts.
    pub(crate) uses: Option<usize>,
    /// What came to the upstream.
    pub(crate) seen: Seen,
    /// When the stream's last byte came to the caller, and whether it is over.
    pub(crate) stream: Option<(Option<SystemTime>, bool)>,
    /// From when on nothing may go on, by each receipt that there was.
    pub(crate) limits: Vec<Limit>,
}

fn late(at: SystemTime, limit: SystemTime) -> Option<Duration> {
    at.duration_since(limit).ok().filter(|late| !late.is_zero())
}

impl History {
    /// Every rule that it breaks.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(uses) = self.uses.filter(|uses| self.seen.came.len() > *uses) {
            faults.push(format!("{} calls under a grant of {uses} uses", self.seen.came.len()));
        }
        for (receipt, limit) in &self.limits {
            let over = |at: &SystemTime| late(*at, *limit + IN_FLIGHT);
            for late in self.seen.came.iter().filter_map(over) {
                faults.push(format!("a call came {late:?} after what the receipt ({receipt}) allows"));
            }
            if let Some(late) = self.stream.and_then(|(last, _)| last).as_ref().and_then(over) {
                faults.push(format!("a stream's byte came {late:?} after what the receipt ({receipt}) allows"));
            }
        }
        if let Some((_, false)) = self.stream {
            faults.push("the stream is not over".to_owned());
        }
        if self.seen.open > 0 {
            faults.push("the upstream's end of the stream is not over".to_owned());
        }
        faults
    }

    /// Fails with everything that is needed to run it again.
    pub(crate) fn check(&self) {
        let faults = self.faults();
        assert!(faults.is_empty(), "FAULTS_TRIAL={} ({}): {faults:#?}", self.seed, self.fault);
    }
}

/// What trials came to, by fault.
#[derive(Debug, Default)]
pub(crate) struct Report {
    by_fault: BTreeMap<String, Row>,
    /// What callers tried.
    pub(crate) calls: usize,
    allowed: usize,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Row {
    trials: usize,
    /// How often it was done to the control plane.
    times: usize,
    counted: usize,
    enforced: usize,
    /// From a revocation's answer to the last effect after it.
    after: Vec<Duration>,
    /// From healing to the first call that is allowed again.
    back: Vec<Duration>,
}

impl Report {
    pub(crate) fn take(&mut self, fault: &str, history: &History, was_enforced: bool, back: Option<Duration>) {
        self.allowed += history.seen.came.len();
        self.bytes += history.seen.bytes;
        let row = self.by_fault.entry(fault.to_owned()).or_default();
        row.trials += 1;
        row.counted += usize::from(history.uses.is_some());
        row.enforced += usize::from(was_enforced);
        let answered = history.limits.first().map(|(_, limit)| *limit);
        let effects = history.seen.came.iter().chain(history.stream.as_ref().and_then(|(last, _)| last.as_ref()));
        let last = effects.max().zip(answered).and_then(|(last, answered)| late(*last, answered));
        row.after.extend(last);
        row.back.extend(back);
    }

    /// A fault of the control plane.
    pub(crate) fn disturbed(&mut self, fault: &str, back: Option<Duration>) {
        let row = self.by_fault.entry(fault.to_owned()).or_default();
        row.times += 1;
        row.back.extend(back);
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.allowed += other.allowed;
        self.bytes += other.bytes;
        for (fault, row) in other.by_fault {
            let mine = self.by_fault.entry(fault).or_default();
            mine.trials += row.trials;
            mine.times += row.times;
            mine.counted += row.counted;
            mine.enforced += row.enforced;
            mine.after.extend(row.after);
            mine.back.extend(row.back);
        }
    }

    pub(crate) fn trials(&self) -> usize {
        self.by_fault.values().map(|row| row.trials).sum()
    }

    pub(crate) fn print(&mut self, seed: u64) {
        let ms = |sorted: &[Duration], share: f64| {
            let place = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
            sorted.get(place).map_or("-".to_owned(), |time| time.as_millis().to_string())
        };
        let slow = |sorted: &[Duration]| sorted.iter().filter(|time| **time > BACK).count();
        let all: Vec<Duration> = self.by_fault.values().flat_map(|row| row.back.iter().copied()).collect();
        eprintln!(
            "seed {seed}: {} trials, {} calls, {} allowed, {} bytes at the upstream; served again after {} of {} faults within {BACK:?}",
            self.trials(),
            self.calls,
            self.allowed,
            self.bytes,
            all.len() - slow(&all),
            all.len(),
        );
        eprintln!(
            "{:<22} {:>7} {:>8} {:>9} {:>13} {:>6} {:>10} {:>10} {:>10} {:>6}",
            "fault", "times", "counted", "enforced", "late at most", "back", "p50", "p99", "worst", "slow"
        );
        for (fault, row) in &mut self.by_fault {
            row.after.sort();
            row.back.sort();
            eprintln!(
                "{fault:<22} {:>7} {:>8} {:>9} {:>10} ms {:>6} {:>7} ms {:>7} ms {:>7} ms {:>6}",
                row.trials + row.times,
                row.counted,
                row.enforced,
                ms(&row.after, 1.0),
                row.back.len(),
                ms(&row.back, 0.5),
                ms(&row.back, 0.99),
                ms(&row.back, 1.0),
                slow(&row.back),
            );
        }
    }
}

#[test]
fn the_model_finds_what_must_not_be() {
    let at = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + Duration::from_millis(ms);
    let history = |uses, came: &[u64], stream| History {
        seed: 0,
        fault: "none".into(),
        uses,
        seen: Seen { came: came.iter().map(|ms| at(*ms)).collect(), ..Seen::default() },
        stream,
        limits: vec![("enforced", at(1_000))],
    };
    assert_eq!(history(None, &[10, 1_200], Some((Some(at(900)), true))).faults(), [""; 0]);
    assert_eq!(history(None, &[1_400], None).faults().len(), 1, "a late call");
    assert_eq!(history(None, &[], Some((Some(at(1_400)), true))).faults().len(), 1, "a late byte");
    assert_eq!(history(None, &[], Some((None, false))).faults().len(), 1, "a stream that goes on");
    assert_eq!(history(Some(2), &[1, 2, 3], None).faults().len(), 1, "a use too many");
}
