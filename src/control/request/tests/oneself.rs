//! One person under several names: never whoever asks, and never two of those whose word it takes.

use super::super::super::sample::speaking;
use super::places::{staged, yes};
use super::*;

#[test]
fn nobody_approves_what_they_ask_for_under_another_name() {
    for (one, other) in [("alice", "carol"), ("carol", "alice")] {
        let (request, model) =
            made(&speaking(&staged(), one, &[other]), &person("alice"), &ask(role("writer"), 1), 1000);
        let names: Vec<&str> = request.analysis.eligible.iter().map(OwnerName::as_str).collect();
        assert_eq!(names, ["bob", "dave"], "{one} speaks for {other}");
        let model = carried_out(&model, &yes(&model, &request, "bob", None, 1).unwrap());
        assert!(matches!(yes(&model, &request, "carol", None, 2), Err(Refused::Denied(_))));
        // Nor in another's place.
        let model = super::places::handed_on(&model, "dave", "carol", 24, NOW);
        assert!(matches!(yes(&model, &request, "carol", Some("dave"), 3), Err(Refused::Denied(_))));
        assert_eq!(yes(&model, &request, "dave", None, 4).unwrap().answer.state, State::Granted);
    }
}

#[test]
fn nobody_counts_for_two_under_two_names() {
    for (one, other) in [("bob", "dave"), ("dave", "bob")] {
        let model = speaking(&staged(), one, &[other]);
        let (request, model) = made(&model, &person("alice"), &ask(role("writer"), 1), 1000);
        let model = carried_out(&model, &yes(&model, &request, "bob", None, 1).unwrap());
        let plan = yes(&model, &request, "dave", None, 2).unwrap();
        assert_eq!(plan.answer.state, State::Pending, "{one} speaks for {other}");
        let model = carried_out(&model, &plan);
        assert_eq!(yes(&model, &request, "carol", None, 3).unwrap().answer.state, State::Granted);
    }
}

#[test]
fn accounts_that_speak_for_one_person_are_one_and_those_for_whom_one_speaks_are_not() {
    let name = |text: &str| text.parse::<OwnerName>().unwrap();
    let model = speaking(&speaking(&staged(), "bob", &["carol"]), "dave", &["carol"]);
    assert!(model.are_one(&name("bob"), &name("dave")) && !model.are_one(&name("bob"), &name("alice")));
    let (request, model) = made(&model, &person("alice"), &ask(role("writer"), 1), 1000);
    let model = carried_out(&model, &yes(&model, &request, "bob", None, 1).unwrap());
    assert_eq!(yes(&model, &request, "dave", None, 2).unwrap().answer.state, State::Pending);
    // A team is nobody, and whoever has two people's accounts makes them no friends.
    let model = speaking(&speaking(&staged(), "bob", &["orders"]), "dave", &["orders"]);
    assert!(!model.are_one(&name("bob"), &name("dave")));
    let model = speaking(&staged(), "carol", &["bob", "dave"]);
    assert!(model.are_one(&name("carol"), &name("dave")) && !model.are_one(&name("bob"), &name("dave")));
}
