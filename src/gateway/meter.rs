//! The meter: uses of counted grants, as the control plane allots them to this process.
//!
//! A use is taken before a call is registered, and spent when its intent is about to be recorded: from then on nothing
//! brings it back. Allotments live in this process's memory alone. What a crash takes with it is spent, for all that
//! the control plane knows; what nobody needs is given back, once, by the process that has it.
//!
//! Knows grants by their identifiers, and renewals by their number on a stream; `sync` sends and hears.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::Timestamp;
use crate::domain::name::{AllotmentId, GrantId};
use crate::wire::{MAX_USES_CLAIMED, MAX_USES_HELD, bytes128, v1};

/// An allotment that was not touched for as long is given back.
const IDLE: Duration = Duration::from_secs(10);
/// Most that is asked for ahead of need.
const MAX_AHEAD: u64 = 10_000;

/// Uses of counted grants.
#[derive(Debug)]
pub(crate) struct Meter {
    process: [u8; 16],
    state: Mutex<State>,
    /// Told when a call waits.
    wanted: Notify,
    /// Told when an answer came.
    answered: Notify,
}

#[derive(Debug, Default)]
struct State {
    grants: HashMap<GrantId, Counted, ahash::RandomState>,
    returning: BTreeMap<AllotmentId, Returning>,
    /// Whether the control plane knows what this process has: it does after the first answer of a stream.
    is_known: bool,
    /// Streams so far.
    streams: u64,
    /// The process is about to end: all that no call has goes back.
    leaving: bool,
}

impl State {
    /// What no call needs any more, of a process that is about to end, and has not been told of.
    fn leaves(&self) -> bool {
        let mut held = self.grants.values().flat_map(|counted| &counted.held);
        self.leaving && (held.any(|held| held.taken == 0) || self.returning.values().any(|one| one.told.is_none()))
    }
}

#[derive(Debug, Default)]
struct Counted {
    held: Vec<Held>,
    /// Calls that wait.
    waiting: u64,
    /// The renewal that asks for it.
    asked: Option<u64>,
    /// Until when nothing is left.
    dry: Option<Dry>,
    /// Taken since it was asked for last: as many are asked for ahead.
    taken: u64,
}

impl Counted {
    /// How many uses are to be asked for: calls that wait, less what is there for them and they have not taken yet.
    fn lacking(&self, now: Duration) -> u64 {
        if self.asked.is_some() || self.dry.is_some_and(|dry| now < dry.until) {
            return 0;
        }
        let there = self.held.iter().filter(|held| now < held.until).map(|held| held.left);
        self.waiting.saturating_sub(there.fold(0, u64::saturating_add))
    }
}

#[derive(Debug)]
struct Held {
    id: AllotmentId,
    uses: u64,
    left: u64,
    /// Taken by calls that have not spent them yet.
    taken: u64,
    /// When it is void, and when it was touched last; since boot.
    until: Duration,
    touched: Duration,
}

#[derive(Debug)]
struct Returning {
    grant: GrantId,
    spent: u64,
    /// The renewal that says so.
    told: Option<u64>,
}

/// Nothing is left for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dry {
    /// When to ask again, since boot.
    until: Duration,
    /// The same by the control plane's clock: with the grant's end, never.
    pub(crate) again: Timestamp,
}

/// What became of asking for a use.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Here it is.
    Use(Use),
    /// None is left.
    Dry(Dry),
    /// The control plane has to be asked: see [`Meter::wait`].
    Unknown,
}

/// One use. Dropped before it is spent, it is there for another call.
#[derive(Debug)]
pub(crate) struct Use {
    meter: Arc<Meter>,
    pub(crate) grant: GrantId,
    pub(crate) allotment: AllotmentId,
    /// When it is void, since boot.
    until: Duration,
    is_spent: bool,
}

impl Use {
    /// Whether it is good at `now`, since boot: a use of one span of time is none of the next.
    pub(crate) fn is_good(&self, now: Duration) -> bool {
        now < self.until
    }

