//! Leases: what hangs on them, and how they end.

use super::*;
use crate::control::store::{Event, LEASE_SECONDS_MAX, LEASE_SECONDS_MIN, LeaseId};

const LONG: Duration = Duration::from_secs(3600);

async fn put_leased(s: &Subject, name: &str, lease: LeaseId) -> Revision {
    s.store.txn(Txn::new().then(Op::put_leased(s.key(name), "", lease))).await.unwrap().revision
}

fn deleted(s: &Subject, batch: &WatchBatch) -> Vec<String> {
    let name = |event: &Event| match event {
        Event::Delete { key, previous: Some(_) } => {
            String::from_utf8(key.to_vec()).unwrap().strip_prefix(&s.place).unwrap().to_owned()
        }
        other => panic!("{other:?}"),
    };
    batch.events.iter().map(name).collect()
}

pub(super) async fn a_revoked_lease_takes_its_keys_in_one_revision(s: &Subject) {
    let lease = s.store.lease_grant(LONG).await.unwrap();
    assert_eq!(lease.ttl, LONG);
    let other = s.store.lease_grant(LONG).await.unwrap();
    assert_ne!(lease.id, other.id);
    for (name, lease) in [("b", lease.id), ("c", other.id), ("a", lease.id)] {
        put_leased(s, name, lease).await;
    }
    let last = s.put("free", "").await;
    assert_eq!(s.get("a").await.unwrap().lease, Some(lease.id));
    let mut watch = s.store.watch(s.all(), last + 1).await.unwrap();
    s.store.lease_revoke(lease.id).await.unwrap();
    let batch = next(&mut watch).await.unwrap();
    assert_eq!((batch.revision, deleted(s, &batch)), (last + 1, vec!["a".into(), "b".into()]));
    let left = s.store.range(s.all(), None, None).await.unwrap();
    assert_eq!(s.shown(&left), pairs(&[("c", ""), ("free", "")]));
    assert_eq!(s.store.lease_revoke(lease.id).await, Err(StoreError::LeaseNotFound { lease: lease.id }));
    assert_eq!(s.store.lease_keep_alive(lease.id).await, Err(StoreError::LeaseNotFound { lease: lease.id }));
    s.store.lease_keep_alive(other.id).await.unwrap();
    s.store.lease_revoke(other.id).await.unwrap();
}

pub(super) async fn a_lease_without_keys_ends_in_silence(s: &Subject) {
    let before = s.put("a", "").await;
    let lease = s.store.lease_grant(LONG).await.unwrap().id;
    s.store.lease_keep_alive(lease).await.unwrap();
    s.store.lease_revoke(lease).await.unwrap();
    assert_eq!(s.revision().await, before);
}

pub(super) async fn an_expired_lease_takes_its_keys_in_a_revision_of_its_own(s: &Subject) {
    let short = s.store.lease_grant(Duration::from_secs(2)).await.unwrap();
    let long = s.store.lease_grant(LONG).await.unwrap();
    put_leased(s, "b", short.id).await;
    put_leased(s, "kept", long.id).await;
    let last = put_leased(s, "a", short.id).await;
    let mut watch = s.store.watch(s.all(), last + 1).await.unwrap();
    s.pass(short.ttl).await;
    let batch = next(&mut watch).await.unwrap();
    assert_eq!((batch.revision, deleted(s, &batch)), (last + 1, vec!["a".into(), "b".into()]));
    let gone = StoreError::LeaseNotFound { lease: short.id };
    assert_eq!(s.store.lease_keep_alive(short.id).await, Err(gone.clone()));
    let late = Txn::new().then(Op::put_leased(s.key("a"), "", short.id));
    assert_eq!(s.store.txn(late).await, Err(gone));
    assert_eq!(s.get("kept").await.unwrap().lease, Some(long.id));
    s.store.lease_revoke(long.id).await.unwrap();
}

pub(super) async fn an_unknown_lease_is_refused_and_nothing_is_done(s: &Subject) {
    let before = s.put("a", "1").await;
    let lease = s.store.lease_grant(LONG).await.unwrap().id;
    s.store.lease_revoke(lease).await.unwrap();
    let txn = Txn::new()
        .then(Op::put(s.key("a"), "2"))
        .then(Op::put_leased(s.key("b"), "", lease))
        .or_else(Op::put_leased(s.key("c"), "", lease));
    let refused = Err(StoreError::LeaseNotFound { lease });
    assert_eq!(s.store.txn(txn.clone()).await, refused);
    assert_eq!(s.store.txn(txn.when(Compare::present(s.key("none")))).await, refused);
    assert_eq!((s.revision().await, s.get("a").await.unwrap().value), (before, "1".into()));
    // Only the branch that is done needs its leases.
    let spared = Txn::new().then(Op::put(s.key("a"), "3")).or_else(Op::put_leased(s.key("c"), "", lease));
    assert_eq!(s.store.txn(spared).await.unwrap().revision, before + 1);
}

pub(super) async fn a_put_moves_a_key_between_leases(s: &Subject) {
    let first = s.store.lease_grant(LONG).await.unwrap().id;
    let second = s.store.lease_grant(LONG).await.unwrap().id;
    for name in ["moved", "freed", "gone", "again"] {
        put_leased(s, name, first).await;
    }
    put_leased(s, "moved", second).await;
    s.put("freed", "").await;
    // A key that was deleted and put again is not the one that hung on the lease.
    s.delete("again").await;
    s.put("again", "").await;
    s.store.lease_revoke(first).await.unwrap();
    let left = s.store.range(s.all(), None, None).await.unwrap();
    let left: Vec<_> = left.kvs.iter().map(|kv| (kv.key.clone(), kv.lease)).collect();
    let key = |name| Bytes::from(s.key(name));
    assert_eq!(left, [(key("again"), None), (key("freed"), None), (key("moved"), Some(second))]);
    s.store.lease_revoke(second).await.unwrap();
    assert_eq!(s.get("moved").await, None);
}

pub(super) async fn the_time_of_a_lease_is_limited(s: &Subject) {
    for seconds in [0, LEASE_SECONDS_MIN - 1, LEASE_SECONDS_MAX + 1] {
        let refused = s.store.lease_grant(Duration::from_secs(seconds)).await;
        assert_eq!(refused, Err(StoreError::LeaseDuration { seconds }));
    }
    for (asked, given) in [
        (Duration::from_secs(LEASE_SECONDS_MIN), LEASE_SECONDS_MIN),
        (Duration::from_millis(2001), 3),
        (Duration::from_secs(LEASE_SECONDS_MAX), LEASE_SECONDS_MAX),
    ] {
        let lease = s.store.lease_grant(asked).await.unwrap();
        assert_eq!(lease.ttl, Duration::from_secs(given));
        s.store.lease_revoke(lease.id).await.unwrap();
    }
}
