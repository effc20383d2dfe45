//! Keeps an archive up to its log, and the log to its retention, while the log is written.
//!
//! One thread, off the path of calls. What fails is tried again; a call notices only by the [`Lag`].

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Bound, Lag, Place, archive, recheck};
use crate::domain::{Clock, Timestamp};
use crate::evidence::EvidenceLog;
use crate::evidence::entry::Entry;
use crate::evidence::read::{JournalReader, Next, first};
use crate::evidence::retention::{self, Bounds, Plan, Policy, PruneError, Stays};
use crate::evidence::storage::Persist;

/// How often it is looked whether something is to be pruned.
const PRUNE_EVERY: Duration = Duration::from_secs(10);

/// What is kept, and where.
#[derive(Debug)]
pub struct KeeperOptions {
    /// The archive, if there is one, and how far it may be behind.
    pub place: Option<(Box<dyn Place>, Bound)>,
    /// How often something is put there.
    pub every: Duration,
    /// What stays on the log's own disk.
    pub retention: Policy,
    /// What of it stays whatever that says.
    pub stays: Option<Stays>,
}

/// The thread.
#[derive(Debug)]
pub struct Keeper {
    lag: Option<Arc<Lag>>,
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

struct Job {
    log: Arc<EvidenceLog>,
    place: Option<(Box<dyn Place>, Arc<Lag>)>,
    retention: Policy,
    stays: Option<Stays>,
    clock: Arc<dyn Clock>,
    pruned_at: Option<Duration>,
    stalled: Option<String>,
}

impl Keeper {
    /// Starts to keep a log. Where a bound refuses calls, the journal takes intents only within it from now on.
    ///
    /// # Errors
    /// When the log cannot be read, or no thread started.
    pub fn start(log: &Arc<EvidenceLog>, options: KeeperOptions, clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        let place = match options.place {
            Some((place, bound)) => {
                let (archived, whole_until) = known(log, clock.now())?;
                let lag = Arc::new(Lag::new(bound, archived, whole_until));
                log.journal().bound(lag.clone());
                Some((place, lag))
            }
            None => None,
        };
        let lag = place.as_ref().map(|(_, lag)| lag.clone());
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let KeeperOptions { every, retention, stays, .. } = options;
        let job = Job { log: log.clone(), place, retention, stays, clock, pruned_at: None, stalled: None };
        let shared = stop.clone();
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(move || run(job, &shared, every))?;
        Ok(Self { lag, stop, thread: Mutex::new(Some(thread)) })
    }

    /// How far the archive is behind, where there is one.
    pub fn lag(&self) -> Option<Arc<Lag>> {
        self.lag.clone()
    }

    /// Ends the thread, once it has put what there is. Blocks.
    pub fn stop(&self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            // A panic in there has stopped it, which is what is wanted.
            drop(thread.join());
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What was archived by the last word, and a time by which no record was written that is not.
fn known(log: &EvidenceLog, now: Timestamp) -> std::io::Result<(u64, Timestamp)> {
    let storage = &log.storage;
    let archived = retention::archived(&**storage).ok().flatten().unwrap_or(0);
    let mut reader = JournalReader::new(storage.clone(), archived.max(first(&**storage)?));
    let waiting = match reader.next()? {
        Next::Record(record) => Entry::place(record.bytes).map(|(_, time)| time),
        Next::CaughtUp { .. } | Next::Damaged { .. } => None,
    };
    Ok((archived, waiting.unwrap_or(now)))
}

fn run(mut job: Job, stop: &(Mutex<bool>, Condvar), every: Duration) {
    let mut stopping = stop.0.lock();
    loop {
        let last = *stopping;
        drop(stopping);
        job.archive();
        job.prune();
        stopping = stop.0.lock();
        if last {
            return;
        }
        if !*stopping {
            stop.1.wait_for(&mut stopping, every);
        }
    }
}

impl Job {
    fn archive(&mut self) {
        let Some((place, lag)) = &self.place else { return };
        let (began, durable) = (self.clock.now(), self.log.journal().durable_seq());
        if lag.archived() < durable {
            match archive(&self.log.storage, &**place) {
                Ok(exported) => {
                    lag.reached(exported.head.size, exported.files);
                    if let Some((_, note)) = self.log.checkpoint().filter(|(head, _)| *head == exported.head) {
                        // Of what is written here only how it begins the next time depends.
                        let _ = self.log.storage.write_file(retention::ARCHIVED, note.as_bytes(), Persist::Later);
                    }
                    if lag.fault(None) {
                        tracing::info!(records = exported.head.size, "the archive goes on");
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if lag.fault(Some(error.clone())) {
                        tracing::warn!(%error, "the archive does not go on: it is tried again");
                    }
                }
            }
        }
        if lag.archived() >= durable {
            lag.whole(began);
        }
    }

    fn prune(&mut self) {
        let now = self.clock.since_boot();
        if self.retention == Policy::default() || self.pruned_at.is_some_and(|at| now.saturating_sub(at) < PRUNE_EVERY)
        {
            return;
        }
        self.pruned_at = Some(now);
        let error = self.prune_now().err();
        if let (Some(error), Some((_, lag))) = (&error, &self.place) {
            lag.fault(Some(error.clone()));
        }
        if error != self.stalled {
            match &error {
                Some(error) => tracing::warn!(%error, "old evidence cannot be pruned: it is kept, and tried again"),
                None => tracing::info!("old evidence can be pruned again"),
            }
        }
        self.stalled = error;
    }

    fn prune_now(&self) -> Result<(), String> {
        let storage = &self.log.storage;
        let archived = self.place.as_ref().map(|(_, lag)| lag.archived());
        // INVARIANT: nor does any that the copy on another machine, where there is to be one, is not known to have.
        // What one that is away said before it went may not be so any more: it may have lost its disk.
        let kept = self.log.journal().remote().map(|copy| if copy.attached { copy.kept } else { 0 });
        let archived = [archived, kept].into_iter().flatten().min();
        let wall = self.clock.now();
        let may_go = |plan: &Plan| {
            let Some((place, _)) = &self.place else { return Ok(()) };
            // INVARIANT: no record goes whose archived copy was not read just now, whatever became of it since it was put.
            recheck(storage, &**place, plan.from, plan.before).map_err(|error| PruneError::Archive(error.to_string()))
        };
        let bounds = Bounds { archived, stays: self.stays };
        let pruned = self.log.prune(self.retention, bounds, wall, may_go).map_err(|error| error.to_string())?;
        if let Some(plan) = pruned {
            tracing::info!(
                before = plan.before,
                segments = plan.segments,
                bytes = plan.bytes,
                "old evidence was pruned"
            );
            if let Some((_, lag)) = &self.place {
                lag.pruned(plan.before);
            }
        }
        Ok(())
    }
}
