//! The gate's time and its authority: what every decision takes as "now".
//!
//! Time never goes back: it is the highest of what the machine's clock says, what was said before, and the control
//! plane's time plus what has elapsed since. Authority counts from when the answered renewal was *sent*, on the clock
//! that runs through suspends and on the wall clock, whichever makes it older. A process that stood still does not know
//! what it missed, and says so until a renewal that it sent afterwards is answered.
//!
//! Read without a lock by every call. Knows nothing of streams or snapshots: `sync` sends, and says what came back.

mod memory;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

pub use memory::{Committed, Highest, Memory, MemoryError};

use crate::decision::{Authority, Now};
use crate::domain::{Clock, Timestamp};

/// Longest time between ticks that is no pause. Ticks come every 100 ms; a machine that is merely busy keeps within.
pub const MAX_TICK_GAP: Duration = Duration::from_secs(2);
/// Renewals whose answer may still come; older ones are forgotten.
const MAX_OUTSTANDING: usize = 8;
/// No renewal was answered yet.
const NEVER: u64 = u64::MAX;

/// What makes an answer the answer to one renewal.
pub type Nonce = [u8; 16];

/// An answered renewal, as the control plane tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The store's epoch.
    pub epoch: u64,
    /// Its newest revision.
    pub revision: u64,
    /// The control plane's clock.
    pub time: Timestamp,
}

/// Why an answer does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It answers nothing that was asked, or something older than what was answered already.
    #[error("the answer belongs to no renewal that is waiting for one")]
    Unasked,
    /// The control plane is behind what this gateway has seen: a restored backup.
    #[error("the control plane is at epoch {0}, revision {1}, behind what this gateway has seen: {2}")]
    Behind(u64, u64, Highest),
}

/// Whether a tick came in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// It did.
    Steady,
    /// The process stood still: a renewal is due at once.
    Gap,
}

/// When something happened, on both clocks. Microseconds since boot.
#[derive(Clone, Copy, Debug)]
struct Moment {
    boot: u64,
    wall: Timestamp,
}

/// The gate's clock. Shared by everything in a gateway.
#[derive(Debug)]
pub struct AuthorityClock {
    clock: Arc<dyn Clock>,
    memory: Memory,
    /// The latest time that was told to anybody, in Unix microseconds.
    high_water: AtomicI64,
    /// The control plane's time minus the time since boot, in microseconds; `i64::MIN` before the first answer.
    control_offset: AtomicI64,
    last_tick: AtomicU64,
    /// Up to when was looked for calls that ended, on the coarse clock.
    pulse: AtomicU64,
    /// When the latest pause was noticed; 0: never. What was sent before says nothing.
    gap: AtomicU64,
    /// When the latest answered renewal was sent; written wall first. A torn read sees the older one of either, which
    /// makes authority older, never younger.
    sent_boot: AtomicU64,
    sent_wall: AtomicI64,
    /// `sent_boot` of the renewal since which the wall clock was seen to be set ahead: asked about once.
    stepped: AtomicU64,
    outstanding: Mutex<VecDeque<(Nonce, Moment)>>,
    answers: Notify,
    due: Notify,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl AuthorityClock {
    /// A clock without authority. `memory` says what this gateway saw before it was restarted.
    pub fn new(clock: Arc<dyn Clock>, memory: Memory) -> Arc<Self> {
        let boot = micros(clock.since_boot());
        Arc::new(Self {
            high_water: AtomicI64::new(memory.highest().wall.unix_micros()),
            memory,
            control_offset: AtomicI64::new(i64::MIN),
            last_tick: AtomicU64::new(boot),
            pulse: AtomicU64::new(micros(clock.coarse())),
            gap: AtomicU64::new(0),
            sent_boot: AtomicU64::new(NEVER),
            sent_wall: AtomicI64::new(i64::MIN),
            stepped: AtomicU64::new(NEVER),
            outstanding: Mutex::default(),
            answers: Notify::new(),
            due: Notify::new(),
            clock,
        })
    }

    /// The moment to decide on.
    pub fn now(&self) -> Now {
        let boot = micros(self.clock.since_boot());
        self.notice(boot);
        let wall = self.wall_at(boot);
        let authority = match self.age(boot, wall) {
            None => Authority::Missing,
            // Sent before the pause was over: the answer says nothing about what was missed.
            Some(_) if self.sent_boot.load(SeqCst) < self.gap.load(SeqCst) => Authority::Unknown,
            Some(age) => Authority::Age(age),
        };
        Now { wall, authority }
    }

    /// The moment for calls that run already: as [`AuthorityClock::now`], and after a pause with the age itself. A call
    /// outlives the question that is under way, and not the age that its resource accepts.
    pub fn reckoning(&self) -> Now {
        let boot = micros(self.clock.since_boot());
        let wall = self.wall_at(boot);
        Now { wall, authority: self.age(boot, wall).map_or(Authority::Missing, Authority::Age) }
    }

    /// The time, where authority does not matter.
    pub fn wall(&self) -> Timestamp {
        self.wall_at(micros(self.clock.since_boot()))
    }

    /// Time since boot, suspends included: for durations.
    pub fn since_boot(&self) -> Duration {
        self.clock.since_boot()
    }

    /// Says that the process is running. To be called every 100 ms by a task that does nothing slow.
    pub fn tick(&self) -> Tick {
        let boot = micros(self.clock.since_boot());
        let is_late = boot.saturating_sub(self.last_tick.load(SeqCst)) > micros(MAX_TICK_GAP);
        self.notice(boot);
        self.last_tick.fetch_max(boot, SeqCst);
        self.notice_step(boot);
        if is_late { Tick::Gap } else { Tick::Steady }
    }

    /// What ended by now is ended: to be said after each tick, when that was looked for. `since` is [`Clock::coarse`]
    /// of before the look.
    pub fn looked(&self, since: Duration) {
        self.pulse.fetch_max(micros(since), SeqCst);
    }

    /// Time for [`AuthorityClock::looked`].
    pub fn coarse(&self) -> Duration {
        self.clock.coarse()
    }

    /// Whether the process stood still and nobody has looked yet what ended meanwhile. Costs next to nothing: for every
    /// step of every call.
    pub fn stood_still(&self) -> bool {
        let pulse = self.pulse.load(SeqCst);
        micros(self.clock.coarse()).saturating_sub(pulse) > micros(MAX_TICK_GAP)
    }

    /// When the latest pause was noticed, since boot: whoever finds another one than before looks again what ended.
    pub fn paused(&self) -> Duration {
        Duration::from_micros(self.gap.load(SeqCst))
    }

    /// A wall clock that was set ahead makes authority look older than it is, until a renewal is answered: one is due.
    fn notice_step(&self, boot: u64) {
        let sent = self.sent_boot.load(SeqCst);
        if sent == NEVER || self.stepped.load(SeqCst) == sent {
            return;
        }
        let by_boot = Duration::from_micros(boot.saturating_sub(sent));
        if self.age(boot, self.wall_at(boot)).is_some_and(|age| age > by_boot.saturating_add(MAX_TICK_GAP)) {
            self.stepped.store(sent, SeqCst);
            self.due.notify_one();
        }
    }

    /// Resolves when a renewal is due at once, because the process stood still or its wall clock was set ahead.
    pub fn due(&self) -> impl Future<Output = ()> + '_ {
        self.due.notified()
    }

