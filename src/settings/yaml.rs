//! YAML text to JSON values with the place of each.
//!
//! A small, unambiguous part of YAML 1.2: no anchors, aliases or tags (a file of a kilobyte could unfold to a gigabyte,
//! or mean something else than it shows), no key twice, bounded depth. Knows nothing of what the values mean.

use std::borrow::Cow;
use std::collections::BTreeMap;

use saphyr::{Scalar, ScalarStyle};
use saphyr_parser::{Event, Parser, Span, StrInput};
use serde_json::{Map, Value};

use super::fault::{Fault, Inside, Place, Places, Position, child};

/// Deepest nesting that is read: far more than any of our documents has, far less than a stack.
const MAX_DEPTH: usize = 32;
/// Faults after which reading stops: beyond it nobody reads them, and a hostile file could have a million.
const MAX_FAULTS: usize = 100;
/// Longest key: all of ours are words.
const MAX_KEY_BYTES: usize = 256;
/// Characters of a text that a message repeats.
const MAX_SHOWN: usize = 64;

/// One document of a file.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) value: Value,
    pub(super) places: Places,
}

/// Reads every document of `text`. Empty documents are left out. What has a fault may be among the trees or not.
pub(super) fn read(file: &str, text: &str) -> (Vec<Tree>, Vec<Fault>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let parser = Parser::new_from_str(text);
    let mut reader = Reader { parser, nowhere: Places::of_file(file), path: Vec::new(), faults: Vec::new() };
    let mut trees = Vec::new();
    while let Some((event, span)) = reader.next() {
        match event {
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            Event::StreamEnd => break,
            node => {
                let Some((value, place)) = reader.node(node, span, None) else { break };
                if !value.is_null() {
                    trees.push(Tree { value, places: Places::new(file, place) });
                }
            }
        }
    }
    (trees, reader.faults)
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    nowhere: Places,
    /// Keys and numbers from the document to where the reader is.
    path: Vec<String>,
    faults: Vec<Fault>,
}

impl<'t> Reader<'t> {
    /// The next event; `None` at the end and after what cannot be read past.
    fn next(&mut self) -> Option<(Event<'t>, Span)> {
        if self.faults.len() >= MAX_FAULTS {
            return None;
        }
        match self.parser.next_event()? {
            Ok(next) => Some(next),
            Err(error) => {
                let mark = error.marker();
                let position = Position { line: mark.line(), column: mark.col() + 1 };
                self.faults.push(self.nowhere.at(position, "", format!("not YAML: {}", error.info())));
                None
            }
        }
    }

    fn fault(&mut self, span: Span, message: impl Into<String>) {
        let pointer = self.path.iter().fold(String::new(), |pointer, segment| child(&pointer, segment));
        self.faults.push(self.nowhere.at(position(span), &pointer, message.into()));
    }

    /// The value that begins with `event`, and its place. `None`: reading ends here.
    fn node(&mut self, event: Event<'t>, span: Span, key: Option<Position>) -> Option<(Value, Place)> {
        if self.path.len() > MAX_DEPTH {
            self.fault(span, format!("nested deeper than {MAX_DEPTH} levels"));
            return None;
        }
        let (value, inside) = match event {
            Event::Alias(_) => {
                self.fault(span, "aliases are not read here: write the value out");
                (Value::Null, Inside::Nothing)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse(span, anchor, tag.is_some());
                (self.scalar(text, style, span), Inside::Nothing)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse(span, anchor, tag.is_some());
                self.sequence()?
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse(span, anchor, tag.is_some());
                self.mapping()?
            }
            // The parser gives a node where one is due; were it not so, the document is not understood.
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => {
                self.fault(span, "not YAML: a value is missing");
                return None;
            }
        };
        Some((value, Place { key, value: position(span), inside }))
    }

    fn refuse(&mut self, span: Span, anchor: usize, tagged: bool) {
        if anchor > 0 {
            self.fault(span, "anchors are not read here: write the value out where it is needed");
        }
        if tagged {
            self.fault(span, "tags are not read here");
        }
    }

    fn scalar(&mut self, text: Cow<'t, str>, style: ScalarStyle, span: Span) -> Value {
        if style != ScalarStyle::Plain {
            return Value::String(text.into_owned());
        }
        if text.is_empty() {
            return Value::Null;
        }
        match Scalar::parse_from_cow(text) {
            Scalar::Null => Value::Null,
            Scalar::Boolean(value) => value.into(),
            Scalar::Integer(value) => value.into(),
            Scalar::FloatingPoint(value) => serde_json::Number::from_f64(value.into_inner()).map_or_else(
                || {
                    self.fault(span, "not a number: infinite and undefined ones are not read here");
                    Value::Null
                },
                Value::Number,
            ),
            Scalar::String(value) => Value::String(value.into_owned()),
        }
    }

