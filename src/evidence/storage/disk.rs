//! The machine's disk.

mod segment;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use self::segment::{DiskSegment, Looked, allocate, overwrites_in_place};
use super::{Item, Persist, SegmentFile, Storage};

/// A log's directory on a real disk. While it is open for writing, a lock keeps a second writer out.
#[derive(Debug)]
pub struct DiskStorage {
    root: PathBuf,
    /// Held for its lock; none when open for reading only.
    lock: Option<File>,
    /// Files of which this process has seen a sync succeed, and none fail since. Of another the system may have failed to
    /// write what was in memory and taken it for written: a sync would say so too.
    synced: Synced,
}

type Synced = Arc<Mutex<BTreeSet<String>>>;

const LOCK: &str = "lock";
const TEMPORARY: &str = "tmp";

impl DiskStorage {
    /// Opens a directory for writing; creates it, readable by its owner alone, when it does not exist.
    ///
    /// # Errors
    /// Those of the disk; another writer is [`io::ErrorKind::WouldBlock`].
    pub fn open(root: &Path) -> io::Result<Self> {
        create_directory(root, Persist::Now)?;
        // Whoever made it may have ended before its name was on disk.
        sync_parent(root)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(root.join(LOCK))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        File::open(root)?.sync_all()?;
        Ok(Self { root: root.to_owned(), lock: Some(lock), synced: Synced::default() })
    }

    /// Opens a directory for reading. Somebody may be writing to it.
    pub fn read_only(root: &Path) -> Self {
        Self { root: root.to_owned(), lock: None, synced: Synced::default() }
    }

    fn writable(&self, path: &str) -> io::Result<PathBuf> {
        if self.lock.is_none() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading"));
        }
        Ok(self.root.join(path))
    }

    /// The same of a file that is to be: its directory is made where there is none.
    fn new_file(&self, path: &str, persist: Persist) -> io::Result<PathBuf> {
        let path = self.writable(path)?;
        path.parent().map_or(Ok(()), |parent| create_directory(parent, persist))?;
        Ok(path)
    }
}

fn create_directory(path: &Path, persist: Persist) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if persist == Persist::Now {
        return crate::files::create_dirs(path);
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

/// Looks at what is in a directory, which need not be there.
fn each_entry(directory: &Path, mut look: impl FnMut(&std::fs::DirEntry) -> io::Result<()>) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        match look(&entry?) {
            // It went between the listing and the look.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            looked => looked?,
        }
    }
    Ok(())
}

/// Writes a file that must not be there yet; says whether it was not.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        file => file?,
    };
    let written = file.write_all(bytes);
    if written.is_err() {
        // A part of it is worse than nothing: it would be taken for the whole.
        drop(std::fs::remove_file(path));
    }
    written.map(|()| true)
}

fn temporary(path: &Path) -> io::Result<(PathBuf, File)> {
    let beside = path.with_added_extension(TEMPORARY);
    let file = OpenOptions::new().write(true).read(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    Ok((beside, file))
}

impl Storage for DiskStorage {
    fn create_segment(&self, path: &str, header: &[u8], room: u64) -> io::Result<Box<dyn SegmentFile>> {
        let name = path.to_owned();
        let path = self.new_file(path, Persist::Now)?;
        let (beside, mut file) = temporary(&path)?;
        // What was known of one of that name is not known of this one.
        self.synced.lock().remove(&name);
        let synced = self.synced.clone();
        let made = (|| {
            file.write_all(header)?;
            let written = u64::try_from(header.len()).unwrap_or(u64::MAX);
            allocate(&file, written, room)?;
            file.sync_all()?;
            // A crash here leaves a file that no reader looks at.
            std::fs::rename(&beside, &path)?;
            sync_parent(&path)?;
            let is = Looked::at_file(&file)?.is;
            let fills = overwrites_in_place(&file)?;
            let allocated = written + room;
            Ok(DiskSegment { file, path, is, written, size: written, fills, allocated, name, synced })
        })();
        if made.is_err() {
            // It holds space; that it cannot be removed either changes nothing about the error.
            drop(std::fs::remove_file(&beside));
        }
        made.map(|segment| -> Box<dyn SegmentFile> { Box::new(segment) })
    }

    fn write_file(&self, path: &str, bytes: &[u8], persist: Persist) -> io::Result<()> {
        let path = self.new_file(path, persist)?;
        if persist == Persist::Unheard && write_new(&path, bytes)? {
            return Ok(());
        }
        let (beside, mut file) = temporary(&path)?;
        let written = (|| {
            file.write_all(bytes)?;
            if persist == Persist::Now {
                file.sync_all()?;
            }
            std::fs::rename(&beside, &path)?;
            if persist == Persist::Now { sync_parent(&path) } else { Ok(()) }
        })();
        if written.is_err() {
            drop(std::fs::remove_file(&beside));
        }
        written
    }

    fn read_at(&self, path: &str, offset: u64, max: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        let file = File::open(self.root.join(path))?;
        let start = into.len();
        // Not more than is there: `max` may be far more than the file.
        let left = Looked::at_file(&file)?.bytes.saturating_sub(offset);
        let want = usize::try_from(left).unwrap_or(max).min(max);
        into.resize(start + want, 0);
        let mut filled = start;
        while let Some(space) = into.get_mut(filled..).filter(|space| !space.is_empty()) {
            let at = offset + u64::try_from(filled - start).unwrap_or(0);
            match file.read_at(space, at) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    into.truncate(start);
                    return Err(error);
                }
            }
        }
        into.truncate(filled);
        Ok(filled - start)
    }

    fn list(&self, directory: &str) -> io::Result<Vec<Item>> {
        let mut items = Vec::new();
        each_entry(&self.root.join(directory), |entry| {
            let meta = entry.metadata()?;
            let name = entry.file_name().to_string_lossy().into_owned();
            items.push(Item { name, bytes: if meta.is_dir() { 0 } else { meta.len() }, directory: meta.is_dir() });
            Ok(())
        })?;
        items.sort();
        Ok(items)
    }

    fn files(&self, directory: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        each_entry(&self.root.join(directory), |entry| {
            if !entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
            Ok(())
        })?;
        Ok(names)
    }

    fn truncate(&self, path: &str, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.writable(path)?)?;
        file.set_len(bytes)?;
        file.sync_all()
    }

    fn sync_file(&self, path: &str) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(self.writable(path)?)?;
        let mut synced = self.synced.lock();
        if !synced.remove(path) {
            write_again(&file)?;
        }
        file.sync_data()?;
        synced.insert(path.to_owned());
        Ok(())
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        File::open(self.writable(directory)?)?.sync_all()
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let path = self.writable(path)?;
        std::fs::remove_file(&path)?;
        if let Some(parent) = path.parent().filter(|parent| **parent != self.root) {
            // It goes when nothing else is in it.
            drop(std::fs::remove_dir(parent));
        }
        Ok(())
    }
}

