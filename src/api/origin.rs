//! Which pages a browser may act for (RFC 6454, Fetch §3.1: it tells the page in `Origin`). Programs send no `Origin` and
//! are not asked.
//!
//! A page of another site can send a POST with a body of type `text/plain` without asking first (a "simple request" of
//! Fetch), and any browser that reaches the daemon would do it: start, stop, pull from a host. So what changes something
//! is refused to pages of other hosts, in this one place. WHIP is meant for them and is left out; it says so itself.
//!
//! Only `Host` is compared with: a page whose name was made to resolve to this machine (DNS rebinding) is not told apart,
//! as no key names the hosts that are ours yet.

use super::{
    Answer,
    problem::{Kind, Problem, quoted},
};
use url::Url;
use warp::{
    Filter, Rejection,
    filters::path::FullPath,
    http::{HeaderMap, Method, header},
};

/// First segments of paths that pages of any origin may call.
const OPEN: [&str; 2] = ["whip", "whip-session"];

/// Answers requests that a page of another host makes to change something; rejects, which lets the next route have
/// them, all others.
pub(super) fn refused() -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static
{
    warp::path::full().and(warp::method()).and(warp::header::headers_cloned()).and_then(
        async |path: FullPath, method: Method, headers: HeaderMap| {
            let problem = is_guarded(path.as_str(), &method).then(|| check(&headers).err()).flatten();
            problem.map(Answer::Err).ok_or_else(warp::reject::not_found)
        },
    )
}

fn is_guarded(path: &str, method: &Method) -> bool {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    !method.is_safe() && !OPEN.contains(&first)
}

/// Err when a browser asks for a page of another host. A request without `Origin` passes.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Problem> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let foreign = headers
        .get_all(header::ORIGIN)
        .iter()
        .map(|origin| origin.to_str().unwrap_or("unreadable"))
        .find(|origin| !is_of_host(origin, host));
    let Some(origin) = foreign else { return Ok(()) };
    let detail = format!(
        "a page of {} may not use {}; a proxy in between has to hand on the Host header",
        quoted(origin),
        quoted(host)
    );
    Err(Problem::new(Kind::OriginNotAllowed, detail))
}

fn is_of_host(origin: &str, host: &str) -> bool {
    let Ok(origin) = Url::parse(origin) else { return false };
    let Ok(own) = Url::parse(&format!("{}://{host}", origin.scheme())) else { return false };
    matches!(origin.scheme(), "http" | "https")
        && origin.host() == own.host()
        && origin.port_or_known_default() == own.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use warp::http::HeaderValue;

    fn headers(host: &str, origins: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).expect("a host"));
        for origin in origins {
            headers.append(header::ORIGIN, HeaderValue::from_str(origin).expect("an origin"));
        }
        headers
    }

    #[test]
    fn a_page_is_of_this_host_by_name_and_port() {
        for (host, origins, passes) in [
            ("127.0.0.1:9091", &[][..], true),
            ("127.0.0.1:9091", &["http://127.0.0.1:9091"], true),
            ("reeld.lan", &["https://reeld.lan"], true),
            ("REELD.lan", &["http://reeld.lan:80"], true),
            ("[::1]:9091", &["http://[::1]:9091"], true),
            ("127.0.0.1:9091", &["http://127.0.0.1"], false),
            ("127.0.0.1:9091", &["http://localhost:9091"], false),
            ("127.0.0.1:9091", &["http://127.0.0.1:9091", "http://elsewhere.example"], false),
            ("127.0.0.1:9091", &["http://elsewhere.example:9091"], false),
            ("127.0.0.1:9091", &["null"], false),
            ("127.0.0.1:9091", &["file://"], false),
            ("", &["http://127.0.0.1:9091"], false),
        ] {
            assert_eq!(check(&headers(host, origins)).is_ok(), passes, "{host} {origins:?}");
        }
    }

    #[test]
    fn what_changes_something_is_guarded_but_for_whip() {
        for (method, path, guarded) in [
            (Method::POST, "/api/v1/sources", true),
            (Method::DELETE, "/recordings/x", true),
            (Method::POST, "/rest-api/stream/terminate", true),
            (Method::PUT, "/", true),
            (Method::POST, "/whipped/x", true),
            (Method::POST, "/whip/court/cam", false),
            (Method::DELETE, "/whip-session/x", false),
            (Method::GET, "/api/v1/sessions", false),
            (Method::OPTIONS, "/api/v1/sessions", false),
        ] {
            assert_eq!(is_guarded(path, &method), guarded, "{method} {path}");
        }
    }

    #[test]
    fn an_origin_is_compared_as_browsers_write_it() {
        for (origin, host, same) in [
            ("http://127.0.0.1:9091", "127.0.0.1:9091", true),
            ("http://Box.lan", "box.lan", true),
            ("http://box.lan", "box.lan:80", true),
            ("https://box.lan", "box.lan", true),
            ("https://box.lan", "box.lan:443", true),
            ("http://[::1]:9091", "[::1]:9091", true),
            ("https://box.lan", "box.lan:80", false),
            ("http://box.lan:9091", "box.lan", false),
            ("http://box.lan.evil.example", "box.lan", false),
            ("http://evil.example", "", false),
            ("file://", "box.lan", false),
            ("null", "box.lan", false),
            ("", "box.lan", false),
        ] {
            assert_eq!(is_of_host(origin, host), same, "{origin:?} at {host:?}");
        }
    }
}
