//! Roles that include roles: what one gives in all, and that none includes itself.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::model::Model;
use crate::domain::name::{ActionName, ResourceName, RoleName};
use crate::domain::role::Permission;

/// The role and every one that it includes, by way of others too.
pub(in super::super::super) fn ancestors(catalog: &Model, role: &RoleName) -> BTreeSet<RoleName> {
    let mut found = BTreeSet::new();
    let mut looking = vec![role.clone()];
    while let Some(name) = looking.pop() {
        if let Some(kept) = catalog.roles.get(&name)
            && found.insert(name)
        {
            looking.extend(kept.value.spec.parents.iter().cloned());
        }
    }
    found
}

/// All that a role gives: its own permissions and those of every role that it includes, one per resource.
pub(in super::super::super) fn expanded(catalog: &Model, role: &RoleName) -> Vec<Permission> {
    let mut given: BTreeMap<ResourceName, BTreeSet<ActionName>> = BTreeMap::new();
    for name in ancestors(catalog, role) {
        for permission in catalog.roles.get(&name).into_iter().flat_map(|kept| &kept.value.spec.permissions) {
            given.entry(permission.resource.clone()).or_default().extend(permission.actions.iter().cloned());
        }
    }
    given
        .into_iter()
        .map(|(resource, actions)| Permission { resource, actions: actions.into_iter().collect() })
        .collect()
}

pub(super) fn cycles(catalog: &Model, faults: &mut Vec<String>) {
    for kept in catalog.roles.values() {
        let (name, parents) = (&kept.value.name, &kept.value.spec.parents);
        if let Some(parent) = parents.iter().find(|parent| ancestors(catalog, parent).contains(name)) {
            faults.push(format!("Role {name}: parents: {parent} includes {name} itself"));
        }
        let resources = expanded(catalog, name).len();
        if resources > super::MAX_PERMISSIONS {
            let most = super::MAX_PERMISSIONS;
            faults
                .push(format!("Role {name}: parents: {resources} resources with those of its parents; at most {most}"));
        }
    }
}
