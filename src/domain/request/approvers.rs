//! Who must approve: approvers, how many of them, in which order, and who may answer where they stay silent.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;
use crate::domain::name::OwnerName;
use crate::domain::resource::Span;

/// Who may approve.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Approvers {
    /// Whoever answers for a resource that it opens.
    ResourceOwner,
    /// Whoever answers for the identity.
    IdentityOwner,
    /// This owner: a person, or the members of a group. What the two above come to in an analysis.
    Owner(OwnerName),
    /// The members of a group.
    Group(OwnerName),
    /// People of this standing: `administrator`, `security`, `owner` or `developer`.
    Standing(String),
}

/// Why a text names no approvers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no approvers: resource-owner, identity-owner, owner:NAME, group:NAME or standing:NAME")]
pub struct ApproversError(String);

impl TryFrom<String> for Approvers {
    type Error = ApproversError;
    fn try_from(text: String) -> Result<Self, ApproversError> {
        text.parse()
    }
}

impl std::str::FromStr for Approvers {
    type Err = ApproversError;
    fn from_str(text: &str) -> Result<Self, ApproversError> {
        let bad = || ApproversError(text.chars().take(64).flat_map(char::escape_default).collect());
        match text.split_once(':') {
            None if text == "resource-owner" => Ok(Self::ResourceOwner),
            None if text == "identity-owner" => Ok(Self::IdentityOwner),
            Some(("owner", name)) => name.parse().map(Self::Owner).map_err(|_| bad()),
            Some(("group", name)) => name.parse().map(Self::Group).map_err(|_| bad()),
            Some(("standing", name)) if ["administrator", "security", "owner", "developer"].contains(&name) => {
                Ok(Self::Standing(name.to_owned()))
            }
            _ => Err(bad()),
        }
    }
}

impl From<Approvers> for String {
    fn from(approvers: Approvers) -> Self {
        approvers.to_string()
    }
}

impl fmt::Display for Approvers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResourceOwner => f.write_str("resource-owner"),
            Self::IdentityOwner => f.write_str("identity-owner"),
            Self::Owner(name) => write!(f, "owner:{name}"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Standing(name) => write!(f, "standing:{name}"),
        }
    }
}

/// So many of these must approve. Nobody counts for two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stage {
    /// Who.
    pub approvers: Approvers,
    /// How many of them.
    pub quorum: u32,
    /// Its place: a word counts for it only when every stage of a lower order is complete. Those of one order go side by
    /// side.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub order: u32,
    /// Who else may answer when nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalate: Option<Escalation>,
}

const fn first() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_first(order: &u32) -> bool {
    *order == first()
}

/// When nobody of a stage has answered in time, others may as well. It takes as many as before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Escalation {
    /// How long the stage may stay silent, from when its turn has come.
    pub after: Span,
    /// Who may answer besides.
    pub to: Vec<Approvers>,
}

/// A stage that stayed silent for too long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Escalated {
    /// The stage as it stood. Of one that is another by now nobody else may answer.
    pub stage: Stage,
    /// From when on others may answer.
    pub at: Timestamp,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.quorum, self.approvers)?;
        let Some(escalation) = &self.escalate else { return Ok(()) };
        let to: Vec<String> = escalation.to.iter().map(ToString::to_string).collect();
        write!(f, " (or, when nobody of them answers within {}, {})", escalation.after, to.join(", "))
    }
}

/// Stages in a sentence, in their order.
pub fn in_words(stages: &[Stage]) -> String {
    let mut text = String::new();
    for (place, stage) in stages.iter().enumerate() {
        let before = place.checked_sub(1).and_then(|before| stages.get(before));
        text.push_str(match before {
            None => "",
            Some(before) if before.order == stage.order => " and ",
            Some(_) => ", then ",
        });
        text.push_str(&stage.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_of_before_there_was_an_order_reads_and_is_written_as_it_was() {
        let old = r#"{"approvers":"standing:security","quorum":2}"#;
        let stage: Stage = serde_json::from_str(old).unwrap();
        assert_eq!((stage.order, stage.escalate.is_none()), (1, true));
        assert_eq!(serde_json::to_string(&stage).unwrap(), old, "its digest stays what it was");
    }

    #[test]
    fn stages_are_told_in_their_order() {
        let of = |name: &str, order| Stage { approvers: name.parse().unwrap(), quorum: 1, order, escalate: None };
        let mut stages = vec![of("owner:bob", 1), of("group:on-call", 1), of("standing:security", 2)];
        assert_eq!(in_words(&stages), "1 of owner:bob and 1 of group:on-call, then 1 of standing:security");
        stages.truncate(1);
        let to = vec!["standing:security".parse().unwrap()];
        stages[0].escalate = Some(Escalation { after: "2h".parse().unwrap(), to });
        assert_eq!(in_words(&stages), "1 of owner:bob (or, when nobody of them answers within 2h, standing:security)");
    }
}
