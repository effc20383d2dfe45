//! One shard: the calls of one worker, by place and by what they stand on.
//!
//! Calls with the same key hang on a list through their entries, so that entering and leaving costs one look-up per key,
//! however many calls share it. Refuses to know who waits for whom: it hands out cuts and fires none.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use super::{Cut, KeyKey, Running, Selector, TokenKey};
use crate::decision::snapshot::IdentityIndex;
use crate::domain::Timestamp;
use crate::domain::name::{ExceptionName, GrantId};

/// What a call can be found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum IndexKey {
    Identity(IdentityIndex),
    Grant(GrantId),
    Exception(ExceptionName),
    Token(TokenKey),
    Key(KeyKey),
}

const NONE: usize = usize::MAX;
/// Identity, grant or exception, token, key.
const LINKS: usize = 4;

#[derive(Debug)]
struct Link {
    key: Option<IndexKey>,
    previous: usize,
    next: usize,
}

/// A running call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) running: Running,
    pub(super) cut: Arc<Cut>,
    links: [Link; LINKS],
}

#[derive(Debug)]
pub(super) struct Shard {
    calls: Slab<Call>,
    heads: HashMap<IndexKey, usize, ahash::RandomState>,
    /// Not later than the earliest end among the calls.
    pub(super) earliest: Timestamp,
    /// Not longer than the tightest bound among the calls.
    pub(super) tightest: Duration,
}

impl Default for Shard {
    fn default() -> Self {
        Self { calls: Slab::new(), heads: HashMap::default(), earliest: Timestamp::MAX, tightest: Duration::MAX }
    }
}

/// The place of a key's link in an entry: fixed, so that a list runs through the same one in all of its calls.
const fn slot(key: &IndexKey) -> usize {
    match key {
        IndexKey::Identity(_) => 0,
        IndexKey::Grant(_) | IndexKey::Exception(_) => 1,
        IndexKey::Token(_) => 2,
        IndexKey::Key(_) => 3,
    }
}

fn keys(running: &Running) -> [Option<IndexKey>; LINKS] {
    let basis = match (running.grant, &running.exception) {
        (Some(grant), _) => Some(IndexKey::Grant(grant)),
        (None, exception) => exception.clone().map(IndexKey::Exception),
    };
    [
        Some(IndexKey::Identity(running.identity)),
        basis,
        running.token.map(IndexKey::Token),
        running.key.map(IndexKey::Key),
    ]
}

impl Shard {
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(super) fn insert(&mut self, running: Running, cut: Arc<Cut>) -> usize {
        self.earliest = self.earliest.min(running.ends);
        self.tightest = self.tightest.min(running.authority_bound);
        let place = self.calls.vacant_key();
        let links = keys(&running).map(|key| {
            let next = match &key {
                None => NONE,
                Some(key) => match self.heads.entry(key.clone()) {
                    Entry::Vacant(vacant) => {
                        vacant.insert(place);
                        NONE
                    }
                    Entry::Occupied(mut head) => head.insert(place),
                },
            };
            Link { key, previous: NONE, next }
        });
        for (slot, link) in links.iter().enumerate() {
            if let Some(next) = link_of(&mut self.calls, link.next, slot) {
                next.previous = place;
            }
        }
        self.calls.insert(Call { running, cut, links })
    }

    pub(super) fn remove(&mut self, place: usize) {
        let Some(call) = self.calls.try_remove(place) else { return };
        for (slot, link) in call.links.into_iter().enumerate() {
            if let Some(next) = link_of(&mut self.calls, link.next, slot) {
                next.previous = link.previous;
            }
            match link_of(&mut self.calls, link.previous, slot) {
                Some(previous) => previous.next = link.next,
                None => self.drop_head(link.key, link.next),
            }
        }
    }

    /// The first call of a key has left: the next one is the first now, or nobody has the key any more.
    fn drop_head(&mut self, key: Option<IndexKey>, next: usize) {
        let Some(key) = key else { return };
        if next == NONE {
            self.heads.remove(&key);
        } else if let Some(head) = self.heads.get_mut(&key) {
            *head = next;
        }
    }

    /// Calls that a selector names.
    pub(super) fn select(&self, which: &Selector) -> Vec<(Running, Arc<Cut>)> {
        let key = match which {
            Selector::Grant(id) => IndexKey::Grant(*id),
            Selector::Identity(place) => IndexKey::Identity(*place),
            Selector::Token(token) => IndexKey::Token(*token),
            Selector::Key(key) => IndexKey::Key(*key),
            Selector::Exception(name) => IndexKey::Exception(name.clone()),
            Selector::All => return self.calls.iter().map(|(_, c)| (c.running.clone(), c.cut.clone())).collect(),
        };
        let slot = slot(&key);
        let mut at = self.heads.get(&key).copied().unwrap_or(NONE);
        let mut found = Vec::new();
        while let Some(call) = self.calls.get(at) {
            found.push((call.running.clone(), call.cut.clone()));
            at = call.links.get(slot).map_or(NONE, |link| link.next);
        }
        found
    }

    /// Every call, with the bounds computed anew afterwards.
    pub(super) fn walk(&mut self, mut visit: impl FnMut(&mut Running, &Arc<Cut>)) {
        (self.earliest, self.tightest) = (Timestamp::MAX, Duration::MAX);
        for (_, call) in &mut self.calls {
            visit(&mut call.running, &call.cut);
            self.earliest = self.earliest.min(call.running.ends);
            self.tightest = self.tightest.min(call.running.authority_bound);
        }
    }

    #[cfg(test)]
    pub(super) fn index_len(&self) -> usize {
        self.heads.len()
    }
}

fn link_of(calls: &mut Slab<Call>, place: usize, slot: usize) -> Option<&mut Link> {
    calls.get_mut(place)?.links.get_mut(slot)
}
