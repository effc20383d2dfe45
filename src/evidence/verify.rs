//! Verifying a log, offline: from its directory and a key alone, also while somebody writes it.
//!
//! Recomputes every leaf from the journal, compares it with the tiles, the tiles with one another and the root with
//! what was signed. The checkpoint is read first and the journal last, so that whatever a live writer adds meanwhile
//! can only be more. An export or an archive has bundles in place of a journal, and is verified in the same way. Knows no
//! network and no running journal.

mod failure;
mod known;
mod pipeline;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use self::failure::{Failure, RecordFault};
use self::known::{cosigned, note, the_key};
use self::pipeline::{Meaning, Records, Step, Told};
use super::checkpoint::VerifierKey;
use super::cosignature::CosignerKey;
use super::read::{Place, segments};
use super::retention::Horizon;
use super::sequencer::{CHECKPOINT, SIGNED};
use super::storage::{DiskStorage, Storage, read_file};
use super::tiles::{self, Edge, HASH_BYTES, TILE_WIDTH, TileId};
use super::tree::{Hash, TreeHead};
use crate::domain::Timestamp;
use crate::domain::name::CallId;

/// How often a log is read anew because its writer lost the disk meanwhile: more often is no accident.
const MAX_TRIES: u32 = 4;

/// What is known from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// The key that must have signed. Without it the one in the directory is believed, which an attacker may have
    /// replaced together with everything else.
    pub key: Option<VerifierKey>,
    /// What the log said before: it must only have grown.
    pub against: Option<TreeHead>,
    /// The control plane's key: the log's cosigned checkpoint must be there and bear its cosignature.
    pub cosigner: Option<CosignerKey>,
}

/// What a good log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The key that signed.
    pub key: VerifierKey,
    /// What was signed.
    pub checkpoint: TreeHead,
    /// Records of the log, pruned ones included.
    pub records: u64,
    /// Those that no checkpoint covers yet.
    pub past_checkpoint: u64,
    /// Allowed calls without an outcome: running, or cut off by a crash.
    pub open_intents: u64,
    /// Bytes at the end that are not a whole record: being written, or torn by a crash, and promised to nobody.
    pub in_flight_bytes: u64,
    /// How often the log was opened for writing.
    pub incarnations: u64,
    /// Records under the latest cosigned checkpoint, and when that was, where the cosigner's key is known.
    pub cosigned: Option<(u64, Option<Timestamp>)>,
    /// Time of the first and of the last record that is there.
    pub times: Option<(Timestamp, Timestamp)>,
    /// The first record that is there, and what was pruned, where records before it were.
    pub pruned: Option<(u64, Horizon)>,
}

/// Verifies the log in a directory.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(directory: &Path, options: &VerifyOptions) -> Result<Report, Failure> {
    verify_in(Arc::new(DiskStorage::read_only(directory)), options)
}

/// As [`verify`], on any storage.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify_in(storage: Arc<dyn Storage>, options: &VerifyOptions) -> Result<Report, Failure> {
    let mut before = segments(&*storage)?;
    let mut tries = 1;
    loop {
        let failure = match verify_once(&storage, options) {
            Ok(report) => return Ok(report),
            Err(failure) => failure,
        };
        // Records that were read and never promised: the disk failed under the writer, which went on before them.
        let now = segments(&*storage)?;
        let superseded = |first: &u64| failure.record().is_some_and(|seq| *first <= seq);
        let appeared = now.iter().filter(|first| !before.contains(first)).any(superseded);
        // Or segments that its writer pruned meanwhile.
        let pruned = now.first() > before.first();
        if tries == MAX_TRIES || !(appeared || pruned) {
            return Err(failure);
        }
        before = now;
        tries += 1;
    }
}

