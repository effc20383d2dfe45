//! What is wrong with a document, in words for people instead of the schema's.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{JsonType, ValidationError};
use serde_json::Value;

use super::fault::child;
use super::format;
use super::yaml::shown;

/// One fault, not yet tied to a line.
#[derive(Debug)]
pub(super) struct Phrase {
    pub(super) pointer: String,
    /// Whether it is the key that is wrong, not its value.
    pub(super) of_key: bool,
    pub(super) message: String,
}

/// What `error`, found under `schema`, comes to: one fault or several.
pub(super) fn phrases(error: &ValidationError<'_>, schema: &Value) -> Vec<Phrase> {
    let pointer = error.instance_path().as_str().to_owned();
    let instance = error.instance().as_ref();
    let value = |message: String| vec![Phrase { pointer: pointer.clone(), of_key: false, message }];
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let known = around(error, schema);
            let phrase = |key: &String| Phrase {
                pointer: child(&pointer, key),
                of_key: true,
                message: unknown_key(key, &known),
            };
            unexpected.iter().map(phrase).collect()
        }
        ValidationErrorKind::Required { property } => {
            value(missing_key(property.as_str().unwrap_or_default(), error, schema))
        }
        ValidationErrorKind::Type { kind } => value(wrong_type(kind, instance)),
        ValidationErrorKind::Enum { options } => value(one_of(
            &options.as_array().map(|all| all.iter().map(text_of).collect::<Vec<_>>()).unwrap_or_default(),
            instance,
        )),
        ValidationErrorKind::Constant { expected_value } => value(one_of(&[text_of(expected_value)], instance)),
        ValidationErrorKind::Format { format } => {
            let text = instance.as_str().unwrap_or_default();
            value(format::fault(format, text).unwrap_or_else(|| format!("`{}` is not a {format}", shown(text))))
        }
        ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context } => {
            choices(context, &pointer, instance).map_or_else(|| nearest(context, &pointer, schema), value)
        }
        ValidationErrorKind::Minimum { limit } => value(format!("at least {limit} is expected")),
        ValidationErrorKind::Maximum { limit } => value(format!("at most {limit} is expected")),
        ValidationErrorKind::MinItems { limit } => {
            value(format!("at least {limit} {} expected", if *limit == 1 { "entry is" } else { "entries are" }))
        }
        ValidationErrorKind::MaxItems { limit } => value(format!("at most {limit} entries are expected")),
        ValidationErrorKind::MinLength { limit: 1 } => value("empty".to_owned()),
        ValidationErrorKind::MaxLength { limit } => value(format!("longer than {limit} characters")),
        // Everything else the schemas of ours do not use; the library's words, without the value.
        _ => value(error.masked().to_string()),
    }
}

/// The schema object that holds the keyword which failed.
fn holder<'s>(error: &ValidationError<'_>, schema: &'s Value) -> Option<&'s Value> {
    let (holder, _keyword) = error.schema_path().as_str().rsplit_once('/')?;
    schema.pointer(holder)
}

fn around<'s>(error: &ValidationError<'_>, schema: &'s Value) -> Vec<&'s str> {
    let properties = holder(error, schema).and_then(|holder| holder.get("properties")).and_then(Value::as_object);
    properties.map(|all| all.keys().map(String::as_str).collect()).unwrap_or_default()
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    let near =
        known.iter().map(|name| (distance(key, name), *name)).min().filter(|(far, name)| *far <= 1 + name.len() / 4);
    match near {
        Some((_, name)) => format!("unknown key `{}`; did you mean `{name}`?", shown(key)),
        None if known.is_empty() => format!("unknown key `{}`", shown(key)),
        None => format!("unknown key `{}`; known here are {}", shown(key), listed(known, "and")),
    }
}

