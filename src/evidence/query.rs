//! Looking into a log: filters, and following it while it grows.
//!
//! Reads without verifying: what an attacker changed is shown as it stands. Whoever must know calls `verify`.

pub mod index;
pub mod search;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::entry::{Basis, Entry, EntryError, Event, Hashed, Kind, ParameterValue, Parameters, hex, read};
use super::keyed::HashKey;
use super::read::{JournalReader, Next, Place, segments};
use super::retention::{Horizon, gone};
use super::storage::Storage;
use super::tree;
use crate::domain::name::{ActionName, CallId, GrantId, IdentityName, ResourceName};
use crate::domain::{Reason, Timestamp};

/// Which records are wanted: those for which everything given holds.
///
/// An outcome goes with its intent: it is wanted when the intent is, as far as it does not say otherwise itself.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Whose.
    pub identity: Option<IdentityName>,
    /// Under which grant.
    pub grant: Option<GrantId>,
    /// On what.
    pub resource: Option<ResourceName>,
    /// Doing what.
    pub action: Option<ActionName>,
    /// Refused, cut or failed for which reason.
    pub reason: Option<Reason>,
    /// Of which call.
    pub call: Option<CallId>,
    /// Of which kind.
    pub kind: Option<Kind>,
    /// Not before.
    pub from: Option<Timestamp>,
    /// Before.
    pub to: Option<Timestamp>,
    /// Holding each of these.
    pub values: Vec<WantedValue>,
}

/// A value that a record may hold, as it is or hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedValue {
    plain: String,
    /// Under every key that was given.
    hashes: HashSet<String>,
}

impl WantedValue {
    /// A value; it is found hashed under `keys`. One from a query may be given as it stood in it.
    pub fn new(value: &str, keys: &[HashKey]) -> Self {
        let hashes = keys.iter().flat_map(|key| [key.hash(value.as_bytes()), key.hash(&read(value))]).collect();
        Self { plain: value.to_owned(), hashes }
    }

    /// A value of which somebody else knows the hashes.
    pub fn hashed(plain: &str, hashes: impl IntoIterator<Item = String>) -> Self {
        Self { plain: plain.to_owned(), hashes: hashes.into_iter().collect() }
    }

    /// The value.
    pub fn plain(&self) -> &str {
        &self.plain
    }

    /// Its hashes.
    pub fn hashes(&self) -> impl Iterator<Item = &str> {
        self.hashes.iter().map(String::as_str)
    }

    fn is_in(&self, event: &Event<'_>) -> bool {
        let (query, body, parameters) = match event {
            Event::Intent(it) => (it.query.as_ref(), it.body.as_ref(), Some(&it.parameters)),
            Event::Denial(it) => (it.query.as_ref(), None, None),
            _ => return false,
        };
        let hashed = |hashed: &Hashed| match hashed {
            Hashed::Keyed { hmac, .. } => self.hashes.contains(hmac),
            Hashed::Plain { sha256, .. } => *sha256 == hex(&tree::sha256(self.plain.as_bytes())),
        };
        query.is_some_and(|query| query.values.iter().any(|value| self.hashes.contains(&value.hmac)))
            || body.is_some_and(hashed)
            || parameters.into_iter().flat_map(Parameters::iter).any(|(_, value)| match value {
                ParameterValue::Text(text) => *text == self.plain,
                ParameterValue::Hashed(value) => hashed(value),
            })
    }
}

/// What of a record filters look at.
#[derive(Default)]
struct Facts<'e> {
    identity: Option<&'e IdentityName>,
    grants: Vec<GrantId>,
    resource: Option<&'e ResourceName>,
    action: Option<&'e ActionName>,
    reasons: Vec<Reason>,
    calls: Vec<CallId>,
}

fn facts<'e>(event: &'e Event<'static>) -> Facts<'e> {
    match event {
        Event::Intent(it) => Facts {
            identity: Some(&it.identity),
            grants: match &it.basis {
                Basis::Grant(grant) => vec![*grant],
                Basis::Exception(_) => Vec::new(),
            },
            resource: Some(&it.resource),
            action: Some(&it.action),
            reasons: it.would_refuse.into_iter().collect(),
            calls: vec![it.call],
        },
        Event::Outcome(it) => {
            Facts { reasons: it.ending.reason.into_iter().collect(), calls: vec![it.call], ..Facts::default() }
        }
        Event::Denial(it) => Facts {
            identity: it.identity.as_deref(),
            resource: it.resource.as_deref(),
            action: it.action.as_deref(),
            reasons: vec![it.reason],
            calls: vec![it.call],
            ..Facts::default()
        },
        Event::Denials(it) => Facts {
            identity: it.identity.as_deref(),
            reasons: vec![it.reason],
            calls: it.samples.iter().map(|sample| sample.call).collect(),
            ..Facts::default()
        },
        Event::Refusals(it) => {
            Facts { reasons: it.counts.iter().map(|count| count.reason).collect(), ..Facts::default() }
        }
        Event::TokenIssued(it) => {
            Facts { identity: Some(&it.identity), grants: vec![it.grant], calls: vec![it.call], ..Facts::default() }
        }
        Event::TokenRevoked(it) => Facts { calls: vec![it.call], ..Facts::default() },
        Event::Enforced(it) => Facts {
            grants: it.grants_revoked.clone(),
            reasons: it.cut.iter().map(|cut| cut.reason).collect(),
            calls: it.cut.iter().map(|cut| cut.call).collect(),
            ..Facts::default()
        },
        Event::Change(it) => Facts { grants: it.object.parse().into_iter().collect(), ..Facts::default() },
        Event::LogOpened(_) | Event::Recovered(_) | Event::Pruned(_) => Facts::default(),
    }
}