fn verify_once(storage: &Arc<dyn Storage>, options: &VerifyOptions) -> Result<Report, Failure> {
    let key = the_key(&**storage, options)?;
    // In this order: the signed one is written before it is published, and tiles before either.
    let published = note(&**storage, CHECKPOINT, &key)?;
    let signed = note(&**storage, SIGNED, &key)?;
    let checkpoint = published.or(signed).ok_or(Failure::NoCheckpoint)?;
    let mut known = vec![(checkpoint, "the checkpoint")];
    known.extend(signed.map(|head| (head, "the last signature")));
    let cosigned = cosigned(&**storage, &key, options.cosigner.as_ref())?;
    known.extend(cosigned.map(|(head, _)| (head, "the cosigned checkpoint")));
    known.extend(options.against.map(|head| (head, "the remembered checkpoint")));
    let records = Records::of(storage, checkpoint.size)?;
    let listed = list_tiles(&**storage, &records)?;
    let mut walk = Walk::new(storage, key, listed, known);
    walk.ahead = matches!(records, Records::Bundles(_));
    walk.leaves(records.first())?;
    let in_flight_bytes = walk.run(records)?;
    let report = walk.finish(checkpoint, in_flight_bytes)?;
    Ok(Report { cosigned: cosigned.map(|(head, at)| (head.size, at)), ..report })
}

/// Every tile that is there, with its widths.
type Listed = BTreeMap<TileId, Vec<usize>>;

fn list_tiles(storage: &dyn Storage, records: &Records) -> Result<Listed, Failure> {
    let mut listed = Listed::new();
    let mut directories = vec![tiles::DIRECTORY.to_owned()];
    while let Some(directory) = directories.pop() {
        for item in storage.list(&directory)? {
            let path = format!("{directory}/{}", item.name);
            if item.directory {
                directories.push(path);
            } else if let Some((tile, width)) = TileId::parse(&path) {
                listed.entry(tile).or_default().push(width);
            } else if !item.name.ends_with(".tmp") && !records.is_bundle(&path) {
                return Err(Failure::NotATile { path });
            }
        }
    }
    Ok(listed)
}

/// One way through the whole journal.
struct Walk<'s> {
    storage: &'s Arc<dyn Storage>,
    key: VerifierKey,
    listed: Listed,
    /// Tree heads that must be met on the way.
    known: Vec<(TreeHead, &'static str)>,
    edge: Edge,
    /// Where the records of the tile that is being filled stand.
    places: Vec<Place>,
    open: HashMap<u64, CallId>,
    /// Outcomes of calls that began before the first record that is there.
    ended: HashSet<u64>,
    incarnations: u64,
    times: Option<(Timestamp, Timestamp)>,
    /// Tiles may speak of more than the checkpoint does: an export and an archive get them before it, and one that ended
    /// in between is whole as far as its checkpoint says.
    ahead: bool,
    /// The first record that is there.
    first: u64,
    /// What the log says was pruned, where that is signed for.
    pruned: Option<Horizon>,
}

