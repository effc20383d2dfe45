//! Refusals that are counted, through a disk that fails.

use super::*;
use crate::evidence::entry::Event;
use crate::evidence::journal::tests::{entries, eventually, note as other, open, small};
use crate::evidence::storage::{FakeStorage, Fault, Operation};

const NOW: Timestamp = Timestamp::from_unix_seconds(7);

#[test]
fn what_was_counted_and_not_written_is_counted_on() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, small()).unwrap();
    let counter = RefusalCounter::default();
    let at = Timestamp::from_unix_seconds;
    let note = |reason, times: usize| {
        (0..times).for_each(|n| counter.note(reason, "10.0.0.1:1".parse().unwrap(), "GET", &format!("/{n}")));
    };
    counter.flush(&journal, at(1)).unwrap();
    note(Reason::RouteUnknown, 3);
    disk.fail(Operation::Append, 0, Fault::Error);
    counter.flush(&journal, at(2)).unwrap();
    eventually("it failed, and goes on", || {
        let goes_on = || journal.append(&other(1)).is_ok_and(|ticket| journal.durable_blocking(ticket).is_ok());
        journal.status().errors > 0 && goes_on()
    });
    note(Reason::RouteUnknown, 2);
    note(Reason::IdentityUnknown, 1);
    // Nothing is known of it while it is on its way: nothing is told twice.
    disk.hold(Operation::Sync);
    counter.flush(&journal, at(3)).unwrap();
    note(Reason::RouteUnknown, 5);
    counter.flush(&journal, at(4)).unwrap();
    disk.release();
    journal.flush().unwrap();
    counter.flush(&journal, at(5)).unwrap();
    journal.flush().unwrap();
    counter.flush(&journal, at(6)).unwrap();
    journal.flush().unwrap();
    let told: Vec<_> = entries(&disk)
        .into_iter()
        .filter_map(|entry| match entry.event {
            Event::Refusals(it) => {
                Some((it.from, it.to, it.counts.iter().map(|it| it.count).sum::<u64>(), it.samples.len()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(told, [(at(1), at(3), 6, 4), (at(3), at(5), 5, 4)]);
}

/// How many refusals the log tells of.
fn told(disk: &FakeStorage) -> u64 {
    let counts = entries(disk).into_iter().filter_map(|entry| match entry.event {
        Event::Refusals(it) => Some(it.counts.iter().map(|it| it.count).sum::<u64>()),
        _ => None,
    });
    counts.sum()
}

#[test]
fn the_last_refusals_are_told_once_also_when_the_batch_of_those_before_fails() {
    for (operation, fault) in
        [(Operation::Sync, Fault::Error), (Operation::Sync, Fault::Lost), (Operation::Append, Fault::Half)]
    {
        let disk = FakeStorage::new();
        let (journal, _) = open(&disk, small()).unwrap();
        let counter = RefusalCounter::default();
        let note = || counter.note(Reason::RouteUnknown, "10.0.0.1:1".parse().unwrap(), "GET", "/");
        (0..3).for_each(|_| note());
        // Told and on its way, and nobody knows yet what becomes of it.
        disk.hold(operation);
        counter.flush(&journal, NOW).unwrap();
        (0..2).for_each(|_| note());
        disk.fail(operation, 0, fault);
        std::thread::scope(|scope| {
            let last = scope.spawn(|| counter.flush_last(&journal, NOW));
            disk.release();
            last.join().unwrap()
        })
        .unwrap();
        journal.close();
        assert_eq!(told(&disk), 5, "{operation:?} {fault:?}");
        assert_eq!(told(&disk.reboot(None)), 5, "{operation:?} {fault:?}: on disk");
    }
}
