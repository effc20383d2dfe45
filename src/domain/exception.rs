//! Exceptions: named, owned, approved, expiring leave from one rule.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::name::{ExceptionName, OwnerName, RouteName};

/// Longest life of an exception: what is needed for longer is a change of the rule.
pub const MAX_EXCEPTION_DAYS: u64 = 90;
/// The same of one that lets administrators make grants by hand: meanwhile nobody else looks.
pub const MAX_BY_HAND_DAYS: u64 = 7;

/// The `spec` of an `Exception` document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExceptionSpec {
    /// The rule that is left.
    pub rule: ExceptionRule,
    /// The route on which it is left: with `observe`, and with no other rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteName>,
    /// Who answers for it.
    pub owner: OwnerName,
    /// Why it is needed, in a sentence.
    pub reason: String,
    /// When it ends, RFC 3339. At most 90 days ahead when it is made, 7 days with `no_grants_by_hand`.
    #[schemars(with = "String", extend("format" = "timestamp"))]
    pub expires: Timestamp,
}

/// Rules that can be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExceptionRule {
    /// Calls of identified callers on the route go on without a grant, recorded as what would have been refused. The
    /// upstream gets no credential: observing never mints or injects.
    Observe,
    /// Once a policy is in force nobody makes grants by hand. Until the exception ends, administrators do.
    NoGrantsByHand,
}

/// An exception of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// Its name.
    pub name: ExceptionName,
    /// What its document says.
    pub spec: ExceptionSpec,
}
