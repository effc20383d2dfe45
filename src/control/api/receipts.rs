//! What the gateways have to show for a revision, waiting for those that are connected.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;

use super::super::actor::ControlHandle;
use super::super::fleet::{Bound, Cuts, Wanted};
use super::super::model::Model;
use super::push::MAX_LAG;
use crate::domain::Reason;
use crate::domain::grant::Grant;
use crate::domain::name::ResourceName;
use crate::domain::resource::MAX_AUTHORITY;
use crate::wire::v1;

/// Longest wait for gateways in one request.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// Bytes of receipts in one answer: half of what a client reads.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// What every gateway has to show for these grants, waiting for those that are connected. What was done about them was
/// done in the first of the revisions, and in those up to the second.
pub(super) async fn of_grants(
    handle: &ControlHandle,
    (cuts_from, revision): (u64, u64),
    grants: &[Grant],
    wait_ms: u64,
    stop: &watch::Receiver<bool>,
) -> Vec<v1::GatewayReceipt> {
    let model = handle.model();
    let about: BTreeSet<_> = grants.iter().map(|grant| grant.resource.clone()).collect();
    let bounds = about.iter().map(|name| bound(&model, name)).collect();
    let cuts = Cuts::Of(grants.iter().map(|grant| grant.id).collect());
    let wanted = Wanted { revision, cuts_from, cuts, bounds, lag: MAX_LAG, about: Some(about) };
    wait(handle, &wanted, wait_ms, stop).await
}

/// The same for an identity that got its state in the first of the revisions. It may have been let through on any
/// resource, also where no grant of it is left. Of two that were set aside at once, each receipt tells the calls of both.
pub(super) async fn of_state(
    handle: &ControlHandle,
    (cuts_from, revision): (u64, u64),
    wait_ms: u64,
    stop: &watch::Receiver<bool>,
) -> Vec<v1::GatewayReceipt> {
    let model = handle.model();
    let bounds = model.resources.keys().map(|name| bound(&model, name)).collect();
    let cuts = Cuts::For(Reason::IdentityInactive.code());
    let wanted = Wanted { revision, cuts_from, cuts, bounds, lag: MAX_LAG, about: None };
    wait(handle, &wanted, wait_ms, stop).await
}

/// What every gateway has to show, when all that are connected have, or when the time is over, or the process is about to
/// end.
pub(super) async fn wait(
    handle: &ControlHandle,
    wanted: &Wanted,
    wait_ms: u64,
    stop: &watch::Receiver<bool>,
) -> Vec<v1::GatewayReceipt> {
    let fleet = handle.fleet();
    let mut stop = stop.clone();
    let receipts = tokio::select! {
        receipts = fleet.wait(wanted, Duration::from_millis(wait_ms).min(MAX_WAIT)) => receipts,
        () = super::super::stopped(&mut stop) => fleet.receipts(wanted),
    };
    bounded(receipts, MAX_ANSWER_BYTES)
}

/// As much as an answer holds. The longest receipts lose their lists first, and then their statements: where each gateway
/// stands is always told.
fn bounded(mut receipts: Vec<v1::GatewayReceipt>, max: usize) -> Vec<v1::GatewayReceipt> {
    let mut total: usize = receipts.iter().map(prost::Message::encoded_len).sum();
    let lists = |receipt: &mut v1::GatewayReceipt| {
        let calls = u64::try_from(std::mem::take(&mut receipt.cut).len()).unwrap_or(u64::MAX);
        receipt.unlisted = receipt.unlisted.saturating_add(calls);
    };
    let statements = |receipt: &mut v1::GatewayReceipt| {
        receipt.statement = None;
        receipt.statement_key.clear();
    };
    for shorten in [&lists as &dyn Fn(&mut v1::GatewayReceipt), &statements] {
        let mut longest: Vec<&mut v1::GatewayReceipt> = receipts.iter_mut().collect();
        longest.sort_by_key(|receipt| std::cmp::Reverse(prost::Message::encoded_len(&**receipt)));
        for receipt in longest {
            if total <= max {
                return receipts;
            }
            total -= prost::Message::encoded_len(receipt);
            shorten(receipt);
            total += prost::Message::encoded_len(receipt);
        }
    }
    receipts
}

/// How old authority may be for a resource; of one that is not there nothing is known.
pub(super) fn bound(model: &Model, name: &ResourceName) -> Bound {
    let Some(kept) = model.resources.get(name) else {
        let longest = MAX_AUTHORITY.duration();
        return Bound { since: u64::MAX, now: longest, longest };
    };
    let now = kept.value.spec.authority;
    let longest = model.longest.get(name).map_or(now, |longest| now.max(*longest));
    Bound { since: kept.revision, now: now.duration(), longest: longest.duration() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_bounded_and_tells_of_every_gateway_and_every_call() {
        let receipt = |place: usize| v1::GatewayReceipt {
            gateway: format!("edge-{place}"),
            cut: vec![v1::CutCallInfo { call_id: vec![1; 16], ..Default::default() }; 100 * place],
            statement: Some(v1::Signed { payload: vec![0; 5_000], signature: Vec::new() }),
            ..Default::default()
        };
        let all: Vec<_> = (0..20).map(receipt).collect();
        let size = |receipts: &[v1::GatewayReceipt]| receipts.iter().map(prost::Message::encoded_len).sum::<usize>();
        let calls = |receipts: &[v1::GatewayReceipt]| -> u64 {
            receipts.iter().map(|receipt| receipt.cut.len() as u64 + receipt.unlisted).sum()
        };
        for max in [1_000_000, 150_000, 50_000, 1_000] {
            let answer = bounded(all.clone(), max);
            assert!(size(&answer) <= max, "{} of {max}", size(&answer));
            assert_eq!((answer.len(), calls(&answer)), (20, 19_000));
        }
        assert_eq!(bounded(all.clone(), 150_000).iter().filter(|receipt| receipt.statement.is_none()).count(), 0);
        assert_eq!(bounded(all.clone(), usize::MAX), all);
    }
}
