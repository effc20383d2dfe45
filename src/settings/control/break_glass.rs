//! Bounds on break-glass, as the settings of a control plane name them.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::parts::Check;
use crate::domain::resource::Span;

const MINUTE: u64 = 60;
const DAY: u64 = 86_400;

/// Bounds on break-glass: access at once, without an approval, for those whom policy names.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawBreakGlass {
    /// How long ago whoever breaks glass may have proved who they are: 10s to 1h. Default: 5m.
    recent: Span,
    /// The longest that it may be for, 1m to 1h; never longer than policy lets anything be asked for. Default: 15m.
    longest: Span,
    /// How long another person has to close the review, 1m to 30d: past it the same person breaks no glass. Default: 3d.
    review: Span,
}

impl Default for RawBreakGlass {
    fn default() -> Self {
        let of = |seconds| Span::new(Duration::from_secs(seconds));
        Self { recent: of(5 * MINUTE), longest: of(15 * MINUTE), review: of(3 * DAY) }
    }
}

/// Bounds on break-glass, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakGlassSettings {
    /// How long ago whoever breaks glass may have proved who they are.
    pub recent: Duration,
    /// The longest that it may be for.
    pub longest: Duration,
    /// How long another person has to close the review.
    pub review: Duration,
}

impl Default for BreakGlassSettings {
    fn default() -> Self {
        let RawBreakGlass { recent, longest, review } = RawBreakGlass::default();
        Self { recent: recent.duration(), longest: longest.duration(), review: review.duration() }
    }
}

/// The bounds of a file.
pub(super) fn break_glass(check: &mut Check<'_>, raw: &RawBreakGlass) -> BreakGlassSettings {
    let mut bounded = |field: &str, span: Span, (least, most): (u64, u64), words: &str| {
        if !(least..=most).contains(&span.duration().as_secs()) {
            check.fault(&format!("/break_glass/{field}"), format!("{span}: {words}"));
        }
        span.duration()
    };
    BreakGlassSettings {
        recent: bounded("recent", raw.recent, (10, 60 * MINUTE), "10s to 1h"),
        longest: bounded("longest", raw.longest, (MINUTE, 60 * MINUTE), "1m to 1h"),
        review: bounded("review", raw.review, (MINUTE, 30 * DAY), "1m to 30d"),
    }
}
