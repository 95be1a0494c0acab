//! Flashphoner's calls about pulled streams: `/rest-api/rtsp/*` and `/rest-api/pull/*`.
//!
//! As there, a source is known by its URI; it is compared and told without user and password.

use super::{
    Answer,
    body::{self, parse},
    flashphoner::{boolean, call, found, void},
    openapi::Operation,
    problem::{Kind, Problem},
    to_the_end,
};
use crate::{
    config::Transport,
    control::{Control, NewSource, Scheme, Source, SourceState},
    media::{MediaSessionId, RoomName},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    RtspStartup,
    RtspFind,
    RtspFindAll,
    Pull,
    PullFindAll,
    Terminate,
}

impl Call {
    /// Below `/rest-api/`.
    pub(super) const PATHS: [(&str, Self); 10] = [
        ("rtsp/startup", Self::RtspStartup),
        ("rtsp/find", Self::RtspFind),
        ("rtsp/find_all", Self::RtspFindAll),
        ("rtsp/terminate", Self::Terminate),
        ("pull/rtmp/pull", Self::Pull),
        ("pull/rtmp/find_all", Self::PullFindAll),
        ("pull/rtmp/terminate", Self::Terminate),
        ("pull/pull", Self::Pull),
        ("pull/find_all", Self::PullFindAll),
        ("pull/terminate", Self::Terminate),
    ];

    pub(super) fn parse(path: &str) -> Option<Self> {
        Self::PATHS.into_iter().find(|(known, _)| *known == path).map(|(_, call)| call)
    }

    fn operation(self, path: &str) -> Operation {
        let uri = |uri: &str| json!({"uri": uri});
        let problems_of_start = [
            Kind::BadSource,
            Kind::NotSupported,
            Kind::SourceNotAllowed,
            Kind::SourceTaken,
            Kind::TooManySources,
            Kind::ShuttingDown,
            Kind::Failed,
        ];
        match self {
            Call::RtspStartup => call(path, "Pull an RTSP stream")
                .body::<SourceBody>(json!({"uri": "rtsp://camera.lan/1", "toStream": "cam"}))
                .answers_nothing(200, "It is being connected")
                .problems(&problems_of_start),
            Call::Pull => call(path, "Pull an RTMP stream")
                .body::<SourceBody>(json!({"uri": "rtmp://relay.lan/live/x", "localStreamName": "x"}))
                .answers_nothing(200, "It is being connected")
                .problems(&problems_of_start),
            Call::RtspFind => call(path, "Find pulled RTSP streams")
                .optional_body::<RtspFilter>(uri("rtsp://camera.lan/1"))
                .answers_array::<RtspSource>("Those that match")
                .example(json!([{"uri": "rtsp://camera.lan/1", "status": "PLAYING", "toStream": "cam"}]))
                .problems(&[Kind::NotFound]),
            Call::RtspFindAll => call(path, "List pulled RTSP streams")
                .answers_array::<RtspSource>("All of them")
                .example(json!([{"uri": "rtsp://camera.lan/1", "status": "PLAYING", "toStream": "cam"}]))
                .problems(&[Kind::NotFound]),
            Call::PullFindAll => call(path, "List pulled RTMP streams")
                .answers_array::<Pulled>("All of them; an empty list when there is none")
                .example(json!([{
                    "localMediaSessionId": null, "localStreamName": "x", "uri": "rtmp://relay.lan/live/x",
                    "status": "PENDING", "hasAudio": false, "hasVideo": false, "record": false,
                }])),
            Call::Terminate => call(path, "Stop pulling a stream")
                .body::<SourceBody>(uri("rtsp://camera.lan/1"))
                .answers_nothing(200, "It is not pulled any more")
                .problems(&[Kind::NotFound, Kind::BadSource, Kind::Failed]),
        }
    }

    pub(super) async fn answer(self, body: &[u8], control: Control) -> Answer {
        match self {
            Call::RtspStartup => start(body, control, &[Scheme::Rtsp, Scheme::Rtsps], "rtsp").await,
            Call::Pull => start(body, control, &[Scheme::Rtmp, Scheme::Rtmps], "rtmp").await,
            Call::RtspFind => find_rtsp(&parse(body)?, &control),
            Call::RtspFindAll => find_rtsp(&RtspFilter::default(), &control),
            Call::PullFindAll => find_pulled(&control),
            Call::Terminate => terminate(body, control).await,
        }
    }
}

/// What the calls below `/rest-api` about pulled streams have in `openapi.json`.
pub(super) fn operations() -> Vec<Operation> {
    Call::PATHS.map(|(path, call)| call.operation(path)).to_vec()
}

/// `toStream` and `localStreamName` are the same, of different versions.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FlashphonerPull)]
struct SourceBody {
    #[schema(required, nullable = false)]
    uri: Option<String>,
    to_stream: Option<String>,
    local_stream_name: Option<String>,
    /// A text may be given, too.
    #[serde(default, deserialize_with = "boolean")]
    record: Option<bool>,
}

impl SourceBody {
    fn uri(&mut self) -> Result<String, Problem> {
        self.uri.take().ok_or_else(|| Problem::new(Kind::BadBody, "the body has no `uri`"))
    }
}

