//! The JSON Schema of an entry (draft 2020-12): what a reader of a log may rely on.
//!
//! It lists every member that version 1 may have. A new member, or a new kind, is a new schema; tests hold it against
//! entries of every kind.

use serde_json::{Map, Value, json};

use super::event::{
    MAX_HOST_BYTES, MAX_LABEL_BYTES, MAX_METHOD_BYTES, MAX_NOTE_BYTES, MAX_PATH_BYTES, MAX_PRINCIPAL_BYTES,
    MAX_SAMPLE_PATH_BYTES, MAX_SAMPLES,
};
use super::{ENTRY_VERSION, Kind, MAX_QUERY_VALUES};
use crate::domain::Reason;
use crate::evidence::checkpoint::MAX_ORIGIN_BYTES;

/// The schema.
pub fn schema() -> Value {
    let kinds: Vec<Value> = KINDS
        .iter()
        .map(|(kind, data)| json!({ "properties": { "kind": { "const": kind.as_str() }, "data": data() } }))
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Portcullis evidence entry, version 1",
        "description": "One record of an evidence log: a canonical JSON object (RFC 8785, integers only) of at most \
                        65,535 bytes. Its bytes are the leaf of the log's Merkle tree. Times are microseconds since the \
                        Unix epoch.",
        "type": "object",
        "additionalProperties": false,
        "required": ["data", "kind", "log", "seq", "time", "v"],
        "properties": {
            "data": { "type": "object", "description": "What happened." },
            "kind": { "enum": KINDS.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>() },
            "log": { "type": "string", "minLength": 1, "maxLength": MAX_ORIGIN_BYTES,
                     "description": "The log's name: the origin of its checkpoints." },
            "seq": { "type": "integer", "minimum": 0, "description": "Its position in the log, from 0." },
            "time": { "type": "integer", "description": "When it got its position; never less than that of the one before." },
            "v": { "const": ENTRY_VERSION },
        },
        "oneOf": kinds,
        "$defs": {
            "id": { "type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$", "description": "128 bits in Crockford's base32 (ULID)." },
            "name": { "type": "string", "minLength": 1, "maxLength": crate::domain::name::MAX_NAME_BYTES },
            "number": { "type": "integer", "minimum": 0 },
            "reason": { "enum": Reason::ALL.iter().map(|reason| reason.code()).collect::<Vec<_>>() },
            "credential": { "enum": ["certificate", "token", "gate_token"] },
            "hashed": { "oneOf": [
                object(&[("bytes", number()), ("hmac", text(MAX_LABEL_BYTES)), ("key", text(MAX_LABEL_BYTES))], &[]),
                object(&[("bytes", number()), ("sha256", text(MAX_LABEL_BYTES))], &[]),
            ] },
            "query": query(),
        },
    })
}

/// The schema of what a kind carries.
type Data = fn() -> Value;

const KINDS: &[(Kind, Data)] = &[
    (Kind::LogOpened, log_opened),
    (Kind::Intent, intent),
    (Kind::Outcome, outcome),
    (Kind::Denial, denial),
    (Kind::Denials, denials),
    (Kind::Refusals, refusals),
    (Kind::TokenIssued, token_issued),
    (Kind::TokenRevoked, token_revoked),
    (Kind::Enforced, enforced),
    (Kind::Change, change),
    (Kind::Recovered, recovered),
    (Kind::Pruned, pruned),
];

