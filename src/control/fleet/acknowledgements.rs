//! What a gateway said about revisions, as far as it is remembered.

use std::collections::VecDeque;
use std::time::Duration;

use crate::wire::{MAX_CUT_CALLS_LISTED, v1};

/// Remembered per gateway, for receipts that are still waited for.
const MAX_KEPT: usize = 256;
/// Cut calls remembered per gateway.
const MAX_CUTS: usize = MAX_CUT_CALLS_LISTED;
/// Bytes of signed statements remembered per gateway, beside the latest.
const MAX_BYTES: usize = 1024 * 1024;
/// Grants remembered per gateway of which upstreams hold tokens, beside those of the latest.
const MAX_RESIDUALS: usize = 16_384;
/// Of how many that are forgotten it is still known how many calls they cut.
const MAX_COUNTED: usize = 4_096;

/// What a gateway said of a revision, and that it did.
#[derive(Debug)]
pub(in crate::control) struct Stated {
    pub(in crate::control) applied: v1::Applied,
    /// The same as it was signed.
    pub(in crate::control) signed: v1::Signed,
    /// The key that verifies it.
    pub(in crate::control) key: String,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Acknowledgement {
    pub(super) revision: u64,
    pub(super) took_us: u64,
    pub(super) cut: Vec<v1::CutCall>,
    /// Tokens that upstreams hold.
    pub(super) residual: Vec<v1::ResidualTokens>,
    /// Grants of which they hold some, and that are not in it.
    pub(super) residual_unlisted: u64,
    /// Cut calls that are not in it.
    pub(super) unlisted: u64,
    /// When it came, since boot.
    pub(super) at: Duration,
    /// As the gateway signed it.
    pub(super) statement: v1::Signed,
    pub(super) key: String,
}

/// What is still known of one that is not kept.
#[derive(Clone, Copy, Debug)]
struct Counted {
    revision: u64,
    calls: u64,
    /// Grants of which upstreams held tokens.
    residuals: u64,
}

/// The latest, and of older ones how many calls they cut and of how many grants tokens were left.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements {
    kept: VecDeque<Acknowledgement>,
    cuts: usize,
    bytes: usize,
    residuals: usize,
    /// Of those that are kept: how many have calls that they do not list.
    with_unlisted: usize,
    /// Of those that are not kept.
    counted: VecDeque<Counted>,
}

impl Acknowledgements {
    pub(super) fn push(&mut self, stated: Stated, at: Duration) {
        let Stated { applied, signed: statement, key } = stated;
        let v1::Applied { revision, took_us, mut cut, unlisted, residual, residual_unlisted, .. } = applied;
        let unlisted = unlisted.saturating_add(count(cut.len().saturating_sub(MAX_CUTS)));
        cut.truncate(MAX_CUTS);
        self.cuts += cut.len();
        self.bytes += statement.payload.len();
        self.residuals += residual.len();
        self.with_unlisted += usize::from(unlisted > 0);
        let said =
            Acknowledgement { revision, took_us, cut, residual, residual_unlisted, unlisted, at, statement, key };
        self.kept.push_back(said);
        let is_too_much = |all: &Self| all.bytes > MAX_BYTES || all.residuals > MAX_RESIDUALS;
        while self.kept.len() > MAX_KEPT || self.cuts > MAX_CUTS || (is_too_much(self) && self.kept.len() > 1) {
            self.drop_oldest();
        }
    }

