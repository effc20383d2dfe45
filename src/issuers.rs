//! The issuers that a gateway or a control plane trusts, and their keys as they are just now.
//!
//! Each issuer has one set of keys with a generation; a task of its own fetches the set again and again. A failing fetch
//! keeps the last good set for a while and then the issuer is unavailable: nothing here ever falls open. A gateway itself
//! is an issuer too, of its own access tokens. Knows no identities and no grants.

pub mod cache;
pub mod revoked;
mod settings;
mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use ahash::HashMap;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::domain::{Clock, Timestamp};
use crate::token::TokenError;
use crate::token::keys::KeySet;
use crate::token::mint::GatewayIssuer;
use crate::token::verify::IssuerProfile;

pub use cache::TokenVerifier;
pub use revoked::{RevokedFull, RevokedTokens};
pub use settings::{
    DEFAULT_MAX_STALE, DEFAULT_REFRESH, IssuerSettingError, JwksUrl, JwksUrlError, KeySource, TrustedIssuer,
};
pub use source::FetchError;

/// Least time between two fetches that strangers can cause with unknown key names, and between two after a failure.
const MIN_FETCH_INTERVAL: Duration = Duration::from_secs(10);

/// Why issuers do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuersError {
    /// One issuer, two profiles.
    #[error("issuer `{0}` is listed twice")]
    Duplicate(Arc<str>),
    /// The gateway's own name, or that of its upstream tokens.
    #[error("issuer `{0}` is this gateway itself")]
    Own(Arc<str>),
    /// No client to fetch keys with.
    #[error("issuer `{0}`: {1}")]
    Source(Arc<str>, FetchError),
}

/// Every issuer that is known.
#[derive(Debug)]
pub struct Issuers {
    /// A gateway's own; a control plane has none.
    own: Option<Arc<Issuer>>,
    by_name: HashMap<Arc<str>, Arc<Issuer>>,
    clock: Arc<dyn Clock>,
}

/// An issuer and its keys.
#[derive(Debug)]
struct Issuer {
    profile: IssuerProfile,
    current: ArcSwap<Keys>,
    /// Where the keys come from; none for the gateway's own.
    feed: Option<Feed>,
}

/// The keys of an issuer as they are at one moment.
#[derive(Clone, Debug)]
struct Keys {
    set: Option<Arc<KeySet>>,
    /// Grows with each change of the set.
    generation: u64,
    /// From here on the set is too old to vouch for anything.
    stale_at: Timestamp,
}

#[derive(Debug)]
struct Feed {
    source: source::Fetcher,
    refresh: Duration,
    max_stale: Duration,
    state: Mutex<FeedState>,
    wake: Notify,
    /// How many fetches have ended.
    ended: watch::Sender<u64>,
}

#[derive(Debug)]
struct FeedState {
    /// Since boot.
    started: Option<Duration>,
    /// A fetch runs or has been asked for. True from the beginning: the task begins with one.
    pending: bool,
    fault: Option<FetchError>,
}

/// How an issuer fares: for readiness and metrics.
#[derive(Clone, Debug)]
pub struct IssuerHealth {
    /// Its name.
    pub issuer: Arc<str>,
    /// How many keys it has; zero before the first good fetch.
    pub keys: usize,
    /// How often its keys have changed.
    pub generation: u64,
    /// Whether its tokens can be verified just now.
    pub available: bool,
    /// Why the last fetch failed, if it did.
    pub fault: Option<FetchError>,
}

impl Issuers {
    /// A gateway's own issuer, with the audience and the keys of its access tokens, and those that it trusts.
    ///
    /// # Errors
    /// When two issuers have one name, or there is no client to fetch keys with.
    pub fn new(
        own: &GatewayIssuer,
        own_audience: &str,
        own_keys: KeySet,
        trusted: Vec<TrustedIssuer>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, IssuersError> {
        let gate = Arc::new(Issuer {
            profile: IssuerProfile::gate(own.access().clone(), own_audience.into()),
            current: ArcSwap::from_pointee(Keys {
                set: Some(own_keys.into()),
                generation: 1,
                stale_at: Timestamp::MAX,
            }),
            feed: None,
        });
        let all = Self::trusting(trusted, clock)?;
        if let Some(name) = [own.access(), own.upstream()].into_iter().find(|name| all.by_name.contains_key(*name)) {
            return Err(IssuersError::Own(name.clone()));
        }
        let mut by_name = all.by_name;
        by_name.insert(own.access().clone(), gate.clone());
        Ok(Arc::new(Self { own: Some(gate), by_name, clock: all.clock }))
    }

    /// Issuers of others alone.
    ///
    /// # Errors
    /// When two have one name, or there is no client to fetch keys with.
    pub fn trusting(trusted: Vec<TrustedIssuer>, clock: Arc<dyn Clock>) -> Result<Self, IssuersError> {
        let mut by_name: HashMap<Arc<str>, Arc<Issuer>> = HashMap::default();
        for TrustedIssuer { profile, source, refresh, max_stale, fetch_timeout } in trusted {
            let name = profile.issuer().clone();
            let source =
                source::Fetcher::new(source, fetch_timeout).map_err(|e| IssuersError::Source(name.clone(), e))?;
            let feed = Feed {
                source,
                refresh,
                max_stale,
                state: Mutex::new(FeedState { started: None, pending: true, fault: None }),
                wake: Notify::new(),
                ended: watch::Sender::new(0),
            };
            let current = ArcSwap::from_pointee(Keys { set: None, generation: 0, stale_at: Timestamp::MAX });
            let issuer = Arc::new(Issuer { profile, current, feed: Some(feed) });
            if by_name.insert(name.clone(), issuer).is_some() {
                return Err(IssuersError::Duplicate(name));
            }
        }
        Ok(Self { own: None, by_name, clock })
    }

    /// Keeps every issuer's keys fresh, on `runtime`, until the returned set is dropped. Each begins at once.
    pub fn keep_fresh(self: &Arc<Self>, runtime: &Handle) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for issuer in self.by_name.values().filter(|issuer| issuer.feed.is_some()) {
            let (issuer, clock) = (issuer.clone(), self.clock.clone());
            tasks.spawn_on(async move { issuer.keep_fresh(&*clock).await }, runtime);
        }
        tasks
    }

