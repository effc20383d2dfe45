//! The registry of running calls: what a revocation has to find, wake and wait for.
//!
//! A worker enters a call before its last look at the snapshot, and leaves by dropping the [`Registration`]. The
//! snapshot's side publishes first and cuts then. So either the cut finds the call, or the call sees the new snapshot.
//! INVARIANT: register, then check; publish, then cut. Neither side may turn its two steps around.
//!
//! Knows what calls stand on, and nothing of connections, protocols or the control plane.

mod cut;
mod shard;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

pub use cut::Cut;
use shard::Shard;

use super::handed::Handed;
use crate::decision::snapshot::IdentityIndex;
use crate::decision::{Authority, Basis, Now, Permit};
use crate::domain::name::{CallId, ExceptionName, GrantId, RouteName};
use crate::domain::root::Root;
use crate::domain::{Reason, Timestamp};

/// Of this process: the two hashes below mean nothing outside it, and nobody outside can aim at a collision.
static HASHES: LazyLock<ahash::RandomState> = LazyLock::new(ahash::RandomState::new);

/// A token that calls stand on, by its issuer and `jti`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenKey(u64);

impl TokenKey {
    /// Of a token's `iss` and `jti`.
    pub fn of(issuer: &str, jti: &str) -> Self {
        Self(HASHES.hash_one((issuer, jti)))
    }
}

/// A key that vouched for a credential: an issuer's verification key or a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyKey(u64);

impl KeyKey {
    /// Of a client certificate's thumbprint, or any other identifying bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(HASHES.hash_one(bytes))
    }

    /// Of an issuer's key, by the issuer and the key's `kid`.
    pub fn of_issuer(issuer: &str, kid: &str) -> Self {
        Self(HASHES.hash_one((issuer, kid)))
    }
}

/// A connection that showed a client certificate, among all that this process has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// Of the number that it was given. No two connections have the same one.
    pub const fn numbered(number: u64) -> Self {
        Self(number)
    }
}

/// A running call and what it stands on.
#[derive(Clone, Debug)]
pub struct Running {
    /// The call.
    pub call: CallId,
    /// Whose it is.
    pub identity: IdentityIndex,
    /// The route it takes.
    pub route: RouteName,
    /// The grant that allows it.
    pub grant: Option<GrantId>,
    /// Or the exception.
    pub exception: Option<ExceptionName>,
    /// The token that identified it.
    pub token: Option<TokenKey>,
    /// The key or certificate that vouched for it.
    pub key: Option<KeyKey>,
    /// What vouched for its credential in the end, and for the connection it came on.
    pub roots: [Option<Arc<Root>>; 2],
    /// The connection it came on, where that showed a client certificate.
    pub connection: Option<ConnectionId>,
    /// First moment at which it must not run any more.
    pub ends: Timestamp,
    /// Why, at that moment.
    pub end_reason: Reason,
    /// How old authority may be while it runs.
    pub authority_bound: Duration,
}

impl Running {
    /// A call that stands on `permit`; token, key and connection are for the caller to add.
    pub fn of(call: CallId, identity: IdentityIndex, permit: &Permit) -> Self {
        let (grant, exception) = match permit.basis() {
            Basis::Grant(grant) => (Some(grant.id), None),
            Basis::Exception { exception, .. } => (None, Some(exception.name.clone())),
        };
        Self {
            call,
            identity,
            route: permit.route().route().name.clone(),
            grant,
            exception,
            token: None,
            key: None,
            roots: [None, None],
            connection: None,
            ends: permit.ends(),
            end_reason: permit.end_reason(),
            authority_bound: permit.authority_bound(),
        }
    }
}

/// Which calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Those under a grant.
    Grant(GrantId),
    /// Those of an identity.
    Identity(IdentityIndex),
    /// Those that a token identified.
    Token(TokenKey),
    /// Those that a key or certificate vouched for.
    Key(KeyKey),
    /// Those under an exception.
    Exception(ExceptionName),
    /// All of them.
    All,
}

/// What a review says of a running call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on as it is.
    Keep,
    /// It goes on for as long as authority is not older than this.
    Tighten(Duration),
    /// It ends.
    Cut(Reason),
}

/// Every running call of this process, one shard per worker.
#[derive(Debug)]
pub struct Registry {
    shards: Box<[Place]>,
    /// What went upstream under the grants and cannot be called back.
    handed: Arc<Handed>,
    /// Told when a call that was cut has left.
    departures: Notify,
}

/// The calls of one worker.
#[derive(Debug, Default)]
struct Place {
    calls: Mutex<Shard>,
    /// Told when a call was entered that ends before every other one.
    sooner: Notify,
}

