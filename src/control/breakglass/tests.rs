//! Break-glass, and everything that somebody would try with it.

mod live;

use std::sync::Arc;

use super::super::catalog::{Document, plan_apply};
use super::super::identity::plan_state;
use super::super::policy::{plan_publish, starter};
use super::super::record::{Digest, PersonRole, PolicyFile};
use super::super::registry::plan_person;
use super::super::sample::{NOW, carried_out, context, document};
use super::super::{halt, policy, reconsider};
use super::*;
use crate::domain::breakglass::{BreakGlassState, ReviewVerdict};
use crate::domain::identity::IdentityState;
use crate::domain::request::Access;

const CATALOG: &[(&str, &str, &str)] = &[
    ("Identity", "billing", r#"{"kind":"service","owner":"alice","purpose":"p","environment":"production"}"#),
    ("Identity", "ours", r#"{"kind":"agent","owner":"payments","purpose":"p","environment":"production"}"#),
    ("Identity", "shared", r#"{"kind":"agent","owner":"bob","purpose":"p","environment":"production"}"#),
    ("Group", "payments", r#"{"members":["alice","mallory","dave"]}"#),
    ("Resource", "api/orders", r#"{"owner":"bob","sensitivity":"high"}"#),
    ("Resource", "mine", r#"{"owner":"alice"}"#),
    (
        "Route",
        "orders",
        r#"{"upstream":"http://127.0.0.1:9000","resource":"api/orders","actions":[
            {"name":"read","methods":["GET"],"path":"/v1/orders/**"},
            {"name":"write","methods":["POST"],"path":"/v1/orders/**"}]}"#,
    ),
    (
        "Route",
        "mine",
        r#"{"upstream":"http://127.0.0.1:9000","host":"m","resource":"mine","actions":[
            {"name":"read","methods":["GET"],"path":"/**"}]}"#,
    ),
];

const PEOPLE: &[(&str, PersonRole, &[&str])] = &[
    ("alice", PersonRole::Developer, &[]),
    ("bob", PersonRole::Owner, &[]),
    ("carol", PersonRole::Security, &[]),
    ("dave", PersonRole::Security, &[]),
    ("mallory", PersonRole::Developer, &[]),
    // Alice under another name, and somebody whom alice speaks for.
    ("alice2", PersonRole::Administrator, &["alice"]),
    ("root", PersonRole::Administrator, &[]),
];

const MINUTE: Duration = Duration::from_secs(60);

fn bounds() -> BreakGlassSettings {
    BreakGlassSettings::default()
}

fn later(minutes: u64) -> Timestamp {
    NOW.saturating_add(MINUTE * u32::try_from(minutes).unwrap())
}

fn of(name: &str, signed_in: Option<Timestamp>) -> Caller {
    let (_, role, speaks_for) = PEOPLE.iter().find(|(person, ..)| *person == name).unwrap();
    let signed_in = signed_in.map(|at| {
        let issuer = "https://id.example".to_owned();
        Arc::new(SignedIn { issuer, kid: Some("k1".to_owned()), at, acr: None, amr: vec!["otp".to_owned()] })
    });
    let token = Digest::of(name);
    let speaks_for = speaks_for.iter().map(|owner| owner.parse().unwrap()).collect();
    Caller::Person(Arc::new(Person { name: name.parse().unwrap(), roles: vec![*role], speaks_for, token, signed_in }))
}

/// Somebody who has just proved who they are, as of `now`.
fn fresh(name: &str, now: Timestamp) -> Caller {
    of(name, Some(now))
}

fn world_with(files: &[PolicyFile]) -> Model {
    let mut model = Model { epoch: 1, revision: 1, ..Model::default() };
    for (name, ..) in PEOPLE {
        let Caller::Person(person) = of(name, None) else { unreachable!() };
        model = carried_out(&model, &plan_person(&model, person.as_ref().clone()).unwrap());
    }
    let documents: Vec<Document> = CATALOG.iter().map(|(kind, name, spec)| document(kind, name, spec)).collect();
    model = carried_out(&model, &plan_apply(&model, &context(NOW), &documents).unwrap());
    let plan = plan_publish(&model, &context(NOW), files, None, "begin").unwrap();
    carried_out(&model, &plan)
}

fn world() -> Model {
    world_with(&starter())
}

fn ask(identity: &str, resource: &str, actions: &[&str], minutes: u64) -> Ask {
    Ask {
        identity: identity.parse().unwrap(),
        access: Access::of(resource.parse().unwrap(), actions.iter().map(|it| it.parse().unwrap()).collect()),
        starts: None,
        duration: Span::new(MINUTE * u32::try_from(minutes).unwrap()),
        limits: Default::default(),
        reason: "nobody can pay".to_owned(),
        ticket: None,
        until: Vec::new(),
    }
}

fn writes(minutes: u64) -> Ask {
    ask("billing", "api/orders", &["read", "write"], minutes)
}

fn open_at(model: &Model, caller: &Caller, now: Timestamp, ask: &Ask) -> Result<Plan<BreakGlass>, Refused> {
    let mut drawn = u128::try_from(now.unix_micros()).unwrap() << 60;
    plan_open(model, &Context { caller, now }, ask, &bounds(), move || {
        drawn += 1;
        drawn
    })
}

fn open(model: &Model, name: &str, ask: &Ask) -> Result<Plan<BreakGlass>, Refused> {
    open_at(model, &fresh(name, NOW), NOW, ask)
}

fn opened(model: &Model, name: &str, ask: &Ask) -> (Model, BreakGlass) {
    let plan = open(model, name, ask).unwrap();
    (carried_out(model, &plan), plan.answer)
}

fn reviewed(model: &Model, name: &str, id: BreakGlassId, now: Timestamp) -> Result<Plan<BreakGlass>, Refused> {
    let caller = of(name, None);
    plan_review(model, &Context { caller: &caller, now }, id, ReviewVerdict::Justified, "the pages agree")
}

fn denied<T: std::fmt::Debug>(done: Result<T, Refused>, why: &str) {
    match done {
        Err(Refused::Denied(said)) => assert!(said.contains(why), "{said}"),
        other => panic!("expected a denial ({why}), found {other:?}"),
    }
}

#[test]
fn whoever_policy_names_has_access_at_once_recorded_and_until_its_end() {
    let model = world();
    let plan = open(&model, "alice", &writes(10)).unwrap();
    let told: Vec<&str> = plan.events.iter().map(|event| event.operation.as_str()).collect();
    assert_eq!(told, ["breakglass.opened", "grant.created"]);
    let it = plan.answer.clone();
    assert_eq!((it.state(NOW), it.ends), (BreakGlassState::Open, later(10)));
    let names = |all: &[crate::domain::name::OwnerName]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&it.concerned), ["bob", "carol", "dave"]);
    assert_eq!(names(&it.reviewers), ["bob", "carol", "dave", "root"]);
    let model = carried_out(&model, &plan);
    let grant = &model.grants[&it.grants[0]].value;
    assert_eq!(grant.lineage.break_glass, Some(it.id));
    assert_eq!(grant.window.ends, later(10));
    // A policy that would not let it be any more ends it, as any other grant.
    assert_eq!(reconsider::denied(&model, later(9), grant), None, "time alone takes nothing");
    let only_mine: Vec<PolicyFile> = starter()
        .into_iter()
        .map(|file| PolicyFile { text: file.text.replace("owner: alice", "owner: mallory"), ..file })
        .collect();
    assert!(policy::check(&only_mine).is_err(), "cases hold what the rules say");
    let mut changed = starter();
    changed[0].text =
        changed[0].text.replace("when { context.owns_identity };\n\n// People", "when { false };\n\n// People");
    let set = PolicySet::compile(&changed);
    // A rule that can never apply is refused outright; one for others alone is not.
    assert!(set.is_err());
    changed[0].text = starter()[0].text.replace(
        "action == Action::\"break_glass\", resource)\nwhen { context.owns_identity }",
        "action == Action::\"break_glass\", resource)\nwhen { context.owns_resource }",
    );
    let set = PolicySet::compile(&changed).unwrap();
    assert!(reconsider::denied_by(&model, NOW, &set, grant).unwrap().contains("no rule lets them break glass"));
}

