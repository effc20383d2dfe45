//! Brings this gateway's log to the machine that keeps a copy of it, where records wait for that machine's disk.
//!
//! On a connection of its own: the stream of revocations never waits behind it. What is sent is read from the journal, so
//! that nothing waits in memory but what is on its way, and a copy that was away goes on where it ended. What becomes of
//! calls meanwhile is the journal's to say; here it is only told how far the copy has come.

mod beginning;
mod sender;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::connect::{self, ConnectError};
use super::jittered;
use crate::evidence::EvidenceLog;
use crate::evidence::checkpoint::NoteError;
use crate::evidence::journal::JournalError;
use crate::evidence::proof;
use crate::evidence::statement::StatementKind;
use crate::evidence::storage::DiskStorage;
use crate::settings::gateway::ControlEndpoint;
use crate::wire::v1;
use sender::{MAX_IN_FLIGHT, Sender};
use v1::keep_message::Message as Sent;

/// Between two attempts.
const RETRY: Duration = Duration::from_millis(400);
/// How long the other side may take for each step of the opening.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the last records may take at the end of the process.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

/// What it works on.
#[derive(Clone, Debug)]
pub(in crate::gateway) struct CopyParts {
    /// Who keeps the copy.
    pub(in crate::gateway) endpoint: ControlEndpoint,
    pub(in crate::gateway) log: Arc<EvidenceLog>,
    /// Its directory.
    pub(in crate::gateway) evidence_dir: PathBuf,
}

/// Why the copy does not go on.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Status(Box<tonic::Status>),
    #[error("the other side closed it")]
    Closed,
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error("the log cannot be read: {0}")]
    Log(String),
    #[error("the evidence key: {0}")]
    Key(#[from] NoteError),
    #[error(
        "the records of this log before {0} are not here and not in its copy, and the log does not say that they were pruned: \
         stop the gateway, run `portcullis gateway seal -c FILE` and start it, and it begins a new log"
    )]
    Lost(u64),
    #[error(
        "the records of this log before {0} were pruned, its copy does not have them, and this control plane is of a version \
         that begins no copy behind them: update it; or stop the gateway, run `portcullis gateway seal -c FILE` and start it, \
         and it begins a new log"
    )]
    Older(u64),
}

impl Ended {
    /// Whether the other side said that it does not take records, and what callers are told then.
    fn refusal(&self) -> Option<JournalError> {
        let status = match self {
            Self::Status(status) => status,
            Self::Lost(_) | Self::Older(_) => return Some(JournalError::Unavailable),
            Self::Connect(_) | Self::Closed | Self::Silent | Self::Log(_) | Self::Key(_) => return None,
        };
        match status.code() {
            Code::ResourceExhausted => Some(JournalError::Full),
            Code::FailedPrecondition | Code::PermissionDenied | Code::InvalidArgument => {
                Some(JournalError::Unavailable)
            }
            _ => None,
        }
    }
}

