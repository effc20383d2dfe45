//! What is recorded of a call: the decision before it goes on, how it ended, its refusal.

use std::borrow::Cow;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::event::{Text, micros};
use super::hashed::{Hashed, QueryHashes};
use super::parameters::Parameters;
use crate::domain::name::{
    ActionName, AllotmentId, CallId, ExceptionName, GrantId, IdentityName, ResourceName, RouteName,
};
use crate::domain::{Reason, Timestamp};

/// The decision on a call that goes on. Durable before the first byte goes upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent<'a> {
    /// The call.
    pub call: CallId,
    /// What was decided.
    pub decision: Decision,
    /// On what ground.
    pub basis: Basis<'a>,
    /// Of a counted grant: whose use it spends.
    #[serde(default)]
    pub allotment: Option<AllotmentId>,
    /// The body that was decided on, when the route inspects it: it is what is forwarded.
    #[serde(default)]
    pub body: Option<Hashed>,
    /// On an observed route: what would have been refused, and why.
    #[serde(default)]
    pub would_refuse: Option<Reason>,
    /// Whose call it is.
    pub identity: Cow<'a, IdentityName>,
    /// As the credential names the caller.
    pub principal: Text<'a>,
    /// What the caller showed.
    pub credential: CredentialKind,
    /// The route that it took.
    pub route: Cow<'a, RouteName>,
    /// What it touches.
    pub resource: Cow<'a, ResourceName>,
    /// What it does.
    pub action: Cow<'a, ActionName>,
    /// The route's parameters.
    #[serde(default)]
    pub parameters: Parameters<'a>,
    /// HTTP method.
    pub method: Text<'a>,
    /// Host, without port.
    pub host: Text<'a>,
    /// Path, without query.
    pub path: Text<'a>,
    /// Its query, without what it says.
    #[serde(default)]
    pub query: Option<QueryHashes>,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// Epoch of the snapshot decided on.
    pub epoch: u64,
    /// Revision of the snapshot decided on.
    pub revision: u64,
    /// How old the gateway's authority was.
    pub authority_age_ms: u64,
    /// Where the call goes.
    pub upstream: Text<'a>,
    /// What the upstream gets in place of the caller's credential.
    pub credential_out: CredentialOut,
}

/// What was decided on a recorded intent. A denial is a record of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The call goes on.
    #[default]
    Allow,
}

/// The ground of an allowed call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis<'a> {
    /// A live grant.
    Grant(GrantId),
    /// An exception (`observe`).
    Exception(Cow<'a, ExceptionName>),
}

/// What a caller showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// A client certificate.
    Certificate,
    /// A token of a trusted issuer.
    Token,
    /// A token of this gate.
    GateToken,
}

impl CredentialKind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Token => "token",
            Self::GateToken => "gate_token",
        }
    }
}

/// What an upstream gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialOut {
    /// A token signed by the gateway.
    Mint,
    /// Nothing.
    None,
}

/// How an allowed call ended: what the gateway knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// In which way.
    pub ended: Ended,
    /// HTTP status that the caller got.
    #[serde(default)]
    pub status: Option<u16>,
    /// Why, when it was cut or failed.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// Body bytes towards the upstream.
    pub request_bytes: u64,
    /// Body bytes towards the caller.
    pub response_bytes: u64,
    /// From accepting the head to the end.
    pub duration_us: u64,
    /// Whether a byte went upstream.
    pub upstream_started: bool,
}

/// In which way a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// To its end.
    Completed,
    /// The caller left.
    ClientGone,
    /// The upstream failed.
    UpstreamFailed,
    /// The gate cut it.
    Cut,
    /// A fault of the gate.
    Panicked,
    /// Nobody said.
    Unknown,
}

impl Ended {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientGone => "client_gone",
            Self::UpstreamFailed => "upstream_failed",
            Self::Cut => "cut",
            Self::Panicked => "panicked",
            Self::Unknown => "unknown",
        }
    }
}

/// How an allowed call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The call.
    pub call: CallId,
    /// Where its intent stands in this log.
    pub intent_seq: u64,
    /// How it ended.
    #[serde(flatten)]
    pub ending: Ending,
}

/// The refusal of an identified caller. Durable before it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial<'a> {
    /// The call.
    pub call: CallId,
    /// Why.
    pub reason: Reason,
    /// Whose call it is, when the inventory knows.
    #[serde(default)]
    pub identity: Option<Cow<'a, IdentityName>>,
    /// As the credential names the caller.
    #[serde(default)]
    pub principal: Option<Text<'a>>,
    /// What the caller showed.
    #[serde(default)]
    pub credential: Option<CredentialKind>,
    /// The route, when one matched.
    #[serde(default)]
    pub route: Option<Cow<'a, RouteName>>,
    /// What it would have touched.
    #[serde(default)]
    pub resource: Option<Cow<'a, ResourceName>>,
    /// What it would have done.
    #[serde(default)]
    pub action: Option<Cow<'a, ActionName>>,
    /// HTTP method.
    pub method: Text<'a>,
    /// Host, without port.
    pub host: Text<'a>,
    /// Path, without query.
    pub path: Text<'a>,
    /// Its query, without what it says.
    #[serde(default)]
    pub query: Option<QueryHashes>,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// Epoch of the snapshot decided on.
    pub epoch: u64,
    /// Revision of the snapshot decided on.
    pub revision: u64,
}

/// Denials of one identity for one reason beyond its budget, counted: so that a known caller cannot fill the disk.
///
/// One such record opens an aggregate, durable before the first denial in it is answered; a second one closes it, with the
/// count. Without the second the process ended first, and how many there were is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denials<'a> {
    /// The first of them.
    #[serde(with = "micros")]
    pub from: Timestamp,
    /// Whose calls they were. Without it: of callers who are not in the inventory, or beyond the number that is told apart.
    #[serde(default)]
    pub identity: Option<Cow<'a, IdentityName>>,
    /// Why.
    pub reason: Reason,
    /// A few of them, at most [`MAX_SAMPLES`](super::MAX_SAMPLES).
    #[serde(default)]
    pub samples: Vec<DenialSample<'a>>,
    /// In the record that closes it.
    #[serde(default)]
    pub counted: Option<Counted>,
}

/// What an aggregate of denials came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// How many denials.
    pub count: u64,
    /// Where the record that opened it stands in this log.
    pub opened_seq: u64,
    /// The last of them.
    #[serde(with = "micros")]
    pub to: Timestamp,
}

/// One denial of an aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialSample<'a> {
    /// The call.
    pub call: CallId,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// HTTP method.
    pub method: Text<'a>,
    /// Path, without query.
    pub path: Text<'a>,
}

/// Refusals before identification, counted, so that strangers cannot fill the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals<'a> {
    /// First moment.
    #[serde(with = "micros")]
    pub from: Timestamp,
    /// First moment after.
    #[serde(with = "micros")]
    pub to: Timestamp,
    /// How many for which reason.
    pub counts: Vec<RefusalCount>,
    /// A few of them, at most [`MAX_SAMPLES`](super::MAX_SAMPLES).
    #[serde(default)]
    pub samples: Vec<RefusalSample<'a>>,
}

/// How many refusals had one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalCount {
    /// The reason.
    pub reason: Reason,
    /// How many.
    pub count: u64,
}

/// One refusal of an aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalSample<'a> {
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// HTTP method.
    pub method: Text<'a>,
    /// Path, without query.
    pub path: Text<'a>,
}
