//! Values that must not stand in a log, as what finds them again: HMAC-SHA-256 (RFC 2104) under a key of the gateway's.
//!
//! Without the key nothing is learnt of a value, however few it could be; with it, whether a value that one knows is the
//! one. What is keyed is the value's SHA-256, so that a body can be hashed while it comes. A key has an identifier, which
//! stands beside each hash: records made under an old key are found by whoever keeps that key.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::entry::{Hashed, hex};
use super::tree::sha256;
use crate::files;

/// The key in use, in a gateway's state directory.
pub const HASH_KEY_FILE: &str = "evidence-hash.key";
/// What stands before the key in its file.
const PREFIX: &str = "portcullis-evidence-hash/1:";
const KEY_BYTES: usize = 32;
const MAX_FILE_BYTES: u64 = 256;
/// The identifier's separation from every other hash of the key.
const ID_CONTEXT: &[u8] = b"portcullis evidence hash key id\n";

/// A key. Shows its identifier and nothing else.
pub struct HashKey {
    id: String,
    secret: Zeroizing<[u8; KEY_BYTES]>,
    key: hmac::Key,
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HashKeyError {
    /// The disk fails, or others may read it.
    #[error("{file}: {error}", file = .0.display(), error = .1)]
    File(PathBuf, io::Error),
    /// It holds something else.
    #[error("{}: not a key for hashes of the evidence", .0.display())]
    Malformed(PathBuf),
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes")]
    Random,
}

/// What a rotation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// Identifier of the key that was in use, and where it is kept.
    pub old: Option<(String, PathBuf)>,
    /// Identifier of the one that is.
    pub new: String,
}

impl HashKey {
    /// A new one.
    ///
    /// # Errors
    /// When there are no random bytes.
    pub fn generate() -> Result<Self, HashKeyError> {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        aws_lc_rs::rand::fill(&mut *secret).map_err(|_| HashKeyError::Random)?;
        Ok(Self::of(secret))
    }

    fn of(secret: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        let named = Zeroizing::new([ID_CONTEXT, &secret[..]].concat());
        let id = hex(sha256(&named).get(..8).unwrap_or_default());
        Self { id, key: hmac::Key::new(hmac::HMAC_SHA256, &secret[..]), secret }
    }

    /// The key of a file that nobody but its owner may read.
    ///
    /// # Errors
    /// When it cannot be read, or holds something else.
    pub fn read(path: &Path) -> Result<Self, HashKeyError> {
        let bytes = files::read_private(path, MAX_FILE_BYTES).map(Zeroizing::new);
        let bytes = bytes.map_err(|error| HashKeyError::File(path.to_owned(), error))?;
        let malformed = || HashKeyError::Malformed(path.to_owned());
        let text = std::str::from_utf8(&bytes).map_err(|_| malformed())?;
        let encoded = text.trim_end().strip_prefix(PREFIX).ok_or_else(malformed)?;
        let decoded = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| malformed())?);
        let secret: [u8; KEY_BYTES] = decoded.as_slice().try_into().map_err(|_| malformed())?;
        Ok(Self::of(Zeroizing::new(secret)))
    }

    /// The key of a file, made when there is none.
    ///
    /// # Errors
    /// When it cannot be read or made, or holds something else.
    pub fn load_or_create(path: &Path) -> Result<Self, HashKeyError> {
        match Self::read(path) {
            Err(HashKeyError::File(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate()?;
                files::create_new(path, key.text().as_bytes(), 0o600)
                    .map_err(|error| HashKeyError::File(path.to_owned(), error))?;
                Ok(key)
            }
            other => other,
        }
    }

    fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}\n", STANDARD.encode(&self.secret[..])))
    }

    /// Keeps it beside the key in use, under its identifier: where. Nothing is done when it is there already.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, directory: &Path) -> Result<PathBuf, HashKeyError> {
        let path = directory.join(format!("evidence-hash-{}.key", self.id));
        match files::create_new(&path, self.text().as_bytes(), 0o600) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(HashKeyError::File(path, error)),
            Ok(()) | Err(_) => Ok(path),
        }
    }

    /// Its identifier: 16 hexadecimal digits, of which nothing else of it can be told.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The hash of a value, 64 hexadecimal digits.
    pub fn hash(&self, value: &[u8]) -> String {
        self.hash_digest(&sha256(value))
    }

    /// The same of a value whose SHA-256 this is.
    pub fn hash_digest(&self, sha256: &[u8; 32]) -> String {
        hex(hmac::sign(&self.key, sha256).as_ref())
    }

    /// A value of `bytes` bytes, as a record holds it.
    pub fn hashed(&self, bytes: u64, sha256: &[u8; 32]) -> Hashed {
        Hashed::Keyed { bytes, hmac: self.hash_digest(sha256), key: self.id.clone() }
    }
}

/// Puts a new key in the place of the one in a state directory, which is kept under its identifier.
///
/// # Errors
/// When a file cannot be read or written. A crash leaves the old key in use, and perhaps a copy of it under its name.
pub fn rotate(directory: &Path) -> Result<Rotated, HashKeyError> {
    let path = directory.join(HASH_KEY_FILE);
    let old = match HashKey::read(&path) {
        Ok(old) => Some((old.id.clone(), old.keep(directory)?)),
        Err(HashKeyError::File(_, error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let new = HashKey::generate()?;
    files::write(&path, new.text().as_bytes(), 0o600).map_err(|error| HashKeyError::File(path, error))?;
    Ok(Rotated { old, new: new.id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_hmac_sha256_of_the_values_sha256() {
        // `printf 'hunter2' | openssl dgst -sha256 -binary | openssl dgst -sha256 -mac HMAC -macopt hexkey:0b…0b`
        let key = HashKey::of(Zeroizing::new([0x0b; 32]));
        let other = HashKey::of(Zeroizing::new([0x0c; 32]));
        let expected = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[0x0b; 32]), &sha256(b"hunter2"));
        assert_eq!(key.hash(b"hunter2"), hex(expected.as_ref()));
        assert_ne!(key.hash(b"hunter2"), other.hash(b"hunter2"));
        assert_ne!((key.id(), key.id().len()), (other.id(), 0));
        assert!(!format!("{key:?}").contains("0b0b") && key.id().len() == 16);
    }

    #[test]
    fn a_key_is_made_once_kept_when_it_is_replaced_and_read_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(HASH_KEY_FILE);
        let first = HashKey::load_or_create(&path).unwrap();
        assert_eq!(HashKey::load_or_create(&path).unwrap().id(), first.id());
        let rotated = rotate(dir.path()).unwrap();
        let (old, kept) = rotated.old.unwrap();
        assert_eq!((old.as_str(), HashKey::read(&kept).unwrap().hash(b"v")), (first.id(), first.hash(b"v")));
        let second = HashKey::read(&path).unwrap();
        assert_eq!((second.id(), second.id() == first.id()), (rotated.new.as_str(), false));
        assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(HashKey::load_or_create(&path), Err(HashKeyError::File(..))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        files::write(&path, b"portcullis-evidence-hash/1:AAAA\n", 0o600).unwrap();
        assert!(matches!(HashKey::load_or_create(&path), Err(HashKeyError::Malformed(_))));
    }
}
