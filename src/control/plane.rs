//! The parts of a control plane, put together and taken apart.
//!
//! [`Core`] is the writer over its store, without a network: what `init` needs to record people and gateways.
//! [`ControlPlane`] is the core behind its addresses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::actor::{self, Actor, ControlHandle};
use super::api::{Api, ApiStartError, EvidenceService};
use super::attested::{self, Attestation};
use super::authority::{AuthorityKey, AuthorityKeyError};
use super::copies::Copies;
use super::enrol::{EnrolError, Issuing};
use super::http::Http;
use super::notify::{NotifyError, Notifying};
use super::outbox::{self, Sink};
use super::remembered::{Forgetful, Remembered, RememberedError, Untold};
use super::sign_in::{SignInError, Tokens};
use super::store::sealed::{SealError, SealKey};
use super::store::{SqliteStore, Store, StoreError};
use super::trust::{Held, TrustError};
use super::vault::{Vault, VaultError};
use super::witnessed::Witnessed;
use crate::domain::Clock;
use crate::serve::{Listener, Secure};
use crate::settings::ControlSettings;
use crate::settings::control::StoreSettings;

/// How often the store looks at its leases and its history.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Revisions of history that are kept, for watches to resume from.
const HISTORY: u64 = 100_000;
/// How much longer the history may grow before it is cut: cutting is work.
const HISTORY_SLACK: u64 = 10_000;

