//! `portcullis identity`: the inventory of machine callers, and setting one aside.

mod import;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use super::failure::{Exit, Failure};
use super::output::Human;
use super::time::{DEFAULT_WAIT, millis};
use super::{Context, receipt};
use crate::client::answers::StateAnswer;
use crate::clock::SystemClock;
use crate::domain::Clock as _;
use crate::domain::identity::{Authenticator, IdentitySpec};
use crate::domain::name::IdentityName;
use crate::domain::resource::Span;
use crate::wire::v1;

#[derive(Debug, Subcommand)]
pub(super) enum Identity {
    /// List identities
    List,
    /// Show one identity
    Show {
        /// The identity
        name: IdentityName,
    },
    /// Look at an inventory that others keep: what is new, unowned, unused; and write documents of what is new
    Import(import::Import),
    /// Refuse every call of an identity until it is released, cut those that run, and end all grants and requests of it
    Quarantine(Change),
    /// Let a quarantined identity act again: what ended with the quarantine does not come back
    Release(Change),
    /// End an identity for good, with all grants and requests of it
    Offboard(Change),
}

#[derive(Debug, Args)]
pub(super) struct Change {
    /// The identity
    name: IdentityName,
    /// Why, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Answer when every connected gateway enforces it, or after this time (exit 7 if one does not)
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = DEFAULT_WAIT)]
    wait: Option<Span>,
}

#[derive(Serialize)]
struct Shown {
    name: String,
    state: String,
    revision: u64,
    spec: Value,
}

#[derive(Serialize)]
struct ListAnswer {
    identities: Vec<Shown>,
}

impl Identity {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::List => list(context).await,
            Self::Show { name } => show(context, &name).await,
            Self::Import(command) => command.run(context).await,
            Self::Quarantine(change) => change.to(context, "quarantined").await,
            Self::Release(change) => change.to(context, "active").await,
            Self::Offboard(change) => change.to(context, "offboarded").await,
        }
    }
}

fn shown(object: v1::CatalogObject) -> Result<Shown, Failure> {
    let spec = serde_json::from_str(&object.spec_json)
        .map_err(|e| Failure::new(Exit::Failed, format!("identity {}: {e}", object.name)))?;
    Ok(Shown { name: object.name, state: object.state, revision: object.revision, spec })
}

async fn list(context: &Context) -> Result<Exit, Failure> {
    let objects = context.client().await?.objects("Identity").await?;
    let answer = ListAnswer { identities: objects.into_iter().map(shown).collect::<Result<_, _>>()? };
    let of = |spec: &Value, key: &str| spec.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let row = |shown: &Shown| {
        vec![
            shown.name.clone(),
            of(&shown.spec, "kind"),
            shown.state.clone(),
            of(&shown.spec, "owner"),
            of(&shown.spec, "environment"),
            of(&shown.spec, "purpose"),
        ]
    };
    context.output.answer(&answer, || Human::Table {
        headers: &["NAME", "KIND", "STATE", "OWNER", "ENVIRONMENT", "PURPOSE"],
        rows: answer.identities.iter().map(row).collect(),
        empty: "no identities",
    })?;
    Ok(Exit::Done)
}

async fn show(context: &Context, name: &IdentityName) -> Result<Exit, Failure> {
    let answer = shown(context.client().await?.object("Identity", name.as_str()).await?)?;
    context.output.answer(&answer, || details(&answer))?;
    Ok(Exit::Done)
}

fn details(shown: &Shown) -> Human {
    let mut pairs =
        vec![("name", shown.name.clone()), ("state", shown.state.clone()), ("revision", shown.revision.to_string())];
    match serde_json::from_value::<IdentitySpec>(shown.spec.clone()) {
        Ok(spec) => {
            let kind = shown.spec.get("kind").and_then(Value::as_str).unwrap_or_default();
            pairs.extend([
                ("kind", kind.to_owned()),
                ("owner", spec.owner.to_string()),
                ("purpose", spec.purpose),
                ("environment", spec.environment),
            ]);
            pairs.extend(spec.authenticate.iter().map(|authenticator| match authenticator {
                Authenticator::Spiffe { spiffe } => ("spiffe", spiffe.to_string()),
                Authenticator::Token { issuer, subject } => ("token", format!("{subject} of {issuer}")),
            }));
        }
        // A newer control plane may know fields that this binary does not.
        Err(_) => pairs.push(("spec", shown.spec.to_string())),
    }
    Human::Details(pairs)
}

impl Change {
    async fn to(self, context: &Context, state: &str) -> Result<Exit, Failure> {
        let request = v1::SetIdentityStateRequest {
            identity: self.name.to_string(),
            state: state.to_owned(),
            reason: self.reason,
            wait_ms: self.wait.map_or(0, millis),
        };
        let waited = self.wait.is_some();
        let answer = context.client().await?.set_identity_state(request, waited).await?;
        context.output.answer(&answer, || {
            let StateAnswer { name, state, revision, .. } = &answer;
            let mut lines = vec![format!("identity {name} is {state} as of revision {revision}")];
            let ended = [(answer.revoked, "grants ended"), (answer.cancelled, "open requests cancelled")];
            lines.extend(ended.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{what}: {count}")));
            Human::Parts(vec![Human::Lines(lines), receipt::tables(&answer.gateways, SystemClock.now())])
        })?;
        if waited { receipt::settled(&answer.gateways, "is enforced") } else { Ok(Exit::Done) }
    }
}
