//! Time that does not go back, authority that ages, pauses that are noticed.

use super::*;
use crate::domain::clock::ManualClock;

const START: Timestamp = Timestamp::from_unix_seconds(1_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn clock() -> (Arc<ManualClock>, Arc<AuthorityClock>) {
    let manual = Arc::new(ManualClock::at(START));
    manual.advance(Duration::from_secs(100));
    let clock = AuthorityClock::new(manual.clone(), Memory::volatile());
    (manual, clock)
}

fn answer(time: Timestamp) -> Answer {
    Answer { epoch: 1, revision: 1, time }
}

/// Moves on as a running process does: with ticks.
fn run(manual: &ManualClock, clock: &AuthorityClock, seconds: u64) {
    for _ in 0..seconds {
        manual.advance(SECOND);
        assert_eq!(clock.tick(), Tick::Steady);
    }
}

#[test]
fn there_is_no_authority_before_the_first_answer() {
    let (_, clock) = clock();
    assert_eq!(clock.now().authority, Authority::Missing);
    clock.sent([1; 16]);
    assert_eq!(clock.now().authority, Authority::Missing);
}

#[test]
fn authority_counts_from_when_the_renewal_was_sent() {
    let (manual, clock) = clock();
    clock.sent([1; 16]);
    run(&manual, &clock, 3);
    clock.answered(&[1; 16], &answer(manual.now())).unwrap();
    assert_eq!(clock.now().authority, Authority::Age(3 * SECOND));
    run(&manual, &clock, 4);
    assert_eq!(clock.now().authority, Authority::Age(7 * SECOND));
}

#[test]
fn the_clock_that_makes_authority_older_counts() {
    let (manual, clock) = clock();
    clock.sent([1; 16]);
    clock.answered(&[1; 16], &answer(manual.now())).unwrap();
    run(&manual, &clock, 2);
    manual.set_wall(START.saturating_add(3600 * SECOND));
    assert_eq!(clock.now().authority, Authority::Age(Duration::from_secs(3500)));
    let (manual, clock) = self::clock();
    clock.sent([1; 16]);
    clock.answered(&[1; 16], &answer(manual.now())).unwrap();
    manual.set_wall(START);
    run(&manual, &clock, 2);
    assert_eq!(clock.now().authority, Authority::Age(2 * SECOND), "a wall clock set back makes nothing younger");
}

#[test]
fn time_never_goes_back() {
    let (manual, clock) = clock();
    let before = clock.now().wall;
    manual.set_wall(START);
    assert_eq!(clock.now().wall, before);
    manual.set_wall(Timestamp::from_unix_seconds(0));
    run(&manual, &clock, 1);
    assert_eq!(clock.wall(), before);
}

#[test]
fn the_control_planes_time_counts_when_it_is_ahead() {
    let (manual, clock) = clock();
    let ahead = manual.now().saturating_add(60 * SECOND);
    clock.sent([1; 16]);
    clock.answered(&[1; 16], &answer(ahead)).unwrap();
    manual.set_wall(START);
    run(&manual, &clock, 2);
    assert_eq!(clock.now().wall, ahead.saturating_add(2 * SECOND));
}

#[test]
fn an_answer_with_an_earlier_time_gives_nobody_time() {
    let (manual, clock) = clock();
    let ahead = manual.now().saturating_add(60 * SECOND);
    clock.sent([1; 16]);
    clock.answered(&[1; 16], &answer(ahead)).unwrap();
    // The control plane's clock is set back an hour, and this machine's with it.
    manual.set_wall(START);
    clock.sent([2; 16]);
    clock.answered(&[2; 16], &answer(START)).unwrap();
    run(&manual, &clock, 5);
    assert_eq!(clock.wall(), ahead.saturating_add(5 * SECOND));
}

#[test]
fn answers_to_nothing_or_to_something_older_do_not_count() {
    let (manual, clock) = clock();
    assert_eq!(clock.answered(&[1; 16], &answer(START)), Err(AnswerError::Unasked));
    clock.sent([1; 16]);
    run(&manual, &clock, 1);
    clock.sent([2; 16]);
    run(&manual, &clock, 1);
    clock.answered(&[2; 16], &answer(START)).unwrap();
    assert_eq!(clock.answered(&[1; 16], &answer(START)), Err(AnswerError::Unasked));
    assert_eq!(clock.answered(&[2; 16], &answer(START)), Err(AnswerError::Unasked), "an answer counts once");
    assert_eq!(clock.now().authority, Authority::Age(SECOND));
}

#[test]
fn a_pause_is_noticed_without_a_tick_and_ends_with_a_renewal_sent_after_it() {
    let (manual, clock) = clock();
    clock.sent([1; 16]);
    clock.answered(&[1; 16], &answer(START)).unwrap();
    clock.sent([2; 16]);
    manual.advance(MAX_TICK_GAP + Duration::from_micros(1));
    assert_eq!(clock.now().authority, Authority::Unknown, "noticed by whoever asks first");
    assert_eq!(clock.tick(), Tick::Gap);
    assert_eq!(clock.now().authority, Authority::Unknown, "a tick alone mends nothing");
    clock.answered(&[2; 16], &answer(START)).unwrap();
    assert_eq!(clock.now().authority, Authority::Unknown, "asked before the pause was over");
    assert_eq!(clock.reckoning().authority, Authority::Age(MAX_TICK_GAP + Duration::from_micros(1)));
    manual.advance(Duration::from_millis(10));
    clock.sent([3; 16]);
    clock.answered(&[3; 16], &answer(START)).unwrap();
    assert_eq!(clock.now().authority, Authority::Age(Duration::ZERO));
}

#[tokio::test]
async fn a_pause_makes_a_renewal_due_and_the_held_go_on_after_its_answer() {
    let (manual, clock) = clock();
    clock.sent([1; 16]);
    clock.answered(&[1; 16], &answer(START)).unwrap();
    clock.renewed().await;
    manual.advance(3 * SECOND);
    clock.tick();
    clock.due().await;
    let held = tokio::spawn({
        let clock = clock.clone();
        async move { clock.renewed().await }
    });
    tokio::task::yield_now().await;
    assert!(!held.is_finished());
    clock.sent([2; 16]);
    clock.answered(&[2; 16], &answer(START)).unwrap();
    held.await.unwrap();
}

#[tokio::test]
async fn a_pause_asks_once_and_the_answer_counts_before_the_next_tick() {
    let (manual, clock) = clock();
    clock.sent([1; 16]);
    clock.answered(&[1; 16], &answer(START)).unwrap();
    manual.advance(5 * SECOND);
    assert_eq!(clock.now().authority, Authority::Unknown);
    clock.due().await;
    manual.advance(Duration::from_millis(1));
    clock.sent([2; 16]);
    manual.advance(Duration::from_millis(1));
    assert_eq!(clock.now().authority, Authority::Unknown, "not answered yet");
    let mut due = std::pin::pin!(clock.due());
    assert!(futures_util::poll!(due.as_mut()).is_pending(), "it is asked already");
    clock.answered(&[2; 16], &answer(START)).unwrap();
    assert_eq!(clock.now().authority, Authority::Age(Duration::from_millis(1)));
    // The tick comes late, and is no pause of its own; the next pause is one.
    assert_eq!(clock.tick(), Tick::Gap);
    assert_eq!(clock.now().authority, Authority::Age(Duration::from_millis(1)));
    assert!(futures_util::poll!(due.as_mut()).is_pending());
    manual.advance(3 * SECOND);
    assert_eq!(clock.now().authority, Authority::Unknown);
    due.await;
}

#[test]
fn a_restored_backup_gets_no_authority_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let manual = Arc::new(ManualClock::at(START));
    let clock = AuthorityClock::new(manual.clone(), Memory::open(dir.path()).unwrap());
    clock.memory().saw(2, 9);
    clock.memory().saw(2, 7);
    clock.memory().write(clock.wall()).unwrap();
    manual.set_wall(Timestamp::from_unix_seconds(0));
    let clock = AuthorityClock::new(manual, Memory::open(dir.path()).unwrap());
    assert_eq!(clock.wall(), START, "a clock set back over a restart gives nobody time");
    for (epoch, revision) in [(1, 100), (2, 8)] {
        clock.sent([1; 16]);
        let behind = Answer { epoch, revision, time: START };
        assert!(matches!(clock.answered(&[1; 16], &behind), Err(AnswerError::Behind(..))));
        assert_eq!(clock.now().authority, Authority::Missing);
    }
    clock.answered(&[1; 16], &Answer { epoch: 2, revision: 9, time: START }).unwrap();
    assert_eq!(clock.now().authority, Authority::Age(Duration::ZERO));
}

