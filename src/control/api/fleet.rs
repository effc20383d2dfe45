//! The `Fleet` service.

mod attested;
mod drill;
mod scope;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::super::actor::ControlHandle;
use super::super::attested::Attestation;
use super::super::authority::AuthorityKey;
use super::super::authorize::{Caller, Operation};
use super::super::enrol::{self, CertificateAuthority, EnrolError, Subject};
use super::super::fleet::{Cuts, GatewayStatus, SLACK, Wanted};
use super::super::model::Model;
use super::super::plan::Refused;
use super::super::record::{Digest, JoinToken, Standing};
use super::super::registry::{Invited, JOIN_PREFIX, Joining};
use super::super::trust::Held;
use super::error::refused;
use super::identify::client_key;
use super::push::{MAX_LAG, in_good_standing};
use super::{ApiError, authorized, receipts};
use crate::domain::Timestamp;
use crate::domain::halt::{Halt, HaltScope};
use crate::domain::name::{GatewayName, OwnerName};
use crate::wire::v1;

/// How long a token to join with is good, unless told otherwise, and at most.
const INVITATION: Duration = Duration::from_secs(3600);
const MAX_INVITATION: Duration = Duration::from_secs(7 * 86_400);

/// The service.
#[derive(Debug)]
pub(super) struct FleetService {
    handle: ControlHandle,
    /// Waits for gateways end when the process is about to.
    stop: watch::Receiver<bool>,
    /// Which authorities are trusted, and which one certifies gateways.
    trust: Arc<Held>,
    /// What whoever joins by somebody else's word becomes.
    attestation: Arc<Attestation>,
    /// By which gateways know the control plane's word.
    control_key: String,
    /// Held by the one drill that may be under way.
    drills: tokio::sync::Mutex<()>,
}

impl FleetService {
    pub(super) fn new(
        handle: ControlHandle,
        stop: watch::Receiver<bool>,
        (trust, attestation): (Arc<Held>, Arc<Attestation>),
        authority: &AuthorityKey,
    ) -> Self {
        Self {
            handle,
            stop,
            trust,
            attestation,
            control_key: authority.verifier().to_string(),
            drills: tokio::sync::Mutex::new(()),
        }
    }
}

#[tonic::async_trait]
impl v1::fleet_server::Fleet for FleetService {
    async fn list_gateways(
        &self,
        request: Request<v1::ListGatewaysRequest>,
    ) -> Result<Response<v1::ListGatewaysResponse>, Status> {
        authorized(&self.handle, &request, Operation::ReadFleet, None).await?;
        let model = self.handle.model();
        let bound = longest(&model);
        let gateways = self.handle.gateways().iter().map(|status| info(&model, status, bound)).collect();
        let (revision, epoch) = (model.revision, model.epoch);
        let halt = |halt: &Halt| v1::HaltInfo {
            scope: halt.scope.to_string(),
            reason: halt.reason.clone(),
            by: halt.by.to_string(),
            since_unix_us: halt.since.unix_micros(),
        };
        let halts = model
            .halts
            .values()
            .filter(|kept| kept.value.scope != HaltScope::Drill)
            .map(|kept| halt(&kept.value))
            .collect();
        Ok(Response::new(v1::ListGatewaysResponse { gateways, revision, epoch, halts }))
    }

