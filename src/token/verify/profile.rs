//! What is accepted from one issuer.
//!
//! Rules of different issuers and kinds of token exclude each other (RFC 8725 section 3.12): a token that one profile takes is
//! none of another's. A profile that exists is well formed. Knows no keys, and not where they come from.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::Timestamp;
use crate::token::TokenError;
use crate::token::claims::{Claims, MAX_CLAIM_BYTES, Origin};
use crate::token::mint::MAX_ACCESS_TOKEN_LIFE;

/// Most leeway on `exp`, `nbf` and `iat` that a profile can have (RFC 8725: clocks differ by seconds).
pub const MAX_LEEWAY: Duration = Duration::from_secs(60);
/// Audiences that one profile can have.
const MAX_PROFILE_AUDIENCES: usize = 16;

/// Which `typ` headers are accepted. Compared without case, as RFC 9068's own examples need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenTypes {
    /// None, `JWT`, `at+jwt`, `application/at+jwt`.
    #[default]
    JwtOrAccessToken,
    /// None or `JWT`: issuers that know no access tokens, such as clusters and build systems.
    Jwt,
    /// `at+jwt` or `application/at+jwt` only (RFC 9068).
    AccessToken,
}

impl TokenTypes {
    pub(super) fn accept(self, typ: Option<&str>) -> bool {
        let plain = typ.is_none_or(|t| t.eq_ignore_ascii_case("JWT"));
        let access =
            typ.is_some_and(|t| t.eq_ignore_ascii_case("at+jwt") || t.eq_ignore_ascii_case("application/at+jwt"));
        match self {
            Self::JwtOrAccessToken => plain || access,
            Self::Jwt => plain,
            Self::AccessToken => access,
        }
    }
}

/// Why a profile cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// Empty, too long, or with control characters.
    #[error("the issuer is empty, longer than 1024 bytes, or has control characters")]
    Issuer,
    /// None, too many, or one of them malformed.
    #[error("an issuer needs 1 to 16 audiences, each of at most 1024 bytes without control characters")]
    Audiences,
    /// Over [`MAX_LEEWAY`].
    #[error("leeway is more than 60s")]
    Leeway,
    /// Zero.
    #[error("the longest lifetime is zero")]
    Lifetime,
}

/// What is accepted from one issuer.
#[derive(Clone, Debug)]
pub struct IssuerProfile {
    issuer: Arc<str>,
    audiences: Vec<Arc<str>>,
    types: TokenTypes,
    leeway: Duration,
    max_lifetime: Option<Duration>,
    origin: Origin,
}

impl IssuerProfile {
    /// Tokens of somebody else's issuer, meant for one of `audiences`. `max_lifetime` bounds `exp` - `iat`.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn trusted(
        issuer: &str,
        audiences: &[&str],
        types: TokenTypes,
        leeway: Duration,
        max_lifetime: Option<Duration>,
    ) -> Result<Self, Vec<ProfileError>> {
        let good =
            |text: &str| !text.is_empty() && text.len() <= MAX_CLAIM_BYTES && !text.chars().any(char::is_control);
        let faults: Vec<ProfileError> = [
            (!good(issuer)).then_some(ProfileError::Issuer),
            (!(1..=MAX_PROFILE_AUDIENCES).contains(&audiences.len()) || !audiences.iter().all(|a| good(a)))
                .then_some(ProfileError::Audiences),
            (leeway > MAX_LEEWAY).then_some(ProfileError::Leeway),
            (max_lifetime == Some(Duration::ZERO)).then_some(ProfileError::Lifetime),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !faults.is_empty() {
            return Err(faults);
        }
        let audiences = audiences.iter().map(|a| Arc::from(*a)).collect();
        Ok(Self { issuer: issuer.into(), audiences, types, leeway, max_lifetime, origin: Origin::Foreign })
    }

    /// The gateway's own access tokens: `at+jwt`, no leeway (one clock made and checks them), five minutes at most.
    pub fn gate(issuer: Arc<str>, audience: Arc<str>) -> Self {
        Self {
            issuer,
            audiences: vec![audience],
            types: TokenTypes::AccessToken,
            leeway: Duration::ZERO,
            max_lifetime: Some(MAX_ACCESS_TOKEN_LIFE),
            origin: Origin::Gate,
        }
    }

    /// The `iss` that its tokens have.
    pub fn issuer(&self) -> &Arc<str> {
        &self.issuer
    }

    pub(super) fn types(&self) -> TokenTypes {
        self.types
    }

    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    pub(super) fn leeway(&self) -> Duration {
        self.leeway
    }

    pub(super) fn leeway_micros(&self) -> i64 {
        i64::try_from(self.leeway.as_micros()).unwrap_or(i64::MAX)
    }

    /// Audience and length of life. A token that does not say when it was issued lives from `nbf`, or from now.
    pub(super) fn check(&self, claims: &Claims, now: Timestamp) -> Result<(), TokenError> {
        if !claims.audiences.iter().any(|audience| self.audiences.contains(audience)) {
            return Err(TokenError::Audience);
        }
        let Some(longest) = self.max_lifetime else { return Ok(()) };
        let begins = claims.issued.or(claims.not_before).unwrap_or(now);
        if claims.expires > begins.saturating_add(longest) { Err(TokenError::Lifetime) } else { Ok(()) }
    }
}
