//! TLS of the listeners: our own rustls configuration, client certificates by the bundle of their trust domain, and both
//! exchanged while the gateway runs.
//!
//! No resumption in any version: a resumed session would carry the identity of the first one without the verifier having
//! run. All listeners change together or not at all: a file that is bad leaves everything as it was. Refuses to know what
//! a call is; whose certificate is trusted no more is told by its open connections ([`clients`]).

mod clients;
mod material;
mod verify;
mod workload;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;

use clients::Clients;
pub(crate) use clients::OpenClient;
use material::{Material, TrustMaterial};
pub(crate) use material::{Stamp, chain_and_key};
use verify::SvidVerifier;
use workload::Workloads;

use super::authority::AuthorityClock;
use super::live::{Registry, Verdict};
use super::metrics::Metrics;
use crate::domain::Reason;
use crate::settings::gateway::{Listener, ListenerTls, SniRule, TlsVersion};

/// How often the files are looked at. A change takes effect within this and the time to read them.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why a listener cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not what it should be.
    #[error("{file}: {why}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// The parts do not go together.
    #[error(transparent)]
    Config(#[from] rustls::Error),
}

/// The TLS of one listener.
#[derive(Debug)]
pub(crate) struct TlsListener {
    settings: ListenerTls,
    current: ArcSwap<Current>,
}

/// What new connections of a listener are served with.
#[derive(Debug)]
pub(crate) struct Current {
    /// For the handshake.
    pub(crate) config: Arc<ServerConfig>,
    verifier: Option<Arc<SvidVerifier>>,
    trust: Option<TrustMaterial>,
}

impl TlsListener {
    /// Whether the host of a request is the name that its connection's handshake said.
    pub(crate) fn holds_to_names(&self) -> bool {
        self.settings.sni == SniRule::Match
    }

    /// What a connection that comes now is served with.
    pub(crate) fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }
}

/// The TLS of all listeners.
#[derive(Debug)]
pub(crate) struct Tls {
    /// In the order of the settings' listeners; `None`: a plain one.
    listeners: Vec<Option<Arc<TlsListener>>>,
    clients: Arc<Clients>,
    workloads: Workloads,
    clock: Arc<AuthorityClock>,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    /// One reload at a time.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Of what was last read.
    sources: Sources,
    /// Why they could not be used, when they could not.
    failing: Option<String>,
}

/// Tells one state of everything that TLS is made of from another.
#[derive(Debug, PartialEq, Eq)]
struct Sources {
    files: Vec<Option<Stamp>>,
    agents: Vec<u64>,
}

impl Sources {
    fn of<'a>(listeners: impl Iterator<Item = &'a ListenerTls>, workloads: &Workloads) -> Self {
        let files = listeners.flat_map(material::files).map(|file| Stamp::of(&file)).collect();
        Self { files, agents: workloads.revisions() }
    }
}

/// What came of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reloaded {
    /// What is in the files is in force.
    InForce,
    /// Something in them is bad: everything is as it was.
    Kept,
}

