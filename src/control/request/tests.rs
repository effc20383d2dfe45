//! The state machine: each step, and that no order of steps leads to a grant that is not approved, endless or wider.

mod racing;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::super::catalog::{Document, plan_apply};
use super::super::policy::{plan_publish, starter};
use super::super::record::{Digest, Person};
use super::super::registry::plan_person;
use super::super::sample::{NOW, carried_out, context, document};
use super::*;
use crate::domain::name::IdentityName;
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
    Caller::Person(Arc::new(Person { name, roles: vec![*role], speaks_for: Vec::new(), token }))
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
    let told = approve(&changed).unwrap();
    // What the role gives by now takes an hour at most: policy refuses it, and no grant comes of it.
    assert_eq!((told.answer.state, told.changes.len()), (State::Denied, 1));
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
    let now = again(&model, &request, &"carol".parse().unwrap()).unwrap().0.analysis.digest;
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
        plan_approve(model, &at(&person("bob"), NOW), request.id, digest, None, drawing(from)).unwrap()
    };
    let plan = approve(&model, &first, 4000);
    assert_eq!(plan.answer.state, State::Granted);
    let model = carried_out(&model, &plan);
    let plan = approve(&model, &second, 5000);
    assert_eq!(plan.answer.state, State::Denied, "blocked when approved");
    assert!(plan.answer.analysis.findings.iter().any(|finding| finding.code == "separation_of_duties"));
    let model = carried_out(&model, &plan);
    assert_eq!(made(&model, &person("alice"), &release, 6000).0.state, State::Denied, "blocked when asked for");
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

/// What anybody may try, in any order.
#[derive(Clone, Debug)]
enum Try {
    Create { who: usize, identity: usize, access: usize, hours: u64 },
    Approve { who: usize, which: usize, fresh: bool },
    Deny { who: usize, which: usize },
    Cancel { who: usize, which: usize },
    Wait { minutes: u64 },
    Role { wide: bool },
}

fn tries() -> impl Strategy<Value = Vec<Try>> {
    let which = 0..4usize;
    let one = prop_oneof![
        3 => (0..7usize, 0..3usize, 0..5usize, prop_oneof![Just(0), Just(1), Just(4), Just(30)])
            .prop_map(|(who, identity, access, hours)| Try::Create { who, identity, access, hours }),
        6 => (0..7usize, which.clone(), any::<bool>()).prop_map(|(who, which, fresh)| Try::Approve { who, which, fresh }),
        1 => (0..7usize, which.clone()).prop_map(|(who, which)| Try::Deny { who, which }),
        1 => (0..7usize, which).prop_map(|(who, which)| Try::Cancel { who, which }),
        1 => (1..3000u64).prop_map(|minutes| Try::Wait { minutes }),
        1 => any::<bool>().prop_map(|wide| Try::Role { wide }),
    ];
    prop::collection::vec(one, 1..40)
}

const IDENTITIES: [&str; 3] = ["billing", "preparer", "releaser"];

fn caller(who: usize) -> Caller {
    match PEOPLE.get(who) {
        Some((name, _)) => person(name),
        None => Caller::Identity(IDENTITIES[who % IDENTITIES.len()].parse().unwrap()),
    }
}

fn access(which: usize) -> Access {
    match which {
        0 => role("reader"),
        1 => role("writer"),
        2 => actions("api/orders", &["write"]),
        3 => actions("deployments", &["prepare"]),
        _ => actions("deployments", &["release"]),
    }
}

