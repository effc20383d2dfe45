//! The canonical writer: RFC 8785 bytes straight into a buffer.
//!
//! Written by hand because it stands on the path of each call. Every text that a stranger chose goes through
//! [`Object::text`], which bounds its encoded length.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::SocketAddr;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::event::{
    Basis, Change, CredentialOut, Denial, Enforced, Event, Intent, IssueKind, Kind, LogOpened, MAX_HOST_BYTES,
    MAX_LABEL_BYTES, MAX_METHOD_BYTES, MAX_NOTE_BYTES, MAX_PATH_BYTES, MAX_PRINCIPAL_BYTES, MAX_SAMPLE_PATH_BYTES,
    MAX_SAMPLES, MAX_VALUE_BYTES, MAX_VALUES_BYTES, Outcome, ParameterValue, Parameters, Recovered, Refusals,
    TokenIssued, TokenRevoked,
};
use crate::domain::name::{CallId, GrantId, ParameterName};
use crate::evidence::tree::sha256;

/// What is left of a text that is too long: `…[N bytes, sha256 HEX]` follows it.
const CUT_MARK_BYTES: usize = 3 + 1 + 20 + 15 + 64 + 1;

/// Something that a record can say.
pub trait Encode {
    /// Its kind.
    fn kind(&self) -> Kind;

    /// Appends its canonical JSON.
    fn encode_data(&self, out: &mut Vec<u8>);
}

macro_rules! encode {
    ($($type:ty => $kind:ident, $write:ident;)*) => {
        $(impl Encode for $type {
            fn kind(&self) -> Kind {
                Kind::$kind
            }
            fn encode_data(&self, out: &mut Vec<u8>) {
                $write(self, out);
            }
        })*
    };
}

encode! {
    LogOpened<'_> => LogOpened, log_opened;
    Intent<'_> => Intent, intent;
    Outcome => Outcome, outcome;
    Denial<'_> => Denial, denial;
    Refusals<'_> => Refusals, refusals;
    TokenIssued<'_> => TokenIssued, token_issued;
    TokenRevoked<'_> => TokenRevoked, token_revoked;
    Enforced => Enforced, enforced;
    Change<'_> => Change, change;
    Recovered<'_> => Recovered, recovered;
}

impl Encode for Event<'_> {
    fn kind(&self) -> Kind {
        Event::kind(self)
    }

    fn encode_data(&self, out: &mut Vec<u8>) {
        match self {
            Self::LogOpened(it) => log_opened(it, out),
            Self::Intent(it) => intent(it, out),
            Self::Outcome(it) => outcome(it, out),
            Self::Denial(it) => denial(it, out),
            Self::Refusals(it) => refusals(it, out),
            Self::TokenIssued(it) => token_issued(it, out),
            Self::TokenRevoked(it) => token_revoked(it, out),
            Self::Enforced(it) => enforced(it, out),
            Self::Change(it) => change(it, out),
            Self::Recovered(it) => recovered(it, out),
        }
    }
}

/// Everything of an entry up to its position: `{"data":{…},"kind":"…","log":"…"`. `origin` needs no escapes.
pub(crate) fn encode_body(event: &(impl Encode + ?Sized), origin: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"data\":");
    event.encode_data(out);
    out.extend_from_slice(b",\"kind\":\"");
    out.extend_from_slice(event.kind().as_str().as_bytes());
    out.extend_from_slice(b"\",\"log\":\"");
    out.extend_from_slice(origin.as_bytes());
    out.push(b'"');
}

/// The rest of an entry: position, time and version.
pub(crate) fn encode_suffix(seq: u64, time: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"seq\":");
    unsigned(seq, out);
    out.extend_from_slice(b",\"time\":");
    signed(time, out);
    out.extend_from_slice(b",\"v\":1}");
}

fn log_opened(it: &LogOpened<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.text("boot_id", &it.boot_id, MAX_LABEL_BYTES);
    object.number("incarnation", it.incarnation);
    object.text("program", &it.program, MAX_LABEL_BYTES);
    object.number("resumed_from", it.resumed_from);
    object.end();
}

fn intent(it: &Intent<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.plain("action", it.action.as_str());
    object.number("authority_age_ms", it.authority_age_ms);
    let basis = object.key("basis");
    match &it.basis {
        Basis::Grant(grant) => {
            basis.extend_from_slice(b"{\"grant\":");
            ulid(grant.bits(), basis);
        }
        Basis::Exception(name) => {
            basis.extend_from_slice(b"{\"exception\":");
            quoted(name.as_str(), basis);
        }
    }
    basis.push(b'}');
    object.call("call", it.call);
    object.plain("credential", it.credential.as_str());
    object.plain(
        "credential_out",
        match it.credential_out {
            CredentialOut::Mint => "mint",
            CredentialOut::None => "none",
        },
    );
    object.plain("decision", "allow");
    object.number("epoch", it.epoch);
    object.text("host", &it.host, MAX_HOST_BYTES);
    object.plain("identity", it.identity.as_str());
    object.text("method", &it.method, MAX_METHOD_BYTES);
    parameters(&it.parameters, object.key("parameters"));
    object.text("path", &it.path, MAX_PATH_BYTES);
    object.address("peer", it.peer);
    object.text("principal", &it.principal, MAX_PRINCIPAL_BYTES);
    object.plain("resource", it.resource.as_str());
    object.number("revision", it.revision);
    object.plain("route", it.route.as_str());
    object.text("upstream", &it.upstream, MAX_HOST_BYTES);
    if let Some(reason) = it.would_refuse {
        object.plain("would_refuse", reason.code());
    }
    object.end();
}

