//! Roles: named bundles of permissions, the unit that people request and policies speak of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name::{ActionName, ResourceName, RoleName};

/// Actions on one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Permission {
    /// The resource.
    pub resource: ResourceName,
    /// What may be done to it.
    pub actions: Vec<ActionName>,
}

/// The `spec` of a `Role` document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleSpec {
    /// Roles that this one includes: it gives what they give, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<RoleName>,
    /// What the role gives besides. Copied into a grant when it is made: editing a role never widens a live grant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<Permission>,
}

/// A role of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Its name.
    pub name: RoleName,
    /// What its document says.
    pub spec: RoleSpec,
}
