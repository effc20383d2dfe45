//! AuthZEN 1.0, with the decisions of the working group's interoperability scenario ("Todo").

use serde_json::{Value, json};

use crate::dev::{Dev, PATIENCE, curl, eventually};
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
                       "evaluations": [{}, { "resource": { "type": "todo", "id": "1" } }, { "resource": { "type": "todo" } }] });
    let answer = post(&dev, "alice", "/access/v1/evaluations", &body).is(200).json();
    assert_eq!(answer["evaluations"][0]["context"]["error"]["status"], 400);
    assert_eq!(answer["evaluations"][1], json!({ "decision": true }));
    assert_eq!(answer["evaluations"][2]["context"]["error"]["status"], 400);
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
fn a_limit_that_a_question_does_not_settle_is_a_no() {
    let dev = Dev::start();
    let ask = |subject: Value, context: Value| {
        let question = json!({ "subject": subject, "action": { "name": "read" }, "context": context,
                               "resource": { "type": "resource", "id": "api/orders" } });
        let answer = post(&dev, "alice", "/access/v1/evaluation", &question).is(200).json();
        let reason = answer.pointer("/context/reason").and_then(Value::as_str).unwrap_or_default().to_owned();
        (answer["decision"] == true, reason)
    };
    let (yes, no) = ((true, String::new()), |reason: &str| (false, reason.to_owned()));
    let by_name = || json!({ "type": "identity", "id": "billing" });
    let issuer = "https://issuer.dev.portcullis.local";
    let by_token = || json!({ "type": "user", "id": "billing", "properties": { "issuer": issuer } });
    let by_certificate = || json!({ "type": "workload", "id": "spiffe://dev.portcullis.local/workload/billing" });
    let here = || json!({});
    let limited = |limit: &[&str], checks: &[(Value, Value, (bool, String))]| {
        let more = [&["--duration", "5m"][..], limit].concat();
        let grant = dev.grant_with("billing", "api/orders", &["read"], &more);
        for (subject, context, expected) in checks {
            assert_eq!(ask(subject.clone(), context.clone()), *expected, "{limit:?}: {subject} {context}");
        }
        dev.revoke(&grant);
    };
    limited(
        &[],
        &[(by_name(), here(), yes.clone()), (by_token(), here(), yes.clone()), (by_certificate(), here(), yes.clone())],
    );
    limited(
        &["--network", "10.0.0.0/8"],
        &[
            (by_name(), here(), no("network_not_granted")),
            (by_name(), json!({ "ip": "10.1.2.3" }), yes.clone()),
            (by_name(), json!({ "ip": "192.0.2.1" }), no("network_not_granted")),
        ],
    );
    limited(
        &["--bind", "spiffe://dev.portcullis.local/workload/billing"],
        &[
            (by_name(), here(), no("binding_not_granted")),
            (by_token(), here(), no("binding_not_granted")),
            (by_certificate(), here(), yes.clone()),
        ],
    );
    limited(
        &["--bind", &format!("issuer:{issuer}")],
        &[(by_token(), here(), yes.clone()), (by_certificate(), here(), no("binding_not_granted"))],
    );
    // Nobody spends a use by asking, and nobody is told yes for one that is not spent.
    limited(&["--uses", "3"], &[(by_name(), here(), no("uses_unavailable"))]);
    assert_eq!(ask(by_name(), here()), no("grant_missing"));
    // An exception is of a route, and a question names none: through this one anybody may call, and nobody is told so.
    let exception = format!(
        "kind: Exception\nname: trial\nspec: {{ rule: observe, route: orders, owner: bob, reason: x, expires: {} }}\n",
        portcullis::domain::Timestamp::from_unix_seconds(crate::world::now() + 86_400)
    );
    apply(&dev, &exception).exits(0);
    eventually("it is observed", PATIENCE, || dev.call("billing", "GET", "/v1/orders/1").status == 200);
    assert_eq!(ask(by_name(), here()), no("grant_missing"));

    // Whose word it is must be a word that can be checked.
    dev.grant("billing", "api/orders", &["read"]);
    for subject in [
        json!({ "type": "user", "id": "billing", "properties": { "issuer": "https://evil" } }),
        json!({ "type": "user", "id": "billing", "properties": { "issuer": ["https://evil"] } }),
        json!({ "type": "user", "id": "billing", "properties": { "issuer": null } }),
        json!({ "type": "user", "id": "billing", "issuer": "https://evil" }),
        json!({ "type": "user", "id": "billing", "issuer": "https://evil", "properties": { "issuer": issuer } }),
        json!({ "type": "identity", "id": "billing", "properties": { "issuer": issuer } }),
        json!({ "type": "user", "id": "spiffe://dev.portcullis.local/workload/billing", "properties": { "issuer": issuer } }),
    ] {
        assert_eq!(ask(subject.clone(), here()), no("identity_unknown"), "{subject}");
    }
    assert_eq!(ask(by_token(), here()), yes);
}

#[test]
fn what_a_resource_is_goes_before_what_is_said_of_it_and_nothing_is_said_twice() {
    let dev = todo();
    dev.grant_with("beth", "todo", &["can_update_todo"], &["--duration", "5m", "--parameter", "id=43"]);
    let ask = |resource: &str| {
        let body = format!(
            r#"{{"subject":{{"type":"identity","id":"beth"}},"action":{{"name":"can_update_todo"}},"resource":{resource}}}"#
        );
        let token = std::fs::read_to_string(dev.dir().join("people/alice")).unwrap();
        let authorization = format!("Authorization: Bearer {token}");
        let url = format!("{}/access/v1/evaluation", dev.addresses.http);
        curl(&["-H", &authorization, "-H", "Content-Type: application/json", "--data-binary", &body, &url])
    };
    let decision = |resource: &str| ask(resource).is(200).json()["decision"] == true;
    assert!(decision(r#"{"type":"todo","id":"43"}"#));
    assert!(!decision(r#"{"type":"todo","id":"42","properties":{"id":"43"}}"#));
    assert!(!decision(r#"{"type":"todo","id":"42","id_":"43"}"#));
    let twice = r#"{"type":"todo","id":"1","properties":{"ownerID":"a","ownerID":"b"}}"#;
    assert!(ask(twice).is(400).body.contains("duplicate"), "{:?}", ask(twice));
    let many: Vec<String> = (0..65).map(|n| format!(r#""p{n}":"x""#)).collect();
    let many = format!(r#"{{"type":"todo","id":"43","properties":{{{}}}}}"#, many.join(","));
    assert!(ask(&many).is(400).body.contains("at most 64"));
    let large = format!(r#"{{"type":"todo","id":"43","properties":{{"p":"{}"}}}}"#, "x".repeat(300_000));
    let file = dev.home.path().join("large.json");
    std::fs::write(&file, format!(r#"{{"subject":{{"type":"identity","id":"beth"}},"resource":{large}}}"#)).unwrap();
    let token = std::fs::read_to_string(dev.dir().join("people/alice")).unwrap();
    let (authorization, file) = (format!("Authorization: Bearer {token}"), format!("@{}", file.display()));
    let url = format!("{}/access/v1/evaluation", dev.addresses.http);
    curl(&["-H", &authorization, "-H", "Content-Type: application/json", "--data-binary", &file, &url]).is(413);
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
