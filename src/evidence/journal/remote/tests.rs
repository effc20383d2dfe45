//! Promises that wait for another machine: never before it has the record, never for longer than is said.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::domain::clock::ManualClock;
use crate::evidence::entry::{Ended, Event};
use crate::evidence::journal::tests::{clock, completed, entries, intent, note, origin, small, writer};
use crate::evidence::journal::{Durability, JournalOptions};
use crate::evidence::storage::FakeStorage;

const WITHIN: Duration = Duration::from_secs(2);

fn remote() -> (Journal, FakeStorage, Arc<ManualClock>) {
    let (disk, clock) = (FakeStorage::new(), clock());
    let options = JournalOptions { durability: Durability::Remote, remote_within: WITHIN, ..small() };
    let (journal, _) = Journal::open(Arc::new(disk.clone()), origin(), &writer(), options, clock.clone()).unwrap();
    (journal, disk, clock)
}

#[test]
fn a_record_is_promised_when_the_other_machine_has_it_and_not_before() {
    let (journal, _disk, _clock) = remote();
    journal.remote_attached(0);
    let (ticket, room) = journal.intent(&intent(1)).unwrap();
    journal.durable_blocking(ticket).unwrap();
    assert_eq!(journal.outcome_of(ticket), None, "on this disk alone");
    journal.remote_kept(ticket.seq);
    assert_eq!(journal.outcome_of(ticket), None, "those before it are there");
    journal.remote_kept(ticket.seq + 1);
    assert_eq!(journal.outcome_of(ticket), Some(Ok(())));
    room.record(completed());
    journal.flush().unwrap();
    let status = journal.remote().unwrap();
    assert_eq!((status.kept, status.records, status.attached), (ticket.seq + 1, 1, true));
    journal.close();
}

#[test]
fn what_waits_for_too_long_fails_and_nothing_is_taken_until_all_of_it_is_there() {
    let (journal, disk, clock) = remote();
    journal.remote_attached(journal.durable_seq());
    let (ticket, room) = journal.intent(&intent(1)).unwrap();
    journal.durable_blocking(ticket).unwrap();
    clock.advance(WITHIN - Duration::from_millis(1));
    journal.look_at_remote();
    assert_eq!(journal.outcome_of(ticket), None);
    clock.advance(Duration::from_millis(1));
    journal.look_at_remote();
    assert_eq!(journal.outcome_of(ticket), Some(Err(JournalError::Unavailable)));
    assert_eq!(journal.intent(&intent(2)).unwrap_err(), JournalError::Unavailable);
    assert_eq!(journal.append(&note(3)).unwrap_err(), JournalError::Unavailable);
    assert_eq!(journal.status().broken, Some(JournalError::Unavailable));
    // What does not wait for it is taken, and the call's end is told.
    let here = journal.append_here(&note(4)).unwrap();
    journal.durable_blocking(here).unwrap();
    drop(room);
    journal.flush().unwrap();
    let ends = entries(&disk).into_iter().filter_map(|entry| match entry.event {
        Event::Outcome(it) => Some((it.intent_seq, it.ending.ended)),
        _ => None,
    });
    assert_eq!(ends.collect::<Vec<_>>(), [(ticket.seq, Ended::Unknown)]);
    // Some of it is there: not enough.
    journal.remote_kept(ticket.seq);
    assert_eq!(journal.append(&note(5)).unwrap_err(), JournalError::Unavailable);
    journal.remote_kept(journal.durable_seq());
    let ticket = journal.append(&note(6)).unwrap();
    journal.durable_blocking(ticket).unwrap();
    assert_eq!(journal.outcome_of(ticket), None);
    journal.remote_kept(ticket.seq + 1);
    assert_eq!(journal.outcome_of(ticket), Some(Ok(())));
    assert_eq!(journal.remote().unwrap().failures, 1);
    journal.close();
}

#[test]
fn nobody_waits_for_a_machine_that_is_known_to_be_away_or_to_refuse() {
    let (journal, _disk, clock) = remote();
    journal.remote_attached(journal.durable_seq());
    journal.remote_lost("gone".into());
    let waits = journal.append(&note(1)).unwrap();
    journal.durable_blocking(waits).unwrap();
    assert_eq!(journal.outcome_of(waits), None, "it may be back in time");
    clock.advance(WITHIN);
    journal.look_at_remote();
    assert_eq!(journal.outcome_of(waits), Some(Err(JournalError::Unavailable)));
    assert_eq!(journal.append(&note(2)).unwrap_err(), JournalError::Unavailable);
    // Back, with everything.
    journal.remote_attached(journal.durable_seq());
    let waits = journal.append(&note(3)).unwrap();
    journal.durable_blocking(waits).unwrap();
    journal.remote_refused(JournalError::Full, "no room".into());
    assert_eq!(journal.outcome_of(waits), Some(Err(JournalError::Full)));
    assert_eq!(journal.append(&note(4)).unwrap_err(), JournalError::Full);
    let status = journal.remote().unwrap();
    assert_eq!((status.error.as_deref(), status.attached), (Some("no room"), false));
    // It comes back and has not what it refused: as long as that waits, nothing is taken.
    journal.remote_attached(waits.seq);
    assert_eq!(journal.append(&note(5)).unwrap_err(), JournalError::Full);
    journal.remote_kept(journal.durable_seq());
    assert!(journal.append(&note(6)).is_ok());
    journal.close();
}

#[test]
fn a_copy_that_lost_its_disk_promises_nothing_before_it_has_all_again() {
    let (journal, _disk, _clock) = remote();
    journal.remote_attached(0);
    let first = journal.append(&note(1)).unwrap();
    journal.durable_blocking(first).unwrap();
    journal.remote_kept(first.seq + 1);
    journal.remote_lost("gone".into());
    journal.remote_attached(0);
    let second = journal.append(&note(2)).unwrap();
    journal.durable_blocking(second).unwrap();
    assert_eq!(journal.outcome_of(second), None);
    journal.remote_kept(first.seq + 1);
    assert_eq!(journal.outcome_of(second), None);
    journal.remote_kept(second.seq + 1);
    assert_eq!(journal.outcome_of(second), Some(Ok(())));
    journal.close();
}

#[test]
fn what_was_written_while_somebody_looked_is_given_up_with_the_rest() {
    let refuse = |remote: &Remote| remote.refused(JournalError::Full, "no room".into(), 3, WITHIN);
    let look = |remote: &Remote| assert!(remote.look(3, WITHIN));
    for give_up in [&refuse as &dyn Fn(&Remote), &look] {
        let remote = Remote::new(WITHIN, 3, Duration::ZERO);
        // The batch came behind the look at what is here, and before the word.
        remote.written(5, WITHIN);
        give_up(&remote);
        assert!(matches!(remote.outcome(4), Some(Err(_))), "nobody looks again before the next batch");
        assert_eq!(remote.outcome(5), None);
    }
}
