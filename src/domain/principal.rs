//! Who the wire says is calling, before the inventory says who that is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest SPIFFE ID accepted (SPIFFE-ID section 2.3: at least 2048 bytes must be supported).
pub const MAX_SPIFFE_ID_BYTES: usize = 2048;
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// A caller as its credential names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// An X.509-SVID's URI.
    Spiffe(SpiffeId),
    /// A verified token of a trusted issuer.
    Token {
        /// The `iss` claim.
        issuer: Arc<str>,
        /// The `sub` claim.
        subject: Arc<str>,
    },
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(id) => write!(f, "{id}"),
            Self::Token { issuer, subject } => write!(f, "{subject}@{issuer}"),
        }
    }
}

/// A SPIFFE trust domain's name, `example.org` (SPIFFE-ID section 2.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("format" = "trust domain"))]
pub struct TrustDomain(Arc<str>);

/// Why a text is not the name of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a trust domain: {0}")]
pub struct TrustDomainError(&'static str);

impl TrustDomain {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(text: &str) -> Result<Self, TrustDomainError> {
        if text.is_empty() || text.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(TrustDomainError("trust domain is empty or longer than 255 bytes"));
        }
        if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_')) {
            return Err(TrustDomainError("trust domain has characters other than a-z 0-9 . - _"));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = TrustDomainError;
    fn try_from(text: String) -> Result<Self, TrustDomainError> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0.as_ref().to_owned()
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A workload's SPIFFE ID, `spiffe://trust-domain/path`, with a path (SPIFFE-ID section 2).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("format" = "spiffe id"))]
pub struct SpiffeId(Arc<str>);

/// Why a text is not the SPIFFE ID of a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SPIFFE ID of a workload: {0}")]
pub struct SpiffeIdError(&'static str);

impl SpiffeId {
    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        self.0.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next()).unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let fail = |why| Err(SpiffeIdError(why));
        if text.len() > MAX_SPIFFE_ID_BYTES {
            return fail("longer than 2048 bytes");
        }
        let Some(rest) = text.strip_prefix("spiffe://") else { return fail("does not begin with spiffe://") };
        let Some((domain, path)) = rest.split_once('/') else { return fail("has no path") };
        domain.parse::<TrustDomain>().map_err(|TrustDomainError(why)| SpiffeIdError(why))?;
        for segment in path.split('/') {
            if matches!(segment, "" | "." | "..") {
                return fail("path has an empty or relative segment");
            }
            if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
                return fail("path has characters other than a-z A-Z 0-9 . - _");
            }
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;
    fn try_from(text: String) -> Result<Self, SpiffeIdError> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SHA-256 of a certificate's DER, as in `x5t#S256` (RFC 8705 section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificateThumbprint([u8; 32]);

impl CertificateThumbprint {
    /// From the digest.
    pub const fn from_bytes(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for CertificateThumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use base64::Engine as _;
        f.write_str(&base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for CertificateThumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CertificateThumbprint {
    type Err = ThumbprintError;
    fn from_str(text: &str) -> Result<Self, ThumbprintError> {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).map_err(|_| ThumbprintError)?;
        bytes.try_into().map(Self).map_err(|_| ThumbprintError)
    }
}

impl Serialize for CertificateThumbprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CertificateThumbprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a text is not a thumbprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a certificate thumbprint: base64url of 32 bytes, without padding")]
pub struct ThumbprintError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_ids_have_one_spelling() {
        let id: SpiffeId = "spiffe://example.org/ns/prod/sa/billing".parse().unwrap();
        assert_eq!(id.trust_domain(), "example.org");
        for bad in [
            "spiffe://td",
            "spiffe://td/",
            "spiffe://td//a",
            "spiffe://td/a/",
            "spiffe://td/a/../b",
            "spiffe://TD/a",
            "https://td/a",
            "spiffe://td/a%2fb",
            "spiffe://td:8/a",
            "spiffe://u@td/a",
            "spiffe://td/a?b",
            "spiffe://td/a\0",
            "spiffe:///a",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
        assert!(format!("spiffe://td/{}", "a".repeat(2048)).parse::<SpiffeId>().is_err());
    }
}
