//! The stream to the control plane: what a gateway decides by comes down on it, renewals and acknowledgements go up.
//!
//! A revision is published, then its calls are fired, then, when they are over and it is recorded, it is acknowledged.
//! Messages are taken in the order in which they come; waiting for calls to end happens beside, in the same order, so
//! that a slow ending delays its acknowledgement and no later revocation. What is not understood ends the stream, and
//! the next one begins with a whole snapshot. Without a stream authority grows old, and that is all that happens here.
//!
//! Knows no callers and no upstreams.

mod access;
mod apply;
mod certificate;
mod connect;
mod copy;
mod enforce;
mod evidence;
#[cfg(test)]
mod fixture;
mod heartbeat;
mod log;
mod object;
mod outbox;
mod review;
mod session;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub(super) use self::access::{RevokeError, TokenRevoker};
use self::connect::{MAX_PING_PATIENCE, PING_PATIENCE};
pub(super) use self::copy::{CopyParts, run as keep_copy};
use self::enforce::{Enforcer, Follower};
use self::outbox::Outbox;
use self::session::{Session, SessionEnd};
use crate::domain::name::GatewayName;
use crate::evidence::EvidenceLog;
use crate::gateway::authority::AuthorityClock;
use crate::gateway::live::Registry;
use crate::gateway::meter::Meter;
use crate::gateway::metrics::Metrics;
use crate::gateway::published::Published;
use crate::issuers::RevokedTokens;
use crate::settings::gateway::ControlEndpoint;

/// How often a gateway asks for authority. A resource can ask for five seconds, and one lost answer must not stop it.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(3);
/// First pause before the stream is opened again; each next one is twice as long.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// Longest pause: a control plane that is there again is followed again within a second.
const MAX_BACKOFF: Duration = Duration::from_millis(600);
/// The same while nobody listens: to ask costs next to nothing, and a control plane that starts has a second at most until
/// it is followed by all.
const REFUSED_BACKOFF: Duration = Duration::from_millis(200);
/// Time to give uses of counted grants back before the process ends. What is not given back is spent.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// Revisions that wait for their calls to end; one more holds up the stream.
const MAX_ENFORCEMENTS: usize = 1_024;

/// What the stream works on.
#[derive(Clone)]
pub struct Parts {
    /// Where the control plane is, and this gateway's certificate towards it.
    pub endpoint: ControlEndpoint,
    /// Time and authority.
    pub clock: Arc<AuthorityClock>,
    /// Where snapshots are put in force.
    pub published: Arc<Published>,
    /// The running calls.
    pub registry: Arc<Registry>,
    /// Uses of counted grants.
    pub(crate) meter: Arc<Meter>,
    /// The revoked tokens.
    pub revoked: Arc<RevokedTokens>,
    /// This gateway's name, as authorities carry it.
    pub name: GatewayName,
    /// Where enforcements are recorded, what authority is given over, and whose key signs.
    pub log: Arc<EvidenceLog>,
    /// Its directory, to be read when somebody asks.
    pub evidence_dir: std::path::PathBuf,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is to be trusted, as the control plane said last, and whether there is another certificate to come with.
    pub(crate) trust: Arc<Trust>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// What passes between the stream and whoever looks after the certificate.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    told: parking_lot::Mutex<Vec<u8>>,
    /// Something else than before is to be trusted.
    changed: tokio::sync::Notify,
    /// There is another certificate: the stream is opened anew with it.
    renewed: tokio::sync::Notify,
}

impl Trust {
    /// The control plane says what is to be trusted; nothing says nothing.
    fn tell(&self, told: &[u8]) {
        let mut known = self.told.lock();
        if !told.is_empty() && *known != told {
            told.clone_into(&mut known);
            self.changed.notify_one();
        }
    }

    fn told(&self) -> Vec<u8> {
        self.told.lock().clone()
    }
}

/// Follows the control plane until `stop` becomes true. Never gives up; runs on the runtime for control work, which
/// must not be a caller's.
pub async fn run(parts: Parts, mut stop: watch::Receiver<bool>) {
    let outbox = Arc::new(Outbox::default());
    let (enforcements, waiting) = mpsc::channel(MAX_ENFORCEMENTS);
    let mut tasks = JoinSet::new();
    tasks.spawn(heartbeat::run(parts.clock.clone(), parts.registry.clone(), parts.revoked.clone()));
    tasks.spawn(certificate::run(parts.clone()));
    tasks.spawn(evidence::run(parts.clone()));
    tasks.spawn(Enforcer::new(&parts, outbox.clone()).run(waiting));
    let mut follower = Follower::new(&parts, enforcements);
    let follow = async {
        let (mut backoff, mut is_refused) = (MIN_BACKOFF, false);
        let mut patience = PING_PATIENCE;
        loop {
            let end = attach(&parts, &mut follower, &outbox, patience).await;
            parts.metrics.stream(false);
            patience = next_patience(patience, &end);
            if end.renewed {
                backoff = MIN_BACKOFF;
            }
            let was_refused = std::mem::replace(&mut is_refused, end.cause.is_refused());
            if end.cause.is_own() {
                tracing::info!(cause = %end.cause, "the stream to the control plane begins anew");
            } else if is_refused && was_refused {
                tracing::debug!(error = %end.cause, "the stream to the control plane is still over");
            } else {
                tracing::warn!(error = %end.cause, "the stream to the control plane is over");
            }
            if !end.cause.is_own() {
                let most = if is_refused { REFUSED_BACKOFF } else { MAX_BACKOFF };
                tokio::time::sleep(jittered(backoff.min(most))).await;
            }
            backoff = backoff.saturating_mul(2).min(MAX_BACKOFF);
        }
    };
    tokio::select! {
        () = follow => {}
        _ = async {
            let _ = stop.wait_for(|stop| *stop).await;
            tokio::time::timeout(LEAVE_WITHIN, parts.meter.leave()).await
        } => {}
    }
    // What was seen is kept also when the next start is long after.
    heartbeat::remember(&parts.clock).await;
}

async fn attach(parts: &Parts, follower: &mut Follower, outbox: &Outbox, patience: Duration) -> SessionEnd {
    let connected =
        async { Ok((connect::keys(&parts.endpoint).await?, connect::connect(&parts.endpoint, patience).await?)) };
    match connected.await {
        Ok((keys, mut client)) => Session::new(parts, follower, outbox, (keys, patience)).run(&mut client).await,
        Err::<_, connect::ConnectError>(error) => SessionEnd { failed: false, renewed: false, cause: error.into() },
    }
}

/// Twice as long after each connection that failed before it brought authority; as ever after one that did.
fn next_patience(patience: Duration, end: &SessionEnd) -> Duration {
    match (end.renewed, end.failed) {
        (true, _) => PING_PATIENCE,
        (false, true) => patience.saturating_mul(2).min(MAX_PING_PATIENCE),
        (false, false) => patience,
    }
}

/// Half of `pause` to all of it: gateways that lost the same control plane do not come back as one.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0u8; 1];
    // Without randomness every gateway waits the same time, which is all that is lost.
    let _ = aws_lc_rs::rand::fill(&mut random);
    let [random] = random;
    pause / 2 + pause * u32::from(random) / 512
}
