//! JSON that can be read in exactly one way: no duplicate members at any depth, bounded nesting.
//!
//! For the headers and claims of tokens, for key sets and for what the control plane is asked over HTTP. The usual reader keeps the last of two equal members, another
//! one keeps the first, and the difference is an attack (RFC 8725 section 2.4). Knows nothing about tokens.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Nesting accepted: claims of real issuers stay under five.
const MAX_DEPTH: usize = 12;

/// Reads one JSON value, nested at most so deep, with nothing after it. The error says what stands where.
///
/// # Errors
/// When it is not JSON, or could be read in more than one way.
pub fn value(bytes: &[u8], depth: usize) -> Result<Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Why a text is not an unambiguous JSON object. Says nothing about its content, which may be a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an unambiguous JSON object")]
pub(super) struct JsonError;

/// Reads one JSON object, with nothing after it.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>, JsonError> {
    match value(bytes, MAX_DEPTH).map_err(|_| JsonError)? {
        Value::Object(members) => Ok(members),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Err(JsonError),
    }
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        self.depth.checked_sub(1).map(|depth| Self { depth }).ok_or_else(|| E::custom("too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without duplicate members")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inside)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(inside)?;
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom("duplicate member"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reading_or_none() {
        let read = object(br#" {"a":1,"b":{"c":[true,null,"x"]},"d":-2} "#).unwrap();
        assert_eq!(Value::Object(read), serde_json::json!({"a":1,"b":{"c":[true,null,"x"]},"d":-2}));
        let deep = format!("{}1{}", r#"{"a":"#.repeat(13), "}".repeat(13));
        let bottomless = "[".repeat(100_000);
        for bad in [
            "",
            "1",
            "null",
            "[]",
            "\"a\"",
            "{",
            "{} x",
            "{}{}",
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"a":[{"b":1,"b":2}]}"#,
            r#"{"a":1e400}"#,
            r#"{"a":"\ud800"}"#,
            "{'a':1}",
            r#"{"a":1,}"#,
            "\u{feff}{}",
            r#"{"a":01}"#,
            "{\"a\":\"\n\"}",
            &deep,
            &bottomless,
        ] {
            assert_eq!(object(bad.as_bytes()), Err(JsonError), "{}", &bad[..bad.len().min(60)]);
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}"), Err(JsonError));
    }
}
