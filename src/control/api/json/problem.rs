//! What HTTP callers are told when something was not done: RFC 9457, with the code that the gRPC API has.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tonic::Code;

use super::super::ApiError;
use super::super::error::REASON;
use crate::wire::WireError;

/// A refusal.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    /// What its type begins with.
    family: &'static str,
    code: String,
    detail: String,
}

/// Types of ours.
const OURS: &str = "urn:portcullis:error:";
/// Those of the AuthZEN Access Request and Approval Profile (section "Error Responses").
const ACCESS_REQUEST: &str = "urn:openid:authzen:access-request:error:";

/// Its document.
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
}

impl Problem {
    fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self { status, family: OURS, code: code.to_owned(), detail: detail.into() }
    }

    /// One that AuthZEN's access requests have a type for.
    pub(super) fn of_access_request(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self { family: ACCESS_REQUEST, ..Self::new(status, code, detail) }
    }

    /// Its stable code.
    pub(super) fn code(&self) -> &str {
        &self.code
    }

    /// A request that is not one.
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        tonic::Status::from(ApiError::invalid(detail)).into()
    }

    /// Nothing of the name.
    pub(super) fn not_found(detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// The path is there, and the method is not.
    pub(super) fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this method is not for this path: see `allow`")
    }

    /// A body in another language.
    pub(super) fn kind() -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", "send `content-type: application/json`")
    }

    /// A body of unsaid length.
    pub(super) fn length() -> Self {
        Self::new(StatusCode::LENGTH_REQUIRED, "length", "send `content-length`, and no `transfer-encoding`")
    }

    /// A body that is too long.
    pub(super) fn large(max: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("a body has at most {max} bytes"))
    }

    /// A webhook that is nobody's word.
    pub(super) fn unsigned() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unsigned", "no signature of this source's secret is over this body")
    }

    /// What it takes to answer cannot be read.
    pub(super) fn unreadable(detail: String) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "unreadable", detail)
    }

    /// A body that does not come.
    pub(super) fn late() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "late", "the body did not arrive in time")
    }

    /// A fault of ours.
    pub(super) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the answer cannot be written")
    }

    /// As HTTP has it.
    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }

    /// In words.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }
}

impl From<tonic::Status> for Problem {
    fn from(status: tonic::Status) -> Self {
        let code = status.metadata().get(REASON).and_then(|value| value.to_str().ok()).unwrap_or("internal");
        let http = match (status.code(), code) {
            (Code::FailedPrecondition, "unfit") => StatusCode::UNPROCESSABLE_ENTITY,
            (Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists, _) => StatusCode::CONFLICT,
            (Code::InvalidArgument, _) => StatusCode::BAD_REQUEST,
            (Code::Unauthenticated, _) => StatusCode::UNAUTHORIZED,
            (Code::PermissionDenied, _) => StatusCode::FORBIDDEN,
            (Code::NotFound, _) => StatusCode::NOT_FOUND,
            (Code::OutOfRange, _) => StatusCode::GONE,
            (Code::ResourceExhausted, _) => StatusCode::TOO_MANY_REQUESTS,
            (Code::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(http, code, status.message())
    }
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        tonic::Status::from(error).into()
    }
}

impl From<WireError> for Problem {
    /// Of an answer of ours that does not read.
    fn from(error: WireError) -> Self {
        tracing::error!(%error, "an answer cannot be written");
        Self::internal()
    }
}

impl Problem {
    /// As its words alone: what AuthZEN has for an error.
    pub(super) fn into_message(self) -> Response {
        let kind = "text/plain; charset=utf-8";
        self.answer(kind, self.detail.clone().into_bytes())
    }

    fn answer(&self, kind: &'static str, body: Vec<u8>) -> Response {
        let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")];
        let mut response = (self.status, headers, body).into_response();
        let mut add = |name, value| response.headers_mut().insert(name, HeaderValue::from_static(value));
        match self.status {
            // RFC 9110 section 15.5.2.
            StatusCode::UNAUTHORIZED => drop(add(header::WWW_AUTHENTICATE, "Bearer realm=\"portcullis\"")),
            // What is left of the body is not read.
            StatusCode::LENGTH_REQUIRED | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
                drop(add(header::CONNECTION, "close"));
            }
            _ => {}
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = Document {
            r#type: format!("{}{}", self.family, self.code),
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: &self.code,
        };
        let json = serde_json::to_vec(&document).unwrap_or_default();
        self.answer("application/problem+json", json)
    }
}
