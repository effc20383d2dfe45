//! Break-glass, as `portcullis breakglass … -o json` prints it.

use schemars::JsonSchema;
use serde::Serialize;

use super::{GrantRecord, ShownGrant, present};
use crate::domain::Timestamp;
use crate::domain::breakglass::BreakGlass;
use crate::wire::{WireError, v1};

/// A break-glass with where it stands.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ShownBreakGlass {
    /// As it is kept.
    #[serde(flatten)]
    pub break_glass: BreakGlass,
    /// Where it stands now: `open`, `unreviewed`, `overdue` or `reviewed`.
    pub state: String,
}

/// A break-glass.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BreakGlassAnswer {
    /// It.
    pub break_glass: ShownBreakGlass,
    /// The revision that last put it.
    pub revision: u64,
    /// What it gave, when it was waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<ShownGrant>,
    /// Whether every connected gateway does as it says, when it was waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<bool>,
}

impl BreakGlassAnswer {
    /// Out of its message.
    ///
    /// # Errors
    /// When it is not one.
    pub fn of(answer: v1::BreakGlassResponse, waited: bool, now: Timestamp) -> Result<Self, WireError> {
        let grants = answer.grants.into_iter().map(GrantRecord::try_from).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            break_glass: shown(present("break_glass", answer.break_glass)?)?,
            revision: answer.revision,
            grants: grants.into_iter().map(|grant| grant.shown(now)).collect(),
            enforced: waited.then_some(answer.enforced),
        })
    }
}

/// Every break-glass, newest first.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BreakGlassList {
    /// They.
    pub all: Vec<ShownBreakGlass>,
    /// Whether there are older ones that are not listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

impl TryFrom<v1::ListBreakGlassResponse> for BreakGlassList {
    type Error = WireError;

    fn try_from(answer: v1::ListBreakGlassResponse) -> Result<Self, WireError> {
        Ok(Self { all: answer.all.into_iter().map(shown).collect::<Result<_, _>>()?, more: answer.more })
    }
}

fn shown(message: v1::BreakGlass) -> Result<ShownBreakGlass, WireError> {
    let break_glass =
        serde_json::from_str(&message.break_glass_json).map_err(|error| WireError::of("break_glass_json", error))?;
    Ok(ShownBreakGlass { break_glass, state: message.state })
}
