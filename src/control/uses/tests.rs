//! Giving out and taking back, against a model of what gateways can have spent.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::record::GrantRecord;
use super::*;
use crate::domain::grant::{Limits, Lineage, UsesPer, Window};
use crate::domain::resource::Span;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_000_000);
const GRANT: GrantId = GrantId::from_bits(7);

fn later(seconds: u64) -> Timestamp {
    NOW.saturating_add(Duration::from_secs(seconds))
}

fn grant(uses: Option<u64>, per: Option<(u64, u64)>) -> Grant {
    let every = |seconds| Span::new(Duration::from_secs(seconds));
    Grant {
        id: GRANT,
        identity: "billing".parse().unwrap(),
        resource: "api/orders".parse().unwrap(),
        actions: Vec::new(),
        window: Window { starts: NOW, ends: later(3600) },
        limits: Limits {
            uses,
            uses_per: per.map(|(uses, seconds)| UsesPer { uses, every: every(seconds) }),
            ..Limits::default()
        },
        lineage: Lineage {
            created: NOW,
            created_by: "alice".parse().unwrap(),
            reason: "sweep".to_owned(),
            ticket: None,
            until: Vec::new(),
            origin: None,
            exception: None,
            break_glass: None,
        },
        revoked: None,
    }
}

fn model(grant: Grant) -> Model {
    let mut model = Model::default();
    model.apply(&Change::Put(Record::Grant(GrantRecord { grant, expiry_noted: false })), 1);
    model
}

struct House {
    model: Model,
    drawn: u128,
    gateways: u64,
}

impl House {
    fn new(grant: Grant) -> Self {
        Self { model: model(grant), drawn: 0, gateways: 1 }
    }

    fn claim(&mut self, now: Timestamp, gateway: &str, claim: &Claim) -> Vec<Allotted> {
        let drawn = &mut self.drawn;
        let id = || {
            *drawn += 1;
            AllotmentId::from_bits(*drawn)
        };
        let plan = plan_claim(&self.model, now, &gateway.parse().unwrap(), self.gateways, claim, id);
        assert_eq!(plan.audience, Audience::Control);
        plan.changes.iter().for_each(|change| self.model.apply(change, 2));
        plan.answer
    }

    fn given(&self) -> u64 {
        self.model.ledgers.get(&GRANT).map_or(0, |kept| kept.value.given)
    }
}

fn wanting(uses: u64, ahead: u64) -> Claim {
    Claim { process: "p".into(), stream: 1, wanted: [(GRANT, (uses, ahead))].into(), ..Claim::default() }
}

fn uses(allotted: &[Allotted]) -> u64 {
    allotted[0].allotment.map_or(0, |(_, uses)| uses)
}

#[test]
fn a_single_use_is_given_once_whoever_asks() {
    let mut house = House::new(grant(Some(1), None));
    assert_eq!(uses(&house.claim(NOW, "one", &wanting(5, 100))), 1);
    let none = house.claim(NOW, "two", &wanting(1, 0));
    assert_eq!((uses(&none), none[0].until), (0, later(1)), "somebody holds it, and may give it back");
    let again = house.claim(NOW, "one", &wanting(1, 0));
    assert_eq!(uses(&again), 0);
    assert_eq!(house.given(), 1);
}

#[test]
fn what_comes_back_comes_back_once_and_from_its_process_alone() {
    let mut house = House::new(grant(Some(10), None));
    let (id, _) = house.claim(NOW, "one", &wanting(4, 0))[0].allotment.unwrap();
    let back = |process: &str, spent| Claim {
        process: process.into(),
        stream: 1,
        returned: [((GRANT, id), spent)].into(),
        ..Claim::default()
    };
    house.claim(NOW, "two", &back("p", 0));
    house.claim(NOW, "one", &back("another", 0));
    assert_eq!(house.given(), 4, "neither another gateway nor another process can");
    house.claim(NOW, "one", &back("p", 1));
    assert_eq!(house.given(), 1);
    house.claim(NOW, "one", &back("p", 0));
    assert_eq!(house.given(), 1, "once");
    // More spent than was given is a lie that gives nothing.
    let (id, _) = house.claim(NOW, "one", &wanting(2, 0))[0].allotment.unwrap();
    house.claim(NOW, "one", &Claim { returned: [((GRANT, id), 99)].into(), ..back("p", 0) });
    assert_eq!(house.given(), 3);
}

