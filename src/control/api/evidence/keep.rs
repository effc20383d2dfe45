//! Keeping a copy of a gateway's log: the stream on which it comes.
//!
//! The certificate says whose copy it is, and the key of the log that it is the log's. What is there already must be what
//! the gateway has; what comes is on this machine's disk before it is answered. A refusal ends the stream.

mod beginning;

use std::pin::Pin;
use std::time::Duration;

use futures_util::{FutureExt as _, Stream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::super::super::actor::ControlHandle;
use super::super::super::authorize::{Caller, Operation};
use super::super::super::copies::{Copies, Turn};
use super::super::super::logs::{self, LogFault};
use super::super::push::{Shown, alarm, in_good_standing, stated};
use super::super::{ApiError, authorized};
use crate::domain::name::GatewayName;
use crate::evidence::checkpoint::{MAX_NOTE_BYTES, VerifierKey};
use crate::evidence::copy::{CopyError, LogCopy};
use crate::evidence::statement::StatementKind;
use crate::evidence::tree::{Hash, TreeHead};
use crate::wire::v1;
use v1::keep_message::Message as Sent;

/// How long a gateway may take for each of its first two messages, and a stream before it to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of records that are written and synced together.
const GROUP_BYTES: usize = 4 << 20;
/// Messages that are taken together.
const GROUP_MESSAGES: usize = 64;
/// Answers between us and the transport.
const MAX_IN_FLIGHT: usize = 16;

pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<v1::Kept, Status>> + Send>>;
/// How a copy is opened: the one that there is, or another one beside it.
type Opening = fn(&Copies, &GatewayName, u64, &VerifierKey) -> Result<LogCopy, CopyError>;
type Tell = mpsc::Sender<Result<v1::Kept, Status>>;

pub(super) async fn keep(
    handle: &ControlHandle,
    stop: &watch::Receiver<bool>,
    request: Request<Streaming<v1::KeepMessage>>,
) -> Result<Response<Answers>, Status> {
    let caller = authorized(handle, &request, Operation::ServeEvidence, None).await?;
    let Caller::Gateway(name) = caller else { return Err(ApiError::unauthenticated().into()) };
    in_good_standing(handle.shared(), &name)?;
    if handle.shared().copies.get().is_none() {
        return Err(ApiError::no_copies().into());
    }
    let mut incoming = request.into_inner();
    let Some(Sent::Open(open)) = within_patience(&mut incoming).await? else {
        return Err(ApiError::invalid("the first message must say which log is to be kept").into());
    };
    if let Err(fault) = logs::opened(&handle.model(), handle.shared().clock.now(), &name, &open.evidence_key) {
        alarm(handle, &name, &fault, Shown::Certificate).await;
        return Err(ApiError::log(&fault).into());
    }
    let key: VerifierKey = open.evidence_key.parse().map_err(|_| ApiError::log(&LogFault::Key(name.clone())))?;
    let (tell, answers) = mpsc::channel(MAX_IN_FLIGHT);
    let mut keeping = Keeping { handle: handle.clone(), name, key, tell, stop: stop.clone() };
    tokio::spawn(async move {
        if let Err(status) = keeping.run(incoming).await {
            tracing::warn!(gateway = %keeping.name, why = status.message(), "the copy of a gateway's log does not go on");
            // Whoever is gone does not hear it.
            let _ = keeping.tell.send(Err(status)).await;
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
}

async fn within_patience(incoming: &mut Streaming<v1::KeepMessage>) -> Result<Option<Sent>, Status> {
    match tokio::time::timeout(PATIENCE, incoming.message()).await {
        Ok(message) => Ok(message?.and_then(|message| message.message)),
        Err(_) => Err(ApiError::invalid("no message in time").into()),
    }
}

struct Keeping {
    handle: ControlHandle,
    name: GatewayName,
    key: VerifierKey,
    tell: Tell,
    stop: watch::Receiver<bool>,
}

impl Keeping {
    /// Until the gateway goes, or something is refused.
    async fn run(&mut self, mut incoming: Streaming<v1::KeepMessage>) -> Result<(), Status> {
        let handle = self.handle.clone();
        let copies = copies(&handle)?;
        // Before anybody's stream is ended: whoever has the certificate alone takes no turn.
        let challenge = self.shown(&mut incoming).await?;
        let Ok(mut turn) = tokio::time::timeout(PATIENCE, copies.turn(&self.name)).await else {
            return Err(Status::unavailable("the stream before this one still writes the copy"));
        };
        let mut copy = self.open().await?;
        let (size, root) = (copy.size(), copy.root().0.to_vec());
        self.answer(v1::Kept { size, root, begins: true, ..v1::Kept::default() }).await?;
        let claim = self.claim(&mut incoming, &challenge).await?;
        if let Err(error) = compare(&copy, claim)? {
            return Err(self.refused(&error).await);
        }
        tracing::info!(gateway = %self.name, records = copy.size(), "the copy of a gateway's log goes on");
        // Before it is told to go on: whatever it shows from then on is not behind this.
        let cosigned = self.cosigned();
        self.answer(v1::Kept { size: copy.size(), ..v1::Kept::default() }).await?;
        let mut stop = self.stop.clone();
        loop {
            let Turn { replaced, .. } = &mut turn;
            let first = tokio::select! {
                message = incoming.message() => message?,
                _ = replaced => return Err(ApiError::replaced().into()),
                () = super::super::super::stopped(&mut stop) => return Err(ApiError::stopping().into()),
            };
            let Some(first) = first.and_then(|message| message.message) else { return Ok(()) };
            in_good_standing(self.handle.shared(), &self.name)?;
            if let Sent::Begin(begin) = first {
                copy = self.begin(copy, begin, &mut incoming, (&mut turn, cosigned)).await?;
                copies.seen(&self.name, copy.used(), copy.size());
                self.answer(v1::Kept { size: copy.size(), ..v1::Kept::default() }).await?;
                continue;
            }
            // With what was cosigned meanwhile: a gateway that shows the renewals one history brings no other one here.
            if let Some(cosigned) = self.cosigned() {
                copy.bound_by(cosigned);
            }
            let group = self.group(first, &mut incoming)?;
            let (back, taken) = self.blocking(move || take(copy, group)).await?;
            copy = back;
            copies.seen(&self.name, copy.used(), copy.size());
            if let Err(error) = taken {
                return Err(self.refused(&error).await);
            }
            self.answer(v1::Kept { size: copy.size(), ..v1::Kept::default() }).await?;
        }
    }

    /// Has the gateway show that it holds the log's key. The first answer is what it is to sign.
    async fn shown(&self, incoming: &mut Streaming<v1::KeepMessage>) -> Result<Challenge, Status> {
        let mut challenge = [0; 16];
        aws_lc_rs::rand::fill(&mut challenge).map_err(|_| Status::unavailable("no randomness"))?;
        self.answer(v1::Kept { challenge: challenge.to_vec(), ..v1::Kept::default() }).await?;
        self.claim(incoming, &challenge).await?;
        self.handle.open_log(self.name.clone(), self.key.to_string()).await.map_err(ApiError::from)?;
        Ok(challenge)
    }

    async fn claim(
        &self,
        incoming: &mut Streaming<v1::KeepMessage>,
        challenge: &Challenge,
    ) -> Result<v1::KeepClaim, Status> {
        let Some(Sent::Claim(signed)) = within_patience(incoming).await? else {
            return Err(ApiError::invalid("a claim is expected").into());
        };
        let claim = stated(&self.key, StatementKind::Copy, &signed)
            .and_then(|payload| <v1::KeepClaim as prost::Message>::decode(payload).ok())
            .filter(|claim| claim.challenge == challenge && claim.log == self.key.name().as_str());
        claim.ok_or_else(|| {
            tracing::error!(gateway = %self.name, "who has this gateway's certificate does not have its evidence key");
            ApiError::denied("the log is not shown to be the gateway's by its evidence key".to_owned()).into()
        })
    }

    /// Opens the copy that there is.
    async fn open(&self) -> Result<LogCopy, Status> {
        self.opened(Copies::open).await
    }

    /// Opens a copy of this log, in one of the ways that there are.
    async fn opened(&self, way: Opening) -> Result<LogCopy, Status> {
        let (handle, name, key) = (self.handle.clone(), self.name.clone(), self.key.clone());
        let open = move || {
            let place = logs::place(&name, key.name().as_str()).unwrap_or(1);
            copies(&handle).map(|copies| way(copies, &name, place, &key))
        };
        match self.blocking(open).await?? {
            Ok(copy) => Ok(copy),
            Err(error) => Err(self.refused(&error).await),
        }
    }

    /// What was cosigned of the log last, if anything was.
    fn cosigned(&self) -> Option<TreeHead> {
        let model = self.handle.model();
        let record = &model.logs.get(&self.name)?.value;
        (record.key == self.key.to_string() && record.size > 0).then(|| logs::head(record))
    }

    /// What came, and what came right behind it.
    fn group(&self, first: Sent, incoming: &mut Streaming<v1::KeepMessage>) -> Result<Vec<Sent>, Status> {
        let (mut group, mut bytes) = (vec![first], 0);
        loop {
            match group.last() {
                Some(Sent::Records(records)) if records.frames.is_empty() => {
                    return Err(ApiError::invalid("a message of no records").into());
                }
                Some(Sent::Records(records)) => bytes += records.frames.len(),
                Some(Sent::Checkpoint(note)) if note.len() > MAX_NOTE_BYTES => {
                    return Err(ApiError::invalid("a checkpoint that is too long").into());
                }
                Some(Sent::Checkpoint(note)) => bytes += note.len(),
                Some(Sent::Open(_) | Sent::Claim(_) | Sent::Begin(_) | Sent::Leaves(_)) | None => {
                    return Err(ApiError::invalid("records or a checkpoint are expected").into());
                }
            }
            if bytes >= GROUP_BYTES || group.len() >= GROUP_MESSAGES {
                return Ok(group);
            }
            match incoming.message().now_or_never() {
                Some(Ok(Some(v1::KeepMessage { message: Some(more) }))) => group.push(more),
                // Whatever else there is comes again, or not at all.
                Some(_) | None => return Ok(group),
            }
        }
    }

    async fn answer(&self, kept: v1::Kept) -> Result<(), Status> {
        match tokio::time::timeout(PATIENCE, self.tell.send(Ok(kept))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Status::unavailable("the gateway does not read")),
        }
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|_| Status::internal("the copy could not be worked on"))
    }

    /// Takes note of a refusal; a log that is not what it was is an alarm.
    async fn refused(&self, error: &CopyError) -> Status {
        self.handle.shared().metrics.copies.refused.with_label_values(&[error.code()]).inc();
        if error.is_alarm() {
            let fault = LogFault::Copy(self.name.clone(), error.to_string());
            alarm(&self.handle, &self.name, &fault, Shown::EvidenceKey).await;
        }
        ApiError::copy(error).into()
    }
}

type Challenge = [u8; 16];

fn copies(handle: &ControlHandle) -> Result<&Copies, Status> {
    handle.shared().copies.get().ok_or_else(|| ApiError::no_copies().into())
}

/// What the gateway has of it must be what is here.
fn compare(copy: &LogCopy, claim: v1::KeepClaim) -> Result<Result<(), CopyError>, Status> {
    let root: [u8; 32] = claim.root.try_into().map_err(|_| ApiError::invalid("a root has 32 bytes"))?;
    Ok(copy.compare(claim.size, Hash(root)))
}

/// Writes what came, and has it on disk.
fn take(mut copy: LogCopy, group: Vec<Sent>) -> (LogCopy, Result<(), CopyError>) {
    let taken = group.into_iter().try_for_each(|sent| match sent {
        Sent::Records(records) => copy.put(records.first, &records.frames),
        // It is true of what is on disk.
        Sent::Checkpoint(note) => copy.sync().and_then(|()| copy.checkpoint(&note)),
        Sent::Open(_) | Sent::Claim(_) | Sent::Begin(_) | Sent::Leaves(_) => Ok(()),
    });
    let taken = taken.and_then(|()| copy.sync());
    (copy, taken)
}
