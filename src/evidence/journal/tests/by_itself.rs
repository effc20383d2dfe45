//! What a worker writes on its own thread, and what it leaves to the journal's.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::*;

/// A worker whose turns are taken by hand.
pub(super) struct Turns {
    pub(super) waiters: WorkerWaiters,
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Turns {
    pub(super) fn of(journal: &Journal) -> Self {
        at_rest(journal);
        let (waiters, driver) = WorkerWaiters::new(journal);
        Self { waiters, driver: Box::pin(driver) }
    }

    /// One turn: whatever is queued is seen to.
    pub(super) fn turn(&mut self) {
        assert!(self.driver.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }

    /// Appends in a turn of its own; what is known of the record behind it.
    fn append(&mut self, n: u64) -> (Ticket, Option<Result<(), JournalError>>) {
        let ticket = self.waiters.append(&note(n)).unwrap();
        self.turn();
        (ticket, self.waiters.journal().outcome_of(ticket))
    }
}

fn process() -> JournalOptions {
    JournalOptions { durability: Durability::Process, ..JournalOptions::default() }
}

/// Waits until the journal's thread has written `ticket`.
fn written_by_the_thread(journal: &Journal, ticket: Ticket) {
    eventually("written by the journal's thread", || journal.outcome_of(ticket) == Some(Ok(())));
    at_rest(journal);
}

/// Waits until the thread sleeps: it has let go of the files then, which it does just after its word.
fn at_rest(journal: &Journal) {
    eventually("at rest", || journal.shared.state.lock().activity == super::super::shared::Activity::Idle);
}

#[test]
fn what_the_kernel_takes_is_written_within_the_turn() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, process()).unwrap();
    let mut worker = Turns::of(&journal);
    for n in 0..500 {
        assert_eq!(worker.append(n).1, Some(Ok(())), "record {n}");
    }
    // Whoever waited is woken in the same turn, and everything of a turn is one batch.
    let before = journal.status().batches;
    let tickets: Vec<_> = (0..20).map(|n| worker.waiters.append(&note(n)).unwrap()).collect();
    let waiters = worker.waiters.clone();
    let mut waits: Vec<_> = tickets.into_iter().map(|ticket| Box::pin(waiters.durable(ticket))).collect();
    let poll = |wait: &mut Pin<Box<_>>| Future::poll(Pin::as_mut(wait), &mut Context::from_waker(Waker::noop()));
    assert!(waits.iter_mut().all(|wait| poll(wait).is_pending()));
    worker.turn();
    assert!(waits.iter_mut().all(|wait| poll(wait) == Poll::Ready(Ok(()))));
    assert_eq!(journal.status().batches, before + 1);
    assert_eq!(count(&disk.kill(), Kind::TokenRevoked), 520);
    assert_eq!(disk.syncs(), 0);
}

#[test]
fn a_disk_that_is_synced_is_left_to_the_thread() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, JournalOptions::default()).unwrap();
    let mut worker = Turns::of(&journal);
    disk.hold(Operation::Sync);
    let (ticket, outcome) = worker.append(1);
    assert_eq!(outcome, None);
    disk.release();
    written_by_the_thread(&journal, ticket);
}

#[test]
fn room_and_new_segments_are_left_to_the_thread_and_nothing_is_lost_or_reordered() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, JournalOptions { durability: Durability::Process, ..small() }).unwrap();
    let mut worker = Turns::of(&journal);
    let (mut at_once, mut left_to_thread) = (0, 0);
    for n in 0..300 {
        // Whoever asks the disk for room or for a new file stands still here.
        disk.hold(if n % 2 == 0 { Operation::Allocate } else { Operation::Create });
        let (ticket, outcome) = worker.append(n);
        disk.release();
        at_once += usize::from(outcome.is_some());
        left_to_thread += usize::from(outcome.is_none());
        written_by_the_thread(&journal, ticket);
        let (ticket, room) = worker.waiters.intent(&intent(1000 + n)).unwrap();
        worker.turn();
        written_by_the_thread(&journal, ticket);
        room.record(completed());
    }
    assert!(at_once > 50 && left_to_thread > 20, "{at_once} at once, {left_to_thread} not");
    journal.flush().unwrap();
    assert_eq!(journal.status().open_intents, 0);
    let left = disk.kill();
    assert!(left.files().len() > 20, "many segments");
    let found = entries(&left);
    assert!(found.iter().enumerate().all(|(seq, entry)| entry.seq == seq as u64));
    let told = found.iter().filter_map(|entry| match &entry.event {
        Event::TokenRevoked(it) => it.jti.parse::<u64>().ok(),
        _ => None,
    });
    assert!(told.eq(0..300));
    assert_eq!(count(&left, Kind::Outcome), 300);
}

