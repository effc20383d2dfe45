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
        self.changed("grant", &GrantId::from_bits(id).to_string(), operation, after);
    }

    fn changed(&self, kind: &'static str, object: &str, operation: &str, after: Option<Value>) {
        let change = Change {
            revision: 1,
            actor: std::borrow::Cow::Owned("alice".parse().unwrap()),
            operation: operation.to_owned().into(),
            object_kind: kind.into(),
            object: object.to_owned().into(),
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

    fn key(&self) -> String {
        self.log.verifier_key().to_string()
    }

    /// A gateway comes with its log, and had these before.
    fn knows(&self, gateway: &Self, before: &[&Self]) {
        let before: Vec<Value> = before.iter().map(|it| json!({ "key": it.key(), "size": 1 })).collect();
        self.changed("log", "edge", "log.opened", Some(json!({ "key": gateway.key(), "before": before })));
    }

    /// Removes old records of it, and says which stays.
    fn prune(&self) -> u64 {
        self.log.checkpoint_now().unwrap();
        let note = read_note(&self.disk, CHECKPOINT).unwrap().unwrap();
        self.disk.write_file(COSIGNED, &note, Persist::Now).unwrap();
        let policy = Policy { age: None, bytes: Some(8 << 10) };
        self.log.prune(policy, Bounds::default(), self.at(), |_| Ok(())).unwrap().unwrap().stays
    }

    fn fill(&self) {
        for n in 0..400 {
            self.change("identity.applied", n, Some(json!({ "fill": "x".repeat(100) })));
        }
    }

    fn named(&self, name: &str) -> Log {
        Log { name: name.to_owned(), storage: Arc::new(self.disk.clone()) }
    }
}

fn told(span: Span, control: &Written, gateway: &Written) -> Accesses {
    told_at(control.at(), span, control, &[gateway.named("edge")])
}

fn told_at(now: Timestamp, span: Span, control: &Written, gateways: &[Log]) -> Accesses {
    access(&"api/orders".parse().unwrap(), span, now, &control.named("control"), gateways).unwrap()
}

fn missing(told: &Accesses) -> Vec<(&str, Missing)> {
    told.gaps.iter().map(|gap| (gap.log.as_str(), gap.missing)).collect()
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
    control.knows(&gateway, &[]);
    control.change("grant.created", 7, Some(control.grant(7, 3600)));
    let known = control.grant(8, 3600);
    control.change("grant.created", 8, Some(known.clone()));
    control.fill();
    control.later(60);
    gateway.later(60);
    let span = Span { from: Some(control.at()), to: None };
    control.change("grant.created", 9, Some(control.grant(9, 600)));
    gateway.call(1, 7, Some(completed()));
    gateway.call(2, 8, Some(completed()));
    gateway.call(3, 9, Some(completed()));
    let whole = told(ALL, &control, &gateway);
    assert_eq!((whole.grants.len(), whole.untold.len(), whole.gaps.len()), (3, 0, 0));

    let stays = control.prune();
    control.knows(&gateway, &[]);
    assert!(stays > 10, "{stays}");
    // Of one of them its end still tells.
    control.change("grant.revoked", 8, Some(known));
    let left = told(ALL, &control, &gateway);
    assert_eq!(left.grants.iter().map(|it| it.grant.bits()).collect::<Vec<_>>(), [8, 9]);
    let [untold] = &left.untold[..] else { panic!("{:?}", left.untold) };
    assert_eq!((untold.grant.bits(), untold.identity.as_str(), untold.used.calls), (7, "billing", 1));
    assert_eq!(untold.actions, ["read"]);
    let [gap] = &left.gaps[..] else { panic!("{:?}", left.gaps) };
    assert_eq!((gap.log.as_str(), gap.missing, gap.present_from), ("control", Missing::Given, stays));
    // Also for a span that begins behind it: a grant of before may have been there, and nobody used it.
    let later = told(span, &control, &gateway);
    assert_eq!((missing(&later), later.untold.len()), (vec![("control", Missing::Given)], 1));
}

#[test]
fn a_grant_of_before_the_control_logs_beginning_that_nobody_used_is_not_left_out_unsaid() {
    let (control, gateway) = (Written::new(), Written::new());
    control.change("grant.created", 7, Some(control.grant(7, 31_536_000)));
    control.fill();
    control.later(600);
    control.prune();
    control.knows(&gateway, &[]);
    control.later(600);
    gateway.later(1200);
    let told = told(Span { from: Some(control.at()), to: None }, &control, &gateway);
    assert_eq!((told.grants.len(), told.untold.len()), (0, 0));
    assert_eq!(missing(&told), [("control", Missing::Given)]);
}

#[test]
fn a_log_that_begins_after_the_span_or_ends_before_it_is_told_unless_the_one_beside_it_is_given() {
    let (control, first) = (Written::new(), Written::new());
    let begun = control.at();
    control.knows(&first, &[]);
    control.change("grant.created", 9, Some(control.grant(9, 86_400)));
    first.call(1, 9, Some(completed()));
    control.later(60);
    first.later(60);
    // It was sealed: the gateway goes on in another log, which begins with record 0.
    let second = Written::new();
    second.later(60);
    second.call(2, 9, Some(completed()));
    control.knows(&second, &[&first]);
    control.later(60);
    let span = ALL;
    let now = control.at();
    let tell = |now, span, logs: &[Log]| told_at(now, span, &control, logs);
    let both = tell(now, span, &[second.named("second"), first.named("first")]);
    assert_eq!((missing(&both), both.grants[0].used.calls), (vec![], 2));
    assert_eq!(missing(&tell(now, span, &[second.named("second")])), [("second", Missing::Earlier)]);
    assert_eq!(missing(&tell(now, span, &[first.named("first")])), [("first", Missing::Next)]);
    // Where the span does not reach there, nothing is missing.
    let early = Span { from: Some(begun), to: Some(begun.saturating_add(Duration::from_secs(1))) };
    assert_eq!(missing(&tell(now, early, &[first.named("first")])), []);
    let late = Span { from: Some(second.at()), to: None };
    assert_eq!(missing(&tell(now, late, &[second.named("second")])), []);
    // Of one that the control plane tells nothing of, nobody knows whether it is the first.
    let other = Written::new();
    let told = tell(now, ALL, &[other.named("other")]);
    assert_eq!(
        missing(&told),
        [("other", Missing::Earlier), ("edge", Missing::Unasked)],
        "and which logs are not given"
    );
    // A copy that is behind looks like a log that was quiet: its last record is told.
    let later = now.saturating_add(Duration::from_secs(7200));
    let behind = tell(later, late, &[second.named("second")]);
    assert_eq!(missing(&behind), [("control", Missing::Later), ("second", Missing::Later)]);
    assert_eq!(behind.gaps[1].ends, Some(second.at()));
    assert_eq!(missing(&tell(later, Span { to: Some(now), ..late }, &[second.named("second")])), []);
}

#[test]
fn what_a_copy_may_lack_of_a_sealed_log_is_told_also_beside_the_log_after_it() {
    let (control, first) = (Written::new(), Written::new());
    control.knows(&first, &[]);
    control.change("grant.created", 9, Some(control.grant(9, 86_400)));
    first.call(1, 9, Some(completed()));
    let second = Written::new();
    for log in [&control, &second] {
        log.later(2 * 3600);
    }
    second.call(2, 9, Some(completed()));
    control.knows(&second, &[&first]);
    control.later(60);
    let told = told_at(control.at(), ALL, &control, &[first.named("first"), second.named("second")]);
    assert_eq!(missing(&told), [("first", Missing::Later)]);
}

#[test]
fn a_log_and_its_copy_are_one_and_every_call_counts_once() {
    let (control, gateway) = (Written::new(), Written::new());
    control.knows(&gateway, &[]);
    control.change("grant.created", 9, Some(control.grant(9, 600)));
    gateway.call(1, 9, Some(completed()));
    let (ticket, room) = gateway.log.journal().intent(&intent(2)).unwrap();
    gateway.log.journal().durable_blocking(ticket).unwrap();
    // A copy that was made while the second call ran.
    let copy = Log { name: "copy".into(), storage: Arc::new(gateway.disk.kill()) };
    room.record(unsent());
    gateway.call(3, 9, Some(completed()));
    let used = |logs: &[Log]| {
        let told = told_at(control.at(), ALL, &control, logs);
        assert_eq!(missing(&told), []);
        let used = told.grants[0].used.clone();
        (used.calls, used.never_sent)
    };
    assert_eq!(used(std::slice::from_ref(&copy)), (2, 0), "of one that runs nobody knows");
    let live = gateway.named("live");
    for logs in
        [vec![live.clone()], vec![live.clone(), live.clone()], vec![live.clone(), copy.clone()], vec![copy, live]]
    {
        assert_eq!(used(&logs), (2, 1));
    }
    // What is gone in one is there in the other; what is in none is said.
    let whole = Log { name: "whole".into(), storage: Arc::new(gateway.disk.kill()) };
    for n in 10..400 {
        gateway.call(n, 9, Some(completed()));
    }
    let stays = gateway.prune();
    control.later(60);
    let live = gateway.named("live");
    let told = told_at(control.at(), ALL, &control, &[live.clone(), whole]);
    assert!(stays > 10 && missing(&told) == [("live", Missing::Between)], "{stays} {:?}", told.gaps);
    let told = told_at(control.at(), ALL, &control, &[live]);
    assert_eq!(missing(&told), [("live", Missing::Pruned)]);
}

#[test]
fn an_exception_is_listed_while_its_route_led_there_whether_somebody_called_or_not() {
    let (control, gateway) = (Written::new(), Written::new());
    let begun = control.at();
    let at = |seconds| begun.saturating_add(Duration::from_secs(seconds));
    let leave = |rule: &str, route: &str, expires| {
        let spec = json!({ "rule": rule, "route": route, "owner": "bob", "reason": "why", "expires": expires });
        Some(json!({ "name": "x", "spec": spec }))
    };
    let route = |resource: &str| Some(json!({ "name": "orders", "spec": { "resource": resource } }));
    control.changed("route", "orders", "route.created", route("api/orders"));
    control.changed("route", "others", "route.created", route("api/others"));
    control.changed("exception", "look", "exception.created", leave("observe", "orders", at(600)));
    control.changed("exception", "far", "exception.created", leave("observe", "others", at(600)));
    control.changed("exception", "hand", "exception.created", leave("no_grants_by_hand", "orders", at(600)));
    control.later(100);
    control.changed("exception", "look", "exception.changed", leave("observe", "orders", at(900)));
    control.changed("route", "orders", "route.changed", route("api/orders"));
    let listed = |from, to| {
        let told = told(Span { from: Some(from), to }, &control, &gateway).exceptions_in_force;
        told.iter().map(|it| (it.exception.clone(), it.since, it.until)).collect::<Vec<_>>()
    };
    assert_eq!(listed(at(50), None), [("look".to_owned(), begun, at(900))]);
    assert_eq!(listed(at(900), None), []);
    control.later(100);
    control.changed("exception", "look", "exception.removed", None);
    assert_eq!(listed(at(50), None), [("look".to_owned(), begun, at(200))]);
    assert_eq!(listed(at(200), None), []);
    control.later(100);
    control.changed("exception", "again", "exception.created", leave("observe", "orders", at(900)));
    control.later(100);
    control.changed("route", "orders", "route.changed", route("api/others"));
    assert_eq!(listed(at(200), None).last().unwrap().2, at(400), "the route leads there no more");
    assert_eq!(listed(at(400), None), []);
    // On a route that was there before the log's beginning, wherever it led.
    control.changed("exception", "old", "exception.created", leave("observe", "ancient", at(900)));
    let told = told(Span { from: Some(at(400)), to: None }, &control, &gateway).exceptions_in_force;
    assert_eq!(told.iter().map(|it| (&*it.exception, it.route_untold)).collect::<Vec<_>>(), [("old", true)]);
}
