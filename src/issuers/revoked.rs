//! Tokens that were revoked and would otherwise still be good.
//!
//! An entry lives as long as its token would have. Asked on every use of a token, cached or not. Knows nothing about how a
//! revocation travels between gateways, or who may ask for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ahash::HashMap;
use parking_lot::RwLock;

use crate::domain::Timestamp;
use crate::token::verify::Verified;

/// Revoked tokens that are remembered at once: twice what a control plane remembers, so that all of that always finds
/// room beside what was revoked here and is not known there.
pub const MAX_REVOKED: usize = 200_000;

/// There is no room to remember another one. The revocation did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("200000 revoked tokens are remembered already")]
pub struct RevokedFull;

/// By issuer, then by handle: until when.
type Ends = HashMap<Arc<str>, HashMap<Arc<str>, Timestamp>>;

/// The revoked tokens.
#[derive(Debug, Default)]
pub struct RevokedTokens {
    ends: RwLock<Ends>,
    /// As many as `ends` has; written under its lock. Most of the time it is zero and the lock is left alone.
    count: AtomicUsize,
}

impl RevokedTokens {
    /// Revokes a token. When this returns, no use of it that begins is accepted.
    ///
    /// # Errors
    /// When there is no room.
    pub fn revoke(&self, token: &Verified, now: Timestamp) -> Result<(), RevokedFull> {
        self.insert(&token.issuer, token.handle(), token.valid_until(), now)
    }

    /// Remembers a revocation from elsewhere: of `handle` (see [`Verified::handle`]) of `issuer`, until `ends`.
    ///
    /// # Errors
    /// When there is no room.
    pub fn insert(
        &self,
        issuer: &Arc<str>,
        handle: &Arc<str>,
        ends: Timestamp,
        now: Timestamp,
    ) -> Result<(), RevokedFull> {
        let mut all = self.ends.write();
        if self.count.load(Ordering::Relaxed) >= MAX_REVOKED {
            forget_ended(&mut all, now);
        }
        let known = all.get(issuer).is_some_and(|of_issuer| of_issuer.contains_key(handle));
        let count: usize = all.values().map(HashMap::len).sum();
        if !known && count >= MAX_REVOKED {
            self.count.store(count, Ordering::Release);
            return Err(RevokedFull);
        }
        let until = all.entry(issuer.clone()).or_default().entry(handle.clone()).or_insert(ends);
        *until = (*until).max(ends);
        self.count.store(count + usize::from(!known), Ordering::Release);
        Ok(())
    }

    /// Whether it was revoked.
    pub fn is_revoked(&self, token: &Verified) -> bool {
        self.count.load(Ordering::Acquire) > 0
            && self.ends.read().get(&token.issuer).is_some_and(|of_issuer| of_issuer.contains_key(token.handle()))
    }

    /// Forgets those whose tokens have ended by themselves. To be called now and then.
    pub fn forget_ended(&self, now: Timestamp) {
        let mut all = self.ends.write();
        forget_ended(&mut all, now);
        self.count.store(all.values().map(HashMap::len).sum(), Ordering::Release);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them: issuer, handle, end. To be kept over a restart.
    pub fn entries(&self) -> Vec<(Arc<str>, Arc<str>, Timestamp)> {
        let all = self.ends.read();
        all.iter()
            .flat_map(|(issuer, of)| of.iter().map(|(handle, ends)| (issuer.clone(), handle.clone(), *ends)))
            .collect()
    }
}

fn forget_ended(all: &mut Ends, now: Timestamp) {
    all.retain(|_, of_issuer| {
        of_issuer.retain(|_, ends| now < *ends);
        !of_issuer.is_empty()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    #[test]
    fn room_is_bounded_and_only_ended_tokens_make_room() {
        let (revoked, issuer) = (RevokedTokens::default(), Arc::from("i"));
        {
            let mut all = revoked.ends.write();
            let of_issuer =
                (0..MAX_REVOKED).map(|n| (Arc::from(n.to_string()), at(if n == 0 { 10 } else { 20 }))).collect();
            all.insert(Arc::clone(&issuer), of_issuer);
            revoked.count.store(MAX_REVOKED, Ordering::Release);
        }
        let one_more = Arc::from("more");
        assert_eq!(revoked.insert(&issuer, &one_more, at(30), at(9)), Err(RevokedFull));
        assert_eq!(revoked.insert(&issuer, &Arc::from("7"), at(30), at(9)), Ok(()), "it is there already");
        assert_eq!(revoked.insert(&issuer, &one_more, at(30), at(10)), Ok(()));
        assert_eq!(revoked.len(), MAX_REVOKED);
        revoked.forget_ended(at(20));
        assert_eq!(revoked.len(), 2);
        // A second revocation never shortens the first.
        revoked.insert(&issuer, &one_more, at(1), at(20)).unwrap();
        assert!(revoked.entries().iter().any(|(_, handle, ends)| **handle == *"more" && *ends == at(30)));
        revoked.forget_ended(at(30));
        assert!(revoked.is_empty() && revoked.entries().is_empty());
    }
}
