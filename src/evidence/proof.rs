//! Proofs from a log's tiles: that a tree only grew (RFC 9162 section 2.1.4.1), that a record is in it (2.1.3.1).
//!
//! Reads a tile for every 8 levels of the tree at most twice; knows neither journal nor checkpoints.

use std::io;

use super::storage::Storage;
use super::tiles::{TILE_WIDTH, TileId, read_tile, width_at};
use super::tree::{Hash, empty_root, node_hash, root_of};

/// Levels of the tree in one tile.
const TILE_LEVELS: u32 = 8;

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The disk fails.
    #[error("the tiles cannot be read: {0}")]
    Disk(#[from] io::Error),
    /// A tile is not there, or is shorter than the tree.
    #[error("the tiles do not hold {0} records")]
    Missing(u64),
    /// A record that the tree does not have.
    #[error("record {index} is not among the first {size}")]
    NotCovered {
        /// The record.
        index: u64,
        /// How many records the tree has.
        size: u64,
    },
    /// A tree does not shrink.
    #[error("the log has {new} records and is to have grown from {old}")]
    Shorter {
        /// The size that it is to have had.
        old: u64,
        /// Its size.
        new: u64,
    },
}

/// The proof that the first `new` records begin with the first `old`. Empty when either is all of the other or `old` is
/// nothing.
///
/// # Errors
/// When the tiles do not hold `new` records, or `old` is more than that.
pub fn consistency(storage: &dyn Storage, old: u64, new: u64) -> Result<Vec<Hash>, ProofError> {
    if old > new {
        return Err(ProofError::Shorter { old, new });
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let tree = Tree { storage, size: new };
    let mut proof = Vec::new();
    tree.prove(old, 0, new, true, &mut proof)?;
    Ok(proof)
}

/// The siblings of record `index` on its way to the root over the first `size` records, the nearest first.
///
/// # Errors
/// When the tiles do not hold `size` records, or `index` is not among them.
pub fn inclusion(storage: &dyn Storage, index: u64, size: u64) -> Result<Vec<Hash>, ProofError> {
    if index >= size {
        return Err(ProofError::NotCovered { index, size });
    }
    let tree = Tree { storage, size };
    let (mut begin, mut end) = (0, size);
    let mut proof = Vec::new();
    while end - begin > 1 {
        let middle = begin + split(end - begin);
        if index < middle {
            proof.push(tree.root(middle, end)?);
            end = middle;
        } else {
            proof.push(tree.root(begin, middle)?);
            begin = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The root over the first `old` records of a log of `size`.
///
/// # Errors
/// When the tiles do not hold `size` records, or `old` is more than that.
pub fn root(storage: &dyn Storage, old: u64, size: u64) -> Result<Hash, ProofError> {
    if old > size {
        return Err(ProofError::Shorter { old, new: size });
    }
    if old == 0 { Ok(empty_root()) } else { Tree { storage, size }.root(0, old) }
}

struct Tree<'s> {
    storage: &'s dyn Storage,
    size: u64,
}

impl Tree<'_> {
    /// `SUBPROOF(m, D[begin:end], known)` of the RFC; `old` counts from `begin`.
    fn prove(&self, old: u64, begin: u64, end: u64, known: bool, proof: &mut Vec<Hash>) -> Result<(), ProofError> {
        let size = end - begin;
        if old == size {
            if !known {
                proof.push(self.root(begin, end)?);
            }
            return Ok(());
        }
        let left = split(size);
        if old <= left {
            self.prove(old, begin, begin + left, known, proof)?;
            proof.push(self.root(begin + left, end)?);
        } else {
            self.prove(old - left, begin + left, end, false, proof)?;
            proof.push(self.root(begin, begin + left)?);
        }
        Ok(())
    }

    /// The root over the records from `begin` to `end`, a node of the tree.
    fn root(&self, begin: u64, end: u64) -> Result<Hash, ProofError> {
        let size = end - begin;
        if !size.is_power_of_two() {
            let left = split(size);
            return Ok(node_hash(&self.root(begin, begin + left)?, &self.root(begin + left, end)?));
        }
        let level = size.trailing_zeros();
        let (tile_level, above) = (level / TILE_LEVELS, level % TILE_LEVELS);
        let first = begin >> (tile_level * TILE_LEVELS);
        let missing = ProofError::Missing(self.size);
        let (Ok(tile_level), Ok(at)) = (u8::try_from(tile_level), usize::try_from(first % 256)) else {
            return Err(missing);
        };
        let tile = TileId { level: tile_level, index: first / 256 };
        let (full, last) = width_at(self.size, tile_level);
        let width = if tile.index < full { TILE_WIDTH } else { last };
        let hashes = read_tile(self.storage, tile, width)?;
        let of = hashes.as_deref().and_then(|hashes| hashes.get(at..at + (1 << above)));
        of.map(root_of).ok_or(missing)
    }
}

/// The largest power of two below `size`, which is at least 2.
fn split(size: u64) -> u64 {
    1 << (u64::BITS - 1 - (size - 1).leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::super::storage::FakeStorage;
    use super::super::tiles::{Edge, write_tile};
    use super::super::tree::{TreeHead, leaf_hash, verify_consistency, verify_inclusion};
    use super::*;

    #[test]
    fn every_growth_is_proven_and_no_other_history_is() {
        let disk = FakeStorage::new();
        let mut edge = Edge::default();
        let sizes = [1, 2, 3, 7, 8, 255, 256, 257, 511, 512, 700, 65_535, 65_536, 65_537, 66_000];
        let mut heads = Vec::new();
        for n in 0..66_000u64 {
            edge.append(&n.to_be_bytes(), |tile, hashes| write_tile(&disk, tile, hashes)).unwrap();
            if sizes.contains(&(n + 1)) {
                edge.partial().for_each(|(tile, hashes)| write_tile(&disk, tile, hashes).unwrap());
                heads.push(TreeHead { size: n + 1, root: edge.root() });
            }
        }
        for new in &heads {
            for old in heads.iter().filter(|old| old.size <= new.size) {
                let proof = consistency(&disk, old.size, new.size).unwrap();
                assert!(verify_consistency(old, new, &proof), "{} to {}", old.size, new.size);
                assert!(proof.len() <= 18);
                assert_eq!(root(&disk, old.size, new.size).unwrap(), old.root);
                let other = TreeHead { root: Hash([9; 32]), ..*old };
                assert!(!verify_consistency(&other, new, &proof), "{} to {}", old.size, new.size);
            }
        }
        for head in &heads {
            let places = [0, 1, 7, 254, 255, 256, 400, 511, 512, 65_535, 65_536, head.size - 1];
            for index in places.into_iter().filter(|index| *index < head.size) {
                let proof = inclusion(&disk, index, head.size).unwrap();
                let leaf = leaf_hash(&index.to_be_bytes());
                assert!(verify_inclusion(leaf, index, head.size, &proof, &head.root), "{index} of {}", head.size);
                assert!(proof.len() <= 17);
                let other = leaf_hash(&(index + 1).to_be_bytes());
                assert!(!verify_inclusion(other, index, head.size, &proof, &head.root), "{index} of {}", head.size);
            }
        }
        assert!(matches!(inclusion(&disk, 8, 8), Err(ProofError::NotCovered { index: 8, size: 8 })));
        assert!(matches!(consistency(&disk, 9, 8), Err(ProofError::Shorter { old: 9, new: 8 })));
        assert!(matches!(consistency(&disk, 8, 70_000), Err(ProofError::Missing(70_000))));
        assert!(consistency(&disk, 0, 8).unwrap().is_empty());
    }
}
