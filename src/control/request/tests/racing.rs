//! Two writers over one store: whoever approves, denies, cancels at once, there is one outcome, and the losers are told.

use tokio::task::JoinSet;

use super::super::super::sample::NOW as BEGIN;
use super::super::super::store::sealed::SealKey;
use super::super::super::store::{EtcdStore, SqliteStore, Store};
use super::super::super::{ControlHandle, Core};
use super::*;
use crate::domain::clock::ManualClock;

async fn furnished(handle: &ControlHandle) {
    for (name, _) in PEOPLE {
        let Caller::Person(person) = person(name) else { unreachable!() };
        handle.put_person(&Caller::System, person.as_ref().clone()).await.unwrap();
    }
    let documents: Vec<Document> = CATALOG.iter().map(|(kind, name, spec)| document(kind, name, spec)).collect();
    handle.apply(&Caller::System, documents, false).await.unwrap();
    handle.publish_policy(&Caller::System, starter(), None, "begin".to_owned()).await.unwrap();
}

/// Asks again as somebody would who is told that the store changed meanwhile.
async fn persistent<T, F: Future<Output = Result<T, Refused>>>(mut attempt: impl FnMut() -> F) -> Result<T, Refused> {
    for _ in 0..20 {
        match attempt().await {
            Err(Refused::Conflict(why)) if why.contains("meanwhile") || why.contains("not stored") => {}
            done => return done,
        }
    }
    panic!("it never came to an end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_decisions_over_one_sqlite_have_one_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(BEGIN));
    let store = SqliteStore::open(&dir.path().join("control.db"), clock.clone()).unwrap();
    have_one_outcome(Arc::new(store), clock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_decisions_over_one_etcd_have_one_outcome() {
    have_one_outcome(Arc::new(EtcdStore::start()), Arc::new(ManualClock::at(BEGIN))).await;
}

async fn have_one_outcome(store: Arc<dyn Store>, clock: Arc<ManualClock>) {
    let seal = || SealKey::from_bytes(&[7; 32]);
    let one = Core::over(store.clone(), seal(), clock.clone()).await.unwrap();
    furnished(one.handle()).await;
    let two = Core::over(store, seal(), clock.clone()).await.unwrap();
    let (alice, bob) = (person("alice"), person("bob"));
    let mut outcomes = BTreeSet::new();
    for round in 0..24 {
        let asked = persistent(|| one.handle().create_request(&alice, ask(role("writer"), 1), None)).await;
        let Created::Request(request) = asked.unwrap().answer else { panic!("it is new") };
        let yes = Yes { digest: request.analysis.digest.clone(), ..Yes::default() };
        let id = request.id;
        let approved = persistent(|| one.handle().approve_request(&bob, id, yes.clone())).await.unwrap();
        assert_eq!(approved.answer.state, State::Pending);
        // The other writer reads anew when it is told that it is behind.
        persistent(|| two.handle().create_request(&alice, ask(role("reader"), 4), None)).await.unwrap();
        let mut racing = JoinSet::new();
        for (number, handle) in [one.handle(), two.handle(), one.handle(), two.handle()].into_iter().enumerate() {
            let (handle, yes) = (handle.clone(), yes.clone());
            racing.spawn(async move {
                persistent(|| async {
                    let done = match (number + round) % 4 {
                        0 => handle.approve_request(&person("carol"), id, yes.clone()).await,
                        1 => handle.cancel_request(&person("alice"), id, "not needed".to_owned()).await,
                        2 => handle.deny_request(&person("dave"), id, "no".to_owned()).await,
                        _ => handle.approve_request(&person("dave"), id, yes.clone()).await,
                    };
                    done.map(|done| done.answer.state)
                })
                .await
            });
        }
        let done = racing.join_all().await;
        let won: Vec<State> = done.iter().filter_map(|done| done.as_ref().ok().copied()).collect();
        assert_eq!(won.len(), 1, "one of them wins: {done:?}");
        for lost in done.iter().filter_map(|done| done.as_ref().err()) {
            assert!(matches!(lost, Refused::Conflict(why) if why.contains("already")), "the loser is told: {lost:?}");
        }
        // Both read the same, also from the store alone.
        let (kept, _) = one.handle().request(id).await.unwrap();
        assert_eq!((kept.state, kept.grants.len()), (won[0], usize::from(won[0] == State::Granted)));
        let again = Core::over(one.handle().shared().vault.store().clone(), seal(), clock.clone()).await.unwrap();
        let granted: Vec<_> = again
            .handle()
            .model()
            .grants
            .values()
            .filter(|kept| kept.value.lineage.origin.as_ref().is_some_and(|origin| origin.request == id))
            .map(|kept| kept.value.id)
            .collect();
        assert_eq!(granted, kept.grants);
        outcomes.insert(won[0].as_str());
    }
    assert!(outcomes.len() > 1, "the same one won every time: nothing raced: {outcomes:?}");
}
