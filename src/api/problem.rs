//! Errors as they go out: RFC 9457 `application/problem+json`, and the small object of `/rest-api`.

use serde::Serialize;
use warp::{
    http::{HeaderValue, Method, StatusCode, header},
    reply::{Reply, Response},
};

/// Longest piece of a request that an error repeats, in characters.
const MAX_QUOTED_CHARS: usize = 64;

/// Seconds after which a client may come back to a daemon that is not up, or not any more.
const RETRY_AFTER_S: &str = "5";

/// What went wrong. The `type` of each in problem+json is a relative URI and stays what it is:
///
/// | type | status | when |
/// |---|---|---|
/// | `/problems/not-found` | 404 | no such path |
/// | `/problems/method-not-allowed` | 405 | the path is there, the method is not; `Allow` lists those that are |
/// | `/problems/bad-body` | 400 | the body is not JSON, or not the JSON this call takes |
/// | `/problems/body-too-large` | 413 | the body is longer than 64 KiB |
/// | `/problems/body-timeout` | 408 | the body did not come whole within 10 s |
/// | `/problems/bad-parameter` | 400 | a query parameter is unknown or has a value it cannot have |
/// | `/problems/bad-cursor` | 400 | `cursor` is not a `nextCursor` of this server |
/// | `/problems/bad-template` | 400 | `fileTemplate` cannot make a file name |
/// | `/problems/bad-option` | 400 | an option of a start cannot have this value |
/// | `/problems/preroll-too-long` | 400 | more pre-roll is asked for than is kept |
/// | `/problems/not-supported` | 400 | an option this version does not have |
/// | `/problems/unknown-session` | 404 | no live session has this id |
/// | `/problems/unknown-recording` | 404 | no recording has this id |
/// | `/problems/unknown-file` | 404 | the recording has no such part, or the part no such file |
/// | `/problems/range-not-satisfiable` | 416 | `Range` begins behind the end of the file |
/// | `/problems/unknown-delivery` | 404 | nothing that is still to be delivered has this id |
/// | `/problems/recording-running` | 409 | the recording has not ended, and cannot be deleted yet |
/// | `/problems/recording-locked` | 409 | the recording is locked, and cannot be deleted |
/// | `/problems/disk-full` | 507 | there is no room for a recording |
/// | `/problems/unknown-room` | 404 | no live stream is in the room |
/// | `/problems/not-publishing` | 409 | the session's tracks are not known yet |
/// | `/problems/already-recording` | 409 | the session, or the room, is being recorded |
/// | `/problems/not-recording` | 409 | the session, or the room, is not being recorded |
/// | `/problems/several-files` | 409 | the file is one of several of its recording, which go together |
/// | `/problems/recording-over` | 409 | the recording has ended, or is ending |
/// | `/problems/recording-not-begun` | 409 | the recording has no frame in a file yet |
/// | `/problems/recording-paused` | 409 | the recording is paused |
/// | `/problems/recording-not-paused` | 409 | the recording is not paused |
/// | `/problems/recording-not-waiting` | 409 | the recording waits for no publisher |
/// | `/problems/same-session` | 409 | the recording is of this session already |
/// | `/problems/recording-off` | 409 | the policy's master switch is off |
/// | `/problems/unknown-source` | 404 | no source has this id |
/// | `/problems/bad-source` | 400 | the URI or the stream name of a source cannot be |
/// | `/problems/source-not-allowed` | 403 | `[limits] allow_sources` does not allow its host |
/// | `/problems/delivery-not-allowed` | 400 | `webhookUrl` or `uploadUrl` is no URL to send to, or `[limits] allow_delivery` does not allow its host |
/// | `/problems/source-taken` | 409 | the URI is pulled already |
/// | `/problems/too-many-sources` | 409 | `[limits] max_sources` are pulled already |
/// | `/problems/shutting-down` | 503 | the daemon is stopping |
/// | `/problems/wrong-type` | 415 | the body is not of the type that this call takes |
/// | `/problems/not-acceptable` | 406 | `Accept` does not take what this call answers |
/// | `/problems/bad-name` | 400 | the path is no room and stream name |
/// | `/problems/bad-sdp` | 400 | the body is no WebRTC offer |
/// | `/problems/bad-fragment` | 400 | the body is no trickled ICE fragment |
/// | `/problems/unusable-offer` | 422 | a WebRTC offer of which nothing can be recorded |
/// | `/problems/no-ice-restart` | 422 | the session cannot restart ICE |
/// | `/problems/name-taken` | 409 | a stream of this name is live |
/// | `/problems/if-match-missing` | 428 | the call needs `If-Match` |
/// | `/problems/if-match-wrong` | 412 | `If-Match` is not the `ETag` in force |
/// | `/problems/busy` | 503 | as many publishers as allowed are connected |
/// | `/problems/too-many` | 503 | `[limits]` allows no more recordings, transcodings or streams at the same time |
/// | `/problems/overloaded` | 503 | the processors are busier than `[limits] max_cpu` |
/// | `/problems/upgrade-required` | 426 | the call is a WebSocket's, and its request is not |
/// | `/problems/origin-not-allowed` | 403 | a browser asks for the page of another site |
/// | `/problems/too-many-watchers` | 503 | as many clients as allowed watch events |
/// | `/problems/not-ready` | 503 | `/readyz`: the daemon cannot record now |
/// | `/problems/failed` | 500 | the daemon could not do it |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    NotFound,
    MethodNotAllowed,
    BadBody,
    BodyTooLarge,
    BodyTimeout,
    BadParameter,
    BadCursor,
    BadTemplate,
    BadOption,
    PrerollTooLong,
    NotSupported,
    UnknownSession,
    UnknownRecording,
    UnknownFile,
    UnknownDelivery,
    RangeNotSatisfiable,
    RecordingRunning,
    RecordingLocked,
    DiskFull,
    UnknownRoom,
    SeveralFiles,
    NotPublishing,
    AlreadyRecording,
    NotRecording,
    RecordingOver,
    RecordingNotBegun,
    RecordingPaused,
    RecordingNotPaused,
    RecordingNotWaiting,
    SameSession,
    RecordingOff,
    UnknownSource,
    BadSource,
    SourceNotAllowed,
    SourceTaken,
    DeliveryNotAllowed,
    TooManySources,
    WrongType,
    NotAcceptable,
    BadName,
    BadSdp,
    BadFragment,
    UnusableOffer,
    NoIceRestart,
    NameTaken,
    IfMatchMissing,
    IfMatchWrong,
    UpgradeRequired,
    OriginNotAllowed,
    TooManyWatchers,
    Busy,
    TooMany,
    Overloaded,
    ShuttingDown,
    NotReady,
    Failed,
}

