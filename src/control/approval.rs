//! Approvals: who may give one, and whether those that were given are enough.
//!
//! Pure. Nobody approves what they asked for, and nobody counts for two: every place of every stage is another person's.

use std::collections::BTreeSet;

use super::model::Model;
use super::policy::{Actor, PolicySet, Question, Step};
use super::record::Person;
use crate::domain::Timestamp;
use crate::domain::name::OwnerName;
use crate::domain::request::{Approvers, Ask, Requester, Stage};
use crate::domain::role::Permission;

/// People that an analysis names.
pub const MAX_NAMED: usize = 20;
/// Questions to policy, of people and resources, in looking for those whose word counts: it is done while others wait.
const MAX_ASKED: usize = 256;

/// What is to be approved.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The model that it is looked at in.
    pub model: &'a Model,
    /// As of when.
    pub now: Timestamp,
    /// The policy.
    pub set: &'a PolicySet,
    /// Who asks.
    pub requester: &'a Requester,
    /// What for.
    pub ask: &'a Ask,
    /// The same, expanded.
    pub permissions: &'a [Permission],
    /// All that is asked for with all that is held.
    pub together: &'a BTreeSet<String>,
}

/// A person as policy sees them.
pub fn actor(model: &Model, person: &Person) -> Actor {
    let groups = model.groups_of(&person.name);
    let standing = person.roles.iter().map(|role| role.as_str().to_owned()).collect();
    Actor::Person { name: person.name.clone(), standing, groups }
}

/// For which stages somebody's word counts; none when they may not approve at all.
pub fn counts_for(subject: &Subject<'_>, stages: &[Stage], name: &OwnerName) -> BTreeSet<usize> {
    match named(subject.model, subject.requester, stages, name) {
        Some((actor, of)) if policy_lets(subject, &actor) => of,
        _ => BTreeSet::new(),
    }
}

/// Somebody whom stages name, before policy is asked, and which of them do.
fn named(model: &Model, requester: &Requester, stages: &[Stage], name: &OwnerName) -> Option<(Actor, BTreeSet<usize>)> {
    // INVARIANT: nobody approves their own request, whatever policy says.
    if *requester == Requester::Person(name.clone()) {
        return None;
    }
    let actor = actor(model, &model.people.get(name)?.value);
    let of = stages.iter().enumerate().filter(|(_, stage)| is_one(&actor, &stage.approvers));
    let of: BTreeSet<usize> = of.map(|(index, _)| index).collect();
    if of.is_empty() { None } else { Some((actor, of)) }
}

/// Whether stages name somebody: enough for a no, which does not wait for policy to be in order.
pub fn is_named(model: &Model, requester: &Requester, stages: &[Stage], name: &OwnerName) -> bool {
    named(model, requester, stages, name).is_some()
}

fn is_one(actor: &Actor, approvers: &Approvers) -> bool {
    let Actor::Person { standing, groups, .. } = actor else { return false };
    match approvers {
        Approvers::Owner(owner) => actor.is_owner(owner),
        Approvers::Group(group) => groups.contains(group),
        Approvers::Standing(name) => standing.contains(name),
        // An analysis says who they are.
        Approvers::ResourceOwner | Approvers::IdentityOwner => false,
    }
}

fn policy_lets(subject: &Subject<'_>, actor: &Actor) -> bool {
    let Some(identity) = subject.model.identities.get(&subject.ask.identity) else { return false };
    let roles = super::analyse::roles(subject.model, subject.ask);
    subject.permissions.iter().all(|permission| {
        let Some(resource) = subject.model.resources.get(&permission.resource) else { return false };
        let question = Question {
            step: Step::Approve,
            actor,
            identity: (&subject.ask.identity, &identity.value.spec),
            resource: &resource.value,
            actions: &permission.actions,
            roles: &roles,
            duration: subject.ask.duration,
            ticket: subject.ask.ticket.as_deref(),
            lead: super::analyse::lead(subject.ask, subject.now),
            counted: subject.ask.limits.is_counted(),
            together: subject.together,
        };
        subject.set.ask(&question).allows
    })
}

/// People whose word counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eligible {
    /// By name, with the stages that their word counts for.
    pub people: Vec<(OwnerName, BTreeSet<usize>)>,
    /// Whether there are no others.
    pub all: bool,
}

