//! The gate's own endpoints, below `/.portcullis/` and `/.well-known/`: the request's parts in, an answer out.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use pingora_error::Result;
use pingora_proxy::Session;

use crate::domain::Reason;
use crate::domain::name::CallId;
use crate::gateway::connection::Connection;
use crate::gateway::oauth::{self, Endpoint};
use crate::gateway::refusal::{Answer, Refusal};
use crate::gateway::worker::Worker;

/// A token request is a short form.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// Time for its body to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// Whether a path is one of the gate's own. Everything below the prefix is: no route can take it over.
pub(super) fn is_ours(path: &str) -> bool {
    path.starts_with("/.portcullis/")
        || path == "/.well-known/oauth-authorization-server"
        || path.starts_with("/.well-known/oauth-protected-resource")
}

/// Serves a request to one of them.
pub(super) async fn serve(
    worker: &Worker,
    session: &mut Session,
    call: CallId,
    connection: &Connection,
) -> Result<Answer> {
    let refuse = |reason| {
        worker.metrics.refused(reason);
        worker.shared.refusals.note(reason, connection.peer, "", "");
        Refusal::new(reason, call).answer(crate::gateway::refusal::Dialect::Http)
    };
    let Ok(body) = tokio::time::timeout(BODY_LIMIT, read(session)).await else {
        session.set_keepalive(None);
        return Ok(refuse(Reason::RequestTimeout));
    };
    let Some(body) = body? else {
        session.set_keepalive(None);
        return Ok(refuse(Reason::TokenRequestInvalid));
    };
    // Behind the wait for the body.
    if let Err(reason) = connection.trusted() {
        return Ok(refuse(reason));
    }
    let header = session.req_header();
    let text = |name| header.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
    let endpoint = Endpoint {
        call,
        method: header.method.as_str().to_owned(),
        path: header.uri.path().to_owned(),
        content_type: text(CONTENT_TYPE),
        authorization: text(AUTHORIZATION),
        body,
        peer: connection.peer,
        certificate: connection.certificate.clone(),
    };
    let path = endpoint.path.clone();
    let method = endpoint.method.clone();
    let oauth::Answer { status, headers, body, refused } = worker.shared.oauth.handle(endpoint).await;
    if let Some(reason) = refused {
        worker.metrics.refused(reason);
        worker.shared.refusals.note(reason, connection.peer, &method, &path);
    }
    // A token that was recorded as issued does not leave on a connection that is good for nothing any more.
    if let Err(reason) = connection.trusted() {
        return Ok(refuse(reason));
    }
    Ok(Answer { status, headers, body })
}

/// The whole body; `None`: it is too large.
async fn read(session: &mut Session) -> Result<Option<Bytes>> {
    let mut body = BytesMut::new();
    while let Some(part) = session.as_mut().read_request_body().await? {
        if body.len() + part.len() > MAX_BODY_BYTES {
            return Ok(None);
        }
        body.extend_from_slice(&part);
    }
    Ok(Some(body.freeze()))
}
