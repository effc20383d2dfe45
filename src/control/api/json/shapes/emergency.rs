//! What HTTP callers send about break-glass, and about leave from rules.

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::super::super::plan::MAX_REASON_CHARS;
use super::{millis, text};
use crate::domain::Timestamp;
use crate::domain::breakglass::ReviewVerdict;
use crate::domain::grant::Limits;
use crate::domain::name::{ActionName, IdentityName, ResourceName, RoleName};
use crate::domain::resource::Span;
use crate::wire::v1;

/// Which break-glass.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct WhichBreakGlass {
    /// Reviewed ones too.
    #[serde(default)]
    pub(in super::super) all: bool,
}

/// What a review comes to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Judgement {
    /// What it comes to.
    pub(in super::super) verdict: ReviewVerdict,
    /// What there is to say about it.
    #[schemars(length(min = 1, max = MAX_REASON_CHARS))]
    pub(in super::super) comment: String,
}

/// Access in an emergency.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Emergency {
    /// Whose access it is.
    identity: IdentityName,
    /// Everything that this role gives; or a resource with actions.
    #[serde(default)]
    role: Option<RoleName>,
    /// The resource that it opens.
    #[serde(default)]
    resource: Option<ResourceName>,
    /// What is done to the resource.
    #[serde(default)]
    actions: Vec<ActionName>,
    /// For how long: `5m`. As long as it may be if not given.
    #[serde(default)]
    duration: Option<Span>,
    /// What narrows it.
    #[serde(default)]
    limits: Limits,
    /// What the emergency is.
    #[schemars(length(min = 1, max = MAX_REASON_CHARS))]
    reason: String,
    /// The ticket that it belongs to.
    #[serde(default)]
    ticket: Option<String>,
    /// Answer when every connected gateway has it, or after this time.
    #[serde(default)]
    pub(in super::super) wait: Option<Span>,
}

impl From<Emergency> for v1::OpenBreakGlassRequest {
    fn from(it: Emergency) -> Self {
        Self {
            identity: it.identity.into(),
            role: text(it.role),
            resource: text(it.resource),
            actions: it.actions.into_iter().map(String::from).collect(),
            duration_ms: millis(it.duration),
            limits: (!it.limits.is_empty()).then(|| (&it.limits).into()),
            reason: it.reason,
            ticket: it.ticket.unwrap_or_default(),
            wait_ms: millis(it.wait),
        }
    }
}

/// Which exceptions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct WhichExceptions {
    /// Those that are over too.
    #[serde(default)]
    pub(in super::super) all: bool,
}

/// A later end of an exception.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Renewal {
    /// The new end.
    pub(in super::super) expires: Timestamp,
    /// Why it is needed for longer.
    #[schemars(length(min = 1, max = MAX_REASON_CHARS))]
    pub(in super::super) reason: String,
}
