//! What the control plane remembers beside its store: the latest commit that anybody may have heard of.
//!
//! A store that is put back from a copy forgets, and does not know it. Its evidence tells of what was decided, a moment
//! after it was; nothing tells of the uses that were given out of counted grants. So whoever hears of a commit, a gateway
//! that is given uses above all, hears of it once it is remembered here, in a file of its own: a store that has not come
//! so far is a copy from before, and nobody is served from it until that is declared.
//!
//! INVARIANT: it never goes back, and is never ahead of a store that nobody put back: it is written after the commit.
//! Knows nothing of what a commit says.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::de::Error;
use serde::{Deserialize, Serialize};

use super::store::StoreError;
use super::vault::VaultError;
use crate::files::Slots;

const FILE: &str = "committed.json";

/// A commit of the store: later ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Committed {
    /// The store's epoch.
    pub epoch: u64,
    /// The revision within it.
    pub revision: u64,
}

/// The store is older than what was told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store has come to revision {} of epoch {}, and told of revision {} of epoch {}: it was put back from a backup. \
     Put the newer one back, or declare it: `portcullis control restored`",
    .current.revision, .current.epoch, .told.revision, .told.epoch
)]
pub struct Forgetful {
    /// What was told of.
    pub told: Committed,
    /// Of the store.
    pub current: Committed,
}

/// Why it cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RememberedError {
    /// The file system says so.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
    /// Its content is not ours. To forget it would be to take an old copy for the store.
    #[error("{}: {error}; remove it only when the store was not put back from a backup", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: serde_json::Error,
    },
}

impl From<RememberedError> for VaultError {
    /// Of a commit that is done, and that nobody may be told of.
    fn from(error: RememberedError) -> Self {
        let detail = format!("what the store has come to is not remembered beside it: {error}");
        Self::Store(StoreError::Unavailable { detail })
    }
}

/// The memory. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Remembered(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    path: PathBuf,
    /// What the file has.
    written: Mutex<Committed>,
    /// Held while it is written. `None`: the memory ends with the process.
    slots: Mutex<Option<Slots>>,
}

impl Remembered {
    /// Reads what is remembered in `state_dir`; nothing of a new store.
    ///
    /// # Errors
    /// When there is a file that cannot be read.
    pub(super) fn open(state_dir: &Path) -> Result<Self, RememberedError> {
        let path = state_dir.join(FILE);
        let fault = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData => RememberedError::Content { path: path.clone(), error: Error::custom(error) },
            _ => RememberedError::Io { path: path.clone(), error },
        };
        let (mut slots, bytes) = Slots::open(path.clone()).map_err(fault)?;
        let written = match bytes {
            Some(bytes) => {
                let content = |error| RememberedError::Content { path: path.clone(), error };
                let written = serde_json::from_slice(&bytes).map_err(content)?;
                slots.write(&serde_json::to_vec(&written).map_err(content)?).map_err(fault)?;
                written
            }
            // A store of before this file was kept has nothing to be held against but its evidence.
            None => Committed::default(),
        };
        Ok(Self(Arc::new(Inner { path, written: Mutex::new(written), slots: Mutex::new(Some(slots)) })))
    }

    /// A store is never behind what was told of it.
    ///
    /// # Errors
    /// When it is.
    pub(super) fn check(&self, current: Committed) -> Result<(), Forgetful> {
        let told = *self.0.written.lock();
        if current < told { Err(Forgetful { told, current }) } else { Ok(()) }
    }

    /// Remembers a commit, and all before it. `Ok` when that is durable.
    ///
    /// # Errors
    /// What the file system says: then nobody may hear of the commit.
    pub(super) async fn write(&self, committed: Committed) -> Result<(), RememberedError> {
        if *self.0.written.lock() >= committed {
            return Ok(());
        }
        let inner = self.0.clone();
        let written = tokio::task::spawn_blocking(move || inner.write(committed)).await.map_err(io::Error::other);
        written.flatten().map_err(|error| RememberedError::Io { path: self.0.path.clone(), error })
    }
}

impl Inner {
    fn write(&self, committed: Committed) -> io::Result<()> {
        let mut slots = self.slots.lock();
        if *self.written.lock() >= committed {
            return Ok(());
        }
        if let Some(slots) = &mut *slots {
            slots.write(&serde_json::to_vec(&committed).map_err(io::Error::other)?)?;
        }
        *self.written.lock() = committed;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
