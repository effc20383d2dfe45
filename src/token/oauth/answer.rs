//! What the token endpoints answer: a token, or an error document.
//!
//! Every reason of the gate has its place among the error codes of RFC 6749 and its relatives, in one table. Knows no
//! headers but what the documents themselves demand, and never why a subject token did not hold.

use serde::Serialize;
use serde::ser::Serializer;

use super::TokenKind;
use crate::domain::Reason;
use crate::domain::Timestamp;
use crate::domain::name::ActionName;
use crate::token::TokenError;
use crate::token::mint::Minted;

/// A token, given (RFC 6749 section 5.1, RFC 8693 section 2.2.1). Sent with `Cache-Control: no-store`.
#[derive(Serialize)]
pub struct TokenAnswer<'a> {
    access_token: &'a str,
    issued_token_type: &'static str,
    token_type: &'static str,
    expires_in: i64,
    #[serde(serialize_with = "spaced")]
    scope: &'a [ActionName],
}

impl<'a> TokenAnswer<'a> {
    /// Of what was minted at `now` for these actions.
    pub fn new(minted: &'a Minted, kind: TokenKind, actions: &'a [ActionName], now: Timestamp) -> Self {
        Self {
            access_token: &minted.token,
            issued_token_type: kind.as_str(),
            token_type: "Bearer",
            expires_in: minted.expires.unix_seconds().saturating_sub(now.unix_seconds()).max(0),
            scope: actions,
        }
    }

    /// The JSON document.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and integers always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

fn spaced<S: Serializer>(actions: &&[ActionName], serializer: S) -> Result<S::Ok, S::Error> {
    let names: Vec<&str> = actions.iter().map(ActionName::as_str).collect();
    serializer.serialize_str(&names.join(" "))
}

/// A refusal of a token endpoint (RFC 6749 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OAuthError {
    /// The HTTP status.
    pub status: u16,
    /// `error`
    pub error: &'static str,
    /// `error_description`: the reason's text for callers.
    pub description: &'static str,
    /// Our own member `reason`: the stable code.
    pub reason: Reason,
}

impl OAuthError {
    /// How the token endpoint says this reason.
    pub const fn of(reason: Reason) -> Self {
        let (status, error) = code(reason);
        Self { status, error, description: reason.info().detail, reason }
    }

    /// The JSON document.
    pub fn to_json(&self) -> Vec<u8> {
        let document =
            serde_json::json!({"error": self.error, "error_description": self.description, "reason": self.reason});
        document.to_string().into_bytes()
    }
}

/// The reason to refuse an exchange with when its subject token does not hold: the caller learns no more than that, except
/// where trying again may help. The log has the [`TokenError`].
pub const fn subject_token_reason(error: TokenError) -> Reason {
    match error {
        TokenError::IssuerUnavailable => Reason::IssuerUnavailable,
        TokenError::Malformed(_)
        | TokenError::Header(_)
        | TokenError::Type
        | TokenError::Algorithm
        | TokenError::KeyUnknown
        | TokenError::Signature
        | TokenError::ClaimMissing(_)
        | TokenError::ClaimMalformed(_)
        | TokenError::Upstream
        | TokenError::Confirmation
        | TokenError::IssuerUnknown
        | TokenError::Audience
        | TokenError::Expired
        | TokenError::NotYetValid
        | TokenError::Lifetime
        | TokenError::Revoked => Reason::SubjectTokenInvalid,
    }
}

const fn code(reason: Reason) -> (u16, &'static str) {
    match reason {
        // The request.
        Reason::RequestMalformed
        | Reason::HeadTooLarge
        | Reason::TokenRequestInvalid
        | Reason::SubjectTokenInvalid
        | Reason::BodyIncomplete
        | Reason::ProtocolMismatch
        | Reason::RouteUnknown => (400, "invalid_request"),
        Reason::RequestTimeout => (408, "invalid_request"),
        Reason::BodyTooLarge => (413, "invalid_request"),
        Reason::BodyUnreadable => (415, "invalid_request"),
        Reason::Misdirected => (421, "invalid_request"),
        Reason::MethodNotAllowed => (405, "invalid_request"),
        Reason::TokenGrantTypeUnsupported => (400, "unsupported_grant_type"),
        // Who asks: RFC 6749 wants 401 here.
        Reason::CredentialMissing
        | Reason::CredentialMalformed
        | Reason::IssuerUnknown
        | Reason::TokenInvalid
        | Reason::TokenAudience
        | Reason::CredentialExpired
        | Reason::CredentialUntrusted
        | Reason::TokenRevoked
        | Reason::CredentialHalted
        | Reason::TokenBinding => (401, "invalid_client"),
        Reason::IdentityUnknown | Reason::IdentityInactive => (400, "unauthorized_client"),
        // What for.
        Reason::TokenTargetInvalid
        | Reason::GrantMissing
        | Reason::ParameterNotGranted
        | Reason::NetworkNotGranted
        | Reason::BindingNotGranted
        | Reason::GrantNotYetValid
        | Reason::GrantExpired
        | Reason::GrantRevoked
        | Reason::UsesSpent
        | Reason::UsesSpentForNow
        | Reason::ExceptionEnded => (400, "invalid_target"),
        Reason::TokenScopeInvalid | Reason::ActionNotGranted => (400, "invalid_scope"),
        // Not the caller's doing.
        Reason::Overloaded
        | Reason::Draining
        | Reason::InspectionFull
        | Reason::IssuerUnavailable
        | Reason::AuthorityMissing
        | Reason::AuthorityStale
        | Reason::UsesUnavailable
        | Reason::Halted
        | Reason::EvidenceUnavailable
        | Reason::EvidenceFull
        | Reason::ArchiveBehind => (503, "temporarily_unavailable"),
        Reason::UpstreamUnreachable
        | Reason::UpstreamAddressRefused
        | Reason::UpstreamTimeout
        | Reason::UpstreamFault
        | Reason::InternalFault => (500, "server_error"),
    }
}
