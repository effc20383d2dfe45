//! Who is who in a break-glass: one person is one person, and whoever has an interest reviews nothing.

use std::collections::BTreeSet;

use super::super::approval::{self, MAX_NAMED};
use super::super::model::Model;
use super::super::plan::Refused;
use super::super::record::{Person, PersonRole};
use crate::domain::breakglass::BreakGlass;
use crate::domain::name::{IdentityName, OwnerName};
use crate::domain::role::Permission;

/// Whether somebody watches over all access.
pub(super) fn watches(person: &Person) -> bool {
    [PersonRole::Administrator, PersonRole::Security].iter().any(|role| person.roles.contains(role))
}

/// Who answers for an identity.
pub(super) fn identity_owner(model: &Model, name: &IdentityName) -> Result<OwnerName, Refused> {
    let found = model.identities.get(name).map(|kept| kept.value.spec.owner.clone());
    found.ok_or_else(|| Refused::NotFound(format!("there is no identity {name}")))
}

/// Whether somebody may close the review: who watches over all access, or answers for all that was opened; never who
/// opened it, nor who answers for the identity, then or now.
pub(super) fn may_review(model: &Model, it: &BreakGlass, name: &OwnerName) -> bool {
    // INVARIANT: nobody closes the review of what they opened, under whatever name.
    if model.are_one(&it.opener, name) {
        return false;
    }
    let Some(kept) = model.people.get(name) else { return false };
    let actor = approval::actor(model, &kept.value);
    let now = identity_owner(model, &it.ask.identity).ok();
    if actor.is_owner(&it.identity_owner) || now.is_some_and(|owner| actor.is_owner(&owner)) {
        return false;
    }
    watches(&kept.value)
        || owners(model, &it.permissions).is_some_and(|all| all.iter().all(|owner| actor.is_owner(owner)))
}

/// The first ones of them by name.
pub(super) fn reviewers(model: &Model, it: &BreakGlass) -> Vec<OwnerName> {
    model.people.keys().filter(|name| may_review(model, it, name)).take(MAX_NAMED).cloned().collect()
}

/// Who answers for any of what it opens, and for whom it is. All of them: there are no more than it opens, and one.
pub(super) fn answering(model: &Model, identity: &IdentityName, permissions: &[Permission]) -> Vec<OwnerName> {
    let of = |it: &Permission| model.resources.get(&it.resource).map(|kept| kept.value.spec.owner.clone());
    let mut found: BTreeSet<OwnerName> = permissions.iter().filter_map(of).collect();
    found.extend(identity_owner(model, identity).ok());
    found.into_iter().collect()
}

/// Whom it concerns, as people are told: who answers for it, then who watches over all access; the first ones, and how many
/// others.
pub(super) fn concerned(model: &Model, answering: &[OwnerName], opener: &OwnerName) -> (Vec<OwnerName>, u64) {
    let security = |person: &&Person| person.roles.contains(&PersonRole::Security);
    let watching = model.people.values().map(|kept| kept.value.as_ref()).filter(security).map(|person| &person.name);
    let others = watching.filter(|name| !answering.contains(name));
    let mut all = answering.iter().chain(others).filter(|name| *name != opener).cloned();
    let named = all.by_ref().take(MAX_NAMED).collect();
    (named, u64::try_from(all.count()).unwrap_or(u64::MAX))
}

/// Whether somebody answers for any of it, as it was opened or by now: their word ends it. Looked up, and not read from what
/// people are told: that is cut.
pub(super) fn is_concerned(model: &Model, it: &BreakGlass, person: &Person) -> bool {
    let by_now = answering(model, &it.ask.identity, &it.permissions);
    let then = if it.answering.is_empty() { &it.concerned } else { &it.answering };
    by_now.iter().chain(then).chain([&it.identity_owner]).any(|owner| person.is_owner(owner))
}

/// Who answers for each of the resources; `None` where one of them is nobody's any more.
fn owners(model: &Model, permissions: &[Permission]) -> Option<BTreeSet<OwnerName>> {
    let of = |it: &Permission| model.resources.get(&it.resource).map(|kept| kept.value.spec.owner.clone());
    permissions.iter().map(of).collect()
}