    async fn expel_gateway(
        &self,
        request: Request<v1::ExpelGatewayRequest>,
    ) -> Result<Response<v1::ExpelGatewayResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::ExpelGateway, None).await?;
        let v1::ExpelGatewayRequest { name, reason } = request.into_inner();
        let name = parsed(&name)?;
        self.handle.expel(&caller, name.clone(), reason).await.map_err(refused)?;
        Ok(Response::new(v1::ExpelGatewayResponse { gateway: Some(self.one(&name)?) }))
    }

    async fn readmit_gateway(
        &self,
        request: Request<v1::ReadmitGatewayRequest>,
    ) -> Result<Response<v1::ReadmitGatewayResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::ReadmitGateway, None).await?;
        let v1::ReadmitGatewayRequest { name, reason } = request.into_inner();
        let name = parsed(&name)?;
        self.handle.readmit(&caller, name.clone(), reason).await.map_err(refused)?;
        Ok(Response::new(v1::ReadmitGatewayResponse { gateway: Some(self.one(&name)?) }))
    }

    async fn invite_gateway(
        &self,
        request: Request<v1::InviteGatewayRequest>,
    ) -> Result<Response<v1::InviteGatewayResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::InviteGateway, None).await?;
        let v1::InviteGatewayRequest { name, hosts, ttl_ms, scope } = request.into_inner();
        let scope = scope.map(scope::read).transpose()?;
        let ca = self.ca().await?;
        let name = parsed(&name)?;
        let ttl = if ttl_ms == 0 { INVITATION } else { Duration::from_millis(ttl_ms) };
        if ttl > MAX_INVITATION {
            return Err(ApiError::invalid("ttl: at most a week").into());
        }
        // What no certificate can name is said now, and not to the gateway.
        ca.check(&Subject::Gateway { name: name.clone(), names: hosts.clone() })
            .map_err(|e| ApiError::invalid(e.to_string()))?;
        let token = enrol::random_token(JOIN_PREFIX).map_err(|e| refused(unavailable(&e)))?;
        let expires = self.handle.shared().clock.now().saturating_add(ttl);
        let token_kept = JoinToken { digest: Digest::of(&token), expires };
        let invited = Invited { name, hosts, token: token_kept, scope };
        self.handle.invite(&caller, invited).await.map_err(refused)?;
        Ok(Response::new(v1::InviteGatewayResponse {
            token: token.to_string(),
            expires_unix_us: expires.unix_micros(),
            ca_pem: self.trust.bundle(&ca),
            control_keys: vec![self.control_key.clone()],
        }))
    }

    async fn scope_gateway(
        &self,
        request: Request<v1::ScopeGatewayRequest>,
    ) -> Result<Response<v1::ScopeGatewayResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::ScopeGateway, None).await?;
        self.scoped(&caller, request.into_inner()).await.map(Response::new)
    }

    async fn certify(&self, request: Request<v1::CertifyRequest>) -> Result<Response<v1::CertifyResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::Certify, None).await?;
        let shown = request.peer_certs().and_then(|certificates| client_key(certificates.first()?));
        let v1::CertifyRequest { certificate_request, evidence_key, template } = request.into_inner();
        if let Caller::Attested(who) = &caller {
            return self.attested(who, &certificate_request, evidence_key, &template).await.map(Response::new);
        }
        let (Caller::Gateway(name) | Caller::Joining(name, _)) = caller.clone() else {
            return Err(ApiError::unauthenticated().into());
        };
        let ca = self.ca().await?;
        in_good_standing(self.handle.shared(), &name)?;
        let names = self.handle.model().gateways.get(&name).map(|kept| kept.value.hosts.clone()).unwrap_or_default();
        let subject = Subject::Gateway { name: name.clone(), names };
        let clock = &*self.handle.shared().clock;
        // Before the token is spent: a request that does not hold leaves it good.
        let certified = ca.certify(&subject, &certificate_request, clock).await;
        let certified = certified.map_err(|error| match error {
            EnrolError::Key(_) => unsigned(&error),
            error => ApiError::invalid(format!("certificate_request: {error}")),
        })?;
        let (certificate_pem, client_key) = (certified.pem, Digest::of(certified.public_key));
        match caller {
            Caller::Joining(gateway, token) => {
                let joining = Joining { gateway, token, client_key, evidence_key };
                self.handle.join(joining).await.map_err(refused)?
            }
            // Somebody with a gateway's certificate and key gets no certificate for a key that they can keep.
            _ if shown != Some(client_key) => {
                return Err(ApiError::invalid("certificate_request: is for another key than the certificate's").into());
            }
            _ => self.handle.note_certified(name.clone()).await.map_err(refused)?,
        };
        // A crash here leaves a gateway that has joined and has no certificate: it is invited anew.
        let control_keys = vec![self.control_key.clone()];
        let (ca_pem, gateway) = (self.trust.bundle(&ca), name.to_string());
        Ok(Response::new(v1::CertifyResponse { certificate_pem, ca_pem, control_keys, gateway }))
    }

    async fn list_authorities(
        &self,
        request: Request<v1::ListAuthoritiesRequest>,
    ) -> Result<Response<v1::ListAuthoritiesResponse>, Status> {
        authorized(&self.handle, &request, Operation::ReadFleet, None).await?;
        self.authorities().await.map(Response::new)
    }

    async fn rotate_authority(
        &self,
        request: Request<v1::RotateAuthorityRequest>,
    ) -> Result<Response<v1::ListAuthoritiesResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::RotateAuthority, None).await?;
        self.rotated(&caller, request.into_inner()).await.map(Response::new)
    }

    async fn drill(&self, request: Request<v1::DrillRequest>) -> Result<Response<v1::DrillResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::Drill, None).await?;
        self.drilled(&caller, request.into_inner().wait_ms).await.map(Response::new)
    }

    async fn halt(&self, request: Request<v1::HaltRequest>) -> Result<Response<v1::HaltResponse>, Status> {
        let scope = scope(&request.get_ref().scope);
        let owner = scope.as_ref().ok().and_then(|scope| self.owner(scope));
        let caller = authorized(&self.handle, &request, Operation::Halt, owner.as_ref()).await?;
        let v1::HaltRequest { reason, wait_ms, .. } = request.into_inner();
        let scope = scope?;
        let done = self.handle.halt(&caller, scope.clone(), reason).await.map_err(refused)?;
        let receipts = self.receipts(done.revision, &scope, wait_ms).await;
        Ok(Response::new(v1::HaltResponse { revision: done.revision, receipts }))
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Result<Response<v1::ResumeResponse>, Status> {
        let caller = authorized(&self.handle, &request, Operation::Resume, None).await?;
        let v1::ResumeRequest { scope: text, reason, wait_ms } = request.into_inner();
        let scope = scope(&text)?;
        let done = self.handle.resume(&caller, scope.clone(), reason).await.map_err(refused)?;
        let receipts = self.receipts(done.revision, &scope, wait_ms).await;
        Ok(Response::new(v1::ResumeResponse { revision: done.revision, receipts }))
    }
}

