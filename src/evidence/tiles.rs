//! Hash tiles in the layout of C2SP tlog-tiles, and the right edge of the tree that grows in them.
//!
//! Tile `(level, index)` holds 256 hashes, each the root over 256^level leaves. Only where a tile stands, what is in
//! it, and how one fills; not when to write.

use std::io;

use super::storage::{Persist, Storage, read_file};
use super::tree::{CompactRange, Hash, leaf_hash, root_of};

/// Hashes of a full tile.
pub const TILE_WIDTH: usize = 256;
/// Bytes of a hash.
pub(crate) const HASH_BYTES: usize = 32;
/// The directory of the tiles.
pub(crate) const DIRECTORY: &str = "tile";

/// A tile's place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// 0 holds leaf hashes.
    pub level: u8,
    /// Counted from the left.
    pub index: u64,
}

impl TileId {
    /// `tile/<L>/<N>[.p/<W>]`: with 256 hashes, or with fewer.
    pub fn path(self, width: usize) -> String {
        let mut path = format!("{DIRECTORY}/{}/{}", self.level, index_path(self.index));
        if width < TILE_WIDTH {
            path.push_str(&format!(".p/{width}"));
        }
        path
    }

    /// The directory of its partial forms.
    pub(crate) fn partial_directory(self) -> String {
        format!("{DIRECTORY}/{}/{}.p", self.level, index_path(self.index))
    }

    /// The tile that a path names, and its width.
    pub fn parse(path: &str) -> Option<(Self, usize)> {
        let rest = path.strip_prefix(DIRECTORY)?.strip_prefix('/')?;
        let (level, rest) = rest.split_once('/')?;
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, width.parse().ok().filter(|width| (1..TILE_WIDTH).contains(width))?),
            None => (rest, TILE_WIDTH),
        };
        let index = number_of_index(index)?;
        let tile = Self { level: level.parse().ok().filter(|level| *level < 64)?, index };
        // One spelling: what the path would be is what it is.
        (tile.path(width) == path).then_some((tile, width))
    }
}

/// The number that path elements `x001/x234/067` stand for, in whatever spelling.
pub(crate) fn number_of_index(path: &str) -> Option<u64> {
    path.split('/').try_fold(0u64, |number, part| {
        let digits = part.strip_prefix('x').unwrap_or(part);
        number.checked_mul(1000)?.checked_add(digits.parse().ok()?)
    })
}

pub(crate) fn index_path(index: u64) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    path
}

/// How many hashes level `level` has over `size` leaves, in full tiles and in the last one.
pub(crate) fn width_at(size: u64, level: u8) -> (u64, usize) {
    let hashes = size.checked_shr(8 * u32::from(level)).unwrap_or(0);
    (hashes / 256, usize::try_from(hashes % 256).unwrap_or(0))
}

/// The levels that a tree of this size has.
pub(crate) fn levels(size: u64) -> impl Iterator<Item = u8> {
    (0u8..8).take_while(move |level| size.checked_shr(8 * u32::from(*level)).unwrap_or(0) > 0)
}

/// The bytes of a tile.
pub(crate) fn encode(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// The hashes of a tile; `None` when it is no whole number of them.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<HASH_BYTES>();
    rest.is_empty().then(|| hashes.iter().map(|hash| Hash(*hash)).collect())
}

/// The right edge of the tree: of each level the hashes of its last tile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

impl Edge {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether the next entry completes a tile.
    pub(crate) fn fills_next(&self) -> bool {
        self.size % 256 == 255
    }

