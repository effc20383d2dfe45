//! What goes down a stream: a whole picture first, or what a gateway missed, and then what changes.
//!
//! A gateway that stands before everything is sent the ring's deltas as they are. One of a narrower scope is sent its part
//! of each: it hears of every revision, so that what it acknowledges means the same as another's word, and of nothing else.
//! Revisions that concern it in nothing it hears of now and then: with many gateways they are most of what there is to say.

use std::time::Duration;

use super::super::super::encode;
use super::super::super::ring::{self, Head, Next};
use super::super::super::scoped::{self, Step, View};
use super::{Down, Ended, Session};
use crate::wire::v1;

/// How often a gateway is told of a revision that concerns it in nothing.
pub(in super::super) const QUIET: Duration = Duration::from_millis(100);

/// What a stream has sent.
pub(super) struct Sent {
    /// All that concerns the gateway up to this revision, and that it did.
    pub(super) cursor: u64,
    /// Of which part of the picture; `None`: of all.
    view: Option<View>,
    /// When it was last told of a revision that concerns it in nothing, since boot.
    told_nothing: Option<Duration>,
    /// Whether there is one that it was not told of.
    has_untold: bool,
}

impl Sent {
    const fn new(cursor: u64, view: Option<View>) -> Self {
        Self { cursor, view, told_nothing: None, has_untold: false }
    }

    /// How long what concerns it in nothing is not worth a word.
    fn quiet_for(&self, now: Duration) -> Duration {
        self.told_nothing.map_or(Duration::ZERO, |at| at.saturating_add(QUIET).saturating_sub(now))
    }
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
            return Ok(Sent::new(holds, None));
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
        Ok(Sent::new(head.revision, view))
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
            if (epoch, revision) == (view.model().epoch, view.model().revision) {
                return Ok(sent);
            }
            match view.step(model, self.shared.clock.now()) {
                Step::Delta(changes) if changes.is_empty() => {
                    sent.has_untold = true;
                    if sent.quiet_for(self.shared.clock.since_boot()).is_zero() {
                        self.tell_nothing(&mut sent).await?;
                    }
                }
                Step::Delta(changes) => {
                    self.send(Down::Delta(v1::Delta { epoch, revision, changes })).await?;
                    sent.cursor = revision;
                    sent.has_untold = false;
                }
                Step::Afresh => sent = self.snapshot("scope").await?,
            }
        }
    }
    /// Until the gateway is to be told of revisions that concern it in nothing; without any, without end.
    pub(super) async fn quiet_over(&self, sent: &Sent) {
        if !sent.has_untold {
            return std::future::pending().await;
        }
        tokio::time::sleep(sent.quiet_for(self.shared.clock.since_boot())).await;
    }

    /// Tells of the revision that it has come to, which holds nothing for it.
    pub(super) async fn tell_nothing(&self, sent: &mut Sent) -> Result<(), Ended> {
        let Some(view) = &sent.view else { return Ok(()) };
        let (epoch, revision) = (view.model().epoch, view.model().revision);
        self.send(Down::Delta(v1::Delta { epoch, revision, changes: Vec::new() })).await?;
        sent.cursor = revision;
        sent.has_untold = false;
        sent.told_nothing = Some(self.shared.clock.since_boot());
        Ok(())
    }
}
