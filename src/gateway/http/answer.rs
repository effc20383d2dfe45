//! Answers of the gate's own, written through the library's session.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::gateway::refusal::{Answer, Dialect};

/// What is read of a body that nobody wants, and for how long.
const DRAIN_BYTES: usize = 2 * 1024 * 1024;
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// The protocol of a request: gRPC by its content type, over HTTP/2 (gRPC over HTTP/2, "Content-Type").
pub(super) fn dialect(session: &Session) -> Dialect {
    match session.req_header().headers.get(CONTENT_TYPE).filter(|_| session.is_http2()) {
        Some(kind) if is_grpc(kind.as_bytes()) => Dialect::Grpc,
        _ => Dialect::Http,
    }
}

/// `application/grpc`, with an encoding or parameters perhaps. Not gRPC-Web, which is plain HTTP with bodies of its own.
fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Writes an answer. A connection whose request has a body that nobody read is closed after it: what is left of the body
/// must never be read as a request.
pub(super) async fn write(session: &mut Session, answer: Answer) -> Result<()> {
    let mut head = ResponseHeader::build(answer.status, Some(answer.headers.len() + 1))?;
    for (name, value) in answer.headers {
        head.insert_header(name, value)?;
    }
    let is_http2 = session.req_header().version == http::Version::HTTP_2;
    let headers_only = session.req_header().method == http::Method::HEAD || answer.body.is_empty();
    if answer.status != 204 {
        head.insert_header(CONTENT_LENGTH, answer.body.len())?;
    }
    if !session.is_http2() && !session.as_mut().is_body_done() {
        session.set_keepalive(None);
    }
    if headers_only {
        // The stream's end on the very frame, which the library's usual way leaves to an empty DATA: to a gRPC caller that
        // is an answer whose status never came.
        match session.as_mut() {
            ServerSession::H2(stream) => return stream.write_response_header(Box::new(head), true),
            ServerSession::Custom(replay) if is_http2 => {
                return replay.write_response_header(Box::new(head), true).await;
            }
            _ => {}
        }
    }
    session.write_response_header(Box::new(head), headers_only).await?;
    if !headers_only {
        session.write_response_body(Some(answer.body), true).await?;
    }
    drain(session).await;
    Ok(())
}

/// Reads on for a short while what a caller still sends of a body that nobody wants: closing the connection, or the
/// stream, on it would destroy the answer on its way.
async fn drain(session: &mut Session) {
    let session = session.as_mut();
    if session.is_body_done() {
        return;
    }
    let read = async {
        let mut left = DRAIN_BYTES;
        while left > 0
            && let Ok(Some(part)) = session.read_request_body().await
        {
            left = left.saturating_sub(part.len());
        }
    };
    // Whether the caller still listens is its own affair.
    let _ = tokio::time::timeout(DRAIN_LIMIT, read).await;
}
