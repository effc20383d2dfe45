//! The thread that owns the journal's files.
//!
//! One write and one `fdatasync` for everything that is queued. After a failure of write or sync the segment is never
//! used again: what the kernel says about it afterwards would be a lie. The next segment begins at the first record
//! that is not durable, and what the old one holds from there on counts for nobody.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::queue::{Class, Queue};
use super::segment::{self, SegmentHeader};
use super::{
    Activity, Durability, Failure, GATHER_ENOUGH, JournalError, MAX_FAILURES_KEPT, OUTCOME_ROOM_BYTES, Shared, State,
};
use crate::evidence::entry::{Recovered, encode_body};
use crate::evidence::storage::{SegmentFile, Storage};

/// Free room that a full disk must have again before intents are taken: less would only flap.
const HEALTHY_ROOM_BYTES: u64 = 64 << 10;
/// Room for the note that the journal writes about its own failure.
const NOTE_ROOM_BYTES: u64 = 1024;

#[derive(Debug)]
struct Segment {
    file: Box<dyn SegmentFile>,
    path: String,
    written: u64,
    /// Up to where room is reserved.
    allocated: u64,
}

#[derive(Debug)]
pub(super) struct WriterThread {
    shared: Arc<Shared>,
    storage: Arc<dyn Storage>,
    incarnation: u64,
    /// None after a failure, until a new one could be made.
    segment: Option<Segment>,
    /// The file was deleted or replaced: promised records are gone, and there is nothing to recover to.
    stolen: bool,
    /// The segment that failed, and up to where it counts.
    failed: Option<(String, u64)>,
    discarded: u64,
    /// Whether a broken disk has been tried again since closing began.
    last_try: bool,
    spare: Queue,
    /// When the last batch was taken, since boot.
    taken: Duration,
}

enum Work {
    Write { batch: Queue, rooms: u64 },
    Heal,
    End,
}

impl WriterThread {
    pub(super) fn new(
        shared: Arc<Shared>,
        storage: Arc<dyn Storage>,
        incarnation: u64,
        file: Box<dyn SegmentFile>,
        first: u64,
        written: u64,
        allocated: u64,
    ) -> Self {
        let segment = Some(Segment { file, path: segment::path(first), written, allocated });
        Self {
            shared,
            storage,
            incarnation,
            segment,
            stolen: false,
            failed: None,
            discarded: 0,
            last_try: false,
            spare: Queue::new(),
            taken: Duration::ZERO,
        }
    }

