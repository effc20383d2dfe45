//! `portcullis breakglass`: access at once in an emergency, and its reviews.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use super::Context;
use super::failure::{Exit, Failure};
use super::limits::{LimitArgs, shown_limits};
use super::output::{Human, note};
use super::time::{DEFAULT_WAIT, both, millis, relative};
use crate::client::answers::{BreakGlassAnswer, ShownBreakGlass};
use crate::clock::SystemClock;
use crate::domain::name::{ActionName, BreakGlassId, IdentityName, ResourceName, RoleName};
use crate::domain::resource::Span;
use crate::domain::{Clock as _, Timestamp};
use crate::wire::v1;

#[derive(Debug, Subcommand)]
pub(super) enum BreakGlass {
    /// Get access at once, without an approval, where policy lets you (sign in anew before: `login --fresh`)
    Open(Box<Open>),
    /// List those whose review is open, unless --all
    List {
        /// Reviewed ones too
        #[arg(long)]
        all: bool,
    },
    /// Show one, with who could close its review
    Show {
        /// Which
        id: BreakGlassId,
    },
    /// End the access before its time; the review stays open
    Close {
        /// Which
        id: BreakGlassId,
        /// Why, in your words
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Answer when every connected gateway enforces it, or after this time (exit 7 if one does not)
        #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = DEFAULT_WAIT)]
        wait: Option<Span>,
    },
    /// Close the review of what somebody else opened; what still lives of it ends
    Review {
        /// Which
        id: BreakGlassId,
        /// What it comes to
        #[arg(long, value_enum)]
        verdict: Verdict,
        /// What there is to say about it
        #[arg(long, value_name = "TEXT")]
        comment: String,
    },
}

/// What a review comes to, as it is called on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Verdict {
    /// It was an emergency, and what was done fits it
    Justified,
    /// It was none, or more was done than it took
    Unjustified,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["role", "resource"]))]
pub(super) struct Open {
    /// Whose access it is
    #[arg(long, value_name = "NAME")]
    identity: IdentityName,
    /// Everything that this role gives
    #[arg(long, value_name = "NAME", conflicts_with = "action")]
    role: Option<RoleName>,
    /// The resource that it opens
    #[arg(long, value_name = "NAME", requires = "action")]
    resource: Option<ResourceName>,
    /// What is done to the resource; may be repeated
    #[arg(long, value_name = "NAME", requires = "resource")]
    action: Vec<ActionName>,
    /// For how long: 5m. As long as it may be if not given
    #[arg(long)]
    duration: Option<Span>,
    /// What the emergency is, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The ticket that it belongs to; as SOURCE:KEY of a ticket source, it ends when the ticket closes
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    ticket: String,
    #[command(flatten)]
    limits: LimitArgs,
    /// Answer when every connected gateway has it, or after this time (exit 7)
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = DEFAULT_WAIT)]
    wait: Option<Span>,
}

impl BreakGlass {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Open(command) => command.run(context).await,
            Self::List { all } => list(context, all).await,
            Self::Show { id } => print(context, &context.client().await?.broken_one(bytes(id)).await?),
            Self::Close { id, reason, wait } => {
                let message = v1::CloseBreakGlassRequest { id: bytes(id), reason, wait_ms: wait.map_or(0, millis) };
                let answer = context.client().await?.close_break_glass(message).await?;
                print(context, &answer)?;
                settled(&answer, "is enforced")
            }
            Self::Review { id, verdict, comment } => {
                let verdict = match verdict {
                    Verdict::Justified => "justified",
                    Verdict::Unjustified => "unjustified",
                };
                let message = v1::ReviewBreakGlassRequest { id: bytes(id), verdict: verdict.to_owned(), comment };
                print(context, &context.client().await?.review_break_glass(message).await?)
            }
        }
    }
}

fn bytes(id: BreakGlassId) -> Vec<u8> {
    id.bits().to_be_bytes().to_vec()
}

impl Open {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let message = v1::OpenBreakGlassRequest {
            identity: self.identity.to_string(),
            role: self.role.map(String::from).unwrap_or_default(),
            resource: self.resource.map(String::from).unwrap_or_default(),
            actions: self.action.into_iter().map(String::from).collect(),
            duration_ms: self.duration.map_or(0, millis),
            limits: self.limits.message(),
            reason: self.reason,
            ticket: self.ticket,
            wait_ms: self.wait.map_or(0, millis),
        };
        let answer = context.client().await?.break_glass(message).await?;
        print(context, &answer)?;
        settled(&answer, "has the grant")
    }
}

