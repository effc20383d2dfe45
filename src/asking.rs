//! Answers to questions about evidence, from a log's directory: a gateway's own, or a control plane's copy of it.
//!
//! Bounded, and what it costs is a thread's reading. It reads what is there without verifying it, as `evidence query` does.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::Timestamp;
use crate::domain::name::{CallId, GrantId};
use crate::evidence::entry::Kind;
use crate::evidence::query::index::Index;
use crate::evidence::query::search::Search;
use crate::evidence::query::{Filter, Found, Query, QueryError, WantedValue, records};
use crate::evidence::read::first;
use crate::evidence::storage::{BoundedStorage, DiskStorage, Storage};
use crate::wire::{MAX_EVIDENCE_BYTES, MAX_EVIDENCE_RECORDS, bytes128, v1};

/// How long reading for one answer may take.
pub(crate) const READ_WITHIN: Duration = Duration::from_secs(8);

/// Whoever waits for an answer: dropped, nobody does any more, and what is read for it ends at its next read.
#[derive(Debug, Default)]
pub(crate) struct Asker(Arc<AtomicBool>);

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Whether reading goes on: somebody waits, and its time is not over. A read that has begun ends at its next one.
fn wanted(gone: Arc<AtomicBool>, until: Instant) -> impl Fn() -> bool + Send + Sync + 'static {
    move || !gone.load(Ordering::SeqCst) && Instant::now() < until
}

/// An answer from the log in a directory, read on a thread of its own, which ends when it takes too long or whoever asks is
/// gone. `held` is kept for as long as it runs: a place is free again when nothing is read any more, and not before.
///
/// # Errors
/// As [`answer`]; that it takes too long.
pub(crate) async fn answered(
    directory: &Path,
    question: v1::EvidenceQuestion,
    held: impl Send + 'static,
) -> Result<v1::EvidenceAnswer, String> {
    let (asker, directory) = (Asker::default(), directory.to_owned());
    // By the clock, and not by whether somebody looks at it: who asks may be held up and never drop what waits.
    let goes_on = wanted(asker.0.clone(), Instant::now() + READ_WITHIN);
    let read = tokio::task::spawn_blocking(move || {
        let _held = held;
        let storage = BoundedStorage::new(DiskStorage::read_only(&directory), goes_on);
        answer(&directory, Arc::new(storage), &question)
    });
    match tokio::time::timeout(READ_WITHIN, read).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            let within = READ_WITHIN.as_secs();
            Err(format!("reading it takes longer than {within} s: narrow the question (--from, --to), or ask again"))
        }
    }
}

/// When the oldest record that is left was written: what was before is another log's, or pruned.
fn oldest(storage: &Arc<dyn Storage>) -> Result<i64, String> {
    let mut query = Query::new(storage.clone(), 0, Filter::default());
    let first = query.next().map_err(|error| error.to_string())?;
    Ok(first.map_or(i64::MAX, |found| found.entry.time.unix_micros()))
}

/// A way through the log.
enum Way {
    /// By its index, from the first record.
    Search(Box<Search>),
    /// One by one, from another.
    Query(Box<Query>),
}

impl Way {
    fn next(&mut self) -> Result<Option<Found>, QueryError> {
        match self {
            Self::Search(search) => search.next(),
            Self::Query(query) => query.next(),
        }
    }
}

/// What the log in a directory, read through `storage`, holds of what is asked, as far as an answer goes.
///
/// # Errors
/// When it cannot be read, or the question is none.
fn answer(
    directory: &Path,
    storage: Arc<dyn Storage>,
    question: &v1::EvidenceQuestion,
) -> Result<v1::EvidenceAnswer, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let size = records(&storage).map_err(|error| text(&error))?;
    let filter = filter(question.filter.as_ref())?;
    let from = match (question.after, question.last) {
        (Some(after), _) => after.min(size),
        (None, 0) => 0,
        (None, last) => size.saturating_sub(last.into()),
    };
    let index = Arc::new(Index::open_over(directory, storage.clone()).map_err(|error| text(&error))?);
    let mut way = match from {
        0 => Way::Search(Box::new(Search::new(index, filter).map_err(|error| text(&error))?)),
        from => Way::Query(Box::new(Query::after(index, from, filter).map_err(|error| text(&error))?)),
    };
    let limit = question.limit.clamp(1, MAX_EVIDENCE_RECORDS);
    let is_of_grant = question.filter.as_ref().is_some_and(|filter| !filter.grant.is_empty());
    let oldest_unix_us = if is_of_grant { oldest(&storage)? } else { 0 };
    let present_from = Some(first(&*storage).map_err(|error| text(&error))?).filter(|first| *first > 0);
    let mut answer =
        v1::EvidenceAnswer { size, reached: size, oldest_unix_us, present_from, ..v1::EvidenceAnswer::default() };
    let (mut count, mut bytes) = (0, 0);
    while let Some(found) = way.next().map_err(|error| text(&error))?.filter(|found| found.entry.seq < size) {
        bytes += found.bytes.len();
        if count == limit || bytes > MAX_EVIDENCE_BYTES {
            answer.reached = found.entry.seq;
            break;
        }
        count += 1;
        answer.records.push(found.bytes);
    }
    Ok(answer)
}