impl Filter {
    fn of_call(&self, facts: &Facts<'_>) -> bool {
        fn same<T: PartialEq>(wanted: Option<&T>, is: Option<&T>) -> bool {
            wanted.is_none_or(|wanted| is == Some(wanted))
        }
        same(self.identity.as_ref(), facts.identity)
            && same(self.resource.as_ref(), facts.resource)
            && same(self.action.as_ref(), facts.action)
            && self.grant.is_none_or(|grant| facts.grants.contains(&grant))
    }

    fn of_record(&self, entry: &Entry, facts: &Facts<'_>) -> bool {
        self.call.is_none_or(|call| facts.calls.contains(&call))
            && self.reason.is_none_or(|reason| facts.reasons.contains(&reason))
            && self.kind.is_none_or(|kind| entry.event.kind() == kind)
            && self.from.is_none_or(|from| entry.time >= from)
            && self.to.is_none_or(|to| entry.time < to)
            && self.values.iter().all(|value| value.is_in(&entry.event))
    }
}

/// A record that was wanted.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where it stands.
    pub place: Place,
    /// What it says.
    pub entry: Entry,
    /// Its bytes: one line of canonical JSON.
    pub bytes: Vec<u8>,
}

/// Why a log cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The disk fails.
    #[error("the log cannot be read: {0}")]
    Disk(#[from] io::Error),
    /// Something stands there that the writer did not write.
    #[error("{place} is damaged: {why}")]
    Damaged {
        /// Where.
        place: Place,
        /// In which way.
        why: &'static str,
    },
    /// A record of another schema.
    #[error("{place}: {error}")]
    Entry {
        /// Where.
        place: Place,
        /// In which way.
        error: EntryError,
    },
    /// The record was pruned.
    #[error("record {seq} is not here any more: {horizon}")]
    Pruned {
        /// The record.
        seq: u64,
        /// What was pruned.
        horizon: Horizon,
    },
    /// The index leads to something else than it was made of.
    #[error("the index does not agree with the log at record {0}: verify the log, and remove its directory `index`")]
    Index(u64),
}

/// A way through a log.
#[derive(Debug)]
pub struct Query {
    storage: Arc<dyn Storage>,
    reader: JournalReader,
    /// Whether anything was read.
    begun: bool,
    filter: Filter,
    /// Intents of calls that are wanted, whose outcome has not come yet.
    open: HashSet<u64>,
    /// Knows the intents before the first record that is read.
    before: Option<(Arc<index::Index>, u64)>,
}

impl Query {
    /// The records from `from` on that `filter` wants, as far as they were not pruned.
    pub fn new(storage: Arc<dyn Storage>, from: u64, filter: Filter) -> Self {
        Self {
            reader: JournalReader::new(storage.clone(), from),
            storage,
            begun: false,
            filter,
            open: HashSet::new(),
            before: None,
        }
    }

    /// The next record that is wanted; `None` when there is none yet: asking again later follows the log.
    ///
    /// # Errors
    /// When the log cannot be read on.
    #[expect(clippy::should_implement_trait, reason = "none is not the end: the log may grow")]
    pub fn next(&mut self) -> Result<Option<Found>, QueryError> {
        if !std::mem::replace(&mut self.begun, true)
            && let Some((first, _)) = gone(&*self.storage)?
            && self.reader.position() < first
        {
            self.reader = JournalReader::new(self.storage.clone(), first);
        }
        loop {
            let record = match self.reader.next()? {
                Next::Record(record) => record,
                Next::CaughtUp { .. } => return Ok(None),
                Next::Damaged { place, why } => return Err(QueryError::Damaged { place, why }),
            };
            let place = record.place;
            if let (Some(to), Some((_, time))) = (self.filter.to, Entry::place(record.bytes))
                && time >= to
            {
                // Times never go back: nothing that follows is wanted.
                return Ok(None);
            }
            let entry = match Entry::parse(record.bytes) {
                Ok(entry) => entry,
                Err(error) => return Err(QueryError::Entry { place, error }),
            };
            let bytes = record.bytes;
            if let (Some((index, first)), Event::Outcome(outcome)) = (&self.before, &entry.event)
                && outcome.intent_seq < *first
            {
                // Of an intent that was pruned nothing is known.
                let intent = index.known(outcome.intent_seq)?;
                if intent.is_some_and(|intent| self.filter.of_call(&facts(&intent.entry.event))) {
                    self.open.insert(outcome.intent_seq);
                }
            }
            if wanted(&self.filter, &mut self.open, &entry) {
                return Ok(Some(Found { place, entry, bytes: bytes.to_vec() }));
            }
        }
    }
}

fn wanted(filter: &Filter, open: &mut HashSet<u64>, entry: &Entry) -> bool {
    let facts = facts(&entry.event);
    let of_call = match &entry.event {
        // An outcome says whose it was by its intent; of one before the beginning nothing is known.
        Event::Outcome(outcome) => open.remove(&outcome.intent_seq) || filter.of_call(&Facts::default()),
        event => {
            let of_call = filter.of_call(&facts);
            if of_call && matches!(event, Event::Intent(_)) {
                open.insert(entry.seq);
            }
            of_call
        }
    };
    of_call && filter.of_record(entry, &facts)
}

/// How many records a log has just now, read from its last segment.
///
/// # Errors
/// Those of the disk.
pub fn records(storage: &Arc<dyn Storage>) -> io::Result<u64> {
    let Some(first) = segments(&**storage)?.pop() else { return Ok(0) };
    let mut reader = JournalReader::new(storage.clone(), first);
    while let Next::Record(_) = reader.next()? {}
    Ok(reader.position())
}
