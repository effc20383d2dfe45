//! The gateway's own certificate towards upstreams, read again when its files change.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::gateway::metrics::Metrics;
use crate::gateway::tls::{Stamp, TlsError, chain_and_key};
use crate::settings::gateway::UpstreamCertificate;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A certificate and its key, and their place among those that were shown one after the other.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) certificate: Arc<SingleCertAndKey>,
    pub(super) place: u64,
}

/// The certificate that new connections show. Those that showed an older one serve no new call.
#[derive(Debug)]
pub(crate) struct OwnCertificate {
    files: UpstreamCertificate,
    current: ArcSwap<Shown>,
    /// Of the files that were last read; `None`: they could not be used.
    read: Mutex<Option<[Option<Stamp>; 2]>>,
}

impl OwnCertificate {
    /// Reads it.
    ///
    /// # Errors
    /// When a file cannot be used, or the key is not the certificate's.
    pub(crate) fn load(files: &UpstreamCertificate) -> Result<Self, TlsError> {
        // Before they are read: what changes meanwhile is seen by the next look.
        let stamps = stamps(files);
        let shown = Shown { certificate: read(files)?, place: 1 };
        Ok(Self { files: files.clone(), current: ArcSwap::from_pointee(shown), read: Mutex::new(Some(stamps)) })
    }

    pub(super) fn current(&self) -> Arc<Shown> {
        self.current.load_full()
    }

    /// Looks at the files for as long as the gateway runs.
    pub(crate) async fn keep_fresh(&self, metrics: &Metrics) {
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            if self.read.lock().as_ref() != Some(&stamps(&self.files)) {
                self.reload(metrics);
            }
        }
    }

    /// Reads the files anew. When they cannot be used, the certificate before stays in use.
    pub(crate) fn reload(&self, metrics: &Metrics) {
        let mut state = self.read.lock();
        let stamps = stamps(&self.files);
        match read(&self.files) {
            Ok(certificate) => {
                *state = Some(stamps);
                let place = self.current.load().place + 1;
                self.current.store(Arc::new(Shown { certificate, place }));
                metrics.tls_reloaded();
                tracing::info!("the certificate towards upstreams was read and is in force");
            }
            Err(error) => {
                if state.take().is_some() {
                    tracing::error!(%error, "the certificate towards upstreams cannot be used: the one before stays in use");
                }
                metrics.tls_reload_failed();
            }
        }
    }
}

fn stamps(files: &UpstreamCertificate) -> [Option<Stamp>; 2] {
    [Stamp::of(&files.certificate_file), Stamp::of(&files.key_file)]
}

fn read(files: &UpstreamCertificate) -> Result<Arc<SingleCertAndKey>, TlsError> {
    let (chain, key) = chain_and_key(&files.certificate_file, &files.key_file)?;
    let certified = CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())?;
    Ok(Arc::new(SingleCertAndKey::from(certified)))
}
