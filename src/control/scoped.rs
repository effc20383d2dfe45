//! What one gateway of a narrower scope is told: of the whole picture its part, and of each change what concerns it.
//!
//! In its part are the routes of its scope, their resources, exceptions on them, grants of those resources and the
//! identities that these need; and which calls its routes would take though they are a more specific route's of somebody
//! else: without an owner here, those fall to nobody rather than through. Revoked tokens, halts and identities that were set aside go to everybody: what takes access
//! away is kept from nobody. Pure: compares the model that a gateway has been told of with the next one; persistent maps
//! make that as much work as there are differences.
//!
//! INVARIANT: once a gateway was told of a revision, it holds its part of that revision's model and nothing else of it,
//! save identities whose grants have ended since the last whole picture.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::ordmap::DiffItem;

use super::encode;
use super::model::{Kept, Model};
use super::record::Record;
use crate::domain::exception::Exception;
use crate::domain::grant::Grant;
use crate::domain::identity::{Identity, IdentityState};
use crate::domain::name::{GatewayName, IdentityName, ResourceName, RouteName};
use crate::domain::route::Route;
use crate::domain::scope::{Elsewhere, ForeignRule, Scope};
use crate::domain::{Reason, Timestamp};
use crate::wire::v1;

/// Largest delta; a difference beyond it goes as a whole picture, in parts.
const MAX_DELTA_BYTES: usize = 512 * 1024;

/// What a gateway's record says that it stands before; everything for one that is not recorded, which is told nothing.
pub(super) fn scope_of<'m>(model: &'m Model, gateway: &GatewayName) -> Option<&'m Scope> {
    model.gateways.get(gateway).map(|kept| &kept.value.scope).filter(|scope| !scope.is_everything())
}

/// The resources whose grants a gateway may know and use: those of its scope, and those of its routes.
pub(super) fn resources(model: &Model, scope: &Scope) -> BTreeSet<ResourceName> {
    let of_routes = scope.routes.iter().filter_map(|name| model.routes.get(name));
    of_routes.map(|kept| kept.value.spec.resource.clone()).chain(scope.resources.iter().cloned()).collect()
}

/// Whether a gateway may know and use a grant.
pub(super) fn concerns(model: &Model, gateway: &GatewayName, grant: &Grant) -> bool {
    scope_of(model, gateway).is_none_or(|scope| resources(model, scope).contains(&grant.resource))
}

/// What a gateway was told of.
#[derive(Debug)]
pub(super) struct View {
    scope: Scope,
    model: Arc<Model>,
    resources: Arc<BTreeSet<ResourceName>>,
    identities: BTreeSet<IdentityName>,
    /// Whether any identity may come: calls under an exception need no grant.
    everybody: bool,
    /// What its routes are not to take.
    elsewhere: Elsewhere,
}

/// What it is told next.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// These changes, none of them if the revision does not concern it.
    Delta(Vec<v1::Change>),
    /// Its whole part: what it stands before has changed.
    Afresh,
}

impl View {
    /// Of a gateway that is told its whole part of `model`.
    pub(super) fn of(model: Arc<Model>, scope: &Scope) -> Self {
        let resources = Arc::new(resources(&model, scope));
        let (scope, identities) = (scope.clone(), BTreeSet::new());
        let elsewhere = elsewhere(&model, &scope);
        let mut view = Self { scope, resources, identities, everybody: false, elsewhere, model: model.clone() };
        view.everybody = model.exceptions.values().any(|kept| view.has_exception(&model, &kept.value));
        view.identities = if view.everybody {
            model.identities.keys().cloned().collect()
        } else {
            let set_aside = model.identities.values().filter(|kept| is_set_aside(&kept.value));
            let holders = grants(&model, &view.resources).map(|kept| &kept.value.identity);
            let holders = holders.filter(|name| model.identities.contains_key(*name));
            set_aside.map(|kept| &kept.value.name).chain(holders).cloned().collect()
        };
        view
    }

    pub(super) const fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(super) const fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The resources whose grants it is told of.
    pub(super) const fn resources(&self) -> &Arc<BTreeSet<ResourceName>> {
        &self.resources
    }

    /// Its part of the catalog, each object after what it names.
    pub(super) fn catalog(&self) -> Vec<v1::CatalogObject> {
        let model = &self.model;
        let mut objects = Vec::new();
        let identities = self.identities.iter().filter_map(|name| model.identities.get(name));
        objects.extend(identities.map(|kept| encode::identity(&kept.value, kept.revision)));
        let resources = self.resources.iter().filter_map(|name| model.resources.get(name));
        objects.extend(resources.filter_map(|kept| encode::kept(kept, Record::Resource)));
        let routes = model.routes.values().filter(|kept| self.has_route(&kept.value));
        objects.extend(routes.filter_map(|kept| encode::kept(kept, Record::Route)));
        if !self.elsewhere.rules.is_empty() {
            objects.push(encode::elsewhere(&self.elsewhere, model.revision));
        }
        let exceptions = model.exceptions.values().filter(|kept| self.has_exception(model, &kept.value));
        objects.extend(exceptions.filter_map(|kept| encode::kept(kept, Record::Exception)));
        objects.extend(model.halts.values().filter_map(|kept| encode::kept(kept, Record::Halt)));
        objects
    }

