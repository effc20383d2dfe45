//! Transactions: what they compare, what they change, what they tell.

use super::*;

pub(super) async fn a_put_counts_revision_and_version(s: &Subject) {
    let before = s.revision().await;
    let first = s.put("a", "1").await;
    assert_eq!(first, before + 1);
    let second = s.put("a", "2").await;
    assert_eq!((second, s.revision().await), (before + 2, before + 2));
    let kv = s.get("a").await.unwrap();
    let expected = KeyValue {
        key: s.key("a").into(),
        value: "2".into(),
        create_revision: first,
        mod_revision: second,
        version: 2,
        lease: None,
    };
    assert_eq!(kv, expected);
    let both = Txn::new().then(Op::put(s.key("b"), "")).then(Op::put(s.key("c"), ""));
    let done = s.store.txn(both).await.unwrap();
    assert_eq!(
        done,
        TxnResult { succeeded: true, revision: before + 3, responses: vec![OpResult::Put, OpResult::Put] }
    );
    assert_eq!(s.get("b").await.unwrap().mod_revision, s.get("c").await.unwrap().mod_revision);
}

pub(super) async fn a_key_put_again_after_its_deletion_is_new(s: &Subject) {
    s.put("a", "1").await;
    s.put("a", "2").await;
    s.delete("a").await;
    assert_eq!(s.get("a").await, None);
    let again = s.put("a", "3").await;
    let kv = s.get("a").await.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (again, again, 1));
}

pub(super) async fn deleting_a_range_tells_how_many(s: &Subject) {
    for name in ["x/a", "x/b", "y"] {
        s.put(name, "").await;
    }
    let before = s.revision().await;
    let txn = Txn::new()
        .then(Op::delete(KeyRange::prefix(s.key("x/"))))
        .then(Op::delete(KeyRange::key(s.key("none"))))
        .then(Op::delete(KeyRange::key(s.key("y"))));
    let deleted = |deleted| OpResult::Delete { deleted };
    let done = s.store.txn(txn).await.unwrap();
    assert_eq!((done.revision, done.responses), (before + 1, vec![deleted(2), deleted(0), deleted(1)]));
    assert!(s.store.range(s.all(), None, None).await.unwrap().kvs.is_empty());
}

pub(super) async fn what_writes_nothing_moves_no_revision(s: &Subject) {
    let before = s.put("a", "1").await;
    let none = s.key("none");
    for txn in [
        Txn::new(),
        Txn::new().then(Op::get(s.all())),
        Txn::new().then(Op::delete(KeyRange::key(&none))),
        Txn::new().then(Op::delete(KeyRange::prefix(&none))).then(Op::get(s.all())),
        Txn::new().when(Compare::present(&none)).then(Op::put(&none, "")),
        Txn::new().when(Compare::absent(&none)).or_else(Op::put(&none, "")),
    ] {
        assert_eq!(s.store.txn(txn.clone()).await.unwrap().revision, before, "{txn:?}");
        assert_eq!(s.revision().await, before, "{txn:?}");
    }
    // The same value again is a write.
    assert_eq!(s.put("a", "1").await, before + 1);
}

pub(super) async fn every_comparison_is_as_etcd_makes_it(s: &Subject) {
    let created = s.put("a", "m").await;
    s.put("a", "m").await;
    let modified = s.put("a", "m").await;
    let value = |value: &'static str| CompareTarget::Value(value.into());
    for (target, is) in [
        (CompareTarget::ModRevision(modified), CompareOp::Equal),
        (CompareTarget::ModRevision(modified - 1), CompareOp::Greater),
        (CompareTarget::ModRevision(modified + 1), CompareOp::Less),
        (CompareTarget::CreateRevision(created), CompareOp::Equal),
        (CompareTarget::CreateRevision(created - 1), CompareOp::Greater),
        (CompareTarget::CreateRevision(created + 1), CompareOp::Less),
        (CompareTarget::Version(3), CompareOp::Equal),
        (CompareTarget::Version(2), CompareOp::Greater),
        (CompareTarget::Version(4), CompareOp::Less),
        (value("m"), CompareOp::Equal),
        (value("l~"), CompareOp::Greater),
        (value(""), CompareOp::Greater),
        (value("m\0"), CompareOp::Less),
        (value("n"), CompareOp::Less),
    ] {
        for op in [CompareOp::Equal, CompareOp::NotEqual, CompareOp::Greater, CompareOp::Less] {
            let expected = if op == CompareOp::NotEqual { is != CompareOp::Equal } else { op == is };
            let compare = Compare::new(s.key("a"), op, target.clone());
            let done = s.store.txn(Txn::new().when(compare.clone())).await.unwrap();
            assert_eq!(done.succeeded, expected, "{compare:?}");
        }
    }
}

