//! Access Request and Approval Profile (Draft 1): asking for access after a denial, how that stands, taking it back.
//!
//! A task is a request, and what may be asked for by whom is policy's to say. One item at a time; callbacks are not taken:
//! whoever asks looks again.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::binding::{Approval, Denial, Kind, bound};
use super::entities::{Action, Entity};
use super::requestable::{Named, Profile, REQUESTS, USUAL};
use super::{MAX_BODY_BYTES, Served, body_of, json_of, read};
use crate::control::api::authorized;
use crate::control::api::json::problem::Problem;
use crate::control::api::json::{IDEMPOTENCY_KEY, PeerCertificate, key_of};
use crate::control::authorize::{Caller, Operation};
use crate::control::plan::MAX_REASON_CHARS;
use crate::domain::Timestamp;
use crate::domain::name::RequestId;
use crate::domain::request::{Access, Request as Asked, State};
use crate::domain::resource::Span;
use crate::wire::answers::RequestAnswer;
use crate::wire::v1;
use v1::access_server::Access as _;

/// How long whoever looks waits before looking again.
const LOOK_AGAIN: &str = "5";

/// Section "Access Request Submission". What is not known is ignored.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "AccessRequestSubmission")]
pub(super) struct Submission {
    /// As it was asked about.
    subject: Entity,
    /// As it was asked about.
    resource: Entity,
    /// As it was asked about.
    action: Action,
    /// What the denial said.
    denial: Echo,
    /// As it was asked about; and why, in `justification`.
    #[serde(default)]
    context: Map<String, Value>,
    /// For how long.
    #[serde(default)]
    requested_access: Wanted,
    /// Not taken.
    #[serde(default)]
    callback: Option<Value>,
    /// Not taken.
    #[serde(default)]
    items: Option<Value>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "AccessRequestDenial")]
struct Echo {
    expires_at: Timestamp,
    #[serde(default)]
    binding_token: Option<String>,
    #[serde(default)]
    evaluation_id: Option<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "RequestedAccess")]
struct Wanted {
    /// Until when. Without it, a quarter of an hour from when it is granted.
    #[serde(default)]
    requested_until: Option<Timestamp>,
    /// Not taken.
    #[serde(default)]
    emergency: bool,
}

pub(super) fn router(served: &Arc<Served>, profile: &Arc<Profile>) -> Router {
    let both = || (served.clone(), profile.clone());
    let (one, two, three) = (both(), both(), both());
    let submit = move |request: Request| {
        let (served, profile) = one.clone();
        async move { submitted(&served, &profile, request).await.unwrap_or_else(IntoResponse::into_response) }
    };
    let look = move |id: Result<Path<String>, PathRejection>, request: Request| {
        let (served, profile) = two.clone();
        async move { looked(&served, &profile, id, request).await.unwrap_or_else(IntoResponse::into_response) }
    };
    let cancel = move |id: Result<Path<String>, PathRejection>, request: Request| {
        let (served, profile) = three.clone();
        async move { cancelled(&served, &profile, id, request).await.unwrap_or_else(IntoResponse::into_response) }
    };
    Router::new()
        .route(REQUESTS, post(submit))
        .route(&format!("{REQUESTS}/{{id}}"), get(look))
        .route(&format!("{REQUESTS}/{{id}}/cancel"), post(cancel))
}

fn message<M>(caller: &Caller, message: M) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    request.extensions_mut().insert(caller.clone());
    request
}

