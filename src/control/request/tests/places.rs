//! Stages in their order, silence that others may end, and approvals in another's place.

use proptest::prelude::*;

use super::super::super::delegation;
use super::super::super::record::Record;
use super::super::super::replay::under;
use super::*;
use crate::domain::name::DelegationId;

/// Changes of orders take bob, or after two hours of silence security; then security.
pub(super) fn staged() -> Model {
    let mut files = starter();
    for (id, approvers, more) in [
        ("change", "resource-owner", r#"@escalate("2h standing:security")"#),
        ("change-sensitive", "standing:security", r#"@stage("2")"#),
    ] {
        let rule = format!("@id(\"{id}\")\n@approvers(\"{approvers}\")");
        assert!(files[0].text.contains(&rule));
        files[0].text = files[0].text.replace(&rule, &format!("{rule}\n{more}"));
    }
    let plan = plan_publish(&world(), &context(NOW), &files, None, "in stages").unwrap();
    carried_out(&world(), &plan)
}

pub(super) fn after(minutes: u64) -> Timestamp {
    NOW.saturating_add(Duration::from_secs(minutes * 60))
}

pub(super) fn handed_on(model: &Model, from: &str, to: &str, hours: u64, now: Timestamp) -> Model {
    let from = person(from);
    let duration = Span::new(Duration::from_secs(hours * 3600));
    let draw = drawing(u128::from(now.unix_micros().unsigned_abs()) + model.delegations.len() as u128 * 1000);
    let plan = delegation::plan_create(model, &at(&from, now), &to.parse().unwrap(), duration, "away", draw).unwrap();
    carried_out(model, &plan)
}

pub(super) fn yes(
    model: &Model,
    request: &Request,
    who: &str,
    of: Option<&str>,
    minutes: u64,
) -> Result<Plan<Request>, Refused> {
    let on_behalf_of = of.map(|name| name.parse().unwrap());
    let yes = Yes { digest: request.analysis.digest.clone(), on_behalf_of, comment: None };
    let from = 1_000_000 * u128::from(minutes + 1) + u128::from(who.as_bytes()[0]) * 1000;
    super::super::plan_approve(model, &at(&person(who), after(minutes)), request.id, &yes, drawing(from))
}

/// By a writer that has just begun.
fn plan_silence(model: &Model, now: Timestamp) -> Plan<bool> {
    super::super::plan_silence(model, now, &mut Judged::default())
}

fn quiet(model: &Model, minutes: u64) -> Model {
    carried_out(model, &plan_silence(model, after(minutes)))
}

#[test]
fn a_later_stage_answers_when_the_earlier_is_complete() {
    let (request, model) = made(&staged(), &person("alice"), &ask(role("writer"), 1), 1000);
    let words = crate::domain::request::in_words(&request.analysis.stages);
    assert_eq!(
        words,
        "1 of owner:bob (or, when nobody of them answers within 2h, standing:security), then 1 of standing:security"
    );
    let early = yes(&model, &request, "carol", None, 1).unwrap_err();
    assert!(
        matches!(&early, Refused::Conflict(why) if why.contains("not carol's turn: first it takes 1 of owner:bob"))
    );
    let plan = yes(&model, &request, "bob", None, 2).unwrap();
    let turn = plan.answer.turn();
    assert_eq!((turn.order, turn.since), (2, after(2)));
    let model = carried_out(&model, &plan);
    assert!(yes(&model, &request, "bob", None, 3).unwrap().is_empty(), "he has said it, and it is security's turn");
    assert_eq!(yes(&model, &request, "carol", None, 3).unwrap().answer.state, State::Granted);
}

#[test]
fn silence_brings_others_in_and_none_who_asks_or_answers_for_whoever_asks() {
    let (request, model) = made(&staged(), &person("alice"), &ask(role("writer"), 1), 1000);
    assert!(plan_silence(&model, after(119)).is_empty());
    let plan = plan_silence(&model, after(120));
    assert_eq!(operations(&plan), ["request.escalated"]);
    let reason = plan.events[0].reason.clone().unwrap();
    assert_eq!(reason, "nobody of owner:bob answered within 2h: standing:security may as well");
    let model = carried_out(&model, &plan);
    let kept = model.requests.get(&request.id).unwrap().value.clone();
    assert_eq!(kept.analysis.digest, request.analysis.digest, "it was shown from the beginning");
    assert!(kept.analysis.eligible.contains(&"carol".parse().unwrap()));
    assert!(plan_silence(&model, after(1000)).is_empty(), "once");
    // One of security in the owner's place, and another one in their own: nobody counts for two.
    let model = carried_out(&model, &yes(&model, &request, "carol", None, 121).unwrap());
    let again = yes(&model, &request, "carol", None, 122).unwrap();
    assert_eq!(again.answer.state, State::Pending);
    assert_eq!(yes(&carried_out(&model, &again), &request, "dave", None, 123).unwrap().answer.state, State::Granted);
    // Who answered in time is not silent.
    let (request, model) = made(&staged(), &person("alice"), &ask(role("writer"), 1), 1000);
    let model = carried_out(&model, &yes(&model, &request, "bob", None, 119).unwrap());
    assert!(plan_silence(&model, after(121)).is_empty());
}

#[test]
fn security_that_answers_for_the_identity_is_not_brought_in_by_silence() {
    let model = staged();
    let spec = r#"{"kind":"agent","owner":"carol","purpose":"p","environment":"test"}"#;
    let model = carried_out(&model, &plan_apply(&model, &context(NOW), &[document("Identity", "hers", spec)]).unwrap());
    // Whatever policy says.
    let mut files = starter();
    files[0].text =
        files[0].text.replace("when { context.owns_identity };", "when { context.duration < duration(\"0s\") };");
    files[0].text = files[0].text.replace("@id(\"change\")", "@id(\"change\")\n@escalate(\"2h standing:security\")");
    files[0].text = files[0].text.split("// Who answers for an identity has an interest").next().unwrap().to_owned();
    let model = under(&model, NOW, files).unwrap();
    let hers = Ask { identity: "hers".parse().unwrap(), ..ask(actions("deployments", &["prepare"]), 1) };
    let (request, model) = made(&model, &Caller::Identity("hers".parse().unwrap()), &hers, 1000);
    let model = quiet(&model, 120);
    assert!(matches!(yes(&model, &request, "carol", None, 121), Err(Refused::Denied(_))), "it is her agent that asks");
    assert_eq!(yes(&model, &request, "dave", None, 121).unwrap().answer.state, State::Granted);
}

#[test]
fn a_delegate_answers_in_anothers_place_and_is_one_with_them() {
    let model = handed_on(&staged(), "bob", "mallory", 24, NOW);
    let (request, model) = made(&model, &person("alice"), &ask(role("writer"), 1), 1000);
    let plan = yes(&model, &request, "mallory", None, 1).unwrap();
    let given = &plan.answer.approvals[0];
    assert_eq!((given.by.as_str(), given.on_behalf_of.as_ref().unwrap().as_str()), ("mallory", "bob"));
    assert!(given.delegation.is_some());
    assert_eq!(plan.answer.turn().order, 2);
    // It ends at once, and with it what was said by it.
    let id = model.delegations.all().next().unwrap().id;
    let with = carried_out(&model, &plan);
    let ended = delegation::plan_end(&with, &at(&person("bob"), after(2)), id, "back").unwrap();
    let over = carried_out(&with, &ended);
    assert!(matches!(yes(&over, &request, "carol", None, 3), Err(Refused::Conflict(_))), "it is bob's turn again");
    assert!(matches!(yes(&over, &request, "mallory", Some("bob"), 3), Err(Refused::Denied(_))));
    assert_eq!(yes(&with, &request, "carol", None, 3).unwrap().answer.state, State::Granted);
    // By its time, too, without anything having been recorded yet.
    assert!(yes(&model, &request, "mallory", None, 24 * 60).is_err());
}

#[test]
fn ones_own_word_counts_when_that_in_anothers_place_does_no_more() {
    // Bob and mallory answer for the resource; mallory says yes in bob's place, and bob takes that back.
    let documents = [
        document("Group", "owners", r#"{"members":["bob","mallory"]}"#),
        document("Resource", "api/orders", r#"{"owner":"owners","sensitivity":"high"}"#),
    ];
    let model = carried_out(&staged(), &plan_apply(&staged(), &context(NOW), &documents).unwrap());
    let model = handed_on(&model, "bob", "mallory", 24, NOW);
    let (request, model) = made(&model, &person("alice"), &ask(role("writer"), 1), 1000);
    let model = carried_out(&model, &yes(&model, &request, "mallory", Some("bob"), 1).unwrap());
    assert!(yes(&model, &request, "mallory", Some("bob"), 2).unwrap().is_empty(), "she has said it");
    let id = model.delegations.all().next().unwrap().id;
    let ended = delegation::plan_end(&model, &at(&person("bob"), after(2)), id, "back").unwrap();
    let over = carried_out(&model, &ended);
    let plan = yes(&over, &request, "mallory", None, 3).unwrap();
    assert_eq!(operations(&plan), ["request.approved"], "her own word is recorded");
    let given: Vec<bool> = plan.answer.approvals.iter().map(|it| it.on_behalf_of.is_some()).collect();
    assert_eq!((given.as_slice(), plan.answer.turn().order), ([true, false].as_slice(), 2));
    let over = carried_out(&over, &plan);
    assert_eq!(yes(&over, &request, "carol", None, 4).unwrap().answer.state, State::Granted);
}

#[test]
fn a_word_under_a_delegation_that_ended_is_not_made_good_by_a_later_one() {
    let model = handed_on(&staged(), "bob", "mallory", 24, NOW);
    let (request, model) = made(&model, &person("alice"), &ask(role("writer"), 1), 1000);
    let model = carried_out(&model, &yes(&model, &request, "mallory", None, 1).unwrap());
    let id = model.delegations.all().next().unwrap().id;
    let ended = delegation::plan_end(&model, &at(&person("bob"), after(2)), id, "back").unwrap();
    let again = handed_on(&carried_out(&model, &ended), "bob", "mallory", 24, after(3));
    let refused = yes(&again, &request, "carol", None, 4).unwrap_err();
    assert!(matches!(&refused, Refused::Conflict(why) if why.contains("first it takes 1 of owner:bob")), "{refused}");
    // Said again, by the later one, it counts, and by that one alone.
    let plan = yes(&again, &request, "mallory", None, 5).unwrap();
    let used: BTreeSet<_> = plan.answer.approvals.iter().filter_map(|it| it.delegation).collect();
    assert_eq!((used.len(), plan.answer.turn().order), (2, 2));
    let model = carried_out(&again, &plan);
    assert_eq!(yes(&model, &request, "carol", None, 6).unwrap().answer.state, State::Granted);
}

#[test]
fn a_right_is_not_handed_on_twice_nor_used_for_what_either_asks_or_answers_for() {
    let (request, model) = made(&staged(), &person("alice"), &ask(role("writer"), 1), 1000);
    let chain = handed_on(&handed_on(&model, "bob", "mallory", 24, NOW), "mallory", "dave", 24, after(1));
    assert!(matches!(yes(&chain, &request, "dave", Some("mallory"), 2), Err(Refused::Denied(_))));
    assert!(matches!(yes(&chain, &request, "dave", Some("bob"), 2), Err(Refused::Denied(_))));
    // To whoever asks, and from whoever answers for the identity.
    let own = handed_on(&model, "bob", "alice", 24, NOW);
    assert!(matches!(yes(&own, &request, "alice", Some("bob"), 1), Err(Refused::Denied(_))));
    let theirs = handed_on(&model, "alice", "mallory", 24, NOW);
    assert!(matches!(yes(&theirs, &request, "mallory", None, 1), Err(Refused::Denied(_))));
    // Two of security, one in the other's place, are one person.
    let mut files = starter();
    let rule = "@id(\"change\")\n@approvers(\"resource-owner\")";
    files[0].text = files[0].text.replace(rule, "@id(\"change\")\n@approvers(\"standing:security\")\n@quorum(\"2\")");
    files[1].text = files[1]
        .text
        .replace("approvers: [resource-owner, \"standing:security\"]", "approvers: [\"standing:security\"]");
    files[1].text = files[1].text.replace(
        "ticket: CHG-1\n    expect: { decision: approve, approvers: [resource-owner]",
        "ticket: CHG-1\n    expect: { decision: approve, approvers: [\"standing:security\"]",
    );
    let model = carried_out(&world(), &plan_publish(&world(), &context(NOW), &files, None, "two").unwrap());
    let model = handed_on(&model, "carol", "mallory", 24, NOW);
    let (request, model) = made(&model, &person("alice"), &ask(role("writer"), 1), 1000);
    let model = carried_out(&model, &yes(&model, &request, "mallory", None, 1).unwrap());
    let plan = yes(&model, &request, "carol", None, 2).unwrap();
    assert_eq!(plan.answer.state, State::Pending, "the two are one");
    assert_eq!(yes(&carried_out(&model, &plan), &request, "dave", None, 3).unwrap().answer.state, State::Granted);
}

/// What anybody may try, in any order.
#[derive(Clone, Debug)]
enum Try {
    Ask { who: usize, identity: usize },
    Approve { who: usize, which: usize, of: Option<usize> },
    HandOn { from: usize, to: usize, hours: u64 },
    End { who: usize, which: usize },
    Wait { minutes: u64, told: bool },
    Leave { who: usize },
}

fn tries() -> impl Strategy<Value = Vec<Try>> {
    let one = prop_oneof![
        2 => (0..5usize, 0..3usize).prop_map(|(who, identity)| Try::Ask { who, identity }),
        8 => (0..5usize, 0..3usize, prop::option::of(0..5usize))
            .prop_map(|(who, which, of)| Try::Approve { who, which, of }),
        3 => (0..5usize, 0..5usize, 1..40u64).prop_map(|(from, to, hours)| Try::HandOn { from, to, hours }),
        1 => (0..5usize, 0..3usize).prop_map(|(who, which)| Try::End { who, which }),
        2 => (1..200u64, any::<bool>()).prop_map(|(minutes, told)| Try::Wait { minutes, told }),
        1 => (3..5usize).prop_map(|who| Try::Leave { who }),
    ];
    prop::collection::vec(one, 4..40)
}

const OWNERS: [(&str, &str); 3] = [("billing", "alice"), ("hers", "carol"), ("his", "bob")];

/// Worked out from the request, who said yes and who answered in whose place, apart from the code that made it.
fn is_earned(before: &Model, request: &Request, now: Timestamp) {
    let owner = OWNERS.iter().find(|(identity, _)| request.ask.identity.as_str() == *identity).unwrap().1;
    let asked_by = request.requester.to_string();
    let said: Vec<&Approval> = request.approvals.iter().filter(|it| it.digest == request.analysis.digest).collect();
    let people = |it: &Approval| -> BTreeSet<String> {
        it.on_behalf_of.iter().chain([&it.by]).map(ToString::to_string).collect()
    };
    let silent =
        request.escalated.iter().any(|it| it.stage.approvers.to_string() == "owner:bob" && it.stage.order == 1);
    let is_there = |name: &str| before.people.contains_key(&name.parse::<OwnerName>().unwrap());
    let counts = |it: &Approval, second: bool| {
        let right = it.on_behalf_of.as_ref().unwrap_or(&it.by).as_str();
        let live = it.on_behalf_of.as_ref().is_none_or(|from| {
            let live =
                before.delegations.all().any(|d| d.from == *from && d.to == it.by && d.ended.is_none() && now < d.ends);
            live && !people(it).contains(owner)
        });
        let security = ["carol", "dave"].contains(&right);
        let may = if second { security } else { right == "bob" || (silent && security && right != owner) };
        may && live && right != owner && people(it).iter().all(|name| *name != asked_by && is_there(name))
    };
    // Whoever answers in another's place is one with them, by way of others too.
    let mut groups: Vec<BTreeSet<String>> = said.iter().map(|it| people(it)).collect();
    loop {
        let joined = groups.iter().enumerate().find_map(|(at, one)| {
            let other = groups.iter().skip(at + 1).position(|other| !one.is_disjoint(other))?;
            Some((at, at + 1 + other))
        });
        let Some((one, other)) = joined else { break };
        let more = groups.remove(other);
        groups[one].extend(more);
    }
    let group = |it: &Approval| groups.iter().position(|group| group.contains(it.by.as_str()));
    let earned = said.iter().enumerate().any(|(at, first)| {
        counts(first, false) && said.iter().skip(at + 1).any(|then| counts(then, true) && group(first) != group(then))
    });
    assert!(earned, "{:?} {asked_by} silent: {silent}", said);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_steps_reaches_a_grant_without_eligible_different_people(steps in tries()) {
        let mut model = staged();
        let spec = |owner: &str| format!(r#"{{"kind":"agent","owner":"{owner}","purpose":"p","environment":"test"}}"#);
        for (name, owner) in &OWNERS[1..] {
            let plan = plan_apply(&model, &context(NOW), &[document("Identity", name, &spec(owner))]).unwrap();
            model = carried_out(&model, &plan);
        }
        let (mut minutes, mut from) = (0u64, RequestId::new(NOW, 0).bits());
        let mut asked: Vec<RequestId> = Vec::new();
        for step in steps {
            from += 1_000_000;
            let now = after(minutes);
            match step {
                Try::Ask { who, identity } => {
                    let identity = OWNERS[identity].0.parse().unwrap();
                    let asking = Ask { identity, ..ask(actions("api/orders", &["write"]), 1) };
                    let caller = person(PEOPLE[who].0);
                    let Ok(plan) = plan_create(&model, &at(&caller, now), &asking, None, drawing(from)) else { continue };
                    let Created::Request(request) = plan.answer.clone() else { unreachable!() };
                    prop_assert!(request.grants.is_empty());
                    asked.push(request.id);
                    model = carried_out(&model, &plan);
                }
                Try::Approve { who, which, of } => {
                    if asked.is_empty() { continue }
                    let Some(kept) = model.requests.get(&asked[which % asked.len()]) else { continue };
                    let request = kept.value.clone();
                    let on_behalf_of = of.map(|of| PEOPLE[of].0.parse().unwrap());
                    let yes = Yes { digest: request.analysis.digest.clone(), on_behalf_of, comment: None };
                    let caller = person(PEOPLE[who].0);
                    let plan = super::super::plan_approve(&model, &at(&caller, now), request.id, &yes, drawing(from));
                    let Ok(plan) = plan else { continue };
                    if plan.answer.state == State::Granted {
                        is_earned(&model, &plan.answer, now);
                    }
                    model = carried_out(&model, &plan);
                }
                Try::HandOn { from: of, to, hours } => {
                    let caller = person(PEOPLE[of].0);
                    let hours = Span::new(Duration::from_secs(hours * 3600));
                    let to = PEOPLE[to].0.parse().unwrap();
                    let plan = delegation::plan_create(&model, &at(&caller, now), &to, hours, "away", drawing(from));
                    if let Ok(plan) = plan { model = carried_out(&model, &plan) }
                }
                Try::End { who, which } => {
                    let ids: Vec<DelegationId> = model.delegations.all().map(|it| it.id).collect();
                    if ids.is_empty() { continue }
                    let caller = person(PEOPLE[who].0);
                    let plan = delegation::plan_end(&model, &at(&caller, now), ids[which % ids.len()], "back");
                    if let Ok(plan) = plan { model = carried_out(&model, &plan) }
                }
                Try::Wait { minutes: more, told } => {
                    minutes += more;
                    if told {
                        let now = after(minutes);
                        for plan in [plan_expiry(&model, now), plan_silence(&model, now)] {
                            model = carried_out(&model, &plan);
                        }
                        let plan = delegation::plan_ends(&model, now);
                        model = carried_out(&model, &plan);
                    }
                }
                Try::Leave { who } => {
                    let name: OwnerName = PEOPLE[who].0.parse().unwrap();
                    let Some(kept) = model.people.get(&name) else { continue };
                    let gone = kept.value.as_ref().clone();
                    model.apply(&Change::Delete(Record::Person(gone)), 1);
                }
            }
        }
    }
}
