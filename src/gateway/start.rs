//! Puts a gateway together from its settings, and takes it apart again.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use zeroize::Zeroizing;

use super::address_limit::AddressLimit;
use super::authority::{AuthorityClock, Memory};
use super::denials::DenialBudget;
use super::hash_key::CurrentHashKey;
use super::live::Registry;
use super::meter::Meter;
use super::metrics::Metrics;
use super::oauth::{Oauth, OauthParts};
use super::published::Published;
use super::upstream::{OwnCertificate, Reach, UpstreamTrust};
use super::worker::{self, Listening};
use super::{Shared, admin, incarnation, record, sync, tls};
use crate::domain::Clock;
use crate::evidence::archive::Keeper;
use crate::evidence::checkpoint::EvidenceKey;
use crate::evidence::journal::{Durability, JournalOptions, Writer};
use crate::evidence::keyed::HASH_KEY_FILE;
use crate::evidence::{EvidenceLog, LogError};
use crate::issuers::{Issuers, RevokedTokens, TokenVerifier, TrustedIssuer};
use crate::settings::gateway::GatewaySettings;
use crate::settings::issuer::IssuerSettings;
use crate::token::keys::{KeyAlgorithm, KeySet, SigningKey};
use crate::token::mint::GatewayIssuer;

/// A PEM file with one private key.
const MAX_KEY_FILE_BYTES: u64 = 16 * 1024;
/// How often refusals of strangers are recorded, as one aggregate.
const REFUSALS_EVERY: Duration = Duration::from_secs(10);

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A listener's address cannot be had.
    #[error("{address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A thread or runtime cannot be had.
    #[error("the runtime does not start: {0}")]
    Runtime(#[source] std::io::Error),
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes")]
    Random,
    /// TLS of a listener.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// A file of its own.
    #[error("{file}: {why}")]
    State {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// The evidence.
    #[error("the evidence cannot be opened: {0}")]
    Evidence(#[from] LogError),
    /// The issuers.
    #[error("issuer {issuer}: {why}")]
    Issuer {
        /// Its name.
        issuer: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    evidence: Arc<EvidenceLog>,
    keeper: Option<Arc<Keeper>>,
    listeners: Vec<SocketAddr>,
    admin: SocketAddr,
    workers: Vec<worker::Handle>,
    drain: Duration,
    shutdown: watch::Sender<bool>,
    draining: Arc<watch::Sender<bool>>,
    stream: (watch::Sender<bool>, JoinHandle<()>),
    copy: (watch::Sender<bool>, JoinHandle<()>),
    tasks: JoinSet<()>,
}

impl Gateway {
    /// Starts a gateway: its workers on threads of their own, everything else on `runtime`.
    ///
    /// # Errors
    /// When something that it needs cannot be had. Nothing is left running then.
    pub async fn start(
        settings: &GatewaySettings,
        clock: Arc<dyn Clock>,
        runtime: &Runtime,
    ) -> Result<Self, GatewayError> {
        private_dir(&settings.state_dir)?;
        let evidence = Arc::new(open_evidence(settings, clock.clone())?);
        let hash_key = CurrentHashKey::open(&settings.state_dir)
            .map_err(|error| GatewayError::State { file: HASH_KEY_FILE.into(), why: error.to_string() })?;
        let keeper = crate::archive::keep(&evidence, &settings.evidence, None, clock.clone())
            .map_err(|error| GatewayError::State { file: "evidence.archive".into(), why: error.to_string() })?
            .map(Arc::new);
        let Tokens { issuer, access_key, upstream_key, issuers, verifier } = tokens(settings, &clock)?;
        let own = settings.upstreams.certificate.as_ref().map(OwnCertificate::load).transpose()?;
        let mut tasks = issuers.keep_fresh(runtime);
        let memory = Memory::open(&settings.state_dir)
            .map_err(|error| GatewayError::State { file: "authority".into(), why: error.to_string() })?;
        let authority = AuthorityClock::new(clock.clone(), memory);
        let published = Published::new();
        let registry = Registry::new(settings.workers);
        let meter = Meter::new(random()?);
        let metrics = Metrics::new(settings.workers);
        let tls = tls::Tls::load(&settings.listen, authority.clone(), registry.clone(), metrics.clone()).await?;
        let (burst, per_minute) = (settings.limits.denials_burst, settings.limits.denials_per_minute);
        let denials = Arc::new(DenialBudget::new(burst, per_minute));
        let oauth = Oauth::new(OauthParts {
            authority: authority.clone(),
            published: published.clone(),
            registry: registry.clone(),
            verifier: verifier.clone(),
            journal: evidence.journal().clone(),
            denials: denials.clone(),
            metrics: metrics.worker(0),
            issuer: issuer.clone(),
            audience: settings.audience.clone(),
            access_key,
            upstream_key: upstream_key.clone(),
            control: settings.control.clone(),
            hold: settings.limits.hold,
            runtime: runtime.clone(),
        });
        let shared = Arc::new(Shared {
            clock,
            authority: authority.clone(),
            published,
            registry,
            meter,
            verifier,
            oauth,
            journal: evidence.journal().clone(),
            refusals: record::RefusalCounter::default(),
            denials,
            hash_key,
            metrics,
            limits: settings.limits,
            inspection: super::budget::Budget::new(settings.limits.inspect_bytes),
            tls: tls.clone(),
            addresses: AddressLimit::new(settings.limits.max_connections_per_address),
            issuer,
            upstream_key,
            upstream_trust: UpstreamTrust::new(own, authority),
            reach: Arc::new(Reach::new(&settings.upstreams.allow_networks)),
            connections: AtomicUsize::new(0),
            connections_changed: Arc::default(),
        });
        let shutdown = watch::Sender::new(false);
        let draining = Arc::new(watch::Sender::new(false));
        let (listeners, workers) = start_workers(settings, &shared, &shutdown)?;
        let lag = keeper.as_ref().and_then(|keeper| keeper.lag());
        let admin = admin::serve(settings.admin_address, &shared, lag, draining.clone(), &mut tasks, runtime).await?;
        // Ends after the workers: what is revoked while they drain ends their calls too.
        let stop_stream = watch::Sender::new(false);
        let following = sync::run(stream(settings, &shared, &evidence), stop_stream.subscribe());
        let stream = (stop_stream, runtime.spawn(following));
        let copy = keep_copy(settings, &evidence, runtime);
        tasks.spawn_on(flush_refusals(shared.clone()), runtime);
        tasks.spawn_on(tls.keep_fresh(), runtime);
        tasks.spawn_on(keep_own_fresh(shared.clone()), runtime);
        let hashing = shared.clone();
        tasks.spawn_on(async move { hashing.hash_key.keep_fresh().await }, runtime);
        let drain = settings.drain;
        Ok(Self { shared, evidence, keeper, listeners, admin, workers, drain, shutdown, draining, stream, copy, tasks })
    }

    /// Addresses in use, in the order of the settings' listeners.
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// Address of the admin endpoints.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Resolves when somebody asked for a drain through the admin endpoint.
    pub async fn drain_requested(&self) {
        // A dropped sender is this gateway itself, gone.
        let _ = self.draining.subscribe().wait_for(|drain| *drain).await;
    }

    /// Reads certificates, keys, bundles and lists of revoked certificates anew. When one is bad everything stays as it
    /// was, and the log says why.
    pub async fn reload(&self) {
        let shared = self.shared.clone();
        let reload = move || {
            shared.tls.reload();
            shared.hash_key.reload();
            if let Some(own) = shared.upstream_trust.own() {
                own.reload(&shared.metrics);
            }
        };
        if tokio::task::spawn_blocking(reload).await.is_err() {
            tracing::error!("the reload ended in a panic");
        }
    }

    /// Stops accepting, lets running calls end for the drain's time, cuts the rest, and closes the evidence.
    pub async fn shutdown(self) {
        let Self { shared, evidence, keeper, workers, drain, shutdown, draining, stream, copy, mut tasks, .. } = self;
        draining.send_replace(true);
        shutdown.send_replace(true);
        tracing::info!(running = shared.registry.len(), limit_seconds = drain.as_secs(), "draining");
        let joined = tokio::task::spawn_blocking(move || workers.into_iter().for_each(worker::Handle::join));
        if joined.await.is_err() {
            tracing::error!("the workers could not be joined");
        }
        let (stop_stream, following) = stream;
        stop_stream.send_replace(true);
        if following.await.is_err() {
            tracing::error!("the stream to the control plane ended in a panic");
        }
        tasks.shutdown().await;
        let log = evidence.clone();
        let last = move || {
            // What became of those that were told last is known then, and what was not written is told again.
            if let Err(error) = shared.refusals.flush_last(&shared.journal, shared.clock.now()) {
                tracing::warn!(%error, "the last refusals could not be recorded");
            }
            if let Err(error) = shared.denials.flush(&shared.journal, shared.clock.now(), true) {
                tracing::warn!(%error, "the last denials could not be counted");
            }
            // What was recorded last is under a checkpoint before archive and copy are brought up to it.
            if keeper.is_some() || log.journal().remote().is_some() {
                log.checkpoint_now();
            }
            if let Some(keeper) = keeper {
                keeper.stop();
            }
        };
        drop(tokio::task::spawn_blocking(last).await);
        copy.0.send_replace(true);
        if copy.1.await.is_err() {
            tracing::error!("the copy of the log ended in a panic");
        }
        drop(tokio::task::spawn_blocking(move || evidence.shutdown()).await);
    }
}

/// The way to the copy of the log, where there is one. It ends last: what is recorded at the end gets there, too.
fn keep_copy(
    settings: &GatewaySettings,
    evidence: &Arc<EvidenceLog>,
    runtime: &Runtime,
) -> (watch::Sender<bool>, JoinHandle<()>) {
    let (endpoint, log, evidence_dir) = (settings.control.clone(), evidence.clone(), settings.evidence.dir.clone());
    let stop = watch::Sender::new(false);
    let keeping = sync::keep_copy(sync::CopyParts { endpoint, log, evidence_dir }, stop.subscribe());
    let keeping = runtime.spawn(keeping);
    (stop, keeping)
}

/// Whose tokens are taken, and with what ours are signed.
struct Tokens {
    issuer: GatewayIssuer,
    access_key: Arc<SigningKey>,
    upstream_key: Arc<SigningKey>,
    issuers: Arc<Issuers>,
    verifier: Arc<TokenVerifier>,
}

fn tokens(settings: &GatewaySettings, clock: &Arc<dyn Clock>) -> Result<Tokens, GatewayError> {
    let access_key = Arc::new(signing_key(&settings.state_dir.join("access-token.key"))?);
    let upstream_key = Arc::new(signing_key(&settings.state_dir.join("upstream-token.key"))?);
    let issuer = GatewayIssuer::new(&settings.audience);
    let fault = |why: String| GatewayError::Issuer { issuer: settings.audience.clone(), why };
    let own_keys = KeySet::parse(access_key.jwks().as_bytes()).map_err(|error| fault(error.to_string()))?;
    let trusted = settings.issuers.iter().map(trusted).collect::<Result<Vec<_>, _>>()?;
    let issuers = Issuers::new(&issuer, &settings.audience, own_keys, trusted, clock.clone())
        .map_err(|error| fault(error.to_string()))?;
    let revoked = Arc::new(RevokedTokens::default());
    let verifier = Arc::new(TokenVerifier::new(issuers.clone(), revoked, settings.limits.token_cache_bytes));
    Ok(Tokens { issuer, access_key, upstream_key, issuers, verifier })
}

/// What the stream from the control plane works on.
fn stream(settings: &GatewaySettings, shared: &Shared, evidence: &Arc<EvidenceLog>) -> sync::Parts {
    sync::Parts {
        trust: Arc::default(),
        endpoint: settings.control.clone(),
        clock: shared.authority.clone(),
        published: shared.published.clone(),
        registry: shared.registry.clone(),
        meter: shared.meter.clone(),
        revoked: shared.verifier.revoked().clone(),
        name: settings.name.clone(),
        log: evidence.clone(),
        evidence_dir: settings.evidence.dir.clone(),
        metrics: shared.metrics.clone(),
    }
}

fn random<const N: usize>() -> Result<[u8; N], GatewayError> {
    let mut random = [0; N];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| GatewayError::Random)?;
    Ok(random)
}

async fn keep_own_fresh(shared: Arc<Shared>) {
    if let Some(own) = shared.upstream_trust.own() {
        own.keep_fresh(&shared.metrics).await;
    }
}

fn private_dir(path: &Path) -> Result<(), GatewayError> {
    crate::files::private_dir(path)
        .map_err(|error| GatewayError::State { file: path.display().to_string(), why: error.to_string() })
}

/// The signing key in `file`, made when there is none.
fn signing_key(file: &Path) -> Result<SigningKey, GatewayError> {
    let fault = |why: String| GatewayError::State { file: file.display().to_string(), why };
    match crate::files::read_private(file, MAX_KEY_FILE_BYTES).map(Zeroizing::new) {
        Ok(pem) => {
            let pem = std::str::from_utf8(&pem).map_err(|error| fault(error.to_string()))?;
            SigningKey::from_pkcs8_pem(pem).map_err(|error| fault(error.to_string()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = SigningKey::generate(KeyAlgorithm::Es256).map_err(|error| fault(error.to_string()))?;
            let pem = key.to_pkcs8_pem().map_err(|error| fault(error.to_string()))?;
            crate::files::create_new(file, pem.as_bytes(), 0o600).map_err(|error| fault(error.to_string()))?;
            Ok(key)
        }
        Err(error) => Err(fault(error.to_string())),
    }
}

/// The log of this gateway, under its own name and key.
fn open_evidence(settings: &GatewaySettings, clock: Arc<dyn Clock>) -> Result<EvidenceLog, GatewayError> {
    let file = settings.state_dir.join("evidence.key");
    let fault = |why: String| GatewayError::State { file: file.display().to_string(), why };
    let made = settings.control.certificate_file.with_file_name("evidence.key");
    incarnation::adopt_key(&made, &file).map_err(|error| fault(format!("from {}: {error}", made.display())))?;
    let key = EvidenceKey::load_or_create(&file).map_err(|error| fault(error.to_string()))?;
    let number = incarnation::number(&settings.state_dir).map_err(|error| fault(error.to_string()))?;
    let origin = incarnation::origin(&settings.name, number).map_err(|error| fault(error.to_string()))?;
    let options = JournalOptions {
        durability: match settings.evidence.durability {
            crate::settings::Durability::Disk => Durability::Disk,
            crate::settings::Durability::Process => Durability::Process,
            crate::settings::Durability::Remote => Durability::Remote,
        },
        segment_bytes: settings.evidence.segment_bytes,
        remote_within: settings.evidence.remote_within,
        ..JournalOptions::default()
    };
    let writer = Writer {
        program: concat!("portcullis ", env!("CARGO_PKG_VERSION")).to_owned(),
        boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
    };
    let (log, report) = EvidenceLog::open(&settings.evidence.dir, origin, key, &writer, options, clock)?;
    tracing::info!(?report, dir = %settings.evidence.dir.display(), "the evidence is open");
    Ok(log)
}

fn trusted(settings: &IssuerSettings) -> Result<TrustedIssuer, GatewayError> {
    TrustedIssuer::try_from(settings).map_err(|faults| GatewayError::Issuer {
        issuer: settings.issuer.clone(),
        why: faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    })
}

/// Binds every listener for every worker and starts them. Port 0 is picked by the first worker and taken by the others.
fn start_workers(
    settings: &GatewaySettings,
    shared: &Arc<Shared>,
    shutdown: &watch::Sender<bool>,
) -> Result<(Vec<SocketAddr>, Vec<worker::Handle>), GatewayError> {
    let mut addresses = Vec::new();
    let mut of_worker: Vec<Vec<Listening>> = (0..settings.workers).map(|_| Vec::new()).collect();
    for (place, listener) in settings.listen.iter().enumerate() {
        let tls = shared.tls.listener(place);
        let mut address = listener.address;
        for (index, listening) in of_worker.iter_mut().enumerate() {
            let bound = Listening::bind(address, tls.clone())?;
            address = bound.address()?;
            if index == 0 {
                addresses.push(address);
            }
            listening.push(bound);
        }
    }
    let workers = of_worker
        .into_iter()
        .enumerate()
        .map(|(index, listeners)| worker::start(index, shared.clone(), listeners, shutdown.subscribe(), settings.drain))
        .collect::<Result<Vec<_>, _>>()?;
    Ok((addresses, workers))
}

async fn flush_refusals(shared: Arc<Shared>) {
    let mut every = tokio::time::interval(REFUSALS_EVERY);
    loop {
        every.tick().await;
        if let Err(error) = shared.refusals.flush(&shared.journal, shared.clock.now()) {
            tracing::debug!(%error, "refusals could not be recorded yet");
        }
        if let Err(error) = shared.denials.flush(&shared.journal, shared.clock.now(), false) {
            tracing::debug!(%error, "denials could not be counted yet");
        }
    }
}
