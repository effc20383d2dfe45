//! The state machine: each step, and that no order of steps leads to a grant that is not approved, endless or wider.

mod mended;
mod oneself;
mod places;
mod racing;
mod steps;
mod turns;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::catalog::{Document, plan_apply};
use super::super::policy::{plan_publish, starter};
use super::super::record::{Digest, Person};
use super::super::registry::plan_person;
use super::super::sample::{NOW, carried_out, context, document};
use super::approve::MAX_APPROVALS;
use super::*;
use crate::domain::name::{ApprovalId, OwnerName};
use crate::domain::request::Approval;
use crate::domain::resource::Span;

const CATALOG: &[(&str, &str, &str)] = &[
    ("Identity", "billing", r#"{"kind":"service","owner":"alice","purpose":"p","environment":"test"}"#),
    ("Identity", "releaser", r#"{"kind":"agent","owner":"alice","purpose":"p","environment":"test"}"#),
    ("Identity", "preparer", r#"{"kind":"agent","owner":"alice","purpose":"p","environment":"test"}"#),
    ("Resource", "api/orders", r#"{"owner":"bob","sensitivity":"high"}"#),
    ("Resource", "deployments", r#"{"owner":"bob"}"#),
    (
        "Route",
        "orders",
        r#"{"upstream":"http://127.0.0.1:9000","resource":"api/orders","actions":[
            {"name":"read","methods":["GET"],"path":"/v1/orders/**"},
            {"name":"write","methods":["POST"],"path":"/v1/orders/**"}]}"#,
    ),
    (
        "Route",
        "deployments",
        r#"{"upstream":"http://127.0.0.1:9000","host":"d","resource":"deployments","actions":[
            {"name":"prepare","methods":["POST"],"path":"/prepare"},
            {"name":"release","methods":["POST"],"path":"/release"}]}"#,
    ),
    ("Role", "reader", r#"{"permissions":[{"resource":"api/orders","actions":["read"]}]}"#),
    ("Role", "writer", r#"{"parents":["reader"],"permissions":[{"resource":"api/orders","actions":["write"]}]}"#),
];

const PEOPLE: &[(&str, PersonRole)] = &[
    ("alice", PersonRole::Developer),
    ("bob", PersonRole::Owner),
    ("carol", PersonRole::Security),
    ("dave", PersonRole::Security),
    ("mallory", PersonRole::Developer),
];

fn person(name: &str) -> Caller {
    let (_, role) = PEOPLE.iter().find(|(person, _)| *person == name).unwrap();
    let name = name.parse().unwrap();
    let token = Digest::of(format!("{name}"));
    Caller::Person(Arc::new(Person { name, roles: vec![*role], speaks_for: Vec::new(), token, signed_in: None }))
}

fn world() -> Model {
    let mut model = Model { epoch: 1, revision: 1, ..Model::default() };
    for (name, _) in PEOPLE {
        let Caller::Person(person) = person(name) else { unreachable!() };
        model = carried_out(&model, &plan_person(&model, person.as_ref().clone()).unwrap());
    }
    let documents: Vec<Document> = CATALOG.iter().map(|(kind, name, spec)| document(kind, name, spec)).collect();
    model = carried_out(&model, &plan_apply(&model, &context(NOW), &documents).unwrap());
    let plan = plan_publish(&model, &context(NOW), &starter(), None, "begin").unwrap();
    carried_out(&model, &plan)
}

fn ask(access: Access, hours: u64) -> Ask {
    Ask {
        identity: "billing".parse().unwrap(),
        access,
        starts: None,
        duration: Span::new(Duration::from_secs(hours * 3600)),
        limits: Default::default(),
        reason: "month-end".to_owned(),
        ticket: None,
        until: Vec::new(),
    }
}

fn role(name: &str) -> Access {
    Access::Role(name.parse().unwrap())
}

fn actions(resource: &str, actions: &[&str]) -> Access {
    Access::of(resource.parse().unwrap(), actions.iter().map(|action| action.parse().unwrap()).collect())
}

/// Identifiers that count from here.
fn drawing(from: u128) -> impl FnMut() -> u128 {
    let mut next = from;
    move || {
        next += 1;
        next
    }
}

fn at<'c>(caller: &'c Caller, now: Timestamp) -> Context<'c> {
    Context { caller, now }
}

/// Approves by one's own right.
fn plan_approve(
    model: &Model,
    context: &Context<'_>,
    id: RequestId,
    digest: &str,
    comment: Option<&str>,
    draw: impl FnMut() -> u128,
) -> Result<Plan<Request>, Refused> {
    let yes = Yes { digest: digest.to_owned(), on_behalf_of: None, comment: comment.map(str::to_owned) };
    super::plan_approve(model, context, id, &yes, draw)
}

/// Makes a request that is not known: what it came to, and the model after it.
fn made(model: &Model, caller: &Caller, ask: &Ask, from: u128) -> (Request, Model) {
    let plan = plan_create(model, &at(caller, NOW), ask, None, drawing(from)).unwrap();
    let Created::Request(request) = plan.answer.clone() else { panic!("it is new") };
    (*request, carried_out(model, &plan))
}

fn operations<T>(plan: &Plan<T>) -> Vec<&str> {
    plan.events.iter().map(|event| event.operation.as_str()).collect()
}

#[test]
fn windows_that_need_nobody_are_not_lined_up_ahead() {
    let model = world();
    let alice = person("alice");
    let starting = |seconds| Ask {
        duration: Span::new(Duration::from_secs(900)),
        starts: Some(NOW.saturating_add(Duration::from_secs(seconds))),
        ..ask(role("reader"), 0)
    };
    let plan = |ask: &Ask| plan_create(&model, &at(&alice, NOW), ask, None, drawing(1000));
    assert_eq!(operations(&plan(&starting(300)).unwrap())[1], "request.granted");
    let refused = plan(&starting(301)).unwrap_err();
    assert!(refused.to_string().contains("within 5 minutes"), "{refused}");
    let blank = Ask { ticket: Some(" ".to_owned()), ..starting(0) };
    assert!(plan(&blank).unwrap_err().to_string().contains("ticket"), "a blank ticket is none");
}

#[test]
fn what_needs_nobody_is_granted_in_the_same_plan_with_its_lineage() {
    let model = world();
    let alice = person("alice");
    let short = Ask { duration: Span::new(Duration::from_secs(900)), ..ask(role("reader"), 0) };
    let plan = plan_create(&model, &at(&alice, NOW), &short, None, drawing(1000)).unwrap();
    assert_eq!(operations(&plan), ["request.created", "request.granted", "grant.created"]);
    let model = carried_out(&model, &plan);
    let grant = &model.grants.values().next().unwrap().value;
    let origin = grant.lineage.origin.as_ref().unwrap();
    let Created::Request(request) = plan.answer else { panic!() };
    assert_eq!((origin.request, origin.policy, origin.approvals.len()), (request.id, 1, 0));
    assert_eq!(grant.window.ends, NOW.saturating_add(Duration::from_secs(900)));
    assert!(model.requests.is_empty(), "it is settled");
    // The identity itself, with its own credential; and nobody for another.
    let own = Caller::Identity("billing".parse().unwrap());
    assert!(plan_create(&model, &at(&own, NOW), &short, None, drawing(2000)).is_ok());
    let other = Caller::Identity("releaser".parse().unwrap());
    assert!(matches!(plan_create(&model, &at(&other, NOW), &short, None, drawing(2000)), Err(Refused::Denied(_))));
}

#[test]
fn once_a_policy_is_in_force_nobody_makes_grants_by_hand() {
    let by_hand = grant_request(&ask(role("reader"), 1));
    let administrator = Caller::Person(Arc::new(Person {
        name: "root".parse().unwrap(),
        roles: vec![PersonRole::Administrator],
        speaks_for: Vec::new(),
        token: Digest::of("root"),
        signed_in: None,
    }));
    let create =
        |model: &Model| grant::plan_create(model, &at(&administrator, NOW), &by_hand, || GrantId::from_bits(7));
    assert!(matches!(create(&world()), Err(Refused::Denied(_))));
    assert!(create(&Model { policy: None, ..world() }).is_ok());
}

#[test]
fn approvals_are_of_different_people_and_never_of_who_asks() {
    let model = world();
    let (request, model) = made(&model, &person("alice"), &ask(role("writer"), 1), 1000);
    assert_eq!(request.state, State::Pending);
    let stages: Vec<String> = request.analysis.stages.iter().map(|s| s.approvers.to_string()).collect();
    assert_eq!(stages, ["owner:bob", "standing:security"]);
    let names: Vec<&str> = request.analysis.eligible.iter().map(OwnerName::as_str).collect();
    assert_eq!(names, ["bob", "carol", "dave"]);
    let digest = request.analysis.digest.as_str();
    let approve = |model: &Model, who: &str, from| {
        plan_approve(model, &at(&person(who), NOW), request.id, digest, None, drawing(from))
    };
    for who in ["alice", "mallory"] {
        assert!(matches!(approve(&model, who, 2000), Err(Refused::Denied(_))), "{who}");
    }
    let plan = approve(&model, "carol", 2000).unwrap();
    assert_eq!(operations(&plan), ["request.approved"]);
    let model = carried_out(&model, &plan);
    assert!(approve(&model, "carol", 3000).unwrap().is_empty(), "once more is the same");
    let plan = approve(&model, "dave", 3000).unwrap();
    let model = carried_out(&model, &plan);
    assert_eq!((plan.answer.state, model.grants.len()), (State::Pending, 0), "two of security are not the owner");
    let plan = approve(&model, "bob", 4000).unwrap();
    assert_eq!(operations(&plan), ["request.approved", "request.granted", "grant.created"]);
    let model = carried_out(&model, &plan);
    let grant = &model.grants.values().next().unwrap().value;
    assert_eq!(grant.lineage.origin.as_ref().unwrap().approvals.len(), 3);
    let given: Vec<&str> = grant.actions.iter().map(crate::domain::name::ActionName::as_str).collect();
    assert_eq!(given, ["read", "write"], "the role and what it includes, frozen");
    assert!(matches!(approve(&model, "carol", 5000), Err(Refused::NotFound(_))), "it is settled");
}

#[test]
fn an_approval_is_of_what_was_seen_and_of_nothing_else() {
    let (request, model) = made(&world(), &person("alice"), &ask(role("reader"), 4), 1000);
    let wider = document("Role", "reader", r#"{"permissions":[{"resource":"api/orders","actions":["read","write"]}]}"#);
    let changed = carried_out(&model, &plan_apply(&model, &context(NOW), &[wider]).unwrap());
    let (bob, digest) = (person("bob"), request.analysis.digest.as_str());
    let approve = |model: &Model| plan_approve(model, &at(&bob, NOW), request.id, digest, None, drawing(2000));
    // What the role gives by now takes an hour at most: policy refuses it, and no grant comes of it.
    let refused = approve(&changed).unwrap_err();
    assert!(matches!(&refused, Refused::Conflict(why) if why.contains("longer than the 1h")), "{refused}");
    let moved = r#"{"upstream":"http://127.0.0.1:9001","resource":"api/orders","actions":[
            {"name":"read","methods":["GET"],"path":"/v1/**"},{"name":"write","methods":["POST"],"path":"/v1/orders/**"}]}"#;
    let plan = plan_apply(&model, &context(NOW), &[document("Route", "orders", moved)]).unwrap();
    let changed = carried_out(&model, &plan);
    assert!(matches!(approve(&changed), Err(Refused::Conflict(_))), "the route leads elsewhere");
    assert_eq!(approve(&model).unwrap().answer.state, State::Granted);
}

