//! Who answers in whose place: by identifier, and by both people.

use std::collections::BTreeSet;

use imbl::{OrdMap, OrdSet};

use super::Kept;
use crate::domain::Timestamp;
use crate::domain::delegation::Delegation;
use crate::domain::name::{DelegationId, OwnerName};

/// Delegations, those that are over too.
#[derive(Clone, Debug, Default)]
pub struct Delegations {
    by_id: OrdMap<DelegationId, Kept<Delegation>>,
    by_to: OrdMap<OwnerName, OrdSet<DelegationId>>,
    by_from: OrdMap<OwnerName, OrdSet<DelegationId>>,
}

impl Delegations {
    /// One of them.
    pub fn get(&self, id: DelegationId) -> Option<&Kept<Delegation>> {
        self.by_id.get(&id)
    }

    /// Whether they are the same: what they are kept in is shared until one of them changes.
    pub fn is_same(&self, other: &Self) -> bool {
        self.by_id.ptr_eq(&other.by_id)
    }

    /// All of them, oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Delegation> {
        self.by_id.values().map(|kept| kept.value.as_ref())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Those that somebody made and that are good now.
    pub fn live_from<'d>(&'d self, from: &OwnerName, now: Timestamp) -> impl Iterator<Item = &'d Delegation> + 'd {
        self.live(self.by_from.get(from), now)
    }

    /// The one by which `to` answers in the place of `from`.
    pub fn between(&self, from: &OwnerName, to: &OwnerName, now: Timestamp) -> Option<&Delegation> {
        self.live(self.by_to.get(to), now).find(|it| it.from == *from)
    }

    /// In whose place somebody answers.
    pub fn delegators_of(&self, to: &OwnerName, now: Timestamp) -> BTreeSet<OwnerName> {
        self.live(self.by_to.get(to), now).map(|it| it.from.clone()).collect()
    }

    /// Who answers in somebody's place.
    pub fn delegates_of(&self, from: &OwnerName, now: Timestamp) -> BTreeSet<OwnerName> {
        self.live(self.by_from.get(from), now).map(|it| it.to.clone()).collect()
    }

    fn live<'d>(
        &'d self,
        ids: Option<&'d OrdSet<DelegationId>>,
        now: Timestamp,
    ) -> impl Iterator<Item = &'d Delegation> + 'd {
        let all = ids.into_iter().flatten().filter_map(|id| self.by_id.get(id)).map(|kept| kept.value.as_ref());
        all.filter(move |it| it.is_live(now))
    }

    pub(super) fn put(&mut self, delegation: &Delegation, revision: u64) {
        self.forget(delegation.id);
        self.by_to.entry(delegation.to.clone()).or_default().insert(delegation.id);
        self.by_from.entry(delegation.from.clone()).or_default().insert(delegation.id);
        self.by_id.insert(delegation.id, Kept::new(delegation, revision));
    }

    pub(super) fn forget(&mut self, id: DelegationId) {
        let Some(old) = self.by_id.remove(&id) else { return };
        for (index, name) in [(&mut self.by_to, &old.value.to), (&mut self.by_from, &old.value.from)] {
            let emptied = index.get_mut(name).is_some_and(|ids| {
                ids.remove(&id);
                ids.is_empty()
            });
            if emptied {
                index.remove(name);
            }
        }
    }
}
