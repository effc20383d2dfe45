//! Whether the objects of a catalog fit together. Everything that does not, at once.

mod exceptions;
mod people;
mod roles;
mod tickets;

use std::collections::{BTreeSet, HashMap};

use super::super::model::Model;
use super::super::record::{Change, Record};
use crate::decision::routes::RouteTable;
use crate::domain::Timestamp;
use crate::domain::identity::{Authenticator, Identity};
use crate::domain::name::{ActionName, IdentityName, ResourceName};
use crate::domain::principal::Principal;
use crate::domain::resource::{MAX_AUTHORITY, MIN_AUTHORITY, Resource};
use crate::domain::role::Role;

/// Credentials that one identity may have.
const MAX_CREDENTIALS: usize = 32;
/// Resources that one role may name: each makes one grant.
const MAX_PERMISSIONS: usize = 100;
/// Longest text of a document that people read.
const MAX_TEXT_CHARS: usize = 1000;
/// Longest issuer or subject: what a token of 8 KiB can sensibly carry.
const MAX_CLAIM_BYTES: usize = 512;

/// What is wrong with `catalog`, of which `changes` are new.
pub(super) fn faults(catalog: &Model, changes: &[Change], now: Timestamp) -> Vec<String> {
    let mut faults = Vec::new();
    for record in put(changes) {
        match record {
            Record::Identity(it) => identity(it, &mut faults),
            Record::Resource(it) => resource(it, &mut faults),
            Record::Exception(it) => exceptions::shape(catalog, it, now, &mut faults),
            Record::Role(it) => role_shape(it, &mut faults),
            Record::Entry(it) => people::entry(it, &mut faults),
            Record::Group(it) => people::group(it, &mut faults),
            Record::TicketSource(it) => tickets::source(it, &mut faults),
            Record::Route(_)
            | Record::Meta(_)
            | Record::Grant(_)
            | Record::Ledger(_)
            | Record::Person(_)
            | Record::Gateway(_)
            | Record::Log(_)
            | Record::Halt(_)
            | Record::Trust(_)
            | Record::Token(_)
            | Record::Policy(_)
            | Record::Request(_)
            | Record::Proposal(_)
            | Record::Delegation(_)
            | Record::BreakGlass(_)
            | Record::Ticket(_) => {}
        }
    }
    credentials(catalog, &mut faults);
    references(catalog, &mut faults);
    roles::cycles(catalog, &mut faults);
    people::fit(catalog, changes, &mut faults);
    if put(changes).any(|record| matches!(record, Record::TicketSource(_))) {
        tickets::secrets(catalog.ticket_sources.values().map(|kept| kept.value.as_ref()), &mut faults);
    }
    if let Err(routes) = RouteTable::check(catalog.routes.values().map(|k| k.value.as_ref().clone())) {
        faults.extend(routes.iter().map(ToString::to_string));
    }
    faults
}

/// What changes put: what they remove need not be right.
fn put(changes: &[Change]) -> impl Iterator<Item = &Record> {
    changes.iter().filter_map(|change| match change {
        Change::Put(record) => Some(record),
        Change::Delete(_) => None,
    })
}

fn identity(identity: &Identity, faults: &mut Vec<String>) {
    let mut fault = |text: String| faults.push(format!("Identity {}: {text}", identity.name));
    text("purpose", &identity.spec.purpose, &mut fault);
    text("environment", &identity.spec.environment, &mut fault);
    if identity.spec.authenticate.len() > MAX_CREDENTIALS {
        fault(format!("authenticate: at most {MAX_CREDENTIALS} credentials"));
    }
    for credential in &identity.spec.authenticate {
        match credential {
            Authenticator::Spiffe { spiffe } => {
                // Gateways are authenticated by such names; a workload must never pass for one.
                let path = spiffe.as_str().splitn(4, '/').nth(3).unwrap_or_default();
                if path.starts_with("gateway/") {
                    fault(format!("authenticate: {spiffe}: paths under /gateway/ are the gateways' own"));
                }
            }
            Authenticator::Token { issuer, subject } => {
                let bad = |claim: &str| {
                    claim.is_empty() || claim.len() > MAX_CLAIM_BYTES || claim.chars().any(char::is_control)
                };
                if bad(issuer) || bad(subject) {
                    fault(format!("authenticate: issuer and subject are 1 to {MAX_CLAIM_BYTES} printable bytes"));
                }
            }
        }
    }
}

