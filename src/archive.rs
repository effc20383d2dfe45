//! Where a log's archive is: a directory, or a bucket that speaks S3. The network that the evidence itself refuses to know.

mod s3;

use std::io;
use std::sync::Arc;

use crate::domain::Clock;
use crate::evidence::EvidenceLog;
use crate::evidence::archive::{Bound, DirectoryPlace, Keeper, KeeperOptions, Past, Place};
use crate::evidence::retention::{Policy, Stays};
use crate::settings::{ArchiveSettings, ArchiveTarget, EvidenceSettings, PastMaxLag};

/// Starts to archive and prune a log as its settings say; `None` when they say nothing of either. In an archive the log has
/// a directory of its own, named as the log is: many may share one. What `stays` names is never pruned.
///
/// # Errors
/// When the archive cannot be set up, the log cannot be read, or no thread started. An archive that cannot be reached yet is
/// no error: it is tried again.
pub fn keep(
    log: &Arc<EvidenceLog>,
    settings: &EvidenceSettings,
    stays: Option<Stays>,
    clock: Arc<dyn Clock>,
) -> io::Result<Option<Keeper>> {
    let retention = Policy { age: settings.retention.age, bytes: settings.retention.bytes };
    if settings.archive.is_none() && retention == Policy::default() {
        return Ok(None);
    }
    let name = log.verifier_key().name().as_str();
    let place = match &settings.archive {
        Some(archive) => Some((place(archive, name)?, bound(archive))),
        None => None,
    };
    let every = settings.archive.as_ref().map_or(std::time::Duration::from_secs(10), |archive| archive.every);
    Keeper::start(log, KeeperOptions { place, every, retention, stays }, clock).map(Some)
}

/// The archive of one log.
///
/// # Errors
/// When it cannot be set up.
pub fn place(settings: &ArchiveSettings, name: &str) -> io::Result<Box<dyn Place>> {
    Ok(match &settings.target {
        ArchiveTarget::Directory(root) => Box::new(DirectoryPlace::new(&root.join(name))?),
        ArchiveTarget::S3(bucket) => Box::new(s3::S3Place::new(bucket, name)?),
    })
}

fn bound(settings: &ArchiveSettings) -> Bound {
    let past = match settings.past_max_lag {
        PastMaxLag::Continue => Past::Continue,
        PastMaxLag::Refuse => Past::Refuse,
    };
    Bound { records: settings.max_records, age: settings.max_age, past }
}
