//! Catalog documents: files of `kind`, `name` and `spec`, as `apply -f` and `config validate` read them.
//!
//! Checks each document against the type of its kind, and that no two have the same kind and name. Whether documents fit
//! together (a route's resource exists, rules do not overlap) is for whoever compiles the catalog; its faults go through
//! [`Document::places`], so that they name the same lines.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fault::{Fault, Faults, Places};
use super::load::read_text;
use super::shape::Shape;
use super::yaml::{self, Tree, shown};
use crate::domain::directory::{GroupSpec, PersonSpec};
use crate::domain::exception::ExceptionSpec;
use crate::domain::identity::IdentitySpec;
use crate::domain::name::{
    ExceptionName, IdentityName, OwnerName, ResourceName, RoleName, RouteName, TicketSourceName,
};
use crate::domain::resource::ResourceSpec;
use crate::domain::role::RoleSpec;
use crate::domain::route::RouteSpec;
use crate::domain::ticket::TicketSourceSpec;

/// Largest catalog file: tens of thousands of documents.
pub const MAX_CATALOG_BYTES: u64 = 16 * 1024 * 1024;
/// Most files of one directory.
pub const MAX_CATALOG_FILES: usize = 4_096;

/// The kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Identity,
    Person,
    Group,
    Resource,
    Route,
    Role,
    Exception,
    TicketSource,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Identity,
        Self::Person,
        Self::Group,
        Self::Resource,
        Self::Route,
        Self::Role,
        Self::Exception,
        Self::TicketSource,
    ];

    /// As documents write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "Identity",
            Self::Person => "Person",
            Self::Group => "Group",
            Self::Resource => "Resource",
            Self::Route => "Route",
            Self::Role => "Role",
            Self::Exception => "Exception",
            Self::TicketSource => "TicketSource",
        }
    }

    fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a document says, in the type of its kind.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Object {
    Identity(IdentityName, IdentitySpec),
    Person(OwnerName, PersonSpec),
    Group(OwnerName, GroupSpec),
    Resource(ResourceName, ResourceSpec),
    Route(RouteName, RouteSpec),
    Role(RoleName, RoleSpec),
    Exception(ExceptionName, ExceptionSpec),
    TicketSource(TicketSourceName, TicketSourceSpec),
}

/// One document of a catalog file, of the right shape.
#[derive(Clone, Debug)]
pub struct Document {
    /// What it describes.
    pub kind: Kind,
    /// The name of what it describes, well formed for its kind.
    pub name: String,
    /// Its `spec` as it was written.
    pub spec: Value,
    /// Its name and `spec` in their types.
    pub object: Object,
    /// Where everything in it stands; pointers are those of the whole document, such as `/spec/owner`.
    pub places: Places,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Written<N, S> {
    /// What the document describes.
    #[serde(rename = "kind")]
    _kind: String,
    /// The name of what it describes.
    name: N,
    /// What it says about it.
    spec: S,
}

/// The JSON Schema (2020-12) of one catalog document of any kind.
pub fn schema() -> Value {
    let mut generator = schemars::SchemaGenerator::default();
    let mut documents = Vec::new();
    for kind in Kind::ALL {
        let mut document = match kind {
            Kind::Identity => Written::<IdentityName, IdentitySpec>::json_schema(&mut generator),
            Kind::Person => Written::<OwnerName, PersonSpec>::json_schema(&mut generator),
            Kind::Group => Written::<OwnerName, GroupSpec>::json_schema(&mut generator),
            Kind::Resource => Written::<ResourceName, ResourceSpec>::json_schema(&mut generator),
            Kind::Route => Written::<RouteName, RouteSpec>::json_schema(&mut generator),
            Kind::Role => Written::<RoleName, RoleSpec>::json_schema(&mut generator),
            Kind::Exception => Written::<ExceptionName, ExceptionSpec>::json_schema(&mut generator),
            Kind::TicketSource => Written::<TicketSourceName, TicketSourceSpec>::json_schema(&mut generator),
        }
        .to_value();
        if let Some(written) = document.pointer_mut("/properties/kind") {
            *written = json!({ "const": kind });
        }
        documents.push(document);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A Portcullis catalog document",
        "oneOf": documents,
        "$defs": generator.take_definitions(true),
    })
}

/// Reads every document of `text`; `file` is what faults call it.
///
/// # Errors
/// Every fault of every document.
pub fn documents(file: &str, text: &str) -> Result<Vec<Document>, Faults> {
    let mut reader = Reader::new();
    reader.text(file, text);
    reader.finish()
}

