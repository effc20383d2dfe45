//! Whose word a change takes: administrators and those who watch over all access, and whoever answers for all that it
//! touches. Never its author, whatever they are besides.

use std::collections::BTreeSet;

use super::super::approval::{self, MAX_NAMED};
use super::super::catalog::expanded;
use super::super::model::Model;
use super::super::policy::Actor;
use super::super::record::{Person, PersonRole};
use crate::domain::change::{Proposal, Proposed, Touched};
use crate::domain::name::{IdentityName, OwnerName, ResourceName, RoleName, RouteName};

/// People who may decide about every change.
const WATCH: [PersonRole; 2] = [PersonRole::Administrator, PersonRole::Security];

/// Whether somebody watches over all changes.
pub(super) fn watches(person: &Person) -> bool {
    WATCH.iter().any(|role| person.roles.contains(role))
}

/// Whether somebody's word makes a change true.
pub(super) fn may_approve(model: &Model, proposal: &Proposal, name: &OwnerName) -> bool {
    // INVARIANT: nobody approves their own change.
    if *name == proposal.author {
        return false;
    }
    let Some(kept) = model.people.get(name) else { return false };
    if has_interest(model, proposal, &approval::actor(model, &kept.value)) {
        return false;
    }
    if watches(&kept.value) {
        return true;
    }
    let actor = approval::actor(model, &kept.value);
    owners(model, proposal).is_some_and(|owners| owners.iter().all(|owner| actor.is_owner(owner)))
}

/// Whoever answers for an exception, or for the identity that it is for, does not allow it, nor put off its end.
fn has_interest(model: &Model, proposal: &Proposal, actor: &Actor) -> bool {
    let exceptions = proposal.objects.iter().filter(|it| it.kind == "Exception");
    let sides = exceptions.flat_map(|it| [&it.before, &it.after]).flatten();
    let of = |side: &serde_json::Value, field: &str| side.get(field).and_then(|it| it.as_str()).map(str::to_owned);
    sides.into_iter().any(|side| {
        let owner: Option<OwnerName> = of(side, "owner").and_then(|name| name.parse().ok());
        let identity = of(side, "identity").and_then(|name| model.identities.get(&name.parse::<IdentityName>().ok()?));
        owner.is_some_and(|owner| actor.is_owner(&owner))
            || identity.is_some_and(|kept| actor.is_owner(&kept.value.spec.owner))
    })
}

/// The first ones of them by name.
pub(super) fn eligible(model: &Model, proposal: &Proposal) -> Vec<OwnerName> {
    model.people.keys().filter(|name| may_approve(model, proposal, name)).take(MAX_NAMED).cloned().collect()
}

/// Who answers for all that a change touches, as it is now; `None` where something of it is nobody's.
fn owners(model: &Model, proposal: &Proposal) -> Option<BTreeSet<OwnerName>> {
    let Proposed::Catalog { .. } = &proposal.proposed else { return None };
    let mut owners = BTreeSet::new();
    for touched in &proposal.objects {
        owners.extend(owners_of(model, touched)?);
    }
    if owners.is_empty() { None } else { Some(owners) }
}

fn owners_of(model: &Model, touched: &Touched) -> Option<BTreeSet<OwnerName>> {
    let resource = |name: &str| {
        let name: ResourceName = name.parse().ok()?;
        model.resources.get(&name).map(|kept| kept.value.spec.owner.clone())
    };
    let said = |pointer: &str| {
        let sides = [&touched.before, &touched.after].into_iter().flatten();
        sides.map(|side| side.pointer(pointer)?.as_str()).collect::<Option<Vec<_>>>()
    };
    match touched.kind.as_str() {
        "Identity" => {
            let kept = model.identities.get(&touched.name.parse::<IdentityName>().ok()?)?;
            Some(BTreeSet::from([kept.value.spec.owner.clone()]))
        }
        "Resource" => Some(BTreeSet::from([resource(&touched.name)?])),
        "Route" => said("/resource")?.into_iter().map(resource).collect(),
        "Role" => role(model, touched),
        "Exception" => {
            let of = |name: &str| {
                let route = model.routes.get(&name.parse::<RouteName>().ok()?)?;
                resource(route.value.spec.resource.as_str())
            };
            said("/route")?.into_iter().map(of).collect()
        }
        // People and groups are nobody's.
        _ => None,
    }
}

/// Of a role whoever owns each resource that it gave, or would give. One that would include others is for those who watch.
fn role(model: &Model, touched: &Touched) -> Option<BTreeSet<OwnerName>> {
    let name: RoleName = touched.name.parse().ok()?;
    let mut resources: BTreeSet<_> = expanded(model, &name).into_iter().map(|it| it.resource).collect();
    if let Some(after) = &touched.after {
        let spec: crate::domain::role::RoleSpec = serde_json::from_value(after.clone()).ok()?;
        for parent in &spec.parents {
            resources.extend(expanded(model, parent).into_iter().map(|it| it.resource));
        }
        resources.extend(spec.permissions.into_iter().map(|it| it.resource));
    }
    resources.iter().map(|name| model.resources.get(name).map(|kept| kept.value.spec.owner.clone())).collect()
}
