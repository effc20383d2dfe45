//! A copy that lacks records which this log does not have any more: it begins behind them, with their hashes.
//!
//! That they were pruned is the log's own word, under its signature, so whoever keeps the copy need not believe it. Where
//! the log cannot show it, nothing goes on, and what to do is said.

use std::path::Path;

use tokio::sync::mpsc;
use tonic::Streaming;

use super::{CopyParts, Ended, Sent, answer, send};
use crate::evidence::EvidenceLog;
use crate::evidence::copy::MAX_LEAVES;
use crate::evidence::proof;
use crate::evidence::read::first;
use crate::evidence::retention::{self, PRUNED};
use crate::evidence::storage::{DiskStorage, read_file};
use crate::evidence::tiles::{self, TILE_WIDTH, TileId};
use crate::evidence::tree::Hash;
use crate::wire::v1;

/// Longest record of what was pruned.
const MAX_RECORD_BYTES: usize = 4096;
/// Tiles in one message.
const TILES: u64 = (MAX_LEAVES / TILE_WIDTH) as u64;

/// Brings a copy that has what `there` says to where this log begins; says from which record on it goes on.
pub(super) async fn begun(
    parts: &CopyParts,
    up: &mpsc::Sender<v1::KeepMessage>,
    answers: &mut Streaming<v1::Kept>,
    there: &v1::Kept,
) -> Result<u64, Ended> {
    let (log, directory, has) = (parts.log.clone(), parts.evidence_dir.clone(), there.size);
    let Some(begin) = blocking(move || beginning(&log, &directory, has)).await? else { return Ok(has) };
    let begins = begin.first;
    if !there.begins {
        return Err(Ended::Older(begins));
    }
    tracing::warn!(records = begins, has, "this gateway's log was pruned, and its copy is to begin behind what went");
    send(up, Sent::Begin(begin)).await?;
    let (mut at, end) = (0, begins / TILE_WIDTH as u64);
    while at < end {
        let (directory, from, to) = (parts.evidence_dir.clone(), at, end.min(at + TILES));
        let hashes = blocking(move || leaves(&directory, from, to)).await?;
        send(up, Sent::Leaves(v1::KeepLeaves { hashes })).await?;
        let kept = answer(answers).await?;
        at = to;
        if at == end && kept.size != begins {
            return Err(Ended::Log(format!("its copy begins at record {}, not at {begins}", kept.size)));
        }
    }
    Ok(begins)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Ended> + Send + 'static) -> Result<T, Ended> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Ended::Log(error.to_string()))?
}

fn fault(error: impl std::fmt::Display) -> Ended {
    Ended::Log(error.to_string())
}

/// Where a copy that has so many records is to begin; `None` when it goes on where it ended.
fn beginning(log: &EvidenceLog, directory: &Path, has: u64) -> Result<Option<v1::KeepBegin>, Ended> {
    let storage = DiskStorage::read_only(directory);
    let first = first(&storage).map_err(fault)?;
    if first <= has {
        return Ok(None);
    }
    let horizon = retention::told(&storage).map_err(fault)?.filter(|horizon| first <= horizon.before);
    let Some(horizon) = horizon else { return Err(Ended::Lost(first)) };
    let pruned = read_file(&storage, PRUNED, MAX_RECORD_BYTES).map_err(fault)?;
    // A horizon is where a tile ends, so this one is not beyond it.
    let first = first.next_multiple_of(TILE_WIDTH as u64);
    let covers = |size: u64| size > horizon.seq && size >= first;
    let known = log.checkpoint().filter(|(head, _)| covers(head.size));
    let known = known.or_else(|| log.checkpoint_now().filter(|(head, _)| covers(head.size)));
    let Some((head, checkpoint)) = known else {
        return Err(fault("what was pruned is not under a checkpoint here yet"));
    };
    let bytes = |hashes: Vec<Hash>| hashes.iter().flat_map(|hash| hash.0).collect::<Vec<u8>>();
    let consistency = |old: u64| proof::consistency(&storage, old, head.size).map(bytes).map_err(fault);
    Ok(Some(v1::KeepBegin {
        first,
        pruned,
        checkpoint,
        inclusion: proof::inclusion(&storage, horizon.seq, head.size).map(bytes).map_err(fault)?,
        extends: consistency(has)?,
        consistency: consistency(first)?,
    }))
}

/// The hashes in the leaves' tiles from `from` to `to`.
fn leaves(directory: &Path, from: u64, to: u64) -> Result<Vec<u8>, Ended> {
    let storage = DiskStorage::read_only(directory);
    let mut bytes = Vec::new();
    for index in from..to {
        let tile = TileId { level: 0, index };
        let hashes = tiles::read_tile(&storage, tile, TILE_WIDTH).map_err(fault)?;
        let hashes = hashes.ok_or_else(|| fault(format!("{} is missing", tile.path(TILE_WIDTH))))?;
        bytes.extend(tiles::encode(&hashes));
    }
    Ok(bytes)
}
