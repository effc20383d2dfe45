//! The head of an upstream's answer: one reading, or the call fails.
//!
//! The library has parsed it and writes it anew for the caller, so its bytes never pass: folded lines are unfolded,
//! lines end in CRLF, a body is framed again. What is left to refuse is a head that says two things, or something that
//! the library, the caller or a cache between them would each take in its own way.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{StatusCode, Version};
use pingora_http::ResponseHeader;

/// Interim answers to one request. Early hints and `102 Processing` come in ones and twos.
const MAX_INTERIM: u8 = 16;
/// Digits of a content length: an exabyte is none.
const MAX_LENGTH_DIGITS: usize = 18;

/// The answers to one request, as their heads come.
#[derive(Debug, Default)]
pub(super) struct Replies {
    interim: u8,
    ends_with_connection: bool,
}

impl Replies {
    /// Takes the next one as the upstream sent it, and what is said twice out of it.
    ///
    /// # Errors
    /// What is wrong with it (RFC 9110 section 15, RFC 9112 sections 6.1 to 6.3).
    pub(super) fn take(&mut self, head: &mut ResponseHeader) -> Result<(), &'static str> {
        if !(100..600).contains(&head.status.as_u16()) {
            return Err("a status that is none");
        }
        if head.status.is_informational() {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err("interim answers without an end");
            }
        }
        check_length(head)?;
        check_coding(head)?;
        // What follows an agreement to another protocol ends as that one says.
        self.ends_with_connection = head.status != StatusCode::SWITCHING_PROTOCOLS
            && head.version < Version::HTTP_2
            && !head.headers.contains_key(CONTENT_LENGTH)
            && !head.headers.contains_key(TRANSFER_ENCODING);
        if has_no_content(head.status) {
            // Many servers say `0` where nothing is to be said, and mean well.
            head.remove_header(&CONTENT_LENGTH);
        }
        Ok(())
    }

    /// Whether the end of the connection is the only end of the last one's body, if it has any (RFC 9112 section 6.3).
    pub(super) const fn ends_with_connection(&self) -> bool {
        self.ends_with_connection
    }
}

/// Whether another head follows (RFC 9110 section 15.2): one that agrees to another protocol is the last.
pub(super) fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

fn has_no_content(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT
}

fn check_length(head: &ResponseHeader) -> Result<(), &'static str> {
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next().map(http::HeaderValue::as_bytes) else { return Ok(()) };
    if lengths.next().is_some() {
        return Err("two content lengths");
    }
    if length.is_empty() || length.len() > MAX_LENGTH_DIGITS || !length.iter().all(u8::is_ascii_digit) {
        return Err("a content length that is no plain number");
    }
    if has_no_content(head.status) && length != b"0" {
        return Err("a content length where there is no content");
    }
    Ok(())
}

fn check_coding(head: &ResponseHeader) -> Result<(), &'static str> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next().map(http::HeaderValue::as_bytes) else { return Ok(()) };
    if codings.next().is_some() || !coding.eq_ignore_ascii_case(b"chunked") {
        return Err("a transfer coding other than chunked alone");
    }
    if head.version != Version::HTTP_11 {
        return Err("a transfer coding of another version than HTTP/1.1");
    }
    if has_no_content(head.status) {
        return Err("a transfer coding where there is no content");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, fields: &[(&'static str, &str)]) -> ResponseHeader {
        let mut head = ResponseHeader::build(status, None).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn an_answer_says_one_thing_about_its_body() {
        let length = "content-length";
        let coding = "transfer-encoding";
        for (status, fields) in [
            (200, &[][..]),
            (200, &[(length, "5")]),
            (200, &[(coding, "Chunked")]),
            (304, &[(length, "5")]),
            (404, &[(length, "0")]),
        ] {
            assert_eq!(Replies::default().take(&mut head(status, fields)), Ok(()), "{status} {fields:?}");
        }
        for (status, fields) in [
            (200, &[(length, "5"), (length, "5")][..]),
            (200, &[(length, "5, 5")]),
            (200, &[(length, "+5")]),
            (200, &[(length, "")]),
            (200, &[(length, "5 ")]),
            (200, &[(length, "0x5")]),
            (200, &[(length, "9999999999999999999")]),
            (200, &[(coding, "gzip, chunked")]),
            (200, &[(coding, "chunked, chunked")]),
            (200, &[(coding, "chunked"), (coding, "chunked")]),
            (200, &[(coding, "identity")]),
            (200, &[(coding, "xchunked")]),
            (204, &[(length, "5")]),
            (204, &[(coding, "chunked")]),
            (103, &[(length, "5")]),
            (103, &[(coding, "chunked")]),
            (600, &[]),
            (999, &[]),
        ] {
            assert!(Replies::default().take(&mut head(status, fields)).is_err(), "{status} {fields:?}");
        }
        let mut old = head(200, &[(coding, "chunked")]);
        old.set_version(Version::HTTP_10);
        assert!(Replies::default().take(&mut old).is_err());
    }

    #[test]
    fn nothing_is_said_of_content_that_is_none() {
        let mut head = head(204, &[("content-length", "0")]);
        assert_eq!(Replies::default().take(&mut head), Ok(()));
        assert!(!head.headers.contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn interim_answers_have_an_end() {
        let mut replies = Replies::default();
        for _ in 0..MAX_INTERIM {
            assert_eq!(replies.take(&mut head(103, &[])), Ok(()));
        }
        assert_eq!(replies.take(&mut head(200, &[])), Ok(()));
        assert!(replies.take(&mut head(102, &[])).is_err());
    }
}
