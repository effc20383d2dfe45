//! The budget of each identity's denials: so many are recorded one by one, those beyond it are counted.
//!
//! A denial within the budget is a record of its own. One beyond it joins an aggregate of its identity and reason, which
//! is opened by a record before the first of its denials is answered, and closed by one with the exact count. So a caller
//! at machine speed costs two small records a minute and reason, and no denial is answered whose decision is not on disk.
//!
//! A crash leaves the record that opened an aggregate: that this identity was refused for this reason from then on, more
//! often than its budget, is on disk; how often within the last minute is lost.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::name::IdentityName;
use crate::domain::{Reason, Timestamp};
use crate::evidence::entry::{Counted, Denial, DenialSample, Denials, MAX_SAMPLES};
use crate::evidence::journal::{Journal, JournalError, Ticket};

/// Identities whose budget is remembered, some 100 bytes each: who has all of it is forgotten, and those above the number
/// share one budget.
const MAX_IDENTITIES: usize = 16_384;
/// Aggregates that are open at a time, at most 2 KiB each; beyond it denials are counted without their identity, by reason
/// alone.
const MAX_AGGREGATES: usize = 4_096;
/// How long an aggregate counts: what a crash can lose, and an auditor has to wait.
const LONGEST: Duration = Duration::from_secs(60);
/// An aggregate to which nothing came for as long is closed.
const SILENCE: Duration = Duration::from_secs(10);
/// Those who have their whole budget are forgotten at most so often: looking for them takes a moment.
const FORGET_EVERY: Duration = Duration::from_secs(1);
/// Longest method and path kept of a sample, in characters.
const SAMPLE_CHARS: usize = 256;

/// The time, in the two ways that are needed of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    /// For budgets.
    pub(crate) since_boot: Duration,
    /// For records.
    pub(crate) wall: Timestamp,
}

/// What becomes of a denial's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// It is to be recorded by itself.
    Alone,
    /// It is counted; it may be answered when the record that opened the aggregate is durable.
    Counted(Ticket),
    /// It is counted in an aggregate that is open on disk.
    CountedAlready,
}

/// What is left of every identity's budget, and what was counted beyond it.
#[derive(Debug)]
pub(crate) struct DenialBudget {
    /// Between two denials at the sustained rate.
    spacing: Duration,
    /// How far ahead of the sustained rate an identity may be.
    ahead: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When an identity will have its whole budget again (the generic cell rate algorithm, ITU-T I.371).
    whole_at: HashMap<IdentityName, Duration, ahash::RandomState>,
    /// The same of all who have none of their own.
    rest_whole_at: Duration,
    forgot: Duration,
    open: HashMap<(Option<IdentityName>, Reason), Aggregate, ahash::RandomState>,
    /// Closed, and not known to be on disk.
    closing: Vec<(Ticket, Denials<'static>)>,
}

#[derive(Debug)]
struct Aggregate {
    opened_seq: u64,
    /// Until the record that opened it is known to be durable.
    opening: Option<Ticket>,
    from: Timestamp,
    last: Timestamp,
    count: u64,
    samples: Vec<DenialSample<'static>>,
}

/// What is known of the record that opened an aggregate.
enum Opening {
    Durable,
    Awaited(Ticket),
    Failed,
}

impl DenialBudget {
    /// `burst` denials at once, and `per_minute` of them in the long run; both at least one.
    pub(crate) fn new(burst: u32, per_minute: u32) -> Self {
        let spacing = Duration::from_secs(60) / per_minute.max(1);
        Self { spacing, ahead: spacing.saturating_mul(burst.max(1)), state: Mutex::default() }
    }

    /// Says how a denial is to be recorded, and counts it when it is beyond the budget.
    ///
    /// # Errors
    /// When an aggregate cannot be opened. The denial is not counted then.
    pub(crate) fn take(&self, journal: &Journal, denial: &Denial<'_>, at: At) -> Result<Course, JournalError> {
        let mut state = self.state.lock();
        let tracked = denial.identity.as_deref().filter(|identity| state.tracks(identity, at.since_boot));
        let whole_at = match tracked {
            Some(identity) => state.whole_at.entry(identity.clone()).or_default(),
            None => &mut state.rest_whole_at,
        };
        let next = (*whole_at).max(at.since_boot).saturating_add(self.spacing);
        if next.saturating_sub(at.since_boot) <= self.ahead {
            *whole_at = next;
            return Ok(Course::Alone);
        }
        state.count(journal, tracked.cloned(), denial, at.wall)
    }

