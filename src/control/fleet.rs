//! The gateways as the control plane knows them: who is connected, what each has enforced, when each was last answered.
//!
//! In memory only. After a start every recorded gateway counts as answered just now, which is the safe side: a stop-by
//! time may be too late, never too early. It knows no streams.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::domain::name::{GatewayName, GrantId};
use crate::domain::resource::MAX_AUTHORITY;
use crate::domain::{Clock, Timestamp};
use crate::wire::{MAX_CUT_CALLS_LISTED, v1};

/// Acknowledgements remembered per gateway, for receipts that are still waited for.
const MAX_ACKNOWLEDGEMENTS: usize = 256;
/// Cut calls remembered per gateway.
const MAX_CUTS: usize = MAX_CUT_CALLS_LISTED;
/// From the moment at which authority is too old to the last call's end, generously.
pub(super) const SLACK: Duration = Duration::from_secs(1);

/// What a gateway said about a revision.
#[derive(Debug)]
struct Acknowledgement {
    revision: u64,
    took_us: u64,
    cut: Vec<v1::CutCall>,
    /// Cut calls that are not in it.
    unlisted: u64,
    /// When it came, since boot.
    at: Duration,
    /// As the gateway signed it.
    statement: v1::Signed,
    key: String,
}

/// What a gateway said of a revision, and that it did.
#[derive(Debug)]
pub(super) struct Stated {
    pub(super) applied: v1::Applied,
    /// The same as it was signed.
    pub(super) signed: v1::Signed,
    /// The key that verifies it.
    pub(super) key: String,
}

#[derive(Debug)]
struct Gateway {
    /// The stream that counts.
    session: Option<Session>,
    applied: u64,
    answered: Timestamp,
    acknowledgements: VecDeque<Acknowledgement>,
    cuts: usize,
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

/// How old authority may be for a resource.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The revision that made it so: a gateway that has not applied it goes by an earlier one.
    pub since: u64,
    /// The bound.
    pub now: Duration,
    /// The largest that it has been.
    pub longest: Duration,
}

impl Wanted {
    /// How long a gateway that applied `applied` may go on after it was answered: as long as the resource that it may use
    /// longest.
    fn authority(&self, applied: u64) -> Duration {
        let bounds = self.bounds.iter().map(|bound| if applied >= bound.since { bound.now } else { bound.longest });
        bounds.max().unwrap_or(MAX_AUTHORITY.duration()).saturating_add(SLACK)
    }
}

/// What is asked of a receipt.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The revision.
    pub revision: u64,
    /// The grants whose cut calls are told; `None`: all calls.
    pub grants: Option<BTreeSet<GrantId>>,
    /// How long a gateway that was answered may go on allowing calls: one per resource.
    pub bounds: Vec<Bound>,
    /// How long a connected gateway may lag before it is answered no more.
    pub lag: Duration,
}

