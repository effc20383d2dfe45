//! Answers the control plane's questions about this gateway's evidence, on a stream of its own.
//!
//! One question at a time, of bounded answer, and off the way of calls: what it costs is a thread's reading. It reads what
//! is there without verifying it, as `evidence query` does, and nothing that is decided here depends on it.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::connect::{self, ConnectError};
use super::{Parts, jittered};
use crate::asking::answered;
use crate::domain::name::GrantId;
use crate::gateway::live::Selector;
use crate::wire::{bytes128, v1};

/// Between two attempts to stand by.
const RETRY: Duration = Duration::from_secs(3);

/// Why nobody is answered any more.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Status(String),
    #[error("the control plane closed it")]
    Closed,
}

/// Stands by for as long as the gateway runs.
pub(super) async fn run(parts: Parts) {
    loop {
        if let Err(error) = stand_by(&parts).await {
            tracing::debug!(%error, "nobody can ask this gateway's evidence just now");
        }
        tokio::time::sleep(jittered(RETRY)).await;
    }
}

async fn stand_by(parts: &Parts) -> Result<(), Ended> {
    let status = |status: tonic::Status| Ended::Status(status.message().to_owned());
    let mut client = connect::evidence(&parts.endpoint).await?;
    let (up, answers) = mpsc::channel(1);
    let log = parts.log.verifier_key().name().to_string();
    // There is room: it is the first.
    let _ = up.try_send(v1::EvidenceAnswer { log: log.clone(), ..v1::EvidenceAnswer::default() });
    let mut questions = client.serve(ReceiverStream::new(answers)).await.map_err(status)?.into_inner();
    while let Some(question) = questions.message().await.map_err(status)? {
        let number = question.number;
        // Before the log is read: a call that ends meanwhile is among those that ran, and one that begins is on record.
        let running = question.filter.as_ref().and_then(|filter| running(parts, &filter.grant));
        let answered = answered(&parts.evidence_dir, question, ()).await;
        let answered = answered.map(|answered| v1::EvidenceAnswer { running, ..answered });
        let answered = answered.unwrap_or_else(|fault| v1::EvidenceAnswer { fault, ..v1::EvidenceAnswer::default() });
        let answered = v1::EvidenceAnswer { number, log: log.clone(), ..answered };
        up.send(answered).await.map_err(|_| Ended::Closed)?;
    }
    Err(Ended::Closed)
}

/// How many calls run under the grant that is asked about.
fn running(parts: &Parts, grant: &[u8]) -> Option<u64> {
    let grant = bytes128("grant", grant).map(GrantId::from_bits).ok()?;
    Some(parts.registry.running(&Selector::Grant(grant)) as u64)
}
