//! `kill -9` under load: whatever the upstream saw is in the evidence.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Caller, Upstream, calls, records, verified};
use crate::dev::{Dev, PATIENCE, eventually};

const RUNS: u64 = 20;
/// Connections of a caller that is allowed; one more is of a caller that is not.
const ALLOWED: usize = 4;
/// What one connection asks at most in one run.
const MOST_CALLS: usize = 400;
/// The upstream's own time, so that some calls run at any moment.
const UPSTREAM_TAKES: Duration = Duration::from_millis(2);
/// From the first call to the kill, in milliseconds.
const KILL_WITHIN_MS: u64 = 250;

/// splitmix64.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Asks until the gate is gone; the call ids of the refusals that were answered.
fn load(mut caller: Caller, run: u64, connection: usize) -> Vec<String> {
    let mut denied = Vec::new();
    for n in 0..MOST_CALLS {
        let Some(got) = caller.get(&format!("/run/{run}/{connection}/{n}")) else { break };
        if got.status == 403 {
            denied.push(got.call);
        }
    }
    denied
}

#[test]
fn after_kill_9_every_call_that_the_upstream_saw_is_in_the_evidence() {
    let given = std::env::var("PORTCULLIS_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut seed = given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    println!("PORTCULLIS_TEST_SEED={seed}");
    let upstream = Upstream::start(UPSTREAM_TAKES);
    let arguments = ["--upstream", upstream.url.as_str()];
    let mut dev = Dev::start_with(&arguments);
    dev.grant_with("billing", "api/upstream", &["read"], &["--duration", "2h"]);
    let mut told = HashSet::new();
    let mut open = 0;
    for run in 0..RUNS {
        let before = upstream.seen().len();
        let threads: Vec<_> = (0..=ALLOWED)
            .map(|connection| {
                let identity = if connection < ALLOWED { "billing" } else { "helper" };
                let caller = Caller::of(&dev, identity);
                std::thread::spawn(move || load(caller, run, connection))
            })
            .collect();
        eventually("the load is on", PATIENCE, || upstream.seen().len() > before);
        std::thread::sleep(Duration::from_micros(next(&mut seed) % (KILL_WITHIN_MS * 1000)));
        dev.kill();
        told.extend(threads.into_iter().flat_map(|thread| thread.join().unwrap()));
        dev = dev.restart(&arguments);

        let log = dev.addresses.evidence.clone();
        let intents = calls(&records(&dev, &log, "intent"));
        let seen: HashSet<String> = upstream.seen().into_keys().collect();
        let lost: Vec<_> = seen.difference(&intents).collect();
        assert!(lost.is_empty(), "run {run}: the upstream saw calls of which nothing is recorded: {lost:?}");
        let denied = calls(&records(&dev, &log, "denial"));
        let lost: Vec<_> = told.difference(&denied).collect();
        assert!(lost.is_empty(), "run {run}: callers were refused and nothing is recorded: {lost:?}");
        let outcomes = calls(&records(&dev, &log, "outcome"));
        let unknown = intents.difference(&outcomes).count();
        assert_eq!(verified(&dev, &log)["open_intents"], unknown, "run {run}: what has no outcome is reported as open");
        open = unknown;
    }
    assert!(upstream.seen().len() > 200, "too little load to show anything: {}", upstream.seen().len());
    assert!(!told.is_empty() && open > 0, "no kill met a running call");
}

#[test]
fn a_short_soak_finds_nothing_lost_doubled_or_reordered() {
    let soak = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/soak/run");
    let done =
        std::process::Command::new(soak).args(["--seeds", "25"]).env("PORTCULLIS_BINARY", crate::dev::BINARY).output();
    let done = crate::dev::Done::of(done.unwrap()).exits(0);
    assert!(done.stdout.contains("25 passed, 0 failed") && done.stdout.contains("cut and undecided"), "{done:?}");
}
