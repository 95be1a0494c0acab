//! WHIP (RFC 9725): `/whip/ROOM/STREAM` takes offers, `/whip-session/ID` is a session. Pages of any origin may use them.

use super::{
    Answer, allow,
    body::body,
    problem::{Kind, Problem, quoted},
    server::Peer,
};
use crate::control::whip::{Accepted, Patched, PublishRequest, Whip, WhipError};
use bytes::Bytes;
use std::{convert::Infallible, sync::Arc};
use warp::{
    Filter, Rejection,
    filters::path::Tail,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    path::FullPath,
    reply::{Reply, Response},
};

const ENDPOINT: &str = "OPTIONS, POST";
const SESSION: &str = "DELETE, OPTIONS, PATCH";
const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

pub(super) fn routes(
    whip: Arc<Whip>,
) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static {
    let with_whip = warp::any().map(move || whip.clone());
    let request = warp::path::full().and(warp::method()).and(warp::header::headers_cloned());
    let endpoint = warp::path("whip")
        .and(warp::path::tail())
        .and(request)
        .and(query())
        .and(warp::ext::optional::<Peer>())
        .and(body())
        .and(with_whip.clone())
        .then(endpoint);
    let session = warp::path!("whip-session" / String).and(request).and(body()).and(with_whip).then(session);
    endpoint.or(session).unify()
}

fn query() -> impl Filter<Extract = (String,), Error = Infallible> + Clone {
    warp::query::raw().or(warp::any().map(String::new)).unify()
}

#[expect(clippy::too_many_arguments, reason = "what the filters above extract, one by one")]
async fn endpoint(
    tail: Tail,
    path: FullPath,
    method: Method,
    headers: HeaderMap,
    query: String,
    peer: Option<Peer>,
    body: Result<Bytes, Problem>,
    whip: Arc<Whip>,
) -> Answer {
    let answer = async {
        allow(&method, ENDPOINT)?;
        if method == Method::OPTIONS {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        // Nothing has no type: that it is missing is told instead, by who reads the offer.
        if !body.as_ref().is_ok_and(Bytes::is_empty) {
            check_types(&headers, SDP)?;
        }
        let peer = peer.ok_or_else(|| Problem::new(Kind::Failed, "the connection has no address"))?;
        let request = PublishRequest {
            path: decoded(tail.as_str()),
            record: wants_record(&query),
            remote: peer.remote,
            local: peer.local,
            offer: body?.to_vec(),
        };
        let server = whip.clone();
        let accepted = to_the_end(async move { server.publish(request).await }).await?;
        created(&accepted, whip.ice_servers())
    };
    Ok(shared(answer.await, &path, ENDPOINT, ("accept-post", SDP)))
}

async fn session(
    id: String,
    path: FullPath,
    method: Method,
    headers: HeaderMap,
    body: Result<Bytes, Problem>,
    whip: Arc<Whip>,
) -> Answer {
    let answer = async {
        allow(&method, SESSION)?;
        match method {
            Method::OPTIONS => Ok(StatusCode::NO_CONTENT.into_response()),
            Method::DELETE => {
                to_the_end(async move { whip.delete(&id).await }).await?;
                Ok(StatusCode::OK.into_response())
            }
            _ => {
                check_types(&headers, FRAGMENT)?;
                let if_match =
                    headers.get(header::IF_MATCH).map(|v| v.to_str().unwrap_or_default().to_owned());
                let body = body?;
                match to_the_end(async move { whip.patch(&id, if_match.as_deref(), &body).await }).await? {
                    Patched::Trickled => Ok(StatusCode::NO_CONTENT.into_response()),
                    Patched::Restarted { fragment, etag } => restarted(fragment, &etag),
                }
            }
        }
    };
    Ok(shared(answer.await, &path, SESSION, ("accept-patch", FRAGMENT)))
}

/// Runs a verb to its end even when the client goes away and its request is dropped.
async fn to_the_end<T: Send + 'static>(
    verb: impl Future<Output = Result<T, WhipError>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(verb).await {
        Ok(result) => result.map_err(Problem::from),
        Err(error) => {
            tracing::error!(%error, "a WHIP request did not come to its end");
            Err(Problem::new(
                Kind::Failed,
                "the daemon broke off this call by a fault of its own; see its log",
            ))
        }
    }
}

fn created(accepted: &Accepted, ice_servers: &[String]) -> Answer {
    let mut response = accepted.answer.clone().into_response();
    *response.status_mut() = StatusCode::CREATED;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(SDP));
    headers.insert(header::LOCATION, value(&format!("/whip-session/{}", accepted.id))?);
    headers.insert(header::ETAG, value(&accepted.etag)?);
    for server in ice_servers {
        headers.append(header::LINK, value(server)?);
    }
    Ok(response)
}

fn restarted(fragment: String, etag: &str) -> Answer {
    let mut response = fragment.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(FRAGMENT));
    headers.insert(header::ETAG, value(etag)?);
    Ok(response)
}

fn value(text: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(text)
        .map_err(|_| Problem::new(Kind::Failed, "a header of the answer cannot be written"))
}

