//! The writer over SQLite, with a clock of the test's own and stores that fail.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::super::model::Ended;
use super::super::sample::{CATALOG, NOW, core, document, documents, furnished, request};
use super::super::store::sealed::SealKey;
use super::super::store::{
    Compare, KeyRange, Lease, LeaseId, Op, RangeResult, Revision, SqliteStore, Store, Txn, TxnResult, WatchStream,
};
use super::super::{ControlHandle, Core};
use super::*;
use crate::domain::clock::ManualClock;
use crate::domain::identity::IdentityState;
use crate::domain::name::{IdentityName, ResourceName};
use crate::domain::resource::{MAX_AUTHORITY, Span};

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(NOW))
}

fn system() -> Caller {
    Caller::System
}

/// Keys and values of a store, the outbox apart.
async fn kept(handle: &ControlHandle) -> usize {
    let all = handle.shared().vault.store().range(KeyRange::all(), None, None).await.unwrap();
    all.kvs.iter().filter(|kv| !kv.key.starts_with(OUTBOX.as_bytes())).count()
}

#[tokio::test]
async fn a_restart_finds_everything_as_it_was() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let (first, handle) = furnished(dir.path(), &clock).await;
    let live = handle.create_grants(&system(), request()).await.unwrap();
    let ended = handle.create_grants(&system(), request()).await.unwrap().answer[0].id;
    handle.revoke_grant(&system(), ended, "over".into()).await.unwrap();
    let before = handle.model();
    drop(handle);
    first.shutdown().await;

    let second = core(dir.path(), &clock).await;
    let after = second.handle().model();
    assert_eq!((after.epoch, after.revision), (1, before.revision));
    assert_eq!(after.ended, Ended { revoked: 1, expired: 0 });
    assert_eq!(after.identities.len(), 1);
    assert_eq!(after.grants.keys().collect::<Vec<_>>(), [&live.answer[0].id]);
    assert_eq!(after.grants[&live.answer[0].id].revision, live.revision);
    let (record, _) = second.handle().grant(ended).await.unwrap();
    assert_eq!(record.grant.revoked.unwrap().reason, "over");
    assert!(after.revision < second.handle().apply(&system(), documents(), false).await.unwrap().revision + 1);
}

#[tokio::test]
async fn a_change_and_its_event_are_one_commit() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let (_core, handle) = furnished(dir.path(), &clock).await;
    let done = handle.create_grants(&system(), request()).await.unwrap();
    let store = handle.shared().vault.store();
    let grant = store.range(KeyRange::prefix("/v1/grant/"), None, None).await.unwrap().kvs.remove(0);
    let outbox = store.range(KeyRange::prefix(OUTBOX), None, None).await.unwrap().kvs.pop().unwrap();
    let head = store.range(KeyRange::key("/v1/head"), None, None).await.unwrap().kvs.remove(0);
    assert_eq!([grant.mod_revision, outbox.mod_revision, head.mod_revision], [done.revision; 3]);
    assert_eq!(handle.model().revision, done.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_commands_all_happen_once() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let (_core, handle) = furnished(dir.path(), &clock).await;
    let racing: Vec<_> = (0..100)
        .map(|_| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.create_grants(&system(), request()).await.unwrap().answer[0].id })
        })
        .collect();
    let mut ids = BTreeSet::new();
    for one in racing {
        ids.insert(one.await.unwrap().to_string());
    }
    assert_eq!((ids.len(), handle.model().grants.len()), (100, 100));
    // Two who revoke the same: one does it, both are told the same.
    let id = *handle.model().grants.keys().next().unwrap();
    let revoke = |reason: &str| handle.revoke_grant(&Caller::System, id, reason.to_owned());
    let (a, b) = tokio::join!(revoke("first"), revoke("second"));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!((a.answer, a.revision), (b.answer, b.revision));
    assert_eq!(handle.model().grants.len(), 99);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_wait_together_share_a_transaction() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let (_core, handle) = furnished(dir.path(), &clock).await;
    let before = handle.model().revision;
    let all: Vec<_> = (0..200).map(|_| handle.create_grants(&Caller::System, request())).collect();
    let done = futures_util::future::join_all(all).await;
    let revisions: BTreeSet<u64> = done.into_iter().map(|d| d.unwrap().revision).collect();
    assert!(revisions.len() < 100, "{} transactions", revisions.len());
    assert!(revisions.iter().all(|r| *r > before));
}

#[tokio::test]
async fn ended_grants_are_noted_once_also_over_a_restart() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let (first, handle) = furnished(dir.path(), &clock).await;
    let id = handle.create_grants(&system(), request()).await.unwrap().answer[0].id;
    let mut head = handle.shared().ring.watch();
    head.mark_unchanged();
    clock.advance(Duration::from_secs(3600));
    head.changed().await.unwrap();
    assert!(handle.model().grants.is_empty());
    drop(handle);
    first.shutdown().await;

    let second = core(dir.path(), &clock).await;
    assert_eq!(second.handle().model().ended, Ended { revoked: 0, expired: 1 });
    // The clock is past the end still, and the first tick has come and gone with this command.
    second.handle().apply(&system(), documents(), false).await.unwrap();
    let shared = second.handle().shared();
    let outbox = shared.vault.store().range(KeyRange::prefix(OUTBOX), None, None).await.unwrap();
    let mut operations = Vec::new();
    for kv in &outbox.kvs {
        let (_, value) = shared.vault.open(kv).unwrap();
        let record: OutboxRecord = serde_json::from_slice(&value).unwrap();
        operations.extend(record.events.into_iter().map(|e| (e.operation, e.object)));
    }
    let ends: Vec<_> = operations.iter().filter(|(o, _)| o == "grant.expired").collect();
    assert_eq!(ends, [&("grant.expired".to_owned(), format!("grant/{id}"))]);
}

