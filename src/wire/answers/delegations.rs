//! Who answers in whose place, as `portcullis delegation … -o json` prints it.

use schemars::JsonSchema;
use serde::Serialize;

use super::present;
use crate::domain::delegation::Delegation;
use crate::wire::{WireError, v1};

/// A delegation.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DelegationAnswer {
    /// The delegation.
    pub delegation: Delegation,
    /// The revision that last put it.
    pub revision: u64,
}

impl TryFrom<v1::DelegationResponse> for DelegationAnswer {
    type Error = WireError;

    fn try_from(answer: v1::DelegationResponse) -> Result<Self, WireError> {
        Ok(Self { delegation: delegation(&present("delegation", answer.delegation)?)?, revision: answer.revision })
    }
}

/// Delegations, newest first.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DelegationList {
    /// The delegations.
    pub delegations: Vec<Delegation>,
    /// Whether there are older ones that are not listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

impl TryFrom<v1::ListDelegationsResponse> for DelegationList {
    type Error = WireError;

    fn try_from(answer: v1::ListDelegationsResponse) -> Result<Self, WireError> {
        Ok(Self {
            delegations: answer.delegations.iter().map(delegation).collect::<Result<_, _>>()?,
            more: answer.more,
        })
    }
}

fn delegation(message: &v1::Delegation) -> Result<Delegation, WireError> {
    serde_json::from_str(&message.delegation_json).map_err(|error| WireError::of("delegation_json", error))
}
