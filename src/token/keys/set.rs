//! Key sets as issuers publish them (RFC 7517 section 5).
//!
//! Keys that are not for us (another use, another type or curve) are skipped; a set that contradicts itself, repeats a
//! name or carries private values is refused whole, so that the last good one stays in use.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{KeyAlgorithm, KeyThumbprint, PublicValues, VerificationKey};
use crate::token::json;

/// Keys that a set may have: issuers publish two to ten.
pub const MAX_KEYS: usize = 64;
/// Bytes that a set may have: 64 RSA keys of 8192 bits with certificates fit.
pub const MAX_KEY_SET_BYTES: usize = 256 * 1024;
/// Bytes of a `kid`: it is looked up and logged.
pub(in crate::token) const MAX_KID_BYTES: usize = 256;
/// An RSA modulus of 2048 bits. Shorter ones are skipped: they are within reach of attackers.
const MIN_RSA_BYTES: usize = 256;

/// Why a text is not a key set to verify with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Over [`MAX_KEY_SET_BYTES`].
    #[error("the key set is larger than 256 KiB")]
    TooLarge,
    /// Not JSON in one reading, or no `keys` array of objects.
    #[error("the key set is not a JSON object with an array `keys`")]
    Malformed,
    /// Over [`MAX_KEYS`].
    #[error("the key set has more than 64 keys")]
    TooMany,
    /// A symmetric key or private values.
    #[error("the key set carries private key values")]
    Private,
    /// A key of a known type that does not parse.
    #[error("key {0} of the set is malformed")]
    KeyMalformed(usize),
    /// `alg` is another than the key's type has.
    #[error("key {0} of the set names an algorithm that its type does not have")]
    KeyContradictory(usize),
    /// Two keys have one name.
    #[error("key {0} of the set has the name of an earlier key")]
    DuplicateKid(usize),
    /// Nothing is left.
    #[error("the key set has no key that can be used here (ES256, RS256 of at least 2048 bits, EdDSA on Ed25519)")]
    NoUsableKey,
}

/// The keys of one issuer.
#[derive(Clone, Debug)]
pub struct KeySet {
    keys: Vec<Arc<VerificationKey>>,
    skipped: usize,
}

impl KeySet {
    /// Reads a JWKS document.
    ///
    /// # Errors
    /// When it is not one, is over a limit, contradicts itself, carries private values, or has no key of use.
    pub fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        if document.len() > MAX_KEY_SET_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let members = json::object(document).map_err(|_| KeySetError::Malformed)?;
        let Some(Value::Array(list)) = members.get("keys") else { return Err(KeySetError::Malformed) };
        if list.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let mut set = Self { keys: Vec::with_capacity(list.len()), skipped: 0 };
        for (place, key) in list.iter().enumerate() {
            let Value::Object(key) = key else { return Err(KeySetError::Malformed) };
            match read_key(key, place)? {
                Some(key) if key.kid.is_some() && set.by_kid(key.kid()).is_some() => {
                    return Err(KeySetError::DuplicateKid(place));
                }
                Some(key) => set.keys.push(Arc::new(key)),
                None => set.skipped += 1,
            }
        }
        if set.keys.is_empty() { Err(KeySetError::NoUsableKey) } else { Ok(set) }
    }

    /// Of keys of ours.
    ///
    /// # Errors
    /// When two have one name, or there is none.
    pub fn of(keys: impl IntoIterator<Item = Arc<VerificationKey>>) -> Result<Self, KeySetError> {
        let mut set = Self { keys: Vec::new(), skipped: 0 };
        for (place, key) in keys.into_iter().enumerate() {
            if set.by_kid(key.kid()).is_some() {
                return Err(KeySetError::DuplicateKid(place));
            }
            set.keys.push(key);
        }
        if set.keys.is_empty() { Err(KeySetError::NoUsableKey) } else { Ok(set) }
    }

    /// The keys.
    pub fn keys(&self) -> &[Arc<VerificationKey>] {
        &self.keys
    }

    /// How many keys of the document were not for us.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Whether that very key, under its name, is in the set.
    pub fn holds(&self, key: &VerificationKey) -> bool {
        self.keys.iter().any(|k| k.is_same(key))
    }

    /// Whether the other set has the same keys under the same names.
    pub fn is_same(&self, other: &Self) -> bool {
        self.keys.len() == other.keys.len() && self.keys.iter().all(|k| other.holds(k))
    }

    /// The key with this thumbprint.
    pub fn by_thumbprint(&self, thumbprint: &KeyThumbprint) -> Option<&Arc<VerificationKey>> {
        self.keys.iter().find(|k| k.thumbprint == *thumbprint)
    }

    pub(in crate::token) fn by_kid(&self, kid: Option<&str>) -> Option<&Arc<VerificationKey>> {
        self.keys.iter().find(|k| k.kid() == kid)
    }

    /// The only key with that algorithm; none where there are several.
    pub(in crate::token) fn only(&self, algorithm: KeyAlgorithm) -> Option<&Arc<VerificationKey>> {
        let mut of_algorithm = self.keys.iter().filter(|k| k.algorithm == algorithm);
        of_algorithm.next().filter(|_| of_algorithm.next().is_none())
    }
}

