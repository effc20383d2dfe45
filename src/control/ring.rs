//! The latest changes, kept once for all gateways.
//!
//! A session has a cursor here instead of a queue of its own: a slow gateway costs nothing, and one whose cursor has
//! fallen off the end is sent a snapshot. The ring knows revisions and messages, no gateways.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use prost::Message as _;
use tokio::sync::watch;

use super::encode;
use super::record::Change;
use crate::wire::v1;

/// Revisions kept: minutes of a busy control plane.
const MAX_ENTRIES: usize = 8_192;
/// Bytes kept, encoded.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Largest delta: many fit a flow-control window, and every gRPC stack accepts it.
const MAX_DELTA_BYTES: usize = 512 * 1024;

#[derive(Debug)]
struct Entry {
    revision: u64,
    changes: Vec<v1::Change>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Kept {
    /// Everything after this revision is here.
    floor: u64,
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    /// Revisions, with when they were published, since boot: also of changes that are forgotten.
    published: VecDeque<(u64, Duration)>,
}

impl Kept {
    fn publish(&mut self, revision: u64, at: Duration) {
        if self.published.back().is_none_or(|(last, _)| *last < revision) {
            self.published.push_back((revision, at));
        }
        if self.published.len() > MAX_ENTRIES {
            self.published.pop_front();
        }
    }
}

/// The latest changes.
#[derive(Debug)]
pub(super) struct Ring {
    kept: RwLock<Kept>,
    head: watch::Sender<Head>,
}

/// The newest revision, in which life of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) epoch: u64,
    pub(super) revision: u64,
}

/// What a session sends next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Nothing is missing.
    Current,
    /// These, up to and with the revision.
    Changes { revision: u64, changes: Vec<v1::Change> },
    /// The cursor is older than what is kept.
    Behind,
}

impl Ring {
    /// Empty: gateways that hold `head` are current, all others need a snapshot.
    pub(super) fn at(head: Head) -> Self {
        let kept = Kept { floor: head.revision, ..Kept::default() };
        Self { kept: RwLock::new(kept), head: watch::Sender::new(head) }
    }

    /// Forgets all changes: for after the model was read anew. What was not known before is published now: nobody lags
    /// who could not have heard of it.
    pub(super) fn reset(&self, head: Head, now: Duration) {
        let mut kept = self.kept.write();
        let published = std::mem::take(&mut kept.published);
        *kept = Kept { floor: head.revision, published, ..Kept::default() };
        kept.publish(head.revision, now);
        drop(kept);
        self.head.send_replace(head);
    }

    /// Takes in one commit and wakes the sessions.
    pub(super) fn push(&self, head: Head, changes: &[Change], published: Duration) {
        let changes: Vec<v1::Change> = changes.iter().filter_map(|c| encode::change(c, head.revision)).collect();
        let bytes = changes.iter().map(prost::Message::encoded_len).sum();
        let mut kept = self.kept.write();
        kept.bytes = kept.bytes.saturating_add(bytes);
        kept.entries.push_back(Arc::new(Entry { revision: head.revision, changes, bytes }));
        kept.publish(head.revision, published);
        while kept.entries.len() > MAX_ENTRIES || kept.bytes > MAX_BYTES {
            let Some(oldest) = kept.entries.pop_front() else { break };
            kept.bytes = kept.bytes.saturating_sub(oldest.bytes);
            kept.floor = oldest.revision;
        }
        drop(kept);
        self.head.send_replace(head);
    }

    /// The newest revision.
    pub(super) fn head(&self) -> Head {
        *self.head.borrow()
    }

