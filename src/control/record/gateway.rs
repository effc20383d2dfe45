//! Gateways and their logs, as they are kept.

use serde::{Deserialize, Serialize};

use super::Digest;
use crate::domain::Timestamp;
use crate::domain::name::GatewayName;
use crate::domain::scope::Scope;

/// Whether a gateway may have authority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It may.
    #[default]
    Good,
    /// It may not, and never again under this record.
    Expelled,
}

/// A gateway that may attach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRecord {
    /// Its name, as in its SPIFFE ID.
    pub name: GatewayName,
    /// Whether it may have authority.
    #[serde(default)]
    pub standing: Standing,
    /// When it was recorded.
    pub registered: Timestamp,
    /// Host names and addresses in its certificate, besides those of loopback.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// What it may join with, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<JoinToken>,
    /// Of the key that it joined with: certificates of any other are not its own any more. `None`: it has not joined, and
    /// whatever certificate its CA gave it is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key: Option<Digest>,
    /// What it stands before, and is told of.
    #[serde(default, skip_serializing_if = "Scope::is_everything")]
    pub scope: Scope,
    /// Who vouched for it, where it joined by attestation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested: Option<AttestedRecord>,
}

/// Who vouched for a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestedRecord {
    /// What it became.
    pub template: GatewayName,
    /// Who it is by that word.
    pub subject: String,
    /// The one replica that it is, where that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Of the token that it joined with: it is good once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Digest>,
    /// When that token ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof_ends: Option<Timestamp>,
}

/// A token that a gateway joins with, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Of the token: all that is kept of it.
    pub digest: Digest,
    /// When it is no good any more.
    pub expires: Timestamp,
}

/// A log of evidence of a gateway, as far as it was cosigned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Whose it is.
    pub gateway: GatewayName,
    /// The key that signs it, a C2SP verifier key: its name is the log's. Kept as it was first seen.
    pub key: String,
    /// Records under the last checkpoint that was cosigned.
    pub size: u64,
    /// Their root, base64; empty while nothing is cosigned.
    pub root: String,
    /// When it was cosigned.
    pub cosigned: Timestamp,
    /// When another process was last known to have the gateway's authority: one with the log before, or with a copy of its
    /// keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parted: Option<Timestamp>,
    /// The gateway's logs before it, oldest first: each lacks what was written after its last cosignature.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<SealedLog>,
}

/// A log that goes on no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedLog {
    /// The key that signed it.
    pub key: String,
    /// Records that were cosigned.
    pub size: u64,
    /// Their root, base64.
    pub root: String,
}
