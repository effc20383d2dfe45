//! Which of its logs a gateway writes: the first one, or one that was begun after a seal.
//!
//! A log that lost records gets no authority. It is sealed: set aside as it is, and the next one begins under a name of
//! its own, which the control plane takes note of.

use std::io;
use std::path::{Path, PathBuf};

use crate::domain::name::GatewayName;
use crate::evidence::checkpoint::{NoteError, Origin};
use crate::evidence::storage::DiskStorage;
use crate::files;

const FILE: &str = "evidence.number";

/// Why a log cannot be sealed, or is not known.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file system says so.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
    /// The file with the number holds something else.
    #[error("{}: not a number", .0.display())]
    Number(PathBuf),
    /// The gateway still writes it.
    #[error("{}: {error}; stop the gateway first", path.display())]
    InUse {
        /// Its directory.
        path: PathBuf,
        /// What opening it says.
        error: io::Error,
    },
}

/// A log that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Where it is now; `None` when there was none.
    pub moved_to: Option<PathBuf>,
    /// The number of the log that the gateway will write next.
    pub next: u64,
}

/// The name of a replica that joined by attestation.
const NAME_FILE: &str = "gateway.name";

/// Writes down what a replica is called.
///
/// # Errors
/// When the file cannot be written.
pub fn name_replica(state_dir: &Path, name: &GatewayName) -> io::Result<()> {
    files::write(&state_dir.join(NAME_FILE), name.as_str().as_bytes(), files::PUBLIC)
}

/// What a gateway of the settings' name is called: its own name as a replica, where it joined by attestation.
pub fn replica(state_dir: &Path, name: &GatewayName) -> GatewayName {
    let written = std::fs::read_to_string(state_dir.join(NAME_FILE)).unwrap_or_default();
    let is_of_it =
        |found: &GatewayName| found.as_str().strip_prefix(name.as_str()).is_some_and(|it| it.starts_with('-'));
    written.trim().parse().ok().filter(is_of_it).unwrap_or_else(|| name.clone())
}

/// Largest evidence key that is read.
const MAX_KEY_BYTES: u64 = 64 * 1024;

/// Takes the evidence key that was made with the gateway's certificate, where it has none yet: the one in `made` becomes the
/// one in `file`, and is nowhere else. Whoever finds the certificate later finds no key with it.
///
/// # Errors
/// When a file cannot be read or written.
pub fn adopt_key(made: &Path, file: &Path) -> io::Result<()> {
    if file.exists() || !made.exists() {
        return Ok(());
    }
    let key = zeroize::Zeroizing::new(files::read_private(made, MAX_KEY_BYTES)?);
    // A crash after this leaves both, which are the same: the one in use is found first.
    files::create_new(file, &key, files::PRIVATE)?;
    if let Err(error) = std::fs::remove_file(made) {
        tracing::warn!(%error, file = %made.display(), "this evidence key is in use elsewhere now: remove this copy");
    }
    Ok(())
}

/// The number of the log that a gateway writes, from 1.
///
/// # Errors
/// When its file cannot be read.
pub fn number(state_dir: &Path) -> Result<u64, SealError> {
    let path = state_dir.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| SealError::Number(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(1),
        Err(error) => Err(SealError::Io { path, error }),
    }
}

/// The name of that log.
///
/// # Errors
/// When the gateway's name is too long for one.
pub fn origin(gateway: &GatewayName, number: u64) -> Result<Origin, NoteError> {
    if number > 1 { format!("portcullis/gateway/{gateway}/{number}") } else { format!("portcullis/gateway/{gateway}") }
        .parse()
}

/// Sets the log of a gateway that is not running aside, beside where it was, and has the next one begin.
///
/// # Errors
/// When the gateway runs, or a file cannot be written or moved.
pub fn seal(state_dir: &Path, evidence: &Path) -> Result<Sealed, SealError> {
    let current = number(state_dir)?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| SealError::Io { path, error }
    };
    // Its lock is the writer's: nobody writes it from here on.
    let lock = if evidence.exists() {
        Some(DiskStorage::open(evidence).map_err(|error| SealError::InUse { path: evidence.to_owned(), error })?)
    } else {
        None
    };
    let next = current.saturating_add(1);
    files::write(&state_dir.join(FILE), format!("{next}\n").as_bytes(), files::PRIVATE).map_err(io(state_dir))?;
    // A crash here leaves a log that does not open under its next name; sealing again sets it aside.
    let moved_to = match lock {
        None => None,
        Some(lock) => {
            let mut name = evidence.file_name().unwrap_or_default().to_owned();
            name.push(format!(".sealed-{current}"));
            let aside = evidence.with_file_name(name);
            std::fs::rename(evidence, &aside).map_err(io(evidence))?;
            drop(lock);
            Some(aside)
        }
    };
    Ok(Sealed { moved_to, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_set_aside_whole_and_the_next_has_a_name_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (state, evidence) = (dir.path(), dir.path().join("evidence"));
        let name: GatewayName = "edge".parse().unwrap();
        assert_eq!(origin(&name, number(state).unwrap()).unwrap().as_str(), "portcullis/gateway/edge");
        let running = DiskStorage::open(&evidence).unwrap();
        assert!(matches!(seal(state, &evidence), Err(SealError::InUse { .. })), "somebody writes it");
        assert_eq!(number(state).unwrap(), 1);
        drop(running);
        files::write(&evidence.join("record"), b"kept", files::PRIVATE).unwrap();
        let sealed = seal(state, &evidence).unwrap();
        assert_eq!(sealed, Sealed { moved_to: Some(dir.path().join("evidence.sealed-1")), next: 2 });
        assert_eq!(std::fs::read(dir.path().join("evidence.sealed-1/record")).unwrap(), b"kept");
        assert!(!evidence.exists());
        assert_eq!(origin(&name, number(state).unwrap()).unwrap().as_str(), "portcullis/gateway/edge/2");
        assert_eq!(seal(state, &evidence).unwrap(), Sealed { moved_to: None, next: 3 });
        files::write(&state.join(FILE), b"two", files::PRIVATE).unwrap();
        assert!(matches!(number(state), Err(SealError::Number(_))));
    }
}