    /// Wakes when the head moves.
    pub(super) fn watch(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// What comes after `cursor`: as many whole revisions as fit one delta, at least one.
    pub(super) fn after(&self, cursor: u64) -> Next {
        let kept = self.kept.read();
        if cursor < kept.floor {
            return Next::Behind;
        }
        let from = kept.entries.partition_point(|entry| entry.revision <= cursor);
        let mut revision = cursor;
        let mut changes = Vec::new();
        let mut bytes = 0usize;
        for entry in kept.entries.range(from..) {
            bytes = bytes.saturating_add(entry.bytes);
            if revision != cursor && bytes > MAX_DELTA_BYTES {
                break;
            }
            revision = entry.revision;
            changes.extend(entry.changes.iter().cloned());
        }
        if revision == cursor { Next::Current } else { Next::Changes { revision, changes } }
    }

    /// When the first revision after `cursor` was published, since boot, if it is still known.
    pub(super) fn published_after(&self, cursor: u64) -> Option<Duration> {
        let kept = self.kept.read();
        let from = kept.published.partition_point(|(revision, _)| *revision <= cursor);
        kept.published.get(from).map(|(_, published)| *published)
    }
}

/// Cuts a whole picture into parts of bounded size; the last one says so.
pub(super) fn parts(
    head: Head,
    objects: Vec<v1::CatalogObject>,
    grants: impl Iterator<Item = v1::Grant>,
    tokens: Vec<v1::RevokedToken>,
) -> impl Iterator<Item = v1::SnapshotPart> {
    #[expect(clippy::large_enum_variant, reason = "one at a time, on its way through an iterator")]
    enum Item {
        Object(v1::CatalogObject),
        Grant(v1::Grant),
        Token(v1::RevokedToken),
    }
    let mut items = objects
        .into_iter()
        .map(Item::Object)
        .chain(grants.map(Item::Grant))
        .chain(tokens.into_iter().map(Item::Token))
        .peekable();
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let mut part = v1::SnapshotPart { epoch: head.epoch, revision: head.revision, ..Default::default() };
        let mut bytes = 0;
        while bytes < MAX_DELTA_BYTES {
            match items.next() {
                Some(Item::Object(it)) => {
                    bytes += it.encoded_len();
                    part.objects.push(it);
                }
                Some(Item::Grant(it)) => {
                    bytes += it.encoded_len();
                    part.grants.push(it);
                }
                Some(Item::Token(it)) => {
                    bytes += it.encoded_len();
                    part.revoked_tokens.push(it);
                }
                None => break,
            }
        }
        part.last = items.peek().is_none();
        done = part.last;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::{Record, RevokedToken};
    use super::*;
    use crate::domain::Timestamp;

    fn head(revision: u64) -> Head {
        Head { epoch: 1, revision }
    }

    fn change(n: usize, bytes: usize) -> Change {
        let jti = format!("{n:06}{}", "x".repeat(bytes));
        Change::Put(Record::Token(RevokedToken { issuer: "i".into(), jti, expires: Timestamp::MAX, by: None }))
    }

    #[test]
    fn a_cursor_gets_exactly_what_it_missed() {
        let ring = Ring::at(head(10));
        assert_eq!(ring.after(10), Next::Current);
        assert_eq!(ring.after(9), Next::Behind);
        // Revisions have gaps: commits that no gateway hears of lie between.
        for revision in [11, 14, 15] {
            ring.push(head(revision), &[change(revision as usize, 0)], Duration::ZERO);
        }
        for (cursor, missed) in [(10, 3), (11, 2), (12, 2), (14, 1)] {
            let Next::Changes { revision, changes } = ring.after(cursor) else { panic!("{cursor}") };
            assert_eq!((revision, changes.len()), (15, missed), "after {cursor}");
        }
        assert_eq!(ring.after(15), Next::Current);
    }

    #[test]
    fn what_is_read_anew_was_published_then_and_what_was_before_stays_known() {
        let (ring, at) = (Ring::at(head(10)), Duration::from_secs);
        ring.push(head(11), &[change(1, 0)], at(5));
        // A commit of unknown fate was done after all: nobody could hear of it before.
        ring.reset(head(12), at(60));
        assert_eq!(ring.after(11), Next::Behind);
        let known: Vec<_> = [10, 11, 12].map(|cursor| ring.published_after(cursor)).into();
        assert_eq!(known, [Some(at(5)), Some(at(60)), None]);
        ring.reset(head(12), at(70));
        assert_eq!(ring.published_after(11), Some(at(60)), "it was known already");
        ring.push(head(13), &[change(1, 0)], at(80));
        assert_eq!(ring.published_after(12), Some(at(80)));
    }

    #[test]
    fn what_falls_off_the_end_makes_older_cursors_behind() {
        let ring = Ring::at(head(1));
        for revision in 2..=(MAX_ENTRIES as u64 + 3) {
            ring.push(head(revision), &[], Duration::ZERO);
        }
        assert_eq!(ring.after(2), Next::Behind);
        assert!(matches!(ring.after(3), Next::Changes { .. }));
        let big = Ring::at(head(1));
        for revision in 2..40 {
            big.push(head(revision), &[change(0, 1024 * 1024)], Duration::ZERO);
        }
        assert_eq!(big.after(2), Next::Behind);
        assert!(big.kept.read().bytes <= MAX_BYTES);
    }

    #[test]
    fn deltas_are_bounded_and_hold_whole_revisions() {
        let ring = Ring::at(head(1));
        for revision in 2..10 {
            ring.push(head(revision), &[change(0, 200 * 1024), change(1, 10)], Duration::ZERO);
        }
        let (mut cursor, mut seen) = (1, 0);
        while let Next::Changes { revision, changes } = ring.after(cursor) {
            assert_eq!(changes.len(), 2 * (revision - cursor) as usize);
            assert!(revision - cursor <= 3);
            (cursor, seen) = (revision, seen + changes.len());
        }
        assert_eq!((cursor, seen), (9, 16));
    }

    #[test]
    fn a_snapshot_comes_in_parts_and_only_the_last_says_so() {
        let tokens = |n: usize| {
            let one = v1::RevokedToken { issuer: "i".into(), jti: "x".repeat(100 * 1024), expires_unix_us: 1 };
            vec![one; n]
        };
        let all: Vec<_> = parts(head(7), Vec::new(), std::iter::empty(), tokens(20)).collect();
        assert!(all.len() > 3);
        assert_eq!(all.iter().map(|p| p.revoked_tokens.len()).sum::<usize>(), 20);
        assert!(all.iter().rev().skip(1).all(|p| !p.last) && all.last().unwrap().last);
        let empty: Vec<_> = parts(head(7), Vec::new(), std::iter::empty(), Vec::new()).collect();
        assert!(empty.len() == 1 && empty[0].last && empty[0].revision == 7);
    }
}
