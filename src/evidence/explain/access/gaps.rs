//! What the logs that are given do not tell of a span, and which of them are one log.
//!
//! A log is known by its key. Of which one a gateway had before, the control plane's changes tell; where they do not, nobody
//! knows, and that is said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::super::super::entry::Change;
use super::super::super::key::read_log_file;
use super::super::super::query::{Filter, Query, QueryError, records};
use super::super::Log;
use super::Span;
use crate::domain::Timestamp;

/// For so long a log may have had nothing to record; one that ends earlier may be a copy that is behind.
const QUIET: Duration = Duration::from_secs(3600);

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Records before its first one: they were pruned.
    Pruned,
    /// Of the control plane's log its beginning: what was given before it, and neither used nor ended since.
    Given,
    /// Its gateway had another log before, or nobody tells whether it had, and that is not given.
    Earlier,
    /// Records between what one copy of the log has and what the next one has.
    Between,
    /// What came after its last record, if something did: it may be a copy that is behind.
    Later,
    /// Its gateway goes on in another log, and that is not given.
    Next,
    /// It is a gateway, of which no log is given.
    Unasked,
}

/// What a log does not tell of the span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The log, or the gateway whose logs are not given.
    pub log: String,
    /// What is missing.
    pub missing: Missing,
    /// The first record that is there.
    pub present_from: u64,
    /// When it was written: of what was before nothing is told. Absent: nothing is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begins: Option<Timestamp>,
    /// When its last record was written. Absent: nothing is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends: Option<Timestamp>,
}

/// What the control plane's changes tell of gateways' logs: by its key, whose it is, what was before it, and since when it is
/// known.
#[derive(Debug, Default)]
pub(super) struct Lineage(BTreeMap<String, Born>);

#[derive(Debug)]
struct Born {
    gateway: String,
    before: Option<String>,
    at: Timestamp,
}

impl Lineage {
    /// Takes a change of a gateway's log.
    pub(super) fn take(&mut self, change: &Change<'_>, at: Timestamp) {
        let Some(after) = change.after.as_deref() else { return };
        // One that was too large to be told whole says nothing of what was before.
        let Some(key) = after.get("key").and_then(Value::as_str).filter(|key| !key.is_empty()) else { return };
        let before = after.get("before").and_then(Value::as_array).and_then(|before| before.last());
        let before = before.and_then(|it| it.get("key")).and_then(Value::as_str).map(str::to_owned);
        self.0.entry(key.to_owned()).or_insert(Born { gateway: change.object.to_string(), before, at });
    }

    /// Gateways that had a log before a moment, none of whose logs is given.
    fn unasked(&self, given: &BTreeSet<&str>, upto: Timestamp) -> BTreeSet<&str> {
        let is_given = |(key, _): &(&String, &Born)| given.contains(key.as_str());
        let asked: BTreeSet<&str> = self.0.iter().filter(is_given).map(|(_, born)| born.gateway.as_str()).collect();
        let known = self.0.values().filter(|born| born.at < upto).map(|born| born.gateway.as_str());
        known.filter(|gateway| !asked.contains(gateway)).collect()
    }

    /// When the log after this one was first known, and its key.
    fn next(&self, key: &str) -> Option<(&str, Timestamp)> {
        let next = self.0.iter().find(|(_, born)| born.before.as_deref() == Some(key))?;
        Some((next.0, next.1.at))
    }
}

/// What one directory has of a log.
#[derive(Debug)]
pub(super) struct Present<'l> {
    pub(super) log: &'l Log,
    pub(super) first: u64,
    /// Records that the log had when this was written: the first that is not there.
    pub(super) size: u64,
    begins: Option<Timestamp>,
    ends: Option<Timestamp>,
}

impl<'l> Present<'l> {
    fn of(log: &'l Log) -> Result<Self, QueryError> {
        let at = |seq| Query::new(log.storage.clone(), seq, Filter::default()).next();
        let size = records(&log.storage)?;
        let first = at(0)?.map(|found| found.entry);
        let ends = size.checked_sub(1).map(at).transpose()?.flatten().map(|found| found.entry.time);
        let begins = first.as_ref().map(|entry| entry.time);
        Ok(Self { log, first: first.map_or(size, |entry| entry.seq), size, begins, ends })
    }

