//! Whose turn it is when words count no more: looked at anew, and silence counts from when a stage really was open.

use super::super::super::delegation;
use super::places::{after, handed_on, staged, yes};
use super::*;

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
    assert_eq!((stored, told.len()), (1, 0), "it is bob's turn again, and nobody was silent yet");
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
    assert!(looked(&model, &mut Judged::default(), 189).2.is_empty());
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
    assert_eq!((stored, told.len()), (1, 0));
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
