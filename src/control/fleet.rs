//! The gateways as the control plane knows them: who is connected, what each has enforced, when each was last answered.
//!
//! In memory only. After a start every recorded gateway counts as answered just now, which is the safe side: a stop-by
//! time may be too late, never too early. It knows no streams.

mod acknowledgements;
mod holding;
mod receipt;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use acknowledgements::Acknowledgements;
pub(super) use acknowledgements::Stated;
use holding::Holding;
pub(super) use holding::Resources;
pub use receipt::{Bound, Cuts, Wanted};

use crate::domain::name::GatewayName;
use crate::domain::{Clock, Timestamp};
use crate::wire::v1;

/// From the moment at which authority is too old to the last call's end, generously.
pub(super) const SLACK: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Gateway {
    /// The stream that counts.
    session: Option<Session>,
    /// Key of the log that the latest stream came with, or of the one that is recorded; `None`: it never had authority.
    key: Option<String>,
    applied: u64,
    /// By which authority the certificate is that its latest stream came with.
    issued_by: Option<String>,
    answered: Moment,
    /// Who had the gateway's authority before, under another key, and may have some of it left.
    displaced: Option<Displaced>,
    behind: Option<Behind>,
    acknowledgements: Acknowledgements,
    holding: Holding,
}

/// A process that another one took the place of.
#[derive(Clone, Copy, Debug)]
struct Displaced {
    answered: Moment,
    applied: u64,
}

/// A moment on both clocks. What lapses does so on the one that nobody sets; the other is for people.
#[derive(Clone, Copy, Debug)]
struct Moment {
    wall: Timestamp,
    boot: Duration,
}

impl Moment {
    fn after(self, duration: Duration) -> Self {
        Self { wall: self.wall.saturating_add(duration), boot: self.boot.saturating_add(duration) }
    }
}

/// How long a gateway has lagged while it was connected.
#[derive(Clone, Copy, Debug)]
struct Behind {
    /// The head when it began.
    target: u64,
    /// On earlier streams, and up to `from`.
    spent: Duration,
    /// Since boot.
    from: Duration,
}

impl Gateway {
    /// Whoever holds what it was answered until now is another process than the one that comes.
    fn displace(&mut self, applied: u64) {
        let before = self.displaced.map_or(applied, |before| before.applied.min(applied));
        // It is answered last of them all: whoever came before it stops earlier.
        self.displaced = Some(Displaced { answered: self.answered, applied: before });
        self.applied = 0;
        self.acknowledgements.forget();
        self.holding = Holding::default();
    }

    /// Its stream ends, however that came.
    fn leave(&mut self, now: Duration) {
        if self.session.take().is_some()
            && let Some(behind) = &mut self.behind
        {
            behind.spent = behind.spent.saturating_add(now.saturating_sub(behind.from));
            behind.from = now;
        }
    }
}

/// A stream. Dropped, it is told to end: another one took its place, or the gateway may have none.
#[derive(Debug)]
struct Session {
    number: u64,
    _alive: oneshot::Sender<()>,
}

/// A gateway's standing, for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayStatus {
    /// Its name.
    pub name: GatewayName,
    /// Whether a stream of it lives.
    pub connected: bool,
    /// The revision that it said is enforced.
    pub applied: u64,
    /// When its last renewal was answered.
    pub answered: Timestamp,
    /// The label of the authority whose certificate it showed last, since this process began.
    pub issued_by: Option<String>,
}

/// Every recorded gateway.
#[derive(Debug)]
pub struct Fleet {
    clock: Arc<dyn Clock>,
    gateways: Mutex<Gateways>,
    /// Counts changes: waiters look again.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Gateways {
    by_name: BTreeMap<GatewayName, Gateway>,
    next_session: u64,
}

