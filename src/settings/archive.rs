//! Where the evidence is archived, and how long it stays on its own disk.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::parts::{Check, FilePath, seconds};
use crate::domain::resource::Span;
use crate::domain::size::Size;

/// The archive of the evidence.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawArchive {
    /// A directory; the log goes into one of its own there, named as the log is. Either this or `s3`.
    #[serde(default)]
    pub(super) directory: Option<FilePath>,
    /// A bucket that speaks S3. Either this or `directory`.
    #[serde(default)]
    pub(super) s3: Option<RawS3>,
    /// How often what is new is put there, 1s to 1h. Default: 10s.
    #[serde(default = "default_every")]
    pub(super) every: Span,
    /// How far it may be behind. Default: without bound.
    #[serde(default)]
    pub(super) max_lag: RawMaxLag,
    /// What happens past `max_lag`. Default: `continue`.
    #[serde(default)]
    pub(super) past_max_lag: PastMaxLag,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawS3 {
    /// The bucket's name.
    pub(super) bucket: String,
    /// What the names of all objects begin with. Default: nothing.
    #[serde(default)]
    pub(super) prefix: String,
    /// The region. Default: `us-east-1`.
    #[serde(default = "default_region")]
    pub(super) region: String,
    /// Where the service is: `https:`, or `http:` on loopback. Default: Amazon's, by region.
    #[serde(default)]
    pub(super) endpoint: Option<String>,
    /// The authorities of a service of one's own, PEM. Default: the system's.
    #[serde(default)]
    pub(super) ca_file: Option<FilePath>,
    /// The file with the access key's identifier. Default, with the next: what the environment gives (`AWS_ACCESS_KEY_ID`, a
    /// web identity, the role of the container or machine).
    #[serde(default)]
    pub(super) access_key_id_file: Option<FilePath>,
    /// The file with the secret access key.
    #[serde(default)]
    pub(super) secret_access_key_file: Option<FilePath>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawMaxLag {
    /// Records that are not archived, at least 1.
    pub(super) records: Option<u64>,
    /// Age of the oldest of them: 1s to 30d, and more than `every`.
    pub(super) age: Option<Span>,
}

/// What happens when the archive is too far behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PastMaxLag {
    /// Calls go on; metrics and readiness tell.
    #[default]
    Continue,
    /// Calls are refused (`archive_behind`) until the archive has caught up.
    Refuse,
}

/// What of a log stays on its own disk.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRetention {
    /// Younger records stay: 1m to 3650d. Default: of any age.
    pub(super) age: Option<Span>,
    /// The youngest segments of together at most this size stay, at least `segment_bytes`. Default: of any size.
    pub(super) size: Option<Size>,
}

/// The archive of the evidence, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveSettings {
    /// Where it is.
    pub target: ArchiveTarget,
    /// How often what is new is put there.
    pub every: Duration,
    /// Records that may be not archived.
    pub max_records: Option<u64>,
    /// Age that the oldest of them may have.
    pub max_age: Option<Duration>,
    /// What happens beyond.
    pub past_max_lag: PastMaxLag,
}

/// Where an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveTarget {
    /// In a directory.
    Directory(PathBuf),
    /// In a bucket.
    S3(S3Settings),
}

/// A bucket that speaks S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    /// Its name.
    pub bucket: String,
    /// What the names of all objects begin with; without slashes around it.
    pub prefix: String,
    /// Its region.
    pub region: String,
    /// Where the service is, unless it is Amazon's.
    pub endpoint: Option<String>,
    /// The authorities of the service, PEM.
    pub ca_file: Option<PathBuf>,
    /// Files with identifier and secret of an access key; else the environment's.
    pub key_files: Option<(PathBuf, PathBuf)>,
}

/// What of a log stays on its own disk, checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Younger records stay.
    pub age: Option<Duration>,
    /// The youngest segments of at most so many bytes stay.
    pub bytes: Option<u64>,
}

fn default_every() -> Span {
    seconds(10)
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

impl Check<'_> {
    pub(super) fn archive(&mut self, raw: &RawArchive) -> Option<ArchiveSettings> {
        let at = "/evidence/archive";
        let target = match (&raw.directory, &raw.s3) {
            (Some(directory), None) => ArchiveTarget::Directory(self.path(directory)),
            (None, Some(s3)) => ArchiveTarget::S3(self.s3(s3)),
            (Some(_), Some(_)) | (None, None) => {
                self.fault(at, "exactly one of `directory` and `s3` is expected");
                return None;
            }
        };
        let every = self.span("/evidence/archive/every", raw.every, seconds(1), seconds(3_600));
        if raw.max_lag.records == Some(0) {
            self.fault("/evidence/archive/max_lag/records", "at least 1 is expected");
        }
        let max_age = raw.max_lag.age.map(|age| {
            self.span("/evidence/archive/max_lag/age", age, raw.every.max(seconds(1)), seconds(30 * 86_400))
        });
        if raw.past_max_lag == PastMaxLag::Refuse && raw.max_lag.records.is_none() && max_age.is_none() {
            self.fault("/evidence/archive/past_max_lag", "without a `max_lag` nothing is ever refused: give one");
        }
        let (max_records, past_max_lag) = (raw.max_lag.records, raw.past_max_lag);
        Some(ArchiveSettings { target, every, max_records, max_age, past_max_lag })
    }

    fn s3(&mut self, raw: &RawS3) -> S3Settings {
        let at = "/evidence/archive/s3";
        if raw.bucket.is_empty() || raw.bucket.contains('/') {
            self.fault("/evidence/archive/s3/bucket", "the name of a bucket is expected");
        }
        if let Some(endpoint) = &raw.endpoint
            && !super::issuer::fetchable(endpoint)
        {
            self.fault("/evidence/archive/s3/endpoint", "an https:// URL is expected (http:// on loopback only)");
        }
        let key_files = match (&raw.access_key_id_file, &raw.secret_access_key_file) {
            (Some(id), Some(secret)) => Some((self.path(id), self.path(secret))),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                self.fault(at, "`access_key_id_file` and `secret_access_key_file` belong together");
                None
            }
        };
        S3Settings {
            bucket: raw.bucket.clone(),
            prefix: raw.prefix.trim_matches('/').to_owned(),
            region: raw.region.clone(),
            endpoint: raw.endpoint.clone(),
            ca_file: raw.ca_file.as_ref().map(|file| self.path(file)),
            key_files,
        }
    }

    pub(super) fn retention(&mut self, raw: &RawRetention, segment: Size) -> RetentionSettings {
        let most = Size::mebibytes(1 << 30);
        RetentionSettings {
            age: raw.age.map(|age| self.span("/evidence/retention/age", age, seconds(60), seconds(3_650 * 86_400))),
            bytes: raw.size.map(|size| self.size("/evidence/retention/size", size, segment, most)),
        }
    }
}
