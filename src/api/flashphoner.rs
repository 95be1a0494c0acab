//! `/rest-api`: the calls of Flashphoner Web Call Server that its users' programs make, `POST` with JSON.
//!
//! Statuses are Flashphoner's: 200 with an empty body for a call without an answer, 404 for a find without a match.
//! Fields that a call does not know are ignored, booleans may be strings. Errors are `{"error", "status"}`.

mod operations;

pub(super) use operations::{call, operations};

use super::{
    Answer, allow,
    body::{body, json, parse},
    flashphoner_pull,
    options::{self, Amount},
    problem::{Kind, Problem, quoted},
    to_the_end,
};
use crate::{
    control::{Control, ControlError, Session, SessionStatus, SessionTrack, StartOptions, WhenRunning},
    media::{MediaSessionId, Protocol},
};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de};
use warp::{
    Filter, Rejection,
    filters::path::Tail,
    http::{Method, StatusCode},
    reply::{Reply, Response},
};

pub(super) fn routes(
    control: Control,
) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static {
    warp::path("rest-api").and(warp::path::tail()).and(warp::method()).and(body()).then(
        move |path, method, body| {
            let control = control.clone();
            async move {
                let answer = answer(path, method, body, control).await;
                Ok(answer.unwrap_or_else(Problem::into_flashphoner_response))
            }
        },
    )
}