#[test]
fn an_answer_that_was_lost_comes_back_on_the_next_stream_and_not_on_its_own() {
    let mut house = House::new(grant(Some(2), None));
    house.claim(NOW, "one", &wanting(1, 0));
    let held = |stream: u64, held: &[u128]| Claim {
        process: "p".into(),
        stream,
        held: Some(held.iter().map(|id| AllotmentId::from_bits(*id)).collect()),
        ..Claim::default()
    };
    house.claim(NOW, "one", &held(1, &[]));
    assert_eq!(house.given(), 1, "its answer may be on its way");
    house.claim(NOW, "one", &held(2, &[1]));
    assert_eq!(house.given(), 1, "it has it");
    house.claim(NOW, "one", &held(0, &[]));
    assert_eq!(house.given(), 1, "a late word of an earlier stream says nothing of it");
    house.claim(NOW, "one", &held(2, &[]));
    assert_eq!(house.given(), 0, "it cannot come any more");
    // A process that was started anew has nothing: what the one before had is spent.
    house.claim(NOW, "one", &wanting(1, 0));
    house.claim(NOW, "one", &Claim { process: "q".into(), ..held(3, &[]) });
    assert_eq!(house.given(), 1);
    let left = house.claim(NOW, "two", &wanting(5, 0));
    assert_eq!(uses(&left), 1);
    let over = house.claim(NOW, "one", &Claim { process: "q".into(), ..wanting(1, 0) });
    assert_eq!(over[0].until, later(1));
}

#[test]
fn ahead_of_need_is_given_while_there_is_plenty() {
    let mut house = House::new(grant(Some(1000), None));
    house.gateways = 5;
    assert_eq!(uses(&house.claim(NOW, "one", &wanting(2, 1000))), 2 + 1000 / 40);
    let mut house = House::new(grant(Some(30), None));
    house.gateways = 5;
    assert_eq!(uses(&house.claim(NOW, "one", &wanting(2, 1000))), 2, "little is left: as many as wait");
}

#[test]
fn spans_of_time_are_counted_each_for_itself_and_their_allotments_end_with_them() {
    let mut house = House::new(grant(Some(5), Some((2, 60))));
    let first = house.claim(later(50), "one", &wanting(3, 0));
    assert_eq!((uses(&first), first[0].until), (2, later(60)));
    let (id, _) = first[0].allotment.unwrap();
    let none = house.claim(later(55), "two", &wanting(1, 0));
    assert_eq!(none[0].until, later(56), "it may come back within the span");
    let second = house.claim(later(60), "two", &wanting(1, 0));
    assert_eq!((uses(&second), second[0].until), (1, later(120)));
    // What comes back late counts for the whole, and gives the new span nothing.
    let back = Claim { returned: [((GRANT, id), 0)].into(), ..wanting(3, 0) };
    assert_eq!(uses(&house.claim(later(61), "one", &back)), 1);
    assert_eq!(house.given(), 2);
    let spent = house.claim(later(62), "three", &wanting(1, 0));
    assert_eq!(uses(&spent), 0);
    assert_eq!(uses(&house.claim(later(121), "three", &wanting(9, 0))), 2);
    assert_eq!(uses(&house.claim(later(181), "three", &wanting(9, 0))), 1, "five in all");
    let over = house.claim(later(3000), "three", &wanting(1, 0));
    assert_eq!((uses(&over), house.given()), (0, 5));
    // A clock that goes back over the end of a span.
    let mut house = House::new(grant(None, Some((2, 60))));
    assert_eq!(uses(&house.claim(later(61), "one", &wanting(9, 0))), 2);
    assert_eq!(uses(&house.claim(later(59), "one", &wanting(9, 0))), 0);
    assert_eq!(uses(&house.claim(later(62), "one", &wanting(9, 0))), 0);
}

#[test]
fn what_a_restored_store_may_have_forgotten_is_spent() {
    let restored = |per| {
        let mut house = House::new(grant((per == 0).then_some(9), (per > 0).then_some((per, 60))));
        let meta = super::super::record::Meta::of_epoch(2, Some(later(30)));
        house.model.apply(&Change::Put(Record::Meta(meta)), 3);
        house
    };
    let over = restored(0).claim(later(31), "one", &wanting(1, 0));
    assert_eq!((uses(&over), over[0].until), (0, later(3600)));
    let mut by_span = restored(3);
    assert_eq!(by_span.claim(later(31), "one", &wanting(1, 0))[0].until, later(60));
    assert_eq!(uses(&by_span.claim(later(60), "one", &wanting(9, 0))), 3);
}

