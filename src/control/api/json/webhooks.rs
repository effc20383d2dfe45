//! Webhooks of ticket sources: `POST /webhooks/NAME`.
//!
//! Nobody here has a token: whose word it is, its signature says, and where there is none, the ticket is read. Bodies are
//! read of sources that are there, a bounded number at once. It is answered as soon as the end is committed; what each
//! gateway has to show for it becomes evidence after.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use tokio::sync::Semaphore;

use super::super::super::actor::ControlHandle;
use super::super::super::tickets::{Desk, Fault, Taken};
use super::super::{ApiError, ended};
use super::problem::Problem;
use super::{Served, body_of, json_of};
use crate::domain::name::TicketSourceName;
use crate::domain::ticket::Ticket;

/// Longest body: an event of an issue with a long text.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Bodies that arrive at once, of all sources.
const MAX_ARRIVING: usize = 512;
/// How long one may take: a source sends it at once.
const BODY_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is tried to read a ticket of which a webhook came that nobody signed.
const MAX_TRIES: usize = 6;
/// Webhooks that are read at once, of all sources.
const MAX_READING: usize = 64;

pub(super) fn router(served: &Arc<Served>) -> Router {
    let (served, places) = (served.clone(), Arc::new(Places::default()));
    let handler = move |name: Result<Path<String>, PathRejection>, request: Request| {
        let (served, places) = (served.clone(), places.clone());
        async move {
            let name = name.ok().and_then(|Path(name)| name.parse::<TicketSourceName>().ok());
            let done = taken(&served.desk, name, &places, request).await;
            let handle = &served.identifier.handle;
            let label = match &done {
                Ok(taken) => taken.result,
                Err((label, _)) => label,
            };
            handle.shared().metrics.webhooks.with_label_values(&[label]).inc();
            match done {
                Ok(taken) => answered(&served, taken),
                Err((_, problem)) => problem.into_response(),
            }
        }
    };
    Router::new().route("/webhooks/{name}", post(handler))
}

/// How many may come at once.
#[derive(Debug)]
struct Places {
    arriving: Semaphore,
    reading: Semaphore,
}

impl Default for Places {
    fn default() -> Self {
        Self { arriving: Semaphore::new(MAX_ARRIVING), reading: Semaphore::new(MAX_READING) }
    }
}

type Untaken = (&'static str, Problem);

async fn taken(
    desk: &Desk,
    name: Option<TicketSourceName>,
    places: &Places,
    request: Request,
) -> Result<Taken, Untaken> {
    let fault = |fault: Fault| (fault.label(), Problem::from(fault));
    let name = name.filter(|name| desk.is_known(name)).ok_or_else(|| fault(Fault::Unknown))?;
    let (parts, body) = request.into_parts();
    let busy = || ("busy", ApiError::limit("too many webhooks are being read already; send it again").into());
    let arrives = places.arriving.try_acquire().map_err(|_| busy())?;
    // Before a place is taken: whoever is slow to say something keeps nobody from being read.
    let arriving = tokio::time::timeout(BODY_PATIENCE, body_of(&parts.headers, body, MAX_BODY_BYTES)).await;
    let late = || ("late", ApiError::invalid(format!("the body took more than {} s", BODY_PATIENCE.as_secs())).into());
    let body = arriving.map_err(|_| late())?.map_err(|problem| {
        let label = if problem.status() == StatusCode::PAYLOAD_TOO_LARGE { "oversized" } else { "malformed" };
        (label, problem)
    })?;
    let _reads = places.reading.try_acquire().map_err(|_| busy())?;
    drop(arrives);
    let header = |name: &str| once(&parts.headers, name);
    desk.take(&name, &header, &body).await.map_err(fault)
}

/// A header that stands once.
fn once(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    value.to_str().ok().map(str::to_owned)
}

fn answered(served: &Served, taken: Taken) -> Response {
    let json = serde_json::to_vec(&taken).unwrap_or_default();
    let (handle, stop) = (served.identifier.handle.clone(), served.access.stopping());
    match taken {
        Taken { ticket: Some(ticket), waits: true, .. } => {
            tokio::spawn(read_later(served.desk.clone(), handle, ticket, stop));
        }
        Taken { ticket: Some(ref ticket), result: "closed", .. } => {
            tokio::spawn(followed(handle, ticket.clone(), taken, stop));
        }
        Taken { .. } => {}
    }
    json_of(StatusCode::OK, json)
}

/// Reads a ticket when its time comes, and again where it could not be read. A crash here leaves it unread until something
/// else is said of it.
async fn read_later(desk: Desk, handle: ControlHandle, ticket: Ticket, mut stop: tokio::sync::watch::Receiver<bool>) {
    let mut tries = 0;
    loop {
        let done = match desk.read_waiting(&ticket).await {
            Ok(Some(done)) => done,
            Ok(None) => return,
            Err(wait) => {
                tokio::select! {
                    () = tokio::time::sleep(wait) => continue,
                    () = super::super::super::stopped(&mut stop) => return,
                }
            }
        };
        let label = done.as_ref().map_or_else(Fault::label, |taken| taken.result);
        handle.shared().metrics.webhooks.with_label_values(&[label]).inc();
        tries += 1;
        match done {
            Ok(taken) if taken.result == "closed" => return followed(handle, ticket, taken, stop).await,
            Err(Fault::Unreadable(_) | Fault::Refused(_)) if tries < MAX_TRIES => {
                if !desk.wait_again(&ticket) {
                    return;
                }
            }
            Err(Fault::Unreadable(why)) => {
                tracing::error!(%ticket, %why, "a ticket cannot be read: what waits on it lives on until it is named again");
                return;
            }
            Ok(_) | Err(_) => return,
        }
    }
}

/// What is left after a ticket closed: requests that waited, and what gateways have to show. A crash here leaves requests
/// that nobody can approve, and the gateways' own evidence.
async fn followed(handle: ControlHandle, ticket: Ticket, taken: Taken, mut stop: tokio::sync::watch::Receiver<bool>) {
    while handle.cancel_waiting(ticket.clone()).await.is_ok_and(|done| done.answer > 0) {}
    if taken.grants.is_empty() {
        return;
    }
    // What one transaction did not hold ends in the next ones.
    let mut committed = handle.shared().outbox.subscribe();
    loop {
        committed.mark_unchanged();
        if !handle.model().tickets.owed().contains(&ticket) {
            break;
        }
        tokio::select! {
            _ = committed.changed() => {}
            () = super::super::super::stopped(&mut stop) => return,
        }
    }
    let last = handle.model().revision.max(taken.revision);
    let (receipt, words) = ended::receipt(&handle, (taken.revision, last), &taken.grants, &stop).await;
    if let Err(error) = handle.note_ticket(&ticket, receipt, words).await {
        tracing::error!(%error, %ticket, "a receipt could not be recorded");
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unknown => Self::not_found("no ticket source has this name"),
            Fault::Unsigned => Self::unsigned(),
            Fault::Stale(why) => ApiError::from(super::super::super::plan::Refused::Conflict(why)).into(),
            Fault::Malformed(why) => Self::invalid(why),
            Fault::Unreadable(why) => Self::unreadable(why),
            Fault::Busy => ApiError::limit("too many tickets wait to be read; send it again").into(),
            Fault::Refused(refused) => ApiError::from(refused).into(),
        }
    }
}
