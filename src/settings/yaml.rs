//! YAML text to JSON values with the place of each.
//!
//! A small, unambiguous part of YAML 1.2: no anchors, aliases or tags (a file of a kilobyte could unfold to a gigabyte,
//! or mean something else than it shows), no key twice, bounded depth. Knows nothing of what the values mean.

use std::borrow::Cow;

use saphyr::{Scalar, ScalarStyle};
use saphyr_parser::{Event, Parser, Span, StrInput};
use serde_json::{Map, Value};

use super::fault::{Fault, Places, Position, child};

/// Deepest nesting that is read: far more than any of our documents has, far less than a stack.
const MAX_DEPTH: usize = 32;
/// Faults after which reading stops: beyond it nobody reads them, and a hostile file could have a million.
const MAX_FAULTS: usize = 100;
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
    let mut reader = Reader { parser: Parser::new_from_str(text), places: Places::of_file(file), faults: Vec::new() };
    let mut trees = Vec::new();
    while let Some((event, span)) = reader.next() {
        match event {
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            Event::StreamEnd => break,
            node => {
                let Some(value) = reader.node(node, span, "", None, 0) else { break };
                let places = std::mem::replace(&mut reader.places, Places::of_file(file));
                if !value.is_null() {
                    trees.push(Tree { value, places });
                }
            }
        }
    }
    (trees, reader.faults)
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    places: Places,
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
                self.faults.push(self.places.at(Some(position), "", format!("not YAML: {}", error.info())));
                None
            }
        }
    }

    fn fault(&mut self, span: Span, pointer: &str, message: impl Into<String>) {
        self.faults.push(self.places.at(Some(position(span)), pointer, message.into()));
    }

    /// The value that begins with `event`. `None`: reading ends here.
    fn node(
        &mut self,
        event: Event<'t>,
        span: Span,
        pointer: &str,
        key: Option<Position>,
        depth: usize,
    ) -> Option<Value> {
        if depth > MAX_DEPTH {
            self.fault(span, pointer, format!("nested deeper than {MAX_DEPTH} levels"));
            return None;
        }
        self.places.insert(pointer.to_owned(), key, position(span));
        match event {
            Event::Alias(_) => {
                self.fault(span, pointer, "aliases are not read here: write the value out");
                Some(Value::Null)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse(span, pointer, anchor, tag.is_some());
                Some(self.scalar(text, style, span, pointer))
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse(span, pointer, anchor, tag.is_some());
                self.sequence(pointer, depth)
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse(span, pointer, anchor, tag.is_some());
                self.mapping(pointer, depth)
            }
            // The parser gives a node where one is due; were it not so, the document is not understood.
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => {
                self.fault(span, pointer, "not YAML: a value is missing");
                None
            }
        }
    }

    fn refuse(&mut self, span: Span, pointer: &str, anchor: usize, tagged: bool) {
        if anchor > 0 {
            self.fault(span, pointer, "anchors are not read here: write the value out where it is needed");
        }
        if tagged {
            self.fault(span, pointer, "tags are not read here");
        }
    }

    fn scalar(&mut self, text: Cow<'t, str>, style: ScalarStyle, span: Span, pointer: &str) -> Value {
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
                    self.fault(span, pointer, "not a number: infinite and undefined ones are not read here");
                    Value::Null
                },
                Value::Number,
            ),
            Scalar::String(value) => Value::String(value.into_owned()),
        }
    }

    fn sequence(&mut self, pointer: &str, depth: usize) -> Option<Value> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Some(Value::Array(items)),
                (event, span) => {
                    let item = self.node(event, span, &child(pointer, items.len()), None, depth + 1)?;
                    items.push(item);
                }
            }
        }
    }

    fn mapping(&mut self, pointer: &str, depth: usize) -> Option<Value> {
        let mut entries = Map::new();
        loop {
            let (event, at) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Some(Value::Object(entries)),
                Event::Scalar(text, _, anchor, tag) => {
                    self.refuse(at, pointer, anchor, tag.is_some());
                    text.into_owned()
                }
                _ => {
                    // Without a name for it, nothing that follows has a place.
                    self.fault(at, pointer, "a key must be plain text");
                    return None;
                }
            };
            let (event, span) = self.next()?;
            let below = child(pointer, &key);
            if entries.contains_key(&key) {
                self.fault(at, &below, format!("key `{}` stands here twice", shown(&key)));
            }
            let value = self.node(event, span, &below, Some(position(at)), depth + 1)?;
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
        assert_eq!(faults("? [a]\n: b"), ["t.yaml:1:3: a key must be plain text"]);
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
