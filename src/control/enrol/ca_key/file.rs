//! Keys in files: `LABEL.key` beside the CA's certificate, PKCS#8 in PEM, mode 0600.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};

use super::super::{EnrolError, MAX_FILE_BYTES};
use super::{CaAlgorithm, CaKeyError, CaKeys};
use crate::files;

/// The keys of a directory.
#[derive(Debug)]
pub(super) struct FileKeys {
    dir: PathBuf,
}

impl FileKeys {
    pub(super) fn in_dir(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn path(&self, label: &str) -> PathBuf {
        self.dir.join(format!("{label}.key"))
    }

    fn read(&self, label: &str) -> Result<KeyPair, CaKeyError> {
        key(&self.path(label)).map_err(|error| refused(label, &error))
    }
}

fn refused(label: &str, why: &impl std::fmt::Display) -> CaKeyError {
    CaKeyError::Refused { label: label.to_owned(), why: why.to_string() }
}

#[async_trait]
impl CaKeys for FileKeys {
    async fn public_key(&self, label: &str) -> Result<Option<Vec<u8>>, CaKeyError> {
        if !self.path(label).exists() {
            return Ok(None);
        }
        Ok(Some(self.read(label)?.subject_public_key_info()))
    }

    async fn sign(&self, label: &str, _algorithm: CaAlgorithm, message: &[u8]) -> Result<Vec<u8>, CaKeyError> {
        // The algorithm is the key's own: it says which one it is by its kind.
        self.read(label)?.sign(message).map_err(|error| refused(label, &error))
    }

    async fn make(&self, label: &str) -> Result<(), CaKeyError> {
        self.read(label).map(drop)
    }

    async fn destroy(&self, label: &str) -> Result<(), CaKeyError> {
        match std::fs::remove_file(self.path(label)) {
            Ok(()) => files::sync_dir(&self.dir).map_err(|error| refused(label, &error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(refused(label, &error)),
        }
    }
}

/// The key in `path`, ECDSA P-256; made, with its directory, when there is none.
///
/// # Errors
/// When the file cannot be read or written, or holds something else.
pub(in super::super) fn key(path: &Path) -> Result<KeyPair, EnrolError> {
    let file = |source| EnrolError::File { path: path.to_owned(), source };
    let unusable = |why: String| EnrolError::Unusable { path: path.to_owned(), why };
    match files::read_private(path, MAX_FILE_BYTES) {
        Ok(pem) => {
            let pem = zeroize::Zeroizing::new(pem);
            let text = std::str::from_utf8(&pem).map_err(|_| unusable("is not PEM".to_owned()))?;
            KeyPair::from_pem(text).map_err(|error| unusable(format!("is not a private key: {error}")))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
            let pem = zeroize::Zeroizing::new(key.serialize_pem());
            if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
                files::private_dir(dir).map_err(|source| EnrolError::File { path: dir.to_owned(), source })?;
            }
            files::create_new(path, pem.as_bytes(), files::PRIVATE).map_err(file)?;
            Ok(key)
        }
        Err(error) => Err(file(error)),
    }
}
