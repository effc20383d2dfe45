//! The pulse: says that the process runs, ends calls that no timer ended, and keeps what must survive a restart.
//!
//! A task of its own that does nothing slow: whoever misses its ticks for two seconds takes the process for paused.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::gateway::authority::AuthorityClock;
use crate::gateway::live::Registry;
use crate::issuers::RevokedTokens;

const TICK: Duration = Duration::from_millis(100);
/// How often memory goes to disk where nothing asks for it: what a clock that is set back over a restart can gain.
const REMEMBER: Duration = Duration::from_secs(5);

pub(super) async fn run(clock: Arc<AuthorityClock>, registry: Arc<Registry>, revoked: Arc<RevokedTokens>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut remembered = clock.since_boot();
    loop {
        ticks.tick().await;
        let since = clock.coarse();
        clock.tick();
        let ended = registry.sweep(&clock.reckoning());
        clock.looked(since);
        if ended > 0 {
            tracing::info!(ended, "running calls were past their end or their authority");
        }
        let now = clock.since_boot();
        if now.saturating_sub(remembered) >= REMEMBER {
            remembered = now;
            revoked.forget_ended(clock.wall());
            let clock = clock.clone();
            tokio::spawn(async move { remember(&clock).await });
        }
    }
}

/// Writes what must survive a restart. A failure is told and not fatal: the acknowledgement of a revocation has its own.
pub(super) async fn remember(clock: &Arc<AuthorityClock>) {
    let clock = clock.clone();
    match tokio::task::spawn_blocking(move || clock.memory().write(clock.wall())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "what this gateway has seen could not be written"),
        Err(error) => tracing::error!(%error, "what this gateway has seen could not be written"),
    }
}
