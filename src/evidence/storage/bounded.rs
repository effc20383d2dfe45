//! A log that is read for somebody who may be gone, or for so long only: every read asks first whether it is still wanted.

use std::io;

use super::{Item, Persist, SegmentFile, Storage};

/// Whether reading goes on.
pub type GoesOn = dyn Fn() -> bool + Send + Sync;

/// Reads from another storage while somebody wants it. Writes nothing.
pub struct BoundedStorage<S> {
    inner: S,
    goes_on: Box<GoesOn>,
}

impl<S: std::fmt::Debug> std::fmt::Debug for BoundedStorage<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BoundedStorage").field(&self.inner).finish()
    }
}

impl<S: Storage> BoundedStorage<S> {
    /// Reads from `inner` while `goes_on` says so: it is asked before each read, of some 256 KiB at most.
    pub fn new(inner: S, goes_on: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { inner, goes_on: Box::new(goes_on) }
    }

    fn asked(&self) -> io::Result<&S> {
        if (self.goes_on)() { Ok(&self.inner) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

fn read_only<T>() -> io::Result<T> {
    Err(io::ErrorKind::PermissionDenied.into())
}

impl<S: Storage> Storage for BoundedStorage<S> {
    fn create_segment(&self, _: &str, _: &[u8], _: u64) -> io::Result<Box<dyn SegmentFile>> {
        read_only()
    }

    fn write_file(&self, _: &str, _: &[u8], _: Persist) -> io::Result<()> {
        read_only()
    }

    fn read_at(&self, path: &str, offset: u64, max: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        self.asked()?.read_at(path, offset, max, into)
    }

    fn list(&self, directory: &str) -> io::Result<Vec<Item>> {
        self.asked()?.list(directory)
    }

    fn files(&self, directory: &str) -> io::Result<Vec<String>> {
        self.asked()?.files(directory)
    }

    fn truncate(&self, _: &str, _: u64) -> io::Result<()> {
        read_only()
    }

    fn sync_file(&self, _: &str) -> io::Result<()> {
        read_only()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        read_only()
    }
}
