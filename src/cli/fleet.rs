//! `portcullis fleet`: where the gateways stand, and taking one's authority.

mod halted;
mod scope;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use self::scope::Before;
use super::Context;
use super::failure::{Exit, Failure};
use super::output::{Human, Output};
use super::receipt;
use super::time::{DEFAULT_WAIT, both, measured, millis};
use crate::client::Receipt;
use crate::client::fleet::{Drilled, FleetGateway, FleetHalt, FleetStatus};
use crate::clock::SystemClock;
use crate::domain::Clock as _;
use crate::domain::Timestamp;
use crate::domain::name::GatewayName;
use crate::domain::resource::Span;
use crate::files;
use crate::wire::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Fleet {
    /// Show each gateway: how far it enforces, how old its authority is, how much of its log is cosigned
    Status,
    /// Record a gateway and write what it joins with, once: a secret and the CA that it pins
    Invite {
        /// The gateway
        name: GatewayName,
        /// A host name or address under which callers reach it, besides those of loopback; may be repeated
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        #[command(flatten)]
        before: Before,
        /// How long it is good
        #[arg(long, value_name = "DURATION", default_value = "1h")]
        ttl: Span,
        /// Where it is written, readable by you alone; it is for `portcullis gateway join`
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Make a grant that nobody can use, have every gateway enforce it, revoke it, and show how long each took
    Drill {
        /// How long each of its two steps is waited for
        #[arg(long, value_name = "DURATION", default_value = DEFAULT_WAIT)]
        wait: Span,
    },
    /// The red button: have everything, or what one resource, key or issuer is behind, stand still, and cut what runs
    Halt(Stop),
    /// Let it go on
    Resume(Stop),
    /// Say what a gateway stands before: it is told of nothing else, and calls that run on anything else are cut
    Scope(scope::Change),
    /// Take a gateway's authority for good, for example after it was stolen
    Expel(Change),
    /// Let a gateway that lost its state come with a new evidence key and log; the old one is sealed
    Readmit(Change),
}

#[derive(Debug, Args)]
pub(super) struct Change {
    /// The gateway
    name: GatewayName,
    /// Why, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, Args)]
pub(super) struct Stop {
    #[command(flatten)]
    scope: halted::Scope,
    /// Why, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Answer when the gateways have said that it is so, or after this time
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = DEFAULT_WAIT)]
    wait: Option<Span>,
}

#[derive(Serialize)]
struct StopAnswer {
    scope: String,
    revision: u64,
    /// Whether no gateway may go on; absent when it was not waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    enforced: Option<bool>,
    gateways: Vec<Receipt>,
}

impl Stop {
    async fn run(self, context: &Context, halting: bool) -> Result<Exit, Failure> {
        let scope = self.scope.read()?;
        let (text, reason, wait_ms) = (scope.to_string(), self.reason, self.wait.map_or(0, millis));
        let mut client = context.client().await?;
        let halted = if halting {
            client.halt(v1::HaltRequest { scope: text, reason, wait_ms }).await?
        } else {
            client.resume(v1::ResumeRequest { scope: text, reason, wait_ms }).await?
        };
        let now = SystemClock.now();
        let answer = StopAnswer {
            scope: scope.to_string(),
            revision: halted.revision,
            enforced: self.wait.map(|_| crate::client::answers::outstanding(&halted.gateways) == 0),
            gateways: halted.gateways,
        };
        context.output.answer(&answer, || {
            let what = if halting { "stands still" } else { "goes on" };
            let line = format!("{} {what} in revision {}", answer.scope, answer.revision);
            Human::Parts(vec![Human::Lines(vec![line]), receipt::tables(&answer.gateways, now)])
        })?;
        match self.wait {
            Some(_) => receipt::settled(&answer.gateways, "is enforced"),
            None => Ok(Exit::Done),
        }
    }
}

impl Fleet {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let change = match self {
            Self::Halt(stop) => return stop.run(context, true).await,
            Self::Resume(stop) => return stop.run(context, false).await,
            Self::Scope(change) => return change.run(context).await,
            other => other,
        };
        let mut client = context.client().await?;
        let now = SystemClock.now();
        match change {
            Self::Halt(_) | Self::Resume(_) | Self::Scope(_) => {}
            Self::Drill { wait } => return drill(&context.output, client.drill(millis(wait)).await?),
            Self::Invite { name, hosts, before, ttl, out } => {
                let request = v1::InviteGatewayRequest {
                    name: name.to_string(),
                    hosts,
                    ttl_ms: millis(ttl),
                    scope: before.message(),
                };
                invite(context, request, &out).await?;
            }
            Self::Status => {
                let status = client.fleet().await?;
                context.output.answer(&status, || table(&status, now))?;
            }
            Self::Expel(Change { name, reason }) => {
                let gateway = client.expel(name.to_string(), reason).await?;
                let stops = both(gateway.stops_by, now);
                let line = format!("gateway {name} is expelled: whatever it does, it has no authority after {stops}");
                context.output.answer(&gateway, || Human::Lines(vec![line]))?;
            }
            Self::Readmit(Change { name, reason }) => {
                let gateway = client.readmit(name.to_string(), reason).await?;
                let line = format!("gateway {name} may come with a new evidence key; its old log is sealed");
                context.output.answer(&gateway, || Human::Lines(vec![line]))?;
            }
        }
        Ok(Exit::Done)
    }
}