impl Fleet {
    /// Knows nobody yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, gateways: Mutex::default(), changed: watch::Sender::new(0) }
    }

    /// A gateway is recorded. What is known of it already stays.
    pub fn record(&self, name: &GatewayName) {
        let answered = self.clock.now();
        self.gateways.lock().by_name.entry(name.clone()).or_insert_with(|| Gateway {
            session: None,
            applied: 0,
            answered,
            acknowledgements: VecDeque::new(),
            cuts: 0,
        });
        self.touch();
    }

    /// A gateway is recorded no more.
    pub fn forget(&self, name: &GatewayName) {
        self.gateways.lock().by_name.remove(name);
        self.touch();
    }

    /// A gateway's stream is to end.
    pub fn cut_off(&self, name: &GatewayName) {
        if let Some(gateway) = self.gateways.lock().by_name.get_mut(name) {
            gateway.session = None;
        }
        self.touch();
    }

    /// A stream begins; an earlier one of the gateway ends. `holds` is what it says it has. The receiver wakes when the
    /// stream is to end.
    pub(super) fn attach(&self, name: &GatewayName, holds: u64) -> Option<(u64, oneshot::Receiver<()>)> {
        let mut gateways = self.gateways.lock();
        gateways.next_session += 1;
        let number = gateways.next_session;
        let gateway = gateways.by_name.get_mut(name)?;
        let (alive, ended) = oneshot::channel();
        gateway.session = Some(Session { number, _alive: alive });
        // A process that lost its state enforces no more than what it holds.
        gateway.applied = gateway.applied.min(holds);
        drop(gateways);
        self.touch();
        Some((number, ended))
    }

    /// A stream ended.
    pub(super) fn detach(&self, name: &GatewayName, session: u64) {
        self.with(name, session, |gateway| gateway.session = None);
    }

    /// A gateway says that a revision is enforced.
    pub(super) fn applied(&self, name: &GatewayName, session: u64, stated: Stated) {
        let Stated { applied, signed: statement, key } = stated;
        let at = self.clock.since_boot();
        self.with(name, session, |gateway| {
            gateway.applied = gateway.applied.max(applied.revision);
            let mut cut = applied.cut;
            let dropped = u64::try_from(cut.len().saturating_sub(MAX_CUTS)).unwrap_or(u64::MAX);
            let unlisted = applied.unlisted.saturating_add(dropped);
            cut.truncate(MAX_CUTS);
            gateway.cuts += cut.len();
            let (revision, took_us) = (applied.revision, applied.took_us);
            gateway.acknowledgements.push_back(Acknowledgement {
                revision,
                took_us,
                cut,
                unlisted,
                at,
                statement,
                key,
            });
            while gateway.acknowledgements.len() > MAX_ACKNOWLEDGEMENTS || gateway.cuts > MAX_CUTS {
                let Some(oldest) = gateway.acknowledgements.pop_front() else { break };
                gateway.cuts -= oldest.cut.len();
            }
        });
    }

    /// A gateway enforced a revision before this stream: what was cut then is not told again.
    pub(super) fn holds(&self, name: &GatewayName, session: u64, revision: u64) {
        self.with(name, session, |gateway| gateway.applied = gateway.applied.max(revision));
    }

    /// A gateway's renewal is about to be answered: from now on it may go on for as long as its resources say.
    pub(super) fn answered(&self, name: &GatewayName, session: u64) {
        let now = self.clock.now();
        // No receipt settles by it: nobody need look again.
        if let Some(gateway) = session_of(&mut self.gateways.lock(), name, session) {
            gateway.answered = gateway.answered.max(now);
        }
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
            answered: gateway.answered,
        };
        gateways.by_name.iter().map(status).collect()
    }

    /// What each gateway has to show for a revision, as of now.
    pub fn receipts(&self, wanted: &Wanted) -> Vec<v1::GatewayReceipt> {
        let now = self.clock.now();
        let gateways = self.gateways.lock();
        gateways.by_name.iter().map(|(name, gateway)| receipt(name, gateway, wanted, now)).collect()
    }

    /// When each gateway said that a revision is enforced, since boot; `None` for those that are connected and have not.
    pub fn acknowledged(&self, revision: u64) -> Vec<(GatewayName, Option<Duration>)> {
        let gateways = self.gateways.lock();
        let at = |gateway: &Gateway| gateway.acknowledgements.iter().find(|a| a.revision >= revision).map(|a| a.at);
        let told = gateways.by_name.iter().map(|(name, gateway)| (name, gateway.session.is_some(), at(gateway)));
        told.filter(|(_, connected, at)| *connected || at.is_some()).map(|(name, _, at)| (name.clone(), at)).collect()
    }

    /// Waits until every connected gateway has enforced it, or until `timeout`, and returns what each has to show.
    pub async fn wait(&self, wanted: &Wanted, timeout: Duration) -> Vec<v1::GatewayReceipt> {
        let mut changed = self.watch();
        let settled = async {
            loop {
                changed.mark_unchanged();
                let receipts = self.receipts(wanted);
                let pending = v1::gateway_receipt::State::Pending;
                if receipts.iter().all(|receipt| !receipt.connected || receipt.state() != pending) {
                    return receipts;
                }
                if changed.changed().await.is_err() {
                    return receipts;
                }
            }
        };
        match tokio::time::timeout(timeout, settled).await {
            Ok(receipts) => receipts,
            Err(_) => self.receipts(wanted),
        }
    }
}

/// The gateway, while the stream that counts is this one.
fn session_of<'g>(gateways: &'g mut Gateways, name: &GatewayName, session: u64) -> Option<&'g mut Gateway> {
    gateways.by_name.get_mut(name).filter(|g| g.session.as_ref().is_some_and(|s| s.number == session))
}

