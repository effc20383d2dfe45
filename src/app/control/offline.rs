//! Catalog and policy put in place on the control plane's own machine, while it does not run: what an installation with one
//! administrator does, and everybody when nobody else can be reached.
//!
//! Whoever can do this can read the key that seals the store. It is in the evidence, as of the control plane itself, with
//! the reason, as soon as the control plane runs again.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::part;
use crate::app::policy::NamedText;
use crate::app::{AppError, on_runtime};
use crate::clock::SystemClock;
use crate::control::Core;
use crate::control::authorize::Caller;
use crate::control::catalog::{Document, Wanted};
use crate::control::policy;
use crate::control::record::PolicyFile;
use crate::evidence::storage::DiskStorage;
use crate::settings::{ControlSettings, catalog};

/// What was put in place.
#[derive(Clone, Debug, Serialize)]
pub struct PutInPlace {
    /// Objects that were created, changed or removed, as `KIND NAME`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
    /// The version of the policy that is in force now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The revision of it.
    pub revision: u64,
}

/// Applies the documents at `path`.
///
/// # Errors
/// When the settings or the documents are wrong, or the control plane runs.
pub fn apply(config: &Path, path: &Path, prune: bool, end_grants: bool, reason: &str) -> Result<PutInPlace, AppError> {
    let settings = stopped(config)?;
    let documents = catalog::load(path)?.into_iter();
    let documents = documents.map(|it| Document {
        kind: it.kind.to_string(),
        name: it.name.clone(),
        spec_json: it.spec.to_string(),
    });
    let wanted = Wanted { documents: documents.collect(), prune, end_grants, reason: reason.to_owned() };
    on_runtime(async {
        let core = Core::open(&settings, Arc::new(SystemClock)).await.map_err(part)?;
        let done = core.handle().want(&Caller::System, wanted).await;
        core.shutdown().await;
        let done = done.map_err(|refused| AppError::Usage(refused.to_string()))?;
        let (diffs, _) = done.answer.parts();
        let changed = diffs.iter().filter(|diff| diff.change() != "unchanged");
        let objects = changed.map(|diff| format!("{} {} {}", diff.kind, diff.name, diff.change())).collect();
        Ok(PutInPlace { objects, version: None, revision: done.revision })
    })
}

/// Publishes a policy; the one to begin with where none is given.
///
/// # Errors
/// As [`apply`].
pub fn publish(config: &Path, set: Option<Vec<NamedText>>, reason: &str) -> Result<PutInPlace, AppError> {
    let settings = stopped(config)?;
    let given = |set: Vec<NamedText>| set.into_iter().map(|(name, text)| PolicyFile { name, text }).collect();
    let files: Vec<PolicyFile> = set.map_or_else(policy::starter, given);
    on_runtime(async {
        let core = Core::open(&settings, Arc::new(SystemClock)).await.map_err(part)?;
        let done = core.handle().publish_policy(&Caller::System, files, None, reason.to_owned()).await;
        core.shutdown().await;
        let done = done.map_err(|refused| AppError::Usage(refused.to_string()))?;
        let (record, _) = done.answer.parts();
        Ok(PutInPlace { objects: Vec::new(), version: Some(record.version), revision: done.revision })
    })
}

/// The settings of a control plane that does not run: its evidence's lock is a running one's.
fn stopped(config: &Path) -> Result<ControlSettings, AppError> {
    crate::app::crypto();
    let settings = ControlSettings::load(config)?;
    if settings.evidence.dir.exists() {
        let unused = DiskStorage::open(&settings.evidence.dir);
        drop(unused.map_err(|error| part(format!("{error}; stop the control plane first")))?);
    }
    Ok(settings)
}
