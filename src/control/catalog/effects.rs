//! Who gains or loses what by a change of the catalog: what a dry run is asked for.
//!
//! Live grants are frozen, so what they open changes only with the credentials of their identity, with its state's document
//! being gone, and with routes; roles, owners and groups change what can be asked for and who decides. It looks at two
//! models and knows no documents.

use std::collections::{BTreeMap, BTreeSet};

use super::super::model::Model;
use super::super::record::{Change, Record};
use super::fit::expanded;
use super::widening;
use crate::domain::change::Effect;
use crate::domain::identity::Authenticator;
use crate::domain::name::{OwnerName, ResourceName, RoleName};
use crate::domain::route::{ActionRule, RouteSpec};

/// Effects that are told; the rest is counted.
const MAX_TOLD: usize = 500;

/// What differs between two models for whom `changes` touch.
///
/// `widenings` are told too, where nothing says the same with more.
pub(super) fn effects(before: &Model, after: &Model, changes: &[Change], widenings: BTreeSet<Effect>) -> Vec<Effect> {
    let mut found = BTreeSet::new();
    let mut routes: BTreeSet<&ResourceName> = BTreeSet::new();
    for record in changes.iter().map(Change::record) {
        match record {
            Record::Identity(it) => {
                let of = |model: &Model| -> BTreeSet<String> {
                    let spec = model.identities.get(&it.name).map(|kept| kept.value.spec.authenticate.clone());
                    spec.iter().flatten().map(Authenticator::principal).map(|principal| principal.to_string()).collect()
                };
                let live = after.grants_of.get(&it.name).map_or(0, imbl::OrdSet::len);
                let words = |principal: &String| format!("to be called by {principal}, with {live} live grants");
                differ(&format!("identity {}", it.name), &of(before), &of(after), words, &mut found);
                let (held, left) = (before.grants_of.get(&it.name), after.grants_of.get(&it.name));
                let ended = held.map_or(0, imbl::OrdSet::len).saturating_sub(left.map_or(0, imbl::OrdSet::len));
                if ended > 0 {
                    let what = format!("{ended} live grants, which end");
                    found.insert(Effect { who: format!("identity {}", it.name), gains: false, what });
                }
                owned(before, after, &format!("identity {}", it.name), &mut found, |model| {
                    model.identities.get(&it.name).map(|kept| kept.value.spec.owner.clone())
                });
            }
            Record::Resource(it) => owned(before, after, &format!("resource {}", it.name), &mut found, |model| {
                model.resources.get(&it.name).map(|kept| kept.value.spec.owner.clone())
            }),
            Record::Exception(it) => {
                let of = |model: &Model| -> BTreeSet<String> {
                    let spec = model.exceptions.get(&it.name).map(|kept| &kept.value.spec);
                    spec.into_iter().map(widening::excepted).collect()
                };
                let words = |what: &String| format!("{what}, by exception {}", it.name);
                let (who, ends_sooner) = widening::exception(before, after, &it.name);
                let after = if ends_sooner { BTreeSet::new() } else { of(after) };
                differ(&who, &of(before), &after, words, &mut found);
            }
            Record::Route(it) => {
                routes.insert(&it.spec.resource);
                routes.extend(before.routes.get(&it.name).map(|kept| &kept.value.spec.resource));
            }
            _ => {}
        }
    }
    roles(before, after, changes, &mut found);
    for resource in routes {
        opened(before, after, resource, &mut found);
    }
    if changes.iter().any(|change| matches!(change.record(), Record::Group(_))) {
        members(before, after, &mut found);
    }
    for widening in widenings {
        let is_told = found.iter().any(|it| it.gains && it.who == widening.who && it.what.starts_with(&widening.what));
        if !is_told {
            found.insert(widening);
        }
    }
    let left = found.len().saturating_sub(MAX_TOLD);
    let mut told: Vec<Effect> = found.into_iter().take(MAX_TOLD).collect();
    if left > 0 {
        told.push(Effect {
            who: "others".to_owned(),
            gains: true,
            what: format!("or lose {left} more that are not listed"),
        });
    }
    told
}