fn filter(message: Option<&v1::EvidenceFilter>) -> Result<Filter, String> {
    fn parsed<T: std::str::FromStr>(what: &str, text: &str) -> Result<Option<T>, String> {
        let parse = |text: &str| text.parse().map_err(|_| format!("{what}: not one that is known here"));
        (!text.is_empty()).then(|| parse(text)).transpose()
    }
    fn bits(what: &'static str, bytes: &[u8]) -> Result<Option<u128>, String> {
        (!bytes.is_empty()).then(|| bytes128(what, bytes).map_err(|error| error.to_string())).transpose()
    }
    let Some(it) = message else { return Ok(Filter::default()) };
    let kind = match it.kind.as_str() {
        "" => None,
        kind => Some(Kind::parse(kind).ok_or_else(|| "kind: not one that is known here".to_owned())?),
    };
    Ok(Filter {
        identity: parsed("identity", &it.identity)?,
        grant: bits("grant", &it.grant)?.map(GrantId::from_bits),
        resource: parsed("resource", &it.resource)?,
        action: parsed("action", &it.action)?,
        reason: parsed("reason", &it.reason)?,
        call: bits("call", &it.call)?.map(CallId::from_bits),
        kind,
        from: it.from_unix_us.map(Timestamp::from_unix_micros),
        to: it.to_unix_us.map(Timestamp::from_unix_micros),
        values: it.values.iter().map(|value| WantedValue::hashed(&value.plain, value.hashes.clone())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::journal::Journal;
    use crate::evidence::journal::tests::{clock, note, origin, small, writer};

    #[test]
    fn an_answer_is_bounded_and_goes_on_where_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Arc::new(DiskStorage::open(dir.path()).unwrap());
        let (journal, _) = Journal::open(storage, origin(), &writer(), small(), clock()).unwrap();
        (0..50).for_each(|n| {
            let _ = journal.append(&note(n)).unwrap();
        });
        journal.flush().unwrap();
        let ask = |after, last, limit, kind: &str| {
            let filter = Some(v1::EvidenceFilter { kind: kind.into(), ..v1::EvidenceFilter::default() });
            let storage = Arc::new(DiskStorage::read_only(dir.path()));
            answer(dir.path(), storage, &v1::EvidenceQuestion { number: 1, filter, limit, after, last })
        };
        let seen = |answer: &v1::EvidenceAnswer| {
            let seq = |record: &Vec<u8>| crate::evidence::entry::Entry::place(record).unwrap().0;
            answer.records.iter().map(seq).collect::<Vec<_>>()
        };
        let size = 51;
        let (mut after, mut all) = (None, Vec::new());
        loop {
            let part = ask(after, 0, 7, "token_revoked").unwrap();
            all.extend(seen(&part));
            assert!(part.size == size && part.records.len() <= 7);
            after = Some(part.reached);
            if part.reached == size {
                break;
            }
        }
        assert_eq!(all, (1..size).collect::<Vec<_>>(), "each once");
        assert_eq!(seen(&ask(None, 3, 100, "").unwrap()), [48, 49, 50]);
        assert_eq!(seen(&ask(Some(49), 3, 100, "").unwrap()), [49, 50]);
        assert_eq!(seen(&ask(Some(u64::MAX), 0, 100, "").unwrap()), [0; 0]);
        assert!(ask(None, 0, 1, "no_such_kind").unwrap_err().contains("kind"));
        journal.close();
    }

    #[tokio::test(start_paused = true)]
    async fn reading_ends_when_its_time_is_over_though_whoever_asked_is_still_there() {
        let asker = Asker::default();
        let goes_on = wanted(asker.0.clone(), Instant::now() + READ_WITHIN);
        assert!(goes_on());
        tokio::time::advance(READ_WITHIN).await;
        assert!(!goes_on());
        let goes_on = wanted(asker.0.clone(), Instant::now() + READ_WITHIN);
        assert!(goes_on());
        drop(asker);
        assert!(!goes_on());
    }

    #[tokio::test]
    async fn reading_ends_when_nobody_waits_and_its_place_is_held_until_then() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Arc::new(DiskStorage::open(dir.path()).unwrap());
        let (journal, _) = Journal::open(storage, origin(), &writer(), small(), clock()).unwrap();
        (0..200).for_each(|n| {
            let _ = journal.append(&note(n)).unwrap();
        });
        journal.flush().unwrap();
        // Nobody waits from the start: nothing is read.
        let gone: Arc<dyn Storage> = Arc::new(BoundedStorage::new(DiskStorage::read_only(dir.path()), || false));
        assert!(answer(dir.path(), gone, &v1::EvidenceQuestion::default()).is_err());
        // Or from some read on: reading ends there, wherever that is.
        let whole = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = |limit: usize| {
            let reads = whole.clone();
            reads.store(0, Ordering::SeqCst);
            let goes_on = move || reads.fetch_add(1, Ordering::SeqCst) < limit;
            let storage = Arc::new(BoundedStorage::new(DiskStorage::read_only(dir.path()), goes_on));
            answer(dir.path(), storage, &v1::EvidenceQuestion::default())
        };
        assert_eq!(count(usize::MAX).unwrap().size, 201);
        let all = whole.load(Ordering::SeqCst);
        for limit in 0..all {
            assert!(count(limit).is_err(), "{limit} of {all}");
            // What is not needed for an answer may be asked for in vain, before what is.
            assert!(whole.load(Ordering::SeqCst) <= limit + 4, "{limit} of {all}: it reads on");
        }
        // Whoever asks drops it: the place is given back by the thread that reads, once it is done.
        let (held, released) = tokio::sync::oneshot::channel::<()>();
        let asked = answered(dir.path(), v1::EvidenceQuestion::default(), held);
        drop(asked);
        assert!(released.await.is_err());
        let (held, released) = tokio::sync::oneshot::channel::<()>();
        assert_eq!(answered(dir.path(), v1::EvidenceQuestion::default(), held).await.unwrap().size, 201);
        assert!(released.await.is_err());
        journal.close();
    }
}
