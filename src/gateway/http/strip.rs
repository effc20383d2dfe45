//! What of a caller's request never reaches an upstream: its credential, hop-by-hop headers, and headers that claim what
//! only a proxy can know.

use std::cell::OnceCell;

use base64::Engine as _;
use http::header::{AUTHORIZATION, CONNECTION, COOKIE, HeaderName, UPGRADE};
use http::{HeaderMap, HeaderValue};
use pingora_error::Result;
use pingora_http::RequestHeader;
use smallvec::SmallVec;

use crate::gateway::refusal::CALL_ID_HEADER;

/// Fields between two hops (RFC 9110 section 7.6.1), `upgrade` aside: a WebSocket asks for it end to end.
const HOP_BY_HOP: [&str; 6] =
    ["keep-alive", "proxy-connection", "te", "trailer", "proxy-authorization", "proxy-authenticate"];

/// Fields by which upstreams are told who calls, from where and for what. From a caller they are lies, or may be.
const CLAIMS: [&str; 29] = [
    "authorization",
    "forwarded",
    "x-real-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-cluster-client-ip",
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-host",
    "x-spiffe-id",
    "x-middleware-subrequest",
    "remote-user",
    "proxy",
    "txn-token",
    "via",
    "x-forwarded",
    "x-auth-user",
    "x-jwt-assertion",
    "x-arr-clientcert",
    "x-override-url",
    "x-http-destinationurl",
    "x-rewrite-uri",
    "base-url",
    "front-end-https",
    "x-url-scheme",
    "fastly-client-ip",
    "x-azure-clientip",
];

/// The same, as families.
const FAMILIES: [&str; 28] = [
    "x-forwarded-",
    "x-original-",
    "x-envoy-",
    "x-auth-request-",
    "x-goog-iap-",
    "x-goog-authenticated-",
    "x-amzn-oidc-",
    "x-client-",
    "x-ssl-",
    "ssl-client-",
    "client-cert",
    "remote-user-",
    "portcullis-",
    "x-authenticated-",
    "x-consumer-",
    "x-credential-",
    "x-webauth-",
    "x-pomerium-",
    "x-remote-",
    "x-tls-client-",
    "x-ms-client-principal",
    "x-amzn-mtls-",
    "x-endpoint-api-",
    "x-apigateway-api-",
    "cf-access-",
    "tailscale-",
    "impersonate-",
    "x-portcullis-",
];

/// Fields that frame a message, say how its body is read or name its host: a look-alike with another separator is taken for them by some.
const FRAMING: [&str; 5] = ["content-length", "content-encoding", "transfer-encoding", "host", "connection"];

/// The shortest signature of a token that verifies here (64 bytes) is longer in base64.
const MIN_SIGNATURE_BYTES: usize = 64;

/// Names of headers; of most messages few go.
pub(crate) type Names = SmallVec<[HeaderName; 2]>;

/// Removes them: what `Connection` nominates first (else a caller could have the gate's own headers removed), then the
/// fixed lists, each also in the spelling with underscores that some upstreams take for the same (`X_Forwarded_User`).
pub(crate) fn strip(headers: &HeaderMap) -> Names {
    let mut gone: Names = nominated(headers).collect();
    for name in headers.keys() {
        if is_claim(name.as_str()) {
            gone.push(name.clone());
        }
    }
    gone
}

fn is_claim(name: &str) -> bool {
    may_be_claim(name) && is_listed(name)
}

/// By first letter, the lengths of all that is listed: bit 31 stands for its own and all above.
#[expect(clippy::indexing_slicing, reason = "the compiler runs this")]
const LENGTHS: [u32; 256] = {
    const fn add(table: &mut [u32; 256], list: &[&str], longer: bool) {
        let mut place = 0;
        while place < list.len() {
            let length = if list[place].len() < 31 { list[place].len() } else { 31 };
            table[list[place].as_bytes()[0] as usize] |= if longer { u32::MAX << length } else { 1 << length };
            place += 1;
        }
    }
    let mut table = [0; 256];
    add(&mut table, &CLAIMS, false);
    add(&mut table, &HOP_BY_HOP, false);
    add(&mut table, &FRAMING, false);
    add(&mut table, &FAMILIES, true);
    table
};

/// Nearly every header is told from all that is listed by its first letter and its length.
fn may_be_claim(name: &str) -> bool {
    let lengths = name.as_bytes().first().and_then(|first| LENGTHS.get(usize::from(*first))).copied().unwrap_or(0);
    lengths >> name.len().min(31) & 1 == 1
}

fn is_listed(name: &str) -> bool {
    let listed = |list: &[&str]| list.iter().any(|known| is_spelling(name, known));
    listed(&CLAIMS)
        || listed(&HOP_BY_HOP)
        || FAMILIES.iter().any(|family| begins(name, family))
        || (!FRAMING.contains(&name) && listed(&FRAMING))
}

