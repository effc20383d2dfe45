//! `portcullis evidence`: verify a log offline, look at its end, ask it questions.
//!
//! Reads directories, never a running program: what proves something must not need the one that is to be proven.

mod explain;
mod summary;

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::Value;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::{Human, escaped};
use super::time::{both, moment};
use crate::client::target::DevFile;
use crate::clock::SystemClock;
use crate::domain::name::{ActionName, CallId, GrantId, IdentityName, ResourceName};
use crate::domain::{Clock as _, Reason, Timestamp};
use crate::evidence::access::AccessLog;
use crate::evidence::checkpoint::{Checkpoint, VerifierKey};
use crate::evidence::cosignature::CosignerKey;
use crate::evidence::entry::Kind;
use crate::evidence::query::{Filter, Found, Query, QueryError, records};
use crate::evidence::storage::{DiskStorage, Storage};
use crate::evidence::verify::{self, Report, VerifyOptions};

/// How often `tail --follow` looks for more.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Largest checkpoint file read.
const MAX_CHECKPOINT_BYTES: u64 = 64 << 10;

#[derive(Debug, Subcommand)]
pub(super) enum Evidence {
    /// Check every record, hash and signature of a log; exit 8 names the first record that does not hold
    Verify {
        #[command(flatten)]
        log: Log,
        /// The key that must have signed, NAME+ID+BASE64; without it the log's own word is taken
        #[arg(long, value_name = "KEY")]
        key: Option<VerifierKey>,
        /// A signed checkpoint that was kept elsewhere: the log must only have grown since (needs --key)
        #[arg(long, value_name = "FILE", requires = "key")]
        against: Option<PathBuf>,
        /// The control plane's key, NAME+ID+BASE64 (`control.vkey`): the log must have grown from a checkpoint that it
        /// cosigned, also where the log's own key is in wrong hands
        #[arg(long, value_name = "KEY")]
        cosigner: Option<CosignerKey>,
    },
    /// Print the last records, and those that come
    Tail {
        #[command(flatten)]
        log: Log,
        /// How many of the last
        #[arg(short = 'n', long, default_value_t = 10, value_name = "NUMBER")]
        lines: u64,
        /// Go on with those that come
        #[arg(short, long)]
        follow: bool,
        /// One line for each call that is over, in place of the records
        #[arg(long)]
        access_log: bool,
    },
    /// Print the records that match
    Query(Ask),
    /// Tell the whole story of a call, a grant, a request or an approval, from who asked to what was done
    Explain(explain::Explain),
}

#[derive(Debug, Args)]
pub(super) struct Log {
    /// The log's directory; that of the dev directory's gateway if not given
    #[arg(value_name = "LOG")]
    directory: Option<PathBuf>,
    /// The control plane's log of the dev directory
    #[arg(long, conflicts_with = "directory")]
    control: bool,
}

#[derive(Debug, Args)]
pub(super) struct Ask {
    #[command(flatten)]
    log: Log,
    /// Only calls of this identity
    #[arg(long, value_name = "NAME")]
    identity: Option<IdentityName>,
    /// Only what this grant allowed, and its end
    #[arg(long, value_name = "ID")]
    grant: Option<GrantId>,
    /// Only on this resource
    #[arg(long, value_name = "NAME")]
    resource: Option<ResourceName>,
    /// Only this action
    #[arg(long, value_name = "NAME")]
    action: Option<ActionName>,
    /// Only with this reason, for example grant_missing
    #[arg(long, value_name = "CODE")]
    reason: Option<Reason>,
    /// Only this call
    #[arg(long, value_name = "ID")]
    call: Option<CallId>,
    /// Only records of this kind
    #[arg(long, value_enum)]
    kind: Option<KindName>,
    /// From this time on, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<Timestamp>,
    /// Before this time, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<Timestamp>,
    /// One line for each call that is over, in place of the records
    #[arg(long)]
    access_log: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum KindName {
    LogOpened,
    Intent,
    Outcome,
    Denial,
    Refusals,
    TokenIssued,
    TokenRevoked,
    Enforced,
    Change,
    Recovered,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::LogOpened => Self::LogOpened,
            KindName::Intent => Self::Intent,
            KindName::Outcome => Self::Outcome,
            KindName::Denial => Self::Denial,
            KindName::Refusals => Self::Refusals,
            KindName::TokenIssued => Self::TokenIssued,
            KindName::TokenRevoked => Self::TokenRevoked,
            KindName::Enforced => Self::Enforced,
            KindName::Change => Self::Change,
            KindName::Recovered => Self::Recovered,
        }
    }
}

