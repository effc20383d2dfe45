//! Whether a change of the catalog widens access: what somebody gains by it, whatever is live at the moment.
//!
//! It errs on one side alone. What a rule of the policy may look at counts as gained when it differs, and so does every
//! other route: a rule that is gone may leave its calls to a wider one. What is known to narrow, or to change nothing for
//! anybody, is said here and nowhere else.

use std::collections::BTreeSet;

use super::super::model::Model;
use super::super::record::{Change, Record};
use super::ancestors;
use super::effects::{differ, members, owned, roles, spelled};
use crate::domain::change::Effect;
use crate::domain::directory::PersonEntry;
use crate::domain::exception::{ExceptionRule, ExceptionSpec};
use crate::domain::identity::{Authenticator, Identity, IdentitySpec};
use crate::domain::name::{ExceptionName, OwnerName};
use crate::domain::resource::{Resource, ResourceSpec};
use crate::domain::route::Route;

/// What somebody gains.
pub(super) fn widenings(before: &Model, after: &Model, changes: &[Change]) -> BTreeSet<Effect> {
    let mut found = BTreeSet::new();
    for record in changes.iter().map(Change::record) {
        match record {
            Record::Identity(it) => identity(before, after, it, &mut found),
            Record::Resource(it) => resource(before, after, it, &mut found),
            Record::Route(it) => route(before, after, it, &mut found),
            Record::Entry(it) => person(before, after, it, &mut found),
            Record::Exception(it) => {
                let spec = after.exceptions.get(&it.name).map(|kept| &kept.value.spec);
                let (who, ends_sooner) = exception(before, after, &it.name);
                if let Some(spec) = spec.filter(|_| !ends_sooner) {
                    gained(who, excepted(spec), &mut found);
                }
            }
            // Whoever says when tickets close says when grants end; and a source is shown the token that it is read with.
            Record::TicketSource(it) => {
                let is_there = |model: &Model| model.ticket_sources.contains_key(&it.name);
                let word = match (is_there(before), is_there(after)) {
                    (true, true) => "another word",
                    (true, false) => "nobody's word",
                    (false, _) => "a word",
                };
                let what = format!("{word} for when tickets of {} close", it.name);
                gained("whoever holds a grant until then", what, &mut found);
            }
            Record::Role(_)
            | Record::Group(_)
            | Record::Ticket(_)
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
            | Record::BreakGlass(_) => {}
        }
    }
    roles(before, after, changes, &mut found);
    if changes.iter().any(|change| matches!(change.record(), Record::Role(_))) {
        includes(before, after, &mut found);
    }
    if changes.iter().any(|change| matches!(change.record(), Record::Group(_))) {
        members(before, after, &mut found);
        released(before, after, &mut found);
    }
    found.retain(|effect| effect.gains);
    found
}

fn gained(who: impl Into<String>, what: impl Into<String>, found: &mut BTreeSet<Effect>) {
    found.insert(Effect { who: who.into(), gains: true, what: what.into() });
}

/// Who has leave by an exception, and whether it only ends sooner than it did.
pub(super) fn exception(before: &Model, after: &Model, name: &ExceptionName) -> (String, bool) {
    let of = |model: &'_ Model| model.exceptions.get(name).map(|kept| kept.value.spec.clone());
    let (old, new) = (of(before), of(after));
    let either = new.as_ref().or(old.as_ref());
    let who = match either.map(|spec| (spec.rule, &spec.identity)) {
        Some((ExceptionRule::SeparationOfDuties, Some(identity))) => format!("identity {identity}"),
        Some((ExceptionRule::NoGrantsByHand, _)) => "every administrator".to_owned(),
        Some((ExceptionRule::Observe | ExceptionRule::SeparationOfDuties, _)) | None => "every identity".to_owned(),
    };
    let ends_sooner = match (old, new) {
        (Some(old), Some(new)) => {
            let of = |spec: &ExceptionSpec| {
                (spec.rule, spec.route.clone(), spec.identity.clone(), spec.policy_rule.clone(), spec.owner.clone())
            };
            new.expires <= old.expires && of(&new) == of(&old)
        }
        _ => false,
    };
    (who, ends_sooner)
}

