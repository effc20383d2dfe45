//! The files of a log's key: the private one, given by whoever runs the log, and `log.json` beside the records.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::checkpoint::{EvidenceKey, KeyError, NoteError, VerifierKey};
use super::storage::{Persist, Storage, read_file};

/// What the log's directory says of the log.
pub const LOG_FILE: &str = "log.json";
/// Longest such file.
pub const MAX_LOG_FILE_BYTES: usize = 4096;
/// Longest private key file.
const MAX_KEY_BYTES: u64 = 4096;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The disk fails.
    #[error("the evidence key cannot be read or written: {0}")]
    Disk(#[from] io::Error),
    /// It holds something else.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl EvidenceKey {
    /// Loads the key of a file (PKCS#8, DER), or makes one and keeps it there, readable by its owner alone.
    ///
    /// # Errors
    /// When the file cannot be read or made, or holds something else.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyFileError> {
        match File::open(path) {
            Ok(file) => {
                let mut der = zeroize::Zeroizing::new(Vec::new());
                file.take(MAX_KEY_BYTES).read_to_end(&mut der)?;
                Ok(Self::from_pkcs8(&der)?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (key, der) = Self::generate()?;
                let der = zeroize::Zeroizing::new(der);
                let beside = path.with_added_extension("tmp");
                let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
                file.write_all(&der)?;
                file.sync_all()?;
                // A crash here leaves no key, and nothing that was signed with this one.
                std::fs::rename(&beside, path)?;
                if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                    File::open(parent)?.sync_all()?;
                }
                Ok(key)
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogFile {
    origin: String,
    vkey: String,
}

/// Why `log.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogFileError {
    /// The disk fails, or it is not there.
    #[error("{LOG_FILE}: {0}")]
    Disk(#[from] io::Error),
    /// It is not what it should be.
    #[error("{LOG_FILE}: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It names no key.
    #[error("{LOG_FILE}: {0}")]
    Key(#[from] NoteError),
    /// Its two members disagree.
    #[error("{LOG_FILE}: the key is not of this origin")]
    Origin,
}

/// The key that a log's directory names.
pub fn read_log_file(storage: &dyn Storage) -> Result<VerifierKey, LogFileError> {
    let file: LogFile = serde_json::from_slice(&read_file(storage, LOG_FILE, MAX_LOG_FILE_BYTES)?)?;
    let key: VerifierKey = file.vkey.parse()?;
    if key.name().as_str() == file.origin { Ok(key) } else { Err(LogFileError::Origin) }
}

pub(super) fn write_log_file(storage: &dyn Storage, key: &VerifierKey) -> Result<(), LogFileError> {
    Ok(storage.write_file(LOG_FILE, &log_file_bytes(key)?, Persist::Now)?)
}

/// What stands in `log.json`.
pub(super) fn log_file_bytes(key: &VerifierKey) -> Result<Vec<u8>, LogFileError> {
    let file = LogFile { origin: key.name().to_string(), vkey: key.to_string() };
    let mut bytes = serde_json::to_vec_pretty(&file)?;
    bytes.push(b'\n');
    Ok(bytes)
}
