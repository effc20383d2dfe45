//! What HTTP callers send. Names and times are parsed here, so that nothing further in sees one that is not good.

mod approvals;
mod evidence;

use std::collections::{BTreeMap, HashMap};

pub(super) use approvals::{Agreed, NewDelegation, WhichDelegations, Yes};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::super::super::plan::MAX_REASON_CHARS;
use super::problem::Problem;
use crate::domain::Timestamp;
use crate::domain::grant::{GrantState, Limits};
use crate::domain::name::{ActionName, IdentityName, ParameterName, ResourceName, RoleName};
use crate::domain::resource::Span;
use crate::domain::ticket::Ticket;
use crate::settings::catalog::Kind;
use crate::wire::v1;
pub(super) use evidence::{EvidenceQuestion, EvidenceTail};

pub(super) mod emergency;

/// Nothing at all.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Nothing;

/// A duration as messages carry it; 0 where none is said.
pub(super) fn millis(span: Option<Span>) -> u64 {
    span.map_or(0, |span| u64::try_from(span.duration().as_millis()).unwrap_or(u64::MAX))
}

fn text(name: Option<impl Into<String>>) -> String {
    name.map(Into::into).unwrap_or_default()
}

/// A request for access, or a grant made by hand.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAccess {
    /// Whose access it would be.
    identity: IdentityName,
    /// Everything that this role gives; or a resource with actions.
    #[serde(default)]
    role: Option<RoleName>,
    /// The resource that it would open.
    #[serde(default)]
    resource: Option<ResourceName>,
    /// What would be done to the resource.
    #[serde(default)]
    actions: Vec<ActionName>,
    /// When it begins; when it is granted if not given.
    #[serde(default)]
    starts: Option<Timestamp>,
    /// For how long: `15m`, `8h`.
    duration: Span,
    /// What narrows it.
    #[serde(default)]
    limits: Limits,
    /// Why.
    #[schemars(length(min = 1, max = MAX_REASON_CHARS))]
    reason: String,
    /// The ticket that it belongs to.
    #[serde(default)]
    ticket: Option<String>,
    /// What it ends with besides the ticket, `SOURCE:KEY` each: a job, a deployment, a change.
    #[serde(default)]
    until: Vec<Ticket>,
    /// Answer when it is settled and every connected gateway has it, or after this time.
    #[serde(default)]
    pub(super) wait: Option<Span>,
}

impl NewAccess {
    pub(super) fn request(self, key: Option<String>) -> v1::CreateRequestRequest {
        v1::CreateRequestRequest {
            identity: self.identity.into(),
            role: text(self.role),
            resource: text(self.resource),
            actions: self.actions.into_iter().map(String::from).collect(),
            // 0 is no time: who says the beginning of all time is told that it is over.
            starts_unix_us: self.starts.map_or(0, |starts| match starts.unix_micros() {
                0 => 1,
                micros => micros,
            }),
            duration_ms: millis(Some(self.duration)),
            limits: (!self.limits.is_empty()).then(|| (&self.limits).into()),
            reason: self.reason,
            ticket: self.ticket.unwrap_or_default(),
            until: self.until.iter().map(ToString::to_string).collect(),
            key: key.unwrap_or_default(),
            wait_ms: millis(self.wait),
        }
    }

    pub(super) fn grant(self) -> v1::CreateGrantRequest {
        let asked = self.request(None);
        v1::CreateGrantRequest {
            identity: asked.identity,
            role: asked.role,
            resource: asked.resource,
            actions: asked.actions,
            starts_unix_us: asked.starts_unix_us,
            duration_ms: asked.duration_ms,
            limits: asked.limits,
            reason: asked.reason,
            ticket: asked.ticket,
            wait_ms: asked.wait_ms,
        }
    }
}

/// Which requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichRequests {
    /// Settled ones too, the latest 1,000.
    #[serde(default)]
    pub(super) all: bool,
}

/// Which changes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichChanges {
    /// Settled ones too.
    #[serde(default)]
    pub(super) all: bool,
}

