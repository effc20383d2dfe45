//! Taking, waiting, spending and giving back.

use super::*;

const GRANT: GrantId = GrantId::from_bits(7);
const T0: Duration = Duration::from_secs(100);

fn second(n: u64) -> Duration {
    T0 + Duration::from_secs(n)
}

fn allotment(id: u128, uses: u64, lives: i64) -> v1::Allotment {
    let allotment_id = if uses > 0 { bytes(id) } else { Vec::new() };
    v1::Allotment { grant_id: bytes(GRANT.bits()), allotment_id, uses, expires_unix_us: lives * 1_000_000 }
}

fn authority(allotments: Vec<v1::Allotment>) -> v1::Authority {
    v1::Authority { allotments, ..Default::default() }
}

fn claim(meter: &Meter, number: u64, now: Duration) -> v1::Renew {
    let mut renew = v1::Renew::default();
    meter.claim(&mut renew, number, now);
    renew
}

/// A meter with a grant that a call waits for, asked for by renewal 0.
async fn asked() -> (Arc<Meter>, tokio::task::JoinHandle<Result<Use, Dry>>) {
    let meter = Meter::new([1; 16]);
    meter.begin();
    let waiting = tokio::spawn({
        let meter = meter.clone();
        async move { meter.wait(GRANT, || T0).await }
    });
    meter.wanted().await;
    let renew = claim(&meter, 0, T0);
    let wanted = &renew.uses_wanted[0];
    assert_eq!((wanted.uses, wanted.ahead, renew.process), (1, 0, vec![1; 16]));
    assert!(!meter.wants(T0), "it is asked for");
    (meter, waiting)
}

#[tokio::test]
async fn a_call_waits_for_its_use_and_what_is_left_is_there_for_the_next() {
    let (meter, waiting) = asked().await;
    meter.answer(&authority(vec![allotment(1, 2, 60)]), 0, T0);
    // It has not run yet to take it: what is there for it is not asked for once more.
    assert!(!meter.wants(T0) && claim(&meter, 1, T0).uses_wanted.is_empty());
    waiting.await.unwrap().unwrap().spend();
    let Taken::Use(second_use) = meter.take(GRANT, T0) else { panic!("two were allotted") };
    assert!(matches!(meter.take(GRANT, T0), Taken::Unknown));
    drop(second_use);
    let Taken::Use(again) = meter.take(GRANT, T0) else { panic!("it was not spent") };
    again.spend();
    assert!(matches!(meter.take(GRANT, T0), Taken::Unknown), "spent is spent");
}

#[tokio::test]
async fn nothing_left_is_known_for_as_long_as_the_control_plane_says() {
    let (meter, waiting) = asked().await;
    meter.answer(&authority(vec![allotment(0, 0, 5)]), 0, T0);
    let dry = waiting.await.unwrap().unwrap_err();
    assert_eq!((dry.until, dry.again), (second(5), Timestamp::from_unix_seconds(5)));
    assert!(matches!(meter.take(GRANT, second(4)), Taken::Dry(_)));
    assert!(matches!(meter.take(GRANT, second(5)), Taken::Unknown));
}

#[tokio::test]
async fn an_allotment_is_void_at_its_end_counted_from_when_it_was_asked_for() {
    let (meter, waiting) = asked().await;
    meter.answer(&authority(vec![allotment(1, 3, 8)]), 0, T0);
    waiting.await.unwrap().unwrap().spend();
    let Taken::Use(held) = meter.take(GRANT, second(7)) else { panic!("it is good") };
    assert!(matches!(meter.take(GRANT, second(8)), Taken::Unknown));
    // Not before the call that holds one has spent it or not.
    assert!(claim(&meter, 1, second(8)).uses_returned.is_empty());
    drop(held);
    assert!(matches!(meter.take(GRANT, second(8)), Taken::Unknown));
    let renew = claim(&meter, 2, second(8));
    assert_eq!((renew.uses_returned[0].spent, renew.uses_returned.len()), (1, 1));
    assert!(matches!(meter.take(GRANT, second(7)), Taken::Unknown), "what was given back is gone");
}

