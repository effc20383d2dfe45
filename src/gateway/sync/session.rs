//! One stream, from its hello to its end.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::connect::ConnectError;
use super::enforce::{FollowError, Follower};
use super::outbox::Outbox;
use super::{Checkpoints, Parts, RENEW_INTERVAL};
use crate::domain::Timestamp;
use crate::gateway::authority::{Answer, AnswerError, AuthorityClock, Nonce};
use crate::gateway::metrics::Metrics;
use crate::wire::v1;
use crate::wire::v1::grant_stream_client::GrantStreamClient;
use v1::control_message::Message as Down;
use v1::gateway_message::Message as Up;

/// Messages between us and the transport. One more waits for the control plane to read.
const MAX_IN_FLIGHT: usize = 64;
/// Renewals whose answers may still come: see `authority`.
const MAX_ASKED: usize = 8;

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
    #[error("its authority is refused: {0}")]
    Refused(AnswerError),
    #[error("no randomness")]
    Random,
}

fn status_text(status: &tonic::Status) -> String {
    format!("the control plane ended it: {}: {}", status.code(), status.message())
}

impl From<tonic::Status> for Cause {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// How a stream ended.
#[derive(Debug)]
pub(super) struct SessionEnd {
    /// Whether it brought authority.
    pub(super) renewed: bool,
    pub(super) cause: Cause,
}

/// One stream.
pub(super) struct Session<'f> {
    clock: Arc<AuthorityClock>,
    metrics: Arc<Metrics>,
    checkpoints: Checkpoints,
    origin: String,
    follower: &'f mut Follower,
    outbox: &'f Outbox,
    /// Renewals that wait for their answer, and what had been acknowledged before each.
    asked: VecDeque<(Nonce, u64)>,
    /// Position of the next acknowledgement to send.
    position: u64,
    renewed: bool,
}

impl<'f> Session<'f> {
    pub(super) fn new(parts: &Parts, follower: &'f mut Follower, outbox: &'f Outbox) -> Self {
        Self {
            clock: parts.clock.clone(),
            metrics: parts.metrics.clone(),
            checkpoints: parts.checkpoints.clone(),
            origin: parts.journal.origin().as_str().to_owned(),
            follower,
            outbox,
            asked: VecDeque::new(),
            position: 0,
            renewed: false,
        }
    }

    pub(super) async fn run(mut self, client: &mut GrantStreamClient<Channel>) -> SessionEnd {
        let cause = match self.follow(client).await {
            Ok(never) => match never {},
            Err(cause) => cause,
        };
        SessionEnd { renewed: self.renewed, cause }
    }

    async fn follow(&mut self, client: &mut GrantStreamClient<Channel>) -> Result<std::convert::Infallible, Cause> {
        let (up, messages) = mpsc::channel(MAX_IN_FLIGHT);
        let (epoch, revision) = self.follower.begin();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let hello = v1::Hello { epoch, revision, log_origin: self.origin.clone(), version };
        send(&up, Up::Hello(hello))?;
        let mut incoming = client.attach(ReceiverStream::new(messages)).await?.into_inner();
        self.metrics.stream(true);
        tracing::info!(epoch, revision, "attached to the control plane");
        self.position = self.outbox.begin();
        let mut renewals = tokio::time::interval(RENEW_INTERVAL);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let clock = self.clock.clone();
        self.acknowledge(&up)?;
        loop {
            tokio::select! {
                message = incoming.message() => match message? {
                    Some(message) => self.take(message).await?,
                    None => return Err(Cause::Closed),
                },
                _ = renewals.tick() => self.renew(&up)?,
                () = clock.due() => self.renew(&up)?,
                () = self.outbox.changed.notified() => self.acknowledge(&up)?,
            }
        }
    }

    async fn take(&mut self, message: v1::ControlMessage) -> Result<(), Cause> {
        match message.message {
            Some(Down::Snapshot(part)) => self.follower.part(part).await?,
            Some(Down::Delta(delta)) => self.follower.delta(delta).await?,
            Some(Down::Authority(authority)) => self.authority(&authority)?,
            None => self.follower.unknown()?,
        }
        Ok(())
    }

    fn authority(&mut self, authority: &v1::Authority) -> Result<(), Cause> {
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
        self.renewed = true;
        self.metrics.renewed();
        if let Some(place) = self.asked.iter().position(|(nonce, _)| nonce.as_slice() == authority.nonce) {
            let confirmed = self.asked.drain(..=place).next_back();
            confirmed.into_iter().for_each(|(_, position)| self.outbox.confirm(position));
        }
        Ok(())
    }

    fn renew(&mut self, up: &mpsc::Sender<v1::GatewayMessage>) -> Result<(), Cause> {
        let mut nonce: Nonce = [0; 16];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Cause::Random)?;
        let (epoch, applied_revision) = self.outbox.enforced();
        let checkpoint = (self.checkpoints)();
        if self.asked.len() >= MAX_ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back((nonce, self.position));
        self.clock.sent(nonce);
        let renew = v1::Renew { nonce: nonce.to_vec(), epoch, applied_revision, checkpoint, uses_wanted: Vec::new() };
        send(up, Up::Renew(renew))?;
        self.acknowledge(up)
    }

    fn acknowledge(&mut self, up: &mpsc::Sender<v1::GatewayMessage>) -> Result<(), Cause> {
        while let Some((applied, next)) = self.outbox.at(self.position) {
            match send(up, Up::Applied(applied)) {
                Ok(()) => self.position = next,
                // With the next renewal. Nothing here may wait for a control plane that does not read.
                Err(Cause::Unread) => break,
                Err(cause) => return Err(cause),
            }
        }
        Ok(())
    }
}

fn send(up: &mpsc::Sender<v1::GatewayMessage>, message: Up) -> Result<(), Cause> {
    up.try_send(v1::GatewayMessage { message: Some(message) }).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => Cause::Unread,
        mpsc::error::TrySendError::Closed(_) => Cause::Closed,
    })
}
