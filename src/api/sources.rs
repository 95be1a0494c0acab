//! `/api/v1/sources`: the streams that are pulled.

use super::{
    Answer, allow,
    body::{body, json, parse},
    openapi::{Operation, Tag, examples},
    problem::{Kind, Problem, quoted},
    to_the_end,
};
use crate::{
    config::Transport,
    control::{Control, NewSource, Page, Source, SourceId},
};
use bytes::Bytes;
use serde::Deserialize;
use warp::{
    Filter, Rejection,
    http::{Method, StatusCode},
    reply::Reply,
};

pub(super) fn routes(
    control: Control,
) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static {
    let with_control = warp::any().map(move || control.clone());
    let sources = warp::path!("api" / "v1" / "sources")
        .and(warp::method())
        .and(body())
        .and(with_control.clone())
        .then(sources);
    let source =
        warp::path!("api" / "v1" / "sources" / String).and(warp::method()).and(with_control).then(source);
    sources.or(source).unify()
}

async fn sources(method: Method, body: Result<Bytes, Problem>, control: Control) -> Answer {
    allow(&method, "GET, HEAD, POST")?;
    if method != Method::POST {
        return json(&Page { items: control.sources(), next_cursor: None });
    }
    let new = parse::<SourceBody>(&body?)?.into_new()?;
    let added = to_the_end(async move { control.add_source(new).await }).await?;
    let location = format!("/api/v1/sources/{}", added.id);
    let created = warp::reply::with_status(json(&added)?, StatusCode::CREATED);
    Ok(warp::reply::with_header(created, "location", location).into_response())
}

/// DELETE answers when the source is gone.
async fn source(id: String, method: Method, control: Control) -> Answer {
    allow(&method, "GET, HEAD, DELETE")?;
    let Some(id) = SourceId::parse(&id) else {
        let detail = format!("{} is no source id (a UUID); GET /api/v1/sources lists them", quoted(&id));
        return Err(Problem::new(Kind::UnknownSource, detail));
    };
    if method == Method::DELETE {
        to_the_end(async move { control.remove_source(id).await }).await?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    json(&control.source(id)?)
}

pub(super) fn operations() -> Vec<Operation> {
    let (sources, source) = ("/api/v1/sources", "/api/v1/sources/{sourceId}");
    vec![
        Operation::get(Tag::Sources, sources, "listSources", "List the sources, oldest first")
            .answers_page::<Source>("Every source, on one page")
            .example(examples::page(examples::source())),
        Operation::post(Tag::Sources, sources, "addSource", "Pull a stream")
            .about("Answers before it is connected. It is tried again for ever, until it is removed or the daemon ends.")
            .body::<SourceBody>(serde_json::json!({"uri": "rtsp://camera.lan/1", "stream": "court/cam", "record": true}))
            .answers::<Source>(201, "The source")
            .example(examples::source())
            .header("Location", "Path of the source")
            .problems(&[
                Kind::BadSource,
                Kind::NotSupported,
                Kind::SourceNotAllowed,
                Kind::SourceTaken,
                Kind::TooManySources,
                Kind::ShuttingDown,
                Kind::Failed,
            ]),
        Operation::get(Tag::Sources, source, "getSource", "One source")
            .answers::<Source>(200, "The source as it is now")
            .example(examples::source())
            .problems(&[Kind::UnknownSource]),
        Operation::delete(Tag::Sources, source, "removeSource", "Stop pulling a stream")
            .about("Ends its session and the recording of it, then answers.")
            .answers_nothing(204, "It is gone")
            .problems(&[Kind::UnknownSource, Kind::Failed]),
    ]
}

/// Body of `POST /sources`.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = NewSource)]
struct SourceBody {
    /// `rtsp://`, `rtmp://` or `rtmps://`, with user and password if the source wants them.
    #[schema(required, nullable = false)]
    uri: Option<String>,
    /// `ROOM/STREAM` or `STREAM`; made of the URI when it is not given.
    stream: Option<String>,
    transport: Option<Transport>,
    /// Record it whatever the policy says.
    record: Option<bool>,
}

impl SourceBody {
    fn into_new(self) -> Result<NewSource, Problem> {
        let uri = self.uri.ok_or_else(|| {
            Problem::new(Kind::BadBody, "the body has no `uri`; write {\"uri\": \"rtsp://HOST/PATH\"}")
        })?;
        Ok(NewSource {
            uri,
            stream: self.stream,
            transport: self.transport.unwrap_or_default(),
            record: self.record.unwrap_or(false),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_asked_for_by_its_uri() {
        let new = |body: &str| parse::<SourceBody>(body.as_bytes()).and_then(SourceBody::into_new);
        let full = new(r#"{"uri": "rtsp://h/x", "stream": "a/b", "transport": "auto", "record": true}"#);
        let full = full.expect("a source");
        assert_eq!(
            (full.stream.as_deref(), full.transport, full.record),
            (Some("a/b"), Transport::Auto, true)
        );
        let least = new(r#"{"uri": "rtsp://h/x"}"#).expect("a source");
        assert_eq!((least.stream, least.transport, least.record), (None, Transport::Tcp, false));
        for (body, want) in [
            ("", "no `uri`"),
            (r#"{"uri": "rtsp://h/x", "transport": "quic"}"#, "`auto`, `tcp`, `udp`"),
            (r#"{"uri": "rtsp://h/x", "streem": "a"}"#, "unknown field `streem`"),
        ] {
            let problem = new(body).err().expect("refused");
            assert_eq!(problem.kind(), Kind::BadBody);
            assert!(problem.detail().contains(want), "{}", problem.detail());
        }
    }
}
