//! `portcullis evidence`: verify a log offline, prove a record, look at its end, ask it questions.
//!
//! Reads directories, never a running program: what proves something must not need the one that is to be proven.

mod access;
mod check;
mod explain;
mod export;
mod gateways;
mod prove;
mod prune;
mod remote;
mod summary;
mod witness;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::escaped;
use super::time::moment;
use crate::client::target::DevFile;
use crate::domain::name::{ActionName, CallId, GatewayName, GrantId, IdentityName, ResourceName};
use crate::domain::{Reason, Timestamp};
use crate::evidence::access::AccessLog;
use crate::evidence::entry::Kind;
use crate::evidence::keyed::{HashKey, HashKeyError};
use crate::evidence::query::index::Index;
use crate::evidence::query::search::Search;
use crate::evidence::query::{Filter, Found, Query, QueryError, WantedValue, records};
use crate::evidence::storage::{DiskStorage, Storage};
use crate::wire::v1;

/// How often `tail --follow` looks for more.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub(super) enum Evidence {
    /// Check every record, hash and signature of a log; exit 8 names the first record that does not hold
    Verify(check::Verify),
    /// Write the proof of a record, or of each record of a call, as a file that verifies alone and offline
    Prove(prove::Prove),
    /// Write a log as static files (C2SP tlog-tiles) that any client of the format reads and verifies
    Export(export::Export),
    /// Let old records of a log that nobody writes go: the log says so first, and every proof stays
    Prune(prune::Prune),
    /// Be a witness of others' logs (C2SP tlog-witness): cosign checkpoints that extend the last one, and no others
    Witness(witness::Serve),
    /// Have a log's latest checkpoint cosigned by a witness, and keep that
    Cosign(witness::Cosign),
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
        #[command(flatten)]
        fleet: Fleet,
    },
    /// Print the records that match
    Query(Ask),
    /// Tell the whole story of a call, a grant, a request or an approval, from who asked to what was done
    Explain(explain::Explain),
    /// Who had access to a resource, since when, approved by whom, used how and removed when
    Access(access::Access),
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
pub(super) struct Fleet {
    /// Ask every gateway, over the control plane, and say how far each answer goes and whose is missing. Exit 7 when one is
    #[arg(long, conflicts_with_all = ["directory", "control", "access_log"])]
    fleet: bool,
    /// The same of this gateway alone. May be given several times
    #[arg(long = "gateway", value_name = "NAME", conflicts_with_all = ["directory", "control", "access_log"])]
    gateways: Vec<GatewayName>,
}

impl Fleet {
    /// What is to be asked over the control plane, if anything is.
    fn request(&self, filter: &Filter) -> Option<v1::QueryEvidenceRequest> {
        let text = |text: Option<String>| text.unwrap_or_default();
        let bits = |bits: Option<u128>| bits.map(|bits| bits.to_be_bytes().to_vec()).unwrap_or_default();
        let value = |value: &WantedValue| v1::EvidenceValue {
            plain: value.plain().to_owned(),
            hashes: value.hashes().map(ToOwned::to_owned).collect(),
        };
        let filter = v1::EvidenceFilter {
            identity: text(filter.identity.as_ref().map(ToString::to_string)),
            grant: bits(filter.grant.map(GrantId::bits)),
            resource: text(filter.resource.as_ref().map(ToString::to_string)),
            action: text(filter.action.as_ref().map(ToString::to_string)),
            reason: text(filter.reason.map(|reason| reason.code().to_owned())),
            call: bits(filter.call.map(CallId::bits)),
            kind: text(filter.kind.map(|kind| kind.as_str().to_owned())),
            from_unix_us: filter.from.map(Timestamp::unix_micros),
            to_unix_us: filter.to.map(Timestamp::unix_micros),
            values: filter.values.iter().map(value).collect(),
        };
        let gateways = self.gateways.iter().map(ToString::to_string).collect();
        let request =
            v1::QueryEvidenceRequest { filter: Some(filter), gateways, ..v1::QueryEvidenceRequest::default() };
        (self.fleet || !self.gateways.is_empty()).then_some(request)
    }
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
    /// Only calls that hold this value: a parameter as it stands; with --hash-key also a value of the query, a long
    /// parameter, an inspected body. May be given several times
    #[arg(long = "value", value_name = "VALUE")]
    values: Vec<String>,
    /// A key under which the gateway hashed such values: its `evidence-hash.key`, or an old one. May be given several times
    #[arg(long = "hash-key", value_name = "FILE", requires = "values")]
    hash_keys: Vec<PathBuf>,
    /// One line for each call that is over, in place of the records
    #[arg(long)]
    access_log: bool,
    /// Read every record, without the index that is kept in the log's directory `index`
    #[arg(long)]
    scan: bool,
    #[command(flatten)]
    fleet: Fleet,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum KindName {
    LogOpened,
    Intent,
    Outcome,
    Denial,
    Denials,
    Refusals,
    TokenIssued,
    TokenRevoked,
    Enforced,
    Change,
    Recovered,
    Pruned,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::LogOpened => Self::LogOpened,
            KindName::Intent => Self::Intent,
            KindName::Outcome => Self::Outcome,
            KindName::Denial => Self::Denial,
            KindName::Denials => Self::Denials,
            KindName::Refusals => Self::Refusals,
            KindName::TokenIssued => Self::TokenIssued,
            KindName::TokenRevoked => Self::TokenRevoked,
            KindName::Enforced => Self::Enforced,
            KindName::Change => Self::Change,
            KindName::Recovered => Self::Recovered,
            KindName::Pruned => Self::Pruned,
        }
    }
}

