//! What a copy that began behind pruned records keeps of its beginning: the tree that it began with, and the heads that the
//! log had signed beyond it. With it an opening needs not hash every leaf again, and a log that signed something else
//! before is found when its records come. Knows not who signed what.

use std::io;

use serde::{Deserialize, Serialize};

use super::CopyError;
use crate::evidence::entry::hex;
use crate::evidence::read::Place;
use crate::evidence::storage::{Persist, Storage, read_file};
use crate::evidence::tree::{Hash, TreeHead};

/// Where it is kept.
const BEGUN: &str = "begun.json";
/// Longest such file: a few heads and a note.
const MAX_BYTES: usize = 64 << 10;

/// A beginning, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Begun {
    first: Head,
    promised: Vec<Head>,
    /// The signed note under which it began, for whoever has to show that another one forks from it.
    checkpoint: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    size: u64,
    /// In hexadecimal.
    root: String,
}

impl Begun {
    pub(super) fn new(first: TreeHead, promised: &[TreeHead], checkpoint: String) -> Self {
        let kept = |head: &TreeHead| Head { size: head.size, root: hex(&head.root.0) };
        Self { first: kept(&first), promised: promised.iter().map(kept).collect(), checkpoint }
    }

    /// `None` where a copy has none, as one from the first record on, or of an earlier version.
    ///
    /// # Errors
    /// Those of the disk; [`CopyError::Damaged`] when it does not read.
    pub(super) fn read(storage: &dyn Storage) -> Result<Option<Self>, CopyError> {
        match read_file(storage, BEGUN, MAX_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            bytes => serde_json::from_slice(&bytes?).map(Some).map_err(|_| damaged()),
        }
    }

    pub(super) fn write(&self, storage: &dyn Storage) -> io::Result<()> {
        storage.write_file(BEGUN, &serde_json::to_vec(self)?, Persist::Now)
    }

    /// The tree that the copy began with.
    pub(super) fn first(&self) -> Option<TreeHead> {
        self.first.read()
    }

    /// What was signed beyond it.
    ///
    /// # Errors
    /// [`CopyError::Damaged`] when it names no heads.
    pub(super) fn promised(&self) -> Result<Vec<TreeHead>, CopyError> {
        self.promised.iter().map(|head| head.read().ok_or_else(damaged)).collect()
    }
}

fn damaged() -> CopyError {
    let place = Place { seq: 0, segment: BEGUN.into(), offset: 0 };
    CopyError::Damaged { place, why: "it does not say where the copy began and what was signed by then" }
}

impl Head {
    fn read(&self) -> Option<TreeHead> {
        let mut root = [0; 32];
        if self.root.len() != 64 {
            return None;
        }
        for (at, byte) in root.iter_mut().enumerate() {
            *byte = u8::from_str_radix(self.root.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(TreeHead { size: self.size, root: Hash(root) })
    }
}
