//! The key that a CA signs with, wherever it is kept.
//!
//! The CA knows a key by its label, asks for its public half and has bytes signed: what a KMS does. The key in a file
//! beside the CA's certificate is one home; a command that asks whoever keeps the key is the other. What came back is
//! verified before anybody sees it, so that a signer that errs issues nothing.

mod command;
mod file;

use std::fmt;
use std::path::Path;

use async_trait::async_trait;
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey, SubjectPublicKeyInfo};

pub(super) use file::key;

use super::EnrolError;
use crate::settings::control::CaSignerSettings;

/// How bytes are signed, as RFC 5280 signs certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaAlgorithm {
    /// ECDSA with P-256 and SHA-256; the signature as ASN.1 (RFC 3279 section 2.2.3).
    EcdsaP256Sha256,
    /// ECDSA with P-384 and SHA-384, likewise.
    EcdsaP384Sha384,
    /// RSASSA-PKCS1-v1_5 with SHA-256, 2048 bits at least.
    RsaPkcs1Sha256,
}

impl CaAlgorithm {
    /// As a signing command is told it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256Sha256 => "ecdsa-p256-sha256",
            Self::EcdsaP384Sha384 => "ecdsa-p384-sha384",
            Self::RsaPkcs1Sha256 => "rsa-pkcs1-sha256",
        }
    }

    /// The one that a public key signs with: one algorithm per key.
    fn of(key: &SubjectPublicKeyInfo) -> Option<Self> {
        let known = [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Self::EcdsaP256Sha256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Self::EcdsaP384Sha384),
            (&rcgen::PKCS_RSA_SHA256, Self::RsaPkcs1Sha256),
        ];
        known.into_iter().find_map(|(algorithm, named)| (key.algorithm() == algorithm).then_some(named))
    }

    fn verifies(self, key: &[u8], message: &[u8], signed: &[u8]) -> bool {
        let algorithm: &dyn VerificationAlgorithm = match self {
            Self::EcdsaP256Sha256 => &signature::ECDSA_P256_SHA256_ASN1,
            Self::EcdsaP384Sha384 => &signature::ECDSA_P384_SHA384_ASN1,
            Self::RsaPkcs1Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(algorithm, key).verify(message, signed).is_ok()
    }
}

/// Why a key signs nothing.
#[derive(Debug, thiserror::Error)]
pub enum CaKeyError {
    /// Whoever keeps the key cannot be asked, or refuses.
    #[error("the CA's key `{label}`: {why}")]
    Refused {
        /// Which key.
        label: String,
        /// What is said.
        why: String,
    },
    /// What came back is no public key of a kind that signs certificates here.
    #[error("the CA's key `{0}` is not of ECDSA P-256, ECDSA P-384 or RSA (2048 bits at least)")]
    Kind(String),
    /// What came back is not a signature of this key.
    #[error("the CA's key `{0}`: what came back is not its signature")]
    Signature(String),
}

/// Where keys of a CA are: each signs, and none comes out.
#[async_trait]
pub trait CaKeys: fmt::Debug + Send + Sync {
    /// The public half of the key of that name: a SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7), PEM or DER. `None`:
    /// there is none.
    async fn public_key(&self, label: &str) -> Result<Option<Vec<u8>>, CaKeyError>;

    /// The signature of that key over these bytes.
    async fn sign(&self, label: &str, algorithm: CaAlgorithm, message: &[u8]) -> Result<Vec<u8>, CaKeyError>;

    /// Makes a key of that name where there is none, where keys are made by whoever signs.
    async fn make(&self, label: &str) -> Result<(), CaKeyError>;

    /// Removes the key of that name for good, where that is ours to do.
    async fn destroy(&self, label: &str) -> Result<(), CaKeyError>;
}

/// Where the settings say that keys are, for a CA in `dir`.
pub(super) fn keys(dir: &Path, signer: Option<&CaSignerSettings>) -> std::sync::Arc<dyn CaKeys> {
    match signer {
        None => std::sync::Arc::new(file::FileKeys::in_dir(dir)),
        Some(settings) => std::sync::Arc::new(command::CommandKeys::of(settings)),
    }
}

/// A key of a CA, known by its public half.
#[derive(Clone, Debug)]
pub(super) struct CaKey {
    label: String,
    algorithm: CaAlgorithm,
    public: std::sync::Arc<SubjectPublicKeyInfo>,
    keys: std::sync::Arc<dyn CaKeys>,
}

impl CaKey {
    /// The key of that name; `None`: there is none.
    pub(super) async fn open(keys: &std::sync::Arc<dyn CaKeys>, label: &str) -> Result<Option<Self>, EnrolError> {
        let Some(told) = keys.public_key(label).await? else { return Ok(None) };
        let read = match std::str::from_utf8(&told).ok().filter(|text| text.contains("-----BEGIN")) {
            Some(pem) => SubjectPublicKeyInfo::from_pem(pem),
            None => SubjectPublicKeyInfo::from_der(&told),
        };
        let public = read.map_err(|_| CaKeyError::Kind(label.to_owned()))?;
        let algorithm = CaAlgorithm::of(&public).ok_or_else(|| CaKeyError::Kind(label.to_owned()))?;
        Ok(Some(Self { label: label.to_owned(), algorithm, public: public.into(), keys: keys.clone() }))
    }

    /// The public half, as it stands in certificates.
    pub(super) fn spki(&self) -> Vec<u8> {
        self.public.subject_public_key_info()
    }

    /// What identifies it in the certificates that it issues (RFC 5280 section 4.2.1.1).
    pub(super) fn identifier(&self) -> Vec<u8> {
        rcgen::CertificateParams::default().key_identifier(&*self.public)
    }

    /// What `build` makes when it signs with this key. It is called twice and must make the same bytes: the library signs
    /// while it writes, and whoever keeps the key answers when they do. So it writes once to learn what is to be signed,
    /// and once more with the signature.
    pub(super) async fn signing<T>(
        &self,
        build: impl Fn(&Written<'_>) -> Result<T, rcgen::Error> + Send + Sync,
    ) -> Result<T, EnrolError> {
        let message = {
            let learning = Written { key: &self.public, known: None, asked: parking_lot::Mutex::default() };
            let _ = build(&learning)?;
            learning.asked.into_inner()
        };
        let signed = self.keys.sign(&self.label, self.algorithm, &message).await?;
        if !self.algorithm.verifies(self.public.der_bytes(), &message, &signed) {
            return Err(CaKeyError::Signature(self.label.clone()).into());
        }
        let written = Written { key: &self.public, known: Some((message, signed)), asked: Default::default() };
        Ok(build(&written)?)
    }
}

/// A key as the library that writes certificates sees it.
pub(super) struct Written<'k> {
    key: &'k SubjectPublicKeyInfo,
    /// What is signed, and by which signature.
    known: Option<(Vec<u8>, Vec<u8>)>,
    asked: parking_lot::Mutex<Vec<u8>>,
}

impl PublicKeyData for Written<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.key.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.key.algorithm()
    }
}

impl SigningKey for Written<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match &self.known {
            Some((known, signature)) if known == message => Ok(signature.clone()),
            // INVARIANT: a signature stands under the bytes that were signed, and under no others.
            Some(_) => Err(rcgen::Error::RemoteKeyError),
            None => {
                message.clone_into(&mut self.asked.lock());
                Ok(Vec::new())
            }
        }
    }
}

#[cfg(test)]
mod tests;
