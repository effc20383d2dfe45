//! `portcullis grant`: make, list, show, revoke and watch grants.

mod shown;

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;
use shown::{details, table};

use super::failure::{Exit, Failure};
use super::limits::{self, LimitArgs};
use super::output::{Human, note};
use super::time::{DEFAULT_WAIT, both, millis, moment};
use super::{Context, receipt};
use crate::client::GrantRecord;
use crate::client::answers::{CreateAnswer, RevokeAnswer, ShownGrant, SweepAnswer, outstanding};
use crate::clock::SystemClock;
use crate::domain::name::{ActionName, GrantId, IdentityName, ResourceName, RoleName};
use crate::domain::resource::{Span, SpanError};
use crate::domain::ticket::Ticket;
use crate::domain::{Clock as _, Timestamp};
use crate::wire::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Grant {
    /// Make a grant by hand (administrators only, and nobody once a policy is in force: see `request create`)
    Create(Box<Create>),
    /// List grants: those scheduled or active, unless --state says otherwise
    List(List),
    /// Show one grant
    Show {
        /// The grant
        id: GrantId,
    },
    /// End a grant now, and print the receipt
    Revoke(Revoke),
    /// Ask for what a grant gives once more, from when that is granted; the old one ends as it was to
    Renew(Renew),
    /// Print changes of grants as they happen
    Watch {
        /// Begin after this revision rather than now
        #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
        from: u64,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["role", "resource"]))]
pub(super) struct Create {
    /// Whose grant it is
    #[arg(long, value_name = "NAME")]
    identity: IdentityName,
    /// Everything that this role gives
    #[arg(long, value_name = "NAME", conflicts_with = "action")]
    role: Option<RoleName>,
    /// The resource that it opens
    #[arg(long, value_name = "NAME", requires = "action")]
    resource: Option<ResourceName>,
    /// What may be done to the resource; may be repeated
    #[arg(long, value_name = "NAME", requires = "resource")]
    action: Vec<ActionName>,
    /// How long it lives: 15m, 8h, 7d
    #[arg(long)]
    duration: Span,
    /// Why, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The ticket that it belongs to
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    ticket: String,
    /// When it begins, RFC 3339; now if not given
    #[arg(long, value_name = "TIME", value_parser = moment)]
    starts: Option<Timestamp>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Answer when every connected gateway has it, or after this time
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = DEFAULT_WAIT)]
    wait: Option<Span>,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only this identity's
    #[arg(long, value_name = "NAME")]
    identity: Option<IdentityName>,
    /// Only of this resource
    #[arg(long, value_name = "NAME")]
    resource: Option<ResourceName>,
    /// Only in this state; may be repeated
    #[arg(long, value_parser = ["scheduled", "active", "expired", "revoked"])]
    state: Vec<String>,
    /// In every state
    #[arg(long, conflicts_with = "state")]
    all: bool,
}

#[derive(Debug, Args)]
pub(super) struct Renew {
    /// The grant: what it opens, and its limits
    id: GrantId,
    /// For how long, from when it is granted
    #[arg(long)]
    duration: Span,
    /// Why, in your words; as the grant says if not given
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The ticket that it belongs to; the grant's if not given
    #[arg(long, value_name = "TEXT")]
    ticket: Option<String>,
    /// What to call the request: the same again with the same key within a day is not made twice
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    key: String,
    /// Answer when it is settled and every connected gateway has it, or after this time (exit 7)
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = DEFAULT_WAIT)]
    wait: Option<Span>,
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The grant
    #[arg(required_unless_present_any = ["wait", "identity", "resource", "all"])]
    id: Option<GrantId>,
    /// In place of one grant, every one of this identity
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    identity: Option<IdentityName>,
    /// In place of one grant, every one on this resource
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    resource: Option<ResourceName>,
    /// In place of one grant, every one that there is
    #[arg(long, conflicts_with_all = ["id", "identity", "resource"])]
    all: bool,
    /// Why, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Answer when every connected gateway enforces it, or after this time (exit 7 if one does not)
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = DEFAULT_WAIT)]
    wait: Option<WaitOrId>,
}

