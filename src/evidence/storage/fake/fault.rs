//! What can fail on that disk, and how.

use std::io;

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Creating a segment.
    Create,
    /// Appending to a segment.
    Append,
    /// Writing zeros behind the end of one.
    Fill,
    /// Reserving room.
    Allocate,
    /// `fdatasync`.
    Sync,
    /// Replacing a small file.
    Write,
    /// Truncating or removing.
    Cut,
}

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `EIO`, and nothing was done.
    Error,
    /// `ENOSPC`, and nothing was done.
    Full,
    /// `EIO`, and half of it was done.
    Half,
    /// `EIO`, and it was done all the same.
    Done,
    /// `EIO`, and what was not synced before is gone (what Linux does to dirty pages after a failed `fsync`).
    Lost,
    /// No error, and nothing of it is on disk: what was synced, and each new name, goes with the power.
    Lie,
}

impl Fault {
    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Full => io::Error::from(io::ErrorKind::StorageFull),
            Self::Error | Self::Half | Self::Done | Self::Lost | Self::Lie => io::Error::other("injected EIO"),
        }
    }

    /// What a whole file that was to be put looks like then: whether it stands there, and whether its name is on disk.
    pub(super) fn put(fault: Option<Self>) -> (bool, bool) {
        match fault {
            None | Some(Self::Done) => (true, true),
            // Renamed, and the directory was not synced.
            Some(Self::Lost | Self::Lie) => (true, false),
            Some(Self::Error | Self::Full | Self::Half) => (false, false),
        }
    }

    /// What is said of it.
    pub(super) fn said(fault: Option<Self>) -> io::Result<()> {
        match fault {
            None | Some(Self::Lie) => Ok(()),
            Some(fault) => Err(fault.error()),
        }
    }
}
