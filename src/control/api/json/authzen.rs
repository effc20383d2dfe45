//! OpenID AuthZEN Authorization API 1.0: evaluation, evaluations, search, discovery.
//!
//! A question is `can-i` in other words, and stricter: whoever asks enforces the answer, so that what the question does not
//! settle (a network, a binding, a count) is a no. A subject of type `identity` is one by name; of any other type, the
//! identity that a token with that subject is, or a certificate with that SPIFFE ID. A resource of type `resource` is one by
//! name; of any other type T, the resource T, and what the question says of it is parameters of the call. What is not there
//! is a decision, and it is no. After some of them access can be asked for ([`requests`]).

mod binding;
mod described;
mod entities;
mod requestable;
mod requests;
mod search;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderName, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::access::Question;
use super::super::authorized;
use super::problem::Problem;
use super::{Describe, PeerCertificate, Served, body_of, json_of, parsed as read};
use crate::control::authorize::{Caller, Operation};
use crate::control::model::Model;
use crate::domain::{Reason, Timestamp};
pub(super) use described::described;
use entities::{Action, Context, Entity};
use requestable::{Named, Profile};
use search::{ActionSearch, ResourceSearch, SubjectSearch};

/// Questions in one message.
const MAX_QUESTIONS: usize = 256;
/// Longest body: a question says a few words.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// Echoed where a request has it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What an enforcement point finds the profile by.
const ACCESS_REQUEST: &str = "urn:openid:authzen:capability:access-request";

const EVALUATION: &str = "/access/v1/evaluation";
const EVALUATIONS: &str = "/access/v1/evaluations";

pub(super) fn router(served: &Arc<Served>) -> Router {
    let key = served.identifier.handle.shared().vault.derived(binding::PURPOSE);
    let profile = Arc::new(Profile { binding: binding::Binding(key), base: served.base.clone() });
    let metadata = metadata(&profile);
    let metadata: Bytes = metadata.to_string().into();
    let mut router = Router::new().route(
        "/.well-known/authzen-configuration",
        get(move || async move { json_of(StatusCode::OK, metadata.to_vec()) }),
    );
    for Endpoint { path, answer, operation, .. } in endpoints() {
        let (served, profile) = (served.clone(), profile.clone());
        let handler = move |request: Request| {
            let (served, profile) = (served.clone(), profile.clone());
            async move { answered(&served, profile, (operation, answer), request).await }
        };
        router = router.route(path, post(handler));
    }
    router.merge(requests::router(served, &profile))
}

type Answer = fn(&Asking, &[u8]) -> Result<Value, Problem>;

/// A path of this API.
pub(super) struct Endpoint {
    pub(super) path: &'static str,
    /// Its `operationId`.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) input: Describe,
    /// What it takes to be answered.
    operation: Operation,
    answer: Answer,
}

/// Every path that takes a question.
pub(super) fn endpoints() -> [Endpoint; 5] {
    let one: Answer = |asking, body| Ok(evaluation(asking, read::<Value>(body)?)?.json());
    let endpoint = |path, id, summary, input, answer| {
        // Whoever enforces asks about what is before it; who may what is for people to look through.
        let operation = if matches!(path, EVALUATION | EVALUATIONS) { Operation::Evaluate } else { Operation::CanI };
        Endpoint { path, id, summary, input, operation, answer }
    };
    [
        endpoint(EVALUATION, "evaluate", "AuthZEN 1.0: whether somebody may.", describe::<Asked>, one),
        endpoint(EVALUATIONS, "evaluateMany", "AuthZEN 1.0: several questions at once.", describe::<Many>, evaluations),
        endpoint(
            search::SUBJECT,
            "searchSubjects",
            "AuthZEN 1.0: who may.",
            describe::<SubjectSearch>,
            search::subjects,
        ),
        endpoint(
            search::RESOURCE_PATH,
            "searchResources",
            "AuthZEN 1.0: to what somebody may.",
            describe::<ResourceSearch>,
            search::resources,
        ),
        endpoint(
            search::ACTION,
            "searchActions",
            "AuthZEN 1.0: what somebody may.",
            describe::<ActionSearch>,
            search::actions,
        ),
    ]
}

fn describe<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// Section 9: what there is, and where.
fn metadata(profile: &Profile) -> Value {
    let base = &profile.base;
    json!({
        "access_request_endpoint": profile.endpoint(),
        "capabilities": [ACCESS_REQUEST],
        "policy_decision_point": base,
        "access_evaluation_endpoint": format!("{base}{EVALUATION}"),
        "access_evaluations_endpoint": format!("{base}{EVALUATIONS}"),
        "search_subject_endpoint": format!("{base}{}", search::SUBJECT),
        "search_resource_endpoint": format!("{base}{}", search::RESOURCE_PATH),
        "search_action_endpoint": format!("{base}{}", search::ACTION),
    })
}

