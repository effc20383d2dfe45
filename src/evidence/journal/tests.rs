//! Promises under faults and loss of power.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::domain::clock::ManualClock;
use crate::domain::name::{CallId, GrantId};
use crate::domain::{Reason, Timestamp};
use crate::evidence::entry::{
    Basis, CredentialKind, CredentialOut, Decision, Ended, Ending, Entry, Event, Kind, Parameters, TokenRevoked,
};
use crate::evidence::read::{JournalReader, Next};
use crate::evidence::storage::{FakeStorage, Fault, Operation};

#[path = "tests/by_itself.rs"]
mod by_itself;
#[path = "tests/company.rs"]
mod company;
#[path = "tests/filled.rs"]
mod filled;

pub(crate) fn origin() -> Origin {
    "gate.example/log".parse().unwrap()
}

pub(crate) fn writer() -> Writer {
    Writer { program: "portcullis test".into(), boot_id: "boot".into() }
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_unix_seconds(1_795_324_140)))
}

/// Small segments and little room, so that both ends come often.
pub(crate) fn small() -> JournalOptions {
    JournalOptions {
        segment_bytes: 4096,
        allocate_bytes: 2048,
        linger: Duration::from_millis(1),
        retry: Duration::from_millis(2),
        ..JournalOptions::default()
    }
}

pub(crate) fn open(disk: &FakeStorage, options: JournalOptions) -> Result<(Journal, RecoveryReport), OpenError> {
    Journal::open(Arc::new(disk.clone()), origin(), &writer(), options, clock())
}

pub(crate) fn note(n: u64) -> TokenRevoked<'static> {
    TokenRevoked { call: CallId::from_bits(n.into()), jti: format!("{n}").into(), by: "somebody".into() }
}

pub(crate) fn intent(n: u64) -> Intent<'static> {
    Intent {
        call: CallId::from_bits(n.into()),
        decision: Decision::Allow,
        basis: Basis::Grant(GrantId::from_bits(9)),
        allotment: None,
        body: None,
        would_refuse: None,
        identity: Cow::Owned("billing".parse().unwrap()),
        principal: "spiffe://example.org/billing".into(),
        credential: CredentialKind::Certificate,
        route: Cow::Owned("orders".parse().unwrap()),
        resource: Cow::Owned("api/orders".parse().unwrap()),
        action: Cow::Owned("read".parse().unwrap()),
        parameters: Parameters::default(),
        method: "GET".into(),
        host: "orders.internal".into(),
        path: "/v1/orders/7".into(),
        query: None,
        peer: "10.0.0.1:1".parse().unwrap(),
        epoch: 1,
        revision: 2,
        authority_age_ms: 3,
        upstream: "http://127.0.0.1:9000".into(),
        credential_out: CredentialOut::Mint,
    }
}

pub(crate) fn completed() -> Ending {
    Ending {
        ended: Ended::Completed,
        status: Some(200),
        reason: None,
        request_bytes: 1,
        response_bytes: 2,
        duration_us: 3,
        upstream_started: true,
    }
}

pub(crate) fn entries(disk: &FakeStorage) -> Vec<Entry> {
    let mut reader = JournalReader::new(Arc::new(disk.clone()), 0);
    let mut entries = Vec::new();
    loop {
        match reader.next().unwrap() {
            Next::Record(record) => entries.push(Entry::parse(record.bytes).unwrap()),
            Next::CaughtUp { .. } => return entries,
            Next::Damaged { place, why } => panic!("{place}: {why}"),
        }
    }
}

fn count(disk: &FakeStorage, kind: Kind) -> usize {
    entries(disk).iter().filter(|entry| entry.event.kind() == kind).count()
}

