//! Strict verification of a JWS in compact serialization (RFC 7515, 7519, 8725, 9068).
//!
//! `token` to parts to key to signature to claims: everything that has more than one reading, or asks for something that
//! is not known here, is a refusal. The algorithm and the key come from the issuer's set; the token only names one of
//! them. Knows no cache and no revocation, and never looks at a clock.

mod profile;
#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::TokenError;
use super::claims::{self, Claims};
use super::json;
use super::keys::{KeyAlgorithm, KeySet, VerificationKey};
use crate::domain::Timestamp;
use crate::domain::principal::Principal;
use crate::domain::root::Root;

pub use profile::{IssuerProfile, MAX_LEEWAY, ProfileError, TokenTypes};

/// Longest token accepted, in bytes: with it a request head still fits its own limit.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Header members that are refused whatever they say: they bring their own key or change what is signed, and none is needed.
const REFUSED_MEMBERS: [&str; 8] = ["crit", "jku", "x5u", "jwk", "x5c", "zip", "b64", "enc"];

/// Verifies `token` as one of the profile's issuer.
///
/// # Errors
/// When anything about it does not hold at `now`.
pub fn verify(token: &str, profile: &IssuerProfile, keys: &KeySet, now: Timestamp) -> Result<Verified, TokenError> {
    UnverifiedToken::parse(token)?.verify(profile, keys, now)
}

/// A token in its parts, with nothing vouched for.
pub struct UnverifiedToken<'t> {
    message: &'t str,
    signature: &'t str,
    header: Header,
    claims: Map<String, Value>,
}

struct Header {
    alg: KeyAlgorithm,
    typ: Option<String>,
    kid: Option<String>,
}

impl<'t> UnverifiedToken<'t> {
    /// Takes a token apart: three segments of base64url without padding, a header and claims in one reading each.
    ///
    /// # Errors
    /// When it is not one, or its header asks for what is not served.
    pub fn parse(token: &'t str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed("longer than 8 KiB"));
        }
        let three = TokenError::Malformed("not three segments");
        let (message, signature) = token.rsplit_once('.').ok_or(three)?;
        let (header, payload) = message.split_once('.').ok_or(three)?;
        if payload.contains('.') || [header, payload, signature].iter().any(|segment| segment.is_empty()) {
            return Err(three);
        }
        let decode = |segment| {
            URL_SAFE_NO_PAD.decode(segment).map_err(|_| TokenError::Malformed("not base64url without padding"))
        };
        let object = |bytes: Vec<u8>| {
            json::object(&bytes).map_err(|_| TokenError::Malformed("header or claims are not JSON in one reading"))
        };
        decode(signature)?;
        let header = Header::read(&object(decode(header)?)?)?;
        Ok(Self { message, signature, header, claims: object(decode(payload)?)? })
    }

    /// Its `iss`: to look up a profile by, nothing else.
    ///
    /// # Errors
    /// When there is none.
    pub fn issuer(&self) -> Result<&str, TokenError> {
        claims::issuer(&self.claims)
    }

    /// A member of its claims as it stands there: of use once the token was verified.
    pub fn member(&self, name: &str) -> Option<&Value> {
        self.claims.get(name)
    }

    /// Verifies it as one of the profile's issuer.
    ///
    /// # Errors
    /// When anything about it does not hold at `now`.
    pub fn verify(&self, profile: &IssuerProfile, keys: &KeySet, now: Timestamp) -> Result<Verified, TokenError> {
        if !profile.types().accept(self.header.typ.as_deref()) {
            return Err(TokenError::Type);
        }
        let key = self.header.key(keys)?;
        if !key.signed(self.message.as_bytes(), self.signature) {
            return Err(TokenError::Signature);
        }
        let claims = claims::read(&self.claims, profile.issuer(), profile.origin())?;
        profile.check(&claims, now)?;
        let handle = claims.token_id.clone().unwrap_or_else(|| {
            // Of what is signed, not of the signature: ECDSA has two for each.
            let digest = digest::digest(&digest::SHA256, self.message.as_bytes());
            format!("sha256:{}", URL_SAFE_NO_PAD.encode(digest)).into()
        });
        let begins = claims.not_before.max(claims.issued).unwrap_or_default();
        let verified = Verified {
            // An earlier start and a later end, by the profile's leeway only.
            valid_from: Timestamp::from_unix_micros(begins.unix_micros().saturating_sub(profile.leeway_micros())),
            valid_until: claims.expires.saturating_add(profile.leeway()),
            root: Arc::new(match &claims.gate {
                Some(gate) => gate.root.clone(),
                None => Root::Issuer { issuer: claims.issuer.clone(), kid: key.kid().map(Arc::from) },
            }),
            key: key.clone(),
            handle,
            shown: format!("{}@{}", claims.subject, claims.issuer).into(),
            claims,
        };
        verified.check_time(now)?;
        Ok(verified)
    }
}

