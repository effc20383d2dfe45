//! The API's description, OpenAPI 3.1: from the table that makes its routes.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::authzen::{self, Endpoint};
use super::{Operation, Takes};

/// Where the description keeps what several operations speak of.
const SCHEMAS: &str = "/components/schemas";

/// Describes operations that are reached at `base`.
pub(super) fn describe(operations: &[Operation], base: &str) -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = SCHEMAS.into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for operation in operations {
        let described = one(operation, &mut generator);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        if let Value::Object(verbs) = path {
            verbs.insert(operation.verb.as_str().to_owned(), described);
        }
    }
    for endpoint in authzen::endpoints() {
        paths.insert(endpoint.path.to_owned(), json!({ "post": question(&endpoint, &mut generator) }));
    }
    paths.extend(authzen::described(&mut generator));
    let mut schemas = Value::Object(generator.take_definitions(true));
    if let Value::Object(schemas) = &mut schemas {
        schemas.insert("Problem".to_owned(), problem());
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Portcullis control plane",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Ask for access, decide, end it, and look at what there is. Requests, grants, receipts and policies \
                            are the documents that `portcullis … -o json` prints.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": base }],
        "security": [{ "person": [] }, { "certificate": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "person": { "type": "http", "scheme": "bearer", "description": "A person's token." },
                "certificate": { "type": "mutualTLS", "description": "An identity's X.509-SVID, at the address with TLS." },
            },
        },
    })
}

fn one(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = in_path(operation.path).map(path_parameter).collect();
    if operation.is_keyed {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "Asking again with the same key within a day does nothing more.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!#-~]+$" },
        }));
    }
    let input = match operation.takes {
        Takes::Nothing => None,
        Takes::Query => {
            parameters.extend(query_parameters(operation, generator));
            None
        }
        Takes::Body => Some((operation.input)(generator)),
    };
    let answer = (operation.answer)(generator);
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {
            operation.status.as_str(): { "description": "Done.", "content": { "application/json": { "schema": answer } } },
            "default": { "description": "Not done.", "content": { "application/problem+json": {
                "schema": { "$ref": format!("#{SCHEMAS}/Problem") } } } },
        },
    });
    if let (Some(input), Value::Object(described)) = (input, &mut described) {
        let body = json!({ "required": true, "content": { "application/json": { "schema": input } } });
        described.insert("requestBody".to_owned(), body);
    }
    described
}

/// A question of AuthZEN's: its errors are messages.
fn question(endpoint: &Endpoint, generator: &mut SchemaGenerator) -> Value {
    let input = (endpoint.input)(generator);
    json!({
        "operationId": endpoint.id,
        "summary": endpoint.summary,
        "parameters": [{
            "name": "X-Request-ID", "in": "header", "required": false, "schema": { "type": "string" },
            "description": "Echoed.",
        }],
        "requestBody": { "required": true, "content": { "application/json": { "schema": input } } },
        "responses": {
            "200": { "description": "Answered.", "content": { "application/json": { "schema": { "type": "object" } } } },
            "default": { "description": "Not answered.", "content": { "text/plain": { "schema": { "type": "string" } } } },
        },
    })
}

/// The names in `{…}`.
fn in_path(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn path_parameter(name: &str) -> Value {
    let schema = match name {
        "id" => json!({ "type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$" }),
        _ => json!({ "type": "string", "minLength": 1, "maxLength": 128 }),
    };
    json!({ "name": name, "in": "path", "required": true, "schema": schema })
}

/// The fields of an input as parameters of the query.
fn query_parameters(operation: &Operation, generator: &mut SchemaGenerator) -> Vec<Value> {
    let reference = (operation.input)(generator);
    let name = reference.get("$ref").and_then(Value::as_str).and_then(|text| text.rsplit('/').next());
    let Some(schema) = name.and_then(|name| generator.definitions().get(name)).cloned() else { return Vec::new() };
    let required = |name: &str| {
        schema.get("required").and_then(Value::as_array).is_some_and(|all| all.iter().any(|one| one == name))
    };
    let Some(fields) = schema.get("properties").and_then(Value::as_object) else { return Vec::new() };
    let parameter = |(name, field): (&String, &Value)| {
        let mut field = field.clone();
        let description = field.as_object_mut().and_then(|field| field.remove("description"));
        json!({
            "name": name, "in": "query", "required": required(name), "schema": field,
            "description": description.unwrap_or_default(),
        })
    };
    fields.iter().map(parameter).collect()
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457. `code` is stable; `detail` is for people.",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "code": { "type": "string" },
        },
    })
}
