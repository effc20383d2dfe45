//! What another machine has of the log, where records wait until they are on its disk too.
//!
//! For a disk that goes with its machine. A record that somebody waits for is promised once the other machine said that it
//! has it. When it does not say so in time, whoever waits is told, and nothing new is taken, until what is here is there.
//! Refuses to know who the other machine is, and how records get there.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Journal, JournalError};

/// Batches of which it is known since when they wait; of more, they are taken for as old as the last of these.
const MAX_WAITING: usize = 1024;

/// How the copy on another machine is doing.
#[derive(Clone, Debug)]
pub struct RemoteStatus {
    /// Records that are on its disk, by its last word.
    pub kept: u64,
    /// Records that are here and, by that word, not there.
    pub records: u64,
    /// For how long the oldest of them has been waiting.
    pub age: Duration,
    /// Whether it is connected.
    pub attached: bool,
    /// Why records that somebody waits for are refused just now, if they are.
    pub refuses: Option<JournalError>,
    /// Why it does not go on, if it does not.
    pub error: Option<String>,
    /// Times that it did not go on, and calls were refused for it.
    pub failures: u64,
}

/// What is known of it.
#[derive(Debug)]
pub(super) struct Remote {
    within: Duration,
    /// Records before this one are there.
    kept: AtomicU64,
    /// Nobody waits any longer for those before this one.
    given_up: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    broken: Option<JournalError>,
    /// What it refused, it must have before anything else is taken: those before this one.
    refused: u64,
    /// Ends of batches that are here and not there, and since when.
    waiting: VecDeque<(u64, Duration)>,
    away_since: Option<Duration>,
    error: Option<String>,
    failures: u64,
}

impl State {
    fn age(&self, now: Duration) -> Duration {
        self.waiting.front().map_or(Duration::ZERO, |(_, since)| now.saturating_sub(*since))
    }
}

impl Remote {
    /// Nothing is known of it yet, with `here` records here at `now`.
    pub(super) fn new(within: Duration, here: u64, now: Duration) -> Self {
        let state = State {
            broken: None,
            refused: 0,
            waiting: (here > 0).then_some((here, now)).into_iter().collect(),
            away_since: Some(now),
            error: None,
            failures: 0,
        };
        Self { within, kept: AtomicU64::new(0), given_up: AtomicU64::new(0), state: Mutex::new(state) }
    }

    /// What became of a record that is on this disk, if that is known.
    pub(super) fn outcome(&self, seq: u64) -> Option<Result<(), JournalError>> {
        if seq < self.kept.load(Ordering::SeqCst) {
            return Some(Ok(()));
        }
        let given_up = seq < self.given_up.load(Ordering::SeqCst);
        given_up.then(|| Err(self.state.lock().broken.unwrap_or(JournalError::Unavailable)))
    }

    /// Why nothing is taken just now that somebody would wait for.
    pub(super) fn broken(&self) -> Option<JournalError> {
        self.state.lock().broken
    }

    /// Records before `here` are on this disk since `now`.
    pub(super) fn written(&self, here: u64, now: Duration) {
        let mut state = self.state.lock();
        if self.kept.load(Ordering::SeqCst) >= here {
            return;
        }
        let is_full = state.waiting.len() >= MAX_WAITING;
        match state.waiting.back_mut() {
            Some(last) if is_full => last.0 = here,
            _ => state.waiting.push_back((here, now)),
        }
        if state.broken.is_some() {
            self.given_up.fetch_max(here, Ordering::SeqCst);
        }
    }

    /// It is connected, and says how many records it has. They may be fewer than it said before: it may have lost its disk.
    fn attached(&self, kept: u64, now: Duration) {
        let mut state = self.state.lock();
        state.away_since = None;
        self.kept.store(kept, Ordering::SeqCst);
        self.settle(&mut state, kept, now);
    }

    /// It says that records before `kept` are on its disk.
    fn reached(&self, kept: u64, now: Duration) {
        let mut state = self.state.lock();
        self.kept.fetch_max(kept, Ordering::SeqCst);
        self.settle(&mut state, kept, now);
    }

    fn settle(&self, state: &mut State, kept: u64, now: Duration) {
        while state.waiting.pop_front_if(|(end, _)| *end <= kept).is_some() {}
        // What was given up stays so; what comes now is taken again, once what is before it does not wait for long.
        if state.away_since.is_none() && kept >= state.refused && state.age(now) <= self.within / 2 {
            (state.broken, state.error) = (None, None);
        }
    }