fn missing_key(key: &str, error: &ValidationError<'_>, schema: &Value) -> String {
    let pointer = child("/properties", key);
    let description = holder(error, schema).and_then(|holder| holder.pointer(&pointer)?.get("description")?.as_str());
    // The first sentence of the documentation; the rest is for the manual.
    match description.and_then(|text| text.split(". ").next()).map(|text| text.trim_end_matches('.').replace('\n', " "))
    {
        Some(text) if !text.is_empty() => format!("key `{key}` is missing: {}", lower_first(&text)),
        _ => format!("key `{key}` is missing"),
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    let first =
        chars.next().map(|c| if chars.as_str().starts_with(char::is_uppercase) { c } else { c.to_ascii_lowercase() });
    first.into_iter().chain(chars).collect()
}

fn wrong_type(kind: &TypeKind, instance: &Value) -> String {
    let expected: Vec<&str> = match kind {
        TypeKind::Single(one) => vec![type_name(*one)],
        // That a key may also be left empty helps nobody who filled it.
        TypeKind::Multiple(many) => many.iter().filter(|one| *one != JsonType::Null).map(type_name).collect(),
    };
    let quotes = expected.contains(&"text") && matches!(instance, Value::Number(_) | Value::Bool(_));
    let found = match instance {
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) | Value::Number(_) => format!("`{instance}`"),
        Value::String(_) => "text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    };
    format!(
        "{} is expected, found {found}{}",
        listed(&expected, "or"),
        if quotes { ": put it into quotes" } else { "" }
    )
}

fn type_name(one: JsonType) -> &'static str {
    match one {
        JsonType::Array => "a list",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Null => "nothing",
        JsonType::Number => "a number",
        JsonType::Object => "a mapping",
        JsonType::String => "text",
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn one_of(options: &[String], instance: &Value) -> String {
    let quoted: Vec<String> = options.iter().map(|option| format!("`{option}`")).collect();
    let quoted: Vec<&str> = quoted.iter().map(String::as_str).collect();
    let found = match instance {
        Value::String(text) => format!("`{}`", shown(text)),
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) | Value::Number(_) => format!("`{instance}`"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    };
    let near = instance
        .as_str()
        .and_then(|text| options.iter().map(|o| (distance(text, o), o)).min())
        .filter(|(far, o)| *far <= 1 + o.len() / 4);
    match near {
        Some((_, option)) if options.len() > 1 => {
            format!("{} is expected, found {found}; did you mean `{option}`?", listed(&quoted, "or"))
        }
        _ => format!("{} is expected, found {found}", listed(&quoted, "or")),
    }
}

/// When every alternative is a constant: all of them as one list of choices.
fn choices(context: &[Vec<ValidationError<'static>>], pointer: &str, instance: &Value) -> Option<String> {
    let mut options = Vec::new();
    for error in context.iter().flatten() {
        match error.kind() {
            ValidationErrorKind::Constant { expected_value } => options.push(text_of(expected_value)),
            ValidationErrorKind::Enum { options: more } => options.extend(more.as_array()?.iter().map(text_of)),
            ValidationErrorKind::Type { .. } if error.instance_path().as_str() == pointer => {}
            _ => return None,
        }
    }
    if options.is_empty() { None } else { Some(one_of(&options, instance)) }
}

/// The faults of the alternative that the document comes closest to.
fn nearest(context: &[Vec<ValidationError<'static>>], pointer: &str, schema: &Value) -> Vec<Phrase> {
    let phrased = context.iter().map(|branch| {
        let another_type = branch.iter().any(|error| {
            matches!(error.kind(), ValidationErrorKind::Type { .. }) && error.instance_path().as_str() == pointer
        });
        (another_type, branch.iter().flat_map(|error| phrases(error, schema)).collect::<Vec<_>>())
    });
    phrased.min_by_key(|(another_type, found)| (*another_type, found.len())).map(|(_, found)| found).unwrap_or_default()
}

fn listed(all: &[&str], word: &str) -> String {
    match all {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} {word} {last}", most.join(", ")),
    }
}

/// Edits from one text to the other (Levenshtein), over their first 64 bytes: names are short, and strangers' need not be.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.bytes().take(64), b.bytes().take(64).collect::<Vec<_>>());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (line, x) in a.enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let here = (*cell + 1).min(left + 1).min(diagonal + usize::from(x != *y));
            diagonal = std::mem::replace(cell, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_of_edits() {
        for (a, b, edits) in
            [("", "", 0), ("a", "", 1), ("lisen", "listen", 1), ("adress", "address", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (edits, edits), "{a} {b}");
        }
    }
}
