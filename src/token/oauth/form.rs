//! `application/x-www-form-urlencoded`, read in exactly one way (WHATWG URL section 5.1, without its leniency).
//!
//! The usual readers repair broken escapes and invalid UTF-8, and keep one of two equal names; here each is a refusal.
//! Knows no parameter by name.

use std::borrow::Cow;

use super::RequestError;

/// Bytes of a request's body: a token of 8 KiB and a dozen names.
pub const MAX_FORM_BYTES: usize = 16 * 1024;
/// Parameters of one request: those of all standards together are fewer.
const MAX_PARAMETERS: usize = 32;

pub(super) struct Form<'b> {
    parameters: Vec<(Cow<'b, str>, Cow<'b, str>)>,
}

impl<'b> Form<'b> {
    pub(super) fn parse(body: &'b [u8]) -> Result<Self, RequestError> {
        if body.len() > MAX_FORM_BYTES {
            return Err(RequestError::Invalid("the request is larger than 16 KiB"));
        }
        let malformed = RequestError::Invalid("the request is not a form in UTF-8");
        let text = std::str::from_utf8(body).map_err(|_| malformed)?;
        let mut parameters = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            if parameters.len() >= MAX_PARAMETERS {
                return Err(RequestError::Invalid("the request has more than 32 parameters"));
            }
            let (name, value) = pair.split_once('=').ok_or(malformed)?;
            parameters.push((decode(name).ok_or(malformed)?, decode(value).ok_or(malformed)?));
        }
        Ok(Self { parameters })
    }

    /// The values of a parameter. One without a value was not sent (RFC 6749 section 3.2).
    pub(super) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.parameters.iter().filter(move |(n, value)| n == name && !value.is_empty()).map(|(_, value)| value.as_ref())
    }

    /// The value of a parameter that may stand once, with or without a value.
    pub(super) fn one(&self, name: &'static str) -> Result<Option<&str>, RequestError> {
        if self.parameters.iter().filter(|(n, _)| n == name).count() > 1 {
            return Err(RequestError::Invalid("a parameter stands twice"));
        }
        Ok(self.all(name).next())
    }

    /// Whether one of these was sent.
    pub(super) fn any(&self, names: &[&'static str]) -> bool {
        names.iter().any(|name| self.all(name).next().is_some())
    }
}

/// Undoes `+` and `%XX`. Nothing for an incomplete escape, invalid UTF-8, or control characters, escaped or not.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|b| matches!(b, b'+' | b'%') || !b.is_ascii_graphic()) {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            _ => byte,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.chars().any(char::is_control)).then_some(Cow::Owned(text))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
