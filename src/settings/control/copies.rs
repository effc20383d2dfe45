//! Copies of gateways' logs that a control plane keeps.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::parts::{Check, FilePath};
use crate::settings::size::Size;

/// Copies of gateways' logs.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCopies {
    /// Where they lie, a directory below for each gateway. Default: `copies` in the state directory.
    dir: Option<FilePath>,
    /// Room for the copies of one gateway, 64KiB to 1024GiB; past it the gateway's calls are refused. Default: 16GiB.
    max_size_per_gateway: Size,
}

impl Default for RawCopies {
    fn default() -> Self {
        Self { dir: None, max_size_per_gateway: Size::mebibytes(16 << 10) }
    }
}

/// Copies of gateways' logs, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiesSettings {
    /// Where they lie.
    pub dir: PathBuf,
    /// Most bytes of one gateway's.
    pub max_bytes_per_gateway: u64,
}

pub(super) fn copies(check: &mut Check<'_>, raw: &RawCopies, state_dir: &Path) -> CopiesSettings {
    CopiesSettings {
        dir: raw.dir.as_ref().map_or_else(|| state_dir.join("copies"), |dir| check.path(dir)),
        max_bytes_per_gateway: check.size(
            "/evidence_copies/max_size_per_gateway",
            raw.max_size_per_gateway,
            Size::bytes(64 << 10),
            Size::mebibytes(1 << 20),
        ),
    }
}
