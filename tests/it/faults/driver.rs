//! One gateway, its callers and its faults: one trial after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::Random;
use super::control::told;
use super::fault::Fault;
use super::ground::{Clocks, Way};
use super::house::{AUTHORITY, CONTROL, House, LISTEN, PATIENCE};
use super::ledger::{Watched, get};
use super::model::{BACK, History, IN_FLIGHT, Limit, Report};
use crate::world::Process;

/// Between calls of a caller.
const PACE: Duration = Duration::from_millis(40);
/// How long a grant may be under way; then it was lost with a store, and is made again.
const GIVEN: Duration = Duration::from_secs(5);
/// Lines of a log that show what was done where it was slow to come back.
const LATEST: usize = 16;

/// One gateway.
pub(crate) struct Driver {
    house: Arc<House>,
    place: usize,
    name: String,
    pub(crate) process: Process,
    pub(crate) clocks: Clocks,
}

impl Driver {
    pub(crate) fn start(house: Arc<House>, place: usize) -> Self {
        let name = format!("g{place}");
        let clocks = Clocks::new(&house.at("."), &name);
        let process = spawn(&house, &name, &clocks);
        Self { house, place, name, process, clocks }
    }

    pub(crate) fn run(&mut self) {
        self.process = spawn(&self.house, &self.name, &self.clocks);
    }

    /// What the network does with what it says to the control plane, and with what it hears.
    pub(crate) fn network(&self, up: Way, down: Way) {
        self.house.ground.set(&self.name, CONTROL, up);
        self.house.ground.set(CONTROL, &self.name, down);
    }

    pub(crate) fn disk(&self, is_full: bool) {
        self.house.ground.fill(&self.house.at(&self.name), is_full);
    }

    /// Moves this thread to where its callers are.
    pub(crate) fn enter(&self) {
        self.house.ground.enter(&self.name);
    }

    pub(crate) fn bearer(&self) -> String {
        self.house.bearer(self.place)
    }

    /// A path that shows whether it serves.
    pub(crate) fn canary(&self) -> String {
        format!("/c{}/x", self.place)
    }

