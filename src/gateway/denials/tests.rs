//! The budget by an owned clock, and what is on disk through faults and crashes.

use super::*;
use crate::domain::name::CallId;
use crate::evidence::entry::Event;
use crate::evidence::journal::tests::{entries, eventually, open, small};
use crate::evidence::storage::{FakeStorage, Fault, Operation};

fn denial(n: u64, identity: Option<&IdentityName>, reason: Reason) -> Denial<'static> {
    Denial {
        call: CallId::from_bits(n.into()),
        reason,
        identity: identity.cloned().map(Cow::Owned),
        principal: None,
        credential: None,
        route: None,
        resource: None,
        action: None,
        method: "GET".into(),
        host: "h".into(),
        path: format!("/{n}").into(),
        query: None,
        peer: "10.0.0.1:1".parse().unwrap(),
        epoch: 0,
        revision: 0,
    }
}

fn at(seconds: u64) -> At {
    let since_boot = Duration::from_secs(seconds);
    At { since_boot, wall: Timestamp::from_unix_seconds(1_000).saturating_add(since_boot) }
}

fn name(text: &str) -> IdentityName {
    text.parse().unwrap()
}

/// Aggregates on disk: whether closed, whose, why, and how many.
fn told(disk: &FakeStorage) -> Vec<(Option<String>, Reason, Option<u64>)> {
    let denials = entries(disk).into_iter().filter_map(|entry| match entry.event {
        Event::Denials(it) => {
            if let Some(counted) = it.counted {
                assert!(counted.opened_seq < entry.seq && it.samples.len() <= MAX_SAMPLES && it.from <= counted.to);
            }
            Some((it.identity.map(|it| it.to_string()), it.reason, it.counted.map(|it| it.count)))
        }
        _ => None,
    });
    denials.collect()
}

#[test]
fn each_identity_has_its_burst_and_its_rate_and_what_is_beyond_is_counted_exactly() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, small()).unwrap();
    let budget = DenialBudget::new(3, 6);
    let (billing, helper) = (name("billing"), name("helper"));
    let take = |identity, reason, seconds| budget.take(&journal, &denial(1, identity, reason), at(seconds)).unwrap();
    let alone =
        |identity, seconds| (0..9).filter(|_| take(identity, Reason::GrantMissing, seconds) == Course::Alone).count();
    assert_eq!((alone(Some(&billing), 5), alone(Some(&helper), 5)), (3, 3));
    assert_eq!(alone(None, 5), 3, "those without an identity share one");
    assert_eq!(alone(Some(&billing), 14), 0);
    assert_eq!(alone(Some(&billing), 15), 1, "six a minute");
    take(Some(&billing), Reason::GrantExpired, 15);
    journal.flush().unwrap();
    budget.flush(&journal, at(16).wall, false).unwrap();
    budget.flush(&journal, at(25).wall, false).unwrap();
    // Until it is known to be durable nothing is told twice, and nothing more is counted in it.
    budget.flush(&journal, at(25).wall, false).unwrap();
    budget.flush(&journal, at(25).wall, true).unwrap();
    journal.flush().unwrap();
    let closed: Vec<_> = told(&disk).into_iter().filter(|(_, _, count)| count.is_some()).collect();
    let count = |who: Option<&str>, why| {
        let of = closed.iter().filter(|(identity, reason, _)| identity.as_deref() == who && *reason == why);
        of.filter_map(|(_, _, count)| *count).sum::<u64>()
    };
    assert_eq!(count(Some("billing"), Reason::GrantMissing), 6 + 9 + 8);
    assert_eq!(count(Some("billing"), Reason::GrantExpired), 1);
    assert_eq!((count(Some("helper"), Reason::GrantMissing), count(None, Reason::GrantMissing)), (6, 6));
    assert_eq!((closed.len(), told(&disk).len()), (4, 8), "two records each");
}

#[test]
fn nothing_is_answered_before_the_record_that_opens_its_aggregate_is_on_disk() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, small()).unwrap();
    let budget = DenialBudget::new(1, 1);
    let billing = name("billing");
    let take = |n| budget.take(&journal, &denial(n, Some(&billing), Reason::GrantMissing), at(1)).unwrap();
    assert_eq!(take(0), Course::Alone);
    disk.hold(Operation::Sync);
    let (Course::Counted(first), Course::Counted(second)) = (take(1), take(2)) else { panic!("not awaited") };
    assert_eq!((first, journal.outcome_of(first)), (second, None));
    budget.flush(&journal, at(100).wall, true).unwrap();
    disk.release();
    journal.durable_blocking(first).unwrap();
    assert_eq!(take(3), Course::CountedAlready);

    // Power is lost: that there were some beyond the budget is on disk, how many is not.
    let after = disk.reboot(None);
    assert_eq!(told(&after), [(Some("billing".to_owned()), Reason::GrantMissing, None)]);
}

#[test]
fn a_disk_that_fails_opens_nothing_and_loses_no_count() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, small()).unwrap();
    let budget = DenialBudget::new(1, 1);
    let billing = name("billing");
    let take = |n| budget.take(&journal, &denial(n, Some(&billing), Reason::GrantMissing), at(1));
    assert_eq!(take(0).unwrap(), Course::Alone);
    disk.fail(Operation::Append, 0, Fault::Error);
    let Ok(Course::Counted(lost)) = take(1) else { panic!("not counted") };
    journal.durable_blocking(lost).unwrap_err();
    let mut opened = None;
    eventually("it goes on", || match take(2) {
        Ok(Course::Counted(ticket)) => {
            opened = Some(ticket);
            journal.durable_blocking(ticket).is_ok()
        }
        Ok(Course::CountedAlready | Course::Alone) | Err(_) => false,
    });
    assert_ne!(opened, Some(lost), "the one that failed counts nobody");
    assert_eq!(take(3).unwrap(), Course::CountedAlready);
    disk.fail(Operation::Append, 0, Fault::Error);
    budget.flush(&journal, at(100).wall, true).unwrap();
    eventually("its count is told again", || {
        let _ = budget.flush(&journal, at(101).wall, true);
        journal.flush().is_ok() && told(&disk).iter().any(|(_, _, count)| *count == Some(2))
    });
    let counts: Vec<_> = told(&disk).into_iter().filter_map(|(_, _, count)| count).collect();
    assert_eq!(counts, [2]);
}

#[test]
fn memory_is_bounded_whoever_comes() {
    let disk = FakeStorage::new();
    let (journal, _) = open(&disk, small()).unwrap();
    let budget = DenialBudget::new(1, 1);
    for n in 0..MAX_IDENTITIES + 10 {
        let identity = name(&format!("i{n}"));
        let course = budget.take(&journal, &denial(1, Some(&identity), Reason::GrantMissing), at(5)).unwrap();
        assert_eq!(course == Course::Alone, n <= MAX_IDENTITIES, "{n}");
    }
    let mut state = budget.state.lock();
    assert_eq!((state.whole_at.len(), state.open.len()), (MAX_IDENTITIES, 1));
    assert!(state.open.keys().all(|(identity, _)| identity.is_none()));
    assert!(state.tracks(&name("late"), Duration::from_secs(66)), "who has a whole budget is forgotten");
    assert!(state.whole_at.is_empty());
}
