//! The HTTP API: what the gRPC services do, as JSON.
//!
//! One table, [`operations`], makes the routes and their OpenAPI description. A request becomes the message that the
//! service takes, with the caller that [`Identifier`] found; the answer becomes JSON. What somebody may is decided in the
//! services alone. [`authzen`] is the same for those who speak AuthZEN.

mod authzen;
mod openapi;
mod operations;
mod problem;
mod shapes;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, get, on};
use futures_util::future::BoxFuture;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use super::super::authorize::Caller;
use super::super::tickets::Desk;
use super::access::AccessService;
use super::catalog::CatalogService;
use super::evidence::EvidenceService;
use super::identify::Identifier;
use crate::domain::Timestamp;
use crate::serve::PeerCertificate;
use problem::Problem;

/// Nesting accepted: documents of the catalog stay well under it.
const MAX_DEPTH: usize = 24;
/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// What a request is called by its maker, so that the same is not made twice (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What the API serves from.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) access: AccessService,
    pub(super) catalog: CatalogService,
    pub(super) evidence: EvidenceService,
    pub(super) identifier: Identifier,
    /// Where webhooks arrive.
    pub(super) desk: Desk,
    /// Longest body.
    pub(super) max_body_bytes: usize,
    /// Where callers reach it.
    pub(super) base: String,
    /// Places of those who have something worked out that takes a while.
    pub(super) thinking: Arc<Semaphore>,
}

impl Served {
    fn now(&self) -> Timestamp {
        self.identifier.handle.shared().clock.now()
    }
}

/// A request whose caller is known and whose input reads.
struct Received<I> {
    caller: Caller,
    path: Vec<(String, String)>,
    key: Option<String>,
    input: I,
}

impl<I> Received<I> {
    /// Who asks, and the input by itself.
    fn split(self) -> (Received<()>, I) {
        let Self { caller, path, key, input } = self;
        (Received { caller, path, key, input: () }, input)
    }

    /// A part of the path.
    fn part<T: std::str::FromStr>(&self, name: &str) -> Result<T, Problem>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.path.iter().find(|(part, _)| part == name).map_or("", |(_, text)| text.as_str());
        text.parse().map_err(|error| Problem::invalid(format!("{name}: {error}")))
    }

    /// The message that a service takes, of the same caller.
    fn message<M>(&self, message: M) -> tonic::Request<M> {
        let mut request = tonic::Request::new(message);
        request.extensions_mut().insert(self.caller.clone());
        request
    }
}

/// Where an operation's input stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    Query,
    Body,
}

/// How an operation is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Get,
    Post,
    Put,
}

impl Verb {
    const fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Put => MethodFilter::PUT,
        }
    }

    /// As OpenAPI names it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::Put => "put",
        }
    }
}

type Run = Box<dyn Fn(Arc<Served>, Received<Input>) -> BoxFuture<'static, Result<Response, Problem>> + Send + Sync>;
type Describe = fn(&mut SchemaGenerator) -> Schema;

/// An input as it came.
struct Input {
    uri: Uri,
    body: Bytes,
}

/// A row of the table.
struct Operation {
    verb: Verb,
    path: &'static str,
    /// Its `operationId`.
    id: &'static str,
    summary: &'static str,
    takes: Takes,
    /// Whether asking twice with the same key does it once.
    is_keyed: bool,
    input: Describe,
    answer: Describe,
    status: StatusCode,
    run: Run,
}

impl Operation {
    fn new<I, O, F, R>(verb: Verb, path: &'static str, (id, summary): Words, takes: Takes, run: F) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema,
        F: Fn(Arc<Served>, Received<I>) -> R + Send + Sync + Clone + 'static,
        R: Future<Output = Result<O, Problem>> + Send + 'static,
    {
        let status = StatusCode::OK;
        let run: Run = Box::new(move |served, received| {
            let run = run.clone();
            Box::pin(async move {
                let Received { caller, path, key, input } = received;
                let input = read::<I>(takes, &input)?;
                let answer = run(served, Received { caller, path, key, input }).await?;
                let json = serde_json::to_vec(&answer).map_err(|_| Problem::internal())?;
                Ok(json_of(status, json))
            })
        });
        let input = |generator: &mut SchemaGenerator| generator.subschema_for::<I>();
        let answer = |generator: &mut SchemaGenerator| generator.subschema_for::<O>();
        Self { verb, path, id, summary, takes, is_keyed: false, input, answer, status, run }
    }
}

/// An operation's identifier, and what it does in a sentence.
type Words = (&'static str, &'static str);

fn json_of(status: StatusCode, json: Vec<u8>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, json).into_response()
}

