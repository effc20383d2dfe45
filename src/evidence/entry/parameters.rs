//! A route's parameters in a call, as they are recorded: sorted, and bounded in length.

use std::borrow::Cow;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::event::Text;
use super::hashed::Hashed;
use crate::domain::name::ParameterName;
use crate::evidence::keyed::HashKey;
use crate::evidence::tree::sha256;

/// Longest parameter value recorded as it is; of a longer one its length and keyed hash.
pub const MAX_VALUE_BYTES: usize = 256;
/// Bytes that the parameter values of one call may take together as they are; the rest are recorded as hashes.
pub const MAX_VALUES_BYTES: usize = 8192;

/// A route's parameters in a call: sorted by name, each once, values bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters<'a>(pub(super) Vec<(Cow<'a, ParameterName>, ParameterValue<'a>)>);

/// A parameter's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ParameterValue<'a> {
    /// As it stood in the call.
    Text(Text<'a>),
    /// A value too long to be kept.
    Hashed(Hashed),
}

impl<'a> Parameters<'a> {
    /// Of a call's parameters in any order. Of a name that stands twice the first value counts.
    pub fn new(values: impl IntoIterator<Item = (Cow<'a, ParameterName>, &'a str)>, key: &HashKey) -> Self {
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
                    (name, ParameterValue::Hashed(key.hashed(bytes, &sha256(text.as_bytes()))))
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
                let mut pairs: Vec<(ParameterName, _)> = Vec::new();
                while let Some((name, value)) = map.next_entry()? {
                    if pairs.last().is_some_and(|(last, _)| *last >= name) {
                        return Err(serde::de::Error::custom("parameters stand twice, or not in their order"));
                    }
                    pairs.push((name, value));
                }
                Ok(pairs)
            }
        }
        let pairs = deserializer.deserialize_map(Pairs)?;
        Ok(Self(pairs.into_iter().map(|(name, value)| (Cow::Owned(name), value)).collect()))
    }
}
