//! The evidence of a call: its intent before the first byte goes upstream, a denial before it is answered, its outcome
//! always.
//!
//! The outcome is written by the drop of [`OutcomeRecord`], so that a cut, a caller that leaves and a panic are recorded
//! like any other end. Refusals before identification are counted, not recorded one by one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::live::Cut;
use super::metrics::WorkerMetrics;
use super::pipeline::WholeBody;
use crate::decision::{Authority, Basis as PermitBasis, Now, Permit};
use crate::domain::route::CredentialRule;
use crate::domain::{Clock, Reason, Timestamp};
use crate::evidence::entry::{
    Basis, CredentialKind, CredentialOut, Decision, Ended, Ending, Intent, MAX_SAMPLES, Parameters, QueryHashes,
    RefusalCount, RefusalSample, Refusals,
};
use crate::evidence::journal::{Journal, JournalError, OutcomeRoom, Ticket};
use crate::evidence::keyed::HashKey;

/// What the evidence needs of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Particulars<'a> {
    pub(crate) call: crate::domain::name::CallId,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) peer: SocketAddr,
    pub(crate) principal: &'a str,
    pub(crate) credential: CredentialKind,
    pub(crate) body: Option<WholeBody>,
    pub(crate) query: Option<&'a str>,
    /// Whose use it spends, of a counted grant.
    pub(crate) allotment: Option<crate::domain::name::AllotmentId>,
}

/// The record of a call that is about to be forwarded.
pub(crate) fn intent<'a>(
    what: &Particulars<'a>,
    permit: &'a Permit,
    parameters: Parameters<'a>,
    key: &HashKey,
    now: &Now,
    upstream: &'a str,
) -> Intent<'a> {
    let (basis, would_refuse) = match permit.basis() {
        PermitBasis::Grant(grant) => (Basis::Grant(grant.id), None),
        PermitBasis::Exception { exception, would_refuse, .. } => {
            (Basis::Exception(std::borrow::Cow::Borrowed(&exception.name)), Some(*would_refuse))
        }
    };
    let authority_age_ms = match now.authority {
        Authority::Age(age) => u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        Authority::Missing | Authority::Unknown => u64::MAX,
    };
    Intent {
        call: what.call,
        decision: Decision::Allow,
        basis,
        allotment: what.allotment,
        body: what.body.map(|body| key.hashed(body.bytes, &body.sha256)),
        would_refuse,
        identity: std::borrow::Cow::Borrowed(permit.identity()),
        principal: what.principal.into(),
        credential: what.credential,
        route: std::borrow::Cow::Borrowed(&permit.route().route().name),
        resource: std::borrow::Cow::Borrowed(permit.resource()),
        action: std::borrow::Cow::Borrowed(permit.action()),
        parameters,
        method: what.method.into(),
        host: what.host.into(),
        path: what.path.into(),
        query: what.query.and_then(|query| QueryHashes::of(query, key)),
        peer: what.peer,
        epoch: permit.epoch(),
        revision: permit.revision(),
        authority_age_ms,
        upstream: upstream.into(),
        credential_out: match permit.credential() {
            CredentialRule::Mint => CredentialOut::Mint,
            CredentialRule::None => CredentialOut::None,
        },
    }
}

/// Records how a call ended, when it is dropped.
#[derive(Debug)]
pub(crate) struct OutcomeRecord {
    room: Option<OutcomeRoom>,
    clock: Arc<dyn Clock>,
    metrics: Arc<WorkerMetrics>,
    started: Timestamp,
    cut: Arc<Cut>,
    ended: Option<(Ended, Option<Reason>)>,
    pub(crate) status: Option<u16>,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) upstream_started: bool,
}

impl OutcomeRecord {
    pub(crate) fn new(
        room: OutcomeRoom,
        clock: Arc<dyn Clock>,
        metrics: Arc<WorkerMetrics>,
        started: Timestamp,
        cut: Arc<Cut>,
    ) -> Self {
        Self {
            room: Some(room),
            clock,
            metrics,
            started,
            cut,
            ended: None,
            status: None,
            request_bytes: 0,
            response_bytes: 0,
            upstream_started: false,
        }
    }

    /// The intent is on disk: from here on the outcome is owed.
    pub(crate) fn promised(&mut self) {
        if let Some(room) = &mut self.room {
            room.promised();
        }
    }