/// A key of the set; nothing where it is not for us.
fn read_key(key: &Map<String, Value>, place: usize) -> Result<Option<VerificationKey>, KeySetError> {
    if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|private| key.contains_key(*private)) {
        return Err(KeySetError::Private);
    }
    let malformed = KeySetError::KeyMalformed(place);
    let text = |name: &str| match key.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(malformed),
    };
    let kty = text("kty")?.ok_or(malformed)?;
    let kid = text("kid")?;
    if kid.is_some_and(|kid| kid.is_empty() || kid.len() > MAX_KID_BYTES || kid.chars().any(char::is_control)) {
        return Err(malformed);
    }
    if text("use")?.is_some_and(|purpose| purpose != "sig") || !may_verify(key).ok_or(malformed)? {
        return Ok(None);
    }
    let algorithm = match (kty, text("crv")?) {
        ("EC", Some("P-256")) => KeyAlgorithm::Es256,
        ("OKP", Some("Ed25519")) => KeyAlgorithm::Ed25519,
        ("RSA", _) => KeyAlgorithm::Rs256,
        ("EC" | "OKP", None) => return Err(malformed),
        _ => return Ok(None),
    };
    match text("alg")? {
        None => {}
        Some(alg) if KeyAlgorithm::parse(alg) == Some(algorithm) => {}
        // Another scheme of the same type (PS256, RSA-OAEP): a key in order, and not for us.
        Some(alg) if algorithm == KeyAlgorithm::Rs256 && (alg.starts_with("RS") || alg.starts_with("PS")) => {
            return Ok(None);
        }
        Some(_) => return Err(KeySetError::KeyContradictory(place)),
    }
    let bytes = |name: &str| -> Result<Vec<u8>, KeySetError> {
        URL_SAFE_NO_PAD.decode(text(name)?.ok_or(malformed)?).map_err(|_| malformed)
    };
    let kid = kid.map(Arc::from);
    let read = match algorithm {
        KeyAlgorithm::Es256 => VerificationKey::new(kid, PublicValues::P256 { x: &bytes("x")?, y: &bytes("y")? }),
        KeyAlgorithm::Ed25519 => VerificationKey::new(kid, PublicValues::Ed25519 { x: &bytes("x")? }),
        KeyAlgorithm::Rs256 => {
            let (n, e) = (bytes("n")?, bytes("e")?);
            if n.first() == Some(&0) || e.first() == Some(&0) {
                return Err(malformed); // RFC 7518 section 2: no leading zero octets; two spellings would be two thumbprints.
            }
            if n.len() < MIN_RSA_BYTES {
                return Ok(None);
            }
            VerificationKey::new(kid, PublicValues::Rsa { n: &n, e: &e })
        }
    };
    read.map(Some).ok_or(malformed)
}

