//! Failed calls: what the library's errors mean to the caller and to the evidence.

use pingora_error::{Error, ErrorSource, ErrorType};

use crate::domain::Reason;
use crate::evidence::entry::Ended;

/// Carries a refusal through the library's errors.
pub(super) const REFUSED: ErrorType = ErrorType::new("Refused");

/// Whether the caller is simply gone: its connection, its stream, or it takes nothing any more.
fn has_left(error: &Error) -> bool {
    use ErrorType as E;
    matches!(error.etype(), E::ConnectionClosed | E::ReadError | E::WriteError | E::WriteTimedout | E::H2Error)
}

/// Why a call failed, from the library's error.
pub(super) fn reason_of(error: &Error) -> Reason {
    match (error.esource(), error.etype()) {
        // What the library calls a fault of connecting may be one of the caller's bytes.
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => Reason::RequestTimeout,
        (ErrorSource::Downstream, _) => Reason::RequestMalformed,
        (_, ErrorType::ConnectTimedout | ErrorType::ConnectRefused | ErrorType::ConnectNoRoute)
        | (_, ErrorType::ConnectError | ErrorType::TLSHandshakeFailure | ErrorType::TLSHandshakeTimedout) => {
            Reason::UpstreamUnreachable
        }
        (ErrorSource::Upstream, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => Reason::UpstreamTimeout,
        (ErrorSource::Upstream, _) => Reason::UpstreamFault,
        (ErrorSource::Internal | ErrorSource::Unset, _) => Reason::InternalFault,
    }
}

/// How a call ended that failed with `error`, for `reason`; `misframed`: by how its body was framed.
pub(super) fn ending(error: &Error, reason: Reason, misframed: bool) -> (Ended, Option<Reason>) {
    match error.esource() {
        ErrorSource::Downstream if has_left(error) && !misframed => (Ended::ClientGone, None),
        ErrorSource::Downstream => (Ended::ClientGone, Some(reason)),
        ErrorSource::Upstream => (Ended::UpstreamFailed, Some(reason)),
        _ if matches!(reason, Reason::UpstreamUnreachable | Reason::UpstreamAddressRefused) => {
            (Ended::UpstreamFailed, Some(reason))
        }
        _ => (Ended::Unknown, Some(reason)),
    }
}