    /// Adds an entry; calls `full` with each tile that it completes, lowest first.
    pub(crate) fn append<E>(
        &mut self,
        entry: &[u8],
        full: impl FnMut(TileId, &[Hash]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.append_hash(leaf_hash(entry), full)
    }

    /// Adds a leaf by its hash; as [`append`](Self::append).
    pub(crate) fn append_hash<E>(
        &mut self,
        leaf: Hash,
        mut full: impl FnMut(TileId, &[Hash]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut done: Vec<(TileId, Vec<Hash>)> = Vec::new();
        let mut carry = Some(leaf);
        let mut level = 0u8;
        while let Some(hash) = carry.take() {
            if usize::from(level) == self.levels.len() {
                self.levels.push(Vec::with_capacity(TILE_WIDTH));
            }
            let Some(last) = self.levels.get_mut(usize::from(level)) else { break };
            last.push(hash);
            if last.len() == TILE_WIDTH {
                carry = Some(root_of(last));
                let index = self.size >> (8 * u32::from(level) + 8);
                done.push((TileId { level, index }, std::mem::take(last)));
            }
            level += 1;
        }
        self.size += 1;
        done.iter().try_for_each(|(tile, hashes)| full(*tile, hashes))
    }

    /// The tiles that are not full, with their hashes.
    pub(crate) fn partial(&self) -> impl Iterator<Item = (TileId, &[Hash])> {
        self.levels.iter().zip(0u8..).filter(|(hashes, _)| !hashes.is_empty()).map(|(hashes, level)| {
            let (index, _) = width_at(self.size, level);
            (TileId { level, index }, hashes.as_slice())
        })
    }

    /// The root over everything.
    pub(crate) fn root(&self) -> Hash {
        // Each level's hashes are perfect subtrees, larger the higher: fold from the right.
        let mut right: Option<Hash> = None;
        for hashes in &self.levels {
            let mut peaks: Vec<Hash> = peaks(hashes);
            while let Some(left) = peaks.pop() {
                right = Some(right.map_or(left, |right| super::tree::node_hash(&left, &right)));
            }
        }
        right.unwrap_or_else(|| CompactRange::new().root())
    }

    /// Reads the edge of a tree of `size` leaves back from its tiles. `None`: a tile is missing or has another size.
    pub(crate) fn load(storage: &dyn Storage, size: u64) -> io::Result<Option<Self>> {
        let mut edge = Self { size, levels: Vec::new() };
        for level in levels(size) {
            let (index, width) = width_at(size, level);
            let hashes = match width {
                0 => Some(Vec::new()),
                width => read_tile(storage, TileId { level, index }, width)?,
            };
            let Some(hashes) = hashes else { return Ok(None) };
            edge.levels.push(hashes);
        }
        Ok(Some(edge))
    }
}

/// The roots of the perfect subtrees over equally large ones.
fn peaks(hashes: &[Hash]) -> Vec<Hash> {
    let mut range = CompactRange::new();
    hashes.iter().for_each(|hash| range.append(*hash));
    range.into_peaks()
}

/// The first `width` hashes of a tile: from the full one, or from a partial one that has enough.
pub(crate) fn read_tile(storage: &dyn Storage, tile: TileId, width: usize) -> io::Result<Option<Vec<Hash>>> {
    let mut widths = vec![width, TILE_WIDTH];
    widths.extend(storage.list(&tile.partial_directory())?.iter().filter_map(|item| item.name.parse::<usize>().ok()));
    for have in widths.into_iter().filter(|have| (width..=TILE_WIDTH).contains(have)) {
        let bytes = match read_file(storage, &tile.path(have), TILE_WIDTH * HASH_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes?,
        };
        if let Some(mut hashes) = decode(&bytes).filter(|hashes| hashes.len() == have) {
            hashes.truncate(width);
            return Ok(Some(hashes));
        }
    }
    Ok(None)
}

/// The files of all partial tiles that are there, of records' hashes and of higher levels.
pub(crate) fn partial_files(storage: &dyn Storage) -> io::Result<Vec<String>> {
    let (mut found, mut directories) = (Vec::new(), vec![DIRECTORY.to_owned()]);
    while let Some(directory) = directories.pop() {
        for item in storage.list(&directory)? {
            let path = format!("{directory}/{}", item.name);
            if item.directory {
                directories.push(path);
            } else if TileId::parse(&path).is_some_and(|(_, width)| width < TILE_WIDTH) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Writes a tile. It can be derived again, so it is not synced.
pub(crate) fn write_tile(storage: &dyn Storage, tile: TileId, hashes: &[Hash]) -> io::Result<()> {
    // Readers hear of a full tile from the checkpoint that is published behind it, and pass over a short one before. One that
    // is not full may be of a size that nobody writes again: a part of it would stay.
    let persist = if hashes.len() == TILE_WIDTH { Persist::Unheard } else { Persist::Later };
    storage.write_file(&tile.path(hashes.len()), &encode(hashes), persist)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::storage::FakeStorage;

    #[test]
    fn paths_are_those_of_the_standard() {
        for (index, path) in [(0, "000"), (1000, "x001/000"), (1_234_067, "x001/x234/067")] {
            let tile = TileId { level: 3, index };
            assert_eq!(tile.path(256), format!("tile/3/{path}"));
            assert_eq!(TileId::parse(&tile.path(256)), Some((tile, 256)));
            assert_eq!(TileId::parse(&tile.path(7)), Some((tile, 7)));
        }
        for bad in ["tile/3/x001", "tile/3/0", "tile/64/000", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/07"] {
            assert_eq!(TileId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn seventy_thousand_leaves_have_the_widths_of_the_standard() {
        assert_eq!([0, 1, 2].map(|level| width_at(70_000, level)), [(273, 112), (1, 17), (0, 1)]);
        assert_eq!(levels(70_000).count(), 3);
        assert_eq!([0, 1].map(|level| width_at(256, level)), [(1, 0), (0, 1)]);
    }

    #[test]
    fn the_edge_has_the_root_of_the_tree_and_comes_back_from_its_tiles() {
        let disk = FakeStorage::new();
        let mut range = CompactRange::new();
        let mut edge = Edge::default();
        for n in 0..70_000u64 {
            let entry = n.to_be_bytes();
            range.append(leaf_hash(&entry));
            edge.append(&entry, |tile, hashes| write_tile(&disk, tile, hashes)).unwrap();
            if n % 977 == 0 || [255, 256, 511, 65_535, 65_536, 69_999].contains(&n) {
                assert_eq!(edge.root(), range.root(), "{n}");
                edge.partial().for_each(|(tile, hashes)| write_tile(&disk, tile, hashes).unwrap());
                assert_eq!(Edge::load(&disk, n + 1).unwrap().unwrap(), edge, "{n}");
            }
        }
        assert_eq!(Edge::load(&disk, 1000).unwrap().map(|edge| edge.size()), Some(1000));
        assert_eq!(disk.list("tile/0").unwrap().iter().filter(|item| !item.directory).count(), 273);
    }
}
