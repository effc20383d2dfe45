//! Values that only the control plane can have written.
//!
//! A sealed value carries an HMAC-SHA-256 under a key that is kept outside the store, over the store key as well: who
//! can write the store, but has not that key, can neither make a value nor move one to another place. What a seal does
//! not show is absence and age: such a writer can still delete a value, or put back an older one of the same place.

use std::fmt;
use std::path::Path;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use bytes::{BufMut as _, Bytes, BytesMut};
use zeroize::Zeroizing;

use crate::files;

/// Length of a seal key, in bytes: the output of the hash, which RFC 2104 asks for at least.
pub const SEAL_KEY_BYTES: usize = 32;
/// What sealing adds to a value: a format byte and the MAC.
pub const SEAL_BYTES: usize = 1 + TAG_BYTES;

const TAG_BYTES: usize = 32;
const FORMAT: u8 = 1;
/// Nothing else that is ever made with this key begins so.
const PURPOSE: &[u8] = b"portcullis sealed store value 1\0";

/// What keys for something else are made from begins so.
const DERIVED: &[u8] = b"portcullis derived key 1\0";

/// Why a value does not count, or the key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("the value carries no seal")]
    NotSealed,
    #[error("the value's seal is not of this key, or not for this place")]
    Forged,
    #[error("the seal key in {path}: {cause}")]
    KeyFile { path: String, cause: std::io::Error },
    #[error("the system gives no randomness")]
    NoRandomness,
}

/// The key that seals and opens.
pub struct SealKey(hmac::Key);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