fn read<I: DeserializeOwned>(takes: Takes, input: &Input) -> Result<I, Problem> {
    match takes {
        Takes::Nothing if input.uri.query().is_some_and(|query| !query.is_empty()) => {
            Err(Problem::invalid("this operation takes no query"))
        }
        Takes::Nothing => serde_json::from_str("null").map_err(|error| Problem::invalid(error.to_string())),
        Takes::Query => axum::extract::Query::try_from_uri(&input.uri)
            .map(|axum::extract::Query(read)| read)
            .map_err(|error| Problem::invalid(error.body_text())),
        Takes::Body => parsed(&input.body),
    }
}

/// A body that can be read in one way alone.
fn parsed<I: DeserializeOwned>(body: &[u8]) -> Result<I, Problem> {
    let value = crate::token::json::value(body, MAX_DEPTH).and_then(serde_json::from_value);
    value.map_err(|error| Problem::invalid(format!("the body: {error}")))
}

/// Everything of the API, to stand beside health and metrics.
pub(super) fn router(served: Served) -> Router {
    let served = Arc::new(served);
    let mut router = Router::new();
    let operations = operations::all();
    let description: Bytes = openapi::describe(&operations, &served.base).to_string().into();
    for Operation { verb, path, takes, is_keyed, run, .. } in operations {
        let (served, run) = (served.clone(), Arc::new(run));
        let handler = move |path: Result<RawPathParams, RawPathParamsRejection>, request: Request| {
            let (served, run) = (served.clone(), run.clone());
            async move {
                let done = async {
                    let received = receive(&served, (takes, is_keyed), path, request).await?;
                    run(served, received).await
                };
                done.await.unwrap_or_else(axum::response::IntoResponse::into_response)
            }
        };
        router = router.route(path, on(verb.filter(), handler));
    }
    let description = move || async move { json_of(StatusCode::OK, description.to_vec()) };
    router
        .route("/openapi.json", get(description))
        .merge(authzen::router(&served))
        .merge(webhooks::router(&served))
        .fallback(|| async { Problem::not_found("there is nothing here: /openapi.json tells what there is") })
        .method_not_allowed_fallback(|| async { Problem::method() })
        .layer(axum::middleware::from_fn(unambiguous))
}

/// Who asks, and what: in this order, so that nobody unknown has anything read.
async fn receive(
    served: &Served,
    (takes, is_keyed): (Takes, bool),
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
) -> Result<Received<Input>, Problem> {
    let (parts, body) = request.into_parts();
    let certificate = parts.extensions.get::<PeerCertificate>();
    let caller = served.identifier.http(&parts.headers, certificate)?;
    let body = match takes {
        Takes::Nothing | Takes::Query if parts.headers.get(header::CONTENT_LENGTH).is_some_and(|it| it != "0") => {
            return Err(Problem::invalid("this operation takes no body"));
        }
        Takes::Nothing | Takes::Query => Bytes::new(),
        Takes::Body => body_of(&parts.headers, body, served.max_body_bytes).await?,
    };
    let mut keys = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = match (keys.next(), keys.next()) {
        (None, _) => None,
        (Some(_), _) if !is_keyed => return Err(Problem::invalid("idempotency-key: this operation takes none")),
        (Some(key), None) => Some(key_of(key)?),
        (Some(_), Some(_)) => return Err(Problem::invalid("idempotency-key: stands twice")),
    };
    let path = path.map_err(|error| Problem::invalid(error.body_text()))?;
    let path = path.iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
    Ok(Received { caller, path, key, input: Input { uri: parts.uri, body } })
}

/// Where a request ends, and whom it is for, is no matter of opinion between here and a proxy.
async fn unambiguous(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Problem::length().into_response();
    }
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Problem::invalid("host: stands once").into_response();
    }
    next.run(request).await
}

/// A key as text; as the draft has it, in quotation marks.
fn key_of(key: &HeaderValue) -> Result<String, Problem> {
    let text = key.to_str().map_err(|_| Problem::invalid("idempotency-key: not text"))?;
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if bare.is_empty() { Err(Problem::invalid("idempotency-key: is empty")) } else { Ok(bare.to_owned()) }
}

async fn body_of(headers: &HeaderMap, body: axum::body::Body, max: usize) -> Result<Bytes, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Problem::kind());
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if length.and_then(|text| text.parse::<usize>().ok()).is_some_and(|length| length > max) {
        return Err(Problem::large(max));
    }
    let read = tokio::time::timeout(BODY_PATIENCE, axum::body::to_bytes(body, max)).await;
    read.map_err(|_| Problem::late())?.map_err(|_| Problem::large(max))
}