/// How long to wait.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Waiting {
    /// Answer when it is settled, or after this time.
    #[serde(default)]
    pub(super) wait: Option<Span>,
}

/// Why.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    /// Why, in a sentence.
    #[schemars(length(min = 1, max = MAX_REASON_CHARS))]
    pub(super) reason: String,
}

/// Why, and how long to wait for gateways.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhyAndWait {
    /// Why, in a sentence.
    #[schemars(length(min = 1, max = MAX_REASON_CHARS))]
    pub(super) reason: String,
    /// Answer when every connected gateway enforces it, or after this time.
    #[serde(default)]
    pub(super) wait: Option<Span>,
}

/// Which grants.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichGrants {
    /// Of this identity.
    #[serde(default)]
    identity: Option<IdentityName>,
    /// On this resource.
    #[serde(default)]
    resource: Option<ResourceName>,
    /// In this state; those scheduled or active if not given.
    #[serde(default)]
    state: Option<GrantState>,
    /// In every state.
    #[serde(default)]
    all: bool,
    /// Grants on a page: 100 if not given, at most 1,000.
    #[serde(default)]
    page_size: Option<u32>,
    /// Where the page begins: what the one before said.
    #[serde(default)]
    page_token: Option<String>,
}

impl WhichGrants {
    pub(super) fn request(self) -> Result<v1::ListGrantsRequest, Problem> {
        let every = [GrantState::Scheduled, GrantState::Active, GrantState::Expired, GrantState::Revoked];
        let states: Vec<GrantState> = match (self.all, self.state) {
            (true, None) => every.to_vec(),
            (false, state) => state.into_iter().collect(),
            (true, Some(_)) => return Err(Problem::invalid("all, or a state: not both")),
        };
        Ok(v1::ListGrantsRequest {
            identity: text(self.identity),
            resource: text(self.resource),
            states: states.into_iter().map(|state| super::super::access::state_name(state).to_owned()).collect(),
            page_size: self.page_size.unwrap_or_default(),
            page_token: self.page_token.unwrap_or_default(),
        })
    }
}

/// Which grants to end, and why.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Sweep {
    /// Every one of this identity.
    #[serde(default)]
    identity: Option<IdentityName>,
    /// Every one on this resource.
    #[serde(default)]
    resource: Option<ResourceName>,
    /// Every one that there is; then the two above are not given.
    #[serde(default)]
    all: bool,
    /// Why, in a sentence.
    #[schemars(length(min = 1, max = MAX_REASON_CHARS))]
    reason: String,
    /// Answer when every connected gateway enforces it, or after this time.
    #[serde(default)]
    pub(super) wait: Option<Span>,
}

impl From<Sweep> for v1::RevokeGrantsRequest {
    fn from(sweep: Sweep) -> Self {
        Self {
            identity: text(sweep.identity),
            resource: text(sweep.resource),
            all: sweep.all,
            reason: sweep.reason,
            wait_ms: millis(sweep.wait),
        }
    }
}

/// A call that nobody makes yet.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    /// Who would call.
    identity: IdentityName,
    /// What they would do.
    action: ActionName,
    /// To what.
    resource: ResourceName,
    /// Parameters of the call.
    #[serde(default)]
    parameters: BTreeMap<ParameterName, String>,
}

impl From<Question> for v1::CanIRequest {
    fn from(question: Question) -> Self {
        let parameters: HashMap<String, String> =
            question.parameters.into_iter().map(|(name, value)| (name.into(), value)).collect();
        Self {
            identity: question.identity.into(),
            action: question.action.into(),
            resource: question.resource.into(),
            parameters,
        }
    }
}

/// Which objects.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichObjects {
    /// Of this kind; of all if not given.
    #[serde(default)]
    kind: Option<Kind>,
}

impl From<WhichObjects> for v1::ListObjectsRequest {
    fn from(which: WhichObjects) -> Self {
        Self { kind: which.kind.map(Kind::as_str).unwrap_or_default().to_owned() }
    }
}

/// A document of the catalog.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewObject {
    kind: Kind,
    /// Its name.
    name: String,
    /// What it says: see `portcullis config schema`.
    spec: Value,
}