impl FleetService {
    async fn ca(&self) -> Result<Arc<CertificateAuthority>, ApiError> {
        self.trust.issuing().await.map_err(|error| unsigned(&error))?.ok_or_else(ApiError::no_ca)
    }

    /// Who may halt it beside those who may halt anything.
    fn owner(&self, scope: &HaltScope) -> Option<OwnerName> {
        let HaltScope::Resource(name) = scope else { return None };
        self.handle.model().resources.get(name).map(|kept| kept.value.spec.owner.clone())
    }

    async fn receipts(&self, revision: u64, scope: &HaltScope, wait_ms: u64) -> Vec<v1::GatewayReceipt> {
        let model = self.handle.model();
        let bounds = match scope {
            HaltScope::All | HaltScope::Credential(_) => {
                model.resources.keys().map(|name| receipts::bound(&model, name)).collect()
            }
            HaltScope::Resource(name) => vec![receipts::bound(&model, name)],
            HaltScope::Drill => Vec::new(),
        };
        let wanted = Wanted { revision, cuts_from: revision, cuts: Cuts::All, bounds, lag: MAX_LAG, about: None };
        receipts::wait(&self.handle, &wanted, wait_ms, &self.stop).await
    }

    fn one(&self, name: &GatewayName) -> Result<v1::GatewayInfo, Status> {
        let model = self.handle.model();
        let bound = longest(&model);
        let status = self.handle.gateways().into_iter().find(|status| status.name == *name);
        let missing = || refused(Refused::NotFound(format!("there is no gateway {name}")));
        status.map(|status| info(&model, &status, bound)).ok_or_else(missing)
    }
}

/// How long a gateway that is answered may go on allowing calls, on the resource that lets it longest.
fn longest(model: &Model) -> Duration {
    model.longest.values().max().map(|bound| bound.duration()).unwrap_or_default().saturating_add(SLACK)
}

fn unavailable(error: &EnrolError) -> Refused {
    tracing::error!(%error, "a token could not be drawn");
    Refused::Unavailable
}

/// Whoever keeps the CA's key does not sign. Why is for the log: its output is nobody else's.
fn unsigned(error: &EnrolError) -> ApiError {
    tracing::error!(%error, "the CA does not sign");
    ApiError::unsigned()
}

fn scope(text: &str) -> Result<HaltScope, Status> {
    let scope = text.parse().ok().filter(|scope| *scope != HaltScope::Drill);
    scope.ok_or_else(|| {
        ApiError::invalid("scope: `all`, `resource/NAME`, `issuer/URL`, `issuer/URL#KID` or `public-key/SHA256`").into()
    })
}

fn parsed(name: &str) -> Result<GatewayName, Status> {
    name.parse().map_err(|error| ApiError::invalid(format!("name: {error}")).into())
}

fn info(model: &Model, status: &GatewayStatus, bound: Duration) -> v1::GatewayInfo {
    let record = model.gateways.get(&status.name).map(|kept| &kept.value);
    let expelled = record.is_some_and(|record| record.standing == Standing::Expelled);
    let log = model.logs.get(&status.name).map(|kept| v1::GatewayLog {
        key: kept.value.key.clone(),
        cosigned_size: kept.value.size,
        cosigned_root: kept.value.root.clone(),
        cosigned_unix_us: kept.value.cosigned.unix_micros(),
        sealed: u32::try_from(kept.value.before.len()).unwrap_or(u32::MAX),
    });
    v1::GatewayInfo {
        name: status.name.to_string(),
        standing: if expelled { "expelled" } else { "good" }.to_owned(),
        connected: status.connected,
        applied_revision: status.applied,
        answered_unix_us: status.answered.unix_micros(),
        stops_by_unix_us: status.answered.saturating_add(bound).unix_micros(),
        issued_by: status.issued_by.clone().unwrap_or_default(),
        log,
        registered_unix_us: record.map_or(0, |record| Timestamp::unix_micros(record.registered)),
        scope: record.filter(|record| !record.scope.is_everything()).map(|record| scope::told(&record.scope)),
    }
}
