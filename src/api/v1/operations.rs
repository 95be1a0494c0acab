//! What `/openapi.json` tells of these calls.

use super::{NoOptions, StartBody, SwitchBody, Verb};
use crate::{
    api::{
        openapi::{Operation, Tag, examples, integer, one_of, text, time},
        problem::Kind,
        query::DEFAULT_LIMIT,
    },
    control::{Filter, Recording, RecordingState, ServerInfo, Session, Status},
};
use serde_json::json;

/// What a start may be refused for, whoever asks. Also of the other dialects.
pub(in crate::api) const START: &[Kind] = &[
    Kind::BadTemplate,
    Kind::BadOption,
    Kind::PrerollTooLong,
    Kind::NotPublishing,
    Kind::RecordingOff,
    Kind::TooMany,
    Kind::Overloaded,
    Kind::DiskFull,
    Kind::DeliveryNotAllowed,
    Kind::ShuttingDown,
    Kind::Failed,
];

pub(in crate::api) fn operations() -> Vec<Operation> {
    [server(), sessions(), recording_of_session(), recordings()].concat()
}

fn server() -> Vec<Operation> {
    let server = Operation::get(Tag::Server, "/api/v1/server", "getServer", "The daemon")
        .about("Version, the addresses it listens at, the policy in force and what is wrong with its file, limits, load, disk.")
        .answers::<ServerInfo>(200, "The daemon as it is now");
    vec![server]
}

fn sessions() -> Vec<Operation> {
    let path = "/api/v1/sessions/{mediaSessionId}";
    vec![
        Operation::get(Tag::Sessions, "/api/v1/sessions", "listSessions", "List the live streams")
            .answers_page::<Session>("Every live stream, on one page")
            .example(examples::page(examples::session())),
        Operation::get(Tag::Sessions, path, "getSession", "One live stream")
            .answers::<Session>(200, "The stream as it is now")
            .example(examples::session())
            .problems(&[Kind::UnknownSession]),
        Operation::delete(Tag::Sessions, path, "endSession", "End a publisher")
            .about("Its connection is closed, its recording is finished.")
            .answers_nothing(204, "It is being ended")
            .problems(&[Kind::UnknownSession]),
    ]
}

fn recording_of_session() -> Vec<Operation> {
    let path = "/api/v1/sessions/{mediaSessionId}/recording";
    let mut operations = vec![
        Operation::get(Tag::Sessions, path, "getRecordingState", "Whether a stream is being recorded")
            .answers::<RecordingState>(200, "For those who poll")
            .example(json!({
                "on": true, "updatePending": false, "totalRunningDurationMs": 10_033,
                "recordingId": examples::recording()["id"],
            }))
            .problems(&[Kind::UnknownSession]),
        Operation::post(Tag::Sessions, path, "startRecording", "Start a recording")
            .about("Answers once the first frame is in a file, or after 2 s.")
            .optional_body::<StartBody>(
                json!({"fileTemplate": "{streamName}-{startTime}", "rotation": "10m", "preroll": 10}),
            )
            .answers::<Recording>(201, "The recording that has begun")
            .example(examples::recording())
            .header("Location", "Path of the recording")
            .problems(START)
            .problems(&[Kind::UnknownSession, Kind::AlreadyRecording]),
        Operation::delete(Tag::Sessions, path, "stopRecording", "Stop a recording")
            .about("Answers when its files are final.")
            .answers::<Recording>(200, "The finished recording")
            .example(examples::recording())
            .problems(&[Kind::UnknownSession, Kind::NotRecording, Kind::Failed]),
    ];
    operations.extend(Verb::ALL.map(|(word, verb)| verb.operation(&format!("{path}/{word}"))));
    operations
}

