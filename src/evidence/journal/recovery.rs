//! Opening a journal: what the last process left, and a new segment behind it.
//!
//! Reads with the reader that everybody uses. What was not promised may be torn and is dropped, with a record that
//! says so; what was promised and cannot be read is damage, and nobody writes behind damage.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::company::Company;
use super::queue::Queue;
use super::remote::Remote;
use super::segment::{self, SegmentHeader};
use super::segments::SegmentWriter;
use super::shared::{Activity, Shared, State};
use super::writer::WriterThread;
use super::{Durability, Journal, JournalError, JournalOptions, OUTCOME_ROOM_BYTES, Writer, status};
use crate::domain::{Clock, Timestamp};
use crate::evidence::checkpoint::Origin;
use crate::evidence::entry::{Entry, LogOpened, Recovered};
use crate::evidence::read::{End, JournalReader, Next, Place, segments};
use crate::evidence::storage::Storage;

/// Why a journal cannot be opened for writing.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk fails.
    #[error("the journal cannot be read or written: {0}")]
    Disk(#[from] io::Error),
    /// Something that was promised cannot be read.
    #[error("the journal is damaged at {place}: {why}")]
    Damaged {
        /// Where.
        place: Place,
        /// In which way.
        why: &'static str,
    },
    /// The directory belongs to another log.
    #[error("the journal is of the log {found}, not of {expected}")]
    OtherLog {
        /// What stands there.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// The record that opens the log was not written.
    #[error("the journal cannot be opened: {0}")]
    NotWritten(#[from] JournalError),
    /// No thread could be started.
    #[error("no thread for the journal: {0}")]
    Thread(io::Error),
}

/// What was found when a journal was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Records that were there.
    pub resumed_from: u64,
    /// How often the log has been opened for writing, this time included.
    pub incarnation: u64,
    /// Bytes of records that were never promised, dropped from the end.
    pub discarded_bytes: u64,
}

/// The end of what is there.
#[derive(Debug, Default)]
struct Found {
    records: u64,
    last_time: i64,
    incarnation: u64,
    /// The segment with something behind its last record, where, and how many bytes before the zeros at the end.
    torn: Option<(String, u64, u64)>,
}

pub(super) fn open(
    storage: Arc<dyn Storage>,
    origin: Origin,
    writer: &Writer,
    options: JournalOptions,
    clock: Arc<dyn Clock>,
) -> Result<(Journal, RecoveryReport), OpenError> {
    remove_unfinished(&*storage)?;
    let found = survey(&storage, &origin)?;
    let incarnation = found.incarnation + 1;
    let discarded = found.torn.as_ref().map_or(0, |(_, _, bytes)| *bytes);
    if let Some((path, offset, _)) = &found.torn {
        // What is cut off was never promised. A crash here leaves it, or not; the next opening does the same.
        storage.truncate(path, *offset)?;
    }
    if let Some(last) = segments(&*storage)?.pop() {
        // A process that was killed may have left its last batch in memory alone, and what comes now stands behind it.
        storage.sync_file(&segment::path(last))?;
    }
    let header = SegmentHeader { incarnation, first: found.records, origin: origin.as_str().to_owned() };
    let room = OUTCOME_ROOM_BYTES + options.allocate_bytes;
    // A crash here leaves an empty segment, which the next opening replaces.
    let file = storage.create_segment(&segment::path(found.records), &header.encode(), room)?;
    let here = (found.records, clock.since_boot());
    let remote = (options.durability == Durability::Remote).then(|| Remote::new(options.remote_within, here.0, here.1));
    let shared = Arc::new(Shared {
        origin,
        clock,
        options,
        state: Mutex::new(State {
            queue: Queue::new(),
            urgent: false,
            awaited: 0,
            company: Company::new(here.1),
            next_seq: found.records,
            last_time: found.last_time,
            rooms: 0,
            broken: None,
            closing: false,
            closed: false,
            activity: Activity::Awake,
            failures: VecDeque::new(),
        }),
        work: Condvar::new(),
        committed: Condvar::new(),
        committed_async: Notify::new(),
        workers: Mutex::new(Vec::new()),
        durable: AtomicU64::new(found.records),
        epoch: AtomicU64::new(0),
        lag: OnceLock::new(),
        remote,
        turn: AtomicBool::new(false),
        syncing: AtomicBool::new(false),
        status: status::Shared::default(),
    });
    let size = u64::try_from(header.encode().len()).unwrap_or(0);
    let files = SegmentWriter::new(shared.clone(), storage, incarnation, file, found.records, size, size + room);
    let files = Arc::new(Mutex::new(Some(files)));
    let thread = WriterThread::new(shared.clone(), files.clone());
    let thread =
        std::thread::Builder::new().name("journal".into()).spawn(move || thread.run()).map_err(OpenError::Thread)?;
    let journal = Journal { shared, files, thread: Arc::new(Mutex::new(Some(thread))) };
    let report = RecoveryReport { resumed_from: found.records, incarnation, discarded_bytes: discarded };
    if let Err(error) = begin(&journal, writer, &report) {
        journal.close();
        return Err(error.into());
    }
    Ok((journal, report))
}

/// The first records of an incarnation.
fn begin(journal: &Journal, writer: &Writer, report: &RecoveryReport) -> Result<(), JournalError> {
    let mut last = journal.append_here(&LogOpened {
        incarnation: report.incarnation,
        program: writer.program.as_str().into(),
        boot_id: writer.boot_id.as_str().into(),
        resumed_from: report.resumed_from,
    })?;
    if report.discarded_bytes > 0 {
        let note = format!("{} bytes of records that were never promised were dropped", report.discarded_bytes);
        last = journal.append_here(&Recovered {
            lost_from: report.resumed_from,
            discarded_frames: 1,
            note: note.as_str().into(),
        })?;
    }
    journal.durable_blocking(last)
}

/// Removes segments that were being made when the power went.
pub(in crate::evidence) fn remove_unfinished(storage: &dyn Storage) -> io::Result<()> {
    for item in storage.list(segment::DIRECTORY)? {
        if item.name.ends_with(".tmp") {
            storage.remove(&format!("{}/{}", segment::DIRECTORY, item.name))?;
        }
    }
    Ok(())
}

/// Reads from the last segment that has a record on: everything before was durable when that one began.
fn survey(storage: &Arc<dyn Storage>, origin: &Origin) -> Result<Found, OpenError> {
    let mut found = Found::default();
    for first in segments(&**storage)?.into_iter().rev() {
        let read = survey_from(storage, origin, first)?;
        if found.incarnation == 0 {
            found = read;
        } else {
            // The later segments are empty; only the time was missing.
            found.last_time = read.last_time;
        }
        if found.last_time != i64::MIN {
            return Ok(found);
        }
    }
    if found.last_time == i64::MIN {
        found.last_time = 0;
    }
    Ok(found)
}

fn survey_from(storage: &Arc<dyn Storage>, origin: &Origin, first: u64) -> Result<Found, OpenError> {
    let mut reader = JournalReader::new(storage.clone(), first);
    let mut found = Found { records: first, last_time: i64::MIN, ..Found::default() };
    let damage = loop {
        match reader.next()? {
            Next::Record(record) => {
                found.records = record.place.seq + 1;
                let time = Entry::place(record.bytes).map_or(Timestamp::default(), |(_, time)| time);
                found.last_time = time.unix_micros();
            }
            Next::CaughtUp { .. } => break None,
            Next::Damaged { place, why } => break Some((place, why)),
        }
    };
    if let Some(header) = reader.header() {
        if header.origin != origin.as_str() {
            return Err(OpenError::OtherLog { found: header.origin.clone(), expected: origin.to_string() });
        }
        found.incarnation = header.incarnation;
    }
    match reader.end_for_writer(damage)? {
        End::Bare => {}
        End::Torn { path, offset, bytes } => found.torn = Some((path, offset, bytes)),
        End::Damaged { place, why } => return Err(OpenError::Damaged { place, why }),
    }
    Ok(found)
}
