//! How a stream begins: a hello, a welcome with a challenge, and the proof that who came holds the gateway's evidence key.
//!
//! A certificate alone takes no gateway's place: without the key nothing is sent down, and the stream that is there goes on.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Status, Streaming};

use super::super::super::actor::ControlHandle;
use super::super::super::authority::AuthorityKey;
use super::super::super::logs::{self, LogFault};
use super::super::super::model::Model;
use super::super::super::plan::Refused;
use super::super::super::trust::Held;
use super::super::ApiError;
use super::{HELLO_PATIENCE, Session, Shown, Up, alarm, in_good_standing, stated};
use crate::domain::name::GatewayName;
use crate::evidence::checkpoint::VerifierKey;
use crate::evidence::statement::StatementKind;
use crate::wire::v1;

/// What a gateway signs to show that a stream is its own.
pub(super) type Challenge = [u8; 16];

/// What a gateway is told of the store, and to show.
pub(super) fn welcome(model: &Model, cosigned_size: u64, challenge: &Challenge) -> v1::Welcome {
    let Model { epoch, committed, .. } = *model;
    v1::Welcome { cosigned_size, challenge: challenge.to_vec(), epoch, committed }
}

/// A gateway that said hello, and has not shown yet that it is one.
pub(super) struct Greeted {
    handle: ControlHandle,
    name: GatewayName,
    hello: v1::Hello,
    key: VerifierKey,
    cosigned_size: u64,
    challenge: Challenge,
}

impl Greeted {
    /// # Errors
    /// When the log that it comes with is not one of the gateway's, or not its latest.
    pub(super) async fn new(handle: &ControlHandle, name: GatewayName, hello: v1::Hello) -> Result<Self, ApiError> {
        let mut challenge = [0; 16];
        aws_lc_rs::rand::fill(&mut challenge).map_err(|_| Refused::Unavailable)?;
        let now = handle.shared().clock.now();
        let opened = logs::shown(&handle.model(), now, &name, &hello.evidence_key).map(|plan| plan.answer);
        let known = opened.and_then(|cosigned_size| {
            let key = hello.evidence_key.parse().map_err(|_| LogFault::Key(name.clone()))?;
            Ok((key, cosigned_size))
        });
        match known {
            Ok((key, cosigned_size)) => Ok(Self { handle: handle.clone(), name, hello, key, cosigned_size, challenge }),
            Err(fault) => {
                alarm(handle, &name, &fault, Shown::Certificate).await;
                Err(ApiError::log(&fault))
            }
        }
    }

    pub(super) fn welcome(&self) -> v1::Welcome {
        welcome(&self.handle.model(), self.cosigned_size, &self.challenge)
    }

    /// Once it has shown that it holds the key: its log is taken note of, and its stream is the one that counts. With the
    /// revision that it holds of this epoch, and what wakes when the stream is to end.
    ///
    /// # Errors
    /// When it shows something else, or was expelled meanwhile.
    pub(super) async fn attached(
        self,
        incoming: &mut Streaming<v1::GatewayMessage>,
        (authority, trust): (AuthorityKey, Arc<Held>),
        sender: mpsc::Sender<Result<v1::ControlMessage, Status>>,
        stop: watch::Receiver<bool>,
    ) -> Result<(Session, u64, oneshot::Receiver<()>), ApiError> {
        let shown = match tokio::time::timeout(HELLO_PATIENCE, incoming.message()).await {
            Ok(Ok(Some(v1::GatewayMessage { message: Some(Up::Attach(signed)) }))) => signed,
            Ok(_) => return Err(ApiError::invalid("the second message must be an attach")),
            Err(_) => return Err(ApiError::invalid("no attach in time")),
        };
        let Self { handle, name, hello, key, challenge, .. } = self;
        let is_it = stated(&key, StatementKind::Attach, &shown).is_some_and(|payload| {
            let attach: Result<v1::Attach, _> = prost::Message::decode(payload);
            attach.is_ok_and(|attach| attach.challenge == challenge && attach.log == key.name().as_str())
        });
        if !is_it {
            tracing::error!(gateway = %name, "who has this gateway's certificate does not have its evidence key");
            return Err(ApiError::denied("the stream is not shown to be the gateway's by its evidence key".to_owned()));
        }
        handle.open_log(name.clone(), hello.evidence_key.clone()).await?;
        let shared = handle.shared().clone();
        let holds = if hello.epoch == shared.ring.head().epoch { hello.revision } else { 0 };
        let Some((id, replaced)) = shared.fleet.attach(&name, &hello.evidence_key, holds) else {
            return Err(ApiError::denied(format!("gateway {name} is not recorded")));
        };
        // Expelled meanwhile: whoever did it found no stream to end.
        in_good_standing(&shared, &name).inspect_err(|_| shared.fleet.detach(&name, id))?;
        tracing::info!(gateway = %name, revision = hello.revision, version = %hello.version, "a gateway attached");
        let session = Session { shared, handle, authority, trust, name, id, key, challenge, sender, stop };
        Ok((session, holds, replaced))
    }
}
