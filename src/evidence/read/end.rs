//! What stands behind the last record that can be read: torn and promised to nobody, or damage.

use std::io;

use super::{JournalReader, Place, READ_BYTES, segments};
use crate::evidence::journal::segment;
use crate::evidence::storage::Storage;

/// What a writer that goes on with a log finds behind its records.
#[derive(Debug)]
pub(crate) enum End {
    /// Nothing.
    Bare,
    /// Something that was promised to nobody, to be cut off.
    Torn {
        /// The segment.
        path: String,
        /// Where its records end.
        offset: u64,
        /// Bytes from there to the zeros at the end.
        bytes: u64,
    },
    /// Something that was promised and cannot be read. Nobody writes behind it.
    Damaged {
        /// Where.
        place: Place,
        /// In which way.
        why: &'static str,
    },
}

impl JournalReader {
    /// What stands behind the records that were read, for whoever is to write there: asked at the end of what can be read, with
    /// the damage that was found there.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn end_for_writer(&self, damage: Option<(Place, &'static str)>) -> io::Result<End> {
        let Some(at) = &self.at else {
            return Ok(damage.map_or(End::Bare, |(place, why)| End::Damaged { place, why }));
        };
        let rest = remainder(&*self.storage, &at.path, at.offset())?;
        let is_followed =
            damage.is_some() && segments(&*self.storage)?.into_iter().any(|other| other > at.header.first);
        let (place, why) = damage.unwrap_or_else(|| (at.place(), "what was promised is blank"));
        Ok(match torn(&rest, place.seq).filter(|_| !is_followed) {
            None => End::Damaged { place, why },
            Some(_) if rest.is_empty() => End::Bare,
            Some(bytes) => End::Torn { path: at.path.to_string(), offset: at.offset(), bytes },
        })
    }
}

/// Bytes of `rest`, which begins where record `seq` should stand, that were promised to nobody; `None` where a mark in there
/// promises that record.
pub(super) fn torn(rest: &[u8], seq: u64) -> Option<u64> {
    let is_promised = segment::highest_mark(rest).is_some_and(|synced| synced > seq);
    (!is_promised).then(|| u64::try_from(written(rest)).unwrap_or(0))
}

/// Bytes before the zeros at the end.
pub(crate) fn written(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Reads the rest of a segment, from `offset`, to see what stands behind a place that cannot be read.
pub(super) fn remainder(storage: &dyn Storage, path: &str, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let at = offset + u64::try_from(bytes.len()).unwrap_or(0);
        if storage.read_at(path, at, READ_BYTES, &mut bytes)? == 0 {
            return Ok(bytes);
        }
    }
}
