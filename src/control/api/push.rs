//! The stream to a gateway: what it misses, then what changes, and answers to its renewals.
//!
//! A session has a cursor into the ring and no queue. Two tasks: one reads what the gateway says, the other sends; so a
//! gateway that does not read is still heard, and one that does not read long enough is let go. Knows messages and
//! revisions; what the objects in them mean is for the gateway.

mod renewal;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::super::actor::{ControlHandle, Shared};
use super::super::authority::AuthorityKey;
use super::super::authorize::{Caller, Operation};
use super::super::encode;
use super::super::fleet::Stated;
use super::super::logs::{self, LogFault};
use super::super::record::{LogRecord, Standing};
use super::super::ring::{self, Head, Next};
use super::ApiError;
use crate::domain::name::GatewayName;
use crate::evidence::checkpoint::VerifierKey;
use crate::evidence::statement::StatementKind;
use crate::wire::v1;
use v1::control_message::Message as Down;
use v1::gateway_message::Message as Up;

/// Messages between us and the transport: what is sent is sent when the gateway has room.
const MAX_IN_FLIGHT: usize = 4;
/// How long a message may wait for a gateway that does not read: longer than any pause that is not a fault.
const SEND_PATIENCE: Duration = Duration::from_secs(15);
/// How long a gateway may take to say hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// Longest nonce that is echoed; gateways send 16 bytes.
const MAX_NONCE_BYTES: usize = 64;
/// How long a connected gateway may lag behind a revision and still have its renewals answered. With it every
/// revocation is bounded, also on a gateway that renews and does not apply.
pub(super) const MAX_LAG: Duration = Duration::from_secs(10);

type Messages = Pin<Box<dyn Stream<Item = Result<v1::ControlMessage, Status>> + Send>>;

