//! What the command line prints: tables for people, JSON and YAML for scripts.
//!
//! Names, reasons and paths come from strangers: nothing that is printed here can move a terminal's cursor, change its
//! colours or turn its text around. With JSON, standard output is exactly one document, or one per line of a stream.

use std::io::{IsTerminal as _, Write};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use super::failure::Failure;

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON document, or one per line of a stream
    Json,
    /// One YAML document, or one after another
    Yaml,
}

/// Where answers go, and how.
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) headers: bool,
    pub(crate) color: bool,
}

impl Output {
    pub(crate) fn new(format: Format, headers: bool, no_color: bool) -> Self {
        Self { format, headers, color: !no_color && std::io::stdout().is_terminal() }
    }

    /// Prints one answer.
    pub(crate) fn answer(&self, value: &impl Serialize, human: impl FnOnce() -> Human) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => human().render(self.headers, self.color),
            Format::Json => format!("{}\n", pretty(value)?),
            Format::Yaml => yaml(&to_value(value)?),
        };
        write(&text)
    }

    /// Prints one element of a stream.
    pub(crate) fn element(&self, value: &impl Serialize, line: impl FnOnce() -> String) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => format!("{}\n", line()),
            Format::Json => format!("{}\n", compact(value)?),
            Format::Yaml => format!("---\n{}", yaml(&to_value(value)?)),
        };
        write(&text)
    }
}

/// Prints text that is ours as it is.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// A hint for people beside the answer; scripts do not see it on standard output.
pub(crate) fn note(text: &str) {
    // A reader that is gone misses a hint, no more.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn failed(error: &serde_json::Error) -> Failure {
    Failure::new(super::failure::Exit::Failed, format!("the answer cannot be shown: {error}"))
}

fn to_value(value: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|e| failed(&e))
}

fn pretty(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map(|text| harmless_json(&text)).map_err(|e| failed(&e))
}

fn compact(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map(|text| harmless_json(&text)).map_err(|e| failed(&e))
}

/// Whether a terminal might act on it rather than show it: controls, line and paragraph separators, and the characters
/// that hide text or turn its direction (Unicode TR 36).
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// `text` with everything that a terminal might act on written out.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// JSON text in which such characters are written as `\u` escapes: the same document, without the effect.
pub(crate) fn harmless_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // The controls of ASCII are escaped already where they stand in strings; the others lay the text out.
        if acts(c) && (c == '\u{7f}' || !c.is_ascii()) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// What a person reads.
pub(crate) enum Human {
    /// Rows under headers; the text when there are none.
    Table { headers: &'static [&'static str], rows: Vec<Vec<String>>, empty: &'static str },
    /// Names and values of one thing, then tables and lines about it.
    Details(Vec<(&'static str, String)>),
    /// Lines.
    Lines(Vec<String>),
    /// Several of these, with an empty line between.
    Parts(Vec<Human>),
}

impl Human {
    /// As a terminal shows it, where an answer is no answer yet.
    pub(crate) fn text(&self) -> String {
        self.render(true, false)
    }

    fn render(&self, headers: bool, color: bool) -> String {
        match self {
            Self::Table { rows, empty, .. } if rows.is_empty() => {
                if headers && !empty.is_empty() {
                    format!("{empty}\n")
                } else {
                    String::new()
                }
            }
            Self::Table { headers: names, rows, .. } => table(names, rows, headers, color),
            Self::Details(pairs) => {
                let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
                let line = |(name, value): &(&str, String)| format!("{name:width$}  {}\n", escaped(value));
                pairs.iter().filter(|(_, value)| !value.is_empty()).map(line).collect()
            }
            Self::Lines(lines) => lines.iter().map(|line| format!("{}\n", escaped(line))).collect(),
            Self::Parts(parts) => {
                let parts: Vec<_> = parts.iter().map(|part| part.render(headers, color)).collect();
                parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
            }
        }
    }
}

fn table(names: &[&str], rows: &[Vec<String>], headers: bool, color: bool) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| escaped(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        let name = names.get(column).map_or(0, |name| if headers { name.len() } else { 0 });
        cells.max().unwrap_or(0).max(name)
    };
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut out = String::new();
    if headers {
        let text = line(names.to_vec());
        out.push_str(&if color { format!("\u{1b}[1m{text}\u{1b}[0m\n") } else { format!("{text}\n") });
    }
    for row in &rows {
        out.push_str(&line(row.iter().map(String::as_str).collect()));
        out.push('\n');
    }
    out
}

/// A YAML document of a JSON value. Strings that could be read as anything else stand in JSON's quotes, which YAML 1.2
/// reads the same.
fn yaml(value: &Value) -> String {
    let mut out = String::new();
    yaml_node(value, 0, &mut out);
    out
}

fn yaml_node(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                out.push_str(&format!("{indent}{}:", yaml_text(key)));
                yaml_below(value, depth + 1, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut below = String::new();
                yaml_node(item, depth + 1, &mut below);
                out.push_str(&format!("{indent}- {}", below.trim_start_matches(' ')));
            }
        }
        scalar => out.push_str(&format!("{indent}{}\n", yaml_scalar(scalar))),
    }
}

fn yaml_below(value: &Value, depth: usize, out: &mut String) {
    let nested = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    if nested {
        out.push('\n');
        yaml_node(value, depth, out);
    } else {
        out.push_str(&format!(" {}\n", yaml_scalar(value)));
    }
}

fn yaml_scalar(value: &Value) -> String {
    match value {
        Value::String(text) => yaml_text(text),
        other => other.to_string(),
    }
}

fn yaml_text(text: &str) -> String {
    let plain = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'))
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n"
        );
    if plain { text.to_owned() } else { harmless_json(&Value::from(text).to_string()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hostile_text_never_reaches_the_terminal_raw() {
        let hostile = "a\u{1b}]0;x\u{7}\r\n\u{9b}2J\u{202e}b\u{200b}\u{e0041}";
        let table = Human::Table { headers: &["NAME"], rows: vec![vec![hostile.into()]], empty: "" };
        for text in [
            table.render(true, false),
            Human::Details(vec![("name", hostile.into())]).render(true, false),
            Human::Lines(vec![hostile.into()]).render(true, false),
            yaml(&json!({ hostile: hostile })),
            compact(&json!({ hostile: hostile })).unwrap(),
        ] {
            assert!(text.chars().all(|c| c == '\n' || !acts(c)), "{text:?}");
        }
        let back: Value = serde_json::from_str(&compact(&json!({ "a": hostile })).unwrap()).unwrap();
        assert_eq!(back["a"], hostile);
    }

    #[test]
    fn yaml_says_what_json_says() {
        let value = json!({
            "id": "01ABC", "no": "no", "empty": "", "n": 1, "none": null, "list": [], "map": {},
            "items": [ { "a": "x: y", "b": ["1", 2] }, [true, ["q"]], "z" ],
        });
        let text = yaml(&value);
        let read: Value = crate::settings::parse("t.yaml", &text).unwrap().raw;
        assert_eq!(read, value, "{text}");
    }

    #[test]
    fn tables_align_and_headers_can_be_left_out() {
        let table = Human::Table {
            headers: &["ID", "NAME"],
            rows: vec![vec!["1".into(), "a".into()], vec!["22222".into(), "b".into()]],
            empty: "",
        };
        assert_eq!(table.render(true, false), "ID     NAME\n1      a\n22222  b\n");
        assert_eq!(table.render(false, false), "1      a\n22222  b\n");
    }
}
