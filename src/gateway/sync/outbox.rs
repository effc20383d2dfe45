//! Acknowledgements on their way to the control plane, over as many streams as it takes.
//!
//! An acknowledgement is kept until a renewal that was sent after it on the same stream is answered: the control plane
//! reads in order, so it has read the acknowledgement then. What is left of an earlier stream is sent again.
//!
//! To enforce a revision is to enforce all before it: of acknowledgements that wait beside each other and tell of nothing
//! that ended, the latest goes.

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
    /// Position after the last one that went on the present stream.
    sent: u64,
    /// The newest revision that was acknowledged.
    enforced: (u64, u64),
}

impl Kept {
    /// Position after the last one.
    fn end(&self) -> u64 {
        self.first + u64::try_from(self.queue.len()).unwrap_or(u64::MAX)
    }

    /// The last one, if it waits to be sent and says no more than `next` does.
    fn said_by(&mut self, next: &v1::Applied) -> Option<&mut v1::Applied> {
        let end = self.end();
        let last = self.queue.back_mut().filter(|_| self.sent < end)?;
        (last.epoch == next.epoch && is_plain(last) && is_plain(next)).then_some(last)
    }
}

/// Whether it tells of no call that was cut and of no token that is left.
fn is_plain(applied: &v1::Applied) -> bool {
    let v1::Applied { cut, unlisted, residual, residual_unlisted, .. } = applied;
    cut.is_empty() && residual.is_empty() && (*unlisted, *residual_unlisted) == (0, 0)
}

impl Outbox {
    /// One more, enforced and recorded.
    pub(super) fn push(&self, applied: v1::Applied) {
        let mut kept = self.kept.lock();
        kept.enforced = (applied.epoch, applied.revision);
        match kept.said_by(&applied) {
            // It took as long as the longest of those that it stands for.
            Some(last) => *last = v1::Applied { took_us: applied.took_us.max(last.took_us), ..applied },
            None => kept.queue.push_back(applied),
        }
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
        kept.sent = kept.first;
        kept.first
    }

    /// The one at `position`, or the first one after it, and the next position. It goes on the present stream as it is:
    /// nothing takes its place from here on.
    pub(super) fn take(&self, position: u64) -> Option<(v1::Applied, u64)> {
        let mut kept = self.kept.lock();
        let position = position.max(kept.first);
        let offset = usize::try_from(position - kept.first).ok()?;
        let taken = kept.queue.get(offset)?.clone();
        kept.sent = position + 1;
        Some((taken, position + 1))
    }

    /// Whether there is one at `position` or after it.
    pub(super) fn has(&self, position: u64) -> bool {
        let kept = self.kept.lock();
        position.max(kept.first) < kept.end()
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
        v1::Applied { cut: vec![v1::CutCall::default()], ..plain(revision) }
    }

    fn plain(revision: u64) -> v1::Applied {
        v1::Applied { epoch: 1, revision, ..v1::Applied::default() }
    }

    fn drain(outbox: &Outbox, mut position: u64) -> (Vec<u64>, u64) {
        let mut sent = Vec::new();
        while let Some((applied, next)) = outbox.take(position) {
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
    fn the_latest_stands_for_those_that_wait_and_tell_of_nothing_that_ended() {
        let outbox = Outbox::default();
        let mut position = outbox.begin();
        outbox.push(plain(1));
        (_, position) = drain(&outbox, position);
        // One that went is no more what it says.
        for one in [plain(2), plain(3), applied(4), plain(5), plain(6), v1::Applied { epoch: 2, ..plain(1) }] {
            outbox.push(one);
        }
        assert!(outbox.has(position));
        let (sent, end) = drain(&outbox, position);
        assert_eq!((sent, outbox.has(end)), (vec![3, 4, 6, 1], false));
        assert_eq!(drain(&outbox, outbox.begin()).0, [1, 3, 4, 6, 1], "again on the next stream");
        outbox.push(plain(2));
        assert_eq!(outbox.enforced(), (1, 2));
    }

    #[test]
    fn what_comes_while_another_one_is_sent_goes_after_it() {
        let outbox = Outbox::default();
        outbox.push(v1::Applied { took_us: 9, ..plain(1) });
        outbox.push(v1::Applied { took_us: 3, ..plain(2) });
        let (taken, next) = outbox.take(outbox.begin()).unwrap();
        assert_eq!((taken.revision, taken.took_us), (2, 9), "the longest of them");
        outbox.push(plain(3));
        outbox.confirm(next);
        assert_eq!(drain(&outbox, next).0, [3]);
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