    /// Its grants.
    pub(super) fn grants(&self) -> impl Iterator<Item = v1::Grant> + Send + use<> {
        let model = self.model.clone();
        let ids = self.resources.iter().filter_map(|name| model.grants_by_resource.get(name)).cloned();
        let ids = ids.collect::<Vec<_>>().into_iter().flatten();
        ids.filter_map(move |id| model.grants.get(&id).map(|kept| encode::grant(&kept.value, kept.revision)))
    }

    fn has_route(&self, route: &Route) -> bool {
        self.scope.has(&route.name, &route.spec.resource)
    }

    fn has_exception(&self, model: &Model, exception: &Exception) -> bool {
        let route = exception.spec.route.as_ref().and_then(|name| model.routes.get(name));
        route.is_some_and(|kept| self.has_route(&kept.value))
    }

    /// Goes on to `next`, in which the gateway's scope is the same.
    pub(super) fn step(&mut self, next: Arc<Model>, now: Timestamp) -> Step {
        let before = std::mem::replace(&mut self.model, next.clone());
        if self.has_moved(&before, &next) {
            return Step::Afresh;
        }
        let mut changes = Vec::new();
        self.tell_objects(&before, &next, &mut changes);
        self.tell_grants(&before, &next, now, &mut changes);
        for item in before.tokens.diff(&next.tokens) {
            if let DiffItem::Add(_, kept) | DiffItem::Update { new: (_, kept), .. } = item {
                changes.push(v1::change::Change::TokenRevoked(encode::token(&kept.value)));
            }
        }
        let changes: Vec<_> = changes.into_iter().map(|change| v1::Change { change: Some(change) }).collect();
        let bytes: usize = changes.iter().map(prost::Message::encoded_len).sum();
        if bytes > MAX_DELTA_BYTES { Step::Afresh } else { Step::Delta(changes) }
    }

    /// Whether what its scope means has become something else: grants that it was never told of came in with a route, or
    /// such that it knows went out. Rare; the whole part says it best.
    fn has_moved(&self, before: &Model, next: &Model) -> bool {
        let mut exceptions = before.exceptions.diff(&next.exceptions);
        let excepted =
            |name: &RouteName| next.exceptions.values().any(|kept| kept.value.spec.route.as_ref() == Some(name));
        let mut routes = before.routes.diff(&next.routes);
        before.epoch != next.epoch
            || resources(next, &self.scope) != *self.resources
            || exceptions.any(|item| {
                let ours = |kept: &Kept<Exception>| {
                    self.has_exception(before, &kept.value) || self.has_exception(next, &kept.value)
                };
                match item {
                    DiffItem::Add(_, kept) | DiffItem::Remove(_, kept) => ours(kept),
                    // Also one that gives leave elsewhere by now: here it must not stay.
                    DiffItem::Update { old: (_, old), new: (_, new) } => ours(old) || ours(new),
                }
            })
            || routes.any(|item| {
                let (DiffItem::Add(name, _) | DiffItem::Remove(name, _) | DiffItem::Update { new: (name, _), .. }) =
                    item;
                excepted(name)
            })
    }

    fn tell_objects(&mut self, before: &Model, next: &Model, changes: &mut Vec<v1::change::Change>) {
        use v1::change::Change;
        for item in before.identities.diff(&next.identities) {
            match item {
                DiffItem::Add(name, kept) | DiffItem::Update { new: (name, kept), .. } => {
                    let is_known = self.everybody || self.identities.contains(name);
                    if is_known || is_set_aside(&kept.value) || self.is_holder(next, name) {
                        changes.push(Change::ObjectPut(encode::identity(&kept.value, kept.revision)));
                        self.identities.insert(name.clone());
                    }
                }
                DiffItem::Remove(name, _) => {
                    if self.identities.remove(name) {
                        changes.push(gone("Identity", name.to_string()));
                    }
                }
            }
        }
        for item in before.resources.diff(&next.resources) {
            match item {
                DiffItem::Add(name, kept) | DiffItem::Update { new: (name, kept), .. } => {
                    let object = encode::kept(kept, Record::Resource).filter(|_| self.resources.contains(name));
                    changes.extend(object.map(Change::ObjectPut));
                }
                DiffItem::Remove(name, _) if self.resources.contains(name) => {
                    changes.push(gone("Resource", name.to_string()));
                }
                DiffItem::Remove(..) => {}
            }
        }
        for item in before.routes.diff(&next.routes) {
            let had = |name: &RouteName| before.routes.get(name).is_some_and(|kept| self.has_route(&kept.value));
            match item {
                DiffItem::Add(_, kept) | DiffItem::Update { new: (_, kept), .. } if self.has_route(&kept.value) => {
                    changes.extend(encode::kept(kept, Record::Route).map(Change::ObjectPut));
                }
                // Also one that is another resource's by now.
                DiffItem::Add(name, _) | DiffItem::Update { new: (name, _), .. } | DiffItem::Remove(name, _) => {
                    if had(name) {
                        changes.push(gone("Route", name.to_string()));
                    }
                }
            }
        }
        if before.routes.diff(&next.routes).next().is_some() {
            let elsewhere = elsewhere(next, &self.scope);
            if elsewhere != self.elsewhere {
                self.elsewhere = elsewhere;
                changes.push(match &self.elsewhere {
                    none if none.rules.is_empty() => gone("Elsewhere", encode::ELSEWHERE.to_owned()),
                    some => Change::ObjectPut(encode::elsewhere(some, next.revision)),
                });
            }
        }
        for item in before.halts.diff(&next.halts) {
            match item {
                DiffItem::Add(_, kept) | DiffItem::Update { new: (_, kept), .. } => {
                    changes.extend(encode::kept(kept, Record::Halt).map(Change::ObjectPut));
                }
                DiffItem::Remove(scope, _) => changes.push(gone("Halt", scope.to_string())),
            }
        }
    }

