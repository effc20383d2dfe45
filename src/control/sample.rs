//! A small catalog, and a writer over a store in a temporary directory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::authorize::Caller;
use super::catalog::{Document, plan_apply};
use super::grant::{Access, GrantRequest};
use super::model::Model;
use super::plan::{Context, Plan};
use super::record::{Change, Person, Record};
use super::store::SqliteStore;
use super::store::sealed::SealKey;
use super::{ControlHandle, Core};
use crate::domain::Timestamp;
use crate::domain::clock::ManualClock;
use crate::domain::grant::Limits;

pub(super) const CATALOG: &[(&str, &str, &str)] = &[
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

pub(super) fn document(kind: &str, name: &str, spec: &str) -> Document {
    Document { kind: kind.to_owned(), name: name.to_owned(), spec_json: spec.to_owned() }
}

pub(crate) fn documents() -> Vec<Document> {
    CATALOG.iter().map(|(kind, name, spec)| document(kind, name, spec)).collect()
}

pub(super) const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

pub(super) fn context(now: Timestamp) -> Context<'static> {
    Context { caller: &Caller::System, now }
}

/// What a plan leaves of a model.
pub(super) fn carried_out<T>(model: &Model, plan: &Plan<T>) -> Model {
    let mut after = model.clone();
    plan.changes.iter().for_each(|change| after.apply(change, model.revision + 1));
    after.revision += 1;
    after
}

/// The sample catalog.
pub(super) fn model() -> Model {
    let empty = Model { epoch: 1, revision: 1, ..Model::default() };
    let plan = plan_apply(&empty, &context(NOW), &documents()).unwrap();
    carried_out(&empty, &plan)
}

/// The one has the others' accounts besides.
pub(super) fn speaking(model: &Model, one: &str, others: &[&str]) -> Model {
    let person = model.people[&one.parse::<crate::domain::name::OwnerName>().unwrap()].value.as_ref().clone();
    let person = Person { speaks_for: others.iter().map(|other| other.parse().unwrap()).collect(), ..person };
    let mut model = model.clone();
    model.apply(&Change::Put(Record::Person(person)), model.revision + 1);
    model
}

/// Billing reads orders for an hour.
pub(crate) fn request() -> GrantRequest {
    GrantRequest {
        identity: "billing".parse().unwrap(),
        access: Access::Role("orders-reader".parse().unwrap()),
        starts: None,
        duration: Duration::from_secs(3600),
        limits: Limits::default(),
        reason: "month-end run".into(),
        ticket: None,
        until: Vec::new(),
    }
}

/// A writer over the store in `dir`.
pub(super) async fn core(dir: &Path, clock: &Arc<ManualClock>) -> Core {
    let store = SqliteStore::open(&dir.join("control.db"), clock.clone()).unwrap();
    Core::over(Arc::new(store), SealKey::from_bytes(&[7; 32]), clock.clone()).await.unwrap()
}

/// A writer that has the sample catalog.
pub(super) async fn furnished(dir: &Path, clock: &Arc<ManualClock>) -> (Core, ControlHandle) {
    let core = core(dir, clock).await;
    let handle = core.handle().clone();
    handle.apply(&Caller::System, documents(), false).await.unwrap();
    (core, handle)
}
