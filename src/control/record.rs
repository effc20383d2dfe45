//! What the control plane keeps: one record per key, sealed JSON in the store.
//!
//! A record knows its key and its bytes, and how to come back from both. It does not know what may be done with it, nor
//! how the store keeps it.

mod gateway;
pub mod ledger;
mod policy;
mod ticket;
mod trust;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use gateway::{AttestedRecord, GatewayRecord, JoinToken, LogRecord, SealedLog, Standing};
use ledger::Ledger;
pub use policy::{PolicyFile, PolicyRecord};
pub use ticket::TicketRecord;
pub use trust::{AuthorityRecord, AuthorityStanding, TrustRecord};

use crate::domain::Timestamp;
use crate::domain::breakglass::{BreakGlass, SignedIn};
use crate::domain::change::Proposal;
use crate::domain::delegation::Delegation;
use crate::domain::directory::{Group, PersonEntry};
use crate::domain::exception::Exception;
use crate::domain::grant::Grant;
use crate::domain::halt::Halt;
use crate::domain::identity::Identity;
use crate::domain::name::{GatewayName, OwnerName};
use crate::domain::request::Request;
use crate::domain::resource::Resource;
use crate::domain::role::Role;
use crate::domain::route::Route;
use crate::domain::ticket::TicketSource;

/// What stands before every key, so that a later layout can live beside this one.
pub const ROOT: &str = "/v1/";
/// Where commits leave their events until the evidence has them.
pub const OUTBOX: &str = "/v1/outbox/";
/// Grants, live and ended.
pub const GRANTS: &str = "/v1/grant/";
/// Requests, open and settled.
pub const REQUESTS: &str = "/v1/request/";
/// Versions of the policy.
pub const POLICIES: &str = "/v1/policy/";
/// Put by every commit that gateways hear of: its revision is the stream's.
pub const HEAD: &str = "/v1/head";
/// What concerns the whole store.
pub const META: &str = "/v1/meta";
/// The authorities that certify gateways.
const TRUST: &str = "/v1/trust";

/// The layout of the records that this program writes.
const FORMAT: u32 = 1;

/// What concerns the whole store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The layout of the records.
    pub format: u32,
    /// Counts the lives of the store: one more when it is made and when a backup is declared restored. Gateways refuse
    /// lower ones.
    pub epoch: u64,
    /// When a backup was declared restored: what was counted before may have been counted further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Timestamp>,
}

impl Meta {
    /// Of a store in its `epoch`th life, which began at `restored` unless it is the first.
    pub const fn of_epoch(epoch: u64, restored: Option<Timestamp>) -> Self {
        Self { format: FORMAT, epoch, restored }
    }

    /// Whether this program reads that layout.
    pub const fn is_readable(self) -> bool {
        self.format == FORMAT
    }
}

/// A grant, and whether its end by the clock was recorded: that happens once, also over restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRecord {
    /// The grant.
    pub grant: Grant,
    /// The `expired` event is in the outbox, or was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expiry_noted: bool,
}

impl GrantRecord {
    /// Whether it is over for good: revoked, or its end is recorded.
    pub const fn has_ended(&self) -> bool {
        self.grant.revoked.is_some() || self.expiry_noted
    }
}

/// What a person may do by standing. Owning a resource comes from the catalog instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PersonRole {
    /// Everything.
    Administrator,
    /// Watches over all access and can end any of it.
    Security,
    /// Answers for resources.
    Owner,
    /// Builds what calls.
    Developer,
}

impl PersonRole {
    /// As records and the API write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::Security => "security",
            Self::Owner => "owner",
            Self::Developer => "developer",
        }
    }
}

/// SHA-256 of a token or a key: all that is kept of it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of a token, or a key as its SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7).
    pub fn of(known_by: impl AsRef<[u8]>) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, known_by.as_ref());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// As text, hexadecimal.
    pub fn hex(&self) -> String {
        super::plan::hex(&self.0)
    }

    /// Compares without telling by its time where the two differ.
    pub fn is(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest(..)")
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok();
        bytes.and_then(|b| b.try_into().ok()).map(Self).ok_or("not a SHA-256 in base64url")
    }
}

