//! Reading a request's whole body, for routes whose decision it takes part in.
//!
//! All of it or nothing: what cannot be had whole, in time, in memory and in plain bytes is refused, and no prefix of a
//! body is ever decided on. What the bytes mean is not looked at here.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, UPGRADE};
use pingora_core::protocols::http::ServerSession;
use pingora_error::{Error, ErrorType};
use pingora_proxy::Session;

use crate::domain::Reason;
use crate::gateway::budget::Share;
use crate::gateway::pipeline::WholeBody;
use crate::gateway::worker::Worker;

/// What a body takes first; then it doubles, up to its length.
const FIRST_BYTES: u64 = 16 * 1024;

/// A body, whole.
#[derive(Debug)]
pub(super) struct Inspected {
    pub(super) bytes: Bytes,
    pub(super) digest: WholeBody,
    /// Holds the memory of `bytes` until the call ends.
    pub(super) share: Share,
    /// Whether the head announced one, be it empty.
    pub(super) announced: bool,
}

/// Reads the body, at most `most` bytes of it.
pub(super) async fn read(worker: &Worker, session: &mut Session, most: u64) -> Result<Inspected, Reason> {
    let announced = !session.as_mut().is_body_done();
    let declared = check(&session.req_header().headers, most)?;
    // Memory is taken as bytes come: a length that is only announced takes nobody's place.
    let mut share = worker.shared.inspection.share();
    let work = async {
        if announced {
            say_continue(session).await.map_err(|error| reason_of(&error))?;
        }
        collect(session, most, declared, &mut share).await
    };
    let limit = worker.shared.limits.inspect_deadline;
    let (bytes, sha256) = tokio::time::timeout(limit, work).await.map_err(|_| Reason::RequestTimeout)??;
    let digest = WholeBody { bytes: length_of(&bytes), sha256 };
    Ok(Inspected { bytes: bytes.into(), digest, share, announced })
}

/// What the head already says against it, or its length.
fn check(headers: &HeaderMap, most: u64) -> Result<Option<u64>, Reason> {
    // Decided on what is read: bytes that only a decoder can read are not.
    let plain = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.contains_key(UPGRADE) || !headers.get_all(CONTENT_ENCODING).iter().all(plain) {
        return Err(Reason::BodyUnreadable);
    }
    let Some(length) = headers.get(CONTENT_LENGTH) else { return Ok(None) };
    let length = length.to_str().ok().and_then(|text| text.parse().ok()).ok_or(Reason::RequestMalformed)?;
    if length > most { Err(Reason::BodyTooLarge) } else { Ok(Some(length)) }
}

/// A caller that waits for leave to send its body gets it from the gate: the upstream is not asked before the decision.
async fn say_continue(session: &mut Session) -> pingora_error::Result<()> {
    let ServerSession::H1(http1) = &mut *session.downstream_session else { return Ok(()) };
    let expect = http1.req_header().headers.get(EXPECT);
    if expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        // Else the library would take the interim answer for the end of the connection.
        http1.set_close_on_response_before_downstream_finish(false);
        http1.write_continue_response().await?;
    }
    Ok(())
}

async fn collect(
    session: &mut Session,
    most: u64,
    declared: Option<u64>,
    share: &mut Share,
) -> Result<(Vec<u8>, [u8; 32]), Reason> {
    let mut bytes = Vec::new();
    let most_room = declared.unwrap_or(most);
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    while let Some(part) = session.as_mut().read_request_body().await.map_err(|error| reason_of(&error))? {
        let length = length_of(&bytes).saturating_add(length_of(&part));
        if length > most {
            return Err(Reason::BodyTooLarge);
        }
        if length > bytes.capacity() as u64 {
            let room =
                (bytes.capacity() as u64).saturating_mul(2).clamp(FIRST_BYTES.min(most_room), most_room).max(length);
            share.grow_to(room).map_err(|_| Reason::InspectionFull)?;
            bytes.reserve_exact(usize::try_from(room).unwrap_or(usize::MAX).saturating_sub(bytes.len()));
        }
        digest.update(&part);
        bytes.extend_from_slice(&part);
    }
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest.finish().as_ref());
    Ok((bytes, sha256))
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn reason_of(error: &Error) -> Reason {
    match error.etype() {
        ErrorType::ReadTimedout => Reason::RequestTimeout,
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError => Reason::BodyIncomplete,
        _ => Reason::RequestMalformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_head_says_against_a_body_is_heard_before_it_is_read() {
        let ask = |list: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in list {
                headers.append(*name, value.parse().unwrap());
            }
            check(&headers, 10)
        };
        assert_eq!(ask(&[]), Ok(None));
        assert_eq!(ask(&[("content-length", "10"), ("content-encoding", "Identity")]), Ok(Some(10)));
        assert_eq!(ask(&[("content-length", "11")]), Err(Reason::BodyTooLarge));
        for coding in ["gzip", "br", "zstd", "identity, gzip", "", "x"] {
            assert_eq!(ask(&[("content-encoding", coding)]), Err(Reason::BodyUnreadable), "{coding}");
        }
        let second = [("content-encoding", "identity"), ("content-encoding", "gzip")];
        assert_eq!(ask(&second), Err(Reason::BodyUnreadable));
        assert_eq!(ask(&[("upgrade", "websocket")]), Err(Reason::BodyUnreadable));
    }
}
