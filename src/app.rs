//! Wiring: which parts run in a process, and how it ends.
//!
//! The one place that knows gateway and control plane both. It reads settings, starts parts, waits for signals and
//! ends them in order; what the parts do is theirs.

pub mod archived;
pub mod control;
pub mod dev;
pub mod gateway;
pub mod join;
pub mod policy;
mod sample;
mod signals;
pub(crate) mod witness;

use std::io;

use crate::settings::Faults;

/// Why a process could not run, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// What was asked for cannot be done as it was asked for.
    #[error("{0}")]
    Usage(String),
    /// The settings are wrong.
    #[error(transparent)]
    Settings(#[from] Faults),
    /// Somebody else is at it.
    #[error("{0}")]
    Conflict(String),
    /// A file, a directory or a socket said no.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What was answered.
        source: io::Error,
    },
    /// A part did not start, or failed.
    #[error("{part}: {why}")]
    Part {
        /// Which one.
        part: &'static str,
        /// Why.
        why: String,
    },
    /// A second signal came while calls were running out.
    #[error("ended at once: a second signal came")]
    Impatient,
}

impl AppError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    fn part<E: std::fmt::Display>(part: &'static str) -> impl FnOnce(E) -> Self {
        move |why| Self::Part { part, why: why.to_string() }
    }
}

/// Installs the cryptography of this process: aws-lc-rs, for every library that asks for the default.
pub fn crypto() {
    // Somebody of the same process (a test) may have been first, with the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Memory holds keys and callers' tokens: it is never written to a core file, nor readable by others of the same user.
fn no_core_files() -> Result<(), AppError> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let switched_off =
        setrlimit(Resource::Core, none).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    switched_off.map_err(|error| AppError::io("cannot switch core files off")(error.into()))
}

/// Threads of the runtime that gRPC, HTTP and signals run on. Calls run on the gateway's own workers.
const RUNTIME_THREADS: usize = 2;

/// Runs `work` on the runtime of everything that is not on the path of a call.
fn on_runtime<T>(work: impl Future<Output = Result<T, AppError>>) -> Result<T, AppError> {
    no_core_files()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("portcullis")
        .enable_all()
        .build()
        .map_err(AppError::io("cannot start the runtime"))?;
    let done = runtime.block_on(work);
    // What still runs has had its time.
    runtime.shutdown_background();
    done
}
