//! SIGINT and SIGTERM: the first asks to end, the second ends. SIGHUP asks to read files again.

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

/// The signal that asks to read files again.
pub(super) struct Hangups(Signal);

impl Hangups {
    /// From here on the signal is this value's to see, and ends nothing.
    pub(super) fn listen() -> Result<Self, AppError> {
        signal(SignalKind::hangup()).map(Self).map_err(AppError::io("cannot listen for signals"))
    }

    /// The next one.
    pub(super) async fn next(&mut self) {
        self.0.recv().await;
    }
}
