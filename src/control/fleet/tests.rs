//! Receipts, sessions and what is remembered of them.

use v1::gateway_receipt::State;

use std::collections::BTreeSet;

use super::*;
use crate::domain::clock::ManualClock;
use crate::domain::name::GrantId;

const KEY: &str = "edge+00+AA";
const OTHER: &str = "edge+00+BB";

fn fleet() -> (Arc<ManualClock>, Fleet) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_unix_seconds(1000)));
    let fleet = Fleet::new(clock.clone());
    (clock, fleet)
}

fn wanted(revision: u64) -> Wanted {
    Wanted {
        about: None,
        revision,
        cuts_from: revision,
        cuts: Cuts::Of(BTreeSet::from([GrantId::from_bits(7)])),
        bounds: vec![Bound { since: 0, now: Duration::from_secs(10), longest: Duration::from_secs(10) }],
        lag: Duration::from_secs(5),
    }
}

fn stated(applied: v1::Applied) -> Stated {
    Stated { applied, signed: v1::Signed::default(), key: KEY.to_owned() }
}

fn applied(revision: u64, grant: u128) -> Stated {
    let cut = v1::CutCall { grant_id: grant.to_be_bytes().to_vec(), intent_seq: 3, ..Default::default() };
    stated(v1::Applied { epoch: 1, revision, cut: vec![cut], took_us: 42, ..Default::default() })
}

#[test]
fn a_gateway_that_never_came_stops_by_its_assumed_answer() {
    let (clock, fleet) = fleet();
    let edge = "edge".parse().unwrap();
    fleet.record(&edge, None, false);
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
    fleet.record(&edge, None, false);
    let (session, _alive) = fleet.attach(&edge, KEY, 4).unwrap();
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
    fleet.record(&edge, None, false);
    let (session, _alive) = fleet.attach(&edge, KEY, 4).unwrap();
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
    fleet.record(&edge, None, false);
    let (old, mut ended) = fleet.attach(&edge, KEY, 4).unwrap();
    assert!(ended.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Empty));
    let (_new, mut lives) = fleet.attach(&edge, KEY, 4).unwrap();
    fleet.applied(&edge, old, applied(5, 7));
    fleet.detach(&edge, old);
    assert!(ended.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed));
    assert!(lives.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Empty));
    assert_eq!(fleet.receipts(&wanted(5))[0].state(), State::Pending);
    assert!(fleet.attach(&"other".parse().unwrap(), KEY, 0).is_none());
}

#[test]
fn a_gateway_that_lost_its_state_has_enforced_nothing() {
    let (_clock, fleet) = fleet();
    let edge = "edge".parse().unwrap();
    fleet.record(&edge, None, false);
    let (session, _alive) = fleet.attach(&edge, KEY, 4).unwrap();
    fleet.applied(&edge, session, applied(5, 7));
    fleet.attach(&edge, KEY, 0).unwrap();
    assert_eq!(fleet.receipts(&wanted(5))[0].state(), State::Pending);
}

