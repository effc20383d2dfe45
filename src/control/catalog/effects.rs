//! Who gains or loses what by a change of the catalog: what a dry run is asked for.
//!
//! Live grants are frozen, so what they open changes only with the credentials of their identity, with its state's document
//! being gone, and with routes; roles, owners and groups change what can be asked for and who decides. It looks at two
//! models and knows no documents.

use std::collections::{BTreeMap, BTreeSet};

use super::super::model::Model;
use super::super::record::{Change, Record};
use super::fit::expanded;
use crate::domain::identity::Authenticator;
use crate::domain::name::{OwnerName, ResourceName, RoleName};
use crate::domain::route::RouteSpec;

/// Effects that are told; the rest is counted.
const MAX_TOLD: usize = 500;

/// One effect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Effect {
    /// `identity billing`, `role orders-reader`, `person alice`.
    pub who: String,
    /// Whether they gain it; otherwise they lose it.
    pub gains: bool,
    /// What, in words.
    pub what: String,
}

/// What differs between two models for whom `changes` touch.
pub(super) fn effects(before: &Model, after: &Model, changes: &[Change]) -> Vec<Effect> {
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
                    spec.map(|spec| format!("to call route {} without a grant until {}", spec.route, spec.expires))
                        .into_iter()
                        .collect()
                };
                let words = |what: &String| format!("{what}, by exception {}", it.name);
                differ("every identity", &of(before), &of(after), words, &mut found);
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

fn differ(
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

fn owned(
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
fn roles(before: &Model, after: &Model, changes: &[Change], found: &mut BTreeSet<Effect>) {
    if !changes.iter().any(|change| matches!(change.record(), Record::Role(_))) {
        return;
    }
    let spelled = |model: &Model, role: &RoleName| -> BTreeSet<String> {
        let permissions = expanded(model, role).into_iter();
        permissions
            .flat_map(|it| it.actions.into_iter().map(move |action| format!("{action} on {}", it.resource)))
            .collect()
    };
    for name in after.roles.keys() {
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
                let methods: Vec<String> = action.methods.iter().map(|method| method.as_str().to_owned()).collect();
                let host = spec.host.as_ref().map(|host| format!(" of host {}", host.as_str())).unwrap_or_default();
                let credential = credential(&route.value.spec);
                let text = format!("{} {}{host} at {}{credential}", methods.join(","), action.path, spec.upstream);
                rules.entry(action.name.to_string()).or_default().insert(text);
            }
        }
        rules
    };
    let (old, new, none) = (rules(before), rules(after), BTreeSet::new());
    for kept in after.grants.values().filter(|kept| kept.value.resource == *resource) {
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

/// What the upstream gets in place of the caller's credential, where it is not the usual.
fn credential(spec: &RouteSpec) -> String {
    let json = serde_json::to_value(spec.credential).unwrap_or_default();
    match json.as_str() {
        Some("mint") => String::new(),
        Some(text) => format!(", credential {text}"),
        None => format!(", credential {json}"),
    }
}

fn members(before: &Model, after: &Model, found: &mut BTreeSet<Effect>) {
    let people: BTreeSet<&OwnerName> = after.people.keys().chain(after.entries.keys()).collect();
    for person in people {
        let of = |model: &Model| model.groups_of(person).iter().map(ToString::to_string).collect::<BTreeSet<String>>();
        let words = |group: &String| format!("a place in group {group}, and with it what the group owns and approves");
        differ(&format!("person {person}"), &of(before), &of(after), words, found);
    }
}