fn receipt(name: &GatewayName, gateway: &Gateway, wanted: &Wanted, now: Timestamp) -> v1::GatewayReceipt {
    use v1::gateway_receipt::State;
    let authority = wanted.authority(gateway.applied);
    let connected = gateway.session.is_some();
    let (state, stops_by) = if gateway.applied >= wanted.revision {
        (State::Enforced, None)
    } else if connected {
        // Its renewals are answered until it has lagged for too long, then no more.
        (State::Pending, Some(now.saturating_add(wanted.lag).saturating_add(authority)))
    } else {
        let stops_by = gateway.answered.saturating_add(authority);
        (if stops_by < now { State::Lapsed } else { State::Pending }, Some(stops_by))
    };
    let mut cut = Vec::new();
    let (mut took_us, mut unlisted) = (0, 0u64);
    let (mut statement, mut statement_key) = (None, String::new());
    if state == State::Enforced {
        let since = gateway.acknowledgements.iter().filter(|a| a.revision >= wanted.revision);
        for (place, acknowledgement) in since.enumerate() {
            if place == 0 {
                took_us = acknowledgement.took_us;
                statement = Some(acknowledgement.statement.clone());
                statement_key.clone_from(&acknowledgement.key);
            }
            unlisted = unlisted.saturating_add(acknowledgement.unlisted);
            cut.extend(acknowledgement.cut.iter().filter(|c| concerns(c, wanted.grants.as_ref())).map(|c| {
                v1::CutCallInfo {
                    call_id: c.call_id.clone(),
                    reason: c.reason.clone(),
                    intent_seq: c.intent_seq,
                    response_bytes: c.response_bytes,
                }
            }));
        }
    }
    v1::GatewayReceipt {
        gateway: name.to_string(),
        state: state.into(),
        cut,
        took_us,
        stops_by_unix_us: stops_by.map_or(0, Timestamp::unix_micros),
        unlisted,
        connected,
        statement,
        statement_key,
    }
}

fn concerns(cut: &v1::CutCall, grants: Option<&BTreeSet<GrantId>>) -> bool {
    let id = crate::wire::grant_id(&cut.grant_id);
    grants.is_none_or(|grants| id.is_ok_and(|id| grants.contains(&id)))
}

#[cfg(test)]
mod tests {
    use v1::gateway_receipt::State;

    use super::*;
    use crate::domain::clock::ManualClock;