/// What an exception lets be done.
pub(super) fn excepted(spec: &ExceptionSpec) -> String {
    match (spec.rule, &spec.route) {
        (ExceptionRule::Observe, Some(route)) => {
            format!("to call route {route} without a grant until {}", spec.expires)
        }
        (ExceptionRule::Observe, None) => format!("nothing until {}", spec.expires),
        (ExceptionRule::SeparationOfDuties, _) => {
            let rule = spec.policy_rule.as_deref().unwrap_or_default();
            format!("leave from rule {rule} of the policy until {}", spec.expires)
        }
        (ExceptionRule::NoGrantsByHand, _) => format!("to make grants by hand until {}", spec.expires),
    }
}

fn identity(before: &Model, after: &Model, it: &Identity, found: &mut BTreeSet<Effect>) {
    let spec =
        |model: &Model| -> Option<IdentitySpec> { model.identities.get(&it.name).map(|kept| kept.value.spec.clone()) };
    let who = format!("identity {}", it.name);
    let (old, new) = (spec(before), spec(after));
    owned(before, after, &who, found, |model| model.identities.get(&it.name).map(|kept| kept.value.spec.owner.clone()));
    let Some(new) = new else { return };
    let credentials = |spec: &IdentitySpec| -> BTreeSet<String> {
        spec.authenticate.iter().map(Authenticator::principal).map(|principal| principal.to_string()).collect()
    };
    let none = BTreeSet::new();
    let words = |principal: &String| format!("to be called by {principal}");
    differ(&who, &old.as_ref().map_or(none, credentials), &credentials(&new), words, found);
    let can = |spec: &IdentitySpec| -> BTreeSet<String> {
        spec.capabilities
            .iter()
            .map(|it| format!("to {} at the control plane, whoever it is about", it.as_str()))
            .collect()
    };
    differ(&who, &old.as_ref().map(can).unwrap_or_default(), &can(&new), String::clone, found);
    let Some(old) = old else {
        gained(who, "a place in the inventory: it may be asked for from now on", found);
        return;
    };
    if old.kind != new.kind {
        gained(who.clone(), "what policy says of another kind", found);
    }
    if old.environment != new.environment {
        gained(who.clone(), format!("what policy says of environment {}", new.environment), found);
    }
    if old.purpose != new.purpose && policy_says(before, "purpose") {
        gained(who, "what policy says of another purpose", found);
    }
}

fn resource(before: &Model, after: &Model, it: &Resource, found: &mut BTreeSet<Effect>) {
    let spec =
        |model: &Model| -> Option<ResourceSpec> { model.resources.get(&it.name).map(|kept| kept.value.spec.clone()) };
    owned(before, after, &format!("resource {}", it.name), found, |model| spec(model).map(|spec| spec.owner));
    let (Some(old), Some(new)) = (spec(before), spec(after)) else { return };
    let who = format!("grants on {}", it.name);
    if new.sensitivity < old.sensitivity {
        gained(who.clone(), "what policy says of a resource that is less sensitive", found);
    }
    if new.sensitivity > old.sensitivity && policy_says(before, "sensitivity") {
        gained(who.clone(), "what policy says of a resource that is more sensitive", found);
    }
    if new.authority > old.authority {
        gained(who, format!("{} without the control plane, in place of {}", new.authority, old.authority), found);
    }
}

fn route(before: &Model, after: &Model, it: &Route, found: &mut BTreeSet<Effect>) {
    let of = |model: &Model| model.routes.get(&it.name).map(|kept| kept.value.spec.clone());
    let (old, new) = (of(before), of(after));
    for spec in new.iter() {
        let rules = |spec: &crate::domain::route::RouteSpec| -> BTreeSet<String> {
            spec.actions.iter().map(|action| format!("{}, as {}", spelled(spec, action), action.name)).collect()
        };
        let same = old.as_ref().filter(|old| old.resource == spec.resource).map(rules).unwrap_or_default();
        let who = format!("grants on {}", spec.resource);
        rules(spec).difference(&same).for_each(|rule| gained(who.clone(), rule.clone(), found));
    }
    let Some(old) = old else { return };
    let who = format!("grants on {}", old.resource);
    let json = |spec: &crate::domain::route::RouteSpec| serde_json::to_value(spec).unwrap_or_default();
    let (was, is) = (json(&old), new.as_ref().map(json).unwrap_or_default());
    if was.get("actions") != is.get("actions") {
        gained(who.clone(), format!("whatever other rules say of what route {} said before", it.name), found);
    }
    let fields = was.as_object().into_iter().flatten().chain(is.as_object().into_iter().flatten());
    let other: BTreeSet<&String> =
        fields.map(|(field, _)| field).filter(|field| was.get(*field) != is.get(*field)).collect();
    for field in other.into_iter().filter(|field| new.is_some() && *field != "actions") {
        gained(who.clone(), format!("another `{field}` of route {}", it.name), found);
    }
}

