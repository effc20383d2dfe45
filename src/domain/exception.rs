//! Exceptions: named, owned, approved, expiring leave from one rule.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::name::{ChangeId, ExceptionName, IdentityName, OwnerName, RouteName};

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
    /// Whose duties need not be parted: with `separation_of_duties`, and with no other rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityName>,
    /// The rule of the policy that is left, by its `@id`: one that forbids with `@finding("separation_of_duties")`. With
    /// `separation_of_duties`, and with no other rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_rule: Option<String>,
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
    /// One rule of the policy by which duties are parted does not hold for one identity. What is given meanwhile ends with
    /// the exception at the latest.
    SeparationOfDuties,
    /// Once a policy is in force nobody makes grants by hand. Until the exception ends, administrators do.
    NoGrantsByHand,
}

impl ExceptionRule {
    /// As documents write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::SeparationOfDuties => "separation_of_duties",
            Self::NoGrantsByHand => "no_grants_by_hand",
        }
    }
}

/// An exception of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// Its name.
    pub name: ExceptionName,
    /// What its document says.
    pub spec: ExceptionSpec,
    /// Since when it is there; of one from before this was kept, nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When its end was put off last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewed: Option<Timestamp>,
    /// The change by which somebody else allowed what it now says; nothing where no policy was in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeId>,
}

impl Exception {
    /// As a document describes it, and nothing more.
    pub const fn described(name: ExceptionName, spec: ExceptionSpec) -> Self {
        Self { name, spec, since: None, renewed: None, change: None }
    }

    /// Put in place at `now` where it was `before`: its age goes on.
    #[must_use]
    pub fn put(self, before: Option<&Self>, now: Timestamp) -> Self {
        let Some(before) = before else { return Self { since: Some(now), ..self } };
        let is_renewed = self.spec.expires > before.spec.expires;
        Self { since: before.since, renewed: if is_renewed { Some(now) } else { before.renewed }, ..self }
    }

    /// Whether it gives leave at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.spec.expires
    }
}
