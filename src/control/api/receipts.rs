//! What the gateways have to show for a revision, waiting for those that are connected.

use std::time::Duration;

use tokio::sync::watch;

use super::super::actor::ControlHandle;
use super::super::fleet::{Bound, Wanted};
use super::super::model::Model;
use crate::domain::name::ResourceName;
use crate::domain::resource::MAX_AUTHORITY;
use crate::wire::v1;

/// Longest wait for gateways in one request.
const MAX_WAIT: Duration = Duration::from_secs(300);

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
    tokio::select! {
        receipts = fleet.wait(wanted, Duration::from_millis(wait_ms).min(MAX_WAIT)) => receipts,
        () = super::super::stopped(&mut stop) => fleet.receipts(wanted),
    }
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
