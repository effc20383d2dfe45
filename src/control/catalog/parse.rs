//! Documents to records: every fault of every document, not the first one.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;

use serde::de::DeserializeOwned;

use super::super::model::Model;
use super::super::record::Record;
use crate::domain::directory::{Group, PersonEntry};
use crate::domain::exception::Exception;
use crate::domain::identity::{Identity, IdentityState};
use crate::domain::resource::Resource;
use crate::domain::role::Role;
use crate::domain::route::Route;
use crate::domain::ticket::TicketSource;

/// Largest `spec` of one document, so that two of them and their events fit a transaction.
pub(super) const MAX_SPEC_BYTES: usize = 256 * 1024;
/// Faults told at once.
const MAX_FAULTS: usize = 100;

/// A document as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its `spec`, a JSON object.
    pub spec_json: String,
}

/// Reads all of them. Identities keep the state that they have in `model`: documents do not say it.
pub(super) fn parse(documents: &[Document], model: &Model) -> Result<Vec<Record>, Vec<String>> {
    let mut records = Vec::with_capacity(documents.len());
    let mut faults = Vec::new();
    let mut keys = BTreeSet::new();
    for document in documents {
        match record(document, model) {
            Ok(record) => {
                if !keys.insert(record.key()) {
                    faults.push(format!("{} {}: stands twice", document.kind, document.name));
                }
                records.push(record);
            }
            Err(fault) => faults.push(fault),
        }
        if faults.len() >= MAX_FAULTS {
            faults.push("there may be more".to_owned());
            break;
        }
    }
    if faults.is_empty() { Ok(records) } else { Err(faults) }
}

fn record(document: &Document, model: &Model) -> Result<Record, String> {
    Ok(match document.kind.as_str() {
        "Identity" => {
            let name = name_of(document)?;
            let state = model.identities.get(&name).map_or(IdentityState::Active, |kept| kept.value.state);
            Record::Identity(Identity { name, spec: spec_of(document)?, state })
        }
        "Resource" => Record::Resource(Resource { name: name_of(document)?, spec: spec_of(document)? }),
        "Route" => Record::Route(Route { name: name_of(document)?, spec: spec_of(document)? }),
        "Role" => Record::Role(Role { name: name_of(document)?, spec: spec_of(document)? }),
        "Exception" => Record::Exception(Exception::described(name_of(document)?, spec_of(document)?)),
        "TicketSource" => Record::TicketSource(TicketSource { name: name_of(document)?, spec: spec_of(document)? }),
        "Person" => Record::Entry(PersonEntry { name: name_of(document)?, spec: spec_of(document)? }),
        "Group" => Record::Group(Group { name: name_of(document)?, spec: spec_of(document)? }),
        other => {
            let other: String = other.chars().take(64).flat_map(char::escape_default).collect();
            return Err(format!(
                "`{other}` is not a kind: Identity, Person, Group, Resource, Route, Role, Exception or TicketSource"
            ));
        }
    })
}

fn name_of<T: FromStr>(document: &Document) -> Result<T, String>
where
    T::Err: Display,
{
    document.name.parse().map_err(|error| format!("{}: name: {error}", document.kind))
}

fn spec_of<T: DeserializeOwned>(document: &Document) -> Result<T, String> {
    let at = |fault: &dyn Display| format!("{} {}: spec: {fault}", document.kind, document.name);
    if document.spec_json.len() > MAX_SPEC_BYTES {
        return Err(at(&format!("{} bytes; at most {MAX_SPEC_BYTES}", document.spec_json.len())));
    }
    serde_json::from_str(&document.spec_json).map_err(|error| at(&error))
}

/// The kind as documents write it.
pub(super) const fn kind(record: &Record) -> &'static str {
    match record {
        Record::Identity(_) => "Identity",
        Record::Resource(_) => "Resource",
        Record::Route(_) => "Route",
        Record::Role(_) => "Role",
        Record::Exception(_) => "Exception",
        Record::Entry(_) => "Person",
        Record::Group(_) => "Group",
        Record::TicketSource(_) => "TicketSource",
        Record::Meta(_)
        | Record::Grant(_)
        | Record::Ledger(_)
        | Record::Person(_)
        | Record::Gateway(_)
        | Record::Log(_)
        | Record::Halt(_)
        | Record::Trust(_)
        | Record::Token(_)
        | Record::Policy(_)
        | Record::Request(_)
        | Record::Proposal(_)
        | Record::Delegation(_)
        | Record::BreakGlass(_)
        | Record::Ticket(_) => "",
    }
}

/// The name of a catalog object.
pub(super) fn name(record: &Record) -> String {
    match record {
        Record::Identity(it) => it.name.to_string(),
        Record::Resource(it) => it.name.to_string(),
        Record::Route(it) => it.name.to_string(),
        Record::Role(it) => it.name.to_string(),
        Record::Exception(it) => it.name.to_string(),
        Record::Entry(it) => it.name.to_string(),
        Record::Group(it) => it.name.to_string(),
        Record::TicketSource(it) => it.name.to_string(),
        Record::Meta(_)
        | Record::Grant(_)
        | Record::Ledger(_)
        | Record::Person(_)
        | Record::Gateway(_)
        | Record::Log(_)
        | Record::Halt(_)
        | Record::Trust(_)
        | Record::Token(_)
        | Record::Policy(_)
        | Record::Request(_)
        | Record::Proposal(_)
        | Record::Delegation(_)
        | Record::BreakGlass(_)
        | Record::Ticket(_) => String::new(),
    }
}

/// The spec of a catalog object, defaults filled in: so that two spellings of one thing do not differ.
pub(super) fn spec(record: &Record) -> serde_json::Value {
    let spec = match record {
        Record::Identity(it) => serde_json::to_value(&it.spec),
        Record::Resource(it) => serde_json::to_value(&it.spec),
        Record::Route(it) => serde_json::to_value(&it.spec),
        Record::Role(it) => serde_json::to_value(&it.spec),
        Record::Exception(it) => serde_json::to_value(&it.spec),
        Record::Entry(it) => serde_json::to_value(&it.spec),
        Record::Group(it) => serde_json::to_value(&it.spec),
        Record::TicketSource(it) => serde_json::to_value(&it.spec),
        Record::Meta(_)
        | Record::Grant(_)
        | Record::Ledger(_)
        | Record::Person(_)
        | Record::Gateway(_)
        | Record::Log(_)
        | Record::Halt(_)
        | Record::Trust(_)
        | Record::Token(_)
        | Record::Policy(_)
        | Record::Request(_)
        | Record::Proposal(_)
        | Record::Delegation(_)
        | Record::BreakGlass(_)
        | Record::Ticket(_) => Ok(serde_json::Value::Null),
    };
    spec.unwrap_or_default()
}