fn parameters(it: &Parameters<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (place, (name, value)) in it.0.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        quoted(name.as_str(), out);
        out.push(b':');
        match value {
            ParameterValue::Text(text) => escaped(text, out),
            ParameterValue::Digest { bytes, sha256 } => {
                let mut object = Object::begin(out);
                object.number("bytes", *bytes);
                object.text("sha256", sha256, MAX_LABEL_BYTES);
                object.end();
            }
        }
    }
    out.push(b'}');
}

fn outcome(it: &Outcome, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.call("call", it.call);
    object.number("duration_us", it.ending.duration_us);
    object.plain("ended", it.ending.ended.as_str());
    object.number("intent_seq", it.intent_seq);
    if let Some(reason) = it.ending.reason {
        object.plain("reason", reason.code());
    }
    object.number("request_bytes", it.ending.request_bytes);
    object.number("response_bytes", it.ending.response_bytes);
    if let Some(status) = it.ending.status {
        object.number("status", status.into());
    }
    object.flag("upstream_started", it.ending.upstream_started);
    object.end();
}

fn denial(it: &Denial<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    if let Some(action) = &it.action {
        object.plain("action", action.as_str());
    }
    object.call("call", it.call);
    if let Some(credential) = it.credential {
        object.plain("credential", credential.as_str());
    }
    object.number("epoch", it.epoch);
    object.text("host", &it.host, MAX_HOST_BYTES);
    if let Some(identity) = &it.identity {
        object.plain("identity", identity.as_str());
    }
    object.text("method", &it.method, MAX_METHOD_BYTES);
    object.text("path", &it.path, MAX_PATH_BYTES);
    object.address("peer", it.peer);
    if let Some(principal) = &it.principal {
        object.text("principal", principal, MAX_PRINCIPAL_BYTES);
    }
    object.plain("reason", it.reason.code());
    if let Some(resource) = &it.resource {
        object.plain("resource", resource.as_str());
    }
    object.number("revision", it.revision);
    if let Some(route) = &it.route {
        object.plain("route", route.as_str());
    }
    object.end();
}

fn refusals(it: &Refusals<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    list(object.key("counts"), it.counts.iter(), |count, out| {
        let mut object = Object::begin(out);
        object.number("count", count.count);
        object.plain("reason", count.reason.code());
        object.end();
    });
    object.integer("from", it.from.unix_micros());
    list(object.key("samples"), it.samples.iter().take(MAX_SAMPLES), |sample, out| {
        let mut object = Object::begin(out);
        object.text("method", &sample.method, MAX_METHOD_BYTES);
        object.text("path", &sample.path, MAX_SAMPLE_PATH_BYTES);
        object.address("peer", sample.peer);
        object.end();
    });
    object.integer("to", it.to.unix_micros());
    object.end();
}

fn token_issued(it: &TokenIssued<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.text("audience", &it.audience, MAX_PRINCIPAL_BYTES);
    object.call("call", it.call);
    object.integer("expires", it.expires.unix_micros());
    object.grant("grant", it.grant);
    object.plain("identity", it.identity.as_str());
    object.text("jti", &it.jti, MAX_LABEL_BYTES);
    object.plain(
        "kind",
        match it.kind {
            IssueKind::Exchange => "exchange",
            IssueKind::Certificate => "certificate",
        },
    );
    if let Some(parent) = &it.parent_jti {
        object.text("parent_jti", parent, MAX_LABEL_BYTES);
    }
    object.end();
}

fn token_revoked(it: &TokenRevoked<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.text("by", &it.by, MAX_PRINCIPAL_BYTES);
    object.call("call", it.call);
    object.text("jti", &it.jti, MAX_LABEL_BYTES);
    object.end();
}

fn enforced(it: &Enforced, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    list(object.key("cut"), it.cut.iter(), |cut, out| {
        let mut object = Object::begin(out);
        object.call("call", cut.call);
        object.number("intent_seq", cut.intent_seq);
        object.plain("reason", cut.reason.code());
        object.end();
    });
    object.number("epoch", it.epoch);
    list(object.key("grants_revoked"), it.grants_revoked.iter(), |grant, out| ulid(grant.bits(), out));
    object.number("revision", it.revision);
    object.number("took_us", it.took_us);
    object.end();
}

