//! Roots of credentials: the key that vouched for one in the end.
//!
//! A call's credential is a client certificate, a token of an issuer, or a token of a gate that was given for one of these;
//! then the root is what that was vouched for by. So a key that leaked is stopped with everything that came of it.

use std::fmt;
use std::sync::Arc;

/// Longest issuer, as in tokens.
const MAX_ISSUER_BYTES: usize = 1024;
/// Longest `kid`.
const MAX_KID_BYTES: usize = 256;
const ISSUER: &str = "issuer/";
const PUBLIC_KEY: &str = "public-key/";

/// What vouched for a credential. Written as `issuer/URL`, `issuer/URL#KID` or `public-key/SHA256`, the digest in
/// hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Root {
    /// A token-signing key of an issuer, by its `kid`; without one any key of the issuer.
    Issuer {
        /// The tokens' `iss`, exactly.
        issuer: Arc<str>,
        /// The key.
        kid: Option<Arc<str>>,
    },
    /// The public key of a client certificate: SHA-256 of its SubjectPublicKeyInfo (RFC 5280 section 4.1).
    PublicKey([u8; 32]),
    /// A gate's token does not say, as those of earlier versions did not.
    Unknown,
}

impl Root {
    /// Reads one as it is written; `None` for what is not one, or has another spelling.
    pub fn parse(text: &str) -> Option<Self> {
        let is_text = |text: &str, most| {
            !text.is_empty() && text.len() <= most && !text.chars().any(|c| c.is_control() || c.is_whitespace())
        };
        if let Some(digest) = text.strip_prefix(PUBLIC_KEY) {
            return digest_of(digest).map(Self::PublicKey);
        }
        let rest = text.strip_prefix(ISSUER)?;
        // An issuer has no fragment (RFC 8414 section 2): what follows the first is a key's name.
        let (issuer, kid) = rest.split_once('#').map_or((rest, None), |(issuer, kid)| (issuer, Some(kid)));
        if !is_text(issuer, MAX_ISSUER_BYTES) || kid.is_some_and(|kid| !is_text(kid, MAX_KID_BYTES)) {
            return None;
        }
        Some(Self::Issuer { issuer: issuer.into(), kid: kid.map(Arc::from) })
    }

    /// The same without the key's name: all of the issuer's. `None` where that is it already.
    pub fn wider(&self) -> Option<Self> {
        match self {
            Self::Issuer { issuer, kid: Some(_) } => Some(Self::Issuer { issuer: issuer.clone(), kid: None }),
            Self::Issuer { .. } | Self::PublicKey(_) | Self::Unknown => None,
        }
    }
}

/// Reads a SHA-256 in lower-case hexadecimal.
fn digest_of(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, place) in digest.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(place..place + 2)?, 16).ok()?;
    }
    Some(digest)
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issuer { issuer, kid: None } => write!(f, "{ISSUER}{issuer}"),
            Self::Issuer { issuer, kid: Some(kid) } => write!(f, "{ISSUER}{issuer}#{kid}"),
            Self::PublicKey(digest) => {
                f.write_str(PUBLIC_KEY)?;
                digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_have_one_spelling_and_an_issuers_key_is_its_issuers() {
        let hex = "0123456789abcdef".repeat(4);
        for text in ["issuer/https://i.test", "issuer/https://i.test#k1", &format!("public-key/{hex}")] {
            assert_eq!(Root::parse(text).unwrap().to_string(), text);
        }
        let upper = format!("public-key/{}", hex.to_uppercase());
        let long = format!("issuer/{}", "x".repeat(2_000));
        for bad in ["", "unknown", "issuer/", "issuer/#k", "issuer/a#", "issuer/a b", "public-key/00", &upper, &long] {
            assert_eq!(Root::parse(bad), None, "{bad}");
        }
        let key = Root::parse("issuer/https://i.test#k1").unwrap();
        assert_eq!(key.wider(), Root::parse("issuer/https://i.test"));
        assert_eq!(key.wider().unwrap().wider(), None);
    }
}
