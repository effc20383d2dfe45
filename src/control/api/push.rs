//! The stream to a gateway: what it misses, then what changes, and answers to its renewals.
//!
//! A session has a cursor into the ring and no queue. Two tasks: one reads what the gateway says, the other sends; so a
//! gateway that does not read is still heard, and one that does not read long enough is let go. Knows messages and
//! revisions; what the objects in them mean is for the gateway.

mod claim;
pub(super) mod follow;
mod hello;
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
use super::super::fleet::Stated;
use super::super::logs::LogFault;
use super::super::record::{LogRecord, Standing};
use super::super::ring::Head;
use super::super::trust::Held;
use super::ApiError;
use crate::domain::name::GatewayName;
use crate::evidence::checkpoint::VerifierKey;
use crate::evidence::statement::StatementKind;
use crate::wire::{MAX_GATEWAY_MESSAGE_BYTES, v1};
use v1::control_message::Message as Down;
use v1::gateway_message::Message as Up;

/// Messages between us and the transport: what is sent is sent when the gateway has room.
const MAX_IN_FLIGHT: usize = 4;
/// How long a message may wait for a gateway that does not read: longer than any pause that is not a fault.
const SEND_PATIENCE: Duration = Duration::from_secs(15);
/// How long a gateway may take to say hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// Longest statement that is heard: an acknowledgement with as many calls as one lists is not half of it.
const MAX_STATEMENT_BYTES: usize = MAX_GATEWAY_MESSAGE_BYTES / 2;
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
    /// Which authorities are trusted.
    pub(super) trust: Arc<Held>,
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
        let shown = request.peer_certs().and_then(|chain| chain.first().cloned());
        let mut incoming = request.into_inner();
        let hello = match tokio::time::timeout(HELLO_PATIENCE, incoming.message()).await {
            Ok(message) => message?,
            Err(_) => return Err(ApiError::invalid("no hello in time").into()),
        };
        let Some(v1::GatewayMessage { message: Some(Up::Hello(hello)) }) = hello else {
            return Err(ApiError::invalid("the first message must be a hello").into());
        };
        let shared = self.handle.shared();
        in_good_standing(shared, &name)?;
        plausible(&hello, shared.ring.head())?;
        let greeted = hello::Greeted::new(&self.handle, name, hello).await?;
        let (sender, receiver) = mpsc::channel(MAX_IN_FLIGHT);
        // There is room: it is the first.
        let _ = sender.try_send(Ok(v1::ControlMessage { message: Some(Down::Welcome(greeted.welcome())) }));
        let (authority, trust, stop) = (self.authority.clone(), self.trust.clone(), self.stop.clone());
        tokio::spawn(async move {
            let (session, holds, replaced) =
                match greeted.attached(&mut incoming, (authority, trust), sender.clone(), stop).await {
                    Ok(attached) => attached,
                    Err(error) => {
                        let _ = sender.try_send(Err(error.into()));
                        return;
                    }
                };
            drop(sender);
            let issued_by = match shown {
                Some(certificate) => session.trust.label_of(&certificate).await,
                None => None,
            };
            session.shared.fleet.came_with(&session.name, session.id, issued_by);
            let (renewals, renewed) = watch::channel(None);
            let reading = tokio::spawn(session.reader().run(incoming, renewals));
            session.run(holds, renewed, replaced).await;
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

/// A log that was changed or copied is evidence itself. Up to a rate: gateways come again.
pub(super) async fn alarm(handle: &ControlHandle, name: &GatewayName, fault: &LogFault, shown: Shown) {
    tracing::error!(gateway = %name, %fault, "a gateway gets no authority");
    if !fault.is_alarm() {
        return;
    }
    if fault.is_another_process() {
        handle.shared().fleet.doubt(name);
    }
    let Some(suppressed) = handle.shared().budgets.alarm(name, shown, handle.shared().clock.since_boot()) else {
        return;
    };
    let text = match suppressed {
        0 => fault.to_string(),
        count => format!("{fault} (and {count} times before, not recorded)"),
    };
    if let Err(error) = handle.note_log(name.clone(), text, fault.is_another_process()).await {
        tracing::error!(%error, "a fault of a gateway's log could not be recorded");
    }
}

/// By what somebody showed to be a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shown {
    /// Its certificate: whoever has it makes as much noise as they like.
    Certificate,
    /// The key of its log as well.
    EvidenceKey,
}

/// Hears a gateway.
struct Reader {
    shared: Arc<Shared>,
    name: GatewayName,
    session: u64,
    key: VerifierKey,
    challenge: hello::Challenge,
}

impl Reader {
    /// Until it has nothing more to say, or says what it should not.
    async fn run(self, mut incoming: Streaming<v1::GatewayMessage>, renewals: watch::Sender<Option<v1::Renew>>) {
        while let Some(Ok(message)) = incoming.next().await {
            let heard = match message.message {
                Some(Up::Applied(signed)) => self.applied(signed),
                // Only the latest matters: an answer to an older one would be older authority.
                Some(Up::Renew(signed)) => self.renewal(&signed).map(|renew| drop(renewals.send_replace(Some(renew)))),
                Some(Up::Hello(_) | Up::Attach(_)) | None => None,
            };
            if heard.is_none() {
                tracing::error!(gateway = %self.name, "what a gateway says is not signed by its key, or out of place");
                return;
            }
        }
    }

    fn applied(&self, signed: v1::Signed) -> Option<()> {
        let payload = stated(&self.key, StatementKind::Applied, &signed)?;
        let applied: v1::Applied = prost::Message::decode(payload).ok()?;
        if applied.log != self.key.name().as_str() {
            return None;
        }
        let model = self.shared.model.load();
        if applied.epoch == model.epoch {
            // What is not published yet nobody can have enforced.
            if applied.revision > model.revision {
                return None;
            }
            let stated = Stated { applied, signed, key: self.key.to_string() };
            self.shared.fleet.applied(&self.name, self.session, stated);
        }
        Some(())
    }

    fn renewal(&self, signed: &v1::Signed) -> Option<v1::Renew> {
        let payload = stated(&self.key, StatementKind::Renewal, signed)?;
        let renew: v1::Renew = prost::Message::decode(payload).ok()?;
        (renew.challenge == self.challenge && renew.nonce.len() <= MAX_NONCE_BYTES).then_some(renew)
    }
}

/// What the holder of `key` said.
pub(super) fn stated<'s>(key: &VerifierKey, kind: StatementKind, signed: &'s v1::Signed) -> Option<&'s [u8]> {
    let is_short = signed.payload.len() <= MAX_STATEMENT_BYTES;
    (is_short && key.stated(kind, &signed.payload, &signed.signature)).then_some(signed.payload.as_slice())
}

