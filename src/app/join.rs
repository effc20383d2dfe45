//! A gateway joins: its keys are made here and never leave, and what it pins comes with its invitation.

use std::path::{Path, PathBuf};

use rcgen::CertificateParams;
use serde::Serialize;

use super::{AppError, on_runtime};
use crate::client::fleet::Invitation;
use crate::client::{Client, Target};
use crate::control::enrol;
use crate::evidence::checkpoint::EvidenceKey;
use crate::files;
use crate::gateway::incarnation;
use crate::settings::GatewaySettings;
use crate::wire::v1;

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
    let text = files::read_private(invitation, MAX_FILE_BYTES).map(zeroize::Zeroizing::new);
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

async fn certified(settings: &GatewaySettings, invited: &Invitation) -> Result<Joined, AppError> {
    let io = |path: &Path| AppError::io(format!("cannot use {}", path.display()));
    files::private_dir(&settings.state_dir).map_err(io(&settings.state_dir))?;
    let key = enrol::key(&settings.control.key_file).map_err(|error| part(&error))?;
    let request = CertificateParams::default().serialize_request(&key).map_err(|error| part(&error))?;
    let evidence = EvidenceKey::load_or_create(&settings.state_dir.join("evidence.key")).map_err(|e| part(&e))?;
    let number = incarnation::number(&settings.state_dir).map_err(|error| part(&error))?;
    let log = incarnation::origin(&settings.name, number).map_err(|error| part(&error))?;
    let target = Target {
        address: invited.address.clone(),
        ca_pem: invited.ca.clone().into_bytes(),
        token: Some(zeroize::Zeroizing::new(invited.token.clone())),
        signed_in: None,
        certificate: None,
    };
    let mut client = Client::connect(&target).await.map_err(|error| part(&error))?;
    let request = v1::CertifyRequest {
        certificate_request: request.der().to_vec(),
        evidence_key: evidence.verifier(&log).to_string(),
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
