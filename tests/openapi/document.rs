//! `/openapi.json` as these tests read it.

use crate::schema::{Checker, Of};
use serde_json::Value;
use support::{
    daemon::Daemon,
    http::{self, Answer},
};

const METHODS: [&str; 6] = ["get", "post", "patch", "put", "delete", "options"];

#[derive(Debug)]
pub struct Document(pub Value);

/// A method on a path.
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    /// Upper case.
    pub method: &'a str,
    /// With `{parameters}`.
    pub path: &'a str,
    pub told: &'a Value,
}

impl Document {
    pub fn of(daemon: &Daemon) -> Self {
        Self(daemon.get("/openapi.json"))
    }

    pub fn paths(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0["paths"].as_object().expect("paths").iter().map(|(path, item)| (path.as_str(), item))
    }

    pub fn operations(&self) -> impl Iterator<Item = Operation<'_>> {
        self.paths().flat_map(|(path, item)| {
            let methods = item.as_object().expect("operations");
            methods.iter().map(move |(method, told)| {
                let known = METHODS.iter().position(|known| known == method).expect("a method");
                let method = ["GET", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"][known];
                Operation { method, path, told }
            })
        })
    }

    /// The operation that a request is for; a literal path goes before one with parameters.
    pub fn operation(&self, method: &str, path: &str) -> Option<Operation<'_>> {
        let path = path.split('?').next().unwrap_or_default();
        let mut fitting: Vec<_> =
            self.operations().filter(|o| o.method == method && fits(o.path, path)).collect();
        fitting.sort_by_key(|operation| operation.path.matches('{').count());
        fitting.first().copied()
    }

    /// Panics unless the answer has a status, a type and a body that are described.
    pub fn check(&self, method: &str, path: &str, answer: &Answer) {
        let place = format!("{method} {path}: {}", answer.status);
        let operation = self.operation(method, path).unwrap_or_else(|| panic!("{place}: not described"));
        let told = &operation.told["responses"][answer.status.to_string()];
        assert!(told.is_object(), "{place} is not described: {}", answer.body);
        if answer.body.is_empty() {
            assert!(told["content"].is_null() || method == "HEAD", "{place} has no body");
            return;
        }
        let content_type = answer.header("content-type").unwrap_or_else(|| panic!("{place} has no type"));
        let content = &told["content"][content_type];
        assert!(content.is_object(), "{place}: {content_type} is not described: {}", answer.body);
        if content_type.ends_with("json") && !content["schema"].is_null() {
            let faults = Checker::new(&self.0, Of::Answer).faults(&content["schema"], &answer.json());
            assert!(faults.is_empty(), "{place}: {faults:#?}\n{}", answer.body);
        }
    }

    /// Asks, checks the answer and hands it out.
    pub fn ask(&self, daemon: &Daemon, method: &str, path: &str, body: &str) -> Answer {
        let answer = daemon.request(method, path, body.as_bytes());
        self.check(method, path, &answer);
        answer
    }
}

impl Operation<'_> {
    /// Makes the request that is described, with its example, for things that are not there.
    pub fn ask(&self, daemon: &Daemon) -> (String, Answer) {
        let path = filled(self.path);
        let content = self.told["requestBody"]["content"].as_object().and_then(|c| c.iter().next());
        let (content_type, body) = match content {
            None => ("application/json", String::new()),
            Some((kind, content)) => match &content["example"] {
                Value::String(text) => (kind.as_str(), text.clone()),
                json => (kind.as_str(), json.to_string()),
            },
        };
        // Nobody is looked up, and nothing listens there.
        let body = body.replace("camera.lan", "127.0.0.1:9").replace("relay.lan", "127.0.0.1:9");
        let headers = [("Content-Type", content_type)];
        let answer = http::request_with(daemon.http(), self.method, &path, &headers, body.as_bytes());
        (path, answer.unwrap_or_else(|e| panic!("{} {}: {e}", self.method, self.path)))
    }
}

/// A path with words for its parameters.
pub fn filled(path: &str) -> String {
    let fill = |segment: &str| match segment {
        "{part}" => "1".to_owned(),
        "{room}" | "{stream}" | "{session}" | "{fileName}" => "nothing".to_owned(),
        id if id.starts_with('{') => "00000000-0000-4000-8000-000000000000".to_owned(),
        word => word.to_owned(),
    };
    path.split('/').map(fill).collect::<Vec<_>>().join("/")
}

/// Whether `path` is one of those that `template` stands for.
pub fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len()
        && template.iter().zip(&path).all(|(known, word)| known == word || known.starts_with('{'))
}
