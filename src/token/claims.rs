//! The claims of a token, typed.
//!
//! Every claim that is used has exactly the type its standard gives it; another type is a refusal, never a conversion.
//! Whether the claims hold (issuer, audience, time) is for `verify`; this module only reads.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::TokenError;
use crate::domain::Timestamp;
use crate::domain::name::{GrantId, ResourceName};
use crate::domain::principal::CertificateThumbprint;
use crate::domain::root::Root;

/// Bytes of `iss`, `sub`, an audience and other names: they are indexed, compared and logged.
pub const MAX_CLAIM_BYTES: usize = 1024;
/// Audiences that one token may list.
pub const MAX_AUDIENCES: usize = 64;
/// 9999-12-31T23:59:59Z: later times are mistakes or attacks on arithmetic.
const MAX_NUMERIC_DATE: i64 = 253_402_300_799;
/// The `token_use` of tokens that gateways mint for upstreams.
pub(super) const UPSTREAM_USE: &str = "upstream";

/// What a token says. Within a [`super::verify::Verified`] it has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `iss`
    pub issuer: Arc<str>,
    /// `sub`
    pub subject: Arc<str>,
    /// `aud`, all of them.
    pub audiences: Vec<Arc<str>>,
    /// `exp`
    pub expires: Timestamp,
    /// `nbf`
    pub not_before: Option<Timestamp>,
    /// `iat`
    pub issued: Option<Timestamp>,
    /// `jti`
    pub token_id: Option<Arc<str>>,
    /// `client_id` (RFC 9068)
    pub client: Option<Arc<str>>,
    /// `scope`: names parted by single spaces (RFC 8693 section 4.2)
    pub scope: Option<Arc<str>>,
    /// `cnf.x5t#S256` (RFC 8705 section 3.1): only over a connection with this client certificate
    pub thumbprint: Option<CertificateThumbprint>,
    /// `act` (RFC 8693 section 4.1): who acts for the subject
    pub actor: Option<Actor>,
    /// Our own claims. Read only from tokens that this gateway issued: no other issuer can give itself a grant.
    pub gate: Option<GateClaims>,
}

/// Who acts. Only the outermost actor may bear on a decision; inner ones are history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `sub`
    pub subject: Arc<str>,
    /// `iss`
    pub issuer: Option<Arc<str>>,
    /// `act`: who acted before.
    pub inner: Option<Box<Actor>>,
}

/// The claims of a gateway's own access tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateClaims {
    /// `grant`: the one grant that the token uses.
    pub grant: GrantId,
    /// `resource`: what the grant opens.
    pub resource: ResourceName,
    /// `root`: what vouched for the credential that the token was given for.
    pub root: Root,
}

impl Claims {
    /// The names in `scope`.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scope.as_deref().unwrap_or_default().split(' ').filter(|name| !name.is_empty())
    }
}

/// Whose claims they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Foreign,
    Gate,
}

pub(super) fn read(members: &Map<String, Value>, issuer: &Arc<str>, origin: Origin) -> Result<Claims, TokenError> {
    // Before anything else, whatever the issuer: a token for upstreams is in the hands of upstreams.
    if members.get("token_use").and_then(Value::as_str) == Some(UPSTREAM_USE) {
        return Err(TokenError::Upstream);
    }
    // Security events and logout tokens (RFC 8417): signed by the same issuer, and no credential.
    if members.contains_key("events") {
        return Err(TokenError::Type);
    }
    if text(members, "iss")?.ok_or(TokenError::ClaimMissing("iss"))? != issuer.as_ref() {
        return Err(TokenError::IssuerUnknown);
    }
    let claims = Claims {
        issuer: issuer.clone(),
        subject: required(text(members, "sub"), "sub")?.into(),
        audiences: audiences(members)?,
        expires: required(time(members, "exp"), "exp")?,
        not_before: time(members, "nbf")?,
        issued: time(members, "iat")?,
        token_id: text(members, "jti")?.map(Arc::from),
        client: text(members, "client_id")?.map(Arc::from),
        scope: scope(members)?,
        thumbprint: confirmation(members)?,
        actor: members.get("act").map(actor).transpose()?,
        gate: match origin {
            Origin::Foreign => None,
            Origin::Gate => Some(gate(members)?),
        },
    };
    if origin == Origin::Gate {
        // RFC 9068 section 2.2 requires them, and revocation needs them.
        required(Ok(claims.token_id.as_ref()), "jti")?;
        required(Ok(claims.client.as_ref()), "client_id")?;
        required(Ok(claims.issued), "iat")?;
    }
    Ok(claims)
}

