//! `portcullis request`: ask for access, look at what is asked, and decide.

use clap::{ArgGroup, Args, Subcommand};

use super::Context;
use super::failure::{Exit, Failure};
use super::limits::{LimitArgs, shown_limits};
use super::output::{Human, note};
use super::time::{DEFAULT_WAIT, both, millis, moment, relative};
use crate::client::Asked;
use crate::client::answers::{RequestAnswer, RequestList};
use crate::clock::SystemClock;
use crate::domain::name::{ActionName, IdentityName, OwnerName, RequestId, ResourceName, RoleName};
use crate::domain::request::{Request as Record, Stage, State, Verdict, in_words};
use crate::domain::resource::Span;
use crate::domain::ticket::Ticket;
use crate::domain::{Clock as _, Timestamp};
use crate::wire::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Request {
    /// Ask for access; where policy needs nobody, it is granted at once (exit 3 when policy refuses it)
    Create(Box<Create>),
    /// List requests: those that are open, unless --all
    List {
        /// Settled ones too, the latest 1,000
        #[arg(long)]
        all: bool,
    },
    /// Show one request, with what approving it would give
    Show {
        /// The request
        id: RequestId,
        /// Answer when it is settled, or after this time
        #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = DEFAULT_WAIT)]
        wait: Option<Span>,
    },
    /// Approve a request as it is shown
    Approve {
        /// The request
        id: RequestId,
        /// The digest of what was seen. Without it the request is shown, and a terminal is asked
        #[arg(long, value_name = "SHA256")]
        digest: Option<String>,
        /// Without a question: as it is at this moment
        #[arg(long, conflicts_with = "digest")]
        yes: bool,
        /// In whose place, by a delegation of theirs; needed where there are several
        #[arg(long, value_name = "NAME")]
        on_behalf_of: Option<OwnerName>,
        /// What there is to say about it
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        comment: String,
    },
    /// Say no to a request
    Deny(End),
    /// Take a request back; of one that was granted, give back what it was granted
    Cancel {
        #[command(flatten)]
        end: End,
        /// Answer when every connected gateway enforces it, or after this time (exit 7 if one does not)
        #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = DEFAULT_WAIT)]
        wait: Option<Span>,
    },
}

#[derive(Debug, Args)]
pub(super) struct End {
    /// The request
    id: RequestId,
    /// Why, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["role", "resource"]))]
pub(super) struct Create {
    /// Whose access it would be
    #[arg(long, value_name = "NAME")]
    identity: IdentityName,
    /// Everything that this role gives
    #[arg(long, value_name = "NAME", conflicts_with = "action")]
    role: Option<RoleName>,
    /// The resource that it would open
    #[arg(long, value_name = "NAME", requires = "action")]
    resource: Option<ResourceName>,
    /// What would be done to the resource; may be repeated
    #[arg(long, value_name = "NAME", requires = "resource")]
    action: Vec<ActionName>,
    /// For how long: 15m, 8h
    #[arg(long)]
    duration: Span,
    /// Why, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The ticket that it belongs to; as SOURCE:KEY of a ticket source, it ends when the ticket closes
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    ticket: String,
    /// What it ends with besides, a job, a deployment or a change of a ticket source; may be repeated
    #[arg(long, value_name = "SOURCE:KEY", visible_alias = "until-job")]
    until: Vec<Ticket>,
    /// When it begins, RFC 3339, as for a maintenance window; when it is granted if not given
    #[arg(long, value_name = "TIME", value_parser = moment)]
    starts: Option<Timestamp>,
    #[command(flatten)]
    limits: LimitArgs,
    /// What to call it: the same again with the same key within a day is not made twice
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    key: String,
    /// Answer when it is settled and every connected gateway has it, or after this time (exit 7)
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = DEFAULT_WAIT)]
    wait: Option<Span>,
}

impl Request {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Create(command) => command.run(context).await,
            Self::List { all } => list(context, all).await,
            Self::Show { id, wait } => {
                let asked = context.client().await?.request(bytes(id), wait.map_or(0, millis)).await?;
                print(context, asked, wait)?;
                Ok(Exit::Done)
            }
            Self::Approve { id, digest, yes, on_behalf_of, comment } => {
                let on_behalf_of = on_behalf_of.map(String::from).unwrap_or_default();
                let digest = digest.unwrap_or_default();
                let yes_of = v1::ApproveRequestRequest { id: bytes(id), digest, comment, on_behalf_of };
                approve(context, id, yes_of, yes).await
            }
            Self::Deny(End { id, reason }) => {
                let asked = context.client().await?.deny_request(bytes(id), reason).await?;
                print(context, asked, None)?;
                Ok(Exit::Done)
            }
            Self::Cancel { end: End { id, reason }, wait } => {
                let message = v1::CancelRequestRequest { id: bytes(id), reason, wait_ms: wait.map_or(0, millis) };
                let asked = context.client().await?.cancel_request(message).await?;
                let (ended, enforced) = (asked.grants.len(), asked.enforced);
                print(context, asked, wait)?;
                if ended > 0 {
                    note(&format!("{ended} grants ended before their time"));
                }
                match wait {
                    Some(_) if ended > 0 && !enforced => {
                        Err(Failure::new(Exit::Unavailable, "a connected gateway has not said that it is enforced"))
                    }
                    _ => Ok(Exit::Done),
                }
            }
        }
    }
}