#[test]
fn it_is_shorter_than_anything_normal_whoever_asks_for_more() {
    let model = world();
    denied(open(&model, "alice", &writes(16)), "longer than the 15m");
    assert_eq!(open(&model, "alice", &writes(0)).unwrap().answer.ends, later(15), "as long as it may be");
    // Never longer than policy lets anything be asked for, whatever the settings and the rule say.
    let short: Vec<PolicyFile> = vec![
        PolicyFile {
            name: "a.cedar".to_owned(),
            text: r#"@id("ask") @approvers("resource-owner") @max_duration("5m")
                permit (principal, action == Action::"request", resource);
                @id("glass") @max_duration("1h")
                permit (principal, action == Action::"break_glass", resource);"#
                .to_owned(),
        },
        PolicyFile { name: "c.yaml".to_owned(), text: CASES.to_owned() },
    ];
    let model = world_with(&short);
    assert_eq!(open(&model, "mallory", &writes(0)).unwrap().answer.ends, later(5));
    denied(open(&model, "mallory", &writes(6)), "longer than the 5m");
}

const CASES: &str = r"cases:
  - name: asking
    person: alice
    identity: { name: billing, owner: alice }
    resource: { name: api/orders, owner: bob }
    actions: [read]
    duration: 1m
    expect: { decision: approve }
  - name: an emergency
    action: break_glass
    person: alice
    identity: { name: billing, owner: alice }
    resource: { name: api/orders, owner: bob }
    actions: [read]
    duration: 1m
    expect: { decision: grant }