/// A person who may speak to the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// Their name.
    pub name: OwnerName,
    /// What they may do by standing.
    pub roles: Vec<PersonRole>,
    /// Owners that they speak for besides themselves, for example a team.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub speaks_for: Vec<OwnerName>,
    /// Of the token that proves it is them.
    pub token: Digest,
    /// Of a caller who signed in where people do: how, and when. Never kept.
    #[serde(skip)]
    pub signed_in: Option<Arc<SignedIn>>,
}

impl Person {
    /// Whether what `owner` owns is theirs.
    pub fn is_owner(&self, owner: &OwnerName) -> bool {
        self.name == *owner || self.speaks_for.contains(owner)
    }
}

/// A token that is dead before its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedToken {
    /// Its `iss`.
    pub issuer: String,
    /// Its `jti`.
    pub jti: String,
    /// When no gate would take it any more; then the record is forgotten.
    pub expires: Timestamp,
    /// The gateway that said so; otherwise it was a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<GatewayName>,
}

/// Anything that is kept under a key of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the types say it")]
pub enum Record {
    Meta(Meta),
    Identity(Identity),
    Resource(Resource),
    Route(Route),
    Role(Role),
    Exception(Exception),
    TicketSource(TicketSource),
    Ticket(TicketRecord),
    Entry(PersonEntry),
    Group(Group),
    Policy(PolicyRecord),
    Request(Box<Request>),
    Proposal(Box<Proposal>),
    BreakGlass(Box<BreakGlass>),
    Delegation(Delegation),
    Grant(GrantRecord),
    Ledger(Ledger),
    Person(Person),
    Gateway(GatewayRecord),
    Log(LogRecord),
    Halt(Halt),
    Token(RevokedToken),
    Trust(TrustRecord),
}

/// Why what stands in the store is not a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The key names no kind that this program knows.
    #[error("the key `{0}` is of no known kind")]
    UnknownKind(String),
    /// The value is not what its key says.
    #[error("the value under `{key}` does not read: {source}")]
    Unreadable {
        /// The key.
        key: String,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The value says another name than its key.
    #[error("the value under `{0}` belongs under another key")]
    Misplaced(String),
}

impl Record {
    /// The key that it is kept under.
    pub fn key(&self) -> String {
        match self {
            Self::Meta(_) => META.to_owned(),
            Self::Identity(it) => format!("{ROOT}identity/{}", it.name),
            Self::Resource(it) => format!("{ROOT}resource/{}", it.name),
            Self::Route(it) => format!("{ROOT}route/{}", it.name),
            Self::Role(it) => format!("{ROOT}role/{}", it.name),
            Self::Exception(it) => format!("{ROOT}exception/{}", it.name),
            Self::TicketSource(it) => format!("{ROOT}ticket-source/{}", it.name),
            Self::Ticket(it) => format!("{ROOT}ticket/{}", it.ticket),
            Self::Entry(it) => format!("{ROOT}entry/{}", it.name),
            Self::Group(it) => format!("{ROOT}group/{}", it.name),
            Self::Policy(it) => policy_key(it.version),
            Self::Request(it) => request_key(it.id),
            Self::Proposal(it) => format!("{ROOT}change/{}", it.id),
            Self::BreakGlass(it) => format!("{ROOT}breakglass/{}", it.id),
            Self::Delegation(it) => format!("{ROOT}delegation/{}", it.id),
            Self::Grant(it) => grant_key(it.grant.id),
            Self::Ledger(it) => format!("{ROOT}uses/{}", it.grant),
            Self::Person(it) => format!("{ROOT}person/{}", it.name),
            Self::Gateway(it) => format!("{ROOT}gateway/{}", it.name),
            Self::Log(it) => format!("{ROOT}log/{}", it.gateway),
            Self::Halt(it) => format!("{ROOT}halt/{}", it.scope),
            Self::Token(it) => token_key(&it.issuer, &it.jti),
            Self::Trust(_) => TRUST.to_owned(),
        }
    }