/// What stands behind `--wait`: a time, or, in `grant revoke --reason TEXT --wait ID`, already the grant.
#[derive(Clone, Copy, Debug)]
enum WaitOrId {
    Wait(Span),
    Id(GrantId),
}

impl std::str::FromStr for WaitOrId {
    type Err = SpanError;
    fn from_str(text: &str) -> Result<Self, SpanError> {
        text.parse().map(Self::Id).or_else(|_| text.parse().map(Self::Wait))
    }
}

#[derive(Serialize)]
struct ListAnswer {
    grants: Vec<ShownGrant>,
}

#[derive(Serialize)]
struct ChangeLine {
    revision: u64,
    event: String,
    grant: ShownGrant,
}

impl Grant {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Create(command) => command.run(context).await,
            Self::List(command) => command.run(context).await,
            Self::Show { id } => show(context, id).await,
            Self::Revoke(command) => command.run(context).await,
            Self::Renew(command) => command.run(context).await,
            Self::Watch { from } => watch(context, from).await,
        }
    }
}

impl Create {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = v1::CreateGrantRequest {
            identity: self.identity.to_string(),
            role: self.role.map(String::from).unwrap_or_default(),
            resource: self.resource.map(String::from).unwrap_or_default(),
            actions: self.action.into_iter().map(String::from).collect(),
            starts_unix_us: self.starts.map_or(0, Timestamp::unix_micros),
            duration_ms: millis(self.duration),
            limits: self.limits.message(),
            reason: self.reason,
            ticket: self.ticket,
            wait_ms: self.wait.map_or(0, millis),
        };
        let created = context.client().await?.create_grant(request).await?;
        let now = SystemClock.now();
        let waited = self.wait.is_some();
        let grants: Vec<_> = created.grants.into_iter().map(|grant| grant.shown(now)).collect();
        let answer = CreateAnswer { grants, revision: created.revision, gateways: created.gateways };
        context.output.answer(&answer, || {
            let mut parts = vec![table(&answer.grants, now)];
            if waited {
                parts.push(receipt::tables(&answer.gateways, now));
            }
            Human::Parts(parts)
        })?;
        if waited { receipt::settled(&answer.gateways, "has the grant") } else { Ok(Exit::Done) }
    }
}

impl List {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let every = || ["scheduled", "active", "expired", "revoked"].map(str::to_owned).to_vec();
        let request = v1::ListGrantsRequest {
            identity: self.identity.map(String::from).unwrap_or_default(),
            resource: self.resource.map(String::from).unwrap_or_default(),
            states: if self.all { every() } else { self.state },
            ..v1::ListGrantsRequest::default()
        };
        let grants = context.client().await?.list_grants(request).await?;
        let now = SystemClock.now();
        let answer = ListAnswer { grants: grants.into_iter().map(|grant| grant.shown(now)).collect() };
        context.output.answer(&answer, || table(&answer.grants, now))?;
        Ok(Exit::Done)
    }
}

async fn show(context: &Context, id: GrantId) -> Result<Exit, Failure> {
    let grant = context.client().await?.grant(id.bits().to_be_bytes().to_vec()).await?;
    let now = SystemClock.now();
    let shown = grant.shown(now);
    context.output.answer(&shown, || details(&shown, now))?;
    Ok(Exit::Done)
}

/// What the next one ends with besides its ticket: the same.
fn again(until: &[Ticket], ticket: Option<&str>) -> Vec<String> {
    let until = until.iter().map(ToString::to_string);
    until.filter(|it| !ticket.is_some_and(|ticket| ticket.eq_ignore_ascii_case(it))).collect()
}

impl Renew {
    /// The same access under the same limits is asked for as anybody would ask for it.
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let crate::domain::grant::Grant { identity, resource, actions, limits, lineage, .. } =
            context.client().await?.grant(self.id.bits().to_be_bytes().to_vec()).await?.grant;
        let message = v1::CreateRequestRequest {
            identity: identity.into(),
            resource: resource.into(),
            actions: actions.into_iter().map(String::from).collect(),
            duration_ms: millis(self.duration),
            limits: limits::message(&limits),
            reason: self.reason.unwrap_or(lineage.reason),
            until: again(&lineage.until, lineage.ticket.as_deref()),
            ticket: self.ticket.or(lineage.ticket).unwrap_or_default(),
            key: self.key,
            wait_ms: self.wait.map_or(0, millis),
            ..Default::default()
        };
        super::request::ask(context, message, self.wait).await
    }
}