/// The `iss` of claims that nothing vouches for yet: to look up by, nothing else.
pub(super) fn issuer(members: &Map<String, Value>) -> Result<&str, TokenError> {
    text(members, "iss")?.ok_or(TokenError::ClaimMissing("iss"))
}

fn required<T>(value: Result<Option<T>, TokenError>, name: &'static str) -> Result<T, TokenError> {
    value?.ok_or(TokenError::ClaimMissing(name))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_CLAIM_BYTES && !text.chars().any(char::is_control)
}

fn text<'m>(members: &'m Map<String, Value>, name: &'static str) -> Result<Option<&'m str>, TokenError> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if is_name(text) => Ok(Some(text)),
        Some(_) => Err(TokenError::ClaimMalformed(name)),
    }
}

fn time(members: &Map<String, Value>, name: &'static str) -> Result<Option<Timestamp>, TokenError> {
    match members.get(name) {
        None => Ok(None),
        Some(value) => match value.as_i64() {
            Some(seconds @ 0..=MAX_NUMERIC_DATE) => Ok(Some(Timestamp::from_unix_seconds(seconds))),
            Some(_) | None => Err(TokenError::ClaimMalformed(name)),
        },
    }
}

fn audiences(members: &Map<String, Value>) -> Result<Vec<Arc<str>>, TokenError> {
    let malformed = TokenError::ClaimMalformed("aud");
    let one = |value: &Value| value.as_str().filter(|text| is_name(text)).map(Arc::from).ok_or(malformed);
    match members.get("aud") {
        None => Err(TokenError::ClaimMissing("aud")),
        Some(Value::Array(list)) if list.len() <= MAX_AUDIENCES => list.iter().map(one).collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}

fn scope(members: &Map<String, Value>) -> Result<Option<Arc<str>>, TokenError> {
    match members.get("scope") {
        None => Ok(None),
        // RFC 6749 section 3.3: printable ASCII without quote and backslash. Several spaces in a row say the same as one.
        Some(Value::String(text)) if text.bytes().all(|b| matches!(b, b' ' | b'!' | b'#'..=b'[' | b']'..=b'~')) => {
            Ok(Some(text.as_str().into()))
        }
        Some(_) => Err(TokenError::ClaimMalformed("scope")),
    }
}

fn confirmation(members: &Map<String, Value>) -> Result<Option<CertificateThumbprint>, TokenError> {
    match members.get("cnf") {
        None => Ok(None),
        Some(Value::Object(methods)) => match (methods.get("x5t#S256"), methods.len()) {
            (Some(Value::String(thumbprint)), 1) => {
                thumbprint.parse().map(Some).map_err(|_| TokenError::ClaimMalformed("cnf"))
            }
            (Some(_), 1) => Err(TokenError::ClaimMalformed("cnf")),
            _ => Err(TokenError::Confirmation),
        },
        Some(_) => Err(TokenError::ClaimMalformed("cnf")),
    }
}

/// Nesting is bounded by the reader of the JSON.
fn actor(value: &Value) -> Result<Actor, TokenError> {
    let malformed = |_| TokenError::ClaimMalformed("act");
    let Value::Object(members) = value else { return Err(TokenError::ClaimMalformed("act")) };
    Ok(Actor {
        subject: required(text(members, "sub"), "act").map_err(malformed)?.into(),
        issuer: text(members, "iss").map_err(malformed)?.map(Arc::from),
        inner: members.get("act").map(actor).transpose()?.map(Box::new),
    })
}

fn gate(members: &Map<String, Value>) -> Result<GateClaims, TokenError> {
    let grant = required(text(members, "grant"), "grant")?;
    let resource = required(text(members, "resource"), "resource")?;
    Ok(GateClaims {
        grant: grant.parse().map_err(|_| TokenError::ClaimMalformed("grant"))?,
        resource: resource.parse().map_err(|_| TokenError::ClaimMalformed("resource"))?,
        root: match text(members, "root")? {
            None => Root::Unknown,
            Some(root) => Root::parse(root).ok_or(TokenError::ClaimMalformed("root"))?,
        },
    })
}
