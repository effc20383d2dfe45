//! Limits, at their edges: what is just allowed is done, also by etcd, whose own limits are the reason for ours.

use super::*;
use crate::control::store::{MAX_KEY_BYTES, MAX_OPERATIONS, MAX_REQUEST_BYTES, OPERATION_BYTES};

pub(super) async fn operations_are_limited_in_each_list(s: &Subject) {
    let compare = |count| (0..count).map(|n| Compare::absent(s.key(&format!("none{n}")))).collect();
    let puts = |count| (0..count).map(|n| Op::put(s.key(&format!("{n}")), "")).collect();
    let full = Txn { compare: compare(MAX_OPERATIONS), then: puts(MAX_OPERATIONS), or_else: puts(MAX_OPERATIONS) };
    let done = s.store.txn(full.clone()).await.unwrap();
    assert_eq!(done.responses.len(), MAX_OPERATIONS);
    let operations = MAX_OPERATIONS + 1;
    for txn in [
        Txn { compare: compare(operations), ..full.clone() },
        Txn { then: puts(operations), ..full.clone() },
        Txn { or_else: puts(operations), ..full.clone() },
    ] {
        assert_eq!(s.store.txn(txn).await, Err(StoreError::TooManyOperations { operations }));
    }
    assert_eq!(s.revision().await, done.revision);
}

pub(super) async fn bytes_are_limited(s: &Subject) {
    let key = s.key("a");
    let room = MAX_REQUEST_BYTES - OPERATION_BYTES - key.len();
    let put = |length: usize| Txn::new().then(Op::put(&key, vec![0xff; length]));
    s.store.txn(put(room)).await.unwrap();
    assert_eq!(s.get("a").await.unwrap().value.len(), room);
    let bytes = MAX_REQUEST_BYTES + 1;
    assert_eq!(s.store.txn(put(room + 1)).await, Err(StoreError::TooLarge { bytes }));
    // Both branches count, and what is compared.
    let both = put(room / 2).or_else(Op::put(&key, vec![0; room / 2 + 1]));
    assert!(matches!(s.store.txn(both).await, Err(StoreError::TooLarge { .. })));
    let value = CompareTarget::Value(vec![0; room].into());
    let compared = Txn::new().when(Compare::new(&key, CompareOp::Equal, value));
    assert!(!s.store.txn(compared.clone()).await.unwrap().succeeded);
    assert!(matches!(s.store.txn(compared.then(Op::get(s.all()))).await, Err(StoreError::TooLarge { .. })));
}

/// What we count for an operation is not less than what etcd needs for it.
pub(super) async fn many_small_operations_fit_as_counted(s: &Subject) {
    let lease = s.store.lease_grant(Duration::from_secs(60)).await.unwrap().id;
    let mut txn = Txn::new();
    for n in 0..MAX_OPERATIONS {
        let name = s.key(&format!("{n:03}"));
        let filled = format!("{name:_<width$}", width = MAX_KEY_BYTES);
        txn = txn.when(Compare::absent(&filled)).then(Op::put_leased(&filled, vec![0; 10_000], lease));
    }
    let room = MAX_REQUEST_BYTES - txn.bytes() - OPERATION_BYTES - s.key("rest").len();
    let txn = txn.or_else(Op::put(s.key("rest"), vec![0; room]));
    assert_eq!(txn.bytes(), MAX_REQUEST_BYTES);
    assert!(s.store.txn(txn).await.unwrap().succeeded);
    assert_eq!(s.store.range(s.all(), None, None).await.unwrap().kvs.len(), MAX_OPERATIONS);
    s.store.lease_revoke(lease).await.unwrap();
}

pub(super) async fn keys_are_limited(s: &Subject) {
    let longest = format!("{:x<width$}", s.place, width = MAX_KEY_BYTES);
    let done = s.store.txn(Txn::new().then(Op::put(&longest, ""))).await.unwrap();
    assert_eq!(s.store.range(KeyRange::prefix(&longest), None, None).await.unwrap().kvs.len(), 1);
    for key in [format!("{longest}x"), String::new()] {
        let refused = StoreError::KeyLength { bytes: key.len() };
        for txn in [
            Txn::new().then(Op::put(&key, "")),
            Txn::new().then(Op::delete(KeyRange::key(&key))),
            Txn::new().or_else(Op::get(KeyRange::key(&key))),
            Txn::new().when(Compare::absent(&key)),
            Txn::new().then(Op::delete(KeyRange::span("a", &key))),
            Txn::new().then(Op::get(KeyRange::span(&key, "b"))),
        ] {
            assert_eq!(s.store.txn(txn.clone()).await, Err(refused.clone()), "{txn:?}");
        }
        assert_eq!(s.store.range(KeyRange::key(&key), None, None).await, Err(refused.clone()));
        assert_eq!(s.store.watch(KeyRange::key(&key), 0).await.err(), Some(refused));
    }
    let long = KeyRange::prefix(format!("{longest}x"));
    let refused = StoreError::KeyLength { bytes: MAX_KEY_BYTES + 1 };
    assert_eq!(s.store.range(long, None, None).await, Err(refused));
    assert_eq!(s.revision().await, done.revision);
}
