//! What becomes of the records and of the segment when the disk fails, and how writing goes on when it is well again.

use std::io;
use std::sync::atomic::Ordering;

use super::{CloseOnPanic, Room, SegmentWriter, WriteError, journal_error, wanted_room};
use crate::evidence::entry::{Recovered, encode_body};
use crate::evidence::journal::queue::{Class, Queue};
use crate::evidence::journal::{Durability, JournalError};

/// Free room that a full disk must have again before intents are taken: less would only flap.
const HEALTHY_ROOM_BYTES: u64 = 64 << 10;

impl SegmentWriter {
    /// Whatever was not durable has failed. Outcomes of calls that were allowed are kept.
    pub(super) fn fail(&mut self, batch: &Queue, failure: WriteError) {
        let (error, disk) = match &failure {
            WriteError::Room(disk) | WriteError::Poisoned(disk) => (journal_error(disk), disk),
            WriteError::Stolen => {
                (JournalError::Unavailable, &io::Error::other("the segment was deleted, replaced or cut"))
            }
        };
        self.shared.status.failed(disk);
        let durable = self.shared.durable.load(Ordering::SeqCst);
        match failure {
            WriteError::Room(_) => {}
            WriteError::Poisoned(_) => {
                if let Some(old) = self.segment.take() {
                    self.failed = Some((old.path, durable));
                }
            }
            WriteError::Stolen => {
                self.segment = None;
                self.stolen = true;
            }
        }
        let mut state = self.shared.state.lock();
        let epoch = self.shared.epoch.load(Ordering::SeqCst);
        self.shared.end_epoch(&mut state, durable, error);
        let queued = std::mem::replace(&mut state.queue, Queue::new());
        (state.urgent, state.awaited) = (false, 0);
        state.broken = Some(error);
        for (class, body) in batch.iter().chain(queued.iter()) {
            let keep = match class {
                Class::Promise | Class::Intent | Class::Here => false,
                Class::Outcome { intent } => intent.epoch != epoch || intent.seq < durable,
                Class::Note => true,
            };
            if keep {
                let last = state.last_time;
                state.push(body, crc32c::crc32c(body), class, last);
            } else {
                self.discarded += 1;
            }
        }
        // It sleeps where a worker wrote, and nobody else tries the disk again.
        self.shared.wake_writer(&mut state, true);
        drop(state);
        self.shared.announce();
    }

    /// Tries whether the disk is well again.
    pub(in crate::evidence::journal) fn heal(&mut self) {
        if self.stolen {
            return;
        }
        let _closing = CloseOnPanic(self.shared.clone());
        let durable = self.shared.durable.load(Ordering::SeqCst);
        if self.segment.is_some() {
            self.write_outcomes();
        }
        let (rooms, queued) = {
            let state = self.shared.state.lock();
            (state.rooms, state.queue.bytes())
        };
        let all = wanted_room(queued, rooms) + HEALTHY_ROOM_BYTES;
        if let Some((path, _)) = self.failed.as_ref().filter(|_| self.shared.options.durability != Durability::Disk) {
            // What comes next stands behind it: a loss of power must not take its end alone. As far as that goes: the kernel's
            // word is all that was promised of it.
            drop(self.storage.sync_file(path));
        }
        let well = match &mut self.segment {
            None => self.next_segment(durable, all),
            Some(segment) => segment.file.allocate(all).map(|()| {
                segment.allocated = segment.allocated.max(segment.written + all);
            }),
        };
        match well {
            Ok(()) => self.healed(),
            Err(error) => {
                self.shared.status.failed(&error);
                self.shared.state.lock().broken = Some(journal_error(&error));
            }
        }
    }

    /// On a full disk: outcomes go where their room is.
    fn write_outcomes(&mut self) {
        let batch = {
            let mut state = self.shared.state.lock();
            if state.queue.is_empty() {
                return;
            }
            std::mem::replace(&mut state.queue, Queue::new())
        };
        self.commit(batch, 0, Room::Reserved);
    }

    fn healed(&mut self) {
        if let Some((path, seq)) = self.failed.take() {
            self.cut_failed(&path);
            let note = format!("writing failed and was resumed in a new segment: {}", self.last_error());
            let record = Recovered { lost_from: seq, discarded_frames: self.discarded, note: note.as_str().into() };
            let mut body = Vec::new();
            encode_body(&record, self.shared.origin.as_str(), &mut body);
            let mut state = self.shared.state.lock();
            let now = self.shared.clock.now().unix_micros();
            state.push(&body, crc32c::crc32c(&body), Class::Note, now);
        }
        self.discarded = 0;
        let mut state = self.shared.state.lock();
        state.broken = None;
        state.urgent = !state.queue.is_empty();
        drop(state);
        self.shared.announce();
    }

    /// Readers ignore what the failed segment holds from the next one's first record on. That it is also cut off is
    /// tidiness: nothing depends on it.
    fn cut_failed(&self, path: &str) {
        let current = self.segment.as_ref().map(|segment| segment.path.as_str());
        if current != Some(path)
            && let Ok(Some(end)) = crate::evidence::read::end_of_superseded(&self.storage, path)
        {
            drop(self.storage.truncate(path, end));
        }
    }

    fn last_error(&self) -> String {
        self.shared.status().last_error.unwrap_or_default()
    }
}
