//! What callers are told when something was not done: a gRPC status, and a stable code in its metadata.

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::super::logs::LogFault;
use super::super::plan::Refused;
use crate::evidence::copy::CopyError;
use crate::wire::WireError;

/// The metadata key of the code. The command line's exit codes hang on it.
pub(in super::super) const REASON: &str = "x-portcullis-reason";

/// A refusal of the API.
#[derive(Debug)]
pub(in super::super) struct ApiError {
    code: Code,
    reason: &'static str,
    text: String,
}

impl ApiError {
    const fn new(code: Code, reason: &'static str, text: String) -> Self {
        Self { code, reason, text }
    }

    /// Nobody known.
    pub(in super::super) fn unauthenticated() -> Self {
        let text = "present a person's token as `authorization: Bearer`, or a recorded gateway's certificate";
        Self::new(Code::Unauthenticated, "unauthenticated", text.to_owned())
    }

    /// Nobody known, by what they showed.
    pub(in super::super) fn unknown(why: impl std::fmt::Display) -> Self {
        Self::new(Code::Unauthenticated, "unauthenticated", why.to_string())
    }

    /// Somebody known, and not allowed.
    pub(in super::super) const fn denied(text: String) -> Self {
        Self::new(Code::PermissionDenied, "denied", text)
    }

    /// A request that is not one.
    pub(in super::super) fn invalid(text: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, "invalid", text.into())
    }

    /// Something that is not there.
    pub(in super::super) fn not_found(text: impl Into<String>) -> Self {
        Self::new(Code::NotFound, "not_found", text.into())
    }

    /// The process is about to end.
    pub(in super::super) fn stopping() -> Self {
        Self::new(Code::Unavailable, "unavailable", "the control plane is stopping".to_owned())
    }

    /// Another stream of the same gateway took this one's place.
    pub(in super::super) fn replaced() -> Self {
        Self::new(Code::Aborted, "replaced", "another stream of this gateway took the place of this one".to_owned())
    }

    /// Too much of something at once.
    pub(in super::super) fn limit(text: impl Into<String>) -> Self {
        Self::new(Code::ResourceExhausted, "limit", text.into())
    }

    /// The history asked for is gone.
    pub(in super::super) fn compacted(oldest: u64) -> Self {
        let text = format!("changes before revision {oldest} are no longer kept; list, then watch from there");
        Self::new(Code::OutOfRange, "compacted", text)
    }

    /// The gateway's log is not the one that it should be.
    pub(in super::super) fn log(fault: &LogFault) -> Self {
        Self::new(Code::FailedPrecondition, "log", fault.to_string())
    }

    /// No copies of logs are kept here.
    pub(in super::super) fn no_copies() -> Self {
        let text = "this control plane keeps no copies of gateways' logs: give it `evidence_copies` in its settings";
        Self::new(Code::FailedPrecondition, "no_copies", text.to_owned())
    }

    /// A copy of a log does not go on.
    pub(in super::super) fn copy(error: &CopyError) -> Self {
        let code = if error.is_full() { Code::ResourceExhausted } else { Code::FailedPrecondition };
        let text = match error.remedy() {
            Some(remedy) => format!("{error}. To mend it: {remedy}"),
            None => error.to_string(),
        };
        Self::new(code, error.code(), text)
    }

    /// Gateways cannot be certified here.
    pub(in super::super) fn no_ca() -> Self {
        let text = "this control plane has no CA key (`ca_dir`): gateways cannot join here".to_owned();
        Self::new(Code::FailedPrecondition, "no_ca", text)
    }

    /// Whoever keeps the CA's key does not sign.
    pub(in super::super) fn unsigned() -> Self {
        let text = "the CA's key does not sign just now: the control plane's log says why; try again".to_owned();
        Self::new(Code::Unavailable, "unavailable", text)
    }

    /// The gateway has seen a later state.
    pub(in super::super) fn store_behind() -> Self {
        let text = "this control plane's store is older than what the gateway has seen".to_owned();
        Self::new(Code::FailedPrecondition, "store_behind", text)
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::Invalid(_) => Self::new(Code::InvalidArgument, "invalid", text),
            Refused::Unfit(_) => Self::new(Code::FailedPrecondition, "unfit", text),
            Refused::Denied(_) => Self::new(Code::PermissionDenied, "denied", text),
            Refused::NotFound(_) => Self::new(Code::NotFound, "not_found", text),
            Refused::Conflict(_) => Self::new(Code::Aborted, "conflict", text),
            Refused::TooMuch(_) => Self::new(Code::ResourceExhausted, "limit", text),
            Refused::Unavailable => Self::new(Code::Unavailable, "unavailable", text),
        }
    }
}

impl From<WireError> for ApiError {
    fn from(error: WireError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let mut status = Self::new(error.code, bounded(error.text));
        status.metadata_mut().insert(REASON, MetadataValue::from_static(error.reason));
        status
    }
}

/// Longest text of a status: it travels in a header, percent-encoded, and clients take 16 KiB of headers.
const MAX_TEXT_BYTES: usize = 4 * 1024;

fn bounded(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        text.push_str(" … and more");
    }
    text
}

/// A refusal of the writer as a status.
pub(super) fn refused(refused: Refused) -> Status {
    ApiError::from(refused).into()
}

/// A fault of a message as a status.
pub(super) fn malformed(error: WireError) -> Status {
    ApiError::from(error).into()
}
