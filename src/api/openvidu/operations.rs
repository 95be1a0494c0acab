//! What `/openapi.json` tells of these calls.

use super::{Deleted, List, RoomBody, Told, Which};
use crate::api::{
    media,
    openapi::{Operation, Tag, examples, integer, text},
    problem::Kind,
    v1::START,
};
use serde_json::{Value, json};

fn told(message: &str) -> Value {
    let file = examples::openvidu_file();
    json!({"message": message, "recording": file, "recordings": [file], "failures": []})
}

pub(in crate::api) fn operations() -> Vec<Operation> {
    let room = json!({"roomName": "court"});
    let file = "/recordings/{fileName}";
    let mut limit = integer(1, Which::MAX_LIMIT.into());
    limit["default"] = json!(Which::MAX_LIMIT);
    vec![
        Operation::post(Tag::OpenVidu, "/recordings/start", "openViduStart", "Record a room")
            .about(
                "Each of its streams is recorded on its own. A stream that joins the room later is not recorded with it.",
            )
            .body::<RoomBody>(room.clone())
            .answers::<Told>(200, "What is being recorded now")
            .example(told("Recording started"))
            .problems(START)
            .problems(&[Kind::BadName, Kind::UnknownRoom, Kind::AlreadyRecording]),
        Operation::post(Tag::OpenVidu, "/recordings/stop", "openViduStop", "Stop recording a room")
            .about("Answers when the files are final.")
            .body::<RoomBody>(room)
            .answers::<Told>(200, "What was recorded")
            .example(told("Recording stopped"))
            .problems(&[Kind::BadName, Kind::NotRecording, Kind::Failed]),
        Operation::get(Tag::OpenVidu, "/recordings", "openViduList", "List finished files, newest first")
            .query("roomName", text(), "Name of the room")
            .query("roomId", text(), "Id of the room")
            .query("limit", limit, "Recordings on a page; each may have several files")
            .query("cursor", text(), "The `nextCursor` of the page before")
            .answers::<List>(200, "A page")
            .example(json!({"recordings": [examples::openvidu_file()], "nextCursor": null}))
            .problems(&[Kind::BadParameter, Kind::BadCursor, Kind::Failed]),
        media::bytes(Operation::get(Tag::OpenVidu, file, "openViduFile", "The bytes of a file"))
            .problems(&[Kind::UnknownFile, Kind::UnknownRecording]),
        Operation::delete(Tag::OpenVidu, file, "openViduDelete", "Delete a file and its recording")
            .answers::<Deleted>(200, "It is gone")
            .example(json!({"message": "Recording deleted"}))
            .problems(&[
                Kind::UnknownFile,
                Kind::UnknownRecording,
                Kind::SeveralFiles,
                Kind::RecordingRunning,
                Kind::Failed,
            ]),
    ]
}
