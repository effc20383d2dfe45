//! What calls touch, and how old a gateway's authority may be for it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name::{OwnerName, ResourceName};

/// How much harm a resource can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sensitivity {
    /// Little.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Much: the crown jewels.
    High,
}

/// A length of time as documents write it: `250ms`, `10s`, `5m`, `8h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("format" = "span", "pattern" = "^[0-9]+(ms|s|m|h|d)$"))]
pub struct Span(Duration);

/// Why a text is not a length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a duration: a whole number and a unit, as in 250ms, 10s, 5m, 8h or 7d")]
pub struct SpanError;

impl Span {
    /// Of a duration; documents show whole milliseconds.
    pub const fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// As the standard library has it.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = SpanError;
    fn from_str(text: &str) -> Result<Self, SpanError> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or(SpanError)?;
        let (number, unit) = text.split_at(unit_at);
        let number: u64 = number.parse().map_err(|_| SpanError)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(SpanError),
        };
        number.checked_mul(millis).map(|n| Self(Duration::from_millis(n))).ok_or(SpanError)
    }
}

impl TryFrom<String> for Span {
    type Error = SpanError;
    fn try_from(text: String) -> Result<Self, SpanError> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (number, unit) = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")]
            .into_iter()
            .find(|(size, _)| millis > 0 && millis.is_multiple_of(*size))
            .map_or((millis, "ms"), |(size, unit)| (millis / size, unit));
        write!(f, "{number}{unit}")
    }
}

/// Oldest authority accepted where a resource does not say: an outage of the control plane is survived this long.
pub const DEFAULT_AUTHORITY: Span = Span::new(Duration::from_secs(300));
/// Below this the renewals themselves (every 3 s) could not keep up.
pub const MIN_AUTHORITY: Span = Span::new(Duration::from_secs(5));
/// Above this a revocation would not be bounded by anything useful.
pub const MAX_AUTHORITY: Span = Span::new(Duration::from_secs(86_400));

/// The `spec` of a `Resource` document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceSpec {
    /// Who answers for it.
    pub owner: OwnerName,
    /// How much harm it can do.
    #[serde(default)]
    pub sensitivity: Sensitivity,
    /// How old a gateway's authority may be: past it calls are refused and running ones cut. 5s to 1d.
    #[serde(default = "default_authority")]
    pub authority: Span,
}

fn default_authority() -> Span {
    DEFAULT_AUTHORITY
}

/// A resource of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Its name.
    pub name: ResourceName,
    /// What its document says.
    pub spec: ResourceSpec,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_and_show() {
        for text in ["250ms", "10s", "5m", "8h", "7d", "0ms"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for bad in ["", "10", "s", "1.5s", "-1s", "1w", "99999999999999999999d", "18446744073709551615d"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
