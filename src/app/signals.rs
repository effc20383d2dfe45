//! SIGINT and SIGTERM: the first asks to end, the second ends.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::AppError;

/// The signals that end a process.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From here on the signals are this value's to see.
    pub(super) fn listen() -> Result<Self, AppError> {
        let to = |kind| signal(kind).map_err(AppError::io("cannot listen for signals"));
        Ok(Self { interrupt: to(SignalKind::interrupt())?, terminate: to(SignalKind::terminate())? })
    }

    /// The next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
