//! Gateways' logs of evidence as the control plane knows them: whose key signs them, and how far they were cosigned.
//!
//! A checkpoint is cosigned when it extends the last one that was, and that is stored before it is said. So a log that
//! was cut, rewritten or copied is found at its gateway's next renewal, and gets no authority. Planning only.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::model::Model;
use super::plan::{Audience, ChangeEvent, Plan, Refused};
use super::record::{Change, LogRecord, Record, SealedLog};
use crate::domain::Timestamp;
use crate::domain::name::GatewayName;
use crate::domain::resource::MAX_AUTHORITY;
use crate::evidence::checkpoint::{Checkpoint, NoteError, VerifierKey};
use crate::evidence::tree::{Hash, TreeHead, empty_root, verify_consistency};
use crate::wire::v1;

/// Logs of one gateway that are remembered after they were sealed.
const MAX_SEALED: usize = 100;
/// Hashes of a consistency proof: one per level of the tree.
const MAX_PROOF: usize = 64;

/// Why a gateway's log is not taken for the one that it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LogFault {
    /// No key, or a name that no log of this gateway has.
    #[error("the key of the evidence log does not read, or its name is not that of a log of gateway {0}")]
    Key(GatewayName),
    /// Another key than the one that was seen first.
    #[error(
        "gateway {0} shows another evidence key than the one that is recorded: its state was lost or copied, or somebody \
         uses its certificate; after a loss, `portcullis fleet readmit {0}`"
    )]
    OtherKey(GatewayName),
    /// None is recorded yet, and nobody joined with this one.
    #[error(
        "of gateway {0} no evidence key is recorded, and its certificate alone brings none: `portcullis fleet invite {0}`, then \
         `gateway join`; or make it anew where the control plane is, `portcullis control init --gateway {0}`"
    )]
    Unpinned(GatewayName),
    /// A log that was sealed before, or a new one that does not go on from the last.
    #[error("gateway {0} comes with a log that was sealed: a copy of its older state")]
    Sealed(GatewayName),
    /// More new logs than are remembered: one more would let the oldest be forgotten, and come back.
    #[error("gateway {0} began {MAX_SEALED} new logs by itself; `portcullis fleet readmit {0}` lets it begin another")]
    TooMany(GatewayName),
    /// Fewer records than were cosigned.
    #[error(
        "the log of gateway {gateway} has {size} records, and {cosigned} were cosigned: it was cut, or an older copy put back"
    )]
    Shorter {
        /// Whose.
        gateway: GatewayName,
        /// Records that it has.
        size: u64,
        /// Records that it had.
        cosigned: u64,
    },
    /// Other records than were cosigned.
    #[error(
        "the log of gateway {gateway} is not the one of which {cosigned} records were cosigned: rewritten, or two gateways use one key"
    )]
    Forked {
        /// Whose.
        gateway: GatewayName,
        /// Records that were cosigned.
        cosigned: u64,
    },
    /// Not the log of which a copy is kept here.
    #[error("the log of gateway {0} is not the one of which a copy is kept here: {1}")]
    Copy(GatewayName, String),
    /// Not a checkpoint of the log.
    #[error("the checkpoint of gateway {0}: {1}")]
    Checkpoint(GatewayName, NoteError),
}

impl LogFault {
    /// Whether it speaks of a log that was changed or copied, and not of a message.
    pub(super) const fn is_alarm(&self) -> bool {
        !matches!(self, Self::Key(_) | Self::Checkpoint(..))
    }
}

impl LogFault {
    /// Whether it shows that more than one process has the gateway's keys, or that one went back in time: what was
    /// acknowledged may have been acknowledged by another.
    pub(super) const fn is_another_process(&self) -> bool {
        matches!(self, Self::Shorter { .. } | Self::Forked { .. } | Self::Copy(..))
    }
}

impl From<LogFault> for Refused {
    fn from(fault: LogFault) -> Self {
        Self::Conflict(fault.to_string())
    }
}

/// What a renewal's checkpoint comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// No checkpoint yet, and none was cosigned.
    Nothing,
    /// The one that was cosigned last.
    Same(Checkpoint),
    /// One that extends it.
    Extends(Checkpoint),
    /// One that was proven from another size than the last one, which is this.
    Stale(u64),
}

/// The name of a gateway's first log; later ones have `/2`, `/3` and so on after it.
fn first_log(gateway: &GatewayName) -> String {
    format!("portcullis/gateway/{gateway}")
}

/// Which of its gateway's logs it is, counted from 1.
pub(super) fn place(gateway: &GatewayName, log: &str) -> Option<u64> {
    match log.strip_prefix(&first_log(gateway))? {
        "" => Some(1),
        rest => rest.strip_prefix('/')?.parse().ok().filter(|place| *place > 1),
    }
}

