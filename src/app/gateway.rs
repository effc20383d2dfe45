//! A gateway as a process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::signals::{Hangups, Signals};
use super::{AppError, on_runtime};
use crate::clock::SystemClock;
use crate::evidence::keyed::{self, Rotated};
use crate::gateway::Gateway;
use crate::gateway::incarnation::{self, Sealed};
use crate::settings::GatewaySettings;
use crate::telemetry;

/// Runs the gateway of the settings at `config` until a signal, or its admin endpoint, ends it.
///
/// # Errors
/// When the settings are wrong or a part does not start.
pub fn run(config: &Path) -> Result<(), AppError> {
    super::crypto();
    let mut settings = GatewaySettings::load(config)?;
    settings.name = incarnation::replica(&settings.state_dir, &settings.name);
    telemetry::start(settings.log).map_err(AppError::part("log"))?;
    on_runtime(async {
        let mut signals = Signals::listen()?;
        let mut hangups = Hangups::listen()?;
        let gateway = start(&settings).await?;
        tracing::info!(listeners = ?gateway.listeners(), admin = %gateway.admin(), "the gateway listens");
        loop {
            tokio::select! {
                () = signals.next() => break,
                () = gateway.drain_requested() => break,
                () = hangups.next() => gateway.reload().await,
            }
        }
        tokio::select! {
            () = gateway.shutdown() => Ok(()),
            () = signals.next() => Err(AppError::Impatient),
        }
    })
}

/// Sets the log of the gateway of the settings at `config` aside, while it does not run, and has the next one begin.
///
/// # Errors
/// When the settings are wrong, the gateway runs, or the log cannot be moved.
pub fn seal(config: &Path) -> Result<Sealed, AppError> {
    let settings = GatewaySettings::load(config)?;
    incarnation::seal(&settings.state_dir, &settings.evidence.dir).map_err(AppError::part("gateway"))
}

/// Puts a new key for hashes in the place of the one that the gateway of the settings at `config` uses. A running one takes
/// it within two seconds.
///
/// # Errors
/// When the settings are wrong, or a file cannot be read or written.
pub fn rotate_hash_key(config: &Path) -> Result<Rotated, AppError> {
    let settings = GatewaySettings::load(config)?;
    keyed::rotate(&settings.state_dir).map_err(AppError::part("gateway"))
}

/// Starts a gateway on this runtime.
pub(super) async fn start(settings: &GatewaySettings) -> Result<Gateway, AppError> {
    for listener in &settings.listen {
        alone(listener.address)?;
    }
    let runtime = tokio::runtime::Handle::current();
    Gateway::start(settings, Arc::new(SystemClock), &runtime).await.map_err(AppError::part("gateway"))
}

/// The workers share their ports among each other (SO_REUSEPORT), and the kernel would share them with another gateway
/// of the same user too: callers would meet now the one, now the other. So nobody may listen there yet.
pub(super) fn alone(address: SocketAddr) -> Result<(), AppError> {
    if address.port() == 0 {
        return Ok(());
    }
    match std::net::TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Err(AppError::Conflict(format!("{address}: somebody else listens there already")))
        }
        Err(error) => Err(AppError::io(format!("cannot listen at {address}"))(error)),
    }
}