/// Which roles a role includes, by way of others too, is what rules of the policy permit, forbid and ask approvals by.
fn includes(before: &Model, after: &Model, found: &mut BTreeSet<Effect>) {
    if !policy_says(before, "Role::") && !policy_says(before, "roles") {
        return;
    }
    for name in before.roles.keys().filter(|name| after.roles.contains_key(*name)) {
        let (was, is) = (ancestors(before, name), ancestors(after, name));
        for other in was.symmetric_difference(&is) {
            let what = if is.contains(other) { "includes" } else { "does not include" };
            gained(format!("role {name}"), format!("what policy says of a role that {what} {other}"), found);
        }
    }
}

/// Where somebody is reached may be how they are known, and a document all that they need to be let in.
fn person(before: &Model, after: &Model, it: &PersonEntry, found: &mut BTreeSet<Effect>) {
    let is_new = !before.entries.contains_key(&it.name) && after.entries.contains_key(&it.name);
    if is_new && !before.people.contains_key(&it.name) {
        gained(format!("person {}", it.name), "to sign in, where settings let people with a document in", found);
    }
    let of = |model: &Model| model.entries.get(&it.name).and_then(|kept| kept.value.spec.email.clone());
    if let Some(email) = of(after).filter(|email| of(before).as_ref() != Some(email)) {
        gained(format!("person {}", it.name), format!("to be reached at {email}"), found);
    }
}

/// Whoever is in a group no more may be free of what policy forbids to it or wants approved, of what it says of whoever
/// owns what the group owns, and of being one with its others. And of an interest: who answers for an exception, or for the
/// identity that it is for, has no say about it.
fn released(before: &Model, after: &Model, found: &mut BTreeSet<Effect>) {
    let owns_identity = |group: &OwnerName| before.identities.values().any(|kept| kept.value.spec.owner == *group);
    let owns_resource = |group: &OwnerName| before.resources.values().any(|kept| kept.value.spec.owner == *group);
    let by_any = policy_says(before, "Group::") || policy_says(before, "together");
    let [by_identity, by_resource] = ["owns_identity", "owns_resource"].map(|word| policy_says(before, word));
    // Also a rule that permits can ask for more of a group's people than another does of everybody.
    let is_spoken_of =
        |group: &&OwnerName| by_any || (by_identity && owns_identity(group)) || (by_resource && owns_resource(group));
    let served = served(before);
    let people: BTreeSet<&OwnerName> = before.people.keys().chain(before.entries.keys()).collect();
    for name in people {
        let (was, is) = (before.groups_of(name), after.groups_of(name));
        for group in was.difference(&is).filter(is_spoken_of) {
            gained(format!("person {name}"), format!("to be free of what policy says of group {group}"), found);
        }
        for group in was.difference(&is).filter(|group| served.contains(*group)) {
            gained(format!("person {name}"), format!("a say about the exceptions that serve group {group}"), found);
        }
    }
    // Whom nobody here is in yet, and who is one with whom through it.
    for name in before.groups.keys() {
        let above = |model: &Model| model.above(&BTreeSet::new(), &BTreeSet::from([name.clone()]));
        let (was, is) = (above(before), above(after));
        for group in was.difference(&is).filter(is_spoken_of) {
            gained(format!("group {name}"), format!("to be free of what policy says of group {group}"), found);
        }
        for group in was.difference(&is).filter(|group| served.contains(*group)) {
            gained(format!("group {name}"), format!("a say about the exceptions that serve group {group}"), found);
        }
    }
}

/// Who answers for an exception, or for an identity that one is for.
fn served(model: &Model) -> BTreeSet<OwnerName> {
    let exceptions = || model.exceptions.values().map(|kept| &kept.value.spec);
    let identities = exceptions().filter_map(|spec| model.identities.get(spec.identity.as_ref()?));
    let owners = identities.map(|kept| kept.value.spec.owner.clone());
    owners.chain(exceptions().map(|spec| spec.owner.clone())).collect()
}

/// Whether a rule of the policy that is in force has a word in it. One that cannot be read may have any.
fn policy_says(model: &Model, word: &str) -> bool {
    let Some(policy) = &model.policy else { return false };
    match policy.set.as_ref() {
        Ok(set) => set.texts().values().any(|text| text.contains(word)),
        Err(_) => true,
    }
}
