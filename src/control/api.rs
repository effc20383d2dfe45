//! The gRPC API: who calls, whether they may, and the services behind.
//!
//! Messages are turned into commands and answers here and nowhere else. Every request passes [`Identifier`] first, health and
//! reflection included: who is not known gets nothing.

mod access;
mod catalog;
mod error;
mod fleet;
mod identify;
mod push;
mod receipts;
mod server;

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tonic::{Request, Status};

use super::actor::ControlHandle;
use super::authorize::{Caller, Denied, Operation, authorize};
use super::record::Standing;
use crate::domain::name::{GatewayName, OwnerName};
use push::Shown;

pub(super) use error::ApiError;
#[cfg(test)]
pub(super) use identify::gateway_name;
pub(super) use server::Api;
pub use server::ApiStartError;

/// Who made a request, as [`Identifier`] found.
pub(super) fn caller_of<T>(request: &Request<T>) -> Option<Caller> {
    request.extensions().get::<Caller>().cloned()
}

/// The caller, when they may do `operation`; a denial is recorded.
pub(super) async fn authorized<T>(
    handle: &ControlHandle,
    request: &Request<T>,
    operation: Operation,
    owner: Option<&OwnerName>,
) -> Result<Caller, Status> {
    let caller = caller_of(request).ok_or_else(ApiError::unauthenticated)?;
    if let Caller::Gateway(name) = &caller
        && is_expelled(handle, name)
    {
        handle.shared().metrics.denied.inc();
        return Err(ApiError::denied(format!("gateway {name} was expelled")).into());
    }
    match authorize(&caller, operation, owner) {
        Ok(()) => Ok(caller),
        Err(denied) => {
            handle.shared().metrics.denied.inc();
            record(handle, &caller, &denied).await;
            Err(ApiError::denied(denied.to_string()).into())
        }
    }
}

/// A gateway that was expelled may nothing any more.
fn is_expelled(handle: &ControlHandle, name: &GatewayName) -> bool {
    let model = handle.model();
    model.gateways.get(name).is_none_or(|kept| kept.value.standing == Standing::Expelled)
}

/// Records a denial, so far as the budget goes. The answer does not depend on it: it is a refusal either way.
async fn record(handle: &ControlHandle, caller: &Caller, denied: &Denied) {
    let Some(suppressed) = handle.shared().budgets.denial(handle.shared().clock.since_boot()) else { return };
    if let Err(error) = handle.note_denied(caller, denied, suppressed).await {
        tracing::warn!(%error, %denied, "a denial could not be recorded");
    }
}

/// Denials recorded per minute: a caller in a loop must not fill the store.
const DENIALS_PER_MINUTE: u64 = 60;
/// Faults of one gateway's log that are recorded per minute: each has its own, so that nobody hides another's.
const ALARMS_PER_MINUTE: u64 = 6;
/// Requests for access that one caller may make per minute: each is kept, those that policy refuses too.
const REQUESTS_PER_MINUTE: u64 = 600;

/// How many denials may still be recorded, and how many faults of each gateway's log.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    denials: Mutex<Budget>,
    alarms: Mutex<BTreeMap<(GatewayName, Shown), Budget>>,
    requests: Mutex<BTreeMap<String, Budget>>,
}

impl Budgets {
    /// Takes a denial, `now` being since boot. `Some`: with how many were not recorded since the last one that was.
    fn denial(&self, now: Duration) -> Option<u64> {
        self.denials.lock().spend(DENIALS_PER_MINUTE, now)
    }

    /// Whether a caller, who is known, may make another request.
    fn request(&self, caller: &Caller, now: Duration) -> bool {
        self.requests.lock().entry(caller.to_string()).or_default().spend(REQUESTS_PER_MINUTE, now).is_some()
    }

    /// The same of a gateway, which is recorded: there is no end of names otherwise. Who has its certificate alone hides
    /// nothing of what is known by its key.
    fn alarm(&self, gateway: &GatewayName, shown: Shown, now: Duration) -> Option<u64> {
        self.alarms.lock().entry((gateway.clone(), shown)).or_default().spend(ALARMS_PER_MINUTE, now)
    }
}

#[derive(Debug, Default)]
struct Budget {
    since: Duration,
    spent: u64,
    suppressed: u64,
}

impl Budget {
    fn spend(&mut self, per_minute: u64, now: Duration) -> Option<u64> {
        if now.saturating_sub(self.since) >= Duration::from_secs(60) {
            (self.since, self.spent) = (now, 0);
        }
        if self.spent >= per_minute {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.spent += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod budget {
    use super::*;

    #[test]
    fn denials_are_recorded_up_to_a_rate_and_the_rest_counted() {
        let budgets = Budgets::default();
        let now = Duration::from_secs(1000);
        let recorded = (0..1000).filter(|_| budgets.denial(now).is_some()).count();
        assert_eq!(recorded, 60);
        let later = now.saturating_add(Duration::from_secs(60));
        assert_eq!(budgets.denial(later), Some(940));
        assert_eq!(budgets.denial(later), Some(0));
    }

    #[test]
    fn a_caller_in_a_loop_makes_no_end_of_requests_and_keeps_nobody_else_from_one() {
        let budgets = Budgets::default();
        let (now, loops, other) = (
            Duration::from_secs(1000),
            Caller::Identity("loops".parse().unwrap()),
            Caller::Identity("other".parse().unwrap()),
        );
        assert_eq!((0..10_000).filter(|_| budgets.request(&loops, now)).count(), 600);
        assert!(budgets.request(&other, now));
        assert!(budgets.request(&loops, now.saturating_add(Duration::from_secs(60))));
    }

    #[test]
    fn neither_denials_nor_another_gateway_hide_a_fault_of_a_log() {
        let budgets = Budgets::default();
        let now = Duration::from_secs(1000);
        let (one, two) = ("one".parse().unwrap(), "two".parse().unwrap());
        while budgets.denial(now).is_some() {}
        assert_eq!((0..10).filter(|_| budgets.alarm(&one, Shown::Certificate, now).is_some()).count(), 6);
        assert_eq!(budgets.alarm(&two, Shown::Certificate, now), Some(0));
        assert_eq!(budgets.alarm(&one, Shown::EvidenceKey, now), Some(0), "nor whoever has its certificate alone");
        assert_eq!(budgets.alarm(&one, Shown::Certificate, now.saturating_add(Duration::from_secs(60))), Some(4));
    }
}
