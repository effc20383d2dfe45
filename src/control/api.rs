//! The gRPC API: who calls, whether they may, and the services behind.
//!
//! Messages are turned into commands and answers here and nowhere else. Every request passes [`Identifier`] first, health and
//! reflection included: who is not known gets nothing.

mod access;
mod catalog;
pub(super) mod disuse;
mod ended;
mod error;
mod evidence;
mod fleet;
mod identify;
mod json;
mod push;
mod receipts;
pub(super) mod reconsidering;
mod server;

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tonic::{Request, Status};

use super::actor::ControlHandle;
use super::authorize::{Caller, Denied, Operation, authorize, may_enforcement_point};
use super::record::Standing;
use crate::domain::identity::{Capability, IdentityState};
use crate::domain::name::{GatewayName, IdentityName, OwnerName};
use push::Shown;

pub(super) use error::ApiError;
pub(super) use evidence::EvidenceService;
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
    let enforces = matches!(&caller, Caller::Identity(name) if is_enforcement_point(handle, name));
    match authorize(&caller, operation, owner) {
        Ok(()) => Ok(caller),
        Err(_) if enforces && may_enforcement_point(operation) => Ok(caller),
        Err(denied) => {
            handle.shared().metrics.denied.inc();
            record(handle, &caller, &denied).await;
            Err(ApiError::denied(denied.to_string()).into())
        }
    }
}

/// An identity of whose document it says now that it enforces access, and that may act.
fn is_enforcement_point(handle: &ControlHandle, name: &IdentityName) -> bool {
    let model = handle.model();
    model.identities.get(name).is_some_and(|kept| {
        kept.value.state == IdentityState::Active && kept.value.spec.capabilities.contains(&Capability::Evaluate)
    })
}

/// A gateway that was expelled may nothing any more.
fn is_expelled(handle: &ControlHandle, name: &GatewayName) -> bool {
    let model = handle.model();
    model.gateways.get(name).is_none_or(|kept| kept.value.standing == Standing::Expelled)
}

