//! The `Catalog` service.

mod changes;
mod exceptions;
mod preview;
mod replay;

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::super::actor::{ControlHandle, Done};
use super::super::authorize::{Caller, Operation};
use super::super::catalog::{Document, Wanted};
use super::super::encode;
use super::super::identity::Held;
use super::super::model::Model;
use super::super::policy;
use super::super::record::{PolicyFile, PolicyRecord};
use super::error::refused;
use super::{ApiError, authorized, receipts};
use crate::domain::identity::IdentityState;
use crate::domain::name::IdentityName;
use crate::wire::v1;

/// The service.
#[derive(Clone, Debug)]
pub(super) struct CatalogService {
    pub(super) handle: ControlHandle,
    /// Waits for gateways end when the process is about to.
    pub(super) stop: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl v1::catalog_server::Catalog for CatalogService {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::Apply, None).await?;
        let v1::ApplyRequest { objects, dry_run, prune, end_grants, reason } = request.into_inner();
        let documents =
            objects.into_iter().map(|o| Document { kind: o.kind, name: o.name, spec_json: o.spec_json }).collect();
        let wanted = Wanted { documents, prune, end_grants, reason };
        let (answer, revision, effects, waits, change) = if dry_run {
            let (done, effects, waits) = self.handle.plan_apply(&caller, &wanted).map_err(refused)?;
            (done.answer, done.revision, effects, waits, None)
        } else {
            let Done { answer, revision } = self.handle.want(&caller, wanted).await.map_err(refused)?;
            let (answer, proposal) = answer.parts();
            let effects = proposal.as_ref().map(|it| it.effects.clone()).unwrap_or_default();
            (answer, revision, effects, false, proposal.as_ref().map(changes::message).transpose()?)
        };
        let effects = effects.into_iter().map(|it| v1::Effect { who: it.who, gains: it.gains, what: it.what });
        let diffs = answer.into_iter().map(|diff| v1::ObjectDiff {
            kind: diff.kind.to_owned(),
            change: diff.change().to_owned(),
            name: diff.name,
            before_json: diff.before.map(|json| json.to_string()).unwrap_or_default(),
            after_json: diff.after.map(|json| json.to_string()).unwrap_or_default(),
        });
        let (diffs, effects) = (diffs.collect(), effects.collect());
        Ok(Response::new(v1::ApplyResponse { diffs, revision, effects, change, waits }))
    }

    async fn publish_policy(
        &self,
        request: Request<v1::PublishPolicyRequest>,
    ) -> Result<Response<v1::PolicyResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::PublishPolicy, None).await?;
        let v1::PublishPolicyRequest { files, reason, expected_version, starter } = request.into_inner();
        if starter && !files.is_empty() {
            return Err(ApiError::invalid("files, or the policy to begin with: not both").into());
        }
        let given = files.into_iter().map(|file| PolicyFile { name: file.name, text: file.text });
        let files = if starter { policy::starter() } else { given.collect() };
        let done = self.handle.publish_policy(&caller, files, expected_version, reason).await.map_err(refused)?;
        let (record, proposal) = done.answer.parts();
        let change = proposal.as_ref().map(changes::message).transpose()?;
        Ok(Response::new(v1::PolicyResponse { change, ..published(record) }))
    }

    async fn replay_policy(
        &self,
        request: Request<v1::ReplayPolicyRequest>,
    ) -> Result<Response<v1::ReplayPolicyResponse>, Status> {
        self.replay(request).await
    }

    async fn list_changes(
        &self,
        request: Request<v1::ListChangesRequest>,
    ) -> Result<Response<v1::ListChangesResponse>, Status> {
        self.list(request).await
    }

    async fn get_change(&self, request: Request<v1::GetChangeRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        self.get(request).await
    }

    async fn approve_change(
        &self,
        request: Request<v1::ApproveChangeRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        self.approve(request).await
    }

    async fn deny_change(
        &self,
        request: Request<v1::DenyChangeRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        self.deny(request).await
    }

    async fn cancel_change(
        &self,
        request: Request<v1::CancelChangeRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        self.cancel(request).await
    }

    async fn preview_policy(
        &self,
        request: Request<v1::PreviewPolicyRequest>,
    ) -> Result<Response<v1::PreviewPolicyResponse>, Status> {
        self.preview(request).await
    }

    async fn get_policy(&self, request: Request<v1::GetPolicyRequest>) -> Result<Response<v1::PolicyResponse>, Status> {
        authorized(&self.handle, &request, Operation::ReadPolicy, None).await?;
        let version = request.get_ref().version;
        let record = self.handle.policy((version != 0).then_some(version)).await.map_err(refused)?;
        Ok(Response::new(published(record)))
    }

    async fn list_objects(
        &self,
        request: Request<v1::ListObjectsRequest>,
    ) -> Result<Response<v1::ListObjectsResponse>, Status> {
        authorized(&self.handle, &request, Operation::ReadCatalog, None).await?;
        let model = self.handle.model();
        let kind = request.into_inner().kind;
        let objects = objects(&model, &kind)?;
        Ok(Response::new(v1::ListObjectsResponse { objects, revision: model.revision }))
    }

    async fn get_object(
        &self,
        request: Request<v1::GetObjectRequest>,
    ) -> Result<Response<v1::GetObjectResponse>, Status> {
        authorized(&self.handle, &request, Operation::ReadCatalog, None).await?;
        let v1::GetObjectRequest { kind, name } = request.into_inner();
        if kind.is_empty() {
            return Err(ApiError::invalid("kind: is missing").into());
        }
        let found = objects(&self.handle.model(), &kind)?.into_iter().find(|object| object.name == name);
        match found {
            Some(object) => Ok(Response::new(v1::GetObjectResponse { object: Some(object) })),
            None => {
                let name: String = name.chars().take(128).flat_map(char::escape_default).collect();
                Err(refused(super::super::plan::Refused::NotFound(format!("there is no {kind} {name}"))))
            }
        }
    }

    async fn list_exceptions(
        &self,
        request: Request<v1::ListExceptionsRequest>,
    ) -> Result<Response<v1::ListExceptionsResponse>, Status> {
        self.exceptions(request).await
    }

    async fn renew_exception(
        &self,
        request: Request<v1::RenewExceptionRequest>,
    ) -> Result<Response<v1::RenewExceptionResponse>, Status> {
        self.renew(request).await
    }

    async fn set_identity_state(
        &self,
        request: Request<v1::SetIdentityStateRequest>,
    ) -> Result<Response<v1::SetIdentityStateResponse>, Status> {
        // Whether they may depends on the state; until it is read, the stricter rule holds.
        let state = match request.get_ref().state.as_str() {
            "active" => Some(IdentityState::Active),
            "quarantined" => Some(IdentityState::Quarantined),
            "offboarded" => Some(IdentityState::Offboarded),
            _ => None,
        };
        let operation = state.map_or(Operation::ReleaseOrOffboard, Operation::of_state);
        let caller = authorized(&self.handle, &request, operation, None).await?;
        let v1::SetIdentityStateRequest { identity, reason, wait_ms, .. } = request.into_inner();
        let Some(state) = state else {
            return Err(ApiError::invalid("state: active, quarantined or offboarded").into());
        };
        let name: IdentityName = identity.parse().map_err(|error| ApiError::invalid(format!("identity: {error}")))?;
        // In a task of its own: a caller that hangs up in the middle leaves nothing half done.
        let service = self.clone();
        let done = tokio::spawn(async move { service.state_set(&caller, name, state, &reason, wait_ms).await });
        done.await.map_err(|_| Status::internal("the change of state ended by a fault"))?.map(Response::new)
    }
}

