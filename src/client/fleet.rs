//! The fleet's operations.

use serde::{Deserialize, Serialize};

use super::answers::Receipt;
use super::{Client, ClientError, answers, bounded};
use crate::domain::Timestamp;
use crate::wire::v1;

/// Where the gateways stand.
#[derive(Clone, Debug, Serialize)]
pub struct FleetStatus {
    /// Which life of the store it is.
    pub epoch: u64,
    /// The newest revision that gateways hear of.
    pub revision: u64,
    /// What stands still.
    pub halts: Vec<FleetHalt>,
    /// Every recorded gateway, by name.
    pub gateways: Vec<FleetGateway>,
}

/// What stands still.
#[derive(Clone, Debug, Serialize)]
pub struct FleetHalt {
    /// `all`, or `resource/NAME`.
    pub scope: String,
    /// Why.
    pub reason: String,
    /// Who said so.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
}

/// What became of a halt, or of its end.
#[derive(Clone, Debug)]
pub struct Halted {
    /// Revision of the change.
    pub revision: u64,
    /// What the gateways said, when it was waited for.
    pub gateways: Vec<Receipt>,
}

/// What a drill took on one gateway, in microseconds from the change until it said that it is enforced; `None`: it did not.
#[derive(Clone, Debug, Serialize)]
pub struct Drilled {
    /// The gateway.
    pub gateway: String,
    /// To what would have cut.
    pub cut_us: Option<u64>,
    /// To what would have allowed again.
    pub allow_us: Option<u64>,
}

/// What a gateway needs to join: a secret, good once, and what it pins.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// The gateway that it is for.
    pub gateway: String,
    /// Where the control plane is, `https://HOST:PORT`.
    pub address: String,
    /// The secret.
    pub token: String,
    /// When it is no good any more.
    pub expires: Timestamp,
    /// The CA that the control plane's certificate must come from, PEM.
    pub ca: String,
    /// The keys that sign its authorities.
    pub control_keys: Vec<String>,
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invitation of {} at {}", self.gateway, self.address)
    }
}

/// One gateway.
#[derive(Clone, Debug, Serialize)]
pub struct FleetGateway {
    /// Its name.
    pub name: String,
    /// good or expelled
    pub standing: String,
    /// Whether a stream of it lives.
    pub connected: bool,
    /// The newest revision that it said is enforced.
    pub applied_revision: u64,
    /// When its last renewal was answered; after a start of the control plane, the start.
    pub answered: Timestamp,
    /// The latest moment at which it can still allow a call, if it hears nothing more.
    pub stops_by: Timestamp,
    /// What it stands before; absent: everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<FleetScope>,
    /// Its log of evidence; absent before it first attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<FleetLog>,
}

/// What a gateway stands before: the routes named, and all routes of the resources named.
#[derive(Clone, Debug, Serialize)]
pub struct FleetScope {
    /// Routes.
    pub routes: Vec<String>,
    /// Resources.
    pub resources: Vec<String>,
}

/// What became of a change of scope.
#[derive(Clone, Debug)]
pub struct Scoped {
    /// The gateway, as it is now.
    pub gateway: FleetGateway,
    /// Revision of the change.
    pub revision: u64,
    /// What the gateway said, when it was waited for.
    pub receipt: Option<Receipt>,
}

/// A gateway's log, as the control plane cosigned it.
#[derive(Clone, Debug, Serialize)]
pub struct FleetLog {
    /// The key that signs it, a C2SP verifier key; empty after a readmission.
    pub key: String,
    /// Records under the last cosigned checkpoint.
    pub cosigned_size: u64,
    /// Their root, base64.
    pub cosigned_root: String,
    /// When it was cosigned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosigned: Option<Timestamp>,
    /// Logs before this one.
    pub sealed: u32,
}

/// The authorities that certify gateways.
#[derive(Clone, Debug, Serialize)]
pub struct Authorities {
    /// Oldest first, retired ones among them.
    pub authorities: Vec<Authority>,
    /// Whose certificate each gateway in good standing showed last.
    pub gateways: Vec<Certified>,
    /// What is to be trusted, PEM.
    #[serde(skip)]
    pub bundle: String,
}

