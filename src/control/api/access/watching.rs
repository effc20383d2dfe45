//! Watching grants: the store's own history, so that a watch can go on after a restart where it ended before.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;

use super::super::super::actor::ControlHandle;
use super::super::super::encode;
use super::super::super::record::{GRANTS, Record};
use super::super::super::store::{Event, KeyRange, StoreError, WatchBatch};
use super::super::super::vault::Vault;
use super::super::ApiError;
use super::super::error::refused;
use crate::control::plan::Refused;
use crate::wire::v1;

type Events = Pin<Box<dyn Stream<Item = Result<v1::GrantEvent, Status>> + Send>>;

/// Changes of grants from a revision on, or from now on for 0. `place` is held as long as the watch lives.
pub(super) async fn watch(
    handle: &ControlHandle,
    from: u64,
    place: OwnedSemaphorePermit,
    mut stop: watch::Receiver<bool>,
) -> Result<Events, Status> {
    let shared = handle.shared().clone();
    let batches = shared.vault.store().watch(KeyRange::prefix(GRANTS), from).await.map_err(stopped)?;
    let events = batches.flat_map(move |batch| {
        let _held = &place;
        let events = match batch {
            Ok(batch) => events(&shared.vault, &batch),
            Err(error) => vec![Err(stopped(error))],
        };
        futures_util::stream::iter(events)
    });
    let stopping = futures_util::stream::once(async { Err(ApiError::stopping().into()) });
    let ended = async move { super::super::super::stopped(&mut stop).await };
    Ok(Box::pin(events.take_until(ended).chain(stopping)))
}

fn events(vault: &Vault, batch: &WatchBatch) -> Vec<Result<v1::GrantEvent, Status>> {
    let mut events = Vec::new();
    for event in &batch.events {
        let Event::Put { kv, .. } = event else { continue };
        match vault.record(kv) {
            Ok(Record::Grant(record)) => {
                let name = if record.grant.revoked.is_some() {
                    "revoked"
                } else if record.expiry_noted {
                    "expired"
                } else {
                    "created"
                };
                let grant = Some(encode::grant(&record.grant, kv.mod_revision));
                events.push(Ok(v1::GrantEvent { revision: batch.revision, event: name.to_owned(), grant }));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "a grant cannot be read");
                events.push(Err(refused(Refused::Unavailable)));
            }
        }
    }
    events
}

fn stopped(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { oldest } => ApiError::compacted(oldest).into(),
        StoreError::FutureRevision { current } => {
            ApiError::invalid(format!("from_revision: the store is at {current}")).into()
        }
        other => {
            tracing::error!(error = %other.detail(), "a watch ended");
            refused(Refused::Unavailable)
        }
    }
}
