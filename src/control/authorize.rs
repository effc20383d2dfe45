//! Who may do what to the control plane: one table.
//!
//! It knows callers and operations. How a caller proved who they are, and what an operation does, is known elsewhere.
//! What the table does not allow is refused.

use std::fmt;
use std::sync::Arc;

use super::attested::Attested;
use super::record::{Digest, Person, PersonRole};
use crate::domain::identity::IdentityState;
use crate::domain::name::{GatewayName, IdentityName, OwnerName};

/// Who speaks to the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A person with a token.
    Person(Arc<Person>),
    /// A gateway with a certificate.
    Gateway(GatewayName),
    /// A gateway that has none yet, with the token that it joins with.
    Joining(GatewayName, Digest),
    /// A gateway that has none yet, and for which somebody else vouches.
    Attested(Arc<Attested>),
    /// An identity with its own certificate.
    Identity(IdentityName),
    /// The control plane itself: its clock, its set-up.
    System,
}

/// The name under which the control plane's own steps are recorded.
pub const SYSTEM: &str = "portcullis";

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Person(person) => write!(f, "{}", person.name),
            Self::Gateway(name) | Self::Joining(name, _) => write!(f, "gateway/{name}"),
            Self::Attested(attested) => write!(f, "attested/{}", attested.subject),
            Self::Identity(name) => write!(f, "identity/{name}"),
            Self::System => f.write_str(SYSTEM),
        }
    }
}

/// What callers may stand as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A person who may do everything.
    Administrator,
    /// A person who watches over all access.
    Security,
    /// A person who answers for resources.
    Owner,
    /// A person who builds what calls.
    Developer,
    /// A gateway.
    Gateway,
    /// A gateway that joins.
    Joining,
    /// An identity, for itself.
    Identity,
    /// An identity whose document says that it enforces access.
    EnforcementPoint,
}

impl Role {
    /// Every role, in the order of the table's columns.
    pub const ALL: [Self; 8] = [
        Self::Administrator,
        Self::Security,
        Self::Owner,
        Self::Developer,
        Self::Gateway,
        Self::Joining,
        Self::Identity,
        Self::EnforcementPoint,
    ];

    const fn of(role: PersonRole) -> Self {
        match role {
            PersonRole::Administrator => Self::Administrator,
            PersonRole::Security => Self::Security,
            PersonRole::Owner => Self::Owner,
            PersonRole::Developer => Self::Developer,
        }
    }

    /// As messages write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::Security => "security",
            Self::Owner => "owner",
            Self::Developer => "developer",
            Self::Gateway => "gateway",
            Self::Joining => "a gateway that joins",
            Self::Identity => "the identity itself",
            Self::EnforcementPoint => "an identity with `capabilities: [evaluate]`",
        }
    }
}

/// What can be asked of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the API's")]
pub enum Operation {
    Apply,
    ReadCatalog,
    /// Sets an identity aside.
    Quarantine,
    /// Lets an identity act again, or sends it off for good.
    ReleaseOrOffboard,
    CreateGrant,
    ReadGrants,
    RevokeGrant,
    WatchGrants,
    CanI,
    /// Asks as a policy enforcement point does.
    Evaluate,
    RevokeToken,
    WhoAmI,
    Attach,
    ReadFleet,
    ExpelGateway,
    ReadmitGateway,
    /// Has everything, or everything on a resource, stand still.
    Halt,
    /// Lets it go on.
    Resume,
    /// Sends a change that changes nothing through every gateway.
    Drill,
    /// Records a gateway, and gives the token that it joins with.
    InviteGateway,
    /// Says what a gateway stands before.
    ScopeGateway,
    /// Puts another authority in the place of the one that certifies gateways.
    RotateAuthority,
    /// Gives a gateway its certificate: the first one, and the next.
    Certify,
    /// Asks for access: policy says more.
    CreateRequest,
    /// Sees requests; identities see their own.
    ReadRequests,
    /// Approves or denies: policy says who.
    DecideRequest,
    /// Takes a request back: one's own, unless one watches over all access.
    CancelRequest,
    /// Has somebody answer in one's place, and ends that: one's own alone, unless one watches over all access.
    Delegate,
    /// Sees changes of catalog and policy that take another person's word.
    ReadChanges,
    /// Approves, denies or takes back such a change: whose word counts is looked at there.
    DecideChange,
    /// Asks that the end of an exception be put off: another person allows it.
    RenewException,
    /// Gets access at once: policy says who may.
    BreakGlass,
    /// Sees who broke glass.
    ReadBreakGlass,
    /// Ends what was opened before its time: whom it concerns is looked at there.
    CloseBreakGlass,
    /// Closes the review: whose word counts is looked at there.
    ReviewBreakGlass,
    /// Sees the policy.
    ReadPolicy,
    /// Puts another policy into force.
    PublishPolicy,
    /// Asks every gateway what it recorded.
    QueryEvidence,
    /// Answers such questions, and has a copy of its log kept.
    ServeEvidence,
    /// Health and reflection of the API.
    Describe,
}

