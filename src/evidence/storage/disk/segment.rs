//! The segment that is being written, on the machine's disk.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FallocateFlags, StatxFlags};
use rustix::io::Errno;

use super::Synced;
use crate::evidence::storage::SegmentFile;

/// What a segment is filled with, in parts: fresh memory for all of it costs more than writing it.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

#[derive(Debug)]
pub(super) struct DiskSegment {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// Device and inode that were opened.
    pub(super) is: (u64, u64),
    pub(super) written: u64,
    /// As long as the file is: behind what was written stand zeros.
    pub(super) size: u64,
    /// Whether zeros ahead cost no space.
    pub(super) fills: bool,
    /// Up to where space is reserved.
    pub(super) allocated: u64,
    /// Its name in the storage.
    pub(super) name: String,
    /// Of the storage: a failure here is one of the file, whoever syncs it next.
    pub(super) synced: Synced,
}

impl SegmentFile for DiskSegment {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.written)?;
        self.written += u64::try_from(bytes.len()).unwrap_or(0);
        self.size = self.size.max(self.written);
        Ok(())
    }

    fn fill(&mut self, room: u64) -> io::Result<()> {
        if !self.fills {
            return Ok(());
        }
        let end = self.written + room;
        while self.size < end {
            let part = usize::try_from(end - self.size).unwrap_or(usize::MAX).min(ZEROS.len());
            match self.file.write_all_at(ZEROS.get(..part).unwrap_or_default(), self.size) {
                Ok(()) => self.size += part as u64,
                // Of a file whose space is reserved this is not heard; elsewhere the records alone may still fit.
                Err(error) if is_full(&error) => return self.file.set_len(self.size),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn allocate(&mut self, room: u64) -> io::Result<()> {
        let end = self.written + room;
        if end > self.allocated {
            let from = self.allocated.max(self.written);
            allocate(&self.file, from, end - from)?;
            self.allocated = end;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let done = rustix::fs::fdatasync(&self.file);
        if done.is_err() {
            self.synced.lock().remove(&self.name);
        }
        Ok(done?)
    }

    fn is_whole(&self) -> io::Result<bool> {
        Ok(Looked::at_file(&self.file)?.bytes == self.size)
    }

    fn in_place(&self) -> io::Result<bool> {
        match Looked::at_path(&self.path) {
            Ok(now) => Ok((now.is, now.bytes) == (self.is, self.size)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file.set_len(self.written)?;
        self.size = self.written;
        Ok(())
    }
}

/// Reserves `room` bytes past `written` without growing the file, so that its size still says where the log ends.
pub(super) fn allocate(file: &File, written: u64, room: u64) -> io::Result<()> {
    if room == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, written, room) {
        // Some filesystems cannot promise space. There a full disk shows when an intent is written, which is in time;
        // an outcome then waits in memory until there is space.
        Err(Errno::OPNOTSUPP) => Ok(()),
        result => Ok(result?),
    }
}

/// Whether what is written again is written to the same place, so that it takes no more space. Where it is not, zeros would
/// take the space that was reserved for records.
pub(super) fn overwrites_in_place(file: &File) -> io::Result<bool> {
    const EXT4: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const TMPFS: u64 = 0x0102_1994;
    /// Of a container, over one of the others as a rule.
    const OVERLAYFS: u64 = 0x794c_7630;
    let kind = u64::try_from(rustix::fs::fstatfs(file)?.f_type).unwrap_or(0);
    Ok(matches!(kind, EXT4 | XFS | TMPFS | OVERLAYFS))
}

/// What is asked of a file between two writes. Not its times: the kernel (from 6.13 on, multigrain timestamps) gives a file
/// whose times were looked at new ones with its next bytes, and then has them to write with the next sync, which takes half
/// as long again. Times that nobody looked at change every few milliseconds at most.
pub(super) struct Looked {
    /// Device and inode.
    pub(super) is: (u64, u64),
    pub(super) bytes: u64,
}

impl Looked {
    pub(super) fn at_file(file: &File) -> io::Result<Self> {
        Self::at(file, Path::new(""), AtFlags::EMPTY_PATH, || file.metadata())
    }

    /// Not through a symbolic link.
    fn at_path(path: &Path) -> io::Result<Self> {
        Self::at(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW, || std::fs::symlink_metadata(path))
    }

    fn at(
        place: impl AsFd,
        path: &Path,
        flags: AtFlags,
        otherwise: impl FnOnce() -> io::Result<Metadata>,
    ) -> io::Result<Self> {
        match rustix::fs::statx(place, path, flags, StatxFlags::INO | StatxFlags::SIZE) {
            Ok(found) => {
                let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
                Ok(Self { is: (device, found.stx_ino), bytes: found.stx_size })
            }
            // Some sandboxes do not know this call.
            Err(Errno::NOSYS | Errno::PERM) => {
                let found = otherwise()?;
                Ok(Self { is: (found.dev(), found.ino()), bytes: found.len() })
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
