//! `portcullis identity`: the inventory of machine callers, and setting one aside.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Human;
use crate::domain::identity::{Authenticator, IdentitySpec};
use crate::domain::name::IdentityName;
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
    /// Refuse every call of an identity until it is released, and cut those that run
    Quarantine(Change),
    /// Let a quarantined identity act again
    Release(Change),
    /// End an identity for good
    Offboard(Change),
}

#[derive(Debug, Args)]
pub(super) struct Change {
    /// The identity
    name: IdentityName,
    /// Why, in your words
    #[arg(long, value_name = "TEXT")]
    reason: String,
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
        };
        let (object, revision) = context.client().await?.set_identity_state(request).await?;
        let mut answer = shown(object)?;
        answer.revision = revision;
        let line = format!("identity {} is {} since revision {revision}", answer.name, answer.state);
        context.output.answer(&answer, || Human::Lines(vec![line]))?;
        Ok(Exit::Done)
    }
}
