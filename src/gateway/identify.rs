//! The second stage: who is calling, by certificate or token, and whose identity that is.
//!
//! A token that is presented is the credential, whatever the connection; the certificate speaks for a call that brings no
//! token. Verified tokens come from a cache that checks time, key and revocation again on each use.

use std::sync::Arc;

use super::connection::{ClientCertificate, Connection};
use crate::decision::Credential;
use crate::decision::snapshot::{IdentityIndex, Snapshot};
use crate::domain::principal::{CertificateThumbprint, Principal};
use crate::domain::root::Root;
use crate::domain::{Reason, Timestamp};
use crate::issuers::TokenVerifier;
use crate::token::TokenError;
use crate::token::verify::Verified;

/// A caller whose credential has been verified.
#[derive(Debug)]
pub(crate) enum Caller<'a> {
    /// By its client certificate.
    Certificate(&'a ClientCertificate),
    /// By a token that verifies and was revoked: the caller is known, and refused by name.
    Revoked(Arc<Verified>),
    /// By a token, of a trusted issuer or of this gateway.
    Token {
        verified: Arc<Verified>,
        /// Of the connection, whoever's it is.
        certificate: Option<CertificateThumbprint>,
    },
}

/// Verifies what the call brings.
///
/// # Errors
/// The reason; it tells nothing about the inventory.
pub(crate) async fn identify<'a>(
    authorization: Option<&[u8]>,
    connection: &'a Connection,
    verifier: &TokenVerifier,
    now: Timestamp,
) -> Result<Caller<'a>, Reason> {
    connection.trusted()?;
    let certificate = connection.certificate.as_ref();
    let Some(value) = authorization else {
        let certificate = certificate.ok_or(Reason::CredentialMissing)?;
        return if now < certificate.valid_until {
            Ok(Caller::Certificate(certificate))
        } else {
            Err(Reason::CredentialExpired)
        };
    };
    let token = bearer(value)?;
    let verified = match verifier.verify_awaiting_keys(token, now).await {
        Ok(verified) => verified,
        Err(TokenError::Revoked) => {
            return verifier.of_revoked(token).map(Caller::Revoked).ok_or(Reason::TokenRevoked);
        }
        Err(error) => return Err(error.reason()),
    };
    let certificate = certificate.map(|c| c.thumbprint);
    // RFC 8705 section 3: a bound token counts over a connection with that very certificate.
    if verified.thumbprint.is_some() && verified.thumbprint != certificate {
        return Err(Reason::TokenBinding);
    }
    Ok(Caller::Token { verified, certificate })
}

/// The token of `Authorization: Bearer …` (RFC 6750 section 2.1). The scheme is case-insensitive (RFC 9110 section 11.1).
fn bearer(value: &[u8]) -> Result<&str, Reason> {
    let text = std::str::from_utf8(value).map_err(|_| Reason::CredentialMalformed)?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => Ok(token),
        _ => Err(Reason::CredentialMalformed),
    }
}

