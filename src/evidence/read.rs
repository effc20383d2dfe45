//! Reading the journal's segments, in order, also while somebody writes them.
//!
//! The one reading function: recovery, the sequencer, the verifier, `tail` and `query` all come through here. It
//! judges form and order only; what records mean, and whether the tree agrees, is for others.

mod end;
mod open;

use std::fmt;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

pub(crate) use self::end::{End, written};
use self::open::{OpenSegment, TAIL_BYTES};
use super::entry::Entry;
use super::journal::segment::{self, Frame, MAX_HEADER_BYTES, SegmentHeader};
use super::storage::Storage;

/// Bytes asked of the disk at once.
const READ_BYTES: usize = 256 * 1024;
/// The same where a few records are wanted.
const FEW_BYTES: usize = 16 * 1024;

/// Where something stands in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The record, or the one that should stand there.
    pub seq: u64,
    /// The segment, relative to the log's directory.
    pub segment: Arc<str>,
    /// The byte in it.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} ({} at byte {})", self.seq, self.segment, self.offset)
    }
}

/// A record as its bytes.
#[derive(Debug)]
pub struct Record<'r> {
    /// Where it stands.
    pub place: Place,
    /// The entry: the leaf of the tree.
    pub bytes: &'r [u8],
}

/// What comes next in the journal.
#[derive(Debug)]
pub enum Next<'r> {
    /// A record.
    Record(Record<'r>),
    /// Nothing yet.
    CaughtUp {
        /// Bytes at the end that are not a whole record: one that is being written, or was when the power went.
        torn: u64,
    },
    /// Something that the writer did not write.
    Damaged {
        /// Where.
        place: Place,
        /// In which way.
        why: &'static str,
    },
}

enum Step {
    Record { seq: u64, offset: u64, payload: Range<usize> },
    CaughtUp { torn: u64 },
    Damaged { place: Place, why: &'static str },
}

/// A reader's position in the journal.
#[derive(Debug)]
pub struct JournalReader {
    storage: Arc<dyn Storage>,
    next: u64,
    at: Option<OpenSegment>,
    /// Where the next record stands, by somebody's word: its segment's first record, and the byte.
    known: Option<(u64, u64)>,
}

/// The first records of all segments, ascending.
pub(crate) fn segments(storage: &dyn Storage) -> io::Result<Vec<u64>> {
    let names = storage.files(segment::DIRECTORY)?;
    let mut firsts: Vec<u64> = names.iter().filter_map(|name| segment::first_of_name(name)).collect();
    firsts.sort_unstable();
    Ok(firsts)
}

/// The first record that is there: 0, unless older ones were pruned or are missing.
pub(crate) fn first(storage: &dyn Storage) -> io::Result<u64> {
    Ok(segments(storage)?.first().copied().unwrap_or(0))
}

impl JournalReader {
    /// Reads from record `from` on.
    pub fn new(storage: Arc<dyn Storage>, from: u64) -> Self {
        Self { storage, next: from, at: None, known: None }
    }

    /// Reads from record `from` on, which stands at byte `offset` of the segment that begins with record `segment`. Where
    /// that is not so, what comes is damaged.
    pub(crate) fn at(storage: Arc<dyn Storage>, from: u64, segment: u64, offset: u64) -> Self {
        Self { storage, next: from, at: None, known: Some((segment, offset)) }
    }

    /// The record that comes next.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The header of the segment that was read last.
    pub(crate) fn header(&self) -> Option<&SegmentHeader> {
        self.at.as_ref().map(|at| &at.header)
    }

    /// The segment that was read last, the offset of what was not read, and those bytes as far as they are in memory.
    pub(crate) fn unread(&self) -> Option<(&str, u64)> {
        self.at.as_ref().map(|at| (&*at.path, at.offset()))
    }

    /// Forgets what was read ahead and looks again which segment follows: what stood behind the last durable record when
    /// it was read may have failed since, and other records taken its place.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn look_again(&mut self) -> io::Result<()> {
        let Some(at) = &mut self.at else { return Ok(()) };
        if at.seq == at.header.first {
            // Nothing of it was taken, and a segment that failed at once has its successor under its own name.
            self.at = None;
            return Ok(());
        }
        at.buffer.truncate(at.start);
        self.look_for_following()
    }

