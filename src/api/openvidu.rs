//! `/recordings`: the calls of OpenVidu's recording tutorial, with its paths, statuses and field names.
//!
//! It records a room as one picture; here each stream of the room is recorded on its own: `recording` in an answer is the
//! first of them, `recordings` are all, `failures` those that could not be. Errors are problem+json with `errorMessage`.
//! Times are Unix ms. Fields and parameters that a call does not know are ignored.

mod operations;

pub(super) use operations::operations;

use super::{
    Answer, allow,
    body::{body, json, parse},
    media,
    problem::{Kind, Problem, quoted},
    to_the_end,
    whip::decoded,
};
use crate::{
    control::{
        Control, Filter as Which, Part, Recording, RecordingId, Resource, RoomFailure, RoomOutcome,
        StartOptions,
    },
    media::{MediaSessionId, RoomName},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use warp::{
    Filter, Rejection,
    http::{HeaderMap, Method},
    path::FullPath,
};

/// The tutorial's, and the same for rooms with several streams.
const TEMPLATE: &str = "{room_name}-{room_id}-{time}";
const TEMPLATE_OF_SEVERAL: &str = "{room_name}-{room_id}-{streamName}-{time}";

pub(super) fn routes(
    control: Control,
) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static {
    let with_control = warp::any().map(move || control.clone());
    let start = warp::path!("recordings" / "start")
        .and(warp::method())
        .and(body())
        .and(with_control.clone())
        .then(start);
    let stop = warp::path!("recordings" / "stop")
        .and(warp::method())
        .and(body())
        .and(with_control.clone())
        .then(stop);
    let list =
        warp::path!("recordings").and(warp::method()).and(query()).and(with_control.clone()).then(list);
    let one = warp::path!("recordings" / String)
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(with_control)
        .then(one);
    let calls = start.or(stop).unify().or(list).unify().or(one).unify();
    warp::path::full().and(calls).map(|path: FullPath, answer: Answer| -> Answer {
        Ok(answer.unwrap_or_else(|problem| problem.into_openvidu_response(path.as_str())))
    })
}

fn query() -> impl Filter<Extract = (String,), Error = Infallible> + Clone {
    warp::query::raw().or(warp::any().map(String::new)).unify()
}

async fn start(method: Method, body: Result<Bytes, Problem>, control: Control) -> Answer {
    allow(&method, "POST")?;
    let room = room(&body?)?;
    let started = to_the_end(async move { control.start_room(&room, options).await }).await?;
    json(&Told::of("Recording started", started))
}

/// Answers when the files are final.
async fn stop(method: Method, body: Result<Bytes, Problem>, control: Control) -> Answer {
    allow(&method, "POST")?;
    let room = room(&body?)?;
    let stopped = to_the_end(async move { control.stop_room(&room).await }).await?;
    json(&Told::of("Recording stopped", stopped))
}

/// GET and HEAD answer the file, with ranges; DELETE deletes its recording, of which it has to be the only file.
async fn one(name: String, method: Method, headers: HeaderMap, control: Control) -> Answer {
    allow(&method, "GET, HEAD, DELETE")?;
    let (recording, number) = control.file_named(&decoded(&name)).await?;
    if method != Method::DELETE {
        return media::send(&control, (recording.id, number, Resource::File), &method, &headers, false).await;
    }
    if recording.parts.len() > 1 {
        let (id, files) = (recording.id, recording.parts.len());
        let detail =
            format!("it is one of {files} files of a recording; DELETE /api/v1/recordings/{id} deletes all");
        return Err(Problem::new(Kind::SeveralFiles, detail));
    }
    to_the_end(async move { control.delete_recording(recording.id).await }).await?;
    json(&Deleted { message: "Recording deleted" })
}

async fn list(method: Method, query: String, control: Control) -> Answer {
    allow(&method, "GET, HEAD")?;
    let page = control.recordings(which(&query)?).await?;
    let mut recordings: Vec<File> = page.items.iter().flat_map(File::all_of).collect();
    // A later part of an earlier recording may be newer.
    recordings.sort_by_key(|file| std::cmp::Reverse(file.started_at));
    json(&List { recordings, next_cursor: page.next_cursor })
}

fn options(streams: usize) -> StartOptions {
    let template = if streams > 1 { TEMPLATE_OF_SEVERAL } else { TEMPLATE };
    StartOptions { file_template: Some(template.to_owned()), ..StartOptions::default() }
}

/// Body of a start or stop.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OpenViduRoomName)]
struct RoomBody {
    /// The room to record.
    #[schema(required, nullable = false)]
    room_name: Option<String>,
}

fn room(body: &[u8]) -> Result<RoomName, Problem> {
    let name = parse::<RoomBody>(body)?.room_name.filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| {
        Problem::new(Kind::BadBody, "roomName is required: write {\"roomName\": \"the room to record\"}")
    })?;
    RoomName::new(&name)
        .map_err(|e| Problem::new(Kind::BadName, format!("roomName is {}: {e}", quoted(&name))))
}

