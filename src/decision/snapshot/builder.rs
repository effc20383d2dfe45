//! Makes the next snapshot from the last one and a batch of changes. What a batch does not touch stays shared.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    ActionIndex, GrantSet, IdentityEntry, IdentityIndex, LiveException, LiveGrant, Names, ResourceEntry, ResourceIndex,
    Snapshot, pair,
};
use crate::decision::routes::{Interner, RouteFault, RouteTable};
use crate::domain::exception::{Exception, ExceptionRule};
use crate::domain::grant::Grant;
use crate::domain::halt::HaltScope;
use crate::domain::identity::Identity;
use crate::domain::name::{ActionName, ExceptionName, GrantId, IdentityName, ResourceName, RouteName};
use crate::domain::resource::Resource;
use crate::domain::route::Route;
use crate::domain::scope::Elsewhere;

/// A snapshot being made.
#[derive(Debug)]
pub struct SnapshotBuilder {
    snapshot: Snapshot,
    routes: Option<BTreeMap<RouteName, Route>>,
    elsewhere: Option<Elsewhere>,
}

impl SnapshotBuilder {
    /// Starts from nothing.
    pub fn new() -> Self {
        Self::from_snapshot(Snapshot::default())
    }

    /// Starts from nothing, and gives every name the place that it had in `before`: running calls and cached tokens of
    /// this process go by places.
    pub fn afresh(before: &Snapshot) -> Self {
        let names = &before.names;
        let names = Names {
            identities: vec![None; names.identities.len()],
            states: vec![None; names.identities.len()],
            identity_places: names.identity_places.clone(),
            principals: super::Map::default(),
            resources: vec![None; names.resources.len()],
            resource_places: names.resource_places.clone(),
            actions: names.actions.clone(),
            action_places: names.action_places.clone(),
        };
        Self::from_snapshot(Snapshot { names: Arc::new(names), ..Snapshot::default() })
    }

    pub(super) fn from_snapshot(snapshot: Snapshot) -> Self {
        Self { snapshot, routes: None, elsewhere: None }
    }

