//! The one writer.
//!
//! Commands come in on a queue and are planned one after the other, each on the model that the ones before it leave.
//! Those that wait together share a transaction: records, events and head in one commit. Only then does the model move,
//! and only then is anybody answered. The actor knows plans; what a command means is planned elsewhere.

mod handle;
mod tidy;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

pub use handle::{ControlHandle, Done};

use super::authorize::Caller;
use super::fleet::Fleet;
use super::metrics::Metrics;
use super::model::Model;
use super::plan::{Audience, ChangeEvent, Context, Plan, Refused};
use super::record::{Change, GatewayRecord, OUTBOX, Record, Standing};
use super::remembered::{Committed as Heard, Remembered, RememberedError, Untold};
use super::ring::{Head, Ring};
use super::store::{KeyRange, RangeResult, StoreError};
use super::vault::{OutboxRecord, Part, Vault, VaultError};
use super::{logs, request};
use crate::domain::name::{GatewayName, GrantId};
use crate::domain::{Clock, Timestamp};

/// Commands that may wait: past it callers wait in their own requests, which are limited per connection.
const MAX_QUEUE: usize = 1_024;
/// Commands that share a transaction at most.
const MAX_GROUP: usize = 64;
/// How often ends by the clock are looked for. Gateways end grants by themselves; this is the record of it.
const TICK: Duration = Duration::from_millis(200);
/// How long an end waits for the evidence to tell of those before it, where more wait than can be remembered.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// What the writer and the readers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) vault: Vault,
    pub(super) clock: Arc<dyn Clock>,
    /// Replaced by the actor alone.
    pub(super) model: ArcSwap<Model>,
    /// Pushed to by the actor alone.
    pub(super) ring: Ring,
    pub(super) fleet: Fleet,
    pub(super) metrics: Metrics,
    pub(super) standing_by: super::asked::StandingBy,
    /// Copies of gateways' logs, where any are kept.
    pub(super) copies: std::sync::OnceLock<super::copies::Copies>,
    pub(super) budgets: super::api::Budgets,
    /// Counts commits with events: the outbox's drain looks again.
    pub(super) outbox: watch::Sender<u64>,
    /// The last revision of which the evidence tells, as far as this process knows.
    pub(super) told: watch::Sender<u64>,
}

/// What planning a command came to: its part of a commit, and whom to tell.
struct Planned {
    part: Part,
    audience: Audience,
    done: Tell,
}

