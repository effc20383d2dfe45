//! While it lives: who ends it, however many it concerns, and what is judged of it anew.

use super::super::super::record::Record;
use super::*;
use crate::domain::name::OwnerName;

fn put(model: &Model, name: &str, role: PersonRole) -> Model {
    let token = Digest::of(name);
    let name = name.parse().unwrap();
    let person = Person { name, roles: vec![role], speaks_for: Vec::new(), token, signed_in: None };
    carried_out(model, &plan_person(model, person).unwrap())
}

fn applied(model: &Model, now: Timestamp, documents: &[Document]) -> Model {
    carried_out(model, &plan_apply(model, &context(now), documents).unwrap())
}

/// Whoever somebody is by now: with the groups that they are in.
fn closes(model: &Model, id: BreakGlassId, name: &str) -> Result<Plan<BreakGlass>, Refused> {
    let person = model.people[&name.parse::<OwnerName>().unwrap()].value.clone();
    let caller = Caller::Person(model.speaking(person));
    plan_close(model, &Context { caller: &caller, now: NOW }, id, "it is over")
}

#[test]
fn whoever_answers_for_it_ends_it_however_many_others_it_concerns() {
    let mut model = world();
    // Before zoe by name: 25 who answer for a resource each, and as many who watch over all.
    let mut documents = Vec::new();
    let mut permissions = Vec::new();
    for n in 0..25 {
        model = put(&model, &format!("owner{n:02}"), PersonRole::Owner);
        model = put(&model, &format!("guard{n:02}"), PersonRole::Security);
        documents.push(document("Resource", &format!("r{n:02}"), &format!(r#"{{"owner":"owner{n:02}"}}"#)));
        let route = format!(
            r#"{{"upstream":"http://127.0.0.1:9000","host":"r{n:02}","resource":"r{n:02}","actions":[
                {{"name":"read","methods":["GET"],"path":"/**"}}]}}"#
        );
        documents.push(document("Route", &format!("r{n:02}"), &route));
        permissions.push(format!(r#"{{"resource":"r{n:02}","actions":["read"]}}"#));
    }
    model = put(&model, "zoe", PersonRole::Owner);
    documents.push(document("Resource", "zz", r#"{"owner":"zoe"}"#));
    let route = r#"{"upstream":"http://127.0.0.1:9000","host":"zz","resource":"zz","actions":[
        {"name":"read","methods":["GET"],"path":"/**"}]}"#;
    documents.push(document("Route", "zz", route));
    permissions.push(r#"{"resource":"zz","actions":["read"]}"#.to_owned());
    documents.push(document("Role", "many", &format!(r#"{{"permissions":[{}]}}"#, permissions.join(","))));
    let model = applied(&model, NOW, &documents);
    let everything = Ask { access: Access::Role("many".parse().unwrap()), ..writes(10) };
    let (model, it) = opened(&model, "alice", &everything);
    assert_eq!((it.concerned.len(), it.concerned_besides), (20, 33), "27 owners less one, and 27 of security");
    assert!(it.concerns().ends_with("owner19, and 33 more"), "{}", it.concerns());
    assert!(!it.concerned.contains(&"zoe".parse().unwrap()));
    for name in ["zoe", "owner24", "guard24", "alice"] {
        assert!(closes(&model, it.id, name).is_ok(), "{name}");
    }
    denied(closes(&model, it.id, "mallory"), "does not concern mallory");
    // Who answers for it by now, and who did when it was opened.
    let handed = applied(&model, NOW, &[document("Resource", "zz", r#"{"owner":"mallory"}"#)]);
    assert!(closes(&handed, it.id, "mallory").is_ok() && closes(&handed, it.id, "zoe").is_ok());
    // Of one from before there was more than what people are told, as ever.
    let mut old = model.clone();
    let kept = BreakGlass { answering: Vec::new(), concerned: vec!["bob".parse().unwrap()], ..it.clone() };
    old.apply(&Change::Put(Record::BreakGlass(Box::new(kept))), 9);
    assert!(closes(&old, it.id, "bob").is_ok() && closes(&old, it.id, "zoe").is_ok());
}

/// What others of the same owner are given by leave takes nothing from it, and leave that is taken does.
#[test]
fn it_is_judged_anew_as_access_that_began_when_it_was_opened() {
    let agent = |name: &str| {
        document("Identity", name, r#"{"kind":"agent","owner":"alice","purpose":"p","environment":"test"}"#)
    };
    let route = r#"{"upstream":"http://127.0.0.1:9000","host":"d","resource":"deployments","actions":[
        {"name":"prepare","methods":["POST"],"path":"/prepare"},{"name":"release","methods":["POST"],"path":"/release"}]}"#;
    let documents = [
        agent("preparer"),
        agent("releaser"),
        document("Resource", "deployments", r#"{"owner":"bob"}"#),
        document("Route", "deployments", route),
    ];
    let leave = |name: &str, of: &str, expires: Timestamp| {
        let spec = format!(
            r#"{{"rule":"separation_of_duties","owner":"carol","reason":"r","expires":"{expires}","identity":"{of}",
                "policy_rule":"prepare-or-release"}}"#
        );
        document("Exception", name, &spec)
    };
    let model = applied(&world(), NOW, &documents);
    let (model, it) = opened(&model, "alice", &ask("preparer", "deployments", &["prepare"], 10));
    let grant = model.grants[&it.grants[0]].value.clone();
    let model = applied(&model, later(1), &[leave("theirs", "releaser", later(60))]);
    let both = ask("releaser", "deployments", &["prepare", "release"], 5);
    let opening = open_at(&model, &fresh("alice", later(2)), later(2), &both).unwrap();
    let model = carried_out(&model, &opening);
    assert_eq!(reconsider::denied(&model, later(3), &grant), None);
    let given = model.grants[&opening.answer.grants[0]].value.clone();
    assert_eq!(reconsider::denied(&model, later(3), &given), None, "and by its own leave it lives");
    // Taken before its time, leave is none any more, whenever it was opened.
    let sooner = applied(&model, later(3), &[leave("theirs", "releaser", later(4))]);
    assert!(reconsider::denied(&sooner, later(3), &given).unwrap().contains("longer than exception theirs"));
    assert!(reconsider::denied(&sooner, later(5), &given).is_some());
}
