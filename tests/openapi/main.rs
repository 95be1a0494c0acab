//! `/openapi.json` against the daemon: its form, its routes, its answers. See `src/api/openapi.rs` for where to add what.

mod document;
mod routes;
mod schema;

use document::{Document, fits};
use schema::{Checker, Of};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};
use support::{
    browser::Browser,
    daemon::{Daemon, House, SOON, text},
    http,
    live::Live,
    media::av_source,
    wait::wait_until,
    ws::WebSocket,
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");

/// Every object in `value` with its place.
fn objects<'a>(value: &'a Value, at: &str, found: &mut Vec<(String, &'a Value)>) {
    match value {
        Value::Object(object) => {
            found.push((at.to_owned(), value));
            object.iter().for_each(|(key, value)| objects(value, &format!("{at}/{key}"), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, item)| objects(item, &format!("{at}/{n}"), found));
        }
        _ => {}
    }
}

#[test]
fn the_document_holds_together() {
    let house = House::new("", "");
    let daemon = house.start(REELD);
    let answer = daemon.request("GET", "/openapi.json", b"").expect(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let document = Document(answer.json());
    let api = &document.0;
    assert_eq!((&api["openapi"], &api["servers"]), (&json!("3.1.0"), &json!([{"url": "/"}])));
    assert_eq!(api["info"]["version"], env!("CARGO_PKG_VERSION"));

    let mut all = Vec::new();
    objects(api, "", &mut all);
    let checker = Checker::new(api, Of::Answer);
    let mut used = BTreeSet::new();
    for (place, object) in &all {
        if object["$ref"].is_string() {
            checker.resolve(object);
            used.insert(text(object, "$ref"));
        }
        if let Some(fields) = object["properties"].as_object().filter(|_| !place.ends_with("/properties")) {
            let names: Vec<_> = fields.keys().filter(|name| name.contains('_')).collect();
            assert!(names.is_empty(), "{place} has {names:?}: fields are in camelCase");
        }
    }
    for name in api["components"]["schemas"].as_object().expect("schemas").keys() {
        assert!(used.contains(&format!("#/components/schemas/{name}")), "nothing leads to {name}");
    }

    let tags: BTreeSet<&str> =
        api["tags"].as_array().expect("tags").iter().filter_map(|tag| tag["name"].as_str()).collect();
    let mut ids = BTreeMap::new();
    for operation in document.operations() {
        let (place, told) = (format!("{} {}", operation.method, operation.path), operation.told);
        let twice = ids.insert(text(told, "operationId"), place.clone());
        assert_eq!(twice, None, "{place} has the operationId of another");
        assert!(tags.contains(told["tags"][0].as_str().expect("a tag")), "{place}");
        assert!(!text(told, "summary").is_empty(), "{place}");
        let statuses: Vec<_> = told["responses"].as_object().expect("responses").iter().collect();
        assert!(statuses.iter().any(|(status, _)| status.as_str() < "400"), "{place}: {statuses:?}");
        assert!(statuses.iter().all(|(_, answer)| answer["description"].is_string()), "{place}");
        let parameters = told["parameters"].as_array().cloned().unwrap_or_default();
        let in_path: BTreeSet<String> =
            parameters.iter().filter(|p| p["in"] == "path").map(|p| text(p, "name")).collect();
        let named = operation.path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        assert_eq!(in_path, named.map(str::to_owned).collect(), "{place}");
        assert!(parameters.iter().all(|p| !text(p, "description").is_empty()), "{place}");
    }
}

#[test]
fn examples_are_of_their_schemas() {
    let house = House::new("", "");
    let daemon = house.start(REELD);
    let document = Document::of(&daemon);
    let checker = Checker::new(&document.0, Of::Example);
    let mut all = Vec::new();
    objects(&document.0["paths"], "", &mut all);
    let with_example: Vec<_> =
        all.iter().filter(|(_, o)| !o["example"].is_null() && o["schema"].is_object()).collect();
    assert!(with_example.len() > 50, "{}", with_example.len());
    for (place, content) in with_example {
        let faults = checker.faults(&content["schema"], &content["example"]);
        assert!(faults.is_empty(), "{place}: {faults:#?}");
    }
}

/// The router takes exactly the methods that are described, and answers each only what is described.
#[test]
fn every_call_that_is_described_is_there_and_answers_as_described() {
    let house = House::new("", "allow_sources = []");
    let daemon = house.start(REELD);
    let document = Document::of(&daemon);
    for (path, item) in document.paths() {
        let path = document::filled(path);
        let refused = daemon.request("BREW", &path, b"").expect(405);
        let allowed = refused.header("allow").expect("an Allow header");
        let taken: BTreeSet<String> = allowed.split(", ").map(str::to_lowercase).collect();
        let mut described: BTreeSet<String> = item.as_object().expect("operations").keys().cloned().collect();
        if described.contains("get") && !path.ends_with("/events") {
            described.insert("head".to_owned());
        }
        assert_eq!(taken, described, "{path}");
    }
    for operation in document.operations() {
        let (path, answer) = operation.ask(&daemon);
        assert_ne!(answer.status, 405, "{} {path}", operation.method);
        if answer.status == 404 {
            assert!(!answer.body.contains("nothing is at this path"), "{path}: {}", answer.body);
            assert!(!answer.body.contains("no such call"), "{path}: {}", answer.body);
        }
        document.check(operation.method, &path, &answer);
    }
}

#[test]
fn every_route_of_the_router_is_described() {
    let house = House::new("", "");
    let daemon = house.start(REELD);
    let document = Document::of(&daemon);
    let routes = routes::in_source();
    assert!(routes.len() > 20, "{routes:?}");
    for route in &routes {
        let is_there = document.paths().any(|(path, _)| routes::stands_for(route, path));
        assert!(is_there, "{route} is not in openapi.json; src/api/openapi.rs says where to put it");
    }
    // Whose words are below a common beginning are told by the daemon itself.
    let unknown = daemon.request("POST", "/rest-api/nothing", b"").expect(404);
    let detail = text(&unknown.json(), "error");
    let (_, calls) = detail.split_once("/rest-api has ").expect("a list of calls");
    for call in calls.split(", ") {
        let path = format!("/rest-api/{call}");
        assert!(document.operation("POST", &path).is_some(), "{path} is not in openapi.json");
    }
}

#[test]
fn every_call_of_the_readme_is_described() {
    let house = House::new("", "");
    let daemon = house.start(REELD);
    let document = Document::of(&daemon);
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).expect("README.md");
    let mut calls = 0;
    for line in readme.lines().filter(|line| line.trim_start().starts_with("curl")) {
        let Some((_, rest)) = line.split_once("$B/").or_else(|| line.split_once("127.0.0.1:9091/")) else {
            continue;
        };
        let method =
            line.split_once("-X ").map_or("GET", |(_, rest)| rest.split(' ').next().unwrap_or_default());
        let path = rest.split([' ', '"', '?']).next().unwrap_or_default();
        calls += 1;
        assert!(document.operation(method, &format!("/{path}")).is_some(), "{line}: not in openapi.json");
    }
    assert!(calls > 30, "{calls}");
}

/// A stream from its first frame to the deletion of its recording, by every dialect.
#[test]
fn what_the_daemon_answers_is_what_is_described() {
    let house = House::new("stream_record_policy=streamName\n", "");
    let daemon = house.start(REELD);
    let document = Document::of(&daemon);
    let ask = |method: &str, path: &str, body: &str| document.ask(&daemon, method, path, body);
    let mut socket = WebSocket::open(daemon.http(), "/api/v1/events");

    for path in ["/api/v1/server", "/api/v1/sessions", "/api/v1/recordings", "/recordings", "/readyz"] {
        ask("GET", path, "").expect(200);
    }
    let publisher = Live::start(daemon.publish_options("court", "cam"), &av_source(TMP, 20));
    let id = daemon.session_id("cam");
    daemon.wait_frames(&id, 10);
    let recording = format!("/api/v1/sessions/{id}/recording");
    ask("GET", &format!("/api/v1/sessions/{id}"), "").expect(200);
    ask("GET", "/api/v1/sessions", "").expect(200);
    ask("GET", &recording, "").expect(200);
    ask("DELETE", &recording, "").expect(409);
    ask("POST", &recording, r#"{"rotation": "10X"}"#).expect(400);
    ask("POST", &recording, r#"{"preroll": 100000}"#).expect(400);
    let started = ask("POST", &recording, "").expect(201).json();
    ask("POST", &recording, "{}").expect(409);
    ask("GET", &recording, "").expect(200);
    ask("POST", &format!("{recording}/pause"), "").expect(200);
    ask("POST", &format!("{recording}/pause"), "{}").expect(409);
    ask("POST", &format!("{recording}/resume"), "").expect(200);
    wait_until("it goes on", SOON, || {
        let at = format!("/api/v1/recordings/{}", text(&started, "id"));
        ask("GET", &at, "").expect(200).json()["status"] == "recording"
    });
    ask("POST", &format!("{recording}/split"), "").expect(200);
    ask("POST", "/rest-api/recorder/find_all", "").expect(200);
    ask("POST", "/rest-api/stream/find_all", "").expect(200);
    ask("POST", "/rest-api/stream/find", r#"{"name": "nobody"}"#).expect(404);
    let file = format!("/api/v1/recordings/{}", text(&started, "id"));
    ask("GET", &file, "").expect(200);
    ask("DELETE", &file, "").expect(409);
    ask("POST", &format!("{file}/switch"), &json!({"mediaSessionId": id}).to_string()).expect(409);
    let stopped = ask("DELETE", &recording, "").expect(200).json();
    assert_eq!(stopped["parts"].as_array().map(Vec::len), Some(2), "{stopped:#}");

    // The hook has run and the poster is there: nothing is left out that a recording can have.
    wait_until("hook and poster", SOON, || {
        let parts = ask("GET", &file, "").expect(200).json()["parts"].clone();
        parts.as_array().is_some_and(|p| p.iter().all(|p| !p["hook"].is_null() && !p["poster"].is_null()))
    });
    ask("GET", "/api/v1/recordings?room=court&limit=1", "").expect(200);
    ask("GET", "/api/v1/recordings?limit=0", "").expect(400);
    ask("GET", &format!("{file}/manifest"), "").expect(200);
    ask("GET", &format!("{file}/parts/2/manifest"), "").expect(200);
    ask("GET", &format!("{file}/parts/3/file"), "").expect(404);
    let ranged =
        http::request_with(daemon.http(), "GET", &format!("{file}/file"), &[("Range", "bytes=0-9")], b"");
    assert_eq!(ranged.expect("an answer").status, 206);

    ask("POST", "/recordings/start", r#"{"roomName": "court"}"#).expect(200);
    ask("POST", "/recordings/start", r#"{"roomName": "court"}"#).expect(409);
    ask("POST", "/recordings/stop", r#"{"roomName": "court"}"#).expect(200);
    ask("GET", "/recordings?roomName=court", "").expect(200);
    ask("DELETE", "/recordings/nothing.mp4", "").expect(404);
    sources(&daemon, &document);
    ask("DELETE", &file, "").expect(204);
    ask("GET", &file, "").expect(404);
    ask("DELETE", &format!("/api/v1/sessions/{id}"), "").expect(204);
    // It is ended by the daemon: that it cannot send on is no fault of the test.
    let _ = publisher.stop();
    events(&mut socket, &document);
}

fn sources(daemon: &Daemon, document: &Document) {
    let ask = |method: &str, path: &str, body: &str| document.ask(daemon, method, path, body);
    // Nothing listens there.
    let added = ask("POST", "/api/v1/sources", r#"{"uri": "rtsp://127.0.0.1:9/x", "stream": "a/b"}"#)
        .expect(201)
        .json();
    let source = format!("/api/v1/sources/{}", text(&added, "id"));
    wait_until("it waits", SOON, || ask("GET", &source, "").expect(200).json()["state"] == "waiting");
    ask("GET", "/api/v1/sources", "").expect(200);
    ask("POST", "/rest-api/rtsp/find_all", "").expect(200);
    ask(
        "POST",
        "/rest-api/pull/rtmp/pull",
        r#"{"uri": "rtmp://127.0.0.1:9/live/x", "localStreamName": "x"}"#,
    )
    .expect(200);
    ask("POST", "/rest-api/pull/find_all", "").expect(200);
    ask("DELETE", &source, "").expect(204);
    ask("GET", &source, "").expect(404);
}

/// Every message up to the end of the session.
fn events(socket: &mut WebSocket, document: &Document) {
    let operation = document.operation("GET", "/api/v1/events").expect("it is described");
    let schema = &operation.told["responses"]["101"]["content"]["application/json"]["schema"];
    let checker = Checker::new(&document.0, Of::Answer);
    let (last, mut told) = socket.until(|event| event["type"] == "session.ended");
    told.push(last);
    for event in &told {
        let faults = checker.faults(schema, event);
        assert!(faults.is_empty(), "{faults:#?}\n{event:#}");
    }
    let types: BTreeSet<String> = told.iter().map(|event| text(event, "type")).collect();
    for wanted in [
        "hello",
        "session.started",
        "recording.paused",
        "recording.part",
        "recording.deleted",
        "delivery.done",
    ] {
        assert!(types.contains(wanted), "{wanted} is in {types:?}");
    }
}

#[test]
fn the_page_shows_all_of_it() {
    let house = House::new("", "");
    let daemon = house.start(REELD);
    let document = Document::of(&daemon);
    let browser = Browser::open();
    browser.open_tab(&format!("http://{}/api#op-startRecording", daemon.http()));
    browser.wait("document.body.dataset.state === 'ready'");
    let schemas = document.0["components"]["schemas"].as_object().expect("schemas").len();
    let shown = browser.run("return document.querySelectorAll('details.entry').length;");
    assert_eq!(shown, document.operations().count() + schemas);
    browser.wait("document.querySelector('#op-startRecording .inside') !== null");
    let line = browser.run("return document.querySelector('#op-startRecording .code.line pre').textContent;");
    let line = line.as_str().expect("a line");
    let wanted =
        format!("curl -X POST http://{}/api/v1/sessions/MEDIA_SESSION_ID/recording -d '{{", daemon.http());
    assert!(line.starts_with(&wanted), "{line}");

    browser.run("for (const entry of document.querySelectorAll('details.entry')) entry.open = true;");
    browser.wait(
        "[...document.querySelectorAll('details.entry')].every((entry) => entry.childElementCount === 2)",
    );
    let odd = browser.run("return document.body.innerText.match(/\\[object|undefined|NaN/g);");
    assert_eq!(odd, Value::Null);
    let dead = browser.run(
        "return [...document.querySelectorAll('a[href^=\"#\"]')].filter((a) => !document.querySelector(a.hash)).length;",
    );
    assert_eq!(dead, 0, "links that lead nowhere");
    browser.type_into("#find", "split");
    browser.wait("document.getElementById('found').textContent === '1 found'");
}

#[test]
fn paths_are_told_apart() {
    assert!(fits("/a/{x}/b", "/a/1/b") && !fits("/a/{x}", "/a/1/b") && !fits("/a/b", "/a/c"));
}
