//! From the outbox to the evidence: every change, once, in revision order.
//!
//! The store's transaction is the truth; the log is derived from it. What was derived already is read from the log's own
//! tail, so that a crash at any point leaves neither a gap nor a double. Knows neither what the events mean nor how a log
//! is kept.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::actor::Shared;
use super::plan::ChangeEvent;
use super::record::{OUTBOX, RecordError};
use super::store::{KeyRange, KeyValue, Op, Txn};
use super::vault::{OutboxRecord, Vault, VaultError};
use crate::domain::Timestamp;

/// Keys read and deleted at once: within a transaction's 128 operations, and more than the commands that can share one
/// revision, so that a revision is always taken whole.
const BATCH: usize = 120;
/// How long to wait before trying again what failed.
const RETRY: Duration = Duration::from_secs(1);

/// A change as the evidence is to tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The store's revision that holds it.
    pub revision: u64,
    /// When it was committed.
    pub at: Timestamp,
    /// Who did it.
    pub actor: String,
    /// What.
    pub event: ChangeEvent,
}

/// How far a log has come: the last revision in it, and how many of that revision's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The revision; 0 for an empty log.
    pub revision: u64,
    /// Its events that are in the log.
    pub events: usize,
}

/// Why the log did not take it. For the log of the process; nobody else hears of it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SinkError(pub String);

/// The log.
#[async_trait]
pub trait Sink: Send + Sync + std::fmt::Debug {
    /// How far it has come, read from what is durable.
    async fn reached(&self) -> Result<Reached, SinkError>;

    /// Appends, in order. `Ok` when all of it is durable; after an error any first part of it may be.
    async fn append(&self, told: &[Told]) -> Result<(), SinkError>;
}

#[derive(Debug, thiserror::Error)]
enum DrainError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("the evidence: {0}")]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Restored(#[from] Restored),
}

/// The log tells of revisions that the store has yet to reach: the store is an old copy, and what it commits next would
/// be taken for told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the evidence tells of revision {reached} and the store has come to {current}: the store was put back from a backup. \
     Put the newer one back, or declare it: `portcullis control restored`"
)]
pub struct Restored {
    /// Of the log.
    pub reached: u64,
    /// Of the store.
    pub current: u64,
}

impl Reached {
    /// A log is never ahead of the store that it is derived from.
    ///
    /// # Errors
    /// When it is.
    pub fn check(self, current: u64) -> Result<(), Restored> {
        if self.revision > current { Err(Restored { reached: self.revision, current }) } else { Ok(()) }
    }
}

/// Drains until told to stop, and once more then.
pub(super) async fn run(shared: Arc<Shared>, sink: Arc<dyn Sink>, mut stop: watch::Receiver<bool>) {
    let mut committed = shared.outbox.subscribe();
    let mut reached = None;
    loop {
        committed.mark_unchanged();
        let drained = drain(&shared, sink.as_ref(), &mut reached).await;
        if let Err(error) = &drained {
            // Nobody knows what of the last page is there: the log itself does.
            reached = None;
            tracing::error!(%error, "events are not in the evidence yet");
        }
        if *stop.borrow() {
            return;
        }
        let again = async {
            if drained.is_err() {
                tokio::time::sleep(RETRY).await;
            } else {
                drop(committed.changed().await);
            }
        };
        tokio::select! {
            () = again => {}
            () = super::stopped(&mut stop) => {}
        }
    }
}

/// Takes all that is in the outbox to the log. `reached` is how far that has come, `None` while only the log knows:
/// reading it is reading all of a segment.
async fn drain(shared: &Shared, sink: &dyn Sink, reached: &mut Option<Reached>) -> Result<(), DrainError> {
    loop {
        let page =
            shared.vault.store().range(KeyRange::prefix(OUTBOX), Some(BATCH), None).await.map_err(VaultError::from)?;
        shared.metrics.backlog.set(count(page.kvs.len()));
        let mut kvs = page.kvs;
        // Keys grow with revisions, so this is their order already; it is what the order is about, though.
        kvs.sort_by(|a, b| (a.create_revision, &a.key).cmp(&(b.create_revision, &b.key)));
        if page.more {
            // The last revision may go on past the page.
            let last = kvs.last().map_or(0, |kv| kv.create_revision);
            kvs.retain(|kv| kv.create_revision != last);
        }
        if kvs.is_empty() {
            // All that was committed up to here was taken.
            shared.told.send_replace(page.revision);
            return Ok(());
        }
        let before = match *reached {
            Some(reached) => reached,
            None => sink.reached().await?,
        };
        before.check(shared.vault.store().current_revision().await.map_err(VaultError::from)?)?;
        let (told, after) = untold(shared, &kvs, before)?;
        sink.append(&told).await?;
        // A crash here leaves the events in both: the next drain finds them in the log's tail and only deletes.
        *reached = Some(after);
        shared.told.send_replace(after.revision);
        let delete = kvs.iter().fold(Txn::new(), |txn, kv| txn.then(Op::delete(KeyRange::key(&kv.key))));
        shared.vault.store().txn(delete).await.map_err(VaultError::from)?;
        if !page.more {
            shared.metrics.backlog.set(0.0);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a page is 120 at most")]
fn count(keys: usize) -> f64 {
    keys as f64
}

/// What waits under a key of the outbox.
pub(super) fn record(vault: &Vault, kv: &KeyValue) -> Result<OutboxRecord, VaultError> {
    let (key, value) = vault.open(kv)?;
    Ok(serde_json::from_slice(&value).map_err(|source| RecordError::Unreadable { key, source })?)
}

/// The events of `kvs` that are not in the log, and how far it comes with them.
fn untold(shared: &Shared, kvs: &[KeyValue], mut reached: Reached) -> Result<(Vec<Told>, Reached), VaultError> {
    let mut told = Vec::new();
    let mut at = Reached::default();
    for kv in kvs {
        let record = record(&shared.vault, kv)?;
        if at.revision != kv.create_revision {
            at = Reached { revision: kv.create_revision, events: 0 };
        }
        for event in record.events {
            at.events += 1;
            if (at.revision, at.events) > (reached.revision, reached.events) {
                reached = at;
                let (revision, actor) = (kv.create_revision, record.actor.clone());
                told.push(Told { revision, at: record.at, actor, event });
            }
        }
    }
    Ok((told, reached))
}

#[cfg(test)]
mod tests;
