//! Requests against a model: every bound, every end.

use super::super::catalog::plan_apply;
use super::super::identity::plan_state;
use super::super::sample::{NOW, carried_out, context, document, model, request};
use super::super::store::MAX_REQUEST_BYTES;
use super::*;
use crate::domain::grant::{Binding, GrantState, MAX_GRANT_DAYS};
use crate::domain::identity::IdentityState;

fn ids() -> impl FnMut() -> GrantId {
    let mut next = 0;
    move || {
        next += 1;
        GrantId::new(NOW, next)
    }
}

fn create(model: &Model, request: &GrantRequest) -> Result<Plan<Vec<Grant>>, Refused> {
    plan_create(model, &context(NOW), request, ids())
}

fn invalid(model: &Model, request: &GrantRequest) -> String {
    match create(model, request) {
        Err(Refused::Invalid(faults)) => faults.join("\n"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_role_is_expanded_and_frozen() {
    let model = model();
    let second = [
        document("Resource", "api/refunds", r#"{"owner":"orders"}"#),
        document(
            "Route",
            "refunds",
            r#"{"upstream":"http://u","resource":"api/refunds",
                "actions":[{"name":"list","methods":["GET"],"path":"/v1/refunds"}]}"#,
        ),
        document(
            "Role",
            "orders-reader",
            r#"{"permissions":[{"resource":"api/orders","actions":["write","read","read"]},
                {"resource":"api/refunds","actions":["list"]}]}"#,
        ),
    ];
    let wide = carried_out(&model, &plan_apply(&model, &context(NOW), &second).unwrap());
    let plan = create(&wide, &request()).unwrap();
    let given: Vec<_> = plan.answer.iter().map(|g| (g.resource.to_string(), g.actions.len())).collect();
    assert_eq!(given, [("api/orders".into(), 2), ("api/refunds".into(), 1)]);
    assert_ne!(plan.answer[0].id, plan.answer[1].id);
    // Made before the role was widened, a grant stays as it was.
    let narrow = create(&model, &request()).unwrap();
    let id = narrow.answer[0].id;
    let model = carried_out(&model, &narrow);
    let model = carried_out(&model, &plan_apply(&model, &context(NOW), &second).unwrap());
    assert_eq!(model.grants[&id].value.actions.len(), 1);
}

#[test]
fn grants_are_for_what_is_there_and_may_act() {
    let model = model();
    let nobody = GrantRequest { identity: "nobody".parse().unwrap(), ..request() };
    assert!(matches!(create(&model, &nobody), Err(Refused::NotFound(_))));
    let nothing = GrantRequest { access: Access::Role("none".parse().unwrap()), ..request() };
    assert!(matches!(create(&model, &nothing), Err(Refused::NotFound(_))));
    let nowhere = Access::Actions("api/none".parse().unwrap(), vec!["read".parse().unwrap()]);
    assert!(matches!(create(&model, &GrantRequest { access: nowhere, ..request() }), Err(Refused::NotFound(_))));
    let billing = "billing".parse().unwrap();
    let aside = carried_out(&model, &plan_state(&model, &billing, IdentityState::Quarantined, "x").unwrap());
    assert!(matches!(create(&aside, &request()), Err(Refused::Conflict(_))));
}

#[test]
fn every_fault_of_a_request_is_told_at_once() {
    let model = model();
    let mut limits = Limits::default();
    limits.parameters.insert("customer".parse().unwrap(), vec!["7".into()]);
    limits.binding = Some(Binding::Issuer("https://elsewhere".into()));
    let bad = GrantRequest {
        access: Access::Actions("api/orders".parse().unwrap(), vec!["fly".parse().unwrap()]),
        starts: Some(NOW.saturating_add(Duration::from_secs(367 * 86_400))),
        duration: Duration::from_secs(367 * 86_400),
        limits,
        reason: " ".into(),
        ticket: Some(String::new()),
        ..request()
    };
    let told = invalid(&model, &bad);
    for part in ["reason", "ticket", "duration", "starts", "action fly", "parameter customer", "binding"] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

#[test]
fn windows_are_bounded_and_not_backdated() {
    let model = model();
    let of = |starts: Option<i64>, seconds: u64| GrantRequest {
        starts: starts.map(|s| Timestamp::from_unix_micros(NOW.unix_micros() + s * 1_000_000)),
        duration: Duration::from_secs(seconds),
        ..request()
    };
    assert!(create(&model, &of(None, 1)).is_ok());
    assert!(create(&model, &of(None, MAX_GRANT_DAYS * 86_400)).is_ok());
    assert!(create(&model, &of(Some(-300), 301)).is_ok());
    assert!(create(&model, &of(Some(3600), 60)).is_ok());
    for bad in [of(None, 0), of(None, MAX_GRANT_DAYS * 86_400 + 1), of(Some(-301), 3600), of(Some(-60), 60)] {
        invalid(&model, &bad);
    }
}

#[test]
fn limits_may_only_narrow_what_the_route_has() {
    let model = model();
    let mut limits = Limits::default();
    limits.parameters.insert("order".parse().unwrap(), vec!["7".into()]);
    let access = |action: &str| Access::Actions("api/orders".parse().unwrap(), vec![action.parse().unwrap()]);
    assert!(create(&model, &GrantRequest { access: access("write"), limits: limits.clone(), ..request() }).is_ok());
    let read = GrantRequest { access: access("read"), limits: limits.clone(), ..request() };
    assert!(invalid(&model, &read).contains("no granted action of api/orders has a parameter order"));
    for values in [vec![], vec![String::new()], vec!["x".repeat(1025)], vec!["7".to_owned(); 257]] {
        let mut limits = Limits::default();
        limits.parameters.insert("order".parse().unwrap(), values);
        invalid(&model, &GrantRequest { access: access("write"), limits, ..request() });
    }
}

#[test]
fn revoking_twice_leaves_the_first() {
    let model = model();
    let created = create(&model, &request()).unwrap();
    let live = GrantRecord { grant: created.answer[0].clone(), expiry_noted: false };
    let first = plan_revoke(&context(NOW), &live, "leaked").unwrap();
    assert_eq!(first.answer.state(NOW), GrantState::Revoked);
    let ended = GrantRecord { grant: first.answer, expiry_noted: false };
    let again = plan_revoke(&context(NOW.saturating_add(Duration::from_secs(9))), &ended, "other").unwrap();
    assert!(again.is_empty());
    assert_eq!(again.answer.revoked.unwrap().reason, "leaked");
    assert!(plan_revoke(&context(NOW), &live, "").is_err());
}

#[test]
fn an_end_by_the_clock_is_noted_once_and_leaves_the_live_model() {
    let model = model();
    let model = carried_out(&model, &create(&model, &request()).unwrap());
    let end = NOW.saturating_add(Duration::from_secs(3600));
    assert!(plan_expiry(&model, Timestamp::from_unix_micros(end.unix_micros() - 1)).is_empty());
    let plan = plan_expiry(&model, end);
    assert_eq!((plan.changes.len(), plan.events[0].operation.as_str()), (1, "grant.expired"));
    let model = carried_out(&model, &plan);
    assert!(plan_expiry(&model, end).is_empty());
    assert!(model.grants.is_empty() && model.grants_of.is_empty() && model.ends.is_empty());
    assert!(model.grants_by_resource.is_empty() && model.ahead.is_empty());
    assert_eq!(model.ended.expired, 1);
}

#[test]
fn many_ends_are_noted_in_bounded_steps() {
    let mut model = model();
    let mut id = ids();
    for _ in 0..250 {
        let plan = plan_create(&model, &context(NOW), &request(), &mut id).unwrap();
        model = carried_out(&model, &plan);
    }
    let end = NOW.saturating_add(Duration::from_secs(3600));
    let mut steps = Vec::new();
    loop {
        let plan = plan_expiry(&model, end);
        if plan.is_empty() {
            break;
        }
        steps.push((plan.changes.len(), plan.answer));
        model = carried_out(&model, &plan);
    }
    assert_eq!(steps, [(100, true), (100, true), (50, false)]);
}

#[test]
fn large_grants_end_in_steps_that_a_transaction_holds() {
    let mut model = model();
    let mut id = ids();
    let one = plan_create(&model, &context(NOW), &request(), &mut id).unwrap().answer.remove(0);
    for _ in 0..150 {
        let mut grant = Grant { id: id(), ..one.clone() };
        grant.lineage.reason = "x".repeat(16 * 1024);
        let change = Change::Put(Record::Grant(GrantRecord { grant, expiry_noted: false }));
        model.apply(&change, 9);
    }
    let end = NOW.saturating_add(Duration::from_secs(3600));
    let mut ended = 0;
    while ended < 150 {
        let plan = plan_expiry(&model, end);
        let records: usize = plan.changes.iter().map(|c| c.record().json().unwrap().to_string().len()).sum();
        let events = serde_json::to_vec(&plan.events).unwrap().len();
        assert!(records + events < MAX_REQUEST_BYTES / 2, "{records} and {events} bytes");
        assert_eq!(plan.answer, ended + plan.changes.len() < 150);
        ended += plan.changes.len();
        model = carried_out(&model, &plan);
    }
    // One that is larger than a step goes alone.
    let mut grant = Grant { id: id(), ..one };
    grant.lineage.reason = "x".repeat(MAX_ENDING_BYTES + 1);
    model.apply(&Change::Put(Record::Grant(GrantRecord { grant, expiry_noted: false })), 10);
    assert_eq!(plan_expiry(&model, end).changes.len(), 1);
}

#[test]
fn revoked_tokens_are_remembered_until_they_would_have_ended() {
    let model = model();
    let expires = NOW.saturating_add(Duration::from_secs(300));
    let token = RevokedToken { issuer: "https://gw".into(), jti: "a1".into(), expires, by: None };
    let model = carried_out(&model, &plan_revoke_token(&model, &context(NOW), &token).unwrap());
    assert!(plan_revoke_token(&model, &context(NOW), &token).unwrap().is_empty());
    // Its issuer's leeway lets it live on: nothing is forgotten, and nothing too late to be remembered, before that is over.
    let over = expires.saturating_add(MAX_LEEWAY);
    let late = context(expires);
    assert!(
        plan_revoke_token(&carried_out(&model, &plan_forget_tokens(&model, expires)), &late, &token)
            .unwrap()
            .is_empty()
    );
    let other = RevokedToken { jti: "a/2".into(), ..token.clone() };
    assert!(!plan_revoke_token(&model, &late, &other).unwrap().is_empty());
    let forget = plan_forget_tokens(&model, over);
    assert!(forget.events.is_empty());
    let model = carried_out(&model, &forget);
    assert!(model.tokens.is_empty() && model.token_ends.is_empty());
    assert!(plan_revoke_token(&model, &context(over), &token).unwrap().is_empty());
    for (issuer, jti, days) in [("", "a", 0), ("i", "", 0), ("i", "a\n", 0), ("i", "a", 367)] {
        let expires = expires.saturating_add(Duration::from_secs(days * 86_400));
        let bad = RevokedToken { issuer: issuer.into(), jti: jti.into(), expires, by: None };
        assert!(plan_revoke_token(&model, &context(NOW), &bad).is_err(), "{bad:?}");
    }
}

#[test]
fn one_gateway_cannot_use_up_the_room_for_revoked_tokens() {
    let mut model = model();
    let expires = NOW.saturating_add(Duration::from_secs(300));
    let token = |jti: String| RevokedToken { issuer: "https://gw".into(), jti, expires, by: None };
    let (greedy, other): (Caller, Caller) =
        (Caller::Gateway("greedy".parse().unwrap()), Caller::Gateway("other".parse().unwrap()));
    let revoke = |model: &Model, caller: &Caller, token: &RevokedToken| {
        plan_revoke_token(model, &Context { caller, now: NOW }, token)
    };
    for n in 0..MAX_PER_GATEWAY {
        let plan = revoke(&model, &greedy, &token(n.to_string())).unwrap();
        plan.changes.iter().for_each(|change| model.apply(change, 9));
    }
    let one_more = token("more".into());
    assert!(matches!(revoke(&model, &greedy, &one_more), Err(Refused::TooMuch(_))));
    for caller in [&other, &Caller::System] {
        assert_eq!(revoke(&model, caller, &one_more).unwrap().changes.len(), 1);
    }
    // Not for longer than its tokens live either.
    let long = RevokedToken { expires: NOW.saturating_add(Duration::from_secs(601)), ..one_more.clone() };
    assert!(matches!(revoke(&model, &other, &long), Err(Refused::Invalid(_))));
    assert_eq!(revoke(&model, &Caller::System, &long).unwrap().changes.len(), 1);
    // What is forgotten makes room.
    let plan = plan_forget_tokens(&model, NOW.saturating_add(Duration::from_secs(600)));
    plan.changes.iter().for_each(|change| model.apply(change, 10));
    assert_eq!(revoke(&model, &greedy, &one_more).unwrap().changes.len(), 1);
}
