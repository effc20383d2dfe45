//! A small value that changes often and must never go back: one file with two slots, written by turns and in place.
//!
//! To replace a file makes two names and flushes two files; to write a slot flushes one that is there. Each slot is a
//! line of text: checksum, number, value, and spaces up to its end. A write goes over the older one, so a crash
//! in the midst of it leaves the newer one; after `Ok` the new value survives a power cut. A slot that is not whole is
//! taken for one whose write was not done: what a disk damages later in the newest slot is lost with it.
//!
//! What is read may be in memory alone, of a process that was killed before it had it on disk: it counts once it was
//! written again, which makes the file anew. So is one that holds the value alone, as older versions wrote it.
//!
//! Nobody else may write the file: that is for a lock of the caller's.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;

use serde::Serialize;
use serde::de::{DeserializeOwned, Error};

/// A block of every file system that matters: of these a slot is a multiple, so that no two share one.
pub const BLOCK_BYTES: usize = 4096;

/// The file, and where it stands.
#[derive(Debug)]
pub struct Slots {
    path: PathBuf,
    /// Of each slot.
    bytes: usize,
    /// `None`: the file is to be made.
    last: Option<Last>,
}

/// What was written last: the next one goes to the other slot.
#[derive(Debug)]
struct Last {
    number: u64,
    /// Of the file. Another one that took its name has numbers of its own.
    inode: u64,
}

/// Why a value cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    /// The file system says so.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The content is not one that was written here.
    #[error(transparent)]
    Content(serde_json::Error),
}

impl Slots {
    /// Reads the newest value in the file at `path`, of slots of `bytes`, and makes it durable; `None` when there is no file.
    ///
    /// # Errors
    /// When it is no such file, neither slot is whole, or what the file system says.
    pub fn read<T: Serialize + DeserializeOwned>(path: PathBuf, bytes: usize) -> Result<(Self, Option<T>), SlotsError> {
        let (mut slots, text) = Self::open(path, bytes)?;
        let value = text.map(|text| serde_json::from_slice(&text)).transpose().map_err(SlotsError::Content)?;
        if let Some(value) = &value {
            slots.write(value)?;
        }
        Ok((slots, value))
    }

    /// Writes a value. Blocks on the disk.
    ///
    /// # Errors
    /// [`io::ErrorKind::FileTooLarge`] when it does not fit a slot, or what the file system says: then the value before
    /// it still stands, or this one does.
    pub fn write(&mut self, value: &impl Serialize) -> io::Result<()> {
        self.write_text(&serde_json::to_vec(value).map_err(io::Error::other)?)
    }