fn text(field: &str, text: &str, fault: &mut impl FnMut(String)) {
    if text.trim().is_empty() || text.chars().count() > MAX_TEXT_CHARS || text.chars().any(char::is_control) {
        fault(format!("{field}: 1 to {MAX_TEXT_CHARS} printable characters"));
    }
}

fn resource(resource: &Resource, faults: &mut Vec<String>) {
    let authority = resource.spec.authority;
    if !(MIN_AUTHORITY..=MAX_AUTHORITY).contains(&authority) {
        let name = &resource.name;
        faults.push(format!(
            "Resource {name}: authority: {authority} is not between {MIN_AUTHORITY} and {MAX_AUTHORITY}"
        ));
    }
}

fn role_shape(role: &Role, faults: &mut Vec<String>) {
    let mut fault = |text: String| faults.push(format!("Role {}: {text}", role.name));
    let permissions = &role.spec.permissions;
    if permissions.is_empty() && role.spec.parents.is_empty() || permissions.len() > MAX_PERMISSIONS {
        fault(format!("permissions: 1 to {MAX_PERMISSIONS} of them, or parents"));
    }
    let mut seen = BTreeSet::new();
    for permission in permissions {
        if !seen.insert(&permission.resource) {
            fault(format!("permissions: {} stands twice", permission.resource));
        }
        if permission.actions.is_empty() {
            fault(format!("permissions: {}: no actions", permission.resource));
        }
    }
}

/// One credential belongs to one identity: otherwise a call could be two callers'.
fn credentials(catalog: &Model, faults: &mut Vec<String>) {
    let mut owners: HashMap<Principal, &IdentityName> = HashMap::new();
    for kept in catalog.identities.values() {
        for credential in &kept.value.spec.authenticate {
            let principal = credential.principal();
            let shown = principal.to_string();
            if let Some(other) = owners.insert(principal, &kept.value.name) {
                let name = &kept.value.name;
                faults.push(if other == name {
                    format!("Identity {name}: authenticate: {shown} stands twice")
                } else {
                    format!("Identity {name}: authenticate: {shown} belongs to {other} already")
                });
            }
        }
    }
}

/// What routes, roles and exceptions name is there.
fn references(catalog: &Model, faults: &mut Vec<String>) {
    for kept in catalog.routes.values() {
        let (name, resource) = (&kept.value.name, &kept.value.spec.resource);
        if !catalog.resources.contains_key(resource) {
            faults.push(format!("Route {name}: resource: there is no {resource}"));
        }
    }
    for kept in catalog.exceptions.values() {
        let name = &kept.value.name;
        if let Some(route) = kept.value.spec.route.as_ref().filter(|route| !catalog.routes.contains_key(*route)) {
            faults.push(format!("Exception {name}: route: there is no {route}"));
        }
        let identity = kept.value.spec.identity.as_ref();
        if let Some(identity) = identity.filter(|identity| !catalog.identities.contains_key(*identity)) {
            faults.push(format!("Exception {name}: identity: there is no {identity}"));
        }
    }
    for kept in catalog.roles.values() {
        let name = &kept.value.name;
        for parent in kept.value.spec.parents.iter().filter(|parent| !catalog.roles.contains_key(*parent)) {
            faults.push(format!("Role {name}: parents: there is no role {parent}"));
        }
        for permission in &kept.value.spec.permissions {
            let resource = &permission.resource;
            if !catalog.resources.contains_key(resource) {
                faults.push(format!("Role {name}: permissions: there is no resource {resource}"));
                continue;
            }
            let known = actions_of(catalog, resource);
            for action in permission.actions.iter().filter(|action| !known.contains(*action)) {
                faults.push(format!("Role {name}: permissions: no route of {resource} has an action {action}"));
            }
        }
    }
}

pub(in super::super) use roles::{ancestors, expanded};

/// Every action that some route of `resource` has.
pub(in super::super) fn actions_of(catalog: &Model, resource: &ResourceName) -> BTreeSet<ActionName> {
    let routes = catalog.routes.values().filter(|k| k.value.spec.resource == *resource);
    routes.flat_map(|k| k.value.spec.actions.iter().map(|a| a.name.clone())).collect()
}
