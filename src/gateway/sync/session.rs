//! One stream, from its hello to its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::connect::{ConnectError, PING_PATIENCE};
use super::enforce::{FollowError, Follower};
use super::log::LogShown;
use super::outbox::Outbox;
use super::{Parts, RENEW_INTERVAL, Trust};
use crate::domain::Timestamp;
use crate::domain::name::GatewayName;
use crate::evidence::EvidenceLog;
use crate::evidence::checkpoint::NoteError;
use crate::evidence::cosignature::CosignerKey;
use crate::evidence::statement::StatementKind;
use crate::gateway::authority::{Answer, AnswerError, AuthorityClock, Committed, Nonce};
use crate::gateway::meter::Meter;
use crate::gateway::metrics::Metrics;
use crate::wire::v1;
use crate::wire::v1::grant_stream_client::GrantStreamClient;
use v1::control_message::Message as Down;
use v1::gateway_message::Message as Up;

/// Messages between us and the transport. One more waits for the control plane to read.
const MAX_IN_FLIGHT: usize = 64;
/// Of these, left free by acknowledgements: there may be thousands after a pause, and a renewal waits behind none that is
/// not on its way.
const FOR_RENEWALS: usize = 16;
/// Renewals whose answers may still come: see `authority`.
const MAX_ASKED: usize = 8;

/// Renewals without an answer past which calls that wait for uses send no more: those of every interval go on.
const MAX_UNANSWERED: usize = 3;

/// How long an answer may take before more uses are asked for without it.
const ANSWER_EXPECTED: Duration = Duration::from_millis(500);

/// How long a stream lasts whose connection is missed later than others.
const ANEW_WITHIN: Duration = Duration::from_secs(30);

/// Time for a disk to take what this gateway has seen, before uses are taken that hang on it.
const REMEMBERED_WITHIN: Duration = Duration::from_millis(500);

/// Why a stream is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("the control plane cannot be reached: {0}")]
    Connect(#[from] ConnectError),
    #[error("{}", status_text(.0))]
    Status(Box<tonic::Status>),
    #[error("the control plane closed it")]
    Closed,
    #[error("the control plane does not read it")]
    Unread,
    #[error("what came cannot be applied, and a snapshot is needed: {0}")]
    Follow(#[from] FollowError),
    #[error(
        "the control plane's store is at commit {now} of epoch {epoch}, and this gateway has seen {seen} of epoch {seen_epoch}: \
         its store is an old copy; put the newer one back, or declare it restored (`portcullis control restored`)",
        now = .now.revision, epoch = .now.epoch, seen = .seen.revision, seen_epoch = .seen.epoch
    )]
    Restored { seen: Committed, now: Committed },
    #[error("its authority is refused: {0}")]
    Refused(AnswerError),
    #[error("an authority is not signed by a key in this gateway's `keys_file`, or is another gateway's")]
    Forged,
    #[error("the evidence key: {0}")]
    Key(#[from] NoteError),
    #[error("no randomness")]
    Random,
    #[error("this gateway has another certificate")]
    Renewed,
    #[error("it was made while the control plane was slow, and would be missed too late")]
    Patient,
}

impl Cause {
    /// Whether nobody listens where the control plane should be.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self, Self::Connect(error) if error.is_refused())
    }

    /// Whether it is this gateway's own will, and nothing is wrong.
    pub(super) const fn is_own(&self) -> bool {
        matches!(self, Self::Renewed | Self::Patient)
    }

    /// Whether the connection failed, and nobody said why.
    fn is_transport(&self) -> bool {
        matches!(self, Self::Status(status) if std::error::Error::source(&**status).is_some())
    }
}

fn status_text(status: &tonic::Status) -> String {
    let text = format!("the control plane ended it: {}: {}", status.code(), status.message());
    // A certificate that is not taken is told after the handshake, as whatever is asked first fails.
    if super::connect::is_parted(status) { format!("{text}: {}", super::connect::PARTED) } else { text }
}

