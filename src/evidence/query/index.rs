//! Which records speak of an identity, a grant, a resource, an action, a reason, a call.
//!
//! Derived from what is signed of a log, in one file beside it; whoever removes it loses a moment. It only says where to
//! look: what is found there is read and asked again, so a wrong index can hide a record and never invent one. Written
//! by whoever queries and may write there, never by the log's writer.
//!
//! ```text
//! file    magic 8 | SHA-256 of the log's key 32 | chunk…
//! chunk   body length u32 | crc32c of the body u32 | body
//! body    first time i64 | last time i64 | terms u32 | calls u32
//!         | 512 × (segment u64, offset u64): where every 16th record stands
//!         | terms × (hash u64, first posting u32, postings u32), sorted | calls × (hash u64, record u32), sorted
//!         | postings u16: records of the chunk
//! ```
//!
//! Numbers are little-endian. A chunk speaks of 8,192 records.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use super::{Facts, Filter, Found, Query, QueryError, facts};
use crate::evidence::checkpoint::Checkpoint;
use crate::evidence::entry::{Entry, Event};
use crate::evidence::journal::segment;
use crate::evidence::key::read_log_file;
use crate::evidence::read::{JournalReader, Next, Place};
use crate::evidence::sequencer::{SIGNED, read_note};
use crate::evidence::storage::{DiskStorage, Storage};
use crate::evidence::tree::sha256;

/// The directory of the index in that of its log.
pub const DIRECTORY: &str = "index";
const FILE: &str = "records";
const MAGIC: &[u8; 8] = b"PCLSIDX1";
const FILE_HEADER: u64 = 8 + 32;
/// Records of a chunk: what is not in one yet is read one by one.
const CHUNK: u64 = 8192;
/// Of this many records one is remembered by its place.
const STRIDE: u64 = 16;
const PLACES: usize = (CHUNK / STRIDE) as usize;
const CHUNK_HEADER: usize = 8;
const BODY_HEADER: usize = 24;
const TERM: usize = 16;
const CALL: usize = 12;
/// Longest body: no more terms than this fit.
const MAX_BODY: usize = 64 << 20;
/// Intents whose outcome may still come, remembered while chunks are made; older ones are looked up.
const MAX_OPEN: usize = 100_000;

