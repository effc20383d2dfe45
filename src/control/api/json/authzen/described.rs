//! Access requests of AuthZEN, as OpenAPI describes them.

use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use super::requestable::REQUESTS;
use super::requests::Submission;

/// Paths with what can be done there.
pub(in super::super) fn described(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let body = generator.subschema_for::<Submission>();
    let key = json!({
        "name": "Idempotency-Key", "in": "header", "required": false,
        "description": "Asking again with the same key within a day is the same task. Without one, the denial is the key.",
        "schema": { "type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!#-~]+$" },
    });
    let id = json!({
        "name": "id", "in": "path", "required": true, "schema": { "type": "string", "minLength": 1, "maxLength": 128 },
    });
    let submit = json!({
        "operationId": "submitAccessRequest",
        "summary": "AuthZEN Access Request and Approval Profile: asks for access after a denial that says it can be asked for.",
        "parameters": [key],
        "requestBody": { "required": true, "content": { "application/json": { "schema": body } } },
        "responses": { "201": task("Settled already."), "202": task("It waits."), "default": problem() },
    });
    let look = json!({
        "operationId": "getAccessRequestTask",
        "summary": "AuthZEN Access Request and Approval Profile: how a task stands; `Retry-After` says when to look again.",
        "parameters": [id],
        "responses": { "200": task("The task."), "default": problem() },
    });
    let cancel = json!({
        "operationId": "cancelAccessRequestTask",
        "summary": "AuthZEN Access Request and Approval Profile: takes back a task that waits.",
        "parameters": [id],
        "responses": { "200": task("The task."), "default": problem() },
    });
    let paths = [
        (REQUESTS.to_owned(), json!({ "post": submit })),
        (format!("{REQUESTS}/{{id}}"), json!({ "get": look })),
        (format!("{REQUESTS}/{{id}}/cancel"), json!({ "post": cancel })),
    ];
    paths.into_iter().collect()
}

fn problem() -> Value {
    json!({ "description": "Not done.", "content": { "application/problem+json": {
        "schema": { "$ref": "#/components/schemas/Problem" } } } })
}

/// Sections "Task Handle" and "Approval Result".
fn task(description: &str) -> Value {
    let text = || json!({ "type": "string" });
    json!({ "description": description, "content": { "application/json": { "schema": {
        "type": "object",
        "required": ["task"],
        "properties": {
            "task": {
                "type": "object",
                "required": ["id", "status", "status_endpoint"],
                "properties": {
                    "id": text(),
                    "status": { "enum": ["pending", "approved", "denied", "expired", "cancelled"] },
                    "status_endpoint": text(),
                    "expires_at": text(),
                    "progress": { "type": "object" },
                    "display": { "type": "object" },
                    "links": { "type": "object" },
                },
            },
            "result": {
                "type": "object",
                "required": ["mode", "approval"],
                "properties": {
                    "mode": { "const": "reevaluate" },
                    "approval": {
                        "type": "object",
                        "required": ["id", "approved_until", "state"],
                        "properties": {
                            "id": text(), "approved_at": text(), "approved_until": text(), "state": text(),
                        },
                    },
                },
            },
        },
    } } } })
}
