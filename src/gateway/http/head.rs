//! The raw head of an HTTP/1.1 request, checked before the library sees a byte of it.
//!
//! Strict RFC 9112 and nothing more: exactly one reading or a refusal. An approved head is handed on unmodified; bodies
//! are framed by the library alone, so this module never looks past the empty line.

use super::super::accept::{self, Decisive, Fault};
use crate::domain::Reason;

/// Headers of one request.
pub(crate) const MAX_HEADERS: usize = 100;

/// What the bytes read so far are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The beginning of a head.
    Partial,
    /// A whole, acceptable head.
    Whole,
    /// Not acceptable, whatever comes.
    Refused(Fault),
}

/// Reads a head as it arrives: each byte is looked at once.
#[derive(Debug)]
pub(crate) struct HeadReader {
    scanned: usize,
    limit: usize,
}

impl HeadReader {
    pub(crate) const fn new(limit: usize) -> Self {
        Self { scanned: 0, limit }
    }

    /// Judges `bytes`, of which an earlier call has seen a beginning. A bad byte is refused at once, not when the head
    /// is whole.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Verdict {
        let mut before = self.scanned.checked_sub(1).and_then(|at| bytes.get(at)).copied().unwrap_or(0);
        for (at, byte) in bytes.iter().copied().enumerate().skip(self.scanned) {
            // Nearly every byte: a visible one or a space, behind one of its kind.
            if byte >= b' ' && byte != 0x7f && before > b'\r' {
                before = byte;
                continue;
            }
            match (before, byte) {
                (b'\r', b'\n') if at == 1 => return refused("an empty line before the request line"),
                (b'\r', b'\n') if bytes.get(..at).is_some_and(|head| head.ends_with(b"\r\n\r")) => {
                    return match bytes.get(..=at) {
                        Some(head) if head.len() <= self.limit => whole(head),
                        _ => Verdict::Refused(TOO_LARGE),
                    };
                }
                (b'\r', b'\n') => {}
                (_, b'\n') => return refused("a bare LF"),
                (b'\r', _) => return refused("a bare CR"),
                (b'\n', b' ' | b'\t') => return refused("a folded line"),
                (_, b'\r' | b'\t') => {}
                (_, 0..=0x1f | 0x7f) => return refused("a control character"),
                _ => {}
            }
            before = byte;
        }
        self.scanned = bytes.len();
        if bytes.len() > self.limit { Verdict::Refused(TOO_LARGE) } else { Verdict::Partial }
    }
}

const TOO_LARGE: Fault = Fault { reason: Reason::HeadTooLarge, detail: "the head is over the limit" };

const fn refused(detail: &'static str) -> Verdict {
    Verdict::Refused(Fault::malformed(detail))
}

fn whole(head: &[u8]) -> Verdict {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Verdict::Refused(Fault { reason: Reason::HeadTooLarge, detail: "too many headers" });
        }
        _ => return refused("not a request head"),
    }
    match check(head, &request) {
        Ok(()) => Verdict::Whole,
        Err(fault) => Verdict::Refused(fault),
    }
}

fn check(head: &[u8], request: &httparse::Request<'_, '_>) -> Result<(), Fault> {
    let fail = |detail| Err(Fault::malformed(detail));
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return fail("not a request line");
    };
    // `METHOD SP target SP HTTP/1.x`, with nothing else between: the parser is laxer.
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    if line.len() != method.len() + target.len() + " HTTP/1.1".len() + 1 {
        return fail("whitespace in the request line");
    }
    if matches!(method, "CONNECT" | "TRACE") || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err(Fault { reason: Reason::MethodNotAllowed, detail: "a method that is never forwarded" });
    }
    accept::check_target(target.as_bytes())?;
    let headers = accept::check_headers(request.headers.iter().map(|header| (header.name, header.value)))?;
    check_framing(&headers, version)
}

/// One framing (RFC 9112 section 6): `Content-Length` in plain digits, or `chunked` alone, never both.
fn check_framing(headers: &Decisive<'_>, version: u8) -> Result<(), Fault> {
    let fail = |detail| Err(Fault::malformed(detail));
    match headers.host {
        Some(value) => drop(accept::host(value)?),
        None => return fail("no host"),
    }
    if headers.cookies > 1 {
        return fail("two cookie headers");
    }
    let length = headers.content_length;
    if length.is_some_and(|digits| digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_digit)) {
        return fail("a content length that is no plain number");
    }
    if let Some(coding) = headers.transfer_encoding {
        if version == 0 {
            return fail("HTTP/1.0 with a transfer coding");
        }
        if length.is_some() {
            return fail("a content length and a transfer coding");
        }
        if !coding.eq_ignore_ascii_case(b"chunked") {
            return fail("a transfer coding other than chunked alone");
        }
    }
    // Bytes after a head that asks for an upgrade would reach the upstream before it agreed (CVE-2026-2833).
    if headers.upgrade.is_some() && (length.is_some_and(|digits| digits != b"0") || headers.transfer_encoding.is_some())
    {
        return fail("an upgrade with a body");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