#[test]
fn ledgers_of_ended_grants_are_forgotten_and_give_nothing() {
    let counted = grant(Some(9), None);
    let mut house = House::new(counted.clone());
    house.claim(NOW, "one", &wanting(1, 0));
    assert!(plan_forget_ledgers(&house.model, NOW).is_empty());
    house.model.apply(&Change::Put(Record::Grant(GrantRecord { grant: counted, expiry_noted: true })), 5);
    assert_eq!(uses(&house.claim(NOW, "one", &wanting(1, 0))), 0);
    let plan = plan_forget_ledgers(&house.model, NOW);
    plan.changes.iter().for_each(|change| house.model.apply(change, 6));
    assert!(house.model.ledgers.is_empty() && house.model.idle_ledgers.is_empty() && house.model.allotted.is_empty());
}

/// What may happen to gateways and their messages.
#[derive(Clone, Debug)]
enum Step {
    Ask { gateway: usize, uses: u64, ahead: u64, lost: bool },
    Spend { gateway: usize },
    GiveBack { gateway: usize, lost: bool },
    Reconnect { gateway: usize },
    Crash { gateway: usize },
    Wait { seconds: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let gateway = 0..3usize;
    let step = prop_oneof![
        4 => (gateway.clone(), 1..4u64, 0..40u64, any::<bool>())
            .prop_map(|(gateway, uses, ahead, lost)| Step::Ask { gateway, uses, ahead, lost }),
        8 => gateway.clone().prop_map(|gateway| Step::Spend { gateway }),
        2 => (gateway.clone(), any::<bool>()).prop_map(|(gateway, lost)| Step::GiveBack { gateway, lost }),
        2 => gateway.clone().prop_map(|gateway| Step::Reconnect { gateway }),
        1 => gateway.prop_map(|gateway| Step::Crash { gateway }),
        1 => (1..90u64).prop_map(|seconds| Step::Wait { seconds }),
    ];
    proptest::collection::vec(step, 1..80)
}

/// A gateway, as simple as it can be.
#[derive(Clone, Default)]
struct Simple {
    process: u64,
    stream: u64,
    is_known: bool,
    /// By allotment: uses, spent, void at.
    held: BTreeMap<AllotmentId, (u64, u64, Timestamp)>,
    returning: BTreeMap<AllotmentId, u64>,
}

impl Simple {
    fn claim(&self) -> Claim {
        let held = self.held.keys().chain(self.returning.keys()).copied().collect();
        Claim {
            process: self.process.to_string(),
            stream: self.stream,
            wanted: BTreeMap::new(),
            returned: self.returning.iter().map(|(id, spent)| ((GRANT, *id), *spent)).collect(),
            held: (!self.is_known).then_some(held),
        }
    }
}

proptest! {
    #[test]
    fn no_order_of_losses_crashes_and_returns_overspends(steps in steps(), total in 1..30u64, per in 0..8u64) {
        let mut house = House::new(grant(Some(total), (per > 0).then_some((per, 60))));
        house.gateways = 3;
        let mut gateways = vec![Simple::default(); 3];
        let (mut now, mut processes, mut spent) = (NOW, 3u64, 0u64);
        let mut by_span: BTreeMap<u64, u64> = BTreeMap::new();
        for (place, gateway) in gateways.iter_mut().enumerate() {
            gateway.process = place as u64;
        }
        for step in steps {
            match step {
                Step::Ask { gateway, uses, ahead, lost } => {
                    let one = &mut gateways[gateway];
                    let claim = Claim { wanted: [(GRANT, (uses, ahead))].into(), ..one.claim() };
                    let answer = house.claim(now, &format!("g{gateway}"), &claim);
                    if !lost {
                        one.is_known = true;
                        one.returning.clear();
                        if let Some((id, uses)) = answer[0].allotment {
                            one.held.insert(id, (uses, 0, answer[0].until));
                        }
                    }
                }
                Step::Spend { gateway } => {
                    let good = gateways[gateway].held.values_mut().find(|(uses, spent, until)| spent < uses && now < *until);
                    if let Some((_, of_it, _)) = good {
                        *of_it += 1;
                        spent += 1;
                        *by_span.entry(now.saturating_since(NOW).as_secs() / 60).or_default() += 1;
                    }
                }
                Step::GiveBack { gateway, lost } => {
                    let one = &mut gateways[gateway];
                    one.returning.extend(std::mem::take(&mut one.held).into_iter().map(|(id, (_, spent, _))| (id, spent)));
                    let claim = one.claim();
                    house.claim(now, &format!("g{gateway}"), &claim);
                    if !lost {
                        one.is_known = true;
                        one.returning.clear();
                    }
                }
                Step::Reconnect { gateway } => {
                    gateways[gateway].stream += 1;
                    gateways[gateway].is_known = false;
                }
                Step::Crash { gateway } => {
                    processes += 1;
                    gateways[gateway] = Simple { process: processes, stream: processes << 32, ..Simple::default() };
                }
                Step::Wait { seconds } => now = now.saturating_add(Duration::from_secs(seconds)),
            }
            prop_assert!(spent <= total, "{spent} of {total}");
            prop_assert!(per == 0 || by_span.values().all(|spent| *spent <= per), "{by_span:?} of {per}");
        }
    }
}

#[test]
fn what_a_gateway_that_is_gone_had_is_not_waited_for_without_end() {
    let mut house = House::new(grant(Some(1), None));
    house.claim(NOW, "gone", &wanting(1, 0));
    let again = |house: &mut House, now| house.claim(now, "one", &wanting(1, 0))[0].until;
    assert_eq!(again(&mut house, later(119)), later(120), "it may come back yet");
    assert_eq!(again(&mut house, later(120)), later(3600), "spent, for all that anybody can know");
    // Late, and taken all the same.
    let id = AllotmentId::from_bits(1);
    house.claim(later(300), "gone", &Claim { returned: [((GRANT, id), 0)].into(), ..wanting(0, 0) });
    assert_eq!(uses(&house.claim(later(300), "one", &wanting(1, 0))), 1);
}

#[test]
fn a_span_that_begins_with_the_grants_end_is_none() {
    let mut house = House::new(grant(None, Some((1, 1800))));
    house.claim(later(1900), "one", &wanting(1, 0));
    house.claim(
        later(1900),
        "one",
        &Claim { returned: [((GRANT, AllotmentId::from_bits(1)), 1)].into(), ..wanting(0, 0) },
    );
    let none = house.claim(later(2000), "one", &wanting(1, 0));
    assert_eq!(none[0].until, later(3600));
    let left = house.model.ledgers[&GRANT].value.left(&grant(None, Some((1, 1800))), later(2000), None);
    assert_eq!(left.again, None);
}

#[test]
fn more_gateways_than_have_room_wait_and_nobody_loses_what_it_has() {
    let mut house = House::new(grant(Some(1_000), None));
    let name = |place: usize| format!("gateway-{place}");
    for place in 0..MAX_OPEN {
        assert_eq!(uses(&house.claim(NOW, &name(place), &wanting(1, 0))), 1);
    }
    let none = house.claim(NOW, "late", &wanting(1, 0));
    assert_eq!((uses(&none), none[0].until), (0, later(1)));
    assert_eq!(house.model.ledgers[&GRANT].value.open.len(), MAX_OPEN);
    let back = Claim { returned: [((GRANT, AllotmentId::from_bits(1)), 0)].into(), ..wanting(0, 0) };
    house.claim(NOW, &name(0), &back);
    assert_eq!(uses(&house.claim(NOW, "late", &wanting(1, 0))), 1);
    assert_eq!(uses(&house.claim(later(120), "later", &wanting(1, 0))), 1, "those that are void make room");
}

#[test]
fn what_a_new_process_lacks_is_settled_wherever_it_stands_among_many() {
    let mut house = House::new(grant(Some(10), None));
    // Of many grants; those of the process that runs come first.
    let many: Vec<GrantId> = (100..200).map(GrantId::from_bits).collect();
    for id in &many {
        let grant = Grant { id: *id, ..grant(Some(10), None) };
        house.model.apply(&Change::Put(Record::Grant(GrantRecord { grant, expiry_noted: false })), 1);
    }
    let wanted = |process: &str, stream, ids: &[GrantId]| Claim {
        process: process.into(),
        wanted: ids.iter().map(|id| (*id, (1, 0))).collect(),
        ..Claim { stream, ..Claim::default() }
    };
    house.claim(NOW, "one", &wanted("new", 2, &many[..60]));
    house.claim(NOW, "one", &wanted("old", 1, &many[60..]));
    let held: BTreeSet<AllotmentId> = (1..=60).map(AllotmentId::from_bits).collect();
    for _ in 0..2 {
        let claim = Claim { held: Some(held.clone()), ..wanted("new", 2, &[]) };
        house.claim(NOW, "one", &claim);
    }
    let open = |id: &GrantId| house.model.ledgers[id].value.open.len();
    assert_eq!(many.iter().map(open).collect::<Vec<_>>(), [vec![1; 60], vec![0; 40]].concat());
}
