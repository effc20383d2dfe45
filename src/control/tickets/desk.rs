//! Where webhooks arrive and tickets are asked after: files of secrets, other systems, and the writer.
//!
//! What a webhook without a signature says is no more than that a ticket is worth reading, and it is read only where
//! somebody waits to hear of it: a stranger makes us ask for nothing else, and not often (`pace`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::super::ControlHandle;
use super::super::plan::Refused;
use super::pace::{Pace, When};
use super::read::{self, ReadError};
use super::webhook::{self, Claim, Headers, Untrue};
use super::{Heard, Said, is_awaited};
use crate::domain::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::name::TicketSourceName;
use crate::domain::ticket::{Ticket, TicketSource};
use crate::settings::read_secret;

/// Tickets that are read at the same time.
const MAX_READS: usize = 8;
/// How long one waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// Nesting of a webhook's body: Jira's texts are trees.
const MAX_DEPTH: usize = 64;

/// Why a webhook was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Fault {
    /// No source has that name.
    Unknown,
    /// Nobody signed it who has the secret.
    Unsigned,
    /// It was said before what is known, or too long ago.
    Stale(String),
    /// It is not what its source sends.
    Malformed(String),
    /// The ticket cannot be read, or the secret.
    Unreadable(String),
    /// Too many tickets wait to be read.
    Busy,
    /// The writer did not do it.
    Refused(Refused),
}

impl Fault {
    /// As the metric counts it.
    pub(in super::super) const fn label(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Unsigned => "unsigned",
            Self::Stale(_) => "stale",
            Self::Malformed(_) => "malformed",
            Self::Unreadable(_) => "unreadable",
            Self::Busy => "busy",
            Self::Refused(_) => "failed",
        }
    }
}

/// What came of a webhook.
#[derive(Clone, Debug, Serialize)]
pub(in super::super) struct Taken {
    /// `closed`, `reopened`, `known`, `ignored`, or `later` where the ticket was read a moment ago and will be again.
    pub(in super::super) result: &'static str,
    /// Of which ticket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) ticket: Option<Ticket>,
    /// Grants that end with it.
    pub(in super::super) ended: usize,
    /// The grants; what each gateway has to show for their end is recorded when it is there.
    #[serde(skip)]
    pub(in super::super) grants: Vec<Grant>,
    /// The revision from which on it is so.
    pub(in super::super) revision: u64,
    /// Somebody has to see to it that the ticket is read when its time comes.
    #[serde(skip)]
    pub(in super::super) waits: bool,
}

impl Taken {
    /// Nothing came of it.
    const fn nothing(result: &'static str, ticket: Option<Ticket>, revision: u64) -> Self {
        Self { result, ticket, ended: 0, grants: Vec::new(), revision, waits: false }
    }
}

/// Where webhooks arrive.
#[derive(Clone, Debug)]
pub(in super::super) struct Desk {
    handle: ControlHandle,
    secrets: PathBuf,
    reads: Arc<Semaphore>,
    pace: Arc<Mutex<Pace>>,
}

impl Desk {
    /// Over the directory of secrets.
    pub(in super::super) fn new(handle: ControlHandle, secrets: PathBuf) -> Self {
        Self { handle, secrets, reads: Arc::new(Semaphore::new(MAX_READS)), pace: Arc::default() }
    }

    /// Whether webhooks of a name are expected.
    pub(in super::super) fn is_known(&self, name: &TicketSourceName) -> bool {
        self.handle.model().ticket_sources.contains_key(name)
    }

    /// Takes a webhook.
    ///
    /// # Errors
    /// When it is not true, says nothing that can be read, or nothing new.
    pub(in super::super) async fn take(
        &self,
        name: &TicketSourceName,
        header: &(dyn Fn(&str) -> Option<String> + Sync),
        body: &[u8],
    ) -> Result<Taken, Fault> {
        let source = self.handle.model().ticket_sources.get(name).map(|kept| kept.value.clone());
        let source = source.ok_or(Fault::Unknown)?;
        let now = self.handle.shared().clock.now();
        let claim = self.claimed(&source, &|name| header(name), body, now)?;
        let nothing = |result, ticket| Taken::nothing(result, ticket, self.handle.model().committed);
        let Some(claim) = claim else { return Ok(nothing("ignored", None)) };
        let ticket =
            Ticket::new(source.name.clone(), &claim.key).map_err(|error| Fault::Malformed(error.to_string()))?;
        let ticket = ticket.of(source.spec.shape);
        if !ticket.is_of(source.spec.shape) {
            return Err(Fault::Malformed(source.spec.shape.keys().to_owned()));
        }
        if source.spec.secret_file.is_some() {
            return self.hear(Said { ticket, closed: claim.closed, since: claim.since, by: claim.delivery }).await;
        }
        if !is_awaited(&self.handle.model(), &ticket) {
            return Ok(nothing("ignored", None));
        }
        let when = self.pace.lock().hint(&ticket, self.handle.shared().clock.since_boot());
        match when {
            When::Now => self.heard_by_reading(&source, ticket, &claim.delivery).await,
            When::Later => Ok(Taken { waits: true, ..nothing("later", Some(ticket)) }),
            When::Waiting => Ok(nothing("later", Some(ticket))),
            When::Never => Err(Fault::Busy),
        }
    }

