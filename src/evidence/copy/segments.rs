//! The segments of a copy: written as a journal writes its own, so that it is read as one.

use std::io;

use super::{CopyError, SEGMENT_BYTES};
use crate::evidence::journal::segment::{self, SegmentHeader, mark};
use crate::evidence::storage::{SegmentFile, Storage};

/// Room reserved ahead of what is written.
const AHEAD_BYTES: u64 = 4 << 20;

/// What is written to.
#[derive(Debug)]
pub(super) struct Segments {
    pub(super) origin: String,
    /// How often the copy was opened for writing.
    pub(super) incarnation: u64,
    pub(super) current: Option<Segment>,
    /// Everything before it is on disk.
    pub(super) synced: u64,
}

#[derive(Debug)]
pub(super) struct Segment {
    file: Box<dyn SegmentFile>,
    written: u64,
    allocated: u64,
}

impl Segments {
    /// Bytes that frames take at most, with what stands before them.
    pub(super) const fn most_bytes(frames: &[u8]) -> u64 {
        (segment::MAX_HEADER_BYTES + segment::MARK_BYTES + frames.len()) as u64
    }

    /// Makes the segment that the first record will be in.
    pub(super) fn begin(&mut self, storage: &dyn Storage, first: u64) -> io::Result<()> {
        self.current = Some(self.create(storage, first, 0)?);
        self.synced = first;
        Ok(())
    }

    /// Appends frames behind the record before `first`; says how many bytes were written.
    pub(super) fn append(&mut self, storage: &dyn Storage, first: u64, frames: &[u8]) -> Result<u64, CopyError> {
        let bytes = (segment::MARK_BYTES + frames.len()) as u64;
        if self.current.as_ref().is_some_and(|current| current.written + bytes > SEGMENT_BYTES) {
            // What is behind it was never promised if it is not on disk: the next segment is made only after.
            self.sync(first)?;
            if let Some(mut full) = self.current.take() {
                full.file.finish()?;
            }
        }
        let mut more = 0;
        if self.current.is_none() {
            let new = self.create(storage, first, bytes)?;
            more = new.written;
            self.current = Some(new);
        }
        let Some(current) = &mut self.current else { return Err(io::Error::other("no segment").into()) };
        if current.written + bytes > current.allocated {
            let ahead = bytes + AHEAD_BYTES;
            let room = match current.file.allocate(ahead) {
                Ok(()) => ahead,
                Err(_) => current.file.allocate(bytes).map(|()| bytes)?,
            };
            current.allocated = current.written + room;
        }
        let mut batch = mark(self.synced).to_vec();
        batch.extend_from_slice(frames);
        current.file.append(&batch)?;
        current.written += bytes;
        Ok(more + bytes)
    }

    fn create(&self, storage: &dyn Storage, first: u64, bytes: u64) -> io::Result<Segment> {
        let header = SegmentHeader { incarnation: self.incarnation, first, origin: self.origin.clone() }.encode();
        let path = segment::path(first);
        let written = header.len() as u64;
        let (file, room) = match storage.create_segment(&path, &header, bytes + AHEAD_BYTES) {
            Ok(file) => (file, bytes + AHEAD_BYTES),
            Err(_) => (storage.create_segment(&path, &header, bytes)?, bytes),
        };
        // A crash here leaves an empty segment, which the next opening replaces.
        Ok(Segment { file, written, allocated: written + room })
    }

    /// Has everything before record `end` on disk.
    pub(super) fn sync(&mut self, end: u64) -> Result<(), CopyError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        if !current.file.in_place()? {
            return Err(io::Error::other("the segment was deleted, replaced or cut").into());
        }
        if self.synced < end {
            current.file.sync()?;
            self.synced = end;
        }
        Ok(())
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        if let Some(mut last) = self.current.take() {
            // Only room is lost if this fails.
            drop(last.file.finish());
        }
    }
}
