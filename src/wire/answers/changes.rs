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

/// What another policy would change of what was asked before.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ReplayAnswer {
    /// What would be otherwise.
    pub rows: Vec<ReplayRow>,
    /// How many requests, live grants and kinds of calls were looked at.
    pub replayed: u64,
    /// How many could not be: what they name is not there any more.
    pub gone: u64,
}

/// Something that would be otherwise.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ReplayRow {
    /// `newly_denied`, `newly_needs_approval`, `newly_gets_access` or `needs_others`.
    pub change: String,
    /// For example `request 01J…`.
    pub of: String,
    /// Who asked.
    pub by: String,
    /// Whose access it is.
    pub identity: String,
    /// To what.
    pub access: String,
    /// What the policy that is in force says.
    pub was: String,
    /// What the other one would.
    pub would: String,
    /// Why, where it would be refused.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Calls that were recorded of it.
    pub calls: u64,
}

impl From<v1::ReplayPolicyResponse> for ReplayAnswer {
    fn from(answer: v1::ReplayPolicyResponse) -> Self {
        let row = |row: v1::ReplayRow| {
            let v1::ReplayRow { change, of, by, identity, access, was, would, why, calls } = row;
            ReplayRow { change, of, by, identity, access, was, would, why, calls }
        };
        Self { rows: answer.rows.into_iter().map(row).collect(), replayed: answer.replayed, gone: answer.gone }
    }
}

/// A change out of its message.
///
/// # Errors
/// When it is not one.
pub(super) fn proposal(message: &v1::CatalogChange) -> Result<Proposal, WireError> {
    serde_json::from_str(&message.change_json).map_err(|error| WireError::of("change_json", error))
}
