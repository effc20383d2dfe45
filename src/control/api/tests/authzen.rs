//! AuthZEN for machines that enforce, and asking for access after a denial: real TLS, real requests.

use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::super::super::enrol::Subject;
use super::plane::Bench;
use crate::wire::v1;

struct Asker {
    client: Client,
    base: String,
    token: Option<String>,
}

impl Asker {
    fn person(bench: &Bench, name: &str) -> Self {
        let (client, base) = bench.https(None);
        Self { client, base, token: Some(bench.token(name)) }
    }

    fn machine(bench: &Bench, name: &str) -> Self {
        let subject = Subject::Workload(format!("spiffe://example.org/sa/{name}").parse().unwrap());
        let (client, base) = bench.https(Some(subject));
        Self { client, base, token: None }
    }

    async fn ask(&self, method: Method, path: &str, body: &Value, key: Option<&str>) -> (u16, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if !body.is_null() {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.ask(Method::POST, path, body, None).await
    }

    async fn evaluate(&self, question: &Value) -> Value {
        let (status, answer) = self.post("/access/v1/evaluation", question).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }
}

async fn governed() -> Bench {
    let bench = Bench::start().await;
    bench.apply().await;
    let object = |name: &str, more: Value| {
        let mut spec = json!({
            "kind": "agent", "owner": "alice", "purpose": "x", "environment": "test",
            "authenticate": [{ "spiffe": format!("spiffe://example.org/sa/{name}") }],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        v1::CatalogObject {
            kind: "Identity".into(),
            name: name.into(),
            spec_json: spec.to_string(),
            ..Default::default()
        }
    };
    let objects = vec![object("helper", json!({})), object("enforcer", json!({ "capabilities": ["evaluate"] }))];
    let documents = v1::ApplyRequest { objects, ..Default::default() };
    let mut catalog = bench.catalog("admin").await;
    catalog.apply(documents).await.unwrap();
    let publish = v1::PublishPolicyRequest { starter: true, reason: "x".into(), ..Default::default() };
    catalog.publish_policy(publish).await.unwrap();
    bench
}

fn question(identity: &str, action: &str) -> Value {
    json!({
        "subject": { "type": "identity", "id": identity },
        "action": { "name": action },
        "resource": { "type": "resource", "id": "api/orders" },
    })
}

/// What a denial has submitted.
fn submission(question: &Value, denial: &Value) -> Value {
    let request = &denial["context"]["access_request"];
    let mut body = question.clone();
    body["denial"] = json!({
        "expires_at": request["expires_at"], "binding_token": request["binding_token"],
        "evaluation_id": denial["context"]["evaluation_id"],
    });
    body["context"] = json!({ "justification": "month-end charges" });
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_enforces_is_answered_while_its_document_says_so_and_no_other_is() {
    let bench = governed().await;
    let (enforcer, helper) = (Asker::machine(&bench, "enforcer"), Asker::machine(&bench, "helper"));
    let about = question("helper", "read");
    assert_eq!(enforcer.evaluate(&about).await["decision"], false);
    assert_eq!(helper.post("/access/v1/evaluation", &about).await.0, 403);
    for path in ["/access/v1/search/subject", "/access/v1/search/resource", "/access/v1/search/action"] {
        assert_eq!(enforcer.post(path, &about).await.0, 403, "{path}");
    }
    let can_i = json!({ "identity": "helper", "action": "read", "resource": "api/orders" });
    assert_eq!(enforcer.post("/v1/can-i", &can_i).await.0, 403);
    assert_eq!(enforcer.ask(Method::GET, "/v1/grants", &Value::Null, None).await.0, 403);
    // It asks for access for itself, as any does, and for nobody else.
    let theirs = json!({ "identity": "helper", "role": "orders-reader", "duration": "5m", "reason": "x" });
    assert_eq!(enforcer.post("/v1/requests", &theirs).await.0, 403);
    // Set aside, it is nobody.
    let away = json!({ "state": "quarantined", "reason": "x" });
    assert_eq!(Asker::person(&bench, "carol").post("/v1/identities/enforcer/state", &away).await.0, 200);
    assert_eq!(enforcer.post("/access/v1/evaluation", &about).await.0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_is_asked_for_after_a_denial_and_the_question_asked_again_with_what_came_of_it() {
    let bench = governed().await;
    let (alice, bob) = (Asker::person(&bench, "alice"), Asker::person(&bench, "bob"));
    let (_, metadata) = alice.ask(Method::GET, "/.well-known/authzen-configuration", &Value::Null, None).await;
    assert_eq!(metadata["capabilities"], json!(["urn:openid:authzen:capability:access-request"]));
    assert!(metadata["access_request_endpoint"].as_str().unwrap().ends_with("/access/v1/requests"));
    // A look needs nobody: it is granted at once.
    let about = question("helper", "read");
    let denied = alice.evaluate(&about).await;
    assert_eq!(denied["context"]["access_request"]["endpoint"], metadata["access_request_endpoint"], "{denied}");
    let (status, made) = alice.post("/access/v1/requests", &submission(&about, &denied)).await;
    assert_eq!((status, &made["task"]["status"]), (201, &json!("approved")), "{made}");
    let approval = made["result"]["approval"].clone();
    let mut again = about.clone();
    again["context"] = json!({ "approval": approval });
    let allowed = alice.evaluate(&again).await;
    assert_eq!((&allowed["decision"], &allowed["context"]["approval"]["id"]), (&json!(true), &approval["id"]));
    assert_eq!(alice.evaluate(&about).await, json!({ "decision": true }), "the grant decides, not the approval");
    // Another question, and an approval that is not ours.
    let of = |approval: &Value, action: &str| {
        let mut other = question("helper", action);
        other["context"] = json!({ "approval": approval });
        other
    };
    let no = |answer: &Value, reason: &str, next: &str| {
        let context = &answer["context"];
        assert_eq!(answer["decision"], false, "{answer}");
        assert_eq!((&context["reason"], &context["next_action"]), (&json!(reason), &json!(next)), "{answer}");
    };
    no(&alice.evaluate(&of(&approval, "write")).await, "out_of_scope", "request");
    for (member, value) in [
        ("id", json!("01J00000000000000000000000")),
        ("state", json!("a.b.c")),
        ("approved_until", json!("2099-01-01T00:00:00Z")),
    ] {
        let mut forged = approval.clone();
        forged[member] = value;
        no(&alice.evaluate(&of(&forged, "read")).await, "approval_unverifiable", "none");
    }
    // When the grant ends, so does what the approval is worth; and access can be asked for again.
    let path = format!("/v1/grants/{}/revoke", approval["id"].as_str().unwrap());
    assert_eq!(bob.post(&path, &json!({ "reason": "over" })).await.0, 200);
    let over = alice.evaluate(&again).await;
    no(&over, "approval_expired", "request");
    assert!(over["context"]["access_request"]["binding_token"].is_string(), "{over}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_waits_for_people_is_looked_at_and_taken_back_once() {
    let bench = governed().await;
    let (alice, bob) = (Asker::person(&bench, "alice"), Asker::person(&bench, "bob"));
    let about = question("helper", "write");
    let denied = alice.evaluate(&about).await;
    let mut body = submission(&about, &denied);
    body["requested_access"] = json!({ "requested_until": "2026-11-26T13:00:00Z" });
    body["requested_access"]["requested_until"] = {
        let until = crate::domain::Clock::now(&*bench.clock).saturating_add(Duration::from_secs(1800));
        json!(until.to_string())
    };
    let (status, made) = alice.ask(Method::POST, "/access/v1/requests", &body, Some("run-7")).await;
    assert_eq!((status, &made["task"]["status"]), (202, &json!("pending")), "{made}");
    assert_eq!(made["task"]["progress"]["awaiting"], json!(["owner:orders", "standing:security"]), "{made}");
    let (_, same) = alice.ask(Method::POST, "/access/v1/requests", &body, Some("run-7")).await;
    assert_eq!(same["task"]["id"], made["task"]["id"]);
    body["context"]["justification"] = json!("something else");
    let (status, problem) = alice.ask(Method::POST, "/access/v1/requests", &body, Some("run-7")).await;
    let kind = "urn:openid:authzen:access-request:error:duplicate_request";
    assert_eq!((status, &problem["type"], &problem["code"]), (409, &json!(kind), &json!("duplicate_request")));
    let place = format!("/access/v1/requests/{}", made["task"]["id"].as_str().unwrap());
    let (status, task) = bob.ask(Method::GET, &place, &Value::Null, None).await;
    assert_eq!((status, &task["task"]["status"], task.get("result")), (200, &json!("pending"), None));
    let cancel = format!("{place}/cancel");
    let (status, task) = alice.post(&cancel, &Value::Null).await;
    assert_eq!((status, &task["task"]["status"]), (200, &json!("cancelled")));
    let (status, problem) = alice.post(&cancel, &Value::Null).await;
    assert_eq!((status, &problem["code"]), (409, &json!("invalid_task_state")));
    let (status, problem) = alice.ask(Method::GET, "/access/v1/requests/nothing", &Value::Null, None).await;
    assert_eq!((status, &problem["code"]), (404, &json!("unknown_task")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_is_good_for_what_was_asked_by_whom_and_for_a_while() {
    let bench = governed().await;
    let (alice, bob) = (Asker::person(&bench, "alice"), Asker::person(&bench, "bob"));
    let about = question("helper", "write");
    let denied = alice.evaluate(&about).await;
    let good = submission(&about, &denied);
    let with = |pointer: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    let (status, problem) = bob.post("/access/v1/requests", &good).await;
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_denial_binding")), "it was not bob who asked");
    for (pointer, value) in [
        ("/action/name", json!("read")),
        ("/subject/id", json!("billing")),
        ("/denial/expires_at", json!("2099-01-01T00:00:00Z")),
        ("/denial/evaluation_id", json!("eval_x")),
        ("/denial/binding_token", json!("a.b.c")),
        ("/denial/binding_token", Value::Null),
        ("/context", json!({ "ip": "10.0.0.1" })),
    ] {
        let (status, problem) = alice.post("/access/v1/requests", &with(pointer, value)).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_denial_binding")), "{pointer}: {problem}");
    }
    // Nobody has the control plane call them.
    let mut calls = good.clone();
    calls["callback"] = json!({ "endpoint": "http://169.254.169.254/" });
    assert_eq!(alice.post("/access/v1/requests", &calls).await.0, 400);
    // The subject itself may ask, by what an enforcement point was told, or by its own denial there is none.
    let enforcer = Asker::machine(&bench, "enforcer");
    let told = enforcer.evaluate(&about).await;
    let (status, made) = Asker::machine(&bench, "helper").post("/access/v1/requests", &submission(&about, &told)).await;
    assert_eq!((status, &made["task"]["status"]), (202, &json!("pending")), "{made}");
    assert_eq!(enforcer.post("/access/v1/requests", &submission(&about, &told)).await.0, 403, "for nobody else");
    bench.clock.advance(Duration::from_secs(240));
    let (status, problem) = alice.post("/access/v1/requests", &good).await;
    assert_eq!((status, &problem["code"]), (410, &json!("expired_denial")));
    // What could not be asked for is a denial and no more.
    let others = bob.evaluate(&question("helper", "read")).await;
    assert_eq!((&others["decision"], others["context"].get("access_request")), (&json!(false), None), "{others}");
}
