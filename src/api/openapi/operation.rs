//! One operation of the document: a method on a path, what it takes and what it answers.

use super::{Tag, examples};
use crate::api::{
    flashphoner_status,
    problem::{FlashphonerJson, Kind, OpenViduJson, ProblemJson},
    status,
};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// Any call with a JSON body may answer these.
const OF_BODIES: [Kind; 3] = [Kind::BadBody, Kind::BodyTooLarge, Kind::BodyTimeout];

/// Schemas by their name among the document's components.
pub(super) type Schemas = BTreeMap<String, Value>;

/// Made by [`Operation::get`] and its like, then completed call by call. Statuses of problems follow from their kinds.
#[derive(Clone, Debug)]
pub(in crate::api) struct Operation {
    pub(super) tag: Tag,
    /// Lower case, as the document writes it.
    pub(super) method: &'static str,
    /// With `{parameters}`, which `super::PATH_PARAMETERS` describes.
    pub(super) path: String,
    id: String,
    summary: String,
    description: String,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: BTreeMap<u16, Value>,
    /// The answer that `example` and `header` are about.
    last: u16,
    problems: Vec<Kind>,
    schemas: Schemas,
}

impl Operation {
    fn new(tag: Tag, method: &'static str, path: impl Into<String>, id: &str, summary: &str) -> Self {
        Self {
            tag,
            method,
            path: path.into(),
            id: id.to_owned(),
            summary: summary.to_owned(),
            description: String::new(),
            parameters: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
            last: 200,
            problems: Vec::new(),
            schemas: Schemas::new(),
        }
    }

    /// `id` is unique in the document; `summary` a few words.
    pub(in crate::api) fn get(tag: Tag, path: impl Into<String>, id: &str, summary: &str) -> Self {
        Self::new(tag, "get", path, id, summary)
    }

    pub(in crate::api) fn post(tag: Tag, path: impl Into<String>, id: &str, summary: &str) -> Self {
        Self::new(tag, "post", path, id, summary)
    }

    pub(in crate::api) fn delete(tag: Tag, path: impl Into<String>, id: &str, summary: &str) -> Self {
        Self::new(tag, "delete", path, id, summary)
    }

    pub(in crate::api) fn put(tag: Tag, path: impl Into<String>, id: &str, summary: &str) -> Self {
        Self::new(tag, "put", path, id, summary)
    }

    pub(in crate::api) fn patch(tag: Tag, path: impl Into<String>, id: &str, summary: &str) -> Self {
        Self::new(tag, "patch", path, id, summary)
    }

    pub(in crate::api) fn options(tag: Tag, path: impl Into<String>, id: &str, summary: &str) -> Self {
        Self::new(tag, "options", path, id, summary)
    }

    /// What the summary leaves open. Markdown of paragraphs, lists and `code` only.
    pub(in crate::api) fn about(mut self, text: &str) -> Self {
        text.clone_into(&mut self.description);
        self
    }

    pub(in crate::api) fn query(self, name: &str, schema: Value, description: &str) -> Self {
        self.parameter("query", name, schema, description)
    }

    /// A header of the request.
    pub(in crate::api) fn takes_header(self, name: &str, description: &str) -> Self {
        self.parameter("header", name, json!({"type": "string"}), description)
    }

    fn parameter(mut self, place: &str, name: &str, schema: Value, description: &str) -> Self {
        self.parameters.push(json!({
            "name": name, "in": place, "required": false, "schema": schema, "description": description,
        }));
        self
    }

    /// A JSON body that has to be there; `example` is one that works.
    pub(in crate::api) fn body<T: ToSchema>(self, example: Value) -> Self {
        self.json_body::<T>(true, example)
    }

    /// A JSON body that may be left out.
    pub(in crate::api) fn optional_body<T: ToSchema>(self, example: Value) -> Self {
        self.json_body::<T>(false, example)
    }

    fn json_body<T: ToSchema>(mut self, required: bool, example: Value) -> Self {
        let schema = self.component::<T>();
        let content = json!({"application/json": {"schema": schema, "example": example}});
        self.body = Some(json!({"required": required, "content": content}));
        self.problems.extend(OF_BODIES);
        self
    }

    pub(in crate::api) fn text_body(mut self, content_type: &str, example: &str) -> Self {
        let content = json!({content_type: {"schema": {"type": "string"}, "example": example}});
        self.body = Some(json!({"required": true, "content": content}));
        self.problems.extend([Kind::BodyTooLarge, Kind::BodyTimeout]);
        self
    }

    /// A JSON object.
    pub(in crate::api) fn answers<T: ToSchema>(mut self, status: u16, description: &str) -> Self {
        let schema = self.component::<T>();
        self.answer(status, description, json!({"application/json": {"schema": schema}}))
    }

    /// A page of a list: `{"items": […], "nextCursor": null | "…"}`.
    pub(in crate::api) fn answers_page<T: ToSchema>(mut self, description: &str) -> Self {
        let schema = json!({
            "type": "object",
            "required": ["items", "nextCursor"],
            "properties": {
                "items": {"type": "array", "items": self.component::<T>()},
                "nextCursor": {"type": ["string", "null"], "description": "`null` on the last page"},
            },
        });
        self.answer(200, description, json!({"application/json": {"schema": schema}}))
    }