#[tokio::test]
async fn a_lowered_bound_stays_known_for_those_who_missed_it() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let (first, handle) = furnished(dir.path(), &clock).await;
    let orders: ResourceName = "api/orders".parse().unwrap();
    let bounds = |model: &Model| (model.resources[&orders].value.spec.authority, model.longest[&orders]);
    let seconds = |seconds| Span::new(Duration::from_secs(seconds));
    assert_eq!(bounds(&handle.model()), (seconds(10), seconds(10)));
    let lowered = document("Resource", "api/orders", r#"{"owner":"orders","authority":"5s"}"#);
    handle.apply(&system(), vec![lowered], false).await.unwrap();
    assert_eq!(bounds(&handle.model()), (seconds(5), seconds(10)));
    drop(handle);
    first.shutdown().await;
    // What it was before is not kept: it may have been anything.
    let second = core(dir.path(), &clock).await;
    assert_eq!(bounds(&second.handle().model()), (seconds(5), MAX_AUTHORITY));
}

#[tokio::test]
async fn an_end_missed_while_away_is_noted_at_the_next_start() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let (first, handle) = furnished(dir.path(), &clock).await;
    handle.create_grants(&system(), request()).await.unwrap();
    drop(handle);
    first.shutdown().await;
    clock.advance(Duration::from_secs(7200));
    let second = core(dir.path(), &clock).await;
    let mut head = second.handle().shared().ring.watch();
    while second.handle().model().ended.expired == 0 {
        head.changed().await.unwrap();
    }
    assert!(second.handle().model().grants.is_empty());
}

#[tokio::test]
async fn another_writer_is_noticed_and_what_it_did_is_taken_in() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&dir.path().join("control.db"), clock.clone()).unwrap());
    let seal = || SealKey::from_bytes(&[7; 32]);
    let one = Core::over(store.clone(), seal(), clock.clone()).await.unwrap();
    let two = Core::over(store, seal(), clock.clone()).await.unwrap();
    one.handle().apply(&system(), documents(), false).await.unwrap();
    let refused = two.handle().apply(&system(), documents(), false).await.unwrap_err();
    assert!(matches!(refused, Refused::Conflict(_)), "{refused}");
    // Having read anew, it finds the catalog there.
    let again = two.handle().apply(&system(), documents(), false).await.unwrap();
    assert!(again.answer.iter().all(|diff| diff.change() == "unchanged"));
    assert_eq!(two.handle().model().revision, one.handle().model().revision);
}

/// A store whose next transaction is done and not answered, or not done and not answered.
#[derive(Debug)]
struct Flaky {
    inner: SqliteStore,
    drop_answer: AtomicBool,
    refuse: AtomicBool,
}

fn unavailable() -> StoreError {
    StoreError::Unavailable { detail: "test".into() }
}

#[async_trait]
impl Store for Flaky {
    async fn range(
        &self,
        range: KeyRange,
        limit: Option<usize>,
        at: Option<Revision>,
    ) -> Result<RangeResult, StoreError> {
        self.inner.range(range, limit, at).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        if self.refuse.swap(false, Ordering::SeqCst) {
            return Err(unavailable());
        }
        let done = self.inner.txn(txn).await;
        if self.drop_answer.swap(false, Ordering::SeqCst) { Err(unavailable()) } else { done }
    }
    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        self.inner.watch(range, from).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.inner.lease_grant(ttl).await
    }
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_keep_alive(lease).await
    }
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_revoke(lease).await
    }
    async fn tick(&self) -> Result<(), StoreError> {
        self.inner.tick().await
    }
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.inner.current_revision().await
    }
}

#[tokio::test]
async fn a_commit_of_unknown_fate_is_never_guessed() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let inner = SqliteStore::open(&dir.path().join("control.db"), clock.clone()).unwrap();
    let flaky = Arc::new(Flaky { inner, drop_answer: false.into(), refuse: false.into() });
    let core = Core::over(flaky.clone(), SealKey::from_bytes(&[7; 32]), clock.clone()).await.unwrap();
    let handle = core.handle();
    handle.apply(&system(), documents(), false).await.unwrap();

    flaky.refuse.store(true, Ordering::SeqCst);
    assert_eq!(handle.create_grants(&system(), request()).await.unwrap_err(), Refused::Unavailable);
    handle.apply(&system(), documents(), false).await.unwrap();
    assert!(handle.model().grants.is_empty());

    flaky.drop_answer.store(true, Ordering::SeqCst);
    let outbox = handle.shared().outbox.subscribe();
    assert_eq!(handle.create_grants(&system(), request()).await.unwrap_err(), Refused::Unavailable);
    // It was done; the next command sees it, and so does who drains the outbox.
    handle.apply(&system(), documents(), false).await.unwrap();
    assert_eq!(handle.model().grants.len(), 1);
    assert!(outbox.has_changed().unwrap());
}

