//! Halts: everything, everything on one resource, or everything that one key vouched for, stands still until somebody lets
//! it go on.
//!
//! Faster than revoking grants one by one, and reversible: grants keep their windows and end as they would have.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::name::{NameError, OwnerName, ResourceName};
use super::root::Root;

const ALL: &str = "all";
const RESOURCE: &str = "resource/";
const DRILL: &str = "drill";

/// What stands still. Written as `all`, `resource/NAME`, `drill`, or as a [`Root`] is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HaltScope {
    /// Every call on every gateway.
    All,
    /// Every call on one resource.
    Resource(ResourceName),
    /// Every call whose credential one key or issuer vouched for, also through a token that a gate gave for it.
    Credential(Root),
    /// Nothing: it goes the way of a halt through every gateway, so that one sees how long that takes.
    Drill,
}

impl fmt::Display for HaltScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str(ALL),
            Self::Resource(name) => write!(f, "{RESOURCE}{name}"),
            Self::Credential(root) => root.fmt(f),
            Self::Drill => f.write_str(DRILL),
        }
    }
}

impl FromStr for HaltScope {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix(RESOURCE) {
            Some(name) => Ok(Self::Resource(name.parse()?)),
            None if text == ALL => Ok(Self::All),
            None if text == DRILL => Ok(Self::Drill),
            None => Root::parse(text).map_or_else(no_scope, |root| Ok(Self::Credential(root))),
        }
    }
}

/// What is no scope is no name of one.
fn no_scope() -> Result<HaltScope, NameError> {
    "".parse().map(HaltScope::Resource)
}

impl TryFrom<String> for HaltScope {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<HaltScope> for String {
    fn from(scope: HaltScope) -> Self {
        scope.to_string()
    }
}

/// A halt in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// What stands still.
    pub scope: HaltScope,
    /// Why, in the words of who said so.
    pub reason: String,
    /// Who said so.
    pub by: OwnerName,
    /// Since when.
    pub since: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_have_one_spelling() {
        for text in ["all", "drill", "resource/api/orders", "resource/all", "issuer/https://i", "issuer/https://i#k"] {
            assert_eq!(text.parse::<HaltScope>().unwrap().to_string(), text);
        }
        for bad in ["", "All", "api/orders", "resource/", "resource/a b"] {
            assert!(bad.parse::<HaltScope>().is_err(), "{bad}");
        }
    }
}