/// Whether `key_ops` (RFC 7517 section 4.3), where there is one, lists `verify`. Nothing where it is no list of strings.
fn may_verify(key: &Map<String, Value>) -> Option<bool> {
    match key.get("key_ops") {
        None => Some(true),
        Some(Value::Array(operations)) => {
            operations.iter().all(Value::is_string).then(|| operations.iter().any(|o| o.as_str() == Some("verify")))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::SigningKey;
    use super::*;

    fn parse(keys: &Value) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    fn jwk(algorithm: KeyAlgorithm) -> Map<String, Value> {
        match SigningKey::generate(algorithm).unwrap().public_jwk() {
            Value::Object(jwk) => jwk,
            other => panic!("{other}"),
        }
    }

    fn with(mut jwk: Map<String, Value>, name: &str, value: Value) -> Value {
        jwk.insert(name.to_owned(), value);
        Value::Object(jwk)
    }

    #[test]
    fn thumbprint_is_the_standards() {
        // RFC 7638 section 3.1 and RFC 8037 appendix A.3.
        let rsa = json!({"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"});
        let ed = json!({"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        let ec = json!({"crv":"P-256","kty":"EC","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs","y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"});
        let set = parse(&json!([rsa, ed, ec])).unwrap();
        let prints: Vec<_> = set.keys().iter().map(|k| k.thumbprint().as_str()).collect();
        assert_eq!(
            prints,
            [
                "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
                "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
                "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
            ]
        );
    }

    #[test]
    fn keys_that_are_not_for_us_are_skipped() {
        let good = Value::Object(jwk(KeyAlgorithm::Es256));
        let short_rsa = json!({"kty":"RSA","n":URL_SAFE_NO_PAD.encode([0xc5u8; 128]),"e":"AQAB"});
        let others = [
            with(jwk(KeyAlgorithm::Es256), "use", json!("enc")),
            with(jwk(KeyAlgorithm::Es256), "key_ops", json!(["encrypt"])),
            with(jwk(KeyAlgorithm::Es256), "crv", json!("P-384")),
            with(jwk(KeyAlgorithm::Es256), "kty", json!("AKP")),
            with(jwk(KeyAlgorithm::Ed25519), "crv", json!("X25519")),
            short_rsa,
        ];
        for other in others {
            let set = parse(&json!([other, good])).unwrap();
            assert_eq!((set.keys().len(), set.skipped()), (1, 1), "{other}");
            assert_eq!(parse(&json!([other])).unwrap_err(), KeySetError::NoUsableKey);
        }
    }

    #[test]
    fn sets_that_cannot_be_trusted_are_refused_whole() {
        let good = || Value::Object(jwk(KeyAlgorithm::Es256));
        let same = good();
        let refused = |keys: Value, error: KeySetError| assert_eq!(parse(&keys).unwrap_err(), error, "{keys}");
        refused(json!([same, same]), KeySetError::DuplicateKid(1));
        refused(json!([good(), with(jwk(KeyAlgorithm::Es256), "d", json!("AA"))]), KeySetError::Private);
        refused(json!([{"kty":"oct","k":"c2VjcmV0"}]), KeySetError::Private);
        refused(json!([with(jwk(KeyAlgorithm::Es256), "alg", json!("HS256"))]), KeySetError::KeyContradictory(0));
        refused(json!([with(jwk(KeyAlgorithm::Es256), "alg", json!("RS256"))]), KeySetError::KeyContradictory(0));
        refused(json!([with(jwk(KeyAlgorithm::Ed25519), "alg", json!("ES256"))]), KeySetError::KeyContradictory(0));
        refused(
            json!([with(jwk(KeyAlgorithm::Es256), "y", json!(URL_SAFE_NO_PAD.encode([7u8; 32])))]),
            KeySetError::KeyMalformed(0),
        );
        refused(json!([with(jwk(KeyAlgorithm::Es256), "x", json!("AA=="))]), KeySetError::KeyMalformed(0));
        refused(json!([with(jwk(KeyAlgorithm::Es256), "kid", json!(7))]), KeySetError::KeyMalformed(0));
        refused(json!([with(jwk(KeyAlgorithm::Es256), "kid", json!("a\nb"))]), KeySetError::KeyMalformed(0));
        refused(json!([{"kid":"x"}]), KeySetError::KeyMalformed(0));
        refused(json!(["x"]), KeySetError::Malformed);
        refused(json!((0..65).map(|_| json!({"kty":"x"})).collect::<Vec<_>>()), KeySetError::TooMany);
        assert_eq!(KeySet::parse(br#"{"keys":[],"keys":[]}"#).unwrap_err(), KeySetError::Malformed);
        assert_eq!(KeySet::parse(b"<html>").unwrap_err(), KeySetError::Malformed);
        assert_eq!(KeySet::parse(&vec![b' '; MAX_KEY_SET_BYTES + 1]).unwrap_err(), KeySetError::TooLarge);
    }
}