impl Registry {
    /// A registry with a shard for each worker, at least one.
    pub fn new(shards: usize) -> Arc<Self> {
        let shards = (0..shards.max(1)).map(|_| Place::default()).collect();
        Arc::new(Self { shards, handed: Arc::default(), departures: Notify::new() })
    }

    /// The tokens that upstreams hold.
    pub(crate) fn handed(&self) -> &Arc<Handed> {
        &self.handed
    }

    /// Enters a call. The caller reads snapshot and authority again afterwards, and only then goes on.
    pub fn register(self: &Arc<Self>, shard: usize, running: Running, cut: Arc<Cut>) -> Registration {
        let shard = shard % self.shards.len();
        // A call that decides again enters again, with the cut that it had.
        cut.enter();
        let place = self.shard(shard).map_or(0, |of_worker| {
            let mut calls = of_worker.calls.lock();
            let sooner = running.ends < calls.earliest;
            let place = calls.insert(running, cut.clone());
            drop(calls);
            if sooner {
                of_worker.sooner.notify_one();
            }
            place
        });
        Registration { registry: self.clone(), shard, place, cut }
    }

    /// Ends the calls that `which` names. To be called after what ends them is published.
    pub fn cut(self: &Arc<Self>, which: &Selector, reason: Reason) -> CutSet {
        let mut set = CutSet::empty(self);
        for shard in &self.shards {
            let found = shard.calls.lock().select(which);
            set.fire(found, reason);
        }
        set
    }

    /// Asks about every running call. For changes that no index leads to: a whole new snapshot, routes, resources.
    pub fn review(self: &Arc<Self>, mut verdict: impl FnMut(&Running) -> Verdict) -> CutSet {
        let mut set = CutSet::empty(self);
        for shard in &self.shards {
            let mut found = Vec::new();
            shard.calls.lock().walk(|running, cut| match verdict(running) {
                Verdict::Keep => {}
                Verdict::Tighten(bound) => running.authority_bound = running.authority_bound.min(bound),
                Verdict::Cut(reason) => found.push((running.clone(), cut.clone(), reason)),
            });
            for (running, cut, reason) in found {
                set.fire([(running, cut)], reason);
            }
        }
        set
    }

    /// Ends every call that is past its end, or that runs on authority older than its resource accepts. Returns how many
    /// were ended now. [`Registry::keep_ends`] ends calls at their time; this finds those that a timer cannot know of: a
    /// clock that was set, a machine that slept, authority that grew old.
    pub fn sweep(&self, now: &Now) -> usize {
        self.shards.iter().map(|shard| shard.sweep(now)).sum()
    }

    /// Ends the calls of a worker at their time, for ever: one timer for all of them, set to the earliest end. For a task
    /// of the worker's own.
    pub async fn keep_ends(&self, shard: usize, now: impl Fn() -> Now) {
        let Some(shard) = self.shards.get(shard % self.shards.len()) else { return };
        loop {
            let earliest = shard.calls.lock().earliest;
            let left = earliest.saturating_since(now().wall);
            if left.is_zero() {
                shard.sweep(&now());
                continue;
            }
            // One that is entered behind the look above has left its word.
            let _ = tokio::time::timeout(left, shard.sooner.notified()).await;
        }
    }

    /// How many calls run that `which` names.
    pub fn running(&self, which: &Selector) -> usize {
        self.shards.iter().map(|shard| shard.calls.lock().select(which).len()).sum()
    }

    /// How many calls run.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.calls.lock().len()).sum()
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, shard: usize) -> Option<&Place> {
        self.shards.get(shard)
    }
}

impl Place {
    fn sweep(&self, now: &Now) -> usize {
        let mut late = Vec::new();
        {
            let mut calls = self.calls.lock();
            if calls.earliest > now.wall && !too_old(now.authority, calls.tightest) {
                return 0;
            }
            calls.walk(|running, cut| {
                let Some(reason) = past(running, now) else { return };
                // Told once; until it has left, it is no reason to look again.
                (running.ends, running.authority_bound) = (Timestamp::MAX, Duration::MAX);
                if cut.reason().is_none() {
                    late.push((cut.clone(), reason));
                }
            });
        }
        let ended = late.len();
        late.into_iter().for_each(|(cut, reason)| cut.fire(reason));
        ended
    }
}