#[test]
fn a_full_disk_has_room_for_the_outcome_of_each_intent_that_a_worker_wrote() {
    let disk = FakeStorage::new();
    let options =
        JournalOptions { durability: Durability::Process, allocate_bytes: 1 << 16, ..JournalOptions::default() };
    let (journal, _) = open(&disk, options).unwrap();
    let mut worker = Turns::of(&journal);
    disk.limit(Some(0));
    let mut rooms = Vec::new();
    // What was reserved before is used up, and then nothing more is promised.
    let refused = (0..1_000).find_map(|n| {
        let (ticket, room) = worker.waiters.intent(&intent(n)).map_err(Some).ok()?;
        worker.turn();
        eventually("known", || journal.outcome_of(ticket).is_some());
        match journal.outcome_of(ticket) {
            Some(Ok(())) => rooms.push(room),
            outcome => return Some(outcome),
        }
        None
    });
    assert_eq!(refused, Some(Some(Err(JournalError::Full))));
    let promised = rooms.len();
    assert!(promised > 20, "{promised}");
    rooms.into_iter().for_each(|room| room.record(completed()));
    eventually("all outcomes are written", || count(&disk, Kind::Outcome) == promised);
    assert_eq!(journal.status().outcomes_lost, 0);
}

#[test]
fn many_workers_write_what_all_of_them_queue_and_every_promise_is_kept() {
    let disk = FakeStorage::new();
    let options = JournalOptions { durability: Durability::Process, segment_bytes: 1 << 16, ..small() };
    let (journal, _) = open(&disk, options).unwrap();
    std::thread::scope(|scope| {
        for worker in 0..4u64 {
            let journal = &journal;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    let (waiters, driver) = WorkerWaiters::new(journal);
                    tokio::spawn(driver);
                    let calls: Vec<_> = (0..200)
                        .map(|n| {
                            let waiters = waiters.clone();
                            tokio::spawn(async move {
                                let (ticket, mut room) = waiters.intent(&intent(worker * 1000 + n)).unwrap();
                                waiters.durable(ticket).await.unwrap();
                                room.promised();
                                tokio::task::yield_now().await;
                                room.record(completed());
                            })
                        })
                        .collect();
                    for call in calls {
                        call.await.unwrap();
                    }
                });
            });
        }
    });
    journal.close();
    let found = entries(&disk.kill());
    assert!(found.iter().enumerate().all(|(seq, entry)| entry.seq == seq as u64));
    assert_eq!((count(&disk, Kind::Intent), count(&disk, Kind::Outcome)), (800, 800));
    assert_eq!(journal.status().outcomes_lost, 0);
}

#[test]
fn a_write_that_fails_in_a_turn_fails_its_records_and_the_thread_mends_the_rest() {
    for fault in [Fault::Error, Fault::Full, Fault::Half, Fault::Done] {
        let disk = FakeStorage::new();
        let (journal, _) = open(&disk, JournalOptions { retry: Duration::from_millis(2), ..process() }).unwrap();
        let mut worker = Turns::of(&journal);
        let (promised, room) = worker.waiters.intent(&intent(1)).unwrap();
        worker.turn();
        assert_eq!(journal.outcome_of(promised), Some(Ok(())));
        disk.fail(Operation::Append, 0, fault);
        let (_, outcome) = worker.append(2);
        assert!(matches!(outcome, Some(Err(_))), "{fault:?}: {outcome:?}");
        // What is owed for the call before is written once the disk is well.
        room.record(completed());
        eventually("mended", || journal.status().broken.is_none());
        let ticket = worker.append(3).0;
        written_by_the_thread(&journal, ticket);
        journal.flush().unwrap();
        let jtis = entries(&disk.kill()).into_iter().filter_map(|entry| match entry.event {
            Event::TokenRevoked(it) => Some(it.jti.into_owned()),
            _ => None,
        });
        assert_eq!(jtis.collect::<Vec<_>>(), ["3"], "{fault:?}");
        assert_eq!(count(&disk, Kind::Outcome), 1, "{fault:?}");
    }
}

