//! What of a caller's request never reaches an upstream: its credential, hop-by-hop headers, and headers that claim what
//! only a proxy can know.

use http::HeaderMap;
use http::header::{CONNECTION, HeaderName};

/// Fields between two hops (RFC 9110 section 7.6.1), `upgrade` aside: a WebSocket asks for it end to end.
const HOP_BY_HOP: [&str; 6] =
    ["keep-alive", "proxy-connection", "te", "trailer", "proxy-authorization", "proxy-authenticate"];

/// Fields by which upstreams are told who calls, from where and for what. From a caller they are lies, or may be.
const CLAIMS: [&str; 16] = [
    "authorization",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-uri",
    "x-forwarded-user",
    "x-forwarded-client-cert",
    "x-real-ip",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "x-method-override",
    "client-cert",
    "portcullis-call-id",
];

/// Removes them: what `Connection` nominates first (else a caller could have the gate's own headers removed), then the
/// fixed lists, each also in the spelling with underscores that some upstreams take for the same (`X_Forwarded_User`).
pub(crate) fn strip(headers: &HeaderMap) -> Vec<HeaderName> {
    let nominated = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| name != "upgrade" && name != "close" && name != "keep-alive");
    let mut gone: Vec<HeaderName> = nominated.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect();
    for name in headers.keys() {
        if is_claim(name.as_str()) {
            gone.push(name.clone());
        }
    }
    gone
}

fn is_claim(name: &str) -> bool {
    let same = |known: &&str| {
        known.len() == name.len()
            && known.bytes().zip(name.bytes()).all(|(known, byte)| known == byte || (known == b'-' && byte == b'_'))
    };
    CLAIMS.iter().any(same) || HOP_BY_HOP.iter().any(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(list: &[(&str, &str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        for name in strip(&headers) {
            headers.remove(name);
        }
        let mut left: Vec<String> = headers.keys().map(ToString::to_string).collect();
        left.sort();
        left
    }

    #[test]
    fn credentials_claims_and_nominated_headers_do_not_pass() {
        let kept = left(&[
            ("authorization", "Bearer x"),
            ("proxy-authorization", "x"),
            ("x_forwarded_user", "admin"),
            ("x-forwarded-user", "admin"),
            ("X-Original-URL", "/admin"),
            ("portcullis_call_id", "1"),
            ("te", "trailers"),
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("accept", "*/*"),
            ("cookie", "a=b"),
        ]);
        assert_eq!(kept, ["accept", "connection", "cookie"]);
    }

    #[test]
    fn a_nomination_cannot_remove_what_an_upgrade_needs() {
        assert_eq!(left(&[("connection", "Upgrade"), ("upgrade", "websocket")]), ["connection", "upgrade"]);
    }
}
