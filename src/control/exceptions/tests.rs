//! Leave from a rule that parts duties: whose it is, what it lets be given and for how long, and who puts off its end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::analyse::analyse;
use super::super::catalog::plan_apply;
use super::super::change::{plan_approve, seen};
use super::super::policy::{plan_publish, starter};
use super::super::record::{Change, Digest, GrantRecord, Person, Record};
use super::super::registry::plan_person;
use super::super::sample::{NOW, carried_out, context, document};
use super::super::{grant, reconsider};
use super::*;
use crate::domain::change::{Proposal, ProposalState};
use crate::domain::grant::{Grant, Lineage, Origin, Window};
use crate::domain::name::{ApprovalId, GrantId, RequestId};
use crate::domain::request::{Access, Analysis, Ask, Requester, Verdict};
use crate::domain::resource::Span;

const CATALOG: &[(&str, &str, &str)] = &[
    ("Identity", "releaser", r#"{"kind":"agent","owner":"alice","purpose":"p","environment":"test"}"#),
    ("Identity", "other", r#"{"kind":"agent","owner":"alice","purpose":"p","environment":"test"}"#),
    ("Resource", "deployments", r#"{"owner":"bob"}"#),
    (
        "Route",
        "deployments",
        r#"{"upstream":"http://127.0.0.1:9000","resource":"deployments","actions":[
            {"name":"prepare","methods":["POST"],"path":"/prepare"},
            {"name":"release","methods":["POST"],"path":"/release"}]}"#,
    ),
];

const PEOPLE: &[(&str, PersonRole)] = &[
    ("alice", PersonRole::Security),
    ("bob", PersonRole::Owner),
    ("carol", PersonRole::Security),
    ("dave", PersonRole::Security),
    ("root", PersonRole::Administrator),
];

fn person(name: &str) -> Caller {
    let (_, role) = PEOPLE.iter().find(|(person, _)| *person == name).unwrap();
    let (name, token) = (name.parse().unwrap(), Digest::of(name));
    Caller::Person(Arc::new(Person { name, roles: vec![*role], speaks_for: Vec::new(), token, signed_in: None }))
}

fn days(days: u64) -> Timestamp {
    NOW.saturating_add(Duration::from_secs(days * 86_400))
}

fn world() -> Model {
    let mut model = Model { epoch: 1, revision: 1, ..Model::default() };
    for (name, _) in PEOPLE {
        let Caller::Person(person) = person(name) else { unreachable!() };
        model = carried_out(&model, &plan_person(&model, person.as_ref().clone()).unwrap());
    }
    let documents: Vec<Document> = CATALOG.iter().map(|(kind, name, spec)| document(kind, name, spec)).collect();
    model = carried_out(&model, &plan_apply(&model, &context(NOW), &documents).unwrap());
    carried_out(&model, &plan_publish(&model, &context(NOW), &starter(), None, "begin").unwrap())
}

fn leave(more: &str, expires: Timestamp) -> Document {
    let spec = format!(
        r#"{{"rule":"separation_of_duties","owner":"carol","reason":"r","expires":"{expires}","identity":"releaser",
            "policy_rule":"prepare-or-release"{more}}}"#
    );
    document("Exception", "leave", &spec)
}

fn applied(model: &Model, now: Timestamp, document: Document) -> Model {
    carried_out(model, &plan_apply(model, &context(now), &[document]).unwrap())
}

fn draw() -> impl FnMut() -> u128 {
    let mut drawn = 7u128 << 90;
    move || {
        drawn += 1;
        drawn
    }
}

/// `identity` asks to do both.
fn analysed(model: &Model, now: Timestamp, identity: &str, minutes: u64) -> Analysis {
    let actions = ["prepare", "release"].map(|action| action.parse().unwrap()).to_vec();
    let ask = Ask {
        identity: identity.parse().unwrap(),
        access: Access::of("deployments".parse().unwrap(), actions),
        starts: None,
        duration: Span::new(Duration::from_secs(minutes * 60)),
        limits: Default::default(),
        reason: "r".to_owned(),
        ticket: None,
        until: Vec::new(),
    };
    let permissions = grant::permissions(model, &super::super::request::grant_request(&ask).access).unwrap();
    let requester = Requester::Person("alice".parse().unwrap());
    analyse(model, now, RequestId::from_bits(1), &requester, &ask, permissions).unwrap().analysis
}