#[test]
fn nobody_waits_for_a_worker_that_is_writing_nor_writes_past_it() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, process()).unwrap();
    let (mut one, mut other) = (Turns::of(&journal), Turns::of(&journal));
    disk.hold(Operation::Append);
    std::thread::scope(|scope| {
        let slow = scope.spawn(move || one.append(1));
        eventually("writing", || disk.is_held_up());
        // Its turn ends at once, though the file is taken.
        let (ticket, outcome) = other.append(2);
        assert_eq!(outcome, None);
        disk.release();
        assert_eq!(slow.join().unwrap().1, Some(Ok(())));
        written_by_the_thread(&journal, ticket);
    });
    journal.flush().unwrap();
    assert_eq!(count(&disk, Kind::TokenRevoked), 2);
}

#[test]
fn behind_a_slow_write_the_thread_writes_until_it_may_be_well_again() {
    let disk = FakeStorage::new();
    let time = clock();
    let (journal, _) = Journal::open(Arc::new(disk.clone()), origin(), &writer(), process(), time.clone()).unwrap();
    let mut worker = Turns::of(&journal);
    assert_eq!(worker.append(1).1, Some(Ok(())));
    disk.hold(Operation::Append);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually("writing", || disk.is_held_up());
            time.advance(Duration::from_millis(50));
            disk.release();
        });
        assert_eq!(worker.append(2).1, Some(Ok(())), "it had to wait this once");
    });
    disk.hold(Operation::Append);
    let (ticket, outcome) = worker.append(3);
    assert_eq!(outcome, None, "it does not wait again");
    disk.release();
    written_by_the_thread(&journal, ticket);
    time.advance(Duration::from_secs(2));
    assert_eq!(worker.append(4).1, Some(Ok(())));
}

#[test]
fn what_comes_while_a_worker_has_other_calls_is_written_together() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, process()).unwrap();
    let mut worker = Turns::of(&journal);
    let crowd: Vec<_> = (0..20).map(|n| worker.waiters.append(&note(n)).unwrap()).collect();
    worker.turn();
    assert!(crowd.iter().all(|ticket| journal.outcome_of(*ticket) == Some(Ok(()))), "nobody came together before");
    let before = journal.status().batches;
    let rounds: Vec<_> = (20..26).map(|n| worker.append(n)).collect();
    assert!(rounds.iter().all(|(_, outcome)| outcome.is_none()));
    worker.turn();
    assert!(rounds.iter().all(|(ticket, _)| journal.outcome_of(*ticket) == Some(Ok(()))), "nobody else came");
    assert_eq!(journal.status().batches, before + 1);
    // Whoever ends waits for nobody.
    let (last, outcome) = worker.append(30);
    assert_eq!(outcome, None);
    drop(worker.waiters);
    assert!(worker.driver.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    assert_eq!(journal.outcome_of(last), Some(Ok(())));
}

#[test]
fn outcomes_alone_still_wait_for_company() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, JournalOptions { linger: Duration::from_secs(3_600), ..process() }).unwrap();
    let mut worker = Turns::of(&journal);
    let rooms: Vec<_> = (0..20).map(|n| worker.waiters.intent(&intent(n)).unwrap().1).collect();
    worker.turn();
    let before = journal.status().batches;
    for room in rooms {
        room.record(completed());
        worker.turn();
    }
    // Nothing comes behind the last of them.
    worker.turn();
    eventually("lingering", || journal.shared.state.lock().activity == super::super::shared::Activity::Lingering);
    assert_eq!(journal.status().batches, before);
    // Behind a crowd the first looks once whether others come.
    let (ticket, outcome) = worker.append(9);
    assert_eq!(outcome, None);
    worker.turn();
    assert_eq!(journal.outcome_of(ticket), Some(Ok(())));
    assert_eq!((journal.status().batches, count(&disk, Kind::Outcome)), (before + 1, 20));
    let mut unused = pin!(worker.driver);
    drop(worker.waiters);
    assert!(unused.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready(), "it ends with the worker");
}