impl Tls {
    /// Reads the files of all listeners, and connects to their agents on this runtime.
    ///
    /// # Errors
    /// When one cannot be used or the parts do not fit.
    pub(crate) async fn load(
        listeners: &[Listener],
        clock: Arc<AuthorityClock>,
        registry: Arc<Registry>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, TlsError> {
        let workloads = Workloads::connect(listeners).await?;
        let of_listener = |listener: &Listener| {
            let Some(settings) = listener.tls.clone() else { return Ok(None) };
            let current = ArcSwap::from_pointee(current(&settings, Material::read(&settings, &workloads)?, &clock)?);
            Ok(Some(Arc::new(TlsListener { settings, current })))
        };
        // Before they are read: what changes meanwhile is seen by the next look.
        let sources = Sources::of(listeners.iter().filter_map(|listener| listener.tls.as_ref()), &workloads);
        let listeners = listeners.iter().map(of_listener).collect::<Result<_, TlsError>>()?;
        let state = Mutex::new(State { sources, failing: None });
        Ok(Arc::new(Self { listeners, clients: Arc::default(), workloads, clock, registry, metrics, state }))
    }

    /// The TLS of the listener at this place of the settings.
    pub(crate) fn listener(&self, place: usize) -> Option<Arc<TlsListener>> {
        self.listeners.get(place).cloned().flatten()
    }

    /// Looks at the files for as long as the gateway runs.
    pub(crate) async fn keep_fresh(self: Arc<Self>) {
        if self.in_use().next().is_none() {
            return;
        }
        let mut updates = self.workloads.updates();
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = every.tick() => {}
                () = workload::changed(&mut updates) => {}
            }
            let tls = self.clone();
            // Ended in a panic: the next look finds the same.
            let _ = tokio::task::spawn_blocking(move || tls.look()).await;
        }
    }

    /// Reloads when a file has changed, and again for as long as one is bad. Blocks.
    fn look(&self) {
        let mut state = self.state.lock();
        if state.failing.is_some() || self.sources() != state.sources {
            self.reload_under(&mut state);
        }
    }

    /// Reads all files anew, whether they changed or not. Blocks.
    pub(crate) fn reload(&self) -> Reloaded {
        self.reload_under(&mut self.state.lock())
    }

    fn sources(&self) -> Sources {
        Sources::of(self.in_use().map(|listener| &listener.settings), &self.workloads)
    }

    fn in_use(&self) -> impl Iterator<Item = &Arc<TlsListener>> {
        self.listeners.iter().flatten()
    }

    fn reload_under(&self, state: &mut State) -> Reloaded {
        state.sources = self.sources();
        let read = |listener: &Arc<TlsListener>| {
            current(&listener.settings, Material::read(&listener.settings, &self.workloads)?, &self.clock).map(Arc::new)
        };
        match self.in_use().map(read).collect::<Result<Vec<_>, TlsError>>() {
            Ok(new) => {
                state.failing = None;
                self.metrics.tls_reloaded();
                tracing::info!("the TLS files were read and are in force");
                self.put_in_force(new);
                Reloaded::InForce
            }
            Err(error) => {
                self.metrics.tls_reload_failed();
                let error = error.to_string();
                if state.failing.as_ref() != Some(&error) {
                    tracing::error!(%error, "the TLS files cannot be used: what was in force stays in force");
                }
                state.failing = Some(error);
                Reloaded::Kept
            }
        }
    }

    fn put_in_force(&self, new: Vec<Arc<Current>>) {
        let mut changed = false;
        for (listener, new) in self.in_use().zip(new) {
            let old = listener.current.swap(new.clone());
            changed |= old.trust != new.trust;
        }
        // INVARIANT: in force first, looked through second; `enter` does it the other way round. So a connection whose
        // handshake was under what is gone is found by either the one or the other.
        if changed {
            let now = self.now();
            self.withdraw(self.clients.untrusted(|client| client.verify(now).is_err()));
        }
    }

    /// A connection with a verified client certificate begins; it is over when what is returned is dropped.
    /// `current` is what its handshake was done with.
    pub(crate) fn enter(
        &self,
        listener: &Arc<TlsListener>,
        current: &Arc<Current>,
        chain: Vec<CertificateDer<'static>>,
    ) -> Arc<OpenClient> {
        let client = self.clients.enter(listener.clone(), chain);
        if !Arc::ptr_eq(&listener.current(), current) && client.verify(self.now()).is_err() {
            self.withdraw(vec![client.clone()]);
        }
        client
    }

    /// Ends every call of these connections, and every one that would follow.
    fn withdraw(&self, clients: Vec<Arc<OpenClient>>) {
        if clients.is_empty() {
            return;
        }
        // INVARIANT: marked first, cut second; a call registers first and looks at the mark second.
        clients.iter().for_each(|client| client.withdraw());
        self.metrics.connections_withdrawn(clients.len());
        let ids: HashSet<_> = clients.iter().map(|client| client.id()).collect();
        let cut = self.registry.review(|running| match running.connection {
            Some(id) if ids.contains(&id) => Verdict::Cut(Reason::CredentialUntrusted),
            _ => Verdict::Keep,
        });
        tracing::warn!(
            connections = clients.len(),
            running = cut.len(),
            "client certificates are trusted no more: their connections are good for no call"
        );
    }

    fn now(&self) -> UnixTime {
        unix_time(&self.clock)
    }
}

/// The configuration of a listener.
fn current(settings: &ListenerTls, material: Material, clock: &Arc<AuthorityClock>) -> Result<Current, TlsError> {
    let Material { chain, key, trust } = material;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = match (&settings.clients, &trust) {
        (None, _) => None,
        (Some(clients), Some(trust)) => Some(Arc::new(SvidVerifier::new(clients.certificate, trust, &provider)?)),
        // Whose certificates are taken is not known: nobody's.
        (Some(_), None) => return Err(rustls::Error::General("client certificates without authorities".into()).into()),
    };
    let versions: &[_] = match settings.min_version {
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
    };
    let builder = ServerConfig::builder_with_details(provider, Arc::new(GateTime(clock.clone())))
        .with_protocol_versions(versions)?;
    let builder = match verifier.clone() {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    // Refuses a key that is not the certificate's: of two files, one may be written before the other.
    let mut config = builder.with_single_cert(chain, key)?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Current { config: Arc::new(config), verifier, trust })
}

/// The gate's own time, which never goes back: a clock that is set back revives no certificate.
#[derive(Debug)]
pub(crate) struct GateTime(pub(crate) Arc<AuthorityClock>);

impl TimeProvider for GateTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(&self.0))
    }
}

fn unix_time(clock: &AuthorityClock) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_micros(u64::try_from(clock.wall().unix_micros()).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