#[tokio::test]
async fn what_was_given_back_is_told_until_it_is_heard_and_every_allotment_on_a_new_stream() {
    let (meter, waiting) = asked().await;
    meter.answer(&authority(vec![allotment(1, 2, 60)]), 0, T0);
    waiting.await.unwrap().unwrap().spend();
    assert!(claim(&meter, 1, second(1)).uses_held.is_none(), "the control plane knows since the first answer");
    meter.begin();
    let renew = claim(&meter, 0, second(2));
    assert_eq!((renew.uses_held.unwrap().allotment_ids, renew.uses_returned.len()), (vec![bytes(1)], 0));
    let Taken::Use(last) = meter.take(GRANT, second(3)) else { panic!("one is left") };
    last.spend();
    let renew = claim(&meter, 1, second(4));
    assert_eq!((renew.uses_returned[0].spent, &renew.uses_returned[0].allotment_id), (2, &bytes(1)));
    assert_eq!(renew.uses_held.unwrap().allotment_ids, [bytes(1)], "also what is given back");
    // The answer to the earlier one says nothing of it.
    meter.answer(&authority(Vec::new()), 0, second(2));
    assert!(claim(&meter, 2, second(20)).uses_returned.is_empty(), "it is under way");
    meter.answer(&authority(Vec::new()), 2, second(20));
    assert_eq!(claim(&meter, 3, second(20)).uses_returned.len(), 1, "the one that told of it was passed over");
    meter.answer(&authority(Vec::new()), 3, second(20));
    let renew = claim(&meter, 4, second(21));
    assert!(renew.uses_returned.is_empty() && renew.uses_held.is_none());
}

#[tokio::test]
async fn a_renewal_that_was_passed_over_is_asked_again_and_a_lost_stream_too() {
    let (meter, waiting) = asked().await;
    assert!(claim(&meter, 1, T0).uses_wanted.is_empty());
    meter.answer(&authority(Vec::new()), 1, T0);
    assert!(meter.wants(T0), "an answer to a later one came without it");
    assert_eq!(claim(&meter, 2, T0).uses_wanted.len(), 1);
    meter.begin();
    assert_eq!(claim(&meter, 0, T0).uses_wanted.len(), 1);
    meter.answer(&authority(vec![allotment(1, 1, 60)]), 0, T0);
    waiting.await.unwrap().unwrap().spend();
    waiting_is_over(&meter).await;
}

async fn waiting_is_over(meter: &Arc<Meter>) {
    // A caller that leaves waits no more.
    let mut gone = Box::pin(meter.wait(GRANT, || T0));
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut gone).await.is_err());
    assert!(meter.wants(T0));
    drop(gone);
    assert!(!meter.wants(T0));
}

#[tokio::test]
async fn who_spends_fast_asks_for_more_at_once() {
    let (meter, waiting) = asked().await;
    meter.answer(&authority(vec![allotment(1, 4, 60)]), 0, T0);
    waiting.await.unwrap().unwrap().spend();
    for _ in 0..3 {
        let Taken::Use(one) = meter.take(GRANT, T0) else { panic!("four were allotted") };
        one.spend();
    }
    let mut waiting = Box::pin(meter.wait(GRANT, || T0));
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut waiting).await.is_err());
    let renew = claim(&meter, 1, T0);
    assert_eq!((renew.uses_wanted[0].uses, renew.uses_wanted[0].ahead), (1, 4));
}

#[tokio::test]
async fn a_use_of_one_span_is_none_of_the_next() {
    let (meter, waiting) = asked().await;
    meter.answer(&authority(vec![allotment(1, 1, 8)]), 0, T0);
    let held = waiting.await.unwrap().unwrap();
    assert!(held.is_good(second(7)) && !held.is_good(second(8)), "a call that was slow to get here has none");
}

#[tokio::test]
async fn what_is_known_to_be_spent_is_not_asked_for() {
    let (meter, waiting) = asked().await;
    let another = tokio::spawn({
        let meter = meter.clone();
        async move { meter.wait(GRANT, || T0).await }
    });
    meter.wanted().await;
    meter.answer(&authority(vec![allotment(0, 0, 5)]), 0, T0);
    // The calls have not been told yet.
    assert!(!meter.wants(second(4)) && claim(&meter, 1, second(4)).uses_wanted.is_empty());
    assert!(waiting.await.unwrap().is_err() && another.await.unwrap().is_err());
}

#[tokio::test]
async fn a_process_that_ends_gives_back_what_no_call_has() {
    let (meter, waiting) = asked().await;
    meter.answer(&authority(vec![allotment(1, 5, 60)]), 0, T0);
    waiting.await.unwrap().unwrap().spend();
    assert!(!meter.wants(T0));
    let leaving = tokio::spawn({
        let meter = meter.clone();
        async move { meter.leave().await }
    });
    meter.wanted().await;
    assert!(meter.wants(T0));
    let renew = claim(&meter, 1, T0);
    let returned: Vec<_> = renew.uses_returned.iter().map(|one| one.spent).collect();
    assert_eq!((returned, leaving.is_finished()), (vec![1], false));
    meter.answer(&authority(Vec::new()), 1, T0);
    leaving.await.unwrap();
    meter.leave().await;
}
