//! What callers of the tests show: keys and tokens of an issuer of the test's own, and certificates.
//!
//! The tokens are signed with a library that is not the gate's code.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer as CertificateIssuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{DEV_AUDIENCE, DEV_ISSUER, now};
use crate::dev::Dev;

/// Claims of a token without verifying it.
pub(crate) fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap_or_else(|| panic!("no token: {token}"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// Header of a token without verifying it.
pub(crate) fn header(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap()).unwrap()
}

/// A signing key of the test's own.
pub(crate) struct Key {
    pub(crate) kid: String,
    pair: KeyPair,
}

impl Key {
    /// The same key once more.
    pub(crate) fn again(&self) -> Self {
        Self { kid: self.kid.clone(), pair: KeyPair::from_pem(&self.pair.serialize_pem()).unwrap() }
    }

    pub(crate) fn es256(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap() }
    }

    pub(crate) fn ed25519(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap() }
    }

    pub(crate) fn rs256(kid: &str) -> Self {
        let pair = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        Self { kid: kid.to_owned(), pair }
    }

    /// The key that `dev`'s issuer signs with, under the name that its set gives it.
    pub(crate) fn of_dev(dev: &Dev) -> Self {
        let set: Value = serde_json::from_slice(&std::fs::read(dev.dir().join("issuer/jwks.json")).unwrap()).unwrap();
        let pem = std::fs::read_to_string(dev.dir().join("issuer/key.pem")).unwrap();
        Self { kid: set["keys"][0]["kid"].as_str().unwrap().to_owned(), pair: KeyPair::from_pem(&pem).unwrap() }
    }

    fn algorithm(&self) -> jsonwebtoken::Algorithm {
        let algorithm = self.pair.algorithm();
        if algorithm == &rcgen::PKCS_ED25519 {
            jsonwebtoken::Algorithm::EdDSA
        } else if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 {
            jsonwebtoken::Algorithm::ES256
        } else {
            jsonwebtoken::Algorithm::RS256
        }
    }

    /// The public half as a JWK.
    pub(crate) fn jwk(&self) -> Value {
        use x509_parser::prelude::FromDer as _;
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let raw = self.pair.public_key_raw();
        match self.algorithm() {
            jsonwebtoken::Algorithm::ES256 => json!({
                "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid,
                "x": encode(&raw[1..33]), "y": encode(&raw[33..65]),
            }),
            jsonwebtoken::Algorithm::EdDSA => json!({
                "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid, "x": encode(raw),
            }),
            _ => {
                let info = rcgen::PublicKeyData::subject_public_key_info(&self.pair);
                let (_, info) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&info).unwrap();
                let x509_parser::public_key::PublicKey::RSA(key) = info.parsed().unwrap() else { panic!("not RSA") };
                let modulus = key.modulus.strip_prefix(&[0]).unwrap_or(key.modulus);
                json!({
                    "kty": "RSA", "alg": "RS256", "use": "sig", "kid": self.kid,
                    "n": encode(modulus), "e": encode(key.exponent),
                })
            }
        }
    }

    /// Signs these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.kid, claims)
    }

    /// Signs these claims under another key's name.
    pub(crate) fn sign_as(&self, kid: &str, claims: &Value) -> String {
        let mut header = jsonwebtoken::Header::new(self.algorithm());
        header.kid = Some(kid.to_owned());
        let pem = self.pair.serialize_pem();
        let key = match self.algorithm() {
            jsonwebtoken::Algorithm::ES256 => jsonwebtoken::EncodingKey::from_ec_pem(pem.as_bytes()),
            jsonwebtoken::Algorithm::EdDSA => jsonwebtoken::EncodingKey::from_ed_pem(pem.as_bytes()),
            _ => jsonwebtoken::EncodingKey::from_rsa_pem(pem.as_bytes()),
        };
        jsonwebtoken::encode(&header, claims, &key.unwrap()).unwrap()
    }
}

/// A set of keys.
pub(crate) fn jwks(keys: &[&Key]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

/// Claims of a good token of dev's issuer, for five minutes.
pub(crate) fn dev_claims(subject: &str) -> Value {
    plain_claims(DEV_ISSUER, DEV_AUDIENCE, subject)
}

/// Claims of a good token, for five minutes.
pub(crate) fn plain_claims(issuer: &str, audience: &str, subject: &str) -> Value {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let jti = format!("t-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    json!({ "iss": issuer, "sub": subject, "aud": audience, "iat": now(), "exp": now() + 300, "jti": jti })
}

/// `claims` with one of them changed; null removes it.
pub(crate) fn with(mut claims: Value, name: &str, value: Value) -> Value {
    let members = claims.as_object_mut().unwrap();
    if value.is_null() {
        members.remove(name);
    } else {
        members.insert(name.to_owned(), value);
    }
    claims
}

/// A client certificate and its key in PEM files.
pub(crate) struct Certificate {
    _dir: TempDir,
    pub(crate) cert: String,
    pub(crate) key: String,
    /// SHA-256 of its DER, base64url.
    pub(crate) thumbprint: String,
}

/// The parameters of a workload's certificate with these URIs.
pub(crate) fn workload(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params
}

/// The parameters of an authority's certificate.
pub(crate) fn authority(uris: &[&str]) -> CertificateParams {
    let mut params = workload(uris);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

impl Certificate {
    /// One that the CA in these files signed.
    pub(crate) fn signed(ca_pem: &Path, ca_key: &Path, params: &CertificateParams) -> Self {
        let key = KeyPair::from_pem(&std::fs::read_to_string(ca_key).unwrap()).unwrap();
        let issuer = CertificateIssuer::from_ca_cert_pem(&std::fs::read_to_string(ca_pem).unwrap(), key).unwrap();
        let own = KeyPair::generate().unwrap();
        Self::write(&params.signed_by(&own, &issuer).unwrap(), &own)
    }

    /// One that dev's CA signed.
    pub(crate) fn of_dev(dev: &Dev, params: &CertificateParams) -> Self {
        Self::signed(&dev.dir().join("control/ca.pem"), &dev.dir().join("control/ca.key"), params)
    }

    /// One that nobody but itself signed.
    pub(crate) fn self_signed(params: &CertificateParams) -> Self {
        let own = KeyPair::generate().unwrap();
        Self::write(&params.self_signed(&own).unwrap(), &own)
    }

    fn write(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (cert, key) = (put("cert.pem", certificate.pem()), put("key.pem", key.serialize_pem()));
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate.der());
        Self { cert, key, thumbprint: URL_SAFE_NO_PAD.encode(digest), _dir: dir }
    }
}