impl Kind {
    /// The `type` and the `title` of problem+json.
    pub(super) fn words(self) -> (&'static str, &'static str) {
        match self {
            Kind::NotFound => ("/problems/not-found", "No such resource"),
            Kind::MethodNotAllowed => ("/problems/method-not-allowed", "Method not allowed"),
            Kind::BadBody => ("/problems/bad-body", "Bad request body"),
            Kind::BodyTooLarge => ("/problems/body-too-large", "Request body too large"),
            Kind::BodyTimeout => ("/problems/body-timeout", "Request body too slow"),
            Kind::BadParameter => ("/problems/bad-parameter", "Bad query parameter"),
            Kind::BadCursor => ("/problems/bad-cursor", "Bad cursor"),
            Kind::BadTemplate => ("/problems/bad-template", "Bad file name template"),
            Kind::BadOption => ("/problems/bad-option", "Bad option"),
            Kind::PrerollTooLong => ("/problems/preroll-too-long", "Pre-roll is longer than what is kept"),
            Kind::NotSupported => ("/problems/not-supported", "Option not supported"),
            Kind::UnknownSession => ("/problems/unknown-session", "No such session"),
            Kind::UnknownRecording => ("/problems/unknown-recording", "No such recording"),
            Kind::UnknownFile => ("/problems/unknown-file", "No such file"),
            Kind::UnknownDelivery => ("/problems/unknown-delivery", "No such delivery"),
            Kind::RangeNotSatisfiable => ("/problems/range-not-satisfiable", "Range not satisfiable"),
            Kind::RecordingRunning => ("/problems/recording-running", "Recording has not ended"),
            Kind::RecordingLocked => ("/problems/recording-locked", "Recording is locked"),
            Kind::DiskFull => ("/problems/disk-full", "Disk is full"),
            Kind::UnknownRoom => ("/problems/unknown-room", "No live stream in this room"),
            Kind::SeveralFiles => ("/problems/several-files", "One of several files"),
            Kind::NotPublishing => ("/problems/not-publishing", "Session is not publishing"),
            Kind::AlreadyRecording => ("/problems/already-recording", "Session is already recorded"),
            Kind::NotRecording => ("/problems/not-recording", "Session is not recorded"),
            Kind::RecordingOver => ("/problems/recording-over", "Recording is over"),
            Kind::RecordingNotBegun => ("/problems/recording-not-begun", "Recording has not begun"),
            Kind::RecordingPaused => ("/problems/recording-paused", "Recording is paused"),
            Kind::RecordingNotPaused => ("/problems/recording-not-paused", "Recording is not paused"),
            Kind::RecordingNotWaiting => {
                ("/problems/recording-not-waiting", "Recording waits for no publisher")
            }
            Kind::SameSession => ("/problems/same-session", "Recording is of this session already"),
            Kind::RecordingOff => ("/problems/recording-off", "Recording is switched off"),
            Kind::UnknownSource => ("/problems/unknown-source", "No such source"),
            Kind::BadSource => ("/problems/bad-source", "Source cannot be pulled"),
            Kind::DeliveryNotAllowed => ("/problems/delivery-not-allowed", "Delivery not allowed"),
            Kind::SourceNotAllowed => ("/problems/source-not-allowed", "Host not allowed"),
            Kind::SourceTaken => ("/problems/source-taken", "Source is already pulled"),
            Kind::TooManySources => ("/problems/too-many-sources", "Too many sources"),
            Kind::WrongType => ("/problems/wrong-type", "Wrong media type"),
            Kind::NotAcceptable => ("/problems/not-acceptable", "Not acceptable"),
            Kind::BadName => ("/problems/bad-name", "Bad stream name"),
            Kind::BadSdp => ("/problems/bad-sdp", "Bad WebRTC offer"),
            Kind::BadFragment => ("/problems/bad-fragment", "Bad ICE fragment"),
            Kind::UnusableOffer => ("/problems/unusable-offer", "Nothing in the offer can be recorded"),
            Kind::NoIceRestart => ("/problems/no-ice-restart", "ICE restart not possible"),
            Kind::NameTaken => ("/problems/name-taken", "Stream name is in use"),
            Kind::IfMatchMissing => ("/problems/if-match-missing", "If-Match required"),
            Kind::IfMatchWrong => ("/problems/if-match-wrong", "If-Match does not match"),
            Kind::UpgradeRequired => ("/problems/upgrade-required", "WebSocket required"),
            Kind::OriginNotAllowed => ("/problems/origin-not-allowed", "Origin not allowed"),
            Kind::TooManyWatchers => ("/problems/too-many-watchers", "Too many watchers"),
            Kind::Busy => ("/problems/busy", "Too many publishers"),
            Kind::TooMany => ("/problems/too-many", "Too many at the same time"),
            Kind::Overloaded => ("/problems/overloaded", "Processors are busy"),
            Kind::ShuttingDown => ("/problems/shutting-down", "Shutting down"),
            Kind::NotReady => ("/problems/not-ready", "Not ready"),
            Kind::Failed => ("/problems/failed", "Failed"),
        }
    }
}