    /// Resolves when it is known again how old authority is; at once when it is known now. Bounded by nothing: the
    /// caller brings its own limit.
    pub async fn renewed(&self) {
        loop {
            let answer = self.answers.notified();
            match self.now().authority {
                Authority::Unknown => answer.await,
                Authority::Missing | Authority::Age(_) => return,
            }
        }
    }

    /// A renewal is about to be sent. To be called before its first byte can leave.
    pub fn sent(&self, nonce: Nonce) {
        let boot = micros(self.clock.since_boot());
        self.notice(boot);
        let at = Moment { boot, wall: self.wall_at(boot) };
        let mut outstanding = self.outstanding.lock();
        if outstanding.len() >= MAX_OUTSTANDING {
            outstanding.pop_front();
        }
        outstanding.push_back((nonce, at));
    }

    /// An answer came.
    ///
    /// # Errors
    /// When it does not count. Authority is then as old as before.
    pub fn answered(&self, nonce: &[u8], answer: &Answer) -> Result<(), AnswerError> {
        let highest = self.memory.highest();
        if (answer.epoch, answer.revision) < (highest.epoch, highest.revision) {
            return Err(AnswerError::Behind(answer.epoch, answer.revision, highest));
        }
        {
            let mut outstanding = self.outstanding.lock();
            let place = outstanding.iter().position(|(n, _)| n.as_slice() == nonce).ok_or(AnswerError::Unasked)?;
            // The older ones are answered by this one.
            let (_, sent) = outstanding.drain(..=place).next_back().ok_or(AnswerError::Unasked)?;
            let boot = i64::try_from(micros(self.clock.since_boot())).unwrap_or(i64::MAX);
            // Never less: an answer that was long under way, or a clock set back, must give nobody time.
            self.control_offset.fetch_max(answer.time.unix_micros().saturating_sub(boot), SeqCst);
            self.sent_wall.store(sent.wall.unix_micros(), SeqCst);
            self.sent_boot.store(sent.boot, SeqCst);
        }
        self.answers.notify_waiters();
        Ok(())
    }

    /// What this gateway remembers over restarts.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// A pause is noticed once, by whoever looks first: that shows that the process runs again. Were it noticed until the
    /// next tick, each renewal of that time would make the next one due, and say nothing itself.
    fn notice(&self, boot: u64) {
        let ran = self.last_tick.load(SeqCst).max(self.gap.load(SeqCst));
        if boot.saturating_sub(ran) > micros(MAX_TICK_GAP) {
            self.gap.fetch_max(boot, SeqCst);
            self.due.notify_one();
        }
    }

    fn wall_at(&self, boot: u64) -> Timestamp {
        let offset = self.control_offset.load(SeqCst);
        let control = match offset {
            i64::MIN => i64::MIN,
            offset => offset.saturating_add(i64::try_from(boot).unwrap_or(i64::MAX)),
        };
        let now = self.clock.now().unix_micros().max(control);
        let before = self.high_water.load(SeqCst);
        if now <= before {
            return Timestamp::from_unix_micros(before);
        }
        Timestamp::from_unix_micros(self.high_water.fetch_max(now, SeqCst).max(now))
    }

    fn age(&self, boot: u64, wall: Timestamp) -> Option<Duration> {
        let sent_boot = match self.sent_boot.load(SeqCst) {
            NEVER => return None,
            sent => sent,
        };
        let sent_wall = Timestamp::from_unix_micros(self.sent_wall.load(SeqCst));
        Some(Duration::from_micros(boot.saturating_sub(sent_boot)).max(wall.saturating_since(sent_wall)))
    }
}

#[cfg(test)]
mod tests;