    fn fleet() -> (Arc<ManualClock>, Fleet) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix_seconds(1000)));
        let fleet = Fleet::new(clock.clone());
        (clock, fleet)
    }

    fn wanted(revision: u64) -> Wanted {
        Wanted {
            revision,
            grants: Some(BTreeSet::from([GrantId::from_bits(7)])),
            bounds: vec![Bound { since: 0, now: Duration::from_secs(10), longest: Duration::from_secs(10) }],
            lag: Duration::from_secs(5),
        }
    }

    fn stated(applied: v1::Applied) -> Stated {
        Stated { applied, signed: v1::Signed::default(), key: "edge+00+AA".to_owned() }
    }

    fn applied(revision: u64, grant: u128) -> Stated {
        let cut = v1::CutCall { grant_id: grant.to_be_bytes().to_vec(), intent_seq: 3, ..Default::default() };
        stated(v1::Applied { epoch: 1, revision, cut: vec![cut], took_us: 42, ..Default::default() })
    }

    #[test]
    fn a_gateway_that_never_came_stops_by_its_assumed_answer() {
        let (clock, fleet) = fleet();
        let edge = "edge".parse().unwrap();
        fleet.record(&edge);
        clock.advance(Duration::from_secs(3));
        let receipt = &fleet.receipts(&wanted(5))[0];
        assert_eq!((receipt.state(), receipt.connected), (State::Pending, false));
        assert_eq!(receipt.stops_by_unix_us, Timestamp::from_unix_seconds(1011).unix_micros());
        clock.advance(Duration::from_secs(9));
        let receipt = &fleet.receipts(&wanted(5))[0];
        assert_eq!(receipt.state(), State::Lapsed, "by itself, and its moment stays");
        assert_eq!(receipt.stops_by_unix_us, Timestamp::from_unix_seconds(1011).unix_micros());
    }

    #[test]
    fn a_gateway_that_missed_a_lower_bound_stops_by_the_one_that_it_knows() {
        let (_clock, fleet) = fleet();
        let edge = "edge".parse().unwrap();
        fleet.record(&edge);
        let (session, _alive) = fleet.attach(&edge, 4).unwrap();
        fleet.detach(&edge, session);
        // Lowered in revision 5, which it has not applied.
        let lowered = |since| Bound { since, now: Duration::from_secs(10), longest: Duration::from_secs(300) };
        let stops_by = |bounds| {
            let receipt = fleet.receipts(&Wanted { bounds, ..wanted(6) }).remove(0);
            assert_eq!((receipt.state(), receipt.connected), (State::Pending, false));
            receipt.stops_by_unix_us / 1_000_000
        };
        let before = fleet.gateways.lock().by_name[&edge].applied;
        assert_eq!((before, stops_by(vec![lowered(5)])), (0, 1301));
        fleet.gateways.lock().by_name.get_mut(&edge).unwrap().applied = 5;
        assert_eq!(stops_by(vec![lowered(5)]), 1011);
        assert_eq!(stops_by(vec![lowered(5), lowered(6)]), 1301, "the longest of several");
        assert_eq!(stops_by(Vec::new()), 87_401, "of what is not there nothing is known");
    }

    #[test]
    fn receipts_tell_the_cuts_of_the_grant_and_no_others() {
        let (_clock, fleet) = fleet();
        let edge = "edge".parse().unwrap();
        fleet.record(&edge);
        let (session, _alive) = fleet.attach(&edge, 4).unwrap();
        assert_eq!(fleet.receipts(&wanted(5))[0].state(), State::Pending);
        fleet.applied(&edge, session, applied(5, 8));
        fleet.applied(&edge, session, applied(6, 7));
        let receipt = &fleet.receipts(&wanted(5))[0];
        assert_eq!((receipt.state(), receipt.took_us, receipt.cut.len()), (State::Enforced, 42, 1));
        assert_eq!(receipt.stops_by_unix_us, 0);
    }

    #[test]
    fn an_older_stream_of_a_gateway_says_nothing_any_more() {
        let (_clock, fleet) = fleet();
        let edge = "edge".parse().unwrap();
        fleet.record(&edge);
        let (old, mut ended) = fleet.attach(&edge, 4).unwrap();
        assert!(ended.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Empty));
        let (_new, mut lives) = fleet.attach(&edge, 4).unwrap();
        fleet.applied(&edge, old, applied(5, 7));
        fleet.detach(&edge, old);
        assert!(ended.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed));
        assert!(lives.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Empty));
        assert_eq!(fleet.receipts(&wanted(5))[0].state(), State::Pending);
        assert!(fleet.attach(&"other".parse().unwrap(), 0).is_none());
    }

    #[test]
    fn a_gateway_that_lost_its_state_has_enforced_nothing() {
        let (_clock, fleet) = fleet();
        let edge = "edge".parse().unwrap();
        fleet.record(&edge);
        let (session, _alive) = fleet.attach(&edge, 4).unwrap();
        fleet.applied(&edge, session, applied(5, 7));
        fleet.attach(&edge, 0).unwrap();
        assert_eq!(fleet.receipts(&wanted(5))[0].state(), State::Pending);
    }

    #[tokio::test]
    async fn waiting_ends_when_the_last_pending_gateway_leaves() {
        let (_clock, fleet) = fleet();
        let (one, two) = ("one".parse().unwrap(), "two".parse().unwrap());
        fleet.record(&one);
        fleet.record(&two);
        let (first, _one) = fleet.attach(&one, 4).unwrap();
        let (second, _two) = fleet.attach(&two, 4).unwrap();
        let fleet = Arc::new(fleet);
        let waiting = tokio::spawn({
            let fleet = fleet.clone();
            async move { fleet.wait(&wanted(5), Duration::from_secs(60)).await }
        });
        fleet.applied(&one, first, applied(5, 7));
        fleet.detach(&two, second);
        let receipts = waiting.await.unwrap();
        assert_eq!(receipts.iter().map(|r| r.state()).collect::<Vec<_>>(), [State::Enforced, State::Pending]);
    }

    #[test]
    fn what_is_remembered_of_acknowledgements_is_bounded() {
        let (_clock, fleet) = fleet();
        let edge = "edge".parse().unwrap();
        fleet.record(&edge);
        let (session, _alive) = fleet.attach(&edge, 0).unwrap();
        for revision in 1..1000 {
            let one = v1::CutCall::default();
            let applied = v1::Applied { revision, cut: vec![one; 100], ..Default::default() };
            fleet.applied(&edge, session, stated(applied));
        }
        let gateways = fleet.gateways.lock();
        let gateway = &gateways.by_name[&edge];
        assert!(gateway.cuts <= MAX_CUTS && gateway.acknowledgements.len() <= MAX_ACKNOWLEDGEMENTS);
        assert_eq!(gateway.cuts, gateway.acknowledgements.iter().map(|a| a.cut.len()).sum::<usize>());
    }
}
