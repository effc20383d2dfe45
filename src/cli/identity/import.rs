//! `portcullis identity import`: an inventory as others keep it beside the one that is here, and documents of what is new.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;

use super::super::Context;
use super::super::failure::{Exit, Failure};
use super::super::output::{Human, note};
use crate::domain::identity::IdentitySpec;
use crate::evidence::entry::Event;
use crate::evidence::query::{Filter, Query};
use crate::evidence::read::segments;
use crate::evidence::storage::{DiskStorage, Storage};
use crate::files;
use crate::settings::inventory::{self, Found, InventoryFormat, MAX_INVENTORY_BYTES};
use crate::wire::v1;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// A table: name, kind, owner, purpose, environment, spiffe, issuer, subject
    Csv,
    /// `kubectl get serviceaccounts -A -o json`
    Kubernetes,
    /// `spire-server entry show -output json`
    Spire,
}

#[derive(Debug, Args)]
pub(in super::super) struct Import {
    /// The inventory, or `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How it is written
    #[arg(long, value_enum)]
    format: Format,
    /// Issuer of the cluster's service account tokens (kubernetes)
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// Where those run of which the inventory does not say it
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
    /// A gateway's log: whoever called is used. May be repeated
    #[arg(long, value_name = "LOG")]
    gateway_log: Vec<PathBuf>,
    /// Write documents of what is new into this file, for `portcullis apply`: who answers for each is to be filled in
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Answer {
    found: Vec<Line>,
    #[serde(skip_serializing_if = "Option::is_none")]
    written: Option<PathBuf>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    /// The identity that it is here, if it is
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
    new: bool,
    /// Nobody is known to answer for it
    unowned: bool,
    /// It is here, and neither a live grant nor a call of it is known
    unused: bool,
}

impl Import {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let text = self.text()?;
        let format = match self.format {
            Format::Csv => InventoryFormat::Csv,
            Format::Kubernetes => InventoryFormat::Kubernetes,
            Format::Spire => InventoryFormat::Spire,
        };
        if format == InventoryFormat::Kubernetes && self.issuer.is_none() {
            return Err(Failure::usage("--issuer is missing: whose tokens the cluster's service accounts have"));
        }
        let found = inventory::read(format, &self.file.display().to_string(), &text, self.issuer.as_deref())?;
        let mut client = context.client().await?;
        let known = known(client.objects("Identity").await?);
        let live = client.list_grants(v1::ListGrantsRequest::default()).await?;
        let mut used: BTreeSet<String> = live.iter().map(|record| record.grant.identity.to_string()).collect();
        for log in &self.gateway_log {
            callers(log, &mut used)?;
        }
        let lines: Vec<Line> = found.iter().map(|one| line(one, &known, &used)).collect();
        let new: Vec<&Found> = found.iter().zip(&lines).filter(|(_, line)| line.new).map(|(one, _)| one).collect();
        if let Some(out) = &self.out {
            let text =
                new.iter().map(|one| document(one, self.environment.as_deref())).collect::<Vec<_>>().join("---\n");
            files::create_new(out, text.as_bytes(), files::PUBLIC)
                .map_err(|error| Failure::usage(format!("{}: {error}", out.display())))?;
            let unowned = new.iter().filter(|one| one.owner.is_none()).count();
            if unowned > 0 {
                note(&format!("{unowned} have no owner: fill in who answers for each, or `apply` refuses them"));
            }
        }
        let answer = Answer { found: lines, written: self.out };
        let yes = |is: bool| if is { "yes" } else { "" }.to_owned();
        let row = |it: &Line| {
            let state = it.identity.as_ref().map_or_else(|| "new".to_owned(), |name| format!("is {name}"));
            vec![it.name.clone(), state, yes(it.unowned), yes(it.unused), it.credential.clone().unwrap_or_default()]
        };
        context.output.answer(&answer, || Human::Table {
            headers: &["NAME", "HERE", "UNOWNED", "UNUSED", "CREDENTIAL"],
            rows: answer.found.iter().map(row).collect(),
            empty: "nothing is in it",
        })?;
        Ok(Exit::Done)
    }

    fn text(&self) -> Result<String, Failure> {
        let mut text = String::new();
        let shown = self.file.display();
        let cannot = |error: std::io::Error| Failure::usage(format!("{shown}: {error}"));
        let reader: Box<dyn std::io::Read> = if self.file.as_os_str() == "-" {
            Box::new(std::io::stdin().lock())
        } else {
            Box::new(std::fs::File::open(&self.file).map_err(cannot)?)
        };
        reader.take(MAX_INVENTORY_BYTES + 1).read_to_string(&mut text).map_err(cannot)?;
        if text.len() as u64 > MAX_INVENTORY_BYTES {
            return Err(Failure::usage(format!("{shown}: larger than {} MiB", MAX_INVENTORY_BYTES >> 20)));
        }
        Ok(text)
    }
}

/// Identities that are here, by name and by each of their credentials.
fn known(objects: Vec<v1::CatalogObject>) -> BTreeMap<String, String> {
    let mut known = BTreeMap::new();
    for object in objects {
        let spec = serde_json::from_str::<IdentitySpec>(&object.spec_json);
        for credential in spec.iter().flat_map(|spec| &spec.authenticate) {
            known.insert(credential.principal().to_string(), object.name.clone());
        }
        known.insert(format!("name {}", object.name), object.name);
    }
    known
}

fn line(one: &Found, known: &BTreeMap<String, String>, used: &BTreeSet<String>) -> Line {
    let credential = one.credential.as_ref().map(|it| it.principal().to_string());
    let by_credential = credential.as_ref().and_then(|credential| known.get(credential));
    let identity = by_credential.or_else(|| known.get(&format!("name {}", one.name))).cloned();
    Line {
        name: one.name.to_string(),
        new: identity.is_none(),
        unowned: identity.is_none() && one.owner.is_none(),
        unused: identity.as_ref().is_some_and(|name| !used.contains(name)),
        identity,
        credential,
    }
}

/// A document of one that is new. What nobody said is empty, and refused until somebody does.
fn document(one: &Found, environment: Option<&str>) -> String {
    let text = |text: Option<&str>| text.map_or_else(|| "# fill in".to_owned(), |it| Value::from(it).to_string());
    let owner = one.owner.as_ref().map(ToString::to_string);
    let kind = serde_json::to_value(one.kind).unwrap_or_default();
    let mut document = format!(
        "kind: Identity\nname: {}\nspec:\n  kind: {}\n  owner: {}\n  purpose: {}\n  environment: {}\n",
        Value::from(one.name.to_string()),
        kind.as_str().unwrap_or_default(),
        text(owner.as_deref()),
        text(one.purpose.as_deref()),
        text(one.environment.as_deref().or(environment)),
    );
    if let Some(credential) = &one.credential {
        let json = serde_json::to_value(credential).unwrap_or_default();
        document.push_str(&format!("  authenticate: [ {json} ]\n"));
    }
    document
}

/// Whoever called, by a gateway's log.
fn callers(log: &Path, used: &mut BTreeSet<String>) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("{}: {error}", log.display()));
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::read_only(log));
    let first = segments(&*storage).map_err(|error| failed(&error))?.into_iter().next().unwrap_or_default();
    let mut query = Query::new(storage, first, Filter::default());
    while let Some(found) = query.next().map_err(|error| failed(&error))? {
        if let Event::Intent(intent) = &found.entry.event {
            used.insert(intent.identity.to_string());
        }
    }
    Ok(())
}
