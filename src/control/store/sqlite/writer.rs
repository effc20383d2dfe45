//! The one thread that writes: it takes what is queued, does each transaction as a revision of its own, and makes all
//! of them durable by one commit. Only then it answers. It owns the state that follows from what is committed (where
//! the store stands, until when leases live), and knows nothing of who asks or watches.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};

use super::tables::{self, Head, fault};
use crate::control::store::{
    KeyRange, KeyValue, Lease, LeaseId, Op, OpResult, RangeResult, Revision, StoreError, Txn, TxnResult,
};
use crate::domain::Clock;

/// What one commit may carry; more makes the first of them wait without making the disk's flush cheaper.
const BATCH_JOBS: usize = 256;
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Rows that a compaction looks at in one commit, so that no write waits long for it.
const FORGET_ROWS: i64 = 1000;

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Work {
    Txn(Txn),
    Compact(Revision),
    GrantLease {
        ttl_seconds: u64,
    },
    KeepLeaseAlive(LeaseId),
    RevokeLease(LeaseId),
    /// Nothing but what is due.
    Tick,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Answer {
    Txn(TxnResult),
    Lease(Lease),
    Done,
}

/// Work and where its answer goes.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) reply: oneshot::Sender<Result<Answer, StoreError>>,
}

/// What follows from the last commit. A batch works on a copy that replaces it when the commit is done.
#[derive(Clone, Debug)]
struct State {
    head: Head,
    leases: Arc<HashMap<LeaseId, Held>>,
    forgetting: Option<Forgetting>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    ttl: Duration,
    /// On the clock of the boot: nobody can set it.
    deadline: Duration,
}

/// How far the removal of compacted rows has come.
#[derive(Clone, Copy, Debug)]
struct Forgetting {
    revision: Revision,
    after: i64,
    last: i64,
}

pub(super) struct Writer {
    connection: Connection,
    clock: Arc<dyn Clock>,
    state: State,
    /// A commit failed and what is on the disk has not been read since.
    stale: bool,
    published: watch::Sender<Revision>,
}

impl Writer {
    pub(super) fn new(connection: Connection, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let head = tables::head(&connection).map_err(fault)?;
        let state = State { head, leases: Arc::default(), forgetting: None };
        let mut writer = Self { connection, clock, state, stale: true, published: watch::Sender::new(head.revision) };
        writer.refresh()?;
        Ok(writer)
    }

    /// Tells each committed revision, before its writer is answered.
    pub(super) fn subscribe(&self) -> watch::Receiver<Revision> {
        self.published.subscribe()
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        loop {
            let first = match jobs.try_recv() {
                Ok(job) => Some(job),
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) if self.state.forgetting.is_some() => None,
                Err(TryRecvError::Empty) => match jobs.blocking_recv() {
                    Some(job) => Some(job),
                    None => return,
                },
            };
            let batch = fill(first, &mut jobs);
            self.serve(batch);
        }
    }

    fn serve(&mut self, batch: Vec<Job>) {
        let (works, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|job| (job.work, job.reply)).unzip();
        let answers = self.answer(&works);
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Who no longer waits does not need to know; the work is done all the same.
            let _ = reply.send(answer);
        }
    }

    /// Does all of `works` in one commit or, when that fails, each in its own: what does not fit on the disk must not
    /// take along what does.
    fn answer(&mut self, works: &[Work]) -> Vec<Result<Answer, StoreError>> {
        let before = self.state.head.revision;
        let error = match self.attempt(works) {
            Ok(answers) => return answers,
            Err(error) => error,
        };
        tracing::error!(error = error.detail(), works = works.len(), "the store's commit failed");
        // A failed commit can have reached the disk nevertheless. Doing it again is right only when it has not.
        let untouched = self.refresh().is_ok() && self.state.head.revision == before;
        if untouched && works.len() > 1 {
            return works.iter().flat_map(|work| self.answer(std::slice::from_ref(work))).collect();
        }
        works.iter().map(|_| Err(error.clone())).collect()
    }

    fn attempt(&mut self, works: &[Work]) -> Result<Vec<Result<Answer, StoreError>>, StoreError> {
        if self.stale {
            self.refresh()?;
        }
        let mut next = self.state.clone();
        match commit(&mut self.connection, &*self.clock, &mut next, works) {
            Ok(answers) => {
                self.adopt(next);
                Ok(answers)
            }
            Err(error) => {
                self.stale = true;
                // The next compaction takes it up again; until then the disk is for what is asked.
                self.state.forgetting = None;
                Err(fault(error))
            }
        }
    }

    /// Reads what is committed. Leases that are known keep their deadline, the others get their full time.
    fn refresh(&mut self) -> Result<(), StoreError> {
        let head = tables::head(&self.connection).map_err(fault)?;
        let now = self.clock.since_boot();
        let leases = tables::leases(&self.connection).map_err(fault)?.into_iter().map(|(id, ttl)| {
            let known = self.state.leases.get(&id).copied();
            (id, known.unwrap_or(Held { ttl, deadline: now.saturating_add(ttl) }))
        });
        let leases = Arc::new(leases.collect());
        let mut state = State { head, leases, forgetting: None };
        if head.forgotten < head.compacted {
            state.start_forgetting(&self.connection).map_err(fault)?;
        }
        self.adopt(state);
        self.stale = false;
        Ok(())
    }

    fn adopt(&mut self, state: State) {
        let moved = state.head.revision != self.state.head.revision;
        self.state = state;
        if moved {
            self.published.send_replace(self.state.head.revision);
        }
    }
}

