//! What is done to a gateway.

use std::time::Duration;

use rustix::process::Signal;

use super::Random;
use super::driver::Driver;
use super::ground::Way;
use super::house::LISTEN;
use super::ledger::get;

/// Longer than a gateway with a full disk takes to notice.
const FULL_AFTER: Duration = Duration::from_secs(2);
/// Makes records large.
const LONG: usize = 3000;

/// One of them is drawn for each trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// SIGKILL, and started again when it is over.
    Kill,
    /// Killed and started several times, each time before it is quite there.
    Restarts,
    Stop,
    Partition,
    /// What it says arrives; it hears nothing.
    Deaf,
    /// It hears; nothing that it says arrives.
    Mute,
    Delay,
    /// Packets overtake each other, and some come twice.
    Reorder,
    /// Cut off and not, many times.
    Flapping,
    ClockAhead,
    ClockBehind,
    /// Both clocks jump ahead, and timers do not notice: as after a suspend.
    Suspended,
    /// The clock that runs through suspends jumps ahead, and the wall clock is set back.
    ClocksApart,
    DiskFull,
}

impl Fault {
    pub(crate) const ALL: [Self; 15] = [
        Self::None,
        Self::Kill,
        Self::Restarts,
        Self::Stop,
        Self::Partition,
        Self::Deaf,
        Self::Mute,
        Self::Delay,
        Self::Reorder,
        Self::Flapping,
        Self::ClockAhead,
        Self::ClockBehind,
        Self::Suspended,
        Self::ClocksApart,
        Self::DiskFull,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kill => "kill -9",
            Self::Restarts => "restart storm",
            Self::Stop => "stop, cont",
            Self::Partition => "partition",
            Self::Deaf => "deaf",
            Self::Mute => "mute",
            Self::Delay => "delay",
            Self::Reorder => "reordering",
            Self::Flapping => "flapping",
            Self::ClockAhead => "wall ahead",
            Self::ClockBehind => "wall behind",
            Self::Suspended => "both ahead",
            Self::ClocksApart => "clocks apart",
            Self::DiskFull => "full disk",
        }
    }

    /// Begins it.
    pub(crate) fn begin(self, gateway: &mut Driver, random: &mut Random) {
        match self {
            Self::None => {}
            Self::Kill => gateway.process.kill(),
            Self::Restarts => {
                for _ in 0..2 + random.below(4) {
                    gateway.process.kill();
                    gateway.run();
                    std::thread::sleep(random.millis(0..600));
                }
                gateway.process.kill();
            }
            Self::Stop => gateway.process.signal(Signal::STOP),
            Self::Partition => gateway.network(Way::Cut, Way::Cut),
            Self::Deaf => gateway.network(Way::Open, Way::Cut),
            Self::Mute => gateway.network(Way::Cut, Way::Open),
            Self::Delay => {
                let mut same = || {
                    let delay = random.millis(0..1_500);
                    Way::Slow { least: delay, most: delay, twice: 0 }
                };
                gateway.network(same(), same());
            }
            Self::Reorder => {
                let mut drawn =
                    || Way::Slow { least: Duration::ZERO, most: random.millis(10..400), twice: random.below(30) };
                gateway.network(drawn(), drawn());
            }
            Self::Flapping => {
                for _ in 0..1 + random.below(5) {
                    gateway.network(Way::Cut, Way::Cut);
                    std::thread::sleep(random.millis(0..300));
                    gateway.network(Way::Open, Way::Open);
                    std::thread::sleep(random.millis(0..200));
                }
                gateway.network(Way::Cut, Way::Cut);
            }
            Self::ClockAhead => gateway.clocks.step(40, 0),
            Self::ClockBehind => gateway.clocks.step(-3600, 0),
            Self::Suspended => {
                let away = 1 + random.below(9) as i64;
                gateway.clocks.step(away, away);
            }
            Self::ClocksApart => gateway.clocks.step(-3600, 1 + random.below(9) as i64),
            Self::DiskFull => {
                gateway.disk(true);
                let (from, bearer) = (std::time::Instant::now(), gateway.bearer());
                let path = format!("{}/{}", gateway.canary(), "x".repeat(LONG));
                while from.elapsed() < FULL_AFTER && get(LISTEN, &bearer, &path, Duration::from_secs(1)) == 200 {}
            }
        }
    }

    /// Heals it. Whether it kept the gateway from serving.
    pub(crate) fn end(self, gateway: &mut Driver) -> bool {
        match self {
            Self::None => return false,
            Self::Kill | Self::Restarts => gateway.run(),
            Self::Stop => gateway.process.signal(Signal::CONT),
            Self::Partition | Self::Deaf | Self::Mute | Self::Delay | Self::Reorder | Self::Flapping => {
                gateway.network(Way::Open, Way::Open);
            }
            Self::ClockAhead | Self::ClockBehind | Self::Suspended | Self::ClocksApart => gateway.clocks.step(0, 0),
            Self::DiskFull => gateway.disk(false),
        }
        true
    }
}
