//! The web pages as a browser meets them: every asset is there, typed, cached by ETag and kept to this origin.

use std::collections::BTreeSet;
use support::{
    daemon::{Daemon, House},
    http::{self, Answer},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const PAGES: [&str; 3] = ["/", "/publish", "/api"];

fn get(daemon: &Daemon, path: &str, headers: &[(&str, &str)]) -> Answer {
    http::request_with(daemon.http(), "GET", path, headers, b"").unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What stands between `before` and the next quote, of each place.
fn quoted_after<'a>(text: &'a str, before: &str) -> impl Iterator<Item = &'a str> {
    text.split(before).skip(1).filter_map(|rest| rest.split('"').next())
}

/// Addresses on this server that a page, a script or a style sheet names to be loaded.
fn named(path: &str, body: &str) -> BTreeSet<String> {
    let scripts = quoted_after(body, " from \"./").map(|name| format!("/web/{name}"));
    let (sources, links) = (quoted_after(body, "src=\""), quoted_after(body, "href=\""));
    let marked = sources.chain(links).filter(|link| link.starts_with('/')).map(str::to_owned);
    if path.ends_with(".js") { scripts.collect() } else { marked.collect() }
}

#[test]
fn every_asset_that_a_page_leads_to_is_served() {
    let house = House::new("", "");
    let daemon = house.start(REELD);
    let mut open: BTreeSet<String> = PAGES.map(str::to_owned).into();
    let mut seen = BTreeSet::new();
    while let Some(path) = open.pop_first() {
        let answer = get(&daemon, &path, &[]).expect(200);
        let content_type = match path.rsplit_once('.') {
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "svg")) => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(answer.header("content-type"), Some(content_type), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(!answer.body.is_empty(), "{path}");
        // The name space of SVG is a name, nothing is loaded from it.
        let outside = answer.body.replace("http://www.w3.org/2000/svg", "");
        let loads = ["src=\"http", "href=\"http", "url(http", "@import", "src=\"//", "href=\"//"];
        assert!(loads.iter().all(|load| !outside.contains(load)), "{path} loads from elsewhere");
        let more = named(&path, &answer.body);
        seen.insert(path);
        open.extend(more.into_iter().filter(|path| !seen.contains(path)));
    }
    for path in ["/web/base.css", "/web/feed.js", "/web/whip.js", "/web/icon.svg"] {
        assert!(seen.contains(path), "{path} is in {seen:?}");
    }
}

#[test]
fn pages_are_held_to_this_origin() {
    let house = House::new("", "");
    let daemon = house.start(REELD);
    for path in PAGES {
        let answer = get(&daemon, path, &[]).expect(200);
        let policy = answer.header("content-security-policy").expect("a policy");
        let directives: BTreeSet<&str> = policy.split(';').map(str::trim).collect();
        for directive in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(directives.contains(directive), "{path}: {policy} lacks {directive}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{policy}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        // What the policy would block is not there.
        for inline in ["<script>", "<style", " style=", " onclick=", "javascript:"] {
            assert!(!answer.body.contains(inline), "{path} has {inline}");
        }
    }
}

#[test]
fn a_browser_that_has_an_asset_is_told_so() {
    let house = House::new("", "");
    let daemon = house.start(REELD);
    for path in ["/", "/publish", "/web/base.css"] {
        let first = get(&daemon, path, &[]).expect(200);
        let etag = first.header("etag").expect("an ETag").to_owned();
        assert_eq!(first.header("cache-control"), Some("no-cache"), "{path}");
        let again = get(&daemon, path, &[("If-None-Match", &etag)]).expect(304);
        assert_eq!((again.header("etag"), again.body.as_str()), (Some(etag.as_str()), ""), "{path}");
        assert_eq!(again.header("cache-control"), Some("no-cache"), "{path}");
        get(&daemon, path, &[("If-None-Match", "\"0\"")]).expect(200);
        let head = daemon.request("HEAD", path, b"").expect(200);
        assert_eq!(head.header("content-length"), Some(first.body.len().to_string().as_str()), "{path}");
        assert_eq!((head.header("etag"), head.body.as_str()), (Some(etag.as_str()), ""), "{path}");
    }
    // Answers of the API are not kept, as before.
    assert_eq!(get(&daemon, "/api/v1/server", &[]).header("cache-control"), Some("no-store"));
}

#[test]
fn what_is_not_there_and_what_is_not_read_are_problems() {
    let house = House::new("", "");
    let daemon = house.start(REELD);
    for path in [
        "/web",
        "/web/",
        "/web/nothing.js",
        "/web/index.html",
        "/web/base.css/",
        "/web/../reeld.toml",
        "/web/%2e%2e/reeld.toml",
        "/index.html",
        "/publish/x",
        "/favicon.ico",
    ] {
        let answer = get(&daemon, path, &[]).expect(404);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path}");
        assert_eq!(answer.json()["type"], "/problems/not-found", "{path}");
    }
    for path in ["/", "/publish", "/web/base.css"] {
        let answer = daemon.post(path, &serde_json::json!({})).expect(405);
        assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{path}");
    }
}

#[test]
fn pages_of_other_sites_change_nothing() {
    let house = House::new("", "");
    let daemon = house.start(REELD);
    let call = |method: &str, path: &str, origin: Option<&str>| {
        let origin = origin.map(|origin| ("Origin", origin));
        let headers: Vec<_> = [("Content-Type", "text/plain")].into_iter().chain(origin).collect();
        let body = b"{\"uri\": \"rtsp://127.0.0.1:9/cam\", \"toStream\": \"cam\", \"roomName\": \"court\"}";
        http::request_with(daemon.http(), method, path, &headers, body)
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    };
    let own = format!("http://{}", daemon.http());
    let id = "00000000-0000-4000-8000-000000000000";
    for (method, path) in [
        ("POST", format!("/api/v1/sessions/{id}/recording")),
        ("DELETE", format!("/api/v1/sessions/{id}")),
        ("DELETE", format!("/api/v1/recordings/{id}")),
        ("POST", "/api/v1/sources".into()),
        ("POST", "/recordings/start".into()),
        ("DELETE", "/recordings/cam.mp4".into()),
        ("POST", "/rest-api/stream/find_all".into()),
        ("POST", "/rest-api/rtsp/startup".into()),
        ("PUT", "/no/such/path".into()),
    ] {
        for foreign in ["http://elsewhere.example", "null", "http://127.0.0.1:1"] {
            let answer = call(method, &path, Some(foreign)).expect(403);
            assert_eq!(answer.json()["type"], "/problems/origin-not-allowed", "{method} {path} {foreign}");
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
        assert_eq!(
            daemon.get("/api/v1/sources")["items"].as_array().map(Vec::len),
            Some(0),
            "{method} {path}"
        );
    }
    // Programs say no origin; our own pages say ours; WHIP is for all.
    for (path, status) in [("/recordings/start", 404), ("/rest-api/stream/find_all", 404), ("/whip/cam", 415)]
    {
        assert_eq!(call("POST", path, None).status, status, "{path}");
        assert_eq!(call("POST", path, Some(&own)).status, status, "{path}");
    }
    let whip = call("POST", "/whip/cam", Some("http://elsewhere.example")).expect(415);
    assert_eq!(whip.header("access-control-allow-origin"), Some("*"));
    call("GET", "/api/v1/server", Some("http://elsewhere.example")).expect(200);
}
