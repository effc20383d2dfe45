//! The raw head of an HTTP/1.1 request, checked before the library sees a byte of it.
//!
//! Strict RFC 9112 and nothing more: exactly one reading or a refusal. An approved head is handed on unmodified; bodies
//! are framed by the library alone, so this module never looks past the empty line.

use std::mem::MaybeUninit;

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

/// Reads a head as it arrives, line by line: each byte is looked at once.
#[derive(Debug)]
pub(crate) struct HeadReader {
    /// Where the line that is not whole yet begins.
    line: usize,
    /// What of it has been looked at; a CR at its end has not, since what follows decides.
    scanned: usize,
    limit: usize,
    /// Of a whole head.
    message: Message,
}

/// A request that has begun: its head, and what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Bytes of the head.
    pub(crate) head: usize,
    /// How what follows is framed.
    pub(crate) framing: Framing,
}

impl HeadReader {
    pub(crate) const fn new(limit: usize) -> Self {
        Self { line: 0, scanned: 0, limit, message: Message { head: 0, framing: Framing::Length(0) } }
    }

    /// The request whose head is whole.
    pub(crate) const fn message(&self) -> Message {
        self.message
    }

    /// Judges `bytes`, of which an earlier call has seen a beginning. A bad byte is refused at once, not when the head
    /// is whole.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Verdict {
        if self.scanned == 0 && bytes.len() <= self.limit && is_one_head(bytes) {
            return self.judge(bytes);
        }
        loop {
            let fresh = bytes.get(self.scanned..).unwrap_or_default();
            let end = memchr::memchr(b'\n', fresh);
            let fresh = fresh.get(..end.unwrap_or(fresh.len())).unwrap_or_default();
            let text = fresh.strip_suffix(b"\r").unwrap_or(fresh);
            if let Some(detail) = misplaced(text) {
                return refused(detail);
            }
            let folded = bytes.get(self.line).is_some_and(|byte| matches!(byte, b' ' | b'\t'));
            if folded && self.line > 0 {
                return refused("a folded line");
            }
            let Some(end) = end else {
                self.scanned += text.len();
                return if bytes.len() > self.limit { Verdict::Refused(TOO_LARGE) } else { Verdict::Partial };
            };
            if text.len() == fresh.len() {
                return refused("a bare LF");
            }
            let next = self.scanned + end + 1;
            if next - self.line == b"\r\n".len() {
                return match bytes.get(..next) {
                    _ if self.line == 0 => refused("an empty line before the request line"),
                    Some(head) if head.len() <= self.limit => self.judge(head),
                    _ => Verdict::Refused(TOO_LARGE),
                };
            }
            (self.line, self.scanned) = (next, next);
        }
    }

    /// Judges a whole head, whose lines are lines.
    fn judge(&mut self, head: &[u8]) -> Verdict {
        match whole(head) {
            Ok(framing) => {
                self.message = Message { head: head.len(), framing };
                Verdict::Whole
            }
            Err(fault) => Verdict::Refused(fault),
        }
    }
}

/// Whether `bytes` are one head and nothing else, as those of most calls are, and hold nothing that a line may not. What
/// is wrong with others is for the reading by lines to say.
fn is_one_head(bytes: &[u8]) -> bool {
    let Some(lines) = bytes.strip_suffix(b"\r\n").filter(|lines| lines.ends_with(b"\r\n")) else { return false };
    let control = |byte: u8| (byte < b' ' && !matches!(byte, b'\t' | b'\r' | b'\n')) | (byte == 0x7f);
    let followers = lines.get(1..).unwrap_or_default();
    // Without an exit the compiler looks at many bytes at once.
    let bad = lines.iter().zip(followers).fold(false, |bad, (byte, next)| {
        let torn = (*byte == b'\r') != (*next == b'\n');
        let folded_or_empty = (*byte == b'\n') & matches!(*next, b' ' | b'\t' | b'\r');
        bad | control(*byte) | torn | folded_or_empty
    });
    !bad && lines.first().is_some_and(u8::is_ascii_alphabetic)
}

/// What no line of a head may hold, if `text` does.
fn misplaced(text: &[u8]) -> Option<&'static str> {
    let control = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    // Without an exit the compiler looks at many bytes at once.
    if !text.iter().fold(false, |found, byte| found | control(*byte)) {
        return None;
    }
    let first = text.iter().find(|byte| control(**byte));
    Some(if first == Some(&b'\r') { "a bare CR" } else { "a control character" })
}

const TOO_LARGE: Fault = Fault { reason: Reason::HeadTooLarge, detail: "the head is over the limit" };

const fn refused(detail: &'static str) -> Verdict {
    Verdict::Refused(Fault::malformed(detail))
}

/// How a request ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// With this many bytes behind the head.
    Length(u64),
    /// With its last chunk.
    Chunked,
    /// Not: it asks for a WebSocket, and what follows may be one.
    Upgrade,
}

fn whole(head: &[u8]) -> Result<Framing, Fault> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Fault { reason: Reason::HeadTooLarge, detail: "too many headers" });
        }
        _ => return Err(Fault::malformed("not a request head")),
    }
    check(head, &request)
}

fn check(head: &[u8], request: &httparse::Request<'_, '_>) -> Result<Framing, Fault> {
    let fail = |detail| Err(Fault::malformed(detail));
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return fail("not a request line");
    };
    // `METHOD SP target SP HTTP/1.x`, with nothing else between: the parser is laxer.
    let line = memchr::memchr(b'\r', head).unwrap_or(head.len());
    if line != method.len() + target.len() + " HTTP/1.1".len() + 1 {
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
fn check_framing(headers: &Decisive<'_>, version: u8) -> Result<Framing, Fault> {
    let fail = |detail| Err(Fault::malformed(detail));
    match headers.host {
        Some(value) => accept::check_host(value)?,
        None => return fail("no host"),
    }
    if headers.cookies > 1 {
        return fail("two cookie headers");
    }
    let length = match headers.content_length {
        None => None,
        Some(digits) if digits.len() <= 15 && digits.iter().all(u8::is_ascii_digit) => {
            let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            Some(number.ok_or(Fault::malformed("a content length without digits"))?)
        }
        Some(_) => return fail("a content length that is no plain number"),
    };
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
    if headers.upgrade.is_some() && (length.unwrap_or(0) > 0 || headers.transfer_encoding.is_some()) {
        return fail("an upgrade with a body");
    }
    Ok(match (headers.transfer_encoding, headers.upgrade) {
        (Some(_), _) => Framing::Chunked,
        (None, Some(_)) => Framing::Upgrade,
        (None, None) => Framing::Length(length.unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests;