    /// Forgets them all, and not how many calls they cut.
    pub(super) fn forget(&mut self) {
        while !self.kept.is_empty() {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.kept.pop_front() else { return };
        self.cuts -= oldest.cut.len();
        self.bytes -= oldest.statement.payload.len();
        self.residuals -= oldest.residual.len();
        self.with_unlisted -= usize::from(oldest.unlisted > 0);
        let calls = oldest.unlisted.saturating_add(count(oldest.cut.len()));
        let residuals = oldest.residual_unlisted.saturating_add(count(oldest.residual.len()));
        if (calls, residuals) == (0, 0) {
            return;
        }
        self.counted.push_back(Counted { revision: oldest.revision, calls, residuals });
        if self.counted.len() > MAX_COUNTED {
            // Rather too many in an old receipt than too few.
            let oldest = self.counted.pop_front();
            if let (Some(oldest), Some(next)) = (oldest, self.counted.front_mut()) {
                next.calls = next.calls.saturating_add(oldest.calls);
                next.residuals = next.residuals.saturating_add(oldest.residuals);
            }
        }
    }

    /// Those of `revision` and later, in the order in which they came.
    pub(super) fn since(&self, revision: u64) -> impl Iterator<Item = &Acknowledgement> {
        self.kept.iter().filter(move |kept| kept.revision >= revision)
    }

    /// Calls that were cut for `revision` and later. Most have cut none: every receipt asks every gateway, so that is told
    /// without a look at what is kept.
    pub(super) fn cut_since(&self, revision: u64) -> impl Iterator<Item = &v1::CutCall> {
        let looked_at = if self.cuts > 0 { self.kept.len() } else { 0 };
        let kept = self.kept.iter().take(looked_at).filter(move |kept| kept.revision >= revision);
        kept.flat_map(|kept| &kept.cut)
    }

    /// Those that are not in what is kept.
    pub(super) fn unlisted_since(&self, revision: u64) -> u64 {
        if self.with_unlisted == 0 && self.counted.is_empty() {
            return 0;
        }
        let counted = self.counted.iter().filter(|it| it.revision >= revision).map(|it| it.calls);
        self.since(revision).map(|kept| kept.unlisted).chain(counted).fold(0, u64::saturating_add)
    }

    /// The same of grants of which upstreams held tokens.
    pub(super) fn residual_unlisted_since(&self, revision: u64) -> u64 {
        let counted = self.counted.iter().filter(|it| it.revision >= revision).map(|it| it.residuals);
        self.since(revision).map(|kept| kept.residual_unlisted).chain(counted).fold(0, u64::saturating_add)
    }
}

fn count(calls: usize) -> u64 {
    u64::try_from(calls).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(revision: u64, calls: usize, bytes: usize) -> Stated {
        let applied = v1::Applied { revision, cut: vec![v1::CutCall::default(); calls], ..Default::default() };
        let signed = v1::Signed { payload: vec![0; bytes], signature: Vec::new() };
        Stated { applied, signed, key: String::new() }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_forgotten_is_counted() {
        let mut all = Acknowledgements::default();
        for revision in 1..1000 {
            all.push(stated(revision, 100, 10_000), Duration::ZERO);
        }
        assert!(all.cuts <= MAX_CUTS && all.kept.len() <= MAX_KEPT && all.bytes <= MAX_BYTES);
        assert_eq!(all.cuts, all.kept.iter().map(|kept| kept.cut.len()).sum::<usize>());
        assert_eq!(all.bytes, all.kept.iter().map(|kept| kept.statement.payload.len()).sum::<usize>());
        let calls = |from| count(all.cut_since(from).count()) + all.unlisted_since(from);
        assert_eq!((calls(1), calls(500), calls(999), calls(1000)), (99_900, 50_000, 100, 0));
    }

    #[test]
    fn a_statement_of_more_calls_than_are_kept_counts_the_others() {
        let mut all = Acknowledgements::default();
        all.push(stated(1, 0, 1), Duration::ZERO);
        assert_eq!((all.cut_since(0).count(), all.unlisted_since(0)), (0, 0));
        all.push(stated(2, MAX_CUTS + 3, 1), Duration::ZERO);
        assert_eq!((all.cut_since(2).count(), all.unlisted_since(2), all.unlisted_since(3)), (MAX_CUTS, 3, 0));
        all.forget();
        assert_eq!((all.cut_since(0).count(), all.unlisted_since(2)), (0, count(MAX_CUTS + 3)));
        assert_eq!(all.with_unlisted, 0);
    }

    #[test]
    fn the_latest_is_kept_however_large_it_is() {
        let mut all = Acknowledgements::default();
        all.push(stated(1, 0, 10), Duration::ZERO);
        all.push(stated(2, 0, 2 * MAX_BYTES), Duration::ZERO);
        assert_eq!(all.since(0).map(|kept| kept.revision).collect::<Vec<_>>(), [2]);
        for revision in 3..20_000 {
            all.push(stated(revision, 1, 1), Duration::ZERO);
        }
        all.forget();
        assert!(all.kept.is_empty() && all.counted.len() <= MAX_COUNTED && (all.cuts, all.bytes) == (0, 0));
        assert_eq!(all.unlisted_since(0), 19_997, "none is lost");
    }
}
