//! Which records speak of an identity, a grant, a resource, an action, a reason, a call.
//!
//! Derived from what is signed of a log, in one file beside it; whoever removes it loses a moment. It only says where to
//! look: what is found there is read and asked again, so a wrong index can hide a record and never invent one. Written
//! by whoever queries and may write there, never by the log's writer.
//!
//! ```text
//! file    magic 8 | SHA-256 of the log's key 32 | chunk…
//! chunk   body length u32 | crc32c of the head u32 | root of the log up to its end 32
//!         | crc32c of each 4,096 bytes of the body u32… | body
//! body    first time i64 | last time i64 | terms u32 | calls u32
//!         | 512 × (segment u64, offset u64): where every 16th record stands
//!         | terms × (hash u64, first posting u32, postings u32), sorted | calls × (hash u64, record u32), sorted
//!         | postings u16: records of the chunk
//! ```
//!
//! Numbers are little-endian. A chunk speaks of 8,192 records. One whose root is not that of the log's tiles is of another
//! history and is made anew; one that is damaged is read past, as if nothing were known of its records.

mod chunk;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

pub(super) use self::chunk::Chunk;
use self::chunk::{BODY_HEADER, CALL, TERM, number, sealed};
use super::{Facts, Filter, Found, QueryError, facts};
use crate::evidence::checkpoint::Checkpoint;
use crate::evidence::entry::{Entry, Event};
use crate::evidence::journal::segment;
use crate::evidence::key::read_log_file;
use crate::evidence::read::{JournalReader, Next, Place, record_at, segments};
use crate::evidence::retention::{Horizon, gone};
use crate::evidence::sequencer::{SIGNED, read_note};
use crate::evidence::storage::{DiskStorage, Storage};
use crate::evidence::tiles::Edge;
use crate::evidence::tree::sha256;

/// The directory of the index in that of its log.
pub const DIRECTORY: &str = "index";
const FILE: &str = "records";
const MAGIC: &[u8; 8] = b"PCLSIDX2";
const FILE_HEADER: u64 = 8 + 32;
/// Records of a chunk: what is not in one yet is read one by one.
pub(super) const CHUNK: u64 = 8192;
/// Of this many records one is remembered by its place.
const STRIDE: u64 = 16;
const PLACES: usize = (CHUNK / STRIDE) as usize;
/// Bytes of a place.
const PLACE: usize = 16;
/// Rows of a table that are read at once.
const WINDOW: usize = 64;
/// Intents whose outcome may still come, remembered while chunks are made; older ones are looked up. More than a chunk: what
/// is looked up is of one that is made.
const MAX_OPEN: usize = if cfg!(test) { CHUNK as usize + 100 } else { 100_000 };

/// An index over the first records of a log.
#[derive(Debug)]
pub struct Index {
    storage: Arc<dyn Storage>,
    file: Option<File>,
    pub(super) chunks: Vec<Chunk>,
    /// The first records of the segments that were there when it was opened: of all that it speaks of.
    segments: Vec<u64>,
    /// The first record that was there then, and what was pruned before.
    gone: Option<(u64, Horizon)>,
}

