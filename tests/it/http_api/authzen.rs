//! AuthZEN 1.0, with the decisions of the working group's interoperability scenario ("Todo").

use serde_json::{Value, json};

use crate::dev::{Dev, curl};
use crate::world::apply;

use super::{http, post};

/// The scenario's people: what the identity provider calls each, and what they are.
const PEOPLE: [(&str, &str, &str); 5] = [
    ("rick", "rick@the-citadel.com", "admin"),
    ("morty", "morty@the-citadel.com", "editor"),
    ("summer", "summer@the-smiths.com", "editor"),
    ("beth", "beth@the-smiths.com", "viewer"),
    ("jerry", "jerry@the-smiths.com", "viewer"),
];

/// A control plane that knows the people, the two resources, and grants to each what the scenario says.
fn todo() -> Dev {
    let dev = Dev::start();
    let mut documents = String::from(
        "kind: Resource\nname: user\nspec: { owner: bob }\n---\nkind: Resource\nname: todo\nspec: { owner: bob }\n---\n\
         kind: Route\nname: users\nspec:\n  upstream: http://127.0.0.1:1\n  host: users\n  resource: user\n  actions:\n    \
         - { name: can_read_user, methods: [GET], path: \"/users/{id}\" }\n---\n\
         kind: Route\nname: todos\nspec:\n  upstream: http://127.0.0.1:1\n  host: todos\n  resource: todo\n  actions:\n    \
         - { name: can_read_todos, methods: [GET], path: \"/todos\" }\n    \
         - { name: can_create_todo, methods: [POST], path: \"/todos\" }\n    \
         - { name: can_update_todo, methods: [PUT], path: \"/todos/{ownerID}/{id}\" }\n    \
         - { name: can_delete_todo, methods: [DELETE], path: \"/todos/{ownerID}/{id}\" }\n",
    );
    for (name, subject, _) in PEOPLE {
        documents += &format!(
            "---\nkind: Identity\nname: {name}\nspec: {{ kind: agent, owner: alice, purpose: todos, environment: test, \
             authenticate: [ {{ issuer: \"https://citadel.example\", subject: \"{subject}\" }} ] }}\n"
        );
    }
    apply(&dev, &documents).exits(0);
    for (name, subject, role) in PEOPLE {
        dev.grant(name, "user", &["can_read_user"]);
        let own = format!("ownerID={subject}");
        match role {
            "admin" => {
                let all = ["can_read_todos", "can_create_todo", "can_update_todo", "can_delete_todo"];
                dev.grant(name, "todo", &all);
            }
            "editor" => {
                dev.grant(name, "todo", &["can_read_todos", "can_create_todo"]);
                dev.grant_with(
                    name,
                    "todo",
                    &["can_update_todo", "can_delete_todo"],
                    &["--duration", "15m", "--parameter", &own],
                );
            }
            _ => {
                dev.grant(name, "todo", &["can_read_todos"]);
            }
        }
    }
    dev
}

/// Every question of the scenario with its answer. `owner` writes down whose a todo is: as 1.0 has it, or as the drafts had.
fn questions(owner: impl Fn(Value, &str) -> Value) -> Vec<(Value, bool)> {
    let mut questions = Vec::new();
    for (_, subject, role) in PEOPLE {
        let mut ask = |action: &str, resource: Value, expected: bool| {
            let subject = json!({ "type": "user", "id": subject, "identity": "ignored" });
            questions
                .push((json!({ "subject": subject, "action": { "name": action }, "resource": resource }), expected));
        };
        for user in ["beth@the-smiths.com", subject] {
            ask("can_read_user", json!({ "type": "user", "id": user, "userID": user }), true);
        }
        let todo = json!({ "type": "todo", "id": "todo-1" });
        ask("can_read_todos", todo.clone(), true);
        ask("can_create_todo", todo.clone(), role != "viewer");
        for action in ["can_update_todo", "can_delete_todo"] {
            for whose in ["rick@the-citadel.com", subject] {
                let may = role == "admin" || (role == "editor" && whose == subject);
                ask(action, owner(todo.clone(), whose), may);
            }
        }
    }
    questions
}