";

#[test]
fn only_a_person_who_proved_lately_who_they_are_breaks_glass() {
    let model = world();
    let tried = |caller: &Caller| open_at(&model, caller, NOW, &writes(5));
    // A token of ours, or a certificate, does not say when.
    denied(tried(&of("alice", None)), "auth_time");
    for (seconds, lets) in [(0, true), (299, true), (300, true), (301, false), (3_600, false)] {
        let at = NOW.saturating_sub(Duration::from_secs(seconds));
        assert_eq!(tried(&of("alice", Some(at))).is_ok(), lets, "{seconds}s ago");
    }
    assert!(tried(&of("alice", Some(NOW.saturating_add(Duration::from_secs(5))))).is_ok(), "clocks differ");
    denied(tried(&of("alice", Some(later(1)))), "in the future");
    for machine in
        [Caller::Identity("billing".parse().unwrap()), Caller::Gateway("edge".parse().unwrap()), Caller::System]
    {
        denied(tried(&machine), "people break glass");
    }
    // Nor for whom policy does not name, administrators among them.
    for stranger in ["bob", "mallory", "root"] {
        denied(open(&model, stranger, &writes(5)), "no rule lets them break glass");
    }
    let named = ask("ours", "api/orders", &["read"], 5);
    assert!(open(&model, "mallory", &named).is_ok(), "a group that owns it is its people");
}

#[test]
fn a_policy_from_before_there_was_break_glass_lets_nobody_break_it() {
    let old = PolicyFile {
        name: "a.cedar".to_owned(),
        text: r#"@id("everything") @approvers("none") permit (principal, action, resource);"#.to_owned(),
    };
    let cases = CASES.split("  - name: an emergency").next().unwrap().replace("approve", "grant");
    let model = world_with(&[old, PolicyFile { name: "c.yaml".to_owned(), text: cases }]);
    denied(open(&model, "alice", &writes(5)), "no rule lets them break glass");
}