/// Why a control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error("the store: {}", .0.detail())]
    Store(#[from] StoreError),
    /// What it holds cannot be used.
    #[error("the store: {0}")]
    Vault(#[from] VaultError),
    /// The key that seals the store cannot be had.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The authorities that certify gateways cannot be followed.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The key that gateways know it by cannot be had.
    #[error(transparent)]
    Authority(#[from] AuthorityKeyError),
    /// The gRPC API does not come up.
    #[error(transparent)]
    Api(#[from] ApiStartError),
    /// The certificate, key or CA of HTTP over TLS cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// The HTTP address cannot be had.
    #[error("{address}: {source}")]
    Http {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Webhooks cannot be used.
    #[error("notify: {0}")]
    Notify(#[from] NotifyError),
    /// Tokens of others cannot be taken.
    #[error(transparent)]
    SignIn(#[from] SignInError),
    /// How far the evidence has come cannot be read.
    #[error("the evidence: {0}")]
    Evidence(#[from] outbox::SinkError),
    /// The store is older than the evidence.
    #[error(transparent)]
    Restored(#[from] outbox::Restored),
    /// The store is older than what was told of it.
    #[error(transparent)]
    Forgetful(#[from] Forgetful),
    /// What was told of the store cannot be read.
    #[error(transparent)]
    Remembered(#[from] RememberedError),
}

/// The writer over its store.
#[derive(Debug)]
pub struct Core {
    handle: ControlHandle,
    stop: watch::Sender<bool>,
    actor: JoinHandle<()>,
}

impl Core {
    /// Opens the store that the settings name and starts the writer.
    ///
    /// # Errors
    /// When the store or its key cannot be used, it holds what is not ours, or it is older than what was told of it.
    pub async fn open(settings: &ControlSettings, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let (actor, handle, remembered) = Self::opened(settings, clock).await?;
        // Before anything is written to it: with every commit it would look less like an old copy.
        remembered.check(actor::heard(&handle.model()))?;
        Ok(Self::work(actor, handle))
    }

    /// The same of a store that was put back from a backup, as is about to be declared.
    ///
    /// Also what ended in commits that somebody may have heard of, and that the evidence may not tell of.
    ///
    /// # Errors
    /// When the store or its key cannot be used, or it holds what is not ours.
    pub async fn open_restored(
        settings: &ControlSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Vec<Untold>), StartError> {
        let (actor, handle, remembered) = Self::opened(settings, clock).await?;
        Ok((Self::work(actor, handle), remembered.ended()))
    }

    async fn opened(
        settings: &ControlSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<(Actor, ControlHandle, Remembered), StartError> {
        let file = |path: &std::path::Path, source| StartError::File { path: path.to_owned(), source };
        crate::files::private_dir(&settings.state_dir).map_err(|e| file(&settings.state_dir, e))?;
        let StoreSettings::Sqlite { file: database } = &settings.store;
        // A store without its key is not to get a new one in silence: nothing in it would open.
        let seal = if database.exists() {
            SealKey::open_file(&settings.seal_key_file)?
        } else {
            SealKey::open_or_create(&settings.seal_key_file)?
        };
        // A crash here leaves a key and no store, which the next start takes up.
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(database, clock.clone())?);
        // Behind the store's lock: whoever had it has written what there is to remember.
        let remembered = Remembered::open(&settings.state_dir)?;
        let (actor, handle) = Actor::open(Vault::new(store, seal), clock, remembered.clone()).await?;
        Ok((actor, handle, remembered))
    }

    /// Starts the writer over a store that is open already, beside which nothing is remembered.
    ///
    /// # Errors
    /// When the store does not answer, or holds what is not ours.
    pub async fn over(store: Arc<dyn Store>, seal: SealKey, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let (actor, handle) = Actor::open(Vault::new(store, seal), clock, Remembered::default()).await?;
        Ok(Self::work(actor, handle))
    }

    fn work(actor: Actor, handle: ControlHandle) -> Self {
        let (stop, stopped) = watch::channel(false);
        let actor = tokio::spawn(actor.run(stopped));
        Self { handle, stop, actor }
    }

    /// The way to the writer.
    pub const fn handle(&self) -> &ControlHandle {
        &self.handle
    }

    /// Ends the writer; what is in its hands is finished first.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        let _ = self.actor.await;
    }
}

/// Tells who issues just now.
#[derive(Debug)]
pub struct IssuerNow(Arc<Held>);

impl IssuerNow {
    /// Who issues, and what is to be trusted, PEM; `None`: nobody issues here.
    ///
    /// # Errors
    /// When whoever keeps the key cannot be asked.
    pub async fn issuing(&self) -> Result<Option<Issuing>, EnrolError> {
        let ca = self.0.issuing().await?;
        Ok(ca.map(|ca| Issuing { bundle: self.0.bundle(&ca), ca: ca.as_ref().clone() }))
    }
}

/// A control plane at work.
#[derive(Debug)]
pub struct ControlPlane {
    core: Core,
    witnessed: Arc<Witnessed>,
    trust: Arc<Held>,
    grpc_address: SocketAddr,
    http_address: SocketAddr,
    https_address: Option<SocketAddr>,
    /// Ends what serves.
    stop: watch::Sender<bool>,
    /// Ends what follows the writer.
    settle: watch::Sender<bool>,
    serving: Vec<JoinHandle<()>>,
    following: Vec<JoinHandle<()>>,
    /// Keep the keys of issuers fresh, and end with this.
    _keys: Vec<JoinSet<()>>,
    drain: Duration,
}

impl ControlPlane {
    /// Starts everything. When it returns, requests are served at [`grpc_address`](Self::grpc_address) and
    /// [`http_address`](Self::http_address).
    ///
    /// # Errors
    /// When a part does not start; those before it are stopped.
    pub async fn start(
        settings: &ControlSettings,
        clock: Arc<dyn Clock>,
        evidence: Arc<dyn Sink>,
    ) -> Result<Self, StartError> {
        let core = Core::open(settings, clock).await?;
        Self::serve(core, settings, evidence).await
    }

    /// As [`start`](Self::start), over a core that is open already.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn serve(core: Core, settings: &ControlSettings, evidence: Arc<dyn Sink>) -> Result<Self, StartError> {
        let (stop, stopped) = watch::channel(false);
        let (settle, settled) = watch::channel(false);
        let handle = core.handle.clone();
        // Before anybody is served: with every commit the store would look less like an old copy.
        let current = handle.shared().vault.store().current_revision().await?;
        evidence.reached().await?.check(current)?;
        if let Some(kept) = &settings.evidence_copies {
            let file = |source| StartError::File { path: kept.dir.clone(), source };
            crate::files::private_dir(&kept.dir).map_err(file)?;
            let _ = handle.shared().copies.set(Copies::new(kept.clone()));
        }
        let tokens = Tokens::of(settings, handle.shared().clock.clone(), &Handle::current())?;
        let (tokens, keys) = tokens.map(|(tokens, keys)| (Arc::new(tokens), keys)).unzip();
        let trust = Held::open(settings, &handle.model(), handle.shared().clock.clone()).await?;
        let attestation =
            Attestation::of(&settings.attestation, trust.tls(), handle.shared().clock.clone(), &Handle::current())?;
        let (attestation, clusters) = (Arc::new(attestation.0), attestation.1);
        let api = Api {
            attestation,
            handle: handle.clone(),
            authority: AuthorityKey::open_or_create(&settings.state_dir, &settings.trust_domain)?,
            trust: trust.clone(),
            trust_domain: settings.trust_domain.clone(),
            tokens,
            break_glass: settings.break_glass,
            evidence: EvidenceService::new(handle.clone(), stopped.clone()),
            max_message_bytes: settings.limits.max_message_bytes,
            secrets_dir: settings.state_dir.join("secrets"),
            places: Arc::new(Semaphore::new(settings.limits.max_connections)),
            stop: stopped.clone(),
        };
        let bind = async |address| {
            // Each address has places of its own: nobody who holds all of one keeps gateways from another.
            let places = Arc::new(Semaphore::new(settings.limits.max_connections));
            let bound = Listener::bind(address, places).await;
            bound.map_err(|source| StartError::Http { address, source })
        };
        let plain = bind(settings.http_address).await?;
        let secure = match settings.https_address {
            Some(address) => Some((bind(address).await?, Secure::of(trust.tls()).map_err(StartError::Tls)?)),
            None => None,
        };
        let http_address = plain.address();
        let https_address = secure.as_ref().map(|(listener, _)| listener.address());
        let base = settings.public_url.clone().unwrap_or_else(|| format!("http://{http_address}"));
        let http = Http { plain, secure, api: api.json(base.clone()) };
        let listening = api.start(settings.grpc_address).await?;
        let parts = super::http::Parts::default();
        let shared = handle.shared().clone();
        let witnessed = Arc::new(witnessed(settings, &shared));
        let http = super::http::start(handle.clone(), parts.clone(), witnessed.clone(), http, stopped);
        let (evidence, notifying): (Arc<dyn Sink>, _) = if settings.notify.is_empty() {
            (evidence, Vec::new())
        } else {
            let (told, base) = (&settings.notify, base.as_str());
            let (sink, tasks) = Notifying::new(evidence, told, base, &shared.metrics, &shared.clock, &settled)?;
            (Arc::new(sink), tasks)
        };
        let judging = tokio::spawn(super::api::reconsidering::run(handle.clone(), stop.subscribe()));
        let unused = tokio::spawn(super::api::disuse::run(handle.clone(), stop.subscribe()));
        let draining = tokio::spawn(outbox::run(shared, evidence, settled.clone()));
        let templates = settings.attestation.templates.clone();
        let leaving = tokio::spawn(attested::let_go(handle.clone(), templates, settled.clone()));
        let watching = tokio::spawn(trust.clone().keep_domains(settled.clone()));
        let keeping = tokio::spawn(keep_house(handle, settled));
        parts.are([
            ("the writer has ended\n", &core.actor),
            ("the gRPC API has ended\n", &listening.task),
            ("the way of events to the evidence has ended\n", &draining),
            ("the store's housekeeping has ended\n", &keeping),
            ("the judging of live grants has ended\n", &judging),
            ("the ending of unused grants has ended\n", &unused),
        ]);
        Ok(Self {
            core,
            witnessed,
            trust,
            grpc_address: listening.address,
            http_address,
            https_address,
            stop,
            settle,
            serving: vec![listening.task, http, judging, unused],
            following: [draining, keeping, leaving, watching].into_iter().chain(notifying).collect(),
            _keys: keys.into_iter().chain([clusters]).collect(),
            drain: settings.drain,
        })
    }

    /// The way to the writer, for what runs in the same process.
    pub const fn handle(&self) -> &ControlHandle {
        &self.core.handle
    }

    /// Wakes when other authorities are trusted than before.
    pub fn rotated(&self) -> watch::Receiver<u64> {
        self.trust.tls().since()
    }

    /// Tells who issues, for what runs in the same process.
    pub fn issuer(&self) -> IssuerNow {
        IssuerNow(self.trust.clone())
    }

    /// How the witnesses of its log are doing, for whoever asks them.
    pub const fn witnessed(&self) -> &Arc<Witnessed> {
        &self.witnessed
    }

    /// Where gateways and the command line connect.
    pub const fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where health, metrics and the HTTP API are, without TLS.
    pub const fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// The same with TLS.
    pub const fn https_address(&self) -> Option<SocketAddr> {
        self.https_address
    }

    /// Stops taking requests, gives running ones the settings' time, then ends the writer and takes the last events to
    /// the evidence.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        for mut task in self.serving {
            if tokio::time::timeout(self.drain, &mut task).await.is_err() {
                task.abort();
            }
        }
        self.core.shutdown().await;
        self.settle.send_replace(true);
        for task in self.following {
            let _ = task.await;
        }
    }
}

fn witnessed(settings: &ControlSettings, shared: &super::actor::Shared) -> Witnessed {
    let witnesses = settings.cosigning.iter().flat_map(|it| &it.witnesses);
    // What stands before the key is the witness's name.
    let names = witnesses.map(|it| it.vkey.split('+').next().unwrap_or_default().to_owned()).collect();
    let metrics = &shared.metrics;
    Witnessed::new(names, metrics.witness_failures.clone(), metrics.witness_gauges.clone(), shared.clock.now())
}

/// What a store without a timer of its own needs from time to time.
async fn keep_house(handle: ControlHandle, mut stop: watch::Receiver<bool>) {
    let store = handle.shared().vault.store().clone();
    let mut every = tokio::time::interval(HOUSEKEEPING);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut compacted = 0;
    loop {
        tokio::select! {
            () = super::stopped(&mut stop) => return,
            _ = every.tick() => {}
        }
        let kept = async {
            store.tick().await?;
            let oldest = store.current_revision().await?.saturating_sub(HISTORY);
            if oldest > compacted + HISTORY_SLACK {
                store.compact(oldest).await?;
                compacted = oldest;
            }
            Ok::<(), StoreError>(())
        };
        if let Err(error) = kept.await {
            tracing::warn!(error = %error.detail(), "the store could not be tidied");
        }
    }
}