#[test]
fn leave_is_from_one_rule_for_one_identity_seen_by_whoever_approves_and_over_at_its_end() {
    let model = world();
    let codes = |analysis: &Analysis| analysis.findings.iter().map(|it| it.code.clone()).collect::<BTreeSet<_>>();
    assert_eq!(analysed(&model, NOW, "releaser", 60).verdict, Verdict::Refuse);
    let model = applied(&model, NOW, leave("", days(1)));
    let seen = analysed(&model, NOW, "releaser", 60);
    assert_eq!(seen.verdict, Verdict::Approve, "{seen:?}");
    assert!(codes(&seen).contains("excepted"), "{seen:?}");
    assert_ne!(seen.digest, analysed(&applied(&model, NOW, leave("", days(2))), NOW, "releaser", 60).digest);
    assert_eq!(analysed(&model, NOW, "other", 60).verdict, Verdict::Refuse, "another identity of the same owner");
    // What is given by it does not outlast it.
    let near = days(1).saturating_sub(Duration::from_secs(3_600));
    assert_eq!(analysed(&model, near, "releaser", 60).verdict, Verdict::Approve);
    let longer = analysed(&model, near, "releaser", 61);
    assert_eq!(longer.verdict, Verdict::Refuse);
    assert!(codes(&longer).contains("too_long"), "{longer:?}");
    let over = analysed(&model, days(1), "releaser", 60);
    assert!(over.verdict == Verdict::Refuse && codes(&over).contains("separation_of_duties"), "{over:?}");
}

/// A grant that `identity` asked for and was given at `made`, for an hour.
fn granted(id: u128, identity: &str, actions: &[&str], made: Timestamp) -> Grant {
    Grant {
        id: GrantId::from_bits(id),
        identity: identity.parse().unwrap(),
        resource: "deployments".parse().unwrap(),
        actions: actions.iter().map(|action| action.parse().unwrap()).collect(),
        window: Window { starts: made, ends: made.saturating_add(Duration::from_secs(3_600)) },
        limits: Default::default(),
        lineage: Lineage {
            created: made,
            created_by: "alice".parse().unwrap(),
            reason: "r".to_owned(),
            ticket: None,
            until: Vec::new(),
            origin: Some(Box::new(Origin {
                request: RequestId::from_bits(1),
                approvals: vec![ApprovalId::from_bits(1)],
                policy: 1,
                role: None,
                digest: String::new(),
            })),
            exception: None,
            break_glass: None,
        },
        revoked: None,
    }
}

/// The same model, in which these live.
fn holding(model: &Model, grants: &[&Grant]) -> Model {
    let mut model = model.clone();
    for grant in grants {
        let record = GrantRecord { grant: (*grant).clone(), expiry_noted: false };
        model.apply(&Change::Put(Record::Grant(record)), 1);
    }
    model
}

/// What was given by leave ends when the leave is taken, and not a moment for having lasted.
#[test]
fn a_grant_by_leave_lives_with_it_and_ends_when_its_end_comes_nearer() {
    let model = applied(&world(), NOW, leave("", days(1)));
    let hour = Duration::from_secs(3_600);
    let ends = Window { starts: days(1).saturating_sub(hour), ends: days(1) };
    let grant = Grant { window: ends, ..granted(9, "releaser", &["prepare", "release"], NOW) };
    let mut model = model;
    // What is held is part of the question.
    model = holding(&model, &[&grant]);
    // Nor does another machine of the same owner lose what it had before.
    let before = Grant { id: GrantId::from_bits(8), ..granted(8, "other", &["prepare"], NOW) };
    assert_eq!(reconsider::denied(&model, days(1).saturating_sub(hour), &before), None);
    let late = days(1).saturating_sub(Duration::from_secs(60));
    assert_eq!(reconsider::denied(&model, late, &grant), None, "a minute is left, as it was to be");
    let sooner = applied(&model, NOW, leave("", days(1).saturating_sub(Duration::from_secs(1))));
    assert!(reconsider::denied(&sooner, late, &grant).unwrap().contains("longer than exception leave"));
}

