//! What HTTP callers send who approve, or have others do so in their place.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::control::plan::MAX_REASON_CHARS;
use crate::domain::name::OwnerName;
use crate::domain::resource::Span;

/// A yes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Yes {
    /// The digest of the analysis that was seen.
    #[schemars(length(min = 1))]
    pub(in super::super) digest: String,
    /// What there is to say about it.
    #[serde(default)]
    pub(in super::super) comment: String,
    /// In whose place, by a delegation of theirs; needed where there are several.
    #[serde(default)]
    pub(in super::super) on_behalf_of: Option<OwnerName>,
}

/// A yes to a change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Agreed {
    /// The digest of what was seen.
    #[schemars(length(min = 1))]
    pub(in super::super) digest: String,
    /// What there is to say about it.
    #[serde(default)]
    pub(in super::super) comment: String,
}

/// Somebody answers in the caller's place.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct NewDelegation {
    /// Who answers.
    pub(in super::super) to: OwnerName,
    /// For how long: `8h`, `14d`; at most `30d`.
    pub(in super::super) duration: Span,
    /// Why.
    #[schemars(length(min = 1, max = MAX_REASON_CHARS))]
    pub(in super::super) reason: String,
}

/// Which delegations.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct WhichDelegations {
    /// Those that are over, too.
    #[serde(default)]
    pub(in super::super) all: bool,
}