impl CatalogService {
    async fn state_set(
        &self,
        caller: &Caller,
        name: IdentityName,
        state: IdentityState,
        reason: &str,
        wait_ms: u64,
    ) -> Result<v1::SetIdentityStateResponse, Status> {
        // What a quarantine that was interrupted left ends before anything can come back.
        let before = match state {
            IdentityState::Active => Some(self.end_held(caller, &name, reason).await?),
            IdentityState::Quarantined | IdentityState::Offboarded => None,
        };
        let done = self.handle.set_state(caller, name.clone(), state, reason.to_owned()).await.map_err(refused)?;
        let (held, last) = match before {
            Some((held, _)) => (held, None),
            None => self.end_held(caller, &name, reason).await?,
        };
        // Set for the second time, it is as it was set first.
        let since = self.handle.model().identities.get(&name).map_or(done.revision, |kept| kept.revision);
        let since = since.min(done.revision);
        let last = last.unwrap_or(done.revision);
        let receipts = receipts::of_state(&self.handle, (since, last), wait_ms, &self.stop).await;
        Ok(v1::SetIdentityStateResponse {
            object: Some(encode::identity(&done.answer, since)),
            revision: last,
            revoked: u64::try_from(held.grants).unwrap_or(u64::MAX),
            cancelled: u64::try_from(held.requests).unwrap_or(u64::MAX),
            receipts,
        })
    }

    /// Ends all that an identity holds that may not act; the last revision in which anything ended.
    async fn end_held(
        &self,
        caller: &Caller,
        name: &IdentityName,
        reason: &str,
    ) -> Result<(Held, Option<u64>), Status> {
        let (mut held, mut last) = (Held::default(), None);
        loop {
            let done = self.handle.end_held(caller, name.clone(), reason.to_owned()).await.map_err(refused)?;
            if done.answer.is_empty() {
                return Ok((held, last));
            }
            last = Some(done.revision);
            held.grants += done.answer.grants;
            held.requests += done.answer.requests;
        }
    }
}

fn published(record: PolicyRecord) -> v1::PolicyResponse {
    v1::PolicyResponse {
        version: record.version,
        published_unix_us: record.published.unix_micros(),
        by: record.by.to_string(),
        reason: record.reason,
        digest: record.digest,
        files: record.files.into_iter().map(|file| v1::PolicyFile { name: file.name, text: file.text }).collect(),
        change_id: record.change.map(|id| id.bits().to_be_bytes().to_vec()).unwrap_or_default(),
        change: None,
    }
}

/// Objects of a kind, of all kinds when it is empty.
fn objects(model: &Model, kind: &str) -> Result<Vec<v1::CatalogObject>, Status> {
    let known = ["", "Identity", "Person", "Group", "Resource", "Route", "Role", "Exception"];
    if !known.contains(&kind) {
        return Err(ApiError::invalid(
            "kind: Identity, Person, Group, Resource, Route, Role, Exception, or none for all",
        )
        .into());
    }
    let mut objects = encode::gateway_catalog(model);
    objects.extend(encode::people_catalog(model));
    // A halt is no document of the catalog.
    objects.retain(|object| object.kind != "Halt");
    objects.retain(|object| kind.is_empty() || object.kind == kind);
    Ok(objects)
}
