//! A small catalog, and a writer over a store in a temporary directory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::authorize::Caller;
use super::super::catalog::{Document, plan_apply};
use super::super::grant::{Access, GrantRequest};
use super::super::model::Model;
use super::super::plan::{Context, Plan};
use super::super::store::SqliteStore;
use super::super::store::sealed::SealKey;
use super::super::{ControlHandle, Core};
use crate::domain::Timestamp;
use crate::domain::clock::ManualClock;
use crate::domain::grant::Limits;

pub(in crate::control) const CATALOG: &[(&str, &str, &str)] = &[
    (
        "Identity",
        "billing",
        r#"{"kind":"service","owner":"payments","purpose":"charges customers","environment":"production",
            "authenticate":[{"spiffe":"spiffe://example.org/sa/billing"}]}"#,
    ),
    ("Resource", "api/orders", r#"{"owner":"orders","sensitivity":"high","authority":"10s"}"#),
    (
        "Route",
        "orders",
        r#"{"upstream":"http://127.0.0.1:9000","resource":"api/orders","actions":[
            {"name":"read","methods":["GET","HEAD"],"path":"/v1/orders/**"},
            {"name":"write","methods":["POST","DELETE"],"path":"/v1/orders/{order}"}]}"#,
    ),
    ("Role", "orders-reader", r#"{"permissions":[{"resource":"api/orders","actions":["read"]}]}"#),
];

pub(in crate::control) fn document(kind: &str, name: &str, spec: &str) -> Document {
    Document { kind: kind.to_owned(), name: name.to_owned(), spec_json: spec.to_owned() }
}

pub(in crate::control) fn documents() -> Vec<Document> {
    CATALOG.iter().map(|(kind, name, spec)| document(kind, name, spec)).collect()
}

pub(in crate::control) const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

pub(in crate::control) fn context(now: Timestamp) -> Context<'static> {
    Context { caller: &Caller::System, now }
}

/// What a plan leaves of a model.
pub(in crate::control) fn carried_out<T>(model: &Model, plan: &Plan<T>) -> Model {
    let mut after = model.clone();
    plan.changes.iter().for_each(|change| after.apply(change, model.revision + 1));
    after.revision += 1;
    after
}

/// The sample catalog.
pub(in crate::control) fn model() -> Model {
    let empty = Model { epoch: 1, revision: 1, ..Model::default() };
    let plan = plan_apply(&empty, &context(NOW), &documents()).unwrap();
    carried_out(&empty, &plan)
}

/// Billing reads orders for an hour.
pub(in crate::control) fn request() -> GrantRequest {
    GrantRequest {
        identity: "billing".parse().unwrap(),
        access: Access::Role("orders-reader".parse().unwrap()),
        starts: None,
        duration: Duration::from_secs(3600),
        limits: Limits::default(),
        reason: "month-end run".into(),
        ticket: None,
    }
}

/// A writer over the store in `dir`.
pub(in crate::control) async fn core(dir: &Path, clock: &Arc<ManualClock>) -> Core {
    let store = SqliteStore::open(&dir.join("control.db"), clock.clone()).unwrap();
    Core::over(Arc::new(store), SealKey::from_bytes(&[7; 32]), clock.clone()).await.unwrap()
}

/// A writer that has the sample catalog.
pub(in crate::control) async fn furnished(dir: &Path, clock: &Arc<ManualClock>) -> (Core, ControlHandle) {
    let core = core(dir, clock).await;
    let handle = core.handle().clone();
    handle.apply(&Caller::System, documents(), false).await.unwrap();
    (core, handle)
}