impl From<tonic::Status> for Ended {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Keeps the copy going until `stop` becomes true and what is here is there, or time is up. Nothing where records wait for
/// no copy.
pub(in crate::gateway) async fn run(parts: CopyParts, mut stop: watch::Receiver<bool>) {
    let Some(within) = parts.log.journal().remote_within() else { return };
    let journal = parts.log.journal().clone();
    let looking = async {
        let mut every = tokio::time::interval(within / 8);
        loop {
            every.tick().await;
            journal.look_at_remote();
        }
    };
    let keeping = async {
        let mut told = None;
        loop {
            let Err(ended) = keep(&parts).await;
            let why = status_text(&ended);
            if told.as_ref() != Some(&why) {
                tracing::warn!(error = %why, "the copy of this gateway's log does not go on: it is tried again");
                told = Some(why.clone());
            }
            match ended.refusal() {
                Some(error) => journal.remote_refused(error, why),
                None => journal.remote_lost(why),
            }
            tokio::time::sleep(jittered(RETRY)).await;
        }
    };
    let stopping = async {
        let _ = stop.wait_for(|stop| *stop).await;
        let last = tokio::time::timeout(LEAVE_WITHIN, async {
            while journal.remote().is_some_and(|remote| remote.records > 0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if last.await.is_err() {
            tracing::warn!("the last records did not get to the copy of this gateway's log");
        }
    };
    tokio::select! {
        () = looking => {}
        () = keeping => {}
        () = stopping => {}
    }
}

fn status_text(ended: &Ended) -> String {
    match ended {
        Ended::Status(status) => status.message().to_owned(),
        other => other.to_string(),
    }
}

async fn keep(parts: &CopyParts) -> Result<std::convert::Infallible, Ended> {
    let log = &parts.log;
    let mut client = within(async { Ok(connect::evidence(&parts.endpoint).await?) }).await?;
    let (up, messages) = mpsc::channel(MAX_IN_FLIGHT);
    send(&up, Sent::Open(v1::KeepOpen { evidence_key: log.verifier_key().to_string() })).await?;
    let mut answers = within(async { Ok(client.keep(ReceiverStream::new(messages)).await?.into_inner()) }).await?;
    let challenge = answer(&mut answers).await?.challenge;
    claim(log, &up, &challenge, 0, Vec::new()).await?;
    let there = answer(&mut answers).await?;
    let (size, root) = {
        let (log, directory) = (log.clone(), parts.evidence_dir.clone());
        let known = tokio::task::spawn_blocking(move || known(&log, &directory, there.size));
        known.await.map_err(|error| Ended::Log(error.to_string()))??
    };
    if size < there.size {
        tracing::error!(
            kept = there.size,
            records = size,
            "this gateway's log is shorter than its copy: stop it and run `portcullis gateway seal`"
        );
    }
    claim(log, &up, &challenge, size, root).await?;
    answer(&mut answers).await?;
    let from = beginning::begun(parts, &up, &mut answers, &there).await?;
    log.journal().remote_attached(from);
    tracing::info!(records = from, "the copy of this gateway's log goes on");
    let sending = Sender::start(log.clone(), &parts.evidence_dir, from, up).map_err(Ended::Log)?;
    loop {
        tokio::select! {
            kept = answers.message() => match kept? {
                Some(kept) => log.journal().remote_kept(kept.size),
                None => return Err(Ended::Closed),
            },
            why = sending.failed() => return Err(Ended::Log(why)),
        }
    }
}

async fn within<T>(step: impl Future<Output = Result<T, Ended>>) -> Result<T, Ended> {
    tokio::time::timeout(PATIENCE, step).await.unwrap_or(Err(Ended::Silent))
}

async fn send(up: &mpsc::Sender<v1::KeepMessage>, message: Sent) -> Result<(), Ended> {
    up.send(v1::KeepMessage { message: Some(message) }).await.map_err(|_| Ended::Closed)
}

async fn answer(answers: &mut Streaming<v1::Kept>) -> Result<v1::Kept, Ended> {
    within(async { answers.message().await?.ok_or(Ended::Closed) }).await
}

async fn claim(
    log: &EvidenceLog,
    up: &mpsc::Sender<v1::KeepMessage>,
    challenge: &[u8],
    size: u64,
    root: Vec<u8>,
) -> Result<(), Ended> {
    let log_name = log.verifier_key().name().to_string();
    let claim = v1::KeepClaim { challenge: challenge.to_vec(), log: log_name, size, root };
    let payload = prost::Message::encode_to_vec(&claim);
    let signature = log.state(StatementKind::Copy, &payload)?;
    send(up, Sent::Claim(v1::Signed { payload, signature })).await
}

/// How many of the records that the copy has this log has, and the root over those.
fn known(log: &EvidenceLog, directory: &std::path::Path, kept: u64) -> Result<(u64, Vec<u8>), Ended> {
    let fault = |error: &dyn std::fmt::Display| Ended::Log(error.to_string());
    // What is durable is under it.
    let head = match log.checkpoint() {
        Some((head, _)) if head.size >= kept => head,
        _ => log.checkpoint_now().ok_or_else(|| Ended::Log("there is no checkpoint".to_owned()))?.0,
    };
    if head.size < kept && log.journal().durable_seq() >= kept {
        // Its tiles are stalled: it is not shorter, and not to be called so.
        return Err(Ended::Log("what the copy has is not under a checkpoint here yet".to_owned()));
    }
    let size = head.size.min(kept);
    let root = proof::root(&DiskStorage::read_only(directory), size, head.size).map_err(|error| fault(&error))?;
    Ok((size, root.0.to_vec()))
}
