//! `portcullis delegation`: who approves in whose place.

use clap::{Args, Subcommand};

use super::Context;
use super::failure::{Exit, Failure};
use super::output::{Human, note};
use super::time::{both, millis, relative};
use crate::client::answers::DelegationAnswer;
use crate::clock::SystemClock;
use crate::domain::delegation::Delegation as Record;
use crate::domain::name::{DelegationId, OwnerName};
use crate::domain::resource::Span;
use crate::domain::{Clock as _, Timestamp};
use crate::wire::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Delegation {
    /// Have another person approve in your place, for a time: never what either of you asks for or answers for
    Create(Create),
    /// List those of yours, and those by which you approve in another's place
    List {
        /// Those that are over, too
        #[arg(long)]
        all: bool,
    },
    /// End one now: what was approved by it and is not granted yet does not count any more
    End(End),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Who approves in your place
    #[arg(long, value_name = "NAME")]
    to: OwnerName,
    /// For how long: 8h, 14d; at most 30d
    #[arg(long)]
    duration: Span,
    /// Why, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, Args)]
pub(super) struct End {
    /// The delegation
    id: DelegationId,
    /// Why, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

impl Delegation {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let mut client = context.client().await?;
        match self {
            Self::Create(Create { to, duration, reason }) => {
                let message = v1::CreateDelegationRequest { to: to.to_string(), duration_ms: millis(duration), reason };
                print(context, &client.create_delegation(message).await?)
            }
            Self::List { all } => {
                let answer = client.delegations(all).await?;
                let now = SystemClock.now();
                context.output.answer(&answer, || Human::Table {
                    headers: &["ID", "FROM", "TO", "STATE", "ENDS", "REASON"],
                    rows: answer.delegations.iter().map(|it| row(it, now)).collect(),
                    empty: "no delegations",
                })?;
                if answer.more {
                    note("there are older ones that are not listed");
                }
                Ok(Exit::Done)
            }
            Self::End(End { id, reason }) => {
                print(context, &client.end_delegation(id.bits().to_be_bytes().to_vec(), reason).await?)
            }
        }
    }
}

fn state(it: &Record, now: Timestamp) -> &'static str {
    if it.is_live(now) { "live" } else { "over" }
}

fn row(it: &Record, now: Timestamp) -> Vec<String> {
    vec![
        it.id.to_string(),
        it.from.to_string(),
        it.to.to_string(),
        state(it, now).to_owned(),
        relative(it.ended.as_ref().map_or(it.ends, |ended| ended.at), now),
        it.reason.clone(),
    ]
}

fn print(context: &Context, answer: &DelegationAnswer) -> Result<Exit, Failure> {
    let (it, now) = (&answer.delegation, SystemClock.now());
    let ended = it.ended.as_ref().map(|end| format!("{} by {}: {}", both(end.at, now), end.by, end.reason));
    context.output.answer(answer, || {
        Human::Details(vec![
            ("id", it.id.to_string()),
            ("from", it.from.to_string()),
            ("to", it.to.to_string()),
            ("state", state(it, now).to_owned()),
            ("reason", it.reason.clone()),
            ("ends", both(it.ends, now)),
            ("ended", ended.unwrap_or_default()),
        ])
    })?;
    Ok(Exit::Done)
}
