//! Minting: the gate's own access tokens, the tokens that upstreams get, and plain ones of small issuers of ours.
//!
//! The first two have the shape of RFC 9068 and live minutes. They are kept apart on purpose: another issuer (`…/upstream`), another
//! audience (the resource's), and `token_use`, which our own verification refuses whoever signed it. So what an upstream
//! was given never comes back as a credential. Pure: key, time, random bits and the latest end are arguments.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::ser::Serializer;

use super::claims::UPSTREAM_USE;
use super::keys::{SigningKey, SigningKeyError};
use crate::domain::Timestamp;
use crate::domain::name::{ActionName, GrantId, IdentityName, ResourceName};
use crate::domain::principal::CertificateThumbprint;

/// Longest life of a gate access token.
pub const MAX_ACCESS_TOKEN_LIFE: Duration = Duration::from_secs(300);
/// Longest life of an upstream token. It cannot be recalled, so callers choose much less for what is sensitive.
pub const MAX_UPSTREAM_TOKEN_LIFE: Duration = Duration::from_secs(300);

/// Why a token was not minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// What it would stand for has ended, or ends within this second.
    #[error("nothing is left of the time that the token could be valid")]
    Ended,
    /// The key did not sign.
    #[error(transparent)]
    Key(#[from] SigningKeyError),
}

/// The two issuers that a gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayIssuer {
    access: Arc<str>,
    upstream: Arc<str>,
}

impl GatewayIssuer {
    /// Of the gateway's issuer identifier, for example `https://gate.example`. A trailing slash is dropped.
    pub fn new(issuer: &str) -> Self {
        let access = issuer.trim_end_matches('/');
        Self { access: access.into(), upstream: format!("{access}/upstream").into() }
    }

    /// `iss` of its access tokens.
    pub fn access(&self) -> &Arc<str> {
        &self.access
    }

    /// `iss` of the tokens that upstreams get.
    pub fn upstream(&self) -> &Arc<str> {
        &self.upstream
    }
}

/// What an access token says (RFC 9068, RFC 8705).
#[derive(Clone, Copy, Debug)]
pub struct AccessToken<'t> {
    /// The gateway.
    pub issuer: &'t GatewayIssuer,
    /// The gateway's own audience.
    pub audience: &'t str,
    /// Whose it is: `sub` and `client_id`.
    pub identity: &'t IdentityName,
    /// The grant that it uses.
    pub grant: GrantId,
    /// What the grant opens.
    pub resource: &'t ResourceName,
    /// What may be done: `scope`.
    pub actions: &'t [ActionName],
    /// The client certificate that it is bound to.
    pub thumbprint: Option<CertificateThumbprint>,
    /// It ends no later: the earliest of the grant's end and the subject token's.
    pub not_after: Timestamp,
    /// 128 random bits, for `jti`.
    pub random: [u8; 16],
}

/// What an upstream's token says.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamToken<'t> {
    /// The gateway.
    pub issuer: &'t GatewayIssuer,
    /// The upstream's own audience: the resource's name, or a configured one. Never the gateway's.
    pub audience: &'t str,
    /// Who calls: `sub` and `client_id`.
    pub identity: &'t IdentityName,
    /// The grant that is used.
    pub grant: GrantId,
    /// What the grant opens.
    pub resource: &'t ResourceName,
    /// What may be done: `scope`.
    pub actions: &'t [ActionName],
    /// How long it lives, at most [`MAX_UPSTREAM_TOKEN_LIFE`].
    pub life: Duration,
    /// It ends no later: the earliest of the grant's end and that of the gateway's authority for the resource.
    pub not_after: Timestamp,
    /// 128 random bits, for `jti`.
    pub random: [u8; 16],
}

/// A signed token.
pub struct Minted {
    /// The token, compact. A credential: never to be logged.
    pub token: String,
    /// Its `exp`.
    pub expires: Timestamp,
    /// Its `jti`.
    pub token_id: Arc<str>,
}

impl fmt::Debug for Minted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token: _, expires, token_id } = self;
        f.debug_struct("Minted").field("expires", expires).field("token_id", token_id).finish_non_exhaustive()
    }
}

