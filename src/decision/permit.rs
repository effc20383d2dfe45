//! The permit: proof that a decision allowed a call. Sealed: [`super::decide`] alone makes one.

use std::sync::Arc;
use std::time::Duration;

use super::routes::{CompiledRoute, Matched};
use super::snapshot::{LiveException, LiveGrant, ResourceEntry, Snapshot};
use crate::domain::name::{ActionName, IdentityName, ResourceName};
use crate::domain::route::CredentialRule;
use crate::domain::{Reason, Timestamp};

/// What a permit stands on.
#[derive(Clone, Debug)]
pub enum Basis {
    /// A live grant.
    Grant(Arc<LiveGrant>),
    /// An exception from the rule that a grant is needed.
    Exception {
        /// The exception.
        exception: Arc<LiveException>,
        /// What the answer would have been without it.
        would_refuse: Reason,
        /// Whose call it is.
        identity: IdentityName,
    },
}

/// Leave to forward one call. Credential and forwarding take it by reference; no other code can make one.
///
/// Names are reached through the grant and the route that it holds: each count that is not touched is some nanoseconds
/// less, on every call.
#[derive(Clone, Debug)]
pub struct Permit {
    basis: Basis,
    route: Arc<CompiledRoute>,
    /// Of the route's actions.
    place: usize,
    authority_bound: Duration,
    epoch: u64,
    revision: u64,
}

impl Permit {
    pub(super) fn granted(
        grant: Arc<LiveGrant>,
        resource: &ResourceEntry,
        target: &Matched<'_>,
        snapshot: &Snapshot,
    ) -> Self {
        Self::new(Basis::Grant(grant), resource, target, snapshot)
    }

    pub(super) fn observed(
        exception: &Arc<LiveException>,
        would_refuse: Reason,
        identity: &IdentityName,
        resource: &ResourceEntry,
        target: &Matched<'_>,
        snapshot: &Snapshot,
    ) -> Self {
        let basis = Basis::Exception { exception: exception.clone(), would_refuse, identity: identity.clone() };
        Self::new(basis, resource, target, snapshot)
    }

    fn new(basis: Basis, resource: &ResourceEntry, target: &Matched<'_>, snapshot: &Snapshot) -> Self {
        Self {
            basis,
            route: target.route().clone(),
            place: target.place(),
            authority_bound: resource.authority,
            epoch: snapshot.epoch(),
            revision: snapshot.revision(),
        }
    }

    /// What it stands on.
    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// The grant, when it stands on one.
    pub fn grant(&self) -> Option<&Arc<LiveGrant>> {
        match &self.basis {
            Basis::Grant(grant) => Some(grant),
            Basis::Exception { .. } => None,
        }
    }

    /// First moment at which it no longer holds.
    pub fn ends(&self) -> Timestamp {
        match &self.basis {
            Basis::Grant(grant) => grant.window.ends,
            Basis::Exception { exception, .. } => exception.ends,
        }
    }

    /// The reason for a cut at [`Permit::ends`].
    pub fn end_reason(&self) -> Reason {
        match &self.basis {
            Basis::Grant(_) => Reason::GrantExpired,
            Basis::Exception { .. } => Reason::ExceptionEnded,
        }
    }

    /// Whose call it is.
    pub fn identity(&self) -> &IdentityName {
        match &self.basis {
            Basis::Grant(grant) => &grant.holder,
            Basis::Exception { identity, .. } => identity,
        }
    }

    /// What the call touches.
    pub fn resource(&self) -> &ResourceName {
        &self.route.route().spec.resource
    }

    /// How old authority may be for the resource.
    pub fn authority_bound(&self) -> Duration {
        self.authority_bound
    }

    /// What the call does.
    pub fn action(&self) -> &ActionName {
        self.route.action_name(self.place)
    }

    /// The route that the call takes.
    pub fn route(&self) -> &Arc<CompiledRoute> {
        &self.route
    }

    /// What the upstream gets. A call that is only observed never gets anything.
    pub fn credential(&self) -> CredentialRule {
        match &self.basis {
            Basis::Grant(_) => self.route.route().spec.credential,
            Basis::Exception { .. } => CredentialRule::None,
        }
    }

    /// Epoch of the snapshot that the decision was made on.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Revision of the snapshot that the decision was made on.
    pub fn revision(&self) -> u64 {
        self.revision
    }
}
