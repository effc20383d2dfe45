//! Which keys an operation is about. Keys compare as bytes; a range knows nothing of what they mean.

use bytes::Bytes;

use super::StoreError;
use super::limits::check_key;

/// A set of keys that stand next to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    /// This one.
    Key(Bytes),
    /// All that begin with these bytes; without any, all there are.
    Prefix(Bytes),
    /// From the first, included, to the second, excluded.
    Span { from: Bytes, to: Bytes },
}

impl KeyRange {
    pub fn key(key: impl AsRef<[u8]>) -> Self {
        Self::Key(Bytes::copy_from_slice(key.as_ref()))
    }

    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        Self::Prefix(Bytes::copy_from_slice(prefix.as_ref()))
    }

    pub fn span(from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Self {
        Self::Span { from: Bytes::copy_from_slice(from.as_ref()), to: Bytes::copy_from_slice(to.as_ref()) }
    }

    /// Every key.
    pub fn all() -> Self {
        Self::Prefix(Bytes::new())
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::Prefix(prefix) => key.starts_with(prefix),
            Self::Span { from, to } => from <= key && key < to.as_ref(),
        }
    }

    /// The first key included, and the first one past the end if there is an end.
    pub(super) fn bounds(&self) -> (Bytes, Option<Bytes>) {
        match self {
            Self::Key(key) => {
                let mut next = key.to_vec();
                next.push(0);
                (key.clone(), Some(next.into()))
            }
            Self::Prefix(prefix) => (prefix.clone(), prefix_end(prefix)),
            Self::Span { from, to } => (from.clone(), Some(to.clone())),
        }
    }

    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self {
            Self::Key(key) => check_key(key),
            Self::Prefix(prefix) if prefix.is_empty() => Ok(()),
            Self::Prefix(prefix) => check_key(prefix),
            Self::Span { from, to } => check_key(from).and_then(|()| check_key(to)),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            // As a prefix, it has an end of the same length.
            Self::Key(bytes) => bytes.len(),
            Self::Prefix(bytes) => bytes.len().saturating_mul(2),
            Self::Span { from, to } => from.len().saturating_add(to.len()),
        }
    }
}

/// The first key that no longer begins with `prefix`. Past a last byte of 0xff, the one before it counts up.
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Some(end.into());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefix_end_carries_over_0xff() {
        assert_eq!(prefix_end(b"ab").as_deref(), Some(&b"ac"[..]));
        assert_eq!(prefix_end(b"a\xff\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }

    proptest! {
        #[test]
        fn bounds_hold_exactly_what_the_range_contains(
            prefix in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xfe), Just(0xff)], 0..4),
            key in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xfe), Just(0xff)], 1..5),
        ) {
            for range in [KeyRange::prefix(&prefix), KeyRange::key(&prefix), KeyRange::span(&prefix, b"\xfe")] {
                let (from, to) = range.bounds();
                let inside = from <= key && to.is_none_or(|to| key < to);
                prop_assert_eq!(inside, range.contains(&key), "{:?} {:?}", range, key);
            }
        }
    }
}
