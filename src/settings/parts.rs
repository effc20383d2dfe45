//! What the settings of both roles have in common, raw and checked, and the checks that no schema can say.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::archive::{ArchiveSettings, RawArchive, RawRetention, RetentionSettings};
use super::fault::{Fault, Faults, Places};
use super::size::Size;
use crate::domain::resource::Span;

/// A path, relative to the settings file's directory unless it is absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(with = "String", extend("format" = "path"))]
pub(super) struct FilePath(PathBuf);

/// `IP:PORT`; port 0 takes a free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(with = "String", extend("format" = "address"))]
pub(super) struct Address(pub(super) SocketAddr);

impl Address {
    pub(super) const fn loopback(port: u16) -> Self {
        Self(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port))
    }
}

/// When a record of the evidence counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// On the disk (`fdatasync`): survives the loss of power.
    #[default]
    Disk,
    /// With the operating system: survives the process, not the machine.
    Process,
    /// With the operating system, and on another machine's disk: survives this machine and its disk.
    Remote,
}

/// The local log of evidence.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawEvidence {
    /// Its directory. Default: `evidence` in the state directory.
    pub(super) dir: Option<FilePath>,
    /// When a record counts as written. `disk` survives the loss of power, `process` only that of the process, and
    /// `remote`, a gateway's, that of this disk: the control plane has it on its own (`evidence_copies` there).
    pub(super) durability: Durability,
    /// With `durability: remote`: how long a call may wait for the control plane's disk, 100ms to 1m; then it is refused,
    /// and so are others until the copy goes on. Default: 2s.
    pub(super) remote_within: Span,
    /// Size after which a new segment file is begun: 64KiB to 1GiB.
    pub(super) segment_bytes: Size,
    /// Where the log is kept besides, while it is written. Default: nowhere.
    pub(super) archive: Option<RawArchive>,
    /// What of it stays on this disk: records go when either bound says so, and never before they are cosigned and archived;
    /// a control plane's need `cosigning`. Default: everything.
    pub(super) retention: RawRetention,
}

impl Default for RawEvidence {
    fn default() -> Self {
        Self {
            dir: None,
            durability: Durability::Disk,
            remote_within: seconds(2),
            segment_bytes: Size::mebibytes(64),
            archive: None,
            retention: RawRetention::default(),
        }
    }
}

/// The local log of evidence, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceSettings {
    /// Its directory.
    pub dir: PathBuf,
    /// When a record counts as written.
    pub durability: Durability,
    /// How long a record may wait for another machine's disk, where it does.
    pub remote_within: Duration,
    /// Size after which a new segment file is begun, in bytes.
    pub segment_bytes: u64,
    /// Where it is kept besides.
    pub archive: Option<ArchiveSettings>,
    /// What of it stays on this disk.
    pub retention: RetentionSettings,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what may come to fail.
    Warn,
    /// And what changed.
    #[default]
    Info,
    /// And each step.
    Debug,
}

/// The log on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// How its lines look.
    pub format: LogFormat,
    /// How much is logged. Libraries never log more than warnings, whatever this says.
    pub level: LogLevel,
}

/// Collects the faults that only show between values.
#[derive(Debug)]
pub(super) struct Check<'p> {
    places: &'p Places,
    base: &'p Path,
    faults: Vec<Fault>,
}

impl<'p> Check<'p> {
    /// `base`: what relative paths are relative to.
    pub(super) const fn new(places: &'p Places, base: &'p Path) -> Self {
        Self { places, base, faults: Vec::new() }
    }

    pub(super) fn fault(&mut self, pointer: &str, message: impl Into<String>) {
        self.faults.push(self.places.fault(pointer, message));
    }

    pub(super) fn path(&self, path: &FilePath) -> PathBuf {
        self.base.join(&path.0)
    }

    pub(super) fn span(&mut self, pointer: &str, span: Span, least: Span, most: Span) -> Duration {
        self.within(pointer, span, least, most);
        span.duration()
    }

    pub(super) fn size(&mut self, pointer: &str, size: Size, least: Size, most: Size) -> u64 {
        self.within(pointer, size, least, most);
        size.as_bytes()
    }

    pub(super) fn number(&mut self, pointer: &str, number: u64, least: u64, most: u64) -> usize {
        self.within(pointer, number, least, most);
        usize::try_from(number).unwrap_or(usize::MAX)
    }

    fn within<T: PartialOrd + Display>(&mut self, pointer: &str, value: T, least: T, most: T) {
        if value < least || value > most {
            self.fault(pointer, format!("{value} is outside {least} to {most}"));
        }
    }

    /// `why` completes "… listens on loopback only: ".
    pub(super) fn loopback(&mut self, pointer: &str, what: &str, Address(address): Address, why: &str) -> SocketAddr {
        if !address.ip().is_loopback() {
            self.fault(
                pointer,
                format!("{what} listens on loopback only (127.0.0.1, [::1]), found {}: {why}", address.ip()),
            );
        }
        address
    }

    /// Refuses an address that stands in the list before.
    pub(super) fn distinct(&mut self, addresses: &[(String, SocketAddr)]) {
        for (place, (pointer, address)) in addresses.iter().enumerate() {
            if address.port() != 0 && addresses.iter().take(place).any(|(_, earlier)| earlier == address) {
                self.fault(pointer, format!("{address} is taken twice in this file"));
            }
        }
    }

    pub(super) fn text(&mut self, pointer: &str, text: &str) -> String {
        if text.is_empty() || text.len() > MAX_TEXT_BYTES || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            self.fault(pointer, format!("1 to {MAX_TEXT_BYTES} bytes without spaces are expected"));
        }
        text.to_owned()
    }

    pub(super) fn evidence(&mut self, raw: &RawEvidence, state_dir: &Path) -> EvidenceSettings {
        let (least, most) = (Size::bytes(64 << 10), Size::mebibytes(1024));
        let archive = raw.archive.as_ref().and_then(|archive| self.archive(archive));
        let retention = self.retention(&raw.retention, raw.segment_bytes);
        EvidenceSettings {
            dir: raw.dir.as_ref().map_or_else(|| state_dir.join("evidence"), |dir| self.path(dir)),
            durability: raw.durability,
            remote_within: self.span(
                "/evidence/remote_within",
                raw.remote_within,
                Span::new(Duration::from_millis(100)),
                seconds(60),
            ),
            segment_bytes: self.size("/evidence/segment_bytes", raw.segment_bytes, least, most),
            archive,
            retention,
        }
    }

    pub(super) fn drain(&mut self, drain: Span) -> Duration {
        self.span("/drain", drain, seconds(0), seconds(3_600))
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, Faults> {
        Faults::none_or(self.faults, value)
    }
}

/// Longest issuer, audience or URL: they are compared and logged on every call.
const MAX_TEXT_BYTES: usize = 1024;

/// How long running calls may go on after the signal to stop, unless the file says otherwise: Kubernetes kills after 30 s.
pub(super) const DEFAULT_DRAIN: Span = seconds(20);

pub(super) const fn seconds(number: u64) -> Span {
    Span::new(Duration::from_secs(number))
}

/// The directory that relative paths of `file` are relative to.
pub(super) fn base_of(file: &Path) -> PathBuf {
    file.parent().map(Path::to_path_buf).unwrap_or_default()
}