impl From<tonic::Status> for Cause {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// How a stream ended.
#[derive(Debug)]
pub(super) struct SessionEnd {
    /// Whether there was a connection that failed.
    pub(super) failed: bool,
    /// Whether it brought authority.
    pub(super) renewed: bool,
    pub(super) cause: Cause,
}

/// One stream.
pub(super) struct Session<'f> {
    clock: Arc<AuthorityClock>,
    metrics: Arc<Metrics>,
    name: GatewayName,
    keys: Vec<CosignerKey>,
    log: Arc<EvidenceLog>,
    shown: LogShown,
    follower: &'f mut Follower,
    outbox: &'f Outbox,
    /// Renewals that wait for their answer.
    asked: VecDeque<Asked>,
    /// Position of the next acknowledgement to send.
    position: u64,
    /// Whether acknowledgements wait for room.
    is_behind: bool,
    /// What renewals of this stream show; `None` before the control plane welcomed us: nothing is said before.
    challenge: Option<Vec<u8>>,
    meter: Arc<Meter>,
    trust: Arc<Trust>,
    /// Renewals of this stream, counted.
    renewals: u64,
    renewed: bool,
    /// Of the connection, to a ping.
    patience: Duration,
    /// When the stream is to be opened anew, with the usual patience.
    anew: Option<Instant>,
}

/// A renewal that waits for its answer.
struct Asked {
    nonce: Nonce,
    /// What had been acknowledged before it.
    position: u64,
    /// Records under the checkpoint that it showed.
    size: u64,
    /// Its number on the stream, and when it was sent, since boot.
    number: u64,
    sent: Duration,
}

impl<'f> Session<'f> {
    pub(super) fn new(
        parts: &Parts,
        follower: &'f mut Follower,
        outbox: &'f Outbox,
        (keys, patience): (Vec<CosignerKey>, Duration),
    ) -> Self {
        Self {
            clock: parts.clock.clone(),
            metrics: parts.metrics.clone(),
            name: parts.name.clone(),
            keys,
            log: parts.log.clone(),
            shown: LogShown::new(parts.log.clone()),
            follower,
            outbox,
            asked: VecDeque::new(),
            position: 0,
            is_behind: false,
            challenge: None,
            meter: parts.meter.clone(),
            trust: parts.trust.clone(),
            renewals: 0,
            renewed: false,
            patience,
            anew: None,
        }
    }

    pub(super) async fn run(mut self, client: &mut GrantStreamClient<Channel>) -> SessionEnd {
        let cause = match self.follow(client).await {
            Ok(never) => match never {},
            Err(cause) => cause,
        };
        SessionEnd { failed: cause.is_transport(), renewed: self.renewed, cause }
    }

    async fn follow(&mut self, client: &mut GrantStreamClient<Channel>) -> Result<std::convert::Infallible, Cause> {
        let (up, messages) = mpsc::channel(MAX_IN_FLIGHT);
        let (epoch, revision) = self.follower.begin();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let evidence_key = self.log.verifier_key().to_string();
        let hello = v1::Hello { epoch, revision, log_origin: self.origin(), version, evidence_key };
        send(&up, Up::Hello(hello))?;
        let mut incoming = client.attach(ReceiverStream::new(messages)).await?.into_inner();
        self.metrics.stream(true);
        tracing::info!(epoch, revision, "attached to the control plane");
        self.position = self.outbox.begin();
        self.meter.begin();
        let meter = self.meter.clone();
        let mut renewals = tokio::time::interval(RENEW_INTERVAL);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (clock, trust) = (self.clock.clone(), self.trust.clone());
        loop {
            let anew = self.anew;
            tokio::select! {
                message = incoming.message() => match message? {
                    Some(v1::ControlMessage { message: Some(Down::Welcome(welcome)) }) => {
                        self.welcome(&up, welcome)?;
                        self.renew(&up)?;
                    }
                    Some(message) => self.take(message, &up).await?,
                    None => return Err(Cause::Closed),
                },
                _ = renewals.tick() => self.renew(&up)?,
                () = clock.due() => self.renew(&up)?,
                () = trust.renewed.notified() => return Err(Cause::Renewed),
                () = until(anew) => return Err(Cause::Patient),
                () = self.shown.read() => self.renew(&up)?,
                () = meter.wanted() => self.ask_for_uses(&up)?,
                () = self.outbox.changed.notified() => self.acknowledge(&up)?,
                () = room(&up), if self.is_behind => self.acknowledge(&up)?,
            }
        }
    }

