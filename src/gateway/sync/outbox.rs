//! Acknowledgements on their way to the control plane, over as many streams as it takes.
//!
//! An acknowledgement is kept until a renewal that was sent after it on the same stream is answered: the control plane
//! reads in order, so it has read the acknowledgement then. What is left of an earlier stream is sent again.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::wire::v1;

/// Acknowledgements kept: with a control plane that answers renewals it is seconds' worth. The oldest one goes.
const MAX_KEPT: usize = 4_096;

/// Acknowledgements that the control plane may not have read.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    kept: Mutex<Kept>,
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    /// Position of the first one in `queue`.
    first: u64,
    queue: VecDeque<v1::Applied>,
    /// The newest revision that was acknowledged.
    enforced: (u64, u64),
}

impl Outbox {
    /// One more, enforced and recorded.
    pub(super) fn push(&self, applied: v1::Applied) {
        let mut kept = self.kept.lock();
        kept.enforced = (applied.epoch, applied.revision);
        kept.queue.push_back(applied);
        if kept.queue.len() > MAX_KEPT {
            kept.queue.pop_front();
            kept.first += 1;
        }
        drop(kept);
        self.changed.notify_one();
    }

    /// The newest epoch and revision that are enforced.
    pub(super) fn enforced(&self) -> (u64, u64) {
        self.kept.lock().enforced
    }

    /// A stream begins: what was not confirmed goes again, and at least the newest, for a control plane that was
    /// restarted. Returns the position to send from.
    pub(super) fn begin(&self) -> u64 {
        let mut kept = self.kept.lock();
        let (epoch, revision) = kept.enforced;
        if kept.queue.is_empty() && revision > 0 {
            kept.queue.push_back(v1::Applied { epoch, revision, ..v1::Applied::default() });
        }
        kept.first
    }

    /// The one at `position`, or the first one after it, and the next position.
    pub(super) fn at(&self, position: u64) -> Option<(v1::Applied, u64)> {
        let kept = self.kept.lock();
        let position = position.max(kept.first);
        let offset = usize::try_from(position - kept.first).ok()?;
        kept.queue.get(offset).map(|applied| (applied.clone(), position + 1))
    }

    /// The control plane has read everything before `position`.
    pub(super) fn confirm(&self, position: u64) {
        let mut kept = self.kept.lock();
        while kept.first < position && kept.queue.pop_front().is_some() {
            kept.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(revision: u64) -> v1::Applied {
        v1::Applied { epoch: 1, revision, ..v1::Applied::default() }
    }

    fn drain(outbox: &Outbox, mut position: u64) -> (Vec<u64>, u64) {
        let mut sent = Vec::new();
        while let Some((applied, next)) = outbox.at(position) {
            sent.push(applied.revision);
            position = next;
        }
        (sent, position)
    }

    #[test]
    fn what_was_not_confirmed_is_sent_again_on_the_next_stream() {
        let outbox = Outbox::default();
        assert_eq!(drain(&outbox, outbox.begin()).0, [0; 0]);
        (1..=3).for_each(|revision| outbox.push(applied(revision)));
        let (sent, position) = drain(&outbox, 0);
        assert_eq!(sent, [1, 2, 3]);
        outbox.push(applied(4));
        outbox.confirm(position);
        assert_eq!(drain(&outbox, outbox.begin()).0, [4], "4 was sent after the renewal");
    }

    #[test]
    fn a_new_stream_tells_at_least_what_is_enforced() {
        let outbox = Outbox::default();
        outbox.push(applied(7));
        let (_, position) = drain(&outbox, outbox.begin());
        outbox.confirm(position);
        assert_eq!(drain(&outbox, outbox.begin()).0, [7]);
    }

    #[test]
    fn the_oldest_goes_when_nobody_reads() {
        let outbox = Outbox::default();
        (1..=MAX_KEPT as u64 + 2).for_each(|revision| outbox.push(applied(revision)));
        let (sent, _) = drain(&outbox, 0);
        assert_eq!((sent.len(), sent[0]), (MAX_KEPT, 3));
        assert_eq!(outbox.enforced(), (1, MAX_KEPT as u64 + 2));
    }
}
