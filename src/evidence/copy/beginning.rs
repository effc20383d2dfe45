//! A copy of a log whose first records were pruned: it begins behind them, with their hashes in their place.
//!
//! Where it begins is the log's own word, signed: a record of what was pruned, under a checkpoint that extends what the
//! copy had. The hashes stay as they stay in the log, so that every proof of records that are gone can still be made.
//! Refuses to know who says it, and what becomes of the records that an older copy has.

use std::io;

use super::begun::Begun;
use super::opening::bytes;
use super::{CopyError, LogCopy, TILE_BYTES};
use crate::evidence::checkpoint::Checkpoint;
use crate::evidence::entry::Entry;
use crate::evidence::retention::{Horizon, PRUNED};
use crate::evidence::storage::{Persist, Storage};
use crate::evidence::tiles::{self, Edge, TILE_WIDTH, TileId};
use crate::evidence::tree::{Hash, TreeHead, leaf_hash, verify_consistency, verify_inclusion};

/// Hashes of leaves that are taken at once.
pub const MAX_LEAVES: usize = 64 * TILE_WIDTH;

/// What a log says of where its copy begins.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The first record that the copy will have: a multiple of 256.
    pub first: u64,
    /// The record that says what was pruned.
    pub pruned: Vec<u8>,
    /// A signed checkpoint of the log.
    pub checkpoint: String,
    /// That the record is under it (RFC 9162 section 2.1.3.1).
    pub inclusion: Vec<Hash>,
    /// That it extends what the copy has (section 2.1.4.1).
    pub extends: Vec<Hash>,
    /// That it extends the records before the first.
    pub consistency: Vec<Hash>,
}

/// A copy's beginning, on its way.
#[derive(Debug)]
pub struct Beginning {
    claimed: Claimed,
    head: TreeHead,
    /// The head, what was cosigned, and what an earlier beginning promised.
    promised: Vec<TreeHead>,
    edge: Edge,
}

impl Beginning {
    /// Whether the log has signed that a copy of it may begin there, in the place of `copy`, which has less, and of a log that
    /// is not behind what was `cosigned` of it.
    ///
    /// # Errors
    /// When it has not, when it is another log than the one that there is a copy of, or there is no room for the hashes.
    pub fn check(copy: &LogCopy, claimed: Claimed, cosigned: Option<TreeHead>) -> Result<Self, CopyError> {
        let has = copy.size();
        if claimed.first <= has || !claimed.first.is_multiple_of(TILE_WIDTH as u64) {
            return Err(CopyError::Beginning("the copy has the records from there on, or no tile ends there"));
        }
        let head = Checkpoint::verify(claimed.checkpoint.as_bytes(), &copy.key)?.head;
        let entry = Entry::parse(&claimed.pruned).ok();
        let Some(horizon) = entry.as_ref().and_then(Horizon::of) else {
            return Err(CopyError::Beginning("the record that is shown does not say what was pruned"));
        };
        if horizon.before < claimed.first {
            return Err(CopyError::Beginning("the log does not say that the records before were pruned"));
        }
        let leaf = leaf_hash(&claimed.pruned);
        if !verify_inclusion(leaf, horizon.seq, head.size, &claimed.inclusion, &head.root) {
            return Err(CopyError::Beginning("the record of what was pruned is not under the log's checkpoint"));
        }
        let known = TreeHead { size: has, root: copy.root() };
        if !verify_consistency(&known, &head, &claimed.extends) {
            return Err(CopyError::Forked { size: has });
        }
        let mut promised = copy.promised.clone();
        promised.extend(cosigned);
        promised.retain(|promised| promised.size > has);
        for known in &promised {
            if head.size < known.size {
                return Err(CopyError::Cut { size: head.size, has: known.size });
            }
            if head.size == known.size && head.root != known.root {
                return Err(CopyError::Forked { size: head.size });
            }
        }
        promised.push(head);
        // One without records is replaced: hashes that an interrupted beginning left in it do not count.
        let used = if has == 0 { copy.beside } else { copy.used };
        if used.saturating_add(claimed.first.saturating_mul(TILE_BYTES)) > copy.limit {
            return Err(CopyError::Full { used, limit: copy.limit });
        }
        Ok(Self { claimed, head, promised, edge: Edge::default() })
    }