/// Records a denial, so far as the budget goes. The answer does not depend on it: it is a refusal either way.
async fn record(handle: &ControlHandle, caller: &Caller, denied: &Denied) {
    let now = handle.shared().clock.since_boot();
    let Some(suppressed) = handle.shared().budgets.denial(caller, now) else { return };
    if let Err(error) = handle.note_denied(caller, denied, suppressed).await {
        tracing::warn!(%error, %denied, "a denial could not be recorded");
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// Denials of one caller that are recorded per minute: one in a loop must not fill the store, nor silence another's.
const DENIALS_PER_MINUTE: u64 = 60;
/// Faults of one gateway's log that are recorded per minute: each has its own, so that nobody hides another's.
const ALARMS_PER_MINUTE: u64 = 6;
/// Requests for access that one caller may make per minute: each is kept, those that policy refuses too.
const REQUESTS_PER_MINUTE: u64 = 30;
/// The same per day.
const REQUESTS_PER_DAY: u64 = 2_000;
/// Times that one caller may look at requests per minute: an open one is analysed anew each time.
const LOOKS_PER_MINUTE: u64 = 1_200;
/// Callers whose budgets are remembered. Past them the others share one.
const MAX_CALLERS: usize = 10_000;

/// What callers may still do, and how many faults of each gateway's log are recorded.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    denials: Mutex<EachCaller>,
    alarms: Mutex<BTreeMap<(GatewayName, Shown), Budget>>,
    requests: Mutex<(EachCaller, EachCaller)>,
    looks: Mutex<EachCaller>,
}

impl Budgets {
    /// Takes a denial, `now` being since boot. `Some`: with how many of the caller were not recorded since the last one
    /// that was.
    fn denial(&self, caller: &Caller, now: Duration) -> Option<u64> {
        self.denials.lock().spend(caller, DENIALS_PER_MINUTE, MINUTE, now)
    }

    /// Whether a caller may make another request.
    fn request(&self, caller: &Caller, now: Duration) -> bool {
        let (minute, day) = &mut *self.requests.lock();
        minute.spend(caller, REQUESTS_PER_MINUTE, MINUTE, now).is_some()
            && day.spend(caller, REQUESTS_PER_DAY, DAY, now).is_some()
    }

    /// Whether a caller may look at requests once more.
    fn look(&self, caller: &Caller, now: Duration) -> bool {
        self.looks.lock().spend(caller, LOOKS_PER_MINUTE, MINUTE, now).is_some()
    }

    /// The same of a gateway, which is recorded: there is no end of names otherwise. Who has its certificate alone hides
    /// nothing of what is known by its key.
    fn alarm(&self, gateway: &GatewayName, shown: Shown, now: Duration) -> Option<u64> {
        self.alarms.lock().entry((gateway.clone(), shown)).or_default().spend(ALARMS_PER_MINUTE, MINUTE, now)
    }
}

/// A budget for each caller, as far as they are remembered.
#[derive(Debug, Default)]
struct EachCaller {
    each: BTreeMap<String, Budget>,
    others: Budget,
}

impl EachCaller {
    fn spend(&mut self, caller: &Caller, most: u64, within: Duration, now: Duration) -> Option<u64> {
        let name = caller.to_string();
        if !self.each.contains_key(&name) && self.each.len() >= MAX_CALLERS {
            self.each.retain(|_, budget| now.saturating_sub(budget.since) < within);
            if self.each.len() >= MAX_CALLERS {
                return self.others.spend(most, within, now);
            }
        }
        self.each.entry(name).or_default().spend(most, within, now)
    }
}

#[derive(Debug, Default)]
struct Budget {
    since: Duration,
    spent: u64,
    suppressed: u64,
}

impl Budget {
    fn spend(&mut self, most: u64, within: Duration, now: Duration) -> Option<u64> {
        if now.saturating_sub(self.since) >= within {
            (self.since, self.spent) = (now, 0);
        }
        if self.spent >= most {
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

    fn identity(name: &str) -> Caller {
        Caller::Identity(name.parse().unwrap())
    }

    #[test]
    fn denials_are_recorded_up_to_a_rate_the_rest_counted_and_nobody_silences_another() {
        let budgets = Budgets::default();
        let (now, loops) = (Duration::from_secs(1000), identity("loops"));
        let recorded = (0..1000).filter(|_| budgets.denial(&loops, now).is_some()).count();
        assert_eq!(recorded, 60);
        assert_eq!(budgets.denial(&identity("other"), now), Some(0));
        let later = now.saturating_add(Duration::from_secs(60));
        assert_eq!(budgets.denial(&loops, later), Some(940));
        assert_eq!(budgets.denial(&loops, later), Some(0));
    }

    #[test]
    fn callers_beyond_those_remembered_share_a_budget_and_room_is_made_of_those_that_are_over() {
        let budgets = Budgets::default();
        let now = Duration::from_secs(1000);
        for number in 0..MAX_CALLERS {
            assert_eq!(budgets.denial(&identity(&format!("i{number}")), now), Some(0));
        }
        let more = (0..100).filter(|number| budgets.denial(&identity(&format!("more{number}")), now).is_some()).count();
        assert_eq!(more, 60);
        assert_eq!(budgets.denials.lock().each.len(), MAX_CALLERS);
        assert_eq!(budgets.denial(&identity("late"), now + MINUTE), Some(0));
        assert_eq!(budgets.denials.lock().each.len(), 1);
    }

    #[test]
    fn a_caller_in_a_loop_makes_no_end_of_requests_and_keeps_nobody_else_from_one() {
        let budgets = Budgets::default();
        let (now, loops) = (Duration::from_secs(1000), identity("loops"));
        assert_eq!((0..10_000).filter(|_| budgets.request(&loops, now)).count(), 30);
        assert!(budgets.request(&identity("other"), now));
        assert!(budgets.request(&loops, now + MINUTE));
        let day = (2..1400).map(|minute| now + MINUTE * minute);
        let made = day.map(|now| (0..30).filter(|_| budgets.request(&loops, now)).count()).sum::<usize>();
        assert_eq!(made, 2_000 - 31);
        assert_eq!((0..10_000).filter(|_| budgets.look(&loops, now)).count(), 1_200);
    }

    #[test]
    fn neither_denials_nor_another_gateway_hide_a_fault_of_a_log() {
        let budgets = Budgets::default();
        let now = Duration::from_secs(1000);
        let (one, two) = ("one".parse().unwrap(), "two".parse().unwrap());
        while budgets.denial(&identity("loops"), now).is_some() {}
        assert_eq!((0..10).filter(|_| budgets.alarm(&one, Shown::Certificate, now).is_some()).count(), 6);
        assert_eq!(budgets.alarm(&two, Shown::Certificate, now), Some(0));
        assert_eq!(budgets.alarm(&one, Shown::EvidenceKey, now), Some(0), "nor whoever has its certificate alone");
        assert_eq!(budgets.alarm(&one, Shown::Certificate, now.saturating_add(Duration::from_secs(60))), Some(4));
    }
}