async fn answer(path: Tail, method: Method, body: Result<Bytes, Problem>, control: Control) -> Answer {
    if let Some(call) = flashphoner_pull::Call::parse(path.as_str()) {
        allow(&method, "POST")?;
        return call.answer(&body?, control).await;
    }
    let call = Call::parse(path.as_str()).ok_or_else(unknown_call)?;
    allow(&method, "POST")?;
    let body = body?;
    match call {
        Call::Start => start(&body, control).await,
        Call::Stop => stop(&body, control).await,
        Call::Running => found(&control.running(), "nothing is being recorded"),
        Call::Find => find(&parse(&body)?, &control),
        Call::FindAll => find(&StreamFilter::default(), &control),
        Call::Terminate => terminate(&parse(&body)?, &control),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Start,
    Stop,
    Running,
    Find,
    FindAll,
    Terminate,
}

impl Call {
    /// Below `/rest-api/`.
    const PATHS: [(&str, Self); 8] = [
        ("stream/startRecording", Self::Start),
        ("stream/stopRecording", Self::Stop),
        ("stream/find", Self::Find),
        ("stream/find_all", Self::FindAll),
        ("stream/terminate", Self::Terminate),
        ("recorder/startup", Self::Start),
        ("recorder/terminate", Self::Stop),
        ("recorder/find_all", Self::Running),
    ];

    fn parse(path: &str) -> Option<Self> {
        Self::PATHS.into_iter().find(|(known, _)| *known == path).map(|(_, call)| call)
    }
}

fn unknown_call() -> Problem {
    let pull = flashphoner_pull::Call::PATHS.iter().map(|(path, _)| *path);
    let known: Vec<_> = Call::PATHS.iter().map(|(path, _)| *path).chain(pull).collect();
    Problem::new(Kind::NotFound, format!("no such call; /rest-api has {}", known.join(", ")))
}

#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FlashphonerRecording)]
struct RecordingBody {
    #[schema(required, nullable = false, format = "uuid")]
    media_session_id: Option<String>,
    config: Option<RecordingConfig>,
}

#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FlashphonerConfig)]
struct RecordingConfig {
    file_template: Option<String>,
    /// As `record_rotation`.
    rotation: Option<Amount>,
}

impl RecordingBody {
    fn session(&self) -> Result<MediaSessionId, Problem> {
        let text = self.media_session_id.as_deref().ok_or_else(|| {
            Problem::new(
                Kind::BadBody,
                "the body has no `mediaSessionId`; /rest-api/stream/find_all lists them",
            )
        })?;
        session_id(text)
    }

    fn into_options(self) -> Result<StartOptions, Problem> {
        let config = self.config.unwrap_or_default();
        let rotation = options::rotation("config.rotation", config.rotation)?;
        Ok(StartOptions { file_template: config.file_template, rotation, ..StartOptions::default() })
    }
}

fn session_id(text: &str) -> Result<MediaSessionId, Problem> {
    MediaSessionId::parse(text).ok_or_else(|| {
        let detail = format!("no stream has the mediaSessionId {}, which is no UUID", quoted(text));
        Problem::new(Kind::UnknownSession, detail)
    })
}

/// A stream that is being recorded gets a new file: the one under way is ended first.
async fn start(body: &[u8], control: Control) -> Answer {
    let body: RecordingBody = parse(body)?;
    let id = body.session()?;
    let options = body.into_options()?;
    to_the_end(async move { control.start_recording(id, options, WhenRunning::Restart).await }).await?;
    Ok(void())
}

/// Answers when the file is final.
async fn stop(body: &[u8], control: Control) -> Answer {
    let id = parse::<RecordingBody>(body)?.session()?;
    to_the_end(async move { control.stop_recording(id).await }).await?;
    Ok(void())
}

fn find(filter: &StreamFilter, control: &Control) -> Answer {
    let ids = filter.ids()?;
    let streams: Vec<Stream> =
        control.sessions().iter().filter(|s| filter.matches(s, ids.as_deref())).map(Stream::of).collect();
    found(&streams, "no stream matches")
}

fn terminate(filter: &StreamFilter, control: &Control) -> Answer {
    if filter.is_empty() {
        let detail = "the body names no stream; give name, mediaSessionId, mediaSessionIds, sessionId, status or published";
        return Err(Problem::new(Kind::BadBody, detail));
    }
    let ids = filter.ids()?;
    let mut ended = 0;
    for session in control.sessions().iter().filter(|s| filter.matches(s, ids.as_deref())) {
        match control.end_session(session.media_session_id) {
            Ok(()) => ended += 1,
            // It went by itself in between.
            Err(ControlError::UnknownSession(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match ended {
        0 => Err(Problem::new(Kind::NotFound, "no stream matches")),
        _ => Ok(void()),
    }
}

/// Which streams a call is about: those that match every field given.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FlashphonerFilter)]
struct StreamFilter {
    name: Option<String>,
    media_session_id: Option<String>,
    media_session_ids: Option<Vec<String>>,
    session_id: Option<String>,
    status: Option<String>,
    /// A text may be given, too.
    #[serde(default, deserialize_with = "boolean")]
    published: Option<bool>,
}

impl StreamFilter {
    fn is_empty(&self) -> bool {
        self.name.is_none()
            && self.media_session_id.is_none()
            && self.media_session_ids.is_none()
            && self.session_id.is_none()
            && self.status.is_none()
            && self.published.is_none()
    }

    /// The ids asked for by `mediaSessionId` and `mediaSessionIds`; `None` when any will do.
    fn ids(&self) -> Result<Option<Vec<MediaSessionId>>, Problem> {
        if self.media_session_id.is_none() && self.media_session_ids.is_none() {
            return Ok(None);
        }
        let texts = self.media_session_id.iter().chain(self.media_session_ids.iter().flatten());
        texts.map(|text| session_id(text)).collect::<Result<_, _>>().map(Some)
    }

    fn matches(&self, session: &Session, ids: Option<&[MediaSessionId]>) -> bool {
        ids.is_none_or(|ids| ids.contains(&session.media_session_id))
            && self.name.as_ref().is_none_or(|name| *name == session.name)
            && self.session_id.as_ref().is_none_or(|id| *id == session.session_id)
            && self.status.as_deref().is_none_or(|word| word == session.status.as_str())
            // Every session is a publisher's.
            && self.published.unwrap_or(true)
    }
}

/// A boolean that may be written as a string.
pub(super) fn boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected true or false")]
    enum Written {
        Plain(bool),
        Text(String),
    }
    match Option::<Written>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Written::Plain(value)) => Ok(Some(value)),
        Some(Written::Text(text)) => text
            .parse()
            .map(Some)
            .map_err(|_| de::Error::invalid_value(de::Unexpected::Str(&text), &"true or false")),
    }
}

/// A stream as Flashphoner lists it: those of its fields that are known here.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FlashphonerStream)]
struct Stream {
    app_key: &'static str,
    session_id: String,
    media_session_id: MediaSessionId,
    name: String,
    published: bool,
    has_video: bool,
    has_audio: bool,
    status: SessionStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    audio_codec: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    video_codec: Option<String>,
    /// Whether it is being recorded.
    record: bool,
    /// Pixels; 0 when there is no video or its size is not known yet.
    width: u32,
    /// As `width`.
    height: u32,
    /// Bits per second.
    bitrate: u64,
    /// Unix time, ms.
    create_date: i64,
    media_type: &'static str,
    media_provider: &'static str,
}

impl Stream {
    fn of(session: &Session) -> Self {
        let video = session.tracks.iter().find(|t| t.kind == "video");
        let audio = session.tracks.iter().find(|t| t.kind == "audio");
        let (app_key, media_provider) = match session.protocol {
            Protocol::Rtmp => ("flashStreamingApp", "Flash"),
            Protocol::Rtsp => ("rtspApp", "Flash"),
            Protocol::Webrtc | Protocol::File => ("defaultApp", "WebRTC"),
        };
        Self {
            app_key,
            session_id: session.session_id.clone(),
            media_session_id: session.media_session_id,
            name: session.name.clone(),
            published: true,
            has_video: video.is_some(),
            has_audio: audio.is_some(),
            status: session.status,
            audio_codec: audio.map(audio_codec),
            video_codec: video.map(|t| t.codec.to_uppercase()),
            record: session.recording_id.is_some(),
            width: video.and_then(|t| t.width).unwrap_or(0),
            height: video.and_then(|t| t.height).unwrap_or(0),
            bitrate: session.bitrate,
            create_date: session.created_at.timestamp_millis(),
            media_type: "publish",
            media_provider,
        }
    }
}

/// As in SDP, which Flashphoner shows: `mpeg4-generic/48000/2`.
fn audio_codec(track: &SessionTrack) -> String {
    let name = match track.codec {
        "aac" => "mpeg4-generic",
        "pcma" => "PCMA",
        "pcmu" => "PCMU",
        other => other,
    };
    match (track.rate, track.channels) {
        (Some(rate), Some(channels)) => format!("{name}/{rate}/{channels}"),
        (Some(rate), None) => format!("{name}/{rate}"),
        (None, _) => name.to_owned(),
    }
}

pub(super) fn found<T: Serialize>(items: &[T], none: &str) -> Answer {
    if items.is_empty() {
        return Err(Problem::new(Kind::NotFound, none));
    }
    json(&items)
}

/// 200 without a body.
pub(super) fn void() -> Response {
    StatusCode::OK.into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Rotation;
    use serde_json::json;
    use std::time::Duration;

    fn session() -> Session {
        let video = SessionTrack {
            kind: "video",
            codec: "h264",
            width: Some(1280),
            height: Some(720),
            rate: None,
            channels: None,
        };
        let audio = SessionTrack {
            kind: "audio",
            codec: "aac",
            width: None,
            height: None,
            rate: Some(48_000),
            channels: Some(2),
        };
        Session {
            media_session_id: MediaSessionId::random(),
            session_id: "LzEwLjAuMC4x".into(),
            name: "cam".into(),
            room_name: "court".into(),
            room_id: "court".into(),
            protocol: Protocol::Rtmp,
            remote: "10.0.0.1:40000".parse().expect("an address"),
            status: SessionStatus::Publishing,
            tracks: vec![video, audio],
            bitrate: 2_000_000,
            frames: 10,
            lost: 0,
            created_at: chrono::DateTime::from_timestamp_millis(1_772_366_400_123).expect("a time"),
            recording_id: None,
        }
    }

    #[test]
    fn a_stream_is_shown_with_the_fields_its_clients_read() {
        let session = session();
        let want = json!({
            "appKey": "flashStreamingApp", "sessionId": "LzEwLjAuMC4x",
            "mediaSessionId": session.media_session_id.to_string(), "name": "cam", "published": true,
            "hasVideo": true, "hasAudio": true, "status": "PUBLISHING",
            "audioCodec": "mpeg4-generic/48000/2", "videoCodec": "H264", "record": false,
            "width": 1280, "height": 720, "bitrate": 2_000_000, "createDate": 1_772_366_400_123_i64,
            "mediaType": "publish", "mediaProvider": "Flash",
        });
        assert_eq!(serde_json::to_value(Stream::of(&session)).expect("JSON"), want);
    }

    #[test]
    fn a_filter_matches_on_every_field_given() {
        let session = session();
        let id = session.media_session_id.to_string();
        let other = MediaSessionId::random().to_string();
        let table = [
            (json!({}), true),
            (json!({"name": "cam", "display": ["metrics"]}), true),
            (json!({"name": "ca"}), false),
            (json!({"mediaSessionId": id}), true),
            (json!({"mediaSessionId": other}), false),
            (json!({"mediaSessionIds": [other, id]}), true),
            (json!({"mediaSessionIds": []}), false),
            (json!({"mediaSessionId": id, "name": "x"}), false),
            (json!({"sessionId": "LzEwLjAuMC4x", "status": "PUBLISHING", "published": true}), true),
            (json!({"status": "PENDING"}), false),
            (json!({"status": "NO_SUCH"}), false),
            (json!({"published": "true"}), true),
            (json!({"published": "false"}), false),
            (json!({"published": null, "name": null}), true),
        ];
        for (body, want) in table {
            let filter: StreamFilter = parse(body.to_string().as_bytes()).expect("a filter");
            let ids = filter.ids().expect("ids");
            assert_eq!(filter.matches(&session, ids.as_deref()), want, "{body}");
        }
    }

    #[test]
    fn a_filter_that_names_nothing_is_empty_but_an_empty_list_is_not() {
        let empty = |body: &str| parse::<StreamFilter>(body.as_bytes()).expect("a filter").is_empty();
        assert!(empty("") && empty("{}") && empty(r#"{"name": null, "nmae": "x"}"#));
        assert!(!empty(r#"{"mediaSessionIds": []}"#) && !empty(r#"{"published": false}"#));
    }

    #[test]
    fn bodies_are_tolerant_where_flashphoner_is() {
        let kind = |body: &str| parse::<StreamFilter>(body.as_bytes()).map(|_| ()).map_err(|p| p.kind());
        assert_eq!(kind(r#"{"published": "yes"}"#), Err(Kind::BadBody));
        assert_eq!(kind(r#"{"name": 7}"#), Err(Kind::BadBody));

        let start = |body: &str| parse::<RecordingBody>(body.as_bytes()).expect("a body");
        let body = start(r#"{"config": {"fileTemplate": "{streamName}", "rotation": null, "x": 1}, "y": 2}"#);
        assert_eq!(body.into_options().expect("options").file_template.as_deref(), Some("{streamName}"));
        assert_eq!(start("{}").session().map_err(|p| p.kind()), Err(Kind::BadBody));
        let named = start(r#"{"mediaSessionId": "cam"}"#);
        assert_eq!(named.session().map_err(|p| p.kind()), Err(Kind::UnknownSession));
        for (rotation, duration, bytes) in
            [("\"20M\"", None, Some(20_000_000)), ("20", Some(Duration::from_secs(20)), None)]
        {
            let options = start(&format!("{{\"config\": {{\"rotation\": {rotation}}}}}")).into_options();
            assert_eq!(options.expect("options").rotation, Some(Rotation { duration, bytes }));
        }
        let problem = start(r#"{"config": {"rotation": "20X"}}"#).into_options().expect_err("no rotation");
        assert_eq!(problem.kind(), Kind::BadOption);
        assert!(problem.detail().starts_with("config.rotation: "), "{}", problem.detail());
    }

    #[test]
    fn both_path_families_reach_the_same_calls() {
        assert_eq!(Call::parse("recorder/startup"), Call::parse("stream/startRecording"));
        assert_eq!(Call::parse("recorder/terminate"), Call::parse("stream/stopRecording"));
        assert_eq!(Call::parse("stream"), None);
    }
}
