//! The control plane's evidence: its outbox's events, as records of a log.
//!
//! The link between the two: it turns told changes into entries and reads from the log's end how far it has come.
//! Whether and when that happens is the outbox's business.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;

use crate::app::AppError;
use crate::control::outbox::{Reached, Sink, SinkError, Told};
use crate::domain::Clock;
use crate::evidence::EvidenceLog;
use crate::evidence::archive::Keeper;
use crate::evidence::changes::last_change;
use crate::evidence::checkpoint::{EvidenceKey, Origin};
use crate::evidence::entry::{Change, Event};
use crate::evidence::journal::{Durability, JournalOptions, Writer};
use crate::evidence::retention::stays_of_changes;
use crate::evidence::storage::{DiskStorage, Storage};
use crate::settings::{self, ControlSettings, EvidenceSettings};

/// The log of a control plane.
#[derive(Debug)]
pub(crate) struct ControlLog {
    log: Arc<EvidenceLog>,
    keeper: Option<Arc<Keeper>>,
    /// Read-only: for how far the log has come.
    storage: Arc<dyn Storage>,
}

impl ControlLog {
    /// Opens the log that the settings name, or creates it.
    pub(crate) fn open(settings: &ControlSettings, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let fail = |why: String| AppError::Part { part: "the control plane's evidence", why };
        let key =
            EvidenceKey::load_or_create(&settings.state_dir.join("evidence.key")).map_err(|e| fail(e.to_string()))?;
        let number = crate::gateway::incarnation::number(&settings.state_dir).map_err(|e| fail(e.to_string()))?;
        let name = format!("portcullis/control/{}", settings.trust_domain);
        let name = if number > 1 { format!("{name}/{number}") } else { name };
        let origin: Origin = name.parse().map_err(|e| fail(format!("{e}")))?;
        let (log, recovered) = EvidenceLog::open(
            &settings.evidence.dir,
            origin,
            key,
            &writer(),
            options(&settings.evidence),
            clock.clone(),
        )
        .map_err(|e| fail(e.to_string()))?;
        tracing::debug!(?recovered, "the control plane's evidence is open");
        let log = Arc::new(log);
        let keeper = crate::archive::keep(&log, &settings.evidence, Some(stays_of_changes), clock)
            .map_err(|e| fail(e.to_string()))?;
        Ok(Self {
            log,
            keeper: keeper.map(Arc::new),
            storage: Arc::new(DiskStorage::read_only(&settings.evidence.dir)),
        })
    }

    /// The log itself.
    pub(crate) const fn evidence(&self) -> &Arc<EvidenceLog> {
        &self.log
    }

    /// Its directory, to be read.
    pub(crate) const fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Takes everything under a last checkpoint.
    pub(crate) async fn close(&self) {
        let (log, keeper) = (self.log.clone(), self.keeper.clone());
        let close = move || {
            if let Some(keeper) = keeper {
                log.checkpoint_now();
                keeper.stop();
            }
            log.shutdown();
        };
        if tokio::task::spawn_blocking(close).await.is_err() {
            tracing::error!("the control plane's evidence could not be closed");
        }
    }
}

/// This program, on this boot of the machine.
fn writer() -> Writer {
    // Without it (no /proc) two boots cannot be told apart in the log, and nothing else is lost.
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Writer { program: concat!("portcullis ", env!("CARGO_PKG_VERSION")).to_owned(), boot_id: boot_id.trim().to_owned() }
}

fn options(settings: &EvidenceSettings) -> JournalOptions {
    let durability = match settings.durability {
        // The settings refuse what is for gateways.
        settings::Durability::Disk | settings::Durability::Remote => Durability::Disk,
        settings::Durability::Process => Durability::Process,
    };
    JournalOptions { durability, segment_bytes: settings.segment_bytes, ..JournalOptions::default() }
}

#[async_trait]
impl Sink for ControlLog {
    async fn reached(&self) -> Result<Reached, SinkError> {
        let (journal, storage) = (self.log.journal().clone(), self.storage.clone());
        let reached = move || {
            // INVARIANT: nothing is taken for told that a crash may still undo. Frames of a write that failed can be
            // read until the journal goes on elsewhere, so a broken journal tells nothing; and what an append left
            // queued when it failed half-way is written first, or it would be told twice.
            if let Some(error) = journal.status().broken {
                return Err(sink_error(error));
            }
            journal.flush().map_err(sink_error)?;
            reached(&storage, journal.durable_seq())
        };
        tokio::task::spawn_blocking(reached).await.map_err(sink_error)?
    }

    async fn append(&self, told: &[Told]) -> Result<(), SinkError> {
        let journal = self.log.journal().clone();
        let changes: Vec<Event<'static>> = told.iter().map(|told| Event::Change(Box::new(change(told)))).collect();
        let appended = tokio::task::spawn_blocking(move || {
            let mut last = None;
            for change in &changes {
                last = Some(journal.append(change)?);
            }
            last.map_or(Ok(()), |ticket| journal.durable_blocking(ticket))
        });
        appended.await.map_err(sink_error)?.map_err(sink_error)
    }
}

fn sink_error(error: impl std::fmt::Display) -> SinkError {
    SinkError(error.to_string())
}

/// The last revision in the log's first `durable` records and how many of its events are there.
fn reached(storage: &Arc<dyn Storage>, durable: u64) -> Result<Reached, SinkError> {
    let last = last_change(storage, durable).map_err(sink_error)?;
    Ok(last.map_or_else(Reached::default, |last| Reached { revision: last.revision, events: last.events }))
}

/// A change as a record tells it.
pub(super) fn change(told: &Told) -> Change<'static> {
    let (kind, object) = told.event.object.split_once('/').unwrap_or(("", &told.event.object));
    Change {
        revision: told.revision,
        // As the store's event names it: whoever it is, they are not to be taken for another.
        actor: told.actor.clone().into(),
        operation: told.event.operation.clone().into(),
        object_kind: kind.to_owned().into(),
        object: object.to_owned().into(),
        before_digest: told.event.before.clone().map(Cow::Owned),
        after: told.event.after.clone().map(Cow::Owned),
        reason: told.event.reason.clone().map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests;