/// The claims in the order in which they are written.
#[derive(Serialize)]
struct Body<'t> {
    iss: &'t str,
    sub: &'t str,
    aud: &'t str,
    client_id: &'t str,
    iat: i64,
    exp: i64,
    jti: &'t str,
    #[serde(serialize_with = "displayed")]
    grant: GrantId,
    resource: &'t str,
    #[serde(serialize_with = "joined")]
    scope: &'t [ActionName],
    #[serde(skip_serializing_if = "Option::is_none")]
    cnf: Option<Confirmation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_use: Option<&'static str>,
}

#[derive(Serialize)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    thumbprint: CertificateThumbprint,
}

fn displayed<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn joined<S: Serializer>(actions: &&[ActionName], serializer: S) -> Result<S::Ok, S::Error> {
    struct Spaced<'a>(&'a [ActionName]);
    impl fmt::Display for Spaced<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.iter().enumerate().try_for_each(|(place, action)| {
                f.write_str(if place == 0 { "" } else { " " })?;
                f.write_str(action.as_str())
            })
        }
    }
    serializer.collect_str(&Spaced(actions))
}

/// Mints an access token of the gate. It lives five minutes, and never past `not_after`.
///
/// # Errors
/// When nothing is left of its time, or the key does not sign.
pub fn access_token(key: &SigningKey, token: &AccessToken<'_>, now: Timestamp) -> Result<Minted, MintError> {
    let expires = end(now, MAX_ACCESS_TOKEN_LIFE, token.not_after)?;
    let jti = URL_SAFE_NO_PAD.encode(token.random);
    let body = Body {
        iss: token.issuer.access(),
        sub: token.identity.as_str(),
        aud: token.audience,
        client_id: token.identity.as_str(),
        iat: now.unix_seconds(),
        exp: expires,
        jti: &jti,
        grant: token.grant,
        resource: token.resource.as_str(),
        scope: token.actions,
        cnf: token.thumbprint.map(|thumbprint| Confirmation { thumbprint }),
        token_use: None,
    };
    sign(key, &body)
}

/// Mints a token for an upstream. It is good for every call under its grant, so the caller keeps it while it lives.
///
/// # Errors
/// When nothing is left of its time, or the key does not sign.
pub fn upstream_token(key: &SigningKey, token: &UpstreamToken<'_>, now: Timestamp) -> Result<Minted, MintError> {
    let expires = end(now, token.life.min(MAX_UPSTREAM_TOKEN_LIFE), token.not_after)?;
    let jti = URL_SAFE_NO_PAD.encode(token.random);
    let body = Body {
        iss: token.issuer.upstream(),
        sub: token.identity.as_str(),
        aud: token.audience,
        client_id: token.identity.as_str(),
        iat: now.unix_seconds(),
        exp: expires,
        jti: &jti,
        grant: token.grant,
        resource: token.resource.as_str(),
        scope: token.actions,
        cnf: None,
        token_use: Some(UPSTREAM_USE),
    };
    sign(key, &body)
}

/// What a token of an issuer of ours says: a development issuer's, or the control plane's for its people.
#[derive(Clone, Copy, Debug)]
pub struct PlainToken<'t> {
    /// `iss`
    pub issuer: &'t str,
    /// `sub`
    pub subject: &'t str,
    /// `aud`
    pub audience: &'t str,
    /// `exp`
    pub expires: Timestamp,
    /// 128 random bits, for `jti`.
    pub random: [u8; 16],
}

/// Mints a plain JWT (RFC 7519), as foreign issuers do: nothing in it speaks of grants.
///
/// # Errors
/// When it would have ended already, or the key does not sign.
pub fn plain_token(key: &SigningKey, token: &PlainToken<'_>, now: Timestamp) -> Result<Minted, MintError> {
    #[derive(Serialize)]
    struct Plain<'t> {
        iss: &'t str,
        sub: &'t str,
        aud: &'t str,
        iat: i64,
        exp: i64,
        jti: &'t str,
    }
    let exp = token.expires.unix_seconds();
    if Timestamp::from_unix_seconds(exp) <= now {
        return Err(MintError::Ended);
    }
    let jti = URL_SAFE_NO_PAD.encode(token.random);
    let plain =
        Plain { iss: token.issuer, sub: token.subject, aud: token.audience, iat: now.unix_seconds(), exp, jti: &jti };
    let claims = serde_json::to_vec(&plain).map_err(|_| SigningKeyError::Sign)?;
    Ok(Minted { token: key.jwt(&claims)?, expires: Timestamp::from_unix_seconds(exp), token_id: jti.into() })
}