/// What a record is looked for by.
#[derive(Clone, Copy)]
enum Term<'t> {
    Identity(&'t str),
    Grant(u128),
    Resource(&'t str),
    Action(&'t str),
    Reason(&'t str),
    Call(u128),
}

impl Term<'_> {
    /// The first 8 bytes of the SHA-256 over kind and value. Two terms with one hash cost a look each.
    fn hash(self) -> u64 {
        let text = |kind: &str, value: &str| sha256(format!("{kind}\n{value}").as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = match self {
            Self::Identity(value) => text("identity", value),
            Self::Grant(bits) => text("grant", &bits.to_string()),
            Self::Resource(value) => text("resource", value),
            Self::Action(value) => text("action", value),
            Self::Reason(value) => text("reason", value),
            Self::Call(bits) => text("call", &bits.to_string()),
        };
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

fn of_call(facts: &Facts<'_>) -> Vec<u64> {
    let identity = facts.identity.map(|it| Term::Identity(it.as_str()));
    let resource = facts.resource.map(|it| Term::Resource(it.as_str()));
    let action = facts.action.map(|it| Term::Action(it.as_str()));
    let grants = facts.grants.iter().map(|grant| Term::Grant(grant.bits()));
    identity.into_iter().chain(resource).chain(action).chain(grants).map(Term::hash).collect()
}

impl Filter {
    /// What of it the index knows.
    pub(super) fn terms(&self) -> (Vec<u64>, Option<u64>) {
        let identity = self.identity.as_ref().map(|it| Term::Identity(it.as_str()));
        let resource = self.resource.as_ref().map(|it| Term::Resource(it.as_str()));
        let action = self.action.as_ref().map(|it| Term::Action(it.as_str()));
        let grant = self.grant.map(|it| Term::Grant(it.bits()));
        let reason = self.reason.map(|it| Term::Reason(it.code()));
        let terms = [identity, resource, action, grant, reason].into_iter().flatten().map(Term::hash);
        (terms.collect(), self.call.map(|it| Term::Call(it.bits()).hash()))
    }
}

/// What is known of the calls that have not ended, by the position of their intents.
type Open = BTreeMap<u64, Vec<u64>>;

/// Remembers one more. The oldest goes first: it is the likeliest never to end, as after a crash.
fn remember(open: &mut Open, seq: u64, terms: Vec<u64>) {
    if open.len() >= MAX_OPEN {
        open.pop_first();
    }
    open.insert(seq, terms);
}

impl Index {
    /// Opens the index of the log in a directory and adds what was signed since. Where it cannot be written, or somebody
    /// else is writing it, what is there is used.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn open(directory: &Path) -> Result<Self, QueryError> {
        Self::open_over(directory, Arc::new(DiskStorage::read_only(directory)))
    }

    /// As [`open`](Self::open), with the log read through `storage`: an error of that leaves what was added by then.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn open_over(directory: &Path, storage: Arc<dyn Storage>) -> Result<Self, QueryError> {
        let segments = segments(&*storage)?;
        let gone = gone(&*storage)?;
        let mut index = Self { storage, file: None, chunks: Vec::new(), segments, gone };
        let Ok(key) = read_log_file(&*index.storage) else { return Ok(index) };
        let header = [&MAGIC[..], &sha256(key.to_string().as_bytes())].concat();
        let path = directory.join(DIRECTORY).join(FILE);
        if let Some(file) = writable(&path) {
            index.load(file, &header)?;
            index.keep_of_this_history()?;
            let signed = read_note(&*index.storage, SIGNED)?;
            let signed = signed.and_then(|note| Checkpoint::verify(&note, &key).ok());
            index.extend(signed.map_or(0, |checkpoint| checkpoint.head.size))?;
        } else if let Ok(file) = File::open(&path) {
            index.load(file, &header)?;
            index.keep_of_this_history()?;
        }
        Ok(index)
    }

    /// Records that it speaks of.
    pub fn records(&self) -> u64 {
        u64::try_from(self.chunks.len()).unwrap_or(0) * CHUNK
    }

    /// Takes what is there; begins anew when that is of another log. What does not hold at the end is written over.
    fn load(&mut self, file: File, header: &[u8]) -> io::Result<()> {
        let mut found = vec![0; header.len()];
        let same = file.read_exact_at(&mut found, 0).is_ok() && found == header;
        let mut at = FILE_HEADER;
        while same && let Some(chunk) = Chunk::open(&file, at, PLACES) {
            at = chunk.end();
            self.chunks.push(chunk);
        }
        // A crash may have torn the last one, and no other. Of those, every block is checked where it is read.
        self.chunks.pop_if(|last| !last.holds(&file));
        if !same {
            // Of another log, or none: nothing behind the header is this log's. A reader of what cannot be written has none
            // then.
            let _ = file.set_len(0);
            let _ = file.write_all_at(header, 0);
        }
        self.file = Some(file);
        Ok(())
    }

    /// Drops what was made of records that the log does not have: it was put back, and written on, under the same key.
    fn keep_of_this_history(&mut self) -> io::Result<()> {
        let before = self.chunks.len();
        while let Some(last) = self.chunks.last() {
            let edge = Edge::load(&*self.storage, self.records())?;
            if edge.is_some_and(|edge| edge.root() == last.root) {
                break;
            }
            self.chunks.pop();
        }
        if self.chunks.len() < before {
            let end = self.chunks.last().map_or(FILE_HEADER, Chunk::end);
            // Where it may not be written, the next reader comes to the same.
            if let Some(file) = &self.file {
                let _ = file.set_len(end);
            }
        }
        Ok(())
    }

    /// Adds whole chunks of the first `signed` records.
    fn extend(&mut self, signed: u64) -> Result<(), QueryError> {
        if signed < self.records() + CHUNK {
            return Ok(());
        }
        // Without its tiles, which are derived anew, nobody can say which history it is.
        let Some(mut edge) = Edge::load(&*self.storage, self.records())? else { return Ok(()) };
        // Whole chunks of what was pruned need no record.
        let mut reader = self.reader(self.gone.as_ref().map_or(0, |(first, _)| *first).max(self.records()))?;
        let mut open = Open::new();
        while signed >= self.records() + CHUNK {
            let gone = self.is_pruned(self.records());
            let body = self.made(&mut reader, &mut edge, &mut open)?;
            if gone {
                // Of records that are gone, the tiles still know.
                let Some(known) = Edge::load(&*self.storage, self.records() + CHUNK)? else { return Ok(()) };
                edge = known;
            }
            let at = self.chunks.last().map_or(FILE_HEADER, Chunk::end);
            let (Some(file), Some(bytes)) = (&self.file, sealed(&edge.root(), &body)) else { return Ok(()) };
            // A disk that is full, or one that may not be written: what there is stands.
            if file.write_all_at(&bytes, at).is_err() {
                return Ok(());
            }
            let Some(chunk) = Chunk::open(file, at, PLACES) else { return Ok(()) };
            self.chunks.push(chunk);
        }
        Ok(())
    }

    /// The body of the next chunk, whose records go into the tree.
    fn made(&self, reader: &mut JournalReader, edge: &mut Edge, open: &mut Open) -> Result<Vec<u8>, QueryError> {
        let (mut places, mut times) = (Vec::with_capacity(CHUNK as usize), None);
        let mut terms: BTreeMap<u64, Vec<u16>> = BTreeMap::new();
        let mut calls: Vec<(u64, u32)> = Vec::new();
        for at in 0..u16::try_from(CHUNK).unwrap_or(0) {
            if self.is_pruned(self.records() + u64::from(at)) {
                // It says nothing of what is gone, and its places stay where they are.
                places.resize(places.len() + if u64::from(at) % STRIDE == 0 { PLACE } else { 0 }, 0);
                continue;
            }
            let (place, entry) = parsed(reader, edge)?;
            let (first, _) = times.unwrap_or((entry.time, entry.time));
            times = Some((first, entry.time));
            if u64::from(at) % STRIDE == 0 {
                let segment = place.segment.rsplit('/').next().and_then(segment::first_of_name).unwrap_or(0);
                places.extend_from_slice(&segment.to_le_bytes());
                places.extend_from_slice(&place.offset.to_le_bytes());
            }
            let facts = facts(&entry.event);
            let mut of_record = of_call(&facts);
            match &entry.event {
                Event::Intent(_) => remember(open, entry.seq, of_record.clone()),
                Event::Outcome(outcome) => {
                    of_record = match open.remove(&outcome.intent_seq) {
                        Some(terms) => terms,
                        None => self
                            .known(outcome.intent_seq)?
                            .map_or(Vec::new(), |intent| of_call(&super::facts(&intent.entry.event))),
                    };
                }
                _ => {}
            }
            of_record.extend(facts.reasons.iter().map(|reason| Term::Reason(reason.code()).hash()));
            of_record.sort_unstable();
            of_record.dedup();
            of_record.into_iter().for_each(|term| terms.entry(term).or_default().push(at));
            calls.extend(facts.calls.iter().map(|call| (Term::Call(call.bits()).hash(), u32::from(at))));
        }
        calls.sort_unstable();
        calls.dedup();
        let (first, last) =
            times.map_or((i64::MIN, i64::MIN), |(first, last)| (first.unix_micros(), last.unix_micros()));
        let mut body = [first.to_le_bytes(), last.to_le_bytes()].concat();
        body.extend_from_slice(&u32::try_from(terms.len()).unwrap_or(u32::MAX).to_le_bytes());
        body.extend_from_slice(&u32::try_from(calls.len()).unwrap_or(u32::MAX).to_le_bytes());
        body.extend_from_slice(&places);
        let mut from = 0u32;
        for (hash, postings) in &terms {
            let count = u32::try_from(postings.len()).unwrap_or(0);
            body.extend_from_slice(&hash.to_le_bytes());
            body.extend_from_slice(&from.to_le_bytes());
            body.extend_from_slice(&count.to_le_bytes());
            from += count;
        }
        for (hash, at) in calls {
            body.extend_from_slice(&hash.to_le_bytes());
            body.extend_from_slice(&at.to_le_bytes());
        }
        terms.values().flatten().for_each(|at| body.extend_from_slice(&at.to_le_bytes()));
        Ok(body)
    }

    fn bytes(&self, chunk: &Chunk, from: usize, length: usize) -> io::Result<Vec<u8>> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        chunk.bytes(file, from, length)
    }

    /// The last record up to `seq` whose place is remembered: its number, the first of its segment, and its byte there.
    fn place(&self, seq: u64) -> io::Result<Option<(u64, u64, u64)>> {
        let chunk = usize::try_from(seq / CHUNK).ok().and_then(|chunk| self.chunks.get(chunk));
        let Some(chunk) = chunk else { return Ok(None) };
        let from = usize::try_from(seq % CHUNK / STRIDE * 16).unwrap_or(0);
        let place = match self.bytes(chunk, BODY_HEADER + from, 16) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
            place => place?,
        };
        let (segment, offset) = (number(&place, 0).map(u64::from_le_bytes), number(&place, 8).map(u64::from_le_bytes));
        Ok(segment.zip(offset).map(|(segment, offset)| (seq - seq % STRIDE, segment, offset)))
    }

    /// Of the log.
    pub(super) fn storage(&self) -> Arc<dyn Storage> {
        self.storage.clone()
    }

    /// Whether a record was pruned before it was opened.
    pub(super) fn is_pruned(&self, seq: u64) -> bool {
        self.gone.as_ref().is_some_and(|(first, _)| seq < *first)
    }

    /// As [`record`](Self::record); `None` of one that was pruned.
    pub(super) fn known(&self, seq: u64) -> Result<Option<Found>, QueryError> {
        if self.is_pruned(seq) { Ok(None) } else { self.record(seq).map(Some) }
    }

    /// Reads from a record that it knows, or from the one behind the last.
    pub(super) fn reader(&self, seq: u64) -> Result<JournalReader, QueryError> {
        let wanted = if seq == self.records() { seq.saturating_sub(1) } else { seq };
        let place = self.place(wanted)?.filter(|(from, ..)| !self.is_pruned(*from));
        let Some((from, segment, offset)) = place else {
            return Ok(JournalReader::new(self.storage.clone(), seq));
        };
        let mut reader = JournalReader::at(self.storage.clone(), from, segment, offset);
        while reader.position() < seq {
            let Next::Record(_) = reader.next()? else { return Err(QueryError::Index(seq)) };
        }
        Ok(reader)
    }

    /// A record that it knows: read where it stands, or from where the one before it does.
    pub(super) fn record(&self, seq: u64) -> Result<Found, QueryError> {
        if let Some((_, horizon)) = self.gone.as_ref().filter(|(first, _)| seq < *first) {
            return Err(QueryError::Pruned { seq, horizon: horizon.clone() });
        }
        let here = match self.place(seq)? {
            // What stands there behind the beginning of the next segment was never promised.
            Some((at, segment, offset))
                if !self.is_pruned(at) && !self.segments.iter().any(|first| (segment + 1..=seq).contains(first)) =>
            {
                let path: Arc<str> = segment::path(segment).into();
                record_at(&*self.storage, &path, offset, at..=seq)?
                    .map(|(offset, bytes)| (Place { seq, segment: path, offset }, bytes))
            }
            _ => None,
        };
        let (place, bytes) = match here {
            Some(found) => found,
            // The next segment has it, or nothing is remembered of it yet.
            None => match self.reader(seq)?.next()? {
                Next::Record(record) if record.place.seq == seq => (record.place.clone(), record.bytes.to_vec()),
                _ => return Err(QueryError::Index(seq)),
            },
        };
        let entry = Entry::parse(&bytes).map_err(|error| QueryError::Entry { place: place.clone(), error })?;
        Ok(Found { place, entry, bytes })
    }

    /// The rows of a sorted table that begin with `hash`. Hashes are spread evenly, so a guess is rarely far off, and one
    /// look is mostly enough.
    fn rows<const N: usize>(&self, chunk: &Chunk, table: usize, rows: usize, hash: u64) -> io::Result<Vec<[u8; N]>> {
        let read = |from: usize, to: usize| self.bytes(chunk, table + from * N, (to.min(rows) - from) * N);
        let smaller = |row: &[u8; N]| number(row, 0).map_or(0, u64::from_le_bytes) < hash;
        // The first that is not smaller stands in here; `high` is one of them.
        let (mut low, mut high) = (0, rows);
        let mut guess = usize::try_from((u128::from(hash) * rows as u128) >> 64).unwrap_or(0);
        while high - low > WINDOW {
            let from = guess.saturating_sub(WINDOW / 2).clamp(low, high - WINDOW);
            let bytes = read(from, from + WINDOW)?;
            match bytes.as_chunks::<N>().0.partition_point(smaller) {
                0 => high = from,
                WINDOW => low = from + WINDOW,
                found => (low, high) = (from + found, from + found),
            }
            guess = usize::midpoint(low, high);
        }
        let mut found = Vec::new();
        loop {
            let bytes = read(low, high + WINDOW)?;
            let all = bytes.as_chunks::<N>().0;
            let same = |row: &&[u8; N]| number(*row, 0).is_some_and(|bytes| u64::from_le_bytes(bytes) == hash);
            let these = all.get(all.partition_point(smaller)..).unwrap_or_default();
            let count = these.iter().take_while(same).count();
            found.extend_from_slice(these.get(..count).unwrap_or_default());
            (low, high) = (low + all.len(), low + all.len());
            // Only where all of them were the same may there be more.
            if count < these.len() || low >= rows {
                return Ok(found);
            }
        }
    }

    /// The records of a chunk that may be wanted, ascending: of one that is damaged, all.
    pub(super) fn candidates(&self, chunk: &Chunk, terms: &[u64], call: Option<u64>) -> io::Result<Vec<u16>> {
        match self.wanted(chunk, terms, call) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Ok((0..u16::try_from(CHUNK).unwrap_or(0)).collect())
            }
            wanted => wanted,
        }
    }

    fn wanted(&self, chunk: &Chunk, terms: &[u64], call: Option<u64>) -> io::Result<Vec<u16>> {
        let tables = BODY_HEADER + PLACES * 16;
        let calls = tables + chunk.terms * TERM;
        let postings = calls + chunk.calls * CALL;
        let mut wanted: Option<Vec<u16>> = None;
        if let Some(call) = call {
            let rows = self.rows::<CALL>(chunk, calls, chunk.calls, call)?;
            let at = rows.iter().filter_map(|row| number(row, 8).map(u32::from_le_bytes));
            let mut at: Vec<u16> = at.filter_map(|at| u16::try_from(at).ok()).collect();
            at.sort_unstable();
            wanted = Some(at);
        }
        for term in terms {
            if wanted.as_ref().is_some_and(Vec::is_empty) {
                break;
            }
            let rows = self.rows::<TERM>(chunk, tables, chunk.terms, *term)?;
            let range = rows.first().and_then(|row| Some((number(row, 8)?, number(row, 12)?)));
            let Some((from, count)) = range.map(|(a, b)| (u32::from_le_bytes(a), u32::from_le_bytes(b))) else {
                return Ok(Vec::new());
            };
            let size = |number: u32| usize::try_from(number).unwrap_or(0);
            let bytes = self.bytes(chunk, postings + size(from) * 2, size(count).min(8192) * 2)?;
            let list = bytes.as_chunks::<2>().0.iter().map(|at| u16::from_le_bytes(*at));
            wanted = Some(match wanted {
                None => list.collect(),
                Some(before) => list.filter(|at| before.binary_search(at).is_ok()).collect(),
            });
        }
        Ok(wanted.unwrap_or_default())
    }
}

fn parsed(reader: &mut JournalReader, edge: &mut Edge) -> Result<(Place, Entry), QueryError> {
    match reader.next()? {
        Next::Record(record) => {
            edge.append(record.bytes, |_, _| Ok::<(), io::Error>(()))?;
            let place = record.place.clone();
            match Entry::parse(record.bytes) {
                Ok(entry) => Ok((place, entry)),
                Err(error) => Err(QueryError::Entry { place, error }),
            }
        }
        Next::Damaged { place, why } => Err(QueryError::Damaged { place, why }),
        Next::CaughtUp { .. } => Err(QueryError::Disk(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// The file, to be written by this process alone; `None` where it may not be, or another one does.
fn writable(path: &Path) -> Option<File> {
    let directory = path.parent()?;
    crate::files::private_dir(directory).ok()?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).ok()?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

#[cfg(test)]
#[path = "index/tests.rs"]
mod tests;