async fn submitted(served: &Served, profile: &Profile, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let caller = served.identifier.http(&parts.headers, parts.extensions.get::<PeerCertificate>())?;
    authorized(&served.identifier.handle, &message(&caller, ()), Operation::CreateRequest, None).await?;
    let mut keys = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = match (keys.next(), keys.next()) {
        (key, None) => key.map(key_of).transpose()?,
        (_, Some(_)) => return Err(Problem::invalid("idempotency-key: stands twice")),
    };
    let body = body_of(&parts.headers, body, MAX_BODY_BYTES.min(served.max_body_bytes)).await?;
    let asked = wanted(served, profile, &caller, &body, key)?;
    let done = served.access.create_request(message(&caller, asked)).await.map_err(|status| {
        let problem = Problem::from(status);
        match problem.code() {
            "conflict" => Problem::of_access_request(StatusCode::CONFLICT, "duplicate_request", problem.detail()),
            _ => problem,
        }
    })?;
    let request = RequestAnswer::of(done.into_inner(), false, served.now())?.request;
    let status = if request.is_open() { StatusCode::ACCEPTED } else { StatusCode::CREATED };
    let mut response = answered(served, profile, status, &request).await?;
    if let Ok(place) = HeaderValue::from_str(&place(profile, request.id)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

/// What is asked for, by what a denial bound.
fn wanted(
    served: &Served,
    profile: &Profile,
    caller: &Caller,
    body: &Bytes,
    key: Option<String>,
) -> Result<v1::CreateRequestRequest, Problem> {
    let question: Value = read(body)?;
    let it: Submission = read(body)?;
    if it.callback.is_some() || it.items.is_some() {
        return Err(Problem::invalid(
            "callbacks and several items are not taken: ask for one, and look at `status_endpoint`",
        ));
    }
    if it.requested_access.emergency {
        return Err(Problem::invalid("requested_access.emergency: not by this way"));
    }
    let denial = denial(profile, caller, &question, &it.denial, served.now())?;
    let model = served.identifier.handle.model();
    let named = it.subject.identity(&model).zip(it.resource.resource(&model)).zip(it.action.name.parse().ok());
    let named =
        named.map(|(((identity, _), (resource, parameters)), action)| Named { identity, action, resource, parameters });
    let gone = || {
        Problem::of_access_request(StatusCode::BAD_REQUEST, "not_requestable", "what it names is not there any more")
    };
    let named = named.filter(|named| named.identity == denial.identity).ok_or_else(gone)?;
    // Until a moment: what is approved later is shorter for it.
    let began = Timestamp::from_unix_seconds(denial.iat);
    let (starts, duration) = match it.requested_access.requested_until {
        None => (None, USUAL),
        Some(until) if until <= served.now() => {
            return Err(Problem::invalid("requested_access.requested_until: is over"));
        }
        Some(until) => (Some(began), Span::new(until.saturating_since(began))),
    };
    let why = it.context.get("justification").and_then(Value::as_str).map(str::trim).filter(|why| !why.is_empty());
    let why: String = why.unwrap_or("asked for after a denial, by AuthZEN").chars().take(MAX_REASON_CHARS).collect();
    let ask = named.ask(&model, starts, duration, &why);
    let Access::Resource(permission) = &ask.access else { return Err(gone()) };
    Ok(v1::CreateRequestRequest {
        identity: ask.identity.to_string(),
        resource: permission.resource.to_string(),
        actions: permission.actions.iter().map(ToString::to_string).collect(),
        starts_unix_us: ask.starts.map_or(0, Timestamp::unix_micros),
        duration_ms: super::super::shapes::millis(Some(ask.duration)),
        limits: (!ask.limits.is_empty()).then(|| (&ask.limits).into()),
        reason: ask.reason,
        // One denial is asked for once.
        key: key.unwrap_or(denial.jti),
        ..Default::default()
    })
}

/// The denial that access is asked for after: ours, of this question, to this caller or to the subject itself, and fresh.
fn denial(
    profile: &Profile,
    caller: &Caller,
    question: &Value,
    echo: &Echo,
    now: Timestamp,
) -> Result<Denial, Problem> {
    let bad = |why: &str| Problem::of_access_request(StatusCode::BAD_REQUEST, "invalid_denial_binding", why);
    let token = echo.binding_token.as_deref();
    let token =
        token.ok_or_else(|| bad("denial.binding_token: evaluations are not kept, and this is what binds one"))?;
    let denial: Denial =
        profile.binding.read(Kind::Denial, token).ok_or_else(|| bad("denial.binding_token: is not ours"))?;
    let itself = matches!(caller, Caller::Identity(name) if *name == denial.identity);
    if !profile.is_ours(&denial.iss, &denial.aud) || !(itself || denial.asked_by == caller.to_string()) {
        return Err(bad("denial.binding_token: is somebody else's"));
    }
    if denial.bound != bound(question) {
        return Err(bad("subject, resource, action and context.ip are not those of the denial"));
    }
    if echo.expires_at != Timestamp::from_unix_seconds(denial.exp)
        || echo.evaluation_id.as_ref().is_some_and(|id| *id != denial.jti)
    {
        return Err(bad("denial: its members are not those that it had"));
    }
    if now.unix_seconds() >= denial.exp {
        return Err(Problem::of_access_request(StatusCode::GONE, "expired_denial", "the denial is too old: ask again"));
    }
    Ok(denial)
}

/// A task's identifier; what is none is unknown.
fn task(id: Result<Path<String>, PathRejection>) -> Result<RequestId, Problem> {
    id.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(unknown)
}

fn unknown() -> Problem {
    Problem::of_access_request(StatusCode::NOT_FOUND, "unknown_task", "there is no such task")
}

async fn known(served: &Served, caller: &Caller, id: RequestId) -> Result<Asked, Problem> {
    let get = v1::GetRequestRequest { id: id.bits().to_be_bytes().to_vec(), wait_ms: 0 };
    let done = served
        .access
        .get_request(message(caller, get))
        .await
        .map_err(|status| if status.code() == tonic::Code::NotFound { unknown() } else { Problem::from(status) })?;
    Ok(RequestAnswer::of(done.into_inner(), false, served.now())?.request)
}

async fn looked(
    served: &Served,
    profile: &Profile,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let caller = served.identifier.http(&parts.headers, parts.extensions.get::<PeerCertificate>())?;
    let request = known(served, &caller, task(id)?).await?;
    answered(served, profile, StatusCode::OK, &request).await
}

async fn cancelled(
    served: &Served,
    profile: &Profile,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let caller = served.identifier.http(&parts.headers, parts.extensions.get::<PeerCertificate>())?;
    let id = task(id)?;
    let over = |detail: &str| Problem::of_access_request(StatusCode::CONFLICT, "invalid_task_state", detail);
    let before = known(served, &caller, id).await?;
    if !before.is_open() {
        return Err(over(&format!("the task is {} already", status(before.state))));
    }
    let reason = "taken back, by AuthZEN".to_owned();
    let cancel = v1::CancelRequestRequest { id: id.bits().to_be_bytes().to_vec(), reason, wait_ms: 0 };
    let done = served.access.cancel_request(message(&caller, cancel)).await.map_err(|status| match status.code() {
        tonic::Code::NotFound => unknown(),
        tonic::Code::Aborted => over("the task has ended meanwhile"),
        _ => Problem::from(status),
    })?;
    let request = RequestAnswer::of(done.into_inner(), false, served.now())?.request;
    answered(served, profile, StatusCode::OK, &request).await
}

/// As the profile names it.
const fn status(state: State) -> &'static str {
    match state {
        State::Pending => "pending",
        State::Granted => "approved",
        State::Denied => "denied",
        State::Cancelled => "cancelled",
        State::Expired => "expired",
    }
}

fn place(profile: &Profile, id: RequestId) -> String {
    format!("{}/{id}", profile.endpoint())
}

/// Sections "Task Handle" and "Approval Result".
async fn answered(served: &Served, profile: &Profile, code: StatusCode, it: &Asked) -> Result<Response, Problem> {
    let place = place(profile, it.id);
    let shown = format!("{}/v1/requests/{}", profile.base, it.id);
    let links = match it.is_open() {
        true => json!({ "ticket": shown, "review": shown, "cancel": format!("{place}/cancel") }),
        false => json!({ "ticket": shown }),
    };
    let task = [
        ("id", Some(json!(it.id))),
        ("status", Some(json!(status(it.state)))),
        ("status_endpoint", Some(json!(place))),
        ("expires_at", Some(json!(it.expires))),
        ("progress", it.is_open().then(|| progress(it))),
        ("display", it.settled.as_ref().map(|settled| json!({ "description": settled.reason }))),
        ("links", Some(links)),
    ];
    let task: Map<String, Value> =
        task.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let answer = match it.state {
        State::Granted => {
            let approval = approval(served, profile, it).await?;
            json!({ "task": task, "result": { "mode": "reevaluate", "approval": approval } })
        }
        State::Pending | State::Denied | State::Cancelled | State::Expired => json!({ "task": task }),
    };
    let mut response = json_of(code, answer.to_string().into_bytes());
    if it.is_open() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(LOOK_AGAIN));
    }
    Ok(response)
}

