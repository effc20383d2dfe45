//! Grants that nothing uses end: the gateways are asked, and only what all of them can say counts.
//!
//! When the last call was made under a grant stands in the gateways' evidence and nowhere else. So before one ends of disuse
//! every gateway is asked for what it recorded under it and what runs under it now. One that does not answer, or is of a
//! version that cannot, ends nothing: the grant lives, and `grant show` says who has not said. One that is away may have
//! allowed calls until its authority lapsed, and counts as if it had. What a gateway's log does not reach back to counts as
//! used until there.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::super::actor::{ControlHandle, Shared};
use super::super::disuse::{self, LastUse};
use super::super::fleet::{GatewayStatus, SLACK};
use super::super::record::Standing;
use crate::domain::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::name::GrantId;
use crate::domain::resource::MAX_AUTHORITY;
use crate::evidence::entry::Entry;
use crate::wire::{MAX_EVIDENCE_RECORDS, v1};

/// How often it is looked for grants that may have ended of disuse.
const EVERY: Duration = Duration::from_secs(1);
/// Grants that the gateways are asked about in one pass.
const MAX_ASKED: usize = 16;
/// How long to wait before a grant is asked about again that could not be decided.
const AGAIN: Duration = Duration::from_secs(60);
/// How long a gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Gateways that are asked at once.
const GATEWAYS_AT_ONCE: usize = 16;
/// Records that are looked at first, from the end of a log: what is in use is found there.
const LATELY: u32 = 5_000;
/// Answers that are read of one log in looking for the last of many records.
const MAX_PAGES: usize = 8;

/// Works until stopped.
pub(in super::super) async fn run(handle: ControlHandle, mut stop: watch::Receiver<bool>) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // When each is to be asked about next: in memory alone, since the evidence is what is known.
    let mut next: BTreeMap<GrantId, Timestamp> = BTreeMap::new();
    // When a call was last seen running under each: its end is not always found among so many records.
    let mut seen: BTreeMap<GrantId, Timestamp> = BTreeMap::new();
    loop {
        tokio::select! {
            () = super::super::stopped(&mut stop) => return,
            _ = every.tick() => {}
        }
        let (model, now) = (handle.model(), handle.shared().clock.now());
        next.retain(|id, _| model.grants.contains_key(id));
        seen.retain(|id, _| model.grants.contains_key(id));
        let due = |grant: &&Grant| disuse::may_be_due(grant, now) && next.get(&grant.id).is_none_or(|at| *at <= now);
        let live = model.watched.iter().filter_map(|id| model.grants.get(id)).map(|kept| kept.value.as_ref());
        let asked: Vec<Grant> = live.filter(due).take(MAX_ASKED).cloned().collect();
        for grant in asked {
            let found = tokio::select! {
                found = last_use(handle.shared(), &grant) => found,
                () = super::super::stopped(&mut stop) => return,
            };
            if found.running {
                seen.insert(grant.id, now);
            }
            let found = LastUse { at: found.at.max(seen.get(&grant.id).copied()), ..found };
            let again = settled(&handle, &grant, &found, now).await;
            next.insert(grant.id, again);
        }
    }
}

/// Ends it, or says when it is to be asked about again.
async fn settled(handle: &ControlHandle, grant: &Grant, found: &LastUse, now: Timestamp) -> Timestamp {
    if let Some((gateway, why)) = found.missing.iter().next() {
        tracing::warn!(grant = %grant.id, %gateway, %why, "whether a grant is in use cannot be said: it does not end of disuse");
        return now.saturating_add(AGAIN);
    }
    match disuse::ends(grant, found, now) {
        Err(at) => at,
        Ok(why) => {
            if let Err(error) = handle.end_unused(grant.id, why).await {
                tracing::warn!(%error, grant = %grant.id, "a grant that nothing uses could not be ended yet");
            }
            now.saturating_add(AGAIN)
        }
    }
}

/// When a call was last made under a grant, as far as the gateways say.
pub(super) async fn last_use(shared: &Shared, grant: &Grant) -> LastUse {
    let gateways = shared.fleet.status();
    let asked = futures_util::stream::iter(gateways).map(|gateway| ask(shared, grant, gateway));
    asked.buffer_unordered(GATEWAYS_AT_ONCE).fold(LastUse::default(), |all, one| async { all.and(one) }).await
}

async fn ask(shared: &Shared, grant: &Grant, gateway: GatewayStatus) -> LastUse {
    let standing = shared.model.load().gateways.get(&gateway.name).map(|kept| kept.value.standing);
    if !gateway.connected || standing == Some(Standing::Expelled) {
        // Whatever it did, it did before its authority was too old for any resource.
        let until = gateway.answered.saturating_add(MAX_AUTHORITY.duration()).saturating_add(SLACK);
        return LastUse { unknown_until: Some(until.min(shared.clock.now())), ..LastUse::default() };
    }
    let missing =
        |why: String| LastUse { missing: BTreeMap::from([(gateway.name.clone(), why)]), ..LastUse::default() };
    let lately = match answered(shared, grant, &gateway, None, LATELY).await {
        Ok(answer) => answer,
        Err(why) => return missing(why),
    };
    let Some(running) = lately.running else { return missing("it is of a version that cannot say".to_owned()) };
    let mut at = newest(&lately);
    let mut pages = 0;
    // Not among the latest: the log is asked from its beginning, by its index. Of more of the latest than one answer holds the
    // oldest came: the newest is behind them.
    let mut after = match at {
        None => Some(0),
        Some(_) => (lately.reached < lately.size).then_some(lately.reached),
    };
    while let Some(from) = after.filter(|_| pages < MAX_PAGES) {
        pages += 1;
        match answered(shared, grant, &gateway, (from > 0).then_some(from), 0).await {
            Ok(page) => {
                at = at.max(newest(&page));
                after = (page.reached < page.size).then_some(page.reached);
            }
            Err(why) => return missing(why),
        }
    }
    if after.is_some() {
        return LastUse { at, ..missing("its log holds more of it than is read at once".to_owned()) };
    }
    let oldest = Timestamp::from_unix_micros(lately.oldest_unix_us);
    let reaches = oldest <= grant.lineage.created;
    let unknown_until = if reaches { None } else { Some(oldest.min(shared.clock.now())) };
    LastUse { at, running: running > 0, unknown_until, missing: BTreeMap::new() }
}

/// Of the records that came, when the last was written.
fn newest(answer: &v1::EvidenceAnswer) -> Option<Timestamp> {
    answer.records.iter().filter_map(|record| Entry::place(record)).map(|(_, at)| at).max()
}

async fn answered(
    shared: &Shared,
    grant: &Grant,
    gateway: &GatewayStatus,
    after: Option<u64>,
    last: u32,
) -> Result<v1::EvidenceAnswer, String> {
    let filter = v1::EvidenceFilter { grant: grant.id.bits().to_be_bytes().to_vec(), ..v1::EvidenceFilter::default() };
    let question = v1::EvidenceQuestion { number: 0, filter: Some(filter), limit: MAX_EVIDENCE_RECORDS, after, last };
    let mut under_way = shared.standing_by.ask(&gateway.name, question).map_err(|why| why.to_string())?;
    match tokio::time::timeout(PATIENCE, &mut under_way.answer).await {
        Err(_) => Err(format!("it did not answer within {} s", PATIENCE.as_secs())),
        Ok(Err(_)) => Err("it went away".to_owned()),
        Ok(Ok(answer)) if !answer.fault.is_empty() => Err(answer.fault),
        Ok(Ok(answer)) => Ok(answer),
    }
}

#[cfg(test)]
mod tests;