#[derive(Serialize)]
struct DrillAnswer {
    gateways: Vec<Drilled>,
}

/// Exit 7 when a gateway did not go through it.
fn drill(output: &Output, gateways: Vec<Drilled>) -> Result<Exit, Failure> {
    let answer = DrillAnswer { gateways };
    let shown = |took: Option<u64>| took.map_or("not in time".to_owned(), measured);
    output.answer(&answer, || Human::Table {
        headers: &["GATEWAY", "TO CUT", "TO ALLOW"],
        rows: answer.gateways.iter().map(|g| vec![g.gateway.clone(), shown(g.cut_us), shown(g.allow_us)]).collect(),
        empty: "no gateways",
    })?;
    match answer.gateways.iter().filter(|g| g.cut_us.is_none() || g.allow_us.is_none()).count() {
        0 => Ok(Exit::Done),
        out => Err(Failure::new(
            Exit::Unavailable,
            format!("{out} of {} gateways are out of reach", answer.gateways.len()),
        )),
    }
}

#[derive(Serialize)]
struct InviteAnswer {
    gateway: String,
    file: PathBuf,
    expires: Timestamp,
}

async fn invite(context: &Context, request: v1::InviteGatewayRequest, out: &Path) -> Result<(), Failure> {
    let name = request.name.clone();
    let failed = |error: std::io::Error| Failure::new(Exit::Failed, format!("{}: {error}", out.display()));
    // Before anything is asked for: a secret that cannot be kept is worth nothing.
    if out.exists() {
        return Err(Failure::new(Exit::Conflict, format!("{}: it is there already", out.display())));
    }
    let invitation = context.client().await?.invite(request).await?;
    let text = serde_json::to_vec_pretty(&invitation).map_err(|error| failed(error.into()))?;
    files::create_new(out, &text, files::PRIVATE).map_err(failed)?;
    let answer = InviteAnswer { gateway: invitation.gateway, file: out.to_owned(), expires: invitation.expires };
    context.output.answer(&answer, || {
        let until = both(answer.expires, SystemClock.now());
        Human::Lines(vec![
            format!("gateway {name} may join with {}, once, until {until}:", out.display()),
            format!("portcullis gateway join -c FILE --invitation {}", out.display()),
        ])
    })
}

fn table(status: &FleetStatus, now: Timestamp) -> Human {
    let row = |gateway: &FleetGateway| {
        let state = match (gateway.standing.as_str(), gateway.connected) {
            ("good", true) => "connected".to_owned(),
            ("good", false) => "not connected".to_owned(),
            (other, _) => other.to_owned(),
        };
        let age = format!("{:.1}s", now.saturating_since(gateway.answered).as_secs_f64());
        let lag = status.revision.saturating_sub(gateway.applied_revision);
        let log = gateway.log.as_ref();
        let cosigned = log.map(|log| format!("{} records", log.cosigned_size)).unwrap_or_default();
        let at = log.and_then(|log| log.cosigned).map(|at| both(at, now)).unwrap_or_default();
        let (revision, lag, scope) = (gateway.applied_revision.to_string(), lag.to_string(), scope::shown(gateway));
        vec![gateway.name.clone(), state, revision, lag, age, cosigned, at, scope]
    };
    let gateways = Human::Table {
        headers: &["GATEWAY", "STATE", "REVISION", "LAG", "AUTHORITY", "COSIGNED", "AT", "SCOPE"],
        rows: status.gateways.iter().map(row).collect(),
        empty: "no gateways",
    };
    let halt = |halt: &FleetHalt| vec![halt.scope.clone(), both(halt.since, now), halt.by.clone(), halt.reason.clone()];
    let halts = Human::Table {
        headers: &["HALTED", "SINCE", "BY", "REASON"],
        rows: status.halts.iter().map(halt).collect(),
        empty: "",
    };
    Human::Parts(vec![gateways, halts])
}
