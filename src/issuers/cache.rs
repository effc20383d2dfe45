//! Verifying callers' tokens, once per token: the signature is the costly part, and it stays true.
//!
//! The key of the cache is the whole token, so nothing can be taken for another. What can change is asked again on each
//! use: the time, the issuer's keys, revocation. Refusals are never kept. Tokens appear in no log and no debug output.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use super::{Issuer, Issuers, RevokedTokens};
use crate::domain::Timestamp;
use crate::token::TokenError;
use crate::token::verify::{MAX_TOKEN_BYTES, UnverifiedToken, Verified};

/// Room for verified tokens where nothing else is said: about 60,000 of 500 bytes.
pub const DEFAULT_CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// What an entry takes beside its token and texts: the cache's own nodes, counts and the structures. An estimate, on the
/// generous side.
const ENTRY_BYTES: usize = 512;
/// Longest wait of a caller for an issuer's keys: a little more than a fetch may take.
const MAX_WAIT: Duration = Duration::from_secs(6);

/// Verifies callers' tokens of every issuer that the gateway knows.
pub struct TokenVerifier {
    issuers: Arc<Issuers>,
    revoked: Arc<RevokedTokens>,
    cache: Cache<Box<str>, Arc<Entry>, ahash::RandomState>,
    hits: AtomicU64,
    misses: AtomicU64,
}

struct Entry {
    verified: Arc<Verified>,
    issuer: Arc<Issuer>,
    /// The generation of the issuer's keys that its key was last seen in.
    generation: AtomicU64,
}

