//! The documents themselves: what `portcullis … -o json` prints and the HTTP API answers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::changes::proposal;
use super::{GrantRecord, Receipt, ReceiptState, ShownGrant, present};
use crate::domain::Timestamp;
use crate::domain::change::{Effect, Proposal};
use crate::domain::name::ChangeId;
use crate::domain::request::{Request, State};
use crate::wire::{WireError, bytes128, v1};

/// How many gateways may still go on: neither have they said that it is enforced, nor are they past their authority.
pub fn outstanding(receipts: &[Receipt]) -> usize {
    receipts.iter().filter(|receipt| receipt.state == ReceiptState::Pending).count()
}

fn receipts(messages: Vec<v1::GatewayReceipt>) -> Result<Vec<Receipt>, WireError> {
    messages.into_iter().map(Receipt::try_from).collect()
}

fn json(field: &'static str, text: &str) -> Result<Option<Value>, WireError> {
    (!text.is_empty()).then(|| serde_json::from_str(text)).transpose().map_err(|error| WireError::of(field, error))
}

/// A request, and what was waited for.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RequestAnswer {
    /// The request, with the analysis as of now while it is open.
    pub request: Request,
    /// The revision of the change, or of its last one.
    pub revision: u64,
    /// Its grants, when it was waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<ShownGrant>,
    /// Whether every connected gateway has the grants; absent when it was not waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<bool>,
}

impl RequestAnswer {
    /// As of `now`, for somebody who `waited`, or did not.
    ///
    /// # Errors
    /// When the answer is not one.
    pub fn of(answer: v1::RequestResponse, waited: bool, now: Timestamp) -> Result<Self, WireError> {
        let grants = answer.grants.into_iter().map(GrantRecord::try_from).collect::<Result<Vec<_>, _>>()?;
        let request = request(&present("request", answer.request)?)?;
        let enforced = (waited && request.state == State::Granted).then_some(answer.enforced);
        let grants = grants.into_iter().map(|grant| grant.shown(now)).collect();
        Ok(Self { request, revision: answer.revision, grants, enforced })
    }
}

fn request(message: &v1::AccessRequest) -> Result<Request, WireError> {
    serde_json::from_str(&message.request_json).map_err(|error| WireError::of("request_json", error))
}

/// Requests, newest first.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RequestList {
    /// The requests.
    pub requests: Vec<Request>,
    /// Whether there are older ones that are not listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

impl TryFrom<v1::ListRequestsResponse> for RequestList {
    type Error = WireError;

    fn try_from(answer: v1::ListRequestsResponse) -> Result<Self, WireError> {
        Ok(Self { requests: answer.requests.iter().map(request).collect::<Result<_, _>>()?, more: answer.more })
    }
}

/// Grants that were made.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CreateAnswer {
    /// The grants.
    pub grants: Vec<ShownGrant>,
    /// Revision of the change.
    pub revision: u64,
    /// What the gateways said, when it was waited for.
    pub gateways: Vec<Receipt>,
}

impl CreateAnswer {
    /// As of `now`.
    ///
    /// # Errors
    /// When the answer is not one.
    pub fn of(answer: v1::CreateGrantResponse, now: Timestamp) -> Result<Self, WireError> {
        let grants = answer.grants.into_iter().map(GrantRecord::try_from).collect::<Result<Vec<_>, _>>()?;
        let grants = grants.into_iter().map(|grant| grant.shown(now)).collect();
        Ok(Self { grants, revision: answer.revision, gateways: receipts(answer.receipts)? })
    }
}

/// A page of grants, oldest first.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GrantList {
    /// The grants.
    pub grants: Vec<ShownGrant>,
    /// Where the next page begins, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

impl GrantList {
    /// As of `now`.
    ///
    /// # Errors
    /// When the answer is not one.
    pub fn of(answer: v1::ListGrantsResponse, now: Timestamp) -> Result<Self, WireError> {
        let grants = answer.grants.into_iter().map(GrantRecord::try_from).collect::<Result<Vec<_>, _>>()?;
        let token = answer.next_page_token;
        Ok(Self {
            grants: grants.into_iter().map(|grant| grant.shown(now)).collect(),
            next_page_token: (!token.is_empty()).then_some(token),
        })
    }
}