#[test]
fn a_store_that_forgot_what_no_revision_tells_is_known_for_one_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Memory::open(dir.path()).unwrap();
    let at = |epoch, revision| Committed { epoch, revision };
    memory.saw_committed(at(2, 9)).unwrap();
    memory.write(START).unwrap();
    let memory = Memory::open(dir.path()).unwrap();
    for old in [at(1, 100), at(2, 8)] {
        assert_eq!(memory.saw_committed(old), Err(at(2, 9)));
    }
    for good in [at(2, 9), at(2, 10), at(3, 1)] {
        memory.saw_committed(good).unwrap();
    }
    assert_eq!(memory.saw_committed(at(2, 11)), Err(at(3, 1)));
}

#[test]
fn a_memory_that_cannot_be_read_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    for bad in [&b"{"[..], b"", b"0", &[b' '; 8192]] {
        crate::files::write(&dir.path().join("highest.json"), bad, crate::files::PRIVATE).unwrap();
        let error = Memory::open(dir.path()).unwrap_err();
        assert!(matches!(error, memory::MemoryError::Content { .. }), "{bad:?}: {error}");
        assert!(error.to_string().contains("remove it only when"), "{error}");
    }
}

#[test]
fn what_is_read_is_written_before_it_counts() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let inode = || std::fs::metadata(dir.path().join("highest.json")).unwrap().ino();
    let memory = Memory::open(dir.path()).unwrap();
    memory.saw(1, 7);
    memory.write(START).unwrap();
    let before = inode();
    // The process was killed before its disk had it: only the kernel knows.
    drop(memory);
    let memory = Memory::open(dir.path()).unwrap();
    assert_eq!((memory.highest().revision, inode() == before), (7, false), "made anew");
}

