//! Faults of a file: what is wrong, and exactly where.
//!
//! Knows nothing of YAML or of settings; whatever reads a file for a person reports in these.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// One thing that is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file as the user named it.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// Where in the document, as a JSON pointer (RFC 6901); empty is the whole of it.
    pub path: String,
    /// What is wrong and, where that is known, what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// Everything that is wrong, in the order of the file. Shows one fault per line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// `value` when nothing is wrong, else all that is.
    ///
    /// # Errors
    /// When there is a fault.
    pub fn none_or<T>(mut faults: Vec<Fault>, value: T) -> Result<T, Self> {
        if faults.is_empty() {
            return Ok(value);
        }
        faults.sort_by(|a, b| (&a.file, a.line, a.column, &a.path).cmp(&(&b.file, b.line, b.column, &b.path)));
        faults.dedup();
        Err(Self(faults))
    }

    /// A fault of a file as a whole: it cannot be read, it is too large.
    pub fn of_file(file: &str, message: impl Into<String>) -> Self {
        Places::of_file(file).fault("", message).into()
    }

    /// The faults.
    pub fn as_slice(&self) -> &[Fault] {
        &self.0
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, fault) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

impl IntoIterator for Faults {
    type Item = Fault;
    type IntoIter = std::vec::IntoIter<Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// A line and a column, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
}

/// Where one value stands, and what is inside it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The key that it has in the mapping around it.
    pub(super) key: Option<Position>,
    pub(super) value: Position,
    pub(super) inside: Inside,
}

/// The places inside a value. A tree, not a map by pointer: pointers repeat every key above them, and files are not
/// always friendly.
#[derive(Clone, Debug)]
pub(super) enum Inside {
    Nothing,
    Items(Vec<Place>),
    Entries(BTreeMap<String, Place>),
}

/// Where each value of a document stands in its file. Values are named by JSON pointers (RFC 6901).
#[derive(Clone, Debug)]
pub struct Places {
    file: Arc<str>,
    root: Place,
}

impl Places {
    /// Of a file of which nothing is known but its name.
    pub fn of_file(file: &str) -> Self {
        let start = Position { line: 1, column: 1 };
        Self::new(file, Place { key: None, value: start, inside: Inside::Nothing })
    }

    pub(super) fn new(file: &str, root: Place) -> Self {
        Self { file: file.into(), root }
    }

    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// A fault of the value at `pointer`; of the nearest value around it when there is none.
    pub fn fault(&self, pointer: &str, message: impl Into<String>) -> Fault {
        self.at(self.nearest(pointer).value, pointer, message.into())
    }

    /// A fault of the key at `pointer`, for keys that should not be there.
    pub fn key_fault(&self, pointer: &str, message: impl Into<String>) -> Fault {
        let place = self.nearest(pointer);
        self.at(place.key.unwrap_or(place.value), pointer, message.into())
    }

    fn nearest(&self, pointer: &str) -> &Place {
        let mut place = &self.root;
        for segment in pointer.split('/').skip(1) {
            let inside = match &place.inside {
                Inside::Nothing => None,
                Inside::Items(items) => segment.parse::<usize>().ok().and_then(|number| items.get(number)),
                Inside::Entries(entries) => entries.get(&segment.replace("~1", "/").replace("~0", "~")),
            };
            match inside {
                Some(inside) => place = inside,
                None => break,
            }
        }
        place
    }

    pub(super) fn at(&self, Position { line, column }: Position, pointer: &str, message: String) -> Fault {
        Fault { file: self.file.as_ref().to_owned(), line, column, path: pointer.to_owned(), message }
    }
}

/// `pointer` and one more segment, escaped as RFC 6901 section 3 says.
pub fn child(pointer: &str, segment: impl fmt::Display) -> String {
    let segment = segment.to_string();
    format!("{pointer}/{}", segment.replace('~', "~0").replace('/', "~1"))
}
