//! `portcullis evidence prove`: a record and its proof in one file.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::super::Context;
use super::super::failure::{Exit, Failure};
use super::super::output::Human;
use super::Log;
use crate::domain::name::CallId;
use crate::evidence::query::Filter;
use crate::evidence::query::index::Index;
use crate::evidence::query::search::Search;
use crate::evidence::tlog_proof::{CannotProve, EXTENSION, TlogProof};
use crate::files;

#[derive(Debug, Args)]
pub(in super::super) struct Prove {
    /// A call's id (as `Portcullis-Call-Id` tells it), or a record's number
    #[arg(value_name = "ID")]
    id: Which,
    #[command(flatten)]
    log: Log,
    /// Where the files go, RECORD.tlog-proof each
    #[arg(long, default_value = ".", value_name = "DIR")]
    to: PathBuf,
}

#[derive(Clone, Copy, Debug)]
enum Which {
    Record(u64),
    Call(CallId),
}

impl std::str::FromStr for Which {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let record = text.parse().map(Self::Record);
        record.or_else(|_| text.parse().map(Self::Call)).map_err(|_| "neither the id of a call nor a record's number")
    }
}

#[derive(Serialize)]
struct Written {
    proofs: Vec<Proof>,
}

#[derive(Serialize)]
struct Proof {
    record: u64,
    kind: &'static str,
    file: PathBuf,
}

impl Prove {
    pub(in super::super) fn run(self, context: &Context) -> Result<Exit, Failure> {
        let storage = self.log.storage(context)?;
        let records = match self.id {
            Which::Record(record) => vec![record],
            Which::Call(call) => {
                let filter = Filter { call: Some(call), ..Filter::default() };
                let mut search = Search::new(Arc::new(Index::open(&self.log.directory(context)?)?), filter)?;
                let mut records = Vec::new();
                while let Some(found) = search.next()? {
                    records.push(found.entry.seq);
                }
                if records.is_empty() {
                    return Err(Failure::new(Exit::NotFound, format!("the log has no record of call {call}")));
                }
                records
            }
        };
        let mut proofs = Vec::new();
        for record in records {
            let proof = TlogProof::make(&storage, record)?;
            let entry = crate::evidence::entry::Entry::parse(&proof.record);
            let kind = entry.map_err(|error| Failure::new(Exit::VerificationFailed, error.to_string()))?.event.kind();
            let file = self.to.join(format!("{record}.{EXTENSION}"));
            files::write(&file, proof.to_string().as_bytes(), files::PRIVATE)
                .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", file.display())))?;
            proofs.push(Proof { record, kind: kind.as_str(), file });
        }
        let written = Written { proofs };
        context.output.answer(&written, || {
            let line = |it: &Proof| format!("record {} ({}): {}", it.record, it.kind, it.file.display());
            Human::Lines(written.proofs.iter().map(line).collect())
        })?;
        Ok(Exit::Done)
    }
}

impl From<CannotProve> for Failure {
    fn from(error: CannotProve) -> Self {
        let exit = match &error {
            CannotProve::Disk(_) => Exit::Failed,
            CannotProve::NoRecord(_) | CannotProve::Pruned { .. } => Exit::NotFound,
            CannotProve::NotSigned(_) => Exit::Unavailable,
            CannotProve::LogFile(_)
            | CannotProve::Checkpoint { .. }
            | CannotProve::Damaged { .. }
            | CannotProve::Tiles(_)
            | CannotProve::Bad(_) => Exit::VerificationFailed,
        };
        Self::new(exit, error.to_string())
    }
}