pub(super) fn differ(
    who: &str,
    before: &BTreeSet<String>,
    after: &BTreeSet<String>,
    words: impl Fn(&String) -> String,
    found: &mut BTreeSet<Effect>,
) {
    for (side, other, gains) in [(after, before, true), (before, after, false)] {
        let only = side.difference(other);
        found.extend(only.map(|what| Effect { who: who.to_owned(), gains, what: words(what) }));
    }
}

pub(super) fn owned(
    before: &Model,
    after: &Model,
    what: &str,
    found: &mut BTreeSet<Effect>,
    owner: impl Fn(&Model) -> Option<OwnerName>,
) {
    let (old, new) = (owner(before), owner(after));
    if old == new {
        return;
    }
    for (owner, gains) in [(new, true), (old, false)] {
        found.extend(owner.map(|owner| Effect {
            who: format!("owner {owner}"),
            gains,
            what: format!("the say about {what}"),
        }));
    }
}

/// Roles whose expansion differs, by way of others too.
pub(super) fn roles(before: &Model, after: &Model, changes: &[Change], found: &mut BTreeSet<Effect>) {
    if !changes.iter().any(|change| matches!(change.record(), Record::Role(_))) {
        return;
    }
    let spelled = |model: &Model, role: &RoleName| -> BTreeSet<String> {
        let permissions = expanded(model, role).into_iter();
        permissions
            .flat_map(|it| it.actions.into_iter().map(move |action| format!("{action} on {}", it.resource)))
            .collect()
    };
    let names: BTreeSet<&RoleName> = before.roles.keys().chain(after.roles.keys()).collect();
    for name in names {
        let words = |what: &String| format!("{what}, for grants from now on: live ones stay as they are");
        differ(&format!("role {name}"), &spelled(before, name), &spelled(after, name), words, found);
    }
}

/// What live grants on a resource open, when its routes change.
fn opened(before: &Model, after: &Model, resource: &ResourceName, found: &mut BTreeSet<Effect>) {
    let rules = |model: &Model| -> BTreeMap<String, BTreeSet<String>> {
        let mut rules: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for route in model.routes.values().filter(|kept| kept.value.spec.resource == *resource) {
            let spec = &route.value.spec;
            for action in &spec.actions {
                rules.entry(action.name.to_string()).or_default().insert(spelled(spec, action));
            }
        }
        rules
    };
    let (old, new, none) = (rules(before), rules(after), BTreeSet::new());
    let on_it = after.grants_by_resource.get(resource).into_iter().flatten();
    for kept in on_it.filter_map(|id| after.grants.get(id)) {
        let grant = &kept.value;
        for action in &grant.actions {
            let of = |rules: &BTreeMap<String, BTreeSet<String>>| {
                rules.get(action.as_str()).cloned().unwrap_or_else(|| none.clone())
            };
            let words = |what: &String| format!("{what}, as {action} on {resource} under grant {}", grant.id);
            differ(&format!("identity {}", grant.identity), &of(&old), &of(&new), words, found);
        }
    }
}

/// A rule of a route in words.
pub(super) fn spelled(spec: &RouteSpec, action: &ActionRule) -> String {
    let methods: Vec<String> = action.methods.iter().map(|method| method.as_str().to_owned()).collect();
    let host = spec.host.as_ref().map(|host| format!(" of host {}", host.as_str())).unwrap_or_default();
    let credential = credential(spec);
    format!("{} {}{host} at {}{credential}", methods.join(","), action.path, spec.upstream)
}

/// What the upstream gets in place of the caller's credential, where it is not the usual.
fn credential(spec: &RouteSpec) -> String {
    let json = serde_json::to_value(spec.credential).unwrap_or_default();
    match json.as_str() {
        Some("mint") => String::new(),
        Some(text) => format!(", credential {text}"),
        None => format!(", credential {json}"),
    }
}

pub(super) fn members(before: &Model, after: &Model, found: &mut BTreeSet<Effect>) {
    let people: BTreeSet<&OwnerName> =
        after.people.keys().chain(before.entries.keys()).chain(after.entries.keys()).collect();
    for person in people {
        let of = |model: &Model| model.groups_of(person).iter().map(ToString::to_string).collect::<BTreeSet<String>>();
        let words = |group: &String| format!("a place in group {group}, and with it what the group owns and approves");
        differ(&format!("person {person}"), &of(before), &of(after), words, found);
    }
}
