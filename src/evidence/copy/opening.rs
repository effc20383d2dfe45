//! Opening a copy: what the last writer left, also one that was killed.
//!
//! What was not said to be kept may be torn and is dropped; what was signed or said to be kept and cannot be read is damage,
//! and nobody writes behind it.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::begun::Begun;
use super::segments::Segments;
use super::{CopyError, LogCopy, MAX_UNSIGNED};
use crate::evidence::checkpoint::VerifierKey;
use crate::evidence::journal::{recovery, segment};
use crate::evidence::key::{LogFileError, read_log_file, write_log_file};
use crate::evidence::read::{End, JournalReader, Next, first, segments};
use crate::evidence::sequencer::{
    CHECKPOINT, SIGNED, SequencerError, before_the_first, last_signed, read_note, refuse_rollback,
};
use crate::evidence::storage::{DiskStorage, Storage};
use crate::evidence::tiles::{self, Edge};
use crate::evidence::tree::{Hash, TreeHead, leaf_hash};

pub(super) fn open(directory: &Path, key: VerifierKey, beside: u64, limit: u64) -> Result<LogCopy, CopyError> {
    let storage = DiskStorage::open(directory).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => CopyError::Busy,
        _ => error.into(),
    })?;
    open_in(Arc::new(storage), key, beside, limit)
}

pub(super) fn open_in(
    storage: Arc<dyn Storage>,
    key: VerifierKey,
    beside: u64,
    limit: u64,
) -> Result<LogCopy, CopyError> {
    match read_log_file(&*storage) {
        Ok(found) if found == key => {}
        Ok(found) => return Err(CopyError::OtherKey { found: found.to_string(), expected: key.to_string() }),
        Err(LogFileError::Disk(error)) if error.kind() == io::ErrorKind::NotFound => write_log_file(&*storage, &key)?,
        Err(error) => return Err(error.into()),
    }
    recovery::remove_unfinished(&*storage)?;
    refuse_rollback(&storage, &key)?;
    let head = last_signed(&*storage, &key)?.map(|(head, _)| head);
    let begun = Begun::read(&*storage)?;
    let signed = match head {
        Some(head) => tree(&storage, head, begun.as_ref())?,
        None => beginning(&*storage, begun.as_ref())?,
    };
    let mut promised = begun.map_or_else(|| Ok(Vec::new()), |begun| begun.promised())?;
    promised.retain(|promised| promised.size > signed.size());
    let (tail, incarnation) = behind(&storage, signed.size())?;
    if let Some(last) = segments(&*storage)?.pop() {
        // A writer that was killed may have left its last batch in memory alone, and what comes now stands behind it.
        storage.sync_file(&segment::path(last))?;
    }
    let used = beside + bytes(&*storage, "")?;
    let notes = [CHECKPOINT, SIGNED].map(|path| read_note(&*storage, path));
    let notes = notes.into_iter().map(|note| Ok(note?.map_or(0, |note| note.len() as u64))).sum::<io::Result<u64>>()?;
    let synced = signed.size() + tail.len() as u64;
    let segments = Segments { origin: key.name().to_string(), incarnation: incarnation + 1, current: None, synced };
    let partial = signed.partial().map(|(tile, hashes)| (tile, hashes.len())).collect();
    Ok(LogCopy {
        storage,
        key,
        segments,
        signed,
        tail,
        most_unsigned: MAX_UNSIGNED,
        promised,
        noted: head,
        notes,
        beside,
        used,
        limit,
        partial: [partial, Vec::new()],
    })
}

/// Bytes of everything that a copy has below one of its directories: records, hashes and what is beside them.
pub(super) fn bytes(storage: &dyn Storage, below: &str) -> io::Result<u64> {
    let (mut sum, mut directories) = (0u64, vec![below.to_owned()]);
    while let Some(directory) = directories.pop() {
        for item in storage.list(&directory)? {
            if item.directory {
                let path = if directory.is_empty() { item.name } else { format!("{directory}/{}", item.name) };
                directories.push(path);
            } else {
                sum = sum.saturating_add(item.bytes);
            }
        }
    }
    Ok(sum)
}

pub(super) fn bytes_beside(directory: &Path, name: &str) -> io::Result<u64> {
    let beside = DiskStorage::read_only(directory).list("")?;
    let others = beside.iter().filter(|item| item.directory && item.name != name);
    others.map(|item| bytes(&DiskStorage::read_only(&directory.join(&item.name)), "")).sum()
}

/// The tree of what was signed: from its tiles, or from the records again where a loss of power took some.
fn tree(storage: &Arc<dyn Storage>, head: TreeHead, begun: Option<&Begun>) -> Result<Edge, CopyError> {
    if let Some(edge) = Edge::load(&**storage, head.size)?.filter(|edge| edge.root() == head.root) {
        return Ok(edge);
    }
    let mut edge = beginning(&**storage, begun)?;
    let mut reader = JournalReader::new(storage.clone(), edge.size());
    while edge.size() < head.size {
        match reader.next()? {
            Next::Record(record) => {
                edge.append(record.bytes, |tile, hashes| tiles::write_tile(&**storage, tile, hashes))?;
            }
            Next::CaughtUp { .. } => {
                return Err(SequencerError::Rollback { records: edge.size(), signed: head.size }.into());
            }
            Next::Damaged { place, why } => return Err(CopyError::Damaged { place, why }),
        }
    }
    if edge.root() != head.root {
        return Err(SequencerError::Fork { size: head.size }.into());
    }
    for (tile, hashes) in edge.partial() {
        tiles::write_tile(&**storage, tile, hashes)?;
    }
    Ok(edge)
}

/// The tree of what was pruned, from its last tiles, or from all leaves again where those are not there.
fn beginning(storage: &dyn Storage, begun: Option<&Begun>) -> Result<Edge, CopyError> {
    let known = begun.and_then(Begun::first);
    if let Some(known) = known
        && known.size == first(storage)?
        && let Some(edge) = Edge::load(storage, known.size)?.filter(|edge| edge.root() == known.root)
    {
        return Ok(edge);
    }
    Ok(before_the_first(storage)?)
}

/// Leaves of the records from `from` on, and the incarnation of the last segment. What is torn at the end is cut off.
fn behind(storage: &Arc<dyn Storage>, from: u64) -> Result<(VecDeque<Hash>, u64), CopyError> {
    let mut reader = JournalReader::new(storage.clone(), from);
    let mut tail = VecDeque::new();
    let damage = loop {
        match reader.next()? {
            Next::Record(record) => tail.push_back(leaf_hash(record.bytes)),
            Next::CaughtUp { .. } => break None,
            Next::Damaged { place, why } => break Some((place, why)),
        }
    };
    let incarnation = reader.header().map_or(0, |header| header.incarnation);
    match reader.end_for_writer(damage)? {
        End::Bare => {}
        // It was never said to be kept. A crash here leaves it, or not; the next opening does the same.
        End::Torn { path, offset, .. } => storage.truncate(&path, offset)?,
        End::Damaged { place, why } => return Err(CopyError::Damaged { place, why }),
    }
    Ok((tail, incarnation))
}