    /// Closes the aggregates that had their time, all of them when the gateway ends, and tells again of those whose count
    /// was not written.
    pub(crate) fn flush(&self, journal: &Journal, now: Timestamp, is_end: bool) -> Result<(), JournalError> {
        let mut state = self.state.lock();
        let State { open, closing, .. } = &mut *state;
        for (ticket, record) in closing.iter_mut() {
            if let Some(Err(_)) = journal.outcome_here(*ticket) {
                *ticket = journal.append_here(record)?;
            }
        }
        closing.retain(|(ticket, _)| journal.outcome_here(*ticket) != Some(Ok(())));
        let mut failed = Ok(());
        open.retain(|(identity, reason), aggregate| match aggregate.opening(journal) {
            Opening::Failed => false,
            Opening::Awaited(_) => true,
            Opening::Durable if !is_end && !aggregate.is_over(now) => true,
            Opening::Durable => {
                let record = aggregate.close(identity.as_ref(), *reason);
                match journal.append_here(&record) {
                    Ok(ticket) => closing.push((ticket, record)),
                    Err(error) => failed = Err(error),
                }
                failed.is_err()
            }
        });
        failed
    }
}

impl State {
    /// Whether an identity has a budget of its own.
    fn tracks(&mut self, identity: &IdentityName, now: Duration) -> bool {
        if self.whole_at.len() < MAX_IDENTITIES || self.whole_at.contains_key(identity) {
            return true;
        }
        if now.saturating_sub(self.forgot) >= FORGET_EVERY {
            self.forgot = now;
            self.whole_at.retain(|_, whole_at| *whole_at > now);
        }
        self.whole_at.len() < MAX_IDENTITIES
    }

    fn count(
        &mut self,
        journal: &Journal,
        identity: Option<IdentityName>,
        denial: &Denial<'_>,
        now: Timestamp,
    ) -> Result<Course, JournalError> {
        let mut key = (identity, denial.reason);
        if self.open.len() >= MAX_AGGREGATES && !self.open.contains_key(&key) {
            key.0 = None;
        }
        if let Some(aggregate) = self.open.get_mut(&key) {
            match aggregate.opening(journal) {
                Opening::Durable => {
                    aggregate.add(denial, now);
                    return Ok(Course::CountedAlready);
                }
                Opening::Awaited(ticket) => {
                    aggregate.add(denial, now);
                    return Ok(Course::Counted(ticket));
                }
                // Whoever was counted in it was told that nothing can be recorded.
                Opening::Failed => {}
            }
        }
        let samples = vec![sample(denial)];
        let identity = key.0.as_ref().map(Cow::Borrowed);
        let record = Denials { from: now, identity, reason: denial.reason, samples: samples.clone(), counted: None };
        let ticket = journal.append(&record)?;
        let opening = Some(ticket);
        let aggregate = Aggregate { opened_seq: ticket.seq, opening, from: now, last: now, count: 1, samples };
        self.open.insert(key, aggregate);
        Ok(Course::Counted(ticket))
    }
}

impl Aggregate {
    fn opening(&mut self, journal: &Journal) -> Opening {
        let Some(ticket) = self.opening else { return Opening::Durable };
        match journal.outcome_of(ticket) {
            None => Opening::Awaited(ticket),
            Some(Err(_)) => Opening::Failed,
            Some(Ok(())) => {
                self.opening = None;
                Opening::Durable
            }
        }
    }

    fn add(&mut self, denial: &Denial<'_>, now: Timestamp) {
        self.count = self.count.saturating_add(1);
        self.last = self.last.max(now);
        if self.samples.len() < MAX_SAMPLES {
            self.samples.push(sample(denial));
        }
    }

    fn is_over(&self, now: Timestamp) -> bool {
        now.saturating_since(self.from) >= LONGEST || now.saturating_since(self.last) >= SILENCE
    }

    fn close(&self, identity: Option<&IdentityName>, reason: Reason) -> Denials<'static> {
        Denials {
            from: self.from,
            identity: identity.cloned().map(Cow::Owned),
            reason,
            samples: self.samples.clone(),
            counted: Some(Counted { count: self.count, opened_seq: self.opened_seq, to: self.last }),
        }
    }
}

fn sample(denial: &Denial<'_>) -> DenialSample<'static> {
    let text = |text: &str| Cow::Owned(text.chars().take(SAMPLE_CHARS).collect());
    DenialSample { call: denial.call, peer: denial.peer, method: text(&denial.method), path: text(&denial.path) }
}

#[cfg(test)]
#[path = "denials/tests.rs"]
mod tests;
