//! Files that are written whole or not at all, and survive a power cut once written.
//!
//! A write goes to a temporary file beside its target, is flushed, takes its name by rename or link, and the directory
//! is flushed too. Everything that the program keeps besides journal and store (keys, certificates, tokens, small
//! state) is written here. What stands in a file is not this module's business.

mod slots;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub use slots::{BLOCK_BYTES, Slots, SlotsError};

/// Mode of what only this user may read: keys, tokens, the store.
pub const PRIVATE: u32 = 0o600;
/// Mode of what anybody may read: certificates, addresses.
pub const PUBLIC: u32 = 0o644;

/// Replaces the file at `path`, or creates it, with permission bits `mode`.
///
/// A crash leaves the old content or the new one, never a part; after `Ok` the new one survives a power cut.
///
/// # Errors
/// What the file system says. The target is then as it was.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = Temporary::write(path, bytes, mode)?;
    fs::rename(&temporary.path, path)?;
    temporary.taken();
    sync_dir(parent(path))
}

/// Creates the file at `path`, whole, with permission bits `mode`.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] when there is one, which stays untouched (also when two processes race), or what
/// the file system says.
pub fn create_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = Temporary::write(path, bytes, mode)?;
    // A link, unlike a rename, does not replace.
    fs::hard_link(&temporary.path, path)?;
    drop(temporary);
    sync_dir(parent(path))
}

/// Reads at most `limit` bytes of a file that nobody but its owner may read or write.
///
/// # Errors
/// [`io::ErrorKind::PermissionDenied`] when group or others have any right, [`io::ErrorKind::FileTooLarge`] past the
/// limit, or what the file system says.
pub fn read_private(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let text = format!("{} has mode {mode:o}; only its owner may have rights to it", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{} is too large", path.display())));
    }
    Ok(bytes)
}

/// Makes a directory, and those above it that are missing, with mode 0700. Each new name survives a power cut.
///
/// # Errors
/// What the file system says.
pub fn create_dirs(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let above = parent(path);
    create_dirs(above)?;
    match DirBuilder::new().mode(0o700).create(path) {
        // Somebody else was faster, or something else has its name: then whoever uses it is told.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_dir(above),
    }
}

/// Makes sure of a directory for private files; what is missing of it is created with mode 0700.
///
/// # Errors
/// [`io::ErrorKind::PermissionDenied`] when it exists and somebody else may write to it: then files in it can be
/// swapped. Otherwise what the file system says.
pub fn private_dir(path: &Path) -> io::Result<()> {
    create_dirs(path)?;
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    if mode & 0o022 != 0 {
        let text = format!("{} has mode {mode:o}; nobody but its owner may write to it", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    sync_dir(parent(path))
}

/// Flushes a directory, so that the names in it survive a power cut.
///
/// # Errors
/// What the file system says.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A written and flushed file under a name of its own, removed unless it took another.
struct Temporary {
    path: PathBuf,
    remove: bool,
}

impl Temporary {
    fn write(target: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let Some(name) = target.file_name() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"));
        };
        let mut own = std::ffi::OsString::from(".");
        own.push(name);
        own.push(format!(".{}.{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let path = parent(target).join(own);
        // A process of this id may have died here before.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&path)?;
        let temporary = Self { path, remove: true };
        file.write_all(bytes)?;
        // The process's umask has no say in what others may read.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        Ok(temporary)
    }

    fn taken(mut self) {
        self.remove = false;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.remove {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn names(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn write_replaces_whole_and_sets_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        write(&path, b"first, and longer", PUBLIC).unwrap();
        assert_eq!(mode(&path), 0o644);
        write(&path, b"second", PRIVATE).unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"second".to_vec(), 0o600));
        assert_eq!(names(dir.path()), 1, "no temporary file stays");
    }

    #[test]
    fn create_new_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create_new(&path, b"one", PRIVATE).unwrap();
        assert_eq!(create_new(&path, b"two", PRIVATE).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"one".to_vec(), 0o600));
        assert_eq!(names(dir.path()), 1, "no temporary file stays");
    }

    #[test]
    fn private_files_that_others_may_read_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write(&path, b"secret", PRIVATE).unwrap();
        assert_eq!(read_private(&path, 6).unwrap(), b"secret");
        assert_eq!(read_private(&path, 5).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        write(&path, b"secret", PUBLIC).unwrap();
        assert_eq!(read_private(&path, 6).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn private_dirs_are_created_closed_and_open_ones_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        private_dir(&path).unwrap();
        assert_eq!((mode(&path), mode(&dir.path().join("a"))), (0o700, 0o700));
        private_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        assert_eq!(private_dir(&path).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