impl Verb {
    fn operation(self, path: &str) -> Operation {
        let (id, summary, about, refusals) = match self {
            Verb::Split => (
                "splitRecording",
                "Begin the next part",
                "At the next key frame. Answers once the next part is being written, or after 2 s.",
                &[Kind::RecordingNotBegun, Kind::RecordingPaused][..],
            ),
            Verb::Pause => (
                "pauseRecording",
                "Pause a recording",
                "What comes is left out until it is resumed; the file stays open.",
                &[Kind::RecordingNotBegun, Kind::RecordingPaused][..],
            ),
            Verb::Resume => (
                "resumeRecording",
                "Resume a recording",
                "At the next key frame: until then it is `paused`.",
                &[Kind::RecordingNotPaused][..],
            ),
        };
        Operation::post(Tag::Sessions, path, id, summary)
            .about(about)
            .optional_body::<NoOptions>(json!({}))
            .answers::<Recording>(200, "The recording as it is now")
            .example(examples::recording())
            .problems(refusals)
            .problems(&[Kind::UnknownSession, Kind::NotRecording, Kind::RecordingOver, Kind::Failed])
    }
}

fn recordings() -> Vec<Operation> {
    let path = "/api/v1/recordings/{recordingId}";
    let mut limit = integer(1, Filter::MAX_LIMIT.into());
    limit["default"] = json!(DEFAULT_LIMIT);
    vec![
        Operation::get(
            Tag::Recordings,
            "/api/v1/recordings",
            "listRecordings",
            "List recordings, newest first",
        )
        .query("room", text(), "Name of the room")
        .query("stream", text(), "Name of the stream")
        .query("mediaSessionId", json!({"type": "string", "format": "uuid"}), "The stream it began with")
        .query("status", one_of(&Status::ALL.map(Status::as_str)), "Those of this status")
        .query("from", time(), "Those that started then or later")
        .query("to", time(), "Those that started before")
        .query("limit", limit, "Recordings on a page")
        .query("cursor", text(), "The `nextCursor` of the page before")
        .answers_page::<Recording>("A page")
        .example(examples::page(examples::recording()))
        .problems(&[Kind::BadParameter, Kind::BadCursor, Kind::Failed]),
        Operation::get(Tag::Recordings, path, "getRecording", "One recording")
            .answers::<Recording>(200, "The recording as it is now")
            .example(examples::recording())
            .problems(&[Kind::UnknownRecording, Kind::Failed]),
        Operation::delete(Tag::Recordings, path, "deleteRecording", "Delete a recording")
            .about("Its files, manifests and posters.")
            .answers_nothing(204, "It is gone")
            .problems(&[Kind::UnknownRecording, Kind::RecordingRunning, Kind::RecordingLocked, Kind::Failed]),
        Operation::put(
            Tag::Recordings,
            format!("{path}/lock"),
            "lockRecording",
            "Protect a recording from deletion",
        )
        .answers::<Recording>(200, "The recording as it is now")
        .example(examples::recording())
        .problems(&[Kind::UnknownRecording, Kind::Failed]),
        Operation::delete(
            Tag::Recordings,
            format!("{path}/lock"),
            "unlockRecording",
            "Allow its deletion again",
        )
        .answers::<Recording>(200, "The recording as it is now")
        .example(examples::recording())
        .problems(&[Kind::UnknownRecording, Kind::Failed]),
        Operation::post(
            Tag::Recordings,
            format!("{path}/switch"),
            "switchRecording",
            "Go on with another live stream",
        )
        .about("At that one's next key frame. The recording belongs to its session from then on.")
        .body::<SwitchBody>(json!({"mediaSessionId": examples::session()["mediaSessionId"]}))
        .answers::<Recording>(200, "The recording as it is now")
        .example(examples::recording())
        .problems(&[
            Kind::UnknownRecording,
            Kind::UnknownSession,
            Kind::RecordingOver,
            Kind::SameSession,
            Kind::AlreadyRecording,
            Kind::NotPublishing,
            Kind::Failed,
        ]),
    ]
}
