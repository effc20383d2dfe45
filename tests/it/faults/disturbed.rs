//! When the control plane had faults of its own: what a gateway's fault cost is not told apart from what they cost.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a fault of the control plane tells on gateways after it.
const AFTERMATH: Duration = Duration::from_secs(6);

#[derive(Debug, Default)]
struct Told {
    is_on: bool,
    is_clock_off: bool,
    ended: Option<Instant>,
    began: u64,
}

/// What is being done to the control plane.
#[derive(Debug, Default)]
pub(crate) struct Disturbed(Mutex<Told>);

impl Disturbed {
    pub(crate) fn begin(&self, is_clock_off: bool) {
        let mut told = self.0.lock().unwrap();
        told.is_on = true;
        told.is_clock_off = is_clock_off;
        told.began += 1;
    }

    pub(crate) fn end(&self) {
        let mut told = self.0.lock().unwrap();
        told.is_on = false;
        told.ended = Some(Instant::now());
    }

    /// A number that stays the same while nothing is done; `None` while something is or was just now.
    pub(crate) fn quiet(&self) -> Option<u64> {
        let told = self.0.lock().unwrap();
        let is_quiet = !told.is_on && told.ended.is_none_or(|ended| ended.elapsed() > AFTERMATH);
        is_quiet.then_some(told.began)
    }

    /// Whether times that the control plane tells may be wrong.
    pub(crate) fn is_clock_off(&self) -> bool {
        let told = self.0.lock().unwrap();
        told.is_clock_off && (told.is_on || told.ended.is_some_and(|ended| ended.elapsed() < AFTERMATH))
    }
}
