//! The log on standard error, and what is said when a thread panics.
//!
//! Our own events go out at the level of the settings; what libraries log goes out from warnings on, whatever the level:
//! below that they log heads and bodies, which hold credentials. It knows no metric and no trace exporter.

use std::io;
use std::panic::PanicHookInfo;

use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, registry};

use crate::settings::{LogFormat, LogLevel, LogSettings};

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the log is started already")]
pub struct AlreadyStarted;

/// Starts the log of this process, on standard error, and reports panics through it. Records of libraries that use the
/// `log` crate are taken in.
///
/// # Errors
/// When it was started before.
pub fn start(settings: LogSettings) -> Result<(), AlreadyStarted> {
    subscriber(settings, io::stderr).try_init().map_err(|_| AlreadyStarted)?;
    std::panic::set_hook(Box::new(report_panic));
    Ok(())
}

fn subscriber<W>(settings: LogSettings, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer);
    let lines = match settings.format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    registry().with(lines.with_filter(levels(settings.level)))
}

/// Libraries that log what strangers do.
const NOISY: [&str; 3] = ["pingora_core", "pingora_proxy", "h2"];

fn levels(level: LogLevel) -> Targets {
    let (ours, theirs) = match level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
    };
    // The proxy's libraries write a line for every connection that a stranger breaks. What matters is in the evidence.
    let noisy = if level == LogLevel::Debug { theirs } else { LevelFilter::OFF };
    Targets::new()
        .with_default(theirs)
        .with_targets(NOISY.map(|library| (library, noisy)))
        .with_target(env!("CARGO_CRATE_NAME"), ours)
}

fn report_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    // A literal is in the source for all to read; a formatted message could hold what was being worked on.
    let message = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(message withheld)");
    let current = std::thread::current();
    let thread = current.name().unwrap_or("unnamed");
    tracing::error!(location, thread, "panic: {message}");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(settings: LogSettings, work: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing::subscriber::with_default(subscriber(settings, move || writer.clone()), work);
        String::from_utf8(lines.0.lock().clone()).unwrap()
    }

    #[test]
    fn libraries_log_warnings_only_whatever_the_level() {
        let text = logged(LogSettings { format: LogFormat::Text, level: LogLevel::Debug }, || {
            tracing::debug!("ours");
            tracing::info!(target: "hyper::server", "theirs, chatty");
            tracing::warn!(target: "hyper::server", "theirs, worried");
        });
        assert!(text.contains("ours") && text.contains("worried") && !text.contains("chatty"), "{text}");
        let text = logged(LogSettings { format: LogFormat::Text, level: LogLevel::Error }, || {
            tracing::info!("ours");
            tracing::warn!(target: "h2", "theirs");
        });
        assert_eq!(text, "");
    }

    #[test]
    fn json_is_one_object_per_line() {
        let text = logged(LogSettings { format: LogFormat::Json, level: LogLevel::Info }, || {
            tracing::info!(revision = 7, "a line\nand more");
            tracing::info!("another");
        });
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["revision"], 7);
        assert_eq!(lines[0]["message"], "a line\nand more");
    }

    #[test]
    fn a_panic_is_reported_without_what_was_being_worked_on() {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(report_panic));
        let secret = "s3cret".to_owned();
        let text = logged(LogSettings::default(), || {
            assert!(std::panic::catch_unwind(|| panic!("token {secret}")).is_err());
            assert!(std::panic::catch_unwind(|| panic!("a literal")).is_err());
        });
        std::panic::set_hook(before);
        assert!(text.contains("src/telemetry.rs") && text.contains("(message withheld)"), "{text}");
        assert!(text.contains("panic: a literal") && !text.contains("s3cret"), "{text}");
    }
}
