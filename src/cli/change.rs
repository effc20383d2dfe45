//! `portcullis change`: what widens access and waits for another person.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::{Human, note};
use super::time::{both, relative};
use crate::client::answers::ChangeAnswer;
use crate::clock::SystemClock;
use crate::domain::change::{Proposal, ProposalState, Proposed, Touched};
use crate::domain::name::{ChangeId, OwnerName};
use crate::domain::{Clock as _, Timestamp};
use crate::wire::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Change {
    /// List changes: those that wait, unless --all
    List {
        /// Settled ones too
        #[arg(long)]
        all: bool,
    },
    /// Show one change, while it waits with what it would do now
    Show {
        /// The change
        id: ChangeId,
    },
    /// Approve a change as it is shown: it comes true
    Approve {
        /// The change
        id: ChangeId,
        /// The digest of what was seen. Without it the change is shown, and a terminal is asked
        #[arg(long, value_name = "SHA256")]
        digest: Option<String>,
        /// Without a question: as it is at this moment
        #[arg(long, conflicts_with = "digest")]
        yes: bool,
        /// What there is to say about it
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        comment: String,
    },
    /// Say no to a change
    Deny(End),
    /// Take a change back
    Cancel(End),
}

#[derive(Debug, Args)]
pub(super) struct End {
    /// The change
    id: ChangeId,
    /// Why, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

impl Change {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::List { all } => list(context, all).await,
            Self::Show { id } => print(context, &context.client().await?.change(bytes(id)).await?),
            Self::Approve { id, digest, yes, comment } => approve(context, id, digest, yes, comment).await,
            Self::Deny(End { id, reason }) => {
                print(context, &context.client().await?.deny_change(bytes(id), reason).await?)
            }
            Self::Cancel(End { id, reason }) => {
                print(context, &context.client().await?.cancel_change(bytes(id), reason).await?)
            }
        }
    }
}

fn bytes(id: ChangeId) -> Vec<u8> {
    id.bits().to_be_bytes().to_vec()
}

/// Tells whoever asked for a change that it waits.
pub(super) fn waits(proposal: &Proposal) -> String {
    let who: Vec<&str> = proposal.eligible.iter().map(OwnerName::as_str).collect();
    let id = proposal.id;
    format!(
        "nothing is changed yet: this widens access, so change {id} waits for another person (one of {}). They look with \
         `portcullis change show {id}` and decide with `portcullis change approve {id}`",
        who.join(", ")
    )
}

async fn list(context: &Context, all: bool) -> Result<Exit, Failure> {
    let answer = context.client().await?.changes(all).await?;
    let now = SystemClock.now();
    let row = |it: &Proposal| {
        vec![
            it.id.to_string(),
            it.author.to_string(),
            what(&it.proposed).to_owned(),
            it.objects.len().to_string(),
            it.state.as_str().to_owned(),
            relative(it.settled.as_ref().map_or(it.expires, |settled| settled.at), now),
            it.reason.clone(),
        ]
    };
    context.output.answer(&answer, || Human::Table {
        headers: &["ID", "BY", "OF", "OBJECTS", "STATE", "ENDS", "REASON"],
        rows: answer.changes.iter().map(row).collect(),
        empty: "no changes",
    })?;
    if answer.more {
        note("there are older ones that are not listed");
    }
    Ok(Exit::Done)
}

const fn what(proposed: &Proposed) -> &'static str {
    match proposed {
        Proposed::Catalog { .. } => "catalog",
        Proposed::Policy { .. } => "policy",
    }
}

async fn approve(
    context: &Context,
    id: ChangeId,
    digest: Option<String>,
    yes: bool,
    comment: String,
) -> Result<Exit, Failure> {
    let mut client = context.client().await?;
    let digest = match digest {
        Some(digest) => digest,
        None => {
            let shown = client.change(bytes(id)).await?.change;
            // What was shown is what is approved: if it is another by then, the approval is refused.
            if !yes && shown.is_open() && !confirmed(&shown)? {
                return Err(Failure::new(Exit::Failed, "nothing was approved"));
            }
            shown.digest
        }
    };
    let answer = client.approve_change(v1::ApproveChangeRequest { id: bytes(id), digest, comment }).await?;
    let settled = answer.change.settled.as_ref().map(|it| it.reason.clone()).unwrap_or_default();
    print(context, &answer)?;
    match answer.change.state {
        ProposalState::Stale => {
            Err(Failure::new(Exit::Conflict, format!("it cannot come true any more, ask for it anew: {settled}")))
        }
        _ => Ok(Exit::Done),
    }
}

/// Shows a change and asks for a yes. Whoever cannot be asked has to say what they saw.
fn confirmed(shown: &Proposal) -> Result<bool, Failure> {
    use std::io::{IsTerminal as _, Write as _};
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::usage("say what was seen with --digest, or --yes for what it is at this moment"));
    }
    let mut terminal = std::io::stderr();
    terminal.write_all(details(shown, SystemClock.now()).text().as_bytes())?;
    write!(terminal, "approve this? [y/N] ")?;
    terminal.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "yes"))
}

fn print(context: &Context, answer: &ChangeAnswer) -> Result<Exit, Failure> {
    context.output.answer(answer, || details(&answer.change, SystemClock.now()))?;
    Ok(Exit::Done)
}

fn details(it: &Proposal, now: Timestamp) -> Human {
    let names = it.eligible.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let settled = it.settled.as_ref().map(|end| format!("{} by {}: {}", both(end.at, now), end.by, end.reason));
    let approvals = it.approvals.iter().map(|given| {
        let comment = given.comment.as_ref().map(|comment| format!(": {comment}")).unwrap_or_default();
        format!("{} by {} {}{comment}", given.id, given.by, relative(given.at, now))
    });
    let mut parts = vec![Human::Details(vec![
        ("id", it.id.to_string()),
        ("state", it.state.as_str().to_owned()),
        ("of", what(&it.proposed).to_owned()),
        ("proposed", format!("{} by {}", both(it.created, now), it.author)),
        ("reason", it.reason.clone()),
        ("stale", it.stale.clone().unwrap_or_default()),
        ("who can", names),
        ("approvals", approvals.collect::<Vec<_>>().join("; ")),
        ("version", it.version.map(|version| version.to_string()).unwrap_or_default()),
        ("settled", settled.unwrap_or_default()),
        ("expires", if it.is_open() { both(it.expires, now) } else { String::new() }),
        ("digest", it.digest.clone()),
    ])];
    parts.extend(it.objects.iter().map(|object| Human::Lines(object_lines(object))));
    parts.push(Human::Table {
        headers: &["WHO", "", "WHAT"],
        rows: it.effects.iter().map(super::apply::effect).collect(),
        empty: "",
    });
    Human::Parts(parts)
}

fn object_lines(object: &Touched) -> Vec<String> {
    let mut lines = vec![format!("{} {}: {}", object.kind, object.name, object.change)];
    let text = |sign: char, value: &Option<Value>| {
        let text = value.as_ref().and_then(Value::as_str).unwrap_or_default();
        text.lines().map(|line| format!("  {sign} {line}")).collect::<Vec<_>>()
    };
    if matches!(object.before, None | Some(Value::String(_))) && matches!(object.after, None | Some(Value::String(_))) {
        lines.extend(text('-', &object.before));
        lines.extend(text('+', &object.after));
    } else {
        lines.extend(super::apply::field_lines(object.before.as_ref(), object.after.as_ref()));
    }
    lines
}
