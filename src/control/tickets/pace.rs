//! How often tickets are read again for webhooks that nobody signed. Pure.
//!
//! Anybody can send one, so what it costs is bounded: one reading of a ticket in a while, whatever is sent meanwhile, and so
//! many of all tickets. What comes in between is not lost: it is read once more when its time has come, since the ticket may
//! have closed after it was read. Of those that wait the first is the first, and what is new takes no reading from them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::domain::ticket::Ticket;

/// How long a ticket is not read again after it was.
pub(super) const EVERY: Duration = Duration::from_secs(5);
/// Readings of all tickets within [`WITHIN`]: less than what the APIs that are read allow of one token (GitHub: 5000 an
/// hour).
pub(super) const MAX_READINGS: usize = 60;
/// The span that they are counted in.
const WITHIN: Duration = Duration::from_secs(60);
/// How long one waits that has too many ahead of it, none of which is read yet.
const SOON: Duration = Duration::from_secs(1);
/// Tickets that wait for their time at once.
pub(super) const MAX_WAITING: usize = 1_000;

/// When a ticket is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// At once.
    Now,
    /// When its time comes, which somebody has to see to.
    Later,
    /// When its time comes: somebody sees to that already.
    Waiting,
    /// Too many wait.
    Never,
}

/// What was read lately, and what waits. Times are since boot.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: BTreeMap<Ticket, Duration>,
    readings: VecDeque<Duration>,
    /// In the order in which they came.
    waiting: VecDeque<Ticket>,
}

impl Pace {
    /// Something is said of a ticket. [`When::Now`]: it is being read from here on.
    pub(super) fn hint(&mut self, ticket: &Ticket, now: Duration) -> When {
        if self.waiting.contains(ticket) {
            return When::Waiting;
        }
        match self.begin(ticket, self.waiting.len(), now) {
            Ok(()) => When::Now,
            Err(_) => self.wait(ticket),
        }
    }

    /// It waits from here on: for its first reading, or for another one where that failed.
    pub(super) fn wait(&mut self, ticket: &Ticket) -> When {
        if self.waiting.contains(ticket) {
            return When::Waiting;
        }
        if self.waiting.len() >= MAX_WAITING {
            return When::Never;
        }
        self.waiting.push_back(ticket.clone());
        When::Later
    }

    /// The time of one that waits may have come: then it is being read from here on, and what is said of it now is for
    /// another reading.
    ///
    /// # Errors
    /// How long it still takes, at least.
    pub(super) fn turn(&mut self, ticket: &Ticket, now: Duration) -> Result<(), Duration> {
        let ahead = self.waiting.iter().position(|it| it == ticket).unwrap_or(self.waiting.len());
        self.begin(ticket, ahead, now)?;
        self.waiting.retain(|it| it != ticket);
        Ok(())
    }

    /// Reads it, where that leaves a reading for each of so many that are ahead.
    fn begin(&mut self, ticket: &Ticket, ahead: usize, now: Duration) -> Result<(), Duration> {
        self.last.retain(|_, at| at.saturating_add(EVERY) > now);
        while self.readings.front().is_some_and(|at| at.saturating_add(WITHIN) <= now) {
            self.readings.pop_front();
        }
        let own = self.last.get(ticket).map(|at| at.saturating_add(EVERY));
        // How many have to be over before, and when they are: not sooner than the last one there was.
        let over = self.readings.len().saturating_add(ahead).saturating_add(1).saturating_sub(MAX_READINGS);
        let last = || self.readings.get(over.saturating_sub(1)).or(self.readings.back());
        let all = (over > 0).then(|| last().map_or(now.saturating_add(SOON), |at| at.saturating_add(WITHIN)));
        match own.max(all) {
            Some(at) => Err(at.saturating_sub(now)),
            None => {
                self.last.insert(ticket.clone(), now);
                self.readings.push_back(now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(n: usize) -> Ticket {
        format!("own:{n}").parse().unwrap()
    }

    const NOW: Duration = Duration::from_secs(1_000);

    #[test]
    fn however_often_a_ticket_is_named_it_is_read_once_and_once_more_after() {
        let mut pace = Pace::default();
        let said: Vec<When> = (0..1_000).map(|_| pace.hint(&ticket(1), NOW)).collect();
        assert_eq!(said[..3], [When::Now, When::Later, When::Waiting]);
        assert!(said[3..].iter().all(|when| *when == When::Waiting));
        assert_eq!(pace.turn(&ticket(1), NOW + Duration::from_secs(2)), Err(Duration::from_secs(3)));
        assert_eq!(pace.turn(&ticket(1), NOW + EVERY), Ok(()));
        // What is said while it is being read is for another reading: it may have closed since.
        assert_eq!(pace.hint(&ticket(1), NOW + EVERY), When::Later);
        assert_eq!(pace.turn(&ticket(1), NOW + EVERY * 2), Ok(()));
        assert_eq!(pace.hint(&ticket(1), NOW + EVERY * 3), When::Now, "nothing waits");
    }

    #[test]
    fn all_tickets_together_are_read_so_often_and_so_many_wait() {
        let mut pace = Pace::default();
        let said: Vec<When> = (0..2_000).map(|n| pace.hint(&ticket(n), NOW)).collect();
        let count = |when| said.iter().filter(|it| **it == when).count();
        assert_eq!((count(When::Now), count(When::Later), count(When::Never)), (60, 1_000, 940));
        assert_eq!(pace.turn(&ticket(100), NOW + EVERY), Err(WITHIN - EVERY));
        let later = NOW + WITHIN;
        let read = (60..1_060).filter(|n| pace.turn(&ticket(*n), later).is_ok()).count();
        assert_eq!(read, MAX_READINGS);
        assert_eq!(pace.hint(&ticket(1_999), later), When::Later, "and there is room again");
        assert!(pace.last.len() <= MAX_READINGS && pace.readings.len() <= MAX_READINGS);
    }

    #[test]
    fn of_those_that_wait_the_first_is_the_first_and_nothing_new_is_read_before_them() {
        let mut pace = Pace::default();
        (0..60).for_each(|n| assert_eq!(pace.hint(&ticket(n), NOW), When::Now));
        (60..90).for_each(|n| assert_eq!(pace.hint(&ticket(n), NOW + EVERY), When::Later));
        let later = NOW + WITHIN;
        // There are 60 readings, and 30 wait: so many others are read, and not one more.
        let new = (100..200).filter(|n| pace.hint(&ticket(*n), later) == When::Now).count();
        assert_eq!(new, 30);
        // Whoever came later asks first, and waits for those before.
        assert_eq!(pace.turn(&ticket(130), later), Err(WITHIN));
        let read: Vec<bool> = (60..90).rev().map(|n| pace.turn(&ticket(n), later).is_ok()).collect();
        assert_eq!(read, [true; 30], "each has a reading of its own");
        assert_eq!(pace.turn(&ticket(131), later + WITHIN), Ok(()));
        // Many are ahead and none is read yet.
        let mut pace = Pace::default();
        (0..130).for_each(|n| assert_eq!(pace.wait(&ticket(n)), When::Later));
        assert_eq!(pace.turn(&ticket(100), NOW), Err(SOON));
        assert_eq!(pace.turn(&ticket(59), NOW), Ok(()));
        assert_eq!(pace.turn(&ticket(60), NOW), Err(WITHIN));
    }
}