    pub(super) fn run(mut self) {
        let shared = self.shared.clone();
        // However this thread ends, also by a panic, nobody may wait for it any more.
        let _closed = Closed(shared);
        loop {
            match self.wait() {
                Work::Write { batch, rooms } => {
                    let durable = self.shared.durable.load(Ordering::SeqCst);
                    let batch = self.commit(batch, durable, rooms, Room::Ensure);
                    self.spare = batch;
                }
                Work::Heal => self.heal(),
                Work::End => break,
            }
        }
        self.shared.state.lock().queue.iter().for_each(|_| self.shared.status.outcome_lost());
        if let Some(segment) = &mut self.segment {
            // Only room is lost if this fails.
            drop(segment.file.finish());
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) -> Work {
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        let (mut lingered, mut gathered) = (false, false);
        let mut tried = false;
        loop {
            state.activity = Activity::Awake;
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
                    (state.urgent, state.awaited) = (false, 0);
                    self.taken = shared.clock.since_boot();
                    let batch = std::mem::replace(&mut state.queue, std::mem::replace(&mut self.spare, Queue::new()));
                    return Work::Write { batch, rooms: state.rooms };
                }
                state.activity = Activity::Lingering;
                lingered = shared.work.wait_for(&mut state, shared.options.linger).timed_out();
                continue;
            }
            if state.closing {
                return Work::End;
            }
            state.activity = Activity::Idle;
            shared.work.wait(&mut state);
        }
    }

    /// Whether waiting would spare the disk a sync. What was queued since the last batch says how fast records come;
    /// a single one is a lone caller, which nothing follows before it is answered.
    fn more_are_coming(&self, state: &State) -> bool {
        let options = &self.shared.options;
        if options.durability != Durability::Disk || state.closing || !(2..GATHER_ENOUGH).contains(&state.awaited) {
            return false;
        }
        let since = self.shared.clock.since_boot().saturating_sub(self.taken);
        let coming = options.gather.as_micros().saturating_mul(state.awaited as u128);
        coming >= 2 * since.as_micros()
    }

    /// Writes a batch and tells everybody. Gives its buffer back.
    fn commit(&mut self, mut batch: Queue, durable: u64, rooms: u64, room: Room) -> Queue {
        match self.write(&mut batch, durable, rooms, room) {
            Ok(()) => {
                let records = batch.records();
                let state = self.shared.state.lock();
                // A crash here leaves the batch on disk, promised to nobody yet: recovery keeps it.
                self.shared.durable.store(durable + records, Ordering::SeqCst);
                if let Some(remote) = &self.shared.remote {
                    remote.written(durable + records, self.shared.clock.since_boot());
                }
                drop(state);
                self.shared.announce();
            }
            Err(failure) => self.fail(&batch, failure),
        }
        batch.clear();
        batch
    }

    fn write(&mut self, batch: &mut Queue, durable: u64, rooms: u64, room: Room) -> Result<(), WriteError> {
        let bytes = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        if room == Room::Ensure {
            // Every intent in the batch finds room for its outcome here, or fails here.
            self.ensure_room(bytes, bytes + rooms * OUTCOME_ROOM_BYTES + NOTE_ROOM_BYTES, durable)
                .map_err(WriteError::Room)?;
        }
        let disk = self.shared.options.durability == Durability::Disk;
        let Some(segment) = &mut self.segment else {
            return Err(WriteError::Room(io::Error::other("no segment")));
        };
        // Written behind a cut, the batch would stand behind a hole.
        if !segment.file.in_place().map_err(WriteError::Poisoned)? {
            return Err(WriteError::Stolen);
        }
        // Without fdatasync nothing is known to be on disk, and recovery must take every tear for one.
        segment.file.append(batch.sealed(if disk { durable } else { 0 })).map_err(WriteError::Poisoned)?;
        segment.written += bytes;
        // A crash here leaves any part of the batch. Nobody was promised any of it.
        if disk {
            let begun = self.shared.clock.since_boot();
            segment.file.sync().map_err(WriteError::Poisoned)?;
            self.shared.status.synced(self.shared.clock.since_boot().saturating_sub(begun));
        }
        if !segment.file.in_place().map_err(WriteError::Poisoned)? {
            return Err(WriteError::Stolen);
        }
        self.shared.status.batch(batch.len());
        Ok(())
    }

    /// Room for `now` bytes and for what is promised, in this segment or in a new one.
    fn ensure_room(&mut self, now: u64, all: u64, first: u64) -> io::Result<()> {
        let options = &self.shared.options;
        let Some(segment) = &mut self.segment else { return Err(io::Error::other("no segment")) };
        let due = segment.written + now > options.segment_bytes || self.shared.turn.swap(false, Ordering::SeqCst);
        if due && segment.written > MIN_SEGMENT_BYTES {
            match self.next_segment(first, all) {
                Ok(()) => return Ok(()),
                // The old one serves on as long as there is room in it.
                Err(error) => self.shared.status.failed(&error),
            }
        }
        let Some(segment) = &mut self.segment else { return Err(io::Error::other("no segment")) };
        if segment.written + all <= segment.allocated {
            return Ok(());
        }
        let ahead = all + self.shared.options.allocate_bytes;
        let (got, room) = match segment.file.allocate(ahead) {
            Ok(()) => (Ok(()), ahead),
            Err(_) => (segment.file.allocate(all), all),
        };
        got?;
        segment.allocated = segment.allocated.max(segment.written + room);
        Ok(())
    }

    /// Goes on in a new segment that begins with record `first` and has room for `room` bytes.
    fn next_segment(&mut self, first: u64, room: u64) -> io::Result<()> {
        let path = segment::path(first);
        let origin = self.shared.origin.as_str().to_owned();
        let header = SegmentHeader { incarnation: self.incarnation, first, origin }.encode();
        let ahead = room + self.shared.options.allocate_bytes;
        let (file, room) = match self.storage.create_segment(&path, &header, ahead) {
            Ok(file) => (file, ahead),
            Err(_) => (self.storage.create_segment(&path, &header, room)?, room),
        };
        // A crash here leaves an empty segment behind the old one; recovery goes on behind it.
        let written = u64::try_from(header.len()).unwrap_or(0);
        let new = Segment { file, path, written, allocated: written + room };
        if let Some(mut old) = self.segment.replace(new) {
            // Only room is lost if this fails.
            drop(old.file.finish());
        }
        Ok(())
    }

    /// Whatever was not durable has failed. Outcomes of calls that were allowed are kept.
    fn fail(&mut self, batch: &Queue, failure: WriteError) {
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
        if state.failures.len() >= MAX_FAILURES_KEPT {
            state.failures.pop_front();
        }
        state.failures.push_back(Failure { epoch, durable, error });
        self.shared.epoch.store(epoch + 1, Ordering::SeqCst);
        let queued = std::mem::replace(&mut state.queue, Queue::new());
        state.next_seq = durable;
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
        drop(state);
        self.shared.announce();
    }

    /// Tries whether the disk is well again.
    fn heal(&mut self) {
        if self.stolen {
            return;
        }
        let durable = self.shared.durable.load(Ordering::SeqCst);
        if self.segment.is_some() {
            self.write_outcomes(durable);
        }
        let (rooms, queued) = {
            let state = self.shared.state.lock();
            (state.rooms, u64::try_from(state.queue.len()).unwrap_or(u64::MAX))
        };
        let all = queued + rooms * OUTCOME_ROOM_BYTES + NOTE_ROOM_BYTES + HEALTHY_ROOM_BYTES;
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
    fn write_outcomes(&mut self, durable: u64) {
        let batch = {
            let mut state = self.shared.state.lock();
            if state.queue.is_empty() {
                return;
            }
            std::mem::replace(&mut state.queue, Queue::new())
        };
        self.spare = self.commit(batch, durable, 0, Room::Reserved);
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// Ask for it.
    Ensure,
    /// It is there.
    Reserved,
}

enum WriteError {
    /// No room, and nothing was written.
    Room(io::Error),
    /// Nobody knows what is on disk.
    Poisoned(io::Error),
    /// The file is gone.
    Stolen,
}

/// A segment with less in it is not worth a next one.
const MIN_SEGMENT_BYTES: u64 = 1024;

fn journal_error(error: &io::Error) -> JournalError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => JournalError::Full,
        _ => JournalError::Unavailable,
    }
}

/// Closes the journal for good when the thread ends.
struct Closed(Arc<Shared>);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.announce();
    }
}