    /// Waits until the gateway serves: how long that took. To be called where its callers are.
    pub(crate) fn back(&self) -> Duration {
        let (from, bearer) = (Instant::now(), self.bearer());
        while get(LISTEN, &bearer, &self.canary(), Duration::from_secs(1)) != 200 {
            assert!(from.elapsed() < PATIENCE, "{} does not come back:\n{}", self.name, self.process.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        from.elapsed()
    }

    /// A stream under the trial's grant, once it runs.
    fn stream(&self, path: &str) -> Watched {
        let (from, bearer) = (Instant::now(), self.bearer());
        let mut given = Instant::now();
        loop {
            let watched = Watched::open(LISTEN, &bearer, &format!("{path}/events"));
            while let (None, false) = watched.told() {
                std::thread::sleep(Duration::from_millis(2));
            }
            if watched.told().0.is_some() {
                return watched;
            }
            assert!(from.elapsed() < PATIENCE, "the grant did not come:\n{}", self.process.log());
            if given.elapsed() > GIVEN {
                self.house.revoke(self.place, Duration::from_secs(1));
                self.house.give(self.place, None);
                given = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn caller(&self, place: usize, path: String, over: Arc<AtomicBool>, calls: Arc<AtomicUsize>) -> JoinHandle<()> {
        let (house, bearer) = (self.house.clone(), self.bearer());
        std::thread::spawn(move || {
            house.ground.enter(&house.gateways[place]);
            while !over.load(SeqCst) {
                get(LISTEN, &bearer, &path, Duration::from_secs(2));
                calls.fetch_add(1, SeqCst);
                std::thread::sleep(PACE);
            }
        })
    }

    /// One grant, one fault, its end, and what must hold.
    pub(crate) fn trial(&mut self, seed: u64, report: &mut Report) {
        let mut random = Random::of(seed);
        let fault = Fault::ALL[random.below(Fault::ALL.len() as u64) as usize];
        let uses = (random.below(3) == 0).then(|| 1 + random.below(20) as usize);
        let trial = format!("t{seed:x}");
        let path = format!("/g{}/{trial}", self.place);
        // A grant that counts is used at two gateways.
        let other = (self.place + 1) % self.house.gateways.len();
        let concerned: Vec<usize> = [Some(self.place), uses.map(|_| other)].into_iter().flatten().collect();
        self.back();
        if uses.is_some() {
            // A trial before this one asked its own gateway alone: the other may go by that grant for a while yet.
            self.enforced(&concerned, seed);
        }
        self.house.give(self.place, uses);
        let stream = uses.is_none().then(|| self.stream(&path));
        let (over, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let caller = |place: &usize| self.caller(*place, format!("{path}/call"), over.clone(), calls.clone());
        let callers: Vec<_> = concerned.iter().map(caller).collect();
        std::thread::sleep(random.millis(0..300));
        let quiet = self.house.disturbed.quiet();
        fault.begin(self, &mut random);
        std::thread::sleep(random.millis(0..600));
        let (receipts, answered) = self.house.revoke(self.place, random.millis(1..1_500));
        let (first, was_enforced) = self.limit(&concerned, &receipts, answered);
        // Some faults outlast authority.
        std::thread::sleep(if random.below(4) == 0 { random.millis(5_000..7_500) } else { random.millis(0..1_500) });
        let was_away = fault.end(self);
        let from = told(SystemTime::now());
        let healed = self.back();
        let is_told = was_away && quiet.is_some() && quiet == self.house.disturbed.quiet();
        if is_told && healed > BACK {
            eprintln!(
                "FAULTS_TRIAL={seed} ({}): healed at {from}, it served again after {healed:?}\n{}",
                fault.name(),
                latest(&self.process)
            );
        }
        let mut limits = vec![first];
        limits.extend(self.enforced(&concerned, seed));
        std::thread::sleep(IN_FLIGHT * 2);
        over.store(true, SeqCst);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        let history = History {
            seed,
            fault: fault.name().to_owned(),
            uses,
            seen: self.house.ledger.take(&trial),
            stream: stream.map(|stream| stream.told()),
            limits,
        };
        if !history.faults().is_empty() {
            eprintln!("{}", self.house.told_of(&path));
        }
        history.check();
        report.calls += calls.load(SeqCst);
        report.take(fault.name(), &history, was_enforced, is_told.then_some(healed));
    }

    /// Waits until each of these gateways said that it enforces the end of the grant: the last word of them.
    fn enforced(&self, gateways: &[usize], seed: u64) -> Option<Limit> {
        let (from, mut last) = (Instant::now(), None);
        // A gateway that said so once enforces it from then on. That all are heard in one answer is more than is promised:
        // the control plane has faults of its own meanwhile.
        let mut left = gateways.to_vec();
        while !left.is_empty() {
            let (receipts, at) = self.house.revoke(self.place, Duration::from_secs(2));
            left.retain(|place| {
                let (limit, is_enforced) = self.limit(&[*place], &receipts, at);
                last = is_enforced.then_some(limit).or(last);
                !is_enforced
            });
            assert!(from.elapsed() < PATIENCE, "FAULTS_TRIAL={seed}: it is never enforced by {left:?}: {receipts:#?}");
        }
        last
    }

    /// From when on these gateways allow nothing under the grant any more, as their receipts say; whether all enforce it.
    fn limit(&self, gateways: &[usize], receipts: &[Value], answered: SystemTime) -> (Limit, bool) {
        // What a wrong clock says of the future is no limit; the design's own is.
        let is_clock_off = self.house.disturbed.is_clock_off();
        let until = |receipt: &Value| {
            let text = receipt["stops_by"].as_str().unwrap_or_else(|| panic!("{receipt:#}"));
            let until = portcullis::domain::Timestamp::parse_rfc3339(text).unwrap();
            let until = SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(until.unix_micros()).unwrap());
            if is_clock_off { answered + AUTHORITY } else { until }
        };
        let of = |place: &usize| {
            let name = format!("g{place}");
            let receipt = receipts.iter().find(|receipt| receipt["gateway"] == name.as_str()).unwrap();
            match receipt["state"].as_str().unwrap() {
                "enforced" => ("enforced", answered),
                "lapsed" => ("lapsed", until(receipt).min(answered)),
                "pending" => ("pending", until(receipt)),
                other => panic!("{other}"),
            }
        };
        let limits: Vec<_> = gateways.iter().map(of).collect();
        let are_enforced = limits.iter().all(|(state, _)| *state == "enforced");
        (limits.into_iter().max_by_key(|(_, limit)| *limit).unwrap(), are_enforced)
    }
}

/// What a process logged last.
pub(crate) fn latest(process: &Process) -> String {
    let log = process.log();
    let lines: Vec<&str> = log.lines().rev().take(LATEST).collect();
    lines.into_iter().rev().fold(String::new(), |text, line| text + line + "\n")
}

fn spawn(house: &House, name: &str, clocks: &Clocks) -> Process {
    let file = format!("{name}.yaml");
    let mut command = house.ground.command(name, &["gateway", "run", "-c", &file]);
    clocks.given_to(&mut command);
    Process::of(command)
}