fn bytes(id: RequestId) -> Vec<u8> {
    id.bits().to_be_bytes().to_vec()
}

impl Create {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let message = v1::CreateRequestRequest {
            identity: self.identity.to_string(),
            role: self.role.map(String::from).unwrap_or_default(),
            resource: self.resource.map(String::from).unwrap_or_default(),
            actions: self.action.into_iter().map(String::from).collect(),
            starts_unix_us: self.starts.map_or(0, Timestamp::unix_micros),
            duration_ms: millis(self.duration),
            limits: self.limits.message(),
            reason: self.reason,
            ticket: self.ticket,
            until: self.until.iter().map(ToString::to_string).collect(),
            key: self.key,
            wait_ms: self.wait.map_or(0, millis),
        };
        ask(context, message, self.wait).await
    }
}

/// Asks, shows what came of it, and says it by the exit.
pub(super) async fn ask(
    context: &Context,
    message: v1::CreateRequestRequest,
    wait: Option<Span>,
) -> Result<Exit, Failure> {
    let asked = context.client().await?.create_request(message).await?;
    let (state, enforced) = (asked.request.state, asked.enforced);
    let why = asked.request.settled.as_ref().map(|settled| settled.reason.clone()).unwrap_or_default();
    print(context, asked, wait)?;
    match state {
        State::Denied => Err(Failure::new(Exit::Denied, format!("the request is denied: {why}"))),
        State::Cancelled | State::Expired => {
            Err(Failure::new(Exit::Conflict, format!("the request is {}: {why}", state.as_str())))
        }
        State::Pending if wait.is_some() => {
            Err(Failure::new(Exit::Unavailable, "nobody has decided within the time given"))
        }
        State::Granted if wait.is_some() && !enforced => {
            Err(Failure::new(Exit::Unavailable, "a connected gateway has not said that it has the grant"))
        }
        State::Pending | State::Granted => Ok(Exit::Done),
    }
}

async fn approve(
    context: &Context,
    id: RequestId,
    mut message: v1::ApproveRequestRequest,
    yes: bool,
) -> Result<Exit, Failure> {
    let mut client = context.client().await?;
    if message.digest.is_empty() {
        let shown = client.request(bytes(id), 0).await?.request;
        // What was shown is what is approved: if it is another by then, the approval is refused.
        if !yes && shown.is_open() && !confirmed(&shown)? {
            return Err(Failure::new(Exit::Failed, "nothing was approved"));
        }
        message.digest = shown.analysis.digest;
    }
    let asked = client.approve_request(message).await?;
    let (state, settled) = (asked.request.state, asked.request.settled.clone());
    print(context, asked, None)?;
    match (state, settled) {
        (State::Denied, Some(settled)) => {
            Err(Failure::new(Exit::Denied, format!("it cannot be granted any more: {}", settled.reason)))
        }
        _ => Ok(Exit::Done),
    }
}

/// Shows a request and asks for a yes. Whoever cannot be asked has to say what they saw.
fn confirmed(shown: &Record) -> Result<bool, Failure> {
    use std::io::{IsTerminal as _, Write as _};
    let digest = &shown.analysis.digest;
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::usage(format!(
            "this is no terminal, so nobody can be asked: say what was seen with `--digest {digest}`, or `--yes`"
        )));
    }
    let mut terminal = std::io::stderr().lock();
    if let Human::Details(fields) = details(shown, SystemClock.now()) {
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
            writeln!(terminal, "{name:<12}  {}", value.escape_debug())?;
        }
    }
    write!(terminal, "approve this? [y/N] ")?;
    terminal.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "yes"))
}

