//! Grants: live, time-boxed permissions with limits and lineage.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name::{
    ActionName, ApprovalId, BreakGlassId, ExceptionName, GrantId, IdentityName, OwnerName, ParameterName, RequestId,
    ResourceName, RoleName,
};
use super::principal::{CertificateThumbprint, SpiffeId};
use super::resource::Span;
use super::ticket::Ticket;
use super::{Reason, Timestamp};

/// Longest life of a grant made by hand. Policy sets shorter ones.
pub const MAX_GRANT_DAYS: u64 = 366;
/// Values that one parameter of a grant may list.
pub const MAX_PARAMETER_VALUES: usize = 256;
/// Uses that a grant may count.
pub const MAX_USES: u64 = 1_000_000_000;
/// Shortest and longest span that uses are counted in.
pub const USES_EVERY: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(366 * 86_400);
/// Shortest and longest that a grant may lie unused.
pub const UNUSED: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(366 * 86_400);
/// Networks that a grant may list.
pub const MAX_NETWORKS: usize = 64;

/// Who may do what to which resource, when, and within which limits.
///
/// A grant is frozen when it is made; only its end can come nearer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Grant {
    /// Its identifier.
    pub id: GrantId,
    /// Whose it is.
    pub identity: IdentityName,
    /// The resource that it opens.
    pub resource: ResourceName,
    /// What may be done, at least one action.
    pub actions: Vec<ActionName>,
    /// When it begins and ends.
    pub window: Window,
    /// What narrows it further.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// Where it comes from.
    pub lineage: Lineage,
    /// Whether it was ended before its window closed, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
}

impl Grant {
    /// Whether it answers a request for which policy needed nobody's approval.
    pub fn is_unapproved(&self) -> bool {
        self.lineage.origin.as_ref().is_some_and(|origin| origin.approvals.is_empty())
    }
}

/// A half-open span of time: from `starts` on, up to and without `ends`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Window {
    /// First moment.
    pub starts: Timestamp,
    /// First moment after.
    pub ends: Timestamp,
}

impl Window {
    /// Whether `now` is inside, or the reason why not.
    ///
    /// # Errors
    /// [`Reason::GrantNotYetValid`] before, [`Reason::GrantExpired`] after.
    pub fn check(&self, now: Timestamp) -> Result<(), Reason> {
        if now < self.starts {
            Err(Reason::GrantNotYetValid)
        } else if now >= self.ends {
            Err(Reason::GrantExpired)
        } else {
            Ok(())
        }
    }
}

/// What narrows a grant beyond subject, resource, action and time. Everything listed must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Accepted values per parameter. A parameter that is listed must be present in the call.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<ParameterName, Vec<String>>,
    /// Networks that calls may come from; none listed means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub networks: Vec<IpNet>,
    /// The credential that must be presented, of those that the identity has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// Calls that may be made in all, over all gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u64>,
    /// Calls that may be made in each span of time, over all gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses_per: Option<UsesPer>,
    /// It ends when no call was made under it for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused: Option<Span>,
}

/// So many uses in each span of time. The first span begins with the grant, and each with the end of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UsesPer {
    /// At most.
    pub uses: u64,
    /// How long each span is.
    pub every: Span,
}

impl UsesPer {
    /// The span that `now` is in, counted from 0, for a grant that began at `starts`.
    pub fn span(&self, starts: Timestamp, now: Timestamp) -> u64 {
        let every = self.every.duration().as_micros().max(1);
        u64::try_from(now.saturating_since(starts).as_micros() / every).unwrap_or(u64::MAX)
    }

    /// When a span begins.
    pub fn begins(&self, starts: Timestamp, span: u64) -> Timestamp {
        let micros = self.every.duration().as_micros().saturating_mul(u128::from(span));
        starts.saturating_add(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }
}

impl Limits {
    /// Whether nothing is narrowed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether each call is counted.
    pub const fn is_counted(&self) -> bool {
        self.uses.is_some() || self.uses_per.is_some()
    }
}

/// The credential that a grant is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// Calls over a connection with exactly this client certificate.
    Certificate(#[schemars(with = "String")] CertificateThumbprint),
    /// Calls of a workload with this SPIFFE ID.
    Spiffe(SpiffeId),
    /// Calls with a token of this issuer.
    Issuer(String),
}

/// Where a grant comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lineage {
    /// When it was made.
    pub created: Timestamp,
    /// Who made it.
    pub created_by: OwnerName,
    /// Why, in their words.
    pub reason: String,
    /// The ticket that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// What it ends with, whichever closes first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub until: Vec<Ticket>,
    /// The request that it answers; `None` for one that an administrator made by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Box<Origin>>,
    /// The exception under which it was made by hand, where a policy was in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exception: Option<ExceptionName>,
    /// The break-glass that it came of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<BreakGlassId>,
}

/// The request that a grant answers, and on what ground.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Origin {
    /// The request.
    pub request: RequestId,
    /// The approvals; none where policy needs no person.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<ApprovalId>,
    /// The version of the policy.
    pub policy: u64,
    /// The role that it was asked for as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleName>,
    /// What the approvals were bound to: SHA-256, hexadecimal.
    pub digest: String,
}

/// How a grant was ended before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// Who did it.
    pub by: OwnerName,
    /// Why, in their words.
    pub reason: String,
}

/// Where a grant stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrantState {
    /// Its window has not begun.
    Scheduled,
    /// It can be used.
    Active,
    /// Its window has closed.
    Expired,
    /// It was ended before its time.
    Revoked,
}

impl Grant {
    /// Where it stands at `now`.
    pub fn state(&self, now: Timestamp) -> GrantState {
        if self.revoked.is_some() {
            return GrantState::Revoked;
        }
        match self.window.check(now) {
            Ok(()) => GrantState::Active,
            Err(Reason::GrantNotYetValid) => GrantState::Scheduled,
            Err(_) => GrantState::Expired,
        }
    }
}
