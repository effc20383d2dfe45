//! The journal's files: what is queued goes into them, in order.
//!
//! One write and one `fdatasync` for everything that is queued. After a failure of write or sync the segment is never
//! used again: what the kernel says about it afterwards would be a lie. The next segment begins at the first record
//! that is not durable, and what the old one holds from there on counts for nobody.
//!
//! Whoever holds the [`SegmentWriter`] takes the queue and writes it: the journal's thread, or a worker where that cannot
//! take long. Refuses to know when that is due.

mod heal;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::queue::Queue;
use super::segment::{self, SegmentHeader};
use super::shared::{Shared, State};
use super::{Durability, JournalError, OUTCOME_ROOM_BYTES};
use crate::evidence::storage::{SegmentFile, Storage};

/// Room for the note that the journal writes about its own failure.
const NOTE_ROOM_BYTES: u64 = 1024;
/// A write into the kernel's memory that takes longer waited for the disk.
const QUICK: Duration = Duration::from_millis(10);
/// For so long after the last of those no worker writes by itself: its other calls would stand still meanwhile.
const CAUTIOUS: Duration = Duration::from_secs(1);
/// Zeros that are written ahead, where each batch is synced. Every so many bytes a sync is a long one.
const FILL_BYTES: u64 = 256 << 10;
/// What a worker writes at most: more takes the kernel as long as a call.
const MAX_QUICK_BYTES: u64 = 128 << 10;

#[derive(Debug)]
struct Segment {
    file: Box<dyn SegmentFile>,
    path: String,
    written: u64,
    /// Up to where room is reserved.
    allocated: u64,
    /// Up to where it was filled with zeros.
    filled: u64,
}

impl Segment {
    fn new(file: Box<dyn SegmentFile>, path: String, written: u64, allocated: u64) -> Self {
        Self { file, path, written, allocated, filled: written }
    }

    /// Writes `bytes`, and zeros ahead of what comes next where syncs are to be `quick`.
    fn append(&mut self, bytes: &[u8], quick: bool) -> io::Result<()> {
        self.file.append(bytes)?;
        self.written += u64::try_from(bytes.len()).unwrap_or(0);
        if quick && self.written > self.filled {
            let room = FILL_BYTES.min(self.allocated.saturating_sub(self.written));
            self.file.fill(room)?;
            self.filled = self.written + room;
        }
        Ok(())
    }
}

/// The files, for whoever writes. One at a time does.
#[derive(Debug)]
pub(super) struct SegmentWriter {
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
    spare: Queue,
    /// Until when, since boot, no worker writes: a write was slow.
    cautious_until: Duration,
}

impl SegmentWriter {
    pub(super) fn new(
        shared: Arc<Shared>,
        storage: Arc<dyn Storage>,
        incarnation: u64,
        file: Box<dyn SegmentFile>,
        first: u64,
        written: u64,
        allocated: u64,
    ) -> Self {
        let segment = Some(Segment::new(file, segment::path(first), written, allocated));
        Self {
            shared,
            storage,
            incarnation,
            segment,
            stolen: false,
            failed: None,
            discarded: 0,
            spare: Queue::new(),
            cautious_until: Duration::ZERO,
        }
    }

    /// Writes everything that is queued. Blocks on the disk.
    pub(super) fn write_queue(&mut self) {
        if let Some((batch, rooms)) = self.take(|_| true) {
            self.commit(batch, rooms, Room::Ensure);
        }
    }

    /// The same for a worker's own thread, which must not stand still: a little that the kernel takes into its memory, into
    /// room that is reserved, while nothing is written back and no write was slow of late. Says whether it was done.
    ///
    /// The kernel can make any write wait for the disk; then this worker's other calls wait too, once.
    pub(super) fn write_queue_quickly(&mut self) -> bool {
        let shared = self.shared.clone();
        let waits = shared.options.durability != Durability::Process || shared.syncing.load(Ordering::SeqCst);
        if waits || shared.clock.since_boot() < self.cautious_until {
            return false;
        }
        let Some(segment) = &self.segment else { return false };
        let (written, allocated) = (segment.written, segment.allocated);
        let is_quick = |state: &State| {
            let bytes = state.queue.bytes();
            let end = written + bytes;
            let is_whole = end <= shared.options.segment_bytes && !shared.turn.load(Ordering::SeqCst);
            let has_room = written + wanted_room(bytes, state.rooms) <= allocated;
            state.urgent && !state.closing && bytes <= MAX_QUICK_BYTES && is_whole && has_room
        };
        let Some((batch, rooms)) = self.take(is_quick) else { return false };
        self.commit(batch, rooms, Room::Reserved);
        true
    }

