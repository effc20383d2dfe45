//! Whose turn it is when words count no more: looked at anew, and silence counts from when a stage really was open.

use super::super::super::delegation;
use super::super::super::replay::under;
use super::places::{after, handed_on, staged, yes};
use super::*;

const TURNED: &str = "request.turned";

/// A writer's way: looks at what it has to until nothing is left, and says how often something was stored, and told.
fn looked(model: &Model, judged: &mut Judged, minutes: u64) -> (Model, usize, Vec<String>) {
    let (mut model, mut stored, mut told) = (model.clone(), 0, Vec::new());
    loop {
        let plan = plan_silence(&model, after(minutes), judged);
        if plan.is_empty() && !plan.answer {
            return (model, stored, told);
        }
        stored += plan.changes.len();
        told.extend(plan.events.iter().map(|event| event.operation.clone()));
        model = carried_out(&model, &plan);
    }
}

/// Asked, and answered in bob's place by mallory at the first minute; then the delegation ends.
fn ended(minutes: u64, judged: &mut Judged) -> (Request, Model) {
    let model = handed_on(&staged(), "bob", "mallory", 24, NOW);
    let (request, model) = made(&model, &person("alice"), &ask(role("writer"), 1), 1000);
    let model = carried_out(&model, &yes(&model, &request, "mallory", None, 1).unwrap());
    let (model, stored, _) = looked(&model, judged, 2);
    assert_eq!((stored, model.request_silences.len()), (0, 0), "security's silence brings nobody in");
    let id = model.delegations.all().next().unwrap().id;
    let plan = delegation::plan_end(&model, &at(&person("bob"), after(minutes)), id, "back").unwrap();
    (request, carried_out(&model, &plan))
}

#[test]
fn a_stage_that_a_dead_word_had_closed_waits_anew_and_is_not_forgotten() {
    let mut judged = Judged::default();
    let (request, model) = ended(60, &mut judged);
    let (model, stored, told) = looked(&model, &mut judged, 60);
    assert_eq!((stored, told), (1, vec![TURNED.to_owned()]), "it is bob's turn again, and nobody was silent yet");
    let turn = model.requests[&request.id].value.turn();
    assert_eq!((turn.order, turn.since), (1, after(60)));
    let (model, stored, _) = looked(&model, &mut judged, 179);
    assert_eq!(stored, 0, "two hours from when it was bob's turn again, and not from the beginning");
    let (model, _, told) = looked(&model, &mut judged, 180);
    assert_eq!(told, ["request.escalated"]);
    assert_eq!(looked(&model, &mut judged, 1_000).1, 0, "once");
    // A writer that begins later finds the same, from when it finds it.
    let (_, model) = ended(60, &mut Judged::default());
    let (model, stored, _) = looked(&model, &mut Judged::default(), 70);
    assert_eq!(stored, 1);
    assert!(looked(&model, &mut Judged::default(), 189).2.is_empty(), "it is told once");
    assert_eq!(looked(&model, &mut Judged::default(), 190).2, ["request.escalated"]);
}

#[test]
fn another_policy_voids_words_and_gives_those_who_have_not_answered_no_more_time() {
    let published = |model: &Model, change: &dyn Fn(&mut Vec<crate::control::record::PolicyFile>)| {
        let mut files = model.policy.as_ref().unwrap().record.files.clone();
        change(&mut files);
        carried_out(model, &plan_publish(model, &context(NOW), &files, None, "again").unwrap())
    };
    let comment = |files: &mut Vec<crate::control::record::PolicyFile>| files[0].text.push_str("\n// Another.\n");
    let mut judged = Judged::default();
    // Nobody has answered, and says nothing for two hours, whatever is published meanwhile.
    let (_, model) = made(&staged(), &person("alice"), &ask(role("writer"), 1), 1000);
    let model = looked(&model, &mut judged, 50).0;
    let (model, _, told) = looked(&published(&model, &comment), &mut judged, 110);
    assert!(told.is_empty());
    assert_eq!(looked(&model, &mut judged, 120).2, ["request.escalated"]);
    // Bob has answered, of what is something else by then: he is asked anew, and has as long as ever.
    let (request, model) = made(&staged(), &person("alice"), &ask(role("writer"), 1), 1000);
    let model = carried_out(&model, &yes(&model, &request, "bob", None, 100).unwrap());
    let (model, stored, told) = looked(&published(&model, &comment), &mut judged, 300);
    assert_eq!((stored, told), (1, vec![TURNED.to_owned()]));
    assert!(looked(&model, &mut judged, 419).2.is_empty());
    assert_eq!(looked(&model, &mut judged, 420).2, ["request.escalated"]);
}