/// A grant that was revoked.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RevokeAnswer {
    /// The grant.
    pub grant: ShownGrant,
    /// Revision of the change.
    pub revision: u64,
    /// Whether no gateway may go on as before; absent when it was not waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<bool>,
    /// What each gateway did.
    pub gateways: Vec<Receipt>,
}

impl RevokeAnswer {
    /// As of `now`, for somebody who `waited`, or did not.
    ///
    /// # Errors
    /// When the answer is not one.
    pub fn of(answer: v1::RevokeGrantResponse, waited: bool, now: Timestamp) -> Result<Self, WireError> {
        let gateways = receipts(answer.receipts)?;
        Ok(Self {
            grant: GrantRecord::try_from(present("grant", answer.grant)?)?.shown(now),
            revision: answer.revision,
            enforced: waited.then(|| outstanding(&gateways) == 0),
            gateways,
        })
    }
}

/// Grants that were revoked together.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SweepAnswer {
    /// How many.
    pub revoked: u64,
    /// Revision of the last change.
    pub revision: u64,
    /// Whether no gateway may go on as before; absent when it was not waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<bool>,
    /// What each gateway did.
    pub gateways: Vec<Receipt>,
}

impl SweepAnswer {
    /// For somebody who `waited`, or did not.
    ///
    /// # Errors
    /// When the answer is not one.
    pub fn of(answer: v1::RevokeGrantsResponse, waited: bool) -> Result<Self, WireError> {
        let gateways = receipts(answer.receipts)?;
        let enforced = waited.then(|| outstanding(&gateways) == 0);
        Ok(Self { revoked: answer.revoked, revision: answer.revision, enforced, gateways })
    }
}

/// What decide would say.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CanIAnswer {
    /// Whether a call would go on.
    pub allowed: bool,
    /// The reason code when not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What can be done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The grant that allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<ShownGrant>,
    /// Revision of the picture that was asked.
    pub revision: u64,
}

impl CanIAnswer {
    /// As of `now`.
    ///
    /// # Errors
    /// When the answer is not one.
    pub fn of(answer: v1::CanIResponse, now: Timestamp) -> Result<Self, WireError> {
        let filled = |text: String| (!text.is_empty()).then_some(text);
        Ok(Self {
            allowed: answer.allowed,
            reason: filled(answer.reason),
            detail: filled(answer.detail),
            grant: answer.grant.map(GrantRecord::try_from).transpose()?.map(|grant| grant.shown(now)),
            revision: answer.revision,
        })
    }
}

/// An object of the catalog.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ObjectAnswer {
    /// `Identity`, `Person`, `Group`, `Resource`, `Route`, `Role` or `Exception`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Of an identity: `active`, `quarantined` or `offboarded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The revision in which it was last changed.
    pub revision: u64,
    /// What its document says.
    pub spec: Value,
}

impl TryFrom<v1::CatalogObject> for ObjectAnswer {
    type Error = WireError;

    fn try_from(object: v1::CatalogObject) -> Result<Self, WireError> {
        Ok(Self {
            spec: present("spec_json", json("spec_json", &object.spec_json)?)?,
            kind: object.kind,
            name: object.name,
            state: (!object.state.is_empty()).then_some(object.state),
            revision: object.revision,
        })
    }
}

/// Objects of the catalog.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ObjectList {
    /// The objects.
    pub objects: Vec<ObjectAnswer>,
    /// The revision that they are of.
    pub revision: u64,
}

impl TryFrom<v1::ListObjectsResponse> for ObjectList {
    type Error = WireError;

    fn try_from(answer: v1::ListObjectsResponse) -> Result<Self, WireError> {
        let objects = answer.objects.into_iter().map(ObjectAnswer::try_from).collect::<Result<_, _>>()?;
        Ok(Self { objects, revision: answer.revision })
    }
}

/// What applying documents changed, or would change.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ApplyAnswer {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Revision of the change.
    pub revision: u64,
    /// Each object.
    pub objects: Vec<Difference>,
    /// Of a dry run: who would gain or lose what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<Effect>,
    /// Of a dry run: whether it would wait for another person.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// What waits for another person: then nothing is changed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Proposal>,
}

