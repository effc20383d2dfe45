//! A directory as an archive: another disk, or a mount that is written once.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{Outgoing, Place, Version, is_same, other};
use crate::evidence::entry::hex;
use crate::evidence::journal::segment;
use crate::evidence::tree::sha256;

/// What the name of a file ends with that is being written. No reader looks at it.
const TEMPORARY: &str = "tmp";

/// An archive in a directory.
#[derive(Debug)]
pub struct DirectoryPlace {
    root: PathBuf,
}

impl DirectoryPlace {
    /// In `root`, which is made, readable by its owner alone, when something is put there. A log's own directory is none.
    ///
    /// # Errors
    /// When a journal is there: an archive and a log that is written must not be one.
    pub fn new(root: &Path) -> io::Result<Self> {
        if root.join(segment::DIRECTORY).exists() {
            let why = format!("{}: a log is written there, which cannot be its own archive", root.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(Self { root: root.to_owned() })
    }

    /// A file beside its place, whole and on disk.
    fn beside(&self, path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        let beside = path.with_added_extension(TEMPORARY);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(beside)
    }

    /// A directory that is on disk with all above it, up to the archive's own parent.
    fn directory(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        for made in path.ancestors().skip(1) {
            File::open(made)?.sync_all()?;
            if !made.starts_with(&self.root) {
                break;
            }
        }
        Ok(())
    }

    /// Puts a file, unless there is one.
    fn put_one(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let target = self.root.join(path);
        if target.exists() {
            return Ok(());
        }
        let beside = self.beside(&target, bytes)?;
        // A link is never made over a file: what is there stays, whoever put it there meanwhile.
        let linked = std::fs::hard_link(&beside, &target);
        std::fs::remove_file(&beside)?;
        match linked {
            Ok(()) => sync_parent(&target),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

impl Place for DirectoryPlace {
    fn put(&self, files: &[Outgoing]) -> io::Result<()> {
        for file in files {
            self.put_one(&file.path, &file.bytes)?;
            match self.read(&file.path, file.bytes.len())? {
                Some((there, _)) if is_same(&file.bytes, &there) => {}
                Some(_) | None => return Err(other(&file.path)),
            }
        }
        Ok(())
    }

    fn read(&self, path: &str, max: usize) -> io::Result<Option<(Vec<u8>, Version)>> {
        let file = match File::open(self.root.join(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() > max {
            return Err(other(path));
        }
        let version = Version(hex(&sha256(&bytes)));
        Ok(Some((bytes, version)))
    }

    fn replace(&self, path: &str, bytes: &[u8], before: Option<&Version>) -> io::Result<()> {
        let there = self.read(path, super::MAX_NOTE_BYTES)?.map(|(_, version)| version);
        if there.as_ref() != before {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{path}: somebody else archives there")));
        }
        let target = self.root.join(path);
        let beside = self.beside(&target, bytes)?;
        std::fs::rename(&beside, &target)?;
        sync_parent(&target)
    }

    fn forget(&self, directory: &str) -> io::Result<()> {
        std::fs::remove_dir_all(self.root.join(directory))
    }
}
