//! Who somebody is: groups, nested and overlapping, those who speak for others, and tokens.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::record::{Digest, Person};
use super::{Kept, Model};
use crate::domain::name::OwnerName;

impl Model {
    /// The groups that somebody is in and the owners that they speak for, by way of others too.
    pub fn groups_of(&self, person: &OwnerName) -> BTreeSet<OwnerName> {
        let spoken = self.people.get(person).map(|kept| kept.value.speaks_for.as_slice()).unwrap_or_default();
        let spoken: BTreeSet<OwnerName> = spoken.iter().filter(|name| *name != person).cloned().collect();
        let mut found = self.above(&BTreeSet::from([person.clone()]), &spoken);
        found.extend(spoken);
        found
    }

    /// Whether two names are one person's: the same, or one speaks for the other, by way of groups too, or both speak for the
    /// same person. Those for whom one person speaks are not one because of that.
    pub fn are_one(&self, one: &OwnerName, other: &OwnerName) -> bool {
        one == other
            || self.speaks_for(one, other)
            || self.speaks_for(other, one)
            || self.spoken_people(one).any(|name| self.spoken_people(other).any(|it| it == name))
    }

    /// The people for whom somebody speaks.
    pub fn spoken_people(&self, name: &OwnerName) -> impl Iterator<Item = &OwnerName> {
        let spoken = self.people.get(name).map(|kept| kept.value.speaks_for.as_slice()).unwrap_or_default();
        spoken.iter().filter(|name| self.people.contains_key(*name))
    }

    /// Whether [`groups_of`](Self::groups_of) has it. Of a name that is no group's it needs no look at any group.
    fn speaks_for(&self, one: &OwnerName, other: &OwnerName) -> bool {
        let itself = self.people.get(one).is_some_and(|kept| kept.value.speaks_for.contains(other));
        itself || (self.groups.contains_key(other) && self.groups_of(one).contains(other))
    }

    /// Every group that has one of these people, or one of these groups, in it, by way of others too. Each round looks at
    /// every group once, and there are as many as groups are nested.
    pub fn above(&self, people: &BTreeSet<OwnerName>, groups: &BTreeSet<OwnerName>) -> BTreeSet<OwnerName> {
        let mut found: BTreeSet<OwnerName> = BTreeSet::new();
        loop {
            let before = found.len();
            for kept in self.groups.values().filter(|kept| !found.contains(&kept.value.name)).collect::<Vec<_>>() {
                let spec = &kept.value.spec;
                let nests = spec.groups.iter().any(|inner| found.contains(inner) || groups.contains(inner));
                if nests || spec.members.iter().any(|member| people.contains(member)) {
                    found.insert(kept.value.name.clone());
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }

    /// A group and every one in it; the name alone when it is no group's.
    pub fn within(&self, group: &OwnerName) -> BTreeSet<OwnerName> {
        let mut found = BTreeSet::from([group.clone()]);
        let mut looking = vec![group.clone()];
        while let Some(name) = looking.pop() {
            let inner = self.groups.get(&name).map(|kept| kept.value.spec.groups.as_slice()).unwrap_or_default();
            looking.extend(inner.iter().filter(|inner| found.insert((*inner).clone())).cloned());
        }
        found
    }

    /// The people in a group and those who speak for it, by way of others too; for a person's name, those who speak for
    /// them.
    pub fn members_of(&self, group: &OwnerName) -> BTreeSet<OwnerName> {
        let within = self.within(group);
        let groups = within.iter().filter_map(|name| self.groups.get(name));
        let mut people: BTreeSet<OwnerName> = groups.flat_map(|kept| kept.value.spec.members.iter().cloned()).collect();
        let speaks = |kept: &&Kept<Person>| kept.value.speaks_for.iter().any(|owner| within.contains(owner));
        people.extend(self.people.values().filter(speaks).map(|kept| kept.value.name.clone()));
        people
    }

    /// The person whose token this is, with the groups that they are in as owners that they speak for. Every record is
    /// compared, so that the time says nothing.
    pub fn speaker_with(&self, token: &Digest) -> Option<Arc<Person>> {
        self.person_with(token).map(|person| self.speaking(person))
    }

    /// Somebody with the groups that they are in as owners that they speak for.
    pub fn speaking(&self, person: Arc<Person>) -> Arc<Person> {
        let groups = self.groups_of(&person.name);
        if groups.is_empty() {
            return person;
        }
        let mut speaker = person.as_ref().clone();
        speaker.speaks_for.extend(groups);
        Arc::new(speaker)
    }

    /// The person whose token this is. Every record is compared, so that the time says nothing.
    pub fn person_with(&self, token: &Digest) -> Option<Arc<Person>> {
        let mut found = None;
        for kept in self.people.values() {
            if kept.value.token.is(token) {
                found = Some(kept.value.clone());
            }
        }
        found
    }
}
