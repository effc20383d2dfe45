//! The control plane's client: finds the server, proves who is calling, asks, and reads the answers.
//!
//! The command line speaks to a control plane through this and nothing else. Answers come back as nouns of the domain,
//! serialisable as the JSON that scripts rely on. The server's certificate must come from the pinned CA; no system
//! trust is consulted, and a gateway's certificate from that CA is not the server's. Nothing here prints, and nothing here knows how the control plane works inside.

mod breakglass;
mod changes;
mod context;
mod delegations;
pub mod evidence;
pub mod fleet;
pub mod gateway;
pub mod jwt;
mod requests;
pub mod sign_in;
pub mod target;

use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use crate::clock::SystemClock;
use crate::domain::Clock as _;
pub use crate::wire::answers::{self, CanI, Created, GrantChange, GrantRecord, Receipt, Revoked, StateAnswer};
use crate::wire::{CONTROL_SERVER_NAME, WireError, v1};
pub use requests::Asked;
pub use target::{Environment, Pointers, Target, TargetError};

/// Longest wait for a connection: a control plane that takes longer is as good as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an answer, on top of what the operation itself was asked to wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an idle watch asks whether the server is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Largest answer read: ten thousand grants with their limits.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// The metadata key of a refusal's reason.
const REASON: &str = "x-portcullis-reason";
/// Grants asked for at once.
const PAGE_SIZE: u32 = 1000;

/// Why an operation did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server was not found or is not described well.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Nobody answers there.
    #[error("no control plane at {address}: {why}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What went wrong.
        why: String,
    },
    /// Nobody is signed in.
    #[error(transparent)]
    SignIn(#[from] sign_in::SignInError),
    /// The control plane said no.
    #[error("{message}")]
    Refused {
        /// In which way.
        refusal: Refusal,
        /// What it said.
        message: String,
        /// The stable code of its reason, when it gave one.
        reason: Option<String>,
    },
    /// The control plane's answer is not what it should be.
    #[error("the control plane answered what cannot be read: {0}")]
    Answer(#[from] WireError),
}

/// In which way a control plane says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// What was asked is not well formed.
    Invalid,
    /// What was asked does not fit what is there.
    Unfit,
    /// The caller may not.
    Denied,
    /// It is not there.
    NotFound,
    /// Something is in the way, or changed meanwhile.
    Conflict,
    /// Nobody knows who is asking.
    Unauthenticated,
    /// Not now.
    Unavailable,
    /// It failed.
    Failed,
}

/// TLS alerts (RFC 8446 section 6.2) by which a server takes no certificate of ours.
const NOT_TAKEN: [&str; 5] = [
    "alert: UnknownCA",
    "alert: BadCertificate",
    "alert: CertificateUnknown",
    "alert: CertificateExpired",
    "alert: DecryptError",
];

/// A connection's end, with what to do where that is known.
fn unreached(why: String) -> String {
    if why.contains("UnknownIssuer") {
        return format!(
            "{why}: its certificate is by another CA than the one that is pinned here; if the CA was rotated, pin the new one \
             (`ca.pem` in the CA's directory, or `control ca status --bundle FILE` where it is trusted)"
        );
    }
    why
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let told = causes(&status);
        if NOT_TAKEN.iter().any(|alert| told.contains(alert)) {
            let message =
                "the control plane takes no certificate like this: it is by no CA that it trusts, or has ended";
            let refusal = Refusal::Unauthenticated;
            return Self::Refused { refusal, message: message.to_owned(), reason: None };
        }
        let refusal = match status.code() {
            Code::InvalidArgument => Refusal::Invalid,
            Code::FailedPrecondition => Refusal::Unfit,
            Code::PermissionDenied => Refusal::Denied,
            Code::NotFound => Refusal::NotFound,
            Code::AlreadyExists | Code::Aborted | Code::OutOfRange => Refusal::Conflict,
            Code::Unauthenticated => Refusal::Unauthenticated,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted => {
                Refusal::Unavailable
            }
            Code::Ok | Code::Unknown | Code::Internal | Code::Unimplemented | Code::DataLoss => Refusal::Failed,
        };
        let message = match status.message() {
            "" => status.code().description(),
            message => message,
        };
        let reason = status.metadata().get(REASON).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self::Refused { refusal, message: message.to_owned(), reason }
    }
}

impl ClientError {
    /// In which way the control plane said no, if it did.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(*refusal),
            Self::Target(_) | Self::SignIn(_) | Self::Unreachable { .. } | Self::Answer(_) => None,
        }
    }
}

/// Puts the bearer token on each request.
#[derive(Clone)]
struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

