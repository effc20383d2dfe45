//! Tokens that upstreams were handed, as far as they are still good: what a revocation cannot recall.
//!
//! In memory, of this process. Tokens that an earlier one minted are good for minutes more and are not known here.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::domain::Timestamp;
use crate::domain::name::GrantId;

/// Grants that are looked through for tokens that have ended, each time so many more have some.
const PRUNE_EVERY: usize = 1_024;

/// What upstreams hold of one grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outstanding {
    /// Tokens that have not ended.
    pub(crate) tokens: u64,
    /// When the last of them ends.
    pub(crate) until: Timestamp,
}

/// The tokens, by grant.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    ends: Mutex<Ends>,
}

#[derive(Debug, Default)]
struct Ends {
    by_grant: HashMap<GrantId, Vec<Timestamp>, ahash::RandomState>,
    prune_at: usize,
}

impl Handed {
    /// A token of a grant is about to go upstream.
    pub(crate) fn note(&self, grant: GrantId, expires: Timestamp, now: Timestamp) {
        let mut ends = self.ends.lock();
        if ends.by_grant.len() >= ends.prune_at {
            ends.by_grant.retain(|_, of_grant| of_grant.iter().any(|end| now < *end));
            ends.prune_at = ends.by_grant.len().saturating_add(PRUNE_EVERY);
        }
        let of_grant = ends.by_grant.entry(grant).or_default();
        of_grant.retain(|end| now < *end);
        of_grant.push(expires);
    }

    /// The grants that upstreams hold something of.
    pub(crate) fn grants(&self, now: Timestamp) -> Vec<GrantId> {
        let ends = self.ends.lock();
        let holding = ends.by_grant.iter().filter(|(_, of_grant)| of_grant.iter().any(|end| now < *end));
        let mut grants: Vec<GrantId> = holding.map(|(grant, _)| *grant).collect();
        grants.sort_unstable();
        grants
    }

    /// What upstreams hold of a grant; `None`: nothing that this process minted.
    pub(crate) fn outstanding(&self, grant: GrantId, now: Timestamp) -> Option<Outstanding> {
        let ends = self.ends.lock();
        let good: Vec<Timestamp> = ends.by_grant.get(&grant)?.iter().filter(|end| now < **end).copied().collect();
        let until = good.iter().max().copied()?;
        Some(Outstanding { tokens: u64::try_from(good.len()).unwrap_or(u64::MAX), until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_still_good_is_counted_and_what_has_ended_is_forgotten() {
        let (handed, at) = (Handed::default(), Timestamp::from_unix_seconds);
        let grant = GrantId::from_bits;
        handed.note(grant(1), at(10), at(0));
        handed.note(grant(1), at(20), at(5));
        assert_eq!(handed.outstanding(grant(1), at(6)), Some(Outstanding { tokens: 2, until: at(20) }));
        assert_eq!((handed.grants(at(19)), handed.grants(at(20))), (vec![grant(1)], Vec::new()));
        assert_eq!(handed.outstanding(grant(1), at(10)), Some(Outstanding { tokens: 1, until: at(20) }));
        assert_eq!(handed.outstanding(grant(1), at(20)), None);
        assert_eq!(handed.outstanding(grant(2), at(0)), None);
        for n in 0..10_000 {
            handed.note(grant(n), at(i64::try_from(n).unwrap() + 1), at(i64::try_from(n).unwrap()));
        }
        assert!(handed.ends.lock().by_grant.len() <= 2 * PRUNE_EVERY);
    }
}
