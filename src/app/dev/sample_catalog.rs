//! The sample catalog, put in place by the control plane itself.
//!
//! What the user has made of it stays: only objects that are not there are put, and the sample route follows the port
//! that the sample upstream got this time.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::directory::Directory;
use super::{TRUST_DOMAIN, issuer};
use crate::app::AppError;
use crate::control::ControlHandle;
use crate::control::authorize::Caller;
use crate::control::catalog::Document;
use crate::control::model::Model;
use crate::domain::route::UpstreamUrl;
use crate::files;

/// Where the sample upstream was the last time.
const SAMPLE_ADDRESS: &str = "sample.address";
/// The host that the sample route takes while every path belongs to the user's own service.
const SAMPLE_HOST: &str = "orders.dev.portcullis.local";

/// The SPIFFE ID of a sample identity.
pub(super) fn spiffe_id(name: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/workload/{name}")
}

/// Puts what is missing, and the routes of this start: as the control plane itself, which needs nobody's word.
pub(super) async fn apply(
    directory: &Directory,
    control: &ControlHandle,
    sample: SocketAddr,
    upstream: Option<&UpstreamUrl>,
) -> Result<(), AppError> {
    let model = control.model();
    let mut objects = Vec::new();
    for (kind, name, spec) in documents() {
        if missing(&model, kind, name) {
            objects.push(object(kind, name, &spec));
        }
    }
    let before = std::fs::read_to_string(directory.at(SAMPLE_ADDRESS)).unwrap_or_default();
    if ours(&model, before.trim()) {
        objects.push(object("Route", "orders", &sample_route(sample, upstream.is_some())));
    }
    if let Some(url) = upstream {
        objects.push(object("Resource", "api/upstream", &json!({ "owner": "bob" })));
        objects.push(object("Route", "upstream", &upstream_route(url)));
    }
    // Before the route names it: a crash in between leaves an address that nothing uses, and the route is put again.
    directory.write(SAMPLE_ADDRESS, format!("{before}\nhttp://{sample}\n").as_bytes(), files::PRIVATE)?;
    if !objects.is_empty() {
        control.apply(&Caller::System, objects, false).await.map_err(AppError::part("sample catalog"))?;
    }
    directory.write(SAMPLE_ADDRESS, format!("http://{sample}\n").as_bytes(), files::PRIVATE)
}

fn missing(model: &Model, kind: &str, name: &str) -> bool {
    match kind {
        "Identity" => !model.identities.keys().any(|it| it.as_str() == name),
        "Resource" => !model.resources.keys().any(|it| it.as_str() == name),
        _ => !model.roles.keys().any(|it| it.as_str() == name),
    }
}

/// Whether the route `orders` is missing, or goes to where a sample upstream was: then it is ours to move.
fn ours(model: &Model, before: &str) -> bool {
    let route = model.routes.values().find(|kept| kept.value.name.as_str() == "orders");
    route.is_none_or(|kept| {
        let upstream = kept.value.spec.upstream.to_string();
        before.lines().any(|address| !address.is_empty() && address == upstream)
    })
}

fn object(kind: &str, name: &str, spec: &Value) -> Document {
    Document { kind: kind.to_owned(), name: name.to_owned(), spec_json: spec.to_string() }
}

/// Everything but routes.
fn documents() -> Vec<(&'static str, &'static str, Value)> {
    let identity = |name: &str, kind: &str, owner: &str, purpose: &str| {
        json!({
            "kind": kind,
            "owner": owner,
            "purpose": purpose,
            "environment": "development",
            "authenticate": [
                { "spiffe": spiffe_id(name) },
                { "issuer": issuer::ISSUER, "subject": name },
            ],
        })
    };
    let role = |actions: &[&str]| json!({ "permissions": [{ "resource": "api/orders", "actions": actions }] });
    vec![
        ("Identity", "billing", identity("billing", "service", "alice", "charges customers nightly")),
        ("Identity", "deployer", identity("deployer", "pipeline", "alice", "ships what was merged")),
        ("Identity", "helper", identity("helper", "agent", "alice", "answers questions about orders")),
        ("Resource", "api/orders", json!({ "owner": "bob", "sensitivity": "high", "authority": "10s" })),
        ("Role", "orders-reader", role(&["read"])),
        ("Role", "orders-writer", role(&["read", "write"])),
    ]
}

fn sample_route(sample: SocketAddr, aside: bool) -> Value {
    let read = json!(["GET", "HEAD"]);
    let write = json!(["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);
    let action = |name: &str, methods: &Value, path: &str| json!({ "name": name, "methods": methods, "path": path });
    let mut route = json!({
        "upstream": format!("http://{sample}"),
        "resource": "api/orders",
        "actions": [
            action("read", &read, "/v1/orders/**"),
            action("write", &write, "/v1/orders/**"),
            action("read", &read, "/v1/orders/events"),
            action("write", &write, "/v1/orders/events"),
            action("read", &read, "/v1/orders/socket"),
            action("write", &write, "/v1/orders/socket"),
            action("read", &read, "/v1/orders/{order}"),
            action("write", &write, "/v1/orders/{order}"),
        ],
        "credential": "mint",
    });
    if let (true, Some(route)) = (aside, route.as_object_mut()) {
        route.insert("host".to_owned(), SAMPLE_HOST.into());
    }
    route
}

fn upstream_route(url: &UpstreamUrl) -> Value {
    json!({
        "upstream": url.to_string(),
        "resource": "api/upstream",
        "actions": [
            { "name": "read", "methods": ["GET", "HEAD"], "path": "/**" },
            { "name": "write", "methods": ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"], "path": "/**" },
        ],
        "credential": "mint",
    })
}
