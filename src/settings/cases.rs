//! Test cases of a policy: what is asked, and what the policy must say of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fault::Faults;
use super::load::one;
use super::shape::Shape;
use crate::domain::identity::IdentityKind;
use crate::domain::name::{ActionName, IdentityName, OwnerName, ResourceName, RoleName};
use crate::domain::resource::{Sensitivity, Span};

/// A file of cases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// The cases.
    cases: Vec<Case>,
}

/// One question, and the answer that it must get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What the case shows, in a sentence.
    pub name: String,
    /// What is done. Default: `request`.
    #[serde(default)]
    pub action: CaseAction,
    /// Who does it; without one the identity asks for itself.
    #[serde(default)]
    pub person: Option<OwnerName>,
    /// What the person may do by standing: administrator, security, owner, developer.
    #[serde(default)]
    pub standing: Vec<String>,
    /// The groups that the person is in.
    #[serde(default)]
    pub groups: Vec<OwnerName>,
    /// Whose access it would be.
    pub identity: CaseIdentity,
    /// To what.
    pub resource: CaseResource,
    /// To do what.
    pub actions: Vec<ActionName>,
    /// The role that is asked for, and those that it includes.
    #[serde(default)]
    pub roles: Vec<RoleName>,
    /// For how long.
    pub duration: Span,
    /// How far ahead it begins. Without it, at once.
    #[serde(default)]
    pub lead: Option<Span>,
    /// The ticket that it belongs to.
    #[serde(default)]
    pub ticket: Option<String>,
    /// Whether each call is counted.
    #[serde(default)]
    pub counted: bool,
    /// What the identity, or another one of its owner, holds already: `resource:action`.
    #[serde(default)]
    pub held: Vec<String>,
    /// Of break-glass: how long ago the person proved who they are. Without it, just now.
    #[serde(default)]
    pub signed_in: Option<Span>,
    /// Of break-glass: how strongly, the `acr` of their ID token.
    #[serde(default)]
    pub acr: Option<String>,
    /// Of break-glass: by what, the `amr` of their ID token.
    #[serde(default)]
    pub amr: Vec<String>,
    /// What the policy must say.
    pub expect: Expected,
}

/// What is done in a case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CaseAction {
    /// Asking for access.
    #[default]
    Request,
    /// Approving it.
    Approve,
    /// Breaking glass for it.
    BreakGlass,
}

/// An identity of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CaseIdentity {
    /// Its name.
    pub name: IdentityName,
    /// Its kind. Default: `service`.
    #[serde(default = "service")]
    pub kind: IdentityKind,
    /// Where it runs. Default: `production`.
    #[serde(default = "production")]
    pub environment: String,
    /// What it is for.
    #[serde(default)]
    pub purpose: String,
    /// Who answers for it.
    pub owner: OwnerName,
}

/// A resource of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CaseResource {
    /// Its name.
    pub name: ResourceName,
    /// Its sensitivity. Default: `normal`.
    #[serde(default)]
    pub sensitivity: Sensitivity,
    /// Who answers for it.
    pub owner: OwnerName,
}

/// What the policy must say. What is left out is not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// `grant` at once, after people `approve`, or `refuse`.
    pub decision: CaseDecision,
    /// Exactly these must approve.
    #[serde(default)]
    pub approvers: Option<Vec<String>>,
    /// Exactly these, in this order: each stage answers when the one before is complete.
    #[serde(default)]
    pub stages: Option<Vec<Vec<String>>>,
    /// Exactly these may answer when those who must stay silent.
    #[serde(default)]
    pub escalates: Option<Vec<String>>,
    /// The largest quorum.
    #[serde(default)]
    pub quorum: Option<u32>,
    /// The longest that is allowed.
    #[serde(default)]
    pub max_duration: Option<Span>,
    /// How long it may lie unused.
    #[serde(default)]
    pub unused: Option<Span>,
    /// A finding that must be among those told.
    #[serde(default)]
    pub finding: Option<String>,
}

/// What a policy can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CaseDecision {
    /// Yes.
    Grant,
    /// When people approve.
    Approve,
    /// No.
    Refuse,
}

const fn service() -> IdentityKind {
    IdentityKind::Service
}

fn production() -> String {
    "production".to_owned()
}

/// Reads the cases of `text`; `file` is what faults call it.
///
/// # Errors
/// Every fault, with line and column.
pub fn read(file: &str, text: &str) -> Result<Vec<Case>, Faults> {
    Ok(Shape::<File>::new().read(&one(file, text)?)?.cases)
}
