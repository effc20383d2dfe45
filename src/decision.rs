//! The decision: is there a live grant for exactly this?
//!
//! Pure. [`decide`] takes a call, a snapshot and a moment, and answers [`Decision::Allow`] with a [`Permit`] that nothing
//! else can make, [`Decision::Deny`] with a reason, or [`Decision::Hold`] with what to wait for before asking again. It
//! is a lookup: what a grant may say is typed, and was compiled when the grant arrived. The gateways run it on every
//! call, the control plane for `can-i`.

mod permit;
pub mod radix;
pub mod routes;
pub mod snapshot;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use permit::{Basis, Permit};

use crate::domain::grant::Binding;
use crate::domain::identity::IdentityState;
use crate::domain::name::GrantId;
use crate::domain::principal::{CertificateThumbprint, SpiffeId};
use crate::domain::{Reason, Timestamp};
use routes::Matched;
use snapshot::{IdentityIndex, LiveGrant, Snapshot};

/// A call that has been identified and matched.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Whose call it is.
    pub identity: IdentityIndex,
    /// The credential that said so.
    pub credential: Credential<'a>,
    /// What it does.
    pub target: &'a Matched<'a>,
    /// Where it comes from; `None` where there is no connection to speak of (`can-i`): networks are not checked then.
    pub peer: Option<IpAddr>,
    /// Counted grants of which no use is left for now.
    pub used_up: &'a [UsedUp],
}

/// A counted grant of which no use is left for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedUp {
    /// The grant.
    pub grant: GrantId,
    /// [`Reason::UsesSpent`], or [`Reason::UsesSpentForNow`] when there may be more later.
    pub reason: Reason,
}

/// The verified credential of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    /// A client certificate with a SPIFFE ID.
    Certificate {
        /// Its one URI.
        spiffe: &'a SpiffeId,
        /// Of the leaf.
        thumbprint: CertificateThumbprint,
    },
    /// A token of a trusted issuer.
    Token {
        /// Its `iss`.
        issuer: &'a str,
        /// Of the connection's client certificate, when there is one.
        certificate: Option<CertificateThumbprint>,
    },
    /// A token that a gateway issued under one grant: it opens that grant and no other.
    Gate {
        /// The grant.
        grant: GrantId,
        /// Its `scope`: the actions that it was issued for, parted by spaces. Never more than the grant's.
        scope: &'a str,
        /// Of the connection's client certificate, when there is one.
        certificate: Option<CertificateThumbprint>,
    },
    /// Nobody presented anything: a question about an identity. Bindings are not checked.
    Assumed,
}

/// The moment of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The gate's clock, which never goes back.
    pub wall: Timestamp,
    /// How far the control plane can be relied on.
    pub authority: Authority,
}

/// How long ago the control plane vouched for this gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Never, since this process started.
    Missing,
    /// This long ago, counted from when the answered renewal was sent.
    Age(Duration),
    /// The process stood still for a while and does not know what it missed: it has asked again.
    Unknown,
}

/// What is to happen with a call.
#[derive(Debug)]
pub enum Decision {
    /// It may go on.
    Allow(Permit),
    /// It may not.
    Deny(Reason),
    /// Not yet: wait, and decide again from the start.
    Hold(Hold),
}

/// What a held call waits for. Waiting is bounded by the gateway; past the bound [`Hold::reason`] is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The answer to a renewal of authority that is under way.
    Authority,
}

impl Hold {
    /// The refusal when nothing came of waiting.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Authority => Reason::AuthorityStale,
        }
    }
}

/// Decides one call. Default deny: whatever is not found is a refusal.
pub fn decide(call: &Call<'_>, snapshot: &Snapshot, now: &Now) -> Decision {
    match snapshot.identity_state(call.identity) {
        Some(IdentityState::Active) => {}
        Some(IdentityState::Quarantined | IdentityState::Offboarded) => {
            return Decision::Deny(Reason::IdentityInactive);
        }
        None => return Decision::Deny(Reason::IdentityUnknown),
    }
    let Some(resource) = snapshot.resource(call.target.resource()) else {
        return Decision::Deny(Reason::GrantMissing);
    };
    if snapshot.is_halted(call.target.resource()) {
        return Decision::Deny(Reason::Halted);
    }
    match now.authority {
        Authority::Missing => return Decision::Deny(Reason::AuthorityMissing),
        Authority::Unknown => return Decision::Hold(Hold::Authority),
        Authority::Age(age) if age > resource.authority => return Decision::Deny(Reason::AuthorityStale),
        Authority::Age(_) => {}
    }
    match best_grant(call, snapshot, now.wall) {
        Ok(grant) => Decision::Allow(Permit::granted(grant, resource, call.target, snapshot)),
        Err(refusal) => {
            let exception = snapshot.observed(call.target.route_name(), now.wall);
            match exception.zip(snapshot.identity(call.identity)) {
                Some((exception, identity)) => Decision::Allow(Permit::observed(
                    exception,
                    refusal,
                    &identity.name,
                    resource,
                    call.target,
                    snapshot,
                )),
                None => Decision::Deny(refusal),
            }
        }
    }
}

