//! What the control plane remembers beside its store: the latest commit that anybody may have heard of.
//!
//! A store that is put back from a copy forgets, and does not know it. Its evidence tells of what was decided, a moment
//! after it was; nothing tells of the uses that were given out of counted grants. So whoever hears of a commit, a gateway
//! that is given uses above all, hears of it once it is remembered here, in a file of its own: a store that has not come
//! so far is a copy from before, and nobody is served from it until that is declared.
//!
//! What commits ended that the evidence may not tell of yet is remembered with it, for when that is declared.
//!
//! INVARIANT: it never goes back, and is never ahead of a store that nobody put back: it is written after the commit.

mod untold;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use self::untold::Untold;
use super::store::StoreError;
use super::vault::VaultError;
use crate::files::{Slots, SlotsError};

const FILE: &str = "committed.json";
/// Bytes of one slot of the file.
const SLOT_BYTES: usize = 16 * 1024;
/// What is left of it for what ended, in JSON.
const ENDED_BYTES: usize = SLOT_BYTES - 256;

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

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    epoch: u64,
    revision: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ended: Vec<Untold>,
}

#[derive(Debug, Default)]
struct Inner {
    path: PathBuf,
    /// What the file has.
    written: Mutex<Committed>,
    /// What goes with it: what ended and may not be told yet, the oldest first.
    ended: Mutex<Vec<Untold>>,
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
        let (slots, told) = Slots::read(path.clone(), SLOT_BYTES).map_err(|error| match error {
            SlotsError::Io(error) => RememberedError::Io { path: path.clone(), error },
            SlotsError::Content(error) => RememberedError::Content { path: path.clone(), error },
        })?;
        // A store of before this file was kept has nothing to be held against but its evidence.
        let told: Told = told.unwrap_or_default();
        let written = Mutex::new(Committed { epoch: told.epoch, revision: told.revision });
        let (ended, slots) = (Mutex::new(told.ended), Mutex::new(Some(slots)));
        Ok(Self(Arc::new(Inner { path, written, ended, slots })))
    }

    /// What ended in commits that somebody may have heard of, and of which the evidence may not tell.
    pub(super) fn ended(&self) -> Vec<Untold> {
        self.0.ended()
    }

    /// What a commit ended, once. It is on disk with the next [`Remembered::write`].
    pub(super) fn note(&self, ended: impl IntoIterator<Item = Untold>) {
        let mut known = self.0.ended.lock();
        for one in ended {
            if !known.contains(&one) {
                known.push(one);
            }
        }
    }

    /// The evidence tells of all commits up to `revision`. Whether what is left finds room.
    pub(super) fn is_told(&self, revision: u64) -> bool {
        let mut ended = self.0.ended.lock();
        ended.retain(|one| one.revision > revision);
        bytes(&ended) <= ENDED_BYTES
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
            if committed.epoch > self.written.lock().epoch {
                // What ended in a life of the store that is over was ended again in this one.
                self.ended.lock().retain(|one| one.revision <= committed.revision);
            }
            let ended = self.fitting();
            let told = Told { epoch: committed.epoch, revision: committed.revision, ended };
            slots.write(&told)?;
        }
        *self.written.lock() = committed;
        Ok(())
    }

    fn ended(&self) -> Vec<Untold> {
        self.ended.lock().clone()
    }

    /// The latest of what ended, as many as find room. The store and everybody who heard of the others have them; an older
    /// copy of the store would not.
    fn fitting(&self) -> Vec<Untold> {
        let mut ended = self.ended.lock();
        let (mut left, mut lost) = (bytes(&ended), 0);
        for one in ended.iter() {
            if left <= ENDED_BYTES {
                break;
            }
            left -= bytes(std::slice::from_ref(one));
            lost += 1;
        }
        if lost > 0 {
            tracing::error!(lost, "the evidence is far behind: what ended is remembered by the store alone");
            ended.drain(..lost);
        }
        ended.clone()
    }
}

fn bytes(ended: &[Untold]) -> usize {
    ended.iter().map(|one| serde_json::to_vec(one).map_or(0, |json| json.len() + 1)).sum()
}

#[cfg(test)]
mod tests;
