//! Why a call was refused or cut: one closed list.
//!
//! This table is the only source of the HTTP status, the gRPC code, the text for the caller, the metric label and the
//! code in the evidence. It is grouped by who can mend it. Nothing here knows how an answer is written.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who can mend a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The caller sent something that cannot be served.
    Caller,
    /// Access is not given: an owner or an approver decides.
    Access,
    /// The gate or its control plane cannot vouch for the call just now.
    Gate,
    /// The upstream did not do its part.
    Upstream,
}

/// gRPC status codes used here (`google.rpc.Code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GrpcCode {
    /// 3
    InvalidArgument = 3,
    /// 4
    DeadlineExceeded = 4,
    /// 5
    NotFound = 5,
    /// 7
    PermissionDenied = 7,
    /// 8
    ResourceExhausted = 8,
    /// 12
    Unimplemented = 12,
    /// 13
    Internal = 13,
    /// 14
    Unavailable = 14,
    /// 16
    Unauthenticated = 16,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct ReasonInfo {
    /// Stable code: metric label, evidence, `reason` of a problem document.
    pub code: &'static str,
    /// HTTP status of the refusal.
    pub status: u16,
    /// gRPC status of the refusal.
    pub grpc: GrpcCode,
    /// Who can mend it.
    pub fault: Fault,
    /// What the caller may read, and what to do about it. Tells nothing about others' access.
    pub detail: &'static str,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $status:literal, $grpc:ident, $fault:ident, $detail:literal;)*) => {
        /// Why a call was refused or cut.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason there is, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The row of the table.
            pub const fn info(self) -> ReasonInfo {
                match self {
                    $(Self::$variant => ReasonInfo {
                        code: $code, status: $status, grpc: GrpcCode::$grpc, fault: Fault::$fault, detail: $detail,
                    },)*
                }
            }
        }
    };
}