/// Documents to apply, all or none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Documents {
    objects: Vec<NewObject>,
    /// Change nothing: say what would change, and who would gain or lose what.
    #[serde(default)]
    pub(super) dry_run: bool,
    /// Remove what no document describes.
    #[serde(default)]
    prune: bool,
    /// End live grants of what is removed; without it, nothing is removed of which grants are live.
    #[serde(default)]
    end_grants: bool,
    /// Why.
    #[serde(default)]
    #[schemars(length(max = MAX_REASON_CHARS))]
    reason: String,
}

impl From<Documents> for v1::ApplyRequest {
    fn from(documents: Documents) -> Self {
        let object = |it: NewObject| v1::CatalogObject {
            kind: it.kind.as_str().to_owned(),
            name: it.name,
            spec_json: it.spec.to_string(),
            ..Default::default()
        };
        let Documents { objects, dry_run, prune, end_grants, reason } = documents;
        Self { objects: objects.into_iter().map(object).collect(), dry_run, prune, end_grants, reason }
    }
}

/// What an identity's state is to be.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewState {
    /// `active`, `quarantined` or `offboarded`.
    state: crate::domain::identity::IdentityState,
    /// Why, in a sentence.
    #[schemars(length(min = 1, max = MAX_REASON_CHARS))]
    reason: String,
    /// Answer when every connected gateway enforces it, or after this time.
    #[serde(default)]
    pub(super) wait: Option<Span>,
}

impl NewState {
    pub(super) fn of(self, identity: IdentityName) -> v1::SetIdentityStateRequest {
        v1::SetIdentityStateRequest {
            identity: identity.into(),
            state: super::super::super::encode::state(self.state).to_owned(),
            reason: self.reason,
            wait_ms: millis(self.wait),
        }
    }
}

/// Which version.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichPolicy {
    /// The version; the one that is in force if not given.
    #[serde(default)]
    pub(super) version: Option<u64>,
}

/// A policy to put into force.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPolicy {
    /// Rules (`*.cedar`) and cases (`*.yaml`) by name.
    #[serde(default)]
    files: BTreeMap<String, String>,
    /// In their place the policy to begin with.
    #[serde(default)]
    starter: bool,
    /// Why, in a sentence.
    #[schemars(length(min = 1, max = MAX_REASON_CHARS))]
    reason: String,
    /// Refuse it when another version than this is in force; 0: when any is.
    #[serde(default)]
    expected_version: Option<u64>,
}

impl From<NewPolicy> for v1::PublishPolicyRequest {
    fn from(policy: NewPolicy) -> Self {
        Self {
            files: policy.files.into_iter().map(|(name, text)| v1::PolicyFile { name, text }).collect(),
            reason: policy.reason,
            expected_version: policy.expected_version,
            starter: policy.starter,
        }
    }
}

/// A policy to ask about what was asked before.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Candidate {
    /// Rules (`*.cedar`) and cases (`*.yaml`) by name.
    files: BTreeMap<String, String>,
    /// Requests and grants that were made since; as many as are kept if not given.
    #[serde(default)]
    since: Option<Timestamp>,
}

impl From<Candidate> for v1::ReplayPolicyRequest {
    fn from(it: Candidate) -> Self {
        Self {
            files: it.files.into_iter().map(|(name, text)| v1::ReplayedFile { name, text }).collect(),
            since_unix_us: it.since.map_or(0, Timestamp::unix_micros),
            calls: Vec::new(),
        }
    }
}

/// A token that is to be dead.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeadToken {
    /// Its `iss`.
    #[schemars(length(min = 1, max = 512))]
    issuer: String,
    /// Its `jti`.
    #[schemars(length(min = 1, max = 256))]
    jti: String,
    /// When it would have ended.
    expires: Timestamp,
}

impl From<DeadToken> for v1::RevokeTokenRequest {
    fn from(token: DeadToken) -> Self {
        Self { issuer: token.issuer, jti: token.jti, expires_unix_us: token.expires.unix_micros() }
    }
}
