//! How far a log of changes has come, read from its end: whoever derives it from a store goes on from there.
//!
//! Knows revisions and how many events of one are told; not what they mean.

use std::sync::Arc;

use super::entry::{Event, Kind};
use super::query::{Filter, Query, QueryError};
use super::read::segments;
use super::storage::Storage;

/// The last change that a log tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastChange {
    /// The store's revision that it is.
    pub revision: u64,
    /// Records of that revision that are there.
    pub events: usize,
    /// The first of them.
    pub from: u64,
}

/// The last change in the first `durable` records of a log, from the end backwards; `None` where there is none.
///
/// # Errors
/// When the log cannot be read.
pub fn last_change(storage: &Arc<dyn Storage>, durable: u64) -> Result<Option<LastChange>, QueryError> {
    let mut last: Option<LastChange> = None;
    let mut end = durable;
    for first in segments(&**storage)?.into_iter().rev() {
        let mut query = Query::new(storage.clone(), first, Filter { kind: Some(Kind::Change), ..Filter::default() });
        let mut changes = Vec::new();
        while let Some(found) = query.next()? {
            if found.entry.seq >= end {
                break;
            }
            if let Event::Change(change) = found.entry.event {
                changes.push((change.revision, found.entry.seq));
            }
        }
        end = end.min(first);
        for (revision, from) in changes.into_iter().rev() {
            let events = match last {
                Some(last) if last.revision != revision => return Ok(Some(last)),
                Some(last) => last.events + 1,
                None => 1,
            };
            last = Some(LastChange { revision, events, from });
        }
    }
    Ok(last)
}