/// An authority.
#[derive(Clone, Debug, Serialize)]
pub struct Authority {
    /// Of its key.
    pub label: String,
    /// published, issuing, trusted or retired
    pub standing: String,
    /// Since when.
    pub since: Timestamp,
    /// Its certificate, PEM.
    pub certificate: String,
}

/// By whom a gateway's certificate is.
#[derive(Clone, Debug, Serialize)]
pub struct Certified {
    /// The gateway.
    pub gateway: String,
    /// Whether a stream of it lives.
    pub connected: bool,
    /// The authority's label; absent: it has not come since the control plane began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

impl From<v1::ListAuthoritiesResponse> for Authorities {
    fn from(message: v1::ListAuthoritiesResponse) -> Self {
        let authority = |it: v1::AuthorityInfo| Authority {
            label: it.label,
            standing: it.standing,
            since: Timestamp::from_unix_micros(it.since_unix_us),
            certificate: it.certificate_pem,
        };
        let certified = |it: v1::GatewayCertificate| Certified {
            gateway: it.gateway,
            connected: it.connected,
            authority: Some(it.label).filter(|label| !label.is_empty()),
        };
        Self {
            authorities: message.authorities.into_iter().map(authority).collect(),
            gateways: message.gateways.into_iter().map(certified).collect(),
            bundle: message.bundle_pem,
        }
    }
}

impl From<v1::GatewayInfo> for FleetGateway {
    fn from(message: v1::GatewayInfo) -> Self {
        let log = message.log.map(|log| FleetLog {
            key: log.key,
            cosigned_size: log.cosigned_size,
            cosigned_root: log.cosigned_root,
            cosigned: (log.cosigned_unix_us != 0).then(|| Timestamp::from_unix_micros(log.cosigned_unix_us)),
            sealed: log.sealed,
        });
        let scope = message.scope.map(|scope| FleetScope { routes: scope.routes, resources: scope.resources });
        Self {
            scope,
            name: message.name,
            standing: message.standing,
            connected: message.connected,
            applied_revision: message.applied_revision,
            answered: Timestamp::from_unix_micros(message.answered_unix_us),
            stops_by: Timestamp::from_unix_micros(message.stops_by_unix_us),
            log,
        }
    }
}

impl Client {
    /// Where each gateway stands.
    ///
    /// # Errors
    /// As `Fleet.ListGateways` says.
    pub async fn fleet(&mut self) -> Result<FleetStatus, ClientError> {
        let answer = self.fleet.list_gateways(bounded(v1::ListGatewaysRequest {}, 0)).await?.into_inner();
        let gateways = answer.gateways.into_iter().map(FleetGateway::from).collect();
        let halts = answer.halts.into_iter().map(|halt| FleetHalt {
            scope: halt.scope,
            reason: halt.reason,
            by: halt.by,
            since: Timestamp::from_unix_micros(halt.since_unix_us),
        });
        Ok(FleetStatus { epoch: answer.epoch, revision: answer.revision, halts: halts.collect(), gateways })
    }

    /// Records a gateway that is to join.
    ///
    /// # Errors
    /// As `Fleet.InviteGateway` says.
    pub async fn invite(&mut self, request: v1::InviteGatewayRequest) -> Result<Invitation, ClientError> {
        let gateway = request.name.clone();
        let answer = self.fleet.invite_gateway(bounded(request, 0)).await?.into_inner();
        Ok(Invitation {
            gateway,
            address: self.address.clone(),
            token: answer.token,
            expires: Timestamp::from_unix_micros(answer.expires_unix_us),
            ca: answer.ca_pem,
            control_keys: answer.control_keys,
        })
    }

    /// Says what a gateway stands before.
    ///
    /// # Errors
    /// As `Fleet.ScopeGateway` says.
    pub async fn scope(&mut self, request: v1::ScopeGatewayRequest) -> Result<Scoped, ClientError> {
        let wait = request.wait_ms;
        let answer = self.fleet.scope_gateway(bounded(request, wait)).await?.into_inner();
        let receipt = answer.receipt.map(Receipt::try_from).transpose()?;
        let gateway = answers::present("gateway", answer.gateway)?.into();
        Ok(Scoped { gateway, revision: answer.revision, receipt })
    }

