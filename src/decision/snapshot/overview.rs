//! What is in a snapshot: for operators, and for those who compare one snapshot with the next. No decision needs it.

use std::sync::Arc;

use super::{IdentityEntry, IdentityIndex, LiveException, LiveGrant, ResourceEntry, ResourceIndex, Snapshot};
use crate::decision::routes::CompiledRoute;
use crate::domain::name::{ExceptionName, RouteName};
use crate::domain::principal::Principal;

impl Snapshot {
    /// Every identity, in the order of their places.
    pub fn identities(&self) -> impl Iterator<Item = (IdentityIndex, &Arc<IdentityEntry>)> {
        let places = (0u32..).map(IdentityIndex);
        places.zip(&self.names.identities).filter_map(|(place, entry)| Some((place, entry.as_ref()?)))
    }

    /// Every credential with the identity that has it, in no order.
    pub fn principals(&self) -> impl Iterator<Item = (&Principal, IdentityIndex)> {
        self.names.principals.iter().map(|(principal, place)| (principal, *place))
    }

    /// The credentials of an identity.
    pub fn principals_of(&self, identity: IdentityIndex) -> impl Iterator<Item = &Principal> {
        self.principals().filter(move |(_, place)| *place == identity).map(|(principal, _)| principal)
    }

    /// Every resource, in the order of their places.
    pub fn resources(&self) -> impl Iterator<Item = (ResourceIndex, &Arc<ResourceEntry>)> {
        let places = (0u32..).map(ResourceIndex);
        places.zip(&self.names.resources).filter_map(|(place, entry)| Some((place, entry.as_ref()?)))
    }

    /// Live grants of an identity on everything.
    pub fn grants_of(&self, identity: IdentityIndex) -> impl Iterator<Item = &Arc<LiveGrant>> {
        self.resources().flat_map(move |(resource, _)| self.grants(identity, resource))
    }

    /// Every route, in no order.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<CompiledRoute>> {
        // A route has one rule or more; its first stands for it.
        self.routes.rules().filter(|(_, place, _)| *place == 0).map(|(route, _, _)| route)
    }

    /// A route by its name.
    pub fn route(&self, name: &RouteName) -> Option<&Arc<CompiledRoute>> {
        self.routes().find(|route| route.route().name == *name)
    }

    /// Every exception that counts, in no order.
    pub fn exceptions(&self) -> impl Iterator<Item = &Arc<LiveException>> {
        self.exceptions.values()
    }

    /// An exception by its name, when it counts.
    pub fn exception(&self, name: &ExceptionName) -> Option<&Arc<LiveException>> {
        self.exceptions().find(|exception| exception.name == *name)
    }
}