type Service = InterceptedService<Channel, Bearer>;

/// A connection to a control plane.
pub struct Client {
    access: v1::access_client::AccessClient<Service>,
    catalog: v1::catalog_client::CatalogClient<Service>,
    address: String,
    evidence: v1::evidence_client::EvidenceClient<Service>,
    fleet: v1::fleet_client::FleetClient<Service>,
}

impl Client {
    /// Connects to `target` and checks its certificate.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when nobody answers within five seconds or the certificate is not a control
    /// plane's of the pinned CA.
    pub async fn connect(target: &Target) -> Result<Self, ClientError> {
        let unreachable = |why: String| ClientError::Unreachable { address: target.address.clone(), why };
        let signed_in = match (&target.token, &target.signed_in) {
            (None, Some(signed_in)) => Some(signed_in.token(SystemClock.now()).await?),
            (Some(_), _) | (None, None) => None,
        };
        let bearer = match target.token.as_ref().or(signed_in.as_ref()) {
            None => None,
            Some(token) => {
                let mut value = MetadataValue::try_from(format!("Bearer {}", token.as_str()))
                    .map_err(|_| TargetError::new("the token has characters that no token has"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let endpoint = endpoint(target).map_err(|e| unreachable(causes(&e)))?;
        let channel = endpoint.connect().await.map_err(|e| unreachable(unreached(causes(&e))))?;
        let service = InterceptedService::new(channel, Bearer(bearer));
        Ok(Self {
            access: v1::access_client::AccessClient::new(service.clone()).max_decoding_message_size(MAX_ANSWER_BYTES),
            address: target.address.clone(),
            evidence: v1::evidence_client::EvidenceClient::new(service.clone())
                .max_decoding_message_size(MAX_ANSWER_BYTES),
            fleet: v1::fleet_client::FleetClient::new(service.clone()).max_decoding_message_size(MAX_ANSWER_BYTES),
            catalog: v1::catalog_client::CatalogClient::new(service).max_decoding_message_size(MAX_ANSWER_BYTES),
        })
    }

    /// Makes grants: one, or one per resource of a role.
    ///
    /// # Errors
    /// As `Access.CreateGrant` says.
    pub async fn create_grant(&mut self, request: v1::CreateGrantRequest) -> Result<Created, ClientError> {
        let wait = request.wait_ms;
        Ok(self.access.create_grant(bounded(request, wait)).await?.into_inner().try_into()?)
    }

    /// All grants that match, over all pages.
    ///
    /// # Errors
    /// As `Access.ListGrants` says.
    pub async fn list_grants(&mut self, mut request: v1::ListGrantsRequest) -> Result<Vec<GrantRecord>, ClientError> {
        request.page_size = PAGE_SIZE;
        let mut grants = Vec::new();
        loop {
            let page = self.access.list_grants(bounded(request.clone(), 0)).await?.into_inner();
            for grant in page.grants {
                grants.push(GrantRecord::try_from(grant)?);
            }
            if page.next_page_token.is_empty() || page.next_page_token == request.page_token {
                return Ok(grants);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// One grant, by its 16 bytes.
    ///
    /// # Errors
    /// As `Access.GetGrant` says.
    pub async fn grant(&mut self, id: Vec<u8>) -> Result<GrantRecord, ClientError> {
        let answer = self.access.get_grant(bounded(v1::GetGrantRequest { id }, 0)).await?.into_inner();
        Ok(answer.try_into()?)
    }

    /// Ends a grant, and says what each gateway did about it.
    ///
    /// # Errors
    /// As `Access.RevokeGrant` says.
    pub async fn revoke_grant(&mut self, request: v1::RevokeGrantRequest) -> Result<Revoked, ClientError> {
        let wait = request.wait_ms;
        Ok(self.access.revoke_grant(bounded(request, wait)).await?.into_inner().try_into()?)
    }

    /// Ends every selected grant, and says what each gateway did about it: how many there were, the revision of the last,
    /// and the receipts.
    ///
    /// # Errors
    /// As `Access.RevokeGrants` says.
    pub async fn revoke_grants(
        &mut self,
        request: v1::RevokeGrantsRequest,
    ) -> Result<(u64, u64, Vec<Receipt>), ClientError> {
        // A million of them take some time.
        let wait = request.wait_ms.saturating_add(REVOKE_ALL_MS);
        let answer = self.access.revoke_grants(bounded(request, wait)).await?.into_inner();
        let receipts = answer.receipts.into_iter().map(Receipt::try_from).collect::<Result<_, _>>()?;
        Ok((answer.revoked, answer.revision, receipts))
    }

    /// Changes of grants, as they happen. Ends only with the connection.
    ///
    /// # Errors
    /// As `Access.WatchGrants` says.
    pub async fn watch_grants(&mut self, from_revision: u64) -> Result<Watch, ClientError> {
        let stream = self.access.watch_grants(v1::WatchGrantsRequest { from_revision }).await?.into_inner();
        Ok(Watch(stream))
    }

    /// What decide would say.
    ///
    /// # Errors
    /// As `Access.CanI` says.
    pub async fn can_i(&mut self, request: v1::CanIRequest) -> Result<CanI, ClientError> {
        Ok(self.access.can_i(bounded(request, 0)).await?.into_inner().try_into()?)
    }

    /// Declares a token dead everywhere; answers the revision of it.
    ///
    /// # Errors
    /// As `Access.RevokeToken` says.
    pub async fn revoke_token(&mut self, request: v1::RevokeTokenRequest) -> Result<u64, ClientError> {
        Ok(self.access.revoke_token(bounded(request, 0)).await?.into_inner().revision)
    }

    /// Who the caller is.
    ///
    /// # Errors
    /// As `Access.WhoAmI` says.
    pub async fn who_am_i(&mut self) -> Result<v1::WhoAmIResponse, ClientError> {
        Ok(self.access.who_am_i(bounded(v1::WhoAmIRequest {}, 0)).await?.into_inner())
    }

    /// Puts objects into the catalog, all or none.
    ///
    /// # Errors
    /// As `Catalog.Apply` says.
    pub async fn apply(&mut self, request: v1::ApplyRequest) -> Result<v1::ApplyResponse, ClientError> {
        Ok(self.catalog.apply(bounded(request, 0)).await?.into_inner())
    }

    /// Every object of a kind.
    ///
    /// # Errors
    /// As `Catalog.ListObjects` says.
    pub async fn objects(&mut self, kind: &str) -> Result<Vec<v1::CatalogObject>, ClientError> {
        let request = v1::ListObjectsRequest { kind: kind.to_owned() };
        Ok(self.catalog.list_objects(bounded(request, 0)).await?.into_inner().objects)
    }

    /// One object.
    ///
    /// # Errors
    /// As `Catalog.GetObject` says.
    pub async fn object(&mut self, kind: &str, name: &str) -> Result<v1::CatalogObject, ClientError> {
        let request = v1::GetObjectRequest { kind: kind.to_owned(), name: name.to_owned() };
        let answer = self.catalog.get_object(bounded(request, 0)).await?.into_inner();
        Ok(answers::present("object", answer.object)?)
    }

    /// Changes an identity's state.
    ///
    /// # Errors
    /// As `Catalog.SetIdentityState` says.
    pub async fn set_identity_state(
        &mut self,
        request: v1::SetIdentityStateRequest,
        waited: bool,
    ) -> Result<StateAnswer, ClientError> {
        // Whoever holds much takes some time.
        let wait = request.wait_ms.saturating_add(REVOKE_ALL_MS);
        let answer = self.catalog.set_identity_state(bounded(request, wait)).await?.into_inner();
        Ok(StateAnswer::of(answer, waited)?)
    }
}

/// A running watch of grants.
pub struct Watch(tonic::Streaming<v1::GrantEvent>);

impl Watch {
    /// The next change; `None` when the server has ended the stream.
    ///
    /// # Errors
    /// When the stream breaks.
    pub async fn next(&mut self) -> Result<Option<GrantChange>, ClientError> {
        match self.0.message().await? {
            None => Ok(None),
            Some(event) => Ok(Some(event.try_into()?)),
        }
    }
}

/// A request that the server may take `wait_ms` for, and a little longer to answer.
/// Time to end every grant that there is.
const REVOKE_ALL_MS: u64 = 120_000;

fn bounded<T>(message: T, wait_ms: u64) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER_TIMEOUT.saturating_add(Duration::from_millis(wait_ms)));
    request
}

fn endpoint(target: &Target) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(target.address.clone())?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .tcp_nodelay(true);
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&target.ca_pem))
        .domain_name(CONTROL_SERVER_NAME)
        .timeout(CONNECT_TIMEOUT);
    if let Some(certificate) = &target.certificate {
        tls = tls.identity(Identity::from_pem(&certificate.chain_pem, certificate.key_pem.as_str()));
    }
    endpoint.tls_config(tls)
}

/// An error with everything that caused it: the outermost of these texts says nothing alone.
fn causes(error: &dyn std::error::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if texts.last().is_none_or(|last| !last.contains(&text)) {
            texts.push(text);
        }
        cause = inner.source();
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests;