impl<'s> Walk<'s> {
    fn new(
        storage: &'s Arc<dyn Storage>,
        key: VerifierKey,
        listed: Listed,
        known: Vec<(TreeHead, &'static str)>,
    ) -> Self {
        Self {
            storage,
            key,
            listed,
            known,
            edge: Edge::default(),
            places: Vec::new(),
            open: HashMap::new(),
            ended: HashSet::new(),
            incarnations: 0,
            times: None,
            ahead: false,
            first: 0,
            pruned: None,
        }
    }

    /// Takes the leaves of records that are not there from their tiles: whether they are the ones that were signed shows the
    /// root, and whether they may be missing shows [`finish`](Self::finish).
    fn leaves(&mut self, first: u64) -> Result<(), Failure> {
        self.first = first;
        while self.edge.size() < first {
            let tile = TileId { level: 0, index: self.edge.size() / 256 };
            let width = usize::try_from(first - self.edge.size()).unwrap_or(TILE_WIDTH).min(TILE_WIDTH);
            let hashes = tiles::read_tile(&**self.storage, tile, width)?;
            let missing = || self.bad_tile(tile, tile.path(TILE_WIDTH), 0, "missing");
            for hash in hashes.ok_or_else(missing)? {
                self.append(hash)?;
            }
        }
        Ok(())
    }

    /// Takes every record; says how many bytes at the end are none.
    fn run(&mut self, records: Records) -> Result<u64, Failure> {
        let log = self.key.name().to_string();
        pipeline::run(records, &log, |step| match step {
            Step::Record { place, leaf, meaning } => {
                self.take(place, leaf, meaning).map_err(|failure| self.earlier(failure))?;
                Ok(None)
            }
            Step::CaughtUp { torn } => Ok(Some(torn)),
            Step::Damaged { place, why } => Err(self.earlier(Failure::Record { place, why: RecordFault::Form(why) })),
        })
    }

    fn take(&mut self, place: Place, leaf: Hash, meaning: Result<Meaning, RecordFault>) -> Result<(), Failure> {
        if let Err(why) = meaning.and_then(|meaning| self.judge(place.seq, &meaning)) {
            return Err(Failure::Record { place, why });
        }
        self.places.push(place);
        self.append(leaf)
    }

    fn append(&mut self, leaf: Hash) -> Result<(), Failure> {
        let mut full = Vec::new();
        self.edge.append_hash(leaf, |tile, hashes| {
            full.push((tile, hashes.to_vec()));
            Ok::<(), Failure>(())
        })?;
        for (tile, hashes) in full {
            self.compare(tile, &hashes)?;
            if tile.level == 0 {
                self.places.clear();
            }
        }
        let head = TreeHead { size: self.edge.size(), root: Hash([0; 32]) };
        if self.known.iter().any(|(known, _)| known.size == head.size) {
            self.meet(TreeHead { root: self.edge.root(), ..head })?;
        }
        Ok(())
    }

    fn judge(&mut self, seq: u64, meaning: &Meaning) -> Result<(), RecordFault> {
        let (first, last) = self.times.unwrap_or((meaning.time, meaning.time));
        if meaning.time < last {
            return Err(RecordFault::Time);
        }
        self.times = Some((first, meaning.time));
        match &meaning.told {
            Told::Opened => self.incarnations += 1,
            Told::Intent(call) => drop(self.open.insert(seq, *call)),
            Told::Pruned(horizon) => {
                let signed = self.known.first().is_some_and(|(checkpoint, _)| seq < checkpoint.size);
                if signed && self.pruned.as_ref().is_none_or(|known| known.before <= horizon.before) {
                    self.pruned = Some(horizon.clone());
                }
            }
            // Its intent was pruned; that it ends twice still shows.
            Told::Outcome { intent_seq, .. } if *intent_seq < self.first => {
                if !self.ended.insert(*intent_seq) {
                    return Err(RecordFault::Outcome);
                }
            }
            Told::Outcome { call, intent_seq } => {
                if self.open.remove(intent_seq) != Some(*call) {
                    return Err(RecordFault::Outcome);
                }
            }
            Told::Other => {}
        }
        Ok(())
    }

    /// At a size of which the root is known.
    fn meet(&self, head: TreeHead) -> Result<(), Failure> {
        let wrong = self.known.iter().find(|(known, _)| known.size == head.size && known.root != head.root);
        let Some((_, by)) = wrong else { return Ok(()) };
        Err(Failure::Root { size: head.size, by })
    }

    /// The first thing that is wrong: the tiles that are being filled may know of a record before the one that failed.
    fn earlier(&mut self, failure: Failure) -> Failure {
        let Err(found) = self.last_tiles() else { return failure };
        let last = match &found {
            Failure::Record { place, .. } => place.seq,
            Failure::Tile { last, .. } => *last,
            _ => return failure,
        };
        if failure.record().is_none_or(|seq| last < seq) { found } else { failure }
    }

    /// Every form of a tile that is there must begin as the records say.
    fn compare(&mut self, tile: TileId, hashes: &[Hash]) -> Result<(), Failure> {
        let mut covered = 0;
        for width in self.listed.remove(&tile).unwrap_or_default() {
            let path = tile.path(width);
            let bytes = match read_file(&**self.storage, &path, TILE_WIDTH * HASH_BYTES) {
                // A writer removes partial tiles that nobody needs any more.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                bytes => bytes?,
            };
            if bytes.len() < width * HASH_BYTES && width == TILE_WIDTH && !self.is_signed(tile) {
                // It is being written, or was when its writer was killed. No checkpoint speaks of it.
                continue;
            }
            let held = tiles::decode(&bytes).filter(|held| held.len() == width);
            let Some(held) = held else { return Err(self.bad_tile(tile, path, 0, "not of its size")) };
            let wrong = held.iter().zip(hashes).position(|(held, computed)| held != computed);
            match wrong {
                Some(at) => return Err(self.bad_tile(tile, path, at, "a hash is not the one of its records")),
                None if held.len() > hashes.len() && !self.ahead => {
                    let (records, known) = (self.edge.size(), self.span(tile, held.len() - 1).1 + 1);
                    return Err(Failure::Cut { records, known, lost: known.saturating_sub(records) });
                }
                None => covered = covered.max(width),
            }
        }
        self.required(tile, hashes, covered)
    }

    /// Whether the checkpoint covers the whole of a tile.
    fn is_signed(&self, tile: TileId) -> bool {
        let full = |checkpoint: &TreeHead| tiles::width_at(checkpoint.size, tile.level).0;
        self.known.first().is_some_and(|(checkpoint, _)| tile.index < full(checkpoint))
    }

    /// What the checkpoint covers must be there as a tile.
    fn required(&self, tile: TileId, hashes: &[Hash], covered: usize) -> Result<(), Failure> {
        let Some((checkpoint, _)) = self.known.first() else { return Ok(()) };
        let (full, width) = tiles::width_at(checkpoint.size, tile.level);
        let needed = match tile.index.cmp(&full) {
            std::cmp::Ordering::Less => TILE_WIDTH,
            std::cmp::Ordering::Equal => width,
            std::cmp::Ordering::Greater => 0,
        };
        if needed <= covered {
            return Ok(());
        }
        // Not listed, or gone since: a writer replaced it by a wider one.
        let there = tiles::read_tile(&**self.storage, tile, needed)?;
        let good = there.is_some_and(|there| there.iter().zip(hashes).all(|(a, b)| a == b));
        if good { Ok(()) } else { Err(self.bad_tile(tile, tile.path(needed), 0, "missing")) }
    }

    /// The records under one hash of a tile.
    fn span(&self, tile: TileId, at: usize) -> (u64, u64) {
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        let under = 1u64.checked_shl(8 * u32::from(tile.level)).unwrap_or(u64::MAX);
        let first = tile.index.saturating_mul(256).saturating_add(at).saturating_mul(under);
        (first, first.saturating_add(under - 1))
    }

    fn bad_tile(&self, tile: TileId, path: String, at: usize, why: &'static str) -> Failure {
        let (first, last) = self.span(tile, at);
        let record = self.places.iter().find(|place| place.seq == first);
        match record {
            // A leaf: either the record or the tile was changed, and the record is what people ask about.
            Some(place) if tile.level == 0 && why != "missing" && why != "not of its size" => {
                Failure::Record { place: place.clone(), why: RecordFault::Leaf }
            }
            _ => Failure::Tile { path, why, first, last },
        }
    }

    /// The tiles that are not full.
    fn last_tiles(&mut self) -> Result<(), Failure> {
        let partial: Vec<(TileId, Vec<Hash>)> =
            self.edge.partial().map(|(tile, hashes)| (tile, hashes.to_vec())).collect();
        partial.iter().try_for_each(|(tile, hashes)| self.compare(*tile, hashes))
    }

    fn finish(mut self, checkpoint: TreeHead, in_flight_bytes: u64) -> Result<Report, Failure> {
        let records = self.edge.size();
        if let Some(known) = self.known.iter().map(|(head, _)| head.size).filter(|size| *size > records).max() {
            return Err(Failure::Cut { records, known, lost: known - records });
        }
        if records == 0 || self.known.iter().any(|(head, _)| head.size == 0) {
            let empty = TreeHead { size: 0, root: super::tree::empty_root() };
            self.meet(empty)?;
        }
        self.last_tiles()?;
        if let Some((tile, widths)) = self.listed.first_key_value().filter(|_| !self.ahead) {
            let path = tile.path(widths.first().copied().unwrap_or(TILE_WIDTH));
            let (first, last) = self.span(*tile, 0);
            return Err(Failure::Tile { path, why: "of records that are not there", first, last });
        }
        let said = self.pruned.as_ref().map_or(0, |horizon| horizon.before);
        if said < self.first {
            return Err(Failure::Missing { from: said, to: self.first - 1 });
        }
        let pruned = self.pruned.filter(|_| self.first > 0).map(|horizon| (self.first, horizon));
        Ok(Report {
            cosigned: None,
            key: self.key,
            checkpoint,
            records,
            past_checkpoint: records - checkpoint.size,
            open_intents: u64::try_from(self.open.len()).unwrap_or(u64::MAX),
            in_flight_bytes,
            incarnations: self.incarnations,
            times: self.times,
            pruned,
        })
    }
}
