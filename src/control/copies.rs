//! Copies of gateways' logs, for those whose own disk does not last: where they lie, who writes which, how much room there is.
//!
//! `DIR/GATEWAY/N-KEY`: one directory for each log of a gateway, N counting its logs, KEY the beginning of its key's SHA-256.
//! One stream writes a copy at a time; a later one takes the place of an earlier one. Knows no messages.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::domain::name::GatewayName;
use crate::evidence::checkpoint::VerifierKey;
use crate::evidence::copy::{CopyError, LogCopy};
use crate::settings::CopiesSettings;

/// Older copies of one log that are set aside. Each is evidence: which of them may go is a person's to say.
const MAX_ASIDE: usize = 16;
/// Behind the name of a copy's directory: another one that begins, and is not whole yet.
const BEGINS: &str = ".begins";
/// Behind it and before a number of records: an older one.
const ASIDE: &str = ".until-";

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
        tidy_up(&of_gateway, &name)?;
        let beside = LogCopy::bytes_beside(&of_gateway, &name)?;
        let copy = LogCopy::open(&of_gateway.join(&name), key.clone(), beside, self.limit())?;
        self.seen(gateway, copy.used(), copy.size());
        Ok(copy)
    }

    /// Opens an empty copy that is to take the place of the one that there is, for whoever has its turn. Until it does, that
    /// one stays, is what questions are answered from, and what a log is compared with. Blocks.
    pub(super) fn begin(&self, gateway: &GatewayName, place: u64, key: &VerifierKey) -> Result<LogCopy, CopyError> {
        let of_gateway = self.directory(gateway);
        let name = directory_name(place, key);
        let asides = asides(&of_gateway, &name)?;
        if asides >= MAX_ASIDE {
            return Err(CopyError::Asides(asides));
        }
        let name = format!("{name}{BEGINS}");
        let beside = LogCopy::bytes_beside(&of_gateway, &name)?;
        LogCopy::open(&of_gateway.join(&name), key.clone(), beside, self.limit())
    }

    /// Puts the copy that has begun in the place of the one that has so many records, which is set aside: for whoever has its
    /// turn and has closed both. Says where the older one is, if it had any. Blocks.
    pub(super) fn exchange(
        &self,
        gateway: &GatewayName,
        place: u64,
        key: &VerifierKey,
        size: u64,
    ) -> io::Result<Option<PathBuf>> {
        let of_gateway = self.directory(gateway);
        let name = directory_name(place, key);
        let older = of_gateway.join(&name);
        let aside = if size == 0 {
            // There is no record in it.
            std::fs::remove_dir_all(&older)?;
            None
        } else {
            let aside = |n: usize| {
                of_gateway.join(if n == 0 {
                    format!("{name}{ASIDE}{size}")
                } else {
                    format!("{name}{ASIDE}{size}.{n}")
                })
            };
            // What is there is evidence: nothing is put over it.
            let aside = (0..MAX_ASIDE).map(aside).find(|path| !path.exists());
            let aside = aside.ok_or_else(|| io::Error::other("too many older copies lie beside it: move them away"))?;
            std::fs::rename(&older, &aside)?;
            Some(aside)
        };
        // A crash here leaves one that has begun, which the next opening puts in the place.
        std::fs::rename(of_gateway.join(format!("{name}{BEGINS}")), &older)?;
        std::fs::File::open(&of_gateway)?.sync_all()?;
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

/// Goes on with what a process that ended left of another copy's beginning.
fn tidy_up(of_gateway: &Path, name: &str) -> io::Result<()> {
    let (copy, begins) = (of_gateway.join(name), of_gateway.join(format!("{name}{BEGINS}")));
    if !begins.exists() {
        return Ok(());
    }
    if !copy.exists() && LogCopy::has_begun(&begins)? {
        std::fs::rename(&begins, &copy)?;
        return std::fs::File::open(of_gateway)?.sync_all();
    }
    // Hashes alone, of a beginning that broke off: they come again.
    std::fs::remove_dir_all(&begins)
}

/// Older copies of a log that lie beside it.
fn asides(of_gateway: &Path, name: &str) -> io::Result<usize> {
    let aside = format!("{name}{ASIDE}");
    let mut count = 0;
    for entry in std::fs::read_dir(of_gateway)? {
        count += usize::from(entry?.file_name().to_string_lossy().starts_with(&aside));
    }
    Ok(count)
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

    #[test]
    fn another_copy_takes_the_place_of_an_older_one_whole_or_not_at_all() {
        let home = tempfile::tempdir().unwrap();
        let settings = CopiesSettings { dir: home.path().into(), max_bytes_per_gateway: 1 << 20 };
        let (copies, edge) = (Copies::new(settings), "edge".parse::<GatewayName>().unwrap());
        let key = EvidenceKey::generate().unwrap().0.verifier(&"portcullis/gateway/edge".parse().unwrap());
        let of_gateway = copies.directory(&edge);
        let name = directory_name(1, &key);
        let begins = of_gateway.join(format!("{name}{BEGINS}"));
        let names = || {
            let all = std::fs::read_dir(&of_gateway).unwrap();
            let mut all: Vec<_> = all.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
            all.sort();
            all
        };
        drop(copies.open(&edge, 1, &key).unwrap());
        std::fs::create_dir(of_gateway.join(&name).join("older")).unwrap();
        // It breaks off: what was there is still there, and nothing of it counts.
        drop(copies.begin(&edge, 1, &key).unwrap());
        assert!(begins.exists() && of_gateway.join(&name).join("older").exists());
        let used = copies.open(&edge, 1, &key).unwrap().used();
        assert!(!begins.exists() && used < 1000, "{used}");
        for n in 0..MAX_ASIDE {
            drop(copies.begin(&edge, 1, &key).unwrap());
            let aside = copies.exchange(&edge, 1, &key, 7).unwrap().unwrap();
            assert_eq!(aside.join("older").exists(), n == 0);
        }
        assert_eq!(names().len(), MAX_ASIDE + 1);
        let full = copies.begin(&edge, 1, &key).unwrap_err();
        assert!(full.code() == "asides" && full.remedy().is_some(), "{full}");
        std::fs::remove_dir_all(of_gateway.join(format!("{name}{ASIDE}7.3"))).unwrap();
        drop(copies.begin(&edge, 1, &key).unwrap());
        // One without a record is no evidence.
        assert_eq!(copies.exchange(&edge, 1, &key, 0).unwrap(), None);
        assert_eq!(names().len(), MAX_ASIDE);
        // The machine dies between the two steps.
        std::fs::rename(of_gateway.join(&name), &begins).unwrap();
        std::fs::create_dir_all(begins.join("journal")).unwrap();
        drop(copies.open(&edge, 1, &key).unwrap());
        assert!(!begins.exists(), "not whole: begun again");
        std::fs::rename(of_gateway.join(&name), &begins).unwrap();
        let segment = crate::evidence::journal::segment::path(256);
        std::fs::create_dir_all(begins.join("journal")).unwrap();
        std::fs::File::create(begins.join(segment)).unwrap();
        tidy_up(&of_gateway, &name).unwrap();
        assert!(of_gateway.join(&name).join("journal").exists() && !begins.exists());
    }
}