type Tell = Box<dyn FnOnce(Result<u64, Refused>) + Send>;
type Planner = Box<dyn FnOnce(&Model, &Context<'_>, &mut Identifiers) -> Option<Planned> + Send>;

/// One command on its way to the actor.
struct Job {
    caller: Caller,
    plan: Planner,
}

/// Draws identifiers that grow: their order is the order of events.
#[derive(Debug, Default)]
pub(super) struct Identifiers {
    last: u128,
}

impl Identifiers {
    /// One that was never drawn, larger than all before it.
    pub(super) fn draw(&mut self, now: Timestamp) -> GrantId {
        let mut random = [0; 16];
        // Without randomness the count alone keeps them apart.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let drawn = GrantId::new(now, u128::from_be_bytes(random)).bits();
        self.last = if drawn > self.last { drawn } else { self.last.wrapping_add(1) };
        GrantId::from_bits(self.last)
    }
}

/// The writer.
pub(super) struct Actor {
    shared: Arc<Shared>,
    jobs: mpsc::Receiver<Job>,
    identifiers: Identifiers,
    now: Timestamp,
    /// After a commit of unknown fate, or one that lost against another writer, the model is read anew first.
    stale: bool,
    /// A writer before this one may have been interrupted between what belongs together.
    interrupted: bool,
    /// Requests whose turn was worked out as things stand.
    judged: request::Judged,
    /// The latest commit that anybody may have heard of.
    remembered: Remembered,
    /// How far the evidence had come when it was waited for in vain.
    waited_in_vain: Option<u64>,
}

impl Actor {
    /// Builds the model from the store and everything that hangs on it.
    ///
    /// # Errors
    /// When the store does not answer, or holds what is not ours.
    pub(super) async fn open(
        vault: Vault,
        clock: Arc<dyn Clock>,
        remembered: Remembered,
    ) -> Result<(Self, ControlHandle), VaultError> {
        let mut model = vault.load().await?;
        if model.epoch == 0 {
            vault.initialize().await?;
            // A crash here leaves a store with an epoch and nothing else, which is what the next start expects.
            model = vault.load().await?;
        }
        let pending = note_untold(&vault, &remembered).await?;
        // What a crash left committed and not remembered, before anybody hears of it.
        remembered.write(heard(&model)).await?;
        // Identifiers go on above those that are waiting in the outbox, also when the clock was set back.
        let last = pending.kvs.last().and_then(|kv| outbox_id(&kv.key)).map_or(0, GrantId::bits);
        let fleet = Fleet::new(clock.clone());
        for name in model.gateways.keys() {
            record(&fleet, &model, name, clock.now());
        }
        let head = Head { epoch: model.epoch, revision: model.revision };
        let now = clock.now();
        let shared = Arc::new(Shared {
            vault,
            clock,
            model: ArcSwap::from_pointee(model),
            ring: Ring::at(head),
            fleet,
            metrics: Metrics::new(),
            standing_by: super::asked::StandingBy::default(),
            copies: std::sync::OnceLock::new(),
            budgets: super::api::Budgets::default(),
            outbox: watch::Sender::new(0),
            told: watch::Sender::new(0),
        });
        let (sender, jobs) = mpsc::channel(MAX_QUEUE);
        let handle = ControlHandle::new(sender, shared.clone());
        let identifiers = Identifiers { last };
        let judged = request::Judged::default();
        Ok((
            Self {
                shared,
                jobs,
                identifiers,
                now,
                stale: false,
                interrupted: true,
                judged,
                remembered,
                waited_in_vain: None,
            },
            handle,
        ))
    }

    /// Works until every handle is gone or `stop` says so.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = super::stopped(&mut stop) => return,
                // Before the jobs: a queue that is never empty must not keep grants from ending.
                _ = tick.tick() => self.tidy().await,
                job = self.jobs.recv() => match job {
                    Some(job) => self.work(job).await,
                    None => return,
                },
            }
        }
    }

    async fn work(&mut self, first: Job) {
        let mut waiting = vec![first];
        while waiting.len() < MAX_GROUP
            && let Ok(job) = self.jobs.try_recv()
        {
            waiting.push(job);
        }
        self.advance();
        if let Err(error) = self.refresh().await {
            tracing::error!(%error, "the store cannot be read");
            // Dropped, they are answered that nothing is known.
            drop(waiting);
            return;
        }
        let mut group = Group::new(&self.shared);
        for job in waiting {
            let context = Context { caller: &job.caller, now: self.now };
            let Some(planned) = (job.plan)(&group.model, &context, &mut self.identifiers) else { continue };
            if let Err(planned) = group.add(&self.shared, planned) {
                let committed = self.commit(group).await;
                if committed == Committed::No {
                    // INVARIANT: nothing is stored that was worked out on what was not.
                    (planned.done)(Err(Refused::Conflict("what it relied on was not stored; try again".to_owned())));
                    if let Err(error) = self.refresh().await {
                        tracing::error!(%error, "the store cannot be read");
                        return;
                    }
                    group = Group::new(&self.shared);
                    continue;
                }
                group = Group::new(&self.shared);
                if let Err(planned) = group.add(&self.shared, *planned) {
                    (planned.done)(Err(Refused::TooMuch("more than one transaction can hold".to_owned())));
                }
            }
        }
        self.commit(group).await;
    }

    /// Time does not go back for the actor, whatever the clock says.
    fn advance(&mut self) {
        self.now = self.now.max(self.shared.clock.now());
    }

    async fn refresh(&mut self) -> Result<(), VaultError> {
        if !self.stale {
            return Ok(());
        }
        let model = self.shared.vault.load().await?;
        note_untold(&self.shared.vault, &self.remembered).await?;
        self.remembered.write(heard(&model)).await?;
        let head = Head { epoch: model.epoch, revision: model.revision };
        for (name, gateway) in &model.gateways {
            record(&self.shared.fleet, &model, name, self.now);
            if gateway.value.standing == Standing::Expelled {
                self.shared.fleet.cut_off(name);
            }
        }
        self.shared.model.store(Arc::new(model));
        // What was missed is not known change by change: sessions that are not current get snapshots.
        self.shared.ring.reset(head, self.shared.clock.since_boot());
        // And their events are in the outbox.
        self.shared.outbox.send_modify(|count| *count = count.wrapping_add(1));
        self.stale = false;
        self.interrupted = true;
        Ok(())
    }

    async fn commit(&mut self, group: Group) -> Committed {
        if group.waiting.is_empty() {
            return Committed::Yes;
        }
        if group.is_empty() {
            let revision = self.shared.model.load().revision;
            group.waiting.into_iter().for_each(|waiting| (waiting.done)(Ok(revision)));
            return Committed::Yes;
        }
        let timer = self.shared.metrics.commit_seconds.start_timer();
        let mut committed = self.shared.vault.commit(group.draft).await;
        // A crash here leaves a commit that nobody heard of, and nobody misses in an older copy of the store.
        if let Ok((revision, audience)) = committed
            && (audience == Audience::Gateways || !group.ends.is_empty() || group.changes.iter().any(is_of_uses))
            && let Err(error) = self.remember(Heard { epoch: group.model.epoch, revision }, &group.ends).await
        {
            committed = Err(error.into());
        }
        timer.observe_duration();
        // A crash here leaves the commit whole in the store and nobody told: the next start reads it as true, its
        // events are in the outbox, and gateways learn of it when they attach.
        match committed {
            Ok((revision, audience)) => {
                self.publish(revision, audience, &group.changes);
                // No gateway acknowledges a revision of which none is told.
                let head = self.shared.model.load().revision;
                for Waiting { is_told, done } in group.waiting {
                    done(Ok(if is_told { revision } else { head }));
                }
                Committed::Yes
            }
            Err(error) => {
                tracing::error!(%error, "a commit failed");
                // What was unknown before stays unknown until the model was read anew.
                self.stale |= matches!(
                    error,
                    VaultError::Conflict
                        | VaultError::Store(StoreError::Unavailable { .. } | StoreError::Corrupt { .. })
                );
                let refused = match error {
                    VaultError::Conflict => Refused::Conflict("the store changed meanwhile; try again".to_owned()),
                    VaultError::Store(error) => error.into(),
                    VaultError::Seal { .. }
                    | VaultError::Record(_)
                    | VaultError::Format(_)
                    | VaultError::Unwritable(_) => Refused::Unavailable,
                };
                group.waiting.into_iter().for_each(|waiting| (waiting.done)(Err(refused.clone())));
                Committed::No
            }
        }
    }

    /// Remembers a commit, and what it ended until the evidence tells of that. Where much ends at once the evidence is waited
    /// for, and not without end: an end that nobody hears of is worse.
    async fn remember(&mut self, heard: Heard, ends: &[Untold]) -> Result<(), RememberedError> {
        self.remembered.note(ends.iter().map(|end| end.at(heard.revision)));
        let mut told = self.shared.told.subscribe();
        let now = *told.borrow();
        // Evidence that did not come further since it was waited for in vain is not waited for again.
        if !self.remembered.is_told(now) && self.waited_in_vain != Some(now) {
            // The commit is in the store: whoever takes it to the evidence may begin.
            self.shared.outbox.send_modify(|count| *count = count.wrapping_add(1));
            let room = told.wait_for(|told| self.remembered.is_told(*told));
            let is_late = tokio::time::timeout(TOLD_WITHIN, room).await.is_err();
            self.waited_in_vain = is_late.then(|| *self.shared.told.borrow());
        }
        self.remembered.write(heard).await
    }

    fn publish(&self, revision: u64, audience: Audience, changes: &[Change]) {
        let mut model = self.shared.model.load().as_ref().clone();
        for change in changes {
            model.apply(change, revision);
            match change {
                Change::Put(Record::Gateway(gateway)) => self.shared.fleet.record(&gateway.name, None, false),
                Change::Delete(Record::Gateway(gateway)) => self.shared.fleet.forget(&gateway.name),
                _ => {}
            }
        }
        model.committed = revision;
        if audience == Audience::Gateways {
            model.revision = revision;
        }
        let head = Head { epoch: model.epoch, revision: model.revision };
        self.shared.model.store(Arc::new(model));
        for change in changes {
            if let Change::Put(Record::Gateway(GatewayRecord { name, standing: Standing::Expelled, .. })) = change {
                self.shared.fleet.cut_off(name);
            }
        }
        if audience == Audience::Gateways {
            self.shared.ring.push(head, changes, self.shared.clock.since_boot());
        }
        self.shared.outbox.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Remembers what ended and waits in the outbox: also of a commit whose fate nobody knew, or that nobody had remembered when the
/// process was killed. Returns what waits.
async fn note_untold(vault: &Vault, remembered: &Remembered) -> Result<RangeResult, VaultError> {
    let pending = vault.store().range(KeyRange::prefix(OUTBOX), None, None).await?;
    for kv in &pending.kvs {
        match super::outbox::record(vault, kv) {
            Ok(record) => {
                remembered.note(record.events.iter().filter_map(|event| Untold::of(event, kv.create_revision)));
            }
            // Whoever takes it to the evidence says so, again and again.
            Err(error) => tracing::error!(%error, "an event cannot be read"),
        }
    }
    Ok(pending)
}

/// Whether it gives out uses of a counted grant, or takes them back: no event tells of that, and nothing else remembers it.
const fn is_of_uses(change: &Change) -> bool {
    matches!(change.record(), Record::Ledger(_))
}

/// The latest commit of a model.
pub(super) const fn heard(model: &Model) -> Heard {
    Heard { epoch: model.epoch, revision: model.committed }
}

/// Tells the fleet of a gateway as it is recorded: with the key of the log that it came with last, empty when it may come
/// with another.
fn record(fleet: &Fleet, model: &Model, name: &GatewayName, now: Timestamp) {
    let log = model.logs.get(name).map(|kept| kept.value.as_ref());
    fleet.record(name, log.map(|log| log.key.clone()), log.is_some_and(|log| logs::parted_lately(log, now)));
}

/// The identifier of an outbox key.
pub(super) fn outbox_id(key: &[u8]) -> Option<GrantId> {
    let key = std::str::from_utf8(key).ok()?;
    key.strip_prefix(OUTBOX)?.parse().ok()
}

fn planned<T>(plan: Plan<T>, caller: &Caller, now: Timestamp, identifiers: &mut Identifiers, done: Tell) -> Planned {
    let outbox = (!plan.events.is_empty()).then(|| {
        let record = OutboxRecord { at: now, actor: caller.to_string(), events: plan.events };
        (format!("{OUTBOX}{}", identifiers.draw(now)), record)
    });
    Planned { part: Part { changes: plan.changes, outbox }, audience: plan.audience, done }
}

/// What became of a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Committed {
    Yes,
    /// Not, or nobody knows.
    No,
}

