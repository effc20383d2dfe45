//! The control plane as a process: its keys made, its parts run.

mod log;
mod offline;
mod restored;
mod witnessing;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

pub(super) use log::ControlLog;
pub use offline::{PutInPlace, apply, publish};
pub use restored::{RestoredStore, restored};
use witnessing::Witnessing;

use super::signals::Signals;
use super::{AppError, on_runtime};
use crate::clock::SystemClock;
use crate::control::authority::AuthorityKey;
use crate::control::authorize::Caller;
use crate::control::enrol::{self, Issuing, PersonSpec, Subject};
use crate::control::record::PersonRole;
use crate::control::{ControlPlane, Core};
use crate::domain::Clock;
use crate::domain::name::{GatewayName, OwnerName};
use crate::evidence::checkpoint::EvidenceKey;
use crate::gateway::incarnation;
use crate::settings::ControlSettings;
use crate::{files, telemetry};

/// The file with the key by which gateways know the control plane's word, beside each `ca.pem`.
const KEYS_FILE: &str = "control.vkey";

/// Whom `init` makes sure of, besides the administrator.
#[derive(Clone, Debug, Default)]
pub struct Enrol {
    /// Host names and addresses in the control plane's certificate, besides those of loopback.
    pub names: Vec<String>,
    /// Host names and addresses in the gateways' certificates, besides those of loopback.
    pub gateway_names: Vec<String>,
    /// People, each with what they may do by standing.
    pub people: Vec<(OwnerName, Vec<String>)>,
    /// Gateways to register and certify.
    pub gateways: Vec<GatewayName>,
}

/// What `init` made sure of.
#[derive(Clone, Debug, Serialize)]
pub struct Enrolled {
    /// The CA's certificate, for command lines and gateways to pin; `control.vkey` lies beside it.
    pub ca: PathBuf,
    /// The administrator's token.
    pub administrator: PathBuf,
    /// The tokens of the people who were named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub people: Vec<PathBuf>,
    /// Each gateway's directory with `gateway.pem`, `gateway.key`, `evidence.key`, `ca.pem` and `control.vkey`.
    pub gateways: Vec<PathBuf>,
}

/// Makes sure of what the settings at `config` name: the CA in `STATE/ca`, the server's certificate and key, the store,
/// the administrator with the token in `STATE/people/administrator`, and the gateways with their certificates in
/// `STATE/gateways/NAME`. What is there and good stays.
///
/// # Errors
/// When the settings are wrong, a file cannot be written, or what is there is not usable.
pub fn init(config: &Path, enrol: &Enrol) -> Result<Enrolled, AppError> {
    super::crypto();
    let settings = ControlSettings::load(config)?;
    on_runtime(async { initialize(&settings, enrol).await })
}

async fn initialize(settings: &ControlSettings, enrol: &Enrol) -> Result<Enrolled, AppError> {
    if enrol.people.iter().any(|(name, _)| name.as_str() == "administrator") {
        return Err(AppError::Usage("the administrator is made in any case, and stays one".to_owned()));
    }
    let (gone, stay): (Vec<_>, Vec<_>) = enrol.people.iter().partition(|(_, names)| *names == [GONE]);
    let standing = stay.into_iter().map(|(name, names)| Ok((name, roles(names)?)));
    let standing = standing.collect::<Result<Vec<_>, AppError>>()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let io = |path: &Path| AppError::io(format!("cannot use {}", path.display()));
    files::private_dir(&settings.state_dir).map_err(io(&settings.state_dir))?;
    let ca_dir = &settings.ca_dir;
    files::private_dir(ca_dir).map_err(io(ca_dir))?;
    let core = Core::open(settings, clock.clone()).await.map_err(part)?;
    let issuing = enrol::Issuing::open(settings, &core.handle().model(), &*clock).await.map_err(part)?;
    let server = Subject::Server { names: enrol.names.clone() };
    let (certificate, key) = (&settings.tls.certificate_file, &settings.tls.key_file);
    issuing.ca.issue(&server, certificate, key, &*clock).await.map_err(part)?;
    if !settings.tls.client_ca_file.exists() {
        let file = &settings.tls.client_ca_file;
        files::write(file, issuing.bundle.as_bytes(), files::PUBLIC).map_err(io(file))?;
    }
    let authority = AuthorityKey::open_or_create(&settings.state_dir, &settings.trust_domain).map_err(part)?;
    let keys = ca_dir.join(KEYS_FILE);
    files::write(&keys, format!("{}\n", authority.verifier()).as_bytes(), files::PUBLIC).map_err(io(&keys))?;
    let people = settings.state_dir.join("people");
    let administrator = person(&core, "administrator", &[PersonRole::Administrator], &people).await;
    let gateways = register(&core, (&issuing, &authority), settings, enrol, &*clock).await;
    let mut named = Vec::new();
    for (name, roles) in &standing {
        named.push(person(&core, name.as_str(), roles, &people).await);
    }
    for (name, _) in gone {
        let file = people.join(name.as_str());
        let removed = core.handle().forget_person(&Caller::System, name.clone()).await;
        removed.map_err(AppError::part("people"))?;
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&file)(error)),
            Ok(()) | Err(_) => {}
        }
    }
    core.shutdown().await;
    Ok(Enrolled {
        ca: ca_dir.join(enrol::CA_FILE),
        administrator: administrator?,
        people: named.into_iter().collect::<Result<_, _>>()?,
        gateways: gateways?,
    })
}

