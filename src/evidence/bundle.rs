//! Entry bundles (C2SP tlog-tiles): 256 records to a file, `tile/entries/<N>[.p/<W>]`, each with its length before it.
//!
//! A gateway's own log has none: its records stand in the journal. An export and an archive have them, and with them any
//! client of the format reads the log.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::entry::{Entry, MAX_ENTRY_BYTES};
use super::read::{Next, Place, Record};
use super::storage::{Storage, read_file};
use super::tiles::{TILE_WIDTH, index_path, number_of_index};

/// The directory of the bundles.
pub(crate) const DIRECTORY: &str = "tile/entries";
/// Longest bundle.
pub const MAX_BUNDLE_BYTES: usize = TILE_WIDTH * (2 + MAX_ENTRY_BYTES);

/// Where the bundle stands that begins with record `index * 256` and has `width` records.
pub fn path(index: u64, width: usize) -> String {
    let partial = if width < TILE_WIDTH { format!(".p/{width}") } else { String::new() };
    format!("{DIRECTORY}/{}{partial}", index_path(index))
}

/// The bundle that a path names, and its width.
pub(crate) fn parse(name: &str) -> Option<(u64, usize)> {
    let rest = name.strip_prefix(DIRECTORY)?.strip_prefix('/')?;
    let (index, width) = match rest.split_once(".p/") {
        Some((index, width)) => (index, width.parse().ok().filter(|width| (1..TILE_WIDTH).contains(width))?),
        None => (rest, TILE_WIDTH),
    };
    let index = number_of_index(index)?;
    (path(index, width) == name).then_some((index, width))
}

/// Adds a record to a bundle: its length in 16 bits, big-endian, and its bytes.
pub(crate) fn push(bundle: &mut Vec<u8>, record: &[u8]) {
    bundle.extend_from_slice(&u16::try_from(record.len()).unwrap_or(u16::MAX).to_be_bytes());
    bundle.extend_from_slice(record);
}

/// Where the records of a bundle stand in it; `None` when it is not one.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut ranges = Vec::with_capacity(TILE_WIDTH);
    let mut at = 0;
    while at < bytes.len() {
        let length = bytes.get(at..at + 2).and_then(|length| length.try_into().ok()).map(u16::from_be_bytes)?;
        let range = at + 2..at + 2 + usize::from(length);
        bytes.get(range.clone())?;
        at = range.end;
        ranges.push(range);
    }
    (ranges.len() <= TILE_WIDTH).then_some(ranges)
}

/// Reads a log's records from its bundles, in order.
#[derive(Debug)]
pub struct BundleReader {
    storage: Arc<dyn Storage>,
    next: u64,
    size: u64,
    path: Arc<str>,
    bytes: Vec<u8>,
    ranges: Vec<Range<usize>>,
}

impl BundleReader {
    /// The first `size` records of a log, which its checkpoint says that it has, from record `from` on, where a bundle
    /// begins.
    pub fn new(storage: Arc<dyn Storage>, from: u64, size: u64) -> Self {
        Self { storage, next: from, size, path: "".into(), bytes: Vec::new(), ranges: Vec::new() }
    }

    /// The record that comes next.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    /// The next record, if there is one.
    ///
    /// # Errors
    /// Those of the disk.
    #[expect(clippy::should_implement_trait, reason = "it lends from its buffer, which no Iterator can")]
    pub fn next(&mut self) -> io::Result<Next<'_>> {
        if self.next == self.size {
            return Ok(Next::CaughtUp { torn: 0 });
        }
        let at = usize::try_from(self.next % 256).unwrap_or(0);
        if at == 0
            && let Some(why) = self.open()?
        {
            return Ok(Next::Damaged { place: self.place(0), why });
        }
        let range = self.ranges.get(at).cloned().unwrap_or_default();
        let place = self.place(range.start);
        let bytes = self.bytes.get(range).unwrap_or_default();
        if Entry::place(bytes).is_none_or(|(seq, _)| seq != self.next) {
            return Ok(Next::Damaged { place, why: "the record names another position" });
        }
        self.next += 1;
        Ok(Next::Record(Record { place, bytes }))
    }

    fn place(&self, offset: usize) -> Place {
        Place { seq: self.next, segment: self.path.clone(), offset: u64::try_from(offset).unwrap_or(0) }
    }

    /// Reads the bundle of the next record; says what is wrong with it.
    fn open(&mut self) -> io::Result<Option<&'static str>> {
        let (index, width) = (self.next / 256, usize::try_from((self.size - self.next).min(256)).unwrap_or(TILE_WIDTH));
        self.path = path(index, width).into();
        self.bytes = match read_file(&*self.storage, &self.path, MAX_BUNDLE_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && width < TILE_WIDTH => {
                // A partial bundle may go when the full one is there.
                self.path = path(index, TILE_WIDTH).into();
                match read_file(&*self.storage, &self.path, MAX_BUNDLE_BYTES) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some("the bundle is missing")),
                    bytes => bytes?,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some("the bundle is missing")),
            bytes => bytes?,
        };
        let ranges = decode(&self.bytes).filter(|ranges| ranges.len() >= width);
        let Some(ranges) = ranges else { return Ok(Some("the bundle does not hold its records")) };
        self.ranges = ranges;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_stand_where_the_standard_says_and_come_back() {
        assert_eq!(path(1_234_067, 256), "tile/entries/x001/x234/067");
        assert_eq!(path(0, 7), "tile/entries/000.p/7");
        assert_eq!(parse("tile/entries/x001/000.p/7"), Some((1000, 7)));
        for bad in ["tile/entries/0", "tile/entries/000.p/256", "tile/0/000", "tile/entries/x000/001"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let mut bundle = Vec::new();
        for record in [&b"{}"[..], b"", &[7; 65_535]] {
            push(&mut bundle, record);
        }
        assert_eq!(decode(&bundle), Some(vec![2..4, 6..6, 8..65_543]));
        assert_eq!(decode(&bundle[..bundle.len() - 1]), None);
        assert_eq!(decode(&[0]), None);
    }
}
