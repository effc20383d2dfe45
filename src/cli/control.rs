//! `portcullis control`: make a control plane's keys, and run it.

mod ca;

use std::path::PathBuf;

use clap::Subcommand;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Human;
use crate::app;
use crate::domain::name::{GatewayName, OwnerName};

#[derive(Debug, Subcommand)]
pub(super) enum Control {
    /// Make the CA, the keys and the administrator's token that the settings name, where they are missing
    Init {
        /// Settings of the control plane
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// A host name or address in the control plane's certificate, besides those of loopback; may be repeated
        #[arg(long = "host", value_name = "HOST")]
        names: Vec<String>,
        /// A host name or address in the certificates of the gateways that are named, besides those of loopback; may be
        /// repeated
        #[arg(long = "gateway-host", value_name = "HOST", requires = "gateways")]
        gateway_names: Vec<String>,
        /// A person with what they may do by standing, administrator, security, owner or developer, and a token for them.
        /// Named again, they stand as is said now, and with none they are removed; may be repeated
        #[arg(long = "person", value_name = "NAME=STANDING[,STANDING]", value_parser = person)]
        people: Vec<(OwnerName, Vec<String>)>,
        /// Register a gateway and make its certificate; may be repeated
        #[arg(long = "gateway", value_name = "NAME")]
        gateways: Vec<GatewayName>,
    },
    /// Declare that the store of a control plane that is not running was put back from a backup, and let it go on: gateways
    /// follow it again, with all that the backup knows and nothing that came after
    Restored {
        /// Settings of the control plane
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// Why, in your words
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Put catalog documents in place where the control plane is, while it does not run: needs nobody else, and is in the
    /// evidence as the control plane's own
    Apply {
        /// Settings of the control plane
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// A file, or a directory with *.yaml files
        #[arg(short, long = "file", value_name = "PATH")]
        file: PathBuf,
        /// Remove what no document describes, of every kind
        #[arg(long)]
        prune: bool,
        /// End live grants of what is removed
        #[arg(long, requires = "prune")]
        end_grants: bool,
        /// Why, in your words
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Put a policy into force where the control plane is, while it does not run: needs nobody else
    #[command(group = clap::ArgGroup::new("set").required(true).args(["file", "starter"]))]
    Publish {
        /// Settings of the control plane
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// A directory with *.cedar and *.yaml files, or one file
        #[arg(short, long = "file", value_name = "PATH")]
        file: Option<PathBuf>,
        /// The policy to begin with
        #[arg(long)]
        starter: bool,
        /// Why, in your words
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// The authorities that certify gateways: which are trusted, and the steps by which another one takes over
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Run a control plane until it is told to end (SIGTERM: drain)
    Run {
        /// Settings of the control plane
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// For clap: `NAME=STANDING[,STANDING]`.
fn person(text: &str) -> Result<(OwnerName, Vec<String>), String> {
    let (name, standing) = text.split_once('=').ok_or("not NAME=STANDING, for example bob=owner")?;
    Ok((name.parse().map_err(|error| format!("{error}"))?, standing.split(',').map(str::to_owned).collect()))
}

impl Control {
    pub(super) fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Ca(ca) => return super::asking(ca.run(context)),
            Self::Init { config, names, gateway_names, people, gateways } => {
                let enrol = app::control::Enrol { names, gateway_names, people, gateways };
                let made = app::control::init(&config, &enrol)?;
                let shown = |path: &PathBuf| path.display().to_string();
                context.output.answer(&made, || {
                    let mut pairs =
                        vec![("CA", shown(&made.ca)), ("administrator's token", shown(&made.administrator))];
                    pairs.extend(made.people.iter().map(|file| ("person's token", shown(file))));
                    pairs.extend(made.gateways.iter().map(|dir| ("gateway", shown(dir))));
                    Human::Details(pairs)
                })?;
            }
            Self::Restored { config, reason } => {
                let restored = app::control::restored(&config, &reason)?;
                let mut lines = vec![format!("the store goes on in epoch {}", restored.epoch)];
                lines.extend(
                    restored.evidence.iter().map(|dir| format!("the evidence of before lies in {}", dir.display())),
                );
                let (revision, again) = (restored.revision, restored.ended_again);
                lines.push(format!("ended again, as it was after revision {revision}: {again}"));
                lines.push("what was made or allowed after that revision is lost: make it anew".to_owned());
                context.output.answer(&restored, || Human::Lines(lines))?;
            }
            Self::Apply { config, file, prune, end_grants, reason } => {
                put(context, &app::control::apply(&config, &file, prune, end_grants, &reason)?)?;
            }
            Self::Publish { config, file, starter: _, reason } => {
                let set = file.as_deref().map(app::policy::read).transpose()?;
                put(context, &app::control::publish(&config, set, &reason)?)?;
            }
            Self::Run { config } => app::control::run(&config)?,
        }
        Ok(Exit::Done)
    }
}

fn put(context: &Context, done: &app::control::PutInPlace) -> Result<(), Failure> {
    let mut lines = done.objects.clone();
    lines.extend(done.version.map(|version| format!("version {version} of the policy is in force")));
    lines.push(format!("revision {}, as of the next start of the control plane", done.revision));
    context.output.answer(done, || Human::Lines(lines))
}
