//! `portcullis dev`: a control plane, a gateway and a sample upstream in one process, on loopback, in one directory.
//!
//! The parts are those that run as separate processes elsewhere and speak as they do there: settings files, mutual TLS,
//! the gRPC API. What is special is that the other end is here too: a CA, people and identities with their credentials
//! in files, so that everything can be tried at once. It refuses every address that is not loopback.

mod directory;
mod issuer;
mod sample_catalog;
mod screen;
mod settings;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use self::directory::Directory;
use self::issuer::Issuer;
use super::control::{self, ControlLog, part};
use super::sample::Sample;
use super::signals::Signals;
use super::{AppError, on_runtime};
use crate::client::target::DevFile;
use crate::clock::SystemClock;
use crate::control::authority::AuthorityKey;
use crate::control::enrol::{CertificateAuthority, Issuing, Subject};
use crate::control::record::PersonRole;
use crate::control::{ControlPlane, Core};
use crate::domain::Clock;
use crate::domain::name::{GatewayName, OwnerName};
use crate::domain::route::UpstreamUrl;
use crate::gateway::Gateway;
use crate::settings::{ControlSettings, Durability, LogSettings};
use crate::{files, telemetry};

/// The trust domain of the sample identities and of the parts.
const TRUST_DOMAIN: &str = "dev.portcullis.local";
/// What the issuer's tokens are for. Ports change between starts; this does not.
const AUDIENCE: &str = "https://gateway.dev.portcullis.local";
/// The gateway's name.
const GATEWAY: &str = "dev";
/// The sample identities.
const IDENTITIES: [&str; 3] = ["billing", "deployer", "helper"];
/// The sample people, and what they are.
const PEOPLE: [(&str, PersonRole); 4] = [
    ("administrator", PersonRole::Administrator),
    ("alice", PersonRole::Developer),
    ("bob", PersonRole::Owner),
    ("carol", PersonRole::Security),
];
/// Longest wait for the gateway to have the control plane's picture.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How often it is asked.
const READY_LOOK: Duration = Duration::from_millis(10);

/// What `dev` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The state directory.
    pub dir: PathBuf,
    /// Empty it first.
    pub fresh: bool,
    /// The service to put the gate before.
    pub upstream: Option<UpstreamUrl>,
    /// Where everything listens.
    pub addresses: Addresses,
    /// Threads of the gateway that serve callers; the machine's cores if not given.
    pub workers: Option<u64>,
    /// When a record of the gateway's evidence counts as written.
    pub durability: Durability,
}

/// Where everything listens; port 0 picks one.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The gateway, plain.
    pub gateway: SocketAddr,
    /// The gateway, mutual TLS.
    pub gateway_tls: SocketAddr,
    /// The gateway's admin listener.
    pub admin: SocketAddr,
    /// The control plane's gRPC.
    pub control: SocketAddr,
    /// The control plane's HTTP.
    pub http: SocketAddr,
}

impl Addresses {
    const fn named(&self) -> [(&'static str, SocketAddr); 5] {
        [
            ("--gateway-address", self.gateway),
            ("--gateway-tls-address", self.gateway_tls),
            ("--admin-address", self.admin),
            ("--control-address", self.control),
            ("--http-address", self.http),
        ]
    }

    /// # Errors
    /// When one of them can be reached from outside of this machine.
    fn check_loopback(&self) -> Result<(), AppError> {
        match self.named().iter().find(|(_, address)| !address.ip().is_loopback()) {
            None => Ok(()),
            Some((flag, address)) => Err(AppError::Usage(format!(
                "{flag} {address}: `portcullis dev` is for loopback alone; its keys and tokens are made to be read. \
                 For anything else there are `control run` and `gateway run`"
            ))),
        }
    }

    /// # Errors
    /// When somebody listens at one of them.
    fn check_free(&self) -> Result<(), AppError> {
        for (flag, address) in self.named() {
            super::gateway::alone(address).map_err(|error| match error {
                AppError::Conflict(why) => AppError::Conflict(format!("{flag} {why}; port 0 picks a free one")),
                other => other,
            })?;
        }
        Ok(())
    }
}

/// Runs it until a signal ends it.
///
/// # Errors
/// When an address is not loopback or taken, the directory is somebody else's or in use, or a part does not start.
pub fn run(options: &Options) -> Result<(), AppError> {
    super::crypto();
    options.addresses.check_loopback()?;
    let directory = Arc::new(Directory::take(&options.dir, options.fresh)?);
    options.addresses.check_free()?;
    telemetry::start(LogSettings::default()).map_err(AppError::part("log"))?;
    on_runtime(async {
        let mut signals = Signals::listen()?;
        let started = tokio::select! {
            started = Parts::start(options, &directory) => started?,
            () = signals.next() => return Ok(()),
        };
        let file = started.addresses();
        let json = serde_json::to_vec(&file).map_err(AppError::part("dev.json"))?;
        directory.write("dev.json", &json, files::PRIVATE)?;
        screen::print(&file, options);
        tokio::select! {
            () = signals.next() => {}
            () = started.gateway.drain_requested() => {}
        }
        tracing::info!("ending: running calls have 20 seconds; a second signal ends at once");
        tokio::select! {
            () = started.end() => Ok(()),
            () = signals.next() => Err(AppError::Impatient),
        }
    })
}

/// An ID token for one of the people of `dev`, as the provider that `dev` stands in for gives it to whoever signs in.
///
/// # Errors
/// When nobody of that name is there, or `dev` has not run in the directory.
pub fn sign_in(dir: &Path, person: &OwnerName) -> Result<Zeroizing<String>, AppError> {
    super::crypto();
    issuer::id_token(dir, person)
}

/// Everything that runs.
struct Parts {
    gateway: Gateway,
    control: ControlPlane,
    log: Arc<ControlLog>,
    _sample: Sample,
    renewing: [tokio::task::JoinHandle<()>; 2],
    evidence: PathBuf,
}

impl Parts {
    async fn start(options: &Options, directory: &Arc<Directory>) -> Result<Self, AppError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let settings = settings::control(directory, &options.addresses)?;
        let issuer = Issuer::open(directory, AUDIENCE, &IDENTITIES)?;
        let core = enrol(directory, &settings, clock.clone()).await?;
        let log = Arc::new(ControlLog::open(&settings, clock)?);
        let control = ControlPlane::serve(core, &settings, log.clone()).await.map_err(part)?;
        let sample = Sample::start().await.map_err(AppError::io("cannot start the sample upstream"))?;
        let address = format!("https://{}", control.grpc_address());
        sample_catalog::apply(directory, control.handle(), sample.address, options.upstream.as_ref()).await?;
        let settings = settings::gateway(directory, options, &address)?;
        let gateway = super::gateway::start(&settings).await?;
        ready(gateway.admin()).await?;
        let renewing = [issuer.keep(directory.clone()), follow(directory.clone(), &control)];
        let evidence = settings.evidence.dir;
        Ok(Self { gateway, control, log, _sample: sample, renewing, evidence })
    }

