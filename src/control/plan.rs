//! What a command would change, worked out before anything is.
//!
//! A plan is data: changes of records, events that tell of them, an answer. Commands are planned by pure functions of
//! the model (`catalog`, `grant`, `registry`); the actor alone makes plans true.

mod told;

use serde::{Deserialize, Serialize};

use self::told::{bounded, told, without_secrets};
use super::authorize::Caller;
use super::record::{Change, Record};
use super::store::StoreError;
use crate::domain::Timestamp;
use crate::domain::name::{IdentityName, MAX_NAME_BYTES, OwnerName};

/// Records that one command may change, so that the transaction stays within the store's 128 operations with the head,
/// the outbox and some room.
pub const MAX_CHANGES: usize = 120;

/// Longest reason that a person may give.
pub const MAX_REASON_CHARS: usize = 1000;

/// What a plan is worked out in.
#[derive(Debug)]
pub struct Context<'a> {
    /// Who asks.
    pub caller: &'a Caller,
    /// When.
    pub now: Timestamp,
}

impl Context<'_> {
    /// The caller as lineage names them.
    pub fn author(&self) -> Result<OwnerName, Refused> {
        match self.caller {
            Caller::Person(person) => Ok(person.name.clone()),
            Caller::Identity(name) => identity_author(name),
            Caller::Gateway(_) | Caller::Joining(..) | Caller::Attested(_) | Caller::System => {
                super::authorize::SYSTEM.parse().map_err(|_| Refused::invalid("the author has no name"))
            }
        }
    }
}

/// An identity as lineage names it: with `identity.` before its name, of which a long one is cut and told apart by its
/// digest. The request holds it whole.
pub(super) fn identity_author(name: &IdentityName) -> Result<OwnerName, Refused> {
    let plain = format!("identity.{name}");
    let text = if plain.len() <= MAX_NAME_BYTES {
        plain
    } else {
        let cut = plain.get(..plain.floor_char_boundary(MAX_NAME_BYTES - 18)).unwrap_or_default();
        let digest = super::record::Digest::of(name.as_str()).hex();
        format!(
            "{}-{}",
            cut.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()),
            digest.get(..16).unwrap_or_default()
        )
    };
    text.parse().map_err(|_| Refused::invalid("the identity's name cannot be written into a lineage"))
}

/// One thing that happened, as the evidence will tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeEvent {
    /// What was done, for example `grant.revoked`.
    pub operation: String,
    /// The key of the record, without the layout's root.
    pub object: String,
    /// SHA-256 of the record before, hexadecimal; `None` when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The record after; `None` when it is gone or was not touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<serde_json::Value>,
    /// Why, in the words of who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl ChangeEvent {
    /// Of a change from `before` to what the change says.
    pub fn of(operation: &str, before: Option<&Record>, change: &Change, reason: Option<&str>) -> Self {
        let after = match change {
            Change::Put(record) => record.json().ok().map(without_secrets).map(|json| told(record, json)),
            Change::Delete(_) => None,
        };
        let before = before.and_then(|b| b.json().ok()).map(|json| {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, json.to_string().as_bytes());
            hex(digest.as_ref())
        });
        let object = change.record().key();
        Self {
            operation: operation.to_owned(),
            object: object.strip_prefix(super::record::ROOT).unwrap_or(&object).to_owned(),
            before,
            after,
            reason: reason.map(str::to_owned),
        }
    }

    /// The same with the record's digest and length in its place.
    pub fn digested(mut self) -> Self {
        self.after = self.after.map(|json| bounded(json, 0));
        self
    }
}

/// Bytes as text.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Who hears of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audience {
    /// Gateways too: it makes a revision of the stream.
    #[default]
    Gateways,
    /// The control plane alone.
    Control,
}

/// What a command would change.
#[derive(Debug)]
pub struct Plan<T> {
    /// Records, each key at most once.
    pub changes: Vec<Change>,
    /// What the evidence will tell.
    pub events: Vec<ChangeEvent>,
    /// Who hears of it.
    pub audience: Audience,
    /// The command's answer.
    pub answer: T,
}

impl<T> Plan<T> {
    /// Nothing to change, only an answer.
    pub const fn nothing(answer: T) -> Self {
        Self { changes: Vec::new(), events: Vec::new(), audience: Audience::Control, answer }
    }

    /// Whether there is nothing to do.
    pub const fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.events.is_empty()
    }

    /// Both in one: neither is done without the other. They change different records.
    pub fn and<U>(mut self, other: Plan<U>) -> Plan<(T, U)> {
        self.changes.extend(other.changes);
        self.events.extend(other.events);
        let is_for_gateways = [self.audience, other.audience].contains(&Audience::Gateways);
        let audience = if is_for_gateways { Audience::Gateways } else { Audience::Control };
        Plan { changes: self.changes, events: self.events, audience, answer: (self.answer, other.answer) }
    }

    /// The plan and its answer apart.
    pub fn take_answer(self) -> (Plan<()>, T) {
        let Self { changes, events, audience, answer } = self;
        (Plan { changes, events, audience, answer: () }, answer)
    }

    /// The same with another answer.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Plan<U> {
        Plan { changes: self.changes, events: self.events, audience: self.audience, answer: f(self.answer) }
    }
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It asks for what cannot be; every fault that was found.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// The objects do not fit together; every fault that was found.
    #[error("{}", .0.join("; "))]
    Unfit(Vec<String>),
    /// Whoever asks may not.
    #[error("{0}")]
    Denied(String),
    /// Something that it names is not there.
    #[error("{0}")]
    NotFound(String),
    /// Something that it relied on changed meanwhile, or is in the way.
    #[error("{0}")]
    Conflict(String),
    /// It is more than one command may change.
    #[error("{0}")]
    TooMuch(String),
    /// The store did not answer: it may or may not have been done.
    #[error("the store is unavailable; whether it was done shows when it is back")]
    Unavailable,
}

impl Refused {
    /// One fault.
    pub fn invalid(fault: impl Into<String>) -> Self {
        Self::Invalid(vec![fault.into()])
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TooManyOperations { .. } | StoreError::TooLarge { .. } | StoreError::KeyLength { .. } => {
                Self::TooMuch(error.to_string())
            }
            StoreError::Compacted { .. }
            | StoreError::FutureRevision { .. }
            | StoreError::DuplicateKey
            | StoreError::LeaseNotFound { .. }
            | StoreError::LeaseDuration { .. }
            | StoreError::Unavailable { .. }
            | StoreError::Corrupt { .. } => Self::Unavailable,
        }
    }
}

/// A reason as a person gave it.
///
/// # Errors
/// When it is empty, too long or has control characters.
pub fn checked_reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        Err("reason: say why, in a sentence".to_owned())
    } else if text.chars().count() > MAX_REASON_CHARS {
        Err(format!("reason: at most {MAX_REASON_CHARS} characters"))
    } else if text.chars().any(char::is_control) {
        Err("reason: control characters are not accepted".to_owned())
    } else {
        Ok(text.to_owned())
    }
}