/// Writes what a file holds over itself, as far as it reaches now: so that a sync has all of it to write. Somebody may be
/// appending, to a file that is not [filled](SegmentFile::fill).
fn write_again(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut buffer = vec![0; 256 * 1024];
    let mut at = 0;
    while at < length {
        let left = usize::try_from(length - at).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..left).unwrap_or_default();
        file.read_exact_at(part, at)?;
        file.write_all_at(part, at)?;
        at += left as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_whose_sync_failed_is_written_again_before_it_counts_as_synced() {
        let home = tempfile::tempdir().unwrap();
        let disk = DiskStorage::open(home.path()).unwrap();
        let path = "journal/00000000000000000000.log";
        drop(disk.create_segment(path, b"header", 0).unwrap());
        disk.sync_file(path).unwrap();
        assert!(disk.synced.lock().contains(path), "the second sync writes nothing again");
        // A pipe is no file that can be synced: what a disk that fails says is said here.
        let (_reader, pipe) = io::pipe().unwrap();
        let mut failing = DiskSegment {
            file: std::os::fd::OwnedFd::from(pipe).into(),
            path: home.path().join(path),
            is: (0, 0),
            written: 6,
            size: 6,
            fills: true,
            allocated: 6,
            name: path.to_owned(),
            synced: disk.synced.clone(),
        };
        failing.sync().unwrap_err();
        assert!(!disk.synced.lock().contains(path), "the system took what failed for written");
        disk.sync_file(path).unwrap();
        drop(disk.create_segment(path, b"another", 0).unwrap());
        assert!(!disk.synced.lock().contains(path), "that was another file of this name");
    }

    #[test]
    fn a_file_that_nobody_has_heard_of_is_written_in_its_place_and_one_that_is_there_replaced() {
        use std::os::unix::fs::MetadataExt as _;
        let home = tempfile::tempdir().unwrap();
        let disk = DiskStorage::open(home.path()).unwrap();
        let number = || std::fs::metadata(home.path().join("tile/0/000")).unwrap().ino();
        disk.write_file("tile/0/000", b"first", Persist::Unheard).unwrap();
        let before = (number(), File::open(home.path().join("tile/0/000")).unwrap());
        disk.write_file("tile/0/000", b"second", Persist::Unheard).unwrap();
        assert_ne!(number(), before.0, "whoever reads the old one reads all of it");
        assert_eq!(std::io::read_to_string(before.1).unwrap(), "first");
        assert_eq!(std::fs::read(home.path().join("tile/0/000")).unwrap(), b"second");
        assert_eq!(disk.list("tile/0").unwrap().len(), 1);
    }

    #[test]
    fn a_directory_goes_with_its_last_file_and_nothing_comes_of_what_is_not_there() {
        let home = tempfile::tempdir().unwrap();
        let disk = DiskStorage::open(home.path()).unwrap();
        for path in ["tile/0/000.p/9", "tile/0/000.p/12", "checkpoint"] {
            disk.write_file(path, path.as_bytes(), Persist::Later).unwrap();
        }
        disk.remove("tile/0/000.p/9").unwrap();
        assert_eq!(std::fs::read(home.path().join("tile/0/000.p/12")).unwrap(), b"tile/0/000.p/12");
        disk.remove("tile/0/000.p/12").unwrap();
        assert!(!home.path().join("tile/0/000.p").exists() && home.path().join("tile/0").exists());
        assert_eq!(disk.remove("tile/0/007.p/1").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!home.path().join("tile/0/007.p").exists());
        disk.remove("checkpoint").unwrap();
        assert!(home.path().exists(), "the log's own directory stays");
    }
}