pub(super) async fn a_missing_key_compares_as_zero_and_has_no_value(s: &Subject) {
    s.put("gone", "").await;
    s.delete("gone").await;
    for name in ["never", "gone"] {
        for op in [CompareOp::Equal, CompareOp::NotEqual, CompareOp::Greater, CompareOp::Less] {
            let holds = async |target| {
                let compare = Compare::new(s.key(name), op, target);
                s.store.txn(Txn::new().when(compare)).await.unwrap().succeeded
            };
            for number in [0, 1] {
                let expected = match op {
                    CompareOp::Equal => number == 0,
                    CompareOp::NotEqual | CompareOp::Less => number == 1,
                    CompareOp::Greater => false,
                };
                assert_eq!(holds(CompareTarget::ModRevision(number)).await, expected, "{op:?} {number}");
                assert_eq!(holds(CompareTarget::CreateRevision(number)).await, expected, "{op:?} {number}");
                assert_eq!(holds(CompareTarget::Version(number)).await, expected, "{op:?} {number}");
            }
            assert!(!holds(CompareTarget::Value(Bytes::new())).await, "{op:?}");
            assert!(!holds(CompareTarget::Value("a".into())).await, "{op:?}");
        }
    }
}

pub(super) async fn one_failed_comparison_takes_the_other_branch(s: &Subject) {
    let at = s.put("a", "1").await;
    let attempt = |compare: Compare| {
        Txn::new()
            .when(Compare::unchanged(s.key("a"), at))
            .when(compare)
            .then(Op::put(s.key("done"), "then"))
            .or_else(Op::put(s.key("done"), "else"))
            .or_else(Op::get(KeyRange::key(s.key("a"))))
    };
    let done = s.store.txn(attempt(Compare::present(s.key("none")))).await.unwrap();
    assert_eq!((done.succeeded, done.revision), (false, at + 1));
    assert!(matches!(&done.responses[..], [OpResult::Put, OpResult::Get(found)] if found.kvs[0].value == "1"));
    assert_eq!(s.get("done").await.unwrap().value, "else");
    let done = s.store.txn(attempt(Compare::absent(s.key("none")))).await.unwrap();
    assert_eq!(done, TxnResult { succeeded: true, revision: at + 2, responses: vec![OpResult::Put] });
    assert_eq!(s.get("done").await.unwrap().value, "then");
}

pub(super) async fn a_get_sees_what_its_transaction_did_before(s: &Subject) {
    let at = s.put("a", "1").await;
    s.put("b", "1").await;
    let get = || Op::get(s.all());
    let txn = Txn::new()
        .then(get())
        .then(Op::put(s.key("a"), "2"))
        .then(get())
        .then(Op::delete(KeyRange::key(s.key("b"))))
        .then(get());
    let done = s.store.txn(txn).await.unwrap();
    let found = done.responses.iter().filter_map(|response| match response {
        OpResult::Get(found) => Some(found),
        _ => None,
    });
    let found: Vec<_> = found.collect();
    let shown: Vec<_> = found.iter().map(|found| s.shown(found)).collect();
    assert_eq!(shown, [pairs(&[("a", "1"), ("b", "1")]), pairs(&[("a", "2"), ("b", "1")]), pairs(&[("a", "2")])]);
    assert!(found.iter().all(|found| found.revision == done.revision));
    let changed = &found[1].kvs[0];
    assert_eq!((changed.create_revision, changed.mod_revision, changed.version), (at, done.revision, 2));
    let past = s.store.range(s.all(), None, Some(done.revision)).await.unwrap();
    assert_eq!(s.shown(&past), pairs(&[("a", "2")]));
}