    /// A certificate for the caller's key.
    ///
    /// # Errors
    /// As `Fleet.Certify` says.
    pub async fn certify(&mut self, request: v1::CertifyRequest) -> Result<v1::CertifyResponse, ClientError> {
        Ok(self.fleet.certify(bounded(request, 0)).await?.into_inner())
    }

    /// The authorities that certify gateways.
    ///
    /// # Errors
    /// As `Fleet.ListAuthorities` says.
    pub async fn authorities(&mut self) -> Result<Authorities, ClientError> {
        Ok(self.fleet.list_authorities(bounded(v1::ListAuthoritiesRequest {}, 0)).await?.into_inner().into())
    }

    /// Takes a step of a rotation.
    ///
    /// # Errors
    /// As `Fleet.RotateAuthority` says.
    pub async fn rotate(&mut self, request: v1::RotateAuthorityRequest) -> Result<Authorities, ClientError> {
        let wait = request.wait_ms;
        Ok(self.fleet.rotate_authority(bounded(request, wait)).await?.into_inner().into())
    }

    /// How long a change that ends nothing takes through every gateway.
    ///
    /// # Errors
    /// As `Fleet.Drill` says.
    pub async fn drill(&mut self, wait_ms: u64) -> Result<Vec<Drilled>, ClientError> {
        // Two steps, and a little for what is around them.
        let request = bounded(v1::DrillRequest { wait_ms }, wait_ms.saturating_mul(2));
        let answer = self.fleet.drill(request).await?.into_inner();
        let took = |us: u64| (us > 0).then_some(us);
        let drilled = |result: v1::DrillResult| Drilled {
            gateway: result.gateway,
            cut_us: took(result.cut_us),
            allow_us: took(result.allow_us),
        };
        Ok(answer.gateways.into_iter().map(drilled).collect())
    }

    /// Has everything in a scope stand still.
    ///
    /// # Errors
    /// As `Fleet.Halt` says.
    pub async fn halt(&mut self, request: v1::HaltRequest) -> Result<Halted, ClientError> {
        let wait = request.wait_ms;
        let answer = self.fleet.halt(bounded(request, wait)).await?.into_inner();
        halted(answer.revision, answer.receipts)
    }

    /// Lets everything in a scope go on.
    ///
    /// # Errors
    /// As `Fleet.Resume` says.
    pub async fn resume(&mut self, request: v1::ResumeRequest) -> Result<Halted, ClientError> {
        let wait = request.wait_ms;
        let answer = self.fleet.resume(bounded(request, wait)).await?.into_inner();
        halted(answer.revision, answer.receipts)
    }

    /// Takes a gateway's authority for good.
    ///
    /// # Errors
    /// As `Fleet.ExpelGateway` says.
    pub async fn expel(&mut self, name: String, reason: String) -> Result<FleetGateway, ClientError> {
        let request = bounded(v1::ExpelGatewayRequest { name, reason }, 0);
        let answer = self.fleet.expel_gateway(request).await?.into_inner();
        Ok(answers::present("gateway", answer.gateway)?.into())
    }

    /// Lets a gateway that lost its state come with a new key and log.
    ///
    /// # Errors
    /// As `Fleet.ReadmitGateway` says.
    pub async fn readmit(&mut self, name: String, reason: String) -> Result<FleetGateway, ClientError> {
        let request = bounded(v1::ReadmitGatewayRequest { name, reason }, 0);
        let answer = self.fleet.readmit_gateway(request).await?.into_inner();
        Ok(answers::present("gateway", answer.gateway)?.into())
    }
}

fn halted(revision: u64, receipts: Vec<v1::GatewayReceipt>) -> Result<Halted, ClientError> {
    let gateways = receipts.into_iter().map(Receipt::try_from).collect::<Result<_, _>>()?;
    Ok(Halted { revision, gateways })
}
