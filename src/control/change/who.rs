//! Whose word a change takes: administrators and those who watch over all access, and whoever answers for all that it
//! touches. Never its author, whatever they are besides and under whatever name.

mod interest;

use std::collections::BTreeSet;

use interest::Interest;

use super::super::approval::{self, MAX_NAMED};
use super::super::catalog::expanded;
use super::super::model::Model;
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
    may_decide(model, proposal, &Interest::of(model, proposal), owners(model, proposal).as_ref(), name)
}

/// Who has an interest in it, as it is now.
pub(super) fn interested(model: &Model, proposal: &Proposal) -> Vec<OwnerName> {
    Interest::of(model, proposal).accounts(model)
}

/// The first ones of them by name.
pub(super) fn eligible(model: &Model, proposal: &Proposal) -> Vec<OwnerName> {
    let (interest, owners) = (Interest::of(model, proposal), owners(model, proposal));
    let may = |name: &&OwnerName| may_decide(model, proposal, &interest, owners.as_ref(), name);
    model.people.keys().filter(may).take(MAX_NAMED).cloned().collect()
}

fn may_decide(
    model: &Model,
    proposal: &Proposal,
    interest: &Interest,
    owners: Option<&BTreeSet<OwnerName>>,
    name: &OwnerName,
) -> bool {
    // INVARIANT: nobody approves their own change, under whatever name.
    if interest.is_of(name) || model.are_one(name, &proposal.author) {
        return false;
    }
    let Some(kept) = model.people.get(name) else { return false };
    if watches(&kept.value) {
        return true;
    }
    let Some(owners) = owners else { return false };
    let actor = approval::actor(model, &kept.value);
    owners.iter().all(|owner| actor.is_owner(owner))
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
