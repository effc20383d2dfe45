//! The kinds of records and what each carries.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::call::{Denial, Denials, Intent, Outcome, Refusals};
use crate::domain::name::{CallId, GrantId, IdentityName};
use crate::domain::{Reason, Timestamp};

/// Longest recorded path, encoded. What is longer is cut and its digest added: strangers choose it.
pub const MAX_PATH_BYTES: usize = 4096;
/// Longest recorded principal, encoded: a SPIFFE ID (2048) fits.
pub const MAX_PRINCIPAL_BYTES: usize = 2304;
/// Longest recorded host, encoded.
pub const MAX_HOST_BYTES: usize = 320;
/// Longest recorded method, encoded.
pub const MAX_METHOD_BYTES: usize = 64;
/// Longest recorded free text (a note, a reason in words), encoded.
pub const MAX_NOTE_BYTES: usize = 2048;
/// Longest recorded token identifier or digest, encoded.
pub const MAX_LABEL_BYTES: usize = 256;
/// Samples in one aggregate of refusals.
pub const MAX_SAMPLES: usize = 4;
/// Longest path in a sample, encoded.
pub const MAX_SAMPLE_PATH_BYTES: usize = 256;
/// Calls and grants that one `enforced` names; those of a larger sweep are split over several records by the caller.
pub const MAX_ENFORCED_ITEMS: usize = 256;

/// Text that may be borrowed from the call that is being recorded.
pub type Text<'a> = Cow<'a, str>;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A process began to write this log.
    LogOpened(LogOpened<'a>),
    /// A call is allowed and about to be forwarded.
    Intent(Box<Intent<'a>>),
    /// How an allowed call ended.
    Outcome(Outcome),
    /// An identified caller is refused.
    Denial(Box<Denial<'a>>),
    /// Denials of an identified caller beyond its budget, counted.
    Denials(Denials<'a>),
    /// Refusals of callers that nobody identified, counted.
    Refusals(Refusals<'a>),
    /// A token left the gate.
    TokenIssued(TokenIssued<'a>),
    /// A token was revoked.
    TokenRevoked(TokenRevoked<'a>),
    /// A gateway enforced a revision that ended something.
    Enforced(Enforced),
    /// The control plane changed something.
    Change(Box<Change<'a>>),
    /// What was found, and dropped, when the log was opened after a failure.
    Recovered(Recovered<'a>),
    /// Old records are about to be removed from the log's own disk.
    Pruned(Pruned<'a>),
}

/// The names of the kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "described on Event")]
pub enum Kind {
    LogOpened,
    Intent,
    Outcome,
    Denial,
    Denials,
    Refusals,
    TokenIssued,
    TokenRevoked,
    Enforced,
    Change,
    Recovered,
    Pruned,
}

impl Kind {
    /// As records and filters write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LogOpened => "log_opened",
            Self::Intent => "intent",
            Self::Outcome => "outcome",
            Self::Denial => "denial",
            Self::Denials => "denials",
            Self::Refusals => "refusals",
            Self::TokenIssued => "token_issued",
            Self::TokenRevoked => "token_revoked",
            Self::Enforced => "enforced",
            Self::Change => "change",
            Self::Recovered => "recovered",
            Self::Pruned => "pruned",
        }
    }
}

impl Kind {
    /// Of the name that records and filters write.
    pub fn parse(name: &str) -> Option<Self> {
        serde_json::from_value(name.into()).ok()
    }
}

impl Event<'static> {
    pub(super) fn parse(kind: Kind, data: &str) -> Result<Self, serde_json::Error> {
        Ok(match kind {
            Kind::LogOpened => Self::LogOpened(serde_json::from_str(data)?),
            Kind::Intent => Self::Intent(serde_json::from_str(data)?),
            Kind::Outcome => Self::Outcome(serde_json::from_str(data)?),
            Kind::Denial => Self::Denial(serde_json::from_str(data)?),
            Kind::Denials => Self::Denials(serde_json::from_str(data)?),
            Kind::Refusals => Self::Refusals(serde_json::from_str(data)?),
            Kind::TokenIssued => Self::TokenIssued(serde_json::from_str(data)?),
            Kind::TokenRevoked => Self::TokenRevoked(serde_json::from_str(data)?),
            Kind::Enforced => Self::Enforced(serde_json::from_str(data)?),
            Kind::Change => Self::Change(serde_json::from_str(data)?),
            Kind::Recovered => Self::Recovered(serde_json::from_str(data)?),
            Kind::Pruned => Self::Pruned(serde_json::from_str(data)?),
        })
    }
}

impl Event<'_> {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::LogOpened(_) => Kind::LogOpened,
            Self::Intent(_) => Kind::Intent,
            Self::Outcome(_) => Kind::Outcome,
            Self::Denial(_) => Kind::Denial,
            Self::Denials(_) => Kind::Denials,
            Self::Refusals(_) => Kind::Refusals,
            Self::TokenIssued(_) => Kind::TokenIssued,
            Self::TokenRevoked(_) => Kind::TokenRevoked,
            Self::Enforced(_) => Kind::Enforced,
            Self::Change(_) => Kind::Change,
            Self::Recovered(_) => Kind::Recovered,
            Self::Pruned(_) => Kind::Pruned,
        }
    }
}

/// A process began to write this log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOpened<'a> {
    /// How often the log has been opened for writing.
    pub incarnation: u64,
    /// Name and version of the program.
    pub program: Text<'a>,
    /// The machine's boot (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: Text<'a>,
    /// Records that were there already.
    pub resumed_from: u64,
}

/// A token left the gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenIssued<'a> {
    /// The call that asked.
    pub call: CallId,
    /// The token's identifier.
    pub jti: Text<'a>,
    /// The grant that it is bound to.
    pub grant: GrantId,
    /// Whose it is.
    pub identity: Cow<'a, IdentityName>,
    /// Whom it is for.
    pub audience: Text<'a>,
    /// Its end.
    #[serde(with = "micros")]
    pub expires: Timestamp,
    /// What it was given for.
    pub kind: IssueKind,
    /// The token that it was exchanged for, when that has an identifier.
    #[serde(default)]
    pub parent_jti: Option<Text<'a>>,
}

/// What a token was given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IssueKind {
    /// Another token (RFC 8693).
    Exchange,
    /// A client certificate.
    Certificate,
}