reasons! {
    // accept
    /// Not a request that can be read in exactly one way.
    RequestMalformed = "request_malformed", 400, InvalidArgument, Caller,
        "The request cannot be read in exactly one way. Send one canonical path, one Host and one framing.";
    /// The head, or a body that was waited for, did not arrive in time.
    RequestTimeout = "request_timeout", 408, DeadlineExceeded, Caller,
        "The request did not arrive in time.";
    /// The head is over the limit.
    HeadTooLarge = "head_too_large", 431, ResourceExhausted, Caller,
        "The request head is larger than this gateway accepts.";
    /// The body is over what the route takes.
    BodyTooLarge = "body_too_large", 413, ResourceExhausted, Caller,
        "The body is larger than this route takes: it is inspected whole before the call is decided.";
    /// The body of an inspected route is in a form that the gate does not read: a content coding, an upgrade.
    BodyUnreadable = "body_unreadable", 415, InvalidArgument, Caller,
        "The body of this route is inspected: send it without a content coding, and without an upgrade.";
    /// The body of an inspected route ended before it was whole.
    BodyIncomplete = "body_incomplete", 400, InvalidArgument, Caller,
        "The body ended before it was whole.";
    /// The memory for inspected bodies is taken.
    InspectionFull = "inspection_full", 503, ResourceExhausted, Gate,
        "The gateway inspects as many bodies as it has memory for. Try again later.";
    /// The method is one that the gate never forwards, or none of the route's.
    MethodNotAllowed = "method_not_allowed", 405, Unimplemented, Caller,
        "No action of this route takes this method.";
    /// The request's host is not the one that its connection was made for.
    Misdirected = "misdirected", 421, InvalidArgument, Caller,
        "The host of this request is not the name that the connection's TLS handshake asked for. Use another connection.";
    /// A limit of the gateway is reached.
    Overloaded = "overloaded", 503, ResourceExhausted, Gate,
        "The gateway is at a limit. Try again later.";
    /// The gateway is shutting down.
    Draining = "draining", 503, Unavailable, Gate,
        "The gateway is shutting down. Try again on a new connection.";
    // identify
    /// Nobody said who is calling.
    CredentialMissing = "credential_missing", 401, Unauthenticated, Caller,
        "No credential was presented. Send a token of a trusted issuer as `Authorization: Bearer`, or connect with a client certificate.";
    /// A credential that is not one: wrong scheme, wrong form.
    CredentialMalformed = "credential_malformed", 401, Unauthenticated, Caller,
        "The credential is not a well-formed bearer token.";
    /// The issuer is not one that this gateway trusts.
    IssuerUnknown = "issuer_unknown", 401, Unauthenticated, Caller,
        "The token's issuer is not trusted here.";
    /// The issuer's keys could not be had.
    IssuerUnavailable = "issuer_unavailable", 503, Unavailable, Gate,
        "The keys of the token's issuer are not available just now. Try again later.";
    /// Signature, type or claims do not hold.
    TokenInvalid = "token_invalid", 401, Unauthenticated, Caller,
        "The token does not verify.";
    /// The token is for somebody else.
    TokenAudience = "token_audience", 401, Unauthenticated, Caller,
        "The token is not meant for this gateway: its audience is another.";
    /// The token or certificate is past its end or before its beginning.
    CredentialExpired = "credential_expired", 401, Unauthenticated, Caller,
        "The credential is not valid at this time. Get a new one.";
    /// The connection's client certificate was good when it connected, and is not any more.
    CredentialUntrusted = "credential_untrusted", 401, Unauthenticated, Caller,
        "The client certificate of this connection is no longer trusted. Connect again with another one.";
    /// The token was revoked.
    TokenRevoked = "token_revoked", 401, Unauthenticated, Caller,
        "The token was revoked. Get a new one.";
    /// What vouched for the credential was halted: a key, an issuer, or what a token of the gate was given for.
    CredentialHalted = "credential_halted", 401, Unauthenticated, Caller,
        "What vouches for this credential is halted. Get one that is vouched for by another key.";
    /// The token is bound to another certificate than the connection's.
    TokenBinding = "token_binding", 401, Unauthenticated, Caller,
        "The token is bound to a client certificate that this connection did not present.";
    /// The credential is good, and nobody in the inventory has it.
    IdentityUnknown = "identity_unknown", 403, PermissionDenied, Access,
        "The credential is valid, and no identity in the inventory is registered for it. Ask an administrator to register one.";
    /// The identity is quarantined or offboarded.
    IdentityInactive = "identity_inactive", 403, PermissionDenied, Access,
        "This identity is not active. Its owner can say why.";
    // match
    /// No route takes this host and path.
    RouteUnknown = "route_unknown", 404, NotFound, Caller,
        "No route of this gateway takes this host and path.";
    /// gRPC on a route without it, or something else on a route for it.
    ProtocolMismatch = "protocol_mismatch", 415, Unimplemented, Caller,
        "The route does not carry this protocol. gRPC needs HTTP/2 and a route that says so, and such a route carries nothing else.";
    // decide
    /// No live grant of this identity for this resource.
    GrantMissing = "grant_missing", 403, PermissionDenied, Access,
        "There is no live grant for this. Ask for access.";
    /// There is a grant, and not for this action.
    ActionNotGranted = "action_not_granted", 403, PermissionDenied, Access,
        "The grant does not cover this action. Ask for access.";
    /// There is a grant, and not for these parameters.
    ParameterNotGranted = "parameter_not_granted", 403, PermissionDenied, Access,
        "The grant does not cover these parameters. Ask for access.";
    /// There is a grant, and not from this network.
    NetworkNotGranted = "network_not_granted", 403, PermissionDenied, Access,
        "The grant does not cover calls from this network.";
    /// There is a grant, bound to another credential.
    BindingNotGranted = "binding_not_granted", 403, PermissionDenied, Access,
        "The grant is bound to another credential than the one presented.";
    /// The grant's window has not begun.
    GrantNotYetValid = "grant_not_yet_valid", 403, PermissionDenied, Access,
        "The grant has not begun yet. Try again when its window opens.";
    /// The grant has ended by itself.
    GrantExpired = "grant_expired", 403, PermissionDenied, Access,
        "The grant has ended. Ask for access again.";
    /// As many calls as the grant counts were made.
    UsesSpent = "uses_spent", 403, PermissionDenied, Access,
        "The uses of the grant are spent. Ask for access again.";
    /// As many calls as the grant counts in a span of time were made in this one.
    UsesSpentForNow = "uses_spent_for_now", 429, ResourceExhausted, Access,
        "The uses of the grant are spent for now. Try again later.";
    /// The control plane did not say in time whether there is a use left.
    UsesUnavailable = "uses_unavailable", 503, Unavailable, Gate,
        "Whether a use of the grant is left could not be asked just now. Try again shortly.";
    /// The grant was revoked while the call ran.
    GrantRevoked = "grant_revoked", 403, PermissionDenied, Access,
        "The grant was revoked.";
    /// The exception that let the call through has ended.
    ExceptionEnded = "exception_ended", 403, PermissionDenied, Access,
        "The exception that let this call through has ended.";
    /// Everything, or everything on the resource, was halted.
    Halted = "halted", 503, Unavailable, Access,
        "Calls on this resource are halted for now. Try again later.";
    /// The control plane has not been heard yet.
    AuthorityMissing = "authority_missing", 503, Unavailable, Gate,
        "This gateway has not heard from its control plane yet. Try again shortly.";
    /// The control plane was heard too long ago for this resource.
    AuthorityStale = "authority_stale", 503, Unavailable, Gate,
        "This gateway last heard from its control plane too long ago for this resource. Try again shortly.";
    // record
    /// The evidence cannot be written.
    EvidenceUnavailable = "evidence_unavailable", 503, Unavailable, Gate,
        "The call cannot be recorded just now, so it is refused. Try again later.";
    /// There is no room for the evidence.
    EvidenceFull = "evidence_full", 503, ResourceExhausted, Gate,
        "There is no room to record the call, so it is refused. Try again later.";
    /// The archive of the evidence is further behind than this gateway's settings let it be.
    ArchiveBehind = "archive_behind", 503, Unavailable, Gate,
        "The archive of this gateway's records is too far behind, so the call is refused. Try again later.";
    // token endpoints
    /// A token request that is not well formed (RFC 6749 `invalid_request`).
    TokenRequestInvalid = "token_request_invalid", 400, InvalidArgument, Caller,
        "The token request is not well formed.";
    /// The subject token of a token request does not hold (RFC 8693: `invalid_request`).
    SubjectTokenInvalid = "subject_token_invalid", 400, InvalidArgument, Caller,
        "The subject token is not one that can be exchanged here.";
    /// A target that the caller has no grant for (RFC 8693 `invalid_target`).
    TokenTargetInvalid = "token_target_invalid", 400, PermissionDenied, Access,
        "There is no live grant for this target. Ask for access.";
    /// A scope beyond the grant (RFC 6749 `invalid_scope`).
    TokenScopeInvalid = "token_scope_invalid", 400, PermissionDenied, Access,
        "The scope asked for is beyond the grant.";
    /// A grant type that is not served (RFC 6749 `unsupported_grant_type`).
    TokenGrantTypeUnsupported = "token_grant_type_unsupported", 400, Unimplemented, Caller,
        "This grant type is not served here.";
    // forward
    /// The upstream could not be reached.
    UpstreamUnreachable = "upstream_unreachable", 502, Unavailable, Upstream,
        "The upstream could not be reached.";
    /// The upstream's address is link-local, a metadata service or no host at all, and the settings do not allow it.
    UpstreamAddressRefused = "upstream_address_refused", 502, Unavailable, Upstream,
        "The upstream's address is one that this gateway does not connect to.";
    /// The upstream did not answer in time.
    UpstreamTimeout = "upstream_timeout", 504, DeadlineExceeded, Upstream,
        "The upstream did not answer in time.";
    /// The upstream's answer could not be read.
    UpstreamFault = "upstream_fault", 502, Unavailable, Upstream,
        "The upstream's answer could not be used.";
    /// A fault of the gate itself. Closed: nothing was forwarded.
    InternalFault = "internal_fault", 500, Internal, Gate,
        "The gateway failed and refused the call.";
}

impl Reason {
    /// The stable code.
    pub const fn code(self) -> &'static str {
        self.info().code
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A code that stands in no row of the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a reason code")]
pub struct UnknownReason(String);

impl std::str::FromStr for Reason {
    type Err = UnknownReason;
    fn from_str(code: &str) -> Result<Self, UnknownReason> {
        Self::ALL.iter().copied().find(|r| r.code() == code).ok_or_else(|| UnknownReason(code.to_owned()))
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        code.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_read_back() {
        let codes: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(reason.code().parse(), Ok(*reason));
        }
    }
}