async fn register(
    core: &Core,
    (issuing, authority): (&Issuing, &AuthorityKey),
    settings: &ControlSettings,
    enrol: &Enrol,
    clock: &dyn Clock,
) -> Result<Vec<PathBuf>, AppError> {
    let mut made = Vec::new();
    for name in &enrol.gateways {
        let dir = settings.state_dir.join("gateways").join(name.as_str());
        gateway(core, (issuing, authority), name, &enrol.gateway_names, &dir, clock).await?;
        made.push(dir);
    }
    Ok(made)
}

/// In place of a standing: whoever is named has left.
const GONE: &str = "none";

/// What a person may stand as, by its names.
fn roles(names: &[String]) -> Result<Vec<PersonRole>, AppError> {
    let all = [PersonRole::Administrator, PersonRole::Security, PersonRole::Owner, PersonRole::Developer];
    let find = |name: &String| {
        let found = all.into_iter().find(|role| role.as_str() == name);
        found.ok_or_else(|| {
            AppError::Usage(format!(
                "`{name}` is none of administrator, security, owner, developer; `none` alone removes them"
            ))
        })
    };
    names.iter().map(find).collect()
}

/// Makes sure of a person; answers where their token is.
pub(super) async fn person(core: &Core, name: &str, roles: &[PersonRole], dir: &Path) -> Result<PathBuf, AppError> {
    let name: OwnerName = name.parse().map_err(AppError::part("people"))?;
    let file = dir.join(name.as_str());
    let spec = PersonSpec { name, roles: roles.to_vec(), speaks_for: Vec::new() };
    enrol::ensure_person(core.handle(), spec, &file).await.map_err(part)?;
    Ok(file)
}

/// Makes sure of a gateway's record, and of `gateway.pem`, `gateway.key`, `evidence.key`, `ca.pem` and `control.vkey` in `dir`.
pub(super) async fn gateway(
    core: &Core,
    (issuing, authority): (&Issuing, &AuthorityKey),
    name: &GatewayName,
    names: &[String],
    dir: &Path,
    clock: &dyn Clock,
) -> Result<(), AppError> {
    let io = |path: &Path| AppError::io(format!("cannot use {}", path.display()));
    files::private_dir(dir).map_err(io(dir))?;
    let subject = Subject::Gateway { name: name.clone(), names: names.to_vec() };
    issuing.ca.issue(&subject, &dir.join("gateway.pem"), &dir.join("gateway.key"), clock).await.map_err(part)?;
    files::write(&dir.join("ca.pem"), issuing.bundle.as_bytes(), files::PUBLIC).map_err(io(dir))?;
    let keys = format!("{}\n", authority.verifier());
    files::write(&dir.join(KEYS_FILE), keys.as_bytes(), files::PUBLIC).map_err(io(dir))?;
    let evidence = EvidenceKey::load_or_create(&dir.join("evidence.key")).map_err(part)?;
    let origin = incarnation::origin(name, 1).map_err(part)?;
    enrol::ensure_gateway(core.handle(), name, &evidence.verifier(&origin).to_string(), clock.now()).await.map_err(part)
}

/// Runs the control plane of the settings at `config` until a signal ends it.
///
/// # Errors
/// When the settings are wrong or a part does not start.
pub fn run(config: &Path) -> Result<(), AppError> {
    super::crypto();
    let settings = ControlSettings::load(config)?;
    telemetry::start(settings.log).map_err(AppError::part("log"))?;
    on_runtime(async {
        let mut signals = Signals::listen()?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let log = Arc::new(ControlLog::open(&settings, clock.clone())?);
        let plane = ControlPlane::start(&settings, clock, log.clone()).await.map_err(part)?;
        let witnessing = Witnessing::start(&settings, log.evidence(), log.storage(), plane.witnessed()).await?;
        tracing::info!(grpc = %plane.grpc_address(), http = %plane.http_address(), https = ?plane.https_address(), "the control plane is ready");
        signals.next().await;
        tracing::info!("ending: what runs has {:?}", settings.drain);
        let ended = async {
            witnessing.end().await;
            plane.shutdown().await;
            log.close().await;
        };
        tokio::select! {
            () = ended => Ok(()),
            () = signals.next() => Err(AppError::Impatient),
        }
    })
}

pub(super) fn part(why: impl std::fmt::Display) -> AppError {
    AppError::Part { part: "control plane", why: why.to_string() }
}
