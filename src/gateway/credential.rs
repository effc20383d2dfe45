//! What the upstream gets in place of the caller's credential: a token minted under the grant, or nothing.
//!
//! A minted token is kept per grant and action and used again while at least half of its life is left. It ends with the
//! grant, and no later than this gateway's authority for the resource would.

use std::collections::HashMap;

use http::HeaderValue;
use parking_lot::Mutex;

use crate::decision::{Authority, Now, Permit};
use crate::domain::name::{ActionName, GrantId};
use crate::domain::route::CredentialRule;
use crate::domain::{Reason, Timestamp};
use crate::token::keys::SigningKey;
use crate::token::mint::{GatewayIssuer, MAX_UPSTREAM_TOKEN_LIFE, MintError, UpstreamToken, upstream_token};

/// Tokens that one worker keeps; past it all are dropped and minted again as they are needed.
const MAX_KEPT: usize = 65_536;

/// Mints upstream tokens for one worker.
#[derive(Debug)]
pub(crate) struct Minter {
    key: std::sync::Arc<SigningKey>,
    issuer: GatewayIssuer,
    kept: Mutex<HashMap<(GrantId, ActionName), Kept, ahash::RandomState>>,
}

#[derive(Clone, Debug)]
struct Kept {
    header: HeaderValue,
    renew_at: Timestamp,
    expires: Timestamp,
}

impl Minter {
    pub(crate) fn new(key: std::sync::Arc<SigningKey>, issuer: GatewayIssuer) -> Self {
        Self { key, issuer, kept: Mutex::default() }
    }

    /// The `Authorization` header for the upstream; `None`: it gets none.
    ///
    /// # Errors
    /// [`Reason::InternalFault`] when no token can be made: the call is refused.
    pub(crate) fn outgoing(&self, permit: &Permit, now: &Now) -> Result<Option<HeaderValue>, Reason> {
        let (CredentialRule::Mint, Some(grant)) = (permit.credential(), permit.grant()) else { return Ok(None) };
        let key = (grant.id, permit.action().clone());
        if let Some(kept) = self.kept.lock().get(&key)
            && now.wall < kept.renew_at
            // A grant's end can have come nearer since.
            && kept.expires <= permit.ends()
        {
            return Ok(Some(kept.header.clone()));
        }
        let fresh = self.mint(permit, grant.id, now)?;
        let mut kept = self.kept.lock();
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        let header = fresh.header.clone();
        kept.insert(key, fresh);
        Ok(Some(header))
    }

    fn mint(&self, permit: &Permit, grant: GrantId, now: &Now) -> Result<Kept, Reason> {
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| Reason::InternalFault)?;
        let age = match now.authority {
            Authority::Age(age) => age,
            Authority::Missing | Authority::Unknown => permit.authority_bound(),
        };
        let authority_left = permit.authority_bound().saturating_sub(age);
        let not_after = permit.ends().min(now.wall.saturating_add(authority_left));
        let token = UpstreamToken {
            issuer: &self.issuer,
            audience: permit.resource().as_str(),
            identity: permit.identity(),
            grant,
            resource: permit.resource(),
            actions: std::slice::from_ref(permit.action()),
            life: MAX_UPSTREAM_TOKEN_LIFE,
            not_after,
            random,
        };
        let minted = upstream_token(&self.key, &token, now.wall).map_err(|error| match error {
            // Tokens end on whole seconds: in the last one of a grant there is none to be had.
            MintError::Ended => permit.end_reason(),
            MintError::Key(error) => {
                tracing::error!(%error, "an upstream token could not be minted");
                Reason::InternalFault
            }
        })?;
        let mut header =
            HeaderValue::try_from(format!("Bearer {}", minted.token)).map_err(|_| Reason::InternalFault)?;
        header.set_sensitive(true);
        let life = minted.expires.saturating_since(now.wall);
        let renew_at = now.wall.saturating_add(life / 2).min(minted.expires);
        Ok(Kept { header, renew_at, expires: minted.expires })
    }
}
