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
use super::scoped;
use crate::domain::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::name::{AllotmentId, GatewayName, GrantId};

/// Ledgers that one renewal changes because a gateway lacks what it was given.
const MAX_LACKING: usize = 30;
/// Ledgers that are forgotten at once.
const MAX_FORGOTTEN: usize = 20;
/// How long a gateway may keep an allotment that it does not spend.
const LIFE: Duration = Duration::from_secs(60);
/// When to ask again for what another gateway holds and may give back.
const SOON: Duration = Duration::from_secs(1);
/// Share of what is left that one gateway may have ahead of need, with all others wanting the same.
const AHEAD_SHARE: u64 = 8;
/// Open allotments per grant: more than gateways have one of.
const MAX_OPEN: usize = 256;

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
    let mut ledgers = taken_back(model, gateway, claim);
    let mut answer = Vec::new();
    for (grant, wanted) in &claim.wanted {
        let nothing = |until| Allotted { grant: *grant, allotment: None, until };
        let kept = model.grants.get(grant).map(|kept| kept.value.as_ref()).filter(|grant| grant.limits.is_counted());
        // What is not in its scope it knows nothing of, and gets nothing of.
        let kept = kept.filter(|grant| scoped::concerns(model, gateway, grant));
        let Some(counted) = kept else {
            answer.push(nothing(now.saturating_add(SOON)));
            continue;
        };
        let mut ledger = ledgers.remove(grant).unwrap_or_else(|| ledger_of(model, *grant));
        answer.push(match share(&mut ledger, counted, now, model.restored, gateways, *wanted) {
            Err(until) => nothing(until),
            Ok(uses) => {
                let (allotment, until) = (id(), void_at(counted, now));
                let (gateway, process, stream) = (gateway.clone(), claim.process.clone(), claim.stream);
                let open = OpenAllotment { id: allotment, gateway, process, stream, uses, span: 0, until };
                ledger.give(counted, now, open);
                Allotted { grant: *grant, allotment: Some((allotment, uses)), until }
            }
        });
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

fn ledger_of(model: &Model, grant: GrantId) -> Ledger {
    model.ledgers.get(&grant).map_or_else(|| Ledger::new(grant), |kept| kept.value.as_ref().clone())
}

/// The ledgers that what a gateway says of its allotments changes.
fn taken_back(model: &Model, gateway: &GatewayName, claim: &Claim) -> BTreeMap<GrantId, Ledger> {
    let spent = |grant: GrantId, open: &OpenAllotment| {
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
    let changed = |grant: GrantId| {
        let mut ledger = ledger_of(model, grant);
        ledger.take_back(|open| spent(grant, open)).then_some((grant, ledger))
    };
    let returned: BTreeSet<GrantId> = claim.returned.keys().map(|(grant, _)| *grant).collect();
    let lacking = model.allotted.get(gateway).filter(|_| claim.held.is_some()).into_iter().flatten();
    // What is too much for one transaction, the next stream finds.
    let lacking =
        lacking.filter(|grant| !returned.contains(grant)).filter_map(|grant| changed(*grant)).take(MAX_LACKING);
    returned.iter().filter_map(|grant| changed(*grant)).chain(lacking).collect()
}

/// How many uses a gateway gets that wants some now and some ahead of need.
///
/// # Errors
/// None for now: when to ask again.
fn share(
    ledger: &mut Ledger,
    counted: &Grant,
    now: Timestamp,
    restored: Option<Timestamp>,
    gateways: u64,
    (wanted, ahead): (u64, u64),
) -> Result<u64, Timestamp> {
    let left = ledger.left(counted, now, restored);
    let plenty = left.uses / gateways.max(1).saturating_mul(AHEAD_SHARE);
    match wanted.saturating_add(ahead.min(plenty)).min(left.uses) {
        0 => Err(match left.again {
            Some(Again::Soon) => now.saturating_add(SOON),
            Some(Again::At(moment)) => moment,
            None => counted.window.ends,
        }),
        _ if !ledger.make_room(MAX_OPEN, now) => Err(now.saturating_add(SOON)),
        uses => Ok(uses),
    }
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
    let mut plan = Plan::nothing(model.idle_ledgers.len() > MAX_FORGOTTEN);
    for grant in model.idle_ledgers.iter().take(MAX_FORGOTTEN) {
        plan.changes.push(Change::Delete(Record::Ledger(Ledger::new(*grant))));
    }
    plan
}

#[cfg(test)]
mod tests;