/// Which stage it is at, and whose word it waits for.
fn progress(it: &Asked) -> Value {
    let order = it.turn().order;
    let orders: std::collections::BTreeSet<u32> = it.analysis.stages.iter().map(|stage| stage.order).collect();
    let step = orders.iter().position(|one| *one == order).map_or(1, |place| place.saturating_add(1));
    let awaiting = it.analysis.stages.iter().filter(|stage| stage.order == order);
    let awaiting: Vec<String> = awaiting.map(|stage| stage.approvers.to_string()).collect();
    json!({ "current_step": step, "total_steps": orders.len().max(1), "awaiting": awaiting })
}

async fn approval(served: &Served, profile: &Profile, it: &Asked) -> Result<Value, Problem> {
    let id = it.grants.first().ok_or_else(Problem::internal)?;
    let (record, _) = served.identifier.handle.grant(*id).await.map_err(super::super::super::error::refused)?;
    let grant = record.grant;
    let at = grant.lineage.created;
    let claims = Approval {
        iss: profile.base.clone(),
        aud: profile.endpoint(),
        jti: grant.id,
        iat: at.unix_seconds(),
        exp: grant.window.ends.unix_seconds(),
        request: it.id,
        identity: grant.identity,
        resource: grant.resource,
        actions: grant.actions,
    };
    Ok(json!({
        "id": claims.jti,
        "approved_at": Timestamp::from_unix_seconds(claims.iat),
        "approved_until": Timestamp::from_unix_seconds(claims.exp),
        "state": profile.binding.sign(Kind::Approval, &claims),
    }))
}