impl Header {
    fn read(members: &Map<String, Value>) -> Result<Self, TokenError> {
        if let Some(refused) = REFUSED_MEMBERS.into_iter().find(|name| members.contains_key(*name)) {
            return Err(TokenError::Header(refused));
        }
        let text = |name: &'static str| match members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() && text.len() <= super::keys::MAX_KID_BYTES => {
                Ok(Some(text.clone()))
            }
            Some(_) => Err(TokenError::Header(name)),
        };
        let alg = text("alg")?.and_then(|alg| KeyAlgorithm::parse(&alg)).ok_or(TokenError::Algorithm)?;
        Ok(Self { alg, typ: text("typ")?, kid: text("kid")? })
    }

    /// The one key that is meant. `kid` is a key of a map and nothing else.
    fn key<'k>(&self, keys: &'k KeySet) -> Result<&'k Arc<VerificationKey>, TokenError> {
        let key = match self.kid.as_deref() {
            Some(kid) => keys.by_kid(Some(kid)),
            None => keys.only(self.alg),
        };
        let key = key.ok_or(TokenError::KeyUnknown)?;
        if key.algorithm() == self.alg { Ok(key) } else { Err(TokenError::Algorithm) }
    }
}

/// The claims of a token that was verified. Only verification makes one.
#[derive(Debug)]
pub struct Verified {
    claims: Claims,
    key: Arc<VerificationKey>,
    root: Arc<Root>,
    handle: Arc<str>,
    /// `subject@issuer`.
    shown: Box<str>,
    valid_from: Timestamp,
    valid_until: Timestamp,
}

impl Verified {
    /// Whether it can be used at `now`: to be asked at each use, not only at the first.
    ///
    /// # Errors
    /// [`TokenError::Expired`] or [`TokenError::NotYetValid`].
    pub fn check_time(&self, now: Timestamp) -> Result<(), TokenError> {
        if now >= self.valid_until {
            Err(TokenError::Expired)
        } else if now < self.valid_from {
            Err(TokenError::NotYetValid)
        } else {
            Ok(())
        }
    }

    /// First moment at which it is refused: `exp` plus the leeway of its issuer's profile.
    pub fn valid_until(&self) -> Timestamp {
        self.valid_until
    }

    /// The key that signed it.
    pub fn key(&self) -> &Arc<VerificationKey> {
        &self.key
    }

    /// What vouched for it: the key that signed it, and of a gate's own token what vouched for what that was given for.
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// What it is called, unique within its issuer: its `jti`, or a digest of what was signed. It is no secret.
    pub fn handle(&self) -> &Arc<str> {
        &self.handle
    }

    /// Who presents it, as the evidence names them: `subject@issuer`.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Who presents it, by issuer and subject. Whom that is, the inventory says.
    pub fn principal(&self) -> Principal {
        Principal::Token { issuer: self.claims.issuer.clone(), subject: self.claims.subject.clone() }
    }
}

impl Deref for Verified {
    type Target = Claims;
    fn deref(&self) -> &Claims {
        &self.claims
    }
}
