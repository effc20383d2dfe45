//! What the upstream gets in place of the caller's credential: a token minted under the grant, or nothing.
//!
//! A minted token is kept per grant and action and used again while at least half of its life is left. It ends with the
//! grant, and no later than this gateway's authority for the resource would.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderValue;
use parking_lot::Mutex;

use super::handed::Handed;
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
    key: Arc<SigningKey>,
    issuer: GatewayIssuer,
    handed: Arc<Handed>,
    kept: Mutex<HashMap<(GrantId, ActionName), Kept, ahash::RandomState>>,
}

#[derive(Clone, Debug)]
struct Kept {
    header: HeaderValue,
    renew_at: Timestamp,
    expires: Timestamp,
}

impl Minter {
    pub(crate) fn new(key: Arc<SigningKey>, issuer: GatewayIssuer, handed: Arc<Handed>) -> Self {
        Self { key, issuer, handed, kept: Mutex::default() }
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
        self.handed.note(grant, minted.expires, now.wall);
        let life = minted.expires.saturating_since(now.wall);
        let renew_at = now.wall.saturating_add(life / 2).min(minted.expires);
        Ok(Kept { header, renew_at, expires: minted.expires })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::{Call, Credential, Decision, decide};
    use crate::domain::grant::Grant;
    use crate::gateway::fixture::{Fixture, GATE, grant};

    /// The permit of a read of an order, and the moment.
    async fn permit(grant: Grant) -> (Permit, Now) {
        let fixture = Fixture::new(&[grant]).await;
        let snapshot = fixture.published.load();
        let target = snapshot.match_request(&"a".parse().unwrap(), "GET", "/v1/orders/7").unwrap();
        let identity = snapshot.identity_place(&"billing".parse().unwrap()).unwrap();
        let call = Call { identity, credential: Credential::Assumed, target: &target, peer: None, used_up: &[] };
        let now = fixture.authority.now();
        let Decision::Allow(permit) = decide(&call, &snapshot, &now) else { panic!("it is granted") };
        (permit, now)
    }

    fn expires(header: &HeaderValue) -> i64 {
        use base64::Engine as _;
        let token = header.to_str().unwrap().split('.').nth(1).unwrap();
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token).unwrap();
        serde_json::from_slice::<serde_json::Value>(&claims).unwrap()["exp"].as_i64().unwrap()
    }

    #[tokio::test]
    async fn a_kept_token_is_used_again_until_its_grant_ends_sooner() {
        let key = SigningKey::generate(crate::token::keys::KeyAlgorithm::Es256).unwrap();
        let minter = Minter::new(key.into(), GatewayIssuer::new(GATE), Arc::default());
        let (long, now) = permit(grant(1)).await;
        let first = minter.outgoing(&long, &now).unwrap().unwrap();
        assert_eq!(minter.outgoing(&long, &now).unwrap().unwrap(), first, "kept");
        let mut sooner = grant(1);
        sooner.window.ends = now.wall.saturating_add(std::time::Duration::from_secs(2));
        let (short, now) = permit(sooner).await;
        let second = minter.outgoing(&short, &now).unwrap().unwrap();
        let both = minter.handed.outstanding(GrantId::from_bits(1), now.wall).unwrap();
        assert_eq!((both.tokens, both.until.unix_seconds()), (2, expires(&first)), "the first one is out of reach");
        assert!(expires(&first) > short.ends().unix_seconds() && expires(&second) <= short.ends().unix_seconds());
    }
}