/// Waits for what the journal's thread does by itself, with a bound.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
    while !holds() {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
        assert!(now - begun < 20, "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_durable_is_there_after_a_crash_in_order_over_many_segments() {
    let disk = FakeStorage::new();
    let (journal, report) = open(&disk, small()).unwrap();
    assert_eq!(report, RecoveryReport { resumed_from: 0, incarnation: 1, discarded_bytes: 0 });
    for n in 0..200 {
        let ticket = journal.append(&note(n)).unwrap();
        journal.durable_blocking(ticket).unwrap();
    }
    let after = disk.reboot(None);
    assert!(after.files().len() > 3, "several segments");
    let (journal, report) = open(&after, small()).unwrap();
    assert_eq!((report.resumed_from, report.incarnation), (201, 2));
    let found = entries(&after);
    for (seq, entry) in found.iter().enumerate() {
        assert_eq!(entry.seq, seq as u64);
    }
    assert_eq!(count(&after, Kind::TokenRevoked), 200);
    assert!(matches!(&found[201].event, Event::LogOpened(opened) if opened.resumed_from == 201));
    journal.close();
}

#[test]
fn nothing_is_promised_before_it_is_synced() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, small()).unwrap();
    disk.hold(Operation::Sync);
    let ticket = journal.append(&note(1)).unwrap();
    let lost = disk.reboot(None);
    assert_eq!(journal.outcome_of(ticket), None);
    assert_eq!(count(&lost, Kind::TokenRevoked), 0);
    disk.release();
    journal.durable_blocking(ticket).unwrap();
    assert_eq!(count(&disk.reboot(None), Kind::TokenRevoked), 1);
}

/// Calls like a gateway's; gives back what was promised: the records' texts, and the calls whose intent was.
fn run_calls(journal: &Journal, from: u64, calls: u64) -> (Vec<String>, Vec<CallId>) {
    let (mut notes, mut intents) = (Vec::new(), Vec::new());
    for n in from..from + calls {
        if journal.append(&note(n)).is_ok_and(|ticket| journal.durable_blocking(ticket).is_ok()) {
            notes.push(n.to_string());
        }
        if let Ok((ticket, room)) = journal.intent(&intent(n))
            && journal.durable_blocking(ticket).is_ok()
        {
            intents.push(CallId::from_bits(n.into()));
            room.record(completed());
        }
    }
    (notes, intents)
}

fn assert_kept(disk: &FakeStorage, promised: &(Vec<String>, Vec<CallId>), context: &str) {
    let found = entries(disk);
    let mut notes = found.iter().filter_map(|entry| match &entry.event {
        Event::TokenRevoked(it) => Some(it.jti.to_string()),
        _ => None,
    });
    for promised in &promised.0 {
        assert!(notes.any(|note| note == *promised), "{context}: record {promised} is lost");
    }
    let mut calls = found.iter().filter_map(|entry| match &entry.event {
        Event::Intent(it) => Some(it.call),
        _ => None,
    });
    for promised in &promised.1 {
        assert!(calls.any(|call| call == *promised), "{context}: intent {promised} is lost");
    }
}

#[test]
fn no_promised_record_is_lost_whichever_step_the_power_goes_at() {
    let whole = FakeStorage::new();
    let (journal, _) = open(&whole, small()).unwrap();
    run_calls(&journal, 0, 12);
    journal.close();
    let steps = whole.operations();
    assert!(steps > 30);
    for step in 0..=steps {
        for seed in [None, Some(step), Some(step + 1000)] {
            let disk = FakeStorage::new();
            disk.crash_after(step);
            let promised = match open(&disk, small()) {
                Ok((journal, _)) => {
                    let promised = run_calls(&journal, 0, 12);
                    journal.close();
                    promised
                }
                Err(_) => Default::default(),
            };
            let after = disk.reboot(seed);
            let context = format!("step {step} seed {seed:?}");
            let (journal, _) = open(&after, small()).unwrap_or_else(|error| panic!("{context}: {error}"));
            let more = run_calls(&journal, 100, 3);
            assert_eq!((more.0.len(), more.1.len()), (3, 3), "{context}");
            journal.close();
            assert_kept(&after, &promised, &context);
            assert_kept(&after.reboot(None), &more, &context);
        }
    }
}