/// It is leave for one machine, and for what that was given by it: what others hold is parted as ever.
#[test]
fn leave_of_one_machine_shields_no_other_of_the_same_owner() {
    let minute = |minutes: u64| NOW.saturating_add(Duration::from_secs(minutes * 60));
    let documents = [agent("third", "alice"), leave("", days(1))];
    let model = carried_out(&world(), &plan_apply(&world(), &context(minute(10)), &documents).unwrap());
    let is_denied = |model: &Model, grant: &Grant| reconsider::denied(model, minute(30), grant).is_some();
    // One that holds both by itself, since before the rule: the leave is another's.
    let both = granted(1, "other", &["prepare", "release"], minute(0));
    let by_leave = granted(2, "releaser", &["prepare", "release"], minute(20));
    for grants in [vec![&both], vec![&both, &by_leave]] {
        assert!(is_denied(&holding(&model, &grants), &both));
    }
    // Two that hold one each, neither of which has leave.
    let (prepare, release) =
        (granted(3, "other", &["prepare"], minute(0)), granted(4, "third", &["release"], minute(0)));
    let apart = holding(&model, &[&prepare, &release, &by_leave]);
    assert!(is_denied(&apart, &prepare) && is_denied(&apart, &release));
    assert!(!is_denied(&apart, &by_leave), "and the one that has it keeps what it was given");
    // What the one with leave held before it had it, or before the other was given its own, is held as ever.
    let early = granted(5, "releaser", &["release"], minute(5));
    assert!(is_denied(&holding(&model, &[&prepare, &early]), &prepare), "not by leave");
    let late = granted(6, "other", &["prepare"], minute(25));
    assert!(is_denied(&holding(&model, &[&late, &by_leave]), &late), "not since");
    // Only what it was given by leave, after the other had its own.
    let since = holding(&model, &[&prepare, &by_leave]);
    assert!(!is_denied(&since, &prepare));
    assert!(reconsider::denied(&since, days(1), &prepare).is_some(), "while the leave lasts");
}