#[tokio::test]
async fn waiting_ends_when_the_last_pending_gateway_leaves() {
    let (_clock, fleet) = fleet();
    let (one, two) = ("one".parse().unwrap(), "two".parse().unwrap());
    fleet.record(&one, None, false);
    fleet.record(&two, None, false);
    let (first, _one) = fleet.attach(&one, KEY, 4).unwrap();
    let (second, _two) = fleet.attach(&two, KEY, 4).unwrap();
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
fn whoever_another_key_took_the_place_of_is_pending_until_it_lapses() {
    let (clock, fleet) = fleet();
    let edge = "edge".parse().unwrap();
    fleet.record(&edge, None, false);
    let (first, _alive) = fleet.attach(&edge, KEY, 4).unwrap();
    fleet.applied(&edge, first, applied(5, 7));
    clock.advance(Duration::from_secs(3));
    assert!(fleet.answered(&edge, first));
    // Another process, with another log: its word is for itself alone.
    let (second, _alive) = fleet.attach(&edge, OTHER, 0).unwrap();
    assert!(!fleet.answered(&edge, first), "the first one is answered no more");
    fleet.applied(&edge, second, applied(6, 7));
    let receipt = &fleet.receipts(&wanted(6))[0];
    assert_eq!((receipt.state(), receipt.stops_by_unix_us / 1_000_000), (State::Pending, 1014));
    assert!(receipt.cut.is_empty() && receipt.statement.is_none());
    assert!(fleet.is_settled(&wanted(6)), "nobody is there to wait for");
    assert_eq!(fleet.receipts(&wanted(5))[0].state(), State::Enforced, "both said so");
    clock.advance(Duration::from_secs(12));
    assert_eq!(fleet.receipts(&wanted(6))[0].state(), State::Enforced);
}

#[test]
fn the_first_log_of_a_gateway_takes_nobodys_place_and_after_a_start_the_recorded_one() {
    let (_clock, fleet) = fleet();
    for (name, recorded, state) in [
        ("new", None, State::Enforced),
        ("same", Some(KEY), State::Enforced),
        ("joined-anew", Some(OTHER), State::Pending),
        ("readmitted", Some(""), State::Pending),
    ] {
        let edge = name.parse().unwrap();
        fleet.record(&edge, recorded.map(str::to_owned), false);
        let (session, _alive) = fleet.attach(&edge, KEY, 0).unwrap();
        fleet.applied(&edge, session, applied(5, 7));
        let receipt = fleet.receipts(&wanted(5)).into_iter().find(|receipt| receipt.gateway == name).unwrap();
        assert_eq!(receipt.state(), state, "{name}");
        drop(_alive);
    }
}

#[test]
fn a_gateway_in_doubt_has_enforced_nothing_until_everybody_with_its_keys_lapsed() {
    let (clock, fleet) = fleet();
    let edge = "edge".parse().unwrap();
    fleet.record(&edge, None, false);
    let (session, _alive) = fleet.attach(&edge, KEY, 4).unwrap();
    fleet.applied(&edge, session, applied(5, 7));
    fleet.doubt(&edge);
    assert_eq!(fleet.receipts(&wanted(5))[0].state(), State::Pending);
    fleet.applied(&edge, session, applied(5, 7));
    assert_eq!(fleet.receipts(&wanted(5))[0].state(), State::Pending);
    clock.advance(Duration::from_secs(12));
    assert_eq!(fleet.receipts(&wanted(5))[0].state(), State::Enforced);
}

#[test]
fn what_lapses_does_so_on_the_clock_that_nobody_sets() {
    let (clock, fleet) = fleet();
    let (edge, parted) = ("edge".parse().unwrap(), "parted".parse().unwrap());
    fleet.record(&edge, None, false);
    fleet.record(&parted, Some(KEY.to_owned()), true);
    let (session, _alive) = fleet.attach(&parted, KEY, 0).unwrap();
    fleet.applied(&parted, session, applied(5, 7));
    let states = || fleet.receipts(&wanted(5)).iter().map(|receipt| receipt.state()).collect::<Vec<_>>();
    assert_eq!(states(), [State::Pending, State::Pending], "another process had its authority before this start");
    clock.set_wall(Timestamp::from_unix_seconds(1_000_000));
    assert_eq!(states(), [State::Pending, State::Pending]);
    clock.set_wall(Timestamp::from_unix_seconds(1));
    clock.advance(Duration::from_secs(12));
    assert_eq!(states(), [State::Lapsed, State::Enforced]);
}

#[test]
fn coming_back_again_and_again_gives_a_gateway_no_more_time_to_lag() {
    let (clock, fleet) = fleet();
    let edge = "edge".parse().unwrap();
    fleet.record(&edge, None, false);
    let mut lag = Duration::ZERO;
    for _ in 0..4 {
        let (session, _alive) = fleet.attach(&edge, KEY, 4).unwrap();
        let began = clock.since_boot();
        clock.advance(Duration::from_secs(3));
        lag = fleet.lag(&edge, session, 6, Some(began));
        fleet.detach(&edge, session);
        // Away, it gets nothing, and need not have enforced anything.
        clock.advance(Duration::from_secs(100));
    }
    assert_eq!(lag, Duration::from_secs(12));
    let (session, _alive) = fleet.attach(&edge, KEY, 4).unwrap();
    fleet.applied(&edge, session, applied(6, 7));
    let now = clock.since_boot();
    assert_eq!(fleet.lag(&edge, session, 9, Some(now)), Duration::ZERO, "it caught up: what is new counts from now");
    assert_eq!(fleet.lag(&edge, session, 9, None), Duration::ZERO);
}

#[test]
fn what_is_done_in_several_steps_tells_the_cuts_of_all() {
    let (_clock, fleet) = fleet();
    let edge = "edge".parse().unwrap();
    fleet.record(&edge, None, false);
    let (session, _alive) = fleet.attach(&edge, KEY, 4).unwrap();
    (5..8).for_each(|revision| fleet.applied(&edge, session, applied(revision, 7)));
    let receipt = &fleet.receipts(&Wanted { cuts_from: 5, ..wanted(7) })[0];
    assert_eq!((receipt.cut.len(), receipt.unlisted), (3, 0));
    (8..1000).for_each(|revision| fleet.applied(&edge, session, applied(revision, 8)));
    let receipt = &fleet.receipts(&Wanted { cuts_from: 5, ..wanted(999) })[0];
    assert_eq!((receipt.cut.len(), receipt.unlisted), (0, 995 - 256), "forgotten ones are counted");
}
