//! Telling the control plane of revoked tokens, until it has acknowledged.
//!
//! What could not be told is kept while the token would have lived, minutes, and told as soon as it can be. Runs on the
//! runtime for control work: a worker's calls wait for none of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle as Runtime;
use tokio::sync::Notify;
use tonic::transport::Channel;

use crate::domain::Timestamp;
use crate::gateway::sync;
use crate::settings::gateway::ControlEndpoint;
use crate::wire::v1;
use crate::wire::v1::access_client::AccessClient;

/// Revocations that wait. One more is told once and not kept.
const MAX_PENDING: usize = 10_000;
const TELL_LIMIT: Duration = Duration::from_secs(4);
const RETRY: Duration = Duration::from_secs(1);
/// Where nothing waits: how soon the task of a dropped teller ends.
const IDLE: Duration = Duration::from_secs(30);

/// A token's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Revocation {
    pub(super) issuer: String,
    pub(super) handle: String,
    pub(super) expires: Timestamp,
}

/// Why it could not be told.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum TellError {
    #[error("the control plane cannot be reached: {0}")]
    Unreachable(String),
    #[error("the control plane did not acknowledge: {0}")]
    Refused(String),
    #[error("the control plane did not acknowledge in time")]
    Late,
}

/// The digest of a token: what waits is found again by the token and does not hold it.
type Digest = [u8; 32];

#[derive(Debug)]
pub(super) struct Teller {
    control: ControlEndpoint,
    runtime: Runtime,
    client: tokio::sync::Mutex<Option<AccessClient<Channel>>>,
    pending: Mutex<HashMap<Digest, Revocation>>,
    wake: Arc<Notify>,
}

impl Teller {
    /// Starts the task that tells what could not be told at once; it ends with the teller.
    pub(super) fn start(control: ControlEndpoint, runtime: &Runtime) -> Arc<Self> {
        let wake = Arc::new(Notify::new());
        let teller = Arc::new(Self {
            control,
            runtime: runtime.clone(),
            client: tokio::sync::Mutex::new(None),
            pending: Mutex::default(),
            wake: wake.clone(),
        });
        let weak = Arc::downgrade(&teller);
        runtime.spawn(async move {
            while let Some(teller) = weak.upgrade() {
                teller.catch_up().await;
                let pause = if teller.pending.lock().is_empty() { IDLE } else { RETRY };
                drop(teller);
                // Woken or not, it looks again.
                let _ = tokio::time::timeout(pause, wake.notified()).await;
                tokio::time::sleep(RETRY).await;
            }
        });
        teller
    }

    /// Tells of a token now. Kept and tried again where that fails.
    pub(super) async fn tell(
        self: &Arc<Self>,
        token: &str,
        revocation: Revocation,
        now: Timestamp,
    ) -> Result<(), TellError> {
        let digest = digest(token);
        {
            let mut pending = self.pending.lock();
            pending.retain(|_, revocation| now < revocation.expires);
            if pending.len() < MAX_PENDING {
                pending.insert(digest, revocation.clone());
            }
        }
        self.attempt(digest, revocation).await
    }

    /// Whether everybody knows of a token that is dead here; tries again where not.
    pub(super) async fn told(self: &Arc<Self>, token: &str) -> Result<(), TellError> {
        let digest = digest(token);
        let pending = self.pending.lock().get(&digest).cloned();
        match pending {
            None => Ok(()),
            Some(revocation) => self.attempt(digest, revocation).await,
        }
    }

    async fn attempt(self: &Arc<Self>, digest: Digest, revocation: Revocation) -> Result<(), TellError> {
        let teller = self.clone();
        let task = self.runtime.spawn(async move { teller.send(revocation).await });
        let result = task.await.unwrap_or_else(|error| Err(TellError::Refused(error.to_string())));
        match &result {
            Ok(()) => drop(self.pending.lock().remove(&digest)),
            Err(_) => self.wake.notify_one(),
        }
        result
    }

    /// Everything that waits, until one fails: then the next would too.
    async fn catch_up(&self) {
        let waiting: Vec<(Digest, Revocation)> =
            self.pending.lock().iter().map(|(digest, revocation)| (*digest, revocation.clone())).collect();
        for (digest, revocation) in waiting {
            if self.send(revocation).await.is_err() {
                return;
            }
            self.pending.lock().remove(&digest);
        }
    }

    async fn send(&self, revocation: Revocation) -> Result<(), TellError> {
        let Revocation { issuer, handle, expires } = revocation;
        let request = v1::RevokeTokenRequest { issuer, jti: handle, expires_unix_us: expires.unix_micros() };
        let told = tokio::time::timeout(TELL_LIMIT, async {
            let mut client = self.client().await?;
            client.revoke_token(request).await.map_err(|status| TellError::Refused(status.message().to_owned()))
        });
        match told.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                // Certificates may have been renewed beneath it: the next one connects anew.
                *self.client.lock().await = None;
                Err(error)
            }
            Err(_) => Err(TellError::Late),
        }
    }

    async fn client(&self) -> Result<AccessClient<Channel>, TellError> {
        let mut client = self.client.lock().await;
        if let Some(client) = client.as_ref() {
            return Ok(client.clone());
        }
        let new = sync::access(&self.control).await.map_err(|error| TellError::Unreachable(error.to_string()))?;
        Ok(client.insert(new).clone())
    }
}

fn digest(token: &str) -> Digest {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    bytes
}
