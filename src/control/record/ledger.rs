//! What was given out of a counted grant's uses.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::name::{AllotmentId, GatewayName, GrantId};

/// What was given out of a counted grant, and what of it may still come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The grant.
    pub grant: GrantId,
    /// Uses given out and not given back: spent, held by a gateway, or lost with one.
    pub given: u64,
    /// The span of time, of a grant that counts by spans, that `given_in_span` is of.
    #[serde(default)]
    pub span: u64,
    /// The same as `given`, of that span alone.
    #[serde(default)]
    pub given_in_span: u64,
    /// Allotments that may be given back, oldest first. One that is not here is spent, as far as anybody can know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<OpenAllotment>,
}

/// An allotment whose gateway has not said what it spent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAllotment {
    /// Its identifier.
    pub id: AllotmentId,
    /// Whose.
    pub gateway: GatewayName,
    /// The process that has it: no other one may give it back.
    pub process: String,
    /// The stream of the process that it went down on, counted.
    pub stream: u64,
    /// How many.
    pub uses: u64,
    /// Of which span.
    #[serde(default)]
    pub span: u64,
    /// When it is void: what is not spent of it by then comes back with one of the next renewals, or never.
    #[serde(default)]
    pub until: Timestamp,
}

/// How long after an allotment is void its gateway may take to give it back. Later it is still taken, and not waited for.
pub const GRACE: Duration = Duration::from_secs(60);

impl OpenAllotment {
    /// Whether what is left of it may be expected back.
    fn is_awaited(&self, now: Timestamp) -> bool {
        now < self.until.saturating_add(GRACE)
    }
}

/// Where a grant's uses stand at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Uses that can be given out.
    pub uses: u64,
    /// When more may be left than none: the next span, or when an open allotment comes back. `None`: never.
    pub again: Option<Again>,
}

/// When to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Shortly: a gateway holds some.
    Soon,
    /// At the beginning of the next span.
    At(Timestamp),
}

impl Ledger {
    /// Of a grant of which nothing was given out.
    pub const fn new(grant: GrantId) -> Self {
        Self { grant, given: 0, span: 0, given_in_span: 0, open: Vec::new() }
    }

    /// What is left of `grant` at `now`. What a store forgot when it was put back from a copy at `restored` counts as
    /// given: nobody knows how much that was.
    pub fn left(&self, grant: &Grant, now: Timestamp, restored: Option<Timestamp>) -> Left {
        let restored = restored.filter(|restored| grant.lineage.created <= *restored);
        let limits = &grant.limits;
        let of_all = match limits.uses {
            Some(_) if restored.is_some() => 0,
            Some(most) => most.saturating_sub(self.given),
            None => u64::MAX,
        };
        if of_all == 0 {
            let is_held = self.open.iter().any(|open| open.is_awaited(now));
            return Left { uses: 0, again: is_held.then_some(Again::Soon) };
        }
        let Some(per) = limits.uses_per else { return Left { uses: of_all, again: None } };
        let span = per.span(grant.window.starts, now);
        // A clock that went back over a span's end gives none of it twice.
        let given = match span.cmp(&self.span) {
            std::cmp::Ordering::Less => u64::MAX,
            std::cmp::Ordering::Equal => self.given_in_span,
            std::cmp::Ordering::Greater => 0,
        };
        let begins = per.begins(grant.window.starts, span);
        let is_forgotten = restored.is_some_and(|restored| begins <= restored);
        let of_span = if is_forgotten { 0 } else { per.uses.saturating_sub(given) };
        if of_span > 0 {
            return Left { uses: of_all.min(of_span), again: None };
        }
        let is_held = self.open.iter().any(|open| open.span == span && open.is_awaited(now));
        let next = per.begins(grant.window.starts, span.saturating_add(1));
        let next = (next < grant.window.ends).then_some(Again::At(next));
        Left { uses: 0, again: if is_held { Some(Again::Soon) } else { next } }
    }

    /// Gives out `uses` as an allotment, which must be left.
    pub fn give(&mut self, grant: &Grant, now: Timestamp, allotment: OpenAllotment) {
        let span = grant.limits.uses_per.map_or(0, |per| per.span(grant.window.starts, now));
        if span != self.span {
            (self.span, self.given_in_span) = (span, 0);
        }
        self.given = self.given.saturating_add(allotment.uses);
        self.given_in_span = self.given_in_span.saturating_add(allotment.uses);
        self.open.push(OpenAllotment { span, ..allotment });
    }

    /// Makes room for one more open allotment among `most`: those that nobody waits for are spent. False: there is none.
    pub fn make_room(&mut self, most: usize, now: Timestamp) -> bool {
        if self.open.len() >= most {
            self.open.retain(|open| open.is_awaited(now));
        }
        self.open.len() < most
    }

    /// Takes back what was not spent of the open allotments that `spent` tells of. Whether any was.
    pub fn take_back(&mut self, mut spent: impl FnMut(&OpenAllotment) -> Option<u64>) -> bool {
        let before = self.open.len();
        let Self { given, span, given_in_span, open, .. } = self;
        open.retain(|one| {
            let Some(spent) = spent(one) else { return true };
            let unspent = one.uses.saturating_sub(spent);
            *given = given.saturating_sub(unspent);
            if one.span == *span {
                *given_in_span = given_in_span.saturating_sub(unspent);
            }
            false
        });
        open.len() != before
    }
}
