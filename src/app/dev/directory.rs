//! The state directory of `dev`: whose it is, who is in it, what stands where.
//!
//! It is made by `dev` or it is not touched: a marker says so. One `dev` at a time is in it: a lock says so, which ends
//! with the process whatever happens to it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::app::AppError;
use crate::files;

const MARKER: &str = ".portcullis-dev";
const LOCK: &str = "lock";

/// A directory that is ours until this value is gone.
pub(super) struct Directory {
    root: PathBuf,
    _lock: File,
}

impl Directory {
    /// Takes `root`, which is made if it is missing; with `fresh`, empties it first.
    ///
    /// # Errors
    /// When it holds what `dev` did not make, or another `dev` is in it.
    pub(super) fn take(root: &Path, fresh: bool) -> Result<Self, AppError> {
        let shown = root.display();
        let io = |what: &str| AppError::io(format!("{what} {shown}"));
        if root.exists() && !root.join(MARKER).is_file() && !is_empty(root).map_err(io("cannot read"))? {
            return Err(AppError::Usage(format!(
                "{shown} holds files that `portcullis dev` did not make: name another directory with --dir"
            )));
        }
        files::private_dir(root).map_err(io("cannot use"))?;
        // Whatever the process ends of, from here on --fresh may clear up.
        files::write(
            &root.join(MARKER),
            b"Made by portcullis dev, which may remove everything here.\n",
            files::PRIVATE,
        )
        .map_err(io("cannot write into"))?;
        let lock = lock(root)?;
        if fresh {
            clear(root).map_err(io("cannot empty"))?;
        }
        // A file of the last time would name addresses at which nobody is.
        remove(&root.join("dev.json")).map_err(io("cannot write into"))?;
        // Names in files hold wherever the reader stands.
        let root = root.canonicalize().map_err(io("cannot find"))?;
        Ok(Self { root, _lock: lock })
    }

    /// A path in it.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// Writes a file in it, whole or not at all, and the directories above it.
    pub(super) fn write(&self, path: impl AsRef<Path>, bytes: &[u8], mode: u32) -> Result<(), AppError> {
        let path = self.at(path);
        let shown = path.display().to_string();
        let io = || AppError::io(format!("cannot write {shown}"));
        if let Some(parent) = path.parent() {
            files::private_dir(parent).map_err(io())?;
        }
        files::write(&path, bytes, mode).map_err(io())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Nobody is there any more. After a crash the file stays, and the client says that nobody answers.
        let _ = remove(&self.at("dev.json"));
    }
}

fn is_empty(path: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(path)?.next().is_none())
}

fn lock(root: &Path) -> Result<File, AppError> {
    let path = root.join(LOCK);
    let cannot = || AppError::io(format!("cannot lock {}", path.display()));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(files::PRIVATE)
        .open(&path)
        .map_err(cannot())?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(AppError::Conflict(format!(
            "another `portcullis dev` runs in {}: end it first, or name another directory with --dir",
            root.display()
        ))),
        Err(error) => Err(cannot()(error.into())),
    }
}

/// Removes everything but what says whose directory it is.
fn clear(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_name() == MARKER || entry.file_name() == LOCK {
            continue;
        }
        // A link is removed, never followed.
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    files::sync_dir(root)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dev_did_not_make_is_never_removed() {
        let root = tempfile::tempdir().unwrap();
        File::create(root.path().join("thesis.txt")).unwrap();
        for fresh in [false, true] {
            assert!(matches!(Directory::take(root.path(), fresh), Err(AppError::Usage(_))));
        }
        assert!(root.path().join("thesis.txt").exists());
    }

    #[test]
    fn one_dev_at_a_time_and_fresh_begins_anew() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("state");
        let first = Directory::take(&dir, false).unwrap();
        first.write("people/alice", b"x", files::PRIVATE).unwrap();
        assert!(matches!(Directory::take(&dir, true), Err(AppError::Conflict(_))));
        assert!(first.at("people/alice").exists());
        drop(first);
        let again = Directory::take(&dir, false).unwrap();
        assert!(again.at("people/alice").exists());
        drop(again);
        let fresh = Directory::take(&dir, true).unwrap();
        assert!(!fresh.at("people/alice").exists());
    }
}
