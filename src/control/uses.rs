//! Uses of counted grants: given out to gateways in allotments, and taken back.
//!
//! INVARIANT: what is given out is stored before a gateway hears of it, and comes back once, from the very process that
//! has it. So whatever is lost on the way, with a process or with a disk, is spent: no use is ever there twice.
//! Planning only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::model::Model;
use super::plan::{Audience, Plan};
use super::record::ledger::{Again, Ledger, OpenAllotment};
use super::record::{Change, Record};
use crate::domain::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::name::{AllotmentId, GatewayName, GrantId};

/// Grants that one renewal may ask for, and as many that it may give back of.
pub(super) const MAX_CLAIMED: usize = 20;
/// How long a gateway may keep an allotment that it does not spend.
const LIFE: Duration = Duration::from_secs(60);
/// When to ask again for what another gateway holds and may give back.
const SOON: Duration = Duration::from_secs(1);
/// Share of what is left that one gateway may have ahead of need, with all others wanting the same.
const AHEAD_SHARE: u64 = 8;
/// Open allotments per grant: the oldest one counts as spent then.
const MAX_OPEN: usize = 64;

/// What a renewal says of uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claim {
    /// The process.
    pub(super) process: String,
    /// The stream.
    pub(super) stream: u64,
    /// By grant: how many are waited for, and how many more would be welcome.
    pub(super) wanted: BTreeMap<GrantId, (u64, u64)>,
    /// By grant and allotment: how many were spent of what is given back.
    pub(super) returned: BTreeMap<(GrantId, AllotmentId), u64>,
    /// All that it has; `None` where it does not say.
    pub(super) held: Option<BTreeSet<AllotmentId>>,
}

impl Claim {
    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self, model: &Model, gateway: &GatewayName) -> bool {
        let may_lack = self.held.is_some() && model.allotted.contains_key(gateway);
        self.wanted.is_empty() && self.returned.is_empty() && !may_lack
    }
}

/// The answer for one grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allotted {
    /// The grant.
    pub(super) grant: GrantId,
    /// The allotment; `None` for no uses.
    pub(super) allotment: Option<(AllotmentId, u64)>,
    /// When it is void, or when to ask again.
    pub(super) until: Timestamp,
}

/// Takes back what a gateway gives back, and gives out what it wants of what is left. `gateways` is how many may want
/// the same; `id` draws identifiers.
pub(super) fn plan_claim(
    model: &Model,
    now: Timestamp,
    gateway: &GatewayName,
    gateways: u64,
    claim: &Claim,
    mut id: impl FnMut() -> AllotmentId,
) -> Plan<Vec<Allotted>> {
    let mut ledgers: BTreeMap<GrantId, Ledger> = BTreeMap::new();
    let mut concerned: BTreeSet<GrantId> = claim.returned.keys().map(|(grant, _)| *grant).collect();
    if claim.held.is_some() {
        concerned.extend(model.allotted.get(gateway).into_iter().flatten().take(MAX_CLAIMED));
    }
    for grant in concerned {
        let Some(kept) = model.ledgers.get(&grant) else { continue };
        let mut ledger = kept.value.as_ref().clone();
        let spent = |open: &OpenAllotment| {
            if open.gateway != *gateway {
                return None;
            }
            if open.process != claim.process {
                // Another process took its place: what that one had is spent, for all that anybody can know.
                return claim.held.is_some().then_some(open.uses);
            }
            let returned = claim.returned.get(&(grant, open.id)).copied();
            // What it was given on an earlier stream and does not have never came, and cannot come any more.
            let never_came = |held: &BTreeSet<AllotmentId>| open.stream < claim.stream && !held.contains(&open.id);
            returned.or_else(|| claim.held.as_ref().is_some_and(never_came).then_some(0))
        };
        if ledger.take_back(spent) {
            ledgers.insert(grant, ledger);
        }
    }
    let mut answer = Vec::new();
    for (grant, (uses, ahead)) in &claim.wanted {
        let kept = model.grants.get(grant).map(|kept| kept.value.as_ref()).filter(|grant| grant.limits.is_counted());
        let Some(counted) = kept else {
            answer.push(Allotted { grant: *grant, allotment: None, until: now.saturating_add(SOON) });
            continue;
        };
        let stored =
            || model.ledgers.get(grant).map_or_else(|| Ledger::new(*grant), |kept| kept.value.as_ref().clone());
        let mut ledger = ledgers.remove(grant).unwrap_or_else(stored);
        let left = ledger.left(counted, now, model.restored);
        let plenty = left.uses / gateways.max(1).saturating_mul(AHEAD_SHARE);
        let uses = uses.saturating_add((*ahead).min(plenty)).min(left.uses);
        if uses == 0 {
            let until = match left.again {
                Some(Again::Soon) => now.saturating_add(SOON),
                Some(Again::At(moment)) => moment,
                None => counted.window.ends,
            };
            answer.push(Allotted { grant: *grant, allotment: None, until });
        } else {
            let allotment = id();
            let (process, stream) = (claim.process.clone(), claim.stream);
            let open = OpenAllotment { id: allotment, gateway: gateway.clone(), process, stream, uses, span: 0 };
            ledger.give(counted, now, open);
            let over = ledger.open.len().saturating_sub(MAX_OPEN);
            ledger.open.drain(..over);
            let until = void_at(counted, now);
            answer.push(Allotted { grant: *grant, allotment: Some((allotment, uses)), until });
        }
        ledgers.insert(*grant, ledger);
    }
    let unchanged = |ledger: &Ledger| match model.ledgers.get(&ledger.grant) {
        Some(kept) => *kept.value == *ledger,
        None => ledger.given == 0,
    };
    let changes = ledgers.into_values().filter(|ledger| !unchanged(ledger));
    let changes = changes.map(|ledger| Change::Put(Record::Ledger(ledger))).collect();
    Plan { changes, events: Vec::new(), audience: Audience::Control, answer }
}

/// What is given for a span is void with it.
fn void_at(grant: &Grant, now: Timestamp) -> Timestamp {
    let until = now.saturating_add(LIFE).min(grant.window.ends);
    let starts = grant.window.starts;
    let next = grant.limits.uses_per.map(|per| per.begins(starts, per.span(starts, now).saturating_add(1)));
    next.map_or(until, |next| until.min(next))
}

/// Forgets the ledgers of grants that have ended, a bounded number at once. The answer: whether there may be more.
pub(super) fn plan_forget_ledgers(model: &Model, _now: Timestamp) -> Plan<bool> {
    let mut plan = Plan::nothing(model.idle_ledgers.len() > MAX_CLAIMED);
    for grant in model.idle_ledgers.iter().take(MAX_CLAIMED) {
        plan.changes.push(Change::Delete(Record::Ledger(Ledger::new(*grant))));
    }
    plan
}

#[cfg(test)]
mod tests;