/// Upstreams that take headers for variables see one name in `X-Forwarded-User`, `X_Forwarded_User` and
/// `X.Forwarded.User`.
fn is_spelling(name: &str, known: &str) -> bool {
    name.len() == known.len() && begins(name, known)
}

fn begins(name: &str, known: &str) -> bool {
    let plain = |byte: u8| if matches!(byte, b'_' | b'.') { b'-' } else { byte };
    name.len() >= known.len() && name.bytes().map(plain).zip(known.bytes()).all(|(a, b)| a == b)
}

/// Whether the signature of the caller's token also stands in the target or in another header. The token never passes;
/// a copy of it elsewhere would, as it stands, behind escapes or in base64. A body is not searched.
pub(crate) fn credential_elsewhere(header: &RequestHeader) -> bool {
    let Some(value) = header.headers.get(AUTHORIZATION) else { return false };
    let Some(last) = memchr::memrchr(b'.', value.as_bytes()) else { return false };
    let signature = value.as_bytes().get(last + 1..).unwrap_or_default();
    if signature.len() < MIN_SIGNATURE_BYTES {
        return false;
    }
    // Few headers are long enough to hold it: most calls end here without a search.
    let target = std::iter::once(header.raw_path());
    let others = header.headers.iter().filter(|(name, _)| *name != AUTHORIZATION).map(|(_, value)| value.as_bytes());
    let encoded = OnceCell::new();
    target.chain(others).filter(|text| text.len() >= signature.len()).any(|text| {
        holds(text, signature)
            || text.len() >= encoded_length(signature.len())
                && encoded.get_or_init(|| in_base64(signature)).iter().any(|part| holds(text, part.as_bytes()))
    })
}

/// Characters of base64 that stand for `length` bytes and for nothing beside them, wherever in a text those begin.
const fn encoded_length(length: usize) -> usize {
    length.saturating_sub(2) / 3 * 4
}

/// What base64 of a longer text looks like where that holds `part`: by where it begins, modulo three. A signature's own
/// characters encode to letters and digits alone, the same in both alphabets.
fn in_base64(part: &[u8]) -> [String; 3] {
    [0, 1, 2].map(|skip| {
        let rest = part.get(skip..).unwrap_or_default();
        base64::engine::general_purpose::STANDARD.encode(rest.get(..rest.len() / 3 * 3).unwrap_or_default())
    })
}

/// How often a text is taken for an encoded one: upstreams decode once, and some of them twice.
const MAX_DECODINGS: usize = 3;

/// Whether `text` holds `part`, as it stands or behind escapes of any number of its bytes.
fn holds(text: &[u8], part: &[u8]) -> bool {
    if memchr::memmem::find(text, part).is_some() {
        return true;
    }
    let mut text = std::borrow::Cow::Borrowed(text);
    for _ in 0..MAX_DECODINGS {
        if memchr::memchr(b'%', &text).is_none() {
            return false;
        }
        text = unescaped(&text).into();
        if memchr::memmem::find(&text, part).is_some() {
            return true;
        }
    }
    false
}

/// With each `%` and two hexadecimal digits as the byte that they mean; what is no escape stays.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        let escape = if *byte == b'%' { digit(after.first()).zip(digit(after.get(1))) } else { None };
        match escape {
            Some((high, low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(0));
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    out
}

/// One `Cookie` field of several (RFC 9113 section 8.2.3): HTTP/2 may split it, upstreams of HTTP/1.1 read the first.
pub(crate) fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    let cookies: Vec<&[u8]> = request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() < 2 {
        return Ok(());
    }
    let joined = cookies.join(&b"; "[..]);
    request.insert_header(COOKIE, joined.as_slice())
}

/// What of an upstream's answer ends at this hop.
pub(crate) fn strip_response(headers: &HeaderMap) -> Names {
    let listed = |name: &str| HOP_BY_HOP.contains(&name) || is_spelling(name, CALL_ID_HEADER);
    let between = |name: &HeaderName| name == UPGRADE || may_be_claim(name.as_str()) && listed(name.as_str());
    nominated(headers).chain(headers.keys().filter(|name| between(name)).cloned()).collect()
}

