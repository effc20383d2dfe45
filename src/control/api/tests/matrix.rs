//! Every operation of the HTTP API for every kind of caller: what each is answered, as a golden file says.
//!
//! The operations are those of `/openapi.json`: one that is described and not asked here fails the test.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

use super::super::super::authorize::Caller;
use super::super::super::enrol::Subject;
use super::super::super::policy;
use super::super::super::record::{Digest, JoinToken};
use super::super::super::registry::{Invited, JOIN_PREFIX};
use super::plane::Bench;
use crate::domain::Clock as _;
use crate::domain::name::ChangeId;
use crate::wire::v1;

const CALLERS: [&str; 10] = [
    "administrator",
    "security",
    "owner",
    "developer",
    "gateway",
    "joining",
    "identity",
    "enforcement point",
    "nobody",
    "wrong token",
];
/// So that nobody's budget of requests runs out.
const BETWEEN: Duration = Duration::from_secs(61);

/// What an operation is asked with: its `operationId`, what is special about it, and its body. `{digest}` is that of a
/// request of alice's that waits, `{soon}` a moment to come.
fn operations() -> Vec<(&'static str, &'static str, Value)> {
    let why = || json!({ "reason": "x" });
    let access = |identity: &str, duration: &str| json!({ "identity": identity, "role": "orders-reader", "duration": duration, "reason": "x" });
    let (subject, action, resource) = (
        json!({ "type": "identity", "id": "helper" }),
        json!({ "name": "read" }),
        json!({ "type": "resource", "id": "api/orders" }),
    );
    let question = json!({ "subject": subject, "action": action, "resource": resource });
    let starter: BTreeMap<String, String> = policy::starter().into_iter().map(|file| (file.name, file.text)).collect();
    let spare = json!({ "kind": "agent", "owner": "alice", "purpose": "x", "environment": "test" });
    vec![
        ("whoAmI", "", Value::Null),
        ("listRequests", "", Value::Null),
        ("createRequest", "an identity of alice", access("helper", "4h")),
        ("createRequest", "somebody else's", access("billing", "4h")),
        ("getRequest", "", Value::Null),
        ("approveRequest", "", json!({ "digest": "{digest}" })),
        ("denyRequest", "", why()),
        ("cancelRequest", "", why()),
        ("listDelegations", "", Value::Null),
        ("createDelegation", "to carol", json!({ "to": "carol", "duration": "1h", "reason": "x" })),
        ("endDelegation", "one that is not there", why()),
        ("listGrants", "", Value::Null),
        ("createGrant", "", access("helper", "5m")),
        ("revokeGrants", "", json!({ "identity": "spare", "reason": "x" })),
        ("getGrant", "", Value::Null),
        ("revokeGrant", "", why()),
        ("canI", "", json!({ "identity": "helper", "action": "read", "resource": "api/orders" })),
        ("revokeToken", "", json!({ "issuer": "https://a.example", "jti": "1", "expires": "{soon}" })),
        ("listObjects", "", Value::Null),
        ("getObject", "", Value::Null),
        ("apply", "", json!({ "objects": [{ "kind": "Identity", "name": "spare", "spec": spare }] })),
        ("setIdentityState", "quarantined", json!({ "state": "quarantined", "reason": "x" })),
        ("setIdentityState", "active", json!({ "state": "active", "reason": "x" })),
        ("getPolicy", "", Value::Null),
        ("publishPolicy", "", json!({ "starter": true, "reason": "x" })),
        ("replayPolicy", "", json!({ "files": starter })),
        ("listChanges", "", Value::Null),
        ("getChange", "one that is not there", Value::Null),
        ("approveChange", "one that is not there", json!({ "digest": "x" })),
        ("denyChange", "one that is not there", why()),
        ("cancelChange", "one that is not there", why()),
        (
            "openBreakGlass",
            "without a sign-in",
            json!({ "identity": "helper", "role": "orders-reader", "reason": "x" }),
        ),
        ("listBreakGlass", "", Value::Null),
        ("getBreakGlass", "one not there", Value::Null),
        ("closeBreakGlass", "one not there", why()),
        ("reviewBreakGlass", "one not there", json!({ "verdict": "justified", "comment": "x" })),
        ("listExceptions", "", Value::Null),
        ("renewException", "one not there", json!({ "expires": "{soon}", "reason": "x" })),
        ("queryEvidence", "", json!({ "filter": { "identity": "helper" }, "limit": 10 })),
        ("tailEvidence", "", json!({ "last": 3 })),
        ("evaluate", "", question.clone()),
        ("evaluateMany", "", json!({ "evaluations": [question] })),
        (
            "submitAccessRequest",
            "no denial of ours",
            json!({ "subject": subject, "action": action, "resource": resource,
                    "denial": { "expires_at": "2026-01-01T00:00:00Z", "binding_token": "x.y.z" } }),
        ),
        ("getAccessRequestTask", "", Value::Null),
        ("cancelAccessRequestTask", "", Value::Null),
        ("searchSubjects", "", json!({ "subject": { "type": "identity" }, "action": action, "resource": resource })),
        ("searchResources", "", json!({ "subject": subject, "action": action, "resource": { "type": "resource" } })),
        ("searchActions", "", json!({ "subject": subject, "resource": resource })),
    ]
}