    /// The first welcome asks to show that the stream is ours; a later one tells how much is cosigned.
    fn welcome(&mut self, up: &mpsc::Sender<v1::GatewayMessage>, welcome: v1::Welcome) -> Result<(), Cause> {
        self.committed(welcome.epoch, welcome.committed)?;
        self.shown.welcome(welcome.cosigned_size);
        if self.challenge.is_some() {
            return Ok(());
        }
        let attach = v1::Attach { challenge: welcome.challenge.clone(), log: self.origin() };
        send(up, Up::Attach(self.signed(StatementKind::Attach, &attach)?))?;
        self.challenge = Some(welcome.challenge);
        Ok(())
    }

    /// Nobody is followed whose store forgot what this gateway has seen of it.
    fn committed(&self, epoch: u64, revision: u64) -> Result<(), Cause> {
        let now = Committed { epoch, revision };
        self.clock.memory().saw_committed(now).map_err(|seen| Cause::Restored { seen, now })
    }

    fn signed(&self, kind: StatementKind, message: &impl prost::Message) -> Result<v1::Signed, Cause> {
        let payload = message.encode_to_vec();
        let signature = self.log.state(kind, &payload)?;
        Ok(v1::Signed { payload, signature })
    }

    async fn take(&mut self, message: v1::ControlMessage, up: &mpsc::Sender<v1::GatewayMessage>) -> Result<(), Cause> {
        match message.message {
            Some(Down::Snapshot(part)) => self.follower.part(part).await?,
            Some(Down::Delta(delta)) => self.follower.delta(delta).await?,
            Some(Down::Authority(signed)) => {
                self.authority(&signed).await?;
                // What calls wait for since, and what was passed over.
                self.ask_for_uses(up)?;
            }
            Some(Down::Welcome(_)) | None => self.follower.unknown()?,
        }
        Ok(())
    }

    /// The authority that a signed message is, for this gateway.
    fn stated(&self, signed: &v1::Signed) -> Result<v1::Authority, Cause> {
        let holds =
            |key: &CosignerKey| key.verifier().stated(StatementKind::Authority, &signed.payload, &signed.signature);
        if !self.keys.iter().any(holds) {
            return Err(Cause::Forged);
        }
        let authority: v1::Authority = prost::Message::decode(signed.payload.as_slice()).map_err(|_| Cause::Forged)?;
        if authority.gateway == self.name.as_str() { Ok(authority) } else { Err(Cause::Forged) }
    }

    async fn authority(&mut self, signed: &v1::Signed) -> Result<(), Cause> {
        let mut authority = self.stated(signed)?;
        self.committed(authority.epoch, authority.committed)?;
        let answer = Answer {
            epoch: authority.epoch,
            revision: authority.revision,
            time: Timestamp::from_unix_micros(authority.time_unix_us),
        };
        match self.clock.answered(&authority.nonce, &answer) {
            Ok(()) => {}
            Err(error @ AnswerError::Unasked) => {
                tracing::warn!(%error, "an answer does not count");
                return Ok(());
            }
            Err(error @ AnswerError::Behind(..)) => return Err(Cause::Refused(error)),
        }
        if !std::mem::replace(&mut self.renewed, true) {
            self.anew = lasts(self.patience).map(|lasts| Instant::now() + lasts);
        }
        self.metrics.renewed();
        self.follower.govern(authority.policy_in_force);
        self.trust.tell(&authority.trust);
        let place = self.asked.iter().position(|asked| asked.nonce.as_slice() == authority.nonce);
        if let Some(asked) = place.and_then(|place| self.asked.drain(..=place).next_back()) {
            self.outbox.confirm(asked.position);
            let brings_uses = authority.allotments.iter().any(|allotment| allotment.uses > 0);
            if brings_uses && !remembered(&self.clock).await {
                // Not taken, it is what never came: the next stream says so.
                authority.allotments.clear();
            }
            self.meter.answer(&authority, asked.number, asked.sent);
            self.shown.cosigned(asked.size, &authority.cosignature);
        }
        Ok(())
    }

