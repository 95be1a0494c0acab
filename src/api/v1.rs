//! `/api/v1`: sessions, recordings and the server, in our own words. Errors are problem+json.

use super::{
    Answer, allow,
    body::{body, json, parse},
    problem::{Kind, Problem, quoted},
    query, to_the_end,
};
use crate::{
    control::{Control, Page, RecordingId, StartOptions, WhenRunning},
    media::MediaSessionId,
};
use bytes::Bytes;
use serde::Deserialize;
use std::convert::Infallible;
use warp::{
    Filter, Rejection,
    http::{Method, StatusCode},
    reply::Reply,
};

/// The methods of a resource that is only read; HEAD is GET whose body the HTTP layer leaves out.
const READ: &str = "GET, HEAD";

pub(super) fn routes(
    control: Control,
) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static {
    let with_control = with(control);
    let server = warp::path!("server").and(warp::method()).and(with_control.clone()).map(server);
    let sessions = warp::path!("sessions").and(warp::method()).and(with_control.clone()).map(sessions);
    let session = warp::path!("sessions" / String).and(warp::method()).and(with_control.clone()).map(session);
    let session_recording = warp::path!("sessions" / String / "recording")
        .and(warp::method())
        .and(body())
        .and(with_control.clone())
        .then(session_recording);
    let recordings = warp::path!("recordings")
        .and(warp::method())
        .and(warp::query::<Vec<(String, String)>>())
        .and(with_control.clone())
        .then(recordings);
    let recording = warp::path!("recordings" / String).and(warp::method()).and(with_control).then(recording);

    let resources = server
        .or(sessions)
        .unify()
        .or(session)
        .unify()
        .or(session_recording)
        .unify()
        .or(recordings)
        .unify()
        .or(recording)
        .unify();
    warp::path("api").and(warp::path("v1")).and(resources)
}

fn with(control: Control) -> impl Filter<Extract = (Control,), Error = Infallible> + Clone {
    warp::any().map(move || control.clone())
}

fn server(method: Method, control: Control) -> Answer {
    allow(&method, READ)?;
    json(&control.server())
}

fn sessions(method: Method, control: Control) -> Answer {
    allow(&method, READ)?;
    json(&Page { items: control.sessions(), next_cursor: None })
}

fn session(id: String, method: Method, control: Control) -> Answer {
    allow(&method, "GET, HEAD, DELETE")?;
    let id = session_id(&id)?;
    if method == Method::DELETE {
        control.end_session(id)?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    json(&control.session(id)?)
}

async fn session_recording(
    id: String,
    method: Method,
    body: Result<Bytes, Problem>,
    control: Control,
) -> Answer {
    allow(&method, "GET, HEAD, POST, DELETE")?;
    let id = session_id(&id)?;
    match method {
        Method::POST => start(id, &body?, control).await,
        Method::DELETE => json(&to_the_end(async move { control.stop_recording(id).await }).await?),
        _ => json(&control.recording_state(id)?),
    }
}

async fn start(id: MediaSessionId, body: &[u8], control: Control) -> Answer {
    let options = parse::<StartBody>(body)?.into_options()?;
    let started =
        to_the_end(async move { control.start_recording(id, options, WhenRunning::Refuse).await }).await?;
    let location = format!("/api/v1/recordings/{}", started.id);
    let created = warp::reply::with_status(json(&started)?, StatusCode::CREATED);
    Ok(warp::reply::with_header(created, "location", location).into_response())
}

async fn recordings(method: Method, pairs: Vec<(String, String)>, control: Control) -> Answer {
    allow(&method, READ)?;
    json(&control.recordings(query::recordings(&pairs)?).await?)
}

async fn recording(id: String, method: Method, control: Control) -> Answer {
    allow(&method, READ)?;
    let Some(id) = RecordingId::parse(&id) else {
        let detail =
            format!("{} is no recording id (a UUID); GET /api/v1/recordings lists them", quoted(&id));
        return Err(Problem::new(Kind::UnknownRecording, detail));
    };
    json(&control.recording(id).await?)
}

fn session_id(text: &str) -> Result<MediaSessionId, Problem> {
    MediaSessionId::parse(text).ok_or_else(|| {
        let detail =
            format!("{} is no mediaSessionId (a UUID); GET /api/v1/sessions lists them", quoted(text));
        Problem::new(Kind::UnknownSession, detail)
    })
}

/// Body of `POST /sessions/{id}/recording`. The options that this version has not are known by name, to be refused
/// by name: a recording made without them would not be the one asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StartBody {
    file_template: Option<String>,
    rotation: Option<serde_json::Value>,
    preroll: Option<serde_json::Value>,
    upload_url: Option<serde_json::Value>,
    webhook_url: Option<serde_json::Value>,
}

impl StartBody {
    fn into_options(self) -> Result<StartOptions, Problem> {
        let later = [
            ("rotation", &self.rotation),
            ("preroll", &self.preroll),
            ("uploadUrl", &self.upload_url),
            ("webhookUrl", &self.webhook_url),
        ];
        match later.into_iter().find(|(_, value)| value.is_some()) {
            Some((field, _)) => Err(Problem::not_supported(field)),
            None => Ok(StartOptions { file_template: self.file_template }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(body: &str) -> Result<Option<String>, (Kind, String)> {
        parse::<StartBody>(body.as_bytes())
            .and_then(StartBody::into_options)
            .map(|o| o.file_template)
            .map_err(|p| (p.kind(), p.detail().to_owned()))
    }

    #[test]
    fn start_options_are_taken_or_refused_by_name() {
        assert_eq!(options(""), Ok(None));
        assert_eq!(options("{}"), Ok(None));
        assert_eq!(options(r#"{"rotation": null}"#), Ok(None));
        assert_eq!(options(r#"{"fileTemplate": "{streamName}"}"#), Ok(Some("{streamName}".into())));
        for field in ["rotation", "preroll", "uploadUrl", "webhookUrl"] {
            let (kind, detail) = options(&format!("{{\"{field}\": 10}}")).expect_err("not supported");
            assert_eq!(kind, Kind::NotSupported);
            assert!(detail.contains(&format!("`{field}`")), "{detail}");
        }
        let (kind, detail) = options(r#"{"fileTempl": "x"}"#).expect_err("unknown");
        assert_eq!(kind, Kind::BadBody);
        assert!(detail.contains("`fileTempl`") && detail.contains("`fileTemplate`"), "{detail}");
    }

    #[test]
    fn an_id_that_is_no_uuid_is_an_unknown_session() {
        let problem = session_id("cam").expect_err("no UUID");
        assert_eq!(problem.kind(), Kind::UnknownSession);
        assert!(problem.detail().starts_with("`cam` is no mediaSessionId"));
    }
}