struct Session {
    shared: Arc<Shared>,
    handle: ControlHandle,
    authority: AuthorityKey,
    trust: Arc<Held>,
    name: GatewayName,
    id: u64,
    /// Of its log, and of what it states.
    key: VerifierKey,
    challenge: hello::Challenge,
    sender: mpsc::Sender<Result<v1::ControlMessage, Status>>,
    stop: watch::Receiver<bool>,
}

/// Why a session ends.
struct Ended;

impl Session {
    fn reader(&self) -> Reader {
        Reader {
            shared: self.shared.clone(),
            name: self.name.clone(),
            session: self.id,
            key: self.key.clone(),
            challenge: self.challenge,
        }
    }

    /// `holds` is the revision that the gateway came with, 0 for none of this epoch.
    async fn run(&self, holds: u64, mut renewals: watch::Receiver<Option<v1::Renew>>, replaced: oneshot::Receiver<()>) {
        let mut stop = self.stop.clone();
        let mut head = self.shared.ring.watch();
        // Lag is counted on a clock that nobody sets back.
        let began = self.shared.clock.since_boot();
        let work = async {
            let mut sent = self.resume(holds).await?;
            // A renewal whose answer is being stored: what changes meanwhile goes down first.
            let mut storing = futures_util::future::OptionFuture::default();
            let mut is_storing = false;
            loop {
                head.mark_unchanged();
                sent = self.catch_up(sent).await?;
                tokio::select! {
                    stored = &mut storing, if is_storing => {
                        is_storing = false;
                        if let Some(asked) = stored.flatten() {
                            // An authority never overtakes the changes up to its revision: they went first, on this stream.
                            self.answer(asked, sent.cursor).await?;
                        }
                    }
                    changed = renewals.changed(), if !is_storing => {
                        changed.map_err(|_| Ended)?;
                        let renew = renewals.borrow_and_update().clone();
                        let Some(renew) = renew else { continue };
                        if let Some(asked) = self.look(&renew, sent.cursor, began).await? {
                            storing = Some(Box::pin(self.stored(asked, renewals.clone()))).into();
                            is_storing = true;
                        }
                    }
                    changed = head.changed() => changed.map_err(|_| Ended)?,
                    () = self.quiet_over(&sent) => self.tell_nothing(&mut sent).await?,
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
