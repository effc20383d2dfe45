//! What the control plane answers, as values that scripts can rely on.
//!
//! These are the JSON documents of the command line and of the HTTP API. They know the domain and the generated messages,
//! not how they are shown.

mod breakglass;
mod changes;
mod delegations;
mod documents;
mod evidence;
mod exceptions;
mod followed;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{WireError, bytes128, v1};
use crate::domain::Timestamp;
pub use crate::domain::change::Effect;
use crate::domain::grant::{Grant, GrantState};
pub use breakglass::{BreakGlassAnswer, BreakGlassList, ShownBreakGlass};
pub use changes::{ChangeAnswer, ChangeList, ReplayAnswer, ReplayRow};
pub use delegations::{DelegationAnswer, DelegationList};
pub use evidence::{EvidenceAnswer, GatewayRecord, GatewayStanding};
pub use exceptions::{ExceptionList, RenewalAnswer, ShownException};
pub use followed::Followed;

use crate::domain::name::{CallId, GrantId};
pub use documents::{
    ApplyAnswer, CanIAnswer, CreateAnswer, Difference, GrantList, Me, ObjectAnswer, ObjectList, PolicyAnswer,
    RequestAnswer, RequestList, RevokeAnswer, StateAnswer, SweepAnswer, outstanding,
};

/// A grant and the revision in which it was last changed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GrantRecord {
    /// The grant.
    #[serde(flatten)]
    pub grant: Grant,
    /// Revision of its last change.
    pub revision: u64,
    /// Of a counted grant: uses that were given out to gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses_given: Option<u64>,
    /// Of one that is asked for by itself and has not ended: when a call was last made under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_use: Option<LastUse>,
}

/// When a call was last made under a grant, as far as the gateways say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LastUse {
    /// When; absent where none is known of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Whether a call runs.
    pub running: bool,
    /// Until when there may have been calls that nobody can tell of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_until: Option<Timestamp>,
    /// By gateway: why it did not say.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub missing: BTreeMap<String, String>,
}

impl TryFrom<v1::GetGrantResponse> for GrantRecord {
    type Error = WireError;
    fn try_from(answer: v1::GetGrantResponse) -> Result<Self, WireError> {
        let at = |micros: i64| (micros != 0).then(|| Timestamp::from_unix_micros(micros));
        let last_use = answer.last_use.map(|it| LastUse {
            at: at(it.at_unix_us),
            running: it.running,
            unknown_until: at(it.unknown_until_unix_us),
            missing: it.missing.into_iter().collect(),
        });
        Ok(Self { last_use, ..Self::try_from(present("grant", answer.grant)?)? })
    }
}

impl GrantRecord {
    /// With its state at `now`, as it is shown.
    pub fn shown(self, now: Timestamp) -> ShownGrant {
        ShownGrant { state: self.grant.state(now), record: self }
    }
}

/// A grant as it is shown.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ShownGrant {
    /// The grant.
    #[serde(flatten)]
    pub record: GrantRecord,
    /// Where it stands now.
    pub state: GrantState,
}

/// What one gateway did for a revision.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Receipt {
    /// Which gateway.
    pub gateway: String,
    /// Whether it is enforced there.
    pub state: ReceiptState,
    /// From the message's arrival there to the last call gone, in microseconds.
    pub took_us: u64,
    /// Calls that were cut.
    pub cut: Vec<Cut>,
    /// Cut calls that are not listed: the gateway's evidence tells them all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unlisted: u64,
    /// Tokens of the grants that upstreams still hold: they take no revocation, and end by themselves. Those that an earlier
    /// process of the gateway minted, up to five minutes before, are not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub residual: Vec<Residual>,
    /// Grants of which they hold tokens, and that are not listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub residual_unlisted: u64,
    /// Not enforced: the latest moment at which it can still allow calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stops_by: Option<Timestamp>,
    /// Whether the control plane hears it.
    pub connected: bool,
    /// Its own signed word that it is enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<Statement>,
}

/// A gateway's signed word: an encoded `portcullis.v1.Applied`, its signature, and the key that verifies it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Statement {
    /// What was signed, base64.
    pub payload: String,
    /// Ed25519, base64.
    pub signature: String,
    /// A C2SP verifier key: that of the gateway's evidence log.
    pub key: String,
}

impl Statement {
    fn of(signed: &v1::Signed, key: String) -> Self {
        use base64::Engine as _;
        let text = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        Self { payload: text(&signed.payload), signature: text(&signed.signature), key }
    }
}

const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Whether a gateway enforces a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptState {
    /// It said so.
    Enforced,
    /// Not heard in the time given: it may allow calls until `stops_by`.
    Pending,
    /// Not heard, and by now its authority is too old to allow any.
    Lapsed,
    /// It was never told of it: its scope is another one.
    NotConcerned,
}

/// A call that was cut.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Cut {
    /// The call.
    pub call: CallId,
    /// The reason code it was cut with.
    pub reason: String,
    /// Position of its intent in the gateway's evidence.
    pub evidence: u64,
    /// Bytes of the response that had passed.
    pub response_bytes: u64,
    /// Those of them that passed after the revision was in force on the gateway.
    pub late_bytes: u64,
}

/// Tokens that upstreams hold of one grant.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Residual {
    /// The grant.
    pub grant: GrantId,
    /// How many.
    pub tokens: u64,
    /// When the last of them ends.
    pub until: Timestamp,
}

