//! What a requester, a stranger or a crowd could do once, and cannot.

use super::super::super::plan::identity_author;
use super::super::bounds::MAX_UNAPPROVED_EACH;
use super::*;
use crate::domain::name::IdentityName;

fn applied(model: &Model, documents: &[Document]) -> Model {
    carried_out(model, &plan_apply(model, &context(NOW), documents).unwrap())
}

fn identity(name: &str, owner: &str) -> Document {
    let spec = format!(r#"{{"kind":"agent","owner":"{owner}","purpose":"p","environment":"test"}}"#);
    document("Identity", name, &spec)
}

/// The same model, in which `preparer` holds what must not meet `release`.
fn prepared(model: &Model) -> Model {
    let prepare = Ask { identity: "preparer".parse().unwrap(), ..ask(actions("deployments", &["prepare"]), 1) };
    let plan = grant::plan_create(model, &context(NOW), &grant_request(&prepare), || GrantId::from_bits(77));
    carried_out(model, &plan.unwrap())
}

fn release() -> Ask {
    Ask { identity: "releaser".parse().unwrap(), ..ask(actions("deployments", &["release"]), 1) }
}

#[test]
fn live_grants_that_nobody_approved_do_not_pile_up() {
    let mut model = world();
    let short = Ask { duration: Span::new(Duration::from_secs(900)), ..ask(role("reader"), 0) };
    let alice = person("alice");
    let mut from = 0;
    let mut create = |model: &Model, now| {
        from += 1000;
        plan_create(model, &at(&alice, now), &short, None, drawing(from))
    };
    for _ in 0..MAX_UNAPPROVED_EACH {
        model = carried_out(&model, &create(&model, NOW).unwrap());
    }
    let refused = create(&model, NOW).unwrap_err();
    assert!(matches!(&refused, Refused::TooMuch(why) if why.contains("grant revoke")), "{refused}");
    // What is over makes room.
    let later = NOW.saturating_add(Duration::from_secs(901));
    while !model.grants.is_empty() {
        model = carried_out(&model, &grant::plan_expiry(&model, later));
    }
    assert!(model.unapproved_of.is_empty() && model.unapproved_by.is_empty());
    assert!(create(&model, later).is_ok());
    // What somebody approved is not counted.
    let (request, model) = made(&world(), &alice, &ask(role("reader"), 4), 5_000_000);
    let digest = &request.analysis.digest;
    let plan = plan_approve(&model, &at(&person("bob"), NOW), request.id, digest, None, drawing(6_000_000)).unwrap();
    assert!(carried_out(&model, &plan).unapproved_of.is_empty());
}

#[test]
fn one_person_is_one_by_way_of_groups_however_they_nest_and_overlap() {
    let group = |name: &str, spec: &str| document("Group", name, spec);
    let groups = [
        group("core", r#"{"members":["alice"]}"#),
        group("ring", r#"{"groups":["core"]}"#),
        group("left", r#"{"members":["alice","mallory"]}"#),
        group("right", r#"{"members":["mallory","dave"]}"#),
        group("apart", r#"{"members":["dave"]}"#),
        group("empty", "{}"),
        group("around", r#"{"groups":["empty"]}"#),
    ];
    let mut model = applied(&world(), &groups);
    let erin = Person {
        name: "erin".parse().unwrap(),
        roles: vec![PersonRole::Developer],
        speaks_for: vec!["core".parse().unwrap()],
        token: Digest::of("erin"),
        signed_in: None,
    };
    model = carried_out(&model, &plan_person(&model, erin).unwrap());
    let one = [
        ("alice", "ring"),
        ("left", "right"),
        ("core", "left"),
        ("erin", "ring"),
        ("erin", "core"),
        ("empty", "around"),
    ];
    for (first, other) in one {
        for (prepares, releases) in [(first, other), (other, first)] {
            let model = applied(&model, &[identity("preparer", prepares), identity("releaser", releases)]);
            let model = prepared(&model);
            let root = Caller::Person(Arc::new(Person {
                name: "root".parse().unwrap(),
                roles: vec![PersonRole::Administrator],
                speaks_for: Vec::new(),
                token: Digest::of("root"),
                signed_in: None,
            }));
            let Caller::Person(administrator) = &root else { unreachable!() };
            let model = carried_out(&model, &plan_person(&model, administrator.as_ref().clone()).unwrap());
            let (request, _) = made(&model, &root, &release(), 3000);
            let found = request.analysis.findings.iter().any(|finding| finding.code == "separation_of_duties");
            assert!(found, "{prepares} prepares, {releases} releases: {:?}", request.analysis);
        }
    }
    // Somebody else is somebody else.
    let other = prepared(&applied(&model, &[identity("preparer", "apart"), identity("releaser", "alice")]));
    assert_eq!(made(&other, &person("alice"), &release(), 3000).0.state, State::Pending);
}

#[test]
fn whom_somebody_speaks_for_closes_upwards() {
    let groups = [document("Group", "core", "{}"), document("Group", "ring", r#"{"groups":["core"]}"#)];
    let mut model = applied(&world(), &groups);
    let name: OwnerName = "erin".parse().unwrap();
    let erin = Person {
        name: name.clone(),
        roles: vec![PersonRole::Developer],
        speaks_for: vec!["core".parse().unwrap()],
        token: Digest::of("erin"),
        signed_in: None,
    };
    model = carried_out(&model, &plan_person(&model, erin).unwrap());
    let names: Vec<String> = model.groups_of(&name).iter().map(ToString::to_string).collect();
    assert_eq!(names, ["core", "ring"]);
    assert!(model.members_of(&"ring".parse().unwrap()).contains(&name));
    let taken = Person {
        name: "ring".parse().unwrap(),
        roles: Vec::new(),
        speaks_for: Vec::new(),
        token: Digest::of("x"),
        signed_in: None,
    };
    assert!(matches!(plan_person(&model, taken), Err(Refused::Conflict(_))), "a group's name is no person's");
}

#[test]
fn nobodys_word_settles_what_cannot_be_granted_at_this_moment() {
    let (request, model) = made(&world(), &person("alice"), &release(), 1000);
    let model = prepared(&model);
    let digest = &request.analysis.digest;
    let approve = |who: &str| plan_approve(&model, &at(&person(who), NOW), request.id, digest, None, drawing(2000));
    assert!(matches!(approve("mallory"), Err(Refused::Denied(_))), "a stranger changes nothing");
    assert!(matches!(approve("bob"), Err(Refused::Conflict(_))), "it waits on");
}

#[test]
fn a_no_does_not_wait_for_a_policy_that_can_be_read() {
    let (request, mut model) = made(&world(), &person("alice"), &ask(role("reader"), 4), 1000);
    let mut policy = model.policy.take().unwrap();
    policy.set = Arc::new(Err(vec!["unreadable".to_owned()]));
    model.policy = Some(policy);
    let deny = |who: &str| plan_deny(&model, &at(&person(who), NOW), request.id, "no");
    assert_eq!(deny("bob").unwrap().answer.state, State::Denied);
    assert_eq!(deny("carol").unwrap().answer.state, State::Denied);
    assert!(matches!(deny("mallory"), Err(Refused::Denied(_))));
}

#[test]
fn an_approval_again_settles_what_is_enough_by_then() {
    let (request, model) = made(&world(), &person("alice"), &ask(role("writer"), 1), 1000);
    let digest = &request.analysis.digest;
    let approve = |model: &Model, who: &str, from| {
        plan_approve(model, &at(&person(who), NOW), request.id, digest, None, drawing(from)).unwrap()
    };
    let standing = |model: &Model, role| {
        let Caller::Person(carol) = person("carol") else { unreachable!() };
        let carol = Person { roles: vec![role], ..carol.as_ref().clone() };
        carried_out(model, &plan_person(model, carol).unwrap())
    };
    let model = carried_out(&model, &approve(&model, "carol", 2000));
    let model = standing(&model, PersonRole::Developer);
    let plan = approve(&model, "bob", 3000);
    assert_eq!(plan.answer.state, State::Pending, "carol is not of security at this moment");
    let model = standing(&carried_out(&model, &plan), PersonRole::Security);
    assert_eq!(approve(&model, "bob", 4000).answer.state, State::Granted);
}

#[test]
fn an_old_request_takes_its_key_back_from_none() {
    let alice = person("alice");
    let create = |model: &Model, now, key: &str| {
        let from = RequestId::new(now, 5).bits();
        let plan = plan_create(model, &at(&alice, now), &ask(role("reader"), 4), Some(key), drawing(from)).unwrap();
        let Created::Request(request) = plan.answer.clone() else { panic!("it is new") };
        (*request, carried_out(model, &plan))
    };
    let (_, model) = create(&world(), NOW, "run-7");
    let later = NOW.saturating_add(Duration::from_secs(25 * 3600));
    let (_, model) = create(&model, later, "another");
    let (second, model) = create(&model, later.saturating_add(Duration::from_secs(1)), "run-7");
    let model = carried_out(&model, &plan_expiry(&model, later));
    let place = (Requester::Person("alice".parse().unwrap()), "run-7".to_owned());
    assert_eq!(model.request_keys.get(&place), Some(&second.id));
    assert_eq!((model.request_keys.len(), model.request_key_ages.len()), (2, 2));
}

#[test]
fn what_is_settled_is_forgotten_by_age_and_what_is_open_is_not() {
    let (request, model) = made(&world(), &person("alice"), &ask(role("reader"), 4), 1000);
    let old = NOW.saturating_add(SETTLED_KEPT);
    assert!(plan_prune(&model, old).is_empty(), "it is open");
    let model = carried_out(&model, &plan_cancel(&model, &at(&person("alice"), NOW), request.id, "no").unwrap());
    let change = Change::Delete(Record::Request(Box::new(request.clone())));
    assert!(model.revision_of(change.record()).is_some(), "its deletion is compared");
    assert!(plan_prune(&model, old.saturating_sub(Duration::from_secs(1))).is_empty());
    let plan = plan_prune(&model, old);
    let keys: Vec<String> = plan.changes.iter().map(|change| change.record().key()).collect();
    assert_eq!((keys, plan.events.len()), (vec![change.record().key()], 0));
    let model = carried_out(&model, &plan);
    assert!(model.settled.is_empty() && model.settled_ages.is_empty());
}

#[test]
fn an_approval_is_bound_to_the_exceptions_on_what_it_opens() {
    let (request, model) = made(&world(), &person("alice"), &ask(role("reader"), 4), 1000);
    let expires = NOW.saturating_add(Duration::from_secs(86_400));
    let spec =
        format!(r#"{{"rule":"observe","route":"orders","owner":"bob","reason":"to see","expires":"{expires}"}}"#);
    let model = applied(&model, &[document("Exception", "look", &spec)]);
    let digest = &request.analysis.digest;
    let approved = plan_approve(&model, &at(&person("bob"), NOW), request.id, digest, None, drawing(2000));
    assert!(matches!(approved, Err(Refused::Conflict(_))), "{approved:?}");
}

#[test]
fn an_identity_of_any_name_has_a_name_in_lineage() {
    let long = |end: &str| -> IdentityName { format!("{}{end}", "a".repeat(127)).parse().unwrap() };
    let names = [long("b"), long("c"), "billing".parse().unwrap()].map(|name| identity_author(&name).unwrap());
    assert_eq!(names[2].as_str(), "identity.billing");
    assert!(names[0] != names[1] && names[0].as_str().len() <= 128);
}

#[test]
fn what_is_too_large_for_a_record_keeps_what_its_story_hangs_on() {
    let (mut request, _) = made(&world(), &person("alice"), &ask(role("reader"), 4), 1000);
    request.analysis.held = (0..200).map(|number| format!("{number}{}", "x".repeat(250))).collect();
    let approval = Approval {
        id: ApprovalId::from_bits(9),
        on_behalf_of: None,
        delegation: None,
        by: "bob".parse().unwrap(),
        at: NOW,
        digest: "d".repeat(64),
        comment: Some("c".repeat(1000)),
    };
    request.approvals = vec![approval; MAX_APPROVALS];
    let plan = put("request.approved", None, request.clone(), None);
    let told = plan.events[0].after.as_ref().unwrap();
    assert!(told["sha256"].is_string() && told.to_string().len() < 48 * 1024, "{}", told.to_string().len());
    assert_eq!((&told["requester"]["person"], &told["state"]), (&"alice".into(), &"pending".into()));
    assert_eq!(told["approvals"][0]["id"], ApprovalId::from_bits(9).to_string());
    assert_eq!(
        (&told["analysis"]["policy"], &told["analysis"]["digest"]),
        (&1.into(), &request.analysis.digest.into())
    );
    // A grant keeps its lineage.
    let wide = Ask { duration: Span::new(Duration::from_secs(900)), ..ask(role("reader"), 0) };
    let (_, model) = made(&world(), &person("alice"), &wide, 5000);
    let mut grant = model.grants.values().next().unwrap().value.as_ref().clone();
    grant.limits.parameters.insert("order".parse().unwrap(), vec!["v".repeat(40_000)]);
    let change = Change::Put(Record::Grant(crate::control::record::GrantRecord { grant, expiry_noted: false }));
    let told = ChangeEvent::of("grant.created", None, &change, None).after.unwrap();
    assert!(told["grant"]["lineage"]["origin"]["request"].is_string() && told["grant"]["limits"].is_null(), "{told}");
}

#[test]
fn limits_are_of_a_size_that_can_be_kept_and_told() {
    let model = world();
    let values = |count: usize| {
        let mut asked = ask(role("writer"), 1);
        let values = (0..count).map(|number| format!("{number:0>1000}")).collect();
        asked.limits.parameters.insert("order".parse().unwrap(), values);
        let plan = plan_create(&model, &at(&person("alice"), NOW), &asked, None, drawing(1000));
        plan.map(drop).unwrap_err().to_string()
    };
    assert!(values(17).contains("at most 16384"), "{}", values(17));
    assert!(!values(16).contains("at most 16384"));
}

#[tokio::test]
async fn what_is_settled_long_ago_leaves_the_store_and_who_asks_for_it_is_told() {
    use super::super::super::sample::core;
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(crate::domain::clock::ManualClock::at(NOW));
    let core = core(dir.path(), &clock).await;
    let handle = core.handle();
    for (name, _) in PEOPLE {
        let Caller::Person(person) = person(name) else { unreachable!() };
        handle.put_person(&Caller::System, person.as_ref().clone()).await.unwrap();
    }
    let documents = CATALOG.iter().map(|(kind, name, spec)| document(kind, name, spec)).collect();
    handle.apply(&Caller::System, documents, false).await.unwrap();
    handle.publish_policy(&Caller::System, starter(), None, "begin".to_owned()).await.unwrap();
    let alice = person("alice");
    let asked = handle.create_request(&alice, ask(role("reader"), 4), None).await.unwrap();
    let Created::Request(request) = asked.answer else { panic!("it is new") };
    handle.cancel_request(&alice, request.id, "no".to_owned()).await.unwrap();
    assert_eq!(handle.request(request.id).await.unwrap().0.state, State::Cancelled);
    assert_eq!(handle.request_ids(true, 10, |_, _| true), [request.id]);
    assert!(handle.request_ids(true, 10, |requester, _| *requester != request.requester).is_empty());
    let mut committed = handle.shared().outbox.subscribe();
    clock.advance(SETTLED_KEPT);
    while !handle.model().settled.is_empty() {
        committed.changed().await.unwrap();
    }
    let gone = handle.request(request.id).await.unwrap_err();
    assert!(matches!(&gone, Refused::NotFound(why) if why.contains("evidence explain")), "{gone}");
}
