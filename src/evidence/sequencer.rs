//! From durable records to tiles and signed checkpoints, off the path of calls.
//!
//! Derives everything from the journal with the reader that the verifier uses, and remembers nothing that it could
//! not derive again, except what it signed: that is on disk before it is published, and no second checkpoint that
//! contradicts it is ever signed. A disk that is full or fails stalls it; the journal goes on, and this catches up.

mod thread;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use self::thread::{SequencerHandle, SequencerStatus};
use super::checkpoint::{Checkpoint, EvidenceKey, NoteError, Origin, VerifierKey};
use super::journal::{Durability, Journal};
use super::read::{JournalReader, Next, Place, first, segments};
use super::storage::{Persist, Storage, read_file};
use super::tiles::{self, Edge, TILE_WIDTH, TileId};
use super::tree::TreeHead;

/// The published checkpoint.
pub const CHECKPOINT: &str = "checkpoint";
/// What was signed last; written before it is published.
pub const SIGNED: &str = "signed";
/// Checkpoints are at least this far apart, except when somebody asks.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// Why tiles and checkpoints cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SequencerError {
    /// The disk fails. Trying again may help.
    #[error("tiles or checkpoint cannot be read or written: {0}")]
    Disk(#[from] io::Error),
    /// The journal cannot be read.
    #[error("the journal is damaged at {place}: {why}")]
    Damaged {
        /// Where.
        place: Place,
        /// In which way.
        why: &'static str,
    },
    /// The journal has fewer records than were signed: it was rolled back or cut.
    #[error("the journal has {records} records, and {signed} were signed")]
    Rollback {
        /// What is there.
        records: u64,
        /// What was signed.
        signed: u64,
    },
    /// The journal's records have another root than was signed.
    #[error("the first {size} records are not those that were signed")]
    Fork {
        /// How many were signed.
        size: u64,
    },
    /// What was signed last cannot be read, or the key made no signature.
    #[error("the signed checkpoint: {0}")]
    Note(#[from] NoteError),
}

/// The state of tiles and checkpoints.
#[derive(Debug)]
struct Sequencer {
    storage: Arc<dyn Storage>,
    journal: Journal,
    key: EvidenceKey,
    origin: Origin,
    reader: JournalReader,
    edge: Edge,
    signed: Option<TreeHead>,
    note: String,
    /// How many records what was published last speaks of, and when that was.
    published: Option<u64>,
    published_at: Option<Duration>,
    /// Segments written since the last checkpoint, to be synced first when the journal does not.
    unsynced: Vec<Arc<str>>,
    durability: Durability,
    /// The first record of the segment that the journal began with: who wrote those before may not have synced them.
    since: u64,
    /// Partial tiles of the last checkpoint but one: readers of it may still want them.
    stale: Vec<(TileId, usize)>,
    current: Vec<(TileId, usize)>,
}

impl Sequencer {
    /// Picks up where the last one stopped; derives the tiles again when they are not all there.
    fn open(
        storage: Arc<dyn Storage>,
        journal: Journal,
        key: EvidenceKey,
        durability: Durability,
    ) -> Result<Self, SequencerError> {
        let origin = journal.origin().clone();
        let signed = last_signed(&*storage, &key.verifier(&origin))?;
        if let Some((head, _)) = &signed
            && head.size > journal.durable_seq()
        {
            return Err(SequencerError::Rollback { records: journal.durable_seq(), signed: head.size });
        }
        let edge = match &signed {
            Some((head, _)) if tiles_are_there(&*storage, head.size)? => {
                Edge::load(&*storage, head.size)?.filter(|edge| edge.root() == head.root)
            }
            Some(_) | None => None,
        };
        let edge = match edge {
            Some(edge) => edge,
            None => before_the_first(&*storage)?,
        };
        let (signed, note) = signed.unzip();
        let since = segments(&*storage)?.pop().unwrap_or(0);
        let mut sequencer = Self {
            reader: JournalReader::new(storage.clone(), edge.size()),
            storage,
            journal,
            key,
            origin,
            edge,
            signed,
            note: note.unwrap_or_default(),
            published: None,
            published_at: None,
            unsynced: Vec::new(),
            durability,
            since,
            stale: Vec::new(),
            current: Vec::new(),
        };
        if let Some(head) = sequencer.signed {
            // From the journal again, when the tiles were not all there: it must lead to what was signed.
            sequencer.integrate_to(head.size)?;
            if sequencer.edge.root() != head.root {
                return Err(SequencerError::Fork { size: head.size });
            }
            // They were synced before they were signed.
            sequencer.unsynced.clear();
        }
        sequencer.renew_partial()?;
        sequencer.current = sequencer.partial_tiles();
        Ok(sequencer)
    }

    fn partial_tiles(&self) -> Vec<(TileId, usize)> {
        self.edge.partial().map(|(tile, hashes)| (tile, hashes.len())).collect()
    }

    /// Takes the records before `end` into the tree, and writes the tiles that they fill.
    fn integrate_to(&mut self, end: u64) -> Result<(), SequencerError> {
        if self.reader.position() != self.edge.size() {
            // A tile could not be written the last time.
            self.reader = JournalReader::new(self.storage.clone(), self.edge.size());
        }
        // INVARIANT: only what was durable before it was read gets into the tree.
        self.reader.look_again()?;
        while self.edge.size() < end {
            match self.reader.next()? {
                Next::Record(record) => {
                    let is_synced = self.durability == Durability::Disk && record.place.seq >= self.since;
                    if !is_synced && self.unsynced.last() != Some(&record.place.segment) {
                        self.unsynced.push(record.place.segment.clone());
                    }
                    let storage = &*self.storage;
                    if self.edge.fills_next() {
                        // The tree moves on when its tile is written, and not before.
                        let mut next = self.edge.clone();
                        next.append(record.bytes, |tile, hashes| tiles::write_tile(storage, tile, hashes))?;
                        self.edge = next;
                    } else {
                        self.edge.append(record.bytes, |_, _| Ok::<(), io::Error>(()))?;
                    }
                }
                Next::CaughtUp { .. } => {
                    return Err(SequencerError::Rollback { records: self.edge.size(), signed: end });
                }
                Next::Damaged { place, why } => {
                    // The next step looks with fresh eyes.
                    self.reader = JournalReader::new(self.storage.clone(), self.edge.size());
                    return Err(SequencerError::Damaged { place, why });
                }
            }
        }
        Ok(())
    }

    /// Partial tiles are not synced: a loss of power may have left them empty or cut, and those of other sizes are
    /// written by nobody again. Leaves those of what was signed, written anew.
    fn renew_partial(&self) -> io::Result<()> {
        for path in tiles::partial_files(&*self.storage)? {
            self.storage.remove(&path)?;
        }
        if self.signed.is_some() {
            for (tile, hashes) in self.edge.partial() {
                tiles::write_tile(&*self.storage, tile, hashes)?;
            }
        }
        Ok(())
    }

    /// Signs and publishes what is in the tree.
    fn publish(&mut self) -> Result<(), SequencerError> {
        let head = TreeHead { size: self.edge.size(), root: self.edge.root() };
        // INVARIANT: the tree only grows from what was signed last, so the two are consistent.
        let syncing = self.journal.syncing();
        for segment in &self.unsynced {
            self.storage.sync_file(segment)?;
        }
        self.unsynced.clear();
        for (tile, hashes) in self.edge.partial() {
            // One that did not grow since the last checkpoint is there.
            if !self.current.contains(&(tile, hashes.len())) {
                tiles::write_tile(&*self.storage, tile, hashes)?;
            }
        }
        if self.signed != Some(head) {
            let note = Checkpoint { origin: self.origin.clone(), head }.sign(&self.key)?;
            self.storage.write_file(SIGNED, note.as_bytes(), Persist::Now)?;
            self.signed = Some(head);
            self.note = note;
        }
        drop(syncing);
        // A crash here leaves a signed checkpoint that nobody has seen; the next opening publishes it.
        self.storage.write_file(CHECKPOINT, self.note.as_bytes(), Persist::Later)?;
        self.remove_stale();
        Ok(())
    }

    /// Partial tiles go one checkpoint after their last use: readers take the checkpoint first.
    fn remove_stale(&mut self) {
        let now = self.partial_tiles();
        for (tile, width) in std::mem::take(&mut self.stale) {
            if !now.contains(&(tile, width)) && !self.current.contains(&(tile, width)) {
                // Nothing depends on it; what stays is a few hundred bytes.
                drop(self.storage.remove(&tile.path(width)));
            }
        }
        self.stale = std::mem::replace(&mut self.current, now);
        self.stale.retain(|tile| !self.current.contains(tile));
    }

    /// Everything durable into the tree; a checkpoint when one is due or `asked` for.
    fn step(&mut self, now: Duration, asked: Asked) -> Result<(), SequencerError> {
        let end = self.journal.durable_seq();
        if self.edge.size() < end {
            self.integrate_to(end)?;
        }
        let due = match self.published_at {
            None => true,
            Some(at) => now.saturating_sub(at) >= CHECKPOINT_EVERY || asked == Asked::Now,
        };
        if due && self.published != Some(self.edge.size()) {
            self.publish()?;
            (self.published, self.published_at) = (Some(self.edge.size()), Some(now));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    No,
    Now,
}

/// What was signed last. What was published may be newer only if somebody put back an old file; it then counts.
/// Refuses a journal that has lost records that were signed. To be asked before anything is appended: otherwise what
/// each start appends would in time make up for their number.
///
/// # Errors
/// That it has; that the last signature or the journal cannot be read.
pub(super) fn refuse_rollback(storage: &Arc<dyn Storage>, key: &VerifierKey) -> Result<(), SequencerError> {
    let Some((head, _)) = last_signed(&**storage, key)? else { return Ok(()) };
    let last = segments(&**storage)?.pop().unwrap_or(0);
    let mut reader = JournalReader::new(storage.clone(), last);
    let damaged = loop {
        match reader.next()? {
            Next::Record(_) => {}
            Next::CaughtUp { .. } => break None,
            Next::Damaged { place, why } => break Some(SequencerError::Damaged { place, why }),
        }
    };
    let records = reader.position();
    if records >= head.size {
        return Ok(());
    }
    Err(damaged.unwrap_or(SequencerError::Rollback { records, signed: head.size }))
}

pub(super) fn last_signed(
    storage: &dyn Storage,
    key: &VerifierKey,
) -> Result<Option<(TreeHead, String)>, SequencerError> {
    let signed = match read_note(storage, SIGNED)? {
        Some(note) => Some((Checkpoint::verify(&note, key)?.head, String::from_utf8_lossy(&note).into_owned())),
        None => None,
    };
    let Some(note) = read_note(storage, CHECKPOINT)? else { return Ok(signed) };
    match (Checkpoint::verify(&note, key), signed) {
        (Ok(published), signed) if signed.as_ref().is_none_or(|(head, _)| head.size < published.head.size) => {
            Ok(Some((published.head, String::from_utf8_lossy(&note).into_owned())))
        }
        // It is not synced: a loss of power may have left anything. What was signed is published again.
        (_, Some(signed)) => Ok(Some(signed)),
        (Err(error), None) => Err(error.into()),
        (Ok(_), None) => Ok(None),
    }
}

/// A signed note, if it is there.
pub(super) fn read_note(storage: &dyn Storage, path: &str) -> io::Result<Option<Vec<u8>>> {
    match read_file(storage, path, super::checkpoint::MAX_NOTE_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        note => note.map(Some),
    }
}

/// Whether every full tile is there in its size: they are not synced, and a loss of power may have taken some.
fn tiles_are_there(storage: &dyn Storage, size: u64) -> io::Result<bool> {
    for level in tiles::levels(size) {
        let (full, _) = tiles::width_at(size, level);
        // Tiles stand a thousand to a directory.
        for thousand in 0..full.div_ceil(1000) {
            let path = TileId { level, index: thousand * 1000 }.path(TILE_WIDTH);
            let directory = path.rsplit_once('/').map_or(path.as_str(), |(directory, _)| directory);
            let good = |item: &super::storage::Item| {
                let digits = item.name.len() == 3 && item.name.bytes().all(|b| b.is_ascii_digit());
                digits && item.bytes == (TILE_WIDTH * tiles::HASH_BYTES) as u64
            };
            let there = storage.list(directory)?.iter().filter(|item| good(item)).count();
            let wanted = (full - thousand * 1000).min(1000);
            if u64::try_from(there).unwrap_or(0) < wanted {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The edge of what was pruned, from the leaves' tiles: those were made durable first. From nothing where nothing was.
pub(super) fn before_the_first(storage: &dyn Storage) -> Result<Edge, SequencerError> {
    let first = first(storage)?;
    let mut edge = Edge::default();
    while edge.size() < first {
        let tile = TileId { level: 0, index: edge.size() / 256 };
        let width = usize::try_from(first - edge.size()).unwrap_or(TILE_WIDTH).min(TILE_WIDTH);
        let place = Place { seq: edge.size(), segment: tile.path(TILE_WIDTH).into(), offset: 0 };
        let why = "the tile of records that are not there is missing";
        let hashes = tiles::read_tile(storage, tile, width)?.ok_or(SequencerError::Damaged { place, why })?;
        for hash in hashes {
            edge.append_hash(hash, |tile, hashes| match tile.level {
                // It was just read, and is on disk for good: it is not written again, where a loss of power could take it.
                0 => Ok(()),
                _ => tiles::write_tile(storage, tile, hashes),
            })?;
        }
    }
    Ok(edge)
}

#[cfg(test)]
#[path = "sequencer/tests.rs"]
mod tests;
