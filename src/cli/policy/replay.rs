//! `portcullis policy replay`: what a policy that is not in force would change of what was asked, and called, before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::super::Context;
use super::super::failure::{Exit, Failure};
use super::super::output::Human;
use super::super::time::moment;
use crate::app::policy;
use crate::client::Refusal;
use crate::client::answers::ReplayRow;
use crate::domain::Timestamp;
use crate::domain::name::GrantId;
use crate::evidence::entry::{Basis, Event};
use crate::evidence::query::{Filter, Query};
use crate::evidence::read::segments;
use crate::evidence::storage::{DiskStorage, Storage};
use crate::wire::v1;

/// Kinds of calls that are replayed: those that were made most often.
const MAX_KINDS: usize = 1_000;

#[derive(Debug, Args)]
pub(in super::super) struct Replay {
    /// A directory with *.cedar and *.yaml files, or one file
    #[arg(short, long = "file", value_name = "PATH")]
    file: PathBuf,
    /// Only what was asked and called since, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// A gateway's log: its calls are replayed too, those that were refused for lack of a grant as well. May be repeated
    #[arg(long, value_name = "LOG")]
    gateway_log: Vec<PathBuf>,
}

impl Replay {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let set = policy::read(&self.file)?;
        let mut kinds = BTreeMap::new();
        for log in &self.gateway_log {
            calls(log, self.since, &mut kinds)?;
        }
        let mut calls: Vec<(Kind, u64)> = kinds.into_iter().collect();
        calls.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        calls.truncate(MAX_KINDS);
        let message = v1::ReplayPolicyRequest {
            files: set.into_iter().map(|(name, text)| v1::ReplayedFile { name, text }).collect(),
            since_unix_us: self.since.map_or(0, Timestamp::unix_micros),
            calls: calls.into_iter().map(|(kind, count)| kind.message(count)).collect(),
        };
        let answer = context.client().await?.replay_policy(message).await.map_err(|error| {
            let unfit = error.refusal() == Some(Refusal::Unfit);
            let failure = Failure::from(error);
            if unfit { Failure { exit: Exit::Usage, ..failure } } else { failure }
        })?;
        let row = |it: &ReplayRow| {
            let would = if it.why.is_empty() { it.would.clone() } else { format!("{}: {}", it.would, it.why) };
            vec![
                it.change.replace('_', " "),
                it.identity.clone(),
                it.access.clone(),
                it.by.clone(),
                it.of.clone(),
                it.calls.to_string(),
                it.was.clone(),
                would,
            ]
        };
        context.output.answer(&answer, || {
            let gone = if answer.gone == 0 { String::new() } else { format!(", {} are of what is gone", answer.gone) };
            Human::Parts(vec![
                Human::Table {
                    headers: &["CHANGE", "IDENTITY", "ACCESS", "BY", "OF", "CALLS", "IS", "WOULD BE"],
                    rows: answer.rows.iter().map(row).collect(),
                    empty: "nothing would be otherwise",
                },
                Human::Lines(vec![format!("{} were asked anew{gone}", answer.replayed)]),
            ])
        })?;
        Ok(Exit::Done)
    }
}

/// Calls that are one question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Under(GrantId),
    Refused { identity: String, resource: String, action: String },
}

impl Kind {
    fn message(self, count: u64) -> v1::RecordedCalls {
        match self {
            Self::Under(id) => {
                v1::RecordedCalls { grant_id: id.bits().to_be_bytes().to_vec(), count, ..Default::default() }
            }
            Self::Refused { identity, resource, action } => {
                v1::RecordedCalls { grant_id: Vec::new(), identity, resource, action, count }
            }
        }
    }
}

/// Counts the calls of a log, by kind.
fn calls(log: &Path, since: Option<Timestamp>, kinds: &mut BTreeMap<Kind, u64>) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("{}: {error}", log.display()));
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::read_only(log));
    let first = segments(&*storage).map_err(|error| failed(&error))?.into_iter().next().unwrap_or_default();
    let mut query = Query::new(storage, first, Filter { from: since, ..Filter::default() });
    while let Some(found) = query.next().map_err(|error| failed(&error))? {
        let kind = match &found.entry.event {
            Event::Intent(intent) => match &intent.basis {
                Basis::Grant(id) => Kind::Under(*id),
                Basis::Exception(_) => continue,
            },
            Event::Denial(it) => match (&it.identity, &it.resource, &it.action) {
                (Some(identity), Some(resource), Some(action)) => Kind::Refused {
                    identity: identity.to_string(),
                    resource: resource.to_string(),
                    action: action.to_string(),
                },
                _ => continue,
            },
            _ => continue,
        };
        let count = kinds.entry(kind).or_default();
        *count = count.saturating_add(1);
    }
    Ok(())
}
