//! Non-human identities: who is in the inventory, and which credentials are theirs.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name::{IdentityName, OwnerName};
use super::principal::{Principal, SpiffeId};

/// What kind of machine caller an identity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdentityKind {
    /// A long-running service.
    Service,
    /// An AI agent.
    Agent,
    /// A build or deployment pipeline.
    Pipeline,
    /// Somebody else's system.
    ThirdParty,
}

/// Whether an identity may act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdentityState {
    /// It may use its grants.
    #[default]
    Active,
    /// Set aside: every call is refused until it is released.
    Quarantined,
    /// Gone for good.
    Offboarded,
}

/// A credential that is an identity's: a SPIFFE ID, or an issuer and a subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum Authenticator {
    /// An X.509-SVID.
    Spiffe {
        /// `spiffe://trust-domain/path`
        spiffe: SpiffeId,
    },
    /// A token.
    Token {
        /// The token's `iss`, exactly.
        issuer: Arc<str>,
        /// The token's `sub`, exactly.
        subject: Arc<str>,
    },
}

impl Authenticator {
    /// Whom it speaks of: a SPIFFE ID, or a token's `sub`.
    pub fn subject(&self) -> &str {
        match self {
            Self::Spiffe { spiffe } => spiffe.as_str(),
            Self::Token { subject, .. } => subject,
        }
    }

    /// The principal that a call with this credential has.
    pub fn principal(&self) -> Principal {
        match self {
            Self::Spiffe { spiffe } => Principal::Spiffe(spiffe.clone()),
            Self::Token { issuer, subject } => Principal::Token { issuer: issuer.clone(), subject: subject.clone() },
        }
    }
}

/// What an identity may do at the control plane besides asking for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Ask whether others may: what enforces access outside of our gateways.
    Evaluate,
}

impl Capability {
    /// As documents write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Evaluate => "evaluate",
        }
    }
}

/// The `spec` of an `Identity` document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentitySpec {
    /// What kind of caller it is.
    pub kind: IdentityKind,
    /// Who answers for it.
    pub owner: OwnerName,
    /// What it is for, in a sentence.
    pub purpose: String,
    /// Where it runs, for example `production`.
    pub environment: String,
    /// Its credentials. One credential belongs to one identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authenticate: Vec<Authenticator>,
    /// What it may do at the control plane besides asking for itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Capability>,
}

/// An identity of the inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its name.
    pub name: IdentityName,
    /// What its document says.
    pub spec: IdentitySpec,
    /// Whether it may act. Not part of the document: it is changed by its own operations.
    #[serde(default)]
    pub state: IdentityState,
}
