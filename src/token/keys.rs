//! Keys: those that tokens are verified with, and those that the gateway signs with.
//!
//! One algorithm per key, and it comes from the key, never from a token (RFC 8725 section 3.1). Key sets are read
//! strictly (RFC 7517). Nothing here fetches, stores or chooses when to rotate.

mod set;
mod signing;

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;

pub(super) use set::MAX_KID_BYTES;
pub use set::{KeySet, KeySetError, MAX_KEY_SET_BYTES, MAX_KEYS};
pub use signing::{SigningKey, SigningKeyError};

/// What a key signs with. There is no other algorithm here, and none that is symmetric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, 2048 to 8192 bits.
    Rs256,
    /// Ed25519; tokens call it `EdDSA` (RFC 8037) or `Ed25519` (RFC 9864).
    Ed25519,
}

impl KeyAlgorithm {
    /// The name that tokens and key sets of ours carry.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::Ed25519 => "EdDSA",
        }
    }

    /// Of a JOSE `alg`, case-sensitive.
    pub fn parse(alg: &str) -> Option<Self> {
        match alg {
            "ES256" => Some(Self::Es256),
            "RS256" => Some(Self::Rs256),
            "EdDSA" | "Ed25519" => Some(Self::Ed25519),
            _ => None,
        }
    }

    const fn library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Ed25519 => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

/// A key's thumbprint (RFC 7638, SHA-256, base64url): equal for equal key material, whatever it is called.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyThumbprint(Arc<str>);

impl KeyThumbprint {
    /// The text, 43 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(canonical: &str) -> Self {
        Self(URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes())).into())
    }
}

impl fmt::Display for KeyThumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyThumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The public values of a key, decoded.
#[derive(Clone, Copy)]
enum PublicValues<'k> {
    P256 { x: &'k [u8], y: &'k [u8] },
    Rsa { n: &'k [u8], e: &'k [u8] },
    Ed25519 { x: &'k [u8] },
}

impl PublicValues<'_> {
    const fn algorithm(self) -> KeyAlgorithm {
        match self {
            Self::P256 { .. } => KeyAlgorithm::Es256,
            Self::Rsa { .. } => KeyAlgorithm::Rs256,
            Self::Ed25519 { .. } => KeyAlgorithm::Ed25519,
        }
    }

    /// The required members in the order and spelling of RFC 7638 section 3.2: what the thumbprint is taken of.
    fn canonical(self) -> String {
        let text = |bytes| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::P256 { x, y } => format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, text(x), text(y)),
            Self::Rsa { n, e } => format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, text(e), text(n)),
            Self::Ed25519 { x } => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, text(x)),
        }
    }

    /// Lets the library parse the key once, so that a point off its curve or a weak modulus never becomes a key.
    fn decoding_key(self) -> Option<DecodingKey> {
        match self {
            Self::P256 { x, y } => {
                if x.len() != 32 || y.len() != 32 {
                    return None;
                }
                let point = [&[4u8], x, y].concat();
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).ok()?;
                Some(DecodingKey::from_ec_der(&point))
            }
            Self::Rsa { n, e } => {
                let components = RsaPublicKeyComponents { n, e };
                components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).ok()?;
                Some(DecodingKey::from_rsa_raw_components(n, e))
            }
            Self::Ed25519 { x } => {
                if x.len() != 32 {
                    return None;
                }
                ParsedPublicKey::new(&ED25519, x).ok()?;
                Some(DecodingKey::from_ed_der(x))
            }
        }
    }
}

/// A public key that tokens are verified with.
pub struct VerificationKey {
    kid: Option<Arc<str>>,
    algorithm: KeyAlgorithm,
    thumbprint: KeyThumbprint,
    decoding: DecodingKey,
}

impl VerificationKey {
    fn new(kid: Option<Arc<str>>, values: PublicValues<'_>) -> Option<Self> {
        let decoding = values.decoding_key()?;
        let thumbprint = KeyThumbprint::of(&values.canonical());
        Some(Self { kid, algorithm: values.algorithm(), thumbprint, decoding })
    }

    /// What its issuer calls it.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The one algorithm that it is used with.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// What it is.
    pub fn thumbprint(&self) -> &KeyThumbprint {
        &self.thumbprint
    }

    /// Whether `signature` (base64url) is this key's over `message`, with this key's own algorithm.
    pub(super) fn signed(&self, message: &[u8], signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, message, &self.decoding, self.algorithm.library()).unwrap_or(false)
    }

    /// Whether the other is the same key under the same name.
    pub fn is_same(&self, other: &Self) -> bool {
        self.kid == other.kid && self.thumbprint == other.thumbprint
    }
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kid, algorithm, thumbprint, decoding: _ } = self;
        f.debug_struct("VerificationKey")
            .field("kid", kid)
            .field("algorithm", algorithm)
            .field("thumbprint", thumbprint)
            .finish()
    }
}
