//! By which right somebody approves: their own, or that of whoever has them answer in their place.
//!
//! A right that was handed on is not handed on again, and whoever gave it and whoever uses it are one person.

use std::collections::BTreeSet;

use super::progress::Word;
use super::{Actor, Subject, actor, counts_for, is_requester};
use crate::control::model::Model;
use crate::control::policy::Step;
use crate::domain::name::{DelegationId, OwnerName};
use crate::domain::request::{Approval, Stage};

/// A right to approve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// Whose it is, where it is another's, and the delegation that hands it on.
    pub on_behalf_of: Option<(OwnerName, DelegationId)>,
    /// The stages that a word counts for, by their place.
    pub of: BTreeSet<usize>,
}

/// The rights of somebody, their own first; none that counts for nothing.
pub fn rights(subject: &Subject<'_>, stages: &[Stage], name: &OwnerName) -> Vec<Right> {
    let own = Right { on_behalf_of: None, of: counts_for(subject, stages, name) };
    let delegators = subject.model.delegations.delegators_of(name, subject.now);
    let others = delegators.into_iter().filter_map(|from| {
        let (delegation, of) = in_place_of(subject, stages, &from, name)?;
        Some(Right { on_behalf_of: Some((from, delegation)), of })
    });
    std::iter::once(own).chain(others).filter(|right| !right.of.is_empty()).collect()
}

/// The stages that the word of `to` counts for in the place of `from`.
fn in_place_of(
    subject: &Subject<'_>,
    stages: &[Stage],
    from: &OwnerName,
    to: &OwnerName,
) -> Option<(DelegationId, BTreeSet<usize>)> {
    let delegation = subject.model.delegations.between(from, to, subject.now)?.id;
    // INVARIANT: not for what either of them asked for, nor for what either answers for.
    for name in [from, to] {
        let actor = actor(subject.model, &subject.model.people.get(name)?.value);
        let theirs = subject.identity().map_or(true, |identity| actor.is_owner(&identity.owner));
        if theirs
            || is_requester(subject.model, subject.requester, name)
            || (name == to && is_forbidden(subject, &actor))
        {
            return None;
        }
    }
    // INVARIANT: the right of `from` alone, never one that was handed on to them.
    Some((delegation, counts_for(subject, stages, from)))
}

/// Whether policy forbids somebody to approve, whosesoever right it is. That no rule lets them is another matter.
fn is_forbidden(subject: &Subject<'_>, who: &Actor) -> bool {
    let forbids = |permission| match subject.answer(Step::Approve, who, permission) {
        Ok(answer) => {
            let no_rule = answer.rules.is_empty() && answer.findings.iter().all(|it| it.code == "not_permitted");
            !answer.allows && !no_rule
        }
        Err(_) => true,
    };
    subject.permissions.iter().any(forbids)
}

/// Those who can answer besides `eligible`, for people to be told of: whoever may where a stage was silent, and whoever
/// answers in the place of somebody who may.
pub fn answering(subject: &Subject<'_>, stages: &[Stage], eligible: &[OwnerName]) -> Vec<OwnerName> {
    let mut names: Vec<OwnerName> = eligible.to_vec();
    let mut add = |name: OwnerName| {
        if names.len() < super::MAX_NAMED && !names.contains(&name) {
            names.push(name);
        }
    };
    if !subject.escalated.is_empty() {
        super::eligible(subject, stages).people.into_iter().for_each(|(name, _)| add(name));
    }
    for from in eligible {
        let delegates = subject.model.delegations.delegates_of(from, subject.now).into_iter();
        let can = |to: &OwnerName| in_place_of(subject, stages, from, to).is_some_and(|(_, of)| !of.is_empty());
        delegates.filter(can).take(super::MAX_NAMED).for_each(&mut add);
    }
    names
}

/// Approvals as words that count now, in their order; of a right that is no more nothing does.
pub fn words(subject: &Subject<'_>, stages: &[Stage], approvals: &[&Approval]) -> Vec<Word> {
    let voices = voices(subject.model, approvals);
    let word = |(approval, voice): (&&Approval, usize)| {
        let of = match &approval.on_behalf_of {
            None => counts_for(subject, stages, &approval.by),
            // By that delegation alone: one that ended is not made good by a later one.
            Some(from) => in_place_of(subject, stages, from, &approval.by)
                .filter(|(id, _)| approval.delegation == Some(*id))
                .map(|(_, of)| of)
                .unwrap_or_default(),
        };
        Word { voice, at: approval.at, of }
    };
    approvals.iter().zip(voices).map(word).collect()
}

/// Whose voice each approval is: all that have a person in common, as whoever gave it or in whose place, are one. So are
/// those of one person under several names.
fn voices(model: &Model, approvals: &[&Approval]) -> Vec<usize> {
    let mut groups: Vec<BTreeSet<&OwnerName>> = Vec::new();
    for approval in approvals {
        let mut people: BTreeSet<&OwnerName> = approval.on_behalf_of.iter().collect();
        people.insert(&approval.by);
        let is_joined =
            |group: &BTreeSet<&OwnerName>| group.iter().any(|one| people.iter().any(|other| model.are_one(one, other)));
        let (joined, apart): (Vec<_>, Vec<_>) = groups.into_iter().partition(is_joined);
        people.extend(joined.into_iter().flatten());
        groups = apart;
        groups.push(people);
    }
    let voice = |approval: &&Approval| groups.iter().position(|group| group.contains(&approval.by)).unwrap_or_default();
    approvals.iter().map(voice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;
    use crate::domain::name::ApprovalId;

    #[test]
    fn whoever_answers_in_anothers_place_is_one_with_them() {
        let given = |(by, on_behalf_of): (&str, &str)| Approval {
            id: ApprovalId::from_bits(1),
            by: by.parse().unwrap(),
            at: Timestamp::from_unix_seconds(1),
            digest: String::new(),
            on_behalf_of: on_behalf_of.parse().ok(),
            delegation: None,
            comment: None,
        };
        let of = |words: &[(&str, &str)]| {
            let approvals: Vec<Approval> = words.iter().copied().map(given).collect();
            voices(&Model::default(), &approvals.iter().collect::<Vec<_>>())
        };
        let [a, b, c] = of(&[("alice", ""), ("bob", ""), ("carol", "")]).try_into().unwrap();
        assert!(a != b && b != c && a != c);
        let [a, b, c] = of(&[("alice", ""), ("bob", "alice"), ("carol", "")]).try_into().unwrap();
        assert!(a == b && c != a);
        let [a, b, c] = of(&[("bob", "alice"), ("carol", "alice"), ("alice", "")]).try_into().unwrap();
        assert!(a == b && b == c, "however many answer in one's place");
        let [a, b, c] = of(&[("bob", "alice"), ("dave", "carol"), ("carol", "bob")]).try_into().unwrap();
        assert!(a == b && b == c, "and by way of others");
    }
}
