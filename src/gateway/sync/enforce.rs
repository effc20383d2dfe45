//! Putting a revision in force, and saying so when it is true.
//!
//! Two halves: the [`Follower`] publishes and fires, in the order of the stream and without waiting; the [`Enforcer`]
//! waits for what was fired, records it and acknowledges, in the same order.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Parts;
use super::apply::{self, Assembly, Fault, Picture, lost_credentials};
use super::outbox::Outbox;
use super::review::Review;
use crate::decision::snapshot::Snapshot;
use crate::domain::Reason;
use crate::domain::name::GrantId;
use crate::evidence::entry::{CutCall as CutRecord, Enforced};
use crate::evidence::journal::Journal;
use crate::gateway::authority::AuthorityClock;
use crate::gateway::handed::{Handed, Outstanding};
use crate::gateway::live::{CutCall, CutSet, Registry, Selector};
use crate::gateway::metrics::Metrics;
use crate::gateway::published::Published;
use crate::issuers::{RevokedFull, RevokedTokens};
use crate::wire::{MAX_CUT_CALLS_LISTED, v1};

/// How long cut calls have before somebody hears about it.
const GONE_WITHIN: Duration = Duration::from_secs(1);
/// Pause before something that failed is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// Grants and calls per record: records are bounded.
const MAX_RECORDED: usize = 256;
/// Grants whose tokens one acknowledgement tells of.
const MAX_RESIDUALS: usize = 1_024;

/// Why a message could not be put in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error(transparent)]
    Revoked(#[from] RevokedFull),
    #[error("nobody enforces any more")]
    Closed,
}

/// A revision in force whose calls are ending.
#[derive(Debug)]
pub(super) struct Enforcement {
    epoch: u64,
    revision: u64,
    /// Since boot.
    arrived: Duration,
    cut: CutSet,
    grants: Vec<GrantId>,
    /// Whether it ended anything, calls or not.
    ending: bool,
    /// Whether it came as a snapshot.
    whole: bool,
    /// The snapshots before and after, where more may have ended than the grants that are named.
    review: Option<(Arc<Snapshot>, Arc<Snapshot>)>,
}

/// Puts revisions in force.
#[derive(Debug)]
pub(super) struct Follower {
    clock: Arc<AuthorityClock>,
    published: Arc<Published>,
    registry: Arc<Registry>,
    revoked: Arc<RevokedTokens>,
    metrics: Arc<Metrics>,
    enforcements: mpsc::Sender<Enforcement>,
    assembly: Option<Assembly>,
    /// Something could not be applied: only a whole snapshot helps.
    resync: bool,
}

impl Follower {
    pub(super) fn new(parts: &Parts, enforcements: mpsc::Sender<Enforcement>) -> Self {
        Self {
            clock: parts.clock.clone(),
            published: parts.published.clone(),
            registry: parts.registry.clone(),
            revoked: parts.revoked.clone(),
            metrics: parts.metrics.clone(),
            enforcements,
            assembly: None,
            resync: false,
        }
    }

    /// Whether a policy is in force, as the control plane says.
    pub(super) fn govern(&self, governed: bool) {
        self.published.govern(governed);
    }

    /// A stream begins. Returns the epoch and revision to go on from; zeros ask for a snapshot.
    pub(super) fn begin(&mut self) -> (u64, u64) {
        self.assembly = None;
        if self.resync {
            return (0, 0);
        }
        let snapshot = self.published.peek();
        (snapshot.epoch(), snapshot.revision())
    }

    /// Takes in a part of a snapshot.
    pub(super) async fn part(&mut self, part: v1::SnapshotPart) -> Result<(), FollowError> {
        let arrived = self.clock.since_boot();
        let before = self.published.load();
        let highest = self.clock.memory().highest();
        match apply::part(&mut self.assembly, &before, highest, part) {
            Ok(None) => Ok(()),
            Ok(Some(picture)) => {
                self.resync = false;
                self.put_in_force(picture, true, arrived).await
            }
            Err(fault) => self.failed(fault),
        }
    }

    /// Takes in a delta.
    pub(super) async fn delta(&mut self, delta: v1::Delta) -> Result<(), FollowError> {
        let arrived = self.clock.since_boot();
        if self.assembly.is_some() {
            return self.failed(Fault::Interrupted);
        }
        let before = self.published.load();
        match apply::delta(&before, self.clock.memory().highest(), delta) {
            Ok(picture) => self.put_in_force(picture, false, arrived).await,
            Err(fault) => self.failed(fault),
        }
    }

    /// A message of a kind that is not known here.
    pub(super) fn unknown(&mut self) -> Result<(), FollowError> {
        self.failed(Fault::Unknown)
    }

