//! What is kept of somebody who signed in: one file for each context, its owner's alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::provider::Tokens;
use super::{SPARE, SignIn, SignInError, Signed};
use crate::client::jwt;
use crate::domain::Timestamp;
use crate::files;

/// Largest file read: two tokens.
const MAX_BYTES: u64 = 64 << 10;
/// How often a lock that somebody else has is asked for, and how many times: longer than a refresh may take.
const LOCK_EVERY: Duration = Duration::from_millis(50);
const LOCK_TIMES: u32 = 1_200;

/// What is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    issuer: String,
    client_id: String,
    pub(super) id_token: Zeroizing<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refresh_token: Option<Zeroizing<String>>,
}

impl Kept {
    pub(super) fn of(at: &SignIn, tokens: Tokens) -> Self {
        let Tokens { id_token, refresh_token } = tokens;
        Self { issuer: at.issuer.clone(), client_id: at.client_id.clone(), id_token, refresh_token }
    }

    /// What is kept of who signed in there.
    pub(super) fn read(path: &Path, at: &SignIn) -> Result<Self, SignInError> {
        let bytes = match files::read_private(path, MAX_BYTES) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(at.not_signed_in("nobody has signed in"));
            }
            Err(source) => return Err(SignInError::File { path: path.to_owned(), source }),
        };
        let kept: Self = serde_json::from_slice(&bytes).map_err(|_| at.not_signed_in("what was kept does not read"))?;
        if kept.issuer != at.issuer || kept.client_id != at.client_id {
            return Err(at.not_signed_in("what was kept is of another provider"));
        }
        Ok(kept)
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), SignInError> {
        let fault = |source| SignInError::File { path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            files::private_dir(dir).map_err(fault)?;
        }
        let text = Zeroizing::new(serde_json::to_vec(self).map_err(|error| fault(error.into()))?);
        files::write(path, &text, files::PRIVATE).map_err(fault)
    }

    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        self.expires().is_some_and(|end| now.saturating_add(SPARE) < end)
    }

    fn expires(&self) -> Option<Timestamp> {
        let look = jwt::look(&self.id_token, Timestamp::default()).ok()?;
        let seconds = look.claims.get("exp")?.as_f64()?;
        // Past what a timestamp holds, the cast is its end.
        Some(Timestamp::from_unix_micros((seconds * 1e6) as i64))
    }

    pub(super) fn signed(&self) -> Signed {
        Signed { token: self.id_token.clone(), expires: self.expires(), renewable: self.refresh_token.is_some() }
    }
}

/// Takes the file's lock, which ends with the value.
pub(super) async fn lock(path: &Path) -> Result<File, SignInError> {
    let beside: PathBuf = path.with_extension("lock");
    let fault = |source| SignInError::File { path: beside.clone(), source };
    let open = OpenOptions::new().create(true).truncate(false).write(true).mode(files::PRIVATE).open(&beside);
    let file = open.map_err(fault)?;
    for _ in 0..LOCK_TIMES {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => tokio::time::sleep(LOCK_EVERY).await,
            Err(error) => return Err(fault(error.into())),
        }
    }
    Err(fault(io::Error::new(io::ErrorKind::TimedOut, "another command has been refreshing the token for a minute")))
}

/// Removes what is kept; whether there was any.
pub(super) fn remove(path: &Path) -> Result<bool, SignInError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(SignInError::File { path: path.to_owned(), source }),
    }
}