struct Matrix {
    bench: Bench,
    /// A client for each of [`CALLERS`], with its bearer token.
    callers: Vec<(Client, Option<String>)>,
    base: String,
    /// Each `operationId` with its method and path.
    described: Vec<(String, Method, String)>,
}

impl Matrix {
    async fn start() -> Self {
        let bench = Bench::start().await;
        bench.apply().await;
        let able = |name: &str, capabilities: &[&str]| v1::CatalogObject {
            kind: "Identity".into(),
            name: name.into(),
            spec_json: json!({
                "kind": "agent", "owner": "alice", "purpose": "x", "environment": "test",
                "authenticate": [{ "spiffe": format!("spiffe://example.org/sa/{name}") }],
                "capabilities": capabilities,
            })
            .to_string(),
            ..Default::default()
        };
        let objects = vec![able("helper", &[]), able("spare", &[]), able("enforcer", &["evaluate"])];
        let documents = v1::ApplyRequest { objects, dry_run: false, ..Default::default() };
        let mut catalog = bench.catalog("admin").await;
        catalog.apply(documents).await.unwrap();
        let publish = v1::PublishPolicyRequest { starter: true, reason: "x".into(), ..Default::default() };
        catalog.publish_policy(publish).await.unwrap();

        let joining = format!("{JOIN_PREFIX}three");
        let expires = bench.clock.now().saturating_add(Duration::from_secs(86_400));
        let token = JoinToken { digest: Digest::of(&joining), expires };
        let invited = Invited { name: "three".parse().unwrap(), hosts: Vec::new(), token, scope: Default::default() };
        bench.handle().invite(&Caller::System, invited).await.unwrap();

        let token = |token: String| (bench.https(None).0, Some(token));
        let certificate = |subject: Subject| (bench.https(Some(subject)).0, None);
        let person = |name: &str| token(bench.token(name));
        let callers = vec![
            person("admin"),
            person("carol"),
            person("bob"),
            person("alice"),
            certificate(Subject::Gateway { name: "one".parse().unwrap(), names: Vec::new() }),
            token(joining),
            certificate(Subject::Workload("spiffe://example.org/sa/helper".parse().unwrap())),
            certificate(Subject::Workload("spiffe://example.org/sa/enforcer".parse().unwrap())),
            (bench.https(None).0, None),
            token("pcp_nobody".to_owned()),
        ];
        let base = bench.https(None).1;
        let description = bench.https(None).0.get(format!("{base}/openapi.json")).send().await.unwrap();
        let description: Value = serde_json::from_str(&description.text().await.unwrap()).unwrap();
        let mut described = Vec::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap().iter().filter(|(_, it)| it.is_object()) {
                let method: Method = method.to_uppercase().parse().unwrap();
                described.push((operation["operationId"].as_str().unwrap().to_owned(), method, path.clone()));
            }
        }
        Self { bench, callers, base, described }
    }

    fn asking(&self, caller: usize, method: &Method, path: &str, body: &Value) -> RequestBuilder {
        let (client, token) = &self.callers[caller];
        let mut request = client.request(method.clone(), format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if !body.is_null() {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        request
    }

    async fn ask(&self, caller: &str, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        let caller = CALLERS.iter().position(|name| *name == caller).unwrap();
        let answer = self.asking(caller, method, path, body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null))
    }

    /// Makes a request for access of `helper`; the answer.
    async fn requested(&self, caller: &str, duration: &str) -> Value {
        let body = json!({ "identity": "helper", "role": "orders-reader", "duration": duration, "reason": "x" });
        let (status, made) = self.ask(caller, &Method::POST, "/v1/requests", &body).await;
        assert_eq!(status, 200, "{made}");
        made
    }

    /// One cell of the table.
    async fn cell(&self, caller: &str, method: &Method, path: &str, body: &Value) -> String {
        let of = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
        let (mut path, mut body) = (path.to_owned(), body.clone());
        let mut waits = None;
        if path.starts_with("/v1/requests/{id}") || path.starts_with("/access/v1/requests/{id}") {
            let made = self.requested("developer", "4h").await;
            let (id, digest) = (of(&made, "/request/id"), of(&made, "/request/analysis/digest"));
            path = path.replace("{id}", &id);
            if body.get("digest").is_some() {
                body["digest"] = digest.into();
            }
            waits = Some(id);
        }
        if body.get("expires").is_some() {
            body["expires"] = self.bench.clock.now().saturating_add(BETWEEN).to_string().into();
        }
        if path.starts_with("/v1/grants/{id}") {
            path = path.replace("{id}", &of(&self.requested("identity", "5m").await, "/request/grants/0"));
        }
        if path.starts_with("/v1/changes/{id}") || path.starts_with("/v1/break-glass/{id}") {
            path = path.replace("{id}", &ChangeId::from_bits(0).to_string());
        }
        if path.starts_with("/v1/delegations/{id}") {
            path = path.replace("{id}", &ChangeId::from_bits(0).to_string());
        }
        let path = path.replace("{kind}", "Identity").replace("{name}", "spare");
        let (status, answer) = self.ask(caller, method, &path, &body).await;
        let opened = answer.pointer("/request/id").and_then(Value::as_str).map(str::to_owned);
        let state = answer.pointer("/request/state").and_then(Value::as_str).unwrap_or_default();
        let more = answer.get("code").and_then(Value::as_str).unwrap_or(state);
        let cell = format!("{status} {more}");
        // What is open is taken back: nobody may have a hundred.
        for id in waits.into_iter().chain(opened) {
            let path = format!("/v1/requests/{id}/cancel");
            self.ask("administrator", &Method::POST, &path, &json!({ "reason": "over" })).await;
        }
        self.bench.clock.advance(BETWEEN);
        cell.trim().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_over_http_answers_every_kind_of_caller_as_the_golden_file_says() {
    let matrix = Matrix::start().await;
    let operations = operations();
    let asked: BTreeSet<&str> = operations.iter().map(|(id, _, _)| *id).collect();
    let described: BTreeSet<&str> = matrix.described.iter().map(|(id, _, _)| id.as_str()).collect();
    assert_eq!(asked, described, "an operation that is described is asked here, by every kind of caller");
    let mut table = format!("{:<38}", "");
    table.extend(CALLERS.iter().map(|caller| format!(" {caller:<20}")));
    for (id, special, body) in &operations {
        let (_, method, path) = matrix.described.iter().find(|(described, _, _)| described == id).unwrap();
        let name = if special.is_empty() { (*id).to_owned() } else { format!("{id}: {special}") };
        write!(table, "\n{name:<38}").unwrap();
        for caller in CALLERS {
            write!(table, " {:<20}", matrix.cell(caller, method, path, body).await).unwrap();
        }
    }
    let table = table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n";
    for (line, (id, _, _)) in table.lines().skip(1).zip(&operations) {
        assert_eq!(line.split(' ').filter(|word| *word == "401").count(), 2, "strangers have no way in: {id}: {line}");
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/access-http.txt");
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(table == expected, "who may do what changed; {} is to say:\n{table}", golden.display());
}
