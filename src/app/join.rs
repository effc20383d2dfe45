//! A gateway joins: its keys are made here and never leave, and what it pins comes with its invitation.

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, PublicKeyData as _};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{AppError, on_runtime};
use crate::client::fleet::Invitation;
use crate::client::target::ClientCertificate;
use crate::client::{Client, Target};
use crate::control::enrol;
use crate::evidence::checkpoint::EvidenceKey;
use crate::files;
use crate::gateway::incarnation;
use crate::settings::GatewaySettings;
use crate::wire::{replica_name, v1};

/// Largest key or invitation that is read.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// What was made.
#[derive(Clone, Debug, Serialize)]
pub struct Joined {
    /// The gateway.
    pub gateway: String,
    /// Its certificate.
    pub certificate: PathBuf,
    /// The CA that it pins.
    pub ca: PathBuf,
}

/// Joins with the invitation in a file: makes the keys of the settings at `config` where they are missing, has them
/// certified, and writes the certificate, the CA and the control plane's keys where the settings say. The invitation is
/// removed: it is spent.
///
/// # Errors
/// When the settings or the invitation are wrong, a file cannot be written, or the control plane refuses.
pub fn join(config: &Path, invitation: &Path) -> Result<Joined, AppError> {
    super::crypto();
    let settings = GatewaySettings::load(config)?;
    let text = files::read_private(invitation, MAX_FILE_BYTES).map(Zeroizing::new);
    let text = text.map_err(AppError::io(format!("cannot read {}", invitation.display())))?;
    let invited: Invitation =
        serde_json::from_slice(&text).map_err(|error| part(&format!("the invitation: {error}")))?;
    if invited.gateway != settings.name.as_str() {
        let (gateway, name) = (&invited.gateway, &settings.name);
        return Err(part(&format!("the invitation is for gateway {gateway}, and the settings are of {name}")));
    }
    let joined = on_runtime(certified(&settings, &invited))?;
    std::fs::remove_file(invitation).map_err(AppError::io(format!("cannot remove {}", invitation.display())))?;
    Ok(joined)
}

/// What somebody else says of who joins.
#[derive(Clone, Debug)]
pub enum Attest {
    /// An X.509-SVID and its key, PEM files.
    Spiffe {
        /// The chain, the SVID first.
        svid: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// A Kubernetes projected service account token.
    Kubernetes {
        /// The file.
        token: PathBuf,
    },
}

/// Joins by somebody else's word, as a replica of the template that the settings at `config` name (`name`): makes the keys
/// where they are missing, has them certified, and writes what the settings say, and the replica's name into its state.
/// The CA that the control plane's certificate must come from is there already, in `control.ca_file`.
///
/// # Errors
/// When the settings are wrong, a file cannot be read or written, or the control plane refuses.
pub fn attest(config: &Path, attest: &Attest) -> Result<Joined, AppError> {
    super::crypto();
    let mut settings = GatewaySettings::load(config)?;
    let template = settings.name.to_string();
    let io = |path: &Path| AppError::io(format!("cannot use {}", path.display()));
    let read = |path: &Path| std::fs::read(path).map_err(io(path));
    let (mut token, mut certificate) = (None, None);
    match attest {
        Attest::Spiffe { svid, key } => {
            let pem = Zeroizing::new(read(key)?);
            let key_pem = Zeroizing::new(String::from_utf8_lossy(&pem).into_owned());
            certificate = Some(ClientCertificate { chain_pem: read(svid)?, key_pem });
        }
        Attest::Kubernetes { token: file } => {
            let text = Zeroizing::new(read(file)?);
            token = Some(Zeroizing::new(String::from_utf8_lossy(&text).trim().to_owned()));
        }
    }
    let target = Target {
        address: format!("https://{}", settings.control.address.authority()),
        ca_pem: read(&settings.control.ca_file)?,
        token,
        signed_in: None,
        certificate,
    };
    files::private_dir(&settings.state_dir).map_err(io(&settings.state_dir))?;
    let key = enrol::key(&settings.control.key_file).map_err(|error| part(&error))?;
    let name = replica_name(&template, &key.subject_public_key_info());
    settings.name = name.parse().map_err(|error| part(&error))?;
    let joined = on_runtime(asked(&settings, &target, template))?;
    // Last: with it the gateway goes by that name.
    incarnation::name_replica(&settings.state_dir, &settings.name).map_err(|error| part(&error))?;
    Ok(joined)
}

async fn certified(settings: &GatewaySettings, invited: &Invitation) -> Result<Joined, AppError> {
    let target = Target {
        address: invited.address.clone(),
        ca_pem: invited.ca.clone().into_bytes(),
        token: Some(Zeroizing::new(invited.token.clone())),
        signed_in: None,
        certificate: None,
    };
    asked(settings, &target, String::new()).await
}

async fn asked(settings: &GatewaySettings, target: &Target, template: String) -> Result<Joined, AppError> {
    let io = |path: &Path| AppError::io(format!("cannot use {}", path.display()));
    files::private_dir(&settings.state_dir).map_err(io(&settings.state_dir))?;
    let key = enrol::key(&settings.control.key_file).map_err(|error| part(&error))?;
    let request = CertificateParams::default().serialize_request(&key).map_err(|error| part(&error))?;
    let evidence = EvidenceKey::load_or_create(&settings.state_dir.join("evidence.key")).map_err(|e| part(&e))?;
    let number = incarnation::number(&settings.state_dir).map_err(|error| part(&error))?;
    let log = incarnation::origin(&settings.name, number).map_err(|error| part(&error))?;
    let mut client = Client::connect(target).await.map_err(|error| part(&error))?;
    let request = v1::CertifyRequest {
        certificate_request: request.der().to_vec(),
        evidence_key: evidence.verifier(&log).to_string(),
        template,
    };
    let answer = client.certify(request).await.map_err(|error| part(&error))?;
    let control = &settings.control;
    let keys = answer.control_keys.join("\n") + "\n";
    let written = [
        (&control.ca_file, answer.ca_pem.as_bytes()),
        (&control.keys_file, keys.as_bytes()),
        // The last one: with it the gateway can attach.
        (&control.certificate_file, answer.certificate_pem.as_bytes()),
    ];
    for (path, bytes) in written {
        // What is mounted and says the same already stays.
        if std::fs::read(path).is_ok_and(|there| there == bytes) {
            continue;
        }
        directory_of(path)?;
        files::write(path, bytes, files::PUBLIC).map_err(io(path))?;
    }
    Ok(Joined {
        gateway: settings.name.to_string(),
        certificate: control.certificate_file.clone(),
        ca: control.ca_file.clone(),
    })
}

fn directory_of(path: &Path) -> Result<(), AppError> {
    let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) else { return Ok(()) };
    files::private_dir(dir).map_err(AppError::io(format!("cannot use {}", dir.display())))
}

fn part(why: &impl std::fmt::Display) -> AppError {
    AppError::Part { part: "gateway", why: why.to_string() }
}