    /// It is about to be recorded: whatever becomes of the call, it is gone.
    pub(crate) fn spend(mut self) {
        self.is_spent = true;
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut state = self.meter.state.lock();
        let held = state.grants.get_mut(&self.grant).into_iter().flat_map(|counted| &mut counted.held);
        // INVARIANT: an allotment stays for as long as a call has a use of it.
        if let Some(held) = held.into_iter().find(|held| held.id == self.allotment) {
            held.taken = held.taken.saturating_sub(1);
            if !self.is_spent {
                held.left = held.left.saturating_add(1).min(held.uses);
            }
        }
        drop(state);
        if !self.is_spent {
            self.meter.answered.notify_waiters();
        }
    }
}

/// A call that waits for a use.
struct Waiting<'m> {
    meter: &'m Meter,
    grant: GrantId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(counted) = self.meter.state.lock().grants.get_mut(&self.grant) {
            counted.waiting = counted.waiting.saturating_sub(1);
        }
    }
}

impl Meter {
    /// Of this process.
    pub(crate) fn new(process: [u8; 16]) -> Arc<Self> {
        let (wanted, answered) = (Notify::new(), Notify::new());
        Arc::new(Self { process, state: Mutex::default(), wanted, answered })
    }

    /// Takes a use of a grant, `now` being since boot.
    pub(crate) fn take(self: &Arc<Self>, grant: GrantId, now: Duration) -> Taken {
        let mut state = self.state.lock();
        let counted = state.grants.entry(grant).or_default();
        let good = counted.held.iter_mut().find(|held| held.left > 0 && now < held.until);
        if let Some(held) = good {
            held.left -= 1;
            held.taken += 1;
            held.touched = now;
            let (allotment, until) = (held.id, held.until);
            counted.taken = counted.taken.saturating_add(1);
            return Taken::Use(Use { meter: self.clone(), grant, allotment, until, is_spent: false });
        }
        match counted.dry.filter(|dry| now < dry.until) {
            Some(dry) => Taken::Dry(dry),
            None => Taken::Unknown,
        }
    }

    /// Waits until it is known what there is, and takes it. Bounded by nothing: the caller brings its own limit.
    ///
    /// # Errors
    /// [`Dry`] when nothing is left.
    pub(crate) async fn wait(self: &Arc<Self>, grant: GrantId, now: impl Fn() -> Duration) -> Result<Use, Dry> {
        let mut waiting = None;
        loop {
            let mut answered = std::pin::pin!(self.answered.notified());
            answered.as_mut().enable();
            match self.take(grant, now()) {
                Taken::Use(one) => return Ok(one),
                Taken::Dry(dry) => return Err(dry),
                Taken::Unknown => {}
            }
            waiting.get_or_insert_with(|| {
                let mut state = self.state.lock();
                // Meanwhile it may have been forgotten: nobody waited for it.
                let counted = state.grants.entry(grant).or_default();
                counted.waiting = counted.waiting.saturating_add(1);
                drop(state);
                Waiting { meter: self, grant }
            });
            self.wanted.notify_one();
            answered.await;
        }
    }

    /// Resolves when a renewal should ask for uses.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Whether a call waits for what is not asked for yet, or something is to be given back before the process ends.
    pub(crate) fn wants(&self, now: Duration) -> bool {
        let state = self.state.lock();
        state.leaves() || state.grants.values().any(|counted| counted.lacking(now) > 0)
    }

    /// Gives everything back that no call has, as the process is about to end, and waits until the control plane has
    /// answered. Bounded by nothing.
    pub(crate) async fn leave(&self) {
        self.state.lock().leaving = true;
        loop {
            let mut answered = std::pin::pin!(self.answered.notified());
            answered.as_mut().enable();
            {
                let state = self.state.lock();
                if !state.leaves() && state.returning.is_empty() {
                    return;
                }
            }
            self.wanted.notify_one();
            answered.await;
        }
    }

    /// A stream begins: what an earlier one asked for will not come any more.
    pub(crate) fn begin(&self) {
        let mut state = self.state.lock();
        state.is_known = false;
        state.streams += 1;
        state.grants.values_mut().for_each(|counted| counted.asked = None);
        state.returning.values_mut().for_each(|returning| returning.told = None);
    }

