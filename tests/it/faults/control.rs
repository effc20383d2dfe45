//! The control plane, and what is done to it: for all gateways at once, while their trials go on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use portcullis::domain::Timestamp;
use rustix::process::Signal;

use super::Random;
use super::driver::{Driver, latest};
use super::ground::Clocks;
use super::house::{AUTHORITY, CONTROL, House};
use super::model::BACK;
use crate::dev::Done;
use crate::world::Process;

/// The store's files.
const STORE: [&str; 3] = ["control.db", "control.db-wal", "control.db-shm"];

/// What is done to the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ControlFault {
    Kill,
    Restarts,
    Stop,
    Clock,
    DiskFull,
    /// Its store is an old copy, as is declared before it starts.
    Restored,
    /// It starts on an old copy first, and is stopped again and declared only then.
    RestoredUndeclared,
}

impl ControlFault {
    const ALL: [Self; 7] =
        [Self::Kill, Self::Restarts, Self::Stop, Self::Clock, Self::DiskFull, Self::Restored, Self::RestoredUndeclared];

    const fn name(self) -> &'static str {
        match self {
            Self::Kill => "control: kill -9",
            Self::Restarts => "control: restart storm",
            Self::Stop => "control: stop, cont",
            Self::Clock => "control: wall clock",
            Self::DiskFull => "control: full disk",
            Self::Restored => "control: restored",
            Self::RestoredUndeclared => "control: undeclared",
        }
    }
}

/// The control plane's process.
pub(crate) struct Control {
    house: Arc<House>,
    process: Process,
    clocks: Clocks,
}

impl Control {
    pub(crate) fn start(house: Arc<House>) -> Self {
        let clocks = Clocks::new(&house.at("."), CONTROL);
        let process = spawn(&house, &clocks);
        process.says("the control plane is ready");
        Self { house, process, clocks }
    }

    fn run(&mut self) {
        self.process = spawn(&self.house, &self.clocks);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.house.ground.seen(&self.house.at("control").join(name))
    }

    /// Keeps a copy of the store, of a control plane that was stopped for it.
    fn back_up(&mut self) {
        self.process.kill();
        for file in STORE {
            let _ = std::fs::copy(self.file(file), self.file(&format!("{file}.copy")));
        }
        self.run();
        self.process.says("the control plane is ready");
    }

    fn put_back(&mut self) {
        self.process.kill();
        for file in STORE {
            let _ = std::fs::remove_file(self.file(file));
            let _ = std::fs::rename(self.file(&format!("{file}.copy")), self.file(file));
        }
    }

    fn declare(&self) {
        let declare = ["control", "restored", "-c", "control.yaml", "--reason", "a trial"];
        Done::of(self.house.ground.command(CONTROL, &declare).output().unwrap()).exits(0);
    }

    /// One fault and its end. `witness` is a gateway without faults of its own: how long after the end it serves again, if
    /// it may have stopped.
    pub(crate) fn trial(&mut self, random: &mut Random, witness: &Driver) -> (&'static str, Option<Duration>) {
        let fault = ControlFault::ALL[random.below(ControlFault::ALL.len() as u64) as usize];
        self.house.disturbed.begin(fault == ControlFault::Clock);
        let from = Instant::now();
        let away = if random.below(3) == 0 { random.millis(5_000..9_000) } else { random.millis(50..4_000) };
        match fault {
            ControlFault::Kill => {
                self.process.kill();
                std::thread::sleep(away);
                self.run();
            }
            ControlFault::Restarts => {
                for _ in 0..2 + random.below(4) {
                    self.process.kill();
                    self.run();
                    std::thread::sleep(random.millis(0..1_500));
                }
                self.process.kill();
                self.run();
            }
            ControlFault::Stop => {
                self.process.signal(Signal::STOP);
                std::thread::sleep(away);
                self.process.signal(Signal::CONT);
            }
            ControlFault::Clock => {
                self.clocks.step(if random.below(2) == 0 { 20 } else { -20 }, 0);
                std::thread::sleep(away);
                self.clocks.step(0, 0);
            }
            ControlFault::DiskFull => {
                self.house.ground.fill(&self.house.at("control"), true);
                std::thread::sleep(away);
                self.house.ground.fill(&self.house.at("control"), false);
            }
            ControlFault::Restored | ControlFault::RestoredUndeclared => {
                self.back_up();
                std::thread::sleep(away);
                self.put_back();
                if fault == ControlFault::RestoredUndeclared {
                    self.run();
                    std::thread::sleep(random.millis(500..4_000));
                    self.process.kill();
                }
                self.declare();
                self.run();
            }
        }
        let was_long = from.elapsed() > AUTHORITY;
        let healed = told(SystemTime::now());
        let back = was_long.then(|| witness.back());
        if let Some(back) = back.filter(|back| *back > BACK) {
            eprintln!("{}: healed at {healed}, it served again after {back:?}", fault.name());
            eprintln!("{}\n{}", latest(&self.process), latest(&witness.process));
        }
        self.house.disturbed.end();
        (fault.name(), back)
    }
}

/// As logs tell it.
pub(crate) fn told(at: SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_unix_micros(since.as_micros().try_into().unwrap())
}

fn spawn(house: &House, clocks: &Clocks) -> Process {
    let mut command = house.ground.command(CONTROL, &["control", "run", "-c", "control.yaml"]);
    clocks.given_to(&mut command);
    Process::of(command)
}