/// One error on its way out.
#[derive(Debug)]
pub(super) struct Problem {
    kind: Kind,
    /// What is wrong with this request and what to do, for people.
    detail: String,
    /// Value of the `Allow` header.
    allow: Option<&'static str>,
    /// Bytes of the file of which a range was asked for that it has not.
    complete_length: Option<u64>,
}

#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemJson<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
}

/// problem+json with the member that OpenVidu's clients read.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OpenViduProblem)]
pub(super) struct OpenViduJson<'a> {
    #[serde(flatten)]
    problem: ProblemJson<'a>,
    error_message: &'a str,
}

#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FlashphonerError)]
pub(super) struct FlashphonerJson<'a> {
    error: &'a str,
    status: u16,
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), allow: None, complete_length: None }
    }

    pub(super) fn unknown_path() -> Self {
        Self::new(
            Kind::NotFound,
            "nothing is at this path; the API is at /api/v1 (sessions, recordings, sources, server) and /rest-api",
        )
    }

    pub(super) fn method_not_allowed(method: &Method, allow: &'static str) -> Self {
        let detail = format!("{} is not for this path; it takes {allow}", quoted(method.as_str()));
        Self { allow: Some(allow), ..Self::new(Kind::MethodNotAllowed, detail) }
    }

    pub(super) fn range_not_satisfiable(size: u64) -> Self {
        let detail = format!("the file has {size} bytes, and the range begins behind them");
        Self { complete_length: Some(size), ..Self::new(Kind::RangeNotSatisfiable, detail) }
    }

    #[cfg(test)]
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    #[cfg(test)]
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// problem+json; `instance` is the path of the request.
    pub(super) fn into_response(self, instance: &str) -> Response {
        let json = self.json(instance);
        self.respond(super::status(self.kind), "application/problem+json", &json)
    }

    /// The same, with `detail` as `errorMessage` too (RFC 9457, section 3.2: other members may be there).
    pub(super) fn into_openvidu_response(self, instance: &str) -> Response {
        let json = OpenViduJson { problem: self.json(instance), error_message: &self.detail };
        self.respond(super::status(self.kind), "application/problem+json", &json)
    }

    fn json<'a>(&'a self, instance: &'a str) -> ProblemJson<'a> {
        let (r#type, title) = self.kind.words();
        let status = super::status(self.kind).as_u16();
        ProblemJson { r#type, title, status, detail: &self.detail, instance }
    }

    /// `{"error": "what, and what to do", "status": 404}`. Flashphoner documents no error body, so this one is ours.
    pub(super) fn into_flashphoner_response(self) -> Response {
        let status = super::flashphoner_status(self.kind);
        let json = FlashphonerJson { error: &self.detail, status: status.as_u16() };
        self.respond(status, "application/json", &json)
    }

    fn respond(&self, status: StatusCode, content_type: &'static str, json: &impl Serialize) -> Response {
        let body = serde_json::to_vec(json).expect("strings and numbers are always JSON");
        let mut response = body.into_response();
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        let complete = self.complete_length.and_then(|size| format!("bytes */{size}").try_into().ok());
        if let Some(complete) = complete {
            headers.insert(header::CONTENT_RANGE, complete);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        response
    }
}

/// A piece of a request as an error repeats it: in backquotes, cut when long.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::body::Body;
    use serde_json::{Value, json};
    use std::{future::poll_fn, pin::pin};

    async fn body(response: Response) -> Value {
        let mut body = pin!(response.into_body());
        let mut bytes = Vec::new();
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            bytes.extend_from_slice(&frame.expect("a frame").into_data().expect("no trailers"));
        }
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[tokio::test]
    async fn a_problem_is_rfc_9457() {
        let response =
            Problem::new(Kind::UnknownSession, "no session `x`").into_response("/api/v1/sessions/x");
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let want = json!({
            "type": "/problems/unknown-session", "title": "No such session", "status": 404,
            "detail": "no session `x`", "instance": "/api/v1/sessions/x",
        });
        assert_eq!(body(response).await, want);
    }

    #[tokio::test]
    async fn flashphoner_clients_get_a_small_object() {
        let response = Problem::new(Kind::NotRecording, "it is not recorded").into_flashphoner_response();
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!(body(response).await, json!({"error": "it is not recorded", "status": 404}));
    }

    #[tokio::test]
    async fn openvidu_clients_find_their_member_in_the_problem() {
        let problem = Problem::new(Kind::UnknownRoom, "room x has no live stream");
        let response = problem.into_openvidu_response("/recordings/start");
        assert_eq!(response.status(), 404);
        let want = json!({
            "type": "/problems/unknown-room", "title": "No live stream in this room", "status": 404,
            "detail": "room x has no live stream", "instance": "/recordings/start",
            "errorMessage": "room x has no live stream",
        });
        assert_eq!(body(response).await, want);
    }

    #[test]
    fn a_daemon_that_is_not_up_says_when_to_come_back() {
        let response = Problem::new(Kind::NotReady, "the disk is full").into_response("/readyz");
        assert_eq!(
            (response.status().as_u16(), &response.headers()[header::RETRY_AFTER]),
            (503, &"5".parse().expect("a value"))
        );
    }

    #[test]
    fn long_pieces_of_a_request_are_cut_on_a_character() {
        assert_eq!(quoted("abc"), "`abc`");
        assert_eq!(quoted(&"é".repeat(64)), format!("`{}`", "é".repeat(64)));
        assert_eq!(quoted(&"é".repeat(65)), format!("`{}…`", "é".repeat(64)));
    }
}