    fn addresses(&self) -> DevFile {
        let listener = |index: usize| self.gateway.listeners().get(index).map(ToString::to_string).unwrap_or_default();
        DevFile {
            gateway: format!("http://{}", listener(0)),
            gateway_tls: format!("https://{}", listener(1)),
            admin: format!("http://{}", self.gateway.admin()),
            control: format!("https://{}", self.control.grpc_address()),
            http: format!("http://{}", self.control.http_address()),
            evidence: self.evidence.display().to_string(),
        }
    }

    /// Callers first: the control plane has to see the last of their calls.
    async fn end(self) {
        self.renewing.iter().for_each(tokio::task::JoinHandle::abort);
        self.gateway.shutdown().await;
        self.control.shutdown().await;
        self.log.close().await;
    }
}

/// Makes sure of keys, certificates and people.
async fn enrol(directory: &Directory, settings: &ControlSettings, clock: Arc<dyn Clock>) -> Result<Core, AppError> {
    let core = Core::open(settings, clock.clone()).await.map_err(part)?;
    let issuing = Issuing::open(settings, &core.handle().model(), &*clock).await.map_err(part)?;
    let (server, tls) = (Subject::Server { names: Vec::new() }, &settings.tls);
    issuing.ca.issue(&server, &tls.certificate_file, &tls.key_file, &*clock).await.map_err(part)?;
    directory.write("ca.pem", issuing.bundle.as_bytes(), files::PUBLIC)?;
    for name in IDENTITIES {
        workload(directory, &issuing.ca, name, &*clock).await?;
    }
    for (name, role) in PEOPLE {
        control::person(&core, name, &[role], &directory.at("people")).await?;
    }
    let name: GatewayName = GATEWAY.parse().map_err(part)?;
    let authority = AuthorityKey::open_or_create(&settings.state_dir, TRUST_DOMAIN).map_err(part)?;
    control::gateway(&core, (&issuing, &authority), &name, &[], &directory.at("gateway"), &*clock).await?;
    Ok(core)
}

async fn workload(
    directory: &Directory,
    ca: &CertificateAuthority,
    name: &str,
    clock: &dyn Clock,
) -> Result<(), AppError> {
    let dir = directory.at("identities").join(name);
    files::private_dir(&dir).map_err(AppError::io(format!("cannot use {}", dir.display())))?;
    let subject = Subject::Workload(sample_catalog::spiffe_id(name).parse().map_err(part)?);
    ca.issue(&subject, &dir.join("cert.pem"), &dir.join("key.pem"), clock).await.map_err(part)?;
    Ok(())
}

/// What callers and the command line pin, and the sample identities' certificates, follow the authorities that are trusted.
fn follow(directory: Arc<Directory>, control: &ControlPlane) -> tokio::task::JoinHandle<()> {
    let (mut rotated, control) = (control.rotated(), control.issuer());
    tokio::spawn(async move {
        while rotated.changed().await.is_ok() {
            let renewed = async {
                let Some(issuing) = control.issuing().await.map_err(part)? else { return Ok(()) };
                directory.write("ca.pem", issuing.bundle.as_bytes(), files::PUBLIC)?;
                for name in IDENTITIES {
                    workload(&directory, &issuing.ca, name, &SystemClock).await?;
                }
                Ok::<(), AppError>(())
            };
            if let Err(error) = renewed.await {
                tracing::error!(%error, "the sample identities' certificates could not be renewed: start `dev` again");
            }
        }
    })
}

/// Waits until the gateway has the control plane's picture and its authority.
async fn ready(admin: SocketAddr) -> Result<(), AppError> {
    let url = format!("http://{admin}/readyz");
    let client = reqwest::Client::builder().no_proxy().build().map_err(AppError::part("gateway"))?;
    let asking = async {
        let mut every = tokio::time::interval(READY_LOOK);
        loop {
            every.tick().await;
            match client.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => return,
                Ok(_) | Err(_) => {}
            }
        }
    };
    tokio::time::timeout(READY_WITHIN, asking).await.map_err(|_| AppError::Part {
        part: "gateway",
        why: format!("did not get the control plane's picture within {} seconds", READY_WITHIN.as_secs()),
    })
}
