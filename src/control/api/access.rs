//! The `Access` service.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status};

use super::super::actor::ControlHandle;
use super::super::authorize::{Caller, Operation};
use super::super::encode;
use super::super::grant::{Access as Asked, GrantRequest, Selection};
use super::super::record::RevokedToken;
use super::super::tickets::Desk;
use super::error::{malformed, refused};
use super::{ApiError, authorized, caller_of, receipts};
use crate::domain::Timestamp;
use crate::domain::grant::{Grant, GrantState};
use crate::domain::name::{GrantId, IdentityName, OwnerName, ResourceName};
use crate::settings::control::BreakGlassSettings;
use crate::wire::{self, v1};
use fields::{limits, parsed};

pub(super) use question::{KnownCredential, Presented, Question};

mod breakglass;
mod delegations;
mod fields;
mod list;
mod question;
mod requests;
mod watching;

/// Watches at the same time: each is a reader of the store's history.
const MAX_WATCHES: usize = 64;

/// The service.
#[derive(Debug)]
pub(super) struct AccessService {
    handle: ControlHandle,
    desk: Desk,
    break_glass: BreakGlassSettings,
    watches: std::sync::Arc<Semaphore>,
    /// Watches end when the process is about to, waits for gateways too.
    stop: watch::Receiver<bool>,
}

impl AccessService {
    pub(super) fn new(
        handle: ControlHandle,
        desk: Desk,
        break_glass: BreakGlassSettings,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self { handle, desk, break_glass, watches: std::sync::Arc::new(Semaphore::new(MAX_WATCHES)), stop }
    }

    /// Tells when the process is about to end.
    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.clone()
    }

    async fn receipts(&self, cuts_from: u64, revision: u64, grants: &[Grant], wait_ms: u64) -> Vec<v1::GatewayReceipt> {
        receipts::of_grants(&self.handle, (cuts_from, revision), grants, wait_ms, &self.stop).await
    }
}

#[tonic::async_trait]
impl v1::access_server::Access for AccessService {
    type WatchGrantsStream = Pin<Box<dyn Stream<Item = Result<v1::GrantEvent, Status>> + Send>>;