    /// It went away, or cannot be reached.
    fn lost(&self, why: String, now: Duration) {
        let mut state = self.state.lock();
        state.away_since.get_or_insert(now);
        state.error = Some(why);
    }

    /// It does not take records: nobody needs to wait to be told so.
    fn refused(&self, error: JournalError, why: String, here: u64, now: Duration) {
        self.lost(why, now);
        let mut state = self.state.lock();
        state.refused = self.give_up(&mut state, error, here);
    }

    /// Says up to where.
    fn give_up(&self, state: &mut State, error: JournalError, here: u64) -> u64 {
        if state.broken.is_none() {
            state.failures += 1;
        }
        state.broken = Some(error);
        // A batch that came behind the look at what is here: nobody would give it up before the next one.
        let here = state.waiting.back().map_or(here, |(end, _)| here.max(*end));
        self.given_up.fetch_max(here, Ordering::SeqCst);
        here
    }

    /// Gives up what waits for too long, and what would: nobody is there. Says whether anybody is to be told.
    fn look(&self, here: u64, now: Duration) -> bool {
        let mut state = self.state.lock();
        let is_away = state.away_since.is_some_and(|since| now.saturating_sub(since) >= self.within);
        if state.broken.is_some() || !(is_away || state.age(now) >= self.within) {
            return false;
        }
        self.give_up(&mut state, JournalError::Unavailable, here);
        true
    }

    fn status(&self, here: u64, now: Duration) -> RemoteStatus {
        let state = self.state.lock();
        let kept = self.kept.load(Ordering::SeqCst);
        RemoteStatus {
            kept,
            records: here.saturating_sub(kept),
            age: state.age(now),
            attached: state.away_since.is_none(),
            refuses: state.broken,
            error: state.error.clone(),
            failures: state.failures,
        }
    }
}

/// What whoever brings records to the other machine says. Nothing of it does anything where records wait for no other.
impl Journal {
    /// How the copy on another machine is doing, where records wait for one.
    pub fn remote(&self) -> Option<RemoteStatus> {
        let now = self.shared.clock.since_boot();
        self.shared.remote.as_ref().map(|remote| remote.status(self.durable_seq(), now))
    }

    /// How long a record may wait for it.
    pub fn remote_within(&self) -> Option<Duration> {
        self.shared.remote.as_ref().map(|remote| remote.within)
    }

    /// The other machine is connected and has the records before `kept`.
    pub fn remote_attached(&self, kept: u64) {
        self.tell(|remote, now| remote.attached(kept, now));
    }

    /// The records before `kept` are on its disk.
    pub fn remote_kept(&self, kept: u64) {
        self.tell(|remote, now| remote.reached(kept, now));
    }

    /// It cannot be reached.
    pub fn remote_lost(&self, why: String) {
        self.tell(|remote, now| remote.lost(why, now));
    }

    /// It refuses records.
    pub fn remote_refused(&self, error: JournalError, why: String) {
        let here = self.durable_seq();
        self.tell(|remote, now| remote.refused(error, why, here, now));
    }

    /// Gives up what waits for too long. To be called several times in the time that a record may wait.
    pub fn look_at_remote(&self) {
        let (here, now) = (self.durable_seq(), self.shared.clock.since_boot());
        if self.shared.remote.as_ref().is_some_and(|remote| remote.look(here, now)) {
            self.shared.announce();
        }
    }

    /// Waits until there are records from `seq` on, or something else is news, about so long at most.
    pub fn beyond(&self, seq: u64, limit: Duration) {
        let mut state = self.shared.state.lock();
        if self.durable_seq() <= seq && !state.closed {
            let _ = self.shared.committed.wait_for(&mut state, limit);
        }
    }

    /// Waits for news, about so long at most.
    pub fn news(&self, limit: Duration) {
        self.beyond(u64::MAX, limit);
    }

    fn tell(&self, tell: impl FnOnce(&Remote, Duration)) {
        if let Some(remote) = &self.shared.remote {
            tell(remote, self.shared.clock.since_boot());
            self.shared.announce();
        }
    }
}

#[cfg(test)]
#[path = "remote/tests.rs"]
mod tests;
