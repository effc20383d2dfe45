//! Copies of gateways' logs, for those whose own disk does not last: where they lie, who writes which, how much room there is.
//!
//! `DIR/GATEWAY/N-KEY`: one directory for each log of a gateway, N counting its logs, KEY the beginning of its key's SHA-256.
//! One stream writes a copy at a time; a later one takes the place of an earlier one. Knows no messages.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::domain::name::GatewayName;
use crate::evidence::checkpoint::VerifierKey;
use crate::evidence::copy::{CopyError, LogCopy};
use crate::settings::CopiesSettings;

/// Copies of one log with the same number of records that are set aside.
const MAX_ASIDE: u64 = 16;

/// The copies that this control plane keeps.
#[derive(Debug)]
pub(super) struct Copies {
    settings: CopiesSettings,
    places: Mutex<HashMap<GatewayName, Place>>,
}

#[derive(Debug, Default)]
struct Place {
    /// Ends the stream that writes.
    writer: Option<oneshot::Sender<()>>,
    /// Held by it.
    turn: Arc<tokio::sync::Mutex<()>>,
    seen: Seen,
}

/// How a gateway's copies are doing, for metrics.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) bytes: u64,
    pub(super) records: u64,
}

/// The right to write a gateway's copies.
#[derive(Debug)]
pub(super) struct Turn {
    /// Another stream wants it.
    pub(super) replaced: oneshot::Receiver<()>,
    _held: OwnedMutexGuard<()>,
}

impl Copies {
    pub(super) fn new(settings: CopiesSettings) -> Self {
        Self { settings, places: Mutex::default() }
    }

    /// Most bytes of one gateway's copies.
    pub(super) const fn limit(&self) -> u64 {
        self.settings.max_bytes_per_gateway
    }

    /// Has the stream that writes a gateway's copies end, and waits for that.
    pub(super) async fn turn(&self, gateway: &GatewayName) -> Turn {
        let (writer, replaced) = oneshot::channel();
        let turn = {
            let mut places = self.places.lock();
            let place = places.entry(gateway.clone()).or_default();
            // Dropped, it tells the one before.
            place.writer = Some(writer);
            place.turn.clone()
        };
        Turn { replaced, _held: turn.lock_owned().await }
    }

    /// Opens the copy of a log, for whoever has its turn. Blocks.
    pub(super) fn open(&self, gateway: &GatewayName, place: u64, key: &VerifierKey) -> Result<LogCopy, CopyError> {
        let of_gateway = self.directory(gateway);
        let name = directory_name(place, key);
        let beside = LogCopy::bytes_beside(&of_gateway, &name)?;
        let copy = LogCopy::open(&of_gateway.join(&name), key.clone(), beside, self.limit())?;
        self.seen(gateway, copy.used(), copy.size());
        Ok(copy)
    }

    /// Sets a copy with so many records aside, beside where it was, for whoever has its turn and has closed it: another one
    /// begins in its place. Blocks.
    pub(super) fn set_aside(
        &self,
        gateway: &GatewayName,
        place: u64,
        key: &VerifierKey,
        size: u64,
    ) -> io::Result<PathBuf> {
        let of_gateway = self.directory(gateway);
        let name = directory_name(place, key);
        let aside = |n: u64| {
            of_gateway.join(if n == 0 { format!("{name}.until-{size}") } else { format!("{name}.until-{size}.{n}") })
        };
        // What is there is evidence: nothing is put over it.
        let aside = (0..MAX_ASIDE).map(aside).find(|path| !path.exists());
        let aside = aside.ok_or_else(|| io::Error::other("too many older copies lie beside it: move them away"))?;
        std::fs::rename(of_gateway.join(&name), &aside)?;
        Ok(aside)
    }

    /// Where a gateway's copies lie.
    pub(super) fn directory(&self, gateway: &GatewayName) -> PathBuf {
        self.settings.dir.join(gateway.as_str())
    }

    /// Where the copy of a log lies, if there is one.
    pub(super) fn copy_of(&self, gateway: &GatewayName, place: u64, key: &VerifierKey) -> Option<PathBuf> {
        let directory = self.directory(gateway).join(directory_name(place, key));
        directory.join(crate::evidence::key::LOG_FILE).exists().then_some(directory)
    }

    /// Takes note of how much there is.
    pub(super) fn seen(&self, gateway: &GatewayName, bytes: u64, records: u64) {
        let mut places = self.places.lock();
        let seen = &mut places.entry(gateway.clone()).or_default().seen;
        (seen.bytes, seen.records) = (bytes, records);
    }

    /// How every gateway's copies are doing that came since the start.
    pub(super) fn status(&self) -> Vec<(GatewayName, Seen)> {
        let places = self.places.lock();
        let mut all: Vec<_> = places.iter().map(|(name, place)| (name.clone(), place.seen.clone())).collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }
}

fn directory_name(place: u64, key: &VerifierKey) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.public());
    let digest = crate::evidence::entry::hex(digest.as_ref());
    format!("{place}-{}", digest.get(..16).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::checkpoint::EvidenceKey;

    #[tokio::test]
    async fn one_stream_writes_at_a_time_and_a_later_one_ends_the_earlier() {
        let home = tempfile::tempdir().unwrap();
        let settings = CopiesSettings { dir: home.path().into(), max_bytes_per_gateway: 1 << 20 };
        let copies = Arc::new(Copies::new(settings));
        let edge: GatewayName = "edge".parse().unwrap();
        let key = EvidenceKey::generate().unwrap().0.verifier(&"portcullis/gateway/edge".parse().unwrap());
        let mut first = copies.turn(&edge).await;
        let copy = copies.open(&edge, 1, &key).unwrap();
        let second = tokio::spawn({
            let (copies, edge) = (copies.clone(), edge.clone());
            async move { copies.turn(&edge).await }
        });
        (&mut first.replaced).await.unwrap_err();
        assert!(!second.is_finished(), "the first still writes");
        assert!(matches!(copies.open(&edge, 1, &key), Err(CopyError::Busy)));
        drop((copy, first));
        let _second = second.await.unwrap();
        copies.open(&edge, 1, &key).unwrap();
        // Another gateway's is another place.
        let other: GatewayName = "other".parse().unwrap();
        let _other = copies.turn(&other).await;
        assert!(copies.copy_of(&edge, 1, &key).is_some() && copies.copy_of(&other, 1, &key).is_none());
        assert!(copies.copy_of(&edge, 2, &key).is_none());
    }
}