#[derive(Serialize)]
struct Verified {
    verified: bool,
    log: PathBuf,
    key: String,
    size: u64,
    root: String,
    records: u64,
    past_checkpoint: u64,
    open_intents: u64,
    in_flight_bytes: u64,
    /// Records under the latest cosigned checkpoint that is kept beside the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    cosigned_size: Option<u64>,
    /// When it was cosigned, by the given key.
    #[serde(skip_serializing_if = "Option::is_none")]
    cosigned: Option<Timestamp>,
    incarnations: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Timestamp>,
}

impl Evidence {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Verify { log, key, against, cosigner } => {
                check(context, log.directory(context)?, key, against, cosigner)
            }
            Self::Tail { log, lines, follow, access_log } => {
                tail(context, &log.storage(context)?, lines, follow, View::of(access_log)).await
            }
            Self::Query(ask) => ask.run(context),
            Self::Explain(command) => command.run(context),
        }
    }
}

impl Log {
    fn directory(&self, context: &Context) -> Result<PathBuf, Failure> {
        let dir = context.dir();
        let directory = match (&self.directory, self.control) {
            (Some(directory), _) => directory.clone(),
            (None, true) => dir.join("control/evidence"),
            (None, false) => match DevFile::read(&dir) {
                Ok(dev) => dev.evidence.into(),
                // The log outlives the process that names it.
                Err(error) if error.is_absent() => dir.join("gateway/evidence"),
                Err(error) => return Err(error.into()),
            },
        };
        if directory.is_dir() {
            return Ok(directory);
        }
        Err(Failure::new(Exit::NotFound, format!("there is no log in {}", directory.display())))
    }

    fn storage(&self, context: &Context) -> Result<Arc<dyn Storage>, Failure> {
        Ok(Arc::new(DiskStorage::read_only(&self.directory(context)?)))
    }
}

fn check(
    context: &Context,
    log: PathBuf,
    key: Option<VerifierKey>,
    against: Option<PathBuf>,
    cosigner: Option<CosignerKey>,
) -> Result<Exit, Failure> {
    let against = match (&key, against) {
        (Some(key), Some(file)) => {
            let shown = file.display().to_string();
            let mut note = Vec::new();
            std::fs::File::open(&file)
                .and_then(|file| file.take(MAX_CHECKPOINT_BYTES).read_to_end(&mut note))
                .map_err(|e| Failure::usage(format!("{shown}: {e}")))?;
            let known = Checkpoint::verify(&note, key).map_err(|e| Failure::usage(format!("{shown}: {e}")))?;
            Some(known.head)
        }
        _ => None,
    };
    let report = verify::verify(&log, &VerifyOptions { key, against, cosigner })?;
    let verified = shown(log, &report);
    context.output.answer(&verified, || details(&verified))?;
    Ok(Exit::Done)
}

fn shown(log: PathBuf, report: &Report) -> Verified {
    use base64::Engine as _;
    Verified {
        verified: true,
        log,
        key: report.key.to_string(),
        size: report.checkpoint.size,
        root: base64::engine::general_purpose::STANDARD.encode(report.checkpoint.root.0),
        records: report.records,
        past_checkpoint: report.past_checkpoint,
        open_intents: report.open_intents,
        in_flight_bytes: report.in_flight_bytes,
        cosigned_size: report.cosigned.map(|(size, _)| size),
        cosigned: report.cosigned.and_then(|(_, at)| at),
        incarnations: report.incarnations,
        from: report.times.map(|(from, _)| from),
        to: report.times.map(|(_, to)| to),
    }
}