fn of(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

fn id() -> Value {
    of("id")
}

fn name() -> Value {
    of("name")
}

fn number() -> Value {
    of("number")
}

fn reason() -> Value {
    of("reason")
}

/// A text that takes at most so many bytes in JSON, and so has no more characters.
fn text(max: usize) -> Value {
    json!({ "type": "string", "maxLength": max })
}

fn time() -> Value {
    json!({ "type": "integer" })
}

fn list(of: &Value) -> Value {
    json!({ "type": "array", "items": of })
}

/// An object with these members and no others: those that it always has, and those that it may have.
fn object(always: &[(&str, Value)], sometimes: &[(&str, Value)]) -> Value {
    let members = always.iter().chain(sometimes).map(|(name, schema)| ((*name).to_owned(), schema.clone()));
    let members: Map<String, Value> = members.collect();
    let required: Vec<&str> = always.iter().map(|(name, _)| *name).collect();
    json!({ "type": "object", "additionalProperties": false, "required": required, "properties": members })
}

fn query() -> Value {
    let value = object(&[("hmac", text(MAX_LABEL_BYTES))], &[("name", text(MAX_LABEL_BYTES))]);
    let values = json!({ "type": "array", "items": value, "maxItems": MAX_QUERY_VALUES });
    object(&[("key", text(MAX_LABEL_BYTES)), ("values", values)], &[("more", number())])
}

fn log_opened() -> Value {
    let (program, boot) = (text(MAX_LABEL_BYTES), text(MAX_LABEL_BYTES));
    object(&[("boot_id", boot), ("incarnation", number()), ("program", program), ("resumed_from", number())], &[])
}

fn intent() -> Value {
    let basis = json!({ "oneOf": [object(&[("grant", id())], &[]), object(&[("exception", name())], &[])] });
    let value = json!({ "oneOf": [{ "type": "string" }, of("hashed")] });
    let parameters = json!({ "type": "object", "propertyNames": of("name"), "additionalProperties": value });
    object(
        &[
            ("action", name()),
            ("authority_age_ms", number()),
            ("basis", basis),
            ("call", id()),
            ("credential", of("credential")),
            ("credential_out", json!({ "enum": ["mint", "none"] })),
            ("decision", json!({ "const": "allow" })),
            ("epoch", number()),
            ("host", text(MAX_HOST_BYTES)),
            ("identity", name()),
            ("method", text(MAX_METHOD_BYTES)),
            ("parameters", parameters),
            ("path", text(MAX_PATH_BYTES)),
            ("peer", text(MAX_LABEL_BYTES)),
            ("principal", text(MAX_PRINCIPAL_BYTES)),
            ("resource", name()),
            ("revision", number()),
            ("route", name()),
            ("upstream", text(MAX_HOST_BYTES)),
        ],
        &[("allotment", id()), ("body", of("hashed")), ("query", of("query")), ("would_refuse", reason())],
    )
}

fn outcome() -> Value {
    let ended = json!({ "enum": ["completed", "client_gone", "upstream_failed", "cut", "panicked", "unknown"] });
    object(
        &[
            ("call", id()),
            ("duration_us", number()),
            ("ended", ended),
            ("intent_seq", number()),
            ("request_bytes", number()),
            ("response_bytes", number()),
            ("upstream_started", json!({ "type": "boolean" })),
        ],
        &[("reason", reason()), ("status", json!({ "type": "integer", "minimum": 100, "maximum": 999 }))],
    )
}

fn denial() -> Value {
    object(
        &[
            ("call", id()),
            ("epoch", number()),
            ("host", text(MAX_HOST_BYTES)),
            ("method", text(MAX_METHOD_BYTES)),
            ("path", text(MAX_PATH_BYTES)),
            ("peer", text(MAX_LABEL_BYTES)),
            ("reason", reason()),
            ("revision", number()),
        ],
        &[
            ("action", name()),
            ("credential", of("credential")),
            ("identity", name()),
            ("principal", text(MAX_PRINCIPAL_BYTES)),
            ("query", of("query")),
            ("resource", name()),
            ("route", name()),
        ],
    )
}

fn denials() -> Value {
    let counted = object(&[("count", number()), ("opened_seq", number()), ("to", time())], &[]);
    let (method, path) = (text(MAX_METHOD_BYTES), text(MAX_SAMPLE_PATH_BYTES));
    let sample = object(&[("call", id()), ("method", method), ("path", path), ("peer", text(MAX_LABEL_BYTES))], &[]);
    let samples = json!({ "type": "array", "items": sample, "maxItems": MAX_SAMPLES });
    object(
        &[("from", time()), ("reason", reason()), ("samples", samples)],
        &[("counted", counted), ("identity", name())],
    )
}

fn refusals() -> Value {
    let count = object(&[("count", number()), ("reason", reason())], &[]);
    let (method, path) = (text(MAX_METHOD_BYTES), text(MAX_SAMPLE_PATH_BYTES));
    let sample = object(&[("method", method), ("path", path), ("peer", text(MAX_LABEL_BYTES))], &[]);
    let samples = json!({ "type": "array", "items": sample, "maxItems": MAX_SAMPLES });
    object(&[("counts", list(&count)), ("from", time()), ("samples", samples), ("to", time())], &[])
}

fn token_issued() -> Value {
    object(
        &[
            ("audience", text(MAX_PRINCIPAL_BYTES)),
            ("call", id()),
            ("expires", time()),
            ("grant", id()),
            ("identity", name()),
            ("jti", text(MAX_LABEL_BYTES)),
            ("kind", json!({ "enum": ["exchange", "certificate"] })),
        ],
        &[("parent_jti", text(MAX_LABEL_BYTES))],
    )
}

fn token_revoked() -> Value {
    object(&[("by", text(MAX_PRINCIPAL_BYTES)), ("call", id()), ("jti", text(MAX_LABEL_BYTES))], &[])
}

fn enforced() -> Value {
    let cut = object(&[("call", id()), ("intent_seq", number()), ("reason", reason())], &[]);
    object(
        &[
            ("cut", list(&cut)),
            ("epoch", number()),
            ("grants_revoked", list(&id())),
            ("revision", number()),
            ("took_us", number()),
        ],
        &[],
    )
}

fn change() -> Value {
    let label = || text(MAX_LABEL_BYTES);
    object(
        &[
            ("actor", text(MAX_PRINCIPAL_BYTES)),
            ("object", label()),
            ("object_kind", label()),
            ("operation", label()),
            ("revision", number()),
        ],
        &[("after", json!({})), ("before_digest", label()), ("reason", text(MAX_NOTE_BYTES))],
    )
}

fn recovered() -> Value {
    object(&[("discarded_frames", number()), ("lost_from", number()), ("note", text(MAX_NOTE_BYTES))], &[])
}

fn pruned() -> Value {
    let policy = text(MAX_LABEL_BYTES);
    object(
        &[("before", number()), ("cosigned", number()), ("from", number()), ("policy", policy)],
        &[("archived", number())],
    )
}
