//! A version of the policy, as it is kept.

use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;
use crate::domain::name::{ChangeId, OwnerName};

/// A published version of the policy: what was written, not what it was compiled to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// Counts publications from 1.
    pub version: u64,
    /// When it was published.
    pub published: Timestamp,
    /// Who published it.
    pub by: OwnerName,
    /// Why.
    pub reason: String,
    /// The change that brought it, where it took another person's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeId>,
    /// SHA-256 of its files, hexadecimal.
    pub digest: String,
    /// Its files.
    pub files: Vec<PolicyFile>,
}

/// A file of a policy set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFile {
    /// Its name: `*.cedar` for rules, `*.yaml` for test cases.
    pub name: String,
    /// What it says.
    pub text: String,
}
