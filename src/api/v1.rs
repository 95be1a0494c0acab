//! `/api/v1`: sessions, recordings and the server, in our own words. Errors are problem+json.

mod operations;

pub(super) use operations::{START, operations};

use super::{
    Answer, allow,
    body::{body, json, parse},
    options::{self, Amount},
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
    let session_verb = warp::path!("sessions" / String / "recording" / String)
        .and(warp::method())
        .and(body())
        .and(with_control.clone())
        .then(session_verb);
    let switch = warp::path!("recordings" / String / "switch")
        .and(warp::method())
        .and(body())
        .and(with_control.clone())
        .then(switch);
    let lock = warp::path!("recordings" / String / "lock")
        .and(warp::method())
        .and(body())
        .and(with_control.clone())
        .then(lock);
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
        .or(session_verb)
        .unify()
        .or(switch)
        .unify()
        .or(lock)
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

async fn session_verb(
    id: String,
    verb: String,
    method: Method,
    body: Result<Bytes, Problem>,
    control: Control,
) -> Answer {
    let verb = Verb::parse(&verb).ok_or_else(Problem::unknown_path)?;
    allow(&method, "POST")?;
    let id = session_id(&id)?;
    let NoOptions {} = parse(&body?)?;
    let done = async move {
        match verb {
            Verb::Split => control.split_recording(id).await,
            Verb::Pause => control.pause_recording(id).await,
            Verb::Resume => control.resume_recording(id).await,
        }
    };
    json(&to_the_end(done).await?)
}

async fn switch(id: String, method: Method, body: Result<Bytes, Problem>, control: Control) -> Answer {
    allow(&method, "POST")?;
    let id = recording_id(&id)?;
    let to = parse::<SwitchBody>(&body?)?.media_session_id.ok_or_else(|| {
        Problem::new(Kind::BadBody, "the body has no `mediaSessionId`; GET /api/v1/sessions lists them")
    })?;
    let to = session_id(&to)?;
    json(&to_the_end(async move { control.switch_recording(id, to).await }).await?)
}

async fn lock(id: String, method: Method, body: Result<Bytes, Problem>, control: Control) -> Answer {
    allow(&method, "PUT, DELETE")?;
    let id = recording_id(&id)?;
    let NoOptions {} = parse(&body?)?;
    let locked = method == Method::PUT;
    json(&to_the_end(async move { control.set_locked(id, locked).await }).await?)
}

async fn recordings(method: Method, pairs: Vec<(String, String)>, control: Control) -> Answer {
    allow(&method, READ)?;
    json(&control.recordings(query::recordings(&pairs)?).await?)
}

async fn recording(id: String, method: Method, control: Control) -> Answer {
    allow(&method, "GET, HEAD, DELETE")?;
    let id = recording_id(&id)?;
    if method == Method::DELETE {
        to_the_end(async move { control.delete_recording(id).await }).await?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    json(&control.recording(id).await?)
}

pub(super) fn recording_id(text: &str) -> Result<RecordingId, Problem> {
    RecordingId::parse(text).ok_or_else(|| {
        let detail =
            format!("{} is no recording id (a UUID); GET /api/v1/recordings lists them", quoted(text));
        Problem::new(Kind::UnknownRecording, detail)
    })
}

fn session_id(text: &str) -> Result<MediaSessionId, Problem> {
    MediaSessionId::parse(text).ok_or_else(|| {
        let detail =
            format!("{} is no mediaSessionId (a UUID); GET /api/v1/sessions lists them", quoted(text));
        Problem::new(Kind::UnknownSession, detail)
    })
}

/// What a recording under way can be asked for by its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Split,
    Pause,
    Resume,
}

impl Verb {
    const ALL: [(&str, Self); 3] = [("split", Self::Split), ("pause", Self::Pause), ("resume", Self::Resume)];

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == word).map(|(_, verb)| verb)
    }
}

/// Body of a call that takes no options.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NoOptions {}

/// Body of `POST /recordings/{id}/switch`.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SwitchBody {
    /// The stream to go on with.
    #[schema(required, nullable = false, format = "uuid")]
    media_session_id: Option<String>,
}

