//! The first stage: one canonical form, or a refusal.
//!
//! Rules on the parsed parts of a request, the same for HTTP/1.1 and HTTP/2: what has two readings is refused, never
//! repaired, so that what is decided on is what is forwarded. How bytes become parts is for `http`.

use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, PROXY_AUTHORIZATION, TE, UPGRADE};

use crate::domain::Reason;
use crate::domain::route::Host;

/// Why a request was not accepted: a reason for the caller, a detail for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The reason.
    pub(crate) reason: Reason,
    /// What exactly, for the log.
    pub(crate) detail: &'static str,
}

impl Fault {
    pub(crate) const fn malformed(detail: &'static str) -> Self {
        Self { reason: Reason::RequestMalformed, detail }
    }
}

/// Checks a request target: origin form (RFC 9112 section 3.2.1) in its one canonical spelling.
///
/// Refused: dot and empty segments, matrix parameters, escapes of separators, dots, percent signs, control characters
/// and of characters that need none, lower-case escapes, fragments, bytes that a URI cannot hold.
///
/// # Errors
/// [`Reason::RequestMalformed`].
pub(crate) fn check_target(target: &[u8]) -> Result<(), Fault> {
    let fail = |detail| Err(Fault::malformed(detail));
    if target.first() != Some(&b'/') {
        return fail("the target is not in origin form");
    }
    if target.iter().any(|byte| !byte.is_ascii_graphic() || b"\"#<>\\^`{|}".contains(byte)) {
        return fail("the target holds a byte that it cannot");
    }
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    if path.contains(&b';') {
        return fail("the path holds a matrix parameter");
    }
    let segments = path.split(|byte| *byte == b'/').count();
    for (place, segment) in path.split(|byte| *byte == b'/').enumerate().skip(1) {
        match segment {
            b"." | b".." => return fail("the path holds a dot segment"),
            b"" if place + 1 != segments => return fail("the path holds an empty segment"),
            _ => check_escapes(segment)?,
        }
    }
    Ok(())
}

fn check_escapes(segment: &[u8]) -> Result<(), Fault> {
    let mut bytes = segment.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            continue;
        }
        let mut digit =
            || bytes.next().filter(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')).and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(Fault::malformed(
                "the path holds an escape that is not % and two upper-case hexadecimal digits",
            ));
        };
        let value = u8::try_from(high * 16 + low).unwrap_or(0);
        if value < 0x20 || value == 0x7f || b"/\\%.;?#".contains(&value) {
            return Err(Fault::malformed(
                "the path holds an escaped separator, dot, percent sign or control character",
            ));
        }
        if value.is_ascii_alphanumeric() || b"-_~".contains(&value) {
            return Err(Fault::malformed("the path escapes a character that needs no escape"));
        }
    }
    Ok(())
}

/// Headers of which a request has at most one: a second one would be another reading.
const SINGLE: [http::HeaderName; 7] =
    [HOST, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, PROXY_AUTHORIZATION, TE, UPGRADE];

/// Checks the headers that every protocol shares.
///
/// # Errors
/// [`Reason::RequestMalformed`].
pub(crate) fn check_headers(headers: &HeaderMap) -> Result<(), Fault> {
    for name in &SINGLE {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(Fault::malformed("a header that may stand once stands twice"));
        }
    }
    if headers.get(UPGRADE).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err(Fault::malformed("an upgrade to something other than a WebSocket"));
    }
    if headers.get(TE).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        return Err(Fault::malformed("a TE header other than trailers"));
    }
    Ok(())
}

/// The host that a request names.
///
/// # Errors
/// [`Reason::RequestMalformed`].
pub(crate) fn host(authority: &[u8]) -> Result<Host, Fault> {
    let text = std::str::from_utf8(authority).map_err(|_| Fault::malformed("the host is not text"))?;
    Host::of_authority(text).map_err(|_| Fault::malformed("the host is not a host name or address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        for good in [
            "/",
            "/a",
            "/a/",
            "/a/b?x=%2f/../;#"[..14].as_ref(),
            "/a%20b",
            "/%C3%A9",
            "/a:b@c!$&'()*+,=~_-.d",
            "/...",
            "/a?b=//",
        ] {
            assert_eq!(check_target(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in [
            "",
            "*",
            "a",
            "http://a/",
            "//a",
            "/a//b",
            "/a//",
            "/./a",
            "/a/..",
            "/../a",
            "/a/%2e%2e/b",
            "/a/%2E%2E/b",
            "/a%2fb",
            "/a%2Fb",
            "/a%5Cb",
            "/a\\b",
            "/a%00",
            "/a%0D%0A",
            "/a%7F",
            "/a%252f",
            "/a%25",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a%c3%a9",
            "/%41",
            "/a%2D",
            "/a#b",
            "/a;x=1",
            "/..;/a",
            "/a%3Bx",
            "/a b",
            "/a\tb",
            "/é",
            "/a|b",
            "/a%3Fb",
            "/a%23b",
        ] {
            assert!(check_target(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_that_decide_stand_once() {
        let headers = |list: &[(&str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in list {
                map.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
            }
            map
        };
        assert!(
            check_headers(&headers(&[("host", "a"), ("accept", "a"), ("accept", "b"), ("upgrade", "WebSocket")]))
                .is_ok()
        );
        for name in ["host", "authorization", "content-length", "content-type", "te", "upgrade"] {
            assert!(check_headers(&headers(&[(name, "1"), (name, "1")])).is_err(), "{name}");
        }
        assert!(check_headers(&headers(&[("upgrade", "h2c")])).is_err());
        assert!(check_headers(&headers(&[("te", "trailers, chunked")])).is_err());
    }
}
