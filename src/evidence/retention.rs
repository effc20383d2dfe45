//! Retention: old records go from the log's own disk, and every proof stays.
//!
//! Segments of the journal go whole, oldest first; hash tiles stay, so that the inclusion of any record and the growth of
//! the log are proven as before. First the log says so itself: a record that names the horizon and the policy is durable
//! and under a signed checkpoint before anything is deleted. Nothing goes that is not cosigned, or that an archive is
//! still to get. Knows policies and segments; not what records mean, and no archive.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::COSIGNED;
use super::changes::last_change;
use super::checkpoint::{Checkpoint, NoteError};
use super::entry::{Entry, Event, Pruned};
use super::journal::{JournalError, segment};
use super::key::{LogFileError, read_log_file};
use super::query::QueryError;
use super::read::{JournalReader, Next, Place, first, segments};
use super::sequencer::read_note;
use super::storage::{Persist, Storage, read_file};
use super::tiles::{self, TILE_WIDTH, TileId};
use super::tree::leaf_hash;
use crate::domain::Timestamp;

/// The file beside the log that says what was pruned last: the record's bytes. For whoever reads the log; a verifier takes
/// the record's word alone.
pub const PRUNED: &str = "pruned";
/// The file beside the log with the checkpoint that was archived last: how far an archive is behind must be known also
/// when it cannot be reached.
pub const ARCHIVED: &str = "archived";
/// Longest such file.
const MAX_PRUNED_BYTES: usize = 4096;
/// A segment that is written for longer than this part of the age that is kept is followed by the next one.
const TURNS: u32 = 8;

/// What is kept. Records go when either bound says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Records that are younger stay.
    pub age: Option<Duration>,
    /// The youngest segments of at most so many bytes together stay.
    pub bytes: Option<u64>,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keep")?;
        if let Some(age) = self.age {
            write!(f, " {}", crate::domain::resource::Span::new(age))?;
        }
        if let Some(bytes) = self.bytes {
            write!(f, " {}", crate::domain::size::Size::bytes(bytes))?;
        }
        Ok(())
    }
}

/// What a log says was pruned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// Records before this one may be gone.
    pub before: u64,
    /// The record that says so.
    pub seq: u64,
    /// When it was written.
    pub at: Timestamp,
    /// Under which policy.
    pub policy: String,
}

impl Horizon {
    /// What a record says, if it is one of pruning that can be true.
    pub(crate) fn of(entry: &Entry) -> Option<Self> {
        let Event::Pruned(pruned) = &entry.event else { return None };
        let (before, policy) = (pruned.before, pruned.policy.to_string());
        (before <= entry.seq).then_some(Self { before, seq: entry.seq, at: entry.time, policy })
    }
}

impl fmt::Display for Horizon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, seq, at, policy } = self;
        write!(f, "records before {before} were pruned under `{}` at {at} (record {seq})", policy.escape_default())
    }
}

