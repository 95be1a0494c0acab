//! `GET /openapi.json`: what this API is, for programs (OpenAPI 3.1). The page `/api` shows the same to people.
//!
//! It is made of the handlers' own types, so that there is one place to change:
//!
//! - **A field**: put it into its struct, with a doc comment; that is the whole of it. (`#[derive(utoipa::ToSchema)]` is there.
//!   An `Option` that is told as `null`, and what has `#[serde(default)]`, needs `#[schema(required)]`; paths and addresses
//!   `#[schema(value_type = String)]`. A variant of an enum with fields needs `#[schema(rename_all = "camelCase")]`.)
//! - **A route**: one [`Operation`] in `operations()` beside its handler. A new module with routes: its `operations()` in
//!   [`operations`], and a row in [`PATH_PARAMETERS`] for a parameter of a kind that was not there;
//!   a constructor like `Operation::get` for a method that was not.
//! - **A problem**: its `Kind` in the list of the operations that answer it. Status and words are looked up.
//!
//! `tests/openapi` holds the document against a daemon: routes, methods, answers; what is forgotten here fails there.

pub(super) mod examples;
mod operation;

pub(super) use operation::Operation;

use super::{
    Answer, allow, deliveries, events, flashphoner, flashphoner_pull, health, media, openvidu, sources, v1,
    webhooks, whip,
};
use bytes::Bytes;
use operation::Schemas;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::LazyLock};
use warp::{
    Filter, Rejection,
    http::Method,
    reply::{Reply, Response},
};

/// Group of an operation. The dialect that its problems are told in follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Server,
    Sessions,
    Recordings,
    Files,
    Sources,
    Deliveries,
    Events,
    Whip,
    OpenVidu,
    Flashphoner,
    Health,
}

impl Tag {
    /// In the order in which they are shown.
    const ALL: [Self; 11] = [
        Self::Sessions,
        Self::Recordings,
        Self::Files,
        Self::Sources,
        Self::Deliveries,
        Self::Events,
        Self::Server,
        Self::Whip,
        Self::OpenVidu,
        Self::Flashphoner,
        Self::Health,
    ];

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Sessions => ("Sessions", "Live streams, and the recording of each."),
            Self::Recordings => ("Recordings", "What is and was recorded."),
            Self::Files => (
                "Files",
                "Bytes of recordings: media, manifests, posters. Ranges and conditions as in RFC 9110.",
            ),
            Self::Sources => ("Sources", "Streams that reeld pulls from cameras and servers."),
            Self::Deliveries => ("Deliveries", "What hooks, webhooks and uploads still have to do."),
            Self::Events => ("Events", "Every change of state, told as it happens."),
            Self::Server => ("Server", "The daemon itself."),
            Self::Whip => ("WHIP", "Publishing over WebRTC (RFC 9725). Pages of any origin may use it."),
            Self::OpenVidu => (
                "OpenVidu",
                "The calls of OpenVidu's recording tutorial: a room is started and stopped as a whole.",
            ),
            Self::Flashphoner => (
                "Flashphoner",
                "The calls of Flashphoner Web Call Server: POST with JSON; a call without an answer is 200 with an empty body.",
            ),
            Self::Health => ("Health", "For those who watch the daemon."),
        }
    }

    fn name(self) -> &'static str {
        self.words().0
    }
}

/// Name in a path, description, schema.
static PATH_PARAMETERS: LazyLock<[(&str, &str, Value); 9]> = LazyLock::new(|| {
    let uuid = || json!({"type": "string", "format": "uuid"});
    [
        ("mediaSessionId", "Id of a live stream; `GET /api/v1/sessions` lists them", uuid()),
        ("recordingId", "Id of a recording; `GET /api/v1/recordings` lists them", uuid()),
        ("sourceId", "Id of a source; `GET /api/v1/sources` lists them", uuid()),
        ("deliveryId", "Id of a delivery; `GET /api/v1/deliveries` lists them", integer(1, i64::MAX as u64)),
        ("part", "Number of a file within its recording, from 1", integer(1, u32::MAX.into())),
        ("fileName", "Name of a finished file", text()),
        ("room", "Name of the room", text()),
        ("stream", "Name of the stream; it may hold `/`", text()),
        ("session", "As in the `Location` that a publisher was answered", text()),
    ]
});