    /// Fetches every issuer's keys once, all at the same time.
    pub async fn refresh_all(&self) {
        futures_util::future::join_all(self.by_name.values().map(|issuer| issuer.refresh(&*self.clock))).await;
    }

    /// Puts other keys in place of the gateway's own. Access tokens of keys that are gone end at once.
    pub fn replace_own_keys(&self, keys: KeySet) {
        if let Some(own) = &self.own {
            own.store(keys, Timestamp::MAX);
        }
    }

    /// How each issuer fares, by name.
    pub fn health(&self) -> Vec<IssuerHealth> {
        let now = self.clock.now();
        let mut health: Vec<_> = self.by_name.values().map(|issuer| issuer.health(now)).collect();
        health.sort_by(|a, b| a.issuer.cmp(&b.issuer));
        health
    }

    fn by_name(&self, name: &str) -> Option<&Arc<Issuer>> {
        self.by_name.get(name)
    }

    fn clock(&self) -> &dyn Clock {
        &*self.clock
    }
}

impl Issuer {
    fn profile(&self) -> &IssuerProfile {
        &self.profile
    }

    /// The keys that vouch at `now`, and their generation.
    fn keys(&self, now: Timestamp) -> Result<(Arc<KeySet>, u64), TokenError> {
        let current = self.current.load();
        match &current.set {
            Some(set) if now < current.stale_at => Ok((set.clone(), current.generation)),
            Some(_) | None => Err(TokenError::IssuerUnavailable),
        }
    }

    /// As [`Issuer::keys`], where only the generation is wanted: no count is touched.
    fn generation(&self, now: Timestamp) -> Result<u64, TokenError> {
        let current = self.current.load();
        if current.set.is_some() && now < current.stale_at {
            Ok(current.generation)
        } else {
            Err(TokenError::IssuerUnavailable)
        }
    }

    /// Asks for a fetch because a token names a key that is not here. Strangers can do that, so it is rare.
    /// Gives what to wait on where a fetch is under way.
    fn want_fresh(&self, clock: &dyn Clock) -> Option<watch::Receiver<u64>> {
        let feed = self.feed.as_ref()?;
        let mut state = feed.state.lock();
        // Subscribed under the lock: a fetch that ends from here on is seen.
        let ended = feed.ended.subscribe();
        if state.pending {
            return Some(ended);
        }
        if state.started.is_some_and(|started| clock.since_boot().saturating_sub(started) < MIN_FETCH_INTERVAL) {
            return None;
        }
        state.pending = true;
        feed.wake.notify_one();
        Some(ended)
    }

    async fn keep_fresh(&self, clock: &dyn Clock) {
        let Some(feed) = &self.feed else { return };
        loop {
            self.refresh(clock).await;
            let failed = feed.state.lock().fault.is_some();
            let pause = if failed { feed.refresh.min(MIN_FETCH_INTERVAL) } else { feed.refresh };
            // Being woken early or at the end of the pause is the same: fetch.
            let _ = tokio::time::timeout(pause, feed.wake.notified()).await;
        }
    }

    /// Fetches once. One at a time: the issuer's task, or a test in its place.
    async fn refresh(&self, clock: &dyn Clock) {
        let Some(feed) = &self.feed else { return };
        {
            let mut state = feed.state.lock();
            state.pending = true;
            state.started = Some(clock.since_boot());
        }
        // The age of a set counts from before it was asked for.
        let asked = clock.now();
        let fault = match feed.source.fetch().await {
            Ok(set) => {
                self.store(set, asked.saturating_add(feed.max_stale));
                None
            }
            Err(fault) => {
                tracing::warn!(issuer = &**self.profile.issuer(), %fault, "the issuer's keys could not be fetched");
                Some(fault)
            }
        };
        let mut state = feed.state.lock();
        state.pending = false;
        state.fault = fault;
        feed.ended.send_modify(|ended| *ended += 1);
    }

    fn store(&self, set: KeySet, stale_at: Timestamp) {
        let old = self.current.load_full();
        let keys = match &old.set {
            Some(same) if same.is_same(&set) => Keys { set: Some(same.clone()), generation: old.generation, stale_at },
            Some(_) | None => {
                tracing::info!(
                    issuer = &**self.profile.issuer(),
                    keys = set.keys().len(),
                    skipped = set.skipped(),
                    "the issuer's keys changed"
                );
                Keys { set: Some(set.into()), generation: old.generation + 1, stale_at }
            }
        };
        self.current.store(keys.into());
    }

    fn health(&self, now: Timestamp) -> IssuerHealth {
        let current = self.current.load();
        IssuerHealth {
            issuer: self.profile.issuer().clone(),
            keys: current.set.as_ref().map_or(0, |set| set.keys().len()),
            generation: current.generation,
            available: current.set.is_some() && now < current.stale_at,
            fault: self.feed.as_ref().and_then(|feed| feed.state.lock().fault.clone()),
        }
    }
}