/// People whose word counts: all of them, as many as are named where those are enough, or those that were found when
/// policy had been asked as often as it may be.
pub fn eligible(subject: &Subject<'_>, stages: &[Stage]) -> Eligible {
    let mut found: Vec<(OwnerName, BTreeSet<usize>)> = Vec::new();
    let mut asked = 0usize;
    for name in candidates(subject.model, stages) {
        if asked >= MAX_ASKED {
            return Eligible { people: found, all: false };
        }
        asked = asked.saturating_add(subject.permissions.len().max(1));
        let of = counts_for(subject, stages, name);
        if !of.is_empty() {
            found.push((name.clone(), of));
        }
        if found.len() >= MAX_NAMED {
            let counts: Vec<BTreeSet<usize>> = found.iter().map(|(_, of)| of.clone()).collect();
            if is_enough(stages, &counts) {
                return Eligible { people: found, all: false };
            }
        }
    }
    Eligible { people: found, all: true }
}

/// Whoever may be one of those that the stages name, before policy is asked: asking it of everybody would take too long.
fn candidates<'m>(model: &'m Model, stages: &'m [Stage]) -> impl Iterator<Item = &'m OwnerName> {
    let owners: BTreeSet<&OwnerName> = stages
        .iter()
        .filter_map(|stage| match &stage.approvers {
            Approvers::Owner(owner) | Approvers::Group(owner) => Some(owner),
            Approvers::Standing(_) | Approvers::ResourceOwner | Approvers::IdentityOwner => None,
        })
        .collect();
    let members: BTreeSet<OwnerName> = owners.iter().flat_map(|owner| model.members_of(owner)).collect();
    let has_standing = |person: &Person, name: &str| person.roles.iter().any(|role| role.as_str() == name);
    model.people.values().map(|kept| kept.value.as_ref()).filter_map(move |person| {
        let by_standing = stages
            .iter()
            .any(|stage| matches!(&stage.approvers, Approvers::Standing(standing) if has_standing(person, standing)));
        let by_name = members.contains(&person.name)
            || owners.contains(&person.name)
            || person.speaks_for.iter().any(|owner| owners.contains(owner));
        (by_standing || by_name).then_some(&person.name)
    })
}

/// Whether every place of every stage can have a person of its own: a matching, found place by place (Kuhn).
pub fn is_enough(stages: &[Stage], people: &[BTreeSet<usize>]) -> bool {
    let places: Vec<usize> = stages
        .iter()
        .enumerate()
        .flat_map(|(index, stage)| std::iter::repeat_n(index, usize::try_from(stage.quorum).unwrap_or(usize::MAX)))
        .collect();
    // Whose place each person has.
    let mut taken: Vec<Option<usize>> = vec![None; people.len()];
    (0..places.len()).all(|place| place_found(place, &places, people, &mut taken, &mut vec![false; people.len()]))
}

fn place_found(
    place: usize,
    places: &[usize],
    people: &[BTreeSet<usize>],
    taken: &mut [Option<usize>],
    tried: &mut [bool],
) -> bool {
    for person in 0..people.len() {
        let counts = places.get(place).is_some_and(|stage| people.get(person).is_some_and(|of| of.contains(stage)));
        if !counts || tried.get(person).copied().unwrap_or(true) {
            continue;
        }
        if let Some(tried) = tried.get_mut(person) {
            *tried = true;
        }
        let free = match taken.get(person).copied().flatten() {
            None => true,
            Some(other) => place_found(other, places, people, taken, tried),
        };
        if free {
            if let Some(taken) = taken.get_mut(person) {
                *taken = Some(place);
            }
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(quorum: u32) -> Stage {
        Stage { approvers: Approvers::Standing("security".to_owned()), quorum }
    }

    #[test]
    fn nobody_counts_for_two() {
        let of = |stages: &[usize]| stages.iter().copied().collect::<BTreeSet<_>>();
        let two = [stage(1), stage(1)];
        assert!(!is_enough(&two, &[of(&[0, 1])]));
        assert!(!is_enough(&two, &[of(&[0]), of(&[0])]));
        assert!(is_enough(&two, &[of(&[0, 1]), of(&[0])]), "whoever counts for both makes room");
        assert!(is_enough(&two, &[of(&[0]), of(&[0, 1])]));
        assert!(!is_enough(&[stage(2)], &[of(&[0])]));
        assert!(is_enough(&[stage(2), stage(1)], &[of(&[0]), of(&[1, 0]), of(&[0])]));
        assert!(is_enough(&[], &[]));
    }
}