impl Evidence {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Verify(verify) => verify.run(context).await,
            Self::Prove(prove) => prove.run(context),
            Self::Export(export) => export.run(context),
            Self::Prune(prune) => prune.run(context),
            Self::Witness(witness) => witness.run(context).await,
            Self::Cosign(cosign) => cosign.run(context).await,
            Self::Tail { log, lines, follow, access_log, fleet } => {
                if let Some(request) = fleet.request(&Filter::default()) {
                    let last = u32::try_from(lines).unwrap_or(u32::MAX).max(1);
                    return gateways::tail(context, v1::QueryEvidenceRequest { last, ..request }, follow).await;
                }
                log.tell_of_pruned(context)?;
                tail(context, &log.storage(context)?, lines, follow, View::of(access_log)).await
            }
            Self::Query(ask) => ask.run(context).await,
            Self::Explain(command) => command.run(context),
            Self::Access(command) => command.run(context),
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

    /// Says, beside what is asked for, that older records are not there.
    fn tell_of_pruned(&self, context: &Context) -> Result<(), Failure> {
        let gone = crate::evidence::retention::gone(&*self.storage(context)?)
            .map_err(|error| Failure::from(QueryError::Disk(error)))?;
        if let Some((first, horizon)) = gone {
            super::output::note(&format!("records are here from {first} on: {horizon}"));
        }
        Ok(())
    }

    fn storage(&self, context: &Context) -> Result<Arc<dyn Storage>, Failure> {
        Ok(Arc::new(DiskStorage::read_only(&self.directory(context)?)))
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Disk(error) => Self::new(Exit::Failed, format!("the log cannot be read: {error}")),
            QueryError::Pruned { .. } => Self::new(Exit::NotFound, error.to_string()),
            QueryError::Damaged { .. } | QueryError::Entry { .. } | QueryError::Index(_) => {
                Self::new(Exit::VerificationFailed, error.to_string())
            }
        }
    }
}

impl From<HashKeyError> for Failure {
    fn from(error: HashKeyError) -> Self {
        Self::new(Exit::Usage, error.to_string())
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
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let keys = self.hash_keys.iter().map(|file| HashKey::read(file)).collect::<Result<Vec<_>, _>>()?;
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
            values: self.values.iter().map(|value| WantedValue::new(value, &keys)).collect(),
        };
        if let Some(request) = self.fleet.request(&filter) {
            return gateways::query(context, request).await;
        }
        let directory = self.log.directory(context)?;
        self.log.tell_of_pruned(context)?;
        let mut view = View::of(self.access_log);
        if self.scan {
            let mut query = Query::new(Arc::new(DiskStorage::read_only(&directory)), 0, filter);
            while let Some(found) = query.next()? {
                view.show(context, &found)?;
            }
            return Ok(Exit::Done);
        }
        let mut search = Search::new(Arc::new(Index::open(&directory)?), filter)?;
        while let Some(found) = search.next()? {
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
