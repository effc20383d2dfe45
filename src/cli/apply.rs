//! `portcullis apply`: catalog documents into force, all or none; or what they would change.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Human;
use crate::client::answers::{ApplyAnswer, Difference, Effect};
use crate::client::{ClientError, Refusal};
use crate::settings::catalog::{self, Document, MAX_CATALOG_BYTES};
use crate::wire::v1;

#[derive(Debug, Args)]
pub(super) struct Apply {
    /// A file, a directory with *.yaml files, or `-` for standard input
    #[arg(short, long = "file", value_name = "PATH")]
    file: PathBuf,
    /// Change nothing: show what would change, and who would gain or lose what
    #[arg(long)]
    dry_run: bool,
    /// Remove what no document describes, of every kind
    #[arg(long)]
    prune: bool,
    /// End live grants of what is removed; without it, nothing is removed of which grants are live
    #[arg(long, requires = "prune")]
    end_grants: bool,
    /// Why, in your words: whoever is to approve it reads it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

impl Apply {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let documents = self.documents()?;
        let objects = documents.iter().map(|document| v1::CatalogObject {
            kind: document.kind.to_string(),
            name: document.name.clone(),
            spec_json: document.spec.to_string(),
            ..v1::CatalogObject::default()
        });
        let objects = objects.collect();
        let (dry_run, prune, end_grants) = (self.dry_run, self.prune, self.end_grants);
        let request = v1::ApplyRequest { objects, dry_run, prune, end_grants, reason: self.reason };
        let applied = context.client().await?.apply(request).await.map_err(|error| {
            // Documents that do not fit together are the user's to mend, as those that cannot be read.
            let misfit = error.refusal() == Some(Refusal::Unfit);
            let failure = Failure::from(error);
            if misfit {
                let message = placed(&failure.message, &documents);
                Failure { exit: Exit::Usage, message, ..failure }
            } else {
                failure
            }
        })?;
        let answer = ApplyAnswer::of(applied, dry_run).map_err(ClientError::from)?;
        context.output.answer(&answer, || shown(&answer))?;
        Ok(Exit::Done)
    }

    fn documents(&self) -> Result<Vec<Document>, Failure> {
        if self.file.as_os_str() != "-" {
            return Ok(catalog::load(&self.file)?);
        }
        let mut text = String::new();
        std::io::stdin().lock().take(MAX_CATALOG_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_CATALOG_BYTES {
            return Err(Failure::usage(format!("standard input: larger than {} MiB", MAX_CATALOG_BYTES >> 20)));
        }
        Ok(catalog::documents("-", &text)?)
    }
}

/// What the control plane found, each fault with the place of what it is about: it knows documents and no files.
fn placed(message: &str, documents: &[Document]) -> String {
    let place = |fault: &str| {
        let about = documents.iter().find_map(|document| {
            let start = format!("{} {}: ", document.kind, document.name);
            fault.strip_prefix(&start).map(|rest| (document, rest))
        });
        let Some((document, rest)) = about else { return fault.to_owned() };
        let field = rest.split(':').next().unwrap_or_default();
        let pointer = if field == "name" { "/name".to_owned() } else { format!("/spec/{field}") };
        document.places.fault(&pointer, fault).to_string()
    };
    message.split("; ").map(place).collect::<Vec<_>>().join("\n")
}

fn shown(answer: &ApplyAnswer) -> Human {
    let row = |d: &Difference| vec![d.kind.clone(), d.name.clone(), d.change.clone()];
    let mut parts = vec![Human::Table {
        headers: &["KIND", "NAME", "CHANGE"],
        rows: answer.objects.iter().map(row).collect(),
        empty: "nothing to apply",
    }];
    if answer.dry_run {
        let changed = answer.objects.iter().filter(|d| d.before != d.after);
        parts.extend(changed.map(|d| {
            let mut lines = vec![format!("{} {}", d.kind, d.name)];
            lines.extend(field_lines(d.before.as_ref(), d.after.as_ref()));
            Human::Lines(lines)
        }));
        parts.push(Human::Table {
            headers: &["WHO", "", "WHAT"],
            rows: answer.effects.iter().map(effect).collect(),
            empty: "nobody gains or loses anything",
        });
        let waits = answer.waits.then(|| "it widens access: applied, it would wait for another person".to_owned());
        parts.push(Human::Lines(waits.into_iter().chain(["nothing was changed (--dry-run)".to_owned()]).collect()));
    } else if let Some(change) = &answer.change {
        parts.push(Human::Lines(vec![super::change::waits(change)]));
    } else {
        parts.push(Human::Lines(vec![format!("revision {}", answer.revision)]));
    }
    Human::Parts(parts)
}

/// A row of who gains or loses what.
pub(super) fn effect(it: &Effect) -> Vec<String> {
    vec![it.who.clone(), if it.gains { "gains" } else { "loses" }.to_owned(), it.what.clone()]
}

/// What differs, field by field of the spec: `-` before, `+` after.
pub(super) fn field_lines(before: Option<&Value>, after: Option<&Value>) -> Vec<String> {
    let empty = serde_json::Map::new();
    let object = |value: Option<&Value>| value.and_then(Value::as_object).unwrap_or(&empty).clone();
    let (before, after) = (object(before), object(after));
    let mut keys: Vec<_> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    let mut lines = Vec::new();
    for key in keys {
        let (old, new) = (before.get(key), after.get(key));
        if old != new {
            lines.extend(old.map(|value| format!("  - {key}: {value}")));
            lines.extend(new.map(|value| format!("  + {key}: {value}")));
        }
    }
    lines
}