/// Grants that were made.
#[derive(Clone, Debug)]
pub struct Created {
    /// The grants.
    pub grants: Vec<GrantRecord>,
    /// Revision of the change.
    pub revision: u64,
    /// What the gateways said, when it was waited for.
    pub gateways: Vec<Receipt>,
}

/// A grant that was revoked.
#[derive(Clone, Debug)]
pub struct Revoked {
    /// The grant.
    pub grant: GrantRecord,
    /// Revision of the change.
    pub revision: u64,
    /// What the gateways said, when it was waited for.
    pub gateways: Vec<Receipt>,
}

/// One change of a grant.
#[derive(Clone, Debug)]
pub struct GrantChange {
    /// Revision of the change.
    pub revision: u64,
    /// created, revoked or expired
    pub event: String,
    /// The grant after it.
    pub grant: GrantRecord,
}

/// What decide would say.
#[derive(Clone, Debug)]
pub struct CanI {
    /// Whether a call would go on.
    pub allowed: bool,
    /// The reason code when not.
    pub reason: Option<String>,
    /// What can be done about it.
    pub detail: Option<String>,
    /// The grant that allows it.
    pub grant: Option<GrantRecord>,
    /// Revision of the picture that was asked.
    pub revision: u64,
}

/// A field that an answer must have.
pub(crate) fn present<T>(field: &'static str, value: Option<T>) -> Result<T, WireError> {
    value.ok_or_else(|| WireError::of(field, "is missing"))
}

fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl TryFrom<v1::Grant> for GrantRecord {
    type Error = WireError;
    fn try_from(message: v1::Grant) -> Result<Self, WireError> {
        let (revision, uses_given) = (message.revision, message.uses_given);
        Ok(Self { revision, uses_given, last_use: None, grant: message.try_into()? })
    }
}

impl TryFrom<v1::GatewayReceipt> for Receipt {
    type Error = WireError;
    fn try_from(message: v1::GatewayReceipt) -> Result<Self, WireError> {
        use v1::gateway_receipt::State;
        let state = match message.state() {
            State::Enforced => ReceiptState::Enforced,
            // An unknown word is no promise.
            State::Pending | State::Unspecified => ReceiptState::Pending,
            State::Lapsed => ReceiptState::Lapsed,
            State::NotConcerned => ReceiptState::NotConcerned,
        };
        let cut = message.cut.into_iter().map(Cut::try_from).collect::<Result<_, _>>()?;
        let stops_by = (message.stops_by_unix_us != 0).then(|| Timestamp::from_unix_micros(message.stops_by_unix_us));
        Ok(Self {
            gateway: message.gateway,
            state,
            took_us: message.took_us,
            cut,
            unlisted: message.unlisted,
            residual: message.residual.into_iter().map(Residual::try_from).collect::<Result<_, _>>()?,
            residual_unlisted: message.residual_unlisted,
            stops_by,
            connected: message.connected,
            statement: message.statement.map(|signed| Statement::of(&signed, message.statement_key)),
        })
    }
}

impl TryFrom<v1::CutCallInfo> for Cut {
    type Error = WireError;
    fn try_from(message: v1::CutCallInfo) -> Result<Self, WireError> {
        Ok(Self {
            call: CallId::from_bits(bytes128("call_id", &message.call_id)?),
            reason: message.reason,
            evidence: message.intent_seq,
            response_bytes: message.response_bytes,
            late_bytes: message.late_bytes,
        })
    }
}

impl TryFrom<v1::ResidualTokens> for Residual {
    type Error = WireError;
    fn try_from(message: v1::ResidualTokens) -> Result<Self, WireError> {
        let until = Timestamp::from_unix_micros(message.until_unix_us);
        Ok(Self { grant: super::grant_id(&message.grant_id)?, tokens: message.tokens, until })
    }
}

fn receipts(messages: Vec<v1::GatewayReceipt>) -> Result<Vec<Receipt>, WireError> {
    messages.into_iter().map(Receipt::try_from).collect()
}

impl TryFrom<v1::CreateGrantResponse> for Created {
    type Error = WireError;
    fn try_from(message: v1::CreateGrantResponse) -> Result<Self, WireError> {
        Ok(Self {
            grants: message.grants.into_iter().map(GrantRecord::try_from).collect::<Result<_, _>>()?,
            revision: message.revision,
            gateways: receipts(message.receipts)?,
        })
    }
}

impl TryFrom<v1::RevokeGrantResponse> for Revoked {
    type Error = WireError;
    fn try_from(message: v1::RevokeGrantResponse) -> Result<Self, WireError> {
        Ok(Self {
            grant: present("grant", message.grant)?.try_into()?,
            revision: message.revision,
            gateways: receipts(message.receipts)?,
        })
    }
}

impl TryFrom<v1::GrantEvent> for GrantChange {
    type Error = WireError;
    fn try_from(message: v1::GrantEvent) -> Result<Self, WireError> {
        Ok(Self {
            revision: message.revision,
            event: message.event,
            grant: present("grant", message.grant)?.try_into()?,
        })
    }
}

impl TryFrom<v1::CanIResponse> for CanI {
    type Error = WireError;
    fn try_from(message: v1::CanIResponse) -> Result<Self, WireError> {
        Ok(Self {
            allowed: message.allowed,
            reason: filled(message.reason),
            detail: filled(message.detail),
            grant: message.grant.map(GrantRecord::try_from).transpose()?,
            revision: message.revision,
        })
    }
}
