//! `portcullis exception`: leave from rules, by age, and later ends.

use clap::{ArgGroup, Args, Subcommand};

use super::Context;
use super::change::waits;
use super::failure::{Exit, Failure};
use super::output::{Human, note};
use super::time::{moment, relative};
use crate::client::answers::ShownException;
use crate::clock::SystemClock;
use crate::domain::exception::ExceptionRule;
use crate::domain::name::ExceptionName;
use crate::domain::resource::Span;
use crate::domain::{Clock as _, Timestamp};
use crate::wire::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Exception {
    /// List exceptions, the oldest first: those that give leave, unless --all
    List {
        /// Those that are over too
        #[arg(long)]
        all: bool,
    },
    /// Ask that one end later: it waits for somebody who does not answer for it
    Renew(Renew),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("end").required(true).args(["until", "for_"]))]
pub(super) struct Renew {
    /// The exception
    name: ExceptionName,
    /// Its new end, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// Or for how long from now: 30d
    #[arg(long = "for", id = "for_", value_name = "DURATION")]
    for_: Option<Span>,
    /// Why it is needed for longer, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

impl Exception {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::List { all } => list(context, all).await,
            Self::Renew(command) => command.run(context).await,
        }
    }
}

async fn list(context: &Context, all: bool) -> Result<Exit, Failure> {
    let answer = context.client().await?.exceptions(all).await?;
    let now = SystemClock.now();
    let row = |it: &ShownException| {
        vec![
            it.name.to_string(),
            it.spec.rule.as_str().to_owned(),
            of(it),
            it.spec.owner.to_string(),
            it.since.map_or_else(|| "unknown".to_owned(), |since| relative(since, now)),
            it.renewed.map(|renewed| relative(renewed, now)).unwrap_or_default(),
            relative(it.spec.expires, now),
            it.spec.reason.clone(),
        ]
    };
    context.output.answer(&answer, || Human::Table {
        headers: &["NAME", "RULE", "OF", "OWNER", "SINCE", "RENEWED", "ENDS", "REASON"],
        rows: answer.exceptions.iter().map(row).collect(),
        empty: "no exceptions",
    })?;
    Ok(Exit::Done)
}

fn of(it: &ShownException) -> String {
    let text = |name: Option<String>| name.unwrap_or_default();
    match it.spec.rule {
        ExceptionRule::Observe => text(it.spec.route.as_ref().map(ToString::to_string)),
        ExceptionRule::SeparationOfDuties => {
            let identity = text(it.spec.identity.as_ref().map(ToString::to_string));
            format!("{identity}, {}", text(it.spec.policy_rule.clone()))
        }
        ExceptionRule::NoGrantsByHand => String::new(),
    }
}

impl Renew {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let from_now = self.for_.map(|span| SystemClock.now().saturating_add(span.duration()));
        let expires = self.until.or(from_now).unwrap_or_default();
        let message = v1::RenewExceptionRequest {
            name: self.name.to_string(),
            expires_unix_us: expires.unix_micros(),
            reason: self.reason,
        };
        let answer = context.client().await?.renew_exception(message).await?;
        context.output.answer(&answer, || {
            let line = match &answer.change {
                Some(change) => format!("change {} waits", change.id),
                None => format!("exception {} ends {expires}", self.name),
            };
            Human::Lines(vec![line])
        })?;
        if let Some(change) = &answer.change {
            note(&waits(change));
        }
        Ok(Exit::Done)
    }
}
