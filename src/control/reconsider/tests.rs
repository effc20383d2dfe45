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

#[test]
fn of_what_is_not_to_be_held_together_the_newest_ends_and_no_more() {
    let mut model = granted();
    let old = one(&model).clone();
    // A younger one beside it, with more, of the same identity; and one of those that are younger still.
    let mut younger = |seconds: u64, action: &str| {
        let at = NOW.saturating_add(std::time::Duration::from_secs(seconds));
        let mut grant = Grant { id: GrantId::new(at, 1), actions: [action.parse().unwrap()].into(), ..old.clone() };
        grant.lineage.created = at;
        grant.lineage.origin.as_mut().unwrap().role = None;
        let id = grant.id;
        let record = super::super::record::GrantRecord { grant, expiry_noted: false };
        model.apply(&Change::Put(Record::Grant(record)), 2);
        id
    };
    let (write, read) = (younger(1, "write"), younger(2, "read"));
    let mut files = starter();
    files.truncate(1);
    files[0].text = r#"@id("free") @approvers("none") permit (principal, action == Action::"request", resource);
        @id("apart") forbid (principal, action == Action::"request", resource)
        when { context.together.containsAll(["api/orders:read", "api/orders:write"]) };"#
        .to_owned();
    let model = super::super::replay::under(&model, NOW, files).unwrap();
    let all: Vec<GrantId> = model.grants.keys().copied().collect();
    assert_eq!(all, [old.id, write, read]);
    assert!(all.iter().all(|id| denied(&model, NOW, &model.grants[id].value).is_some()));
    // The newest read, and then the write: reading alone is left, and nothing speaks against it.
    let (found, last, left) = judge(model.clone(), NOW, None, 2);
    assert_eq!((found, last), (vec![read, write], Some(write)));
    let (found, last, left) = judge(left, NOW, last, 2);
    assert_eq!((found.len(), last), (0, Some(old.id)));
    assert_eq!((left.grants.len(), judge(left.clone(), NOW, last, 2).1), (1, None));
    let plan = plan_end_denied(&model, &context(NOW), &all).unwrap();
    let ended: Vec<GrantId> = plan.answer.iter().map(|grant| grant.id).collect();
    assert_eq!(ended, [read, write]);
    assert_eq!(carried_out(&model, &plan).grants.len(), 1);
}