    /// The next record, if there is one.
    ///
    /// # Errors
    /// Those of the disk.
    #[expect(clippy::should_implement_trait, reason = "it lends from its buffer, which no Iterator can")]
    pub fn next(&mut self) -> io::Result<Next<'_>> {
        Ok(match self.step()? {
            Step::CaughtUp { torn } => Next::CaughtUp { torn },
            Step::Damaged { place, why } => Next::Damaged { place, why },
            Step::Record { seq, offset, payload } => {
                let (segment, bytes) = match &self.at {
                    Some(at) => (at.path.clone(), at.buffer.get(payload).unwrap_or_default()),
                    None => (Arc::from(""), <&[u8]>::default()),
                };
                Next::Record(Record { place: Place { seq, segment, offset }, bytes })
            }
        })
    }

    fn step(&mut self) -> io::Result<Step> {
        loop {
            if self.at.is_none()
                && let Some(step) = self.open()?
            {
                return Ok(step);
            }
            let Some(at) = &mut self.at else { continue };
            if at.following == Some(at.seq) {
                // Whatever else this segment holds was never promised: the next one took its place.
                self.next = self.next.max(at.seq);
                self.at = None;
                continue;
            }
            let frame = Frame::read(at.rest());
            let (taken, offset) = (frame.bytes(), at.offset());
            match frame {
                Frame::Mark(_) => at.start += taken,
                Frame::Entry(payload) => {
                    if Entry::place(payload).is_none_or(|(seq, _)| seq != at.seq) {
                        return Ok(Step::Damaged { place: at.place(), why: "the record names another position" });
                    }
                    let seq = at.seq;
                    let payload = at.start + segment::FRAME_HEADER_BYTES..at.start + taken;
                    at.start += taken;
                    at.seq += 1;
                    if seq >= self.next {
                        self.next = seq + 1;
                        return Ok(Step::Record { seq, offset, payload });
                    }
                }
                Frame::Short { .. } => {
                    if at.refill(&*self.storage)? {
                        continue;
                    }
                    if let Some(step) = self.end("the record is cut off")? {
                        return Ok(step);
                    }
                }
                Frame::Blank | Frame::Bad(_) => {
                    let why = if let Frame::Bad(why) = frame { why } else { "the record is blank" };
                    if at.read_anew(&*self.storage)? {
                        continue;
                    }
                    let step = if at.is_cut_off() { self.end(why)? } else { self.damaged(why)? };
                    if let Some(step) = step {
                        return Ok(step);
                    }
                }
            }
        }
    }

    /// Opens the segment that holds the next record.
    fn open(&mut self) -> io::Result<Option<Step>> {
        let firsts = segments(&*self.storage)?;
        let Some(first) = firsts.iter().copied().filter(|first| *first <= self.next).max() else {
            let Some(first) = firsts.first() else { return Ok(Some(Step::CaughtUp { torn: 0 })) };
            let place = Place { seq: self.next, segment: segment::path(*first).into(), offset: 0 };
            return Ok(Some(Step::Damaged { place, why: "the segment before is missing" }));
        };
        let path: Arc<str> = segment::path(first).into();
        let mut buffer = Vec::new();
        self.storage.read_at(&path, 0, READ_BYTES.max(MAX_HEADER_BYTES), &mut buffer)?;
        let decoded = SegmentHeader::decode(&buffer).filter(|(header, _)| header.first == first);
        let Some((header, start)) = decoded else {
            let place = Place { seq: first, segment: path, offset: 0 };
            return Ok(Some(Step::Damaged { place, why: "the segment's header does not hold" }));
        };
        let following = firsts.into_iter().find(|other| *other > first);
        let mut at = OpenSegment { header, path, seq: first, following, buffer, start, buffer_at: 0 };
        if let Some((_, offset)) = self.known.take().filter(|(segment, _)| *segment == first) {
            (at.seq, at.start, at.buffer_at) = (self.next, 0, offset);
            at.buffer.clear();
        }
        self.at = Some(at);
        Ok(None)
    }

    /// At a place where no whole record stands and nothing follows in this segment.
    fn end(&mut self, why: &'static str) -> io::Result<Option<Step>> {
        if self.has_been_followed()? {
            return Ok(None);
        }
        let Some(at) = &mut self.at else { return Ok(None) };
        let torn = match at.following {
            Some(_) => None,
            None if at.rest().len() < TAIL_BYTES => Some(u64::try_from(written(at.rest())).unwrap_or(0)),
            None => at.torn(&*self.storage)?,
        };
        let Some(torn) = torn else { return Ok(Some(Step::Damaged { place: at.place(), why })) };
        // It is read again when somebody asks again: other bytes may stand there then.
        at.buffer.truncate(at.start);
        Ok(Some(Step::CaughtUp { torn }))
    }

    /// At a place where something else stands than a record.
    fn damaged(&mut self, why: &'static str) -> io::Result<Option<Step>> {
        if self.has_been_followed()? {
            return Ok(None);
        }
        let Some(at) = &mut self.at else { return Ok(None) };
        if at.following.is_none()
            && at.lacks_a_line()
            && let Some(torn) = at.torn(&*self.storage)?
        {
            // What was being written when the power went: the disk had written later parts of it, and not this one.
            at.buffer.truncate(at.start);
            return Ok(Some(Step::CaughtUp { torn }));
        }
        Ok(Some(Step::Damaged { place: at.place(), why }))
    }

    /// Whether another segment follows that was not known when this place was read. The writer may have gone on here before it
    /// began that one: the place is to be read again.
    fn has_been_followed(&mut self) -> io::Result<bool> {
        let known = self.at.as_ref().is_some_and(|at| at.following.is_some());
        self.look_for_following()?;
        let Some(at) = self.at.as_mut().filter(|at| !known && at.following.is_some()) else { return Ok(false) };
        at.buffer.truncate(at.start);
        Ok(true)
    }

    fn look_for_following(&mut self) -> io::Result<()> {
        let Some(at) = &mut self.at else { return Ok(()) };
        if at.following.is_none() {
            let first = at.header.first;
            at.following = segments(&*self.storage)?.into_iter().find(|other| *other > first);
        }
        Ok(())
    }
}