pub(super) async fn a_key_has_one_fate_in_a_branch(s: &Subject) {
    let before = s.put("other", "").await;
    let put = |name| Op::put(s.key(name), "");
    let delete = |range| Op::delete(range);
    let key = |name| KeyRange::key(s.key(name));
    for ops in [
        vec![put("a"), put("a")],
        vec![put("a"), delete(key("a"))],
        vec![delete(key("a")), put("a")],
        vec![delete(s.all()), put("a")],
        vec![put("b"), delete(KeyRange::span(s.key("a"), s.key("c")))],
    ] {
        let then = Txn { then: ops.clone(), ..Txn::default() };
        assert_eq!(s.store.txn(then).await, Err(StoreError::DuplicateKey), "{ops:?}");
        // Also in the branch that would not be done.
        let or_else = Txn { or_else: ops.clone(), then: vec![put("c")], ..Txn::default() };
        assert_eq!(s.store.txn(or_else).await, Err(StoreError::DuplicateKey), "{ops:?}");
    }
    assert_eq!(s.revision().await, before);
    for txn in [
        Txn::new().then(put("a")).or_else(put("a")),
        Txn::new().then(put("b")).then(delete(KeyRange::span(s.key("a"), s.key("b")))),
        Txn::new().then(put("a")).then(delete(KeyRange::prefix(s.key("a/")))),
        Txn::new().then(put("a/b")).then(delete(key("a"))),
    ] {
        s.store.txn(txn.clone()).await.unwrap_or_else(|error| panic!("{error} {txn:?}"));
    }
}

pub(super) async fn deletions_may_overlap(s: &Subject) {
    for name in ["a", "b", "c"] {
        s.put(name, "").await;
    }
    let txn = Txn::new()
        .then(Op::delete(KeyRange::span(s.key("a"), s.key("c"))))
        .then(Op::delete(s.all()))
        .then(Op::delete(KeyRange::key(s.key("a"))));
    let done = s.store.txn(txn).await.unwrap().responses;
    assert_eq!(done, [2, 1, 0].map(|deleted| OpResult::Delete { deleted }));
}

pub(super) async fn concurrent_increments_all_count(s: &Subject) {
    const TASKS: u64 = 8;
    const EACH: u64 = 20;
    let first = s.put("counter", "0").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let (store, key) = (s.store.clone(), s.key("counter"));
        tasks.spawn(async move {
            for _ in 0..EACH {
                let mut known = store.range(KeyRange::key(&key), None, None).await.unwrap().kvs.remove(0);
                loop {
                    let count: u64 = std::str::from_utf8(&known.value).unwrap().parse().unwrap();
                    let increment = Txn::new()
                        .when(Compare::unchanged(&key, known.mod_revision))
                        .then(Op::put(&key, (count + 1).to_string()))
                        .or_else(Op::get(KeyRange::key(&key)));
                    let done = store.txn(increment).await.unwrap();
                    match &done.responses[..] {
                        [OpResult::Put] if done.succeeded => break,
                        [OpResult::Get(found)] => known = found.kvs[0].clone(),
                        other => panic!("{other:?}"),
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    let counter = s.get("counter").await.unwrap();
    assert_eq!((counter.value, counter.version), ((TASKS * EACH).to_string().into(), TASKS * EACH + 1));
    assert_eq!(counter.mod_revision, first + TASKS * EACH, "each revision is one that counted");
}

pub(super) async fn values_are_any_bytes(s: &Subject) {
    let every: Vec<u8> = (0..=255).collect();
    for (name, value) in [("every", every), ("none", vec![]), ("zero", vec![0])] {
        s.store.txn(Txn::new().then(Op::put(s.key(name), value.clone()))).await.unwrap();
        assert_eq!(s.get(name).await.unwrap().value, value);
        let at = s.revision().await;
        assert_eq!(s.store.range(s.all(), None, Some(at)).await.unwrap().revision, at);
    }
}