/// Body of `POST /sessions/{id}/recording`. The options that this version has not are known by name, to be refused
/// by name: a recording made without them would not be the one asked for.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = StartOptions)]
struct StartBody {
    /// File name without extension, as `stream_record_policy_template`.
    file_template: Option<String>,
    /// As `record_rotation`: seconds, `"10m"`, `"20M"` or both.
    rotation: Option<Amount>,
    /// How much from before the start it has: seconds, or `"10s"`.
    preroll: Option<Amount>,
    /// A finished file is sent there by HTTP PUT.
    upload_url: Option<String>,
    /// News of the recording is sent there, signed as Standard Webhooks say.
    webhook_url: Option<String>,
}

impl StartBody {
    fn into_options(self) -> Result<StartOptions, Problem> {
        let rotation = options::rotation("rotation", self.rotation)?;
        let preroll = options::preroll("preroll", self.preroll)?;
        let webhooks = self.webhook_url.into_iter().collect();
        let uploads = self.upload_url.into_iter().collect();
        Ok(StartOptions { file_template: self.file_template, rotation, preroll, webhooks, uploads })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Rotation;
    use std::time::Duration;

    fn options(body: &str) -> Result<StartOptions, (Kind, String)> {
        parse::<StartBody>(body.as_bytes())
            .and_then(StartBody::into_options)
            .map_err(|p| (p.kind(), p.detail().to_owned()))
    }

    #[test]
    fn start_options_are_taken_or_refused_by_name() {
        let nothing = StartOptions::default;
        for body in ["", "{}", r#"{"rotation": null, "preroll": null, "uploadUrl": null}"#] {
            assert_eq!(options(body), Ok(nothing()), "{body}");
        }
        let template = StartOptions { file_template: Some("{streamName}".into()), ..nothing() };
        assert_eq!(options(r#"{"fileTemplate": "{streamName}"}"#), Ok(template));
        let minute = Rotation { duration: Some(Duration::from_secs(60)), bytes: None };
        let both =
            StartOptions { rotation: Some(minute), preroll: Some(Duration::from_secs(10)), ..nothing() };
        assert_eq!(options(r#"{"rotation": 60, "preroll": "10s"}"#), Ok(both));
        let upload = StartOptions { uploads: vec!["https://h/x?key=1".into()], ..nothing() };
        assert_eq!(options(r#"{"uploadUrl": "https://h/x?key=1"}"#), Ok(upload));
        let told = options(r#"{"webhookUrl": "https://example.org/x"}"#).expect("a URL");
        assert_eq!(told.webhooks, ["https://example.org/x"]);
        for (body, kind, said) in [
            (r#"{"rotation": "10X"}"#, Kind::BadOption, "rotation: \"10X\" is not a rotation; write"),
            (r#"{"preroll": -1}"#, Kind::BadOption, "preroll: \"-1\" is not a time that works here; write"),
            (r#"{"preroll": [1]}"#, Kind::BadBody, "expected a number of seconds"),
        ] {
            let (got, detail) = options(body).expect_err(body);
            assert_eq!(got, kind, "{body}");
            assert!(detail.contains(said), "{detail}");
        }
        let (kind, detail) = options(r#"{"fileTempl": "x"}"#).expect_err("unknown");
        assert_eq!(kind, Kind::BadBody);
        assert!(detail.contains("`fileTempl`") && detail.contains("`fileTemplate`"), "{detail}");
    }

    #[test]
    fn bodies_of_the_verbs_hold_nothing_that_is_not_known() {
        for body in ["", "{}"] {
            let NoOptions {} = parse(body.as_bytes()).expect(body);
        }
        assert_eq!(parse::<NoOptions>(b"{\"at\": 1}").expect_err("a field").kind(), Kind::BadBody);
        assert_eq!(parse::<SwitchBody>(b"{}").expect("no id").media_session_id, None);
        assert_eq!(parse::<SwitchBody>(b"{\"to\": 1}").expect_err("a field").kind(), Kind::BadBody);
        assert_eq!(Verb::parse("splits"), None);
    }

    #[test]
    fn an_id_that_is_no_uuid_is_an_unknown_session() {
        let problem = session_id("cam").expect_err("no UUID");
        assert_eq!(problem.kind(), Kind::UnknownSession);
        assert!(problem.detail().starts_with("`cam` is no mediaSessionId"));
    }
}
