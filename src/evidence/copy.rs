//! A copy of a log that is written on another machine, kept for when that machine's disk is gone.
//!
//! What comes is appended where the copy goes on, or refused: nothing is left out, written over or told in two ways. It is
//! on this disk before it is said to be. A copy has the layout of a log, so whoever reads and verifies logs reads and
//! verifies copies, with the log's own key. Knows no network, and not who may bring what.

mod beginning;
mod begun;
mod opening;
mod segments;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use self::beginning::{Beginning, Claimed, MAX_LEAVES};
use self::segments::Segments;
use super::checkpoint::{Checkpoint, NoteError, VerifierKey};
use super::entry::Entry;
use super::journal::segment::Frame;
use super::key::LogFileError;
use super::read::{Place, segments};
use super::sequencer::{CHECKPOINT, SIGNED, SequencerError};
use super::storage::{DiskStorage, Persist, Storage};
use super::tiles::{self, Edge, HASH_BYTES, TileId};
use super::tree::{Hash, TreeHead, leaf_hash};

/// Records that no checkpoint covers yet: a log signs one a second, and these are minutes of a busy one. Each takes 32
/// bytes of memory here.
pub const MAX_UNSIGNED: usize = 1 << 20;
/// Heads ahead of a copy that records to come are held against. One more comes with each renewal while a copy catches up.
const MAX_PROMISED: usize = 64;
/// Bytes of tiles that a record will have: its hash, and its part of those above.
const TILE_BYTES: u64 = HASH_BYTES as u64 + 1;
/// A segment that is larger is followed by the next one.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Why a copy does not go on.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The disk fails, or is full ([`io::ErrorKind::StorageFull`]).
    #[error("the copy cannot be read or written: {0}")]
    Disk(#[from] io::Error),
    /// Somebody writes it.
    #[error("another process writes the copy")]
    Busy,
    /// `log.json` cannot be used.
    #[error(transparent)]
    LogFile(#[from] LogFileError),
    /// It is another log's.
    #[error("the copy is of {found}, not of {expected}")]
    OtherKey {
        /// What stands there.
        found: String,
        /// What came.
        expected: String,
    },
    /// It was changed where it is kept.
    #[error("the copy is damaged at {place}: {why}")]
    Damaged {
        /// Where.
        place: Place,
        /// In which way.
        why: &'static str,
    },
    /// It has lost records that were signed.
    #[error("the copy does not hold what was signed: {0}")]
    Signed(#[from] SequencerError),
    /// Records in between are missing.
    #[error("a gap: records from {first} on were sent, and the copy has {has}")]
    Gap {
        /// Records that it has.
        has: u64,
        /// The first that came.
        first: u64,
    },
    /// Records that it has came again.
    #[error("a rewrite: record {first} was sent again, and the copy has {has}")]
    Rewrite {
        /// Records that it has.
        has: u64,
        /// The first that came.
        first: u64,
    },
    /// The log has fewer records than its copy.
    #[error("cut: the log has {size} records, and its copy {has}: it was put back, or lost its disk")]
    Cut {
        /// Records of the log.
        size: u64,
        /// Of the copy.
        has: u64,
    },
    /// The log is another one than its copy.
    #[error("a fork: the first {size} records of the log are not those of its copy")]
    Forked {
        /// How many were compared.
        size: u64,
    },
    /// Where it is to begin is not what the log has signed for.
    #[error("the copy cannot begin behind records that were pruned: {0}")]
    Beginning(&'static str),
    /// What came is not records.
    #[error("what was sent are no records: {0}")]
    Malformed(&'static str),
    /// A checkpoint does not hold.
    #[error("the checkpoint: {0}")]
    Checkpoint(#[from] NoteError),
    /// No checkpoint comes.
    #[error("more records were sent than may be without a checkpoint that covers them: it does not sign what it sends")]
    Unsigned,
    /// Too many older copies of the log lie beside it.
    #[error("{0} older copies of this log lie beside its copy, and no more are set aside")]
    Asides(usize),
    /// It has all the room that it may have.
    #[error("the copies of this gateway have {used} bytes, and may have {limit}")]
    Full {
        /// What they have.
        used: u64,
        /// The limit.
        limit: u64,
    },
}

impl CopyError {
    /// A name that stays, for metrics and messages.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Disk(error) if is_full(error) => "disk_full",
            Self::Disk(_) => "disk",
            Self::Busy => "busy",
            Self::LogFile(_) | Self::OtherKey { .. } => "other_log",
            Self::Damaged { .. } | Self::Signed(_) => "damaged",
            Self::Gap { .. } => "gap",
            Self::Rewrite { .. } => "rewrite",
            Self::Cut { .. } => "cut",
            Self::Forked { .. } => "fork",
            Self::Malformed(_) | Self::Checkpoint(_) => "malformed",
            Self::Beginning(_) => "beginning",
            Self::Unsigned => "unsigned",
            Self::Asides(_) => "asides",
            Self::Full { .. } => "limit",
        }
    }

    /// Every code.
    pub const CODES: [&'static str; 14] = [
        "disk_full",
        "disk",
        "busy",
        "other_log",
        "damaged",
        "gap",
        "rewrite",
        "cut",
        "fork",
        "malformed",
        "beginning",
        "unsigned",
        "asides",
        "limit",
    ];

    /// What whoever runs the gateway or the control plane does about it; `None` where trying again is all.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Disk(error) if is_full(error) => Some("make room where the control plane keeps its copies"),
            Self::LogFile(_) | Self::OtherKey { .. } | Self::Damaged { .. } | Self::Signed(_) => {
                Some("on the control plane, move this copy's directory away: another begins with what the log has")
            }
            Self::Cut { .. } | Self::Forked { .. } => {
                Some("stop the gateway, run `portcullis gateway seal -c FILE` and start it: it begins a new log")
            }
            Self::Full { .. } => Some(
                "raise `evidence_copies.max_size_per_gateway`, or move away copies of logs that nobody writes any more",
            ),
            Self::Beginning(_) => Some(
                "stop the gateway and run `portcullis evidence verify` on its log; if that fails, `portcullis gateway seal -c \
                 FILE` has it begin a new one",
            ),
            Self::Unsigned => Some(
                "look in the gateway's own log for why it writes no checkpoint (its disk may be full) and mend that; one of an \
                 earlier version signs nothing while it catches up: update it",
            ),
            Self::Asides(_) => {
                Some("on the control plane, move away the directories beside this copy that end in `.until-SIZE`")
            }
            Self::Disk(_)
            | Self::Busy
            | Self::Gap { .. }
            | Self::Rewrite { .. }
            | Self::Malformed(_)
            | Self::Checkpoint(_) => None,
        }
    }

    /// Whether it says that there is no room.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Disk(error) => is_full(error),
            Self::Full { .. } => true,
            _ => false,
        }
    }

    /// Whether it shows a log that is not what it was.
    pub const fn is_alarm(&self) -> bool {
        matches!(self, Self::Cut { .. } | Self::Forked { .. } | Self::Rewrite { .. })
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A copy that is open for writing.
#[derive(Debug)]
pub struct LogCopy {
    storage: Arc<dyn Storage>,
    key: VerifierKey,
    segments: Segments,
    /// The tree of what is signed.
    signed: Edge,
    /// Leaves behind it, and how many there may be.
    tail: VecDeque<Hash>,
    most_unsigned: usize,
    /// Heads beyond it that the log signed, or that were cosigned, before the copy began: records to come must lead there.
    promised: Vec<TreeHead>,
    /// The checkpoint that is on disk.
    noted: Option<TreeHead>,
    /// Bytes of the checkpoint's files.
    notes: u64,
    /// Bytes of the copies beside it, and of it with them.
    beside: u64,
    used: u64,
    limit: u64,
    /// Partial tiles of the last checkpoint, and of the one before it: readers may still want those.
    partial: [Vec<(TileId, usize)>; 2],
}

impl LogCopy {
    /// Opens the copy of the log that `key` signs in a directory, or creates it. It may take `limit` bytes less those that
    /// are taken `beside` it.
    ///
    /// # Errors
    /// When the disk fails, somebody writes there, or what is there is another log's, damaged or cut.
    pub fn open(directory: &Path, key: VerifierKey, beside: u64, limit: u64) -> Result<Self, CopyError> {
        opening::open(directory, key, beside, limit)
    }

    /// Bytes of the copies in the directories below this one, but for that of one name.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn bytes_beside(directory: &Path, name: &str) -> io::Result<u64> {
        opening::bytes_beside(directory, name)
    }

    /// Has it take fewer records that no checkpoint covers.
    #[cfg(test)]
    pub(crate) const fn at_most_unsigned(&mut self, records: usize) {
        self.most_unsigned = records;
    }

    /// Records that it has.
    pub fn size(&self) -> u64 {
        self.signed.size() + self.tail.len() as u64
    }

    /// Records of it that are signed for.
    pub fn signed(&self) -> u64 {
        self.signed.size()
    }

    /// Bytes of it and of the copies beside it.
    pub const fn used(&self) -> u64 {
        self.used
    }

    /// The root over all that it has.
    pub fn root(&self) -> Hash {
        let mut edge = self.signed.clone();
        for leaf in &self.tail {
            let Ok(()) = edge.append_hash(*leaf, |_, _| Ok::<(), std::convert::Infallible>(()));
        }
        edge.root()
    }

    /// Whether a copy in a directory has begun: has a first record, or the place for it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn has_begun(directory: &Path) -> io::Result<bool> {
        Ok(!segments(&DiskStorage::read_only(directory))?.is_empty())
    }

    /// Whether a log that has `size` records, as far as it is compared, with this root is the one that this is a copy of.
    ///
    /// # Errors
    /// When it was cut or is another one.
    pub fn compare(&self, size: u64, root: Hash) -> Result<(), CopyError> {
        let has = self.size();
        if size < has {
            return Err(CopyError::Cut { size, has });
        }
        if size == has && root == self.root() { Ok(()) } else { Err(CopyError::Forked { size: has }) }
    }

    /// Takes records, as frames of a journal, from position `first` on. They are on disk after [`sync`](Self::sync). After an
    /// error the copy must be opened anew: nobody knows what is on disk.
    ///
    /// # Errors
    /// When they are not what comes next, are no records, or there is no room for them.
    pub fn put(&mut self, first: u64, frames: &[u8]) -> Result<(), CopyError> {
        let has = self.size();
        if first > has {
            return Err(CopyError::Gap { has, first });
        }
        if first < has {
            return Err(CopyError::Rewrite { has, first });
        }
        let leaves = leaves(first, frames)?;
        if leaves.is_empty() {
            return Err(CopyError::Malformed("nothing was sent"));
        }
        let unsigned = self.tail.len() + leaves.len();
        if unsigned > self.most_unsigned {
            return Err(CopyError::Unsigned);
        }
        self.keeps_promises(&leaves)?;
        // With the tiles that they will have once they are signed for.
        self.room_for(Segments::most_bytes(frames) + unsigned as u64 * TILE_BYTES)?;
        self.used += self.segments.append(&*self.storage, has, frames)?;
        self.tail.extend(leaves);
        Ok(())
    }

    /// Has the records to come lead to `head` as well, which was cosigned: whoever signs another history for this copy alone is
    /// found out. Of what is ahead of it so much is held against them.
    pub fn bound_by(&mut self, head: TreeHead) {
        let has = self.size();
        self.promised.retain(|promised| promised.size > has);
        if head.size > has && self.promised.len() < MAX_PROMISED && !self.promised.contains(&head) {
            self.promised.push(head);
        }
    }

    /// Whether the records that come next lead to what was signed before they came: a log that goes on otherwise has two
    /// histories.
    fn keeps_promises(&self, leaves: &[Hash]) -> Result<(), CopyError> {
        let (has, will) = (self.size(), self.size() + leaves.len() as u64);
        for promised in self.promised.iter().filter(|promised| promised.size > has && promised.size <= will) {
            let mut edge = self.signed.clone();
            let more = usize::try_from(promised.size - edge.size()).unwrap_or(usize::MAX);
            for leaf in self.tail.iter().chain(leaves).take(more) {
                let Ok(()) = edge.append_hash(*leaf, |_, _| Ok::<(), std::convert::Infallible>(()));
            }
            if edge.root() != promised.root {
                return Err(CopyError::Forked { size: promised.size });
            }
        }
        Ok(())
    }

    fn room_for(&self, bytes: u64) -> Result<(), CopyError> {
        let fits = self.used.saturating_add(bytes) <= self.limit;
        if fits { Ok(()) } else { Err(CopyError::Full { used: self.used, limit: self.limit }) }
    }

    /// Has everything that was put on disk.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn sync(&mut self) -> Result<(), CopyError> {
        self.segments.sync(self.signed.size() + self.tail.len() as u64)
    }

    /// Takes a signed checkpoint of what it has: it must be true of the copy.
    ///
    /// # Errors
    /// When it does not hold, speaks of more records than there are, or of others.
    pub fn checkpoint(&mut self, note: &str) -> Result<(), CopyError> {
        let head = Checkpoint::verify(note.as_bytes(), &self.key)?.head;
        let has = self.size();
        if head.size > has {
            return Err(CopyError::Gap { has, first: head.size });
        }
        let Some(more) = head.size.checked_sub(self.signed.size()) else { return Ok(()) };
        if self.noted == Some(head) {
            // It is on disk, and nothing of it is written again because it was sent again.
            return Ok(());
        }
        let (storage, mut edge, mut written) = (&*self.storage, self.signed.clone(), 0);
        for leaf in self.tail.iter().take(usize::try_from(more).unwrap_or(usize::MAX)) {
            // Tiles say what the copy holds: whatever the checkpoint says, they are right.
            edge.append_hash(*leaf, |tile, hashes| {
                written += bytes_of(hashes.len());
                tiles::write_tile(storage, tile, hashes)
            })?;
        }
        self.used += written;
        if edge.root() != head.root {
            return Err(CopyError::Forked { size: head.size });
        }
        let partial: Vec<_> = edge.partial().map(|(tile, hashes)| (tile, hashes.len())).collect();
        for (tile, hashes) in edge.partial() {
            if !self.partial.iter().flatten().any(|there| *there == (tile, hashes.len())) {
                self.used += bytes_of(hashes.len());
            }
            tiles::write_tile(storage, tile, hashes)?;
        }
        self.used = (self.used + 2 * note.len() as u64).saturating_sub(self.notes);
        self.notes = 2 * note.len() as u64;
        self.storage.write_file(SIGNED, note.as_bytes(), Persist::Now)?;
        // A crash here leaves a signed checkpoint that the next opening goes on from.
        self.storage.write_file(CHECKPOINT, note.as_bytes(), Persist::Later)?;
        self.tail.drain(..usize::try_from(more).unwrap_or(usize::MAX).min(self.tail.len()));
        (self.signed, self.noted) = (edge, Some(head));
        let [last, before] = std::mem::take(&mut self.partial);
        for (tile, width) in before {
            if !last.contains(&(tile, width)) && !partial.contains(&(tile, width)) {
                // Nothing depends on it.
                drop(self.storage.remove(&tile.path(width)));
                self.used = self.used.saturating_sub(bytes_of(width));
            }
        }
        self.partial = [partial, last];
        Ok(())
    }
}

/// Bytes of a tile with so many hashes.
const fn bytes_of(width: usize) -> u64 {
    (width * HASH_BYTES) as u64
}

/// The leaves of the records in `frames`, of which the first is `first`.
fn leaves(first: u64, frames: &[u8]) -> Result<Vec<Hash>, CopyError> {
    let (mut rest, mut seq, mut leaves) = (frames, first, Vec::new());
    while !rest.is_empty() {
        let frame = Frame::read(rest);
        let taken = frame.bytes();
        let payload = match frame {
            Frame::Entry(payload) => payload,
            Frame::Mark(_) | Frame::Blank => return Err(CopyError::Malformed("something else than records")),
            Frame::Short { .. } => return Err(CopyError::Malformed("a record is cut off")),
            Frame::Bad(why) => return Err(CopyError::Malformed(why)),
        };
        if Entry::place(payload).is_none_or(|(named, _)| named != seq) {
            return Err(CopyError::Malformed("a record names another position"));
        }
        leaves.push(leaf_hash(payload));
        seq += 1;
        rest = rest.get(taken..).unwrap_or_default();
    }
    Ok(leaves)
}

#[cfg(test)]
mod tests;
