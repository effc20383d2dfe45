//! `portcullis evidence prune`: what a policy lets go of a log that nobody writes, and letting it go.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::super::Context;
use super::super::failure::{Exit, Failure};
use super::super::output::Human;
use super::Log;
use crate::app::archived::archive_of;
use crate::clock::SystemClock;
use crate::domain::Clock as _;
use crate::domain::resource::Span;
use crate::domain::size::Size;
use crate::evidence::EvidenceLog;
use crate::evidence::archive::recheck;
use crate::evidence::checkpoint::EvidenceKey;
use crate::evidence::journal::{JournalOptions, Writer};
use crate::evidence::key::read_log_file;
use crate::evidence::retention::{Bounds, Plan, Policy, PruneError, Stays, archived, plan_within, stays_of_changes};

#[derive(Debug, Args)]
pub(in super::super) struct Prune {
    #[command(flatten)]
    log: Log,
    /// Keep what is younger, for example 90d
    #[arg(long, value_name = "DURATION", required_unless_present = "keep_size")]
    keep: Option<Span>,
    /// Keep the youngest segments of together at most this size, for example 10GiB
    #[arg(long, value_name = "SIZE")]
    keep_size: Option<Size>,
    /// The settings of whoever writes it: nothing goes before its copy in the archive that they name was read again
    #[arg(long, value_name = "FILE", conflicts_with = "without_archive")]
    config: Option<PathBuf>,
    /// There is no archive, or nothing is to be left of what goes
    #[arg(long, required_unless_present_any = ["config", "dry_run"])]
    without_archive: bool,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// The log's signing key (STATE_DIR/evidence.key): the log itself says what went, and signs for it
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    signing_key: Option<PathBuf>,
}

#[derive(Serialize)]
struct Done {
    log: PathBuf,
    policy: String,
    dry_run: bool,
    /// Records that are cosigned, and archived where the log has an archive: none behind them goes.
    bound: u64,
    #[serde(flatten)]
    gone: Option<Gone>,
}

#[derive(Serialize)]
struct Gone {
    before: u64,
    present_from: u64,
    segments: usize,
    bytes: u64,
}

impl Prune {
    pub(in super::super) fn run(self, context: &Context) -> Result<Exit, Failure> {
        let directory = self.log.directory(context)?;
        let storage = self.log.storage(context)?;
        let policy = Policy { age: self.keep.map(Span::duration), bytes: self.keep_size.map(Size::as_bytes) };
        let now = SystemClock.now();
        let name = read_log_file(&*storage).map(|key| key.name().to_string());
        let place = match (&self.config, &name) {
            (Some(config), Ok(name)) => archive_of(config, name)?,
            _ => None,
        };
        // What was never archived is not there, whatever the log says of it.
        let archived = match (&place, self.without_archive) {
            (Some(_), _) => Some(archived(&*storage)?.unwrap_or(0)),
            (None, true) => None,
            (None, false) => archived(&*storage)?,
        };
        // How far it has come a control plane reads from its log.
        let is_control =
            read_log_file(&*storage).is_ok_and(|key| key.name().as_str().starts_with("portcullis/control/"));
        let stays: Option<Stays> = if is_control { Some(stays_of_changes) } else { None };
        let bounds = Bounds { archived, stays };
        let (bound, would_go) = plan_within(&storage, policy, bounds, now)?;
        let plan = match &self.signing_key {
            Some(file) if !self.dry_run => {
                let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, error.to_string());
                let usage = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", file.display()));
                if !file.is_file() {
                    return Err(usage(&"there is no such file"));
                }
                let key = EvidenceKey::load_or_create(file).map_err(|error| usage(&error))?;
                let origin = read_log_file(&*storage).map_err(|error| failed(&error))?.name().clone();
                let program = concat!("portcullis ", env!("CARGO_PKG_VERSION"), " evidence prune").to_owned();
                let writer = Writer { program, boot_id: String::new() };
                let (options, clock) = (JournalOptions::default(), Arc::new(SystemClock));
                let (log, _) = EvidenceLog::open(&directory, origin, key, &writer, options, clock)
                    .map_err(|error| failed(&format_args!("{error}; does somebody write it?")))?;
                log.prune(policy, bounds, now, |plan| {
                    let Some(place) = &place else { return Ok(()) };
                    let read = recheck(&storage, &**place, plan.from, plan.before);
                    read.map_err(|error| PruneError::Archive(error.to_string()))
                })?
            }
            Some(_) | None => would_go,
        };
        let done = Done {
            log: directory,
            policy: policy.to_string(),
            dry_run: self.dry_run,
            bound,
            gone: plan.as_ref().map(gone),
        };
        context.output.answer(&done, || Human::Lines(vec![words(&done)]))?;
        Ok(Exit::Done)
    }
}

fn gone(plan: &Plan) -> Gone {
    Gone { before: plan.before, present_from: plan.stays, segments: plan.segments, bytes: plan.bytes }
}

fn words(done: &Done) -> String {
    let Some(it) = &done.gone else {
        let why = "no whole segment is beyond it and before the last record that may go (cosigned, archived, and of a control plane before its last change)";
        return format!("`{}`: nothing goes: {why}, {}", done.policy, done.bound);
    };
    let verb = if done.dry_run { "would go" } else { "went" };
    let Gone { before, present_from, segments, bytes } = it;
    format!(
        "`{}`: {segments} segments ({bytes} bytes) {verb}: records before {before} may be missing then, and are present from \
         {present_from} on",
        done.policy
    )
}

impl From<PruneError> for Failure {
    fn from(error: PruneError) -> Self {
        let exit = match &error {
            PruneError::Disk(_) | PruneError::NotRecorded(_) | PruneError::Archive(_) => Exit::Failed,
            PruneError::NotSigned => Exit::Unavailable,
            PruneError::LogFile(_)
            | PruneError::Cosigned(_)
            | PruneError::Archived(_)
            | PruneError::Damaged { .. }
            | PruneError::Changes(_)
            | PruneError::Tile(_) => Exit::VerificationFailed,
        };
        Self::new(exit, error.to_string())
    }
}
