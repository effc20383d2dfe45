//! The sample catalog, applied through the API as anybody would apply theirs.
//!
//! What the user has made of it stays: only objects that are not there are put, and the sample route follows the port
//! that the sample upstream got this time.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::directory::Directory;
use super::{TRUST_DOMAIN, issuer};
use crate::app::AppError;
use crate::client::target::client_token;
use crate::client::{Client, ClientError, Refusal, Target};
use crate::domain::route::UpstreamUrl;
use crate::files;
use crate::wire::v1;

/// Where the sample upstream was the last time.
const SAMPLE_ADDRESS: &str = "sample.address";
/// The host that the sample route takes while every path belongs to the user's own service.
const SAMPLE_HOST: &str = "orders.dev.portcullis.local";

/// The SPIFFE ID of a sample identity.
pub(super) fn spiffe_id(name: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/workload/{name}")
}

/// Puts what is missing, and the routes of this start.
pub(super) async fn apply(
    directory: &Directory,
    control: &str,
    sample: SocketAddr,
    upstream: Option<&UpstreamUrl>,
) -> Result<(), AppError> {
    let mut client = connect(directory, control).await?;
    let mut objects = Vec::new();
    for (kind, name, spec) in documents() {
        if missing(&mut client, kind, name).await? {
            objects.push(object(kind, name, &spec));
        }
    }
    let before = std::fs::read_to_string(directory.at(SAMPLE_ADDRESS)).unwrap_or_default();
    if ours(&mut client, before.trim()).await? {
        objects.push(object("Route", "orders", &sample_route(sample, upstream.is_some())));
    }
    if let Some(url) = upstream {
        objects.push(object("Resource", "api/upstream", &json!({ "owner": "bob" })));
        objects.push(object("Route", "upstream", &upstream_route(url)));
    }
    // Before the route names it: a crash in between leaves an address that nothing uses, and the route is put again.
    directory.write(SAMPLE_ADDRESS, format!("{before}\nhttp://{sample}\n").as_bytes(), files::PRIVATE)?;
    if !objects.is_empty() {
        client.apply(v1::ApplyRequest { objects, dry_run: false }).await.map_err(fail)?;
    }
    directory.write(SAMPLE_ADDRESS, format!("http://{sample}\n").as_bytes(), files::PRIVATE)
}

fn fail(error: ClientError) -> AppError {
    AppError::Part { part: "sample catalog", why: error.to_string() }
}

async fn connect(directory: &Directory, control: &str) -> Result<Client, AppError> {
    let ca = directory.at("ca.pem");
    let target = Target {
        address: control.to_owned(),
        ca_pem: std::fs::read(&ca).map_err(AppError::io(format!("cannot read {}", ca.display())))?,
        token: Some(client_token(&directory.at("people/administrator")).map_err(|e| fail(e.into()))?),
        signed_in: None,
        certificate: None,
    };
    Client::connect(&target).await.map_err(fail)
}

async fn missing(client: &mut Client, kind: &str, name: &str) -> Result<bool, AppError> {
    match client.object(kind, name).await {
        Ok(_) => Ok(false),
        Err(error) if error.refusal() == Some(Refusal::NotFound) => Ok(true),
        Err(error) => Err(fail(error)),
    }
}

/// Whether the route `orders` is missing, or goes to where a sample upstream was: then it is ours to move.
async fn ours(client: &mut Client, before: &str) -> Result<bool, AppError> {
    match client.object("Route", "orders").await {
        Ok(route) => {
            let spec: Value = serde_json::from_str(&route.spec_json).unwrap_or_default();
            let upstream = spec.get("upstream").and_then(Value::as_str).unwrap_or_default();
            Ok(before.lines().any(|address| !address.is_empty() && address == upstream))
        }
        Err(error) if error.refusal() == Some(Refusal::NotFound) => Ok(true),
        Err(error) => Err(fail(error)),
    }
}

fn object(kind: &str, name: &str, spec: &Value) -> v1::CatalogObject {
    v1::CatalogObject {
        kind: kind.to_owned(),
        name: name.to_owned(),
        spec_json: spec.to_string(),
        ..v1::CatalogObject::default()
    }
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
