//! What was ended in commits that the evidence may not tell of yet.
//!
//! The evidence tells of a commit a moment after gateways heard of it. Where the machine stops in between and an older copy
//! of the store is put back, that moment is all that is known of: what ended in it is remembered until the evidence has it.

use serde::{Deserialize, Serialize};

use super::super::outbox::Told;
use super::super::plan::ChangeEvent;
use crate::domain::Timestamp;

/// What ends something, as the evidence names it; the same that a restored store is made to end again.
const ENDS: [&str; 6] =
    ["grant.revoked", "identity.quarantined", "identity.offboarded", "gateway.expelled", "halt.begun", "token.revoked"];
/// Of a token its record says which it is.
const TOKEN: &str = "token.revoked";

/// One thing that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Untold {
    /// The commit.
    pub(super) revision: u64,
    event: ChangeEvent,
}

impl Untold {
    /// What is to be remembered of an event; nothing of one that ends nothing.
    pub(in super::super) fn of(event: &ChangeEvent, revision: u64) -> Option<Self> {
        let (operation, object) = (event.operation.clone(), event.object.clone());
        let after = event.after.clone().filter(|_| operation == TOKEN);
        let event = ChangeEvent { operation, object, before: None, after, reason: None };
        ENDS.contains(&event.operation.as_str()).then_some(Self { revision, event })
    }

    /// The same, of the commit that it came with.
    pub(in super::super) fn at(&self, revision: u64) -> Self {
        Self { revision, event: self.event.clone() }
    }

    /// As the evidence would have been told.
    pub fn told(&self) -> Told {
        Told {
            revision: self.revision,
            at: Timestamp::UNIX_EPOCH,
            actor: "portcullis".to_owned(),
            event: self.event.clone(),
        }
    }
}