/// An index over the first records of a log.
#[derive(Debug)]
pub struct Index {
    storage: Arc<dyn Storage>,
    file: Option<File>,
    chunks: Vec<Chunk>,
}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// Where its body stands in the file.
    at: u64,
    length: usize,
    first_time: i64,
    last_time: i64,
    terms: usize,
    calls: usize,
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
    fn terms(&self) -> (Vec<u64>, Option<u64>) {
        let identity = self.identity.as_ref().map(|it| Term::Identity(it.as_str()));
        let resource = self.resource.as_ref().map(|it| Term::Resource(it.as_str()));
        let action = self.action.as_ref().map(|it| Term::Action(it.as_str()));
        let grant = self.grant.map(|it| Term::Grant(it.bits()));
        let reason = self.reason.map(|it| Term::Reason(it.code()));
        let terms = [identity, resource, action, grant, reason].into_iter().flatten().map(Term::hash);
        (terms.collect(), self.call.map(|it| Term::Call(it.bits()).hash()))
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

impl Index {
    /// Opens the index of the log in a directory and adds what was signed since. Where it cannot be written, or somebody
    /// else is writing it, what is there is used.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn open(directory: &Path) -> Result<Self, QueryError> {
        let storage: Arc<dyn Storage> = Arc::new(DiskStorage::read_only(directory));
        let mut index = Self { storage, file: None, chunks: Vec::new() };
        let Ok(key) = read_log_file(&*index.storage) else { return Ok(index) };
        let header = [&MAGIC[..], &sha256(key.to_string().as_bytes())].concat();
        let path = directory.join(DIRECTORY).join(FILE);
        if let Some(file) = writable(&path) {
            index.load(file, &header)?;
            let signed = read_note(&*index.storage, SIGNED)?;
            let signed = signed.and_then(|note| Checkpoint::verify(&note, &key).ok());
            index.extend(signed.map_or(0, |checkpoint| checkpoint.head.size))?;
        } else if let Ok(file) = File::open(&path) {
            index.load(file, &header)?;
        }
        Ok(index)
    }

    /// Records that it speaks of.
    pub fn records(&self) -> u64 {
        u64::try_from(self.chunks.len()).unwrap_or(0) * CHUNK
    }

    /// Takes what is there; begins anew when that is of another log. What does not hold at the end is written over.
    fn load(&mut self, file: File, header: &[u8]) -> io::Result<()> {
        let length = file.metadata()?.len();
        let mut found = vec![0; header.len()];
        let same = file.read_exact_at(&mut found, 0).is_ok() && found == header;
        let mut at = FILE_HEADER;
        while same && at < length {
            let mut head = [0; CHUNK_HEADER + BODY_HEADER];
            if file.read_exact_at(&mut head, at).is_err() {
                break;
            }
            let Some(chunk) = Chunk::read(&head, at).filter(|chunk| chunk.end() <= length) else { break };
            self.chunks.push(chunk);
            at = chunk.end();
        }
        // A crash may have torn the last one, and no other.
        if let Some(last) = self.chunks.last() {
            let mut bytes = vec![0; last.length + CHUNK_HEADER];
            file.read_exact_at(&mut bytes, last.at - CHUNK_HEADER as u64)?;
            let crc = number(&bytes, 4).map(u32::from_le_bytes);
            if bytes.get(CHUNK_HEADER..).map(crc32c::crc32c) != crc {
                self.chunks.pop();
            }
        }
        if !same {
            // Of another log, or none: nothing behind the header is this log's. A reader of what cannot be written has none
            // then.
            let _ = file.set_len(0);
            let _ = file.write_all_at(header, 0);
        }
        self.file = Some(file);
        Ok(())
    }

    /// Adds whole chunks of the first `signed` records.
    fn extend(&mut self, signed: u64) -> Result<(), QueryError> {
        if signed < self.records() + CHUNK {
            return Ok(());
        }
        let mut reader = self.reader(self.records())?;
        let mut open = HashMap::new();
        while signed >= self.records() + CHUNK {
            let body = self.made(&mut reader, &mut open)?;
            let at = self.chunks.last().map_or(FILE_HEADER, Chunk::end);
            let Some(file) = &self.file else { return Ok(()) };
            let mut bytes = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
            bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
            bytes.extend_from_slice(&body);
            // A disk that is full, or one that may not be written: what there is stands.
            if body.len() > MAX_BODY || file.write_all_at(&bytes, at).is_err() {
                return Ok(());
            }
            let Some(chunk) = Chunk::read(&bytes, at) else { return Ok(()) };
            self.chunks.push(chunk);
        }
        Ok(())
    }

    /// The body of the next chunk. `open`: what is known of the calls that have not ended.
    fn made(&self, reader: &mut JournalReader, open: &mut HashMap<u64, Vec<u64>>) -> Result<Vec<u8>, QueryError> {
        let (mut places, mut times) = (Vec::with_capacity(CHUNK as usize), None);
        let mut terms: BTreeMap<u64, Vec<u16>> = BTreeMap::new();
        let mut calls: Vec<(u64, u32)> = Vec::new();
        for at in 0..u16::try_from(CHUNK).unwrap_or(0) {
            let (place, entry) = parsed(reader)?;
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
                Event::Intent(_) => {
                    if open.len() >= MAX_OPEN {
                        open.clear();
                    }
                    open.insert(entry.seq, of_record.clone());
                }
                Event::Outcome(outcome) => {
                    of_record = match open.remove(&outcome.intent_seq) {
                        Some(terms) => terms,
                        None => of_call(&super::facts(&self.record(outcome.intent_seq)?.entry.event)),
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
        let (first, last) = times.map_or((0, 0), |(first, last)| (first.unix_micros(), last.unix_micros()));
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

    fn bytes(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        if let Some(file) = &self.file {
            file.read_exact_at(&mut bytes, at)?;
        }
        Ok(bytes)
    }

    /// Reads from a record that it knows, or from the one behind the last.
    fn reader(&self, seq: u64) -> Result<JournalReader, QueryError> {
        let wanted = if seq == self.records() { seq.saturating_sub(1) } else { seq };
        let chunk = usize::try_from(wanted / CHUNK).ok().and_then(|chunk| self.chunks.get(chunk));
        let Some(chunk) = chunk else { return Ok(JournalReader::new(self.storage.clone(), seq)) };
        let stride = wanted % CHUNK / STRIDE;
        let place = self.bytes(chunk.at + (BODY_HEADER as u64) + stride * 16, 16)?;
        let (segment, offset) = (number(&place, 0).map(u64::from_le_bytes), number(&place, 8).map(u64::from_le_bytes));
        let from = wanted - wanted % STRIDE;
        let mut reader =
            JournalReader::at(self.storage.clone(), from, segment.unwrap_or(0), offset.unwrap_or(u64::MAX));
        while reader.position() < seq {
            let Next::Record(_) = reader.next()? else { return Err(QueryError::Index(seq)) };
        }
        Ok(reader)
    }

    /// A record that it knows.
    pub(super) fn record(&self, seq: u64) -> Result<Found, QueryError> {
        let mut reader = self.reader(seq)?;
        let Next::Record(record) = reader.next()? else { return Err(QueryError::Index(seq)) };
        if record.place.seq != seq {
            return Err(QueryError::Index(seq));
        }
        let place = record.place.clone();
        let bytes = record.bytes.to_vec();
        let entry = Entry::parse(&bytes).map_err(|error| QueryError::Entry { place: place.clone(), error })?;
        Ok(Found { place, entry, bytes })
    }

    /// The records of a chunk that may be wanted, ascending.
    fn candidates(&self, chunk: &Chunk, terms: &[u64], call: Option<u64>) -> io::Result<Vec<u16>> {
        let tables = chunk.at + (BODY_HEADER + PLACES * 16) as u64;
        let calls = tables + (chunk.terms * TERM) as u64;
        let postings = calls + (chunk.calls * CALL) as u64;
        let mut wanted: Option<Vec<u16>> = None;
        if let Some(call) = call {
            let table = self.bytes(calls, chunk.calls * CALL)?;
            let from = (0..chunk.calls).collect::<Vec<_>>();
            let hash = |n: usize| number(&table, n * CALL).map_or(0, u64::from_le_bytes);
            let first = from.partition_point(|n| hash(*n) < call);
            let found = (first..chunk.calls).take_while(|n| hash(*n) == call);
            let at = found.filter_map(|n| number(&table, n * CALL + 8).map(u32::from_le_bytes));
            let mut at: Vec<u16> = at.filter_map(|at| u16::try_from(at).ok()).collect();
            at.sort_unstable();
            wanted = Some(at);
        }
        let table = if terms.is_empty() { Vec::new() } else { self.bytes(tables, chunk.terms * TERM)? };
        for term in terms {
            if wanted.as_ref().is_some_and(Vec::is_empty) {
                break;
            }
            let found = table
                .as_chunks::<TERM>()
                .0
                .binary_search_by_key(term, |row| number(row, 0).map_or(0, u64::from_le_bytes));
            let row = found.ok().and_then(|at| table.get(at * TERM..));
            let range = row.and_then(|row| Some((number(row, 8)?, number(row, 12)?)));
            let Some((from, count)) = range.map(|(a, b)| (u32::from_le_bytes(a), u32::from_le_bytes(b))) else {
                return Ok(Vec::new());
            };
            let bytes =
                self.bytes(postings + u64::from(from) * 2, usize::try_from(count).unwrap_or(0).min(8192) * 2)?;
            let list = bytes.as_chunks::<2>().0.iter().map(|at| u16::from_le_bytes(*at));
            wanted = Some(match wanted {
                None => list.collect(),
                Some(before) => list.filter(|at| before.binary_search(at).is_ok()).collect(),
            });
        }
        Ok(wanted.unwrap_or_default())
    }
}

fn parsed(reader: &mut JournalReader) -> Result<(Place, Entry), QueryError> {
    match reader.next()? {
        Next::Record(record) => {
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

impl Chunk {
    /// From the header at `at` and the beginning of its body.
    fn read(bytes: &[u8], at: u64) -> Option<Self> {
        let body = CHUNK_HEADER;
        let size = |at| number(bytes, at).map(u32::from_le_bytes).and_then(|it| usize::try_from(it).ok());
        let chunk = Self {
            at: at + CHUNK_HEADER as u64,
            length: size(0)?,
            first_time: i64::from_le_bytes(number(bytes, body)?),
            last_time: i64::from_le_bytes(number(bytes, body + 8)?),
            terms: size(body + 16)?,
            calls: size(body + 20)?,
        };
        let least = BODY_HEADER + PLACES * 16 + chunk.terms.checked_mul(TERM)? + chunk.calls.checked_mul(CALL)?;
        (chunk.length <= MAX_BODY && least <= chunk.length).then_some(chunk)
    }

    fn end(&self) -> u64 {
        self.at + u64::try_from(self.length).unwrap_or(u64::MAX)
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

/// A way through a log by its index: what it knows first, then what came after, one by one.
#[derive(Debug)]
pub struct Search {
    index: Arc<Index>,
    filter: Filter,
    terms: Vec<u64>,
    call: Option<u64>,
    /// The next chunk to look into.
    chunk: usize,
    /// What may be wanted of the chunk before it, last first.
    waiting: Vec<u64>,
    rest: Query,
}

impl Search {
    /// The records that `filter` wants. Without anything that the index knows, all of them are read.
    ///
    /// # Errors
    /// When the log or the index cannot be read.
    pub fn new(index: Arc<Index>, filter: Filter) -> Result<Self, QueryError> {
        let (terms, call) = filter.terms();
        let by_index = call.is_some() || !terms.is_empty();
        let from = filter.from.map_or(i64::MIN, crate::domain::Timestamp::unix_micros);
        let chunk = index.chunks.partition_point(|chunk| chunk.last_time < from);
        let first = if by_index { index.records() } else { u64::try_from(chunk).unwrap_or(0) * CHUNK };
        let chunk = if by_index { chunk } else { index.chunks.len() };
        let rest = Query {
            reader: index.reader(first)?,
            filter: filter.clone(),
            open: std::collections::HashSet::new(),
            before: (first > 0).then(|| (index.clone(), first)),
        };
        Ok(Self { index, filter, terms, call, chunk, waiting: Vec::new(), rest })
    }

    /// The next record that is wanted; `None` when there is none yet.
    ///
    /// # Errors
    /// When the log cannot be read on, or is not what the index was made of.
    #[expect(clippy::should_implement_trait, reason = "none is not the end: the log may grow")]
    pub fn next(&mut self) -> Result<Option<Found>, QueryError> {
        let to = self.filter.to.map_or(i64::MAX, crate::domain::Timestamp::unix_micros);
        loop {
            if let Some(seq) = self.waiting.pop() {
                let found = self.index.record(seq)?;
                if self.wanted(&found)? {
                    return Ok(Some(found));
                }
                continue;
            }
            let Some(chunk) = self.index.chunks.get(self.chunk).filter(|chunk| chunk.first_time < to) else {
                return self.rest.next();
            };
            let first = u64::try_from(self.chunk).unwrap_or(0) * CHUNK;
            let found = self.index.candidates(chunk, &self.terms, self.call)?;
            self.waiting = found.into_iter().rev().map(|at| first + u64::from(at)).collect();
            self.chunk += 1;
        }
    }

    fn wanted(&self, found: &Found) -> Result<bool, QueryError> {
        let facts = facts(&found.entry.event);
        if !self.filter.of_record(&found.entry, &facts) {
            return Ok(false);
        }
        Ok(match &found.entry.event {
            Event::Outcome(outcome) => {
                self.filter.of_call(&Facts::default())
                    || self.filter.of_call(&super::facts(&self.index.record(outcome.intent_seq)?.entry.event))
            }
            _ => self.filter.of_call(&facts),
        })
    }
}

#[cfg(test)]
#[path = "index/tests.rs"]
mod tests;