#[test]
fn the_decisions_of_the_interoperability_scenario() {
    let dev = todo();
    let properties = |mut todo: Value, whose: &str| {
        todo["properties"] = json!({ "ownerID": whose });
        todo
    };
    let beside = |mut todo: Value, whose: &str| {
        todo["ownerID"] = json!(whose);
        todo
    };
    for questions in [questions(properties), questions(beside)] {
        assert_eq!(questions.len(), 40);
        for (question, expected) in &questions {
            let answer = post(&dev, "alice", "/access/v1/evaluation", question).is(200).json();
            assert_eq!(answer["decision"], *expected, "{question}: {answer}");
            assert_eq!(answer.get("context").is_some(), !expected, "{answer}");
        }
        // The same in one message.
        let all: Vec<&Value> = questions.iter().map(|(question, _)| question).collect();
        let answer = post(&dev, "alice", "/access/v1/evaluations", &json!({ "evaluations": all })).is(200).json();
        let decisions: Vec<bool> =
            answer["evaluations"].as_array().unwrap().iter().map(|it| it["decision"].as_bool().unwrap()).collect();
        assert_eq!(decisions, questions.iter().map(|(_, expected)| *expected).collect::<Vec<_>>());
    }
    // A control plane that cannot say says no.
    let unknown = |subject: Value, action: &str, resource: Value| {
        let question = json!({ "subject": subject, "action": { "name": action }, "resource": resource });
        let answer = post(&dev, "alice", "/access/v1/evaluation", &question).is(200).json();
        assert_eq!(answer["decision"], false, "{answer}");
        answer["context"]["reason"].as_str().unwrap().to_owned()
    };
    let (rick, todo) = (json!({ "type": "user", "id": "rick@the-citadel.com" }), json!({ "type": "todo", "id": "1" }));
    assert_eq!(unknown(json!({ "type": "user", "id": "nobody" }), "can_read_todos", todo.clone()), "identity_unknown");
    assert_eq!(unknown(rick.clone(), "can_fly", todo), "route_unknown");
    assert_eq!(unknown(rick, "can_read_todos", json!({ "type": "cloud", "id": "9" })), "route_unknown");
}