    fn failed(&mut self, fault: Fault) -> Result<(), FollowError> {
        self.resync = true;
        self.assembly = None;
        self.metrics.resync();
        Err(fault.into())
    }

    async fn put_in_force(&mut self, picture: Picture, whole: bool, arrived: Duration) -> Result<(), FollowError> {
        let Picture { snapshot, cut, grants, review, revoked } = picture;
        let (epoch, revision) = (snapshot.epoch(), snapshot.revision());
        let now = self.clock.wall();
        for token in &revoked {
            let (issuer, handle) = (token.issuer.as_str().into(), token.jti.as_str().into());
            // Not published, not acknowledged: the control plane withholds authority from who lags.
            self.revoked.insert(&issuer, &handle, token.expires, now).inspect_err(|_| self.resync = true)?;
        }
        self.clock.memory().saw(epoch, revision);
        let before = self.published.publish(snapshot);
        // INVARIANT: published first. Whoever registers from here on sees it before going on.
        let after = self.published.load();
        // A whole picture is remembered as it is; what it ends here is among what it cuts.
        let ending = !cut.is_empty() || (review && !whole);
        let set = self.fire(&before, &after, cut, review, whole);
        self.metrics.applied(revision);
        let review = review.then_some((before, after));
        let enforcement = Enforcement { epoch, revision, arrived, cut: set, grants, ending, whole, review };
        self.enforcements.send(enforcement).await.map_err(|_| FollowError::Closed)
    }

    fn fire(
        &self,
        before: &Snapshot,
        after: &Snapshot,
        cut: Vec<(Selector, Reason)>,
        review: bool,
        whole: bool,
    ) -> CutSet {
        let mut set = CutSet::empty(&self.registry);
        for (which, reason) in cut {
            set.join(self.registry.cut(&which, reason));
        }
        if review {
            let review = Review::new(before, after);
            set.join(self.registry.review(|running| review.verdict(running)));
        }
        if whole {
            for place in lost_credentials(before, after) {
                set.join(self.registry.cut(&Selector::Identity(place), Reason::IdentityUnknown));
            }
        }
        set
    }
}

/// Waits for what was fired, records it and acknowledges it.
#[derive(Debug)]
pub(super) struct Enforcer {
    clock: Arc<AuthorityClock>,
    journal: Journal,
    handed: Arc<Handed>,
    metrics: Arc<Metrics>,
    outbox: Arc<Outbox>,
}

impl Enforcer {
    pub(super) fn new(parts: &Parts, outbox: Arc<Outbox>) -> Self {
        Self {
            clock: parts.clock.clone(),
            journal: parts.log.journal().clone(),
            handed: parts.registry.handed().clone(),
            metrics: parts.metrics.clone(),
            outbox,
        }
    }

    pub(super) async fn run(self, mut waiting: mpsc::Receiver<Enforcement>) {
        while let Some(enforcement) = waiting.recv().await {
            self.enforce(enforcement).await;
        }
    }

    async fn enforce(&self, enforcement: Enforcement) {
        let Enforcement { epoch, revision, arrived, mut cut, grants, ending, whole, review } = enforcement;
        if !ending && cut.is_empty() {
            if whole {
                // It may lack what ended while this gateway was away: not even a restart brings that back.
                self.remember(revision).await;
            }
            let applied = self.applied(epoch, revision, &[], arrived);
            return self.outbox.push(self.with_residual(applied, grants, review));
        }
        loop {
            let running = cut.wait(GONE_WITHIN).await;
            if running == 0 {
                break;
            }
            self.metrics.lingering(running);
            tracing::error!(revision, running, "cut calls are still running: the revision is not acknowledged");
        }
        let calls = cut.calls();
        // After they are gone: what they handed out on their way is among it.
        let applied = self.with_residual(self.applied(epoch, revision, &calls, arrived), grants.clone(), review);
        tokio::join!(self.record(&applied, &grants, &calls), self.remember(revision));
        // A crash here leaves it recorded and not acknowledged: the next start begins with a snapshot, and says so then.
        self.metrics.enforced(self.clock.since_boot().saturating_sub(arrived));
        tracing::info!(epoch, revision, cut = calls.len(), took_us = applied.took_us, "a revision is enforced");
        self.outbox.push(applied);
    }