#[test]
fn what_policy_would_refuse_waits_and_nobody_is_brought_in_for_it() {
    let mut judged = Judged::default();
    let (request, model) = made(&staged(), &person("alice"), &ask(role("writer"), 1), 1000);
    // Alice hands the machine on: it is not hers to ask for any more.
    let owned = |model: &Model, owner: &str| {
        let spec = format!(r#"{{"kind":"service","owner":"{owner}","purpose":"p","environment":"test"}}"#);
        carried_out(model, &plan_apply(model, &context(NOW), &[document("Identity", "billing", &spec)]).unwrap())
    };
    let (away, stored, _) = looked(&owned(&model, "dave"), &mut judged, 60);
    assert_eq!(stored, 0);
    let (away, stored, _) = looked(&away, &mut judged, 200);
    assert_eq!(stored, 0, "its time has come, and nobody may say yes to it");
    let (_, stored, told) = looked(&owned(&away, "alice"), &mut judged, 201);
    assert_eq!((stored, told.as_slice()), (1, ["request.escalated".to_owned()].as_slice()), "bob was asked all along");
    assert!(model.requests.contains_key(&request.id));
}

/// However many are open, each is looked at, and no more than some at once.
#[test]
fn however_many_are_open_all_are_looked_at() {
    let mut model = staged();
    for n in 0..50 {
        model = made(&model, &person("alice"), &ask(role("writer"), 1), 1_000 * (n + 1)).1;
    }
    let mut judged = Judged::default();
    let mut looks = 0;
    while plan_silence(&model, after(1), &mut judged).answer {
        looks += 1;
    }
    assert_eq!(looks, 2, "20, 20, and the rest");
    let (model, stored, told) = looked(&model, &mut judged, 120);
    assert_eq!((stored, told.len()), (50, 50));
    assert!(model.request_silences.is_empty());
}

/// Alice holds what parts with what she asks for, for two hours from the fiftieth minute.
fn holding(model: &Model) -> Model {
    let prepare = Ask { identity: "preparer".parse().unwrap(), ..ask(actions("deployments", &["prepare"]), 2) };
    let lawless = Model { policy: None, ..model.clone() };
    let plan = grant::plan_create(&lawless, &context(after(50)), &grant_request(&prepare), || GrantId::from_bits(7));
    carried_out(model, &plan.unwrap())
}

#[test]
fn what_policy_refuses_for_a_while_is_looked_at_again_when_only_grants_ended() {
    let mut judged = Judged::default();
    let spec = r#"{"owner":"bob","sensitivity":"high"}"#;
    let documents = [document("Resource", "deployments", spec)];
    let model = carried_out(&staged(), &plan_apply(&staged(), &context(NOW), &documents).unwrap());
    let model = handed_on(&model, "bob", "mallory", 24, NOW);
    let (request, model) = made(&model, &person("alice"), &ask(actions("deployments", &["release"]), 1), 1000);
    let model = carried_out(&model, &yes(&model, &request, "mallory", None, 1).unwrap());
    let model = looked(&model, &mut judged, 2).0;
    let id = model.delegations.all().next().unwrap().id;
    let ended = delegation::plan_end(&model, &at(&person("bob"), after(60)), id, "back").unwrap();
    let model = holding(&carried_out(&model, &ended));
    let (model, stored, _) = looked(&model, &mut judged, 60);
    assert_eq!(stored, 0, "as of now policy would refuse it");
    let model = carried_out(&model, &grant::plan_expiry(&model, after(171)));
    assert!(model.grants.is_empty());
    let (model, stored, told) = looked(&model, &mut judged, 171);
    assert_eq!((stored, told), (1, vec![TURNED.to_owned()]));
    assert!(looked(&model, &mut judged, 290).2.is_empty());
    assert_eq!(looked(&model, &mut judged, 291).2, ["request.escalated"]);
}

#[test]
fn what_was_as_it_should_be_is_looked_at_again_after_a_while() {
    let mut judged = Judged::default();
    let model = handed_on(&staged(), "bob", "mallory", 2, NOW);
    let (request, model) = made(&model, &person("alice"), &ask(role("writer"), 1), 1000);
    let model = carried_out(&model, &yes(&model, &request, "mallory", None, 1).unwrap());
    assert_eq!(looked(&model, &mut judged, 115).1, 0);
    // By its time, and nothing of it has been recorded.
    assert_eq!(looked(&model, &mut judged, 126).2, [TURNED]);
}

/// Whoever makes and ends delegations all the time has nobody else's silence overlooked.
#[test]
fn however_often_something_changes_those_that_wait_keep_no_other_from_its_turn() {
    let (mut model, mut judged) = (staged(), Judged::default());
    for n in 0..50 {
        model = made(&model, &person("alice"), &ask(role("writer"), 1), 1_000 * (n + 1)).1;
    }
    let other = Ask { identity: "releaser".parse().unwrap(), ..ask(role("writer"), 1) };
    let (request, model) = made(&model, &person("alice"), &other, 1_000_000);
    let spec = r#"{"kind":"service","owner":"dave","purpose":"p","environment":"test"}"#;
    let documents = [document("Identity", "billing", spec)];
    let mut model = carried_out(&model, &plan_apply(&model, &context(NOW), &documents).unwrap());
    let mut told = Vec::new();
    for _ in 0..4 {
        model = handed_on(&model, "mallory", "dave", 1, after(120));
        let id = model.delegations.all().last().unwrap().id;
        let plan = plan_silence(&model, after(120), &mut judged);
        told.extend(plan.changes.iter().map(|change| change.record().key()));
        model = carried_out(&model, &plan);
        let ended = delegation::plan_end(&model, &at(&person("mallory"), after(120)), id, "back").unwrap();
        model = carried_out(&model, &ended);
    }
    assert_eq!(told.len(), 1);
    assert!(told[0].ends_with(&request.id.to_string()), "{told:?}");
}

#[test]
fn requests_of_many_permissions_are_looked_at_fewer_at_once() {
    let names: Vec<String> = (0..21).map(|n| format!("many/r{n}")).collect();
    let mut documents = Vec::new();
    for (n, name) in names.iter().enumerate() {
        documents.push(document("Resource", name, r#"{"owner":"bob"}"#));
        let actions = r#"[{"name":"write","methods":["POST"],"path":"/**"}]"#;
        let spec =
            format!(r#"{{"upstream":"http://127.0.0.1:9000","host":"h{n}","resource":"{name}","actions":{actions}}}"#);
        documents.push(document("Route", &format!("r{n}"), &spec));
    }
    let all: Vec<String> = names.iter().map(|name| format!(r#"{{"resource":"{name}","actions":["write"]}}"#)).collect();
    documents.push(document("Role", "many", &format!(r#"{{"permissions":[{}]}}"#, all.join(","))));
    let mut model = carried_out(&staged(), &plan_apply(&staged(), &context(NOW), &documents).unwrap());
    for n in 0..20 {
        model = made(&model, &person("alice"), &ask(role("many"), 1), 100_000 * (n + 1)).1;
    }
    let (mut judged, mut looks) = (Judged::default(), 1);
    while plan_silence(&model, after(1), &mut judged).answer {
        looks += 1;
    }
    assert_eq!(looks, 3, "9, 9 and 2, of 21 permissions each");
}

#[test]
fn where_words_suffice_by_now_nobody_is_silent_and_a_person_settles_it() {
    let mut files = starter();
    for (id, before, after) in [
        ("change", "resource-owner", "@approvers(\"group:team-a\")\n@escalate(\"2h standing:security\")"),
        ("change-sensitive", "standing:security", "@approvers(\"group:team-b\")"),
    ] {
        let rule = format!("@id(\"{id}\")\n@approvers(\"{before}\")");
        assert!(files[0].text.contains(&rule));
        files[0].text = files[0].text.replace(&rule, &format!("@id(\"{id}\")\n{after}"));
    }
    let teams = |model: &Model, b: &str| {
        let documents = [
            document("Group", "team-a", r#"{"members":["bob","carol"]}"#),
            document("Group", "team-b", &format!(r#"{{"members":[{b}]}}"#)),
        ];
        carried_out(model, &plan_apply(model, &context(NOW), &documents).unwrap())
    };
    let model = under(&teams(&world(), r#""dave""#), NOW, files).unwrap();
    let (request, model) = made(&model, &person("alice"), &ask(role("writer"), 1), 1000);
    let stages: Vec<String> = request.analysis.stages.iter().map(|stage| stage.approvers.to_string()).collect();
    assert_eq!(stages, ["group:team-a", "group:team-b"]);
    let model = carried_out(&model, &yes(&model, &request, "bob", None, 1).unwrap());
    let model = carried_out(&model, &yes(&model, &request, "carol", None, 2).unwrap());
    let mut judged = Judged::default();
    let model = looked(&model, &mut judged, 3).0;
    let turn = model.requests[&request.id].value.turn();
    assert_eq!(turn.answered.len(), 1);
    // Carol's word is of both by now: it takes nobody else's.
    let mut model = teams(&model, r#""carol","dave""#);
    for minutes in [10, 121, 300, 1_200] {
        let (after, stored, told) = looked(&model, &mut judged, minutes);
        assert_eq!((stored, told.len()), (0, 0), "{minutes}");
        let fresh = analysed(&after, self::after(minutes), &after.requests[&request.id].value).unwrap();
        assert_eq!(fresh.turn(), turn, "as it was last");
        model = after;
    }
    assert_eq!(yes(&model, &request, "carol", None, 1_201).unwrap().answer.state, State::Granted);
}