impl Fleet {
    /// Knows nobody yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, gateways: Mutex::default(), changed: watch::Sender::new(0) }
    }

    /// A gateway is recorded, with the key of its log if it has come with one. `parted`: not long ago another process may
    /// have had its authority. What is known of it already stays.
    pub fn record(&self, name: &GatewayName, key: Option<String>, parted: bool) {
        let answered = self.now();
        self.gateways.lock().by_name.entry(name.clone()).or_insert_with(|| Gateway {
            session: None,
            key,
            applied: 0,
            issued_by: None,
            answered,
            displaced: parted.then_some(Displaced { answered, applied: 0 }),
            behind: None,
            acknowledgements: Acknowledgements::default(),
            holding: Holding::default(),
        });
        self.touch();
    }

    fn now(&self) -> Moment {
        Moment { wall: self.clock.now(), boot: self.clock.since_boot() }
    }

    /// A gateway is recorded no more.
    pub fn forget(&self, name: &GatewayName) {
        self.gateways.lock().by_name.remove(name);
        self.touch();
    }

    /// A gateway's stream is to end.
    pub fn cut_off(&self, name: &GatewayName) {
        let now = self.clock.since_boot();
        if let Some(gateway) = self.gateways.lock().by_name.get_mut(name) {
            gateway.leave(now);
        }
        self.touch();
    }

    /// A stream of the gateway that holds `key` begins; an earlier one ends. `holds` is what it says it has. The receiver
    /// wakes when the stream is to end.
    pub(super) fn attach(&self, name: &GatewayName, key: &str, holds: u64) -> Option<(u64, oneshot::Receiver<()>)> {
        let now = self.clock.since_boot();
        let mut gateways = self.gateways.lock();
        gateways.next_session += 1;
        let number = gateways.next_session;
        let gateway = gateways.by_name.get_mut(name)?;
        let (alive, ended) = oneshot::channel();
        gateway.leave(now);
        gateway.session = Some(Session { number, _alive: alive });
        if gateway.key.as_deref().is_some_and(|known| known != key) {
            gateway.displace(gateway.applied);
        }
        gateway.key = Some(key.to_owned());
        // A process that lost its state enforces no more than what it holds.
        gateway.applied = gateway.applied.min(holds);
        if let Some(behind) = &mut gateway.behind {
            behind.from = now;
        }
        drop(gateways);
        self.touch();
        Some((number, ended))
    }

    /// By which authority the certificate is that a stream came with.
    pub(super) fn came_with(&self, name: &GatewayName, session: u64, issued_by: Option<String>) {
        self.with(name, session, |gateway| gateway.issued_by = issued_by);
    }

    /// A stream ended.
    pub(super) fn detach(&self, name: &GatewayName, session: u64) {
        let now = self.clock.since_boot();
        self.with(name, session, |gateway| gateway.leave(now));
    }

    /// A gateway says that a revision is enforced.
    pub(super) fn applied(&self, name: &GatewayName, session: u64, stated: Stated) {
        let at = self.clock.since_boot();
        self.with(name, session, |gateway| {
            gateway.applied = gateway.applied.max(stated.applied.revision);
            gateway.acknowledgements.push(stated, at);
            gateway.holding.applied(gateway.applied);
        });
    }

    /// A gateway is about to be sent its part of the picture as of a revision, and from then on what changes in it: that of
    /// these resources, `None` for all.
    pub(super) fn told(&self, name: &GatewayName, session: u64, revision: u64, resources: Option<Resources>) {
        self.with(name, session, |gateway| gateway.holding.told(revision, resources));
    }

    /// Another process than the one that is known has the gateway's keys: what it enforced nobody knows.
    pub(super) fn doubt(&self, name: &GatewayName) {
        let mut gateways = self.gateways.lock();
        if let Some(gateway) = gateways.by_name.get_mut(name) {
            gateway.displace(0);
        }
        drop(gateways);
        self.touch();
    }

    /// A gateway's renewal is about to be answered: from now on it may go on for as long as its resources say. False when
    /// the stream counts no more: it must not be answered.
    pub(super) fn answered(&self, name: &GatewayName, session: u64) -> bool {
        let now = self.now();
        // No receipt settles by it: nobody need look again.
        let mut gateways = self.gateways.lock();
        let Some(gateway) = session_of(&mut gateways, name, session) else { return false };
        gateway.answered = now;
        true
    }

    /// How long the gateway has lagged behind `head` while it was connected. `since`: since when it could know of what it
    /// has not enforced, `None` when it lacks nothing.
    pub(super) fn lag(&self, name: &GatewayName, session: u64, head: u64, since: Option<Duration>) -> Duration {
        let now = self.clock.since_boot();
        let mut gateways = self.gateways.lock();
        let Some(gateway) = session_of(&mut gateways, name, session) else { return Duration::ZERO };
        let Some(since) = since else {
            gateway.behind = None;
            return Duration::ZERO;
        };
        let applied = gateway.applied;
        let fresh = || Behind { target: head, spent: Duration::ZERO, from: since };
        let behind = gateway.behind.filter(|behind| applied < behind.target).unwrap_or_else(fresh);
        gateway.behind = Some(behind);
        behind.spent.saturating_add(now.saturating_sub(behind.from))
    }

    /// How many gateways are connected.
    pub(super) fn connected(&self) -> u64 {
        let gateways = self.gateways.lock();
        let connected = gateways.by_name.values().filter(|gateway| gateway.session.is_some()).count();
        u64::try_from(connected).unwrap_or(u64::MAX)
    }

    /// What the gateway said is enforced.
    pub(super) fn applied_by(&self, name: &GatewayName) -> u64 {
        self.gateways.lock().by_name.get(name).map_or(0, |gateway| gateway.applied)
    }

    fn with(&self, name: &GatewayName, session: u64, change: impl FnOnce(&mut Gateway)) {
        let mut gateways = self.gateways.lock();
        if let Some(gateway) = session_of(&mut gateways, name, session) {
            change(gateway);
        }
        drop(gateways);
        self.touch();
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Wakes when anything here changes.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Where each gateway stands.
    pub fn status(&self) -> Vec<GatewayStatus> {
        let gateways = self.gateways.lock();
        let status = |(name, gateway): (&GatewayName, &Gateway)| GatewayStatus {
            name: name.clone(),
            connected: gateway.session.is_some(),
            applied: gateway.applied,
            answered: gateway.answered.wall,
            issued_by: gateway.issued_by.clone(),
        };
        gateways.by_name.iter().map(status).collect()
    }

    /// What each gateway has to show for a revision, as of now.
    pub fn receipts(&self, wanted: &Wanted) -> Vec<v1::GatewayReceipt> {
        let now = self.now();
        let gateways = self.gateways.lock();
        gateways.by_name.iter().map(|(name, gateway)| gateway.receipt(name, wanted, now)).collect()
    }

    /// When each gateway said that a revision is enforced, since boot; `None` for those that are connected and have not.
    pub fn acknowledged(&self, revision: u64) -> Vec<(GatewayName, Option<Duration>)> {
        let gateways = self.gateways.lock();
        let at = |gateway: &Gateway| gateway.acknowledgements.since(revision).next().map(|said| said.at);
        let told = gateways.by_name.iter().map(|(name, gateway)| (name, gateway.session.is_some(), at(gateway)));
        told.filter(|(_, connected, at)| *connected || at.is_some()).map(|(name, _, at)| (name.clone(), at)).collect()
    }

    /// Whether every connected gateway that it concerns has enforced a revision: there is nobody to wait for.
    fn is_settled(&self, wanted: &Wanted) -> bool {
        let gateways = self.gateways.lock();
        let waits = |gateway: &Gateway| gateway.session.is_some() && gateway.applied < wanted.revision;
        !gateways.by_name.values().any(|gateway| waits(gateway) && gateway.is_concerned(wanted))
    }

    /// Waits until every connected gateway has enforced it, or until `timeout`, and returns what each has to show.
    pub async fn wait(&self, wanted: &Wanted, timeout: Duration) -> Vec<v1::GatewayReceipt> {
        let mut changed = self.watch();
        let settled = async {
            loop {
                changed.mark_unchanged();
                if self.is_settled(wanted) || changed.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(timeout, settled).await;
        self.receipts(wanted)
    }
}

/// The gateway, while the stream that counts is this one.
fn session_of<'g>(gateways: &'g mut Gateways, name: &GatewayName, session: u64) -> Option<&'g mut Gateway> {
    gateways.by_name.get_mut(name).filter(|g| g.session.as_ref().is_some_and(|s| s.number == session))
}

#[cfg(test)]
mod tests;
