//! The thread that takes the sequencer's steps, and its handle.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Asked, CHECKPOINT_EVERY, Sequencer, SequencerError};
use crate::domain::Clock;
use crate::evidence::checkpoint::EvidenceKey;
use crate::evidence::journal::{Durability, Journal};
use crate::evidence::storage::Storage;
use crate::evidence::tree::TreeHead;

/// How often new records are looked for while there are some. Were it seldom, what came meanwhile would keep calls from their
/// processor for as long as dozens of them take.
const INTEGRATE_EVERY: Duration = Duration::from_millis(20);

/// How tiles and checkpoints are doing.
#[derive(Clone, Debug, Default)]
pub struct SequencerStatus {
    /// Records under the last signed checkpoint.
    pub signed: u64,
    /// The last error, if the last step failed.
    pub error: Option<String>,
}

#[derive(Debug)]
struct Control {
    stop: bool,
    asked: u64,
    answered: u64,
    note: Option<(TreeHead, String)>,
    status: SequencerStatus,
}

/// A handle to the sequencer's thread.
#[derive(Debug)]
pub struct SequencerHandle {
    control: Arc<(Mutex<Control>, Condvar, Condvar)>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl SequencerHandle {
    /// Opens tiles and checkpoint, publishes a first one, and starts the thread.
    ///
    /// # Errors
    /// When the disk fails, or what is there contradicts what was signed.
    pub fn start(
        storage: Arc<dyn Storage>,
        journal: Journal,
        key: EvidenceKey,
        durability: Durability,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SequencerError> {
        let mut sequencer = Sequencer::open(storage, journal, key, durability)?;
        sequencer.step(clock.since_boot(), Asked::Now)?;
        let control = Control {
            stop: false,
            asked: 0,
            answered: 0,
            note: sequencer.signed.map(|head| (head, sequencer.note.clone())),
            status: SequencerStatus { signed: sequencer.edge.size(), error: None },
        };
        let control = Arc::new((Mutex::new(control), Condvar::new(), Condvar::new()));
        let shared = control.clone();
        let thread =
            std::thread::Builder::new().name("sequencer".into()).spawn(move || run(sequencer, &shared, &*clock))?;
        Ok(Self { control, thread: Mutex::new(Some(thread)) })
    }

    /// The last signed checkpoint: what it says, and the note.
    pub fn checkpoint(&self) -> Option<(TreeHead, String)> {
        self.control.0.lock().note.clone()
    }

    /// Takes everything that is durable under a checkpoint, waits for it, and gives it.
    pub fn checkpoint_now(&self) -> Option<(TreeHead, String)> {
        let (control, wake, answered) = &*self.control;
        let mut control = control.lock();
        control.asked += 1;
        let mine = control.asked;
        wake.notify_one();
        while control.answered < mine && !control.stop {
            answered.wait(&mut control);
        }
        control.note.clone()
    }

    /// How it is doing.
    pub fn status(&self) -> SequencerStatus {
        self.control.0.lock().status.clone()
    }

    /// Publishes a last checkpoint and ends the thread.
    pub fn stop(&self) {
        self.control.0.lock().stop = true;
        self.control.1.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            // A panic in there has stopped it, which is what is wanted.
            drop(thread.join());
        }
    }
}

fn run(mut sequencer: Sequencer, shared: &(Mutex<Control>, Condvar, Condvar), clock: &dyn Clock) {
    let (control, wake, answered) = shared;
    let mut lock = control.lock();
    // Whether the last step found records: others follow, though there may be none at this moment.
    let mut came = false;
    // Whether it could not go on: trying again costs as much as a step that does much.
    let mut failed = false;
    loop {
        let idle = lock.asked == lock.answered && !lock.stop;
        if idle {
            let is_busy = !failed && (came || sequencer.journal.durable_seq() > sequencer.edge.size());
            wake.wait_for(&mut lock, if is_busy { INTEGRATE_EVERY } else { CHECKPOINT_EVERY / 2 });
        }
        let (stop, asked) = (lock.stop, lock.asked);
        let now = if stop || asked > lock.answered { Asked::Now } else { Asked::No };
        drop(lock);
        let before = sequencer.edge.size();
        let result = sequencer.step(clock.since_boot(), now);
        (came, failed) = (sequencer.edge.size() > before, result.is_err());
        lock = control.lock();
        lock.answered = asked;
        lock.note = sequencer.signed.map(|head| (head, sequencer.note.clone()));
        lock.status.signed = sequencer.signed.map_or(0, |head| head.size);
        let error = result.err().map(|error| error.to_string());
        if error != lock.status.error {
            match &error {
                Some(error) => tracing::warn!(%error, "evidence: tiles and checkpoint stall"),
                None => tracing::info!("evidence: tiles and checkpoint go on"),
            }
        }
        lock.status.error = error;
        answered.notify_all();
        if stop {
            return;
        }
    }
}
