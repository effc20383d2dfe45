//! Watches and compaction.

use super::*;
use crate::control::store::Event;

/// The events of a batch: `+name=value` for a put, `-name` for a deletion.
fn told(s: &Subject, batch: &WatchBatch) -> (Revision, Vec<String>) {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let name = |key: &Bytes| text(key).strip_prefix(&s.place).unwrap().to_owned();
    let event = |event: &Event| match event {
        Event::Put { kv, .. } => {
            assert_eq!(kv.mod_revision, batch.revision);
            format!("+{}={}", name(&kv.key), text(&kv.value))
        }
        Event::Delete { key, .. } => format!("-{}", name(key)),
    };
    (batch.revision, batch.events.iter().map(event).collect())
}

async fn expect(s: &Subject, watch: &mut WatchStream, revision: Revision, events: &[&str]) {
    let batch = next(watch).await.unwrap();
    assert_eq!(told(s, &batch), (revision, events.iter().map(|event| (*event).to_owned()).collect()));
}

pub(super) async fn a_watch_gives_a_revision_whole_and_in_order(s: &Subject) {
    let mut watch = s.store.watch(s.all(), 0).await.unwrap();
    for name in ["x/b", "x/a"] {
        let at = s.put(name, "1").await;
        expect(s, &mut watch, at, &[&format!("+{name}=1")]).await;
    }
    let txn = Txn::new()
        .then(Op::put(s.key("z"), "2"))
        .then(Op::delete(KeyRange::prefix(s.key("x/"))))
        .then(Op::get(s.all()))
        .then(Op::put(s.key("a"), "2"));
    let at = s.store.txn(txn).await.unwrap().revision;
    // Operations in their order, the keys of a deletion in theirs.
    expect(s, &mut watch, at, &["+z=2", "-x/a", "-x/b", "+a=2"]).await;
    // What a live watch tells is what a later one reads.
    let mut later = s.store.watch(s.all(), at).await.unwrap();
    expect(s, &mut later, at, &["+z=2", "-x/a", "-x/b", "+a=2"]).await;
}

pub(super) async fn a_watch_sees_only_its_range(s: &Subject) {
    let mut prefix = s.store.watch(KeyRange::prefix(s.key("a/")), 0).await.unwrap();
    let mut key = s.store.watch(KeyRange::key(s.key("a/1")), 0).await.unwrap();
    let mut span = s.store.watch(KeyRange::span(s.key("a/2"), s.key("b")), 0).await.unwrap();
    s.put("a", "x").await;
    s.put("b", "x").await;
    let first = s.put("a/1", "y").await;
    let txn = Txn::new().then(Op::put(s.key("c"), "")).then(Op::put(s.key("a/2"), "")).then(Op::put(s.key("a/1"), ""));
    let second = s.store.txn(txn).await.unwrap().revision;
    expect(s, &mut prefix, first, &["+a/1=y"]).await;
    expect(s, &mut prefix, second, &["+a/2=", "+a/1="]).await;
    expect(s, &mut key, first, &["+a/1=y"]).await;
    expect(s, &mut key, second, &["+a/1="]).await;
    expect(s, &mut span, second, &["+a/2="]).await;
}

pub(super) async fn a_watch_resumes_from_a_revision(s: &Subject) {
    let first = s.put("a", "1").await;
    let second = s.put("a", "2").await;
    let third = s.delete("a").await;
    let mut watch = s.store.watch(s.all(), second).await.unwrap();
    expect(s, &mut watch, second, &["+a=2"]).await;
    expect(s, &mut watch, third, &["-a"]).await;
    let fourth = s.put("a", "4").await;
    expect(s, &mut watch, fourth, &["+a=4"]).await;
    let mut whole = s.store.watch(s.all(), first).await.unwrap();
    expect(s, &mut whole, first, &["+a=1"]).await;
    expect(s, &mut whole, second, &["+a=2"]).await;
    // A range read tells from where to watch.
    let read = s.store.range(s.all(), None, None).await.unwrap();
    let mut next = s.store.watch(s.all(), read.revision + 1).await.unwrap();
    let fifth = s.put("b", "").await;
    expect(s, &mut next, fifth, &["+b="]).await;
}

pub(super) async fn a_watch_from_now_sees_nothing_before(s: &Subject) {
    s.put("a", "1").await;
    let mut watch = s.store.watch(s.all(), 0).await.unwrap();
    let at = s.put("a", "2").await;
    expect(s, &mut watch, at, &["+a=2"]).await;
}

pub(super) async fn a_watch_may_begin_in_the_future(s: &Subject) {
    let now = s.put("a", "0").await;
    let mut watch = s.store.watch(s.all(), now + 2).await.unwrap();
    s.put("a", "1").await;
    s.put("a", "2").await;
    s.put("a", "3").await;
    expect(s, &mut watch, now + 2, &["+a=2"]).await;
    expect(s, &mut watch, now + 3, &["+a=3"]).await;
}