#[test]
fn an_earlier_approval_of_something_else_does_not_count() {
    let (request, model) = made(&world(), &person("alice"), &ask(role("writer"), 1), 1000);
    let approve = |model: &Model, who: &str, digest: &str, from| {
        plan_approve(model, &at(&person(who), NOW), request.id, digest, None, drawing(from)).unwrap()
    };
    let model = carried_out(&model, &approve(&model, "bob", &request.analysis.digest, 2000));
    let changed = document("Resource", "api/orders", r#"{"owner":"bob","sensitivity":"high","authority":"1m"}"#);
    let model = carried_out(&model, &plan_apply(&model, &context(NOW), &[changed]).unwrap());
    let now = again(&model, NOW, &request, &"carol".parse().unwrap()).unwrap().0.analysis.digest;
    assert_ne!(now, request.analysis.digest);
    let plan = approve(&model, "carol", &now, 3000);
    assert_eq!(plan.answer.state, State::Pending, "bob saw another resource");
    let model = carried_out(&model, &plan);
    assert_eq!(approve(&model, "bob", &now, 4000).answer.state, State::Granted);
}

#[test]
fn what_is_too_long_is_refused_with_the_ceiling_named() {
    let (request, model) = made(&world(), &person("alice"), &ask(role("reader"), 24), 1000);
    assert_eq!((request.state, request.analysis.longest.unwrap().to_string()), (State::Denied, "8h".to_owned()));
    assert!(request.settled.unwrap().reason.contains("1d is longer than the 8h that policy allows"));
    assert!(model.grants.is_empty() && model.requests.is_empty());
}

#[test]
fn nobody_who_may_approve_is_a_refusal() {
    // The owner of the resource answers for the identity too: policy does not let them, and nobody else owns it.
    let mine = document("Resource", "api/orders", r#"{"owner":"alice"}"#);
    let model = world();
    let model = carried_out(&model, &plan_apply(&model, &context(NOW), &[mine]).unwrap());
    let (request, _) = made(&model, &person("alice"), &ask(role("reader"), 4), 1000);
    assert_eq!(request.state, State::Denied);
    assert!(request.analysis.findings.iter().any(|finding| finding.code == "nobody_may_approve"));
}

#[test]
fn two_agents_of_one_person_are_one_person() {
    let model = world();
    let of = |identity: &str, access| Ask { identity: identity.parse().unwrap(), ..ask(access, 1) };
    let prepare = of("preparer", actions("deployments", &["prepare"]));
    let release = of("releaser", actions("deployments", &["release"]));
    // Asked for together, and in two steps.
    let both = of("releaser", actions("deployments", &["prepare", "release"]));
    assert_eq!(made(&model, &person("alice"), &both, 1000).0.state, State::Denied);
    let (first, model) = made(&model, &person("alice"), &prepare, 2000);
    let (second, model) = made(&model, &person("alice"), &release, 3000);
    assert_eq!((first.state, second.state), (State::Pending, State::Pending), "nothing is held yet");
    let approve = |model: &Model, request: &Request, from| {
        let digest = &request.analysis.digest;
        plan_approve(model, &at(&person("bob"), NOW), request.id, digest, None, drawing(from))
    };
    let plan = approve(&model, &first, 4000).unwrap();
    assert_eq!(plan.answer.state, State::Granted);
    let model = carried_out(&model, &plan);
    let blocked = approve(&model, &second, 5000).unwrap_err();
    assert!(matches!(&blocked, Refused::Conflict(why) if why.contains("does not release it")), "{blocked}");
    assert_eq!(made(&model, &person("alice"), &release, 6000).0.state, State::Denied, "blocked when asked for");
}

#[test]
fn whoever_asks_never_approves_not_even_what_needs_nobody_by_now() {
    let (request, model) = made(&world(), &person("alice"), &ask(role("reader"), 4), 1000);
    let mut files = starter();
    files[0].text = files[0].text.replace(" duration(\"15m\")", " duration(\"4h\")");
    files[1].text = files[1].text.replace("duration: 5m", "duration: 4h");
    let plan = plan_publish(&model, &context(NOW), &files, None, "looser").unwrap();
    let model = carried_out(&model, &plan);
    let (now, _) = again(&model, NOW, &request, &"bob".parse().unwrap()).unwrap();
    assert_eq!(now.analysis.verdict, Verdict::Grant);
    let approve =
        |who: &str| plan_approve(&model, &at(&person(who), NOW), request.id, &now.analysis.digest, None, drawing(2000));
    assert!(matches!(approve("alice"), Err(Refused::Denied(_))));
    assert_eq!(approve("bob").unwrap().answer.state, State::Granted);
}

#[test]
fn agents_of_a_group_and_of_its_members_are_one_person() {
    let group = document("Group", "shipping", r#"{"members":["alice"]}"#);
    let spec = r#"{"kind":"agent","owner":"shipping","purpose":"p","environment":"test"}"#;
    let model = world();
    let plan = plan_apply(&model, &context(NOW), &[group, document("Identity", "releaser", spec)]).unwrap();
    let model = carried_out(&model, &plan);
    for (first, then) in
        [(("preparer", "prepare"), ("releaser", "release")), (("releaser", "release"), ("preparer", "prepare"))]
    {
        let of = |(identity, action): (&str, &str)| Ask {
            identity: identity.parse().unwrap(),
            ..ask(actions("deployments", &[action]), 1)
        };
        let (request, model) = made(&model, &person("alice"), &of(first), 1000);
        let digest = &request.analysis.digest;
        let plan = plan_approve(&model, &at(&person("bob"), NOW), request.id, digest, None, drawing(2000)).unwrap();
        assert_eq!(plan.answer.state, State::Granted);
        let model = carried_out(&model, &plan);
        assert_eq!(made(&model, &person("alice"), &of(then), 3000).0.state, State::Denied, "{then:?} after {first:?}");
    }
}

#[test]
fn approvers_are_found_by_way_of_nested_groups_and_few_are_looked_at_among_many() {
    let mut model = world();
    let documents = [
        document("Group", "on-call", r#"{"members":["mallory"]}"#),
        document("Group", "orders", r#"{"members":["bob"],"groups":["on-call"]}"#),
        document("Resource", "api/orders", r#"{"owner":"orders","sensitivity":"high"}"#),
    ];
    model = carried_out(&model, &plan_apply(&model, &context(NOW), &documents).unwrap());
    let (request, model) = made(&model, &person("alice"), &ask(role("reader"), 4), 1000);
    let names =
        |request: &Request| -> Vec<String> { request.analysis.eligible.iter().map(ToString::to_string).collect() };
    assert_eq!(names(&request), ["bob", "mallory"]);
    let approve = |who: &str| {
        plan_approve(&model, &at(&person(who), NOW), request.id, &request.analysis.digest, None, drawing(2000))
    };
    assert_eq!(approve("mallory").unwrap().answer.state, State::Granted);
    assert!(matches!(approve("carol"), Err(Refused::Denied(_))));
    // Three hundred of security: twenty are named, and each of them can.
    let mut model = world();
    for number in 0..300 {
        let name: OwnerName = format!("guard-{number:03}").parse().unwrap();
        let token = Digest::of(name.as_str());
        let guard = Person { name, roles: vec![PersonRole::Security], speaks_for: Vec::new(), token, signed_in: None };
        model = carried_out(&model, &plan_person(&model, guard).unwrap());
    }
    let (request, _) = made(&model, &person("alice"), &ask(role("writer"), 1), 3000);
    assert_eq!((names(&request).len(), names(&request)[0].as_str(), request.state), (20, "bob", State::Pending));
}

#[test]
fn a_credential_that_changes_hands_is_found_with_its_new_owner() {
    let with = |name: &str, authenticate: &str| {
        let spec = r#"{"kind":"agent","owner":"alice","purpose":"p","environment":"test","authenticate":["#;
        document("Identity", name, &format!("{spec}{authenticate}]}}"))
    };
    let id = r#"{"spiffe":"spiffe://example.org/one"}"#;
    let spiffe: crate::domain::principal::SpiffeId = "spiffe://example.org/one".parse().unwrap();
    let model = world();
    let model = carried_out(&model, &plan_apply(&model, &context(NOW), &[with("releaser", id)]).unwrap());
    for (new, old) in [("preparer", "releaser"), ("releaser", "preparer")] {
        // In either order of the documents.
        let plan = plan_apply(&model, &context(NOW), &[with(new, id), with(old, "")]);
        let model = carried_out(&model, &plan.unwrap());
        let plan = plan_apply(&model, &context(NOW), &[with(old, ""), with(new, id)]).unwrap();
        let model = carried_out(&model, &plan);
        assert_eq!(model.workloads.get(&spiffe).unwrap().as_str(), new);
    }
}

#[test]
fn an_identifier_that_another_writer_drew_already_is_not_drawn_again() {
    let (first, model) = made(&world(), &person("alice"), &ask(role("reader"), 4), 1000);
    let (second, model) = made(&model, &person("alice"), &ask(role("writer"), 1), 1000);
    assert_ne!(first.id, second.id);
    assert_eq!(model.requests.len(), 2, "nothing is put over what is open");
}

#[test]
fn a_key_finds_the_request_that_it_made() {
    let (model, alice) = (world(), person("alice"));
    let create = |model: &Model, caller: &Caller, from| {
        plan_create(model, &at(caller, NOW), &ask(role("reader"), 4), Some("run-7"), drawing(from)).unwrap()
    };
    let first = create(&model, &alice, RequestId::new(NOW, 1).bits());
    let Created::Request(request) = first.answer.clone() else { panic!() };
    let model = carried_out(&model, &first);
    assert_eq!(create(&model, &alice, 1).answer, Created::Known(request.id));
    let own = Caller::Identity("billing".parse().unwrap());
    assert!(matches!(create(&model, &own, 1).answer, Created::Request(_)), "another's key is another key");
}

#[test]
fn who_asked_can_take_it_back_and_strangers_cannot() {
    let (request, model) = made(&world(), &person("alice"), &ask(role("reader"), 4), 1000);
    let cancel = |who: &str| plan_cancel(&model, &at(&person(who), NOW), request.id, "not needed");
    assert!(matches!(cancel("mallory"), Err(Refused::Denied(_))));
    assert_eq!(cancel("alice").unwrap().answer.state, State::Cancelled);
    let deny = |who: &str| plan_deny(&model, &at(&person(who), NOW), request.id, "not now");
    assert!(matches!(deny("mallory"), Err(Refused::Denied(_))));
    assert!(matches!(deny("alice"), Err(Refused::Denied(_))));
    assert_eq!(deny("bob").unwrap().answer.state, State::Denied);
    assert_eq!(deny("carol").unwrap().answer.state, State::Denied, "who watches over all access");
}

#[test]
fn a_window_that_is_approved_late_ends_when_it_was_to_end() {
    let starts = NOW.saturating_add(Duration::from_secs(600));
    let window = Ask { starts: Some(starts), ..ask(role("reader"), 2) };
    let (request, model) = made(&world(), &person("alice"), &window, 1000);
    let late = starts.saturating_add(Duration::from_secs(3600));
    let bob = person("bob");
    let approve = |now| plan_approve(&model, &at(&bob, now), request.id, &request.analysis.digest, None, drawing(2000));
    let model_after = carried_out(&model, &approve(late).unwrap());
    let grant = &model_after.grants.values().next().unwrap().value;
    assert_eq!((grant.window.starts, grant.window.ends), (late, starts.saturating_add(Duration::from_secs(7200))));
    let over = starts.saturating_add(Duration::from_secs(7200));
    assert!(matches!(approve(over), Err(Refused::Conflict(_))), "it has expired");
}
