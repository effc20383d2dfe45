//! The first stage: one canonical form, or a refusal.
//!
//! Rules on the parsed parts of a request, the same for HTTP/1.1 and HTTP/2: what has two readings is refused, never
//! repaired, so that what is decided on is what is forwarded. How bytes become parts is for `http`.

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
    if !target.iter().all(|byte| IN_TARGET.get(usize::from(*byte)).copied().unwrap_or(false)) {
        return fail("the target holds a byte that it cannot");
    }
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    if path.contains(&b';') {
        return fail("the path holds a matrix parameter");
    }
    let mut segments = path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"." | b".." => return fail("the path holds a dot segment"),
            b"" if segments.peek().is_some() => return fail("the path holds an empty segment"),
            _ => check_escapes(segment)?,
        }
    }
    Ok(())
}

/// Bytes that a target can hold: visible ASCII that RFC 3986 gives a meaning, the fragment's mark aside.
#[expect(clippy::indexing_slicing, reason = "the compiler runs this")]
const IN_TARGET: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let never = matches!(byte as u8, b'"' | b'#' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}');
        table[byte] = (byte as u8).is_ascii_graphic() && !never;
        byte += 1;
    }
    table
};

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

/// The headers that decide how a request is read. Each stands once at most: a second one would be another reading.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Decisive<'h> {
    pub(crate) host: Option<&'h [u8]>,
    pub(crate) content_length: Option<&'h [u8]>,
    pub(crate) transfer_encoding: Option<&'h [u8]>,
    pub(crate) upgrade: Option<&'h [u8]>,
    te: Option<&'h [u8]>,
    authorization: Option<&'h [u8]>,
    proxy_authorization: Option<&'h [u8]>,
    content_type: Option<&'h [u8]>,
    /// HTTP/2 may split this one.
    pub(crate) cookies: usize,
}

impl<'h> Decisive<'h> {
    fn place(&mut self, name: &str) -> Option<&mut Option<&'h [u8]>> {
        // By length first: most headers are told apart without looking at a letter.
        let (known, place) = match name.len() {
            2 => ("te", &mut self.te),
            4 => ("host", &mut self.host),
            7 => ("upgrade", &mut self.upgrade),
            12 => ("content-type", &mut self.content_type),
            13 => ("authorization", &mut self.authorization),
            14 => ("content-length", &mut self.content_length),
            17 => ("transfer-encoding", &mut self.transfer_encoding),
            19 => ("proxy-authorization", &mut self.proxy_authorization),
            _ => return None,
        };
        name.eq_ignore_ascii_case(known).then_some(place)
    }
}

/// Looks at the headers of a request once, and checks what every protocol shares.
///
/// # Errors
/// [`Reason::RequestMalformed`].
pub(crate) fn check_headers<'h>(headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> Result<Decisive<'h>, Fault> {
    let mut found = Decisive::default();
    for (name, value) in headers {
        let Some(place) = found.place(name) else {
            found.cookies += usize::from(name.eq_ignore_ascii_case("cookie"));
            continue;
        };
        if place.replace(value).is_some() {
            return Err(Fault::malformed("a header that may stand once stands twice"));
        }
    }
    if found.upgrade.is_some_and(|value| !value.eq_ignore_ascii_case(b"websocket")) {
        return Err(Fault::malformed("an upgrade to something other than a WebSocket"));
    }
    if found.te.is_some_and(|value| !value.eq_ignore_ascii_case(b"trailers")) {
        return Err(Fault::malformed("a TE header other than trailers"));
    }
    Ok(found)
}

/// Values of HTTP/2 begin and end with no white space (RFC 9113 section 8.2.1): HTTP/1.1 has a frame around it, and drops it.
///
/// # Errors
/// [`Reason::RequestMalformed`].
pub(crate) fn check_http2_values<'h>(values: impl IntoIterator<Item = &'h [u8]>) -> Result<(), Fault> {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if values.into_iter().any(|value| blank(value.first()) || blank(value.last())) {
        return Err(Fault::malformed("a value that begins or ends with white space"));
    }
    Ok(())
}

/// Whether a request names a host.
///
/// # Errors
/// [`Reason::RequestMalformed`].
pub(crate) fn check_host(authority: &[u8]) -> Result<(), Fault> {
    text(authority).and_then(|authority| Host::check_authority(authority).map_err(|_| NO_HOST))
}

/// The host that a request names.
///
/// # Errors
/// [`Reason::RequestMalformed`].
pub(crate) fn host(authority: &[u8]) -> Result<Host, Fault> {
    text(authority).and_then(|authority| Host::of_authority(authority).map_err(|_| NO_HOST))
}

const NO_HOST: Fault = Fault::malformed("the host is not a host name or address");

fn text(authority: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(authority).map_err(|_| Fault::malformed("the host is not text"))
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
        let check = |list: &[(&'static str, &'static str)]| {
            check_headers(list.iter().map(|(name, value)| (*name, value.as_bytes()))).map(drop)
        };
        assert!(check(&[("host", "a"), ("accept", "a"), ("accept", "b"), ("upgrade", "WebSocket")]).is_ok());
        for (name, again) in [
            ("host", "HOST"),
            ("authorization", "Authorization"),
            ("proxy-authorization", "Proxy-Authorization"),
            ("content-length", "Content-length"),
            ("content-type", "content-Type"),
            ("transfer-encoding", "Transfer-Encoding"),
            ("te", "TE"),
            ("upgrade", "uPgrade"),
        ] {
            let value = if name == "upgrade" { "websocket" } else { "trailers" };
            assert!(check(&[(name, value)]).is_ok(), "{name}");
            assert!(check(&[(name, value), ("accept", "*/*"), (again, value)]).is_err(), "{name}");
        }
        assert!(check(&[("upgrade", "h2c")]).is_err());
        assert!(check(&[("te", "trailers, chunked")]).is_err());
    }
}
