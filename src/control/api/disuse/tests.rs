//! When a grant was last used, as a real log says that holds more of it than one answer does.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::super::grant::GrantRequest;
use super::super::super::sample::{furnished, request};
use super::*;
use crate::control::authorize::Caller;
use crate::domain::Clock as _;
use crate::domain::clock::ManualClock;
use crate::domain::name::CallId;
use crate::evidence::entry::{IssueKind, TokenIssued};
use crate::evidence::journal::tests::{origin, writer};
use crate::evidence::journal::{Journal, JournalOptions};
use crate::evidence::storage::DiskStorage;

/// When it all begins.
const BEGAN: Timestamp = super::super::super::sample::NOW;

fn token(grant: GrantId, n: u64) -> TokenIssued<'static> {
    TokenIssued {
        call: CallId::from_bits(n.into()),
        jti: format!("{n}").into(),
        grant,
        identity: Cow::Owned("billing".parse().unwrap()),
        audience: "api/orders".into(),
        expires: BEGAN,
        kind: IssueKind::Exchange,
        parent_jti: None,
    }
}

/// A log that holds so many uses, a second apart; the answer: when the last one was.
fn used(dir: &Path, clock: &Arc<ManualClock>, grant: GrantId, uses: u64) -> Timestamp {
    let storage = Arc::new(DiskStorage::open(dir).unwrap());
    let (journal, _) = Journal::open(storage, origin(), &writer(), JournalOptions::default(), clock.clone()).unwrap();
    for n in 0..uses {
        clock.advance(Duration::from_secs(1));
        let _ = journal.append(&token(grant, n)).unwrap();
    }
    journal.flush().unwrap();
    journal.close();
    clock.now()
}

/// What is found when one gateway stands by, which answers from this log; and how often it was asked.
async fn found(shared: &Arc<Shared>, grant: &Grant, dir: &Path) -> (LastUse, usize) {
    let name = "edge".parse().unwrap();
    let (session, mut questions) = shared.standing_by.enter(&name, "log".to_owned());
    let asked = Arc::new(AtomicUsize::new(0));
    let (counted, standing, dir) = (asked.clone(), shared.clone(), dir.to_owned());
    let edge = tokio::spawn(async move {
        while let Some(question) = questions.recv().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let number = question.number;
            let answer = crate::asking::answered(&dir, question, ()).await.unwrap();
            let answer = v1::EvidenceAnswer { number, running: Some(0), ..answer };
            standing.standing_by.answered(&"edge".parse().unwrap(), session, answer);
        }
    });
    let gateway = GatewayStatus { name, connected: true, applied: 0, answered: BEGAN, issued_by: None };
    let last = ask(shared, grant, gateway).await;
    edge.abort();
    (last, asked.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_use_is_found_behind_more_than_one_answer_holds_and_what_is_not_read_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(BEGAN));
    let (_core, handle) = furnished(dir.path(), &clock).await;
    let asked = GrantRequest { duration: Duration::from_secs(30 * 86_400), ..request() };
    let grant = handle.create_grants(&Caller::System, asked).await.unwrap().answer.remove(0);
    // Among the latest records, in one answer or in several; and in a log whose latest are not all that there is.
    for (uses, questions) in [(10, 1), (1_000, 1), (2_600, 3), (6_000, 5)] {
        let log = tempfile::tempdir().unwrap();
        let newest = used(log.path(), &clock, grant.id, uses);
        let (last, asked) = found(handle.shared(), &grant, log.path()).await;
        assert_eq!((last.at, asked), (Some(newest), questions), "{uses}: {last:?}");
        assert!(last.missing.is_empty() && !last.running);
    }
    // Only long ago: behind the latest there is nothing of it, and the log is asked from its beginning.
    let log = tempfile::tempdir().unwrap();
    let newest = used(log.path(), &clock, grant.id, 1_500);
    used(log.path(), &clock, GrantId::from_bits(7), 6_000);
    let (last, _) = found(handle.shared(), &grant, log.path()).await;
    assert_eq!(last.at, Some(newest), "{last:?}");
    assert!(last.missing.is_empty());
    // More of it than is read at once: that is said, and nobody takes the newest that was read for the newest.
    used(log.path(), &clock, grant.id, 7_500);
    used(log.path(), &clock, GrantId::from_bits(7), 6_000);
    let (last, _) = found(handle.shared(), &grant, log.path()).await;
    assert!(last.missing.values().any(|why| why.contains("more of it than is read at once")), "{last:?}");
}
