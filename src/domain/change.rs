//! Changes of catalog and policy that widen access: proposed by one person, true by another's word.
//!
//! Which step leads where, and whose word counts, is the control plane's business; here is what a proposal *is*.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Timestamp;
use super::name::{ChangeId, OwnerName};
use super::request::{Approval, Settled};

/// Somebody who gains or loses something by a change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Effect {
    /// `identity billing`, `role orders-reader`, `person alice`.
    pub who: String,
    /// Whether they gain it; otherwise they lose it.
    pub gains: bool,
    /// What, in words.
    pub what: String,
}

/// What is proposed, as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Proposed {
    /// Documents of the catalog.
    Catalog {
        /// The documents; none any more when it is settled.
        #[serde(default)]
        documents: Vec<ProposedDocument>,
        /// Whether what no document describes is removed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        prune: bool,
        /// Whether live grants end of what is removed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        end_grants: bool,
    },
    /// A policy.
    Policy {
        /// Its files; none any more when it is settled.
        #[serde(default)]
        files: Vec<ProposedFile>,
        /// The version in whose place it would come.
        over: u64,
    },
}

/// A document of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProposedDocument {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its `spec`, as JSON text.
    pub spec_json: String,
}

/// A file of a policy set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProposedFile {
    /// Its name.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// One thing that would be another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Touched {
    /// `Identity`, `Route` and so on; of a policy `Rule` or `File`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// `created`, `changed` or `removed`.
    pub change: String,
    /// What it says now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What it would say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// Where a proposal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProposalState {
    /// Another person's word is missing.
    Pending,
    /// It is true.
    Applied,
    /// Somebody said no.
    Denied,
    /// Its author does not want it any more.
    Cancelled,
    /// Nobody approved it in time.
    Expired,
    /// What it was made from has changed: it cannot come true any more.
    Stale,
}

impl ProposalState {
    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Applied => "applied",
            Self::Denied => "denied",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Stale => "stale",
        }
    }
}

/// A change of catalog or policy, waiting or settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Proposal {
    /// Its identifier.
    pub id: ChangeId,
    /// Who wants it.
    pub author: OwnerName,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What is proposed.
    pub proposed: Proposed,
    /// What would be another: while it waits, as of now.
    pub objects: Vec<Touched>,
    /// Who would gain or lose what: while it waits, as of now.
    #[serde(default)]
    pub effects: Vec<Effect>,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends, unless it was settled before.
    pub expires: Timestamp,
    /// Where it stands.
    pub state: ProposalState,
    /// Some of those whose word counts: the first ones by name.
    #[serde(default)]
    pub eligible: Vec<OwnerName>,
    /// While it waits: who had an interest in it when it was proposed, and so has no word in it whatever they are by now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interested: Vec<OwnerName>,
    /// The word that was given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
    /// SHA-256, hexadecimal, of all that an approval is bound to: what is proposed, what it was made from, who gains what.
    pub digest: String,
    /// While it waits: why it cannot come true any more, where it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<String>,
    /// The version of the policy that came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Settled>,
}

impl Proposal {
    /// Whether it waits for somebody.
    pub fn is_open(&self) -> bool {
        self.state == ProposalState::Pending
    }
}