impl TokenVerifier {
    /// With room for about `cache_bytes` of verified tokens.
    pub fn new(issuers: Arc<Issuers>, revoked: Arc<RevokedTokens>, cache_bytes: u64) -> Self {
        let cache =
            Cache::builder().max_capacity(cache_bytes).weigher(weigh).build_with_hasher(ahash::RandomState::new());
        Self { issuers, revoked, cache, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// Verifies `token` at `now`. Never waits: where the issuer's keys lack the token's, they are asked for, and the answer
    /// is no.
    ///
    /// # Errors
    /// When anything about the token does not hold.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Arc<Verified>, TokenError> {
        match self.attempt(token, now) {
            Attempt::Done(result) => result,
            Attempt::KeysLack(issuer, error) => {
                issuer.want_fresh(self.issuers.clock());
                Err(error)
            }
        }
    }

    /// As [`TokenVerifier::verify`], and waits for the issuer's keys, seconds at most, where that may help: so that a
    /// rotation of keys refuses nobody.
    ///
    /// # Errors
    /// When anything about the token does not hold.
    pub async fn verify_awaiting_keys(&self, token: &str, now: Timestamp) -> Result<Arc<Verified>, TokenError> {
        let (issuer, error) = match self.attempt(token, now) {
            Attempt::Done(result) => return result,
            Attempt::KeysLack(issuer, error) => (issuer, error),
        };
        let Some(mut ended) = issuer.want_fresh(self.issuers.clock()) else { return Err(error) };
        match tokio::time::timeout(MAX_WAIT, ended.changed()).await {
            Ok(Ok(())) => self.verify(token, now.max(self.issuers.clock().now())),
            Ok(Err(_)) | Err(_) => Err(error),
        }
    }

    /// The revoked tokens that are asked on each use.
    pub fn revoked(&self) -> &Arc<RevokedTokens> {
        &self.revoked
    }

    /// What a token said that verified here and was revoked since, while it is remembered: who goes on using it.
    pub fn of_revoked(&self, token: &str) -> Option<Arc<Verified>> {
        self.cache.get(token).map(|entry| entry.verified.clone())
    }

    /// How many uses were answered from memory, and how many not.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    /// Bytes that the verified tokens take, by estimate.
    pub fn cached_bytes(&self) -> u64 {
        self.cache.run_pending_tasks();
        self.cache.weighted_size()
    }

    fn attempt(&self, token: &str, now: Timestamp) -> Attempt {
        if token.len() > MAX_TOKEN_BYTES {
            return Attempt::Done(Err(TokenError::Malformed("longer than 8 KiB")));
        }
        if let Some(entry) = self.cache.get(token) {
            match self.recheck(&entry, now) {
                Recheck::Good => {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    return Attempt::Done(Ok(entry.verified.clone()));
                }
                Recheck::Refused(TokenError::IssuerUnavailable) => {
                    return Attempt::KeysLack(entry.issuer.clone(), TokenError::IssuerUnavailable);
                }
                Recheck::Refused(error) => {
                    // A revoked token stays: it is refused without its signature being looked at again.
                    if error == TokenError::Expired {
                        self.cache.invalidate(token);
                    }
                    return Attempt::Done(Err(error));
                }
                Recheck::KeyGone => self.cache.invalidate(token),
            }
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        self.verify_anew(token, now)
    }

    fn recheck(&self, entry: &Entry, now: Timestamp) -> Recheck {
        let generation = match entry.issuer.generation(now) {
            Ok(generation) => generation,
            Err(error) => return Recheck::Refused(error),
        };
        if generation != entry.generation.load(Ordering::Acquire) {
            match entry.issuer.keys(now) {
                Ok((keys, generation)) if keys.holds(entry.verified.key()) => {
                    entry.generation.store(generation, Ordering::Release)
                }
                Ok(_) => return Recheck::KeyGone,
                Err(error) => return Recheck::Refused(error),
            }
        }
        match self.still_good(&entry.verified, now) {
            Ok(()) => Recheck::Good,
            Err(error) => Recheck::Refused(error),
        }
    }

    fn verify_anew(&self, token: &str, now: Timestamp) -> Attempt {
        let parsed = match UnverifiedToken::parse(token) {
            Ok(parsed) => parsed,
            Err(error) => return Attempt::Done(Err(error)),
        };
        let issuer = match parsed.issuer().map(|name| self.issuers.by_name(name)) {
            Ok(Some(issuer)) => issuer,
            Ok(None) => return Attempt::Done(Err(TokenError::IssuerUnknown)),
            Err(error) => return Attempt::Done(Err(error)),
        };
        let (keys, generation) = match issuer.keys(now) {
            Ok(keys) => keys,
            Err(error) => return Attempt::KeysLack(issuer.clone(), error),
        };
        let verified = match parsed.verify(issuer.profile(), &keys, now) {
            Ok(verified) => Arc::new(verified),
            Err(TokenError::KeyUnknown) => return Attempt::KeysLack(issuer.clone(), TokenError::KeyUnknown),
            Err(error) => return Attempt::Done(Err(error)),
        };
        let entry =
            Entry { verified: verified.clone(), issuer: issuer.clone(), generation: AtomicU64::new(generation) };
        // What is kept is that it verified; whether it is good is asked on each use, this one included.
        self.cache.insert(token.into(), Arc::new(entry));
        Attempt::Done(self.still_good(&verified, now).map(|()| verified))
    }

    fn still_good(&self, verified: &Verified, now: Timestamp) -> Result<(), TokenError> {
        verified.check_time(now)?;
        if self.revoked.is_revoked(verified) { Err(TokenError::Revoked) } else { Ok(()) }
    }
}

enum Attempt {
    Done(Result<Arc<Verified>, TokenError>),
    /// Other keys of this issuer could change the answer.
    KeysLack(Arc<Issuer>, TokenError),
}

enum Recheck {
    Good,
    Refused(TokenError),
    KeyGone,
}

#[expect(clippy::borrowed_box, reason = "the signature that the cache calls")]
fn weigh(token: &Box<str>, entry: &Arc<Entry>) -> u32 {
    u32::try_from(weight(token, &entry.verified)).unwrap_or(u32::MAX)
}

fn weight(token: &str, verified: &Verified) -> usize {
    let audiences: usize = verified.audiences.iter().map(|audience| audience.len() + 16).sum();
    let texts =
        [&verified.token_id, &verified.client, &verified.scope].into_iter().flatten().map(|text| text.len() + 16);
    ENTRY_BYTES
        + token.len()
        + verified.subject.len()
        + verified.shown().len()
        + verified.handle().len()
        + audiences
        + texts.sum::<usize>()
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifier").field("tokens", &self.cache.entry_count()).finish_non_exhaustive()
    }
}
