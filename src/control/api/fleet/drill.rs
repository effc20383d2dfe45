//! Drills: how long a grant takes to every gateway, and how long its end.
//!
//! It goes the whole way of any other grant and of any other revocation: stored, pushed, published, running calls looked at,
//! acknowledged and signed. Nobody can use it.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::Status;

use super::super::super::authorize::Caller;
use super::super::super::drill::REASON;
use super::super::super::plan::Refused;
use super::super::error::refused;
use super::FleetService;
use crate::domain::halt::HaltScope;
use crate::wire::v1;

/// For one step, unless told otherwise.
const STEP: Duration = Duration::from_secs(10);

/// Both steps on one gateway.
#[derive(Clone, Copy, Debug, Default)]
struct Took {
    cut: Option<Duration>,
    allow: Option<Duration>,
}

impl FleetService {
    pub(super) async fn drilled(&self, caller: &Caller, wait_ms: u64) -> Result<v1::DrillResponse, Status> {
        let Ok(_one) = self.drills.try_lock() else {
            return Err(refused(Refused::Conflict("another drill is under way".to_owned())));
        };
        let wait_ms = if wait_ms == 0 { u64::try_from(STEP.as_millis()).unwrap_or(u64::MAX) } else { wait_ms };
        // One that was broken off is ended first, also by an earlier version, which halted.
        if self.handle.model().halts.contains_key(&HaltScope::Drill) {
            self.handle.resume(caller, HaltScope::Drill, REASON.to_owned()).await.map_err(refused)?;
        }
        self.handle.end_drill().await.map_err(refused)?;
        let mut took: BTreeMap<String, Took> =
            self.handle.gateways().into_iter().map(|gateway| (gateway.name.to_string(), Took::default())).collect();
        let began = self.handle.shared().clock.since_boot();
        let done = self.handle.begin_drill().await.map_err(refused)?;
        for (gateway, after) in self.step(done.revision, began, wait_ms, "allow").await {
            took.entry(gateway).or_default().allow = Some(after);
        }
        let began = self.handle.shared().clock.since_boot();
        let revision = self.handle.end_drill().await.map_err(refused)?;
        for (gateway, after) in self.step(revision, began, wait_ms, "cut").await {
            took.entry(gateway).or_default().cut = Some(after);
        }
        self.handle.note_drill(caller, summary(&took)).await.map_err(refused)?;
        let micros =
            |took: Option<Duration>| took.map_or(0, |took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        let gateways = took.into_iter().map(|(gateway, took)| v1::DrillResult {
            gateway,
            cut_us: micros(took.cut),
            allow_us: micros(took.allow),
        });
        Ok(v1::DrillResponse { gateways: gateways.collect() })
    }

    /// How long after `began` each gateway said that a revision is enforced.
    async fn step(&self, revision: u64, began: Duration, wait_ms: u64, step: &str) -> Vec<(String, Duration)> {
        self.receipts(revision, &HaltScope::Drill, wait_ms).await;
        let mut took = Vec::new();
        for (gateway, at) in self.handle.fleet().acknowledged(revision) {
            let Some(at) = at else { continue };
            // Never nothing: zero is for those that did not.
            let after = at.saturating_sub(began).max(Duration::from_micros(1));
            self.handle.shared().metrics.drill_seconds.with_label_values(&[step]).observe(after.as_secs_f64());
            took.push((gateway.to_string(), after));
        }
        took
    }
}

/// As the evidence tells it: a line is bounded, a fleet is not.
fn summary(took: &BTreeMap<String, Took>) -> String {
    let worst = |step: fn(&Took) -> Option<Duration>| {
        let most = took.values().filter_map(step).max().unwrap_or_default();
        format!("{} of {}, at most {} us", took.values().filter_map(step).count(), took.len(), most.as_micros())
    };
    format!("cut: {}; allow: {}", worst(|took| took.cut), worst(|took| took.allow))
}