async fn start(body: &[u8], control: Control, schemes: &[Scheme], word: &str) -> Answer {
    let mut body: SourceBody = parse(body)?;
    let uri = body.uri()?;
    let scheme = uri.trim_start().split(':').next().unwrap_or_default().to_ascii_lowercase();
    if !schemes.iter().any(|s| s.as_str() == scheme) {
        let detail = format!("this call pulls {word}:// streams; the body's `uri` is no such");
        return Err(Problem::new(Kind::BadSource, detail));
    }
    let new = NewSource {
        uri,
        stream: body.to_stream.or(body.local_stream_name),
        transport: Transport::default(),
        record: body.record.unwrap_or(false),
    };
    to_the_end(async move { control.add_source(new).await }).await?;
    Ok(void())
}

async fn terminate(body: &[u8], control: Control) -> Answer {
    let uri = parse::<SourceBody>(body)?.uri()?;
    let source = control.source_at(&uri)?;
    let source = source.ok_or_else(|| Problem::new(Kind::NotFound, "this uri is not being pulled"))?;
    to_the_end(async move { control.remove_source(source.id).await }).await?;
    Ok(void())
}

#[derive(Default, Deserialize, utoipa::ToSchema)]
#[schema(as = FlashphonerRtspFilter)]
struct RtspFilter {
    uri: Option<String>,
    status: Option<String>,
}

fn find_rtsp(filter: &RtspFilter, control: &Control) -> Answer {
    // What is no URI is nobody's.
    let wanted = filter.uri.as_ref().map(|uri| control.source_at(uri).ok().flatten().map(|source| source.id));
    let sources: Vec<RtspSource> = control
        .sources()
        .iter()
        .filter(|s| matches!(s.scheme, Scheme::Rtsp | Scheme::Rtsps))
        .filter(|s| wanted.is_none_or(|id| id == Some(s.id)))
        .map(RtspSource::of)
        .filter(|s| filter.status.as_deref().is_none_or(|status| status == s.status))
        .collect();
    found(&sources, "no RTSP source matches")
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FlashphonerRtspSource)]
struct RtspSource {
    uri: String,
    status: &'static str,
    to_stream: String,
}

impl RtspSource {
    fn of(source: &Source) -> Self {
        Self { uri: source.uri.clone(), status: status(source, "PLAYING"), to_stream: stream_name(source) }
    }
}

/// An empty list is answered with 200 here: that is what Flashphoner documents for this call.
fn find_pulled(control: &Control) -> Answer {
    let pulled = control.sources().into_iter().filter(|s| matches!(s.scheme, Scheme::Rtmp | Scheme::Rtmps));
    body::json(&pulled.map(|source| Pulled::of(&source, control)).collect::<Vec<_>>())
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FlashphonerPulled)]
struct Pulled {
    #[schema(required)]
    local_media_session_id: Option<MediaSessionId>,
    local_stream_name: String,
    uri: String,
    status: &'static str,
    has_audio: bool,
    has_video: bool,
    /// Whether it is being recorded.
    record: bool,
}

impl Pulled {
    fn of(source: &Source, control: &Control) -> Self {
        let session = source.media_session_id.and_then(|id| control.session(id).ok());
        let has = |kind| session.as_ref().is_some_and(|s| s.tracks.iter().any(|t| t.kind == kind));
        Self {
            local_media_session_id: source.media_session_id,
            local_stream_name: stream_name(source),
            uri: source.uri.clone(),
            status: status(source, "PROCESSED_LOCAL"),
            has_audio: has("audio"),
            has_video: has("video"),
            record: session.as_ref().is_some_and(|s| s.recording_id.is_some()),
        }
    }
}

/// A source that waits is pending, not failed: it comes back by itself, and a client that started it again would
/// be told 409.
fn status(source: &Source, live: &'static str) -> &'static str {
    match source.state {
        SourceState::Live { .. } => live,
        SourceState::Connecting { .. } | SourceState::Waiting { .. } => "PENDING",
    }
}

/// As it was given: Flashphoner's streams have no room.
fn stream_name(source: &Source) -> String {
    match source.room_name == RoomName::default() {
        true => source.name.to_string(),
        false => source.stream.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::{Failure, SourceId},
        media::StreamName,
    };
    use chrono::DateTime;

    fn source(room: &str, state: SourceState) -> Source {
        Source {
            id: SourceId::random(),
            uri: "rtsp://camera.lan/x".into(),
            scheme: Scheme::Rtsp,
            stream: format!("{room}/cam"),
            room_name: RoomName::new(room).expect("a name"),
            name: StreamName::new("cam").expect("a name"),
            transport: Transport::Tcp,
            record: false,
            created_at: DateTime::UNIX_EPOCH,
            media_session_id: None,
            state,
        }
    }

    #[test]
    fn a_source_is_shown_with_the_fields_its_clients_read() {
        let since = DateTime::UNIX_EPOCH;
        let waiting =
            SourceState::Waiting { failure: Failure { reason: "away".into(), attempts: 1 }, next_try: since };
        for (room, state, want) in [
            (
                "live",
                SourceState::Live { since },
                json!({"uri": "rtsp://camera.lan/x", "status": "PLAYING", "toStream": "cam"}),
            ),
            (
                "lobby",
                waiting,
                json!({"uri": "rtsp://camera.lan/x", "status": "PENDING", "toStream": "lobby/cam"}),
            ),
        ] {
            let shown = serde_json::to_value(RtspSource::of(&source(room, state))).expect("JSON");
            assert_eq!(shown, want);
        }
    }

    #[test]
    fn every_path_reaches_its_call() {
        assert_eq!(Call::parse("pull/pull"), Call::parse("pull/rtmp/pull"));
        assert_eq!(Call::parse("rtsp/terminate"), Call::parse("pull/rtmp/terminate"));
        assert_eq!(Call::parse("rtsp"), None);
    }
}
