//! The segment that is being read: its bytes, a little ahead, and what they are where no record is.

use std::io;
use std::sync::Arc;

use super::end::{remainder, torn, written};
use super::{Place, READ_BYTES};
use crate::evidence::journal::segment::{Frame, MAX_FRAME_BYTES, SegmentHeader};
use crate::evidence::storage::Storage;

/// Bytes behind a place that cannot be read that are looked at: more than a writer fills ahead.
pub(super) const TAIL_BYTES: usize = 2 * READ_BYTES;
/// Every disk writes so many, or a multiple, as a whole.
const LINE_BYTES: usize = 64;

#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) header: SegmentHeader,
    pub(super) path: Arc<str>,
    /// The record that stands at `start`.
    pub(super) seq: u64,
    /// Where the next segment begins, if there is one.
    pub(super) following: Option<u64>,
    pub(super) buffer: Vec<u8>,
    /// Of the buffer, what is not consumed begins here.
    pub(super) start: usize,
    /// Where in the file the buffer begins.
    pub(super) buffer_at: u64,
}

impl OpenSegment {
    pub(super) fn offset(&self) -> u64 {
        self.buffer_at + u64::try_from(self.start).unwrap_or(0)
    }

    pub(super) fn rest(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    pub(super) fn place(&self) -> Place {
        Place { seq: self.seq, segment: self.path.clone(), offset: self.offset() }
    }

    /// Reads on; says whether there was anything.
    pub(super) fn refill(&mut self, storage: &dyn Storage) -> io::Result<bool> {
        self.buffer_at = self.offset();
        self.buffer.drain(..self.start);
        self.start = 0;
        let end = self.buffer_at + u64::try_from(self.buffer.len()).unwrap_or(0);
        Ok(storage.read_at(&self.path, end, READ_BYTES.max(MAX_FRAME_BYTES), &mut self.buffer)? > 0)
    }

    /// Reads what is not consumed once more, with what follows; says whether it is another now. The writer may have been
    /// writing it: what is read the same twice it has not, or not gone on with.
    pub(super) fn read_anew(&mut self, storage: &dyn Storage) -> io::Result<bool> {
        let mut fresh = Vec::new();
        while fresh.len() < TAIL_BYTES {
            let at = self.offset() + u64::try_from(fresh.len()).unwrap_or(0);
            if storage.read_at(&self.path, at, TAIL_BYTES - fresh.len(), &mut fresh)? == 0 {
                break;
            }
        }
        let is_other = fresh != self.rest();
        self.buffer_at = self.offset();
        (self.buffer, self.start) = (fresh, 0);
        Ok(is_other)
    }

    /// Whether there is nothing but zeros from within this frame on: the writer fills ahead, and has not written it whole.
    pub(super) fn is_cut_off(&self) -> bool {
        written(self.rest()) < Frame::told_bytes(self.rest())
    }

    /// Bytes from here on that were promised to nobody; `None` where a mark behind this place says otherwise.
    pub(super) fn torn(&self, storage: &dyn Storage) -> io::Result<Option<u64>> {
        Ok(torn(&remainder(storage, &self.path, self.offset())?, self.seq))
    }

    /// Whether a part of this frame that a disk writes as a whole is still zeros.
    pub(super) fn lacks_a_line(&self) -> bool {
        let frame = self.rest().get(..Frame::told_bytes(self.rest())).unwrap_or(self.rest());
        let begin = usize::try_from(self.offset() % LINE_BYTES as u64).unwrap_or(0);
        let (first, others) = frame.split_at((LINE_BYTES - begin).min(frame.len()));
        let is_blank = |line: &[u8]| line.iter().all(|byte| *byte == 0);
        // A byte or two may be zeros of their own.
        (first.len() >= 4 && is_blank(first)) || others.chunks(LINE_BYTES).any(is_blank)
    }
}