    /// Puts into the renewal of this number on its stream what calls wait for, and what nobody needs.
    pub(crate) fn claim(&self, renew: &mut v1::Renew, number: u64, now: Duration) {
        let mut state = self.state.lock();
        let State { grants, returning, is_known, streams, leaving } = &mut *state;
        for (grant, counted) in grants.iter_mut() {
            counted.held.retain(|held| {
                let is_idle =
                    *leaving || held.left == 0 || now >= held.until || now.saturating_sub(held.touched) >= IDLE;
                let is_over = is_idle && held.taken == 0;
                // Also one that is spent to the last: what is not told of counts as never come on the next stream.
                if is_over {
                    returning.insert(held.id, Returning { grant: *grant, spent: held.uses - held.left, told: None });
                }
                !is_over
            });
        }
        grants.retain(|_, counted| {
            let is_dry = counted.dry.is_some_and(|dry| now < dry.until);
            !counted.held.is_empty() || counted.waiting > 0 || counted.asked.is_some() || is_dry
        });
        let lacking = grants.iter_mut().map(|(grant, counted)| (grant, counted.lacking(now), counted));
        for (grant, uses, counted) in lacking.filter(|(_, uses, _)| *uses > 0).take(MAX_USES_CLAIMED) {
            counted.asked = Some(number);
            let ahead = std::mem::take(&mut counted.taken).min(MAX_AHEAD);
            renew.uses_wanted.push(v1::UsesWanted { grant_id: bytes(grant.bits()), uses, ahead });
        }
        // One at a time: told again when that renewal was passed over, or its stream is lost.
        for (id, returning) in returning.iter_mut().filter(|(_, one)| one.told.is_none()).take(MAX_USES_CLAIMED) {
            returning.told = Some(number);
            renew.uses_returned.push(v1::UsesReturned {
                grant_id: bytes(returning.grant.bits()),
                allotment_id: bytes(id.bits()),
                spent: returning.spent,
            });
        }
        if !*is_known {
            let held = grants.values().flat_map(|counted| counted.held.iter().map(|held| held.id));
            let allotment_ids: Vec<_> =
                held.chain(returning.keys().copied()).map(|id| bytes(id.bits())).take(MAX_USES_HELD + 1).collect();
            if allotment_ids.len() <= MAX_USES_HELD {
                renew.uses_held = Some(v1::UsesHeld { allotment_ids });
            }
        }
        renew.process = self.process.to_vec();
        renew.stream = *streams;
    }

    /// The renewal of this number, sent at `sent`, is answered.
    pub(crate) fn answer(&self, authority: &v1::Authority, number: u64, sent: Duration) {
        let mut state = self.state.lock();
        state.is_known = true;
        state.returning.retain(|_, returning| returning.told != Some(number));
        for returning in state.returning.values_mut() {
            returning.told = returning.told.filter(|told| *told > number);
        }
        for allotment in &authority.allotments {
            let Ok(grant) = crate::wire::grant_id(&allotment.grant_id) else { continue };
            let Some(counted) = state.grants.get_mut(&grant) else { continue };
            let again = Timestamp::from_unix_micros(allotment.expires_unix_us);
            // From when it was asked for: never later than the control plane counts.
            let left = again.saturating_since(Timestamp::from_unix_micros(authority.time_unix_us));
            let until = sent.saturating_add(left);
            match bytes128("allotment_id", &allotment.allotment_id).map(AllotmentId::from_bits) {
                Ok(id) if allotment.uses > 0 => {
                    let uses = allotment.uses;
                    counted.held.push(Held { id, uses, left: uses, taken: 0, until, touched: sent });
                    counted.dry = None;
                }
                _ => counted.dry = Some(Dry { until, again }),
            }
        }
        // What an earlier renewal asked for was passed over by this one.
        for counted in state.grants.values_mut() {
            counted.asked = counted.asked.filter(|asked| *asked > number);
        }
        drop(state);
        self.answered.notify_waiters();
    }
}

fn bytes(bits: u128) -> Vec<u8> {
    bits.to_be_bytes().to_vec()
}

#[cfg(test)]
mod tests;