impl Revoke {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        if self.all || self.identity.is_some() || self.resource.is_some() {
            return self.sweep(context).await;
        }
        let (id, wait) = match (self.id, self.wait) {
            (Some(id), None) => (id, None),
            (Some(id), Some(WaitOrId::Wait(wait))) => (id, Some(wait)),
            (None, Some(WaitOrId::Id(id))) => (id, DEFAULT_WAIT.parse().ok()),
            (None, None | Some(WaitOrId::Wait(_))) => return Err(Failure::usage("which grant? Name its ID")),
            (Some(_), Some(WaitOrId::Id(_))) => return Err(Failure::usage("one grant at a time")),
        };
        let request = v1::RevokeGrantRequest {
            id: id.bits().to_be_bytes().to_vec(),
            reason: self.reason,
            wait_ms: wait.map_or(0, millis),
        };
        let revoked = context.client().await?.revoke_grant(request).await?;
        let now = SystemClock.now();
        let answer = RevokeAnswer {
            grant: revoked.grant.shown(now),
            revision: revoked.revision,
            enforced: wait.map(|_| outstanding(&revoked.gateways) == 0),
            gateways: revoked.gateways,
        };
        context.output.answer(&answer, || {
            let line = format!("grant {} revoked in revision {}", answer.grant.record.grant.id, answer.revision);
            Human::Parts(vec![Human::Lines(vec![line]), receipt::tables(&answer.gateways, now)])
        })?;
        if wait.is_some() { receipt::settled(&answer.gateways, "is enforced") } else { Ok(Exit::Done) }
    }
}

impl Revoke {
    /// Ends many at once.
    async fn sweep(self, context: &Context) -> Result<Exit, Failure> {
        let wait = match self.wait {
            None => None,
            Some(WaitOrId::Wait(wait)) => Some(wait),
            Some(WaitOrId::Id(_)) => return Err(Failure::usage("one grant, or many: not both")),
        };
        let request = v1::RevokeGrantsRequest {
            identity: self.identity.map(String::from).unwrap_or_default(),
            resource: self.resource.map(String::from).unwrap_or_default(),
            all: self.all,
            reason: self.reason,
            wait_ms: wait.map_or(0, millis),
        };
        let (revoked, revision, gateways) = context.client().await?.revoke_grants(request).await?;
        let enforced = wait.map(|_| outstanding(&gateways) == 0);
        let answer = SweepAnswer { revoked, revision, enforced, gateways };
        context.output.answer(&answer, || {
            let line = format!("{revoked} grants revoked, the last in revision {revision}");
            Human::Parts(vec![Human::Lines(vec![line]), receipt::tables(&answer.gateways, SystemClock.now())])
        })?;
        if wait.is_some() { receipt::settled(&answer.gateways, "is enforced") } else { Ok(Exit::Done) }
    }
}

async fn watch(context: &Context, from: u64) -> Result<Exit, Failure> {
    let mut client = context.client().await?;
    let mut changes = client.watch_grants(from).await?;
    while let Some(change) = changes.next().await? {
        let now = SystemClock.now();
        let line = ChangeLine { revision: change.revision, event: change.event, grant: change.grant.shown(now) };
        context.output.element(&line, || {
            let GrantRecord { grant, .. } = &line.grant.record;
            let actions = grant.actions.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            super::output::escaped(&format!(
                "{} {} {} {} {} {actions} ends {}",
                line.revision,
                line.event,
                grant.id,
                grant.identity,
                grant.resource,
                both(grant.window.ends, now),
            ))
        })?;
    }
    note("the control plane ended the watch");
    Err(Failure::new(Exit::Unavailable, "the control plane ended the watch"))
}
