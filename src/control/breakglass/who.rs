//! Who is who in a break-glass: one person is one person, and whoever has an interest reviews nothing.

use std::collections::BTreeSet;

use super::super::approval::{self, MAX_NAMED};
use super::super::model::Model;
use super::super::plan::Refused;
use super::super::record::{Person, PersonRole};
use crate::domain::breakglass::BreakGlass;
use crate::domain::name::{IdentityName, OwnerName};
use crate::domain::role::Permission;

/// Whether two names are one person's: the same, or one speaks for the other, by way of others too.
pub(super) fn are_one(model: &Model, one: &OwnerName, other: &OwnerName) -> bool {
    one == other || model.groups_of(one).contains(other) || model.groups_of(other).contains(one)
}

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
    if are_one(model, &it.opener, name) {
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

/// Whom it concerns: who answers for what it opens and for whom it is, and who watches over all access.
pub(super) fn concerned(
    model: &Model,
    identity: &IdentityName,
    permissions: &[Permission],
    opener: &OwnerName,
) -> Vec<OwnerName> {
    let mut found = owners(model, permissions).unwrap_or_default();
    found.extend(identity_owner(model, identity).ok());
    let security = |person: &&Person| person.roles.contains(&PersonRole::Security);
    let people = model.people.values().map(|kept| kept.value.as_ref());
    found.extend(people.filter(security).map(|person| person.name.clone()));
    found.into_iter().filter(|name| name != opener).take(MAX_NAMED).collect()
}

/// Who answers for each of the resources; `None` where one of them is nobody's any more.
fn owners(model: &Model, permissions: &[Permission]) -> Option<BTreeSet<OwnerName>> {
    let of = |it: &Permission| model.resources.get(&it.resource).map(|kept| kept.value.spec.owner.clone());
    permissions.iter().map(of).collect()
}
