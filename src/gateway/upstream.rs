//! From an upstream's name to an address, kept for a short while per worker.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::route::UpstreamUrl;
use crate::domain::{Clock, Reason};

/// How long an answer of the resolver is used.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// How long the resolver may take.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);

/// Resolves upstreams for one worker.
#[derive(Debug)]
pub(crate) struct Resolver {
    clock: Arc<dyn Clock>,
    kept: Mutex<HashMap<UpstreamUrl, (SocketAddr, Duration), ahash::RandomState>>,
}

impl Resolver {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, kept: Mutex::default() }
    }

    /// An address of the upstream.
    ///
    /// # Errors
    /// [`Reason::UpstreamUnreachable`] when its name has none.
    pub(crate) async fn resolve(&self, upstream: &UpstreamUrl) -> Result<SocketAddr, Reason> {
        let host = upstream.host.as_str();
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(SocketAddr::new(address, upstream.port));
        }
        let now = self.clock.since_boot();
        if let Some((address, until)) = self.kept.lock().get(upstream)
            && now < *until
        {
            return Ok(*address);
        }
        let lookup = tokio::time::timeout(RESOLVE_LIMIT, tokio::net::lookup_host((host, upstream.port)));
        let found = match lookup.await {
            Ok(Ok(mut addresses)) => addresses.next(),
            Ok(Err(error)) => {
                tracing::warn!(%upstream, %error, "the upstream's name could not be resolved");
                None
            }
            Err(_) => None,
        };
        let address = found.ok_or(Reason::UpstreamUnreachable)?;
        self.kept.lock().insert(upstream.clone(), (address, now + KEPT_FOR));
        Ok(address)
    }
}
