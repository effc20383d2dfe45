//! Reading, parsing and hashing of records on several threads, handed on in their order.
//!
//! One thread reads, as many as the machine has processors parse and hash, and the caller's judges: what it is given is
//! what a single thread would have given it. Memory is bounded by a few batches for each thread.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::{Failure, RecordFault};
use crate::domain::Timestamp;
use crate::domain::name::CallId;
use crate::evidence::bundle::{self, BundleReader};
use crate::evidence::entry::{Entry, EntryError, Event, is_canonical};
use crate::evidence::journal::segment;
use crate::evidence::read::{JournalReader, Next, Place, first, segments};
use crate::evidence::retention::{Horizon, told};
use crate::evidence::storage::Storage;
use crate::evidence::tree::{Hash, leaf_hash};

/// Records of a batch, and bytes of one after which no more are added.
const BATCH_RECORDS: usize = 512;
const BATCH_BYTES: usize = 512 * 1024;
/// Batches that wait for a thread, or for the judge.
const QUEUED: usize = 3;
/// More threads than this do not help: one reads.
const MAX_THREADS: usize = 8;

/// Where a log's records stand.
#[derive(Debug)]
pub(super) enum Records {
    /// In the segments of its writer.
    Journal(JournalReader),
    /// In bundles: an export, an archive, a copy of what was served.
    Bundles(BundleReader),
}

impl Records {
    /// Of the log in this storage, whose checkpoint says that it has `size` records.
    pub(super) fn of(storage: &Arc<dyn Storage>, size: u64) -> io::Result<Self> {
        // Whoever removes a journal leaves no bundles: then the records are missing, and the journal's reader says so.
        let bundles = segments(&**storage)?.is_empty()
            && storage.list(segment::DIRECTORY)?.is_empty()
            && !storage.list(bundle::DIRECTORY)?.is_empty();
        Ok(if bundles {
            // Only a hint: whether records may be missing says a record that is signed for.
            let from = told(&**storage)?.map_or(0, |horizon| horizon.before.min(size) / 256 * 256);
            Self::Bundles(BundleReader::new(storage.clone(), from, size))
        } else {
            Self::Journal(JournalReader::new(storage.clone(), first(&**storage)?))
        })
    }

    /// The first record that is there.
    pub(super) fn first(&self) -> u64 {
        match self {
            Self::Journal(reader) => reader.position(),
            Self::Bundles(reader) => reader.position(),
        }
    }

    /// Whether a path among the tiles is a bundle, and bundles are what this log consists of.
    pub(super) fn is_bundle(&self, path: &str) -> bool {
        matches!(self, Self::Bundles(_)) && bundle::parse(path).is_some()
    }

    fn next(&mut self) -> io::Result<Next<'_>> {
        match self {
            Self::Journal(reader) => reader.next(),
            Self::Bundles(reader) => reader.next(),
        }
    }
}

/// What a record means for the log as a whole.
#[derive(Clone, Debug)]
pub(super) struct Meaning {
    pub(super) time: Timestamp,
    pub(super) told: Told,
}

#[derive(Clone, Debug)]
pub(super) enum Told {
    Opened,
    Intent(CallId),
    Outcome { call: CallId, intent_seq: u64 },
    Pruned(Horizon),
    Other,
}

/// What comes next, in the order of the log.
pub(super) enum Step {
    Record { place: Place, leaf: Hash, meaning: Result<Meaning, RecordFault> },
    CaughtUp { torn: u64 },
    Damaged { place: Place, why: &'static str },
}

/// Records as they were read, end to end.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    records: Vec<(Place, usize)>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.records.len() >= BATCH_RECORDS || self.bytes.len() >= BATCH_BYTES
    }

    fn work(self, log: &str) -> Vec<Step> {
        let mut from = 0;
        let mut work = |(place, end): (Place, usize)| {
            let bytes = self.bytes.get(from..end).unwrap_or_default();
            from = end;
            Step::Record { place, leaf: leaf_hash(bytes), meaning: meaning(bytes, log) }
        };
        self.records.into_iter().map(&mut work).collect()
    }
}