    fn gap(&self, missing: Missing) -> Gap {
        let (log, present_from) = (self.log.name.clone(), self.first);
        Gap { log, missing, present_from, begins: self.begins, ends: self.ends }
    }

    /// Whether it begins after the span does.
    fn is_late(&self, span: Span) -> bool {
        self.begins.is_none_or(|begins| span.from.is_none_or(|from| begins > from))
    }

    fn is_before(&self, moment: Timestamp) -> bool {
        self.ends.is_some_and(|ends| ends < moment)
    }
}

/// One log, and all that has something of it: by where each begins, and of those the longest first.
#[derive(Debug)]
pub(super) struct Whole<'l> {
    key: Option<String>,
    pub(super) parts: Vec<Present<'l>>,
}

/// The logs that there are: a log and its copy are one.
pub(super) fn whole(logs: &[Log]) -> Result<Vec<Whole<'_>>, QueryError> {
    let mut all: Vec<Whole<'_>> = Vec::new();
    for log in logs {
        let (key, part) = (read_log_file(&*log.storage).ok().map(|key| key.to_string()), Present::of(log)?);
        match all.iter_mut().find(|it| key.is_some() && it.key == key) {
            Some(it) => it.parts.push(part),
            None => all.push(Whole { key, parts: vec![part] }),
        }
    }
    for it in &mut all {
        it.parts.sort_by_key(|part| (part.first, std::cmp::Reverse(part.size)));
    }
    Ok(all)
}

/// What the control plane's log does not tell.
pub(super) fn of_control(log: &Log, upto: Timestamp) -> Result<Vec<Gap>, QueryError> {
    let it = Present::of(log)?;
    let given = (it.first > 0 || it.begins.is_none()).then(|| it.gap(Missing::Given));
    let later = it.ends.is_some_and(|ends| ends.saturating_add(QUIET) < upto).then(|| it.gap(Missing::Later));
    Ok(given.into_iter().chain(later).collect())
}

/// What gateways' logs do not tell of the span, of which nothing after `upto` is asked.
pub(super) fn of_gateways(all: &[Whole<'_>], lineage: &Lineage, span: Span, upto: Timestamp) -> Vec<Gap> {
    let given: BTreeSet<&str> = all.iter().filter_map(|it| it.key.as_deref()).collect();
    let of = |it: &Whole<'_>| -> Vec<Gap> {
        let key = it.key.as_deref().unwrap_or_default();
        let born = lineage.0.get(key);
        let is_explained = born.is_some_and(|it| it.before.as_deref().is_none_or(|before| given.contains(before)));
        let mut gaps: Vec<Gap> = Vec::new();
        let mut last: Option<&Present<'_>> = None;
        for part in &it.parts {
            let missing = match last {
                None if part.is_late(span) && part.first > 0 => Some(Missing::Pruned),
                None if part.is_late(span) && !is_explained => Some(Missing::Earlier),
                Some(last) if part.first > last.size => {
                    let is_asked = part.is_late(span) && last.ends.is_none_or(|ends| ends < upto);
                    is_asked.then_some(Missing::Between)
                }
                None | Some(_) => None,
            };
            gaps.extend(missing.map(|missing| part.gap(missing)));
            last = match last {
                Some(last) if last.size >= part.size => Some(last),
                None | Some(_) => Some(part),
            };
        }
        let missing = last.and_then(|last| {
            let is_quiet_until = |moment| last.ends.is_some_and(|ends| ends.saturating_add(QUIET) < moment);
            let missing = match lineage.next(key) {
                Some((next, at)) if !given.contains(next) && at < upto && last.is_before(upto) => Missing::Next,
                // Also where it goes on in one that is given: this may be a copy that its gateway's disk took the rest of.
                Some((_, at)) if is_quiet_until(at.min(upto)) => Missing::Later,
                None if is_quiet_until(upto) => Missing::Later,
                None | Some(_) => return None,
            };
            Some(last.gap(missing))
        });
        gaps.extend(missing);
        gaps
    };
    let unasked = lineage.unasked(&given, upto).into_iter().map(|gateway| Gap {
        log: gateway.to_owned(),
        missing: Missing::Unasked,
        present_from: 0,
        begins: None,
        ends: None,
    });
    all.iter().flat_map(of).chain(unasked).collect()
}
