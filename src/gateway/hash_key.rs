//! The key under which this gateway hashes what its records must not hold; a new one is taken while it runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::evidence::keyed::{HASH_KEY_FILE, HashKey, HashKeyError};

/// How often its file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The key in use.
#[derive(Debug)]
pub(crate) struct CurrentHashKey {
    directory: PathBuf,
    key: ArcSwap<HashKey>,
}

impl CurrentHashKey {
    /// That of a state directory, made at the first start.
    pub(crate) fn open(directory: &Path) -> Result<Self, HashKeyError> {
        let key = HashKey::load_or_create(&directory.join(HASH_KEY_FILE))?;
        Ok(Self { directory: directory.to_owned(), key: ArcSwap::from_pointee(key) })
    }

    pub(crate) fn load(&self) -> Arc<HashKey> {
        self.key.load_full()
    }

    /// Takes the key in the file, when it is another one: the one before is kept under its identifier first, so that
    /// what it hashed stays searchable. A file that cannot be used changes nothing.
    pub(crate) fn reload(&self) {
        let before = self.load();
        let taken = HashKey::read(&self.directory.join(HASH_KEY_FILE)).and_then(|key| {
            if key.id() != before.id() {
                before.keep(&self.directory)?;
                tracing::info!(
                    before = before.id(),
                    key = key.id(),
                    "values in the evidence are hashed with another key"
                );
                self.key.store(Arc::new(key));
            }
            Ok(())
        });
        if let Err(error) = taken {
            tracing::warn!(%error, key = before.id(), "the key for hashes cannot be used: the one before stays in use");
        }
    }

    /// Looks at the file for as long as the gateway runs.
    pub(crate) async fn keep_fresh(&self) {
        let stamp = || std::fs::metadata(self.directory.join(HASH_KEY_FILE)).and_then(|it| it.modified()).ok();
        let mut seen = None;
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let now = stamp();
            if now != seen {
                seen = now;
                self.reload();
            }
        }
    }
}
