//! What the journal needs of a disk, and nothing more.
//!
//! Paths are relative to the log's directory, parted by `/`. [`DiskStorage`] is the machine's; [`FakeStorage`] keeps
//! what was synced apart from what was not, fails on demand and can lose power. Nothing here knows what the bytes mean.

mod bounded;
mod disk;
mod fake;

use std::fmt;
use std::io;

pub use bounded::{BoundedStorage, GoesOn};
pub use disk::DiskStorage;
pub use fake::{FakeStorage, Fault, Operation};

/// Whether a small file must be on disk when its write returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persist {
    /// Yes: its bytes and its name.
    Now,
    /// No: it can be derived again. It is still replaced as a whole.
    Later,
    /// As [`Later`](Self::Later), and nobody reads what has a new name before hearing of it elsewhere: then it need not be
    /// whole as soon as it is there, which spares a rename.
    Unheard,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// Its name in the directory.
    pub name: String,
    /// Its size; of a directory 0.
    pub bytes: u64,
    /// Whether it is a directory.
    pub directory: bool,
}

/// A directory on a disk.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Creates a segment with `header` in it and room for `room` more bytes, replacing a file of that name.
    ///
    /// When it returns, file, header and name are on disk. A crash before leaves what was there.
    ///
    /// # Errors
    /// Those of the disk; no room is [`io::ErrorKind::StorageFull`].
    fn create_segment(&self, path: &str, header: &[u8], room: u64) -> io::Result<Box<dyn SegmentFile>>;

    /// Replaces a small file as a whole.
    ///
    /// # Errors
    /// Those of the disk. Then the old file stands, or the new one.
    fn write_file(&self, path: &str, bytes: &[u8], persist: Persist) -> io::Result<()>;

    /// Reads at most `max` bytes at `offset`, appends them to `into` and says how many; 0 at the end of the file.
    ///
    /// # Errors
    /// Those of the disk; no such file is [`io::ErrorKind::NotFound`].
    fn read_at(&self, path: &str, offset: u64, max: usize, into: &mut Vec<u8>) -> io::Result<usize>;

    /// Lists a directory, sorted by name; one that does not exist is empty.
    ///
    /// # Errors
    /// Those of the disk.
    fn list(&self, directory: &str) -> io::Result<Vec<Item>>;

    /// The names of the files in a directory, in no order; in one that does not exist there are none. Spares asking the disk
    /// for each of them.
    ///
    /// # Errors
    /// Those of the disk.
    fn files(&self, directory: &str) -> io::Result<Vec<String>> {
        Ok(self.list(directory)?.into_iter().filter(|item| !item.directory).map(|item| item.name).collect())
    }

    /// Cuts a file to `bytes`, durably.
    ///
    /// # Errors
    /// Those of the disk.
    fn truncate(&self, path: &str, bytes: u64) -> io::Result<()>;

    /// Makes sure that what was written to a file is on disk.
    ///
    /// # Errors
    /// Those of the disk.
    fn sync_file(&self, path: &str) -> io::Result<()>;

    /// Makes sure that the names in a directory are on disk; `""` is the log's own. Where that cannot be asked, names are
    /// on disk with what they name.
    ///
    /// # Errors
    /// Those of the disk.
    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        let _ = directory;
        Ok(())
    }

    /// Removes a file, and the directory that it leaves empty.
    ///
    /// # Errors
    /// Those of the disk.
    fn remove(&self, path: &str) -> io::Result<()>;
}

/// The segment that is being written. After an error of [`append`](Self::append), [`fill`](Self::fill) or
/// [`sync`](Self::sync) nothing is known about what is on disk, and asking again would lie: it must not be used any more.
pub trait SegmentFile: Send + fmt::Debug {
    /// Writes at the end.
    ///
    /// # Errors
    /// Those of the disk; some of the bytes may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes sure that `room` more bytes can be written without asking the disk for space.
    ///
    /// # Errors
    /// Those of the disk; what was written before stands.
    fn allocate(&mut self, room: u64) -> io::Result<()>;

    /// Writes `room` zeros behind the end, which what is appended then takes the place of: a sync of what lies in them has
    /// no bookkeeping of the filesystem to write, which is most of its work. A matter of speed alone: where there is no
    /// space, or zeros would take that of records, nothing is done.
    ///
    /// # Errors
    /// Those of the disk.
    fn fill(&mut self, room: u64) -> io::Result<()>;

    /// `fdatasync`: what was written is on disk when it returns.
    ///
    /// # Errors
    /// Those of the disk.
    fn sync(&mut self) -> io::Result<()>;

    /// Whether the file is as long as it was written or filled. Asked before writing, which hides that somebody cut it.
    ///
    /// # Errors
    /// Those of the disk.
    fn is_whole(&self) -> io::Result<bool>;

    /// Whether the file still stands under its name, as long as it was written or filled: somebody may have deleted,
    /// replaced or cut it.
    ///
    /// # Errors
    /// Those of the disk.
    fn in_place(&self) -> io::Result<bool>;

    /// Gives back room that was not used. For a segment that is finished.
    ///
    /// # Errors
    /// Those of the disk.
    fn finish(&mut self) -> io::Result<()>;
}

/// Reads a small file whole.
///
/// # Errors
/// Those of the disk; one longer than `max` is [`io::ErrorKind::InvalidData`].
pub(crate) fn read_file(storage: &dyn Storage, path: &str, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let offset = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if storage.read_at(path, offset, max + 1 - bytes.len().min(max), &mut bytes)? == 0 {
            return Ok(bytes);
        }
        if bytes.len() > max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{path} is longer than {max} bytes")));
        }
    }
}
