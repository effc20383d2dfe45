//! The archive: a log's tiles, bundles and checkpoint, kept elsewhere while the log is written.
//!
//! What goes there is what an export writes, and how far it has come is read there, so that nothing here has to survive a
//! crash. A file is put where none is, never over another one, and counts when it was read back and is the same: tiles and
//! bundles first, the checkpoint last. Knows no network: a [`Place`] is a directory or a bucket.

mod directory;
mod keeper;
mod lag;

use std::fmt;
use std::io;
use std::sync::Arc;

pub use directory::DirectoryPlace;
pub use keeper::{Keeper, KeeperOptions};
pub use lag::{Bound, Lag, LagStatus, Past};

use super::bundle;
use super::checkpoint::MAX_NOTE_BYTES;
use super::export::{ExportError, Exported, Sink, export};
use super::storage::Storage;
use super::tiles::{self, TILE_WIDTH, TileId, read_tile};
use super::tree::{leaf_hash, sha256};

/// Files that are put together, and bytes after which no more are added.
const BATCH_FILES: usize = 64;
const BATCH_BYTES: usize = 8 << 20;

/// Which version of a small file was read: a place gives it, and takes it back when that file is to be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

/// A file on its way.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its name, parted by `/`.
    pub path: String,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// Where an archive is.
pub trait Place: Send + fmt::Debug {
    /// Puts files where none are, durably, and reads each back; whether a file of the name was there already or not, what is
    /// there is what is given when it returns.
    ///
    /// # Errors
    /// Those of the place; something else under a name is [`io::ErrorKind::InvalidData`]. Some of the files may be there.
    fn put(&self, files: &[Outgoing]) -> io::Result<()>;

    /// Reads a file of at most `max` bytes, with its version; `None` when there is none.
    ///
    /// # Errors
    /// Those of the place.
    fn read(&self, path: &str, max: usize) -> io::Result<Option<(Vec<u8>, Version)>>;

    /// Replaces a small file of which `before` was read, or makes one where there was none.
    ///
    /// # Errors
    /// Those of the place; when somebody else was there meanwhile, [`io::ErrorKind::AlreadyExists`].
    fn replace(&self, path: &str, bytes: &[u8], before: Option<&Version>) -> io::Result<()>;

    /// Removes the partial forms of a tile or bundle, a directory of them, once the full one is there.
    ///
    /// # Errors
    /// Those of the place: then they stay, and nothing depends on it.
    fn forget(&self, directory: &str) -> io::Result<()>;
}

/// What is wrong with a file that was read back: where a reader finds it.
pub fn other(path: &str) -> io::Error {
    let why = format!("{path}: what is archived is something else than was put there");
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Whether bytes that were read back are those that were put, by their SHA-256.
pub fn is_same(put: &[u8], read: &[u8]) -> bool {
    sha256(put) == sha256(read)
}

/// A place as the sink of an export.
struct ArchiveSink<'p> {
    place: &'p dyn Place,
    batch: Vec<Outgoing>,
    bytes: usize,
    known: Vec<(String, Option<Version>)>,
}

impl ArchiveSink<'_> {
    fn flush(&mut self) -> io::Result<()> {
        if !self.batch.is_empty() {
            self.place.put(&self.batch)?;
            self.batch.clear();
            self.bytes = 0;
        }
        Ok(())
    }
}

impl Sink for ArchiveSink<'_> {
    fn put(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        if path.starts_with("tile/") {
            self.bytes += bytes.len();
            self.batch.push(Outgoing { path: path.to_owned(), bytes: bytes.to_vec() });
            return if self.batch.len() >= BATCH_FILES || self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) };
        }
        // INVARIANT: everything that a checkpoint speaks of was read back before it is put.
        self.flush()?;
        let version = match self.known.iter().find(|(known, _)| known == path) {
            Some((_, version)) => version.clone(),
            None => match self.place.read(path, MAX_NOTE_BYTES)? {
                Some((there, _)) if is_same(bytes, &there) => return Ok(()),
                there => there.map(|(_, version)| version),
            },
        };
        self.place.replace(path, bytes, version.as_ref())?;
        match self.place.read(path, MAX_NOTE_BYTES)? {
            Some((there, _)) if is_same(bytes, &there) => Ok(()),
            Some(_) | None => Err(other(path)),
        }
    }

    fn small(&mut self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let (bytes, version) = self.place.read(path, MAX_NOTE_BYTES)?.unzip();
        self.known.push((path.to_owned(), version));
        Ok(bytes)
    }
}

/// Brings an archive up to the log's latest checkpoint. Where it stopped the last time says the archive itself.
///
/// # Errors
/// When the log does not hold, the place is another log's or holds something else, or either cannot be used.
pub fn archive(storage: &Arc<dyn Storage>, place: &dyn Place) -> Result<Exported, ExportError> {
    let done = export(storage, &mut ArchiveSink { place, batch: Vec::new(), bytes: 0, known: Vec::new() })?;
    for level in tiles::levels(done.before) {
        let ((index, width), (now, _)) = (tiles::width_at(done.before, level), tiles::width_at(done.head.size, level));
        if width == 0 || index == now {
            continue;
        }
        // Where nothing may be deleted they stay: each is right as far as it goes.
        let _ = place.forget(&TileId { level, index }.partial_directory());
        if level == 0 {
            let _ = place.forget(&format!("{}.p", bundle::path(index, TILE_WIDTH)));
        }
    }
    Ok(done)
}

/// Reads back what an archive holds of the records from `from` to `before`, whole bundles, and compares it with the log.
///
/// # Errors
/// When a file is missing or is something else, or either cannot be read.
pub fn recheck(storage: &Arc<dyn Storage>, place: &dyn Place, from: u64, before: u64) -> Result<(), ExportError> {
    for index in from / 256..before / 256 {
        let tile = TileId { level: 0, index };
        let path = tile.path(TILE_WIDTH);
        let hashes = read_tile(&**storage, tile, TILE_WIDTH)?.ok_or_else(|| ExportError::Tile(path.clone()))?;
        if !is_same(&tiles::encode(&hashes), &there(place, &path)?) {
            return Err(other(&path).into());
        }
        let path = bundle::path(index, TILE_WIDTH);
        let bytes = there(place, &path)?;
        let ranges = bundle::decode(&bytes).ok_or_else(|| other(&path))?;
        let leaves = ranges.into_iter().map(|range| leaf_hash(bytes.get(range).unwrap_or_default()));
        if !leaves.eq(hashes) {
            return Err(other(&path).into());
        }
    }
    Ok(())
}

fn there(place: &dyn Place, path: &str) -> io::Result<Vec<u8>> {
    let read = place.read(path, bundle::MAX_BUNDLE_BYTES)?;
    let gone = || io::Error::new(io::ErrorKind::NotFound, format!("{path} is not in the archive any more"));
    read.map(|(bytes, _)| bytes).ok_or_else(gone)
}

#[cfg(test)]
#[path = "archive/tests.rs"]
mod tests;
