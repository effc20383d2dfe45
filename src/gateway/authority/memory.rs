//! What a gateway remembers over restarts: the highest epoch and revision it has seen, and the latest time.
//!
//! A control plane that comes back with less is a restored backup, and revives nothing here. Kept off the way of calls:
//! it is written by the task that follows the control plane, before that task acknowledges.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;
use crate::files::{BLOCK_BYTES, Slots, SlotsError};

const FILE: &str = "highest.json";

/// The highest seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Highest {
    /// The store's epoch.
    pub epoch: u64,
    /// The revision within it.
    pub revision: u64,
    /// The store's latest commit, also of what gateways do not hear of: what it forgets of uses, no revision tells.
    #[serde(default)]
    pub committed: Committed,
    /// The gate's time: a clock that was set back while the gateway was down gives nobody time.
    pub wall: Timestamp,
}

/// A commit of the control plane's store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Committed {
    /// The store's epoch.
    pub epoch: u64,
    /// The revision within it.
    pub revision: u64,
}

impl fmt::Display for Highest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}, revision {}", self.epoch, self.revision)
    }
}

/// The memory, and the file that it survives in.
#[derive(Debug)]
pub struct Memory {
    /// Of this process.
    highest: Mutex<Highest>,
    /// Held while the file is written.
    file: Mutex<Written>,
}

/// The file, and what it has.
#[derive(Debug, Default)]
struct Written {
    /// `None`: the memory ends with the process.
    slots: Option<Slots>,
    highest: Highest,
}

/// Why the memory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The file system says so.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
    /// Its content is not ours. Forgetting it by itself would let a restored backup in: somebody must look.
    #[error("{path}: {error}; remove it only when the control plane was not restored from a backup")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: serde_json::Error,
    },
}

impl Memory {
    /// Reads the memory in `state_dir`; a new gateway has none.
    ///
    /// # Errors
    /// When there is one and it cannot be read.
    pub fn open(state_dir: &Path) -> Result<Self, MemoryError> {
        let path = state_dir.join(FILE);
        let (slots, highest) = Slots::read(path.clone(), BLOCK_BYTES).map_err(|error| match error {
            SlotsError::Io(error) => MemoryError::Io { path, error },
            SlotsError::Content(error) => MemoryError::Content { path, error },
        })?;
        let highest = highest.unwrap_or_default();
        let file = Written { slots: Some(slots), highest };
        Ok(Self { highest: Mutex::new(highest), file: Mutex::new(file) })
    }

    /// A memory that ends with the process.
    pub fn volatile() -> Self {
        Self { highest: Mutex::default(), file: Mutex::default() }
    }

    /// What was seen.
    pub fn highest(&self) -> Highest {
        *self.highest.lock()
    }

    /// Something was seen. Not yet durable: see [`Memory::write`].
    pub fn saw(&self, epoch: u64, revision: u64) {
        let mut highest = self.highest.lock();
        if (epoch, revision) > (highest.epoch, highest.revision) {
            (highest.epoch, highest.revision) = (epoch, revision);
        }
    }

    /// The control plane says which commit its store has come to. Not yet durable: see [`Memory::write`].
    ///
    /// # Errors
    /// When a later one was seen, which is returned: the store is an old copy.
    pub fn saw_committed(&self, now: Committed) -> Result<(), Committed> {
        let mut highest = self.highest.lock();
        if now < highest.committed {
            return Err(highest.committed);
        }
        highest.committed = now;
        Ok(())
    }

    /// Writes what was seen up to now, and `wall`, unless the file has it all. Blocks on the disk.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, wall: Timestamp) -> io::Result<()> {
        let mut file = self.file.lock();
        let highest = {
            let mut highest = self.highest.lock();
            highest.wall = highest.wall.max(wall);
            *highest
        };
        if file.highest == highest {
            return Ok(());
        }
        if let Some(slots) = &mut file.slots {
            slots.write(&highest)?;
        }
        file.highest = highest;
        Ok(())
    }
}