    /// Adds or replaces identities with their credentials. A credential that another identity had moves to the new one;
    /// the control plane refuses that before it gets here.
    pub fn put_identities<'i>(&mut self, identities: impl IntoIterator<Item = &'i Identity> + Clone) {
        let names = Arc::make_mut(&mut self.snapshot.names);
        // One pass over the credentials for the whole batch.
        let places: std::collections::HashSet<_> =
            identities.clone().into_iter().map(|identity| names.identity(&identity.name)).collect();
        names.principals.retain(|_, owner| !places.contains(owner));
        for identity in identities {
            names.put_identity(identity);
        }
    }

    /// Adds or replaces one identity; see [`SnapshotBuilder::put_identities`].
    pub fn put_identity(&mut self, identity: &Identity) {
        self.put_identities([identity]);
    }

    /// Removes an identity. Its grants open nothing any more.
    pub fn remove_identity(&mut self, name: &IdentityName) {
        let names = Arc::make_mut(&mut self.snapshot.names);
        let Some(place) = names.identity_places.get(name).copied() else { return };
        names.principals.retain(|_, owner| *owner != place);
        names.set_identity(place, None);
    }

    /// Adds or replaces a resource.
    pub fn put_resource(&mut self, resource: &Resource) {
        let names = Arc::make_mut(&mut self.snapshot.names);
        let place = names.resource(&resource.name);
        let entry = ResourceEntry { name: resource.name.clone(), authority: resource.spec.authority.duration() };
        if let Some(slot) = names.resources.get_mut(place.0 as usize) {
            *slot = Some(Arc::new(entry));
        }
    }

    /// Removes a resource. Nothing on it is allowed any more.
    pub fn remove_resource(&mut self, name: &ResourceName) {
        let names = Arc::make_mut(&mut self.snapshot.names);
        let Some(place) = names.resource_places.get(name).copied() else { return };
        if let Some(slot) = names.resources.get_mut(place.0 as usize) {
            *slot = None;
        }
    }

    /// Adds or replaces a route.
    pub fn put_route(&mut self, route: Route) {
        self.routes().insert(route.name.clone(), route);
    }

    /// Removes a route.
    pub fn remove_route(&mut self, name: &RouteName) {
        self.routes().remove(name);
    }

    /// Says which calls are not to be taken here, in place of what was said before.
    pub fn put_elsewhere(&mut self, elsewhere: Elsewhere) {
        self.routes();
        self.elsewhere = Some(elsewhere);
    }

    /// Adds or replaces an exception. One `observe` exception counts per route: the one that lasts longest.
    pub fn put_exception(&mut self, exception: &Exception) {
        self.remove_exception(&exception.name);
        // The other rule is the control plane's own, and is left there.
        let (ExceptionRule::Observe, Some(route)) = (exception.spec.rule, &exception.spec.route) else { return };
        let live = LiveException { name: exception.name.clone(), route: route.clone(), ends: exception.spec.expires };
        let exceptions = Arc::make_mut(&mut self.snapshot.exceptions);
        if exceptions.get(&live.route).is_none_or(|other| other.ends <= live.ends) {
            exceptions.insert(live.route.clone(), Arc::new(live));
        }
    }

    /// Removes an exception.
    pub fn remove_exception(&mut self, name: &ExceptionName) {
        if self.snapshot.exceptions.values().any(|e| e.name == *name) {
            Arc::make_mut(&mut self.snapshot.exceptions).retain(|_, e| e.name != *name);
        }
    }

    /// Has a scope stand still.
    pub fn put_halt(&mut self, scope: &HaltScope) {
        self.remove_halt(scope);
        let resource = match scope {
            HaltScope::Drill => return,
            HaltScope::Credential(root) => {
                Arc::make_mut(&mut self.snapshot.halts).credentials.insert(root.clone());
                return;
            }
            HaltScope::All => None,
            HaltScope::Resource(name) => Some(Arc::make_mut(&mut self.snapshot.names).resource(name)),
        };
        let halts = Arc::make_mut(&mut self.snapshot.halts);
        match resource {
            None => halts.all = true,
            Some(place) => halts.resources.push(place),
        }
    }

    /// Lets a scope go on.
    pub fn remove_halt(&mut self, scope: &HaltScope) {
        let halts = Arc::make_mut(&mut self.snapshot.halts);
        match scope {
            HaltScope::Drill => {}
            HaltScope::Credential(root) => drop(halts.credentials.remove(root)),
            HaltScope::All => halts.all = false,
            HaltScope::Resource(name) => {
                let place = self.snapshot.names.resource_places.get(name);
                halts.resources.retain(|halted| Some(halted) != place);
            }
        }
    }

    /// Adds or replaces a grant.
    pub fn put_grant(&mut self, grant: &Grant) {
        self.remove_grant(grant.id);
        let (identity, resource) = self.places(&grant.identity, &grant.resource);
        let live = Arc::new(LiveGrant {
            id: grant.id,
            identity,
            holder: self.snapshot.names.shared_name(&grant.identity),
            resource,
            window: grant.window,
            actions: grant.actions.iter().map(|action| self.action(action)).collect(),
            limits: (!grant.limits.is_empty()).then(|| Box::new(grant.limits.clone())),
        });
        self.snapshot.by_id.insert(grant.id.bits(), live.clone());
        let key = pair(identity, resource);
        if !self.snapshot.grants.update(key, |set| set.add(live.clone())) {
            self.snapshot.grants.insert(key, GrantSet::One(live));
        }
    }

    /// Removes a grant. `false`: there was none.
    pub fn remove_grant(&mut self, id: GrantId) -> bool {
        let Some(gone) = self.snapshot.by_id.remove(id.bits()) else { return false };
        let key = pair(gone.identity, gone.resource);
        let mut was_last = false;
        self.snapshot.grants.update(key, |set| was_last = set.remove(&gone));
        if was_last {
            self.snapshot.grants.remove(key);
        }
        true
    }

    /// The finished picture.
    ///
    /// # Errors
    /// When the routes do not make a table. The control plane publishes no such catalog.
    pub fn build(mut self, epoch: u64, revision: u64) -> Result<Snapshot, Vec<RouteFault>> {
        if let Some(routes) = self.routes.take() {
            let names = Arc::make_mut(&mut self.snapshot.names);
            let elsewhere = self.elsewhere.take().unwrap_or_else(|| self.snapshot.routes.elsewhere().clone());
            self.snapshot.routes = Arc::new(RouteTable::compile(routes.into_values(), names)?.without(elsewhere));
        }
        self.snapshot.epoch = epoch;
        self.snapshot.revision = revision;
        Ok(self.snapshot)
    }

    fn routes(&mut self) -> &mut BTreeMap<RouteName, Route> {
        self.routes.get_or_insert_with(|| {
            let rules = self.snapshot.routes.rules();
            rules.map(|(route, _, _)| (route.route().name.clone(), route.route().clone())).collect()
        })
    }

    /// Known names are looked up first: making the tables this builder's own copies them.
    fn places(&mut self, identity: &IdentityName, resource: &ResourceName) -> (IdentityIndex, ResourceIndex) {
        let names = &self.snapshot.names;
        match (names.identity_places.get(identity), names.resource_places.get(resource)) {
            (Some(identity), Some(resource)) => (*identity, *resource),
            _ => {
                let names = Arc::make_mut(&mut self.snapshot.names);
                (names.identity(identity), names.resource(resource))
            }
        }
    }

    fn action(&mut self, name: &ActionName) -> ActionIndex {
        match self.snapshot.names.action_places.get(name) {
            Some(place) => *place,
            None => Arc::make_mut(&mut self.snapshot.names).action(name),
        }
    }
}

