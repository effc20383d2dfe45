//! What widens access waits, what narrows does not; and what stands between a change and its coming true.

mod interest;
mod steps;

use std::sync::Arc;

use super::super::catalog::Document;
use super::super::policy::starter;
use super::super::record::{Digest, Person, PersonRole};
use super::super::registry::plan_person;
use super::super::sample::{CATALOG, NOW, carried_out, context, document};
use super::super::{catalog, policy, replay};
use super::*;

const PEOPLE: &[(&str, PersonRole)] = &[
    ("root", PersonRole::Administrator),
    ("second", PersonRole::Administrator),
    ("carol", PersonRole::Security),
    ("bob", PersonRole::Owner),
    ("alice", PersonRole::Developer),
];

fn person(name: &str) -> Caller {
    let (_, role) = PEOPLE.iter().find(|(person, _)| *person == name).unwrap();
    let token = Digest::of(name);
    Caller::Person(Arc::new(Person {
        name: name.parse().unwrap(),
        roles: vec![*role],
        speaks_for: Vec::new(),
        token,
        signed_in: None,
    }))
}

/// The sample catalog, with bob in the group that owns the orders.
fn ungoverned(people: &[&str]) -> Model {
    let mut model = Model { epoch: 1, revision: 1, ..Model::default() };
    for name in people {
        let Caller::Person(person) = person(name) else { unreachable!() };
        model = carried_out(&model, &plan_person(&model, person.as_ref().clone()).unwrap());
    }
    let mut documents: Vec<Document> = CATALOG.iter().map(|(kind, name, spec)| document(kind, name, spec)).collect();
    if people.contains(&"bob") {
        documents.push(document("Group", "orders", r#"{"members":["bob"]}"#));
        documents.push(document("Group", "payments", r#"{"members":["alice"]}"#));
    }
    carried_out(&model, &catalog::plan_apply(&model, &context(NOW), &documents).unwrap())
}

fn governed(people: &[&str]) -> Model {
    let model = ungoverned(people);
    let plan = policy::plan_publish(&model, &context(NOW), &starter(), None, "begin").unwrap();
    carried_out(&model, &plan)
}

const ALL: [&str; 5] = ["root", "second", "carol", "bob", "alice"];

fn drawing(from: u128) -> impl FnMut() -> u128 {
    let mut next = from;
    move || {
        next += 1;
        next
    }
}

fn wanted(documents: &[Document]) -> Wanted {
    Wanted { reason: "because".to_owned(), ..Wanted::of(documents) }
}

fn apply(model: &Model, who: &str, documents: &[Document]) -> Plan<Outcome<Vec<Diff>>> {
    let caller = person(who);
    plan_apply(model, &Context { caller: &caller, now: NOW }, &wanted(documents), drawing(100)).unwrap()
}

/// What waits of applying these.
fn waiting(model: &Model, who: &str, documents: &[Document]) -> (Proposal, Model) {
    let plan = apply(model, who, documents);
    assert_eq!(plan.events.len(), 1);
    let after = carried_out(model, &plan);
    (plan.answer.parts().1.expect("it waits"), after)
}

fn approve(model: &Model, who: &str, id: ChangeId, digest: &str, now: Timestamp) -> Result<Plan<Proposal>, Refused> {
    let caller = person(who);
    plan_approve(model, &Context { caller: &caller, now }, id, digest, None, drawing(500))
}

fn wider() -> Document {
    document("Role", "orders-reader", r#"{"permissions":[{"resource":"api/orders","actions":["read","write"]}]}"#)
}

fn identity(owner: &str, authenticate: &str) -> Document {
    let spec = format!(
        r#"{{"kind":"service","owner":"{owner}","purpose":"charges customers","environment":"production","authenticate":[{authenticate}]}}"#
    );
    document("Identity", "billing", &spec)
}

const OWN: &str = r#"{"spiffe":"spiffe://example.org/sa/billing"}"#;

fn resource(owner: &str, sensitivity: &str, authority: &str) -> Document {
    let spec = format!(r#"{{"owner":"{owner}","sensitivity":"{sensitivity}","authority":"{authority}"}}"#);
    document("Resource", "api/orders", &spec)
}

fn route(rules: &str, more: &str) -> Document {
    document(
        "Route",
        "orders",
        &format!(r#"{{"upstream":"http://127.0.0.1:9000","resource":"api/orders","actions":[{rules}]{more}}}"#),
    )
}

const READ: &str = r#"{"name":"read","methods":["GET","HEAD"],"path":"/v1/orders/**"}"#;
const WRITE: &str = r#"{"name":"write","methods":["POST","DELETE"],"path":"/v1/orders/{order}"}"#;

fn exception(rule: &str, hours: i64) -> Document {
    let expires = Timestamp::from_unix_seconds(NOW.unix_seconds() + hours * 3600);
    document("Exception", "leave", &format!(r#"{{{rule},"owner":"orders","reason":"r","expires":"{expires}"}}"#))
}

#[test]
fn everything_by_which_somebody_gains_access_waits() {
    let model = governed(&ALL);
    let other = r#",{"spiffe":"spiffe://example.org/sa/other"}"#;
    let observe = r#""rule":"observe","route":"orders""#;
    let widening = [
        wider(),
        document("Role", "new", r#"{"permissions":[{"resource":"api/orders","actions":["read"]}]}"#),
        identity("orders", OWN),
        identity("payments", &format!("{OWN}{other}")),
        identity("payments", r#"{"issuer":"https://i","subject":"s"}"#),
        document("Identity", "fresh", r#"{"kind":"agent","owner":"payments","purpose":"p","environment":"e"}"#),
        resource("payments", "high", "10s"),
        resource("orders", "low", "10s"),
        resource("orders", "high", "5m"),
        document("Resource", "api/new", r#"{"owner":"payments"}"#),
        route(&format!(r#"{READ},{WRITE},{{"name":"read","methods":["GET"],"path":"/other"}}"#), ""),
        route(&format!("{READ},{WRITE}"), r#","credential":"none""#),
        route(&format!("{READ},{WRITE}"), r#","body":"inspect""#),
        route(&format!("{READ},{}", WRITE.replace("POST", "PUT")), ""),
        document("Group", "orders", r#"{"members":["bob","alice"]}"#),
        document("Group", "payments", r#"{"members":["alice"],"groups":["orders"]}"#),
        // Whoever answers for an identity may not approve for it: alice would be free of that.
        document("Group", "payments", "{}"),
        // And bob of being one with the others of his.
        document("Group", "orders", "{}"),
        document("Person", "bob", r#"{"email":"mallory@example.org"}"#),
        // Where settings let in whoever has a document, this is an account.
        document("Person", "mallory", "{}"),
        exception(observe, 1),
        exception(r#""rule":"no_grants_by_hand""#, 1),
        // It is shown a token, and says when grants end.
        document(
            "TicketSource",
            "other",
            r#"{"shape":"generic","owner":"orders","read":{"url":"https://x/{key}","token_file":"x"}}"#,
        ),
    ];
    for document in &widening {
        let (proposal, after) = waiting(&model, "root", std::slice::from_ref(document));
        assert!(proposal.effects.iter().any(|effect| effect.gains), "{document:?}");
        assert!(!proposal.eligible.is_empty() && !proposal.eligible.contains(&"root".parse().unwrap()));
        let mut kept = after;
        kept.proposals.clear();
        assert_eq!(format!("{:?}", kept.identities), format!("{:?}", model.identities), "{document:?}");
        assert_eq!(format!("{:?}", kept.roles), format!("{:?}", model.roles));
        assert_eq!(format!("{:?}", kept.routes), format!("{:?}", model.routes));
    }
}

/// A policy of one file, in force.
fn under(policy: &str, more: &[Document]) -> Model {
    let mut model = ungoverned(&ALL);
    model = carried_out(&model, &catalog::plan_apply(&model, &context(NOW), more).unwrap());
    let mut set = starter();
    set.truncate(1);
    set[0].text = policy.to_owned();
    replay::under(&model, NOW, set).unwrap_or_else(|refused| panic!("{refused:?}\n{policy}"))
}

#[test]
fn whatever_a_rule_looks_at_waits_when_it_is_no_more_so() {
    let group = |json: &str| document("Group", "contractors", json);
    let role = |json: &str| document("Role", "orders-writer", json);
    let (own, parent) = (
        r#"{"permissions":[{"resource":"api/orders","actions":["read"]}]}"#,
        r#"{"permissions":[{"resource":"api/orders","actions":["read"]}],"parents":["orders-reader"]}"#,
    );
    let strict = r#"@approvers("standing:security") permit (principal in Group::"contractors", WHAT"#;
    let forbid = |whom: &str, when: &str| format!("forbid ({whom}, WHAT when {{ {when} }}");
    let included = r#"context.roles.contains(Role::"orders-reader")"#;
    let contractors =
        |who: &str| vec![document("Person", "mallory", "{}"), group(&format!(r#"{{"members":["{who}"]}}"#))];
    let nested = document("Group", "all", r#"{"groups":["contractors"]}"#);
    for (rule, before, after) in [
        // A rule that permits can ask more of some than another does of all.
        (strict.to_owned(), contractors("alice"), group("{}")),
        // Also of somebody without an account.
        (
            forbid(r#"principal in Group::"contractors""#, "context.itself == false"),
            contractors("mallory"),
            group("{}"),
        ),
        // Whoever is one with whom.
        (
            forbid("principal", r#"context.together.containsAll(["a:read", "b:read"])"#),
            [contractors("alice"), vec![nested]].concat(),
            document("Group", "all", "{}"),
        ),
        // What a role includes, in either direction.
        (
            format!(r#"@approvers("resource-owner") permit (principal, WHAT when {{ {included} }}"#),
            vec![role(own)],
            role(parent),
        ),
        (forbid("principal", included), vec![role(parent)], role(own)),
        (
            forbid("principal", r#"resource.sensitivity == "normal""#),
            vec![resource("orders", "normal", "10s")],
            resource("orders", "high", "10s"),
        ),
    ] {
        let free = r#"@id("free") @approvers("none") permit (principal, action == Action::"request", resource);"#;
        let approve = r#"@id("approve") permit (principal, action == Action::"approve", resource);"#;
        let rule = rule.replace("WHAT", r#"action == Action::"request", resource)"#);
        let policy = format!("{free}\n@id(\"rule\") {rule};\n{approve}\n");
        let model = under(&policy, &before);
        let plan = apply(&model, "root", std::slice::from_ref(&after));
        assert!(matches!(plan.answer, Outcome::Waits(..)), "{policy}\n{after:?}");
    }
}

#[test]
fn what_narrows_or_is_neutral_is_done_at_once_and_so_is_all_before_a_policy() {
    let model = governed(&ALL);
    let with =
        |document: Document| carried_out(&model, &catalog::plan_apply(&model, &context(NOW), &[document]).unwrap());
    let observe = r#""rule":"observe","route":"orders""#;
    let wide = with(wider());
    let excepted = with(exception(observe, 48));
    let narrowing = [
        (&model, identity("payments", "")),
        (&model, resource("orders", "high", "5s")),
        (&model, document("Group", "orders", r#"{"members":["bob"],"description":"of orders"}"#)),
        (&model, document("Person", "bob", r#"{"full_name":"Bob"}"#)),
        (&wide, CATALOG.iter().find(|it| it.0 == "Role").map(|(k, n, s)| document(k, n, s)).unwrap()),
        (&excepted, exception(observe, 24)),
    ];
    for (model, document) in narrowing {
        let plan = apply(model, "root", std::slice::from_ref(&document));
        assert!(matches!(plan.answer, Outcome::Done(_)) && !plan.is_empty(), "{document:?}");
    }
    assert!(apply(&model, "root", &[identity("payments", OWN)]).is_empty(), "nothing to change is nothing to approve");
    let plan = apply(&ungoverned(&ALL), "root", &[wider()]);
    assert!(matches!(plan.answer, Outcome::Done(_)) && !plan.is_empty());
    // The control plane's own machine needs nobody.
    let plan = plan_apply(&model, &context(NOW), &wanted(&[wider()]), drawing(1)).unwrap();
    assert!(matches!(plan.answer, Outcome::Done(_)));
}

#[test]
fn another_persons_word_makes_it_true_in_the_same_plan_and_nobody_elses_does() {
    let model = governed(&ALL);
    let (proposal, model) = waiting(&model, "root", &[wider()]);
    let (id, digest) = (proposal.id, proposal.digest.as_str());
    for who in ["root", "alice"] {
        assert!(matches!(approve(&model, who, id, digest, NOW), Err(Refused::Denied(_))), "{who}");
    }
    assert!(matches!(approve(&model, "carol", id, "0", NOW), Err(Refused::Conflict(_))), "of what was not seen");
    // Whoever owns all that it touches, too: bob is of the group that owns the orders.
    for who in ["second", "carol", "bob"] {
        let plan = approve(&model, who, id, digest, NOW).unwrap();
        let operations: Vec<&str> = plan.events.iter().map(|event| event.operation.as_str()).collect();
        assert_eq!(operations, ["change.approved", "change.applied", "role.changed"]);
        assert_eq!(plan.events[2].reason.as_deref(), Some(format!("change {id} of root: because").as_str()));
        let after = carried_out(&model, &plan);
        assert_eq!(after.proposals[&id].value.state, ProposalState::Applied);
        assert_eq!(
            after
                .roles
                .get(&"orders-reader".parse::<crate::domain::name::RoleName>().unwrap())
                .unwrap()
                .value
                .spec
                .permissions[0]
                .actions
                .len(),
            2
        );
        assert!(matches!(approve(&after, "second", id, digest, NOW), Err(Refused::Conflict(_))), "once");
    }
    // An owner alone decides nothing that is another's, or nobody's.
    let (group, model) = waiting(&model, "root", &[wider(), document("Group", "orders", r#"{"members":["alice"]}"#)]);
    assert!(matches!(approve(&model, "bob", group.id, &group.digest, NOW), Err(Refused::Denied(_))));
}

#[test]
fn what_it_was_made_from_having_changed_makes_it_stale_for_good() {
    let model = governed(&ALL);
    let (proposal, model) = waiting(&model, "root", &[resource("payments", "high", "10s")]);
    let narrowed = apply(&model, "second", &[resource("orders", "high", "5s")]);
    let model = carried_out(&model, &narrowed);
    assert!(seen(&model, NOW, &model.proposals[&proposal.id].value).stale.is_some());
    let plan = approve(&model, "carol", proposal.id, &proposal.digest, NOW).unwrap();
    assert_eq!(plan.answer.state, ProposalState::Stale);
    assert_eq!(plan.changes.len(), 1, "nothing else is put");
    assert!(plan.answer.settled.as_ref().unwrap().reason.contains("Resource api/orders"), "{:?}", plan.answer.settled);
    let after = carried_out(&model, &plan);
    assert!(matches!(approve(&after, "carol", proposal.id, &proposal.digest, NOW), Err(Refused::Conflict(_))));
}

#[test]
fn the_first_policy_is_one_persons_and_every_other_takes_two() {
    let model = ungoverned(&ALL);
    let root = person("root");
    let at = Context { caller: &root, now: NOW };
    let first = plan_publish(&model, &at, &starter(), None, "begin", drawing(1)).unwrap();
    assert!(matches!(first.answer, Outcome::Done(_)));
    let model = carried_out(&model, &first);
    let mut other = starter();
    other[0].text.push_str("\n// Another.\n");
    let plan = plan_publish(&model, &at, &other, None, "second", drawing(2)).unwrap();
    let mut model = carried_out(&model, &plan);
    let proposal = plan.answer.parts().1.unwrap();
    assert_eq!(model.policy.as_ref().unwrap().record.version, 1);
    // Asked for again it is the same one.
    assert!(plan_publish(&model, &at, &other, None, "second", drawing(3)).unwrap().is_empty());
    for who in ["root", "bob", "alice"] {
        assert!(matches!(approve(&model, who, proposal.id, &proposal.digest, NOW), Err(Refused::Denied(_))), "{who}");
    }
    // One that was made from the version before cannot come after another.
    let mut third = starter();
    third[0].text.push_str("\n// A third.\n");
    let late = plan_publish(&model, &at, &third, None, "third", drawing(4)).unwrap();
    model = carried_out(&model, &late);
    let late = late.answer.parts().1.unwrap();
    let plan = approve(&model, "carol", proposal.id, &proposal.digest, NOW).unwrap();
    model = carried_out(&model, &plan);
    let record = model.policy.as_ref().unwrap().record.clone();
    assert_eq!((record.version, record.by.as_str(), record.change), (2, "root", Some(proposal.id)));
    assert_eq!(model.proposals[&proposal.id].value.version, Some(2));
    let plan = approve(&model, "carol", late.id, &late.digest, NOW).unwrap();
    assert_eq!(plan.answer.state, ProposalState::Stale);
}

#[test]
fn with_nobody_else_it_is_refused_and_told_what_to_do() {
    let model = governed(&["root"]);
    let root = person("root");
    let refused =
        plan_apply(&model, &Context { caller: &root, now: NOW }, &wanted(&[wider()]), drawing(1)).unwrap_err();
    let Refused::Unfit(faults) = refused else { panic!("{refused:?}") };
    assert!(faults[0].contains("control init --person") && faults[0].contains("control apply"), "{faults:?}");
    // A developer is nobody who could.
    let model = governed(&["root", "alice"]);
    assert!(plan_apply(&model, &Context { caller: &root, now: NOW }, &wanted(&[wider()]), drawing(1)).is_err());
}

#[test]
fn it_is_denied_taken_back_or_expires_once() {
    let model = governed(&ALL);
    let (proposal, model) = waiting(&model, "root", &[wider()]);
    let id = proposal.id;
    let deny = |who: &str| {
        let caller = person(who);
        plan_deny(&model, &Context { caller: &caller, now: NOW }, id, "no").map(|plan| plan.answer.state)
    };
    let cancel = |who: &str| {
        let caller = person(who);
        plan_cancel(&model, &Context { caller: &caller, now: NOW }, id, "no").map(|plan| plan.answer.state)
    };
    assert_eq!((deny("carol"), deny("bob")), (Ok(ProposalState::Denied), Ok(ProposalState::Denied)));
    assert!(deny("root").is_err() && deny("alice").is_err() && cancel("bob").is_err());
    assert_eq!((cancel("root"), cancel("second")), (Ok(ProposalState::Cancelled), Ok(ProposalState::Cancelled)));
    assert!(plan_expiry(&model, NOW).is_empty());
    let late = NOW.saturating_add(LIFE);
    assert!(matches!(approve(&model, "carol", id, &proposal.digest, late), Err(Refused::Conflict(_))));
    let after = carried_out(&model, &plan_expiry(&model, late));
    assert_eq!(after.proposals[&id].value.state, ProposalState::Expired);
    assert_eq!(
        after.proposals[&id].value.proposed,
        Proposed::Catalog { documents: vec![], prune: false, end_grants: false }
    );
    assert!(plan_prune(&after, late).is_empty());
    let old = late.saturating_add(SETTLED_KEPT);
    assert!(carried_out(&after, &plan_prune(&after, old)).proposals.is_empty());
}

#[test]
fn no_more_wait_than_may() {
    let mut model = governed(&ALL);
    for number in 0..MAX_OPEN_EACH {
        let role = document(
            "Role",
            &format!("r{number}"),
            r#"{"permissions":[{"resource":"api/orders","actions":["read"]}]}"#,
        );
        let caller = person("root");
        let plan =
            plan_apply(&model, &Context { caller: &caller, now: NOW }, &wanted(&[role]), drawing(number as u128))
                .unwrap();
        model = carried_out(&model, &plan);
    }
    let caller = person("root");
    let more = plan_apply(&model, &Context { caller: &caller, now: NOW }, &wanted(&[wider()]), drawing(1000));
    assert!(matches!(more, Err(Refused::TooMuch(_))));
    assert!(matches!(apply(&model, "second", &[wider()]).answer, Outcome::Waits(..)));
}
