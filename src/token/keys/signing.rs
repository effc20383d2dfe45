//! Keys that we sign with.
//!
//! A key has one algorithm and one name, its thumbprint, and signs two types of token. It is read from bytes and written to
//! bytes: where a key file lies, who may read it and when keys rotate is not known here.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{KeyAlgorithm, PublicValues, VerificationKey};

/// Why there is no signing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// Tokens are not signed with RSA here: it is 17 times as slow as ES256.
    #[error("tokens are signed with ES256 or EdDSA")]
    Algorithm,
    /// The library failed to make one.
    #[error("no key could be generated")]
    Generate,
    /// Not a PKCS#8 PEM of a P-256 or Ed25519 key.
    #[error("not a PKCS#8 PEM of a P-256 or Ed25519 private key")]
    Malformed,
    /// The library failed to sign.
    #[error("signing failed")]
    Sign,
}

enum Pair {
    Es256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A private key that tokens are signed with. Its name is its thumbprint (RFC 7638).
pub struct SigningKey {
    pair: Pair,
    public: Arc<VerificationKey>,
    jwk: Value,
    random: SystemRandom,
    /// The encoded headers of the two types of token that are signed here.
    access_token_header: String,
    jwt_header: String,
}

impl SigningKey {
    /// Makes a key. ES256 is what every verifier knows; EdDSA signs twice as fast.
    ///
    /// # Errors
    /// For RS256, and when the library fails.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, SigningKeyError> {
        let pair = match algorithm {
            KeyAlgorithm::Es256 => EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map(Pair::Es256),
            KeyAlgorithm::Ed25519 => Ed25519KeyPair::generate().map(Pair::Ed25519),
            KeyAlgorithm::Rs256 => return Err(SigningKeyError::Algorithm),
        };
        Self::of(pair.map_err(|_| SigningKeyError::Generate)?)
    }