    /// Takes the queue out, with the number of outcomes that are owed beyond it. Nothing while the disk is broken, behind
    /// the journal's end, where nothing is queued, and where `suits` says no.
    fn take(&mut self, suits: impl FnOnce(&State) -> bool) -> Option<(Queue, u64)> {
        let mut state = self.shared.state.lock();
        if state.closed || state.broken.is_some() || state.queue.is_empty() || !suits(&state) {
            return None;
        }
        let awaited = std::mem::take(&mut state.awaited);
        state.company.take(awaited, self.shared.clock.since_boot());
        state.urgent = false;
        let empty = std::mem::replace(&mut self.spare, Queue::new());
        Some((std::mem::replace(&mut state.queue, empty), state.rooms))
    }

    /// Gives back the room that nothing was written to. Only that is lost if it fails.
    pub(super) fn finish(&mut self) {
        if let Some(segment) = &mut self.segment {
            drop(segment.file.finish());
        }
    }

    /// Writes a batch and tells everybody.
    fn commit(&mut self, mut batch: Queue, rooms: u64, room: Room) {
        // INVARIANT: nobody waits for a batch that a panic has taken along, and nobody writes behind the hole that it left.
        let _closing = CloseOnPanic(self.shared.clone());
        let durable = self.shared.durable.load(Ordering::SeqCst);
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
        self.spare = batch;
    }

    fn write(&mut self, batch: &mut Queue, durable: u64, rooms: u64, room: Room) -> Result<(), WriteError> {
        let bytes = batch.bytes();
        if room == Room::Ensure {
            // Every intent in the batch finds room for its outcome here, or fails here.
            self.ensure_room(bytes, wanted_room(bytes, rooms), durable)?;
        }
        let disk = self.shared.options.durability == Durability::Disk;
        let begun = self.shared.clock.since_boot();
        let Some(segment) = &mut self.segment else {
            return Err(WriteError::Room(io::Error::other("no segment")));
        };
        // Written behind a cut, the batch would stand behind a hole.
        if !segment.file.is_whole().map_err(WriteError::Poisoned)? {
            return Err(WriteError::Stolen);
        }
        // Without fdatasync nothing is known to be on disk, and recovery must take every tear for one.
        segment.append(batch.sealed(if disk { durable } else { 0 }), disk).map_err(WriteError::Poisoned)?;
        let taken = self.shared.clock.since_boot();
        if taken.saturating_sub(begun) > QUICK {
            self.cautious_until = taken + CAUTIOUS;
        }
        // A crash here leaves any part of the batch. Nobody was promised any of it.
        if disk {
            segment.file.sync().map_err(WriteError::Poisoned)?;
            self.shared.status.synced(self.shared.clock.since_boot().saturating_sub(taken));
        }
        if !segment.file.in_place().map_err(WriteError::Poisoned)? {
            return Err(WriteError::Stolen);
        }
        self.shared.status.batch(batch.len());
        Ok(())
    }

    /// Room for `now` bytes and for what is promised, in this segment or in a new one.
    fn ensure_room(&mut self, now: u64, all: u64, first: u64) -> Result<(), WriteError> {
        let options = &self.shared.options;
        let none = || WriteError::Room(io::Error::other("no segment"));
        let Some(segment) = &mut self.segment else { return Err(none()) };
        let due = segment.written + now > options.segment_bytes || self.shared.turn.swap(false, Ordering::SeqCst);
        if due && segment.written > MIN_SEGMENT_BYTES {
            if options.durability != Durability::Disk {
                // What comes next stands behind all that was written: a loss of power must not take the end of that alone.
                segment.file.sync().map_err(WriteError::Poisoned)?;
            }
            match self.next_segment(first, all) {
                Ok(()) => return Ok(()),
                // The old one serves on as long as there is room in it.
                Err(error) => self.shared.status.failed(&error),
            }
        }
        let Some(segment) = &mut self.segment else { return Err(none()) };
        if segment.written + all <= segment.allocated {
            return Ok(());
        }
        let ahead = all + self.shared.options.allocate_bytes;
        let (got, room) = match segment.file.allocate(ahead) {
            Ok(()) => (Ok(()), ahead),
            Err(_) => (segment.file.allocate(all), all),
        };
        got.map_err(WriteError::Room)?;
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
        let new = Segment::new(file, path, written, written + room);
        if let Some(mut old) = self.segment.replace(new) {
            // Only room is lost if this fails.
            drop(old.file.finish());
        }
        Ok(())
    }
}

/// Room for `bytes` that are written now, and for what will be owed then.
const fn wanted_room(bytes: u64, rooms: u64) -> u64 {
    bytes + rooms * OUTCOME_ROOM_BYTES + NOTE_ROOM_BYTES
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

/// Closes the journal for good when its holder panics.
struct CloseOnPanic(Arc<Shared>);

impl Drop for CloseOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close_for_good();
        }
    }
}