/// Reads the file `path`, or every `*.yaml` and `*.yml` file of the directory `path` in the order of their names.
///
/// # Errors
/// Every fault of every document of every file; when there is nothing to read.
pub fn load(path: &Path) -> Result<Vec<Document>, Faults> {
    let shown = path.display().to_string();
    let files = if path.is_dir() {
        files_of(path).map_err(|error| Faults::of_file(&shown, format!("cannot be read: {error}")))?
    } else {
        vec![path.to_owned()]
    };
    if files.is_empty() || files.len() > MAX_CATALOG_FILES {
        return Err(Faults::of_file(
            &shown,
            format!("1 to {MAX_CATALOG_FILES} *.yaml files are expected, found {}", files.len()),
        ));
    }
    let mut reader = Reader::new();
    for file in files {
        match read_text(&file, MAX_CATALOG_BYTES) {
            Ok(text) => reader.text(&file.display().to_string(), &text),
            Err(faults) => reader.faults.extend(faults),
        }
    }
    reader.finish()
}

fn files_of(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// One checker per kind, made once: a catalog has many documents of few kinds.
struct Reader {
    identity: Shape<Written<IdentityName, IdentitySpec>>,
    person: Shape<Written<OwnerName, PersonSpec>>,
    group: Shape<Written<OwnerName, GroupSpec>>,
    resource: Shape<Written<ResourceName, ResourceSpec>>,
    route: Shape<Written<RouteName, RouteSpec>>,
    role: Shape<Written<RoleName, RoleSpec>>,
    exception: Shape<Written<ExceptionName, ExceptionSpec>>,
    ticket_source: Shape<Written<TicketSourceName, TicketSourceSpec>>,
    documents: Vec<Document>,
    seen: BTreeSet<(Kind, String)>,
    faults: Vec<Fault>,
}

impl Reader {
    fn new() -> Self {
        Self {
            identity: Shape::new(),
            person: Shape::new(),
            group: Shape::new(),
            resource: Shape::new(),
            route: Shape::new(),
            role: Shape::new(),
            exception: Shape::new(),
            ticket_source: Shape::new(),
            documents: Vec::new(),
            seen: BTreeSet::new(),
            faults: Vec::new(),
        }
    }

    fn text(&mut self, file: &str, text: &str) {
        let (trees, faults) = yaml::read(file, text);
        if trees.is_empty() && faults.is_empty() {
            self.faults.push(Places::of_file(file).fault("", "no document is in it"));
        }
        self.faults.extend(faults);
        for tree in trees {
            match self.document(tree) {
                Ok(document) => {
                    if !self.seen.insert((document.kind, document.name.clone())) {
                        let message = format!("{} `{}` stands here twice", document.kind, document.name);
                        self.faults.push(document.places.fault("/name", message));
                    }
                    self.documents.push(document);
                }
                Err(faults) => self.faults.extend(faults),
            }
        }
    }

    fn document(&self, tree: Tree) -> Result<Document, Faults> {
        let kind = kind_of(&tree)?;
        let (name, object) = match kind {
            Kind::Identity => read(&self.identity, &tree, Object::Identity)?,
            Kind::Person => read(&self.person, &tree, Object::Person)?,
            Kind::Group => read(&self.group, &tree, Object::Group)?,
            Kind::Resource => read(&self.resource, &tree, Object::Resource)?,
            Kind::Route => read(&self.route, &tree, Object::Route)?,
            Kind::Role => read(&self.role, &tree, Object::Role)?,
            Kind::Exception => read(&self.exception, &tree, Object::Exception)?,
            Kind::TicketSource => read(&self.ticket_source, &tree, Object::TicketSource)?,
        };
        let Tree { mut value, places } = tree;
        let spec = value.get_mut("spec").map(Value::take).unwrap_or_default();
        Ok(Document { kind, name, spec, object, places })
    }

    fn finish(self) -> Result<Vec<Document>, Faults> {
        Faults::none_or(self.faults, self.documents)
    }
}

fn read<N, S>(shape: &Shape<Written<N, S>>, tree: &Tree, object: fn(N, S) -> Object) -> Result<(String, Object), Faults>
where
    N: JsonSchema + DeserializeOwned + fmt::Display,
    S: JsonSchema + DeserializeOwned,
{
    let Written { name, spec, .. } = shape.read(tree)?;
    Ok((name.to_string(), object(name, spec)))
}

fn kind_of(tree: &Tree) -> Result<Kind, Faults> {
    let written = tree.value.get("kind");
    if let Some(kind) = written.and_then(Value::as_str).and_then(Kind::of) {
        return Ok(kind);
    }
    let kinds = Kind::ALL.map(Kind::as_str).join(", ");
    let message = match written.and_then(Value::as_str) {
        Some(other) => format!("`{}` is not a kind of document: {kinds}", shown(other)),
        None => format!("key `kind` must name what the document describes: {kinds}"),
    };
    Err(tree.places.fault("/kind", message).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_come_in_the_type_of_their_kind() {
        let text = "kind: Resource\nname: api/orders\nspec: {owner: orders, sensitivity: high, authority: 10s}\n---\n\
                    kind: Role\nname: r\nspec: {permissions: [{resource: api/orders, actions: [read]}]}\n";
        let documents = documents("c.yaml", text).unwrap();
        let [resource, role] = documents.as_slice() else { panic!("{documents:?}") };
        assert_eq!((resource.kind, resource.name.as_str()), (Kind::Resource, "api/orders"));
        assert_eq!(resource.spec.get("authority"), Some(&Value::from("10s")));
        assert!(matches!(&role.object, Object::Role(_, spec) if spec.permissions.len() == 1));
        assert_eq!(role.places.fault("/spec/permissions/0/actions/0", "x").to_string(), "c.yaml:7:55: x");
    }

    #[test]
    fn every_fault_of_every_document_shows_with_its_line() {
        let text = "\
kind: Identity
name: Billing
spec:
  kind: robot
  owner: payments
  purpose: x
  environmnt: production
  authenticate:
    - { spiffe: 'http://x' }
    - { issuer: 'https://i' }
---
kind: Route
name: orders
spec:
  upstream: ftp://x
  resource: api//orders
  actions:
    - { name: read, methods: [get], path: orders }
  credential: mnt
  body: inspect(4MB)
---
kind: Thing
---
kind: Exception
name: e
spec: { rule: observe, route: r, owner: o, reason: x, expires: tomorrow }
---
kind: Role
name: r
spec: { permissions: [] }
---
kind: Role
name: r
spec: { permissions: 7 }
";
        let faults = documents("c.yaml", text).unwrap_err().to_string();
        let expected = "\
c.yaml:2:7: `Billing` is not a valid identity name: lower-case letters, digits and . _ -, starting with a letter or digit, at most 128 bytes
c.yaml:4:3: key `environment` is missing: where it runs, for example `production`
c.yaml:4:9: `service`, `agent`, `pipeline` or `third_party` is expected, found `robot`
c.yaml:7:3: unknown key `environmnt`; did you mean `environment`?
c.yaml:9:17: `http://x` is not a SPIFFE ID of a workload: does not begin with spiffe://
c.yaml:10:7: key `subject` is missing: the token's `sub`, exactly
c.yaml:15:13: `ftp://x` is not an upstream: http://HOST[:PORT] or https://HOST[:PORT], without a path
c.yaml:16:13: `api//orders` is not a valid resource name: letters, digits and . _ - in segments parted by /, at most 128 bytes
c.yaml:18:31: `GET`, `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE` or `OPTIONS` is expected, found `get`
c.yaml:18:43: `orders` is not a path template: it does not begin with /
c.yaml:19:15: `mint` or `none` is expected, found `mnt`; did you mean `mint`?
c.yaml:20:9: `inspect(4MB)` is not a body rule: `stream`, `inspect` or `inspect(SIZE)` of 1B to 64MiB
c.yaml:22:7: `Thing` is not a kind of document: Identity, Person, Group, Resource, Route, Role, Exception, TicketSource
c.yaml:26:64: `tomorrow` is not a time: RFC 3339, as in 2026-11-22T05:09:00Z
c.yaml:34:22: a list is expected, found `7`";
        assert_eq!(faults, expected, "\n{faults}\n");
    }

    #[test]
    fn the_schema_takes_what_is_read_and_nothing_of_another_kind() {
        let validator = jsonschema::validator_for(&schema()).unwrap();
        let role = json!({"kind": "Role", "name": "r", "spec": {"permissions": [{"resource": "a", "actions": ["b"]}]}});
        assert!(validator.is_valid(&role));
        let mut other = role.clone();
        other["kind"] = "Route".into();
        assert!(!validator.is_valid(&other));
        other["kind"] = "Thing".into();
        assert!(!validator.is_valid(&other));
    }

    #[test]
    fn one_name_is_one_object() {
        let role = "kind: Role\nname: r\nspec: { permissions: [] }\n";
        let faults = documents("c.yaml", &format!("{role}---\n{role}")).unwrap_err();
        assert_eq!(faults.to_string(), "c.yaml:6:7: Role `r` stands here twice");
    }

    #[test]
    fn a_directory_is_read_whole() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            use std::io::Write as _;
            std::fs::File::create(directory.path().join(name)).unwrap().write_all(text.as_bytes()).unwrap();
        };
        assert!(load(directory.path()).is_err());
        write("a.yaml", "kind: Role\nname: r\nspec: { permissions: [] }\n");
        write("b.yml", "kind: Role\nname: s\nspec: { permissions: [] }\n");
        write("notes.txt", "not yaml: [");
        let names: Vec<String> = load(directory.path()).unwrap().into_iter().map(|document| document.name).collect();
        assert_eq!(names, ["r", "s"]);
        write("c.yaml", "kind: Role\nname: r\nspec: { permissions: [] }\n");
        assert!(load(directory.path()).unwrap_err().to_string().ends_with("c.yaml:2:7: Role `r` stands here twice"));
    }
}