#[test]
fn not_for_an_identity_that_may_not_act_and_not_past_a_halt() {
    let model = world();
    for state in [IdentityState::Quarantined, IdentityState::Offboarded] {
        let plan = plan_state(&model, &"billing".parse().unwrap(), state, "a leak").unwrap();
        let aside = carried_out(&model, &plan);
        assert!(matches!(open(&aside, "alice", &writes(5)), Err(Refused::Conflict(_))), "{state:?}");
    }
    for scope in ["all", "resource/api/orders", "issuer/https://id.example", "issuer/https://id.example#k1"] {
        let halted = halt::plan_halt(&model, &context(NOW), &scope.parse().unwrap(), "stop").unwrap();
        let halted = carried_out(&model, &halted);
        match open(&halted, "alice", &writes(5)) {
            Err(Refused::Conflict(why)) => assert!(why.contains("halted"), "{why}"),
            other => panic!("{scope}: {other:?}"),
        }
    }
    for scope in ["resource/mine", "issuer/https://other.example", "issuer/https://id.example#k2", "drill"] {
        let scope = scope.parse().unwrap();
        let halted = halt::plan_halt(&model, &context(NOW), &scope, "stop");
        let halted = halted.map_or_else(|_| model.clone(), |plan| carried_out(&model, &plan));
        assert!(open(&halted, "alice", &writes(5)).is_ok(), "{scope}");
    }
}

#[test]
fn twice_is_once_and_no_end_of_them() {
    let model = world();
    let (model, first) = opened(&model, "alice", &writes(15));
    // The same again, a part of it, and by the same person's other name.
    for (who, what) in [("alice", writes(15)), ("alice", ask("billing", "api/orders", &["read"], 1))] {
        match open(&model, who, &what) {
            Err(Refused::Conflict(why)) => assert!(why.contains(&first.id.to_string()), "{why}"),
            other => panic!("{who}: {other:?}"),
        }
    }
    // Something else may be opened: three reviews at once, and no more.
    let (model, _) = opened(&model, "alice", &ask("ours", "api/orders", &["read"], 1));
    let (model, third) = opened(&model, "alice", &ask("billing", "mine", &["read"], 1));
    assert!(matches!(open(&model, "alice", &ask("ours", "mine", &["read"], 1)), Err(Refused::TooMuch(_))));
    // And five within a day, whatever is reviewed.
    let mut model = carried_out(&model, &reviewed(&model, "carol", third.id, NOW).unwrap());
    for (at, last) in [(20, true), (40, true), (60, false)] {
        let tried = open_at(&model, &fresh("alice", later(at)), later(at), &ask("billing", "mine", &["read"], 1));
        if !last {
            match tried {
                Err(Refused::TooMuch(why)) => assert!(why.contains("within a day"), "{why}"),
                other => panic!("{other:?}"),
            }
            continue;
        }
        let plan = tried.unwrap();
        model = carried_out(&model, &plan);
        model = carried_out(&model, &reviewed(&model, "carol", plan.answer.id, later(at)).unwrap());
    }
    let next_day = later(24 * 60 + 1);
    assert!(open_at(&model, &fresh("alice", next_day), next_day, &ask("billing", "mine", &["read"], 1)).is_ok());
}