impl Default for SnapshotBuilder {
    fn default() -> Self {
        Self::new()
    }
}

fn next_place(len: usize) -> u32 {
    // Saturating: four thousand million names do not fit into memory.
    u32::try_from(len).unwrap_or(u32::MAX)
}

impl Names {
    fn put_identity(&mut self, identity: &Identity) {
        let place = self.identity(&identity.name);
        for authenticator in &identity.spec.authenticate {
            self.principals.insert(authenticator.principal(), place);
        }
        let entry = IdentityEntry { name: identity.name.clone(), state: identity.state };
        self.set_identity(place, Some(entry));
    }

    fn set_identity(&mut self, place: IdentityIndex, entry: Option<IdentityEntry>) {
        let place = place.0 as usize;
        if let (Some(slot), Some(state)) = (self.identities.get_mut(place), self.states.get_mut(place)) {
            *state = entry.as_ref().map(|entry| entry.state);
            *slot = entry.map(Arc::new);
        }
    }

    /// The name as it is kept here: one text, however many grants name it.
    fn shared_name(&self, name: &IdentityName) -> IdentityName {
        self.identity_places.get_key_value(name).map_or(name, |(kept, _)| kept).clone()
    }

    fn identity(&mut self, name: &IdentityName) -> IdentityIndex {
        let (identities, states) = (&mut self.identities, &mut self.states);
        *self.identity_places.entry(name.clone()).or_insert_with(|| {
            identities.push(None);
            states.push(None);
            IdentityIndex(next_place(identities.len() - 1))
        })
    }
}

impl Interner for Names {
    fn resource(&mut self, name: &ResourceName) -> ResourceIndex {
        let resources = &mut self.resources;
        *self.resource_places.entry(name.clone()).or_insert_with(|| {
            resources.push(None);
            ResourceIndex(next_place(resources.len() - 1))
        })
    }

    fn action(&mut self, name: &ActionName) -> ActionIndex {
        let actions = &mut self.actions;
        *self.action_places.entry(name.clone()).or_insert_with(|| {
            actions.push(name.clone());
            ActionIndex(next_place(actions.len() - 1))
        })
    }
}