impl Operation {
    /// Every operation, in the order of the table's rows.
    pub const ALL: [Self; 40] = [
        Self::Apply,
        Self::ReadCatalog,
        Self::Quarantine,
        Self::ReleaseOrOffboard,
        Self::CreateGrant,
        Self::ReadGrants,
        Self::RevokeGrant,
        Self::WatchGrants,
        Self::CanI,
        Self::Evaluate,
        Self::RevokeToken,
        Self::WhoAmI,
        Self::Attach,
        Self::ReadFleet,
        Self::ExpelGateway,
        Self::ReadmitGateway,
        Self::Halt,
        Self::Resume,
        Self::Drill,
        Self::InviteGateway,
        Self::ScopeGateway,
        Self::RotateAuthority,
        Self::Certify,
        Self::CreateRequest,
        Self::ReadRequests,
        Self::DecideRequest,
        Self::CancelRequest,
        Self::Delegate,
        Self::ReadChanges,
        Self::DecideChange,
        Self::RenewException,
        Self::BreakGlass,
        Self::ReadBreakGlass,
        Self::CloseBreakGlass,
        Self::ReviewBreakGlass,
        Self::ReadPolicy,
        Self::PublishPolicy,
        Self::QueryEvidence,
        Self::ServeEvidence,
        Self::Describe,
    ];

    /// Of a change of an identity's state.
    pub const fn of_state(state: IdentityState) -> Self {
        match state {
            IdentityState::Quarantined => Self::Quarantine,
            IdentityState::Active | IdentityState::Offboarded => Self::ReleaseOrOffboard,
        }
    }

    /// As evidence and messages write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::ReadCatalog => "read_catalog",
            Self::Quarantine => "quarantine",
            Self::ReleaseOrOffboard => "release_or_offboard",
            Self::CreateGrant => "create_grant",
            Self::ReadGrants => "read_grants",
            Self::RevokeGrant => "revoke_grant",
            Self::WatchGrants => "watch_grants",
            Self::CanI => "can_i",
            Self::Evaluate => "evaluate",
            Self::RevokeToken => "revoke_token",
            Self::WhoAmI => "who_am_i",
            Self::Attach => "attach",
            Self::ReadFleet => "read_fleet",
            Self::ExpelGateway => "expel_gateway",
            Self::ReadmitGateway => "readmit_gateway",
            Self::Halt => "halt",
            Self::Resume => "resume",
            Self::Drill => "drill",
            Self::InviteGateway => "invite_gateway",
            Self::ScopeGateway => "scope_gateway",
            Self::RotateAuthority => "rotate_authority",
            Self::Certify => "certify",
            Self::CreateRequest => "create_request",
            Self::ReadRequests => "read_requests",
            Self::DecideRequest => "decide_request",
            Self::CancelRequest => "cancel_request",
            Self::Delegate => "delegate",
            Self::ReadChanges => "read_changes",
            Self::DecideChange => "decide_change",
            Self::RenewException => "renew_exception",
            Self::BreakGlass => "break_glass",
            Self::ReadBreakGlass => "read_break_glass",
            Self::CloseBreakGlass => "close_break_glass",
            Self::ReviewBreakGlass => "review_break_glass",
            Self::ReadPolicy => "read_policy",
            Self::PublishPolicy => "publish_policy",
            Self::QueryEvidence => "query_evidence",
            Self::ServeEvidence => "serve_evidence",
            Self::Describe => "describe",
        }
    }
}

/// A cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// On everything.
    Allow,
    /// On what the caller owns.
    AllowOwned,
    /// Not at all.
    Deny,
}