impl SealKey {
    pub fn from_bytes(bytes: &[u8; SEAL_KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Reads the key file at `path`, 32 bytes of mode 0600; creates it with random ones if there is none.
    ///
    /// # Errors
    /// [`SealError::KeyFile`] when it has another length, others may read it, or the file system says no.
    pub fn open_or_create(path: &Path) -> Result<Self, SealError> {
        match Self::open_file(path) {
            Err(SealError::KeyFile { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut bytes = Zeroizing::new([0; SEAL_KEY_BYTES]);
        SystemRandom::new().fill(&mut *bytes).map_err(|_| SealError::NoRandomness)?;
        match files::create_new(path, &*bytes, files::PRIVATE) {
            // Another process was first: its key is the one.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Self::open_file(path),
            Err(cause) => Err(key_file(path, cause)),
            Ok(()) => Ok(Self::from_bytes(&bytes)),
        }
    }

    /// Reads the key file at `path`, which must be there: a lost key is not to be replaced in silence.
    ///
    /// # Errors
    /// As [`Self::open_or_create`], and when there is none.
    pub fn open_file(path: &Path) -> Result<Self, SealError> {
        let limit = SEAL_KEY_BYTES as u64;
        let bytes = Zeroizing::new(files::read_private(path, limit).map_err(|cause| key_file(path, cause))?);
        let bytes: &[u8; SEAL_KEY_BYTES] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| key_file(path, std::io::Error::new(std::io::ErrorKind::InvalidData, "not 32 bytes long")))?;
        Ok(Self::from_bytes(bytes))
    }

    /// A key of its own for something else, which tells nothing of this one.
    pub fn derived(&self, purpose: &str) -> hmac::Key {
        let bytes = hmac::sign(&self.0, &[DERIVED, purpose.as_bytes()].concat());
        hmac::Key::new(hmac::HMAC_SHA256, bytes.as_ref())
    }

    /// `value` with the seal for `key`; longer by [`SEAL_BYTES`].
    pub fn seal(&self, key: &[u8], value: &[u8]) -> Bytes {
        let tag = hmac::sign(&self.0, &message(key, value));
        let mut sealed = BytesMut::with_capacity(value.len().saturating_add(SEAL_BYTES));
        sealed.put_u8(FORMAT);
        sealed.put_slice(tag.as_ref());
        sealed.put_slice(value);
        sealed.freeze()
    }

    /// The value that was sealed for `key`.
    ///
    /// # Errors
    /// [`SealError::NotSealed`] when it is too short or of an unknown format, [`SealError::Forged`] when its MAC is
    /// not that of this key, this place and this value.
    pub fn open(&self, key: &[u8], sealed: &Bytes) -> Result<Bytes, SealError> {
        let (Some(&FORMAT), Some(tag)) = (sealed.first(), sealed.get(1..SEAL_BYTES)) else {
            return Err(SealError::NotSealed);
        };
        let value = sealed.slice(SEAL_BYTES..);
        // Compared in constant time.
        hmac::verify(&self.0, &message(key, &value), tag).map_err(|_| SealError::Forged)?;
        Ok(value)
    }
}

/// What is authenticated. The length keeps the end of a key from being the start of a value.
fn message(key: &[u8], value: &[u8]) -> Vec<u8> {
    let length = u64::try_from(key.len()).unwrap_or(u64::MAX);
    [PURPOSE, &length.to_be_bytes(), key, value].concat()
}

fn key_file(path: &Path, cause: std::io::Error) -> SealError {
    SealError::KeyFile { path: path.display().to_string(), cause }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    fn key() -> SealKey {
        SealKey::from_bytes(&[7; SEAL_KEY_BYTES])
    }

    /// HMAC-SHA-256 written out (RFC 2104), so that the format can be checked by others.
    #[test]
    fn the_seal_is_the_documented_mac() {
        use aws_lc_rs::digest::{SHA256, digest};
        let pad = |byte: u8| {
            let mut block = [byte; 64];
            block[..SEAL_KEY_BYTES].iter_mut().for_each(|own| *own ^= 7);
            block
        };
        let length = 3u64.to_be_bytes();
        let message = [&b"portcullis sealed store value 1\0"[..], &length, b"a/b", b"value"].concat();
        let inner = digest(&SHA256, &[&pad(0x36)[..], &message].concat());
        let outer = digest(&SHA256, &[&pad(0x5c)[..], inner.as_ref()].concat());
        assert_eq!(key().seal(b"a/b", b"value"), [&[1], outer.as_ref(), b"value"].concat());
    }

    #[test]
    fn a_value_moved_to_another_key_does_not_open() {
        let sealed = key().seal(b"grant/a", b"b");
        assert_eq!(key().open(b"grant/a", &sealed).unwrap(), "b");
        assert!(matches!(key().open(b"grant/b", &sealed), Err(SealError::Forged)));
        let shifted = Bytes::from([&sealed[..SEAL_BYTES], b"ab"].concat());
        assert!(matches!(key().open(b"grant/", &shifted), Err(SealError::Forged)), "key and value do not run together");
    }

    #[test]
    fn another_key_does_not_open() {
        let sealed = SealKey::from_bytes(&[8; SEAL_KEY_BYTES]).seal(b"k", b"v");
        assert!(matches!(key().open(b"k", &sealed), Err(SealError::Forged)));
    }

    proptest! {
        #[test]
        fn no_changed_byte_opens(value in prop::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let sealed = key().seal(b"k", &value);
            prop_assert_eq!(key().open(b"k", &sealed).unwrap(), value);
            let mut changed = sealed.to_vec();
            let at = at.index(changed.len());
            changed[at] ^= flip;
            prop_assert!(key().open(b"k", &changed.into()).is_err());
            prop_assert!(key().open(b"k", &sealed.slice(..at)).is_err());
        }
    }

    #[test]
    fn the_key_file_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seal.key");
        assert!(SealKey::open_file(&path).is_err());
        let sealed = SealKey::open_or_create(&path).unwrap().seal(b"k", b"v");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(SealKey::open_or_create(&path).unwrap().open(b"k", &sealed).unwrap(), "v");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(SealKey::open_or_create(&path).is_err(), "others may read it");
    }

    #[test]
    fn a_key_file_of_another_length_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        for length in [0, 31, 33] {
            let path = dir.path().join(length.to_string());
            files::write(&path, &vec![1; length], files::PRIVATE).unwrap();
            assert!(SealKey::open_or_create(&path).is_err());
            assert_eq!(std::fs::read(&path).unwrap().len(), length);
        }
    }
}
