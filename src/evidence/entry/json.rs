//! Canonical JSON (RFC 8785), straight into a buffer.
//!
//! Knows nothing of records: only how objects, texts, numbers and identifiers stand in them.

use std::io::Write as _;
use std::net::SocketAddr;

use crate::domain::name::{CallId, GrantId, ulid_text};
use crate::evidence::tree::sha256;

/// What is left of a text that is too long: `…[N bytes, sha256 HEX]` follows it.
const CUT_MARK_BYTES: usize = 3 + 1 + 20 + 15 + 64 + 1;

/// Any JSON value with its keys sorted by UTF-16 code units (RFC 8785 section 3.2.3). Numbers that are not integers
/// are written in their shortest form; ours are integers.
pub(crate) fn canonical_json(value: &serde_json::Value, out: &mut Vec<u8>) {
    use serde_json::Value;
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::String(text) => escaped(text, out),
        Value::Array(items) => list(out, items.iter(), canonical_json),
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push(b'{');
            for (place, (key, value)) in sorted.into_iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                escaped(key, out);
                out.push(b':');
                canonical_json(value, out);
            }
            out.push(b'}');
        }
    }
}

pub(super) fn list<T>(out: &mut Vec<u8>, items: impl Iterator<Item = T>, mut write: impl FnMut(T, &mut Vec<u8>)) {
    out.push(b'[');
    for (place, item) in items.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

/// A member's key as it stands in an object, with what surrounds it: made by [`key!`].
#[derive(Clone, Copy)]
pub(super) struct Key {
    /// `,"key":`
    pub(super) bare: &'static str,
    /// `,"key":"`
    pub(super) quoted: &'static str,
}

/// A [`Key`], put together by the compiler: there are some thirty of them in the records of each call.
macro_rules! key {
    ($name:literal) => {
        $crate::evidence::entry::json::Key {
            bare: concat!(",\"", $name, "\":"),
            quoted: concat!(",\"", $name, "\":\""),
        }
    };
}
pub(super) use key;

/// An object that is being written. INVARIANT: keys come in ascending order.
pub(super) struct Object<'w> {
    out: &'w mut Vec<u8>,
    start: usize,
    last: &'static str,
}

impl<'w> Object<'w> {
    pub(super) fn begin(out: &'w mut Vec<u8>) -> Self {
        Self { start: out.len(), out, last: "" }
    }

    pub(super) fn end(self) {
        // Each member begins with a comma; the first one's is where the object opens.
        match self.out.get_mut(self.start) {
            Some(comma) => *comma = b'{',
            None => self.out.push(b'{'),
        }
        self.out.push(b'}');
    }

    #[inline(always)]
    fn begin_member(&mut self, key: Key, text: &'static str) -> &mut Vec<u8> {
        debug_assert!(self.last < key.bare, "{} after {}", key.bare, self.last);
        self.last = key.bare;
        self.out.extend_from_slice(text.as_bytes());
        self.out
    }

    /// Where a value that has more to it is to be written.
    #[inline(always)]
    pub(super) fn key(&mut self, key: Key) -> &mut Vec<u8> {
        self.begin_member(key, key.bare)
    }

    #[inline(always)]
    pub(super) fn number(&mut self, key: Key, value: u64) {
        unsigned(value, self.key(key));
    }

    #[inline(always)]
    pub(super) fn integer(&mut self, key: Key, value: i64) {
        signed(value, self.key(key));
    }

    #[inline(always)]
    pub(super) fn flag(&mut self, key: Key, value: bool) {
        self.key(key).extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// A text that needs no escapes by its type.
    #[inline(always)]
    pub(super) fn plain(&mut self, key: Key, value: &str) {
        let out = self.begin_member(key, key.quoted);
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    }

    /// A text that anybody may have chosen, at most `max` bytes of it once encoded.
    #[inline(always)]
    pub(super) fn text(&mut self, key: Key, value: &str, max: usize) {
        bounded(value, max, self.key(key));
    }

    #[inline(always)]
    pub(super) fn call(&mut self, key: Key, call: CallId) {
        ulid(call.bits(), self.key(key));
    }

    #[inline(always)]
    pub(super) fn grant(&mut self, key: Key, grant: GrantId) {
        ulid(grant.bits(), self.key(key));
    }

    pub(super) fn address(&mut self, key: Key, address: SocketAddr) {
        let out = self.key(key);
        out.push(b'"');
        match address {
            SocketAddr::V4(v4) => {
                for (place, octet) in v4.ip().octets().into_iter().enumerate() {
                    if place > 0 {
                        out.push(b'.');
                    }
                    unsigned(octet.into(), out);
                }
                out.push(b':');
                unsigned(v4.port().into(), out);
            }
            // Writing into memory cannot fail.
            SocketAddr::V6(v6) => drop(write!(out, "{v6}")),
        }
        out.push(b'"');
    }
}

pub(super) fn quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn bounded(text: &str, max: usize, out: &mut Vec<u8>) {
    let start = out.len();
    if text.len() <= max {
        escaped(text, out);
        if out.len() - start <= max + 2 {
            return;
        }
        out.truncate(start);
    }
    out.push(b'"');
    let room = max.saturating_sub(CUT_MARK_BYTES);
    for character in text.chars() {
        let before = out.len();
        escape_into(character.encode_utf8(&mut [0; 4]), out);
        if out.len() - start - 1 > room {
            out.truncate(before);
            break;
        }
    }
    // Writing into memory cannot fail.
    drop(write!(out, "…[{} bytes, sha256 {}]\"", text.len(), hex(&sha256(text.as_bytes()))));
}

pub(super) fn escaped(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape_into(text, out);
    out.push(b'"');
}

fn escape_into(text: &str, out: &mut Vec<u8>) {
    let special = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    let mut rest = text.as_bytes();
    // Nearly every text holds none. Without an exit the compiler looks at many bytes at once.
    if !rest.iter().fold(false, |found, byte| found | special(*byte)) {
        out.extend_from_slice(rest);
        return;
    }
    while let Some(at) = rest.iter().position(|byte| special(*byte)) {
        let (before, after) = rest.split_at(at);
        out.extend_from_slice(before);
        let Some((byte, after)) = after.split_first() else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            // Writing into memory cannot fail.
            other => drop(write!(out, "\\u{other:04x}")),
        }
        rest = after;
    }
    out.extend_from_slice(rest);
}

pub(super) fn unsigned(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

pub(super) fn signed(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

pub(super) fn ulid(bits: u128, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(&ulid_text(bits));
    out.push(b'"');
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
