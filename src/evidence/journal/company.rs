//! Whether records that somebody waits for are better off waiting for company first: a sync costs as much processor time as
//! several calls, and those that come just behind it would wait for the whole of the next one.
//!
//! Callers who wait for their answers come back together: as many as came of late are expected again. Nobody waits for more
//! than that, nor where records are so far apart that none would come in time.

use std::time::Duration;

/// With so many together, a sync costs each of them little: nothing is gained by waiting for more.
const MOST: usize = 128;
/// So many have to come in the time that one may wait for.
const WORTH: u32 = 8;

/// How a worker's calls gather while it has other calls to go on with.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// How many records were queued when it looked last.
    queued: u64,
    /// When it looked first, since boot.
    since: Option<Duration>,
}

impl Rounds {
    /// Whether more came since the last look, so that more may come until the next one: also where calls ended, since whoever
    /// has an answer asks again. Costs nobody a rest: who looks goes on with something else between, or looks for the last
    /// time.
    pub(super) fn go_on(&mut self, company: &Company, queue: Queued, within: Duration, now: Duration) -> bool {
        let since = *self.since.get_or_insert(now);
        let more = queue.records > self.queued && company.is_any() && queue.awaited < MOST;
        self.queued = queue.records;
        more && now.saturating_sub(since) < within
    }
}

/// What is queued.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queued {
    pub(super) records: u64,
    /// Of those, how many somebody waits for.
    pub(super) awaited: usize,
}

/// What is known of how records come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Company {
    /// As many as came together of late.
    expected: usize,
    /// From one to the next, of late.
    apart: Duration,
    /// When the last batch was taken, since boot.
    taken: Duration,
}

impl Company {
    pub(super) const fn new(now: Duration) -> Self {
        Self { expected: 1, apart: Duration::from_secs(1), taken: now }
    }

    /// Whether records come together at all.
    const fn is_any(&self) -> bool {
        self.expected > 1
    }

    /// Whether `awaited` records are as many as are expected.
    pub(super) const fn is_whole(&self, awaited: usize) -> bool {
        awaited >= self.expected
    }

    /// Whether those that are missing beside `awaited` are worth waiting for, `within` that time at most.
    pub(super) fn is_worth_waiting(&self, awaited: usize, within: Duration) -> bool {
        awaited > 0 && !self.is_whole(awaited) && self.apart.saturating_mul(WORTH) <= within
    }

    /// A batch with `awaited` records that somebody waits for is taken.
    pub(super) fn take(&mut self, awaited: usize, now: Duration) {
        let Some(count) = u32::try_from(awaited).ok().filter(|count| *count > 0) else { return };
        let apart = now.saturating_sub(self.taken) / count;
        // Who comes back after a rest is soon known; a single slow batch changes little.
        self.apart =
            if apart >= self.apart { apart.min(self.apart.saturating_mul(2)) } else { (self.apart / 4).max(apart) };
        self.taken = now;
        let fewer = self.expected - self.expected.div_ceil(4);
        self.expected = awaited.max(fewer).min(MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_millis(1);

    /// Batches of so many, each so many microseconds behind the one before.
    fn after(batches: &[(usize, u64)]) -> Company {
        let (mut company, mut now) = (Company::new(Duration::ZERO), Duration::ZERO);
        for (awaited, micros) in batches {
            now += Duration::from_micros(*micros);
            company.take(*awaited, now);
        }
        company
    }

    #[test]
    fn as_many_as_came_together_are_waited_for_and_no_more() {
        let company = after(&[(8, 400); 20]);
        assert!((1..8).all(|awaited| company.is_worth_waiting(awaited, WITHIN)));
        assert!(!company.is_worth_waiting(8, WITHIN) && company.is_whole(8));
        assert!(!company.is_worth_waiting(0, WITHIN), "nobody waits");
        let crowd = after(&[(5_000, 400); 20]);
        assert!(!crowd.is_worth_waiting(MOST, WITHIN), "a sync costs so many little");
    }

    #[test]
    fn a_lone_caller_and_those_far_apart_wait_for_nobody() {
        assert!(!after(&[]).is_worth_waiting(1, WITHIN));
        assert!(!after(&[(1, 100); 20]).is_worth_waiting(1, WITHIN));
        // 3 together, at 2,000 a second.
        assert!(!after(&[(3, 1_500); 20]).is_worth_waiting(1, WITHIN));
        // A crowd that is back after a rest.
        let rested: Vec<_> = [(8, 400); 20].into_iter().chain([(1, 60_000_000)]).collect();
        let mut company = after(&rested);
        for _ in 0..4 {
            company.take(1, company.taken + Duration::from_secs(60));
        }
        assert!(!company.is_worth_waiting(1, WITHIN));
    }

    #[test]
    fn a_worker_looks_on_while_more_come_and_not_for_ever() {
        let crowd = after(&[(8, 400); 20]);
        let of = |records, awaited| Queued { records, awaited };
        let look = |rounds: &mut Rounds, awaited, micros| {
            rounds.go_on(&crowd, of(awaited as u64, awaited), WITHIN, Duration::from_micros(micros))
        };
        let mut rounds = Rounds::default();
        assert!(look(&mut rounds, 1, 5) && look(&mut rounds, 20, 300) && look(&mut rounds, 21, 900));
        assert!(!look(&mut rounds, 30, 1_005), "longer than anybody may wait");
        let mut rounds = Rounds::default();
        assert!(look(&mut rounds, 3, 5) && !look(&mut rounds, 3, 6), "nobody came");
        assert!(!look(&mut Rounds::default(), 0, 5), "nobody waits");
        assert!(!look(&mut Rounds::default(), MOST, 5), "they are enough");
        let lone = after(&[(1, 100); 20]);
        assert!(!Rounds::default().go_on(&lone, of(1, 1), WITHIN, Duration::ZERO), "a lone caller");
        let mut rounds = Rounds::default();
        assert!(rounds.go_on(&crowd, of(5, 0), WITHIN, Duration::ZERO), "calls have ended, and others begin");
        assert!(!rounds.go_on(&crowd, of(5, 0), WITHIN, Duration::ZERO), "none did");
    }

    #[test]
    fn whoever_is_left_of_a_crowd_waits_a_few_times_at_most() {
        let mut company = after(&[(64, 1_800); 20]);
        let waits = (0..50).filter(|_| {
            let waits = company.is_worth_waiting(1, WITHIN);
            let sync = Duration::from_micros(260);
            company.take(1, company.taken + if waits { sync + WITHIN } else { sync });
            waits
        });
        assert!(waits.count() <= 4);
    }

    #[test]
    fn a_crowd_is_known_within_a_few_batches() {
        let mut company = after(&[(1, 60_000_000); 3]);
        let waits = (0..20).position(|_| {
            company.take(8, company.taken + Duration::from_micros(400));
            company.is_worth_waiting(7, WITHIN)
        });
        assert!(waits.is_some_and(|batches| batches <= 12), "{waits:?}");
    }
}