#[tokio::test]
async fn a_wall_clock_that_is_set_ahead_asks_at_once_and_once() {
    let (manual, clock) = clock();
    clock.sent([1; 16]);
    clock.answered(&[1; 16], &answer(manual.now())).unwrap();
    run(&manual, &clock, 2);
    let is_due = || async { tokio::time::timeout(Duration::from_millis(1), clock.due()).await.is_ok() };
    assert!(!is_due().await);
    manual.set_wall(manual.now().saturating_add(3600 * SECOND));
    clock.tick();
    assert!(is_due().await);
    clock.tick();
    assert!(!is_due().await, "asked already");
    clock.sent([2; 16]);
    clock.answered(&[2; 16], &answer(START)).unwrap();
    run(&manual, &clock, 2);
    assert_eq!(clock.now().authority, Authority::Age(2 * SECOND));
    assert!(!is_due().await);
}

#[test]
fn a_process_that_stood_still_is_known_for_it_until_somebody_looked() {
    let (manual, clock) = clock();
    run(&manual, &clock, 2);
    assert!(!clock.stood_still());
    manual.advance(3 * SECOND);
    let since = clock.coarse();
    assert_eq!(clock.tick(), Tick::Gap);
    assert!(clock.stood_still(), "nobody has looked for what ended");
    clock.looked(since);
    assert!(!clock.stood_still());
}
