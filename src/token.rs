//! Tokens: keys, strict verification, minting, and the documents of the token endpoint.
//!
//! Pure: keys, the time and random identifiers are arguments. Nothing here knows a socket, a file, a cache or a runtime;
//! where an issuer's keys come from and how verified tokens are remembered is the gateway's affair.

pub mod claims;
pub mod json;
pub mod keys;
pub mod mint;
pub mod oauth;
pub mod verify;

use crate::domain::Reason;

/// Why a token is not accepted. Names claims and header members, never their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a JWS in compact serialization whose header and claims have exactly one reading.
    #[error("not a compact JWS: {0}")]
    Malformed(&'static str),
    /// A header member that changes how a token is to be read or which key to trust.
    #[error("header member `{0}` is not accepted")]
    Header(&'static str),
    /// Another kind of token: a proof, an event, an identity or workload token.
    #[error("the token's type is not one that this issuer's callers present")]
    Type,
    /// `alg` is none that is served here, or another than the key's.
    #[error("the algorithm is not the key's")]
    Algorithm,
    /// No key, or more than one, is meant.
    #[error("no key of the issuer is named by this token")]
    KeyUnknown,
    /// The signature is not the key's.
    #[error("the signature does not verify")]
    Signature,
    /// A claim is missing.
    #[error("claim `{0}` is missing")]
    ClaimMissing(&'static str),
    /// A claim has another type or form than its standard gives it.
    #[error("claim `{0}` is malformed")]
    ClaimMalformed(&'static str),
    /// Minted by a gateway for an upstream: never a caller's credential.
    #[error("the token was minted for an upstream")]
    Upstream,
    /// Bound to its holder in a way that cannot be checked here (RFC 7800): never accepted as a plain bearer token.
    #[error("the token is bound to a key in a way that is not served here")]
    Confirmation,
    /// `iss` is none that is trusted.
    #[error("the issuer is not trusted")]
    IssuerUnknown,
    /// The issuer's keys could not be had, or only ones that are too old.
    #[error("the issuer's keys are not available")]
    IssuerUnavailable,
    /// For somebody else.
    #[error("the audience is another")]
    Audience,
    /// Past its end.
    #[error("the token has expired")]
    Expired,
    /// Before its beginning (`nbf`), or from the future (`iat`).
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Its life is longer than the issuer's profile allows.
    #[error("the token's lifetime is longer than its issuer may give")]
    Lifetime,
    /// Revoked.
    #[error("the token was revoked")]
    Revoked,
}

impl TokenError {
    /// The reason of the refusal: what the caller reads is its text. The log has this error's own.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Malformed(_) => Reason::CredentialMalformed,
            Self::Header(_)
            | Self::Type
            | Self::Algorithm
            | Self::KeyUnknown
            | Self::Signature
            | Self::ClaimMissing(_)
            | Self::ClaimMalformed(_)
            | Self::Upstream
            | Self::Confirmation
            | Self::Lifetime => Reason::TokenInvalid,
            Self::IssuerUnknown => Reason::IssuerUnknown,
            Self::IssuerUnavailable => Reason::IssuerUnavailable,
            Self::Audience => Reason::TokenAudience,
            Self::Expired | Self::NotYetValid => Reason::CredentialExpired,
            Self::Revoked => Reason::TokenRevoked,
        }
    }
}