async fn list(context: &Context, all: bool) -> Result<Exit, Failure> {
    let (requests, more) = context.client().await?.requests(all).await?;
    let now = SystemClock.now();
    let answer = RequestList { requests, more };
    let row = |request: &Record| {
        vec![
            request.id.to_string(),
            request.requester.to_string(),
            request.ask.identity.to_string(),
            request.ask.access.to_string(),
            request.ask.duration.to_string(),
            request.state.as_str().to_owned(),
            relative(request.settled.as_ref().map_or(request.expires, |settled| settled.at), now),
            request.ask.reason.clone(),
        ]
    };
    context.output.answer(&answer, || Human::Table {
        headers: &["ID", "BY", "IDENTITY", "ACCESS", "FOR", "STATE", "ENDS", "REASON"],
        rows: answer.requests.iter().map(row).collect(),
        empty: "no requests",
    })?;
    Ok(Exit::Done)
}

fn print(context: &Context, asked: Asked, wait: Option<Span>) -> Result<(), Failure> {
    let now = SystemClock.now();
    let enforced = wait.filter(|_| asked.request.state == State::Granted).map(|_| asked.enforced);
    let grants = asked.grants.into_iter().map(|grant| grant.shown(now)).collect();
    let answer = RequestAnswer { request: asked.request, revision: asked.revision, grants, enforced };
    context.output.answer(&answer, || details(&answer.request, now))
}

/// The stages whose turn it is, where there are others.
fn turn(request: &Record) -> String {
    let order = request.turn().order;
    let (open, others): (Vec<Stage>, Vec<Stage>) =
        request.analysis.stages.iter().cloned().partition(|stage| stage.order == order);
    if request.is_open() && !others.is_empty() { in_words(&open) } else { String::new() }
}

fn details(request: &Record, now: Timestamp) -> Human {
    let (ask, analysis) = (&request.ask, &request.analysis);
    let [parameters, networks, bound, uses, uses_per, unused] = shown_limits(&ask.limits);
    let joined = |items: Vec<String>| items.join("; ");
    let gives = analysis.permissions.iter().map(|permission| {
        let actions: Vec<&str> = permission.actions.iter().map(ActionName::as_str).collect();
        format!("{} on {}", actions.join(","), permission.resource)
    });
    let approvals = request.approvals.iter().map(|approval| {
        let stale = if approval.digest == analysis.digest { "" } else { " (of what it was before: does not count)" };
        let comment = approval.comment.as_ref().map(|comment| format!(": {comment}")).unwrap_or_default();
        let place = approval.on_behalf_of.as_ref().map(|from| format!(" in the place of {from}")).unwrap_or_default();
        format!("{} by {}{place} {}{stale}{comment}", approval.id, approval.by, relative(approval.at, now))
    });
    let escalated = request.escalated.iter().map(|it| format!("{} {}", it.stage.approvers, relative(it.at, now)));
    let verdict = match analysis.verdict {
        Verdict::Grant => "needs nobody",
        Verdict::Approve => "needs approval",
        Verdict::Refuse => "refuses it",
    };
    let settled = request.settled.as_ref().map(|it| format!("{} by {}: {}", both(it.at, now), it.by, it.reason));
    let names = |names: &[crate::domain::name::OwnerName]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    Human::Details(vec![
        ("id", request.id.to_string()),
        ("state", request.state.as_str().to_owned()),
        ("requested", format!("{} by {}", both(request.created, now), request.requester)),
        ("identity", ask.identity.to_string()),
        ("access", ask.access.to_string()),
        ("gives", joined(gives.collect())),
        ("adds", analysis.adds.join(", ")),
        ("held", analysis.held.join(", ")),
        ("starts", ask.starts.map(|starts| both(starts, now)).unwrap_or_default()),
        ("for", ask.duration.to_string()),
        parameters,
        networks,
        bound,
        uses,
        uses_per,
        unused,
        ("reason", ask.reason.clone()),
        ("ticket", ask.ticket.clone().unwrap_or_default()),
        ("until", ask.until.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        ("policy", format!("version {} {verdict}, by {}", analysis.policy, analysis.rules.join(", "))),
        ("longest", analysis.longest.map(|longest| longest.to_string()).unwrap_or_default()),
        ("unused", analysis.unused.map(|span| format!("policy ends it when unused for {span}")).unwrap_or_default()),
        ("findings", joined(analysis.findings.iter().map(|f| format!("{}: {}", f.code, f.text)).collect())),
        ("needs", in_words(&analysis.stages)),
        ("waits for", turn(request)),
        ("escalated", joined(escalated.collect())),
        ("who can", names(&analysis.eligible).join(", ")),
        ("approvals", joined(approvals.collect())),
        ("grants", request.grants.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        ("settled", settled.unwrap_or_default()),
        ("expires", if request.is_open() { both(request.expires, now) } else { String::new() }),
        ("digest", analysis.digest.clone()),
    ])
}