#[test]
fn every_fault_at_every_step_refuses_what_it_must_and_heals_by_itself() {
    use Operation::{Allocate, Append, Create, Cut, Sync};
    for operation in [Create, Append, Allocate, Sync, Cut] {
        for fault in [Fault::Error, Fault::Full, Fault::Half, Fault::Done, Fault::Lost] {
            for after in 0..8 {
                let context = format!("{operation:?} {fault:?} after {after}");
                let disk = FakeStorage::new();
                let (journal, _) = open(&disk, small()).unwrap();
                disk.fail(operation, after, fault);
                let promised = run_calls(&journal, 0, 10);
                disk.mend();
                eventually(&context, || journal.status().broken.is_none());
                let more = run_calls(&journal, 50, 2);
                assert_eq!((more.0.len(), more.1.len()), (2, 2), "{context}");
                journal.close();
                assert_kept(&disk, &promised, &context);
                assert_kept(&disk.reboot(None), &more, &context);
                // Each intent that was promised has its outcome, however the disk did in between.
                let found = entries(&disk.reboot(None));
                for call in promised.1.iter().chain(&more.1) {
                    let outcomes =
                        found.iter().filter(|entry| matches!(&entry.event, Event::Outcome(it) if it.call == *call));
                    assert_eq!(outcomes.count(), 1, "{context}: {call}");
                }
                assert_eq!(journal.status().outcomes_lost, 0, "{context}");
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_with_full_keeps_room_for_outcomes_and_recovers() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, small()).unwrap();
    let mut rooms = Vec::new();
    disk.limit(Some(20_000));
    let error = loop {
        let refused = match journal.intent(&intent(rooms.len() as u64)) {
            Ok((ticket, room)) => match journal.durable_blocking(ticket) {
                Ok(()) => {
                    rooms.push(room);
                    continue;
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        break refused;
    };
    assert_eq!(error, JournalError::Full);
    assert_eq!(error.reason(), Reason::EvidenceFull);
    assert!(rooms.len() > 5);
    let calls = rooms.len();
    assert_eq!(journal.append(&note(1)).map(drop), Err(JournalError::Full), "refused at once");
    // Not one byte more than was reserved, and every outcome finds its room.
    disk.limit(Some(0));
    rooms.drain(..).for_each(|room| room.record(completed()));
    eventually("outcomes are written on the full disk", || count(&disk.reboot(None), Kind::Outcome) == calls);
    assert_eq!(journal.status().broken, Some(JournalError::Full));
    disk.limit(None);
    eventually("recovered", || journal.status().broken.is_none());
    let ticket = journal.append(&note(2)).unwrap();
    journal.durable_blocking(ticket).unwrap();
    journal.close();
    assert_eq!(count(&disk.reboot(None), Kind::Intent), calls);
}

#[test]
fn outcomes_wait_for_a_broken_disk_and_follow_their_intents() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, JournalOptions { allocate_bytes: 1 << 20, ..small() }).unwrap();
    let (ticket, room) = journal.intent(&intent(1)).unwrap();
    journal.durable_blocking(ticket).unwrap();
    disk.fail_everything(Fault::Lost);
    let (failed, orphan) = journal.intent(&intent(2)).unwrap();
    assert_eq!(journal.durable_blocking(failed), Err(JournalError::Unavailable));
    assert_eq!(journal.intent(&intent(3)).map(drop), Err(JournalError::Unavailable));
    room.record(completed());
    orphan.record(completed());
    disk.mend();
    eventually("recovered", || journal.status().broken.is_none());
    journal.flush().unwrap();
    let found = entries(&disk.reboot(None));
    let outcomes: Vec<_> = found
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::Outcome(it) => Some(it.intent_seq),
            _ => None,
        })
        .collect();
    assert_eq!(outcomes, [ticket.seq]);
    assert!(found.iter().any(|entry| matches!(&entry.event, Event::Recovered(it) if it.discarded_frames == 1)));
    assert_eq!(journal.outcome_of(failed), Some(Err(JournalError::Unavailable)), "a late question has the same answer");
    assert_eq!(journal.status().open_intents, 0);
}

#[test]
fn a_room_that_is_dropped_says_that_nobody_knows() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, small()).unwrap();
    let (ticket, room) = journal.intent(&intent(1)).unwrap();
    journal.durable_blocking(ticket).unwrap();
    drop(room);
    let (ticket, room) = journal.intent(&intent(2)).unwrap();
    journal.durable_blocking(ticket).unwrap();
    let panicked = std::thread::spawn(move || {
        let _room = room;
        panic!("in a hook");
    });
    assert!(panicked.join().is_err());
    journal.flush().unwrap();
    let ended: Vec<_> = entries(&disk)
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::Outcome(it) => Some(it.ending.ended),
            _ => None,
        })
        .collect();
    assert_eq!(ended, [Ended::Unknown, Ended::Panicked]);
}

#[test]
fn a_segment_that_is_deleted_or_replaced_closes_the_journal() {
    for replace in [false, true] {
        let disk = FakeStorage::new();
        let (journal, _) = open(&disk, small()).unwrap();
        let path = disk.files().pop().unwrap().0;
        disk.steal(&path);
        if replace {
            use crate::evidence::storage::{Persist, Storage as _};
            disk.write_file(&path, b"another", Persist::Now).unwrap();
        }
        let ticket = journal.append(&note(1)).unwrap();
        assert_eq!(journal.durable_blocking(ticket), Err(JournalError::Unavailable));
        assert!(journal.status().last_error.unwrap().contains("deleted"));
        assert_eq!(journal.append(&note(2)).map(drop), Err(JournalError::Unavailable));
    }
}