/// `exp` in whole seconds, rounded down so that it never lies past an end.
fn end(now: Timestamp, life: Duration, not_after: Timestamp) -> Result<i64, MintError> {
    let whole = Duration::from_secs(life.as_secs());
    let expires = Timestamp::from_unix_seconds(now.unix_seconds()).saturating_add(whole).min(not_after).unix_seconds();
    if Timestamp::from_unix_seconds(expires) > now { Ok(expires) } else { Err(MintError::Ended) }
}

fn sign(key: &SigningKey, body: &Body<'_>) -> Result<Minted, MintError> {
    let mut claims = Vec::with_capacity(512);
    // Writing strings and integers into memory cannot fail.
    serde_json::to_writer(&mut claims, body).map_err(|_| SigningKeyError::Sign)?;
    let token = key.access_token(&claims)?;
    Ok(Minted { token, expires: Timestamp::from_unix_seconds(body.exp), token_id: body.jti.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::TokenError;
    use crate::token::claims::GateClaims;
    use crate::token::keys::{KeyAlgorithm, KeySet};
    use crate::token::verify::{IssuerProfile, TokenTypes, verify};

    const NOW: Timestamp = Timestamp::from_unix_micros(1_800_000_000_400_000);

    struct Fixture {
        key: SigningKey,
        keys: KeySet,
        issuer: GatewayIssuer,
        identity: IdentityName,
        resource: ResourceName,
        actions: Vec<ActionName>,
    }

    impl Fixture {
        fn new(algorithm: KeyAlgorithm) -> Self {
            let key = SigningKey::generate(algorithm).unwrap();
            Self {
                keys: KeySet::of([key.public().clone()]).unwrap(),
                key,
                issuer: GatewayIssuer::new("https://gate.example/"),
                identity: "billing".parse().unwrap(),
                resource: "api/orders".parse().unwrap(),
                actions: vec!["read".parse().unwrap(), "write".parse().unwrap()],
            }
        }

        fn access(&self) -> AccessToken<'_> {
            AccessToken {
                issuer: &self.issuer,
                audience: "gate",
                identity: &self.identity,
                grant: GrantId::from_bits(7),
                resource: &self.resource,
                actions: &self.actions,
                thumbprint: Some(CertificateThumbprint::from_bytes([9; 32])),
                not_after: Timestamp::MAX,
                random: [1; 16],
            }
        }

        fn upstream(&self) -> UpstreamToken<'_> {
            UpstreamToken {
                issuer: &self.issuer,
                audience: "api/orders",
                identity: &self.identity,
                grant: GrantId::from_bits(7),
                resource: &self.resource,
                actions: &self.actions,
                life: Duration::from_secs(60),
                not_after: Timestamp::MAX,
                random: [2; 16],
            }
        }

        fn gate(&self) -> IssuerProfile {
            IssuerProfile::gate(self.issuer.access().clone(), "gate".into())
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn access_token_verifies_as_the_gates_own_and_says_what_it_was_given() {
        for algorithm in [KeyAlgorithm::Es256, KeyAlgorithm::Ed25519] {
            let gate = Fixture::new(algorithm);
            let minted = access_token(&gate.key, &gate.access(), NOW).unwrap();
            assert_eq!(minted.expires, Timestamp::from_unix_seconds(1_800_000_300));
            let verified = verify(&minted.token, &gate.gate(), &gate.keys, NOW).unwrap();
            assert_eq!(&*verified.subject, "billing");
            assert_eq!(verified.client.as_deref(), Some("billing"));
            assert_eq!(verified.token_id, Some(minted.token_id));
            assert_eq!(verified.scopes().collect::<Vec<_>>(), ["read", "write"]);
            assert_eq!(verified.thumbprint, Some(CertificateThumbprint::from_bytes([9; 32])));
            assert_eq!(
                verified.gate,
                Some(GateClaims { grant: GrantId::from_bits(7), resource: gate.resource.clone() })
            );
            assert_eq!(verified.check_time(minted.expires), Err(TokenError::Expired));
            assert!(
                !format!("{:?}", access_token(&gate.key, &gate.access(), NOW).unwrap()).contains(&minted.token[..40])
            );
        }
    }

    #[test]
    fn no_token_outlives_what_it_stands_for() {
        let gate = Fixture::new(KeyAlgorithm::Ed25519);
        let ends = NOW.saturating_add(Duration::from_millis(10_500));
        let access = access_token(&gate.key, &AccessToken { not_after: ends, ..gate.access() }, NOW).unwrap();
        let upstream = upstream_token(&gate.key, &UpstreamToken { not_after: ends, ..gate.upstream() }, NOW).unwrap();
        assert!(
            access.expires <= ends
                && upstream.expires <= ends
                && upstream.expires == Timestamp::from_unix_seconds(1_800_000_010)
        );
        for gone in [NOW, NOW.saturating_add(Duration::from_millis(500)), Timestamp::from_unix_seconds(0)] {
            let ended = access_token(&gate.key, &AccessToken { not_after: gone, ..gate.access() }, NOW);
            assert_eq!(ended.unwrap_err(), MintError::Ended);
            let ended = upstream_token(&gate.key, &UpstreamToken { not_after: gone, ..gate.upstream() }, NOW);
            assert_eq!(ended.unwrap_err(), MintError::Ended);
        }
        let long = upstream_token(&gate.key, &UpstreamToken { life: seconds(86_400), ..gate.upstream() }, NOW).unwrap();
        assert_eq!(long.expires, Timestamp::from_unix_seconds(1_800_000_300));
        let none = upstream_token(&gate.key, &UpstreamToken { life: seconds(0), ..gate.upstream() }, NOW);
        assert_eq!(none.unwrap_err(), MintError::Ended);
    }

    #[test]
    fn upstream_token_is_never_a_callers_credential() {
        let gate = Fixture::new(KeyAlgorithm::Es256);
        let token = upstream_token(&gate.key, &gate.upstream(), NOW).unwrap().token;
        assert_eq!(verify(&token, &gate.gate(), &gate.keys, NOW).unwrap_err(), TokenError::Upstream);
        // Not even where somebody configures the upstream issuer, its audience and its key as trusted.
        let trusting = |audience| {
            let issuer = gate.issuer.upstream();
            IssuerProfile::trusted(issuer, &[audience], TokenTypes::default(), Duration::ZERO, None).unwrap()
        };
        assert_eq!(verify(&token, &trusting("api/orders"), &gate.keys, NOW).unwrap_err(), TokenError::Upstream);
    }

    #[test]
    fn access_token_is_no_upstream_token() {
        // A resource server that checks what RFC 9068 section 4 says refuses it three times over: issuer, audience, key.
        let gate = Fixture::new(KeyAlgorithm::Es256);
        let access = access_token(&gate.key, &gate.access(), NOW).unwrap().token;
        let with_issuer = |issuer: &str| {
            IssuerProfile::trusted(issuer, &["api/orders"], TokenTypes::AccessToken, Duration::ZERO, None).unwrap()
        };
        assert_eq!(
            verify(&access, &with_issuer(gate.issuer.upstream()), &gate.keys, NOW).unwrap_err(),
            TokenError::IssuerUnknown
        );
        assert_eq!(
            verify(&access, &with_issuer(gate.issuer.access()), &gate.keys, NOW).unwrap_err(),
            TokenError::Audience
        );
    }

    #[test]
    fn plain_token_is_a_foreign_issuers() {
        let key = SigningKey::generate(KeyAlgorithm::Es256).unwrap();
        let keys = KeySet::of([key.public().clone()]).unwrap();
        let plain = PlainToken {
            issuer: "https://token.example",
            subject: "billing",
            audience: "gate",
            expires: NOW.saturating_add(seconds(9)),
            random: [0; 16],
        };
        let token = plain_token(&key, &plain, NOW).unwrap().token;
        let profile =
            IssuerProfile::trusted("https://token.example", &["gate"], TokenTypes::Jwt, Duration::ZERO, None).unwrap();
        let verified = verify(&token, &profile, &keys, NOW).unwrap();
        assert_eq!((&*verified.subject, &verified.gate), ("billing", &None));
        assert_eq!(plain_token(&key, &PlainToken { expires: NOW, ..plain }, NOW).unwrap_err(), MintError::Ended);
    }
}
