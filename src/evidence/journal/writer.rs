//! The thread that sees to it that what is queued is written, and that a disk that failed is tried again.

use std::sync::Arc;

use super::queue::Class;
use super::segments::SegmentWriter;
use super::shared::{Activity, Shared, State};
use super::{Durability, Files};

#[derive(Debug)]
pub(super) struct WriterThread {
    shared: Arc<Shared>,
    files: Files,
    /// Whether a broken disk has been tried again since closing began.
    last_try: bool,
}

enum Work {
    Write,
    Heal,
    End,
}

impl WriterThread {
    pub(super) fn new(shared: Arc<Shared>, files: Files) -> Self {
        Self { shared, files, last_try: false }
    }

    pub(super) fn run(mut self) {
        // However this thread ends, also by a panic, nobody may wait for it any more.
        let _closed = Closed(self.shared.clone());
        loop {
            match self.wait() {
                Work::Write => self.with_files(SegmentWriter::write_queue),
                Work::Heal => self.with_files(SegmentWriter::heal),
                Work::End if self.end() => break,
                Work::End => {}
            }
        }
    }

    fn with_files(&self, work: impl FnOnce(&mut SegmentWriter)) {
        if let Some(files) = &mut *self.files.lock() {
            work(files);
        }
    }

    /// Ends the journal, unless a worker that was still writing has left something to do.
    fn end(&mut self) -> bool {
        let mut files = self.files.lock();
        let mut state = self.shared.state.lock();
        let is_hopeless = state.closed || (self.last_try && state.broken.is_some());
        if !state.queue.is_empty() && !is_hopeless {
            return false;
        }
        let outcomes = state.queue.iter().filter(|(class, _)| matches!(class, Class::Outcome { .. }));
        outcomes.for_each(|_| self.shared.status.outcome_lost());
        state.closed = true;
        drop(state);
        if let Some(mut files) = files.take() {
            files.finish();
        }
        true
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) -> Work {
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        let (mut lingered, mut gathered) = (false, false);
        let mut tried = false;
        loop {
            state.activity = Activity::Awake;
            if state.closed {
                return Work::End;
            }
            if state.broken.is_some() {
                if state.closing {
                    // One more try, and no more: somebody waits for the process to end.
                    let last = std::mem::replace(&mut self.last_try, true);
                    return if last { Work::End } else { Work::Heal };
                }
                if tried {
                    return Work::Heal;
                }
                // INVARIANT: what is queued now is outcomes and notes; nobody waits for them.
                shared.work.wait_for(&mut state, shared.options.retry);
                tried = true;
                continue;
            }
            if !state.queue.is_empty() {
                let full = state.queue.len() > shared.options.queue_bytes;
                if state.urgent || state.closing || lingered || full {
                    if !gathered && !full && self.more_are_coming(&state) {
                        gathered = true;
                        state.activity = Activity::Gathering;
                        shared.work.wait_for(&mut state, shared.options.gather);
                        continue;
                    }
                    return Work::Write;
                }
                state.activity = Activity::Lingering;
                lingered = shared.work.wait_for(&mut state, shared.options.linger).timed_out();
                continue;
            }
            if state.closing {
                return Work::End;
            }
            state.activity = Activity::Idle;
            lingered = false;
            shared.work.wait(&mut state);
        }
    }

    /// Whether waiting would spare the disk a sync.
    fn more_are_coming(&self, state: &State) -> bool {
        let options = &self.shared.options;
        let syncs = options.durability == Durability::Disk;
        syncs && !state.closing && state.company.is_worth_waiting(state.awaited, options.gather)
    }
}

/// Closes the journal for good when the thread ends.
struct Closed(Arc<Shared>);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.close_for_good();
    }
}
