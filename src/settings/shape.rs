//! The shape of a type as a JSON Schema, and everything in a document that does not have it.
//!
//! The schema is generated from the type that the document is read into, so the two cannot drift. Knows nothing of what
//! the type is for; how a fault is worded is in `phrase`.

use std::marker::PhantomData;

use jsonschema::Validator;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::fault::{Fault, Faults};
use super::format::FORMATS;
use super::phrase::phrases;
use super::yaml::Tree;

/// The JSON Schema (2020-12) of `T`.
pub(super) fn schema<T: JsonSchema>() -> Value {
    schemars::SchemaGenerator::default().into_root_schema_for::<T>().to_value()
}

/// Leaves to a format what a pattern and a length beside it say too: the format says it in words.
fn once(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.contains_key("format") {
                members.retain(|name, _| !matches!(name.as_str(), "pattern" | "maxLength"));
            }
            members.values_mut().for_each(once);
        }
        Value::Array(items) => items.iter_mut().for_each(once),
        _ => {}
    }
}

/// A checker for documents that are read into `T`.
pub(super) struct Shape<T> {
    schema: Value,
    validator: Result<Validator, String>,
    type_: PhantomData<fn() -> T>,
}

impl<T: JsonSchema + DeserializeOwned> Shape<T> {
    pub(super) fn new() -> Self {
        let mut schema = schema::<T>();
        once(&mut schema);
        let options =
            FORMATS.iter().fold(jsonschema::options().should_validate_formats(true), |options, (name, check)| {
                options.with_format(*name, move |text: &str| check(text).is_ok())
            });
        let validator = options.build(&schema).map_err(|error| error.to_string());
        Self { schema, validator, type_: PhantomData }
    }

    /// The value of `tree`, or everything that is wrong with it.
    pub(super) fn read(&self, tree: &Tree) -> Result<T, Faults> {
        let places = &tree.places;
        let validator = self
            .validator
            .as_ref()
            .map_err(|error| Faults::of_file(places.file(), format!("the schema of this file: {error}")))?;
        let mut faults: Vec<Fault> = Vec::new();
        for phrase in validator.iter_errors(&tree.value).flat_map(|error| phrases(&error, &self.schema)) {
            faults.push(if phrase.of_key {
                places.key_fault(&phrase.pointer, phrase.message)
            } else {
                places.fault(&phrase.pointer, phrase.message)
            });
        }
        Faults::none_or(faults, ())?;
        // What a schema cannot say (a number too large for its field) is left to the type itself.
        T::deserialize(&tree.value).map_err(|error| Faults::of_file(places.file(), error.to_string()))
    }
}