/// The parameters that stand in `path`, in their order.
fn path_parameters(path: &str) -> impl Iterator<Item = Value> + use<> {
    let names: Vec<_> = names_in(path).map(str::to_owned).collect();
    names.into_iter().map(|name| {
        let known = PATH_PARAMETERS.iter().find(|(known, ..)| *known == name);
        let (description, schema) = known.map_or(("", text()), |(_, what, schema)| (*what, schema.clone()));
        json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema})
    })
}

fn names_in(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name)
}

pub(super) fn text() -> Value {
    json!({"type": "string"})
}

pub(super) fn integer(least: u64, most: u64) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most})
}

pub(super) fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

pub(super) fn one_of(words: &[&str]) -> Value {
    json!({"type": "string", "enum": words})
}

/// Two types of one name would be told as one.
fn check_same(name: &str, earlier: Option<&Value>, schema: &Value) {
    debug_assert!(
        earlier.is_none_or(|earlier| earlier == schema),
        "two types are called {name}: give one of them `#[schema(as = …)]`"
    );
}

/// Every operation of the daemon.
fn operations() -> Vec<Operation> {
    [
        v1::operations(),
        media::operations(),
        sources::operations(),
        deliveries::operations(),
        webhooks::operations(),
        events::operations(),
        whip::operations(),
        openvidu::operations(),
        flashphoner::operations(),
        flashphoner_pull::operations(),
        health::operations(),
        own_operations(),
    ]
    .concat()
}

fn own_operations() -> Vec<Operation> {
    let this = Operation::get(Tag::Server, "/openapi.json", "getOpenApi", "This document")
        .about("The page `/api` shows it to people.")
        .answers_raw(200, "OpenAPI 3.1", &["application/json"], None);
    vec![this]
}

const ABOUT: &str = "reeld records live streams: WebRTC, RTMP and RTSP in, crash-safe files out.\n\n\
    Bodies are JSON of at most 64 KiB. Errors are `application/problem+json` (RFC 9457): `type` is stable, `detail` says \
    what to do. Every known path answers 405 with `Allow` to a method that it does not take, and every other path 404; an \
    answer of 503 has `Retry-After`. Where GET works, HEAD does. Times are RFC 3339 in UTC, sizes bytes, durations ms \
    where nothing else is said. Programs have to bear fields and events that they do not know.";

/// The whole document.
fn document() -> Value {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut schemas = Schemas::new();
    for operation in operations() {
        let (path, method) = (operation.path.clone(), operation.method);
        let (operation, used) = operation.into_parts();
        let earlier = paths.entry(path).or_default().insert(method.to_owned(), operation);
        debug_assert!(earlier.is_none(), "described twice: {earlier:?}");
        for (name, schema) in used {
            check_same(&name, schemas.get(&name), &schema);
            schemas.insert(name, schema);
        }
    }
    let tags = Tag::ALL.map(|tag| json!({"name": tag.name(), "description": tag.words().1}));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "reeld",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

pub(super) fn routes() -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static
{
    warp::path!("openapi.json").and(warp::method()).map(answer)
}

fn answer(method: Method) -> Answer {
    allow(&method, "GET, HEAD")?;
    let response = Response::new(DOCUMENT.clone().into());
    Ok(warp::reply::with_header(response, "content-type", "application/json").into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use utoipa::openapi::OpenApi;

    #[test]
    fn the_document_is_what_its_form_demands() {
        let read: OpenApi = serde_json::from_value(document()).expect("an OpenAPI document");
        assert!(read.paths.paths.len() > 20);
    }

    #[test]
    fn every_parameter_of_a_path_is_described() {
        for operation in operations() {
            for name in names_in(&operation.path) {
                assert!(PATH_PARAMETERS.iter().any(|(known, ..)| *known == name), "{name}");
            }
        }
    }
}