pub(super) async fn a_watch_reads_a_long_past_in_whole_revisions(s: &Subject) {
    const REVISIONS: u64 = 24;
    const KEYS: usize = 100;
    let before = s.revision().await;
    for revision in 1..=REVISIONS {
        // Some are large, some small, so that chunks end at odd places.
        let value = vec![b'v'; if revision % 7 == 0 { 12_000 } else { 10 }];
        let put = |n: usize| Op::put(s.key(&format!("{n:03}")), value.clone());
        let txn = Txn { then: (0..KEYS).map(put).collect(), ..Txn::default() };
        assert_eq!(s.store.txn(txn).await.unwrap().revision, before + revision);
    }
    let mut watch = s.store.watch(s.all(), before + 1).await.unwrap();
    for revision in 1..=REVISIONS {
        let batch = next(&mut watch).await.unwrap();
        assert_eq!((batch.revision, batch.events.len()), (before + revision, KEYS));
        let keys: Vec<_> = batch.events.iter().map(|event| event.key().clone()).collect();
        assert!(keys.is_sorted());
    }
}

pub(super) async fn a_watch_misses_nothing_while_many_write(s: &Subject) {
    const TASKS: usize = 6;
    const EACH: usize = 30;
    let before = s.revision().await;
    let mut watch = s.store.watch(s.all(), 0).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let (store, key) = (s.store.clone(), s.key(&task.to_string()));
        tasks.spawn(async move {
            for n in 0..EACH {
                store.txn(Txn::new().then(Op::put(&key, n.to_string()))).await.unwrap();
            }
        });
    }
    let mut seen = [0; TASKS];
    for n in 1..=(TASKS * EACH) as u64 {
        let batch = next(&mut watch).await.unwrap();
        assert_eq!(batch.revision, before + n);
        let [Event::Put { kv, .. }] = &batch.events[..] else { panic!("{batch:?}") };
        let task: usize = std::str::from_utf8(&kv.key[s.place.len()..]).unwrap().parse().unwrap();
        assert_eq!(kv.value, seen[task].to_string());
        seen[task] += 1;
    }
    assert_eq!(seen, [EACH; TASKS]);
    tasks.join_all().await;
}

pub(super) async fn a_watch_tells_of_the_value_before(s: &Subject) {
    let from = s.revision().await + 1;
    let first = s.put("a", "1").await;
    let second = s.put("a", "2").await;
    s.delete("a").await;
    s.put("a", "3").await;
    let mut watch = s.store.watch(s.all(), from).await.unwrap();
    for (expected, version) in [(None, Some(1)), (Some(first), Some(2)), (Some(second), None), (None, Some(1))] {
        let batch = next(&mut watch).await.unwrap();
        let told = match &batch.events[..] {
            [Event::Put { kv, previous }] => (*previous, Some(kv.version)),
            [Event::Delete { previous, .. }] => (*previous, None),
            other => panic!("{other:?}"),
        };
        assert_eq!(told, (expected, version));
    }
}

pub(super) async fn compaction_forgets_what_was_before(s: &Subject) {
    let first = s.put("a", "1").await;
    s.put("a", "2").await;
    let third = s.put("a", "3").await;
    let fourth = s.put("a", "4").await;
    s.store.compact(third).await.unwrap();
    let compacted = StoreError::Compacted { oldest: third };
    for at in [1, first, third - 1] {
        assert_eq!(s.store.range(s.all(), None, Some(at)).await, Err(compacted.clone()));
        let mut watch = s.store.watch(s.all(), at).await.unwrap();
        assert_eq!(next(&mut watch).await, Err(compacted.clone()));
        assert!(watch.next().await.is_none(), "an error is the end");
    }
    let found = s.store.range(s.all(), None, Some(third)).await.unwrap();
    assert_eq!(s.shown(&found), pairs(&[("a", "3")]));
    let mut watch = s.store.watch(s.all(), third).await.unwrap();
    expect(s, &mut watch, third, &["+a=3"]).await;
    expect(s, &mut watch, fourth, &["+a=4"]).await;
    assert_eq!(s.revision().await, fourth, "compacting is no revision");
}

pub(super) async fn compaction_keeps_what_is_alive(s: &Subject) {
    let created = s.put("old", "1").await;
    let modified = s.put("old", "2").await;
    s.put("gone", "").await;
    s.delete("gone").await;
    let at = s.put("other", "").await;
    s.put("other", "new").await;
    s.store.compact(at).await.unwrap();
    for past in [Some(at), None] {
        let found = s.store.range(s.all(), None, past).await.unwrap();
        let other = if past.is_some() { "" } else { "new" };
        assert_eq!(s.shown(&found), pairs(&[("old", "2"), ("other", other)]));
        let kv = &found.kvs[0];
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (created, modified, 2));
    }
    s.put("gone", "again").await;
    assert_eq!(s.get("gone").await.unwrap().version, 1);
    s.put("old", "3").await;
    assert_eq!(s.get("old").await.unwrap().version, 3);
}

pub(super) async fn compaction_goes_only_forward(s: &Subject) {
    let first = s.put("a", "1").await;
    let second = s.put("a", "2").await;
    assert_eq!(s.store.compact(second + 1).await, Err(StoreError::FutureRevision { current: second }));
    s.store.compact(second).await.unwrap();
    for at in [first, second] {
        assert_eq!(s.store.compact(at).await, Err(StoreError::Compacted { oldest: second }));
    }
    assert_eq!(s.get("a").await.unwrap().value, "2");
    let third = s.delete("a").await;
    s.store.compact(third).await.unwrap();
    assert_eq!(s.get("a").await, None);
    assert_eq!(s.revision().await, third, "compacting all there is keeps the revision");
    assert_eq!(s.put("a", "").await, third + 1);
}
