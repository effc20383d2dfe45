//! Access requests: what is asked for, what analysing it said, who approved seeing what, and how it ended.
//!
//! A request is open until it has one of four ends. Which step leads where is the state machine's business, not this
//! page's; here is what a request *is*.

mod approvers;
mod turn;

use std::fmt;

pub use approvers::{Approvers, ApproversError, Escalated, Escalation, Stage, in_words};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use turn::{Opened, Turn};

use super::Timestamp;
use super::grant::Limits;
use super::name::{
    ActionName, ApprovalId, DelegationId, GrantId, IdentityName, OwnerName, RequestId, ResourceName, RoleName,
};
use super::resource::Span;
use super::role::Permission;
use super::ticket::Ticket;

/// Who asks: a person, or a machine for itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Requester {
    /// A person.
    Person(OwnerName),
    /// An identity with its own credential.
    Identity(IdentityName),
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Person(name) => write!(f, "{name}"),
            Self::Identity(name) => write!(f, "identity/{name}"),
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ask {
    /// Whose access it would be.
    pub identity: IdentityName,
    /// To do what.
    pub access: Access,
    /// From when on; `None`: from when it is granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<Timestamp>,
    /// For how long.
    pub duration: Span,
    /// Within which limits.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// Why.
    pub reason: String,
    /// The ticket that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// What it ends with besides: a job, a deployment, a change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub until: Vec<Ticket>,
}

/// What an ask names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// All that a role gives.
    Role(RoleName),
    /// Actions on one resource.
    Resource(Permission),
}

impl Access {
    /// These actions on this resource.
    pub const fn of(resource: ResourceName, actions: Vec<ActionName>) -> Self {
        Self::Resource(Permission { resource, actions })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(role) => write!(f, "role {role}"),
            Self::Resource(permission) => {
                let actions: Vec<&str> = permission.actions.iter().map(ActionName::as_str).collect();
                write!(f, "{} on {}", actions.join(","), permission.resource)
            }
        }
    }
}

/// Something that whoever approves should know, or that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// A stable code: `separation_of_duties`, `sensitive`, `forbidden` and so on.
    pub code: String,
    /// In words.
    pub text: String,
}

/// What policy says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No.
    Refuse,
    /// When people approve.
    Approve,
    /// At once.
    Grant,
}

/// What analysing a request says, as of one state of catalog and policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Analysis {
    /// What policy says.
    pub verdict: Verdict,
    /// What it would give, role expanded: one grant each.
    pub permissions: Vec<Permission>,
    /// What of that the identity does not hold already, as `resource:action`.
    #[serde(default)]
    pub adds: Vec<String>,
    /// What the identity holds, and every other one that the same owner answers for.
    #[serde(default)]
    pub held: Vec<String>,
    /// What is to be known about it, and what stands in the way.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// Rules of the policy that decided.
    #[serde(default)]
    pub rules: Vec<String>,
    /// The policy's version.
    pub policy: u64,
    /// Who must approve.
    #[serde(default)]
    pub stages: Vec<Stage>,
    /// Some of those who can: the first ones by name.
    #[serde(default)]
    pub eligible: Vec<OwnerName>,
    /// The longest that policy allows, where it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest: Option<Span>,
    /// What policy wants to end when it is unused for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused: Option<Span>,
    /// SHA-256, hexadecimal, of all that an approval is bound to.
    pub digest: String,
}

/// A yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Approval {
    /// Its identifier.
    pub id: ApprovalId,
    /// Whose.
    pub by: OwnerName,
    /// When.
    pub at: Timestamp,
    /// The digest of what they saw.
    pub digest: String,
    /// Whose right it was, where it was given in another's place: the two count as one person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<OwnerName>,
    /// The delegation that it was given under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation: Option<DelegationId>,
    /// What they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Approvals are missing.
    Pending,
    /// The grants are there.
    Granted,
    /// Somebody said no, or policy did.
    Denied,
    /// Whoever asked does not want it any more.
    Cancelled,
    /// Nobody approved in time.
    Expired,
}

impl State {
    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Granted => "granted",
            Self::Denied => "denied",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Settled {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A request, open or settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Request {
    /// Its identifier.
    pub id: RequestId,
    /// Who asks.
    pub requester: Requester,
    /// What for.
    pub ask: Ask,
    /// What its maker calls it, so that the same is not made twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends, unless it was settled before.
    pub expires: Timestamp,
    /// Where it stands.
    pub state: State,
    /// What analysing it said: when it was made, and again when it was settled.
    pub analysis: Analysis,
    /// In the order in which they came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
    /// Whose turn it is; none before the first word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Turn>,
    /// Stages that stayed silent for too long.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub escalated: Vec<Escalated>,
    /// What was granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<GrantId>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Settled>,
}

impl Request {
    /// Whether it waits for somebody.
    pub fn is_open(&self) -> bool {
        self.state == State::Pending
    }
}