#[test]
fn several_questions_stop_where_they_are_told_to_and_share_what_they_have_in_common() {
    let dev = todo();
    let ask = |semantic: &str| {
        let body = json!({
            "subject": { "type": "identity", "id": "morty" },
            "resource": { "type": "todo", "id": "1", "properties": { "ownerID": "morty@the-citadel.com" } },
            "evaluations": [
                { "action": { "name": "can_read_todos" } },
                { "action": { "name": "can_update_todo" }, "resource": { "type": "todo", "id": "2" } },
                { "action": { "name": "can_update_todo" } },
            ],
            "options": { "evaluations_semantic": semantic },
        });
        let answer = post(&dev, "alice", "/access/v1/evaluations", &body).is(200).json();
        answer["evaluations"].as_array().unwrap().iter().map(|it| it["decision"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ask("execute_all"), [true, false, true]);
    assert_eq!(ask("deny_on_first_deny"), [true, false]);
    assert_eq!(ask("permit_on_first_permit"), [true]);
    // One that says too little is a no of its own; without any it is one question.
    let body = json!({ "subject": { "type": "identity", "id": "morty" }, "action": { "name": "can_read_todos" },
                       "evaluations": [{}, { "resource": { "type": "todo", "id": "1" } }] });
    let answer = post(&dev, "alice", "/access/v1/evaluations", &body).is(200).json();
    assert_eq!(answer["evaluations"][0]["context"]["error"]["status"], 400);
    assert_eq!(answer["evaluations"][1], json!({ "decision": true }));
    let one = json!({ "subject": { "type": "identity", "id": "morty" }, "action": { "name": "can_read_todos" },
                      "resource": { "type": "todo", "id": "1" } });
    assert_eq!(post(&dev, "alice", "/access/v1/evaluations", &one).is(200).json(), json!({ "decision": true }));
    let many = json!({ "evaluations": vec![one; 257] });
    let answer = post(&dev, "alice", "/access/v1/evaluations", &many).is(400);
    assert!(answer.body.contains("at most 256"), "{answer:?}");
}

#[test]
fn search_finds_who_may_what_and_to_what() {
    let dev = todo();
    let found = |path: &str, body: Value| {
        let answer = post(&dev, "alice", &format!("/access/v1/search/{path}"), &body).is(200).json();
        let of = |it: &Value| it.get("id").or_else(|| it.get("name")).and_then(Value::as_str).unwrap().to_owned();
        let results: Vec<String> = answer["results"].as_array().unwrap().iter().map(of).collect();
        (results, answer["page"]["next_token"].as_str().unwrap().to_owned())
    };
    let rick = json!({ "type": "todo", "id": "1", "properties": { "ownerID": "rick@the-citadel.com" } });
    let subject = |resource: &Value, page: Value| {
        found(
            "subject",
            json!({ "subject": { "type": "user" }, "action": { "name": "can_update_todo" },
                                 "resource": resource, "page": page }),
        )
    };
    assert_eq!(subject(&rick, json!({})).0, ["rick@the-citadel.com"]);
    let morty = json!({ "type": "todo", "id": "1", "properties": { "ownerID": "morty@the-citadel.com" } });
    let (first, next) = subject(&morty, json!({ "limit": 1 }));
    assert_eq!((first, next.as_str()), (vec!["morty@the-citadel.com".to_owned()], "morty"));
    let (rest, next) = subject(&morty, json!({ "limit": 1, "token": next }));
    assert_eq!((rest, next.as_str()), (vec!["rick@the-citadel.com".to_owned()], "rick"));
    assert_eq!(subject(&morty, json!({ "token": next })), (vec![], String::new()));
    let actions =
        |name: &str| found("action", json!({ "subject": { "type": "identity", "id": name }, "resource": morty })).0;
    assert_eq!(actions("beth"), ["can_read_todos"]);
    assert_eq!(actions("summer"), ["can_create_todo", "can_read_todos"]);
    assert_eq!(actions("morty").len(), 4);
    let resources = found(
        "resource",
        json!({ "subject": { "type": "user", "id": "beth@the-smiths.com" },
                                              "action": { "name": "can_read_user" }, "resource": { "type": "resource" } }),
    );
    assert_eq!(resources.0, ["user"]);
    assert_eq!(actions("nobody"), Vec::<String>::new());
}

#[test]
fn it_is_discovered_and_says_what_is_wrong() {
    let dev = Dev::start();
    let metadata = curl(&[&format!("{}/.well-known/authzen-configuration", dev.addresses.http)]).is(200).json();
    assert_eq!(metadata["policy_decision_point"], dev.addresses.http.as_str());
    for (name, end) in [
        ("access_evaluation_endpoint", "/access/v1/evaluation"),
        ("access_evaluations_endpoint", "/access/v1/evaluations"),
        ("search_subject_endpoint", "/access/v1/search/subject"),
        ("search_resource_endpoint", "/access/v1/search/resource"),
        ("search_action_endpoint", "/access/v1/search/action"),
    ] {
        assert_eq!(metadata[name], format!("{}{end}", dev.addresses.http));
        let missing = http(&dev, "alice", "POST", end, Some(&json!({ "action": { "name": "read" } }))).is(400);
        assert!(
            missing.body.contains("missing field `subject`") || missing.body.contains("subject: is missing"),
            "{missing:?}"
        );
        assert_eq!(
            curl(&["-X", "POST", "-H", "Content-Type: application/json", "-d", "{}", metadata[name].as_str().unwrap()])
                .status,
            401
        );
    }
    let token = std::fs::read_to_string(dev.dir().join("people/alice")).unwrap();
    let (authorization, url) =
        (format!("Authorization: Bearer {token}"), format!("{}/access/v1/evaluation", dev.addresses.http));
    for body in [
        "{}",
        r#"{"subject":{"type":"identity","id":"billing"},"action":{"name":"read"},"resource":{"type":"resource","id":"api/orders"}}"#,
    ] {
        let answer = curl(&[
            "-H",
            &authorization,
            "-H",
            "Content-Type: application/json",
            "-H",
            "X-Request-ID: r-7",
            "-d",
            body,
            &url,
        ]);
        assert_eq!(answer.header("x-request-id"), Some("r-7"));
    }
}