/// What `Connection` names: fields of this hop alone.
fn nominated(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        // By bytes: one name that is none hides no other.
        .flat_map(|list| list.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| !matches!(name.as_str(), "upgrade" | "close" | "keep-alive"))
        // How a message is framed was settled before: a nomination must not unframe it.
        .filter(|name| !FRAMING.contains(&name.as_str()))
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
            ("x.forwarded.for", "1"),
            ("x-forwarded-groups", "admin"),
            ("impersonate-user", "root"),
            ("Cf-Access-Jwt-Assertion", "x"),
            ("x-ms-client-principal", "x"),
            ("x-auth-request-email", "a@b"),
            ("remote_user", "root"),
            ("transfer_encoding", "chunked"),
            ("proxy", "http://evil"),
            ("te", "trailers"),
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("accept", "*/*"),
            ("cookie", "a=b"),
        ]);
        assert_eq!(kept, ["accept", "connection", "cookie"]);
    }

    #[test]
    fn nothing_listed_is_passed_over_by_its_first_letter_and_length() {
        for name in CLAIMS.iter().chain(&HOP_BY_HOP).chain(&FAMILIES) {
            assert!(is_claim(name) && is_claim(&name.replace('-', "_")), "{name}");
        }
        for family in FAMILIES {
            (0..64).for_each(|more| assert!(is_claim(&format!("{family}{}", "z".repeat(more)))));
        }
        for name in FRAMING.iter().filter(|name| name.contains('-')) {
            assert!(!is_claim(name) && is_claim(&name.replace('-', "_")), "{name}");
        }
        for name in ["accept", "user-agent", "cookie", "host", "content-type", "x-request-id", "z", "x"] {
            assert!(!is_claim(name), "{name}");
        }
    }

    #[test]
    fn split_cookies_become_one() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.append_header("cookie", "a=1").unwrap();
        request.append_header("cookie", "b=2").unwrap();
        join_cookies(&mut request).unwrap();
        let left: Vec<_> = request.headers.get_all(COOKIE).iter().collect();
        assert_eq!(left, ["a=1; b=2"]);
    }

    #[test]
    fn an_answer_keeps_what_is_for_the_caller() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "X-Hop"), ("x-hop", "1"), ("keep-alive", "5"), ("upgrade", "h2c"), ("etag", "1")]
        {
            headers.append(name, value.parse().unwrap());
        }
        let mut gone: Vec<_> = strip_response(&headers).iter().map(ToString::to_string).collect();
        gone.sort();
        assert_eq!(gone, ["keep-alive", "upgrade", "x-hop"]);
    }

    #[test]
    fn a_second_copy_of_the_callers_token_is_seen_wherever_it_would_pass() {
        let signature = "s".repeat(86);
        let token = format!("eyJh.eyJi.{signature}");
        let request = |path: &str, extra: Option<(&'static str, String)>| {
            let mut request = RequestHeader::build("GET", path.as_bytes(), None).unwrap();
            request.insert_header("authorization", format!("Bearer {token}")).unwrap();
            if let Some((name, value)) = extra {
                request.insert_header(name, value).unwrap();
            }
            credential_elsewhere(&request)
        };
        assert!(!request("/v1/orders?x=1", None));
        assert!(!request("/v1/orders", Some(("x-note", "s".repeat(85)))));
        assert!(request(&format!("/v1/orders?access_token={token}"), None));
        assert!(request("/v1/orders", Some(("x-auth-token", token.clone()))));
        assert!(request("/v1/orders", Some(("cookie", format!("t={token}; a=b")))));
        let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        assert!(request(&format!("/v1/orders?t={}", escaped(&token)), None));
        assert!(request("/v1/orders", Some(("cookie", format!("t={}", escaped(&escaped(&token)))))));
        assert!(request("/v1/orders", Some(("x-a", token.replacen('s', "%73", 3)))));
        let real = "2E1ly2BHxLM0YGfCA18z_zBJ9bmC3DIW0-TdghdzB4aoEcfGePYlwLTQQDMozxmPSiHpnKqnq1sY5Y2gdFHzvw";
        for before in ["", "x", "xy", "billing:", "Bearer "] {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            request.insert_header("authorization", format!("Bearer eyJh.eyJi.{real}")).unwrap();
            let copy = base64::engine::general_purpose::STANDARD.encode(format!("{before}eyJh.eyJi.{real}"));
            request.insert_header("x-a", format!("Basic {copy}")).unwrap();
            assert!(credential_elsewhere(&request), "{before}");
            request.insert_header("x-a", format!("Basic {}", copy.replace('Q', "R"))).unwrap();
            assert!(!credential_elsewhere(&request), "another text of that length");
        }
        assert!(!request("/v1/orders", Some(("x-a", "100%".repeat(40)))));
        let none = RequestHeader::build("GET", b"/", None).unwrap();
        assert!(!credential_elsewhere(&none));
    }

    #[test]
    fn a_name_that_is_none_hides_no_nomination() {
        let mut headers = HeaderMap::new();
        headers.insert("connection", HeaderValue::from_bytes(b"close, X\x9c\xd9y,\tX-Secret , x y").unwrap());
        headers.insert("x-secret", HeaderValue::from_static("1"));
        assert_eq!(strip(&headers).as_slice(), ["x-secret"]);
    }

    #[test]
    fn a_nomination_cannot_remove_what_an_upgrade_needs() {
        assert_eq!(left(&[("connection", "Upgrade"), ("upgrade", "websocket")]), ["connection", "upgrade"]);
    }
}
