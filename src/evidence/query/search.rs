//! A way through a log by its index.

use std::sync::Arc;

use super::index::{CHUNK, Index};
use super::{Facts, Filter, Found, Query, QueryError, facts};
use crate::evidence::entry::Event;

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

impl Query {
    /// The records from `from` on that `filter` wants, with the outcomes of calls whose intents stand before.
    ///
    /// # Errors
    /// When the log or the index cannot be read.
    pub fn after(index: Arc<Index>, from: u64, filter: Filter) -> Result<Self, QueryError> {
        Ok(Self {
            storage: index.storage(),
            reader: index.reader(from)?,
            begun: false,
            filter,
            open: std::collections::HashSet::new(),
            before: (from > 0).then_some((index, from)),
        })
    }
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
            storage: index.storage(),
            reader: index.reader(first)?,
            begun: false,
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
                if self.index.is_pruned(seq) {
                    continue;
                }
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
                    || self
                        .index
                        .known(outcome.intent_seq)?
                        .is_some_and(|intent| self.filter.of_call(&super::facts(&intent.entry.event)))
            }
            _ => self.filter.of_call(&facts),
        })
    }
}
