//! Leave from rules that part duties, as it bears on one question to policy.
//!
//! An exception is leave for the identity that it names, and for no other. But what it lets that identity be given is held
//! by its owner too, and would be counted against every other identity of theirs. So of access that lives, what others of the
//! same owner were given by leave after it is left out of account, for the rule that is left and for no other: whatever else
//! that rule finds held together, it forbids as ever.

use std::collections::{BTreeMap, BTreeSet};

use super::Subject;
use crate::control::analyse::{of_one_person, spelled};
use crate::domain::exception::Exception;
use crate::domain::grant::Grant;
use crate::domain::name::{ActionName, IdentityName, OwnerName, ResourceName};

/// Of each owner, how many grants give what is not counted.
type Gone = BTreeMap<(OwnerName, (ResourceName, ActionName)), usize>;

/// Exceptions that give leave now.
fn live<'a>(subject: &Subject<'a>) -> impl Iterator<Item = (&'a IdentityName, &'a str, &'a Exception)> + use<'a> {
    let now = subject.now;
    let all = subject.model.exceptions.values().map(|kept| kept.value.as_ref()).filter(move |it| it.is_live(now));
    all.filter_map(|it| Some((it.spec.identity.as_ref()?, it.spec.policy_rule.as_deref()?, it)))
}

/// Live leave of the identity itself, by rule: of several the one that lasts longest.
pub(super) fn own<'a>(subject: &Subject<'a>) -> BTreeMap<&'a str, &'a Exception> {
    let mut found: BTreeMap<&str, &Exception> = BTreeMap::new();
    for (_, rule, it) in live(subject).filter(|(identity, ..)| **identity == subject.ask.identity) {
        let longest = found.entry(rule).or_insert(it);
        if longest.spec.expires < it.spec.expires {
            *longest = it;
        }
    }
    found
}

/// Of access that lives: each rule that others of the same owner have leave from, and all that is held together without what
/// they were given by it since.
pub(super) fn of_others<'a>(subject: &Subject<'a>) -> BTreeMap<&'a str, BTreeSet<String>> {
    let Some(given) = subject.given else { return BTreeMap::new() };
    let mut gone: BTreeMap<&str, Gone> = BTreeMap::new();
    // However many exceptions an identity has from one rule, each of its grants is there once.
    let mut seen: BTreeSet<(&str, crate::domain::name::GrantId)> = BTreeSet::new();
    for (identity, rule, it) in live(subject).filter(|(identity, ..)| **identity != subject.ask.identity) {
        let Some(owner) = subject.model.identities.get(identity).map(|kept| &kept.value.spec.owner) else { continue };
        let ids = subject.model.grants_of.get(identity).into_iter().flatten();
        let grants = ids.filter_map(|id| subject.model.grants.get(id)).map(|kept| kept.value.as_ref());
        let by_leave = |grant: &&Grant| {
            let made = grant.lineage.created;
            made >= given && it.since.is_none_or(|since| made >= since)
        };
        for grant in grants.filter(by_leave).filter(|grant| seen.insert((rule, grant.id))) {
            for action in &grant.actions {
                let what = (grant.resource.clone(), action.clone());
                *gone.entry(rule).or_default().entry((owner.clone(), what)).or_default() += 1;
            }
        }
    }
    gone.into_iter().map(|(rule, gone)| (rule, without(subject, &gone))).collect()
}

/// All that is asked for with all that is held, save what is gone.
fn without(subject: &Subject<'_>, gone: &Gone) -> BTreeSet<String> {
    let mut together: BTreeSet<String> = subject.permissions.iter().flat_map(spelled).collect();
    let owner = subject.identity().map(|identity| of_one_person(subject.model, &identity.owner)).unwrap_or_default();
    for owner in owner {
        let held = subject.model.held.counted(&owner);
        let stays =
            held.filter(|(what, count)| *count > gone.get(&(owner.clone(), (*what).clone())).copied().unwrap_or(0));
        together.extend(stays.map(|((resource, action), _)| format!("{resource}:{action}")));
    }
    together
}
