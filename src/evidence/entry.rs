//! What one record of the evidence says.
//!
//! An entry is one canonical JSON object (RFC 8785, with integers only): keys sorted, no white space, at most
//! [`MAX_ENTRY_BYTES`]. `{"data":{…},"kind":"…","log":"…","seq":N,"time":N,"v":1}`: what happened comes first, so that
//! a caller can encode it alone and the journal adds position and time while it holds its lock. The bytes of the
//! object are the leaf of the log's Merkle tree.
//!
//! Knows nothing of files, threads or how a record becomes durable. Secrets have no field here, and must never get one.

mod call;
mod canonical;
mod event;
mod hashed;
mod json;
mod parameters;
mod schema;
mod write;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

pub use call::*;
pub(crate) use canonical::is_canonical;
pub use event::*;
pub(crate) use hashed::read;
pub use hashed::{Hashed, MAX_QUERY_NAME_BYTES, MAX_QUERY_VALUES, QueryHash, QueryHashes};
pub(crate) use json::hex;
pub use parameters::*;
pub use schema::schema;
pub use write::Encode;
pub(crate) use write::{encode_body, encode_suffix};

use crate::domain::Timestamp;

/// Longest entry (C2SP tlog-tiles: an entry bundle gives the length in 16 bits).
pub const MAX_ENTRY_BYTES: usize = 65_535;
/// The version of this schema.
pub const ENTRY_VERSION: u32 = 1;

/// One record, as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The log that it belongs to: the origin of its checkpoints.
    pub log: String,
    /// Its position, from 0.
    pub seq: u64,
    /// When it was given its position. Never less than that of the record before.
    pub time: Timestamp,
    /// What happened.
    pub event: Event<'static>,
}

/// Why bytes are not an entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// Not the JSON that this schema describes.
    #[error("not an entry of this schema: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Not in the one form that it may have: members in another order or twice, white space, another spelling of a text or a
    /// number. Readers could take it for different things.
    #[error("not canonical JSON (RFC 8785)")]
    NotCanonical,
    /// Of a version that this program does not know.
    #[error("entry version {0} is not known here")]
    Version(u32),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    kind: Kind,
    #[serde(borrow)]
    log: Cow<'a, str>,
    seq: u64,
    time: i64,
    v: u32,
}

impl Entry {
    /// Reads an entry back.
    ///
    /// # Errors
    /// When it is not one of this schema and version.
    pub fn parse(bytes: &[u8]) -> Result<Self, EntryError> {
        let raw: Raw<'_> = serde_json::from_slice(bytes)?;
        if raw.v != ENTRY_VERSION {
            return Err(EntryError::Version(raw.v));
        }
        let event = Event::parse(raw.kind, raw.data.get())?;
        let time = Timestamp::from_unix_micros(raw.time);
        Ok(Self { log: raw.log.into_owned(), seq: raw.seq, time, event })
    }

    /// Position and time of a canonical entry, without reading the rest.
    pub fn place(bytes: &[u8]) -> Option<(u64, Timestamp)> {
        // The last three members have fixed keys, and numbers for values.
        let (rest, time) = last_member(bytes.strip_suffix(b",\"v\":1}")?, b",\"time\":")?;
        let (_, seq) = last_member(rest, b",\"seq\":")?;
        Some((seq.parse().ok()?, Timestamp::from_unix_micros(time.parse().ok()?)))
    }
}

/// The number that stands last behind `key`, and what comes before both.
fn last_member<'b>(bytes: &'b [u8], key: &[u8]) -> Option<(&'b [u8], &'b str)> {
    let digits = bytes.iter().rev().take(MAX_DIGITS).take_while(|byte| byte.is_ascii_digit() || **byte == b'-').count();
    let (rest, number) = bytes.split_at_checked(bytes.len() - digits)?;
    Some((rest.strip_suffix(key)?, std::str::from_utf8(number).ok()?))
}

/// Of a number, with its sign.
const MAX_DIGITS: usize = 20;
/// `,"seq":` 20 digits `,"time":` sign and 19 digits `,"v":1}`
pub(crate) const MAX_SUFFIX_BYTES: usize = 7 + MAX_DIGITS + 8 + MAX_DIGITS + 7;

#[cfg(test)]
#[path = "entry/tests.rs"]
mod tests;
