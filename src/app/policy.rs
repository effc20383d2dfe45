//! Policy sets as files, checked where they are written: by the same code that publishes them.

use std::io::Read as _;
use std::path::Path;

use super::AppError;
use crate::control::policy;
pub use crate::control::policy::Outcome;
use crate::control::policy::{MAX_BYTES, MAX_FILES, PolicySet};
use crate::control::record::PolicyFile;

/// A file of a set: its name and what it says.
pub type NamedText = (String, String);

/// Reads a set: the directory's `*.cedar` and `*.yaml` files in the order of their names, or one file.
///
/// # Errors
/// When nothing is there, it cannot be read, or is larger than a set may be.
pub fn read(path: &Path) -> Result<Vec<NamedText>, AppError> {
    let cannot = |error: std::io::Error| AppError::Usage(format!("{}: {error}", path.display()));
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).map_err(cannot)? {
            files.push(entry.map_err(cannot)?.path());
        }
        files.retain(|file| file.extension().is_some_and(|end| end == "cedar" || end == "yaml" || end == "yml"));
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    if files.is_empty() || files.len() > MAX_FILES {
        let found = files.len();
        let shown = path.display();
        return Err(AppError::Usage(format!(
            "{shown}: 1 to {MAX_FILES} *.cedar and *.yaml files are expected, found {found}"
        )));
    }
    let mut set = Vec::new();
    for file in files {
        let cannot = |error: std::io::Error| AppError::Usage(format!("{}: {error}", file.display()));
        let mut text = String::new();
        let most = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        std::fs::File::open(&file).map_err(cannot)?.take(most).read_to_string(&mut text).map_err(cannot)?;
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        set.push((name, text));
    }
    Ok(set)
}

fn files(set: &[NamedText]) -> Vec<PolicyFile> {
    set.iter().map(|(name, text)| PolicyFile { name: name.clone(), text: text.clone() }).collect()
}

/// Whether the rules are strictly valid, without a warning. Answers their names.
///
/// # Errors
/// Every fault.
pub fn validate(set: &[NamedText]) -> Result<Vec<String>, Vec<String>> {
    PolicySet::compile(&files(set)).map(|compiled| compiled.rules.keys().cloned().collect())
}

/// Whether it could be published: how each of its cases came out.
///
/// # Errors
/// Everything that stands in the way.
pub fn test(set: &[NamedText]) -> Result<Vec<Outcome>, Vec<String>> {
    policy::check(&files(set))
}

/// A policy to begin with.
pub fn starter() -> Vec<NamedText> {
    policy::starter().into_iter().map(|file| (file.name, file.text)).collect()
}

/// A rule as it is compared: by name, without what is only layout.
///
/// # Errors
/// When the rules do not compile.
pub fn rules(set: &[NamedText]) -> Result<std::collections::BTreeMap<String, String>, Vec<String>> {
    PolicySet::compile(&files(set)).map(|compiled| compiled.texts())
}
