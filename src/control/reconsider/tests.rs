//! Live grants are judged anew: what ends, what goes on, and why.

use super::super::catalog::plan_apply;
use super::super::identity::plan_state;
use super::super::policy::{plan_publish, starter};
use super::super::record::{Change, Digest, Person, PersonRole, PolicyFile, Record};
use super::super::request::{self, Created};
use super::super::sample::{NOW, carried_out, context, document, model};
use super::*;
use crate::control::authorize::Caller;
use crate::domain::identity::IdentityState;

fn person(name: &str, roles: &[PersonRole]) -> Person {
    Person {
        name: name.parse().unwrap(),
        roles: roles.to_vec(),
        speaks_for: Vec::new(),
        token: Digest::of(name.as_bytes()),
        signed_in: None,
    }
}

fn published(model: &Model, files: &[PolicyFile]) -> Model {
    let plan = plan_publish(model, &context(NOW), files, None, "x").unwrap();
    carried_out(model, &plan)
}

/// The starter's policy with some of its text exchanged, and no cases but the one that decides each rule.
fn exchanged(before: &str, after: &str) -> Vec<PolicyFile> {
    let mut files = starter();
    for file in &mut files {
        file.text = file.text.replace(before, after);
    }
    assert_ne!(files, starter(), "{before} stands in it");
    files
}

/// `reporter` of alice's may read outside of production, and asks for a quarter of an hour: nobody is needed.
fn granted() -> Model {
    let spec = r#"{"kind":"agent","owner":"alice","purpose":"p","environment":"test"}"#;
    let plan = plan_apply(&model(), &context(NOW), &[document("Identity", "reporter", spec)]).unwrap();
    let mut model = carried_out(&model(), &plan);
    model.apply(&Change::Put(Record::Person(person("alice", &[PersonRole::Developer]))), 1);
    let model = published(&model, &starter());
    let alice = Caller::Person(std::sync::Arc::new(person("alice", &[PersonRole::Developer])));
    let ask = Ask {
        identity: "reporter".parse().unwrap(),
        access: Access::Role("orders-reader".parse().unwrap()),
        starts: None,
        duration: "15m".parse().unwrap(),
        limits: Default::default(),
        reason: "look".to_owned(),
        ticket: None,
        until: Vec::new(),
    };
    let mut drawn = GrantId::new(NOW, 1).bits();
    let plan = request::plan_create(&model, &Context { caller: &alice, now: NOW }, &ask, None, || {
        drawn += 1;
        drawn
    });
    let plan = plan.unwrap();
    assert!(matches!(&plan.answer, Created::Request(it) if it.grants.len() == 1), "{:?}", plan.answer);
    carried_out(&model, &plan)
}

fn one(model: &Model) -> &Grant {
    &model.grants.values().next().unwrap().value
}

#[test]
fn what_policy_gave_it_would_give_again_until_it_says_otherwise() {
    let model = granted();
    assert_eq!(denied(&model, NOW, one(&model)), None);
    // Shorter, by way of other people, not at all: each ends it, and says why.
    let cases = [
        (r#"context.duration <= duration("15m")"#, r#"context.duration <= duration("10m")"#),
        (r#"context.duration > duration("15m")"#, r#"context.duration > duration("10m")"#),
    ];
    let mut shorter = starter();
    for file in &mut shorter {
        for (before, after) in cases {
            file.text = file.text.replace(before, after);
        }
    }
    let files: Vec<PolicyFile> = shorter.into_iter().filter(|file| file.name.ends_with(".cedar")).collect();
    let set = PolicySet::compile(&files).unwrap();
    let why = denied_by(&model, NOW, &set, one(&model)).unwrap();
    assert_eq!(why, "nobody approved it, and it takes owner:orders");
    let none = exchanged(r#"context.actions == ["read"]"#, r#"context.actions == ["look"]"#);
    let none: Vec<PolicyFile> = none.into_iter().filter(|file| file.name.ends_with(".cedar")).collect();
    assert!(denied_by(&model, NOW, &PolicySet::compile(&none).unwrap(), one(&model)).is_some());
}

#[test]
fn who_asked_and_what_for_are_looked_at_as_they_stand_now() {
    let model = granted();
    let with = |kind: &str, name: &str, spec: &str| {
        let plan = plan_apply(&model, &context(NOW), &[document(kind, name, spec)]).unwrap();
        carried_out(&model, &plan)
    };
    let moved =
        with("Identity", "reporter", r#"{"kind":"agent","owner":"alice","purpose":"p","environment":"production"}"#);
    assert!(denied(&moved, NOW, one(&moved)).unwrap().contains("nobody approved it"));
    let handed = with("Identity", "reporter", r#"{"kind":"agent","owner":"bob","purpose":"p","environment":"test"}"#);
    assert!(denied(&handed, NOW, one(&handed)).unwrap().contains("no rule lets this be asked for"));
    let same = with("Identity", "reporter", r#"{"kind":"agent","owner":"alice","purpose":"q","environment":"test"}"#);
    assert_eq!(denied(&same, NOW, one(&same)), None);
    let aside = plan_state(&model, &"reporter".parse().unwrap(), IdentityState::Quarantined, "x").unwrap();
    assert_eq!(denied(&carried_out(&model, &aside), NOW, one(&model)), None, "its own way ends what it holds");
}

#[test]
fn those_that_are_denied_end_and_no_others_however_often_it_is_asked() {
    let model = granted();
    let ids: Vec<GrantId> = model.grants.keys().copied().collect();
    assert!(plan_end_denied(&model, &context(NOW), &ids).unwrap().is_empty());
    let spec = r#"{"kind":"agent","owner":"bob","purpose":"p","environment":"test"}"#;
    let plan = plan_apply(&model, &context(NOW), &[document("Identity", "reporter", spec)]).unwrap();
    let handed = carried_out(&model, &plan);
    let plan = plan_end_denied(&handed, &context(NOW), &ids).unwrap();
    let reason = plan.events[0].reason.as_deref().unwrap();
    assert!(reason.starts_with("version 1 of the policy would not give it any more: "), "{reason}");
    let after = carried_out(&handed, &plan);
    assert!(after.grants.is_empty());
    assert!(plan_end_denied(&after, &context(NOW), &ids).unwrap().is_empty());
}

#[test]
fn what_was_made_by_hand_was_never_asked_of_a_policy() {
    let plan = super::super::grant::plan_create(&model(), &context(NOW), &super::super::sample::request(), || {
        GrantId::new(NOW, 1)
    });
    let model = published(&carried_out(&model(), &plan.unwrap()), &starter());
    assert_eq!(denied(&model, NOW, one(&model)), None);
}
