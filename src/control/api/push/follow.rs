//! What goes down a stream: a whole picture first, or what a gateway missed, and then what changes.
//!
//! A gateway that stands before everything is sent the ring's deltas as they are. One of a narrower scope is sent its part
//! of each: it hears of every revision, so that what it acknowledges means the same as another's word, and of nothing else.

use super::super::super::encode;
use super::super::super::ring::{self, Head, Next};
use super::super::super::scoped::{self, Step, View};
use super::{Down, Ended, Session};
use crate::wire::v1;

/// What a stream has sent.
pub(super) struct Sent {
    /// All that concerns the gateway up to this revision.
    pub(super) cursor: u64,
    /// Of which part of the picture; `None`: of all.
    view: Option<View>,
}

impl Session {
    /// Where to go on from: the gateway's own revision if the changes since are at hand and it has stood before everything
    /// since, otherwise a snapshot's. What a narrower gateway holds nobody remembers: it is always sent its part.
    pub(super) async fn resume(&self, holds: u64) -> Result<Sent, Ended> {
        let model = self.shared.model.load_full();
        let record = model.gateways.get(&self.name);
        let is_whole = record.is_some_and(|kept| kept.value.scope.is_everything() && kept.revision <= holds);
        if holds > 0 && is_whole && self.shared.ring.after(holds) != Next::Behind {
            self.shared.fleet.told(&self.name, self.id, holds, None);
            return Ok(Sent { cursor: holds, view: None });
        }
        self.snapshot(if holds == 0 { "new" } else { "away" }).await
    }

    async fn snapshot(&self, cause: &str) -> Result<Sent, Ended> {
        self.shared.metrics.resyncs.with_label_values(&[cause]).inc();
        let model = self.shared.model.load_full();
        let head = Head { epoch: model.epoch, revision: model.revision };
        let view = scoped::scope_of(&model, &self.name).map(|scope| View::of(model.clone(), scope));
        // Written down before it is sent: nobody is taken for unconcerned who may hold it.
        self.shared.fleet.told(&self.name, self.id, head.revision, view.as_ref().map(|view| view.resources().clone()));
        let tokens = model.tokens.values().map(|kept| encode::token(&kept.value)).collect();
        let parts: Box<dyn Iterator<Item = v1::SnapshotPart> + Send> = match &view {
            Some(view) => Box::new(ring::parts(head, view.catalog(), view.grants(), tokens)),
            None => {
                let grants = model.grants.values().map(|kept| encode::grant(&kept.value, kept.revision));
                Box::new(ring::parts(head, encode::gateway_catalog(&model), grants, tokens))
            }
        };
        for part in parts {
            self.send(Down::Snapshot(part)).await?;
        }
        Ok(Sent { cursor: head.revision, view })
    }

    /// Sends all that is after what was sent, in as few deltas as may be.
    pub(super) async fn catch_up(&self, mut sent: Sent) -> Result<Sent, Ended> {
        loop {
            let model = self.shared.model.load_full();
            if scoped::scope_of(&model, &self.name) != sent.view.as_ref().map(View::scope) {
                sent = self.snapshot("scope").await?;
                continue;
            }
            let Some(view) = &mut sent.view else {
                let epoch = self.shared.ring.head().epoch;
                match self.shared.ring.after(sent.cursor) {
                    Next::Current => return Ok(sent),
                    Next::Changes { revision, changes } => {
                        self.send(Down::Delta(v1::Delta { epoch, revision, changes })).await?;
                        sent.cursor = revision;
                    }
                    Next::Behind => sent = self.snapshot("slow").await?,
                }
                continue;
            };
            let (epoch, revision) = (model.epoch, model.revision);
            if (epoch, revision) == (view.model().epoch, sent.cursor) {
                return Ok(sent);
            }
            match view.step(model, self.shared.clock.now()) {
                Step::Delta(changes) => {
                    self.send(Down::Delta(v1::Delta { epoch, revision, changes })).await?;
                    sent.cursor = revision;
                }
                Step::Afresh => sent = self.snapshot("scope").await?,
            }
        }
    }
}