/// A token was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRevoked<'a> {
    /// The call that asked.
    pub call: CallId,
    /// The token's identifier.
    pub jti: Text<'a>,
    /// Who revoked it.
    pub by: Text<'a>,
}

/// What a gateway did for a revision that ended something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// Epoch of the snapshot.
    pub epoch: u64,
    /// Revision of the snapshot.
    pub revision: u64,
    /// Grants that ended with it.
    pub grants_revoked: Vec<GrantId>,
    /// Calls that were cut.
    pub cut: Vec<CutCall>,
    /// From the arrival of the revision to the last cut.
    pub took_us: u64,
}

/// A call that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutCall {
    /// The call.
    pub call: CallId,
    /// Where its intent stands in this log.
    pub intent_seq: u64,
    /// Why.
    pub reason: Reason,
}

/// The control plane changed something: one operation of one workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change<'a> {
    /// The store's revision that holds it.
    pub revision: u64,
    /// Who did it: a person's name, `portcullis` for the control plane itself, `gateway/NAME`, `identity/NAME`, or
    /// `attested/SUBJECT` for a gateway for which somebody else vouches.
    pub actor: Text<'a>,
    /// What was done, for example `create`.
    pub operation: Text<'a>,
    /// The kind of object, for example `grant`.
    pub object_kind: Text<'a>,
    /// The object's name or identifier.
    pub object: Text<'a>,
    /// SHA-256 of the object before, hexadecimal.
    #[serde(default)]
    pub before_digest: Option<Text<'a>>,
    /// The object after.
    #[serde(default)]
    pub after: Option<Cow<'a, serde_json::Value>>,
    /// Why, in the actor's words.
    #[serde(default)]
    pub reason: Option<Text<'a>>,
}

/// What was found, and dropped, after a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered<'a> {
    /// Position from which records were dropped; none of them had been promised.
    pub lost_from: u64,
    /// How many frames were dropped, as far as they could be told apart.
    pub discarded_frames: u64,
    /// What happened.
    pub note: Text<'a>,
}

/// Old records are about to be removed from the log's own disk: written, and signed for, before any of them goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned<'a> {
    /// Records before this position may be missing from now on, and none from it on. A multiple of 256, so that it is also
    /// where an entry bundle begins.
    pub before: u64,
    /// The first record that was there until now.
    pub from: u64,
    /// Records that were under the latest cosigned checkpoint.
    pub cosigned: u64,
    /// Records that were archived and verified there, where the log has an archive.
    #[serde(default)]
    pub archived: Option<u64>,
    /// The policy, in words, for example `keep 90d`.
    pub policy: Text<'a>,
}

/// A time as the integer that records carry.
pub(super) mod micros {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::domain::Timestamp;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
    pub(in super::super) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(at.unix_micros())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(deserializer).map(Timestamp::from_unix_micros)
    }
}