/// Takes note of the log that a gateway comes with: its first one, the one that goes on, or a new one after a seal.
///
/// # Errors
/// [`LogFault`] as a conflict when it is none of these.
pub(super) fn plan_open(model: &Model, now: Timestamp, gateway: &GatewayName, key: &str) -> Result<Plan<u64>, Refused> {
    Ok(opened(model, now, gateway, key)?)
}

/// The same of a gateway that comes with its certificate: whoever has that alone brings no key. It is recorded when the
/// gateway is made or joins, or it was before.
pub(super) fn shown(model: &Model, now: Timestamp, gateway: &GatewayName, key: &str) -> Result<Plan<u64>, LogFault> {
    if model.logs.contains_key(gateway) {
        opened(model, now, gateway, key)
    } else {
        Err(LogFault::Unpinned(gateway.clone()))
    }
}

/// As [`plan_open`], with the fault as it is.
pub(super) fn opened(model: &Model, now: Timestamp, gateway: &GatewayName, key: &str) -> Result<Plan<u64>, LogFault> {
    let fault = || LogFault::Key(gateway.clone());
    let shown: VerifierKey = key.parse().map_err(|_| fault())?;
    let shown_place = place(gateway, shown.name().as_str()).ok_or_else(fault)?;
    let mut record = LogRecord {
        gateway: gateway.clone(),
        key: shown.to_string(),
        size: 0,
        root: String::new(),
        cosigned: Timestamp::UNIX_EPOCH,
        parted: None,
        before: Vec::new(),
    };
    let Some(kept) = model.logs.get(gateway) else { return Ok(put("log.opened", None, record)) };
    let before = kept.value.as_ref();
    if before.key == record.key {
        return Ok(Plan::nothing(before.size));
    }
    // The operator let it come with a new log: not with one that was sealed, whoever has a copy of its key.
    let is_sealed = |log: &SealedLog| {
        let known: Option<VerifierKey> = log.key.parse().ok();
        known.is_some_and(|known| {
            known.public() == shown.public() && Some(shown_place) <= place(gateway, known.name().as_str())
        })
    };
    if before.before.iter().any(is_sealed) {
        return Err(LogFault::Sealed(gateway.clone()));
    }
    if !before.key.is_empty() {
        let known: VerifierKey = before.key.parse().map_err(|_| fault())?;
        if known.public() != shown.public() {
            return Err(LogFault::OtherKey(gateway.clone()));
        }
        if Some(shown_place) <= place(gateway, known.name().as_str()) {
            return Err(LogFault::Sealed(gateway.clone()));
        }
        if before.before.len() >= MAX_SEALED {
            return Err(LogFault::TooMany(gateway.clone()));
        }
    }
    record.before = sealed(before);
    record.parted = Some(now);
    Ok(put("log.replaced", Some(before), record))
}

/// Takes the log that a gateway brings as it joins: what was known of another is sealed.
///
/// # Errors
/// [`LogFault::Key`] as a conflict for a key that is none of this gateway's logs.
pub(super) fn plan_bring(
    model: &Model,
    now: Timestamp,
    gateway: &GatewayName,
    key: &str,
) -> Result<Plan<u64>, Refused> {
    match opened(model, now, gateway, key) {
        Err(LogFault::OtherKey(_)) => {
            let mut forgotten = model.clone();
            let plan = plan_readmit(model, now, gateway, "it joined anew")?;
            plan.changes.iter().for_each(|change| forgotten.apply(change, 0));
            Ok(opened(&forgotten, now, gateway, key)?)
        }
        known => Ok(known?),
    }
}

/// The logs before the next one.
fn sealed(last: &LogRecord) -> Vec<SealedLog> {
    let mut before = last.before.clone();
    if !last.key.is_empty() {
        before.push(SealedLog { key: last.key.clone(), size: last.size, root: last.root.clone() });
    }
    let over = before.len().saturating_sub(MAX_SEALED);
    before.drain(..over);
    before
}

/// Lets a gateway come with a new key and log, after it lost both: the old log is sealed as it was cosigned.
///
/// # Errors
/// [`Refused::NotFound`] for a gateway without a log.
pub(super) fn plan_readmit(
    model: &Model,
    now: Timestamp,
    gateway: &GatewayName,
    reason: &str,
) -> Result<Plan<()>, Refused> {
    let reason = super::plan::checked_reason(reason).map_err(Refused::invalid)?;
    let Some(kept) = model.logs.get(gateway) else {
        return Err(Refused::NotFound(format!("gateway {gateway} has no log that is known here")));
    };
    let before = kept.value.as_ref();
    let record = LogRecord {
        gateway: gateway.clone(),
        key: String::new(),
        size: 0,
        root: String::new(),
        cosigned: Timestamp::UNIX_EPOCH,
        parted: Some(now),
        before: sealed(before),
    };
    let change = Change::Put(Record::Log(record));
    let event = ChangeEvent::of("log.readmitted", Some(&Record::Log(before.clone())), &change, Some(&reason));
    Ok(Plan { changes: vec![change], events: vec![event], audience: Audience::Control, answer: () })
}

