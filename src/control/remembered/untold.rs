//! What was ended in commits that the evidence may not tell of yet.
//!
//! The evidence tells of a commit a moment after gateways heard of it. Where the machine stops in between and an older copy
//! of the store is put back, that moment is all that is known of: what ended in it is remembered until the evidence has it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::super::record::{Change, Record, RevokedToken, Standing};
use crate::domain::halt::HaltScope;
use crate::domain::identity::IdentityState;
use crate::domain::name::{GatewayName, GrantId, IdentityName};
use crate::evidence::entry;

/// One thing that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untold {
    /// The commit.
    pub revision: u64,
    #[serde(flatten)]
    what: What,
}

/// Named as the evidence names what was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", content = "object")]
enum What {
    #[serde(rename = "grant.revoked")]
    Grant(GrantId),
    #[serde(rename = "identity.quarantined")]
    Quarantined(IdentityName),
    #[serde(rename = "identity.offboarded")]
    Offboarded(IdentityName),
    #[serde(rename = "gateway.expelled")]
    Gateway(GatewayName),
    #[serde(rename = "halt.begun")]
    Halt(HaltScope),
    #[serde(rename = "token.revoked")]
    Token(RevokedToken),
}

impl Untold {
    /// What a change ends, if it ends anything.
    pub(in super::super) fn of(change: &Change, revision: u64) -> Option<Self> {
        let Change::Put(record) = change else { return None };
        let what = match record {
            Record::Grant(it) if it.grant.revoked.is_some() => What::Grant(it.grant.id),
            Record::Identity(it) => match it.state {
                IdentityState::Active => return None,
                IdentityState::Quarantined => What::Quarantined(it.name.clone()),
                IdentityState::Offboarded => What::Offboarded(it.name.clone()),
            },
            Record::Gateway(it) if it.standing == Standing::Expelled => What::Gateway(it.name.clone()),
            Record::Halt(it) => What::Halt(it.scope.clone()),
            Record::Token(it) => What::Token(it.clone()),
            _ => return None,
        };
        Some(Self { revision, what })
    }

    /// The same as the evidence would have told it.
    pub fn told(&self) -> entry::Change<'static> {
        let (operation, object) = match &self.what {
            What::Grant(id) => ("grant.revoked", id.to_string()),
            What::Quarantined(name) => ("identity.quarantined", name.to_string()),
            What::Offboarded(name) => ("identity.offboarded", name.to_string()),
            What::Gateway(name) => ("gateway.expelled", name.to_string()),
            What::Halt(scope) => ("halt.begun", scope.to_string()),
            What::Token(token) => ("token.revoked", format!("{}/{}", token.issuer, token.jti)),
        };
        let after = match &self.what {
            What::Token(token) => serde_json::to_value(token).ok().map(Cow::Owned),
            _ => None,
        };
        let (object_kind, _) = operation.split_once('.').unwrap_or((operation, ""));
        entry::Change {
            revision: self.revision,
            actor: "portcullis".into(),
            operation: operation.into(),
            object_kind: object_kind.into(),
            object: object.into(),
            before_digest: None,
            after,
            reason: None,
        }
    }
}
