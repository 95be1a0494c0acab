//! What an example shows of an answer: which fields it has, and of what type.

use serde_json::Value;

/// A shape as the comments draw it: `{"key", "key": {…}, …}`, `[{…}]`, `[...]`.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    Any,
    Object(Vec<(String, Shape)>),
    /// Of its elements, of which there has to be one.
    List(Box<Shape>),
}

impl Shape {
    /// The first one that a comment draws, if any.
    pub fn drawn(comment: &str) -> Option<Self> {
        let begin = comment.find("{\"").into_iter().chain(comment.find("[{")).min()?;
        Some(read(&mut comment[begin..].chars().peekable()))
    }

    /// Err with the path of what is not so.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        match self {
            Shape::Any => Ok(()),
            Shape::Object(fields) => fields.iter().try_for_each(|(key, shape)| {
                let field = value.get(key).ok_or_else(|| format!("no {key:?} in {value}"))?;
                shape.check(field).map_err(|e| format!("{key}: {e}"))
            }),
            Shape::List(shape) => {
                let list = value.as_array().filter(|list| !list.is_empty());
                let list = list.ok_or_else(|| format!("no list with something in it: {value}"))?;
                list.iter().try_for_each(|element| shape.check(element))
            }
        }
    }
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn read(text: &mut Chars) -> Shape {
    skip(text);
    match text.next() {
        Some('{') => {
            let mut fields = Vec::new();
            loop {
                skip(text);
                match text.next() {
                    Some('"') => {
                        let key: String = text.by_ref().take_while(|c| *c != '"').collect();
                        skip(text);
                        let shape = match text.next_if_eq(&':') {
                            Some(_) => read(text),
                            None => Shape::Any,
                        };
                        fields.push((key, shape));
                    }
                    Some('}') | None => return Shape::Object(fields),
                    _ => {}
                }
            }
        }
        Some('[') => {
            skip(text);
            let shape =
                if text.peek() == Some(&'{') { Shape::List(Box::new(read(text))) } else { Shape::Any };
            while text.next_if(|c| *c != ']').is_some() {}
            text.next();
            shape
        }
        _ => Shape::Any,
    }
}

fn skip(text: &mut Chars) {
    while text.next_if(|c| *c == ' ').is_some() {}
}

/// Whether each field that `shown` has is in `real`, with the same type.
pub fn has_all(shown: &Value, real: &Value) -> Result<(), String> {
    match (shown, real) {
        (Value::Object(shown), Value::Object(real)) => shown.iter().try_for_each(|(key, value)| {
            let field = real.get(key).ok_or_else(|| format!("{key}: not there"))?;
            has_all(value, field).map_err(|e| format!("{key}: {e}"))
        }),
        (Value::Array(shown), Value::Array(real)) => {
            let pairs = shown.iter().flat_map(|shown| real.iter().map(move |real| (shown, real)));
            pairs.into_iter().try_for_each(|(shown, real)| has_all(shown, real))
        }
        _ if std::mem::discriminant(shown) == std::mem::discriminant(real) => Ok(()),
        _ => Err(format!("{shown} is shown, and it is {real}")),
    }
}

#[test]
fn shapes_are_read_and_compared() {
    let drawn = |text| Shape::drawn(text).expect(text);
    assert_eq!(Shape::drawn("newest first; [1 to 2] {}"), None);
    let list = drawn("[{\"a\", \"b\"}]; 404 when there is none");
    assert_eq!(list.check(&serde_json::json!([{"a": 1, "b": 2, "c": 3}])), Ok(()));
    assert!(list.check(&serde_json::json!([])).is_err());
    let object = drawn("{\"m\", \"r\": {\"id\", ...}, \"l\": [...], \"n\"}");
    assert_eq!(object.check(&serde_json::json!({"m": "", "r": {"id": 1}, "l": [], "n": null})), Ok(()));
    let error = object.check(&serde_json::json!({"m": "", "r": {}, "l": [], "n": null})).expect_err("no id");
    assert_eq!(error, "r: no \"id\" in {}");

    let shown = serde_json::json!({"a": {"b": "…"}, "l": [{"x": 1}]});
    assert_eq!(has_all(&shown, &serde_json::json!({"a": {"b": "text"}, "l": [{"x": 5}], "more": 1})), Ok(()));
    assert!(has_all(&shown, &serde_json::json!({"a": {"b": 3}, "l": []})).is_err());
    assert!(has_all(&shown, &serde_json::json!({"a": {"b": "text"}, "l": [{}]})).is_err());
}
