//! The documents of the token endpoints: what is asked, and what is answered.
//!
//! RFC 6749 section 5, RFC 7009, RFC 8693, RFC 8707, read strictly: a parameter that stands twice, or that asks for what is
//! not served, is a refusal and never ignored. Knows nothing about HTTP libraries, grants, or whether a caller may.

mod answer;
mod form;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::domain::Reason;
use crate::domain::name::{ActionName, ResourceName};

pub use answer::{OAuthError, TokenAnswer, subject_token_reason};
use form::Form;
pub use form::MAX_FORM_BYTES;

/// The `grant_type` of RFC 8693.
pub const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// The `grant_type` of RFC 6749 section 4.4.
pub const CLIENT_CREDENTIALS: &str = "client_credentials";
/// The media type of requests.
pub const FORM_TYPE: &str = "application/x-www-form-urlencoded";
/// A resource as an absolute URI (RFC 8707 section 2 asks for one): this, then its name.
pub const RESOURCE_URN: &str = "urn:portcullis:resource:";
/// Actions that one request may name.
const MAX_ACTIONS: usize = 64;

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a form, too large, a parameter twice, missing or malformed. Says which; never its value.
    #[error("{0}")]
    Invalid(&'static str),
    /// A target that is no resource here, or several.
    #[error("{0}")]
    Target(&'static str),
    /// A scope that is no list of actions.
    #[error("scope is not a list of action names")]
    Scope,
    /// Another grant type.
    #[error("this grant type is not served")]
    GrantType,
}

impl RequestError {
    /// The reason of the refusal.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Invalid(_) => Reason::TokenRequestInvalid,
            Self::Target(_) => Reason::TokenTargetInvalid,
            Self::Scope => Reason::TokenScopeInvalid,
            Self::GrantType => Reason::TokenGrantTypeUnsupported,
        }
    }
}

/// A token as it came in a request. Shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct PresentedToken(String);

impl PresentedToken {
    /// The token.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PresentedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresentedToken(…)")
    }
}

/// Who asks: what is exchanged, or the connection's client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// RFC 8693: a token of a trusted issuer.
    SubjectToken(PresentedToken),
    /// `client_credentials`: the client certificate authenticates (RFC 8705 section 2).
    Certificate,
}

/// What kind of token is asked for. It is the same token; the answer calls it what the request did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenKind {
    /// `urn:ietf:params:oauth:token-type:access_token`
    #[default]
    AccessToken,
    /// `urn:ietf:params:oauth:token-type:jwt`
    Jwt,
}

impl TokenKind {
    /// Its URI (RFC 8693 section 3).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccessToken => ACCESS_TOKEN,
            Self::Jwt => JWT,
        }
    }

    fn parse(uri: &str) -> Option<Self> {
        match uri {
            ACCESS_TOKEN => Some(Self::AccessToken),
            JWT => Some(Self::Jwt),
            _ => None,
        }
    }
}

/// A request for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// Who asks.
    pub proof: Proof,
    /// The one resource that the token is for.
    pub resource: ResourceName,
    /// What is to be done with it; empty: all that the grant gives.
    pub actions: Vec<ActionName>,
    /// What the answer calls the token.
    pub kind: TokenKind,
    /// `client_id`, where it was sent: it has to be the caller's own identity.
    pub client: Option<String>,
}

impl TokenRequest {
    /// Reads the body of a token request.
    ///
    /// # Errors
    /// When it is not one that is served.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let form = Form::parse(body)?;
        let grant_type = form.one("grant_type")?.ok_or(RequestError::Invalid("grant_type is missing"))?;
        let proof = match grant_type {
            TOKEN_EXCHANGE => exchanged(&form)?,
            CLIENT_CREDENTIALS => {
                if form.any(&["subject_token", "subject_token_type"]) {
                    return Err(RequestError::Invalid("subject_token belongs to a token exchange"));
                }
                Proof::Certificate
            }
            _ => return Err(RequestError::GrantType),
        };
        if form.any(&["actor_token", "actor_token_type"]) {
            return Err(RequestError::Invalid("actor_token is not served"));
        }
        if form.any(&["client_secret", "client_assertion", "client_assertion_type"]) {
            return Err(RequestError::Invalid(
                "clients authenticate by their certificate or subject token; secrets and assertions are not served",
            ));
        }
        if form.any(&["authorization_details"]) {
            return Err(RequestError::Invalid("authorization_details is not served"));
        }
        let kind = match form.one("requested_token_type")? {
            None => TokenKind::default(),
            Some(uri) => TokenKind::parse(uri)
                .ok_or(RequestError::Invalid("requested_token_type is neither access_token nor jwt"))?,
        };
        Ok(Self {
            proof,
            resource: target(&form)?,
            actions: actions(&form)?,
            kind,
            client: form.one("client_id")?.map(str::to_owned),
        })
    }
}

fn exchanged(form: &Form<'_>) -> Result<Proof, RequestError> {
    let token = form.one("subject_token")?.ok_or(RequestError::Invalid("subject_token is missing"))?;
    let kind = form.one("subject_token_type")?.ok_or(RequestError::Invalid("subject_token_type is missing"))?;
    TokenKind::parse(kind).ok_or(RequestError::Invalid("subject_token_type is neither access_token nor jwt"))?;
    Ok(Proof::SubjectToken(PresentedToken(token.to_owned())))
}

/// `resource` or `audience`, one of them and once: a token for several targets would serve each against the others.
fn target(form: &Form<'_>) -> Result<ResourceName, RequestError> {
    let mut targets = form.all("resource").chain(form.all("audience"));
    let target =
        targets.next().ok_or(RequestError::Invalid("resource is missing: name the one that the token is for"))?;
    if targets.next().is_some() {
        return Err(RequestError::Target("a token is for one resource"));
    }
    let name = target.strip_prefix(RESOURCE_URN).unwrap_or(target);
    name.parse().map_err(|_| RequestError::Target("the target is not the name of a resource"))
}

fn actions(form: &Form<'_>) -> Result<Vec<ActionName>, RequestError> {
    let mut actions: Vec<ActionName> = Vec::new();
    for name in form.one("scope")?.unwrap_or_default().split(' ').filter(|name| !name.is_empty()) {
        let action = name.parse().map_err(|_| RequestError::Scope)?;
        if actions.len() >= MAX_ACTIONS {
            return Err(RequestError::Scope);
        }
        if !actions.contains(&action) {
            actions.push(action);
        }
    }
    Ok(actions)
}

/// A request to revoke a token (RFC 7009). The hint is not needed: there is one kind of token here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationRequest {
    /// The token.
    pub token: PresentedToken,
    /// `client_id`, where it was sent.
    pub client: Option<String>,
}

impl RevocationRequest {
    /// Reads the body of a revocation request.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let form = Form::parse(body)?;
        form.one("token_type_hint")?;
        let token = form.one("token")?.ok_or(RequestError::Invalid("token is missing"))?;
        Ok(Self { token: PresentedToken(token.to_owned()), client: form.one("client_id")?.map(str::to_owned) })
    }
}
