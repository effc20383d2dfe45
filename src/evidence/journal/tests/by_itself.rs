//! What a worker writes on its own thread, and what it leaves to the journal's.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::*;

/// A worker whose turns are taken by hand.
struct Turns {
    waiters: WorkerWaiters,
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Turns {
    fn of(journal: &Journal) -> Self {
        at_rest(journal);
        let (waiters, driver) = WorkerWaiters::new(journal);
        Self { waiters, driver: Box::pin(driver) }
    }

    /// One turn: whatever is queued is seen to.
    fn turn(&mut self) {
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

/// Waits until the thread has let go of the files: it does so just after its word.
fn at_rest(journal: &Journal) {
    eventually("nobody writes", || journal.files.try_lock().is_some());
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
    let mut at_once = 0;
    for n in 0..300 {
        let (ticket, outcome) = worker.append(n);
        at_once += usize::from(outcome.is_some());
        written_by_the_thread(&journal, ticket);
        let (ticket, room) = worker.waiters.intent(&intent(1000 + n)).unwrap();
        worker.turn();
        written_by_the_thread(&journal, ticket);
        room.record(completed());
    }
    assert!(at_once > 50, "{at_once} of 300");
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
        eventually("writing", || journal.files.try_lock().is_none());
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
            eventually("writing", || journal.files.try_lock().is_none());
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
    assert_eq!(journal.status().batches, before);
    assert_eq!(worker.append(9).1, Some(Ok(())));
    assert_eq!((journal.status().batches, count(&disk, Kind::Outcome)), (before + 1, 20));
    let mut unused = pin!(worker.driver);
    drop(worker.waiters);
    assert!(unused.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready(), "it ends with the worker");
}