/// What became of an object.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Difference {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// `created`, `changed`, `unchanged` or `removed`.
    pub change: String,
    /// What its document said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

impl TryFrom<v1::ObjectDiff> for Difference {
    type Error = WireError;

    fn try_from(diff: v1::ObjectDiff) -> Result<Self, WireError> {
        let (before, after) = (json("before_json", &diff.before_json)?, json("after_json", &diff.after_json)?);
        Ok(Self { kind: diff.kind, name: diff.name, change: diff.change, before, after })
    }
}

impl ApplyAnswer {
    /// Of a dry run, or not.
    ///
    /// # Errors
    /// When the answer is not one.
    pub fn of(answer: v1::ApplyResponse, dry_run: bool) -> Result<Self, WireError> {
        let effect = |it: v1::Effect| Effect { who: it.who, gains: it.gains, what: it.what };
        Ok(Self {
            dry_run,
            revision: answer.revision,
            objects: answer.diffs.into_iter().map(Difference::try_from).collect::<Result<_, _>>()?,
            effects: answer.effects.into_iter().map(effect).collect(),
            waits: answer.waits,
            change: answer.change.as_ref().map(proposal).transpose()?,
        })
    }
}

/// An identity's state that was changed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StateAnswer {
    /// The identity.
    pub name: String,
    /// `active`, `quarantined` or `offboarded`.
    pub state: String,
    /// The last revision in which it was done.
    pub revision: u64,
    /// What its document says.
    pub spec: Value,
    /// How many grants ended with it.
    pub revoked: u64,
    /// How many open requests were cancelled.
    pub cancelled: u64,
    /// Whether no gateway may go on as before; absent when it was not waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<bool>,
    /// What each gateway did.
    pub gateways: Vec<Receipt>,
}

impl StateAnswer {
    /// For somebody who `waited`, or did not.
    ///
    /// # Errors
    /// When the answer is not one.
    pub fn of(answer: v1::SetIdentityStateResponse, waited: bool) -> Result<Self, WireError> {
        let object = present("object", answer.object)?;
        let gateways = receipts(answer.receipts)?;
        Ok(Self {
            spec: present("spec_json", json("spec_json", &object.spec_json)?)?,
            name: object.name,
            state: object.state,
            revision: answer.revision,
            revoked: answer.revoked,
            cancelled: answer.cancelled,
            enforced: waited.then(|| outstanding(&gateways) == 0),
            gateways,
        })
    }
}

/// A version of the policy.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PolicyAnswer {
    /// Its number.
    pub version: u64,
    /// When it was put into force.
    pub published: Timestamp,
    /// By whom.
    pub by: String,
    /// Why.
    pub reason: String,
    /// SHA-256 of its files, hexadecimal.
    pub digest: String,
    /// The change that brought it, where it took another person's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_id: Option<ChangeId>,
    /// What waits for another person: then this version is not in force yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Proposal>,
    /// Its files by name.
    pub files: BTreeMap<String, String>,
}

impl TryFrom<v1::PolicyResponse> for PolicyAnswer {
    type Error = WireError;

    fn try_from(answer: v1::PolicyResponse) -> Result<Self, WireError> {
        let change_id = match answer.change_id.as_slice() {
            [] => None,
            bytes => Some(ChangeId::from_bits(bytes128("change_id", bytes)?)),
        };
        Ok(Self {
            version: answer.version,
            published: Timestamp::from_unix_micros(answer.published_unix_us),
            by: answer.by,
            reason: answer.reason,
            digest: answer.digest,
            change_id,
            change: answer.change.as_ref().map(proposal).transpose()?,
            files: answer.files.into_iter().map(|file| (file.name, file.text)).collect(),
        })
    }
}

/// Who the caller is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Me {
    /// `person`, `gateway` or `identity`.
    pub kind: String,
    /// Their name.
    pub name: String,
    /// What they may do by standing.
    pub roles: Vec<String>,
}

impl From<v1::WhoAmIResponse> for Me {
    fn from(answer: v1::WhoAmIResponse) -> Self {
        Self { kind: answer.kind, name: answer.name, roles: answer.roles }
    }
}