async fn answered(
    served: &Arc<Served>,
    profile: Arc<Profile>,
    answer: (Operation, Answer),
    request: Request,
) -> Response {
    let id = request.headers().get(REQUEST_ID).cloned();
    let mut response = match asked(served, profile, answer, request).await {
        Ok(value) => json_of(StatusCode::OK, value.to_string().into_bytes()),
        // Section 10.1.2: the error is a message.
        Err(problem) => problem.into_message(),
    };
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

async fn asked(
    served: &Arc<Served>,
    profile: Arc<Profile>,
    (operation, answer): (Operation, Answer),
    request: Request,
) -> Result<Value, Problem> {
    let (parts, body) = request.into_parts();
    let caller = served.identifier.http(&parts.headers, parts.extensions.get::<PeerCertificate>())?;
    let body = body_of(&parts.headers, body, MAX_BODY_BYTES.min(served.max_body_bytes)).await?;
    let mut message = tonic::Request::new(());
    message.extensions_mut().insert(caller);
    let caller = authorized(&served.identifier.handle, &message, operation, None).await?;
    // It is work, and others wait for the threads that serve them.
    let place = served.thinking.clone().acquire_owned().await.map_err(|_| Problem::internal())?;
    let served = served.clone();
    let thought = tokio::task::spawn_blocking(move || {
        let _place = place;
        let asking = Asking { model: served.identifier.handle.model(), now: served.now(), caller, profile };
        answer(&asking, &body)
    });
    thought.await.map_err(|_| Problem::internal())?
}

/// One state of everything, for all questions of a message.
struct Asking {
    model: Arc<Model>,
    now: Timestamp,
    caller: Caller,
    profile: Arc<Profile>,
}

/// Section 6.1. What is not known is ignored.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Evaluation")]
struct Asked {
    subject: Entity,
    action: Action,
    resource: Entity,
    #[serde(default)]
    context: Context,
}

/// Section 7.1: each question may leave out what all have in common. One that is not good is a no of its own, so that their
/// parts are read one by one.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Evaluations")]
struct Many {
    #[serde(flatten)]
    common: Map<String, Value>,
    #[serde(default)]
    evaluations: Vec<Map<String, Value>>,
    #[serde(default)]
    options: Options,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
struct Options {
    #[serde(default)]
    evaluations_semantic: Semantic,
}

/// Section 7.1.2.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Semantic {
    #[default]
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

/// Yes; or no, and why.
#[derive(Debug)]
enum Decided {
    Yes(Map<String, Value>),
    No(Map<String, Value>),
}

impl Decided {
    fn no(reason: Reason) -> Self {
        Self::because(reason.code(), reason.info().detail)
    }

    fn because(reason: &str, detail: &str) -> Self {
        let context = [("reason".to_owned(), json!(reason)), ("detail".to_owned(), json!(detail))];
        Self::No(context.into_iter().collect())
    }

    /// No, and what whoever came with an approval is to do next.
    fn next(reason: &str, action: &str, detail: &str) -> Self {
        let context = [("reason", reason), ("next_action", action), ("detail", detail)];
        Self::No(context.into_iter().map(|(name, text)| (name.to_owned(), json!(text))).collect())
    }

    /// A yes says nothing more to whoever brought no approval: they would have to take what they do not understand for a no.
    fn json(self) -> Value {
        match self {
            Self::Yes(context) if context.is_empty() => json!({ "decision": true }),
            Self::Yes(context) => json!({ "decision": true, "context": context }),
            Self::No(context) => json!({ "decision": false, "context": context }),
        }
    }
}

fn evaluation(asking: &Asking, question: Value) -> Result<Decided, Problem> {
    let asked: Asked = Asked::deserialize(&question).map_err(|error| Problem::invalid(format!("the body: {error}")))?;
    let Some((identity, credential)) = asked.subject.identity(&asking.model) else {
        return Ok(Decided::no(Reason::IdentityUnknown));
    };
    let Some(resource) = asked.resource.resource(&asking.model) else { return Ok(Decided::no(Reason::RouteUnknown)) };
    let Ok(action) = asked.action.name.parse() else { return Ok(Decided::no(Reason::RouteUnknown)) };
    let (resource, parameters) = resource;
    let named = Named { identity, action, resource, parameters };
    let Named { identity, action, resource, parameters } = named.clone();
    let about = Question::new(identity, action, (resource, parameters), asked.context.presented(credential))?;
    let answer = about.answer(&asking.model, asking.now)?;
    let decided = match answer.allowed {
        true => Decided::Yes(Map::new()),
        false => Decided::because(&answer.reason, &answer.detail),
    };
    Ok(match (&asked.context.approval, decided) {
        (Some(approval), decided) => requestable::decided(asking, &question, &named, approval, decided),
        (None, Decided::No(mut context)) => {
            requestable::offer(asking, &question, &named, &answer.reason, &mut context);
            Decided::No(context)
        }
        (None, yes) => yes,
    })
}

fn evaluations(asking: &Asking, body: &[u8]) -> Result<Value, Problem> {
    let Many { common, evaluations, options } = read(body)?;
    let whole = |one: Map<String, Value>| {
        let mut merged: Map<String, Value> = common.clone();
        merged.extend(one);
        evaluation(asking, Value::Object(merged))
    };
    // Section 7.1: without them it is one question.
    if evaluations.is_empty() {
        return whole(Map::new()).map(Decided::json);
    }
    if evaluations.len() > MAX_QUESTIONS {
        return Err(Problem::invalid(format!("evaluations: at most {MAX_QUESTIONS}")));
    }
    let mut answers = Vec::with_capacity(evaluations.len());
    for one in evaluations {
        // Section 7.2.1: one that cannot be answered is a no of its own.
        let decided = whole(one).unwrap_or_else(|problem| {
            let error = json!({ "status": problem.status().as_u16(), "message": problem.detail() });
            Decided::No([("error".to_owned(), error)].into_iter().collect())
        });
        let last = match options.evaluations_semantic {
            Semantic::ExecuteAll => false,
            Semantic::DenyOnFirstDeny => matches!(decided, Decided::No(_)),
            Semantic::PermitOnFirstPermit => matches!(decided, Decided::Yes(_)),
        };
        answers.push(decided.json());
        if last {
            break;
        }
    }
    Ok(json!({ "evaluations": answers }))
}
