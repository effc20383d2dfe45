//! Delegation of approvals: one person has another answer in their place, for a time.
//!
//! Which words count, and how the two are counted as one, is the control plane's business; here is what a delegation *is*.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::name::{DelegationId, OwnerName};
use super::request::Settled;

/// Longest time that somebody answers in another's place.
pub const MAX_DELEGATION: Duration = Duration::from_secs(30 * 86_400);

/// Somebody answers in another's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Delegation {
    /// Its identifier.
    pub id: DelegationId,
    /// In whose place.
    pub from: OwnerName,
    /// Who answers.
    pub to: OwnerName,
    /// Why, in the words of the former.
    pub reason: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends, unless it was ended before.
    pub ends: Timestamp,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Settled>,
}

impl Delegation {
    /// Whether it is good at a moment.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.ended.is_none() && now < self.ends
    }
}
