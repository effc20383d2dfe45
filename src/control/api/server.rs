//! The gRPC server: TLS, limits, and every service behind the one check of who calls.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tonic::service::interceptor::InterceptorLayer;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo, TlsConnectInfo};

use super::super::actor::ControlHandle;
use super::super::attested::Attestation;
use super::super::authority::AuthorityKey;
use super::super::sign_in::Tokens;
use super::super::tickets::Desk;
use super::super::trust::Held;
use super::access::AccessService;
use super::catalog::CatalogService;
use super::evidence::EvidenceService;
use super::fleet::FleetService;
use super::identify::Identifier;
use super::push::GrantStreamService;
use crate::serve::tls::{Guarded, connections};
use crate::serve::{Connection, Listener};
use crate::settings::control::BreakGlassSettings;
use crate::wire::{MAX_GATEWAY_MESSAGE_BYTES, v1};

/// Requests at the same time on one connection; a gateway needs two, the command line one.
const MAX_STREAMS_PER_CONNECTION: u32 = 64;
/// Header bytes of a request: a token and little else.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// A peer that went away without a word is noticed in twice this: it then counts as out of reach.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// What the server needs.
pub(in super::super) struct Api {
    pub(in super::super) handle: ControlHandle,
    pub(in super::super) authority: AuthorityKey,
    /// Which authorities are trusted, and which one certifies gateways.
    pub(in super::super) trust: Arc<Held>,
    pub(in super::super) trust_domain: String,
    /// Who joins by somebody else's word.
    pub(in super::super) attestation: Arc<Attestation>,
    /// Takes tokens that others issued, where any are.
    pub(in super::super) tokens: Option<Arc<Tokens>>,
    /// Questions about evidence, of all who ask in whatever way.
    pub(in super::super) evidence: EvidenceService,
    pub(in super::super) max_message_bytes: usize,
    /// Bounds on break-glass.
    pub(in super::super) break_glass: BreakGlassSettings,
    /// Where the secrets of ticket sources are.
    pub(in super::super) secrets_dir: PathBuf,
    /// One per connection.
    pub(in super::super) places: Arc<Semaphore>,
    pub(in super::super) stop: watch::Receiver<bool>,
}

/// A server at work.
#[derive(Debug)]
pub(in super::super) struct Listening {
    /// The address that it is bound to.
    pub(in super::super) address: SocketAddr,
    /// Ends when the server has.
    pub(in super::super) task: JoinHandle<()>,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ApiStartError {
    /// The address cannot be had.
    #[error("{address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// TLS cannot be spoken.
    #[error("TLS: {0}")]
    Tls(String),
    /// The API's own description does not read.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Questions over HTTP that are worked out at once.
const THINKING: usize = 2;

impl Api {
    fn identifier(&self) -> Identifier {
        let (handle, trust_domain) = (self.handle.clone(), self.trust_domain.clone());
        Identifier { handle, trust_domain, tokens: self.tokens.clone(), attestation: self.attestation.clone() }
    }

    /// The same operations over HTTP, for callers that reach them at `base`.
    pub(in super::super) fn json(&self, base: String) -> axum::Router {
        let desk = Desk::new(self.handle.clone(), self.secrets_dir.clone());
        super::json::router(super::json::Served {
            access: AccessService::new(self.handle.clone(), desk.clone(), self.break_glass, self.stop.clone()),
            desk,
            catalog: CatalogService { handle: self.handle.clone(), stop: self.stop.clone() },
            evidence: self.evidence.clone(),
            identifier: self.identifier(),
            max_body_bytes: self.max_message_bytes,
            base,
            thinking: Arc::new(Semaphore::new(THINKING)),
        })
    }

    /// Binds, and serves until stopped.
    pub(in super::super) async fn start(self, address: SocketAddr) -> Result<Listening, ApiStartError> {
        let bind = |source| ApiStartError::Bind { address, source };
        // tonic takes the process's provider; another part may have set the same one before.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = Listener::bind(address, self.places.clone()).await.map_err(bind)?;
        let bound = listener.address();
        let tls = self.trust.tls().clone();
        let config = tls.config(b"h2").map_err(ApiStartError::Tls)?;
        let identifier = self.identifier();
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<v1::access_server::AccessServer<AccessService>>().await;
        health.set_serving::<v1::catalog_server::CatalogServer<CatalogService>>().await;
        health.set_serving::<v1::evidence_server::EvidenceServer<EvidenceService>>().await;
        health.set_serving::<v1::fleet_server::FleetServer<FleetService>>().await;
        health.set_serving::<v1::grant_stream_server::GrantStreamServer<GrantStreamService>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let fleet = FleetService::new(
            self.handle.clone(),
            self.stop.clone(),
            (self.trust.clone(), self.attestation.clone()),
            &self.authority,
        );
        let (handle, authority, stop) = (self.handle.clone(), self.authority, self.stop.clone());
        let stream = GrantStreamService { handle, authority, trust: self.trust, stop };
        let limit = self.max_message_bytes;
        let desk = Desk::new(self.handle.clone(), self.secrets_dir);
        let access = AccessService::new(self.handle.clone(), desk, self.break_glass, self.stop.clone());
        let router = Server::builder()
            .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .layer(InterceptorLayer::new(identifier.clone()))
            .add_service(
                v1::access_server::AccessServer::new(access)
                    .max_decoding_message_size(limit)
                    .max_encoding_message_size(usize::MAX),
            )
            .add_service(
                v1::catalog_server::CatalogServer::new(CatalogService {
                    handle: self.handle.clone(),
                    stop: self.stop.clone(),
                })
                .max_decoding_message_size(limit)
                .max_encoding_message_size(usize::MAX),
            )
            .add_service(
                v1::evidence_server::EvidenceServer::new(self.evidence)
                    .max_decoding_message_size(MAX_GATEWAY_MESSAGE_BYTES)
                    .max_encoding_message_size(usize::MAX),
            )
            .add_service(
                v1::fleet_server::FleetServer::new(fleet)
                    .max_decoding_message_size(limit)
                    .max_encoding_message_size(usize::MAX),
            )
            .add_service(
                v1::grant_stream_server::GrantStreamServer::new(stream)
                    .max_decoding_message_size(MAX_GATEWAY_MESSAGE_BYTES)
                    .max_encoding_message_size(usize::MAX),
            )
            .add_service(tonic::service::interceptor::InterceptedService::new(health_service, describe(&identifier)))
            .add_service(tonic::service::interceptor::InterceptedService::new(reflection, describe(&identifier)));
        let mut stop = self.stop;
        let task = tokio::spawn(async move {
            let stopped = async move { super::super::stopped(&mut stop).await };
            if let Err(error) = router.serve_with_incoming_shutdown(connections(listener, tls, config), stopped).await {
                tracing::error!(%error, "the gRPC server ended");
            }
        });
        Ok(Listening { address: bound, task })
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream().connect_info()
    }
}

impl Connected for Guarded<Connection> {
    type ConnectInfo = TlsConnectInfo<TcpConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream().connect_info()
    }
}

/// Health and reflection are operations like any other.
fn describe(
    identifier: &Identifier,
) -> impl FnMut(tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> + Clone + use<> {
    let handle = identifier.handle.clone();
    move |request| {
        let caller = super::caller_of(&request).ok_or_else(super::ApiError::unauthenticated)?;
        match super::authorize(&caller, super::Operation::Describe, None) {
            Ok(()) => Ok(request),
            Err(denied) => {
                handle.shared().metrics.denied.inc();
                Err(super::ApiError::denied(denied.to_string()).into())
            }
        }
    }
}