    /// Whether every hash is there.
    pub fn is_whole(&self) -> bool {
        self.edge.size() == self.claimed.first
    }

    /// Takes the hashes that come next, for a copy that has nothing yet, and has them on its disk.
    ///
    /// # Errors
    /// When they are more than are wanted, or fill no tiles; those of the disk.
    pub fn put(&mut self, copy: &mut LogCopy, hashes: &[Hash]) -> Result<(), CopyError> {
        let left = self.claimed.first - self.edge.size();
        if hashes.is_empty()
            || !hashes.len().is_multiple_of(TILE_WIDTH)
            || hashes.len() > MAX_LEAVES
            || hashes.len() as u64 > left
        {
            return Err(CopyError::Beginning(
                "what was sent are not the hashes of whole tiles before the first record",
            ));
        }
        let storage = &*copy.storage;
        for hash in hashes {
            self.edge.append_hash(*hash, |tile, hashes| {
                // Those of the leaves cannot be derived again, and of those above there are few.
                storage.write_file(&tile.path(hashes.len()), &tiles::encode(hashes), Persist::Now)
            })?;
            let edge = &self.edge;
            if self.promised.iter().any(|known| known.size == edge.size() && known.root != edge.root()) {
                return Err(CopyError::Forked { size: edge.size() });
            }
        }
        Ok(())
    }

    /// Has the copy begin, once every hash is there: it has an empty segment then, so that everybody sees where. A crash
    /// before that leaves hashes, which are sent again.
    ///
    /// # Errors
    /// When they are not the log's; those of the disk.
    pub fn finish(self, copy: &mut LogCopy) -> Result<(), CopyError> {
        let Self { claimed, head, mut promised, edge } = self;
        let first = TreeHead { size: edge.size(), root: edge.root() };
        if first.size != claimed.first || !verify_consistency(&first, &head, &claimed.consistency) {
            return Err(CopyError::Forked { size: first.size });
        }
        for (tile, hashes) in edge.partial() {
            // An opening goes on from them, and does not hash every leaf again.
            copy.storage.write_file(&tile.path(hashes.len()), &tiles::encode(hashes), Persist::Now)?;
        }
        sync_directories(&*copy.storage, first.size)?;
        promised.retain(|promised| promised.size > first.size);
        Begun::new(first, &promised, claimed.checkpoint).write(&*copy.storage)?;
        copy.storage.write_file(PRUNED, &claimed.pruned, Persist::Now)?;
        // The last: where it is, everything else is.
        copy.segments.begin(&*copy.storage, first.size)?;
        copy.promised = promised;
        copy.partial = [edge.partial().map(|(tile, hashes)| (tile, hashes.len())).collect(), Vec::new()];
        // Counted anew: of an earlier beginning the same hashes may lie there.
        copy.used = copy.beside + bytes(&*copy.storage, "")?;
        copy.signed = edge;
        Ok(())
    }
}

/// Has the names of the tiles of so many records on disk.
fn sync_directories(storage: &dyn Storage, size: u64) -> io::Result<()> {
    for level in tiles::levels(size) {
        let (index, width) = tiles::width_at(size, level);
        for thousand in (0..index + u64::from(width > 0)).step_by(1000) {
            let path = TileId { level, index: thousand }.path(TILE_WIDTH);
            let mut directory = path.as_str();
            while let Some((parent, _)) = directory.rsplit_once('/') {
                storage.sync_directory(parent)?;
                directory = parent;
            }
        }
    }
    storage.sync_directory("")
}