    /// How it ended. The first word counts.
    pub(crate) fn end(&mut self, ended: Ended, reason: Option<Reason>) {
        self.ended.get_or_insert((ended, reason));
    }

    /// How it ended, as far as is known now.
    pub(crate) fn ended(&self) -> (Ended, Option<Reason>) {
        match (self.ended, self.cut.reason()) {
            (Some(ended), _) => ended,
            (None, Some(reason)) => (Ended::Cut, Some(reason)),
            (None, None) if std::thread::panicking() => (Ended::Panicked, Some(Reason::InternalFault)),
            // The library dropped the call without a word: its connection broke.
            (None, None) => (Ended::ClientGone, None),
        }
    }
}

impl Drop for OutcomeRecord {
    fn drop(&mut self) {
        let (ended, reason) = self.ended();
        let took = self.clock.now().saturating_since(self.started);
        self.metrics.call_took(took);
        if let (Ended::Cut, Some(reason)) = (ended, reason) {
            self.metrics.cut(reason);
        }
        let Some(room) = self.room.take() else { return };
        room.record(Ending {
            ended,
            status: self.status,
            reason,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            upstream_started: self.upstream_started,
        });
    }
}

/// How long the last refusals wait for a disk that failed: the journal tries it anew several times in that.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Counts refusals of callers that nobody identified, for one bounded record every few seconds.
#[derive(Debug, Default)]
pub(crate) struct RefusalCounter {
    state: parking_lot::Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    from: Option<Timestamp>,
    counts: Vec<(Reason, u64)>,
    samples: Vec<RefusalSample<'static>>,
    /// What was told last, until it is known to be on disk.
    told: Option<(Ticket, Box<Counts>)>,
}

impl Counts {
    fn add(&mut self, reason: Reason, more: u64) {
        match self.counts.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count = count.saturating_add(more),
            None => self.counts.push((reason, more)),
        }
    }

    /// Takes back what was told and not written.
    fn take_back(&mut self, told: Counts) {
        told.counts.into_iter().for_each(|(reason, count)| self.add(reason, count));
        self.from = told.from.or(self.from);
        let later = std::mem::replace(&mut self.samples, told.samples);
        self.samples.extend(later);
        self.samples.truncate(MAX_SAMPLES);
    }
}

impl RefusalCounter {
    /// One more.
    pub(crate) fn note(&self, reason: Reason, peer: SocketAddr, method: &str, path: &str) {
        let mut state = self.state.lock();
        state.add(reason, 1);
        if state.samples.len() < MAX_SAMPLES {
            let sample = |text: &str| text.chars().take(256).collect::<String>();
            state.samples.push(RefusalSample { peer, method: sample(method).into(), path: sample(path).into() });
        }
    }

    /// Records what was counted since the last time, when there was anything. What cannot be recorded, or was not written
    /// the last time, is counted on.
    pub(crate) fn flush(&self, journal: &Journal, now: Timestamp) -> Result<(), JournalError> {
        let mut state = self.state.lock();
        if let Some((ticket, told)) = state.told.take() {
            match journal.outcome_here(ticket) {
                Some(Ok(())) => {}
                Some(Err(_)) => state.take_back(*told),
                None => {
                    state.told = Some((ticket, told));
                    return Ok(());
                }
            }
        }
        let from = *state.from.get_or_insert(now);
        if state.counts.is_empty() {
            state.from = Some(now);
            return Ok(());
        }
        let counts =
            state.counts.iter().map(|(reason, count)| RefusalCount { reason: *reason, count: *count }).collect();
        let record = Refusals { from, to: now, counts, samples: state.samples.clone() };
        let ticket = journal.append_here(&record)?;
        let told = std::mem::replace(&mut *state, Counts { from: Some(now), ..Counts::default() });
        state.told = Some((ticket, Box::new(told)));
        Ok(())
    }

    /// The same behind everything else, when nobody will come again: waits until it is known what became of those that were
    /// told last, and tells anew what was not written. Blocks on the disk.
    pub(crate) fn flush_last(&self, journal: &Journal, now: Timestamp) -> Result<(), JournalError> {
        if journal.flush().is_err() && !journal.well_within(LAST_WAIT) {
            tracing::debug!("the disk has not recovered");
        }
        self.flush(journal, now)?;
        journal.flush()
    }
}

#[cfg(test)]
#[path = "record/tests.rs"]
mod tests;