    fn sequence(&mut self) -> Option<(Value, Inside)> {
        let (mut items, mut places) = (Vec::new(), Vec::new());
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Some((Value::Array(items), Inside::Items(places))),
                (event, span) => {
                    self.path.push(items.len().to_string());
                    let (item, place) = self.node(event, span, None)?;
                    self.path.pop();
                    items.push(item);
                    places.push(place);
                }
            }
        }
    }

    fn mapping(&mut self) -> Option<(Value, Inside)> {
        let (mut entries, mut places) = (Map::new(), BTreeMap::new());
        loop {
            let (event, at) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Some((Value::Object(entries), Inside::Entries(places))),
                Event::Scalar(text, _, anchor, tag) if text.len() <= MAX_KEY_BYTES => {
                    self.refuse(at, anchor, tag.is_some());
                    text.into_owned()
                }
                _ => {
                    // Without a name for it, nothing that follows has a place.
                    self.fault(at, format!("a key must be plain text of at most {MAX_KEY_BYTES} bytes"));
                    return None;
                }
            };
            let (event, span) = self.next()?;
            self.path.push(key);
            let (value, place) = self.node(event, span, Some(position(at)))?;
            let key = self.path.pop().unwrap_or_default();
            if entries.contains_key(&key) {
                self.fault(at, format!("key `{}` stands here twice", shown(&key)));
            }
            places.insert(key.clone(), place);
            entries.insert(key, value);
        }
    }
}

fn position(span: Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

/// A key or a text as a message may hold it: bounded, and without what a terminal would act on.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for (place, c) in text.chars().enumerate() {
        if place == MAX_SHOWN {
            shown.push('…');
            break;
        }
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(text: &str) -> Value {
        let (trees, faults) = read("t.yaml", text);
        assert_eq!(faults, [], "{text}");
        assert_eq!(trees.len(), 1);
        trees.into_iter().next().unwrap().value
    }

    fn faults(text: &str) -> Vec<String> {
        read("t.yaml", text).1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        let value = one("{a: 1, b: -2, c: 0x10, d: 1.5, e: true, f: ~, g: , h: 'true', i: no, j: 10s, k: \"1\"}");
        assert_eq!(
            value,
            json!({"a":1,"b":-2,"c":16,"d":1.5,"e":true,"f":null,"g":null,"h":"true","i":"no","j":"10s","k":"1"})
        );
        assert_eq!(one("a: |\n  x\n  y\n"), json!({"a": "x\ny\n"}));
        assert_eq!(one("\u{feff}a: 1"), json!({"a": 1}));
    }

    #[test]
    fn what_could_mean_something_else_is_refused_where_it_stands() {
        assert_eq!(
            faults("a: &x 1\nb: *x\nc: !!str 2\nd:\n  e: 1\n  e: 2\nf: .inf\n"),
            [
                "t.yaml:1:4: anchors are not read here: write the value out where it is needed",
                "t.yaml:2:4: aliases are not read here: write the value out",
                "t.yaml:3:4: tags are not read here",
                "t.yaml:6:3: key `e` stands here twice",
                "t.yaml:7:4: not a number: infinite and undefined ones are not read here",
            ]
        );
        assert_eq!(faults("? [a]\n: b"), ["t.yaml:1:3: a key must be plain text of at most 256 bytes"]);
        assert_eq!(faults("a: [1,\nb: 2").len(), 1);
    }

    #[test]
    fn places_are_of_keys_and_of_values() {
        let (trees, _) = read("t.yaml", "---\n---\na:\n  - b: 1\n    c/d: 2\n");
        let places = &trees.first().unwrap().places;
        assert_eq!(trees.len(), 1);
        assert_eq!(places.fault("/a/0/c~1d", "x").to_string(), "t.yaml:5:10: x");
        assert_eq!(places.key_fault("/a/0/c~1d", "x").to_string(), "t.yaml:5:5: x");
        assert_eq!(places.fault("/a/0/nothing/there", "x").to_string(), "t.yaml:4:5: x");
    }

    #[test]
    fn hostile_nesting_and_floods_of_faults_end() {
        let deep = |levels| "[".repeat(levels) + &"]".repeat(levels);
        assert_eq!(faults(&deep(40)), ["t.yaml:1:34: nested deeper than 32 levels"]);
        assert_eq!(faults(&deep(1 << 20)).len(), 1);
        let block = (0..40).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>();
        assert_eq!(faults(&block).len(), 1);
        assert_eq!(faults(&"- *x\n".repeat(10_000)).len(), 1);
        assert_eq!(faults(&"- !t x\n".repeat(10_000)).len(), MAX_FAULTS);
    }
}