/// The service.
#[derive(Debug)]
pub(super) struct GrantStreamService {
    pub(super) handle: ControlHandle,
    /// Signs what gateways take for the control plane's word.
    pub(super) authority: AuthorityKey,
    /// True when the process is about to end: sessions end first, so that gateways go elsewhere.
    pub(super) stop: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl v1::grant_stream_server::GrantStream for GrantStreamService {
    type AttachStream = Messages;

    async fn attach(
        &self,
        request: Request<Streaming<v1::GatewayMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let caller = super::authorized(&self.handle, &request, Operation::Attach, None).await?;
        let Caller::Gateway(name) = caller else { return Err(ApiError::unauthenticated().into()) };
        let mut incoming = request.into_inner();
        let hello = match tokio::time::timeout(HELLO_PATIENCE, incoming.message()).await {
            Ok(message) => message?,
            Err(_) => return Err(ApiError::invalid("no hello in time").into()),
        };
        let Some(v1::GatewayMessage { message: Some(Up::Hello(hello)) }) = hello else {
            return Err(ApiError::invalid("the first message must be a hello").into());
        };
        let shared = self.handle.shared().clone();
        in_good_standing(&shared, &name)?;
        plausible(&hello, shared.ring.head())?;
        let (key, cosigned_size) = open_log(&self.handle, &name, &hello.evidence_key).await?;
        let holds = if hello.epoch == shared.ring.head().epoch { hello.revision } else { 0 };
        let Some((id, replaced)) = shared.fleet.attach(&name, holds) else {
            return Err(ApiError::denied(format!("gateway {name} is not recorded")).into());
        };
        tracing::info!(gateway = %name, revision = hello.revision, version = %hello.version, "a gateway attached");
        let (sender, receiver) = mpsc::channel(MAX_IN_FLIGHT);
        let (renewals, renewed) = watch::channel(None);
        let welcome = v1::ControlMessage { message: Some(Down::Welcome(v1::Welcome { cosigned_size })) };
        // There is room: it is the first.
        let _ = sender.try_send(Ok(welcome));
        let (handle, authority) = (self.handle.clone(), self.authority.clone());
        let reader = Reader { shared: shared.clone(), name: name.clone(), session: id, key: key.clone() };
        let session = Session { shared, handle, authority, name, id, key, holds, sender, stop: self.stop.clone() };
        let reading = tokio::spawn(reader.run(incoming, renewals));
        tokio::spawn(async move {
            session.run(&hello, renewed, replaced).await;
            reading.abort();
            session.shared.fleet.detach(&session.name, session.id);
            tracing::info!(gateway = %session.name, "a gateway's stream ended");
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// The gateway is recorded and may have authority.
pub(super) fn in_good_standing(shared: &Shared, name: &GatewayName) -> Result<(), ApiError> {
    match shared.model.load().gateways.get(name).map(|kept| kept.value.standing) {
        Some(Standing::Good) => Ok(()),
        Some(Standing::Expelled) => Err(ApiError::denied(format!("gateway {name} was expelled"))),
        None => Err(ApiError::denied(format!("gateway {name} is not recorded"))),
    }
}

/// A gateway that has seen more than this store knows is right, and the store an old copy.
fn plausible(hello: &v1::Hello, head: Head) -> Result<(), Status> {
    let ahead = hello.epoch > head.epoch || (hello.epoch == head.epoch && hello.revision > head.revision);
    if !ahead {
        return Ok(());
    }
    tracing::error!(
        hello.epoch,
        hello.revision,
        epoch = head.epoch,
        revision = head.revision,
        "a gateway has seen a later state than this store: was an old copy put back without declaring it restored?"
    );
    Err(ApiError::store_behind().into())
}

/// Takes note of the log that a gateway comes with: its key, and how much of it is cosigned.
async fn open_log(handle: &ControlHandle, name: &GatewayName, key: &str) -> Result<(VerifierKey, u64), ApiError> {
    let fault = match logs::opened(&handle.model(), name, key) {
        Ok(_) => {
            let done = handle.open_log(name.clone(), key.to_owned()).await?;
            let key = key.parse().map_err(|_| ApiError::log(&LogFault::Key(name.clone())))?;
            return Ok((key, done.answer));
        }
        Err(fault) => fault,
    };
    alarm(handle, name, &fault).await;
    Err(ApiError::log(&fault))
}

/// A log that was changed or copied is evidence itself. Up to a rate: gateways come again.
async fn alarm(handle: &ControlHandle, name: &GatewayName, fault: &LogFault) {
    tracing::error!(gateway = %name, %fault, "a gateway gets no authority");
    if !fault.is_alarm() || handle.shared().denials.spend(handle.shared().clock.since_boot()).is_none() {
        return;
    }
    if let Err(error) = handle.note_log(name.clone(), fault.to_string()).await {
        tracing::error!(%error, "a fault of a gateway's log could not be recorded");
    }
}

/// Hears a gateway.
struct Reader {
    shared: Arc<Shared>,
    name: GatewayName,
    session: u64,
    key: VerifierKey,
}

impl Reader {
    /// Until it has nothing more to say, or says what it should not.
    async fn run(self, mut incoming: Streaming<v1::GatewayMessage>, renewals: watch::Sender<Option<v1::Renew>>) {
        while let Some(Ok(message)) = incoming.next().await {
            match message.message {
                Some(Up::Applied(signed)) => {
                    let Some(applied) = self.stated(&signed) else {
                        tracing::error!(gateway = %self.name, "an acknowledgement is not signed by the gateway's key");
                        break;
                    };
                    if applied.epoch == self.shared.ring.head().epoch {
                        let stated = Stated { applied, signed, key: self.key.to_string() };
                        self.shared.fleet.applied(&self.name, self.session, stated);
                    }
                }
                // Only the latest matters: an answer to an older one would be older authority.
                Some(Up::Renew(renew)) if renew.nonce.len() > MAX_NONCE_BYTES => break,
                Some(Up::Renew(renew)) => drop(renewals.send_replace(Some(renew))),
                Some(Up::Hello(_)) | None => break,
            }
        }
    }

    fn stated(&self, signed: &v1::Signed) -> Option<v1::Applied> {
        if !self.key.stated(StatementKind::Applied, &signed.payload, &signed.signature) {
            return None;
        }
        let applied: v1::Applied = prost::Message::decode(signed.payload.as_slice()).ok()?;
        (applied.log == self.key.name().as_str()).then_some(applied)
    }
}

struct Session {
    shared: Arc<Shared>,
    handle: ControlHandle,
    authority: AuthorityKey,
    name: GatewayName,
    id: u64,
    /// Of its log, and of what it states.
    key: VerifierKey,
    /// The revision that it came with, 0 for none of this epoch.
    holds: u64,
    sender: mpsc::Sender<Result<v1::ControlMessage, Status>>,
    stop: watch::Receiver<bool>,
}

/// Why a session ends.
struct Ended;

impl Session {
    async fn run(
        &self,
        hello: &v1::Hello,
        mut renewals: watch::Receiver<Option<v1::Renew>>,
        replaced: oneshot::Receiver<()>,
    ) {
        let mut stop = self.stop.clone();
        let mut head = self.shared.ring.watch();
        // Lag is counted on a clock that nobody sets back.
        let began = self.shared.clock.since_boot();
        let work = async {
            let mut cursor = self.resume(hello).await?;
            let mut due = false;
            loop {
                head.mark_unchanged();
                cursor = self.catch_up(cursor).await?;
                if std::mem::take(&mut due) {
                    let renew = renewals.borrow_and_update().clone();
                    if let Some(renew) = renew {
                        // An authority never overtakes the changes up to its revision: they went first, on this stream.
                        self.answer(&renew, cursor, began).await?;
                    }
                }
                tokio::select! {
                    changed = renewals.changed() => {
                        due = true;
                        changed.map_err(|_| Ended)?;
                    }
                    changed = head.changed() => changed.map_err(|_| Ended)?,
                }
            }
        };
        tokio::select! {
            () = super::super::stopped(&mut stop) => {
                let _ = self.sender.try_send(Err(ApiError::stopping().into()));
            }
            () = self.sender.closed() => {}
            _ = replaced => {
                let _ = self.sender.try_send(Err(self.ended().into()));
            }
            ended = work => {
                let ended: Result<(), Ended> = ended;
                drop(ended);
            }
        }
    }

    /// What a stream that is told to end tells its gateway.
    fn ended(&self) -> ApiError {
        match in_good_standing(&self.shared, &self.name) {
            Ok(()) => ApiError::replaced(),
            Err(denied) => denied,
        }
    }

    /// Where to go on from: the gateway's own revision if the changes since are at hand, otherwise a snapshot's.
    async fn resume(&self, hello: &v1::Hello) -> Result<u64, Ended> {
        let head = self.shared.ring.head();
        if hello.revision > 0 && hello.epoch == head.epoch && self.shared.ring.after(hello.revision) != Next::Behind {
            return Ok(hello.revision);
        }
        self.snapshot(if hello.revision == 0 { "new" } else { "away" }).await
    }

    async fn snapshot(&self, cause: &str) -> Result<u64, Ended> {
        self.shared.metrics.resyncs.with_label_values(&[cause]).inc();
        let model = self.shared.model.load_full();
        let head = Head { epoch: model.epoch, revision: model.revision };
        let grants = model.grants.values().map(|kept| encode::grant(&kept.value, kept.revision));
        let tokens = model.tokens.values().map(|kept| encode::token(&kept.value)).collect();
        let parts: Box<dyn Iterator<Item = v1::SnapshotPart> + Send> =
            Box::new(ring::parts(head, encode::gateway_catalog(&model), grants, tokens));
        for part in parts {
            self.send(Down::Snapshot(part)).await?;
        }
        Ok(head.revision)
    }

    /// Sends all that is after the cursor, in as few deltas as may be.
    async fn catch_up(&self, mut cursor: u64) -> Result<u64, Ended> {
        loop {
            let epoch = self.shared.ring.head().epoch;
            match self.shared.ring.after(cursor) {
                Next::Current => return Ok(cursor),
                Next::Changes { revision, changes } => {
                    self.send(Down::Delta(v1::Delta { epoch, revision, changes })).await?;
                    cursor = revision;
                }
                Next::Behind => cursor = self.snapshot("slow").await?,
            }
        }
    }

    async fn send(&self, message: Down) -> Result<(), Ended> {
        let message = Ok(v1::ControlMessage { message: Some(message) });
        match tokio::time::timeout(SEND_PATIENCE, self.sender.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended),
            Err(_) => {
                tracing::warn!(gateway = %self.name, "a gateway does not read: its stream ends");
                Err(Ended)
            }
        }
    }
}
