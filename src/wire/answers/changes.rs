//! Changes that wait for another person, as `portcullis change … -o json` prints them.

use schemars::JsonSchema;
use serde::Serialize;

use super::present;
use crate::domain::change::Proposal;
use crate::wire::{WireError, v1};

/// A change.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ChangeAnswer {
    /// The change, while it waits as of now.
    pub change: Proposal,
    /// The revision that last put it.
    pub revision: u64,
}

impl TryFrom<v1::ChangeResponse> for ChangeAnswer {
    type Error = WireError;

    fn try_from(answer: v1::ChangeResponse) -> Result<Self, WireError> {
        Ok(Self { change: proposal(&present("change", answer.change)?)?, revision: answer.revision })
    }
}

/// Changes, newest first, without what they would put in place.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ChangeList {
    /// The changes.
    pub changes: Vec<Proposal>,
    /// Whether there are older ones that are not listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

impl TryFrom<v1::ListChangesResponse> for ChangeList {
    type Error = WireError;

    fn try_from(answer: v1::ListChangesResponse) -> Result<Self, WireError> {
        Ok(Self { changes: answer.changes.iter().map(proposal).collect::<Result<_, _>>()?, more: answer.more })
    }
}

/// A change out of its message.
///
/// # Errors
/// When it is not one.
pub(super) fn proposal(message: &v1::CatalogChange) -> Result<Proposal, WireError> {
    serde_json::from_str(&message.change_json).map_err(|error| WireError::of("change_json", error))
}