/// A record of which it is known that those before it, from `records`' first on, stand at byte `offset` of a segment:
/// where it stands, and its bytes. `None`: something else stands there.
///
/// # Errors
/// Those of the disk.
pub(crate) fn record_at(
    storage: &dyn Storage,
    path: &str,
    offset: u64,
    records: RangeInclusive<u64>,
) -> io::Result<Option<(u64, Vec<u8>)>> {
    let (mut seq, wanted) = records.into_inner();
    let (mut buffer, mut start) = (Vec::new(), 0usize);
    loop {
        let frame = Frame::read(buffer.get(start..).unwrap_or_default());
        let taken = frame.bytes();
        match frame {
            Frame::Mark(_) => start += taken,
            Frame::Entry(payload) => {
                if Entry::place(payload).is_none_or(|(named, _)| named != seq) {
                    return Ok(None);
                }
                if seq == wanted {
                    return Ok(Some((offset + u64::try_from(start).unwrap_or(0), payload.to_vec())));
                }
                (seq, start) = (seq + 1, start + taken);
            }
            Frame::Short { .. } => {
                let end = offset + u64::try_from(buffer.len()).unwrap_or(0);
                if storage.read_at(path, end, FEW_BYTES, &mut buffer)? == 0 {
                    return Ok(None);
                }
            }
            Frame::Blank | Frame::Bad(_) => return Ok(None),
        }
    }
}

/// Where a segment ends that is followed by another one and holds more than that one leaves it.
pub(crate) fn end_of_superseded(storage: &Arc<dyn Storage>, path: &str) -> io::Result<Option<u64>> {
    let Some(first) = path.rsplit('/').next().and_then(segment::first_of_name) else { return Ok(None) };
    let Some(next) = segments(&**storage)?.into_iter().find(|other| *other > first) else { return Ok(None) };
    let mut reader = JournalReader::new(storage.clone(), first);
    while reader.position() < next {
        let Next::Record(_) = reader.next()? else { return Ok(None) };
    }
    Ok(reader.unread().filter(|(read, _)| *read == path).map(|(_, offset)| offset))
}