    async fn create_grant(
        &self,
        request: Request<v1::CreateGrantRequest>,
    ) -> Result<Response<v1::CreateGrantResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::CreateGrant, None).await?;
        let message = request.into_inner();
        let wait_ms = message.wait_ms;
        let asked = grant_request(message)?;
        let done = self.handle.create_grants(&caller, asked).await;
        let done = self.told(&caller, Operation::CreateGrant, done).await?;
        let receipts = self.receipts(done.revision, done.revision, &done.answer, wait_ms).await;
        let grants = done.answer.iter().map(|grant| encode::grant(grant, done.revision)).collect();
        Ok(Response::new(v1::CreateGrantResponse { grants, revision: done.revision, receipts }))
    }

    async fn list_grants(
        &self,
        request: Request<v1::ListGrantsRequest>,
    ) -> Result<Response<v1::ListGrantsResponse>, Status> {
        authorized(&self.handle, &request, Operation::ReadGrants, None).await?;
        list::list(&self.handle, request.into_inner()).await.map(Response::new)
    }

    async fn get_grant(&self, request: Request<v1::GetGrantRequest>) -> Result<Response<v1::GetGrantResponse>, Status> {
        authorized(&self.handle, &request, Operation::ReadGrants, None).await?;
        let id = wire::grant_id(&request.get_ref().id).map_err(malformed)?;
        let (record, revision) = self.handle.grant(id).await.map_err(refused)?;
        let state = state_name(record.grant.state(self.handle.shared().clock.now())).to_owned();
        // What was given out of one that has ended is counted no more: the gateways' evidence tells what was spent.
        let uses_given = (record.grant.limits.is_counted() && !record.has_ended()).then(|| {
            let model = self.handle.model();
            model.ledgers.get(&id).map_or(0, |kept| kept.value.given)
        });
        let grant = v1::Grant { uses_given, ..encode::grant(&record.grant, revision) };
        let last_use = match record.has_ended() {
            true => None,
            false => Some(super::disuse::last_use(self.handle.shared(), &record.grant).await),
        };
        let last_use = last_use.map(|it| v1::LastUse {
            at_unix_us: it.at.map_or(0, Timestamp::unix_micros),
            running: it.running,
            unknown_until_unix_us: it.unknown_until.map_or(0, Timestamp::unix_micros),
            missing: it.missing.into_iter().map(|(gateway, why)| (gateway.to_string(), why)).collect(),
        });
        Ok(Response::new(v1::GetGrantResponse { grant: Some(grant), state, last_use }))
    }

    async fn revoke_grant(
        &self,
        request: Request<v1::RevokeGrantRequest>,
    ) -> Result<Response<v1::RevokeGrantResponse>, Status> {
        let id = wire::grant_id(&request.get_ref().id);
        // Who may not revoke anything learns nothing about what is there: the owner is looked up first, and without one
        // the rule for what nobody owns holds.
        let owner = match &id {
            Ok(id) => self.owner_of(*id, caller_of(&request).as_ref()).await,
            Err(_) => None,
        };
        let caller = authorized(&self.handle, &request, Operation::RevokeGrant, owner.as_ref()).await?;
        let v1::RevokeGrantRequest { reason, wait_ms, .. } = request.into_inner();
        let done = self.handle.revoke_grant(&caller, id.map_err(malformed)?, reason).await.map_err(refused)?;
        let receipts = self.receipts(done.revision, done.revision, std::slice::from_ref(&done.answer), wait_ms).await;
        let grant = Some(encode::grant(&done.answer, done.revision));
        Ok(Response::new(v1::RevokeGrantResponse { grant, revision: done.revision, receipts }))
    }

    async fn revoke_grants(
        &self,
        request: Request<v1::RevokeGrantsRequest>,
    ) -> Result<Response<v1::RevokeGrantsResponse>, Status> {
        // Of one resource or identity its owner may end all; of everything, those who may end any.
        let asked = request.get_ref();
        let names = (asked.identity.parse().ok(), asked.resource.parse().ok());
        let owner = self.answers_for(names, caller_of(&request).as_ref());
        let caller = authorized(&self.handle, &request, Operation::RevokeGrant, owner.as_ref()).await?;
        let v1::RevokeGrantsRequest { identity, resource, all, reason, wait_ms } = request.into_inner();
        if all != (identity.is_empty() && resource.is_empty()) {
            return Err(ApiError::invalid("either all, or an identity, a resource or both").into());
        }
        let fault = |field: &str, error: &dyn std::fmt::Display| ApiError::invalid(format!("{field}: {error}"));
        let named = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let identity = named(&identity).map(|name| name.parse().map_err(|e| fault("identity", &e))).transpose()?;
        let resource = named(&resource).map(|name| name.parse().map_err(|e| fault("resource", &e))).transpose()?;
        let selection = Selection { identity, resource };
        let (mut grants, mut revision, mut first) = (Vec::new(), self.handle.model().revision, None);
        loop {
            let done =
                self.handle.revoke_selected(&caller, selection.clone(), reason.clone()).await.map_err(refused)?;
            if done.answer.is_empty() {
                break;
            }
            revision = done.revision;
            first.get_or_insert(revision);
            grants.extend(done.answer);
        }
        let receipts = self.receipts(first.unwrap_or(revision), revision, &grants, wait_ms).await;
        let revoked = u64::try_from(grants.len()).unwrap_or(u64::MAX);
        Ok(Response::new(v1::RevokeGrantsResponse { revoked, revision, receipts }))
    }

    async fn watch_grants(
        &self,
        request: Request<v1::WatchGrantsRequest>,
    ) -> Result<Response<Self::WatchGrantsStream>, Status> {
        authorized(&self.handle, &request, Operation::WatchGrants, None).await?;
        let Ok(place) = self.watches.clone().try_acquire_owned() else {
            return Err(ApiError::limit(format!("{MAX_WATCHES} watches are open already")).into());
        };
        watching::watch(&self.handle, request.get_ref().from_revision, place, self.stop.clone())
            .await
            .map(Response::new)
    }

    async fn can_i(&self, request: Request<v1::CanIRequest>) -> Result<Response<v1::CanIResponse>, Status> {
        authorized(&self.handle, &request, Operation::CanI, None).await?;
        let now = self.handle.shared().clock.now();
        question::answer(&self.handle.model(), request.into_inner(), now).map(Response::new)
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::RevokeToken, None).await?;
        let v1::RevokeTokenRequest { issuer, jti, expires_unix_us } = request.into_inner();
        let token = RevokedToken { issuer, jti, expires: Timestamp::from_unix_micros(expires_unix_us), by: None };
        let done = self.handle.revoke_token(&caller, token).await.map_err(refused)?;
        Ok(Response::new(v1::RevokeTokenResponse { revision: done.revision }))
    }

    async fn create_request(
        &self,
        request: Request<v1::CreateRequestRequest>,
    ) -> Result<Response<v1::RequestResponse>, Status> {
        self.create(request).await
    }

    async fn list_requests(
        &self,
        request: Request<v1::ListRequestsRequest>,
    ) -> Result<Response<v1::ListRequestsResponse>, Status> {
        self.list(request).await
    }

    async fn get_request(
        &self,
        request: Request<v1::GetRequestRequest>,
    ) -> Result<Response<v1::RequestResponse>, Status> {
        self.get(request).await
    }

    async fn approve_request(
        &self,
        request: Request<v1::ApproveRequestRequest>,
    ) -> Result<Response<v1::RequestResponse>, Status> {
        self.approve(request).await
    }

    async fn deny_request(
        &self,
        request: Request<v1::DenyRequestRequest>,
    ) -> Result<Response<v1::RequestResponse>, Status> {
        self.deny(request).await
    }

    async fn cancel_request(
        &self,
        request: Request<v1::CancelRequestRequest>,
    ) -> Result<Response<v1::RequestResponse>, Status> {
        self.cancel(request).await
    }

    async fn create_delegation(
        &self,
        request: Request<v1::CreateDelegationRequest>,
    ) -> Result<Response<v1::DelegationResponse>, Status> {
        self.delegate(request).await
    }

    async fn list_delegations(
        &self,
        request: Request<v1::ListDelegationsRequest>,
    ) -> Result<Response<v1::ListDelegationsResponse>, Status> {
        self.delegations(request).await
    }

    async fn end_delegation(
        &self,
        request: Request<v1::EndDelegationRequest>,
    ) -> Result<Response<v1::DelegationResponse>, Status> {
        self.end_delegation_of(request).await
    }

    async fn open_break_glass(
        &self,
        request: Request<v1::OpenBreakGlassRequest>,
    ) -> Result<Response<v1::BreakGlassResponse>, Status> {
        self.open_glass(request).await
    }

    async fn list_break_glass(
        &self,
        request: Request<v1::ListBreakGlassRequest>,
    ) -> Result<Response<v1::ListBreakGlassResponse>, Status> {
        self.list_glass(request).await
    }

    async fn get_break_glass(
        &self,
        request: Request<v1::GetBreakGlassRequest>,
    ) -> Result<Response<v1::BreakGlassResponse>, Status> {
        self.get_glass(request).await
    }

    async fn close_break_glass(
        &self,
        request: Request<v1::CloseBreakGlassRequest>,
    ) -> Result<Response<v1::BreakGlassResponse>, Status> {
        self.close_glass(request).await
    }

    async fn review_break_glass(
        &self,
        request: Request<v1::ReviewBreakGlassRequest>,
    ) -> Result<Response<v1::BreakGlassResponse>, Status> {
        self.review_glass(request).await
    }

    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::WhoAmI, None).await?;
        let answer = match caller {
            Caller::Person(person) => v1::WhoAmIResponse {
                kind: "person".to_owned(),
                name: person.name.to_string(),
                roles: person.roles.iter().map(|role| role.as_str().to_owned()).collect(),
            },
            Caller::Gateway(name) => v1::WhoAmIResponse {
                kind: "gateway".to_owned(),
                name: name.to_string(),
                roles: vec!["gateway".to_owned()],
            },
            Caller::Identity(name) => v1::WhoAmIResponse {
                kind: "identity".to_owned(),
                name: name.to_string(),
                roles: vec!["identity".to_owned()],
            },
            Caller::Joining(..) | Caller::Attested(_) | Caller::System => {
                return Err(ApiError::unauthenticated().into());
            }
        };
        Ok(Response::new(answer))
    }
}