    /// Reads a ticket, of which somebody said something that nobody signed.
    async fn heard_by_reading(&self, source: &TicketSource, ticket: Ticket, delivery: &str) -> Result<Taken, Fault> {
        // As of when it was asked: what is heard meanwhile is newer.
        let since = self.handle.shared().clock.now();
        let closed = self.read(source, &ticket).await.map_err(|error| Fault::Unreadable(error.to_string()))?;
        self.hear(Said { ticket, closed, since, by: format!("{delivery}, unsigned, and read again") }).await
    }

    /// Reads a ticket that waits, where its time has come; `Ok(None)`: nobody waits to hear of it any more.
    ///
    /// # Errors
    /// How long it still takes, at least.
    pub(in super::super) async fn read_waiting(
        &self,
        ticket: &Ticket,
    ) -> Result<Option<Result<Taken, Fault>>, Duration> {
        self.pace.lock().turn(ticket, self.handle.shared().clock.since_boot())?;
        let source = self.handle.model().ticket_sources.get(&ticket.source).map(|kept| kept.value.clone());
        let source = source.filter(|source| source.spec.read.is_some() && is_awaited(&self.handle.model(), ticket));
        let Some(source) = source else { return Ok(None) };
        Ok(Some(self.heard_by_reading(&source, ticket.clone(), "webhooks that came one after the other").await))
    }

    /// Has a ticket wait that could not be read. False: somebody sees to it already, or too many wait.
    pub(in super::super) fn wait_again(&self, ticket: &Ticket) -> bool {
        self.pace.lock().wait(ticket) == When::Later
    }

    /// What a body says, once it is known who says it.
    fn claimed(
        &self,
        source: &TicketSource,
        header: Headers<'_>,
        body: &[u8],
        now: Timestamp,
    ) -> Result<Option<Claim>, Fault> {
        let shape = source.spec.shape;
        if let Some(name) = &source.spec.secret_file {
            let secrets = read_secret(&self.secrets.join(name.as_str())).map_err(|error| {
                tracing::error!(%error, source = %source.name, "the secret of a ticket source cannot be read");
                Fault::Unreadable("the secret that it is signed with cannot be read here".to_owned())
            })?;
            webhook::verify(shape, &secrets, header, body, now).map_err(|untrue| match untrue {
                Untrue::Unsigned => Fault::Unsigned,
                Untrue::Stale => Fault::Stale("webhook-timestamp: more than 5 minutes from now".to_owned()),
            })?;
        }
        let json = crate::token::json::value(body, MAX_DEPTH);
        let json = json.map_err(|error| Fault::Malformed(format!("the body: {error}")))?;
        webhook::claim(shape, header, &json).map_err(|what| Fault::Malformed(format!("the body lacks {what}")))
    }

    async fn hear(&self, said: Said) -> Result<Taken, Fault> {
        let ticket = said.ticket.clone();
        let done = self.handle.hear_of_ticket(said).await.map_err(|refused| match refused {
            Refused::Conflict(why) => Fault::Stale(why),
            Refused::Invalid(why) => Fault::Malformed(why.join("; ")),
            other => Fault::Refused(other),
        })?;
        let (result, grants) = match done.answer {
            Heard::Closed(grants) => ("closed", grants),
            Heard::Reopened => ("reopened", Vec::new()),
            Heard::Known => ("known", Vec::new()),
            Heard::Ignored => ("ignored", Vec::new()),
        };
        Ok(Taken { ended: grants.len(), grants, ..Taken::nothing(result, Some(ticket), done.revision) })
    }

    /// Reads tickets again, where that can be done: one that is closed by now is heard of, and refused.
    ///
    /// # Errors
    /// [`Refused::Conflict`] for one that is closed, [`Refused::Unfit`] for one that cannot be read.
    pub(in super::super) async fn look(&self, tickets: &[Ticket]) -> Result<(), Refused> {
        for ticket in tickets {
            let source = self.handle.model().ticket_sources.get(&ticket.source).map(|kept| kept.value.clone());
            let Some(source) = source.filter(|source| source.spec.read.is_some()) else { continue };
            let closed = self.read(&source, ticket).await.map_err(|error| Refused::Unfit(vec![error.to_string()]))?;
            if closed {
                let since = self.handle.shared().clock.now();
                let by = "read when access was asked for".to_owned();
                // It may be known already, and it is refused either way.
                drop(self.hear(Said { ticket: ticket.clone(), closed, since, by }).await);
                return Err(Refused::Conflict(format!("{ticket} is closed: access would end with it")));
            }
        }
        Ok(())
    }

    async fn read(&self, source: &TicketSource, ticket: &Ticket) -> Result<bool, ReadError> {
        let busy = |why: &str| ReadError::Unknown(source.name.to_string(), ticket.key.to_string(), why.to_owned());
        let Some(spec) = &source.spec.read else { return Err(busy("it has no `read`")) };
        let turn = tokio::time::timeout(TURN, self.reads.acquire()).await;
        let _turn = turn.ok().and_then(Result::ok).ok_or_else(|| busy("too many tickets are being read"))?;
        read::is_closed(&self.secrets, source.spec.shape, spec, ticket).await
    }
}

#[cfg(test)]
mod tests;