    fn applied(&self, epoch: u64, revision: u64, calls: &[CutCall], arrived: Duration) -> v1::Applied {
        let took = self.clock.since_boot().saturating_sub(arrived);
        v1::Applied { epoch, revision, took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX), ..listed(calls) }
    }

    /// With what upstreams still hold: of these grants, and of those that are gone from one snapshot to the next or stand
    /// still from then on.
    fn with_residual(
        &self,
        applied: v1::Applied,
        mut grants: Vec<GrantId>,
        review: Option<(Arc<Snapshot>, Arc<Snapshot>)>,
    ) -> v1::Applied {
        let now = self.clock.wall();
        if let Some((before, after)) = review {
            let is_over = |id: &GrantId| {
                let live = after.grant(*id);
                live.is_none_or(|grant| after.stops_more_than(&before, grant.resource))
            };
            grants.extend(self.handed.grants(now).into_iter().filter(is_over));
            grants.sort_unstable();
            grants.dedup();
        }
        let told = |id: &GrantId| {
            let Outstanding { tokens, until } = self.handed.outstanding(*id, now)?;
            let grant_id = id.bits().to_be_bytes().to_vec();
            Some(v1::ResidualTokens { grant_id, tokens, until_unix_us: until.unix_micros() })
        };
        let mut residual: Vec<_> = grants.iter().filter_map(told).collect();
        let unlisted = residual.len().saturating_sub(MAX_RESIDUALS);
        residual.truncate(MAX_RESIDUALS);
        v1::Applied { residual, residual_unlisted: u64::try_from(unlisted).unwrap_or(u64::MAX), ..applied }
    }

    /// Until it is durable: without evidence there is no acknowledgement, and before long no authority.
    async fn record(&self, applied: &v1::Applied, grants: &[GrantId], calls: &[CutCall]) {
        let records = grants.len().max(calls.len()).div_ceil(MAX_RECORDED).max(1);
        let mut grants = grants.chunks(MAX_RECORDED);
        let mut calls = calls.chunks(MAX_RECORDED);
        for _ in 0..records {
            let record = Enforced {
                epoch: applied.epoch,
                revision: applied.revision,
                grants_revoked: grants.next().unwrap_or_default().to_vec(),
                cut: calls.next().unwrap_or_default().iter().map(cut_record).collect(),
                took_us: applied.took_us,
            };
            while let Err(error) = self.append(&record).await {
                tracing::error!(%error, revision = applied.revision, "an enforced revision could not be recorded");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn append(&self, record: &Enforced) -> Result<(), crate::evidence::journal::JournalError> {
        // What is enforced is said also while the machine that has the log's copy is away.
        let ticket = self.journal.append_here(record)?;
        self.journal.written(ticket).await
    }

    /// Until it is on disk: a gateway that is restarted must know that it saw this revision before anybody is told so.
    async fn remember(&self, revision: u64) {
        loop {
            let clock = self.clock.clone();
            match tokio::task::spawn_blocking(move || clock.memory().write(clock.wall())).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::error!(%error, revision, "what this gateway has seen could not be written"),
                Err(error) => tracing::error!(%error, revision, "what this gateway has seen could not be written"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// An acknowledgement's calls: no more than a message of ours may hold, and how many more there were.
fn listed(calls: &[CutCall]) -> v1::Applied {
    let unlisted = calls.len().saturating_sub(MAX_CUT_CALLS_LISTED);
    v1::Applied {
        cut: calls.iter().take(MAX_CUT_CALLS_LISTED).map(cut_message).collect(),
        unlisted: u64::try_from(unlisted).unwrap_or(u64::MAX),
        ..v1::Applied::default()
    }
}

fn cut_message(call: &CutCall) -> v1::CutCall {
    v1::CutCall {
        call_id: call.call.bits().to_be_bytes().to_vec(),
        grant_id: call.grant.map(|id| id.bits().to_be_bytes().to_vec()).unwrap_or_default(),
        reason: call.reason.code().to_owned(),
        intent_seq: call.intent_seq,
        response_bytes: call.response_bytes,
        late_bytes: call.late_bytes,
    }
}

fn cut_record(call: &CutCall) -> CutRecord {
    CutRecord { call: call.call, intent_seq: call.intent_seq, reason: call.reason }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::domain::name::CallId;
    use crate::wire::MAX_GATEWAY_MESSAGE_BYTES;

    #[test]
    fn an_acknowledgement_of_any_number_of_calls_is_one_that_the_control_plane_reads() {
        let one = |n| CutCall {
            call: CallId::from_bits(n),
            grant: Some(GrantId::from_bits(n)),
            reason: Reason::GrantRevoked,
            intent_seq: u64::MAX,
            response_bytes: u64::MAX,
            late_bytes: u64::MAX,
        };
        let calls: Vec<CutCall> = (0..20_000).map(one).collect();
        let applied = listed(&calls);
        assert!(applied.encoded_len() < MAX_GATEWAY_MESSAGE_BYTES / 2, "{} bytes", applied.encoded_len());
        assert_eq!((applied.cut.len(), applied.unlisted), (4_096, 20_000 - 4_096));
        assert_eq!(listed(&calls[..3]).unlisted, 0);
    }
}
