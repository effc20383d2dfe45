//! Faults at random, seeded: gateways that are killed, stopped, cut off one way or both, delayed, or given wrong clocks or
//! full disks, and a control plane to which the same is done, and whose store is put back from copies, while grants are
//! revoked and counted. A model checks what the upstream saw. Everybody is in a network namespace of their own.
//!
//! A trial is one grant on one gateway under one fault: `FAULTS_TRIALS` trials (a few, unless it says more), drawn from
//! `FAULTS_SEED`. Trials run beside each other, one at a time on each of `FAULTS_GATEWAYS` gateways. A trial that fails
//! prints its own seed, and `FAULTS_TRIAL` runs that one alone.

mod control;
mod disturbed;
mod driver;
mod fault;
mod ground;
mod house;
mod ledger;
mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use self::control::Control;
use self::driver::Driver;
use self::house::House;
use self::model::Report;

/// Gateways, and trials beside each other. One more has no faults of its own.
const GATEWAYS: u64 = 6;

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
    let gateways = usize::try_from(number("FAULTS_GATEWAYS").unwrap_or(GATEWAYS)).unwrap();
    let gateways = if alone.is_some() { 1 } else { gateways.min(trials) };
    let house = Arc::new(House::new(seed, gateways + 1));
    let mut control = Control::start(house.clone());
    let mut drivers: Vec<Driver> = (0..=gateways).map(|place| Driver::start(house.clone(), place)).collect();
    house.furnish();
    for driver in &drivers {
        driver.enter();
        driver.back();
    }
    // Where this thread is from now on.
    let witness = drivers.pop().unwrap();
    let next = Arc::new(AtomicUsize::new(0));
    let running: Vec<_> = drivers
        .into_iter()
        .map(|mut driver| {
            let next = next.clone();
            std::thread::spawn(move || {
                driver.enter();
                let mut report = Report::default();
                loop {
                    let trial = next.fetch_add(1, SeqCst);
                    if trial >= trials {
                        // The gateway goes on: a neighbour's trial may use it.
                        return (driver, report);
                    }
                    if trial > 0 && trial.is_multiple_of(100) {
                        eprintln!("{trial} trials began");
                    }
                    let one = std::panic::AssertUnwindSafe(|| {
                        driver.trial(alone.unwrap_or_else(|| mix(seed ^ mix(trial as u64))), &mut report);
                    });
                    if let Err(panic) = std::panic::catch_unwind(one) {
                        // Its gateway ends with this thread: what others would find of it is no news.
                        next.store(trials, SeqCst);
                        std::panic::resume_unwind(panic);
                    }
                }
            })
        })
        .collect();
    let mut report = Report::default();
    let mut random = Random::of(mix(seed));
    let mut failed = None;
    while alone.is_none() && running.iter().any(|driver| !driver.is_finished()) {
        std::thread::sleep(random.millis(6_000..16_000));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| control.trial(&mut random, &witness)));
        match done {
            Ok((fault, back)) => report.disturbed(fault, back),
            Err(panic) => {
                failed = Some(panic);
                next.store(trials, SeqCst);
                break;
            }
        }
    }
    let mut over = Vec::new();
    for driver in running {
        match driver.join() {
            Ok((driver, one)) => {
                report.add(one);
                over.push(driver);
            }
            Err(panic) => failed = Some(panic),
        }
    }
    report.print(seed);
    if let Some(panic) = failed {
        eprintln!("FAULTS_SEED={seed} FAULTS_TRIALS={trials} FAULTS_GATEWAYS={gateways}");
        std::panic::resume_unwind(panic);
    }
    assert_eq!(report.trials(), trials);
}
