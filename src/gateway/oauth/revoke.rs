//! Revocation of this gateway's own tokens by whoever holds them (RFC 7009).
//!
//! Dead here first, then recorded, then told to everybody. What the answer says is true when it is sent: 200 when every
//! gateway will refuse it, 503 when so far only this one does.

use std::time::Duration;

use super::tell::Revocation;
use super::{Answer, Endpoint, Oauth, Refused, private};
use crate::domain::Reason;
use crate::evidence::entry::TokenRevoked;
use crate::gateway::live::{Selector, TokenKey};
use crate::token::TokenError;
use crate::token::oauth::RevocationRequest;
use crate::token::verify::Verified;

/// How long its running calls have until the answer is sent without them.
const GONE_WITHIN: Duration = Duration::from_secs(1);

impl Oauth {
    pub(super) async fn revoke(&self, request: &Endpoint) -> Result<Answer, Refused> {
        let form = RevocationRequest::parse(self.form(request)?).map_err(|error| Refused::Stranger(error.reason()))?;
        let now = self.parts.authority.wall();
        let verified = match self.parts.verifier.verify_awaiting_keys(form.token.as_str(), now).await {
            Ok(verified) => verified,
            // Dead here already; whether everybody else knows is another question, which a client that asks again has.
            Err(TokenError::Revoked) => return Ok(self.told_or_pending(form.token.as_str()).await),
            Err(TokenError::IssuerUnavailable) => return Err(Refused::Stranger(Reason::IssuerUnavailable)),
            // RFC 7009 section 2.2: what is no valid token is as good as revoked.
            Err(error) => {
                tracing::debug!(call = %request.call, %error, "what was to be revoked is no valid token");
                return Ok(done());
            }
        };
        if verified.gate.is_none() {
            return Ok(not_ours());
        }
        let certificate = request.certificate.as_ref().map(|c| c.thumbprint);
        if verified.thumbprint.is_some() && verified.thumbprint != certificate {
            return Err(Refused::Stranger(Reason::TokenBinding));
        }
        if form.client.as_deref().is_some_and(|client| client != &*verified.subject) {
            return Err(Refused::Stranger(Reason::TokenRequestInvalid));
        }
        self.end_here(request, &verified).await?;
        let revocation = Revocation {
            issuer: verified.issuer.to_string(),
            handle: verified.handle().to_string(),
            expires: verified.valid_until(),
        };
        match self.teller.tell(form.token.as_str(), revocation).await {
            Ok(()) => Ok(done()),
            Err(error) => {
                tracing::warn!(call = %request.call, %error, "a revoked token is dead here and nobody else knows yet");
                Ok(dead_here_only())
            }
        }
    }

    /// A crash before the record leaves nothing done and nothing promised; the caller asks again.
    async fn end_here(&self, request: &Endpoint, verified: &Verified) -> Result<(), Refused> {
        let now = self.parts.authority.wall();
        let revoked = self.parts.verifier.revoked();
        revoked.revoke(verified, now).map_err(|_| Refused::Recorded(Reason::Overloaded))?;
        // INVARIANT: revoked, then touched, then cut: a call between its decision and its last look decides again.
        self.parts.published.touch();
        let which = Selector::Token(TokenKey::of(&verified.issuer, verified.handle()));
        let cut = self.parts.registry.cut(&which, Reason::TokenRevoked);
        let handle = verified.handle();
        let record =
            TokenRevoked { call: request.call, jti: handle.as_ref().into(), by: verified.subject.as_ref().into() };
        let (written, (calls, running)) = tokio::join!(self.write(&record), cut.gone(GONE_WITHIN));
        if running > 0 {
            tracing::error!(call = %request.call, running, "calls of a revoked token are still running");
        }
        tracing::info!(call = %request.call, token = %handle, cut = calls.len(), "a token was revoked by its holder");
        written.map_err(|error| Refused::Recorded(error.reason()))
    }

    async fn told_or_pending(&self, token: &str) -> Answer {
        match self.teller.told(token).await {
            Ok(()) => done(),
            Err(_) => dead_here_only(),
        }
    }
}

fn done() -> Answer {
    private(200, bytes::Bytes::new())
}

/// RFC 7009 section 2.2.1: the client asks again.
fn dead_here_only() -> Answer {
    let document = serde_json::json!({
        "error": "temporarily_unavailable",
        "error_description": "The token is refused here from now on. The control plane has not acknowledged it yet, so \
            other gateways may still take it: ask again.",
    });
    private(503, document.to_string().into()).with("retry-after", "1")
}

/// RFC 7009 section 2.2.1: tokens of other issuers are theirs to revoke.
fn not_ours() -> Answer {
    let document = serde_json::json!({
        "error": "unsupported_token_type",
        "error_description": "Only tokens that this gateway issued can be revoked here.",
    });
    private(400, document.to_string().into())
}