/// The grant that allows the call, of several one that counts no uses, and of those the one that lasts longest; or the
/// refusal of the one that came nearest to allowing it.
fn best_grant(call: &Call<'_>, snapshot: &Snapshot, now: Timestamp) -> Result<Arc<LiveGrant>, Reason> {
    let mut best: Option<&Arc<LiveGrant>> = None;
    let mut nearest = Reason::GrantMissing;
    for grant in snapshot.grants(call.identity, call.target.resource()) {
        match check(grant, call, now) {
            Ok(()) if best.is_none_or(|best| grant.serves_better(best)) => best = Some(grant),
            Ok(()) => {}
            Err(refusal) if nearness(refusal) > nearness(nearest) => nearest = refusal,
            Err(_) => {}
        }
    }
    best.cloned().ok_or(nearest)
}

/// How far a grant's check came. The caller is told about the grant that lacks least.
const fn nearness(refusal: Reason) -> u8 {
    match refusal {
        Reason::ActionNotGranted => 1,
        Reason::GrantExpired => 2,
        Reason::GrantNotYetValid => 3,
        Reason::ParameterNotGranted => 4,
        Reason::BindingNotGranted => 5,
        Reason::NetworkNotGranted => 6,
        Reason::UsesSpent => 7,
        Reason::UsesSpentForNow => 8,
        _ => 0,
    }
}

fn check(grant: &LiveGrant, call: &Call<'_>, now: Timestamp) -> Result<(), Reason> {
    if let Credential::Gate { grant: bound, scope, .. } = call.credential {
        if bound != grant.id {
            return Err(Reason::GrantMissing);
        }
        if !scope.split(' ').any(|action| action == call.target.action_name().as_str()) {
            return Err(Reason::ActionNotGranted);
        }
    }
    if !grant.actions.contains(&call.target.action()) {
        return Err(Reason::ActionNotGranted);
    }
    grant.window.check(now)?;
    let Some(limits) = &grant.limits else { return Ok(()) };
    for (name, accepted) in &limits.parameters {
        let value = call.target.parameter(name).ok_or(Reason::ParameterNotGranted)?;
        if !accepted.iter().any(|one| one == value) {
            return Err(Reason::ParameterNotGranted);
        }
    }
    if let Some(binding) = &limits.binding
        && !bound(binding, &call.credential)
    {
        return Err(Reason::BindingNotGranted);
    }
    match call.peer {
        Some(peer) if !limits.networks.is_empty() && !limits.networks.iter().any(|n| n.contains(&peer)) => {
            Err(Reason::NetworkNotGranted)
        }
        _ => match call.used_up.iter().find(|used_up| used_up.grant == grant.id) {
            Some(used_up) => Err(used_up.reason),
            None => Ok(()),
        },
    }
}

/// Whether a binding holds. A gateway's own token was issued under the binding of its grant, and carries the certificate
/// where the binding is one.
fn bound(binding: &Binding, credential: &Credential<'_>) -> bool {
    match (binding, credential) {
        (_, Credential::Assumed) => true,
        (Binding::Certificate(wanted), Credential::Certificate { thumbprint, .. }) => wanted == thumbprint,
        (
            Binding::Certificate(wanted),
            Credential::Token { certificate, .. } | Credential::Gate { certificate, .. },
        ) => certificate.as_ref() == Some(wanted),
        (Binding::Spiffe(wanted), Credential::Certificate { spiffe, .. }) => wanted == *spiffe,
        (Binding::Spiffe(_), Credential::Token { .. }) | (Binding::Issuer(_), Credential::Certificate { .. }) => false,
        (Binding::Issuer(wanted), Credential::Token { issuer, .. }) => wanted == issuer,
        (Binding::Spiffe(_) | Binding::Issuer(_), Credential::Gate { .. }) => true,
    }
}

#[cfg(test)]
mod tests;