#[tokio::test]
async fn what_was_worked_out_on_a_failed_commit_is_not_stored() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let inner = SqliteStore::open(&dir.path().join("control.db"), clock.clone()).unwrap();
    let flaky = Arc::new(Flaky { inner, drop_answer: false.into(), refuse: false.into() });
    let core = Core::over(flaky.clone(), SealKey::from_bytes(&[7; 32]), clock.clone()).await.unwrap();
    let handle = core.handle();
    handle.apply(&system(), documents(), false).await.unwrap();
    let (_, name, spec) = CATALOG[0];
    let theirs = document("Identity", name, &spec.replace("sa/billing", "sa/somebody-else"));

    // One batch: the second command changes the record that the first one does, and is planned on it.
    flaky.refuse.store(true, Ordering::SeqCst);
    let by = system();
    let first = handle.apply(&by, vec![theirs], false);
    let second = handle.set_state(&by, "billing".parse().unwrap(), IdentityState::Quarantined, "leak".into());
    let third = handle.create_grants(&by, request());
    let (first, second, third) = tokio::join!(first, second, third);
    assert_eq!(first.unwrap_err(), Refused::Unavailable);
    assert!(matches!(second, Err(Refused::Conflict(_))), "{second:?}");
    third.unwrap();
    let kept = Vault::new(flaky, SealKey::from_bytes(&[7; 32])).load().await.unwrap();
    let billing: IdentityName = "billing".parse().unwrap();
    assert_eq!(kept.identities[&billing].value, handle.model().identities[&billing].value);
    assert!(!format!("{:?}", kept.identities[&billing].value).contains("somebody-else"));
}

#[tokio::test]
async fn a_value_that_somebody_else_wrote_stops_the_start() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let (first, handle) = furnished(dir.path(), &clock).await;
    let id = handle.create_grants(&system(), request()).await.unwrap().answer[0].id;
    let store = handle.shared().vault.store().clone();
    let key = super::super::record::grant_key(id);
    let sealed = store.range(KeyRange::key(&key), None, None).await.unwrap().kvs[0].value.clone();
    // A grant's bytes under another key: a copy that grants twice, were it taken.
    let other = super::super::record::grant_key(GrantId::from_bits(7));
    store.txn(Txn::new().when(Compare::absent(&other)).then(Op::put(&other, sealed))).await.unwrap();
    let again = Vault::new(store, SealKey::from_bytes(&[7; 32])).load().await;
    assert!(matches!(again, Err(VaultError::Seal { .. })), "{again:?}");
    assert!(kept(&handle).await > 0);
    first.shutdown().await;
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_a_new_epoch_goes_up_only() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let core = core(dir.path(), &clock).await;
    let handle = core.handle();
    let before = kept(handle).await;
    let dry = handle.apply(&system(), documents(), true).await.unwrap();
    assert!(dry.answer.iter().all(|diff| diff.change() == "created"));
    assert_eq!((kept(handle).await, handle.model().identities.len()), (before, 0));
    assert!(matches!(handle.begin_epoch(&system(), 1, NOW, "a backup".into()).await, Err(Refused::Conflict(_))));
    handle.begin_epoch(&system(), 5, NOW, "a backup".into()).await.unwrap();
    assert_eq!((handle.model().epoch, handle.shared().ring.head().epoch), (5, 5));
}

#[test]
fn identifiers_grow_also_when_the_clock_does_not() {
    let mut identifiers = Identifiers::default();
    let mut last = identifiers.draw(NOW);
    for step in [0, 0, -5, 3, -9] {
        let next = identifiers.draw(Timestamp::from_unix_micros(NOW.unix_micros() + step * 1_000_000));
        assert!(next > last);
        last = next;
    }
}

#[tokio::test]
async fn what_changes_nothing_for_gateways_is_answered_with_a_revision_that_they_have() {
    use crate::control::record::{GatewayRecord, Standing};
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let (_core, handle) = furnished(dir.path(), &clock).await;
    let scope = crate::domain::halt::HaltScope::All;
    let caller = system();
    let begun = handle.halt(&caller, scope.clone(), "leak".into()).await.unwrap().revision;
    let one = GatewayRecord {
        name: "one".parse().unwrap(),
        standing: Standing::Good,
        registered: NOW,
        hosts: Vec::new(),
        token: None,
        client_key: None,
        scope: Default::default(),
        attested: None,
    };
    // In one transaction with something that only the control plane's own store is told of.
    let (again, recorded) = tokio::join!(handle.halt(&caller, scope, "again".into()), handle.put_gateway(&caller, one));
    assert_eq!([again.unwrap().revision, recorded.unwrap().revision], [begun; 2]);
    assert_eq!(handle.model().revision, begun);
}