fn settled(answer: &BreakGlassAnswer, what: &str) -> Result<Exit, Failure> {
    match answer.enforced {
        Some(false) => Err(Failure::new(Exit::Unavailable, format!("a connected gateway has not said that it {what}"))),
        Some(true) | None => Ok(Exit::Done),
    }
}

async fn list(context: &Context, all: bool) -> Result<Exit, Failure> {
    let answer = context.client().await?.broken(all).await?;
    let now = SystemClock.now();
    let row = |shown: &ShownBreakGlass| {
        let it = &shown.break_glass;
        vec![
            it.id.to_string(),
            it.opener.to_string(),
            it.ask.identity.to_string(),
            it.ask.access.to_string(),
            shown.state.clone(),
            relative(it.opened, now),
            it.review.as_ref().map_or_else(|| relative(it.due, now), |review| relative(review.at, now)),
            it.ask.reason.clone(),
        ]
    };
    context.output.answer(&answer, || Human::Table {
        headers: &["ID", "BY", "IDENTITY", "ACCESS", "STATE", "OPENED", "REVIEW", "REASON"],
        rows: answer.all.iter().map(row).collect(),
        empty: "nobody has broken glass",
    })?;
    if answer.more {
        note("there are older ones that are not listed");
    }
    Ok(Exit::Done)
}

fn print(context: &Context, answer: &BreakGlassAnswer) -> Result<Exit, Failure> {
    context.output.answer(answer, || details(&answer.break_glass, SystemClock.now()))?;
    Ok(Exit::Done)
}

fn details(shown: &ShownBreakGlass, now: Timestamp) -> Human {
    let it = &shown.break_glass;
    let ask = &it.ask;
    let [parameters, networks, bound, uses, uses_per, unused] = shown_limits(&ask.limits);
    let joined = |items: Vec<String>| items.join(", ");
    let gives = it.permissions.iter().map(|permission| {
        let actions: Vec<&str> = permission.actions.iter().map(ActionName::as_str).collect();
        format!("{} on {}", actions.join(","), permission.resource)
    });
    let (acr, amr) = (it.signed_in.acr.iter(), it.signed_in.amr.iter());
    let how = joined(acr.chain(amr).cloned().collect());
    let how = if how.is_empty() { how } else { format!(", {how}") };
    let review = it.review.as_ref().map_or_else(
        || format!("due {}", both(it.due, now)),
        |review| {
            let (at, by, verdict) = (both(review.at, now), &review.by, review.verdict.as_str());
            format!("{verdict}, {at} by {by}: {}", review.comment)
        },
    );
    let closed = it.closed.as_ref().map(|end| format!("{} by {}: {}", both(end.at, now), end.by, end.reason));
    Human::Details(vec![
        ("id", it.id.to_string()),
        ("state", shown.state.clone()),
        ("opened", format!("{} by {}", both(it.opened, now), it.opener)),
        ("signed in", format!("{} at {}{how}", both(it.signed_in.at, now), it.signed_in.issuer)),
        ("identity", ask.identity.to_string()),
        ("access", ask.access.to_string()),
        ("gives", joined(gives.collect())),
        ("for", format!("{}, of at most {}", ask.duration, it.longest)),
        ("ends", both(it.ends, now)),
        ("closed", closed.unwrap_or_default()),
        parameters,
        networks,
        bound,
        uses,
        uses_per,
        unused,
        ("reason", ask.reason.clone()),
        ("ticket", ask.ticket.clone().unwrap_or_default()),
        ("policy", format!("version {}, by {}", it.policy, it.rules.join(", "))),
        ("findings", joined(it.findings.iter().map(|f| format!("{}: {}", f.code, f.text)).collect())),
        ("concerns", it.concerns()),
        ("grants", joined(it.grants.iter().map(ToString::to_string).collect())),
        ("review", review),
        ("who can", joined(it.reviewers.iter().map(ToString::to_string).collect())),
    ])
}
