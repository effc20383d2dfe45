//! From a path or a text to the raw type of a settings file.

use std::io::Read as _;
use std::path::Path;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::fault::{Faults, Places, Position};
use super::shape::{Shape, schema};
use super::yaml::{self, Tree};
use super::{catalog, control, gateway};

/// Largest settings file: nobody writes a larger one by hand.
const MAX_SETTINGS_BYTES: u64 = 1024 * 1024;

/// A file's content in its raw type, with the place of each value for the checks that follow.
#[derive(Debug)]
pub struct Loaded<T> {
    /// What the file says.
    pub raw: T,
    /// Where it says it.
    pub places: Places,
}

/// Reads `text`, one YAML document; `file` is what faults call it.
///
/// # Errors
/// Every fault that the text has as YAML or against the shape of `T`.
pub fn parse<T: JsonSchema + DeserializeOwned>(file: &str, text: &str) -> Result<Loaded<T>, Faults> {
    let tree = one(file, text)?;
    let raw = Shape::<T>::new().read(&tree)?;
    Ok(Loaded { raw, places: tree.places })
}

/// Reads the settings file `path`.
///
/// # Errors
/// As [`parse`]; when the file cannot be read, is larger than 1 MiB, or is not UTF-8.
pub fn load<T: JsonSchema + DeserializeOwned>(path: &Path) -> Result<Loaded<T>, Faults> {
    parse(&path.display().to_string(), &read_text(path, MAX_SETTINGS_BYTES)?)
}

/// The JSON Schema (2020-12) of a file of the raw type `T`.
pub fn json_schema<T: JsonSchema>() -> Value {
    schema::<T>()
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Settings of a gateway.
    Gateway,
    /// Settings of a control plane.
    Control,
    /// Catalog documents.
    Catalog,
}

/// Checks `path` as what it says it is: settings by their `role`, catalog documents by their `kind`.
///
/// # Errors
/// Every fault that loading it would report.
pub fn check_file(path: &Path) -> Result<FileKind, Faults> {
    let file = path.display().to_string();
    let text = read_text(path, catalog::MAX_CATALOG_BYTES)?;
    let (trees, faults) = yaml::read(&file, &text);
    let first = trees.first();
    let role = first.and_then(|tree| tree.value.get("role"));
    match role.and_then(Value::as_str) {
        Some("gateway") => gateway::GatewaySettings::load(path).map(|_| FileKind::Gateway),
        Some("control") => control::ControlSettings::load(path).map(|_| FileKind::Control),
        _ if role.is_none() && first.is_some_and(|tree| tree.value.get("kind").is_some()) => {
            catalog::documents(&file, &text).map(|_| FileKind::Catalog)
        }
        _ => {
            Faults::none_or(faults, ())?;
            let message = "key `role` must say what the file is for: `gateway` or `control`";
            let places = first.map_or_else(|| Places::of_file(&file), |tree| tree.places.clone());
            Err(places.fault("/role", message).into())
        }
    }
}

pub(super) fn one(file: &str, text: &str) -> Result<Tree, Faults> {
    let (trees, mut faults) = yaml::read(file, text);
    let mut trees = trees.into_iter();
    let first = trees.next();
    if let Some(second) = trees.next() {
        faults.push(second.places.fault("", "a settings file is one document"));
    }
    Faults::none_or(faults, ())?;
    first.ok_or_else(|| Faults::of_file(file, "nothing is in it"))
}

pub(super) fn read_text(path: &Path, most: u64) -> Result<String, Faults> {
    let shown = path.display().to_string();
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.map_err(|error| Faults::of_file(&shown, format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > most {
        return Err(Faults::of_file(&shown, format!("larger than {} MiB", most >> 20)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        let begun = good.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let column = 1 + String::from_utf8_lossy(begun).chars().count();
        Places::of_file(&shown).at(Position { line, column }, "", "not text: UTF-8 is expected".to_owned()).into()
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn checked(content: &[u8]) -> Result<FileKind, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let name = file.path().display().to_string();
        check_file(file.path()).map_err(|faults| faults.to_string().replace(&name, "f"))
    }

    #[test]
    fn a_file_is_checked_as_what_it_says_it_is() {
        let role = b"kind: Role\nname: r\nspec: { permissions: [] }\n";
        assert_eq!(checked(role), Ok(FileKind::Catalog));
        assert!(checked(b"role: gateway\n").unwrap_err().contains("f:1:1: key `audience` is missing"));
        assert!(checked(b"role: control\n").unwrap_err().contains("key `trust_domain` is missing"));
        let neither = "f:1:1: key `role` must say what the file is for: `gateway` or `control`";
        assert_eq!(checked(b"name: x\n").unwrap_err(), neither);
        assert_eq!(checked(b"").unwrap_err(), neither);
        assert_eq!(checked(b"name: x\nrole: proxy\n").unwrap_err(), neither.replace("1:1", "2:7"));
    }

    #[test]
    fn what_is_not_a_text_of_bounded_size_is_refused() {
        assert_eq!(checked("a: \u{e9}\nb: \u{e9}".as_bytes()).unwrap_err().lines().count(), 1);
        assert_eq!(checked(b"a: 1\nb: \xc3\xa9\xff").unwrap_err(), "f:2:5: not text: UTF-8 is expected");
        let large = [b"role: gateway\n".as_slice(), &vec![b'#'; 2 << 20]].concat();
        assert_eq!(checked(&large).unwrap_err(), "f:1:1: larger than 1 MiB");
        assert!(check_file(Path::new("/nonexistent.yaml")).unwrap_err().to_string().contains("cannot be read"));
    }
}