/// Why nothing can be pruned.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The disk fails.
    #[error("the log cannot be read or written: {0}")]
    Disk(#[from] io::Error),
    /// `log.json` cannot be used.
    #[error(transparent)]
    LogFile(#[from] LogFileError),
    /// The cosigned checkpoint does not hold.
    #[error("{COSIGNED}: {0}")]
    Cosigned(NoteError),
    /// What is noted of the archive does not hold.
    #[error("{ARCHIVED}: {0}")]
    Archived(NoteError),
    /// The journal cannot be read.
    #[error("{place}: {why}")]
    Damaged {
        /// Where.
        place: Place,
        /// In which way.
        why: &'static str,
    },
    /// What is to stand for records that go is not what they are.
    #[error("{0}: the tile is missing or does not agree with its records: nothing is pruned")]
    Tile(String),
    /// What must stay cannot be read.
    #[error("{0}")]
    Changes(#[source] Box<QueryError>),
    /// The record that says what goes was not written.
    #[error("what is to be pruned could not be recorded: {0}")]
    NotRecorded(#[from] JournalError),
    /// The archive does not have what is to go.
    #[error("the archive: {0}: nothing is pruned")]
    Archive(String),
    /// It is not under a signed checkpoint.
    #[error("what is to be pruned is recorded and not signed yet")]
    NotSigned,
}

/// What the log in this storage says was pruned last, if anything was.
///
/// # Errors
/// Those of the disk.
pub fn told(storage: &dyn Storage) -> io::Result<Option<Horizon>> {
    match read_file(storage, PRUNED, MAX_PRUNED_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        bytes => Ok(Entry::parse(&bytes?).ok().as_ref().and_then(Horizon::of)),
    }
}

/// What was pruned, where records before the first that is there were, and the log says so.
///
/// # Errors
/// Those of the disk.
pub(crate) fn gone(storage: &dyn Storage) -> io::Result<Option<(u64, Horizon)>> {
    let begin = first(storage)?;
    Ok(told(storage)?.filter(|horizon| begin > 0 && begin <= horizon.before).map(|horizon| (begin, horizon)))
}

/// Records under the latest cosigned checkpoint.
///
/// # Errors
/// When it cannot be read or does not hold.
pub fn cosigned(storage: &dyn Storage) -> Result<u64, PruneError> {
    let Some(note) = read_note(storage, COSIGNED)? else { return Ok(0) };
    let key = read_log_file(storage)?;
    Ok(Checkpoint::verify(&note, &key).map_err(PruneError::Cosigned)?.head.size)
}

/// Records that an archive of the log was last known to have; `None` when it has none.
///
/// # Errors
/// When what is noted of it cannot be read or does not hold.
pub fn archived(storage: &dyn Storage) -> Result<Option<u64>, PruneError> {
    let Some(note) = read_note(storage, ARCHIVED)? else { return Ok(None) };
    let key = read_log_file(storage)?;
    Ok(Some(Checkpoint::verify(&note, &key).map_err(PruneError::Archived)?.head.size))
}

/// Records of a log from this one on stay, whatever a policy says.
pub type Stays = fn(&Arc<dyn Storage>) -> Result<u64, PruneError>;

/// Of a log of changes the last one stays: by it the log is gone on with, and told from an older one.
///
/// # Errors
/// When the log cannot be read.
pub fn stays_of_changes(storage: &Arc<dyn Storage>) -> Result<u64, PruneError> {
    let last = last_change(storage, u64::MAX).map_err(|error| PruneError::Changes(Box::new(error)))?;
    Ok(last.map_or(0, |last| last.from))
}

/// What must not go, besides what is not cosigned.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// Records that an archive has, where there is one: those behind them.
    pub archived: Option<u64>,
    /// What stays by what it is.
    pub stays: Option<Stays>,
}

/// What would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Records before this one may be gone then.
    pub before: u64,
    /// The first record that is there now.
    pub from: u64,
    /// The first that stays.
    pub stays: u64,
    /// How many segments go.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What a policy lets go of, up to record `limit`; `None` when that is nothing. The segment that is being written stays.
///
/// # Errors
/// When the journal cannot be read.
pub fn plan(
    storage: &Arc<dyn Storage>,
    policy: Policy,
    limit: u64,
    now: Timestamp,
) -> Result<Option<Plan>, PruneError> {
    let firsts = segments(&**storage)?;
    let items = storage.list(segment::DIRECTORY)?;
    let size = |first: u64| {
        let name = segment::path(first);
        items.iter().find(|item| name.ends_with(&item.name)).map_or(0, |item| item.bytes)
    };
    let mut left: u64 = firsts.iter().map(|first| size(*first)).sum();
    let mut end = 0;
    for (segment, following) in firsts.iter().zip(firsts.iter().skip(1)) {
        let too_much = policy.bytes.is_some_and(|most| left > most);
        let too_old = match policy.age {
            // No record of a segment is younger than the first of the next one.
            Some(age) => begun(storage, *following)?.is_some_and(|at| now.saturating_since(at) >= age),
            None => false,
        };
        if !too_much && !too_old {
            break;
        }
        left = left.saturating_sub(size(*segment));
        end = *following;
    }
    // A horizon is where a bundle begins, so that an export of what is left is whole.
    let before = end.min(limit) / 256 * 256;
    let goes: Vec<u64> = going(&firsts, before).collect();
    let (Some(from), Some(stays)) = (firsts.first().copied(), firsts.get(goes.len()).copied()) else { return Ok(None) };
    let bytes = goes.iter().map(|first| size(*first)).sum();
    Ok((!goes.is_empty()).then_some(Plan { before, from, stays, segments: goes.len(), bytes }))
}

/// As [`plan`], within the bounds. What stays is looked for when something would go: it may take some reading.
///
/// # Errors
/// When the journal cannot be read.
pub fn plan_within(
    storage: &Arc<dyn Storage>,
    policy: Policy,
    bounds: Bounds,
    now: Timestamp,
) -> Result<(u64, Option<Plan>), PruneError> {
    let limit = cosigned(&**storage)?.min(bounds.archived.unwrap_or(u64::MAX));
    let first = plan(storage, policy, limit, now)?;
    let (Some(_), Some(stays)) = (&first, bounds.stays) else { return Ok((limit, first)) };
    let limit = limit.min(stays(storage)?);
    Ok((limit, plan(storage, policy, limit, now)?))
}

/// The segments of which every record is before the horizon.
fn going(firsts: &[u64], before: u64) -> impl Iterator<Item = u64> {
    firsts.iter().zip(firsts.iter().skip(1)).filter(move |(_, next)| **next <= before).map(|(first, _)| *first)
}

/// The time of the record that a segment begins with.
fn begun(storage: &Arc<dyn Storage>, first: u64) -> Result<Option<Timestamp>, PruneError> {
    match JournalReader::new(storage.clone(), first).next()? {
        Next::Record(record) => Ok(Entry::place(record.bytes).map(|(_, time)| time)),
        Next::CaughtUp { .. } => Ok(None),
        Next::Damaged { place, why } => Err(PruneError::Damaged { place, why }),
    }
}

/// Whether the segment that is being written is old enough to be followed by the next one, so that it can go in time.
pub(super) fn is_due(storage: &Arc<dyn Storage>, policy: Policy, now: Timestamp) -> Result<bool, PruneError> {
    let (Some(age), Some(last)) = (policy.age, segments(&**storage)?.pop()) else { return Ok(false) };
    Ok(begun(storage, last)?.is_some_and(|at| now.saturating_since(at) >= age / TURNS))
}

/// Makes the tiles that stand for records from `from` to `before` durable: they could not be derived again.
pub(super) fn seal(storage: &Arc<dyn Storage>, from: u64, before: u64) -> Result<(), PruneError> {
    let mut reader = JournalReader::new(storage.clone(), from);
    for index in from / 256..before / 256 {
        let tile = TileId { level: 0, index };
        let path = tile.path(TILE_WIDTH);
        let hashes = tiles::read_tile(&**storage, tile, TILE_WIDTH)?.ok_or_else(|| PruneError::Tile(path.clone()))?;
        let known = usize::try_from(from.saturating_sub(index * 256)).unwrap_or(0);
        for hash in hashes.iter().skip(known) {
            match reader.next()? {
                Next::Record(record) if leaf_hash(record.bytes) == *hash => {}
                Next::Record(_) | Next::CaughtUp { .. } => return Err(PruneError::Tile(path)),
                Next::Damaged { place, why } => return Err(PruneError::Damaged { place, why }),
            }
        }
        storage.write_file(&path, &tiles::encode(&hashes), Persist::Now)?;
        let mut directory = path.as_str();
        while let Some((parent, _)) = directory.rsplit_once('/') {
            storage.sync_directory(parent)?;
            directory = parent;
        }
    }
    Ok(storage.sync_directory("")?)
}

/// The record of a plan.
pub(super) fn record(plan: &Plan, policy: Policy, cosigned: u64, archived: Option<u64>) -> Pruned<'static> {
    Pruned { before: plan.before, from: plan.from, cosigned, archived, policy: policy.to_string().into() }
}

/// Notes what the record at `seq`, which is signed for, says: from here on its segments go.
pub(super) fn note(storage: &Arc<dyn Storage>, seq: u64) -> Result<(), PruneError> {
    match JournalReader::new(storage.clone(), seq).next()? {
        Next::Record(record) if record.place.seq == seq => {
            Ok(storage.write_file(PRUNED, record.bytes, Persist::Now)?)
        }
        Next::Record(_) | Next::CaughtUp { .. } => Err(PruneError::NotSigned),
        Next::Damaged { place, why } => Err(PruneError::Damaged { place, why }),
    }
}

/// Deletes the segments before the horizon that the log has noted, the oldest first. A crash in between leaves the rest,
/// which the next call deletes. Says how many went.
pub(super) fn delete(storage: &dyn Storage) -> io::Result<usize> {
    let Some(horizon) = told(storage)? else { return Ok(0) };
    let firsts = segments(storage)?;
    let mut gone = 0;
    for first in going(&firsts, horizon.before) {
        storage.remove(&segment::path(first))?;
        gone += 1;
    }
    Ok(gone)
}

#[cfg(test)]
#[path = "retention/tests.rs"]
mod tests;
