//! What a delegation may be, who may end it, and that it ends by itself.

use std::sync::Arc;

use super::super::record::Digest;
use super::super::registry::plan_person;
use super::super::sample::{NOW, carried_out};
use super::*;

fn person(name: &str, role: PersonRole) -> Caller {
    let token = Digest::of(name);
    let name = name.parse().unwrap();
    Caller::Person(Arc::new(Person { name, roles: vec![role], speaks_for: Vec::new(), token, signed_in: None }))
}

fn world() -> Model {
    let mut model = Model { epoch: 1, revision: 1, ..Model::default() };
    for name in ["alice", "bob", "carol"] {
        let Caller::Person(person) = person(name, PersonRole::Developer) else { unreachable!() };
        model = carried_out(&model, &plan_person(&model, person.as_ref().clone()).unwrap());
    }
    model
}

fn made(model: &Model, from: &str, to: &str, hours: u64) -> Result<Plan<Delegation>, Refused> {
    let caller = person(from, PersonRole::Developer);
    let context = Context { caller: &caller, now: NOW };
    let duration = Span::new(Duration::from_secs(hours * 3600));
    let mut next = 0;
    plan_create(model, &context, &to.parse().unwrap(), duration, "away", move || {
        next += 1;
        next
    })
}

#[test]
fn a_delegation_is_to_somebody_else_who_is_there_and_for_a_month_at_most() {
    let model = world();
    assert!(made(&model, "alice", "bob", 30 * 24).is_ok());
    for (from, to, hours) in [("alice", "bob", 30 * 24 + 1), ("alice", "bob", 0), ("alice", "alice", 1)] {
        assert!(matches!(made(&model, from, to, hours), Err(Refused::Invalid(_))), "{from} {to} {hours}");
    }
    assert!(matches!(made(&model, "alice", "nobody", 1), Err(Refused::NotFound(_))));
    let machine = Caller::Identity("billing".parse().unwrap());
    let context = Context { caller: &machine, now: NOW };
    let hour = Span::new(Duration::from_secs(3600));
    assert!(matches!(plan_create(&model, &context, &"bob".parse().unwrap(), hour, "x", || 1), Err(Refused::Denied(_))));
    let model = carried_out(&model, &made(&model, "alice", "bob", 1).unwrap());
    assert!(matches!(made(&model, "alice", "bob", 1), Err(Refused::Conflict(_))), "once at a time");
}

#[test]
fn either_of_the_two_ends_it_and_strangers_do_not_even_see_it() {
    let plan = made(&world(), "alice", "bob", 1).unwrap();
    let model = carried_out(&world(), &plan);
    let end = |name: &str, role, now| {
        let caller = person(name, role);
        plan_end(&model, &Context { caller: &caller, now }, plan.answer.id, "back again")
    };
    assert!(matches!(end("carol", PersonRole::Developer, NOW), Err(Refused::NotFound(_))));
    for (name, role) in
        [("alice", PersonRole::Developer), ("bob", PersonRole::Developer), ("carol", PersonRole::Security)]
    {
        let plan = end(name, role, NOW).unwrap();
        assert!(!plan.answer.is_live(NOW));
        assert_eq!(plan.events[0].operation, "delegation.ended");
    }
    let later = NOW.saturating_add(Duration::from_secs(3600));
    assert!(matches!(end("alice", PersonRole::Developer, later), Err(Refused::Conflict(_))), "it is over");
}

#[test]
fn it_ends_with_its_time_and_with_whoever_leaves_and_is_forgotten_long_after() {
    let model = carried_out(&world(), &made(&world(), "alice", "bob", 1).unwrap());
    assert!(plan_ends(&model, NOW).is_empty());
    let later = NOW.saturating_add(Duration::from_secs(3600));
    let reason = |model: &Model, now| plan_ends(model, now).events[0].reason.clone().unwrap();
    assert_eq!(reason(&model, later), "its time is over");
    let mut left = model.clone();
    let bob = left.people.get(&"bob".parse::<OwnerName>().unwrap()).unwrap().value.as_ref().clone();
    left.apply(&Change::Delete(Record::Person(bob)), 9);
    assert_eq!(reason(&left, NOW), "bob has left");
    let over = carried_out(&model, &plan_ends(&model, later));
    assert!(plan_ends(&over, later).is_empty(), "told once");
    let old = later.saturating_add(ENDED_KEPT);
    assert_eq!((plan_prune(&over, later).changes.len(), plan_prune(&over, old).changes.len()), (0, 1));
    assert!(carried_out(&over, &plan_prune(&over, old)).delegations.is_empty());
}