/// Commands that share a transaction.
struct Group {
    /// The model as it will be: with a placeholder for the revision, which the commit decides.
    model: Model,
    base: Arc<Model>,
    draft: super::vault::Draft,
    keys: BTreeSet<String>,
    changes: Vec<Change>,
    events: usize,
    /// What it ends, of a revision that is not known yet.
    ends: Vec<Untold>,
    waiting: Vec<Waiting>,
}

/// Who waits for a commit.
struct Waiting {
    /// Whether gateways are told of what it changes: it is answered with the revision in which they are.
    is_told: bool,
    done: Tell,
}

impl Group {
    fn new(shared: &Shared) -> Self {
        let base = shared.model.load_full();
        Self {
            model: base.as_ref().clone(),
            draft: shared.vault.draft(&base),
            base,
            keys: BTreeSet::new(),
            changes: Vec::new(),
            events: 0,
            ends: Vec::new(),
            waiting: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.events == 0
    }

    /// Takes a command in, or gives it back when the transaction has no room for it, or has changed one of its keys
    /// already: a key has one fate in a transaction.
    fn add(&mut self, shared: &Shared, planned: Planned) -> Result<(), Box<Planned>> {
        let keys: Vec<String> = planned.part.changes.iter().map(|c| c.record().key()).collect();
        if keys.iter().any(|key| self.keys.contains(key)) {
            return Err(Box::new(planned));
        }
        match shared.vault.add(&mut self.draft, &self.base, &planned.part, planned.audience) {
            Ok(true) => {}
            Ok(false) => return Err(Box::new(planned)),
            Err(error) => {
                tracing::error!(%error, "a record cannot be written");
                (planned.done)(Err(Refused::Unavailable));
                return Ok(());
            }
        }
        for change in &planned.part.changes {
            self.model.apply(change, u64::MAX);
        }
        let is_told = planned.audience == Audience::Gateways && !planned.part.changes.is_empty();
        self.keys.extend(keys);
        self.changes.extend(planned.part.changes);
        self.events += usize::from(planned.part.outbox.is_some());
        let events = planned.part.outbox.iter().flat_map(|(_, record)| &record.events);
        self.ends.extend(events.filter_map(|event| Untold::of(event, 0)));
        self.waiting.push(Waiting { is_told, done: planned.done });
        Ok(())
    }
}

/// A plan of events alone, for what is recorded without changing anything.
pub(super) fn note(operation: &str, object: String, reason: String) -> Plan<()> {
    let event =
        ChangeEvent { operation: operation.to_owned(), object, before: None, after: None, reason: Some(reason) };
    Plan { changes: Vec::new(), events: vec![event], audience: Audience::Control, answer: () }
}

#[cfg(test)]
mod tests;
