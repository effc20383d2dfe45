//! Messages and pictures for the tests of this module.

use std::time::Duration;

use crate::decision::snapshot::{IdentityIndex, Snapshot};
use crate::domain::name::{CallId, GrantId};
use crate::domain::{Reason, Timestamp};
use crate::gateway::live::Running;
use crate::wire::v1;

pub(super) const ENDS: Timestamp = Timestamp::from_unix_seconds(1_000);

pub(super) fn object(kind: &str, name: &str, spec: &serde_json::Value) -> v1::CatalogObject {
    let state = if kind == "Identity" { "active" } else { "" };
    v1::CatalogObject {
        kind: kind.into(),
        name: name.into(),
        spec_json: spec.to_string(),
        revision: 1,
        state: state.into(),
    }
}

pub(super) fn identity(subjects: &[&str]) -> v1::CatalogObject {
    let authenticate: Vec<_> =
        subjects.iter().map(|s| serde_json::json!({"issuer": "https://i", "subject": s})).collect();
    object(
        "Identity",
        "billing",
        &serde_json::json!({"kind": "service", "owner": "payments", "purpose": "charges",
            "environment": "production", "authenticate": authenticate}),
    )
}

pub(super) fn resource(authority: &str) -> v1::CatalogObject {
    object("Resource", "api/orders", &serde_json::json!({"owner": "orders", "authority": authority}))
}

pub(super) fn route(name: &str, path: &str) -> v1::CatalogObject {
    object(
        "Route",
        name,
        &serde_json::json!({"upstream": "http://127.0.0.1:9000", "resource": "api/orders",
            "actions": [{"name": "read", "methods": ["GET"], "path": path}]}),
    )
}

pub(super) fn grant(id: u128) -> v1::Grant {
    v1::Grant {
        id: id.to_be_bytes().to_vec(),
        identity: "billing".into(),
        resource: "api/orders".into(),
        actions: vec!["read".into(), "write".into()],
        starts_unix_us: 0,
        ends_unix_us: ENDS.unix_micros(),
        lineage: Some(v1::Lineage { created_by: "alice".into(), ..Default::default() }),
        ..Default::default()
    }
}

pub(super) fn catalog() -> Vec<v1::CatalogObject> {
    vec![identity(&["billing"]), resource("10s"), route("orders", "/v1/orders/**")]
}

pub(super) fn part(revision: u64, objects: Vec<v1::CatalogObject>, grants: Vec<v1::Grant>) -> v1::SnapshotPart {
    v1::SnapshotPart { epoch: 1, revision, objects, grants, revoked_tokens: Vec::new(), last: true }
}

pub(super) fn delta(revision: u64, changes: Vec<v1::change::Change>) -> v1::Delta {
    let changes = changes.into_iter().map(|change| v1::Change { change: Some(change) }).collect();
    v1::Delta { epoch: 1, revision, changes }
}

pub(super) fn ended(id: u128) -> v1::change::Change {
    v1::change::Change::GrantEnded(v1::GrantEnded {
        grant_id: id.to_be_bytes().to_vec(),
        reason: "grant_revoked".into(),
    })
}

pub(super) fn running(snapshot: &Snapshot, call: u128, grant: u128) -> Running {
    Running {
        call: CallId::from_bits(call),
        identity: billing(snapshot),
        route: "orders".parse().unwrap(),
        grant: Some(GrantId::from_bits(grant)),
        exception: None,
        token: None,
        key: None,
        roots: [None, None],
        connection: None,
        ends: ENDS,
        end_reason: Reason::GrantExpired,
        authority_bound: Duration::from_secs(10),
    }
}

pub(super) fn billing(snapshot: &Snapshot) -> IdentityIndex {
    snapshot.identity_place(&"billing".parse().unwrap()).unwrap_or_default()
}
