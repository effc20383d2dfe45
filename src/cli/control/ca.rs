//! `portcullis control ca`: the authorities that certify gateways, and how one takes the place of another.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::Context;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::Human;
use crate::cli::time::{both, millis};
use crate::client::fleet::Authorities;
use crate::clock::SystemClock;
use crate::domain::Clock as _;
use crate::domain::resource::Span;
use crate::files;
use crate::wire::v1;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Ca {
    /// Show the authorities, and whose certificate each gateway has
    Status {
        /// Write what is to be trusted to this file, for callers and command lines to pin
        #[arg(long, value_name = "FILE")]
        bundle: Option<PathBuf>,
    },
    /// Make another authority and have it trusted beside the one that issues: gateways learn of it by themselves
    Rotate {
        #[command(flatten)]
        why: Why,
        /// The key of the one that issues is in wrong hands: the new one takes over at once and nothing that came before is
        /// good. Gateways, and whoever pins the CA, must join again
        #[arg(long)]
        stolen: bool,
    },
    /// Let the new authority issue: gateways renew by themselves, and what the other one issued stays good
    Issue(Why),
    /// Retire the authority before: what it issued is refused everywhere from then on
    Retire {
        #[command(flatten)]
        why: Why,
        /// How long to wait until every gateway that is connected has renewed
        #[arg(long, value_name = "DURATION", conflicts_with = "force")]
        wait: Option<Span>,
        /// Though gateways that are connected have not renewed: they are cut off and must join again
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Why {
    /// Why, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

impl Ca {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let mut client = context.client().await?;
        let step = |step: &str, Why { reason }: Why, force: bool, wait_ms: u64| v1::RotateAuthorityRequest {
            step: step.to_owned(),
            reason,
            force,
            wait_ms,
        };
        let (request, next) = match self {
            Self::Status { bundle } => {
                let told = client.authorities().await?;
                if let Some(file) = &bundle {
                    let failed = |error| Failure::new(Exit::Failed, format!("{}: {error}", file.display()));
                    files::write(file, told.bundle.as_bytes(), files::PUBLIC).map_err(failed)?;
                }
                return show(context, &told, None);
            }
            Self::Rotate { why, stolen: true } => (step("replace", why, true, 0), STOLEN),
            Self::Rotate { why, stolen: false } => (step("publish", why, false, 0), PUBLISHED),
            Self::Issue(why) => (step("issue", why, false, 0), ISSUING),
            Self::Retire { why, wait, force } => (step("retire", why, force, wait.map_or(0, millis)), RETIRED),
        };
        show(context, &client.rotate(request).await?, Some(next))
    }
}

const PUBLISHED: &str = "the new authority is trusted beside the old one. Give what is trusted now to callers and command lines \
    that pin it (`portcullis control ca status --bundle FILE`); then `portcullis control ca issue`";
const ISSUING: &str =
    "the new authority issues, and gateways renew by themselves; when all have, `portcullis control ca retire`";
const RETIRED: &str = "what the authority before issued is refused. A gateway that was away comes back by `portcullis fleet \
    invite` and `portcullis gateway join`; command lines pin the CA anew";
const STOLEN: &str = "nothing that came before is good. Take the CA from its directory where the control plane runs (`ca.pem`), \
    for command lines and callers; then invite and join every gateway anew, under its name";

fn show(context: &Context, told: &Authorities, next: Option<&str>) -> Result<Exit, Failure> {
    let now = SystemClock.now();
    context.output.answer(told, || {
        let authorities = told.authorities.iter();
        let authorities = Human::Table {
            headers: &["AUTHORITY", "STANDING", "SINCE"],
            rows: authorities.map(|it| vec![it.label.clone(), it.standing.clone(), both(it.since, now)]).collect(),
            empty: "no authorities",
        };
        let by = |label: &Option<String>| label.clone().unwrap_or_else(|| "not known".to_owned());
        let state = |connected: bool| if connected { "connected" } else { "not connected" }.to_owned();
        let gateways = told.gateways.iter();
        let gateways = Human::Table {
            headers: &["GATEWAY", "STATE", "CERTIFICATE BY"],
            rows: gateways.map(|it| vec![it.gateway.clone(), state(it.connected), by(&it.authority)]).collect(),
            empty: "",
        };
        let mut parts = vec![authorities, gateways];
        parts.extend(next.map(|next| Human::Lines(vec![next.to_owned()])));
        Human::Parts(parts)
    })?;
    Ok(Exit::Done)
}
