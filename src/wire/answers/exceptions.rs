//! Exceptions, as `portcullis exception … -o json` prints them.

use schemars::JsonSchema;
use serde::Serialize;

use super::changes::proposal;
use crate::domain::Timestamp;
use crate::domain::change::Proposal;
use crate::domain::exception::{Exception, ExceptionSpec};
use crate::domain::name::{ChangeId, ExceptionName};
use crate::wire::{WireError, v1};

/// An exception as it is shown.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ShownException {
    /// Its name.
    pub name: ExceptionName,
    /// What its document says: the rule, the owner, the reason, the end.
    pub spec: ExceptionSpec,
    /// Whether it gives leave now.
    pub live: bool,
    /// Since when it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// For how long, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// When its end was put off last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewed: Option<Timestamp>,
    /// The change by which somebody else allowed what it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeId>,
    /// The revision that last put it.
    pub revision: u64,
}

/// Exceptions, the oldest first.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ExceptionList {
    /// They.
    pub exceptions: Vec<ShownException>,
}

impl TryFrom<v1::ListExceptionsResponse> for ExceptionList {
    type Error = WireError;

    fn try_from(answer: v1::ListExceptionsResponse) -> Result<Self, WireError> {
        let now = Timestamp::from_unix_micros(answer.now_unix_us);
        let shown = |entry: v1::ExceptionEntry| {
            let it: Exception =
                serde_json::from_str(&entry.exception_json).map_err(|error| WireError::of("exception_json", error))?;
            Ok(ShownException {
                live: it.is_live(now),
                age_seconds: it.since.map(|since| now.saturating_since(since).as_secs()),
                name: it.name,
                spec: it.spec,
                since: it.since,
                renewed: it.renewed,
                change: it.change,
                revision: entry.revision,
            })
        };
        Ok(Self { exceptions: answer.exceptions.into_iter().map(shown).collect::<Result<_, WireError>>()? })
    }
}

/// What asking for a later end came to.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RenewalAnswer {
    /// The change that waits for another person; none where no policy is in force, and it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<Proposal>,
    /// The revision.
    pub revision: u64,
}

impl TryFrom<v1::RenewExceptionResponse> for RenewalAnswer {
    type Error = WireError;

    fn try_from(answer: v1::RenewExceptionResponse) -> Result<Self, WireError> {
        Ok(Self { change: answer.change.as_ref().map(proposal).transpose()?, revision: answer.revision })
    }
}
