//! The snapshot: the immutable picture of identities, resources, routes, grants and exceptions that decisions are made on.
//!
//! Names are interned to small numbers, `(identity, resource)` leads to a small set of grants, and grants live in
//! persistent maps: the next snapshot shares everything that did not change. Nothing here knows where changes come from,
//! and a grant that nobody uses carries no state here.

mod builder;
mod overview;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

pub use builder::SnapshotBuilder;

use super::radix::RadixMap;
use super::routes::{CompiledRoute, Matched, RouteTable};
use crate::domain::grant::{Limits, Window};
use crate::domain::identity::IdentityState;
use crate::domain::name::{ActionName, ExceptionName, GrantId, IdentityName, ParameterName, ResourceName, RouteName};
use crate::domain::principal::Principal;
use crate::domain::root::Root;
use crate::domain::route::Host;
use crate::domain::{Reason, Timestamp};

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// An identity's place. Places are never reused while a process runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IdentityIndex(u32);

/// A resource's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResourceIndex(u32);

/// An action name's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ActionIndex(u32);

/// What deciding needs of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityEntry {
    /// Its name.
    pub name: IdentityName,
    /// Whether it may act.
    pub state: IdentityState,
}

/// What deciding needs of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceEntry {
    /// Its name.
    pub name: ResourceName,
    /// How old authority may be.
    pub authority: Duration,
}

/// What deciding needs of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveGrant {
    /// Its identifier.
    pub id: GrantId,
    /// Whose it is.
    pub identity: IdentityIndex,
    /// Their name, shared by all of their grants.
    pub holder: IdentityName,
    /// What it opens.
    pub resource: ResourceIndex,
    /// When it holds.
    pub window: Window,
    /// What may be done.
    pub actions: SmallVec<[ActionIndex; 4]>,
    /// What narrows it, when anything does.
    pub limits: Option<Box<Limits>>,
}

impl LiveGrant {
    /// Whether each call under it is counted.
    pub fn is_counted(&self) -> bool {
        self.limits.as_ref().is_some_and(|limits| limits.is_counted())
    }

    /// Whether a call that both allow should stand on this one.
    pub(super) fn serves_better(&self, other: &Self) -> bool {
        match (self.is_counted(), other.is_counted()) {
            (false, true) => true,
            (true, false) => false,
            _ => self.window.ends > other.window.ends,
        }
    }
}

/// What deciding needs of an `observe` exception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveException {
    /// Its name.
    pub name: ExceptionName,
    /// The route on which a missing grant is let through.
    pub route: RouteName,
    /// First moment at which it no longer holds.
    pub ends: Timestamp,
}

/// Grants of one identity on one resource: nearly always one. Thin pointers: a lookup scans these.
#[derive(Clone, Debug)]
enum GrantSet {
    One(Arc<LiveGrant>),
    Many(Arc<Vec<Arc<LiveGrant>>>),
}

impl GrantSet {
    fn as_slice(&self) -> &[Arc<LiveGrant>] {
        match self {
            Self::One(grant) => std::slice::from_ref(grant),
            Self::Many(grants) => grants,
        }
    }

    /// One more. Where nobody else holds the set that is no copy: a machine may have thousands on one resource.
    fn add(&mut self, grant: Arc<LiveGrant>) {
        match self {
            Self::One(first) => *self = Self::Many(Arc::new(vec![first.clone(), grant])),
            Self::Many(grants) => Arc::make_mut(grants).push(grant),
        }
    }

    /// One less. `true`: it was the only one, and the set is to go.
    fn remove(&mut self, grant: &Arc<LiveGrant>) -> bool {
        let Self::Many(grants) = self else { return true };
        let grants = Arc::make_mut(grants);
        // It is the same allocation: none of the others need be looked into.
        let same = grants.iter().position(|one| Arc::ptr_eq(one, grant));
        if let Some(place) = same.or_else(|| grants.iter().position(|one| one.id == grant.id)) {
            grants.swap_remove(place);
        }
        if let [one] = grants.as_slice() {
            *self = Self::One(one.clone());
        }
        false
    }
}

/// The picture.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    epoch: u64,
    revision: u64,
    names: Arc<Names>,
    routes: Arc<RouteTable>,
    exceptions: Arc<Map<RouteName, Arc<LiveException>>>,
    halts: Arc<Halts>,
    grants: RadixMap<u64, GrantSet>,
    by_id: RadixMap<u128, Arc<LiveGrant>>,
}

/// What stands still.
#[derive(Clone, Debug, Default)]
struct Halts {
    all: bool,
    resources: Vec<ResourceIndex>,
    /// Keys and issuers whose credentials open nothing.
    credentials: BTreeSet<Root>,
}

/// Identities, resources and actions by name and by place.
#[derive(Clone, Debug, Default)]
struct Names {
    identities: Vec<Option<Arc<IdentityEntry>>>,
    /// The states of `identities`, dense: a decision asks for nothing else of them.
    states: Vec<Option<IdentityState>>,
    identity_places: Map<IdentityName, IdentityIndex>,
    principals: Map<Principal, IdentityIndex>,
    resources: Vec<Option<Arc<ResourceEntry>>>,
    resource_places: Map<ResourceName, ResourceIndex>,
    actions: Vec<ActionName>,
    action_places: Map<ActionName, ActionIndex>,
}

