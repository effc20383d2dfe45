//! A log as the static files of C2SP tlog-tiles: hash tiles, entry bundles, checkpoint. Any client of the format reads
//! and verifies them, from a directory, a bucket or a web server.
//!
//! Everything is derived from the journal and checked against what was signed before the checkpoint is put, which comes
//! last: what a reader finds is always whole. Going on where an earlier export ended needs its checkpoint alone.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::bundle;
use super::checkpoint::{Checkpoint, MAX_NOTE_BYTES, NoteError, VerifierKey};
use super::key::{LOG_FILE, LogFileError, log_file_bytes, read_log_file};
use super::read::{JournalReader, Next, Place};
use super::retention::{Horizon, PRUNED, gone};
use super::sequencer::{CHECKPOINT, SIGNED, read_note};
use super::storage::{Persist, Storage, read_file};
use super::tiles::{self, Edge, TILE_WIDTH, TileId, read_tile};
use super::tree::{Hash, TreeHead, leaf_hash, verify_consistency};
use super::{COSIGNED, proof};

/// Where an export goes.
pub trait Sink {
    /// Puts a whole file, replacing one of that name. What it holds is durable when it returns.
    ///
    /// # Errors
    /// Those of the place.
    fn put(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;

    /// Reads a small file; `None` when there is none.
    ///
    /// # Errors
    /// Those of the place.
    fn small(&mut self, path: &str) -> io::Result<Option<Vec<u8>>>;
}

/// Any storage as the place of an export.
#[derive(Debug)]
pub struct StorageSink(pub Arc<dyn Storage>);

impl Sink for StorageSink {
    fn put(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.write_file(path, bytes, Persist::Now)
    }

    fn small(&mut self, path: &str) -> io::Result<Option<Vec<u8>>> {
        read_note(&*self.0, path)
    }
}

/// A tile or a bundle of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it stands.
    pub path: String,
    /// Where the full one will stand that may take the place of a partial one.
    pub full: Option<String>,
    /// The first record that it speaks of.
    pub first: u64,
    /// It is not shorter than the first, nor longer than the second.
    pub bytes: RangeInclusive<usize>,
}

impl File {
    /// Whether it holds records.
    pub fn is_bundle(&self) -> bool {
        bundle::parse(&self.path).is_some()
    }
}

/// The files that a log of `size` records consists of, besides its checkpoint.
pub fn files(size: u64) -> impl Iterator<Item = File> {
    tiles::levels(size).flat_map(move |level| {
        let (full, last) = tiles::width_at(size, level);
        let widths = (0..full).map(|index| (index, TILE_WIDTH)).chain((last > 0).then_some((full, last)));
        widths.flat_map(move |(index, width)| {
            let tile = TileId { level, index };
            let file = |path: &dyn Fn(usize) -> String, bytes| File {
                path: path(width),
                full: (width < TILE_WIDTH).then(|| path(TILE_WIDTH)),
                first: index << (8 * (u32::from(level) + 1)),
                bytes,
            };
            // Each hash and each length of a record.
            let hashes = width * tiles::HASH_BYTES..=TILE_WIDTH * tiles::HASH_BYTES;
            let hashes = file(&|width| tile.path(width), hashes);
            let records = width * 2..=bundle::MAX_BUNDLE_BYTES;
            let records = (level == 0).then(|| file(&|width| bundle::path(index, width), records));
            std::iter::once(hashes).chain(records)
        })
    })
}

