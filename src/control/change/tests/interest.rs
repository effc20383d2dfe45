//! Whoever has an interest in a change decides nothing of it: not under another name, and not by shedding it.

use super::super::super::sample::speaking;
use super::*;

/// Nothing in it says anything of groups.
const PLAIN: &str = r#"@id("free") @approvers("none") permit (principal, action == Action::"request", resource);
@id("approve") permit (principal, action == Action::"approve", resource);
"#;

fn orders(members: &str) -> Document {
    document("Group", "orders", &format!(r#"{{"members":[{members}]}}"#))
}

fn observe(hours: i64) -> Document {
    exception(r#""rule":"observe","route":"orders""#, hours)
}

fn named(proposal: &Proposal) -> Vec<&str> {
    proposal.eligible.iter().map(OwnerName::as_str).collect()
}

#[test]
fn an_interest_is_not_shed_before_the_word() {
    let model = under(PLAIN, &[orders(r#""bob","carol""#)]);
    let (proposal, model) = waiting(&model, "root", &[observe(20)]);
    assert_eq!(named(&proposal), ["second"]);
    // She leaves, which nothing else is in the way of, and has as little to say as before.
    let plan = apply(&model, "carol", &[orders(r#""bob""#)]);
    assert!(matches!(plan.answer, Outcome::Done(_)));
    let left = carried_out(&model, &plan);
    let of = |model: &Model| seen(model, NOW, &model.proposals[&proposal.id].value);
    assert_eq!(named(&of(&left)), ["second"]);
    assert!(matches!(approve(&left, "carol", proposal.id, &proposal.digest, NOW), Err(Refused::Denied(_))));
    let applied = approve(&left, "second", proposal.id, &proposal.digest, NOW).unwrap();
    assert!(applied.answer.interested.is_empty(), "it is settled");
    // Once there is the exception, leaving takes another's word; of a group that is served by none it does not.
    let there = carried_out(&model, &approve(&model, "second", proposal.id, &proposal.digest, NOW).unwrap());
    assert!(matches!(apply(&there, "carol", &[orders(r#""bob""#)]).answer, Outcome::Waits(..)));
    assert!(matches!(apply(&there, "root", &[document("Group", "payments", "{}")]).answer, Outcome::Done(_)));
}

#[test]
fn a_change_of_before_this_was_kept_reads_and_is_decided_by_what_is() {
    let model = under(PLAIN, &[orders(r#""bob","carol""#)]);
    let (proposal, mut model) = waiting(&model, "root", &[observe(20)]);
    let mut json = serde_json::to_value(&proposal).unwrap();
    assert!(json.as_object_mut().unwrap().remove("interested").is_some());
    let old: Proposal = serde_json::from_value(json).unwrap();
    model.apply(&Change::Put(Record::Proposal(Box::new(old))), model.revision + 1);
    assert!(matches!(approve(&model, "carol", proposal.id, &proposal.digest, NOW), Err(Refused::Denied(_))));
    assert!(approve(&model, "second", proposal.id, &proposal.digest, NOW).is_ok());
}

#[test]
fn one_person_is_one_person_under_whatever_name() {
    // Whoever wants it.
    for (one, other) in [("root", "second"), ("second", "root")] {
        let (proposal, model) = waiting(&speaking(&governed(&ALL), one, &[other]), "root", &[wider()]);
        assert_eq!(named(&proposal), ["bob", "carol"], "{one} speaks for {other}");
        let refused = approve(&model, "second", proposal.id, &proposal.digest, NOW).unwrap_err();
        assert!(matches!(&refused, Refused::Denied(why) if why.contains("one person with root")), "{refused:?}");
        assert!(approve(&model, "carol", proposal.id, &proposal.digest, NOW).is_ok());
    }
    // Whoever it serves: bob answers for it.
    for (one, other) in [("bob", "carol"), ("carol", "bob")] {
        let (proposal, model) = waiting(&speaking(&governed(&ALL), one, &[other]), "root", &[observe(20)]);
        assert_eq!(named(&proposal), ["second"], "{one} speaks for {other}");
        assert!(matches!(approve(&model, "carol", proposal.id, &proposal.digest, NOW), Err(Refused::Denied(_))));
    }
}
