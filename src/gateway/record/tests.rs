//! Refusals that are counted, through a disk that fails.

use super::*;
use crate::evidence::entry::Event;
use crate::evidence::journal::tests::{entries, eventually, note as other, open, small};
use crate::evidence::storage::{FakeStorage, Fault, Operation};

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
