//! From an upstream's name to an address, kept for a short while per worker.
//!
//! The address that is checked is the one that is connected to: a name that points elsewhere a moment later gains nothing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::reach::Reach;
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
    reach: Arc<Reach>,
    kept: Mutex<HashMap<UpstreamUrl, (SocketAddr, Duration), ahash::RandomState>>,
}

impl Resolver {
    pub(crate) fn new(clock: Arc<dyn Clock>, reach: Arc<Reach>) -> Self {
        Self { clock, reach, kept: Mutex::default() }
    }

    /// An address of the upstream that may be connected to.
    ///
    /// # Errors
    /// [`Reason::UpstreamUnreachable`] when its name has none, [`Reason::UpstreamAddressRefused`] when it has no other.
    pub(crate) async fn resolve(&self, upstream: &UpstreamUrl) -> Result<SocketAddr, Reason> {
        let host = upstream.host.as_str();
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return self.allowed(upstream, [SocketAddr::new(address, upstream.port)]);
        }
        let now = self.clock.since_boot();
        if let Some((address, until)) = self.kept.lock().get(upstream)
            && now < *until
        {
            return Ok(*address);
        }
        let lookup = tokio::time::timeout(RESOLVE_LIMIT, tokio::net::lookup_host((host, upstream.port)));
        let found = match lookup.await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => {
                tracing::warn!(%upstream, %error, "the upstream's name could not be resolved");
                return Err(Reason::UpstreamUnreachable);
            }
            Err(_) => {
                tracing::warn!(%upstream, "the upstream's name was not resolved in time");
                return Err(Reason::UpstreamUnreachable);
            }
        };
        let address = self.allowed(upstream, found)?;
        self.kept.lock().insert(upstream.clone(), (address, now + KEPT_FOR));
        Ok(address)
    }

    /// The first address that may be connected to.
    fn allowed(
        &self,
        upstream: &UpstreamUrl,
        found: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<SocketAddr, Reason> {
        let mut refused = None;
        for address in found {
            if self.reach.allows(address.ip()) {
                return Ok(address);
            }
            refused = Some(address);
        }
        let Some(address) = refused else { return Err(Reason::UpstreamUnreachable) };
        tracing::warn!(%upstream, %address, "the upstream is at an address that this gateway does not connect to");
        Err(Reason::UpstreamAddressRefused)
    }
}