    /// A JSON array.
    pub(in crate::api) fn answers_array<T: ToSchema>(mut self, description: &str) -> Self {
        let schema = json!({"type": "array", "items": self.component::<T>()});
        self.answer(200, description, json!({"application/json": {"schema": schema}}))
    }

    /// No body.
    pub(in crate::api) fn answers_nothing(self, status: u16, description: &str) -> Self {
        self.answer(status, description, Value::Null)
    }

    /// Text, or bytes where there is no `example`.
    pub(in crate::api) fn answers_raw(
        self,
        status: u16,
        description: &str,
        content_types: &[&str],
        example: Option<&str>,
    ) -> Self {
        let one = match example {
            Some(example) => json!({"schema": {"type": "string"}, "example": example}),
            None => json!({}),
        };
        let content: Map<String, Value> =
            content_types.iter().map(|t| ((*t).to_owned(), one.clone())).collect();
        self.answer(status, description, content.into())
    }

    fn answer(mut self, status: u16, description: &str, content: Value) -> Self {
        let mut answer = json!({"description": description});
        if !content.is_null() {
            answer["content"] = content;
        }
        self.answers.insert(status, answer);
        self.last = status;
        self
    }

    /// Of the answer before it, which is JSON.
    pub(in crate::api) fn example(mut self, example: Value) -> Self {
        self.last_answer()["content"]["application/json"]["example"] = example;
        self
    }

    /// A header of the answer before it.
    pub(in crate::api) fn header(mut self, name: &str, description: &str) -> Self {
        self.last_answer()["headers"][name] =
            json!({"schema": {"type": "string"}, "description": description});
        self
    }

    fn last_answer(&mut self) -> &mut Value {
        self.answers.entry(self.last).or_default()
    }

    pub(in crate::api) fn problems(mut self, kinds: &[Kind]) -> Self {
        self.problems.extend(kinds);
        self
    }

    fn component<T: ToSchema>(&mut self) -> Value {
        let mut nested = Vec::new();
        T::schemas(&mut nested);
        nested.push((T::name().into_owned(), T::schema()));
        for (name, schema) in nested {
            let schema = serde_json::to_value(schema).expect("a schema is JSON");
            let earlier = self.schemas.insert(name.clone(), schema.clone());
            super::check_same(&name, earlier.as_ref(), &schema);
        }
        json!({"$ref": format!("#/components/schemas/{}", T::name())})
    }

    /// The Operation Object, and the schemas that it refers to.
    pub(super) fn into_parts(mut self) -> (Value, Schemas) {
        let problems = self.problem_answers();
        let mut operation = json!({
            "tags": [self.tag.name()],
            "operationId": self.id,
            "summary": self.summary,
            "responses": Map::from_iter(self.answers.into_iter().chain(problems).map(|(s, a)| (s.to_string(), a))),
        });
        let path = super::path_parameters(&self.path);
        let parameters: Vec<Value> = path.chain(self.parameters).collect();
        for (key, value, there) in [
            ("description", json!(self.description), !self.description.is_empty()),
            ("parameters", json!(parameters), !parameters.is_empty()),
            ("requestBody", json!(self.body), self.body.is_some()),
        ] {
            if there {
                operation[key] = value;
            }
        }
        (operation, self.schemas)
    }

    /// One answer for each status that the problems have in this dialect.
    fn problem_answers(&mut self) -> BTreeMap<u16, Value> {
        let (content_type, schema) = match self.tag {
            Tag::Flashphoner => ("application/json", self.component::<FlashphonerJson>()),
            Tag::OpenVidu => ("application/problem+json", self.component::<OpenViduJson>()),
            _ => ("application/problem+json", self.component::<ProblemJson>()),
        };
        let mut by_status: BTreeMap<u16, BTreeSet<(&str, &str)>> = BTreeMap::new();
        for kind in std::mem::take(&mut self.problems) {
            let status = if self.tag == Tag::Flashphoner { flashphoner_status(kind) } else { status(kind) };
            by_status.entry(status.as_u16()).or_default().insert(kind.words());
        }
        let one = |(status, words): (u16, BTreeSet<(&str, &str)>)| {
            let title = |(of_type, title): &(&str, &str)| match self.tag {
                Tag::Flashphoner => format!("- {title}"),
                _ => format!("- `{of_type}`: {title}"),
            };
            let titles: Vec<String> = words.iter().map(title).collect();
            let types: Vec<&str> = words.iter().map(|(of_type, _)| *of_type).collect();
            let of_these = super::one_of(&types);
            let schema = match self.tag {
                Tag::Flashphoner => schema.clone(),
                _ => json!({"allOf": [schema, {"type": "object", "properties": {"type": of_these}}]}),
            };
            let example = words.first().map(|words| examples::problem(self.tag, status, *words, &self.path));
            let content = json!({content_type: {"schema": schema, "example": example}});
            (status, json!({"description": titles.join("\n"), "content": content}))
        };
        by_status.into_iter().map(one).collect()
    }
}
