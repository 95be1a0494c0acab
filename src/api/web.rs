//! The web pages `/`, `/publish` and `/api` and what they load from `/web/…`, all out of the binary.
//!
//! The pages load nothing from elsewhere and run no inline script or style, which their `Content-Security-Policy` holds
//! browsers to. Assets have one address over all versions: a browser asks each time, and is told 304 by `ETag`.

use super::{Answer, allow, problem::Problem};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;
use warp::{
    Filter, Rejection,
    filters::path::Tail,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    reply::{Reply, Response},
};

const READ: &str = "GET, HEAD";
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// `'self'` in `connect-src` covers the event socket too (CSP3 §6.7.2.8: ws matches http). `style-src` without
/// `unsafe-inline` leaves styles to be set through the CSSOM, which the policy does not touch.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
    trusted-types 'none'";

/// What the pages may ask the browser for: what `/publish` captures, and nothing else.
const PERMISSIONS: &str = "camera=(self), microphone=(self), display-capture=(self), fullscreen=(self), \
    autoplay=(self), picture-in-picture=(self), geolocation=(), payment=(), usb=(), serial=(), hid=(), midi=()";

struct Asset {
    /// Below `/web/`; a page is not there.
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
    /// Quoted, of the content.
    etag: String,
}

impl Asset {
    fn new(name: &'static str, content_type: &'static str, bytes: &'static [u8]) -> Self {
        let etag = format!("\"{}\"", hex::encode(&Sha256::digest(bytes)[..16]));
        Self { name, content_type, bytes, etag }
    }
}

macro_rules! assets {
    ($($name:literal: $content_type:expr,)*) => {
        [$(Asset::new($name, $content_type, include_bytes!(concat!("web/", $name)))),*]
    };
}

static PAGES: LazyLock<[Asset; 3]> = LazyLock::new(|| {
    assets! {
        "index.html": HTML,
        "publish.html": HTML,
        "api-docs.html": HTML,
    }
});

static ASSETS: LazyLock<[Asset; 21]> = LazyLock::new(|| {
    assets! {
        "base.css": CSS,
        "library.css": CSS,
        "publish.css": CSS,
        "api-docs.css": CSS,
        "icon.svg": SVG,
        "api.js": JS,
        "api-docs.js": JS,
        "api-schema.js": JS,
        "capture.js": JS,
        "card.js": JS,
        "clock.js": JS,
        "dom.js": JS,
        "feed.js": JS,
        "format.js": JS,
        "library.js": JS,
        "live.js": JS,
        "player.js": JS,
        "publish.js": JS,
        "recordings.js": JS,
        "store.js": JS,
        "whip.js": JS,
    }
});

pub(super) fn routes() -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static
{
    let request = warp::method().and(warp::header::headers_cloned());
    let [library, publish, api] = &*PAGES;
    let index = warp::path::end().and(request).map(|method, headers| send(library, &method, &headers));
    let publish = warp::path!("publish").and(request).map(|method, headers| send(publish, &method, &headers));
    let api = warp::path!("api").and(request).map(|method, headers| send(api, &method, &headers));
    let assets = warp::path("web").and(warp::path::tail()).and(request).map(asset);
    index.or(publish).unify().or(api).unify().or(assets).unify()
}

fn asset(name: Tail, method: Method, headers: HeaderMap) -> Answer {
    let asset = ASSETS.iter().find(|asset| asset.name == name.as_str());
    send(asset.ok_or_else(Problem::unknown_path)?, &method, &headers)
}

fn send(asset: &'static Asset, method: &Method, headers: &HeaderMap) -> Answer {
    allow(method, READ)?;
    let mut response = match is_known(headers, &asset.etag) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Response::new(asset.bytes.into()),
    };
    let etag = HeaderValue::from_str(&asset.etag).expect("hex in quotes is a header's value");
    let answered = response.headers_mut();
    answered.insert(header::ETAG, etag);
    for (name, value) in [
        (header::CONTENT_TYPE, asset.content_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("permissions-policy"), PERMISSIONS),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        answered.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Whether `If-None-Match` names `etag`, by weak comparison (RFC 9110 §13.1.2).
fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let lists = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs, path::Path};

    fn is_known_by(values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::IF_NONE_MATCH, value.parse().expect("a header"));
        }
        is_known(&headers, "\"a\"")
    }

    #[test]
    fn a_tag_is_known_by_weak_comparison() {
        for yes in [&["\"a\""][..], &["*"], &["W/\"a\""], &["\"b\", \"a\""], &["\"b\"", "W/\"c\" ,\"a\""]] {
            assert!(is_known_by(yes), "{yes:?}");
        }
        for no in [&[][..], &["a"], &["\"b\""], &["\"ab\""], &["w/\"a\""]] {
            assert!(!is_known_by(no), "{no:?}");
        }
    }

    /// A file that is forgotten in the list would be missing only once a browser asks for it.
    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/web");
        let entries = fs::read_dir(folder).expect("the folder");
        let files: BTreeSet<_> =
            entries.map(|e| e.expect("an entry").file_name().into_string().expect("a name")).collect();
        let served: BTreeSet<_> =
            PAGES.iter().chain(ASSETS.iter()).map(|asset| asset.name.to_owned()).collect();
        assert_eq!(files, served);
    }
}
