//! People, groups and what they own.
//!
//! As long as no document describes people, owners are names. From the first one on everything that is put must be owned
//! by somebody whom the catalog knows: a person, or a group.

use std::collections::BTreeSet;

use super::super::super::model::Model;
use super::super::super::record::{Change, Record};
use super::super::super::registry::is_reserved;
use super::{MAX_TEXT_CHARS, put};
use crate::domain::directory::{Group, PersonEntry};
use crate::domain::name::OwnerName;

/// Members and groups that one group may name.
const MAX_MEMBERS: usize = 1_000;

pub(super) fn entry(entry: &PersonEntry, faults: &mut Vec<String>) {
    reserved("Person", &entry.name, faults);
    for (field, text) in [("full_name", &entry.spec.full_name), ("email", &entry.spec.email)] {
        if text.as_ref().is_some_and(|text| is_bad(text)) {
            faults.push(format!("Person {}: {field}: 1 to {MAX_TEXT_CHARS} printable characters", entry.name));
        }
    }
}

pub(super) fn group(group: &Group, faults: &mut Vec<String>) {
    let (name, spec) = (&group.name, &group.spec);
    reserved("Group", name, faults);
    if spec.description.as_ref().is_some_and(|text| is_bad(text)) {
        faults.push(format!("Group {name}: description: 1 to {MAX_TEXT_CHARS} printable characters"));
    }
    for (field, names) in [("members", &spec.members), ("groups", &spec.groups)] {
        if names.len() > MAX_MEMBERS {
            faults.push(format!("Group {name}: {field}: at most {MAX_MEMBERS}"));
        }
        let mut seen = BTreeSet::new();
        for twice in names.iter().filter(|name| !seen.insert(*name)) {
            faults.push(format!("Group {name}: {field}: {twice} stands twice"));
        }
    }
}

fn reserved(kind: &str, name: &OwnerName, faults: &mut Vec<String>) {
    if is_reserved(name.as_str()) {
        faults.push(format!("{kind} {name}: name: is the control plane's, a gateway's or an identity's"));
    }
}

fn is_bad(text: &str) -> bool {
    text.trim().is_empty() || text.chars().count() > MAX_TEXT_CHARS || text.chars().any(char::is_control)
}

/// Whether every group's members are there, no group is in itself, and what `changes` put has an owner.
pub(super) fn fit(catalog: &Model, changes: &[Change], faults: &mut Vec<String>) {
    let is_person = |name: &OwnerName| catalog.entries.contains_key(name) || catalog.people.contains_key(name);
    for kept in catalog.groups.values() {
        let (name, spec) = (&kept.value.name, &kept.value.spec);
        if is_person(name) {
            faults.push(format!("Group {name}: name: a person has it"));
        }
        for member in spec.members.iter().filter(|member| !is_person(member)) {
            faults.push(format!("Group {name}: members: there is no person {member}"));
        }
        for inner in spec.groups.iter().filter(|inner| !catalog.groups.contains_key(*inner)) {
            faults.push(format!("Group {name}: groups: there is no group {inner}"));
        }
        if let Some(inner) = spec.groups.iter().find(|inner| catalog.within(inner).contains(name)) {
            faults.push(format!("Group {name}: groups: {inner} has {name} itself in it"));
        }
    }
    still_owns(catalog, changes, faults);
    if catalog.entries.is_empty() && catalog.groups.is_empty() {
        return;
    }
    for record in put(changes) {
        let (kind, name, owner) = match record {
            Record::Identity(it) => ("Identity", it.name.as_str(), &it.spec.owner),
            Record::Resource(it) => ("Resource", it.name.as_str(), &it.spec.owner),
            Record::Exception(it) => ("Exception", it.name.as_str(), &it.spec.owner),
            Record::TicketSource(it) => ("TicketSource", it.name.as_str(), &it.spec.owner),
            _ => continue,
        };
        if !is_person(owner) && !catalog.groups.contains_key(owner) {
            faults.push(format!("{kind} {name}: owner: nobody is {owner}: no person and no group has that name"));
        }
    }
}

/// Nobody is removed who owns something: it would be whoever's has the name next.
fn still_owns(catalog: &Model, changes: &[Change], faults: &mut Vec<String>) {
    for change in changes {
        let (kind, name) = match change {
            Change::Delete(Record::Group(it)) => ("Group", &it.name),
            Change::Delete(Record::Entry(it)) if !catalog.people.contains_key(&it.name) => ("Person", &it.name),
            Change::Delete(_) | Change::Put(_) => continue,
        };
        let identity = catalog.identities.values().find(|kept| kept.value.spec.owner == *name);
        let resource = catalog.resources.values().find(|kept| kept.value.spec.owner == *name);
        let what = identity.map(|kept| format!("identity {}", kept.value.name));
        if let Some(what) = what.or_else(|| resource.map(|kept| format!("resource {}", kept.value.name))) {
            faults.push(format!("{kind} {name}: cannot be removed: it owns {what}"));
        }
    }
}