/// `first`, and what waits behind it as far as one commit carries it.
fn fill(first: Option<Job>, jobs: &mut mpsc::Receiver<Job>) -> Vec<Job> {
    let mut bytes = 0;
    let mut batch = Vec::new();
    let mut job = first;
    while let Some(taken) = job {
        bytes += if let Work::Txn(txn) = &taken.work { txn.bytes() } else { 0 };
        batch.push(taken);
        let room = batch.len() < BATCH_JOBS && bytes < BATCH_BYTES;
        job = if room { jobs.try_recv().ok() } else { None };
    }
    batch
}

/// One commit: what is due, then `works` in order. A crash before its end leaves nothing of it, one after its end all.
fn commit(
    connection: &mut Connection,
    clock: &dyn Clock,
    state: &mut State,
    works: &[Work],
) -> Result<Vec<Result<Answer, StoreError>>, rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = state.head;
    let now = clock.since_boot();
    state.expire(&transaction, now)?;
    let mut answers = Vec::with_capacity(works.len());
    for work in works {
        answers.push(state.perform(&transaction, now, work)?);
    }
    state.forget(&transaction)?;
    if state.head != before {
        tables::set_head(&transaction, state.head)?;
    }
    transaction.commit()?;
    Ok(answers)
}

/// The outer error ends the commit; the inner one is the answer to this work alone, which then has written nothing.
type Performed = Result<Result<Answer, StoreError>, rusqlite::Error>;

impl State {
    fn perform(&mut self, db: &Connection, now: Duration, work: &Work) -> Performed {
        match work {
            Work::Txn(txn) => Ok(self.transact(db, txn)?.map(Answer::Txn)),
            Work::Compact(revision) => self.compact(db, *revision),
            Work::GrantLease { ttl_seconds } => {
                let id = tables::add_lease(db, *ttl_seconds)?;
                let ttl = Duration::from_secs(*ttl_seconds);
                Arc::make_mut(&mut self.leases).insert(id, Held { ttl, deadline: now.saturating_add(ttl) });
                Ok(Ok(Answer::Lease(Lease { id, ttl })))
            }
            Work::KeepLeaseAlive(id) => Ok(match Arc::make_mut(&mut self.leases).get_mut(id) {
                Some(held) => {
                    held.deadline = now.saturating_add(held.ttl);
                    Ok(Answer::Done)
                }
                None => Err(StoreError::LeaseNotFound { lease: *id }),
            }),
            Work::RevokeLease(id) if self.leases.contains_key(id) => {
                self.end_lease(db, *id)?;
                Ok(Ok(Answer::Done))
            }
            Work::RevokeLease(id) => Ok(Err(StoreError::LeaseNotFound { lease: *id })),
            Work::Tick => Ok(Ok(Answer::Done)),
        }
    }