impl Caller<'_> {
    /// The identity that the credential belongs to.
    ///
    /// # Errors
    /// [`Reason::IdentityUnknown`].
    pub(crate) fn identity(&self, snapshot: &Snapshot) -> Result<IdentityIndex, Reason> {
        let place = match self {
            Self::Certificate(certificate) => snapshot.identify(&Principal::Spiffe(certificate.spiffe.clone())),
            Self::Token { verified, .. } | Self::Revoked(verified) if verified.gate.is_some() => {
                verified.subject.parse().ok().and_then(|name| snapshot.identity_place(&name))
            }
            Self::Token { verified, .. } | Self::Revoked(verified) => snapshot.identify(&verified.principal()),
        };
        place.ok_or(Reason::IdentityUnknown)
    }

    /// The credential as the decision looks at it.
    ///
    /// # Errors
    /// [`Reason::TokenRevoked`].
    pub(crate) fn credential(&self) -> Result<Credential<'_>, Reason> {
        Ok(match self {
            Self::Revoked(_) => return Err(Reason::TokenRevoked),
            Self::Certificate(certificate) => {
                Credential::Certificate { spiffe: &certificate.spiffe, thumbprint: certificate.thumbprint }
            }
            Self::Token { verified, certificate } => match &verified.gate {
                Some(gate) => Credential::Gate {
                    grant: gate.grant,
                    scope: verified.scope.as_deref().unwrap_or_default(),
                    certificate: *certificate,
                },
                None => Credential::Token { issuer: &verified.issuer, certificate: *certificate },
            },
        })
    }

    /// What vouched for the credential, and for the connection that it came on.
    pub(crate) fn roots(&self, connection: &Connection) -> [Option<Arc<Root>>; 2] {
        let of_token = match self {
            Self::Certificate(_) => None,
            Self::Token { verified, .. } | Self::Revoked(verified) => Some(verified.root().clone()),
        };
        [of_token, connection.certificate.as_ref().map(|certificate| certificate.root.clone())]
    }

    /// Whether any of that was halted.
    pub(crate) fn is_halted(&self, connection: &Connection, snapshot: &Snapshot) -> bool {
        let of_token = match self {
            Self::Certificate(_) => None,
            Self::Token { verified, .. } | Self::Revoked(verified) => Some(verified.root()),
        };
        let of_connection = connection.certificate.as_ref().map(|certificate| &certificate.root);
        of_token.into_iter().chain(of_connection).any(|root| snapshot.is_credential_halted(root))
    }

    /// As the credential names the caller, for the evidence.
    pub(crate) fn principal(&self) -> &str {
        match self {
            Self::Certificate(certificate) => certificate.spiffe.as_str(),
            Self::Token { verified, .. } | Self::Revoked(verified) => verified.shown(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::name::GrantId;
    use crate::gateway::fixture::{Fixture, GATE, NOW};
    use crate::token::mint::{AccessToken, GatewayIssuer, access_token};

    #[tokio::test]
    async fn a_token_of_ours_carries_its_grant_and_scope_to_the_decision() {
        let fixture = Fixture::new(&[]).await;
        let caller =
            |token: &str| Caller::Token { verified: fixture.verifier.verify(token, NOW).unwrap(), certificate: None };
        let read = "read".parse().unwrap();
        let token = AccessToken {
            issuer: &GatewayIssuer::new(GATE),
            audience: GATE,
            identity: &"billing".parse().unwrap(),
            grant: GrantId::from_bits(1),
            resource: &"api/orders".parse().unwrap(),
            actions: std::slice::from_ref(&read),
            thumbprint: None,
            root: &Root::Unknown,
            not_after: Timestamp::MAX,
            random: [1; 16],
        };
        let own = caller(&access_token(&fixture.access_key, &token, NOW).unwrap().token);
        let gate = Credential::Gate { grant: GrantId::from_bits(1), scope: "read", certificate: None };
        assert_eq!(own.credential(), Ok(gate));
        let foreign = caller(&fixture.token("billing", std::time::Duration::from_secs(60)));
        assert!(matches!(foreign.credential(), Ok(Credential::Token { .. })));
        let Caller::Token { verified, .. } = own else { panic!("made above") };
        assert_eq!(Caller::Revoked(verified).credential(), Err(Reason::TokenRevoked));
    }

    #[test]
    fn only_one_form_of_authorization_is_a_bearer_token() {
        assert_eq!(bearer(b"Bearer a.b.c"), Ok("a.b.c"));
        assert_eq!(bearer(b"bEARER a"), Ok("a"));
        for bad in [&b"Bearer"[..], b"Bearer ", b"Basic YTpi", b"a.b.c", b"Bearer\ta", b"\xff", b""] {
            assert_eq!(bearer(bad), Err(Reason::CredentialMalformed), "{}", bad.escape_ascii());
        }
    }
}
