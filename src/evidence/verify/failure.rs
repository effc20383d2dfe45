//! What can be wrong with a log, and which record it shows at first.

use std::fmt;
use std::io;

use crate::evidence::checkpoint::NoteError;
use crate::evidence::key::LogFileError;
use crate::evidence::read::Place;

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The disk fails.
    #[error("the log cannot be read: {0}")]
    Disk(#[from] io::Error),
    /// `log.json` cannot be used.
    #[error(transparent)]
    LogFile(#[from] LogFileError),
    /// No checkpoint with the cosigner's word is there.
    #[error("no checkpoint that the given key cosigned is beside the log")]
    NotCosigned,
    /// The directory names another key than the one that is known.
    #[error("the log names the key {found}, and the key that must have signed is {expected}")]
    OtherKey {
        /// What stands there.
        found: String,
        /// What is known.
        expected: String,
    },
    /// There is no checkpoint: somebody removed it, or the log is being created just now.
    #[error("there is no signed checkpoint")]
    NoCheckpoint,
    /// A checkpoint does not hold.
    #[error("{file}: {error}")]
    Checkpoint {
        /// Which file.
        file: &'static str,
        /// In which way.
        error: NoteError,
    },
    /// A record is not what was recorded.
    #[error("{place}: {why}")]
    Record {
        /// The first one.
        place: Place,
        /// In which way.
        why: RecordFault,
    },
    /// A tile is not what the records lead to.
    #[error("{path}: {why}; the records are {first} to {last}")]
    Tile {
        /// The file.
        path: String,
        /// In which way.
        why: &'static str,
        /// The first record under the first hash that is wrong.
        first: u64,
        /// The last one.
        last: u64,
    },
    /// A file stands among the tiles that is none.
    #[error("{path}: not a tile")]
    NotATile {
        /// The file.
        path: String,
    },
    /// Records were cut off.
    #[error("the log has {records} records, and {known} are known: {lost} are missing from record {records} on")]
    Cut {
        /// What is there.
        records: u64,
        /// What was signed, or is known from elsewhere.
        known: u64,
        /// The difference.
        lost: u64,
    },
    /// Old records are not there, and the log does not say that they were pruned.
    #[error(
        "records {from} to {to} are missing, and no record of the log that is signed for says that they were pruned"
    )]
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// Records and tiles agree with each other, and not with what was signed.
    #[error("the first {size} records do not have the root that {by} says")]
    Root {
        /// How many.
        size: u64,
        /// Who says it.
        by: &'static str,
    },
}

impl Failure {
    /// The record that is bad, when one can be named.
    pub fn record(&self) -> Option<u64> {
        match self {
            Self::Record { place, .. } => Some(place.seq),
            Self::Tile { first, .. } => Some(*first),
            Self::Cut { records, .. } => Some(*records),
            Self::Missing { from, .. } => Some(*from),
            Self::Disk(_)
            | Self::LogFile(_)
            | Self::OtherKey { .. }
            | Self::NoCheckpoint
            | Self::NotCosigned
            | Self::Checkpoint { .. }
            | Self::NotATile { .. }
            | Self::Root { .. } => None,
        }
    }
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordFault {
    /// Its bytes in the segment do not hold.
    Form(&'static str),
    /// It is no entry of the schema.
    Entry(String),
    /// It is of another log.
    Log(String),
    /// It is older than the one before.
    Time,
    /// Its hash is not the one in the tile.
    Leaf,
    /// It ends a call that was not begun, or was ended before.
    Outcome,
}

impl fmt::Display for RecordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(why) => f.write_str(why),
            Self::Entry(why) => f.write_str(why),
            Self::Log(log) => write!(f, "the record is of the log {}", log.escape_default()),
            Self::Time => f.write_str("the record is older than the one before"),
            Self::Leaf => f.write_str("the record is not the one that was recorded: its hash is another"),
            Self::Outcome => f.write_str("the record ends a call that is not open"),
        }
    }
}