/// The table.
pub const fn rule(operation: Operation, role: Role) -> Rule {
    use Operation as O;
    use Role as R;
    match (operation, role) {
        // A token to join with is good for that alone.
        (O::Certify, R::Joining | R::Gateway) => Rule::Allow,
        (O::Certify, _) | (_, R::Joining) => Rule::Deny,

        (O::WhoAmI, _) => Rule::Allow,

        (O::Attach | O::RevokeToken | O::ServeEvidence, R::Gateway) => Rule::Allow,
        (_, R::Gateway) => Rule::Deny,
        // A stream is a gateway's: its scope and its receipts are those of its record.
        (O::Attach | O::ServeEvidence, _) => Rule::Deny,

        // That, and what every identity may.
        (O::Evaluate, R::EnforcementPoint) => Rule::Allow,
        // For itself: whose request it is is looked at where it is read.
        (O::CreateRequest | O::ReadRequests | O::CancelRequest | O::Describe, R::Identity | R::EnforcementPoint) => {
            Rule::Allow
        }
        (_, R::Identity | R::EnforcementPoint) => Rule::Deny,

        (_, R::Administrator) => Rule::Allow,

        // Who may ask for what, and whose word it takes, is the policy's to say.
        (O::CreateRequest | O::ReadRequests | O::DecideRequest | O::CancelRequest | O::ReadPolicy, _) => Rule::Allow,
        // One's own rights, and no others.
        (O::Delegate, _) => Rule::Allow,
        // Whoever answers for what a change touches may decide it.
        (O::ReadChanges | O::DecideChange, _) => Rule::Allow,
        // Of one's own; whoever allows it is somebody else.
        (O::RenewException, _) => Rule::AllowOwned,
        // The same of an emergency; that machines have none stands above.
        (O::BreakGlass | O::ReadBreakGlass | O::CloseBreakGlass | O::ReviewBreakGlass, _) => Rule::Allow,
        (O::PublishPolicy, R::Security | R::Owner | R::Developer) => Rule::Deny,

        (O::ReadCatalog | O::ReadGrants | O::CanI | O::Evaluate | O::WatchGrants | O::Describe, _) => Rule::Allow,

        (
            O::RevokeGrant
            | O::RevokeToken
            | O::Quarantine
            | O::ReadFleet
            | O::ExpelGateway
            | O::Halt
            | O::Drill
            | O::QueryEvidence,
            R::Security,
        ) => Rule::Allow,
        (O::RevokeGrant | O::Halt, R::Owner | R::Developer) => Rule::AllowOwned,

        (O::Apply | O::CreateGrant | O::ReleaseOrOffboard, R::Security | R::Owner | R::Developer) => Rule::Deny,
        (O::Quarantine | O::RevokeToken | O::ExpelGateway | O::QueryEvidence, R::Owner | R::Developer) => Rule::Deny,
        (O::ReadFleet, R::Owner | R::Developer) => Rule::Allow,
        (O::Drill, R::Owner | R::Developer) => Rule::Deny,
        (
            O::ReadmitGateway | O::Resume | O::InviteGateway | O::ScopeGateway | O::RotateAuthority,
            R::Security | R::Owner | R::Developer,
        ) => Rule::Deny,
    }
}

/// A refusal, and what would be needed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{caller} may not {}: {needed}", operation.as_str())]
pub struct Denied {
    /// Who asked.
    pub caller: String,
    /// What for.
    pub operation: Operation,
    /// Who may, or why not.
    pub needed: String,
}

/// Whether an identity whose document says that it enforces access may do `operation`.
pub const fn may_enforcement_point(operation: Operation) -> bool {
    matches!(rule(operation, Role::EnforcementPoint), Rule::Allow)
}

/// Whether `caller` may do `operation`, on something of `owner` where it is on one thing.
///
/// # Errors
/// [`Denied`] when the table does not allow it.
pub fn authorize(caller: &Caller, operation: Operation, owner: Option<&OwnerName>) -> Result<(), Denied> {
    let owns = |person: &Person| owner.is_some_and(|owner| person.is_owner(owner));
    let allowed = match caller {
        Caller::System => true,
        Caller::Gateway(_) => matches!(rule(operation, Role::Gateway), Rule::Allow),
        Caller::Joining(..) | Caller::Attested(_) => matches!(rule(operation, Role::Joining), Rule::Allow),
        Caller::Identity(_) => matches!(rule(operation, Role::Identity), Rule::Allow),
        Caller::Person(person) => person.roles.iter().any(|role| match rule(operation, Role::of(*role)) {
            Rule::Allow => true,
            Rule::AllowOwned => owns(person),
            Rule::Deny => false,
        }),
    };
    if allowed { Ok(()) } else { Err(Denied { caller: caller.to_string(), operation, needed: needed(operation) }) }
}

fn needed(operation: Operation) -> String {
    let mut who: Vec<&str> = Vec::new();
    let mut owned = false;
    for role in Role::ALL {
        match rule(operation, role) {
            Rule::Allow => who.push(role.as_str()),
            Rule::AllowOwned => owned = true,
            Rule::Deny => {}
        }
    }
    if owned {
        who.push(match operation {
            Operation::RevokeGrant => "the owner of the resource or of the identity",
            Operation::RenewException => "the owner of the exception",
            _ => "the resource's owner",
        });
    }
    format!("it takes {}", who.join(" or "))
}

#[cfg(test)]
mod tests;
