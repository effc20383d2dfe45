//! Time as an argument.
//!
//! Everything that decides takes a [`Timestamp`]; everything that waits or reads time takes a [`Clock`]. The clock of
//! the machine is read in `crate::clock` alone, so that tests own time. This module knows no timers and no runtime.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A point in time: microseconds since the Unix epoch, UTC, without leap seconds.
///
/// Documents and the API show it as RFC 3339; the evidence and the wire carry the integer.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String", extend("format" = "date-time"))]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch: before everything that happens here.
    pub const UNIX_EPOCH: Self = Self(0);
    /// Later than every time that can be written down; "no end" in comparisons, never shown.
    pub const MAX: Self = Self(i64::MAX);

    /// From microseconds since the Unix epoch.
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From whole seconds since the Unix epoch; saturates.
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since the Unix epoch.
    pub const fn unix_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down: the form that tokens use (RFC 7519 `NumericDate`).
    pub const fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This time plus `duration`, at most [`Timestamp::MAX`].
    pub fn saturating_add(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// So much earlier; stops at the ends of time.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }

    /// Parses RFC 3339, for example `2026-11-22T05:09:00Z`.
    ///
    /// # Errors
    /// When the text is not a timestamp with an offset.
    pub fn parse_rfc3339(text: &str) -> Result<Self, jiff::Error> {
        let at: jiff::Timestamp = text.parse()?;
        Ok(Self(at.as_microsecond()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(at) => write!(f, "{at}"),
            Err(_) => f.write_str("never"),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}

/// Where time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Wall-clock time.
    fn now(&self) -> Timestamp;

    /// Time since boot, suspend included (`CLOCK_BOOTTIME`): what ages are counted on. Never goes back.
    fn since_boot(&self) -> Duration;

    /// Time that costs next to nothing to read, from some moment on, a few milliseconds coarse, suspend not included
    /// (`CLOCK_MONOTONIC_COARSE`): for seeing that a process stood still. Never goes back.
    fn coarse(&self) -> Duration {
        self.since_boot()
    }
}

/// A clock that moves when told. For tests, and for replaying past decisions.
#[derive(Debug)]
pub struct ManualClock {
    wall: std::sync::atomic::AtomicI64,
    boot: std::sync::atomic::AtomicU64,
}

impl ManualClock {
    /// A clock that stands at `now`, with a machine that booted just now.
    pub fn at(now: Timestamp) -> Self {
        Self { wall: now.0.into(), boot: 0.into() }
    }

    /// Both clocks move on.
    pub fn advance(&self, by: Duration) {
        use std::sync::atomic::Ordering::SeqCst;
        let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.wall.fetch_add(i64::try_from(micros).unwrap_or(i64::MAX), SeqCst);
        self.boot.fetch_add(micros, SeqCst);
    }

    /// Somebody sets the wall clock; the boot clock does not notice.
    pub fn set_wall(&self, now: Timestamp) {
        self.wall.store(now.0, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.wall.load(std::sync::atomic::Ordering::SeqCst))
    }

    fn since_boot(&self) -> Duration {
        Duration::from_micros(self.boot.load(std::sync::atomic::Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_and_reads_rfc3339() {
        let at = Timestamp::parse_rfc3339("2026-11-22T05:09:00.25Z").unwrap();
        assert_eq!(at.to_string(), "2026-11-22T05:09:00.25Z");
        assert_eq!(at.unix_seconds(), 1_795_324_140);
        assert!(Timestamp::parse_rfc3339("2026-11-22").is_err());
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp::MAX.saturating_add(Duration::from_secs(1)), Timestamp::MAX);
        assert_eq!(Timestamp::from_unix_seconds(1).saturating_since(Timestamp::from_unix_seconds(2)), Duration::ZERO);
    }
}
