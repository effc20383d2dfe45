//! The one place that reads the clocks of the machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::domain::{Clock, Timestamp};

/// The clocks of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Timestamp {
        let micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |m| -m),
        };
        Timestamp::from_unix_micros(micros)
    }

    fn since_boot(&self) -> Duration {
        read(rustix::time::ClockId::Boottime)
    }

    fn coarse(&self) -> Duration {
        read(rustix::time::ClockId::MonotonicCoarse)
    }
}

fn read(clock: rustix::time::ClockId) -> Duration {
    let at = rustix::time::clock_gettime(clock);
    Duration::new(u64::try_from(at.tv_sec).unwrap_or(0), u32::try_from(at.tv_nsec).unwrap_or(0))
}
