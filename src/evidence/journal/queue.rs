//! Records on their way to the disk: their frames, ready to be written, and what must happen to each if that fails.

use super::Ticket;
use super::segment::{FRAME_HEADER_BYTES, MARK_BYTES, frame_header, mark};
use crate::evidence::entry::encode_suffix;

/// What becomes of a record when the disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It fails, and whoever waits is told.
    Promise,
    /// As a promise; it also reserves room for an outcome.
    Intent,
    /// As a promise of this disk alone.
    Here,
    /// It is written later, at another position: its room is reserved. Unless its intent fails too.
    Outcome {
        /// The intent.
        intent: Ticket,
    },
    /// Of the journal itself: written later.
    Note,
}

#[derive(Clone, Copy, Debug)]
struct Meta {
    class: Class,
    /// Of the payload, what comes before position and time.
    body: u32,
    /// Of the frame.
    bytes: u32,
}

/// Frames in the order of their positions, behind the mark that they are written with.
#[derive(Debug)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    records: Vec<Meta>,
}

/// Largest buffer that is kept for reuse.
const KEEP_BYTES: usize = 4 << 20;

impl Queue {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; MARK_BYTES], records: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes that would be written.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The same, for sums with what is on disk.
    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn records(&self) -> u64 {
        u64::try_from(self.records.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn clear(&mut self) {
        self.bytes.truncate(MARK_BYTES);
        self.bytes.shrink_to(KEEP_BYTES);
        self.records.clear();
        self.records.shrink_to(KEEP_BYTES / 256);
    }

    /// Adds a record whose body, with its checksum, is already encoded.
    pub(super) fn push(&mut self, body: &[u8], body_crc: u32, class: Class, seq: u64, time: i64) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        self.bytes.extend_from_slice(body);
        let suffix = self.bytes.len();
        encode_suffix(seq, time, &mut self.bytes);
        let crc = crc32c::crc32c_append(body_crc, self.bytes.get(suffix..).unwrap_or_default());
        let header = frame_header(self.bytes.len() - start - FRAME_HEADER_BYTES, crc);
        if let Some(place) = self.bytes.get_mut(start..start + FRAME_HEADER_BYTES) {
            place.copy_from_slice(&header);
        }
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        self.records.push(Meta { class, body: size(body.len()), bytes: size(self.bytes.len() - start) });
    }

    /// The bytes to write, when everything before `synced` is on disk.
    pub(super) fn sealed(&mut self, synced: u64) -> &[u8] {
        if let Some(place) = self.bytes.get_mut(..MARK_BYTES) {
            place.copy_from_slice(&mark(synced));
        }
        &self.bytes
    }

    /// Each record's class and body.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Class, &[u8])> {
        let mut at = MARK_BYTES;
        self.records.iter().map(move |meta| {
            let start = at + FRAME_HEADER_BYTES;
            at += meta.bytes as usize;
            (meta.class, self.bytes.get(start..start + meta.body as usize).unwrap_or_default())
        })
    }
}