    fn renew(&mut self, up: &mpsc::Sender<v1::GatewayMessage>) -> Result<(), Cause> {
        let Some(challenge) = self.challenge.clone() else { return Ok(()) };
        let mut nonce: Nonce = [0; 16];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Cause::Random)?;
        let (epoch, applied_revision) = self.outbox.enforced();
        let nonce_shown = nonce.to_vec();
        let mut renew = v1::Renew { nonce: nonce_shown, epoch, applied_revision, challenge, ..v1::Renew::default() };
        let Some(size) = self.shown.show(&mut renew) else { return self.acknowledge(up) };
        let (number, sent) = (self.renewals, self.clock.since_boot());
        self.renewals += 1;
        self.meter.claim(&mut renew, number, sent);
        if self.asked.len() >= MAX_ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked { nonce, position: self.position, size, number, sent });
        let signed = self.signed(StatementKind::Renewal, &renew)?;
        self.clock.sent(nonce);
        send(up, Up::Renew(signed))?;
        self.acknowledge(up)
    }

    /// At once, unless an answer is about to come: then with the next renewal.
    fn ask_for_uses(&mut self, up: &mpsc::Sender<v1::GatewayMessage>) -> Result<(), Cause> {
        let now = self.clock.since_boot();
        let soon = now.saturating_sub(ANSWER_EXPECTED);
        let is_due = self.asked.len() < MAX_UNANSWERED && self.asked.back().is_none_or(|asked| asked.sent <= soon);
        if is_due && self.meter.wants(now) { self.renew(up) } else { Ok(()) }
    }

    fn origin(&self) -> String {
        self.log.verifier_key().name().to_string()
    }

    fn acknowledge(&mut self, up: &mpsc::Sender<v1::GatewayMessage>) -> Result<(), Cause> {
        if self.challenge.is_none() {
            return Ok(());
        }
        // What finds no room goes when there is some. Nothing here may wait for a control plane that does not read.
        while up.capacity() > FOR_RENEWALS
            && let Some((applied, next)) = self.outbox.take(self.position)
        {
            let signed = self.signed(StatementKind::Applied, &v1::Applied { log: self.origin(), ..applied })?;
            send(up, Up::Applied(signed))?;
            self.position = next;
        }
        self.is_behind = self.outbox.has(self.position);
        Ok(())
    }
}

/// Whether it is on disk in time what this gateway has seen of the store, so that after a restart too it follows none that
/// forgot what it gave. The stream does not wait for a disk that hangs.
async fn remembered(clock: &Arc<AuthorityClock>) -> bool {
    let clock = clock.clone();
    let writing = tokio::task::spawn_blocking(move || clock.memory().write(clock.wall()));
    match tokio::time::timeout(REMEMBERED_WITHIN, writing).await {
        Ok(Ok(Ok(()))) => true,
        Ok(Ok(Err(error))) => {
            tracing::error!(%error, "what this gateway has seen could not be written: uses are not taken");
            false
        }
        Ok(Err(_)) | Err(_) => {
            tracing::error!("what this gateway has seen is not written in time: uses are not taken");
            false
        }
    }
}

/// For how long a stream is good over a connection that is given this long for a ping, once it brought authority: without end
/// where that is no longer than ever.
pub(super) fn lasts(patience: Duration) -> Option<Duration> {
    (patience > PING_PATIENCE).then(|| super::jittered(ANEW_WITHIN))
}

/// Until a moment; where there is none, without end.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Until acknowledgements find room, or there is nobody to send to.
async fn room(up: &mpsc::Sender<v1::GatewayMessage>) {
    let _ = up.reserve_many(FOR_RENEWALS + 1).await;
}

fn send(up: &mpsc::Sender<v1::GatewayMessage>, message: Up) -> Result<(), Cause> {
    up.try_send(v1::GatewayMessage { message: Some(message) }).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => Cause::Unread,
        mpsc::error::TrySendError::Closed(_) => Cause::Closed,
    })
}