fn past(running: &Running, now: &Now) -> Option<Reason> {
    if running.ends <= now.wall {
        return Some(running.end_reason);
    }
    too_old(now.authority, running.authority_bound).then_some(match now.authority {
        Authority::Missing => Reason::AuthorityMissing,
        Authority::Age(_) | Authority::Unknown => Reason::AuthorityStale,
    })
}

fn too_old(authority: Authority, bound: Duration) -> bool {
    match authority {
        Authority::Missing => true,
        Authority::Age(age) => age > bound,
        // The answer is on its way; the sweep is told the age itself, see `AuthorityClock::reckoning`.
        Authority::Unknown => false,
    }
}

/// A call's place in the registry. Dropping it says that the call is over: nothing more is forwarded either way.
#[derive(Debug)]
pub struct Registration {
    registry: Arc<Registry>,
    shard: usize,
    place: usize,
    cut: Arc<Cut>,
}

impl Registration {
    /// Where the call's intent stands in the evidence.
    pub fn intent(&self, seq: u64) {
        self.cut.intent.store(seq, std::sync::atomic::Ordering::Relaxed);
    }

    /// More bytes of the answer went to the caller.
    pub fn count_response(&self, bytes: u64) {
        self.cut.response_bytes.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    }

    /// The call's cut.
    pub fn cut(&self) -> &Arc<Cut> {
        &self.cut
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(shard) = self.registry.shard(self.shard) {
            shard.calls.lock().remove(self.place);
        }
        self.cut.leave();
        // Whoever fires after this look finds `gone` set.
        if self.cut.reason().is_some() {
            self.registry.departures.notify_waiters();
        }
    }
}

/// A call that was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutCall {
    /// The call.
    pub call: CallId,
    /// The grant it ran under.
    pub grant: Option<GrantId>,
    /// Why it ended: what reached it first.
    pub reason: Reason,
    /// Where its intent stands in the evidence; 0 when it had none yet, and so nothing was forwarded.
    pub intent_seq: u64,
    /// Bytes of the answer that the caller had got.
    pub response_bytes: u64,
    /// Those of them that came after the call was told to end, which it is once what ends it is in force.
    pub late_bytes: u64,
}

/// Calls that were told to end. Calls that were ending already, and still run, are among them.
#[derive(Debug)]
#[must_use = "cut calls are still running until they are gone"]
pub struct CutSet {
    registry: Arc<Registry>,
    calls: Vec<(CallId, Option<GrantId>, Arc<Cut>)>,
}

impl CutSet {
    /// None.
    pub fn empty(registry: &Arc<Registry>) -> Self {
        Self { registry: registry.clone(), calls: Vec::new() }
    }

    fn fire(&mut self, found: impl IntoIterator<Item = (Running, Arc<Cut>)>, reason: Reason) {
        for (running, cut) in found {
            cut.fire(reason);
            self.calls.push((running.call, running.grant, cut));
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// These, and those of `other`.
    pub fn join(&mut self, other: Self) {
        self.calls.extend(other.calls);
    }

    /// Waits until every one is over, at most `limit`. The second value is how many were still running then.
    pub async fn gone(mut self, limit: Duration) -> (Vec<CutCall>, usize) {
        let running = self.wait(limit).await;
        (self.calls(), running)
    }

    /// As [`CutSet::gone`], for those who go on waiting: how many still run.
    pub async fn wait(&mut self, limit: Duration) -> usize {
        // One call can be told to end for two causes.
        self.calls.sort_by_key(|(call, _, _)| *call);
        self.calls.dedup_by_key(|(call, _, _)| *call);
        let waiting = async {
            for (_, _, cut) in &self.calls {
                loop {
                    let departure = self.registry.departures.notified();
                    if cut.is_gone() {
                        break;
                    }
                    departure.await;
                }
            }
        };
        // What is still running after the limit is counted below.
        let _ = tokio::time::timeout(limit, waiting).await;
        self.calls.iter().filter(|(_, _, cut)| !cut.is_gone()).count()
    }

    /// What was cut, as of now.
    pub fn calls(&self) -> Vec<CutCall> {
        self.calls.iter().filter_map(cut_call).collect()
    }
}

fn cut_call((call, grant, cut): &(CallId, Option<GrantId>, Arc<Cut>)) -> Option<CutCall> {
    use std::sync::atomic::Ordering::Relaxed;
    Some(CutCall {
        call: *call,
        grant: *grant,
        reason: cut.reason()?,
        intent_seq: cut.intent.load(Relaxed),
        response_bytes: cut.response_bytes.load(Relaxed),
        late_bytes: cut.response_bytes.load(Relaxed).saturating_sub(cut.fired_at.load(Relaxed)),
    })
}

#[cfg(test)]
mod tests;
