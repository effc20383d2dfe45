//! What an auditor is told, from logs that were made for it: nothing is counted that was no access, and nothing left unsaid.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::domain::Clock as _;
use crate::domain::clock::ManualClock;
use crate::evidence::checkpoint::EvidenceKey;
use crate::evidence::entry::{Ending, Intent};
use crate::evidence::journal::tests::{clock, completed, intent, origin, small, writer};
use crate::evidence::retention::{Bounds, Policy};
use crate::evidence::sequencer::{CHECKPOINT, read_note};
use crate::evidence::storage::{FakeStorage, Persist, Storage as _};
use crate::evidence::{COSIGNED, EvidenceLog};

/// A log that is written, on a clock that the test owns.
struct Written {
    log: EvidenceLog,
    disk: FakeStorage,
    clock: Arc<ManualClock>,
}

impl Written {
    fn new() -> Self {
        let (disk, clock) = (FakeStorage::new(), clock());
        let key = EvidenceKey::generate().unwrap().0;
        let opened = EvidenceLog::open_in(Arc::new(disk.clone()), origin(), key, &writer(), small(), clock.clone());
        Self { log: opened.unwrap().0, disk, clock }
    }

    fn at(&self) -> Timestamp {
        self.clock.now()
    }

    fn later(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    fn change(&self, operation: &str, id: u128, after: Option<Value>) {
        let change = Change {
            revision: 1,
            actor: std::borrow::Cow::Owned("alice".parse().unwrap()),
            operation: operation.to_owned().into(),
            object_kind: "grant".into(),
            object: GrantId::from_bits(id).to_string().into(),
            before_digest: None,
            after: after.map(std::borrow::Cow::Owned),
            reason: Some("a reason".into()),
        };
        let ticket = self.log.journal().append(&Event::Change(Box::new(change))).unwrap();
        self.log.journal().durable_blocking(ticket).unwrap();
    }

    fn grant(&self, id: u128, seconds: u64) -> Value {
        let (starts, ends) = (self.at(), self.at().saturating_add(Duration::from_secs(seconds)));
        let lineage = json!({ "created_by": "alice", "reason": "r", "created": starts });
        json!({ "grant": {
            "id": GrantId::from_bits(id), "identity": "billing", "resource": "api/orders", "actions": ["read"],
            "window": { "starts": starts, "ends": ends }, "lineage": lineage,
        } })
    }

    /// A call under a grant, and how it ended.
    fn call(&self, n: u64, id: u128, ending: Option<Ending>) {
        let call = Intent { basis: crate::evidence::entry::Basis::Grant(GrantId::from_bits(id)), ..intent(n) };
        let (ticket, room) = self.log.journal().intent(&call).unwrap();
        self.log.journal().durable_blocking(ticket).unwrap();
        match ending {
            Some(ending) => room.record(ending),
            // Its end is not recorded while the test looks.
            None => std::mem::forget(room),
        }
        self.log.journal().flush().unwrap();
    }

    fn named(&self, name: &str) -> Log {
        Log { name: name.to_owned(), storage: Arc::new(self.disk.clone()) }
    }
}

fn told(span: Span, control: &Written, gateway: &Written) -> Accesses {
    access(&"api/orders".parse().unwrap(), span, &control.named("control"), &[gateway.named("edge")]).unwrap()
}

const ALL: Span = Span { from: None, to: None };

fn unsent() -> Ending {
    Ending { upstream_started: false, status: Some(502), ..completed() }
}

#[test]
fn what_was_never_sent_is_no_access_and_what_nobody_knows_of_is() {
    let (control, gateway) = (Written::new(), Written::new());
    control.change("grant.created", 9, Some(control.grant(9, 600)));
    gateway.call(1, 9, Some(completed()));
    gateway.call(2, 9, Some(unsent()));
    gateway.call(3, 9, None);
    let used = told(ALL, &control, &gateway).grants.remove(0).used;
    assert_eq!((used.calls, used.never_sent, used.late), (2, 1, 0));
    // One that ends after the span is judged by its end.
    let (gateway, begun) = (Written::new(), gateway.at());
    let (ticket, room) = gateway.log.journal().intent(&intent(4)).unwrap();
    gateway.log.journal().durable_blocking(ticket).unwrap();
    gateway.later(60);
    room.record(unsent());
    gateway.log.journal().flush().unwrap();
    let span = Span { from: None, to: Some(begun.saturating_add(Duration::from_secs(30))) };
    let used = told(span, &control, &gateway).grants.remove(0).used;
    assert_eq!((used.calls, used.first, used.never_sent), (0, None, 1));
}

#[test]
fn a_late_call_is_listed_under_a_grant_that_ended_before_the_span_and_by_the_revocations_own_time() {
    let (control, gateway) = (Written::new(), Written::new());
    let mut grant = control.grant(9, 3600);
    control.change("grant.created", 9, Some(grant.clone()));
    control.later(10);
    gateway.later(10);
    let revoked = control.at();
    gateway.call(1, 9, Some(completed()));
    grant["grant"]["revoked"] = json!({ "at": revoked, "by": "alice", "reason": "r" });
    // It is recorded long after.
    control.later(100);
    control.change("grant.revoked", 9, Some(grant));
    gateway.later(50);
    let span = Span { from: Some(gateway.at()), to: None };
    assert_eq!(told(span, &control, &gateway).grants, [], "over before it began, and nothing was done");
    gateway.call(2, 9, Some(completed()));
    let [held] = &told(span, &control, &gateway).grants[..] else { panic!("one grant") };
    let end = held.ended.as_ref().unwrap();
    assert_eq!((end.at, end.how.as_str()), (revoked, "revoked"), "not when it was recorded");
    assert_eq!((held.used.calls, held.used.late), (1, 1));
    let all = told(ALL, &control, &gateway).grants.remove(0).used;
    assert_eq!((all.calls, all.late), (2, 2), "the first began at that moment");
}

#[test]
fn calls_under_grants_that_the_log_does_not_tell_of_any_more_are_listed_and_the_gap_is_said() {
    let (control, gateway) = (Written::new(), Written::new());
    control.change("grant.created", 7, Some(control.grant(7, 3600)));
    let known = control.grant(8, 3600);
    control.change("grant.created", 8, Some(known.clone()));
    for n in 0..400 {
        control.change("identity.applied", n, Some(json!({ "fill": "x".repeat(100) })));
    }
    control.later(60);
    gateway.later(60);
    let span = Span { from: Some(control.at()), to: None };
    control.change("grant.created", 9, Some(control.grant(9, 600)));
    gateway.call(1, 7, Some(completed()));
    gateway.call(2, 8, Some(completed()));
    gateway.call(3, 9, Some(completed()));
    let whole = told(ALL, &control, &gateway);
    assert_eq!((whole.grants.len(), whole.untold.len(), whole.gaps.len()), (3, 0, 0));

    control.log.checkpoint_now().unwrap();
    let note = read_note(&control.disk, CHECKPOINT).unwrap().unwrap();
    control.disk.write_file(COSIGNED, &note, Persist::Now).unwrap();
    let policy = Policy { age: None, bytes: Some(8 << 10) };
    let plan = control.log.prune(policy, Bounds::default(), control.at(), |_| Ok(())).unwrap().unwrap();
    assert!(plan.stays > 10, "{plan:?}");
    // Of one of them its end still tells.
    control.change("grant.revoked", 8, Some(known));
    let left = told(ALL, &control, &gateway);
    assert_eq!(left.grants.iter().map(|it| it.grant.bits()).collect::<Vec<_>>(), [8, 9]);
    let [untold] = &left.untold[..] else { panic!("{:?}", left.untold) };
    assert_eq!((untold.grant.bits(), untold.identity.as_str(), untold.used.calls), (7, "billing", 1));
    assert_eq!(untold.actions, ["read"]);
    let [gap] = &left.gaps[..] else { panic!("{:?}", left.gaps) };
    assert_eq!((gap.log.as_str(), gap.present_from), ("control", plan.stays));
    // A span that begins behind it is told whole, but for what the grants were.
    let later = told(span, &control, &gateway);
    assert_eq!((later.gaps.len(), later.untold.len()), (0, 1));
}