/// Every answer here, errors too, may be read by pages of other origins (Fetch §3.2, RFC 9725 §4.7).
fn shared(
    answer: Answer,
    path: &FullPath,
    methods: &'static str,
    accept: (&'static str, &'static str),
) -> Response {
    let mut response = answer.unwrap_or_else(|problem| problem.into_response(path.as_str()));
    let headers = response.headers_mut();
    for (name, value) in [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", methods),
        ("access-control-allow-headers", "Authorization, Content-Type, If-Match"),
        ("access-control-expose-headers", "ETag, Link, Location, Accept-Patch, Accept-Post, Retry-After"),
        ("access-control-max-age", "86400"),
        accept,
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The body has to be of type `wanted`, and `Accept`, where given, has to allow SDP.
fn check_types(headers: &HeaderMap, wanted: &'static str) -> Result<(), Problem> {
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let bare = |text: &str| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !headers.contains_key(header::CONTENT_TYPE) {
        let detail = format!("the Content-Type header is missing; send Content-Type: {wanted}");
        return Err(Problem::new(Kind::WrongType, detail));
    }
    let given = text(header::CONTENT_TYPE).map(bare).unwrap_or_default();
    if given != wanted {
        let detail = format!("the body is {}; send Content-Type: {wanted}", quoted(&given));
        return Err(Problem::new(Kind::WrongType, detail));
    }
    let Some(accept) = text(header::ACCEPT) else { return Ok(()) };
    let taken = |range: &str| [wanted, "application/*", "*/*", ""].contains(&bare(range).as_str());
    match accept.split(',').any(taken) {
        true => Ok(()),
        false => {
            let detail = format!("the answer is {wanted}, which Accept: {} does not take", quoted(accept));
            Err(Problem::new(Kind::NotAcceptable, detail))
        }
    }
}

/// Percent-decoded path; what is not UTF-8 then becomes U+FFFD.
pub(super) fn decoded(path: &str) -> String {
    let form = format!("p={}", path.replace('+', "%2B").replace('&', "%26"));
    form_urlencoded::parse(form.as_bytes()).next().map(|(_, path)| path.into_owned()).unwrap_or_default()
}

/// `record=true` or `record=1`; other parameters are the client's own affair.
fn wants_record(query: &str) -> bool {
    form_urlencoded::parse(query.as_bytes())
        .any(|(key, value)| key == "record" && (value.eq_ignore_ascii_case("true") || value == "1"))
}

impl From<WhipError> for Problem {
    fn from(error: WhipError) -> Self {
        let kind = match error {
            WhipError::BadOffer(_) => Kind::BadSdp,
            WhipError::Fragment(_) | WhipError::TooManyCandidates => Kind::BadFragment,
            WhipError::Unusable(_) => Kind::UnusableOffer,
            WhipError::NoRestart => Kind::NoIceRestart,
            WhipError::Name(_) => Kind::BadName,
            WhipError::NameTaken(_) => Kind::NameTaken,
            WhipError::TooManyStreams(_) => Kind::TooMany,
            WhipError::Busy(_) | WhipError::NoPort(_) => Kind::Busy,
            WhipError::ShuttingDown => Kind::ShuttingDown,
            WhipError::UnknownSession => Kind::UnknownSession,
            WhipError::IfMatchMissing => Kind::IfMatchMissing,
            WhipError::IfMatchWrong(_) => Kind::IfMatchWrong,
            WhipError::Failed(_) => Kind::Failed,
        };
        Problem::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_decoded() {
        for (path, want) in
            [("court/cam", "court/cam"), ("a%20b/c+d&e=f", "a b/c+d&e=f"), ("%C3%BC", "ü"), ("", "")]
        {
            assert_eq!(decoded(path), want, "{path}");
        }
        for (query, want) in
            [("record=true", true), ("x=y&record=1", true), ("record=false", false), ("", false)]
        {
            assert_eq!(wants_record(query), want, "{query}");
        }
    }

    #[test]
    fn types_are_checked_both_ways() {
        let check = |content: &str, accept: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, content.parse().expect("a header"));
            accept.map(|a| headers.insert(header::ACCEPT, a.parse().expect("a header")));
            check_types(&headers, SDP).map_err(|p| p.kind())
        };
        assert_eq!(check("application/sdp", None), Ok(()));
        assert_eq!(check("Application/SDP; charset=utf-8", Some("text/html, */*;q=0.1")), Ok(()));
        assert_eq!(check("application/sdp", Some("application/sdp")), Ok(()));
        assert_eq!(check("application/json", None), Err(Kind::WrongType));
        assert_eq!(check("application/sdp", Some("text/html")), Err(Kind::NotAcceptable));
    }

    #[test]
    fn every_error_has_its_status() {
        let table = [
            (WhipError::BadOffer("x".into()), 400),
            (WhipError::TooManyCandidates, 400),
            (WhipError::Unusable("x".into()), 422),
            (WhipError::NoRestart, 422),
            (WhipError::Busy(3), 503),
            (WhipError::NoPort(31_000..=31_001), 503),
            (WhipError::ShuttingDown, 503),
            (WhipError::UnknownSession, 404),
            (WhipError::IfMatchMissing, 428),
            (WhipError::IfMatchWrong("\"x\"".into()), 412),
            (WhipError::Failed("x".into()), 500),
        ];
        for (error, status) in table {
            let text = error.to_string();
            let response = Problem::from(error).into_response("/whip/x");
            assert_eq!(response.status().as_u16(), status, "{text}");
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), status == 503, "{text}");
        }
    }
}
