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

use super::{Facts, Filter, Found, QueryError, facts};
use crate::evidence::checkpoint::Checkpoint;
use crate::evidence::entry::{Entry, Event};
use crate::evidence::journal::segment;
use crate::evidence::key::read_log_file;
use crate::evidence::read::{JournalReader, Next, Place, record_at, segments};
use crate::evidence::retention::{Horizon, gone};
use crate::evidence::sequencer::{SIGNED, read_note};
use crate::evidence::storage::{DiskStorage, Storage};
use crate::evidence::tree::sha256;

/// The directory of the index in that of its log.
pub const DIRECTORY: &str = "index";
const FILE: &str = "records";
const MAGIC: &[u8; 8] = b"PCLSIDX1";
const FILE_HEADER: u64 = 8 + 32;
/// Records of a chunk: what is not in one yet is read one by one.
pub(super) const CHUNK: u64 = 8192;
/// Of this many records one is remembered by its place.
const STRIDE: u64 = 16;
const PLACES: usize = (CHUNK / STRIDE) as usize;
/// Bytes of a place.
const PLACE: usize = 16;
const CHUNK_HEADER: usize = 8;
const BODY_HEADER: usize = 24;
const TERM: usize = 16;
const CALL: usize = 12;
/// Longest body: no more terms than this fit.
const MAX_BODY: usize = 64 << 20;
/// Rows of a table that are read at once.
const WINDOW: usize = 64;
/// Intents whose outcome may still come, remembered while chunks are made; older ones are looked up.
const MAX_OPEN: usize = 100_000;

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

#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    /// Where its body stands in the file.
    at: u64,
    length: usize,
    pub(super) first_time: i64,
    pub(super) last_time: i64,
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
        let segments = segments(&*storage)?;
        let gone = gone(&*storage)?;
        let mut index = Self { storage, file: None, chunks: Vec::new(), segments, gone };
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
        // Whole chunks of what was pruned need no record.
        let mut reader = self.reader(self.gone.as_ref().map_or(0, |(first, _)| *first).max(self.records()))?;
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
            if self.is_pruned(self.records() + u64::from(at)) {
                // It says nothing of what is gone, and its places stay where they are.
                places.resize(places.len() + if u64::from(at) % STRIDE == 0 { PLACE } else { 0 }, 0);
                continue;
            }
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

    fn bytes(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        if let Some(file) = &self.file {
            file.read_exact_at(&mut bytes, at)?;
        }
        Ok(bytes)
    }

    /// The last record up to `seq` whose place is remembered: its number, the first of its segment, and its byte there.
    fn place(&self, seq: u64) -> io::Result<Option<(u64, u64, u64)>> {
        let chunk = usize::try_from(seq / CHUNK).ok().and_then(|chunk| self.chunks.get(chunk));
        let Some(chunk) = chunk else { return Ok(None) };
        let place = self.bytes(chunk.at + (BODY_HEADER as u64) + seq % CHUNK / STRIDE * 16, 16)?;
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
    fn rows<const N: usize>(&self, table: u64, rows: usize, hash: u64) -> io::Result<Vec<[u8; N]>> {
        let read = |from: usize, to: usize| {
            let at = table + u64::try_from(from * N).unwrap_or(u64::MAX);
            self.bytes(at, (to.min(rows) - from) * N)
        };
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

    /// The records of a chunk that may be wanted, ascending.
    pub(super) fn candidates(&self, chunk: &Chunk, terms: &[u64], call: Option<u64>) -> io::Result<Vec<u16>> {
        let tables = chunk.at + (BODY_HEADER + PLACES * 16) as u64;
        let calls = tables + (chunk.terms * TERM) as u64;
        let postings = calls + (chunk.calls * CALL) as u64;
        let mut wanted: Option<Vec<u16>> = None;
        if let Some(call) = call {
            let rows = self.rows::<CALL>(calls, chunk.calls, call)?;
            let at = rows.iter().filter_map(|row| number(row, 8).map(u32::from_le_bytes));
            let mut at: Vec<u16> = at.filter_map(|at| u16::try_from(at).ok()).collect();
            at.sort_unstable();
            wanted = Some(at);
        }
        for term in terms {
            if wanted.as_ref().is_some_and(Vec::is_empty) {
                break;
            }
            let rows = self.rows::<TERM>(tables, chunk.terms, *term)?;
            let range = rows.first().and_then(|row| Some((number(row, 8)?, number(row, 12)?)));
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

#[cfg(test)]
#[path = "index/tests.rs"]
mod tests;
