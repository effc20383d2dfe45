//! The gateway's log as the stream shows it: a checkpoint, proven to extend the last one that was cosigned.
//!
//! One checkpoint is under way at a time: what is shown next is proven from what the control plane is known to have.

use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::evidence::EvidenceLog;
use crate::wire::v1;

/// A checkpoint on its way.
#[derive(Clone, Debug)]
struct Shown {
    size: u64,
    note: String,
    from: u64,
    consistency: Vec<Vec<u8>>,
}

/// What is shown of the log on one stream.
#[derive(Debug)]
pub(super) struct LogShown {
    log: Arc<EvidenceLog>,
    /// Records under the last cosigned checkpoint; `None` before the control plane said so.
    cosigned: Option<u64>,
    under_way: Option<Shown>,
    /// Reads the log for the next one: disks are slow at times, and the stream does not wait for them.
    reading: Option<JoinHandle<Option<Shown>>>,
    /// Writes the last cosigned one, after the ones before it.
    keeping: Option<JoinHandle<()>>,
}

impl LogShown {
    pub(super) fn new(log: Arc<EvidenceLog>) -> Self {
        Self { log, cosigned: None, under_way: None, reading: None, keeping: None }
    }

    /// The control plane says how much it cosigned.
    pub(super) fn welcome(&mut self, cosigned: u64) {
        self.cosigned = Some(cosigned);
        self.under_way = None;
        self.reading = None;
    }

    /// Puts the checkpoint and its proof into a renewal, and tells how many records it covers. `None` when there is
    /// nothing to show yet: [`Self::read`] tells when to ask again.
    pub(super) fn show(&mut self, renew: &mut v1::Renew) -> Option<u64> {
        let from = self.cosigned?;
        let Some(shown) = &self.under_way else {
            let log = self.log.clone();
            self.reading.get_or_insert_with(|| tokio::task::spawn_blocking(move || shown(&log, from)));
            return None;
        };
        renew.checkpoint.clone_from(&shown.note);
        renew.proven_from = shown.from;
        renew.consistency.clone_from(&shown.consistency);
        Some(shown.size)
    }

    /// Waits until there is something to show: forever, unless something was missing.
    pub(super) async fn read(&mut self) {
        loop {
            let Some(reading) = &mut self.reading else { return std::future::pending().await };
            let looked = reading.await;
            self.reading = None;
            if let Ok(Some(shown)) = looked {
                self.under_way = Some(shown);
                return;
            }
        }
    }

    /// A renewal with a checkpoint over `size` records was answered with this cosignature.
    pub(super) fn cosigned(&mut self, size: u64, line: &str) {
        let Some(shown) = self.under_way.take_if(|shown| shown.size == size) else { return };
        if line.is_empty() {
            return;
        }
        self.cosigned = Some(size);
        let (log, note, before) = (self.log.clone(), shown.note + line, self.keeping.take());
        // Kept for who verifies the log; the control plane has it, and the next one replaces it.
        self.keeping = Some(tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            match tokio::task::spawn_blocking(move || log.keep_cosigned(&note)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "a cosigned checkpoint could not be kept"),
                Err(error) => tracing::warn!(%error, "a cosigned checkpoint could not be kept"),
            }
        }));
    }
}

/// The latest checkpoint, and that it grew from `from` records.
fn shown(log: &EvidenceLog, from: u64) -> Option<Shown> {
    let (head, note) = log.checkpoint()?;
    let consistency = match log.consistency(from, head.size) {
        Ok(proof) => proof.into_iter().map(|hash| hash.0.to_vec()).collect(),
        Err(crate::evidence::proof::ProofError::Shorter { old, new }) => {
            // Shown as it is: the control plane takes note of it, and gives no authority over it.
            tracing::error!(
                cosigned = old,
                records = new,
                "this gateway's log is shorter than it was: stop it and run `portcullis gateway seal`"
            );
            Vec::new()
        }
        Err(error) => {
            tracing::warn!(%error, "the log cannot be shown to the control plane: no renewal until it can");
            return None;
        }
    };
    Some(Shown { size: head.size, note, from, consistency })
}
