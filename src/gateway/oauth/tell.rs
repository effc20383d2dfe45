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

use crate::domain::Timestamp;
use crate::gateway::authority::AuthorityClock;
use crate::gateway::sync::{RevokeError, TokenRevoker};
use crate::settings::gateway::ControlEndpoint;

/// Revocations that wait. One more is told once and not kept.
const MAX_PENDING: usize = 10_000;
/// Pause before what failed is tried again.
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

/// The digest of a token: what waits is found again by the token and does not hold it.
type Digest = [u8; 32];

#[derive(Debug)]
pub(super) struct Teller {
    control: TokenRevoker,
    clock: Arc<AuthorityClock>,
    runtime: Runtime,
    pending: Mutex<HashMap<Digest, Revocation>>,
    wake: Arc<Notify>,
}

impl Teller {
    /// Starts the task that tells what could not be told at once; it ends with the teller.
    pub(super) fn start(control: ControlEndpoint, clock: Arc<AuthorityClock>, runtime: &Runtime) -> Arc<Self> {
        let wake = Arc::new(Notify::new());
        let teller = Arc::new(Self {
            control: TokenRevoker::new(control),
            clock,
            runtime: runtime.clone(),
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
    pub(super) async fn tell(self: &Arc<Self>, token: &str, revocation: Revocation) -> Result<(), RevokeError> {
        let digest = digest(token);
        {
            let mut pending = self.pending.lock();
            if pending.len() < MAX_PENDING {
                pending.insert(digest, revocation.clone());
            }
        }
        self.attempt(digest, revocation).await
    }

    /// Whether everybody knows of a token that is dead here; tries again where not.
    pub(super) async fn told(self: &Arc<Self>, token: &str) -> Result<(), RevokeError> {
        let digest = digest(token);
        let pending = self.pending.lock().get(&digest).cloned();
        match pending {
            None => Ok(()),
            Some(revocation) => self.attempt(digest, revocation).await,
        }
    }

    async fn attempt(self: &Arc<Self>, digest: Digest, revocation: Revocation) -> Result<(), RevokeError> {
        let teller = self.clone();
        let task = self.runtime.spawn(async move { teller.send(revocation).await });
        let result = task.await.unwrap_or_else(|error| Err(RevokeError::Refused(error.to_string())));
        match &result {
            Ok(()) => drop(self.pending.lock().remove(&digest)),
            Err(_) => self.wake.notify_one(),
        }
        result
    }

    /// Everything that waits, until one fails: then the next would too.
    async fn catch_up(&self) {
        let waiting: Vec<(Digest, Revocation)> = {
            let now = self.clock.wall();
            let mut pending = self.pending.lock();
            pending.retain(|_, revocation| now < revocation.expires);
            pending.iter().map(|(digest, revocation)| (*digest, revocation.clone())).collect()
        };
        for (digest, revocation) in waiting {
            if self.send(revocation).await.is_err() {
                return;
            }
            self.pending.lock().remove(&digest);
        }
    }

    async fn send(&self, revocation: Revocation) -> Result<(), RevokeError> {
        let Revocation { issuer, handle, expires } = revocation;
        self.control.revoke(issuer, handle, expires).await
    }
}

fn digest(token: &str) -> Digest {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    bytes
}