fn meaning(bytes: &[u8], log: &str) -> Result<Meaning, RecordFault> {
    if !is_canonical(bytes) {
        return Err(RecordFault::Entry(EntryError::NotCanonical.to_string()));
    }
    let entry = Entry::parse(bytes).map_err(|error| RecordFault::Entry(error.to_string()))?;
    if entry.log != log {
        return Err(RecordFault::Log(entry.log));
    }
    let told = match &entry.event {
        Event::Pruned(_) => Horizon::of(&entry).map_or(Told::Other, Told::Pruned),
        Event::LogOpened(_) => Told::Opened,
        Event::Intent(intent) => Told::Intent(intent.call),
        Event::Outcome(outcome) => Told::Outcome { call: outcome.call, intent_seq: outcome.intent_seq },
        Event::Denial(_)
        | Event::Denials(_)
        | Event::Refusals(_)
        | Event::TokenIssued(_)
        | Event::TokenRevoked(_)
        | Event::Enforced(_)
        | Event::Change(_)
        | Event::Recovered(_) => Told::Other,
    };
    Ok(Meaning { time: entry.time, told })
}

/// What goes from the reader to a worker, and from there to the judge. The last one is the end.
enum Read {
    Batch(Batch),
    End(io::Result<Step>),
}

enum Worked {
    Batch(Vec<Step>),
    End(io::Result<Step>),
}

/// Hands every step to `judge`, in order, until it gives a result or fails.
pub(super) fn run(
    records: Records,
    log: &str,
    mut judge: impl FnMut(Step) -> Result<Option<u64>, Failure>,
) -> Result<u64, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    std::thread::scope(|scope| {
        let (mut to_workers, mut from_workers) = (Vec::new(), Vec::new());
        for _ in 0..threads {
            let (give, take) = sync_channel(QUEUED);
            let (give_on, judged) = sync_channel(QUEUED);
            scope.spawn(move || work(&take, &give_on, log));
            to_workers.push(give);
            from_workers.push(judged);
        }
        scope.spawn(move || read(records, &to_workers));
        // The reader deals the batches out in turn, so they come back in turn. Whoever returns early drops the
        // receivers, and the threads end at their next word.
        for worked in from_workers.iter().cycle() {
            match worked.recv() {
                Ok(Worked::Batch(steps)) => {
                    for step in steps {
                        if let Some(done) = judge(step)? {
                            return Ok(done);
                        }
                    }
                }
                Ok(Worked::End(end)) => {
                    if let Some(done) = judge(end?)? {
                        return Ok(done);
                    }
                }
                Err(_) => break,
            }
        }
        Err(io::Error::other("a thread that reads the log ended").into())
    })
}

fn read(mut records: Records, to: &[SyncSender<Read>]) {
    // Each message goes to the next one: the judge takes one of each in turn.
    let mut workers = to.iter().cycle();
    while let Some(worker) = workers.next() {
        let mut batch = Batch::default();
        let end = loop {
            if batch.is_full() {
                break None;
            }
            match records.next() {
                Ok(Next::Record(record)) => {
                    batch.bytes.extend_from_slice(record.bytes);
                    batch.records.push((record.place, batch.bytes.len()));
                }
                Ok(Next::CaughtUp { torn }) => break Some(Ok(Step::CaughtUp { torn })),
                Ok(Next::Damaged { place, why }) => break Some(Ok(Step::Damaged { place, why })),
                Err(error) => break Some(Err(error)),
            }
        };
        if worker.send(Read::Batch(batch)).is_err() {
            return;
        }
        if let Some(end) = end {
            if let Some(worker) = workers.next() {
                // The judge may have gone.
                drop(worker.send(Read::End(end)));
            }
            return;
        }
    }
}

fn work(from: &Receiver<Read>, to: &SyncSender<Worked>, log: &str) {
    while let Ok(read) = from.recv() {
        let worked = match read {
            Read::Batch(batch) => Worked::Batch(batch.work(log)),
            Read::End(end) => Worked::End(end),
        };
        if to.send(worked).is_err() {
            return;
        }
    }
}