#[test]
fn nobody_closes_their_own_review_under_any_name_and_whoever_has_an_interest_neither() {
    let model = world();
    let (after, it) = opened(&model, "alice", &ask("ours", "api/orders", &["read"], 5));
    // Who opened it; an administrator who speaks for her; members of the group that answers for the machine, one of them of
    // security; somebody whom it does not concern.
    denied(reviewed(&after, "alice", it.id, NOW), "takes another person");
    denied(reviewed(&after, "alice2", it.id, NOW), "takes another person");
    denied(reviewed(&after, "dave", it.id, NOW), "may not close its review");
    denied(reviewed(&after, "mallory", it.id, NOW), "may not close its review");
    for machine in [Caller::Identity("ours".parse().unwrap()), Caller::System] {
        let context = Context { caller: &machine, now: NOW };
        denied(plan_review(&after, &context, it.id, ReviewVerdict::Justified, "fine"), "nobody in their place");
    }
    // To give the machine to somebody else lets nobody review who answered for it.
    let handed = r#"{"kind":"agent","owner":"bob","purpose":"p","environment":"production"}"#;
    let handed = plan_apply(&after, &context(NOW), &[document("Identity", "ours", handed)]).unwrap();
    let handed = carried_out(&after, &handed);
    denied(reviewed(&handed, "dave", it.id, NOW), "may not close its review");
    // Nor the one who answers for it by now, resource or not.
    denied(reviewed(&handed, "bob", it.id, NOW), "may not close its review");
    for reviewer in ["bob", "carol", "root"] {
        assert!(reviewed(&after, reviewer, it.id, NOW).is_ok(), "{reviewer}");
    }
    // A group that she is put into later and that owns the resource does not make her another person.
    let model = carried_out(&after, &reviewed(&after, "bob", it.id, later(1)).unwrap());
    let closed = &model.broken[&it.id].value;
    assert_eq!(closed.state(later(1)), BreakGlassState::Reviewed);
    assert!(model.grants.is_empty(), "what lived of it ended with its review");
    match reviewed(&model, "carol", it.id, later(2)) {
        Err(Refused::Conflict(why)) => assert!(why.contains("closed already, by bob"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_nobody_could_review_is_not_opened() {
    let model = world();
    let mut alone = model.clone();
    for name in ["bob", "carol", "dave", "root"] {
        alone.people.remove(&name.parse::<crate::domain::name::OwnerName>().unwrap());
    }
    match open(&alone, "alice", &writes(5)) {
        Err(Refused::Unfit(why)) => assert!(why[0].contains("nobody could review it"), "{why:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_overdue_review_is_told_once_and_blocks_the_next_one_of_that_person() {
    let model = world();
    let (model, it) = opened(&model, "alice", &writes(15));
    let due = NOW.saturating_add(bounds().review);
    assert_eq!(it.due, due);
    let before = due.saturating_sub(MINUTE);
    assert!(plan_overdue(&model, before).is_empty());
    let other = ask("ours", "mine", &["read"], 1);
    let again = |model: &Model, who: &str, now: Timestamp| open_at(model, &fresh(who, now), now, &other);
    assert!(again(&model, "alice", before).is_ok());
    let told = plan_overdue(&model, due);
    assert_eq!(told.events[0].operation, "breakglass.overdue");
    let model = carried_out(&model, &told);
    assert!(plan_overdue(&model, due).is_empty(), "once");
    denied(again(&model, "alice", due), &it.id.to_string());
    assert!(again(&model, "mallory", due).is_ok(), "of that person");
    let model = carried_out(&model, &reviewed(&model, "carol", it.id, due).unwrap());
    assert!(again(&model, "alice", due).is_ok());
    // Long after, the store forgets it: the evidence does not.
    let old = due.saturating_add(DAY * 91);
    assert!(plan_prune(&model, due).is_empty());
    assert!(carried_out(&model, &plan_prune(&model, old)).broken.is_empty());
}

#[test]
fn whom_it_concerns_ends_it_and_the_review_stays_open() {
    let model = world();
    let (model, it) = opened(&model, "alice", &writes(15));
    let close = |who: &str, model: &Model| {
        plan_close(model, &Context { caller: &of(who, None), now: later(1) }, it.id, "it is over")
    };
    denied(close("mallory", &model), "does not concern");
    for who in ["alice", "bob", "carol", "root"] {
        let after = carried_out(&model, &close(who, &model).unwrap());
        assert!(after.grants.is_empty(), "{who}");
        assert_eq!(after.broken[&it.id].value.state(later(1)), BreakGlassState::Unreviewed);
        assert!(matches!(close(who, &after), Err(Refused::Conflict(_))), "once");
        denied(reviewed(&after, "alice", it.id, later(2)), "takes another person");
    }
}

#[test]
fn what_is_kept_of_a_sign_in_stays_with_it_and_never_with_the_person() {
    let model = world();
    let (model, it) = opened(&model, "alice", &writes(5));
    let record = Record::BreakGlass(Box::new(it.clone()));
    let text = record.json().unwrap().to_string();
    assert_eq!(Record::decode(&record.key(), text.as_bytes()).unwrap(), record);
    assert!(text.contains("auth_time") || text.contains("signed_in"));
    let Caller::Person(person) = fresh("alice", NOW) else { unreachable!() };
    assert!(!Record::Person(person.as_ref().clone()).json().unwrap().to_string().contains("signed_in"));
    assert_eq!(seen(&model, &it).reviewers, it.reviewers);
}
