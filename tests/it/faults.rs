//! Faults at random, seeded: gateways that are killed, stopped, cut off, delayed or given a wrong clock, and a control
//! plane that is killed and stopped, while grants are revoked and counted. A model checks what the upstream saw.
//!
//! A trial is one grant on one gateway under one fault: `FAULTS_TRIALS` trials (a few, unless it says more), drawn from
//! `FAULTS_SEED`. Trials run beside each other, one at a time on each gateway. A trial that fails prints its own seed, and
//! `FAULTS_TRIAL` runs that one alone.

mod driver;
mod ledger;
mod link;
mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use rustix::process::Signal;

use self::driver::{Driver, House, Report};
use self::ledger::Ledger;
use crate::world::Fleet;

/// Gateways, and trials beside each other.
const GATEWAYS: usize = 6;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// A number from a number: SplitMix64.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Numbers at random, the same for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// Less than `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = mix(self.0);
        self.0 % limit
    }

    pub(crate) fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.below(range.end - range.start))
    }
}

#[test]
fn no_fault_lets_a_call_past_its_bound_or_a_use_be_spent_twice() {
    let seed = number("FAULTS_SEED").unwrap_or(1);
    let alone = number("FAULTS_TRIAL");
    let trials = usize::try_from(number("FAULTS_TRIALS").unwrap_or(24)).unwrap();
    let trials = if alone.is_some() { 1 } else { trials };
    let gateways = if alone.is_some() { 2 } else { GATEWAYS.min(trials.max(2)) };
    let ledger = Ledger::start();
    let names: Vec<String> = (0..gateways).map(|place| format!("g{place}")).collect();
    let mut fleet = Fleet::of(ledger.address, &names.iter().map(String::as_str).collect::<Vec<_>>());
    fleet.apply(&driver::catalog(ledger.address, gateways));
    let house = Arc::new(House::new(&fleet, ledger, gateways));
    let drivers: Vec<Driver> = (0..gateways).map(|place| Driver::start(house.clone(), place)).collect();
    house.join(&drivers);
    let next = Arc::new(AtomicUsize::new(0));
    let running: Vec<_> = drivers
        .into_iter()
        .map(|mut driver| {
            let next = next.clone();
            std::thread::spawn(move || {
                let mut report = Report::default();
                loop {
                    let trial = next.fetch_add(1, SeqCst);
                    if trial >= trials {
                        return report;
                    }
                    driver.trial(alone.unwrap_or_else(|| mix(seed ^ mix(trial as u64))), &mut report);
                }
            })
        })
        .collect();
    // The control plane has faults of its own, for all gateways at once.
    let mut random = Random::of(mix(seed));
    while alone.is_none() && running.iter().any(|driver| !driver.is_finished()) {
        std::thread::sleep(random.millis(4_000..12_000));
        let away = random.millis(50..4_000);
        if random.below(2) == 0 {
            fleet.control.signal(Signal::STOP);
            std::thread::sleep(away);
            fleet.control.signal(Signal::CONT);
        } else {
            fleet.control.kill();
            std::thread::sleep(away);
            fleet.restart_control();
        }
    }
    let mut report = Report::default();
    let failed: Vec<_> =
        running.into_iter().filter_map(|driver| driver.join().map(|one| report.add(one)).err()).collect();
    report.print(seed);
    if let Some(panic) = failed.into_iter().next() {
        std::panic::resume_unwind(panic);
    }
    assert_eq!(report.trials(), trials);
}
