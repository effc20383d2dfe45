//! The form of a request, as the library has parsed it.

use http::HeaderValue;
use http::header::HOST;
use pingora_proxy::Session;

use super::strip;
use crate::domain::Reason;
use crate::domain::route::Host;
use crate::gateway::accept::{self, Fault};
use crate::gateway::connection::Connection;

/// HTTP/1.1 heads were checked on their raw bytes; here HTTP/2 is, on the parsed values.
pub(super) fn accept(session: &Session, connection: &Connection) -> Result<Host, Fault> {
    let header = session.req_header();
    if matches!(header.method, http::Method::CONNECT | http::Method::TRACE) {
        return Err(Fault { reason: Reason::MethodNotAllowed, detail: "a method that is never forwarded" });
    }
    if session.is_http2() {
        accept::check_target(header.raw_path())?;
        accept::check_http2_values(header.headers.values().map(HeaderValue::as_bytes))?;
        accept::check_headers(header.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))?;
    }
    if strip::credential_elsewhere(header) {
        return Err(Fault::malformed("the credential stands in a second place, where it would pass"));
    }
    let named = header.headers.get(HOST).map(HeaderValue::as_bytes);
    let authority = header.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = match (authority, named) {
        (Some(authority), Some(named)) if authority != named => {
            return Err(Fault::malformed("two hosts that differ"));
        }
        (Some(host), _) | (None, Some(host)) => connection.host(host)?,
        (None, None) => return Err(Fault::malformed("no host")),
    };
    match &connection.name {
        Some(name) if *name != host => {
            Err(Fault { reason: Reason::Misdirected, detail: "a host that the handshake did not name" })
        }
        _ => Ok(host),
    }
}