impl AccessService {
    /// Who answers for a grant, as [`answers_for`](Self::answers_for) says.
    async fn owner_of(&self, id: GrantId, caller: Option<&Caller>) -> Option<OwnerName> {
        let (Grant { identity, resource, .. }, _) = self.handle.grant(id).await.ok().map(|(it, at)| (it.grant, at))?;
        self.answers_for((Some(identity), Some(resource)), caller)
    }

    /// Who answers for an identity or a resource: of two owners the one that the caller speaks for.
    fn answers_for(
        &self,
        (identity, resource): (Option<IdentityName>, Option<ResourceName>),
        caller: Option<&Caller>,
    ) -> Option<OwnerName> {
        let model = self.handle.model();
        let of = resource.and_then(|name| model.resources.get(&name).map(|kept| kept.value.spec.owner.clone()));
        let whose = identity.and_then(|name| model.identities.get(&name).map(|kept| kept.value.spec.owner.clone()));
        let is_theirs = |owner: &OwnerName| matches!(caller, Some(Caller::Person(person)) if person.is_owner(owner));
        match whose {
            Some(whose) if of.is_none() || is_theirs(&whose) => Some(whose),
            _ => of,
        }
    }
}

fn grant_request(message: v1::CreateGrantRequest) -> Result<GrantRequest, Status> {
    let mut faults = Vec::new();
    let identity = parsed("identity", &message.identity, &mut faults);
    let access = match (message.role.as_str(), message.resource.as_str()) {
        ("", "") => {
            faults.push("say a role, or a resource with actions".to_owned());
            None
        }
        (role, "") if message.actions.is_empty() => parsed("role", role, &mut faults).map(Asked::Role),
        ("", resource) => {
            let resource = parsed("resource", resource, &mut faults);
            let actions: BTreeSet<_> =
                message.actions.iter().filter_map(|action| parsed("action", action, &mut faults)).collect();
            resource.map(|resource| Asked::Actions(resource, actions.into_iter().collect()))
        }
        _ => {
            faults.push("a role, or a resource with actions: not both".to_owned());
            None
        }
    };
    let limits = limits(message.limits, &mut faults);
    match (identity, access) {
        (Some(identity), Some(access)) if faults.is_empty() => Ok(GrantRequest {
            identity,
            access,
            starts: (message.starts_unix_us != 0).then(|| Timestamp::from_unix_micros(message.starts_unix_us)),
            duration: Duration::from_millis(message.duration_ms),
            limits,
            reason: message.reason,
            ticket: (!message.ticket.is_empty()).then_some(message.ticket),
            until: Vec::new(),
        }),
        _ => Err(ApiError::invalid(faults.join("; ")).into()),
    }
}

/// As the API writes it.
pub(super) const fn state_name(state: GrantState) -> &'static str {
    match state {
        GrantState::Scheduled => "scheduled",
        GrantState::Active => "active",
        GrantState::Expired => "expired",
        GrantState::Revoked => "revoked",
    }
}