/// What must hold of a grant, worked out from the request and who said yes, apart from the code that made it.
fn is_earned(before: &Model, request: &Request, grant: &crate::domain::grant::Grant, now: Timestamp) {
    let origin = grant.lineage.origin.as_ref().expect("a grant has its request");
    assert_eq!(origin.request, request.id);
    assert!(grant.window.ends > grant.window.starts);
    let asked = request.ask.duration.duration();
    assert!(grant.window.ends.saturating_since(grant.window.starts) <= asked, "longer than asked for");
    assert!(asked <= Duration::from_secs(8 * 3600), "longer than policy ever allows");
    assert!(grant.window.ends <= now.saturating_add(asked));
    let sure: BTreeSet<&str> = request
        .approvals
        .iter()
        .filter(|approval| approval.digest == request.analysis.digest)
        .map(|approval| approval.by.as_str())
        .collect();
    assert!(!sure.contains("alice") && !sure.contains("mallory"), "{sure:?}");
    let writes = grant.actions.iter().any(|action| action.as_str() != "read");
    let short = asked <= Duration::from_secs(900);
    if writes || !short {
        assert!(sure.contains("bob"), "without its owner: {sure:?}");
    }
    if writes && grant.resource.as_str() == "api/orders" {
        assert!(sure.contains("carol") || sure.contains("dave"), "without security: {sure:?}");
        assert!(asked <= Duration::from_secs(3600));
    }
    let given: Vec<String> = grant.actions.iter().map(ToString::to_string).collect();
    let seen = request.analysis.permissions.iter().find(|permission| permission.resource == grant.resource).unwrap();
    assert_eq!(given, seen.actions.iter().map(ToString::to_string).collect::<Vec<_>>(), "other than what was seen");
    let held: BTreeSet<String> = before
        .grants
        .values()
        .flat_map(|kept| kept.value.actions.iter().map(|action| format!("{}:{action}", kept.value.resource)))
        .chain(given.iter().map(|action| format!("{}:{action}", grant.resource)))
        .collect();
    assert!(
        !(held.contains("deployments:prepare") && held.contains("deployments:release")),
        "a toxic combination in two steps"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_steps_reaches_a_grant_that_is_not_earned(steps in tries()) {
        let mut model = world();
        let mut now = NOW;
        let mut made: Vec<Request> = Vec::new();
        let mut from = RequestId::new(NOW, 0).bits();
        for step in steps {
            from += 1_000_000;
            let request = |which: usize| (!made.is_empty()).then(|| made[which % made.len()].clone());
            let (plan, caller) = match &step {
                Try::Create { who, identity, access: what, hours } => {
                    let caller = caller(*who);
                    let seconds = if *hours == 0 { 900 } else { hours * 3600 };
                    let asked = Ask {
                        identity: IDENTITIES[*identity].parse::<IdentityName>().unwrap(),
                        duration: Span::new(Duration::from_secs(seconds)),
                        ..ask(access(*what), 1)
                    };
                    let plan = plan_create(&model, &at(&caller, now), &asked, None, drawing(from));
                    (plan.map(|plan| plan.map(|created| match created {
                        Created::Request(request) => *request,
                        Created::Known(_) => unreachable!("no key was given"),
                    })), caller)
                }
                Try::Approve { who, which, fresh } => {
                    let Some(request) = request(*which) else { continue };
                    let caller = caller(*who);
                    let digest = match again(&model, &request, &"bob".parse().unwrap()) {
                        Ok((now, _)) if *fresh => now.analysis.digest,
                        _ => request.analysis.digest.clone(),
                    };
                    (plan_approve(&model, &at(&caller, now), request.id, &digest, None, drawing(from)), caller)
                }
                Try::Deny { who, which } => {
                    let Some(request) = request(*which) else { continue };
                    let caller = caller(*who);
                    (plan_deny(&model, &at(&caller, now), request.id, "no"), caller)
                }
                Try::Cancel { who, which } => {
                    let Some(request) = request(*which) else { continue };
                    let caller = caller(*who);
                    (plan_cancel(&model, &at(&caller, now), request.id, "no"), caller)
                }
                Try::Wait { minutes } => {
                    now = now.saturating_add(Duration::from_secs(minutes * 60));
                    for _ in 0..8 {
                        let plan = plan_expiry(&model, now);
                        model = carried_out(&model, &plan);
                        let plan = grant::plan_expiry(&model, now);
                        model = carried_out(&model, &plan);
                    }
                    continue;
                }
                Try::Role { wide } => {
                    let actions = if *wide { r#"["read","write"]"# } else { r#"["read"]"# };
                    let spec = format!(r#"{{"permissions":[{{"resource":"api/orders","actions":{actions}}}]}}"#);
                    let before: Vec<_> = model.grants.values().map(|kept| kept.value.clone()).collect();
                    let plan = plan_apply(&model, &context(now), &[document("Role", "reader", &spec)]).unwrap();
                    model = carried_out(&model, &plan);
                    let after: Vec<_> = model.grants.values().map(|kept| kept.value.clone()).collect();
                    prop_assert_eq!(before, after, "a role widens no live grant");
                    continue;
                }
            };
            let Ok(plan) = plan else { continue };
            let after = carried_out(&model, &plan);
            let new: Vec<_> = after.grants.iter().filter(|(id, _)| !model.grants.contains_key(*id)).collect();
            if !new.is_empty() {
                prop_assert_eq!(plan.answer.state, State::Granted);
                prop_assert_eq!(plan.answer.grants.len(), new.len());
                prop_assert_ne!(caller.to_string(), "mallory");
            }
            for (_, grant) in new {
                is_earned(&model, &plan.answer, &grant.value, now);
            }
            if let Some(known) = made.iter_mut().find(|known| known.id == plan.answer.id) {
                prop_assert!(known.is_open() || *known == plan.answer, "what is settled stays so");
                *known = plan.answer.clone();
            } else {
                made.push(plan.answer.clone());
            }
            model = after;
        }
    }
}