/// The tutorial lists everything; here a list has an end, and `nextCursor` is where it goes on (`cursor`).
fn which(query: &str) -> Result<Which, Problem> {
    let mut which = Which { limit: Which::MAX_LIMIT, ..Which::default() };
    for (name, value) in form_urlencoded::parse(query.as_bytes()).filter(|(_, value)| !value.is_empty()) {
        match &*name {
            "roomName" => which.room = Some(value.into_owned()),
            "roomId" => which.room_id = Some(value.into_owned()),
            "cursor" => which.cursor = Some(value.into_owned()),
            "limit" => {
                let limit = value.parse().ok().filter(|n| (1..=Which::MAX_LIMIT).contains(n));
                which.limit = limit.ok_or_else(|| {
                    let detail = format!("`limit` is {}; write a number from 1 to 1000", quoted(&value));
                    Problem::new(Kind::BadParameter, detail)
                })?;
            }
            _ => {}
        }
    }
    Ok(which)
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = OpenViduDeleted)]
struct Deleted {
    message: &'static str,
}

/// Answer of a start or stop.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = OpenViduRoom)]
struct Told {
    message: &'static str,
    #[schema(required)]
    recording: Option<File>,
    recordings: Vec<File>,
    failures: Vec<Failure>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OpenViduList)]
struct List {
    recordings: Vec<File>,
    #[schema(required)]
    next_cursor: Option<String>,
}

/// A recording as the tutorial knows it: one file. Of a recording with several files each is one.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OpenViduFile)]
struct File {
    id: RecordingId,
    /// `null` while no frame is in a file.
    #[schema(required)]
    name: Option<String>,
    room_name: String,
    room_id: String,
    stream_name: String,
    media_session_id: MediaSessionId,
    /// Number of the file within its recording.
    part: u32,
    /// Unix time, ms.
    started_at: i64,
    /// Bytes; 0 while it is being recorded.
    size: u64,
    /// Media time; 0 while it is being recorded.
    duration_ms: u64,
}

/// A stream that is not recorded, or whose recording came to nothing.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OpenViduFailure)]
struct Failure {
    stream_name: String,
    media_session_id: MediaSessionId,
    error_message: String,
}

impl Told {
    fn of(message: &'static str, outcome: RoomOutcome) -> Self {
        let recordings: Vec<File> = outcome
            .done
            .into_iter()
            .flat_map(|one| match one.recording.parts.is_empty() {
                true => vec![File { name: one.file_name, ..File::begun(&one.recording) }],
                false => File::all_of(&one.recording).collect(),
            })
            .collect();
        let failures = outcome.failed.into_iter().map(Failure::of).collect();
        Self { message, recording: recordings.first().cloned(), recordings, failures }
    }
}

impl File {
    /// Its finished files.
    fn all_of(recording: &Recording) -> impl Iterator<Item = Self> {
        recording.parts.iter().map(|part| Self::of(recording, part))
    }

    fn of(recording: &Recording, part: &Part) -> Self {
        let begun = Self::begun(recording);
        Self {
            name: Some(part.name.clone()),
            part: part.number,
            // The first begins with its recording.
            started_at: if part.number == 1 { begun.started_at } else { part.started_at.timestamp_millis() },
            size: part.size,
            duration_ms: part.duration_ms,
            ..begun
        }
    }

    fn begun(recording: &Recording) -> Self {
        Self {
            id: recording.id,
            name: None,
            room_name: recording.room_name.clone(),
            room_id: recording.room_id.clone(),
            stream_name: recording.stream_name.clone(),
            media_session_id: recording.media_session_id,
            part: 1,
            started_at: recording.started_at_ms,
            size: 0,
            duration_ms: 0,
        }
    }
}

impl Failure {
    fn of(failure: RoomFailure) -> Self {
        let RoomFailure { stream_name, media_session_id, error } = failure;
        Self { stream_name, media_session_id, error_message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_has_to_be_named() {
        for body in ["", "{}", r#"{"roomName": null}"#, r#"{"roomName": ""}"#, r#"{"room": "court"}"#] {
            let problem = room(body.as_bytes()).expect_err(body);
            assert_eq!(problem.kind(), Kind::BadBody, "{body}");
            assert!(problem.detail().starts_with("roomName is required"), "{}", problem.detail());
        }
        assert_eq!(room(br#"{"roomName": 7}"#).expect_err("a number").kind(), Kind::BadBody);
        assert_eq!(room(br#"{"roomName": ".."}"#).expect_err("no name").kind(), Kind::BadName);
        let court = room(r#"{"roomName": "court é", "more": 1}"#.as_bytes()).expect("a room");
        assert_eq!(court.as_str(), "court é");
    }

    #[test]
    fn a_list_is_of_a_room_by_name_or_id() {
        let all = Which { limit: 1_000, ..Which::default() };
        assert_eq!(which("").expect("all"), all);
        assert_eq!(which("roomName=&roomId=&x=1").expect("all"), all);
        let one = which("roomName=court%20%C3%A9&roomId=r&limit=2&cursor=c").expect("some");
        assert_eq!((one.room.as_deref(), one.room_id.as_deref()), (Some("court é"), Some("r")));
        assert_eq!((one.limit, one.cursor.as_deref()), (2, Some("c")));
        for limit in ["0", "1001", "x"] {
            assert_eq!(which(&format!("limit={limit}")).expect_err(limit).kind(), Kind::BadParameter);
        }
    }

    #[test]
    fn files_of_rooms_with_several_streams_tell_them_apart() {
        let template = |streams| options(streams).file_template.expect("a template");
        assert!(!template(1).contains("{streamName}") && template(2).contains("{streamName}"));
        for streams in [1, 2] {
            crate::config::NameTemplate::parse(&template(streams)).expect("a template that works");
        }
    }
}
