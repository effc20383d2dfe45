//! `portcullis evidence export`: a log as static files.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::super::Context;
use super::super::failure::{Exit, Failure};
use super::super::output::Human;
use super::Log;
use crate::evidence::export::{ExportError, StorageSink, export};
use crate::evidence::storage::DiskStorage;

#[derive(Debug, Args)]
pub(in super::super) struct Export {
    #[command(flatten)]
    log: Log,
    /// The directory to write; what an earlier export of the log left there is gone on with
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

#[derive(Serialize)]
struct Done {
    to: PathBuf,
    records: u64,
    records_before: u64,
    files: u64,
    bytes: u64,
}

impl Export {
    pub(in super::super) fn run(self, context: &Context) -> Result<Exit, Failure> {
        let storage = self.log.storage(context)?;
        let to = DiskStorage::open(&self.to)
            .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", self.to.display())))?;
        let exported = export(&storage, &mut StorageSink(Arc::new(to)))?;
        let done = Done {
            to: self.to,
            records: exported.head.size,
            records_before: exported.before,
            files: exported.files,
            bytes: exported.bytes,
        };
        context.output.answer(&done, || {
            let new = done.records - done.records_before;
            Human::Lines(vec![format!("{} records, {new} of them new, in {}", done.records, done.to.display())])
        })?;
        Ok(Exit::Done)
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        let exit = match &error {
            ExportError::Disk(_) => Exit::Failed,
            ExportError::NoCheckpoint => Exit::Unavailable,
            ExportError::Other { .. } | ExportError::Pruned { .. } => Exit::Conflict,
            ExportError::LogFile(_)
            | ExportError::Checkpoint { .. }
            | ExportError::Damaged { .. }
            | ExportError::Tile(_)
            | ExportError::Root(_) => Exit::VerificationFailed,
        };
        Self::new(exit, error.to_string())
    }
}
