//! Whom an exception serves: whoever answers for it, or for the identity that it is for. They do not allow it, nor put off
//! its end.
//!
//! A change can say in one breath that there is an exception, whose the identity is and who is in the group that owns it.
//! So all of that is looked at as it is kept, as the change found it and as it would leave it: whoever answers on any of
//! these sides for what is named on any of them has an interest, under whatever name they have besides. And whoever had one
//! when it was proposed keeps it: nobody leaves a group to allow what serves it.

use std::collections::BTreeSet;

use super::super::super::model::Model;
use super::super::super::record::{Change, Record};
use crate::domain::change::{Proposal, Touched};
use crate::domain::directory::Group;
use crate::domain::identity::{Identity, IdentityState};
use crate::domain::name::{ExceptionName, IdentityName, OwnerName};

/// Who has an interest in the exceptions of a change: people by name, and what they answer by.
#[derive(Debug, Default)]
pub(super) struct Interest(BTreeSet<OwnerName>);

impl Interest {
    /// Of a change; nobody has one in what has no exceptions.
    pub(super) fn of(model: &Model, proposal: &Proposal) -> Self {
        let exceptions: Vec<&Touched> = proposal.objects.iter().filter(|it| it.kind == "Exception").collect();
        if exceptions.is_empty() {
            return Self::default();
        }
        let found = side(model, proposal, |it| it.before.as_ref());
        let left = side(model, proposal, |it| it.after.as_ref());
        let sides = [model.clone(), found, left];
        let mut owners: BTreeSet<OwnerName> = BTreeSet::new();
        let mut identities: BTreeSet<IdentityName> = BTreeSet::new();
        for touched in exceptions {
            let kept = touched.name.parse::<ExceptionName>().ok().and_then(|name| model.exceptions.get(&name));
            owners.extend(kept.map(|kept| kept.value.spec.owner.clone()));
            identities.extend(kept.and_then(|kept| kept.value.spec.identity.clone()));
            for said in [&touched.before, &touched.after].into_iter().flatten() {
                let of = |field: &str| said.get(field).and_then(|it| it.as_str());
                owners.extend(of("owner").and_then(|name| name.parse().ok()));
                identities.extend(of("identity").and_then(|name| name.parse().ok()));
            }
        }
        for identity in sides.iter().flat_map(|side| identities.iter().filter_map(|name| side.identities.get(name))) {
            owners.insert(identity.value.spec.owner.clone());
        }
        let members = sides.iter().flat_map(|side| owners.iter().flat_map(|owner| side.members_of(owner)));
        let mut people: BTreeSet<OwnerName> = members.chain(proposal.interested.iter().cloned()).collect();
        people.extend(owners);
        // One person is one person: whom they speak for, and who speaks for any of these.
        let spoken: BTreeSet<OwnerName> = people.iter().flat_map(|name| model.spoken_people(name)).cloned().collect();
        people.extend(spoken);
        let all = model.people.values().map(|kept| &kept.value);
        let speaking = all.filter(|it| it.speaks_for.iter().any(|name| people.contains(name)));
        let besides: BTreeSet<OwnerName> = speaking.map(|it| it.name.clone()).collect();
        people.extend(besides);
        Self(people)
    }

    /// Whether somebody has it.
    pub(super) fn is_of(&self, name: &OwnerName) -> bool {
        self.0.contains(name)
    }

    /// Those of them who could decide about anything.
    pub(super) fn accounts(&self, model: &Model) -> Vec<OwnerName> {
        self.0.iter().filter(|name| model.people.contains_key(*name)).cloned().collect()
    }
}

/// The model with identities and groups as one side of a change says them; what does not read is as it is kept.
fn side<'p>(
    model: &Model,
    proposal: &'p Proposal,
    said: impl Fn(&'p Touched) -> Option<&'p serde_json::Value>,
) -> Model {
    let mut model = model.clone();
    for touched in &proposal.objects {
        let spec = said(touched);
        match touched.kind.as_str() {
            "Identity" => {
                let Ok(name) = touched.name.parse::<IdentityName>() else { continue };
                match spec.map(|spec| serde_json::from_value(spec.clone())) {
                    Some(Ok(spec)) => {
                        let identity = Identity { name, spec, state: IdentityState::Active };
                        model.apply(&Change::Put(Record::Identity(identity)), 0);
                    }
                    Some(Err(_)) => {}
                    None => drop(model.identities.remove(&name)),
                }
            }
            "Group" => {
                let Ok(name) = touched.name.parse::<OwnerName>() else { continue };
                match spec.map(|spec| serde_json::from_value(spec.clone())) {
                    Some(Ok(spec)) => model.apply(&Change::Put(Record::Group(Group { name, spec })), 0),
                    Some(Err(_)) => {}
                    None => drop(model.groups.remove(&name)),
                }
            }
            // Nothing else says who answers for what.
            _ => {}
        }
    }
    model
}