#[test]
fn damage_before_the_end_is_reported_and_a_torn_end_dropped() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, JournalOptions { segment_bytes: 1 << 20, ..small() }).unwrap();
    run_calls(&journal, 0, 10);
    journal.close();
    let (path, bytes) = disk.files().pop().unwrap();
    let torn = disk.reboot(None);
    torn.alter(&path, |bytes| bytes.truncate(bytes.len() - 3));
    let (again, report) = open(&torn, small()).unwrap();
    assert!(report.discarded_bytes > 0);
    assert_eq!(count(&torn, Kind::Recovered), 1);
    again.close();
    let damaged = disk.reboot(None);
    damaged.alter(&path, |bytes| bytes[400] ^= 1);
    match open(&damaged, small()) {
        Err(OpenError::Damaged { place, .. }) => assert!(place.seq < 4 && place.offset < 400, "{place}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(damaged.files().pop().unwrap().1.len(), bytes.len(), "nothing was cut off");
}

#[test]
fn another_log_is_not_written_to() {
    let disk = FakeStorage::new();
    open(&disk, small()).unwrap().0.close();
    let other = Journal::open(Arc::new(disk), "other.example".parse().unwrap(), &writer(), small(), clock());
    assert!(matches!(other, Err(OpenError::OtherLog { .. })));
}

#[test]
fn time_never_goes_back_in_the_log() {
    let disk = FakeStorage::new();
    let time = clock();
    let (journal, _) = Journal::open(Arc::new(disk.clone()), origin(), &writer(), small(), time.clone()).unwrap();
    for step in [10, 5, -100, 20] {
        time.set_wall(Timestamp::from_unix_seconds(1_795_324_140 + step));
        let ticket = journal.append(&note(1)).unwrap();
        journal.durable_blocking(ticket).unwrap();
    }
    journal.close();
    time.set_wall(Timestamp::from_unix_seconds(5));
    Journal::open(Arc::new(disk.clone()), origin(), &writer(), small(), time).unwrap().0.close();
    let times: Vec<_> = entries(&disk).iter().map(|entry| entry.time).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn waiting_tasks_hear_of_failures_and_of_the_end() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, small()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (waiters, driver) = WorkerWaiters::new(&journal);
        let driver = tokio::spawn(driver);
        disk.fail(Operation::Sync, 0, Fault::Error);
        let ticket = journal.append(&note(1)).unwrap();
        assert_eq!(waiters.durable(ticket).await, Err(JournalError::Unavailable));
        eventually("recovered", || journal.status().broken.is_none());
        let ticket = journal.append(&note(2)).unwrap();
        assert_eq!(journal.durable(ticket).await, Ok(()));
        drop(waiters);
        driver.await.unwrap();
    });
    journal.close();
    assert_eq!(journal.append(&note(3)).map(drop), Err(JournalError::Unavailable));
}

#[test]
fn many_threads_append_and_every_promise_is_kept() {
    for durability in [Durability::Disk, Durability::Process] {
        let disk = FakeStorage::new();
        let (journal, _) = open(&disk, JournalOptions { durability, ..small() }).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let journal = &journal;
                scope.spawn(move || {
                    let (notes, intents) = run_calls(journal, thread * 1000, 50);
                    assert_eq!((notes.len(), intents.len()), (50, 50));
                });
            }
        });
        journal.close();
        assert_eq!((count(&disk, Kind::TokenRevoked), count(&disk, Kind::Outcome)), (400, 400));
        if durability == Durability::Process {
            let turns = disk.files().len() as u64 - 1;
            assert_eq!(disk.syncs(), turns, "the end of each segment that another one stands behind, and nothing else");
        }
    }
}

#[test]
fn a_queue_that_is_not_written_is_bounded() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, JournalOptions { queue_bytes: 2000, ..small() }).unwrap();
    disk.hold(Operation::Append);
    let refused = (0..100).find_map(|n| journal.append(&note(n)).err());
    disk.release();
    assert_eq!(refused, Some(JournalError::Unavailable));
    eventually("written", || journal.append(&note(200)).is_ok());
}