    fn open(path: PathBuf, bytes: usize) -> Result<(Self, Option<Vec<u8>>), SlotsError> {
        let value = match fs::read(&path) {
            Ok(text) if text.starts_with(b"{") => Some(text),
            Ok(text) => match newest(&text, bytes) {
                Some((_, value)) => Some(value.to_vec()),
                None => return Err(SlotsError::Content(Error::custom("neither of its two lines is whole"))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        Ok((Self { path, bytes, last: None }, value))
    }

    /// Writes JSON in one line.
    fn write_text(&mut self, value: &[u8]) -> io::Result<()> {
        // INVARIANT: `None` until it is done. After a write that failed nobody knows what the slots hold: the file is made anew.
        let last = self.last.take();
        let next = last.and_then(|last| Some((last.number.checked_add(1)?, last)));
        let in_place = next.map(|(number, last)| self.write_in_place(&last, number, value)).transpose()?;
        self.last = Some(match in_place.flatten() {
            Some(last) => last,
            None => self.make(value)?,
        });
        Ok(())
    }

    /// Makes the file anew: its other slot is one that nothing was written to.
    fn make(&self, value: &[u8]) -> io::Result<Last> {
        let whole = [slot(0, value, self.bytes)?, vec![b' '; self.bytes]].concat();
        super::write(&self.path, &whole, super::PRIVATE)?;
        Ok(Last { number: 0, inode: fs::metadata(&self.path)?.ino() })
    }

    /// `None` when the file is not there as it was left.
    fn write_in_place(&self, last: &Last, number: u64, value: &[u8]) -> io::Result<Option<Last>> {
        let slot = slot(number, value, self.bytes)?;
        let mut file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        let half = self.bytes as u64;
        file.by_ref().take(2 * half + 1).read_to_end(&mut text)?;
        let is_ours = newest(&text, self.bytes).is_some_and(|(newest, _)| newest == last.number);
        if file.metadata()?.ino() != last.inode || !is_ours {
            return Ok(None);
        }
        file.write_all_at(&slot, if number.is_multiple_of(2) { 0 } else { half })?;
        file.sync_data()?;
        Ok(Some(Last { number, inode: last.inode }))
    }
}

/// Number and value of the newest slot of a whole file of two slots of `bytes`.
fn newest(text: &[u8], bytes: usize) -> Option<(u64, &[u8])> {
    let (first, second) = text.split_at_checked(bytes).filter(|_| text.len() == 2 * bytes)?;
    [first, second].into_iter().filter_map(read_slot).max_by_key(|(number, _)| *number)
}

fn slot(number: u64, value: &[u8], bytes: usize) -> io::Result<Vec<u8>> {
    let mut covered = format!("{number} ").into_bytes();
    covered.extend_from_slice(value);
    let mut line = format!("{:08x} ", crc32c::crc32c(&covered)).into_bytes();
    line.append(&mut covered);
    if line.len() >= bytes || value.contains(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a value that does not fit its line"));
    }
    line.resize(bytes - 1, b' ');
    line.push(b'\n');
    Ok(line)
}

/// Number and value of a slot that is whole.
fn read_slot(slot: &[u8]) -> Option<(u64, &[u8])> {
    let (sum, rest) = slot.strip_suffix(b"\n")?.split_at_checked(8)?;
    let covered = rest.strip_prefix(b" ")?.trim_ascii_end();
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    if crc32c::crc32c(covered) != sum {
        return None;
    }
    let end = covered.iter().position(|byte| *byte == b' ')?;
    let (number, value) = covered.split_at_checked(end)?;
    let number = std::str::from_utf8(number).ok()?.parse().ok()?;
    Some((number, value.strip_prefix(b" ")?))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files that are torn on purpose")]
mod tests {
    use super::*;

    const SLOT_BYTES: usize = BLOCK_BYTES;
    const FILE_BYTES: u64 = 2 * SLOT_BYTES as u64;

    fn path(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("value.json")
    }

    fn read(dir: &tempfile::TempDir) -> Option<String> {
        let value = Slots::open(path(dir), SLOT_BYTES).unwrap().1;
        value.map(|value| String::from_utf8(value).unwrap())
    }

    /// A file to which `{"n":0}` and so on up to `most` were written.
    fn written(dir: &tempfile::TempDir, most: u64) -> Slots {
        let (mut slots, before) = Slots::open(path(dir), SLOT_BYTES).unwrap();
        assert_eq!(before, None);
        for n in 0..=most {
            slots.write_text(format!(r#"{{"n":{n}}}"#).as_bytes()).unwrap();
        }
        slots
    }

    #[test]
    fn the_last_value_is_read_and_the_file_stays_the_same_one() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let mut slots = written(&dir, 0);
        let file = || fs::metadata(path(&dir)).unwrap();
        let first = file().ino();
        for n in 1..=9 {
            slots.write_text(format!(r#"{{"n":{n}}}"#).as_bytes()).unwrap();
            assert_eq!(read(&dir), Some(format!(r#"{{"n":{n}}}"#)));
        }
        let now = file();
        assert_eq!((now.ino(), now.len(), now.permissions().mode() & 0o777), (first, FILE_BYTES, 0o600));
        // What another process finds may not be on disk yet: its first write makes the file anew.
        Slots::open(path(&dir), SLOT_BYTES).unwrap().0.write_text(br#"{"n":10}"#).unwrap();
        assert_eq!(read(&dir).as_deref(), Some(r#"{"n":10}"#));
        assert_ne!(file().ino(), first);
    }

    #[test]
    fn a_write_that_stopped_at_any_byte_leaves_the_value_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut slots = written(&dir, 4);
        let before = fs::read(path(&dir)).unwrap();
        slots.write_text(br#"{"n":5}"#).unwrap();
        let after = fs::read(path(&dir)).unwrap();
        let changed: Vec<_> = (0..after.len()).filter(|at| before[*at] != after[*at]).collect();
        assert!(changed.iter().all(|at| *at >= SLOT_BYTES), "the newer one is not touched");
        for cut in &changed {
            // The bytes before `cut` came to the disk, in their order.
            let mut torn = before.clone();
            torn[SLOT_BYTES..*cut].copy_from_slice(&after[SLOT_BYTES..*cut]);
            fs::write(path(&dir), &torn).unwrap();
            assert_eq!(read(&dir).as_deref(), Some(r#"{"n":4}"#), "{cut}");
        }
    }

    #[test]
    fn what_is_flipped_is_not_taken_for_a_value() {
        let dir = tempfile::tempdir().unwrap();
        drop(written(&dir, 1));
        let good = fs::read(path(&dir)).unwrap();
        for at in [0, 3, 8, 9, 10, 12, 16] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            bad[SLOT_BYTES + at] ^= 1;
            fs::write(path(&dir), &bad).unwrap();
            assert!(matches!(Slots::open(path(&dir), SLOT_BYTES), Err(SlotsError::Content(_))), "{at}");
            fs::write(path(&dir), [&good[..SLOT_BYTES], &bad[SLOT_BYTES..]].concat()).unwrap();
            assert_eq!(read(&dir).as_deref(), Some(r#"{"n":0}"#), "{at}");
        }
        for length in [0, 1, SLOT_BYTES - 1, SLOT_BYTES, 2 * SLOT_BYTES - 1, 2 * SLOT_BYTES + 1] {
            let mut bytes = good.clone();
            bytes.resize(length, b' ');
            fs::write(path(&dir), &bytes).unwrap();
            assert!(matches!(Slots::open(path(&dir), SLOT_BYTES), Err(SlotsError::Content(_))), "{length}");
        }
    }

    #[test]
    fn a_file_of_before_one_that_is_gone_and_one_that_was_cut_are_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(path(&dir), br#"{"n":7}"#).unwrap();
        let (mut slots, value) = Slots::open(path(&dir), SLOT_BYTES).unwrap();
        assert_eq!(value.as_deref(), Some(&br#"{"n":7}"#[..]));
        slots.write_text(br#"{"n":8}"#).unwrap();
        assert_eq!(read(&dir).as_deref(), Some(r#"{"n":8}"#));
        fs::remove_file(path(&dir)).unwrap();
        slots.write_text(br#"{"n":9}"#).unwrap();
        assert_eq!(read(&dir).as_deref(), Some(r#"{"n":9}"#));
        OpenOptions::new().write(true).open(path(&dir)).unwrap().set_len(100).unwrap();
        slots.write_text(br#"{"n":10}"#).unwrap();
        assert_eq!(read(&dir).as_deref(), Some(r#"{"n":10}"#));
        // Another one in its place, with higher numbers.
        let other = tempfile::tempdir().unwrap();
        drop(written(&other, 99));
        fs::rename(path(&other), path(&dir)).unwrap();
        slots.write_text(br#"{"n":11}"#).unwrap();
        assert_eq!(read(&dir).as_deref(), Some(r#"{"n":11}"#));
        // The same file, with what another process wrote.
        drop(written(&other, 9));
        fs::write(path(&dir), fs::read(path(&other)).unwrap()).unwrap();
        slots.write_text(br#"{"n":12}"#).unwrap();
        assert_eq!(read(&dir).as_deref(), Some(r#"{"n":12}"#));
    }

    #[test]
    fn after_a_write_that_failed_the_next_one_makes_the_file_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut slots = written(&dir, 3);
        assert_eq!(slots.write_text(&[b'x'; SLOT_BYTES]).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(slots.write_text(b"a\nb").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        slots.write_text(br#"{"n":4}"#).unwrap();
        assert_eq!(read(&dir).as_deref(), Some(r#"{"n":4}"#));
    }
}