fn change(it: &Change<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.plain("actor", it.actor.as_str());
    if let Some(after) = &it.after {
        canonical_json(after, object.key("after"));
    }
    if let Some(before) = &it.before_digest {
        object.text("before_digest", before, MAX_LABEL_BYTES);
    }
    object.text("object", &it.object, MAX_LABEL_BYTES);
    object.text("object_kind", &it.object_kind, MAX_LABEL_BYTES);
    object.text("operation", &it.operation, MAX_LABEL_BYTES);
    if let Some(reason) = &it.reason {
        object.text("reason", reason, MAX_NOTE_BYTES);
    }
    object.number("revision", it.revision);
    object.end();
}

fn recovered(it: &Recovered<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.number("discarded_frames", it.discarded_frames);
    object.number("lost_from", it.lost_from);
    object.text("note", &it.note, MAX_NOTE_BYTES);
    object.end();
}

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

fn list<T>(out: &mut Vec<u8>, items: impl Iterator<Item = T>, mut write: impl FnMut(T, &mut Vec<u8>)) {
    out.push(b'[');
    for (place, item) in items.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

/// An object that is being written. INVARIANT: keys come in ascending order.
struct Object<'w> {
    out: &'w mut Vec<u8>,
    last: &'static str,
}

impl<'w> Object<'w> {
    fn begin(out: &'w mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, last: "" }
    }

    fn end(self) {
        self.out.push(b'}');
    }

    fn key(&mut self, key: &'static str) -> &mut Vec<u8> {
        debug_assert!(self.last < key, "{key} after {}", self.last);
        if !self.last.is_empty() {
            self.out.push(b',');
        }
        self.last = key;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    fn number(&mut self, key: &'static str, value: u64) {
        unsigned(value, self.key(key));
    }

    fn integer(&mut self, key: &'static str, value: i64) {
        signed(value, self.key(key));
    }

    fn flag(&mut self, key: &'static str, value: bool) {
        self.key(key).extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// A text that needs no escapes by its type.
    fn plain(&mut self, key: &'static str, value: &str) {
        quoted(value, self.key(key));
    }

    /// A text that anybody may have chosen, at most `max` bytes of it once encoded.
    fn text(&mut self, key: &'static str, value: &str, max: usize) {
        bounded(value, max, self.key(key));
    }

    fn call(&mut self, key: &'static str, call: CallId) {
        ulid(call.bits(), self.key(key));
    }

    fn grant(&mut self, key: &'static str, grant: GrantId) {
        ulid(grant.bits(), self.key(key));
    }

    fn address(&mut self, key: &'static str, address: SocketAddr) {
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

fn quoted(text: &str, out: &mut Vec<u8>) {
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

fn escaped(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape_into(text, out);
    out.push(b'"');
}

fn escape_into(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\') {
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

fn unsigned(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        used += 1;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

fn signed(value: i64, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    unsigned(value.unsigned_abs(), out);
}

/// As `CallId` and `GrantId` show themselves, without the formatting machinery.
fn ulid(bits: u128, out: &mut Vec<u8>) {
    const CROCKFORD: [u8; 32] = *b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut text = [b'"'; 28];
    let mut rest = bits;
    for slot in text.iter_mut().skip(1).take(26).rev() {
        let digit = usize::try_from(rest & 31).unwrap_or(0);
        *slot = CROCKFORD.get(digit).copied().unwrap_or(b'0');
        rest >>= 5;
    }
    out.extend_from_slice(&text);
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

impl<'a> Parameters<'a> {
    /// Of a call's parameters in any order. Of a name that stands twice the first value counts.
    pub fn new(values: impl IntoIterator<Item = (Cow<'a, ParameterName>, &'a str)>) -> Self {
        let mut left = MAX_VALUES_BYTES;
        let mut pairs: Vec<_> = values
            .into_iter()
            .map(|(name, text)| {
                // Six bytes is the longest escape.
                let plain = text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\');
                let encoded = if plain { text.len() } else { text.len().saturating_mul(6) };
                if text.len() <= MAX_VALUE_BYTES && encoded <= left {
                    left -= encoded;
                    (name, ParameterValue::Text(Cow::Borrowed(text)))
                } else {
                    let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
                    (name, ParameterValue::Digest { bytes, sha256: hex(&sha256(text.as_bytes())) })
                }
            })
            .collect();
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        pairs.dedup_by(|(a, _), (b, _)| a == b);
        Self(pairs)
    }

    /// The pairs, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ParameterName, &ParameterValue<'a>)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }
}

impl Serialize for Parameters<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name.as_str(), value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Parameters<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Vec<(ParameterName, ParameterValue<'static>)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of parameters")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }
        let pairs = deserializer.deserialize_map(Pairs)?;
        Ok(Self(pairs.into_iter().map(|(name, value)| (Cow::Owned(name), value)).collect()))
    }
}
