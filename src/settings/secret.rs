//! Secrets that settings name by file.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Largest secret that is read: a certificate chain with its key fits many times.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Why a secret cannot be used. Never holds any of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Nothing is in it.
    #[error("{}: is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It is larger than any secret of ours.
    #[error("{}: is larger than 64 KiB", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// The bytes of the secret in `path`, without line ends at its end; wiped from memory when dropped.
///
/// # Errors
/// When the file cannot be read, is empty, or is larger than 64 KiB.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let unreadable = |error| SecretError::Unreadable { path: path.to_owned(), error };
    // Room for all of it from the start: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_SECRET_BYTES).unwrap_or(0) + 1));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(SecretError::TooLarge { path: path.to_owned() });
    }
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    if bytes.is_empty() { Err(SecretError::Empty { path: path.to_owned() }) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_secret_is_its_bytes_without_line_ends() {
        let read = |content: &[u8]| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(content).unwrap();
            read_secret(file.path()).map(|bytes| bytes.to_vec())
        };
        assert_eq!(read(b"s3cret\r\n\n").unwrap(), b"s3cret");
        assert!(matches!(read(b"\n"), Err(SecretError::Empty { .. })));
        assert!(matches!(read(&vec![b'x'; 70_000]), Err(SecretError::TooLarge { .. })));
        assert!(matches!(read_secret(Path::new("/nonexistent/secret")), Err(SecretError::Unreadable { .. })));
    }
}