    fn transact(&mut self, db: &Connection, txn: &Txn) -> Result<Result<TxnResult, StoreError>, rusqlite::Error> {
        let (succeeded, ops) = choose(db, txn)?;
        // INVARIANT: nothing is refused past this loop, for nothing could be taken back.
        for op in ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.leases.contains_key(lease)
            {
                return Ok(Err(StoreError::LeaseNotFound { lease: *lease }));
            }
        }
        let own = self.head.revision.saturating_add(1);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            let response = match op {
                Op::Put { key, value, lease } => {
                    let current = tables::key(db, key)?;
                    let kv = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision: current.as_ref().map_or(own, |current| current.create_revision),
                        mod_revision: own,
                        version: current.as_ref().map_or(0, |current| current.version).saturating_add(1),
                        lease: *lease,
                    };
                    tables::put(db, &kv, current.map(|current| current.mod_revision))?;
                    self.head.revision = own;
                    OpResult::Put
                }
                Op::Delete { range } => {
                    let deleted = tables::delete(db, range, own)?;
                    if deleted > 0 {
                        self.head.revision = own;
                    }
                    OpResult::Delete { deleted }
                }
                Op::Get { range, limit } => OpResult::Get(get(db, range, *limit, self.head.revision)?),
            };
            responses.push(response);
        }
        // A read before the first write of its transaction tells the transaction's revision too.
        for response in &mut responses {
            if let OpResult::Get(found) = response {
                found.revision = self.head.revision;
            }
        }
        Ok(Ok(TxnResult { succeeded, revision: self.head.revision, responses }))
    }

    fn compact(&mut self, db: &Connection, revision: Revision) -> Performed {
        if revision > self.head.revision {
            return Ok(Err(StoreError::FutureRevision { current: self.head.revision }));
        }
        if revision <= self.head.compacted {
            return Ok(Err(StoreError::Compacted { oldest: self.head.compacted }));
        }
        self.head.compacted = revision;
        self.start_forgetting(db)?;
        Ok(Ok(Answer::Done))
    }

    fn start_forgetting(&mut self, db: &Connection) -> Result<(), rusqlite::Error> {
        let revision = self.head.compacted;
        self.forgetting = Some(Forgetting { revision, after: 0, last: tables::last_before(db, revision)? });
        Ok(())
    }

    fn forget(&mut self, db: &Connection) -> Result<(), rusqlite::Error> {
        let Some(mut forgetting) = self.forgetting.take() else { return Ok(()) };
        let upto = forgetting.after.saturating_add(FORGET_ROWS).min(forgetting.last);
        tables::forget(db, forgetting.after, upto, forgetting.revision)?;
        if upto < forgetting.last {
            forgetting.after = upto;
            self.forgetting = Some(forgetting);
        } else {
            self.head.forgotten = forgetting.revision;
        }
        Ok(())
    }

    fn expire(&mut self, db: &Connection, now: Duration) -> Result<(), rusqlite::Error> {
        let over = self.leases.iter().filter(|(_, held)| held.deadline <= now);
        let mut over: Vec<_> = over.map(|(id, held)| (held.deadline, *id)).collect();
        over.sort_unstable();
        over.into_iter().try_for_each(|(_, id)| self.end_lease(db, id))
    }

    fn end_lease(&mut self, db: &Connection, id: LeaseId) -> Result<(), rusqlite::Error> {
        let own = self.head.revision.saturating_add(1);
        if tables::delete_leased(db, id, own)? > 0 {
            self.head.revision = own;
        }
        tables::remove_lease(db, id)?;
        Arc::make_mut(&mut self.leases).remove(&id);
        Ok(())
    }
}

/// Whether the comparisons of `txn` hold, and the branch that follows from it.
pub(super) fn choose<'a>(db: &Connection, txn: &'a Txn) -> Result<(bool, &'a [Op]), rusqlite::Error> {
    for compare in &txn.compare {
        if !compare.holds(tables::key(db, &compare.key)?.as_ref()) {
            return Ok((false, &txn.or_else));
        }
    }
    Ok((true, &txn.then))
}

pub(super) fn get(
    db: &Connection,
    range: &KeyRange,
    limit: Option<usize>,
    revision: Revision,
) -> Result<RangeResult, rusqlite::Error> {
    let (kvs, more) = tables::range(db, range, limit)?;
    Ok(RangeResult { kvs, more, revision })
}