    /// Reads what [`SigningKey::to_pkcs8_pem`] wrote; `openssl genpkey` writes it too.
    ///
    /// # Errors
    /// When it is not a PKCS#8 PEM of a P-256 or Ed25519 key.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, SigningKeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| SigningKeyError::Malformed)?;
        let der = der.secret_pkcs8_der();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
            .map(Pair::Es256)
            .or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Pair::Ed25519));
        Self::of(pair.map_err(|_| SigningKeyError::Malformed)?)
    }

    /// The private key, to be kept in a file that nobody else can read.
    ///
    /// # Errors
    /// When the library fails.
    pub fn to_pkcs8_pem(&self) -> Result<Zeroizing<String>, SigningKeyError> {
        let der = match &self.pair {
            Pair::Es256(pair) => pair.to_pkcs8v1(),
            Pair::Ed25519(pair) => pair.to_pkcs8v1(),
        };
        let der = der.map_err(|_| SigningKeyError::Malformed)?;
        let body = Zeroizing::new(STANDARD.encode(der.as_ref()));
        // Sized beforehand, so that no growing leaves copies behind.
        let mut pem = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 64));
        pem.push_str("-----BEGIN PRIVATE KEY-----\n");
        let mut rest = body.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
            pem.push_str(line);
            pem.push('\n');
            rest = after;
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        Ok(pem)
    }

    fn of(pair: Pair) -> Result<Self, SigningKeyError> {
        let point = match &pair {
            Pair::Es256(pair) => pair.public_key().as_ref(),
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
        };
        let (values, mut jwk) = match &pair {
            Pair::Es256(_) => {
                // SEC 1 section 2.3.3: 04, then x and y of 32 bytes each.
                let (x, y) = point.get(1..).and_then(|xy| xy.split_at_checked(32)).ok_or(SigningKeyError::Malformed)?;
                let jwk = json!({"kty":"EC","crv":"P-256","x":URL_SAFE_NO_PAD.encode(x),"y":URL_SAFE_NO_PAD.encode(y)});
                (PublicValues::P256 { x, y }, jwk)
            }
            Pair::Ed25519(_) => (
                PublicValues::Ed25519 { x: point },
                json!({"kty":"OKP","crv":"Ed25519","x":URL_SAFE_NO_PAD.encode(point)}),
            ),
        };
        let mut public = VerificationKey::new(None, values).ok_or(SigningKeyError::Malformed)?;
        let kid = public.thumbprint.0.clone();
        let alg = public.algorithm.as_str();
        if let Value::Object(jwk) = &mut jwk {
            jwk.insert("kid".to_owned(), kid.as_ref().into());
            jwk.insert("alg".to_owned(), alg.into());
            jwk.insert("use".to_owned(), "sig".into());
        }
        let header = |typ: &str| URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}","kid":"{kid}","typ":"{typ}"}}"#));
        let (access_token_header, jwt_header) = (header("at+jwt"), header("JWT"));
        public.kid = Some(kid);
        Ok(Self { pair, public: Arc::new(public), jwk, random: SystemRandom::new(), access_token_header, jwt_header })
    }

    /// Its name: the thumbprint.
    pub fn kid(&self) -> &str {
        self.public.thumbprint.as_str()
    }

    /// Its public half, to verify with.
    pub fn public(&self) -> &Arc<VerificationKey> {
        &self.public
    }

    /// Its public half as a JWK with `kid`, `alg` and `use`.
    pub fn public_jwk(&self) -> Value {
        self.jwk.clone()
    }

    /// The JWKS document with this key alone.
    pub fn jwks(&self) -> String {
        Self::public_jwks([self]).to_string()
    }

    /// The JWKS document of several keys.
    pub fn public_jwks<'k>(keys: impl IntoIterator<Item = &'k Self>) -> Value {
        json!({ "keys": keys.into_iter().map(|key| &key.jwk).collect::<Vec<_>>() })
    }

    /// The signed token of type `at+jwt` with these claims (a JSON object).
    pub(in crate::token) fn access_token(&self, claims: &[u8]) -> Result<String, SigningKeyError> {
        self.sign(&self.access_token_header, claims)
    }

    /// The signed token of type `JWT` with these claims (a JSON object).
    pub(in crate::token) fn jwt(&self, claims: &[u8]) -> Result<String, SigningKeyError> {
        self.sign(&self.jwt_header, claims)
    }

    /// A token with any header, to try verifiers with.
    #[cfg(test)]
    pub(crate) fn any_token(&self, header: &str, claims: &str) -> String {
        self.sign(&URL_SAFE_NO_PAD.encode(header), claims.as_bytes()).unwrap()
    }

    fn sign(&self, encoded_header: &str, claims: &[u8]) -> Result<String, SigningKeyError> {
        let encoded = |bytes: usize| bytes.div_ceil(3) * 4;
        let mut token = String::with_capacity(encoded_header.len() + encoded(claims.len()) + encoded(64) + 2);
        token.push_str(encoded_header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = match &self.pair {
            Pair::Es256(pair) => pair.sign(&self.random, token.as_bytes()),
            Pair::Ed25519(pair) => pair.try_sign(token.as_bytes()),
        };
        let signature = signature.map_err(|_| SigningKeyError::Sign)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::KeySet;
    use super::*;

    #[test]
    fn keys_survive_their_file() {
        for algorithm in [KeyAlgorithm::Es256, KeyAlgorithm::Ed25519] {
            let key = SigningKey::generate(algorithm).unwrap();
            let pem = key.to_pkcs8_pem().unwrap();
            assert!(pem.lines().all(|line| line.len() <= 64));
            let read = SigningKey::from_pkcs8_pem(&pem).unwrap();
            assert_eq!((read.kid(), read.public().algorithm()), (key.kid(), algorithm));
            let published = KeySet::parse(key.jwks().as_bytes()).unwrap();
            assert!(published.holds(read.public()));
            let token = read.access_token(b"{}").unwrap();
            let (message, signature) = token.rsplit_once('.').unwrap();
            assert!(key.public().signed(message.as_bytes(), signature));
            assert!(!key.public().signed(b"another", signature));
            assert!(!format!("{key:?}").contains("PRIVATE"));
        }
        assert_eq!(SigningKey::generate(KeyAlgorithm::Rs256).unwrap_err(), SigningKeyError::Algorithm);
        for bad in ["", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert_eq!(SigningKey::from_pkcs8_pem(bad).unwrap_err(), SigningKeyError::Malformed);
        }
    }

    #[test]
    fn reads_the_key_files_of_openssl() {
        // `openssl genpkey -algorithm ed25519` writes PKCS#8 without the public half.
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
        let key = SigningKey::from_pkcs8_pem(pem).unwrap();
        // RFC 8037 appendix A.1 to A.3: the same key.
        assert_eq!(key.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }
}
