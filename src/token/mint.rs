//! Minting: the gate's own access tokens, the tokens that upstreams get, and plain ones of small issuers of ours.
//!
//! The first two have the shape of RFC 9068 and live minutes. They are kept apart on purpose: another issuer (`…/upstream`), another
//! audience (the resource's), and `token_use`, which our own verification refuses whoever signed it. So what an upstream
//! was given never comes back as a credential. Pure: key, time, random bits and the latest end are arguments.

#[cfg(test)]
mod tests;

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
use crate::domain::root::Root;

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
    /// What vouched for the credential that it is given for: halted, it stops this token, too.
    pub root: &'t Root,
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
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "root")]
    root: Option<&'t Root>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_use: Option<&'static str>,
}

#[derive(Serialize)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    thumbprint: CertificateThumbprint,
}

fn root<S: Serializer>(root: &Option<&Root>, serializer: S) -> Result<S::Ok, S::Error> {
    match root {
        Some(root) => serializer.collect_str(root),
        None => serializer.serialize_none(),
    }
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
        root: (*token.root != Root::Unknown).then_some(token.root),
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
        root: None,
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
    plain(key, token, None, now)
}

/// The same with when its subject proved who they are: an ID token with `auth_time` (OpenID Connect Core 1.0 section 2).
///
/// # Errors
/// As [`plain_token`].
pub fn id_token(
    key: &SigningKey,
    token: &PlainToken<'_>,
    proved: Timestamp,
    now: Timestamp,
) -> Result<Minted, MintError> {
    plain(key, token, Some(proved.unix_seconds()), now)
}

fn plain(
    key: &SigningKey,
    token: &PlainToken<'_>,
    auth_time: Option<i64>,
    now: Timestamp,
) -> Result<Minted, MintError> {
    #[derive(Serialize)]
    struct Plain<'t> {
        iss: &'t str,
        sub: &'t str,
        aud: &'t str,
        iat: i64,
        exp: i64,
        jti: &'t str,
        #[serde(skip_serializing_if = "Option::is_none")]
        auth_time: Option<i64>,
    }
    let exp = token.expires.unix_seconds();
    if Timestamp::from_unix_seconds(exp) <= now {
        return Err(MintError::Ended);
    }
    let jti = URL_SAFE_NO_PAD.encode(token.random);
    let iat = now.unix_seconds();
    let plain = Plain { iss: token.issuer, sub: token.subject, aud: token.audience, iat, exp, jti: &jti, auth_time };
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
