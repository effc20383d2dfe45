//! People and groups: who owns, asks and approves.
//!
//! What somebody may do by standing, and how they prove who they are, is not said here: a document names people, it does
//! not let them in.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name::OwnerName;

/// The `spec` of a `Person` document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PersonSpec {
    /// Their name as people write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_name: Option<String>,
    /// Where they are reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
}

/// A person of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonEntry {
    /// Their name, the same as that of the account they sign in with.
    pub name: OwnerName,
    /// What their document says.
    pub spec: PersonSpec,
}

/// The `spec` of a `Group` document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// What the group is, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The people in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<OwnerName>,
    /// Groups whose members are members of this one, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<OwnerName>,
}

/// A group of the catalog. What it owns, its members own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name; no person has the same.
    pub name: OwnerName,
    /// What its document says.
    pub spec: GroupSpec,
}
