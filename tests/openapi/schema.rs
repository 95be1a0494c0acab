//! Holds JSON against a schema of an OpenAPI document. Stricter than JSON Schema: what is not described is a fault.

use chrono::DateTime;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// How the faults of a value are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// What the daemon said: all that is required has to be there, and `null` only where it always is.
    Answer,
    /// An example, or a request: shortened.
    Example,
}

#[derive(Debug, Clone, Copy)]
pub struct Checker<'a> {
    document: &'a Value,
    of: Of,
}

impl<'a> Checker<'a> {
    pub fn new(document: &'a Value, of: Of) -> Self {
        Self { document, of }
    }

    /// What is wrong with `value`, a line each.
    pub fn faults(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        self.check(schema, value, "$", &mut faults);
        faults
    }

    pub fn resolve<'b>(&'b self, schema: &'b Value) -> &'b Value {
        let Some(place) = schema["$ref"].as_str() else { return schema };
        let pointer = place.strip_prefix('#').expect("a place in this document");
        self.resolve(self.document.pointer(pointer).unwrap_or_else(|| panic!("{place} is not there")))
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let mut known = BTreeSet::new();
        self.part(schema, value, at, &mut known, faults);
        let keys = value.as_object().into_iter().flat_map(Map::keys);
        faults.extend(
            keys.filter(|key| !known.contains(*key)).map(|key| format!("{at}.{key} is not described")),
        );
    }

    /// One of the schemas that hold for a value together; `known` are the fields that any of them describes.
    fn part(
        &self,
        schema: &Value,
        value: &Value,
        at: &str,
        known: &mut BTreeSet<String>,
        faults: &mut Vec<String>,
    ) {
        let schema = self.resolve(schema);
        for part in list(&schema["allOf"]) {
            self.part(part, value, at, known, faults);
        }
        self.one_of(schema, value, at, known, faults);
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            several => list(several).iter().filter_map(Value::as_str).collect(),
        };
        if !types.is_empty() && !types.iter().any(|one| is(one, value)) {
            faults.push(format!("{at} is {value}, not {types:?}"));
            return;
        }
        if let Some(words) = schema["enum"].as_array()
            && !words.contains(value)
        {
            faults.push(format!("{at} is {value}, not one of {words:?}"));
        }
        match value {
            Value::Object(object) => self.object(schema, object, at, known, faults),
            Value::Array(items) => {
                let items = items.iter().enumerate();
                items.for_each(|(n, item)| self.check(&schema["items"], item, &format!("{at}[{n}]"), faults));
            }
            Value::String(text) if !has_format(schema["format"].as_str(), text) => {
                faults.push(format!("{at} is {text:?}, not of the form {}", schema["format"]));
            }
            Value::Number(number) => {
                let number = number.as_f64().expect("a number");
                let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
                if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
                    faults.push(format!("{at} is {number}, not from {least:?} to {most:?}"));
                }
            }
            _ => {}
        }
    }

    fn one_of(
        &self,
        schema: &Value,
        value: &Value,
        at: &str,
        known: &mut BTreeSet<String>,
        faults: &mut Vec<String>,
    ) {
        let either = [list(&schema["oneOf"]), list(&schema["anyOf"])].concat();
        let tried = either.iter().map(|variant| {
            let (mut known, mut faults) = (BTreeSet::new(), Vec::new());
            self.part(variant, value, at, &mut known, &mut faults);
            (known, faults)
        });
        let (fitting, others): (Vec<_>, Vec<_>) = tried.partition(|(_, faults)| faults.is_empty());
        if fitting.is_empty() {
            let nearest = others.into_iter().map(|(_, faults)| faults).min_by_key(Vec::len);
            faults.extend(nearest.unwrap_or_default());
        }
        known.extend(fitting.into_iter().flat_map(|(known, _)| known));
    }

    fn object(
        &self,
        schema: &Value,
        object: &Map<String, Value>,
        at: &str,
        known: &mut BTreeSet<String>,
        faults: &mut Vec<String>,
    ) {
        let required: BTreeSet<&str> = list(&schema["required"]).iter().filter_map(Value::as_str).collect();
        if self.of == Of::Answer {
            let missing = required.iter().filter(|name| !object.contains_key(**name));
            faults.extend(missing.map(|name| format!("{at}.{name} is missing")));
        }
        for (name, value) in object {
            let place = format!("{at}.{name}");
            match &schema["properties"][name.as_str()] {
                Value::Null if schema["additionalProperties"].is_object() => {
                    known.insert(name.clone());
                    self.check(&schema["additionalProperties"], value, &place, faults);
                }
                Value::Null => {}
                field => {
                    known.insert(name.clone());
                    self.check(field, value, &place, faults);
                    if self.of == Of::Answer && value.is_null() && !required.contains(name.as_str()) {
                        faults.push(format!("{place} is null, so it is always told: #[schema(required)]"));
                    }
                }
            }
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn is(word: &str, value: &Value) -> bool {
    match word {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("a type {other}"),
    }
}

fn has_format(format: Option<&str>, text: &str) -> bool {
    match format {
        Some("date-time") => DateTime::parse_from_rfc3339(text).is_ok(),
        Some("uuid") => {
            text.len() == 36 && text.chars().all(|c| c == '-' || c.is_ascii_digit() || matches!(c, 'a'..='f'))
        }
        _ => true,
    }
}

#[test]
fn the_checker_finds_faults() {
    let document = serde_json::json!({
        "a": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1}}},
        "b": {"type": "object", "required": ["t"], "properties": {"t": {"enum": ["x", "y"]}, "o": {"type": ["string", "null"]}}},
    });
    let one_of = serde_json::json!({"oneOf": [{"$ref": "#/a"}, {"$ref": "#/b"}]});
    let all_of = serde_json::json!({"allOf": [{"$ref": "#/a"}, {"$ref": "#/b"}]});
    let (answer, example) = (Checker::new(&document, Of::Answer), Checker::new(&document, Of::Example));
    for (checker, schema, value, faults) in [
        (answer, &one_of, r#"{"n": 1}"#, 0),
        (answer, &one_of, r#"{"t": "x"}"#, 0),
        (answer, &one_of, r#"{"n": 0}"#, 2),
        (answer, &one_of, r#"{"n": 1, "more": 1}"#, 1),
        (answer, &one_of, "[]", 1),
        (answer, &all_of, r#"{"n": 1, "t": "y"}"#, 0),
        (answer, &all_of, r#"{"n": 1}"#, 1),
        (answer, &all_of, r#"{"n": 1, "t": "z"}"#, 1),
        (answer, &all_of, r#"{"n": 1, "t": "y", "o": null}"#, 1),
        (example, &all_of, r#"{"n": 1}"#, 0),
        (example, &all_of, r#"{"m": 1}"#, 1),
    ] {
        let value = serde_json::from_str(value).expect("JSON");
        let found = checker.faults(schema, &value);
        assert_eq!(found.len(), faults, "{schema} {value}: {found:?}");
    }
}