/// What was exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The checkpoint.
    pub head: TreeHead,
    /// Records that were there already.
    pub before: u64,
    /// Files that were put.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The log or the place cannot be read or written.
    #[error("{0}")]
    Disk(#[from] io::Error),
    /// `log.json` cannot be used.
    #[error(transparent)]
    LogFile(#[from] LogFileError),
    /// Nothing was signed yet.
    #[error("there is no signed checkpoint")]
    NoCheckpoint,
    /// A checkpoint does not hold.
    #[error("{file}: {error}")]
    Checkpoint {
        /// Which file.
        file: String,
        /// In which way.
        error: NoteError,
    },
    /// The journal cannot be read.
    #[error("{place}: {why}")]
    Damaged {
        /// Where.
        place: Place,
        /// In which way.
        why: &'static str,
    },
    /// A tile is missing, or is not of its records.
    #[error("{0}: the tile is missing or does not agree with its records")]
    Tile(String),
    /// Tiles do not lead to what was signed.
    #[error("the {0} records do not have the root that was signed")]
    Root(u64),
    /// Records that are not there yet were pruned here.
    #[error("what is there ends at record {there}, and here {horizon}: what is between is lost to it")]
    Pruned {
        /// Records there.
        there: u64,
        /// What was pruned.
        horizon: Horizon,
    },
    /// There is another log, or another history of this one.
    #[error("what is there is of a log with {there} records that this one, with {here}, did not grow from")]
    Other {
        /// Records there.
        there: u64,
        /// Records here.
        here: u64,
    },
}

/// Puts what is under the log's latest checkpoint, as far as it is not there.
///
/// # Errors
/// When the log does not hold, the place is another log's, or either cannot be used. Then the place has its old
/// checkpoint, and no file that this does not cover is harmed.
pub fn export(storage: &Arc<dyn Storage>, to: &mut dyn Sink) -> Result<Exported, ExportError> {
    let key = read_log_file(&**storage)?;
    let (head, note) = latest(&**storage, &key)?.ok_or(ExportError::NoCheckpoint)?;
    let before = there(&**storage, to, &key, head)?;
    let begins = match gone(&**storage)? {
        Some((_, horizon)) if before > 0 && before / 256 * 256 < horizon.before => {
            return Err(ExportError::Pruned { there: before, horizon });
        }
        Some((_, horizon)) if before == 0 => horizon.before,
        Some(_) | None => 0,
    };
    let mut job = Job { storage, to, head, before, begins, files: 0, bytes: 0 };
    let edge = Edge::load(&**storage, head.size)?;
    if edge.is_none_or(|edge| edge.root() != head.root) {
        return Err(ExportError::Root(head.size));
    }
    job.records()?;
    for level in tiles::levels(head.size).skip(1) {
        job.level(level)?;
    }
    // A crash up to here leaves the old checkpoint, which does not speak of what is new.
    job.put(LOG_FILE, &log_file_bytes(&key)?)?;
    if begins > 0 {
        job.put(PRUNED, &read_file(&**storage, PRUNED, MAX_NOTE_BYTES)?)?;
    }
    job.put(CHECKPOINT, &note)?;
    // Behind the checkpoint: a cosigned one must never speak of more than the checkpoint beside it.
    if let Some(cosigned) = read_note(&**storage, COSIGNED)? {
        let covered = Checkpoint::verify(&cosigned, &key).map_err(|error| fault(COSIGNED, error))?;
        if covered.head.size <= head.size {
            job.put(COSIGNED, &cosigned)?;
        }
    }
    Ok(Exported { head, before, files: job.files, bytes: job.bytes })
}

fn fault(file: &str, error: NoteError) -> ExportError {
    ExportError::Checkpoint { file: file.to_owned(), error }
}

pub(super) fn latest(storage: &dyn Storage, key: &VerifierKey) -> Result<Option<(TreeHead, Vec<u8>)>, ExportError> {
    let mut latest: Option<(TreeHead, Vec<u8>)> = None;
    for file in [CHECKPOINT, SIGNED] {
        let Some(note) = read_note(storage, file)? else { continue };
        let head = Checkpoint::verify(&note, key).map_err(|error| fault(file, error))?.head;
        if latest.as_ref().is_none_or(|(known, _)| known.size < head.size) {
            latest = Some((head, note));
        }
    }
    Ok(latest)
}

/// How many records are there already: those of a checkpoint from which the log has grown.
fn there(storage: &dyn Storage, to: &mut dyn Sink, key: &VerifierKey, head: TreeHead) -> Result<u64, ExportError> {
    let Some(note) = to.small(CHECKPOINT)? else { return Ok(0) };
    let old = Checkpoint::verify(&note, key).map_err(|error| fault("the checkpoint that is there", error))?.head;
    let other = ExportError::Other { there: old.size, here: head.size };
    if old.size > head.size {
        return Err(other);
    }
    let proof = proof::consistency(storage, old.size, head.size).map_err(|_| ExportError::Root(head.size))?;
    if verify_consistency(&old, &head, &proof) { Ok(old.size) } else { Err(other) }
}

struct Job<'j> {
    storage: &'j Arc<dyn Storage>,
    to: &'j mut dyn Sink,
    head: TreeHead,
    before: u64,
    /// Where the bundles begin: those before were pruned here.
    begins: u64,
    files: u64,
    bytes: u64,
}

impl Job<'_> {
    fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), ExportError> {
        self.to.put(path, bytes)?;
        self.files += 1;
        self.bytes += u64::try_from(bytes.len()).unwrap_or(0);
        Ok(())
    }

    fn hashes(&self, tile: TileId, width: usize) -> Result<Vec<Hash>, ExportError> {
        read_tile(&**self.storage, tile, width)?.ok_or_else(|| ExportError::Tile(tile.path(width)))
    }

    /// Bundles, and the tiles of their hashes.
    fn records(&mut self) -> Result<(), ExportError> {
        for index in 0..self.begins / 256 {
            let tile = TileId { level: 0, index };
            self.put(&tile.path(TILE_WIDTH), &tiles::encode(&self.hashes(tile, TILE_WIDTH)?))?;
        }
        let first = self.before.max(self.begins) / 256;
        let mut reader = JournalReader::new(self.storage.clone(), first * 256);
        for index in first..self.head.size.div_ceil(256) {
            let width = usize::try_from((self.head.size - index * 256).min(256)).unwrap_or(TILE_WIDTH);
            let tile = TileId { level: 0, index };
            let hashes = self.hashes(tile, width)?;
            let mut bundle = Vec::new();
            for hash in &hashes {
                match reader.next()? {
                    Next::Record(record) if leaf_hash(record.bytes) == *hash => bundle::push(&mut bundle, record.bytes),
                    Next::Record(_) | Next::CaughtUp { .. } => return Err(ExportError::Tile(tile.path(width))),
                    Next::Damaged { place, why } => return Err(ExportError::Damaged { place, why }),
                }
            }
            self.put(&tile.path(width), &tiles::encode(&hashes))?;
            self.put(&bundle::path(index, width), &bundle)?;
        }
        Ok(())
    }

    fn level(&mut self, level: u8) -> Result<(), ExportError> {
        let (first, _) = tiles::width_at(self.before, level);
        let (full, last) = tiles::width_at(self.head.size, level);
        let full = (first..full).map(|index| (index, TILE_WIDTH));
        let (end, _) = tiles::width_at(self.head.size, level);
        for (index, width) in full.chain((last > 0).then_some((end, last))) {
            let tile = TileId { level, index };
            let hashes = self.hashes(tile, width)?;
            self.put(&tile.path(width), &tiles::encode(&hashes))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "export/tests.rs"]
mod tests;
