//! The answer to a renewal: who may have authority now, over which log.

use std::time::Duration;

use tokio::sync::watch;

use super::super::super::logs::{self, LogFault, Seen};
use super::super::super::plan::Refused;
use super::super::super::uses::{Allotted, Claim};
use super::super::ApiError;
use super::{Down, Ended, MAX_LAG, Session, Shown, claim, hello, in_good_standing};
use crate::evidence::checkpoint::Checkpoint;
use crate::wire::v1;

/// When to try again what the store did not take.
const STORE_AGAIN: Duration = Duration::from_millis(400);

/// A renewal that may be answered, once what it shows is stored.
pub(super) struct Asked {
    nonce: Vec<u8>,
    /// What is cosigned.
    checkpoint: Option<Checkpoint>,
    /// From which size it was proven; `None`: it is stored already.
    proven_from: Option<u64>,
    /// Uses of counted grants that it gives back and wants.
    claim: Claim,
    /// What it is given of them.
    allotted: Vec<Allotted>,
}

impl Session {
    /// Looks at a renewal: `None` is not answered. A gateway that lags, or whose checkpoint waits for an earlier answer,
    /// asks again. One that may have no authority, or whose log is not what it was, is told so and its stream ends.
    pub(super) async fn look(&self, renew: &v1::Renew, cursor: u64, began: Duration) -> Result<Option<Asked>, Ended> {
        if let Err(denied) = in_good_standing(&self.shared, &self.name) {
            return Err(self.end(denied));
        }
        if self.lags(renew, cursor, began) {
            self.count("withheld");
            tracing::warn!(gateway = %self.name, cursor, "a gateway lags: its renewal is not answered");
            return Ok(None);
        }
        let Ok(claim) = claim::read(renew) else {
            return Err(self.end(ApiError::invalid("a renewal claims uses of what is no grant or allotment")));
        };
        let nonce = renew.nonce.clone();
        let asked =
            |checkpoint, proven_from| Ok(Some(Asked { nonce, checkpoint, proven_from, claim, allotted: Vec::new() }));
        match self.log().and_then(|log| logs::look(&log, renew)) {
            Ok(Seen::Nothing) => asked(None, None),
            Ok(Seen::Same(checkpoint)) => asked(Some(checkpoint), None),
            Ok(Seen::Extends(checkpoint)) => asked(Some(checkpoint), Some(renew.proven_from)),
            Ok(Seen::Stale(cosigned_size)) => {
                // Another stream of the gateway's was answered meanwhile: it is told anew from where to prove.
                self.count("stale");
                let welcome = hello::welcome(&self.shared.model.load(), cosigned_size, &self.challenge);
                self.send(Down::Welcome(welcome)).await?;
                Ok(None)
            }
            Err(fault) => {
                self.count("refused");
                super::alarm(&self.handle, &self.name, &fault, Shown::EvidenceKey).await;
                Err(self.end(ApiError::log(&fault)))
            }
        }
    }

    /// Stores what is about to be said: a store that does not take it is tried again until a newer renewal came, so that a
    /// gateway need not ask again when it does. `None` when it is not stored: not said, not known.
    pub(super) async fn stored(&self, asked: Asked, newer: watch::Receiver<Option<v1::Renew>>) -> Option<Asked> {
        let claim = (!asked.claim.is_empty(&self.handle.model(), &self.name))
            .then(|| (self.shared.fleet.connected(), asked.claim.clone()));
        let cosign = asked.proven_from.zip(asked.checkpoint.clone());
        if cosign.is_none() && claim.is_none() {
            return Some(asked);
        }
        let mut is_first = true;
        loop {
            let error = match self.handle.answer(self.name.clone(), cosign.clone(), claim.clone()).await {
                Ok(done) => return Some(Asked { allotted: done.answer, ..asked }),
                Err(error) => error,
            };
            if std::mem::take(&mut is_first) {
                tracing::error!(gateway = %self.name, %error, "an answer is not stored: the renewal is not answered");
                self.count("unstored");
            }
            if error != Refused::Unavailable {
                return None;
            }
            tokio::time::sleep(STORE_AGAIN).await;
            if newer.has_changed().unwrap_or(true) {
                return None;
            }
        }
    }

    /// Answers a renewal, `cursor` being what was sent before.
    pub(super) async fn answer(&self, asked: Asked, cursor: u64) -> Result<(), Ended> {
        let shared = &self.shared;
        // Again: to store took a while, and an expulsion is answered as soon as it is stored.
        if let Err(denied) = in_good_standing(shared, &self.name) {
            return Err(self.end(denied));
        }
        let cosignature = asked.checkpoint.as_ref().map(|checkpoint| self.cosign(checkpoint)).transpose()?;
        // Written down before it is sent: a stop-by time must never be too early.
        if !shared.fleet.answered(&self.name, self.id) {
            return Err(Ended);
        }
        self.count("answered");
        let model = shared.model.load();
        let (committed, policy_in_force) = (model.committed, model.policy.is_some());
        drop(model);
        let authority = v1::Authority {
            nonce: asked.nonce,
            epoch: shared.ring.head().epoch,
            revision: cursor,
            time_unix_us: shared.clock.now().unix_micros(),
            cosignature: cosignature.unwrap_or_default(),
            allotments: asked.allotted.iter().map(claim::answer).collect(),
            gateway: self.name.to_string(),
            committed,
            policy_in_force,
            trust: self.trust.told(),
        };
        let signed = self.authority.sign(&authority).map_err(|error| self.broken(&error))?;
        self.send(Down::Authority(signed)).await
    }

    /// Whether it has known of a revision for too long without enforcing it.
    fn lags(&self, renew: &v1::Renew, cursor: u64, began: Duration) -> bool {
        let shared = &self.shared;
        let told = if renew.epoch == shared.ring.head().epoch { renew.applied_revision } else { 0 };
        let applied = told.max(shared.fleet.applied_by(&self.name));
        // What is no longer in the ring was published long ago, or before this session began.
        let since = || shared.ring.published_after(applied).map_or(began, |at| at.max(began));
        shared.fleet.lag(&self.name, self.id, cursor, (applied < cursor).then(since)) > MAX_LAG
    }

    fn log(&self) -> Result<std::sync::Arc<super::LogRecord>, LogFault> {
        let model = self.shared.model.load();
        let log = model.logs.get(&self.name).map(|kept| kept.value.clone());
        // Readmitted meanwhile, the gateway has to come anew.
        log.filter(|log| log.key == self.key.to_string()).ok_or_else(|| LogFault::Key(self.name.clone()))
    }

    fn cosign(&self, checkpoint: &Checkpoint) -> Result<String, Ended> {
        self.authority.cosign(checkpoint, self.shared.clock.now()).map_err(|error| self.broken(&error))
    }

    fn broken(&self, error: &crate::evidence::checkpoint::NoteError) -> Ended {
        tracing::error!(%error, "the authority key does not sign");
        self.end(ApiError::stopping())
    }

    fn end(&self, why: ApiError) -> Ended {
        // One that does not read hears nothing either way.
        let _ = self.sender.try_send(Err(why.into()));
        Ended
    }

    fn count(&self, result: &str) {
        self.shared.metrics.renewals.with_label_values(&[result]).inc();
    }
}
