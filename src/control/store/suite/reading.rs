//! Ranges: order, limits, prefixes, the past.

use super::*;

pub(super) async fn keys_come_in_byte_order(s: &Subject) {
    for name in ["b", "a/x", "a", "a\0", "B", "é", "a!"] {
        s.put(name, "").await;
    }
    let found = s.store.range(s.all(), None, None).await.unwrap();
    let names: Vec<_> = s.shown(&found).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["B", "a", "a\0", "a!", "a/x", "b", "é"]);
    assert!(!found.more);
    let one = s.store.range(KeyRange::key(s.key("a")), None, None).await.unwrap();
    assert_eq!(s.shown(&one), pairs(&[("a", "")]), "one key is only that key");
}

pub(super) async fn a_limit_says_whether_there_is_more(s: &Subject) {
    for name in ["a", "b", "c"] {
        s.put(name, "").await;
    }
    for (limit, length, more) in [(1, 1, true), (2, 2, true), (3, 3, false), (4, 3, false), (0, 3, false)] {
        let found = s.store.range(s.all(), Some(limit), None).await.unwrap();
        assert_eq!((found.kvs.len(), found.more), (length, more), "limit {limit}");
        let op = Op::Get { range: s.all(), limit: Some(limit) };
        let TxnResult { responses, .. } = s.store.txn(Txn::new().then(op)).await.unwrap();
        assert_eq!(responses, [OpResult::Get(found)], "limit {limit} in a transaction");
    }
    let past = s.revision().await;
    s.put("d", "").await;
    let found = s.store.range(s.all(), Some(2), Some(past)).await.unwrap();
    assert_eq!((found.kvs.len(), found.more), (2, true));
    let found = s.store.range(s.all(), Some(3), Some(past)).await.unwrap();
    assert_eq!((found.kvs.len(), found.more), (3, false));
}

pub(super) async fn prefixes_end_where_their_last_byte_counts_up(s: &Subject) {
    let key = |tail: &[u8]| [s.place.as_bytes(), tail].concat();
    let tails: [&[u8]; 8] =
        [b"a", b"a\x00", b"a\xfe\xff", b"a\xff", b"a\xff\x00", b"a\xff\xff", b"a\xff\xff\xff", b"b"];
    for tail in tails {
        s.store.txn(Txn::new().then(Op::put(key(tail), ""))).await.unwrap();
    }
    for prefix in [&b"a"[..], b"a\xff", b"a\xff\xff", b"a\xff\xff\xff", b"a\xff\xff\xff\xff", b"a\xfe"] {
        let found = s.store.range(KeyRange::prefix(key(prefix)), None, None).await.unwrap();
        let found: Vec<_> = found.kvs.into_iter().map(|kv| kv.key).collect();
        let expected: Vec<_> = tails.iter().filter(|tail| tail.starts_with(prefix)).map(|tail| key(tail)).collect();
        assert_eq!(found, expected, "{prefix:?}");
    }
}

pub(super) async fn a_prefix_of_0xff_reaches_the_end(s: &Subject) {
    // These have no end to stand before; they are taken away again, being outside of this rule's place.
    let keys: [&[u8]; 4] = [b"\xfe", b"\xff", b"\xff\xff", b"\xff\xff\xff\x01"];
    for key in keys {
        s.store.txn(Txn::new().then(Op::put(key, ""))).await.unwrap();
    }
    s.put("a", "").await;
    let keys_of = async |range| -> Vec<Bytes> {
        s.store.range(range, None, None).await.unwrap().kvs.into_iter().map(|kv| kv.key).collect()
    };
    assert_eq!(keys_of(KeyRange::prefix(b"\xff")).await, &keys[1..]);
    assert_eq!(keys_of(KeyRange::prefix(b"\xff\xff")).await, &keys[2..]);
    assert_eq!(keys_of(KeyRange::prefix(b"\xff\xff\xff")).await, &keys[3..]);
    let all = keys_of(KeyRange::all()).await;
    assert!(all.ends_with(&keys.map(Bytes::from_static)) && all.contains(&s.key("a").into()));
    let both = Txn::new().then(Op::delete(KeyRange::prefix(b"\xff"))).then(Op::delete(KeyRange::key(b"\xfe")));
    let deleted = s.store.txn(both).await.unwrap().responses;
    assert_eq!(deleted, [OpResult::Delete { deleted: 3 }, OpResult::Delete { deleted: 1 }]);
}

pub(super) async fn spans_exclude_their_end(s: &Subject) {
    for name in ["a", "b", "c"] {
        s.put(name, "").await;
    }
    let names = async |from, to| -> Vec<String> {
        let found = s.store.range(KeyRange::span(s.key(from), s.key(to)), None, None).await.unwrap();
        s.shown(&found).into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names("a", "c").await, ["a", "b"]);
    assert_eq!(names("a\0", "c\0").await, ["b", "c"]);
    assert_eq!(names("b", "b").await, [""; 0]);
    assert_eq!(names("c", "a").await, [""; 0], "backwards is empty");
}

pub(super) async fn the_past_is_readable(s: &Subject) {
    let before = s.revision().await;
    let first = s.put("a", "1").await;
    let second = s.put("b", "1").await;
    let third = s.put("a", "2").await;
    let fourth = s.delete("b").await;
    let fifth = s.put("b", "3").await;
    for (at, expected) in [
        (before, &[][..]),
        (first, &[("a", "1")]),
        (second, &[("a", "1"), ("b", "1")]),
        (third, &[("a", "2"), ("b", "1")]),
        (fourth, &[("a", "2")]),
        (fifth, &[("a", "2"), ("b", "3")]),
        (0, &[("a", "2"), ("b", "3")]),
    ] {
        let found = s.store.range(s.all(), None, Some(at)).await.unwrap();
        assert_eq!(s.shown(&found), pairs(expected), "at {at}");
        assert_eq!(found.revision, fifth, "the store's revision, not the one asked for");
    }
    let old = s.store.range(KeyRange::key(s.key("b")), None, Some(third)).await.unwrap().kvs;
    let [KeyValue { create_revision, mod_revision, version, .. }] = old[..] else { panic!("{old:?}") };
    assert_eq!((create_revision, mod_revision, version), (second, second, 1));
}

pub(super) async fn the_future_is_not_readable(s: &Subject) {
    let current = s.put("a", "").await;
    let refused = s.store.range(s.all(), None, Some(current + 1)).await;
    assert_eq!(refused, Err(StoreError::FutureRevision { current }));
}
