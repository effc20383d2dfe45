//! What a quarantine ends, and that nothing of it comes back.

use super::super::catalog::plan_apply;
use super::super::grant::{GrantRequest, plan_create};
use super::super::sample::{NOW, carried_out, context, document, model, request};
use super::super::store::{MAX_OPERATIONS, MAX_REQUEST_BYTES};
use super::*;
use crate::domain::name::{GrantId, RequestId, ResourceName};
use crate::domain::request::{Access, Ask, Requester, State};
use crate::domain::resource::Span;

fn billing() -> IdentityName {
    "billing".parse().unwrap()
}

fn state(model: &Model, state: IdentityState) -> Result<Model, Refused> {
    plan_state(model, &billing(), state, "a key leaked").map(|plan| carried_out(model, &plan))
}

fn end_held(model: &Model) -> (Held, Model) {
    let plan = plan_end_held(model, &context(NOW), &billing(), "a key leaked").unwrap();
    let after = carried_out(model, &plan);
    (plan.answer, after)
}

/// The model with so many grants of billing.
fn holding(model: &Model, grants: u64, request: &GrantRequest) -> Model {
    let mut model = model.clone();
    for n in 0..grants {
        let id = || GrantId::new(NOW, u128::from(n) << 8);
        model = carried_out(&model, &plan_create(&model, &context(NOW), request, id).unwrap());
    }
    model
}

/// The model with an open request of somebody for billing.
fn asking(model: &Model, n: u128) -> Model {
    let resource: ResourceName = "api/orders".parse().unwrap();
    let request = Request {
        id: RequestId::from_bits(n),
        requester: Requester::Person("alice".parse().unwrap()),
        ask: Ask {
            identity: billing(),
            access: Access::of(resource, vec!["write".parse().unwrap()]),
            starts: None,
            duration: Span::new(std::time::Duration::from_secs(60)),
            limits: Default::default(),
            reason: "x".into(),
            ticket: None,
            until: Vec::new(),
        },
        key: None,
        created: NOW,
        expires: NOW.saturating_add(std::time::Duration::from_secs(600)),
        state: State::Pending,
        analysis: serde_json::from_str(r#"{"verdict":"approve","permissions":[],"policy":1,"digest":""}"#).unwrap(),
        approvals: Vec::new(),
        turn: None,
        escalated: Vec::new(),
        grants: Vec::new(),
        settled: None,
    };
    let mut after = model.clone();
    after.apply(&Change::Put(Record::Request(Box::new(request))), 1);
    after
}

#[test]
fn an_identity_keeps_its_state_through_documents_and_offboarding_is_for_good() {
    let model = state(&model(), IdentityState::Quarantined).unwrap();
    let spec = r#"{"kind":"agent","owner":"payments","purpose":"p","environment":"production"}"#;
    let changed = document("Identity", "billing", spec);
    let model = carried_out(&model, &plan_apply(&model, &context(NOW), &[changed]).unwrap());
    assert_eq!(model.identities[&billing()].value.state, IdentityState::Quarantined);
    assert!(plan_state(&model, &billing(), IdentityState::Quarantined, "again").unwrap().is_empty());
    assert!(matches!(plan_state(&model, &billing(), IdentityState::Active, " "), Err(Refused::Invalid(_))));
    let model = state(&model, IdentityState::Offboarded).unwrap();
    assert!(matches!(state(&model, IdentityState::Active), Err(Refused::Conflict(_))));
    let nobody = "nobody".parse().unwrap();
    assert!(matches!(plan_state(&model, &nobody, IdentityState::Active, "x"), Err(Refused::NotFound(_))));
}

#[test]
fn everything_that_it_holds_ends_in_steps_that_a_transaction_holds() {
    for away in [IdentityState::Quarantined, IdentityState::Offboarded] {
        // Records as large as they may be: fewer of them fit.
        let large = GrantRequest { reason: "r".repeat(900), ticket: Some("t".repeat(128)), ..request() };
        let model = asking(&asking(&holding(&model(), 250, &large), 1), 2);
        assert_eq!(end_held(&model).0, Held::default(), "it may act");
        let mut model = state(&model, away).unwrap();
        let (mut grants, mut requests, mut steps) = (0, 0, 0);
        loop {
            let plan = plan_end_held(&model, &context(NOW), &billing(), "a key leaked").unwrap();
            let json = |change: &Change| change.record().json().unwrap().to_string().len();
            assert!(plan.changes.iter().map(json).sum::<usize>() < MAX_REQUEST_BYTES / 2);
            assert!(plan.changes.len() < MAX_OPERATIONS);
            if plan.answer.is_empty() {
                assert!(plan.is_empty());
                break;
            }
            assert_eq!(plan.audience, Audience::Gateways);
            grants += plan.answer.grants;
            requests += plan.answer.requests;
            steps += 1;
            model = carried_out(&model, &plan);
        }
        assert_eq!((grants, requests), (250, 2));
        assert!(steps >= 3, "{steps}");
        assert!(model.grants.is_empty() && model.requests.is_empty());
    }
}

#[test]
fn nothing_comes_back_with_a_release() {
    let model = state(&asking(&holding(&model(), 3, &request()), 9), IdentityState::Quarantined).unwrap();
    // The process ended between the two: the state stands, and what it held is there yet.
    assert!(matches!(state(&model, IdentityState::Active), Err(Refused::Conflict(_))));
    let (held, model) = end_held(&model);
    assert_eq!((held.grants, held.requests), (3, 1));
    let released = state(&model, IdentityState::Active).unwrap();
    assert!(released.grants.is_empty() && released.requests.is_empty());
    assert!(plan_create(&released, &context(NOW), &request(), || GrantId::new(NOW, 1)).is_ok(), "it may ask anew");
}

#[test]
fn what_others_hold_stays() {
    let spec = r#"{"kind":"service","owner":"payments","purpose":"p","environment":"production"}"#;
    let model = model();
    let model =
        carried_out(&model, &plan_apply(&model, &context(NOW), &[document("Identity", "other", spec)]).unwrap());
    let others = GrantRequest { identity: "other".parse().unwrap(), ..request() };
    let model = carried_out(&model, &plan_create(&model, &context(NOW), &others, || GrantId::from_bits(7)).unwrap());
    let model = state(&holding(&model, 2, &request()), IdentityState::Offboarded).unwrap();
    let (held, model) = end_held(&model);
    assert_eq!(held.grants, 2);
    assert_eq!(model.grants.len(), 1);
}

#[test]
fn what_an_interrupted_quarantine_left_is_ended_by_the_next_start() {
    let mut model = state(&asking(&holding(&model(), 130, &request()), 9), IdentityState::Quarantined).unwrap();
    let mut steps = 0;
    loop {
        let plan = plan_left(&model, NOW);
        let more = plan.answer;
        model = carried_out(&model, &plan);
        if !more {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 2 && model.grants.is_empty() && model.requests.is_empty());
    // Of one that may act, nothing.
    let model = holding(&state(&model, IdentityState::Active).unwrap(), 2, &request());
    assert!(plan_left(&model, NOW).is_empty());
}
