//! Whether bytes are canonical JSON (RFC 8785) as entries have it: one spelling for each value.
//!
//! One way through the bytes, without building anything: no white space, members in ascending order and so none twice,
//! texts with the shortest escapes, integers alone. Knows nothing of what a record means.

/// Deeper nesting than any record has.
const MAX_DEPTH: usize = 32;

/// Whether `bytes` are one canonical value, and nothing else.
pub(crate) fn is_canonical(bytes: &[u8]) -> bool {
    let mut scan = Scan { rest: bytes };
    scan.value(0).is_some() && scan.rest.is_empty()
}

struct Scan<'b> {
    rest: &'b [u8],
}

impl<'b> Scan<'b> {
    fn takes(&mut self, text: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?;
        Some(())
    }

    fn next_is(&mut self, byte: u8) -> bool {
        self.takes(&[byte]).is_some()
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.rest.first()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.text().map(drop),
            b't' => self.takes(b"true"),
            b'f' => self.takes(b"false"),
            b'n' => self.takes(b"null"),
            _ => self.integer(),
        }
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.takes(b"{")?;
        if self.next_is(b'}') {
            return Some(());
        }
        let mut last: Option<&'b [u8]> = None;
        loop {
            let key = self.text()?;
            if last.is_some_and(|last| !in_order(last, key)) {
                return None;
            }
            last = Some(key);
            self.takes(b":")?;
            self.value(depth + 1)?;
            if self.next_is(b'}') {
                return Some(());
            }
            self.takes(b",")?;
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.takes(b"[")?;
        if self.next_is(b']') {
            return Some(());
        }
        loop {
            self.value(depth + 1)?;
            if self.next_is(b']') {
                return Some(());
            }
            self.takes(b",")?;
        }
    }

    /// What stands between the quotation marks. That it is UTF-8 is for who parses it.
    fn text(&mut self) -> Option<&'b [u8]> {
        self.takes(b"\"")?;
        let whole = self.rest;
        loop {
            let (byte, after) = self.rest.split_first()?;
            self.rest = after;
            match byte {
                b'"' => return whole.get(..whole.len() - after.len() - 1),
                b'\\' => self.escape()?,
                0..0x20 => return None,
                _ => {}
            }
        }
    }

    /// Only of what must be escaped, and in the shortest form.
    fn escape(&mut self) -> Option<()> {
        let (byte, after) = self.rest.split_first()?;
        self.rest = after;
        match byte {
            b'"' | b'\\' | b'b' | b't' | b'n' | b'f' | b'r' => Some(()),
            b'u' => {
                self.takes(b"00")?;
                let (digits, after) = self.rest.split_at_checked(2)?;
                self.rest = after;
                let lower = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
                let code = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
                let short = matches!(code, 0x08 | 0x09 | 0x0a | 0x0c | 0x0d);
                (lower && code < 0x20 && !short).then_some(())
            }
            _ => None,
        }
    }

    fn integer(&mut self) -> Option<()> {
        let negative = self.next_is(b'-');
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, after) = self.rest.split_at_checked(digits)?;
        self.rest = after;
        match number {
            [] => None,
            [b'0'] => (!negative).then_some(()),
            [b'0', ..] => None,
            _ => Some(()),
        }
    }
}

/// Whether one key may stand before another: by UTF-16 code units (RFC 8785 section 3.2.3).
fn in_order(one: &[u8], other: &[u8]) -> bool {
    if one.is_ascii() && other.is_ascii() && !one.contains(&b'\\') && !other.contains(&b'\\') {
        return one < other;
    }
    let text = |raw: &[u8]| serde_json::from_slice::<String>(&[b"\"", raw, b"\""].concat()).ok();
    match (text(one), text(other)) {
        (Some(one), Some(other)) => one.encode_utf16().lt(other.encode_utf16()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::json::canonical_json;
    use super::*;

    #[test]
    fn a_value_has_one_spelling() {
        let good = [
            r#"{"a":[],"b":{"c":[1,-2,"x"]},"d":null}"#,
            r#"["\u0000","\u001f","\b\t\n\f\r","\"\\/"]"#,
            r#"{"":0,"\n":1,"a":2,"aa":3}"#,
            "\"\u{20ac}\"",
        ];
        let bad = [
            r#"{"b":1,"a":2}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a": 1}"#,
            r#" {"a":1}"#,
            "{\"a\":1}\n",
            r#"{"a":1,}"#,
            r#"[1,]"#,
            r#"{"a":01}"#,
            r#"{"a":-0}"#,
            r#"{"a":1.0}"#,
            r#"{"a":1e3}"#,
            r#"{"a":+1}"#,
            r#"["\/"]"#,
            r#"["\u0041"]"#,
            r#"["\u001F"]"#,
            r#"["\u000a"]"#,
            r#"["\u0062"]"#,
            "[\"\n\"]",
            "",
            r#"{"a":1}{}"#,
            r#"{"a":tru}"#,
            r#"{"a"#,
        ];
        for text in good {
            assert!(is_canonical(text.as_bytes()), "{text}");
        }
        for text in bad {
            assert!(!is_canonical(text.as_bytes()), "{text}");
        }
        // By code units, U+1F600 comes before U+FB33; by bytes and by characters it does not.
        assert!(is_canonical("{\"\u{1f600}\":1,\"\u{fb33}\":2}".as_bytes()));
        assert!(!is_canonical("{\"\u{fb33}\":1,\"\u{1f600}\":2}".as_bytes()));
        assert!(!is_canonical("[".repeat(10_000).as_bytes()));
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
            any::<bool>().prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_the_writer_writes_is_canonical(value in value()) {
            let mut bytes = Vec::new();
            canonical_json(&value, &mut bytes);
            prop_assert!(is_canonical(&bytes), "{}", String::from_utf8_lossy(&bytes));
        }
    }
}
