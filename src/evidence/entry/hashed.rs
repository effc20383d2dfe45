//! Values that a record does not hold: what of them it holds in their place.

use serde::{Deserialize, Serialize};

use crate::evidence::keyed::HashKey;

/// Values of a query that are recorded; of more, how many.
pub const MAX_QUERY_VALUES: usize = 32;
/// Longest name of a query's value that is recorded.
pub const MAX_QUERY_NAME_BYTES: usize = 64;

/// A value that is too long or too private to be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Hashed {
    /// By a key of the gateway's.
    Keyed {
        /// Its length.
        bytes: u64,
        /// HMAC-SHA-256 of its SHA-256, hexadecimal.
        hmac: String,
        /// Which key.
        key: String,
    },
    /// As records of earlier versions have it.
    Plain {
        /// Its length.
        bytes: u64,
        /// Its SHA-256, hexadecimal.
        sha256: String,
    },
}

/// The values of a query, hashed: none of them stands in the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryHashes {
    /// Which key.
    pub key: String,
    /// Values beyond [`MAX_QUERY_VALUES`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
    /// The values, in their order.
    pub values: Vec<QueryHash>,
}

/// A value of a query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryHash {
    /// HMAC-SHA-256 of its SHA-256, hexadecimal: of the value as it is read (`+` and `%XX` undone).
    pub hmac: String,
    /// What it was given for, when that is a short name of letters, digits, `_`, `-` and `.` before a `=`. Else the whole
    /// of what stands there is hashed: it could be a secret itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl QueryHashes {
    /// Of a query as it stands in a target, without its `?`. Nothing for an empty one.
    pub fn of(query: &str, key: &HashKey) -> Option<Self> {
        let parts = || query.split('&').filter(|part| !part.is_empty());
        let values: Vec<_> = parts().take(MAX_QUERY_VALUES).map(|part| QueryHash::of(part, key)).collect();
        let more = u64::try_from(parts().skip(MAX_QUERY_VALUES).count()).unwrap_or(u64::MAX);
        (!values.is_empty()).then(|| Self { key: key.id().to_owned(), more, values })
    }
}

impl QueryHash {
    fn of(part: &str, key: &HashKey) -> Self {
        let named = part.split_once('=').filter(|(name, _)| is_name(name));
        let value = named.map_or(part, |(_, value)| value);
        Self { hmac: key.hash(&read(value)), name: named.map(|(name, _)| name.to_owned()) }
    }
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !text.is_empty() && text.len() <= MAX_QUERY_NAME_BYTES && text.bytes().all(plain)
}

/// A value with `+` and `%XX` undone; what is no escape stays.
pub(crate) fn read(text: &str) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escape = (*byte == b'%').then(|| digit(bytes.get(at + 1)).zip(digit(bytes.get(at + 2)))).flatten();
        match (byte, escape) {
            (_, Some((high, low))) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 2;
            }
            (b'+', None) => out.push(b' '),
            (byte, None) => out.push(*byte),
        }
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_query_stands_in_it_and_each_is_found() {
        let key = HashKey::generate().unwrap();
        let query = "token=s3cr3t&a%20b=hunter2&hunter3&x=&x=a+b%2Bc%zz";
        let of = QueryHashes::of(query, &key).unwrap();
        let text = serde_json::to_string(&of).unwrap();
        assert!(["s3cr3t", "hunter"].iter().all(|secret| !text.contains(secret)), "{text}");
        let names: Vec<_> = of.values.iter().map(|it| it.name.as_deref()).collect();
        assert_eq!(names, [Some("token"), None, None, Some("x"), Some("x")]);
        let hashes: Vec<_> = of.values.iter().map(|it| it.hmac.clone()).collect();
        let values: [&[u8]; 5] = [b"s3cr3t", b"a b=hunter2", b"hunter3", b"", b"a b+c%zz"];
        assert_eq!(hashes, values.map(|value| key.hash(value)));
        assert_eq!((QueryHashes::of("", &key), QueryHashes::of("&&", &key)), (None, None));
        let many = QueryHashes::of(&"a&".repeat(1_000), &key).unwrap();
        assert_eq!((many.values.len(), many.more), (MAX_QUERY_VALUES, 968));
    }
}
