//! Times and durations as people write and read them.

use std::time::Duration;

use crate::domain::Timestamp;
use crate::domain::resource::Span;

/// `in 14m`, `3h ago`, `now`: the two largest units, without what does not matter at a glance.
pub(super) fn relative(at: Timestamp, now: Timestamp) -> String {
    let (ahead, behind) = (at.saturating_since(now), now.saturating_since(at));
    if ahead.max(behind) < Duration::from_secs(1) {
        "now".to_owned()
    } else if ahead > behind {
        format!("in {}", rough(ahead))
    } else {
        format!("{} ago", rough(behind))
    }
}

/// RFC 3339 to the second, and relative.
pub(super) fn both(at: Timestamp, now: Timestamp) -> String {
    let whole = Timestamp::from_unix_seconds(at.unix_seconds());
    format!("{whole} ({})", relative(at, now))
}

fn rough(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, 1..=4) if !seconds.is_multiple_of(60) => format!("{minutes}m{}s", seconds % 60),
        (0, 0, _) => format!("{minutes}m"),
        (0, _, 0) => format!("{hours}h"),
        (0, ..) => format!("{hours}h{minutes}m"),
        (1..=6, 1.., _) => format!("{days}d{hours}h"),
        _ => format!("{days}d"),
    }
}

/// A duration as it was measured: `412us`, `1.8ms`, `2.25s`.
pub(super) fn measured(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros}us"),
        1_000..1_000_000 => format!("{:.1}ms", micros as f64 / 1e3),
        _ => format!("{:.2}s", micros as f64 / 1e6),
    }
}

/// How long `--wait` waits unless told otherwise.
pub(super) const DEFAULT_WAIT: &str = "10s";

/// Whole milliseconds of a span.
pub(super) fn millis(span: Span) -> u64 {
    u64::try_from(span.duration().as_millis()).unwrap_or(u64::MAX)
}

/// For clap: a point in time, RFC 3339.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse_rfc3339(text).map_err(|_| "not a time as RFC 3339 has it, for example 2026-11-22T05:09:00Z".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_relative_to_now() {
        let now = Timestamp::from_unix_seconds(1_000_000);
        let shown = |seconds: i64| relative(Timestamp::from_unix_seconds(1_000_000 + seconds), now);
        assert_eq!(shown(0), "now");
        assert_eq!(shown(14 * 60), "in 14m");
        assert_eq!(shown(90), "in 1m30s");
        assert_eq!(shown(-5), "5s ago");
        assert_eq!(shown(-2 * 3600 - 300), "2h5m ago");
        assert_eq!(shown(26 * 3600), "in 1d2h");
        assert_eq!(shown(30 * 86_400), "in 30d");
    }

    #[test]
    fn measured_times_keep_two_or_three_digits() {
        assert_eq!([measured(412), measured(1_840), measured(2_250_000)], ["412us", "1.8ms", "2.25s"]);
    }
}