fn details(verified: &Verified) -> Human {
    let now = SystemClock.now();
    let at = |time: Option<Timestamp>| time.map(|at| both(at, now)).unwrap_or_default();
    Human::Parts(vec![
        Human::Lines(vec![format!("verified: {} records, nothing changed, dropped or reordered", verified.records)]),
        Human::Details(vec![
            ("log", verified.log.display().to_string()),
            ("key", verified.key.clone()),
            ("checkpoint", format!("{} records, root {}", verified.size, verified.root)),
            ("cosigned", cosigned(verified, now)),
            ("since then", format!("{} records", verified.past_checkpoint)),
            ("open calls", verified.open_intents.to_string()),
            ("opened", format!("{} times", verified.incarnations)),
            ("first record", at(verified.from)),
            ("last record", at(verified.to)),
        ]),
    ])
}

/// How much of it the control plane cosigned: by the kept checkpoint's word, or by the cosigner's where its key is given.
fn cosigned(verified: &Verified, now: Timestamp) -> String {
    match (verified.cosigned_size, verified.cosigned) {
        (None, _) => "not yet".to_owned(),
        (Some(size), Some(at)) => format!("{size} records, {}", both(at, now)),
        (Some(size), None) => format!("{size} records (give --cosigner to check by whom)"),
    }
}

impl From<verify::Failure> for Failure {
    fn from(failure: verify::Failure) -> Self {
        let text = match failure.record() {
            // The texts of places name it already; those of tiles and cuts only in passing.
            Some(record) => format!("verification failed at record {record}: {failure}"),
            None => format!("verification failed: {failure}"),
        };
        Self::new(Exit::VerificationFailed, text)
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Disk(error) => Self::new(Exit::Failed, format!("the log cannot be read: {error}")),
            QueryError::Damaged { .. } | QueryError::Entry { .. } => {
                Self::new(Exit::VerificationFailed, error.to_string())
            }
        }
    }
}

/// What is shown of what was found.
enum View {
    /// The records.
    Records,
    /// The calls.
    Calls(AccessLog),
}

impl View {
    fn of(access_log: bool) -> Self {
        if access_log { Self::Calls(AccessLog::default()) } else { Self::Records }
    }

    fn show(&mut self, context: &Context, found: &Found) -> Result<(), Failure> {
        match self {
            Self::Records => print(context, found),
            Self::Calls(log) => log
                .take(&found.entry)
                .iter()
                .try_for_each(|line| context.output.element(line, || escaped(&line.to_string()))),
        }
    }
}

async fn tail(
    context: &Context,
    storage: &Arc<dyn Storage>,
    lines: u64,
    follow: bool,
    mut view: View,
) -> Result<Exit, Failure> {
    let from = records(storage)?.saturating_sub(lines);
    let mut query = Query::new(storage.clone(), from, Filter::default());
    loop {
        match query.next()? {
            Some(found) => view.show(context, &found)?,
            None if follow => tokio::time::sleep(LOOK_EVERY).await,
            None => return Ok(Exit::Done),
        }
    }
}

impl Ask {
    fn run(self, context: &Context) -> Result<Exit, Failure> {
        let storage = self.log.storage(context)?;
        let filter = Filter {
            identity: self.identity,
            grant: self.grant,
            resource: self.resource,
            action: self.action,
            reason: self.reason,
            call: self.call,
            kind: self.kind.map(Kind::from),
            from: self.from,
            to: self.to,
        };
        let mut query = Query::new(storage, 0, filter);
        let mut view = View::of(self.access_log);
        while let Some(found) = query.next()? {
            view.show(context, &found)?;
        }
        Ok(Exit::Done)
    }
}

/// One record: as it stands in the log for scripts, in a line for people.
fn print(context: &Context, found: &Found) -> Result<(), Failure> {
    let value: Value = serde_json::from_slice(&found.bytes)
        .map_err(|e| Failure::new(Exit::VerificationFailed, format!("{}: {e}", found.place)))?;
    context.output.element(&value, || {
        let entry = &found.entry;
        let kind = entry.event.kind().as_str();
        escaped(&format!("{:>8}  {}  {kind:<13}  {}", entry.seq, entry.time, summary::of(&entry.event)))
    })
}
