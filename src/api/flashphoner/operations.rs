//! What `/openapi.json` tells of these calls.

use super::{Call, RecordingBody, Stream, StreamFilter};
use crate::{
    api::{
        openapi::{Operation, Tag, examples},
        problem::Kind,
        v1::START,
    },
    control::RunningRecording,
};
use serde_json::{Value, json};

pub(in crate::api) fn operations() -> Vec<Operation> {
    Call::PATHS.map(|(path, call)| call.operation(path)).to_vec()
}

/// `stream/find_all` → `flashphonerStreamFindAll`: a path has one operation only.
pub(in crate::api) fn call(path: &str, summary: &str) -> Operation {
    let words = path.split(['/', '_']).map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_uppercase() + rest
    });
    let id: String = std::iter::once("flashphoner".to_owned()).chain(words).collect();
    Operation::post(Tag::Flashphoner, format!("/rest-api/{path}"), &id, summary)
}

fn session() -> Value {
    examples::session()["mediaSessionId"].clone()
}

fn stream() -> Value {
    json!([{
        "appKey": "flashStreamingApp", "sessionId": examples::session()["sessionId"], "mediaSessionId": session(),
        "name": "camera1", "published": true, "hasVideo": true, "hasAudio": true, "status": "PUBLISHING",
        "audioCodec": "mpeg4-generic/48000/2", "videoCodec": "H264", "record": true, "width": 1280, "height": 720,
        "bitrate": 2_150_000, "createDate": 1_772_366_400_000_i64, "mediaType": "publish", "mediaProvider": "Flash",
    }])
}

impl Call {
    fn operation(self, path: &str) -> Operation {
        match self {
            Call::Start => call(path, "Start a recording")
                .about("A stream that is being recorded gets a new file: the one under way is ended first.")
                .body::<RecordingBody>(json!({
                    "mediaSessionId": session(), "config": {"fileTemplate": "{streamName}", "rotation": "20M"},
                }))
                .answers_nothing(200, "It is being recorded")
                .problems(START)
                .problems(&[Kind::UnknownSession]),
            Call::Stop => call(path, "Stop a recording")
                .about("Answers when the file is final.")
                .body::<RecordingBody>(json!({"mediaSessionId": session()}))
                .answers_nothing(200, "Its file is final")
                .problems(&[Kind::UnknownSession, Kind::NotRecording, Kind::Failed]),
            Call::Running => call(path, "List the recordings under way")
                .answers_array::<RunningRecording>("Those under way")
                .example(json!([{"fileName": "camera1.mp4", "mediaSessionId": session()}]))
                .problems(&[Kind::NotFound]),
            Call::Find => call(path, "Find live streams")
                .about("Those that match every field given.")
                .optional_body::<StreamFilter>(json!({"name": "camera1", "published": true}))
                .answers_array::<Stream>("Those that match")
                .example(stream())
                .problems(&[Kind::NotFound, Kind::UnknownSession]),
            Call::FindAll => call(path, "List the live streams")
                .answers_array::<Stream>("All live streams")
                .example(stream())
                .problems(&[Kind::NotFound]),
            Call::Terminate => call(path, "End publishers")
                .about("Those that match every field given; at least one has to be.")
                .body::<StreamFilter>(json!({"mediaSessionId": session()}))
                .answers_nothing(200, "They are being ended")
                .problems(&[Kind::NotFound, Kind::UnknownSession]),
        }
    }
}