    fn tell_grants(&mut self, before: &Model, next: &Model, now: Timestamp, changes: &mut Vec<v1::change::Change>) {
        use v1::change::Change;
        for item in before.grants.diff(&next.grants) {
            match item {
                DiffItem::Add(_, kept) | DiffItem::Update { new: (_, kept), .. }
                    if self.resources.contains(&kept.value.resource) =>
                {
                    self.tell_holder(next, &kept.value, changes);
                    changes.push(Change::GrantPut(encode::grant(&kept.value, kept.revision)));
                }
                // Also one that is on another's resource by now. No plan makes one so; none may stay for it.
                DiffItem::Remove(id, kept) | DiffItem::Update { old: (id, kept), .. }
                    if self.resources.contains(&kept.value.resource) =>
                {
                    let over = kept.value.window.ends <= now;
                    let reason = if over { Reason::GrantExpired } else { Reason::GrantRevoked };
                    let (grant_id, reason) = (id.bits().to_be_bytes().to_vec(), reason.code().to_owned());
                    changes.push(Change::GrantEnded(v1::GrantEnded { grant_id, reason }));
                }
                DiffItem::Add(..) | DiffItem::Update { .. } | DiffItem::Remove(..) => {}
            }
        }
    }

    /// Whether an identity has a grant of its. One that is made anew finds those that it had.
    fn is_holder(&self, next: &Model, name: &IdentityName) -> bool {
        let grants = next.grants_of.get(name).into_iter().flatten().filter_map(|id| next.grants.get(id));
        grants.into_iter().any(|kept| self.resources.contains(&kept.value.resource))
    }

    /// The first grant of an identity brings the identity.
    fn tell_holder(&mut self, next: &Model, grant: &Grant, changes: &mut Vec<v1::change::Change>) {
        if self.identities.contains(&grant.identity) {
            return;
        }
        if let Some(kept) = next.identities.get(&grant.identity) {
            changes.push(v1::change::Change::ObjectPut(encode::identity(&kept.value, kept.revision)));
            self.identities.insert(grant.identity.clone());
        }
    }
}

/// Grants on any of these.
fn grants<'m>(model: &'m Model, resources: &'m BTreeSet<ResourceName>) -> impl Iterator<Item = &'m Kept<Grant>> {
    let ids = resources.iter().filter_map(|name| model.grants_by_resource.get(name)).flatten();
    ids.filter_map(|id| model.grants.get(id))
}

/// Rules of routes outside of a scope to which calls belong that a rule in it would take.
fn elsewhere(model: &Model, scope: &Scope) -> Elsewhere {
    let is_own = |route: &Route| scope.has(&route.name, &route.spec.resource);
    let routes = || model.routes.values().map(|kept| kept.value.as_ref());
    let own: Vec<_> = routes()
        .filter(|route| is_own(route))
        .flat_map(|route| route.spec.actions.iter().map(|rule| (&route.spec, rule)))
        .collect();
    let foreign = routes().filter(|route| !is_own(route));
    let foreign = foreign.flat_map(|route| route.spec.actions.iter().map(|rule| ForeignRule::of(&route.spec, rule)));
    let rules = foreign.filter(|foreign| own.iter().any(|(route, rule)| foreign.takes_from(route, rule)));
    Elsewhere { rules: rules.collect() }
}

fn is_set_aside(identity: &Identity) -> bool {
    match identity.state {
        IdentityState::Active => false,
        IdentityState::Quarantined | IdentityState::Offboarded => true,
    }
}

fn gone(kind: &str, name: String) -> v1::change::Change {
    v1::change::Change::ObjectDeleted(v1::ObjectKey { kind: kind.to_owned(), name })
}

#[cfg(test)]
mod tests;