#[test]
fn while_segments_are_synced_and_when_a_new_one_is_wanted_the_thread_writes() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, process()).unwrap();
    let mut worker = Turns::of(&journal);
    assert!((0..20).all(|n| worker.append(n).1.is_some()));
    let syncing = journal.syncing();
    disk.hold(Operation::Append);
    let (ticket, outcome) = worker.append(20);
    assert_eq!(outcome, None);
    disk.release();
    written_by_the_thread(&journal, ticket);
    drop(syncing);
    assert!(worker.append(21).1.is_some());
    journal.turn();
    disk.hold(Operation::Create);
    let (ticket, outcome) = worker.append(22);
    assert_eq!(outcome, None);
    disk.release();
    written_by_the_thread(&journal, ticket);
    assert!(worker.append(23).1.is_some());
}

#[test]
fn a_batch_that_a_panic_took_along_is_promised_to_nobody_and_nothing_is_written_behind_it() {
    // Whoever it is that panics: the worker here, the journal's thread there.
    for durability in [Durability::Process, Durability::Disk] {
        let disk = FakeStorage::new();
        let (journal, _) = open(&disk, JournalOptions { durability, ..JournalOptions::default() }).unwrap();
        let mut worker = Turns::of(&journal);
        let ticket = worker.append(1).0;
        written_by_the_thread(&journal, ticket);
        let lost = worker.waiters.append(&note(2)).unwrap();
        let waiters = worker.waiters.clone();
        let mut wait = pin!(waiters.durable(lost));
        let mut context = Context::from_waker(Waker::noop());
        assert!(wait.as_mut().poll(&mut context).is_pending());
        disk.panic_at(Operation::Append);
        let turn = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.turn()));
        assert_eq!(turn.is_err(), durability == Durability::Process);
        eventually("closed", || journal.shared.state.lock().closed);
        assert_eq!(wait.as_mut().poll(&mut context), Poll::Ready(Err(JournalError::Unavailable)));
        assert_eq!(journal.append(&note(3)).map(drop), Err(JournalError::Unavailable));
        assert_eq!(journal.flush(), Err(JournalError::Unavailable), "not everything is written");
        journal.close();
        assert_eq!(count(&disk.kill(), Kind::TokenRevoked), 1, "{durability:?}");
    }
}

#[test]
fn the_end_waits_for_a_worker_that_writes_and_for_what_it_leaves() {
    for fault in [None, Some(Fault::Error)] {
        let disk = FakeStorage::new();
        let (journal, _) = open(&disk, JournalOptions { retry: Duration::from_millis(2), ..process() }).unwrap();
        let mut worker = Turns::of(&journal);
        let (promised, mut room) = worker.waiters.intent(&intent(1)).unwrap();
        worker.turn();
        assert_eq!(journal.outcome_of(promised), Some(Ok(())));
        room.promised();
        disk.hold(Operation::Append);
        if let Some(fault) = fault {
            disk.fail(Operation::Append, 0, fault);
        }
        room.record(completed());
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || worker.append(2));
            eventually("writing", || disk.is_held_up());
            let closing = scope.spawn(|| journal.close());
            eventually("closing", || journal.shared.state.lock().closing);
            disk.release();
            assert_eq!(writing.join().unwrap().1.map(|outcome| outcome.is_ok()), Some(fault.is_none()));
            closing.join().unwrap();
        });
        assert_eq!((count(&disk, Kind::Outcome), journal.status().outcomes_lost), (1, 0), "{fault:?}");
    }
}

#[test]
fn what_a_worker_that_ends_has_not_seen_to_is_written_by_the_thread() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, JournalOptions { linger: Duration::from_secs(60), ..process() }).unwrap();
    let Turns { waiters, driver } = Turns::of(&journal);
    let ticket = waiters.append(&note(1)).unwrap();
    assert_eq!(journal.outcome_of(ticket), None);
    drop(driver);
    written_by_the_thread(&journal, ticket);
}
