//! The same random requests to a fresh SQLite store and a fresh etcd: each answer, error and revision must be the same.
//! It looks for rules that nobody thought of writing down.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::*;

const STEPS: usize = 400;

#[derive(Clone, Debug)]
enum Step {
    Txn(Txn),
    /// A read, so many revisions back; below zero, ahead.
    Range(KeyRange, Option<usize>, i64),
    /// A compaction, so many revisions back.
    Compact(i64),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0), Just(0xff)], 1..3)
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        4 => key().prop_map(KeyRange::key),
        2 => key().prop_map(KeyRange::prefix),
        // A deletion whose span runs backwards is not something to learn from anybody.
        1 => (key(), key()).prop_map(|(a, b)| if a < b { KeyRange::span(a, b) } else { KeyRange::key(a) }),
        1 => Just(KeyRange::all()),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    let op =
        prop_oneof![Just(CompareOp::Equal), Just(CompareOp::NotEqual), Just(CompareOp::Greater), Just(CompareOp::Less)];
    let target = prop_oneof![
        (0..300u64).prop_map(CompareTarget::ModRevision),
        (0..300u64).prop_map(CompareTarget::CreateRevision),
        (0..4u64).prop_map(CompareTarget::Version),
        "[xy]{0,1}".prop_map(|value| CompareTarget::Value(value.into())),
    ];
    (key(), op, target).prop_map(|(key, op, target)| Compare::new(key, op, target))
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        5 => (key(), "[xy]{0,2}").prop_map(|(key, value)| Op::put(key, value)),
        2 => range().prop_map(Op::delete),
        2 => (range(), prop::option::of(0..4usize)).prop_map(|(range, limit)| Op::Get { range, limit }),
    ];
    prop::collection::vec(op, 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    let txn = (prop::collection::vec(compare(), 0..2), ops(), ops())
        .prop_map(|(compare, then, or_else)| Step::Txn(Txn { compare, then, or_else }));
    let read = (range(), prop::option::of(0..4usize), -2..80i64)
        .prop_map(|(range, limit, back)| Step::Range(range, limit, back));
    prop_oneof![12 => txn, 6 => read, 1 => (-1..40i64).prop_map(Step::Compact)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_answers_whatever_etcd_answers() {
    let steps = prop::collection::vec(step(), STEPS).new_tree(&mut TestRunner::default()).unwrap().current();
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000)));
    let ours = SqliteStore::open(&dir.path().join("store.db"), clock).unwrap();
    let theirs = EtcdStore::start();
    // What a watch tells while it happens.
    let mut live = (ours.watch(KeyRange::all(), 0).await.unwrap(), theirs.watch(KeyRange::all(), 0).await.unwrap());
    for store in [&ours as &dyn Store, &theirs] {
        store.txn(Txn::new().then(Op::put("first", ""))).await.unwrap();
    }
    let (mut compacted, mut told) = (0, 1);
    for (number, step) in steps.into_iter().enumerate() {
        let current = ours.current_revision().await.unwrap();
        let back = |back: i64| u64::try_from(current as i64 - back).unwrap_or(1).max(1);
        match step.clone() {
            Step::Txn(txn) => {
                let answers = (ours.txn(txn.clone()).await, theirs.txn(txn).await);
                assert_eq!(answers.0, answers.1, "{number}: {step:?}");
            }
            Step::Range(range, limit, at) => {
                let answers = (
                    ours.range(range.clone(), limit, Some(back(at))).await,
                    theirs.range(range, limit, Some(back(at))).await,
                );
                assert_eq!(answers.0, answers.1, "{number}: {step:?} at {}", back(at));
            }
            Step::Compact(at) => {
                let answers = (ours.compact(back(at)).await, theirs.compact(back(at)).await);
                assert_eq!(answers.0, answers.1, "{number}: {step:?} at {}", back(at));
                compacted = if answers.0.is_ok() { back(at) } else { compacted };
            }
        }
        let current = ours.current_revision().await.unwrap();
        while told < current {
            let batches = (next(&mut live.0).await.unwrap(), next(&mut live.1).await.unwrap());
            assert_eq!(batches.0, batches.1, "{number}: {step:?}");
            told = batches.0.revision;
        }
    }
    // And what one reads later.
    let from = compacted + 1;
    let mut past =
        (ours.watch(KeyRange::all(), from).await.unwrap(), theirs.watch(KeyRange::all(), from).await.unwrap());
    for revision in from..=told {
        let batches = (next(&mut past.0).await.unwrap(), next(&mut past.1).await.unwrap());
        assert_eq!(batches.0, batches.1);
        assert_eq!(batches.0.revision, revision);
    }
    assert!(told > 100 && compacted > 1, "the requests did something: {told} {compacted}");
}