    /// As evidence and diffs show it: keys sorted, so that its digest is that of what it says.
    pub fn json(&self) -> Result<serde_json::Value, serde_json::Error> {
        let mut json = match self {
            Self::Meta(it) => serde_json::to_value(it),
            Self::Identity(it) => serde_json::to_value(it),
            Self::Resource(it) => serde_json::to_value(it),
            Self::Route(it) => serde_json::to_value(it),
            Self::Role(it) => serde_json::to_value(it),
            Self::Exception(it) => serde_json::to_value(it),
            Self::TicketSource(it) => serde_json::to_value(it),
            Self::Ticket(it) => serde_json::to_value(it),
            Self::Entry(it) => serde_json::to_value(it),
            Self::Group(it) => serde_json::to_value(it),
            Self::Policy(it) => serde_json::to_value(it),
            Self::Request(it) => serde_json::to_value(it),
            Self::Proposal(it) => serde_json::to_value(it),
            Self::BreakGlass(it) => serde_json::to_value(it),
            Self::Delegation(it) => serde_json::to_value(it),
            Self::Grant(it) => serde_json::to_value(it),
            Self::Ledger(it) => serde_json::to_value(it),
            Self::Person(it) => serde_json::to_value(it),
            Self::Gateway(it) => serde_json::to_value(it),
            Self::Log(it) => serde_json::to_value(it),
            Self::Halt(it) => serde_json::to_value(it),
            Self::Token(it) => serde_json::to_value(it),
            Self::Trust(it) => serde_json::to_value(it),
        }?;
        json.sort_all_objects();
        Ok(json)
    }

    /// Back from key and value.
    ///
    /// # Errors
    /// When they are not a record of this layout, or do not belong together.
    pub fn decode(key: &str, value: &[u8]) -> Result<Self, RecordError> {
        fn read<'v, T: Deserialize<'v>>(key: &str, value: &'v [u8]) -> Result<T, RecordError> {
            serde_json::from_slice(value).map_err(|source| RecordError::Unreadable { key: key.to_owned(), source })
        }
        let unknown = || RecordError::UnknownKind(key.to_owned());
        let rest = key.strip_prefix(ROOT).ok_or_else(unknown)?;
        let kind = rest.split('/').next().unwrap_or_default();
        let record = match kind {
            "meta" => Self::Meta(read(key, value)?),
            "identity" => Self::Identity(read(key, value)?),
            "resource" => Self::Resource(read(key, value)?),
            "route" => Self::Route(read(key, value)?),
            "role" => Self::Role(read(key, value)?),
            "exception" => Self::Exception(read(key, value)?),
            "ticket-source" => Self::TicketSource(read(key, value)?),
            "ticket" => Self::Ticket(read(key, value)?),
            "entry" => Self::Entry(read(key, value)?),
            "group" => Self::Group(read(key, value)?),
            "policy" => Self::Policy(read(key, value)?),
            "request" => Self::Request(read(key, value)?),
            "change" => Self::Proposal(read(key, value)?),
            "breakglass" => Self::BreakGlass(read(key, value)?),
            "delegation" => Self::Delegation(read(key, value)?),
            "grant" => Self::Grant(read(key, value)?),
            "uses" => Self::Ledger(read(key, value)?),
            "person" => Self::Person(read(key, value)?),
            "gateway" => Self::Gateway(read(key, value)?),
            "log" => Self::Log(read(key, value)?),
            "halt" => Self::Halt(read(key, value)?),
            "token" => Self::Token(read(key, value)?),
            "trust" => Self::Trust(read(key, value)?),
            _ => return Err(unknown()),
        };
        if record.key() == key { Ok(record) } else { Err(RecordError::Misplaced(key.to_owned())) }
    }
}

/// The key of a grant.
pub fn grant_key(id: crate::domain::name::GrantId) -> String {
    format!("{GRANTS}{id}")
}

/// The key of a version of the policy. Versions sort as they count.
pub fn policy_key(version: u64) -> String {
    format!("{POLICIES}{version:020}")
}

/// The key of a request.
pub fn request_key(id: crate::domain::name::RequestId) -> String {
    format!("{REQUESTS}{id}")
}

/// The key of a revoked token. The issuer is a URL of any length, so its digest stands for it; so does that of a `jti`
/// with a `/`, under a name that no other `jti` has.
pub fn token_key(issuer: &str, jti: &str) -> String {
    let issuer: String = Digest::of(issuer).into();
    if jti.contains('/') {
        let jti: String = Digest::of(jti).into();
        return format!("{ROOT}token/{issuer}//{jti}");
    }
    format!("{ROOT}token/{issuer}/{jti}")
}

/// A record that came to be or changed, or a key that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is now this.
    Put(Record),
    /// It is no more.
    Delete(Record),
}

impl Change {
    /// The record that is put, or the last one that was there.
    pub const fn record(&self) -> &Record {
        match self {
            Self::Put(record) | Self::Delete(record) => record,
        }
    }
}

#[cfg(test)]
mod tests;