/// Records that a log is not what it was, and, where another process than the known one has the gateway's keys, when that
/// was seen.
pub(super) fn plan_note(model: &Model, now: Timestamp, gateway: &GatewayName, fault: String, parted: bool) -> Plan<()> {
    let mut plan = super::actor::note("log.refused", format!("log/{gateway}"), fault);
    let log = model.logs.get(gateway).filter(|_| parted);
    plan.changes.extend(log.map(|kept| {
        let record = LogRecord { parted: Some(now), ..kept.value.as_ref().clone() };
        Change::Put(Record::Log(record))
    }));
    plan
}

/// Whether another process may still have the gateway's authority: as long as any may have.
pub(super) fn parted_lately(log: &LogRecord, now: Timestamp) -> bool {
    let longest = MAX_AUTHORITY.duration().saturating_add(super::fleet::SLACK);
    log.parted.is_some_and(|parted| now.saturating_since(parted) <= longest)
}

/// What the last cosigned checkpoint of a log is.
pub(super) fn head(record: &LogRecord) -> TreeHead {
    let root = STANDARD.decode(&record.root).ok().and_then(|root| root.try_into().ok()).map_or_else(empty_root, Hash);
    TreeHead { size: record.size, root }
}

/// What a renewal's checkpoint is to the last one that was cosigned.
pub(super) fn look(record: &LogRecord, renew: &v1::Renew) -> Result<Seen, LogFault> {
    let gateway = &record.gateway;
    let known = head(record);
    if renew.checkpoint.is_empty() {
        let shorter = LogFault::Shorter { gateway: gateway.clone(), size: 0, cosigned: known.size };
        return if known.size == 0 { Ok(Seen::Nothing) } else { Err(shorter) };
    }
    let bad = |error| LogFault::Checkpoint(gateway.clone(), error);
    let key: VerifierKey = record.key.parse().map_err(bad)?;
    let checkpoint = Checkpoint::verify(renew.checkpoint.as_bytes(), &key).map_err(bad)?;
    let new = checkpoint.head;
    if new == known {
        return Ok(Seen::Same(checkpoint));
    }
    if new.size < known.size {
        return Err(LogFault::Shorter { gateway: gateway.clone(), size: new.size, cosigned: known.size });
    }
    if renew.proven_from != known.size && new.size > known.size {
        return Ok(Seen::Stale(known.size));
    }
    let forked = || LogFault::Forked { gateway: gateway.clone(), cosigned: known.size };
    if renew.consistency.len() > MAX_PROOF {
        return Err(forked());
    }
    let proof: Option<Vec<Hash>> =
        renew.consistency.iter().map(|hash| hash.as_slice().try_into().ok().map(Hash)).collect();
    if proof.is_some_and(|proof| verify_consistency(&known, &new, &proof)) {
        Ok(Seen::Extends(checkpoint))
    } else {
        Err(forked())
    }
}

/// Stores that a checkpoint is cosigned, provided that nothing else was since `from` records were.
///
/// # Errors
/// [`Refused::Conflict`] when something was.
pub(super) fn plan_cosign(
    model: &Model,
    now: Timestamp,
    gateway: &GatewayName,
    from: u64,
    checkpoint: &Checkpoint,
) -> Result<Plan<Timestamp>, Refused> {
    let kept = model.logs.get(gateway).map(|kept| kept.value.as_ref());
    let of_it = |log: &&LogRecord| log.size == from && log.key.starts_with(&format!("{}+", checkpoint.origin));
    let Some(before) = kept.filter(of_it) else {
        return Err(Refused::Conflict(format!("the log of gateway {gateway} was cosigned meanwhile")));
    };
    let root = STANDARD.encode(checkpoint.head.root.0);
    let record = LogRecord { size: checkpoint.head.size, root, cosigned: now, ..before.clone() };
    let changes = vec![Change::Put(Record::Log(record))];
    Ok(Plan { changes, events: Vec::new(), audience: Audience::Control, answer: now })
}

fn put(operation: &str, before: Option<&LogRecord>, record: LogRecord) -> Plan<u64> {
    let change = Change::Put(Record::Log(record));
    let before = before.cloned().map(Record::Log);
    let event = ChangeEvent::of(operation, before.as_ref(), &change, None);
    Plan { changes: vec![change], events: vec![event], audience: Audience::Control, answer: 0 }
}

#[cfg(test)]
mod tests;
