//! Nobody who registers and then checks survives a publication.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

fn running(call: u128) -> Running {
    Running {
        call: CallId::from_bits(call),
        identity: IdentityIndex::default(),
        route: "orders".parse().unwrap(),
        grant: Some(GrantId::from_bits(1)),
        exception: None,
        token: None,
        key: None,
        roots: [None, None],
        connection: None,
        ends: Timestamp::from_unix_seconds(100),
        end_reason: Reason::GrantExpired,
        authority_bound: Duration::from_secs(10),
    }
}

fn at(second: i64, age: u64) -> Now {
    Now { wall: Timestamp::from_unix_seconds(second), authority: Authority::Age(Duration::from_secs(age)) }
}

fn enter(registry: &Arc<Registry>, running: Running) -> Registration {
    registry.register(0, running, Cut::new())
}

#[tokio::test]
async fn a_cut_finds_calls_by_everything_they_stand_on() {
    let registry = Registry::new(2);
    let token = TokenKey::of("https://i", "one");
    let key = KeyKey::of(b"certificate");
    let exception: ExceptionName = "trial".parse().unwrap();
    let calls = [
        enter(&registry, running(1)),
        registry.register(
            1,
            Running { grant: Some(GrantId::from_bits(2)), token: Some(token), ..running(2) },
            Cut::new(),
        ),
        enter(&registry, Running { grant: None, exception: Some(exception.clone()), key: Some(key), ..running(3) }),
    ];
    let hits = |which: Selector| {
        let set = registry.cut(&which, Reason::GrantRevoked);
        let mut ids: Vec<u128> = set.calls.iter().map(|(call, ..)| call.bits()).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(hits(Selector::Grant(GrantId::from_bits(3))), [0; 0]);
    assert_eq!(hits(Selector::Grant(GrantId::from_bits(1))), [1]);
    assert_eq!(calls[1].cut().reason(), None);
    assert_eq!(hits(Selector::Token(token)), [2]);
    assert_eq!(hits(Selector::Key(key)), [3]);
    assert_eq!(hits(Selector::Exception(exception)), [3]);
    assert_eq!(hits(Selector::Identity(IdentityIndex::default())), [1, 2, 3]);
    assert_eq!(hits(Selector::All), [1, 2, 3]);
    drop(calls);
    assert!(registry.is_empty());
    assert!(registry.shards.iter().all(|shard| shard.calls.lock().index_len() == 0), "the index forgets who left");
}

#[test]
fn leaving_in_any_order_keeps_the_others_findable() {
    let registry = Registry::new(1);
    for leave in 0..5 {
        let mut calls: Vec<_> = (0..5).map(|call| enter(&registry, running(call))).collect();
        calls.remove(leave);
        let found = registry.cut(&Selector::Grant(GrantId::from_bits(1)), Reason::GrantRevoked);
        assert_eq!(found.len(), 4);
        calls.remove(0);
        calls.pop();
        assert_eq!(registry.cut(&Selector::Grant(GrantId::from_bits(1)), Reason::GrantRevoked).len(), 2);
    }
}

#[tokio::test]
async fn gone_tells_what_was_cut_and_what_still_runs() {
    let registry = Registry::new(1);
    let (one, two) = (enter(&registry, running(1)), enter(&registry, running(2)));
    one.intent(41);
    one.count_response(100);
    one.count_response(11);
    let set = registry.cut(&Selector::All, Reason::GrantRevoked);
    let task = tokio::spawn(async move {
        let reason = one.cut().fired().await;
        drop(one);
        reason
    });
    let (cut, running) = set.gone(Duration::from_millis(50)).await;
    assert_eq!((task.await.unwrap(), running), (Reason::GrantRevoked, 1));
    assert_eq!((cut[0].intent_seq, cut[0].response_bytes, cut[0].reason), (41, 111, Reason::GrantRevoked));
    assert_eq!(cut.len(), 2);
    drop(two);
}

#[tokio::test]
async fn a_call_that_is_ending_for_another_cause_is_waited_for_too() {
    let registry = Registry::new(1);
    let call = enter(&registry, running(1));
    assert_eq!(registry.sweep(&at(100, 0)), 1);
    let mut set = registry.cut(&Selector::Grant(GrantId::from_bits(1)), Reason::GrantRevoked);
    set.join(registry.cut(&Selector::All, Reason::IdentityInactive));
    let waiting = tokio::spawn(set.gone(LIMIT));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(call);
    let (cut, running) = waiting.await.unwrap();
    assert_eq!((cut.len(), cut[0].reason, running), (1, Reason::GrantExpired, 0), "the first reason stays");
}

#[tokio::test]
async fn a_call_that_left_and_entered_again_is_waited_for() {
    let registry = Registry::new(1);
    let cut = Cut::new();
    drop(registry.register(0, running(1), cut.clone()));
    let again = registry.register(0, running(1), cut);
    let set = registry.cut(&Selector::All, Reason::GrantRevoked);
    assert_eq!(set.gone(Duration::from_millis(10)).await.1, 1);
    drop(again);
}

#[test]
fn a_sweep_ends_what_is_past_its_end_or_its_authority() {
    let registry = Registry::new(1);
    let early = enter(&registry, running(1));
    let late = enter(&registry, Running { ends: Timestamp::from_unix_seconds(200), ..running(2) });
    let patient = enter(
        &registry,
        Running { ends: Timestamp::from_unix_seconds(300), authority_bound: Duration::from_secs(60), ..running(3) },
    );
    assert_eq!(registry.sweep(&at(99, 10)), 0);
    assert_eq!(registry.sweep(&at(100, 10)), 1);
    assert_eq!(registry.sweep(&at(100, 10)), 0, "once");
    assert_eq!(early.cut().reason(), Some(Reason::GrantExpired));
    drop(early);
    assert_eq!(registry.sweep(&at(150, 11)), 1);
    assert_eq!((late.cut().reason(), patient.cut().reason()), (Some(Reason::AuthorityStale), None));
    assert_eq!(registry.sweep(&Now { authority: Authority::Unknown, ..at(250, 0) }), 0);
    assert_eq!(registry.sweep(&Now { authority: Authority::Missing, ..at(250, 0) }), 1);
    assert_eq!(patient.cut().reason(), Some(Reason::AuthorityMissing));
}

/// A clock that runs with the runtime's.
fn running_clock() -> impl Fn() -> Now {
    let begun = tokio::time::Instant::now();
    move || Now { wall: Timestamp::from_unix_seconds(0).saturating_add(begun.elapsed()), ..at(0, 0) }
}

#[tokio::test(start_paused = true)]
async fn calls_end_at_their_time_also_those_that_came_later_and_end_sooner() {
    let registry = Registry::new(1);
    let clock = running_clock();
    let keeper = tokio::spawn({
        let (registry, clock) = (registry.clone(), running_clock());
        async move { registry.keep_ends(0, clock).await }
    });
    let ends = |milliseconds: u64| Timestamp::from_unix_seconds(0).saturating_add(Duration::from_millis(milliseconds));
    let late = enter(&registry, Running { ends: ends(1_500), ..running(1) });
    tokio::task::yield_now().await;
    let soon = enter(&registry, Running { ends: ends(700), end_reason: Reason::ExceptionEnded, ..running(2) });
    assert_eq!(soon.cut().fired().await, Reason::ExceptionEnded);
    // The timers of the runtime go by milliseconds.
    assert!((ends(700)..ends(702)).contains(&clock().wall) && late.cut().reason().is_none());
    // It has not left: the keeper must sleep all the same, or this would never end.
    assert_eq!(late.cut().fired().await, Reason::GrantExpired);
    assert!((ends(1_500)..ends(1_502)).contains(&clock().wall));
    drop((soon, late));
    keeper.abort();
}

#[test]
fn a_review_keeps_tightens_or_ends() {
    let registry = Registry::new(2);
    let calls: Vec<_> =
        (0..3).map(|n| registry.register(usize::try_from(n).unwrap(), running(n), Cut::new())).collect();
    let set = registry.review(|running| match running.call.bits() {
        0 => Verdict::Keep,
        1 => Verdict::Tighten(Duration::from_secs(5)),
        _ => Verdict::Cut(Reason::GrantRevoked),
    });
    assert_eq!(set.len(), 1);
    assert_eq!(registry.sweep(&at(0, 6)), 1);
    let reasons: Vec<_> = calls.iter().map(|call| call.cut().reason()).collect();
    assert_eq!(reasons, [None, Some(Reason::AuthorityStale), Some(Reason::GrantRevoked)]);
}

/// Workers enter, look again and go on until they are told to end, while what allows them is withdrawn and given back.
#[test]
fn nobody_who_registers_and_then_checks_survives_a_publication() {
    const ROUNDS: usize = 2_000;
    /// Every so many rounds the workers must have gone on with one more call.
    const TURN: usize = 20;
    let registry = Registry::new(4);
    let (allowed, done) = (AtomicBool::new(true), AtomicBool::new(false));
    let (forwarding, forwarded) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for shard in 0..4 {
            let (registry, allowed, done) = (&registry, &allowed, &done);
            let (forwarding, forwarded) = (&forwarding, &forwarded);
            scope.spawn(move || {
                let mut call = (shard as u128) << 64;
                while !done.load(SeqCst) {
                    call += 1;
                    let registration = registry.register(shard, running(call), Cut::new());
                    if !allowed.load(SeqCst) {
                        std::thread::yield_now();
                        continue;
                    }
                    forwarding.fetch_add(1, SeqCst);
                    forwarded.fetch_add(1, SeqCst);
                    // Some are over by themselves.
                    while registration.cut().reason().is_none() && !call.is_multiple_of(3) && !done.load(SeqCst) {
                        std::thread::yield_now();
                    }
                    forwarding.fetch_sub(1, SeqCst);
                }
            });
        }
        for round in 0..ROUNDS {
            // However busy the machine is, the workers have their turn.
            while round % TURN == 0 && forwarded.load(SeqCst) <= round / TURN {
                std::thread::yield_now();
            }
            allowed.store(false, SeqCst);
            let set = registry.cut(&Selector::Grant(GrantId::from_bits(1)), Reason::GrantRevoked);
            while set.calls.iter().any(|(_, _, cut)| !cut.is_gone()) {
                std::thread::yield_now();
            }
            assert_eq!(forwarding.load(SeqCst), 0, "a call goes on under what was withdrawn");
            allowed.store(true, SeqCst);
        }
        done.store(true, SeqCst);
    });
    assert!(registry.is_empty() && forwarded.load(SeqCst) >= ROUNDS / TURN);
}