#[test]
fn what_is_no_narrow_exception_is_refused_with_what_it_lacks() {
    let model = world();
    let refused = |spec: &str| match plan_apply(&model, &context(NOW), &[document("Exception", "leave", spec)]) {
        Err(Refused::Unfit(faults)) => faults.join("; "),
        other => panic!("{spec}: {other:?}"),
    };
    let of = |rest: &str, expires: u64| {
        format!(r#"{{"rule":"separation_of_duties","owner":"carol","reason":"r","expires":"{}"{rest}}}"#, days(expires))
    };
    let both = r#","identity":"releaser","policy_rule":"prepare-or-release""#;
    assert!(refused(&of("", 1)).contains("identity: is missing"));
    assert!(refused(&of(r#","identity":"releaser""#, 1)).contains("policy_rule: is missing"));
    assert!(refused(&of(&format!(r#"{both},"route":"deployments""#), 1)).contains("is of no route"));
    assert!(refused(&of(both, 91)).contains("more than 90 days"));
    assert!(refused(&of(&both.replace("releaser", "nobody"), 1)).contains("there is no nobody"));
    // A rule that does something else than part duties holds for everybody.
    assert!(refused(&of(&both.replace("prepare-or-release", "change-needs-a-ticket"), 1)).contains("no rule"));
    assert!(refused(&of(&both.replace("prepare-or-release", "break-glass"), 1)).contains("no rule"));
    let observe = format!(
        r#"{{"rule":"observe","route":"deployments","owner":"carol","reason":"r","expires":"{}"{both}}}"#,
        days(1)
    );
    assert!(refused(&observe).contains("of no identity"));
}

fn renewal(model: &Model, who: &str, expires: Timestamp) -> Result<Plan<Outcome<Vec<Diff>>>, Refused> {
    let caller = person(who);
    let context = Context { caller: &caller, now: NOW };
    plan_renew(model, &context, &"leave".parse().unwrap(), expires, "for longer", draw())
}

fn waiting(plan: Plan<Outcome<Vec<Diff>>>) -> Proposal {
    match plan.answer {
        Outcome::Waits(_, proposal) => *proposal,
        Outcome::Done(_) => panic!("nobody else was asked"),
    }
}

#[test]
fn a_later_end_takes_somebody_who_answers_for_neither_the_exception_nor_the_identity() {
    let model = applied(&world(), NOW, leave("", days(1)));
    let kept = &model.exceptions.values().next().unwrap().value;
    assert_eq!((kept.since, kept.renewed), (Some(NOW), None));
    assert!(matches!(renewal(&model, "carol", days(1)), Err(Refused::Invalid(_))), "no later");
    assert!(matches!(renewal(&model, "carol", days(91)), Err(Refused::Unfit(_))), "too far");
    // Carol answers for it and asks; alice answers for the machine. Both are of security, and neither is asked.
    let plan = renewal(&model, "root", days(30)).unwrap();
    let model = carried_out(&model, &plan);
    let proposal = waiting(plan);
    let names: Vec<String> = proposal.eligible.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["dave"]);
    let now = days(1).saturating_sub(Duration::from_secs(60));
    let approve = |who: &str| {
        let digest = seen(&model, now, &proposal).digest;
        plan_approve(&model, &Context { caller: &person(who), now }, proposal.id, &digest, None, draw())
    };
    for who in ["carol", "alice", "root", "bob"] {
        assert!(matches!(approve(who), Err(Refused::Denied(_))), "{who}");
    }
    let plan = approve("dave").unwrap();
    assert_eq!(plan.answer.state, ProposalState::Applied);
    let model = carried_out(&model, &plan);
    let kept = &model.exceptions.values().next().unwrap().value;
    assert_eq!((kept.since, kept.renewed, kept.change), (Some(NOW), Some(now), Some(proposal.id)));
    assert_eq!(kept.spec.expires, days(30));
}

#[test]
fn the_oldest_is_the_first() {
    let mut model = world();
    for (name, at) in [("b", 0), ("a", 2), ("c", 1)] {
        let spec = leave("", days(30)).spec_json;
        model = carried_out(
            &model,
            &plan_apply(&model, &context(days(at)), &[document("Exception", name, &spec)]).unwrap(),
        );
    }
    let names = |model: &Model| by_age(model).iter().map(|kept| kept.value.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&model), ["b", "c", "a"]);
    // To change one does not make it young.
    let spec = leave("", days(40)).spec_json;
    let model =
        carried_out(&model, &plan_apply(&model, &context(days(9)), &[document("Exception", "b", &spec)]).unwrap());
    assert_eq!(names(&model), ["b", "c", "a"]);
}

/// What waits when `author` applies all of it at once, and who could allow it.
fn proposed(model: &Model, author: &str, documents: &[Document]) -> (Proposal, BTreeSet<String>) {
    let caller = person(author);
    let wanted = Wanted { reason: "because".to_owned(), ..Wanted::of(documents) };
    let plan = change::plan_apply(model, &Context { caller: &caller, now: NOW }, &wanted, draw()).unwrap();
    let after = carried_out(model, &plan);
    let proposal = waiting(plan);
    for (name, _) in PEOPLE {
        let listed = proposal.eligible.iter().any(|it| it.as_str() == *name);
        let digest = seen(&after, NOW, &proposal).digest;
        let done =
            plan_approve(&after, &Context { caller: &person(name), now: NOW }, proposal.id, &digest, None, draw());
        assert_eq!(done.is_ok(), listed, "{name}: {done:?}");
    }
    let names = proposal.eligible.iter().map(ToString::to_string).collect();
    (proposal, names)
}

fn agent(name: &str, owner: &str) -> Document {
    let spec = format!(r#"{{"kind":"agent","owner":"{owner}","purpose":"p","environment":"test"}}"#);
    document("Identity", name, &spec)
}

fn leave_of(owner: &str, identity: &str) -> Document {
    let spec = leave("", days(1)).spec_json.replace("carol", owner).replace("releaser", identity);
    document("Exception", "leave", &spec)
}

#[test]
fn whoever_answers_for_the_identity_by_the_same_change_does_not_allow_its_exception() {
    let model = world();
    let names = |all: &[&str]| all.iter().map(|it| (*it).to_owned()).collect::<BTreeSet<_>>();
    let group = |name: &str, members: &str| document("Group", name, &format!(r#"{{"members":[{members}]}}"#));
    // Made by it: dave would answer for it.
    let (_, all) = proposed(&model, "root", &[agent("fresh", "dave"), leave_of("bob", "fresh")]);
    assert_eq!(all, names(&["alice", "carol"]));
    // Handed on by it: alice answered for it before, and dave would then.
    let (_, all) = proposed(&model, "root", &[agent("releaser", "dave"), leave_of("bob", "releaser")]);
    assert_eq!(all, names(&["carol"]));
    // By way of a group that it makes, or lets one into, however nested.
    let (_, all) =
        proposed(&model, "root", &[group("team", r#""dave""#), agent("fresh", "team"), leave_of("bob", "fresh")]);
    assert_eq!(all, names(&["alice", "carol"]));
    let documents = [group("inner", r#""dave""#), group("team", r#""bob""#), agent("ours", "team")];
    let grouped = carried_out(&model, &plan_apply(&model, &context(NOW), &documents).unwrap());
    let (_, all) = proposed(&grouped, "root", &[group("team", r#""carol""#), leave_of("alice", "ours")]);
    assert_eq!(all, names(&["dave"]), "alice answers for the exception, and carol comes to answer for the identity");
    let nested = document("Group", "team", r#"{"members":["bob"],"groups":["inner"]}"#);
    let (_, all) = proposed(&grouped, "root", &[nested, leave_of("bob", "ours")]);
    assert_eq!(all, names(&["alice", "carol"]));
    // Of a group that owns the exception itself, and of whoever leaves one.
    let (_, all) = proposed(&grouped, "root", &[group("team", r#""carol""#), leave_of("team", "releaser")]);
    assert_eq!(all, names(&["dave"]));
    let (_, all) = proposed(&grouped, "root", &[group("inner", r#""bob""#), leave_of("inner", "other")]);
    assert_eq!(all, names(&["carol"]), "alice answers for it, and dave did for the exception's owner");
}