const fn pair(identity: IdentityIndex, resource: ResourceIndex) -> u64 {
    ((identity.0 as u64) << 32) | resource.0 as u64
}

impl Snapshot {
    /// The store's epoch that it belongs to.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The revision up to which it is complete.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many grants it holds.
    pub fn grant_count(&self) -> usize {
        self.by_id.len()
    }

    /// The identity that a principal's credential belongs to.
    pub fn identify(&self, principal: &Principal) -> Option<IdentityIndex> {
        self.names.principals.get(principal).copied()
    }

    /// The place of an identity.
    pub fn identity_place(&self, name: &IdentityName) -> Option<IdentityIndex> {
        self.names.identity_places.get(name).copied().filter(|place| self.identity(*place).is_some())
    }

    /// The identity at a place.
    pub fn identity(&self, place: IdentityIndex) -> Option<&Arc<IdentityEntry>> {
        self.names.identities.get(place.0 as usize)?.as_ref()
    }

    /// The state of the identity at a place.
    pub fn identity_state(&self, place: IdentityIndex) -> Option<IdentityState> {
        self.names.states.get(place.0 as usize).copied().flatten()
    }

    /// The place of a resource.
    pub fn resource_place(&self, name: &ResourceName) -> Option<ResourceIndex> {
        self.names.resource_places.get(name).copied().filter(|place| self.resource(*place).is_some())
    }

    /// The resource at a place.
    pub fn resource(&self, place: ResourceIndex) -> Option<&Arc<ResourceEntry>> {
        self.names.resources.get(place.0 as usize)?.as_ref()
    }

    /// The name of an action.
    pub fn action(&self, place: ActionIndex) -> Option<&ActionName> {
        self.names.actions.get(place.0 as usize)
    }

    /// Live grants of an identity on a resource, in no order.
    pub fn grants(&self, identity: IdentityIndex, resource: ResourceIndex) -> &[Arc<LiveGrant>] {
        self.grants.get(pair(identity, resource)).map(GrantSet::as_slice).unwrap_or_default()
    }

    /// A grant by its identifier.
    pub fn grant(&self, id: GrantId) -> Option<&Arc<LiveGrant>> {
        self.by_id.get(id.bits())
    }

    /// Whether everything, or everything on the resource, stands still.
    pub fn is_halted(&self, resource: ResourceIndex) -> bool {
        self.halts.all || self.halts.resources.contains(&resource)
    }

    /// Whether calls on a resource may have come to stand still that did not under the one before.
    pub fn stops_more_than(&self, before: &Self, resource: ResourceIndex) -> bool {
        let is_known = |root: &Root| before.halts.credentials.contains(root);
        (self.is_halted(resource) && !before.is_halted(resource)) || !self.halts.credentials.iter().all(is_known)
    }

    /// Whether what vouched for a credential was halted. Where it is not known, every one is as good as halted once any is.
    pub fn is_credential_halted(&self, root: &Root) -> bool {
        let halted = &self.halts.credentials;
        if halted.is_empty() {
            return false;
        }
        *root == Root::Unknown || halted.contains(root) || root.wider().is_some_and(|wider| halted.contains(&wider))
    }

    /// The `observe` exception of a route, while it holds.
    pub fn observed(&self, route: &RouteName, now: Timestamp) -> Option<&Arc<LiveException>> {
        if self.exceptions.is_empty() {
            return None;
        }
        self.exceptions.get(route).filter(|exception| now < exception.ends)
    }

    /// The rule that takes a request; see [`RouteTable::match_request`].
    ///
    /// # Errors
    /// [`Reason::RouteUnknown`] or [`Reason::MethodNotAllowed`].
    pub fn match_request<'a>(&self, host: &Host, method: &str, path: &'a str) -> Result<Matched<'a>, Reason> {
        self.routes.match_request(host, method, path)
    }

    /// A question about an action on a resource, as if a route had matched: one for each route that leads to it, in the
    /// order of their names.
    pub fn assume(
        &self,
        resource: &ResourceName,
        action: &ActionName,
        parameters: &[(ParameterName, String)],
    ) -> Vec<Matched<'static>> {
        let leads = |(route, place, _): &(&Arc<CompiledRoute>, usize, ActionIndex)| {
            let spec = &route.route().spec;
            spec.resource == *resource && spec.actions.get(*place).is_some_and(|rule| rule.name == *action)
        };
        let mut found: Vec<_> = self.routes.rules().filter(leads).collect();
        found.sort_by_key(|(route, place, _)| (&route.route().name, *place));
        found.dedup_by(|(a, ..), (b, ..)| a.route().name == b.route().name);
        let assumed = |(route, place, action)| Matched::assumed(route, place, action, parameters.iter().cloned());
        found.into_iter().map(assumed).collect()
    }

    /// A builder that starts from this picture.
    pub fn edit(&self) -> SnapshotBuilder {
        SnapshotBuilder::from_snapshot(self.clone())
    }
}
