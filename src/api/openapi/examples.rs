//! Examples of the document, shortened. `tests/openapi` holds them against their schemas.

use super::Tag;
use serde_json::{Value, json};

const SESSION: &str = "0b8b2f6e-3c61-4d54-9a3f-7f6f3c1d2a10";
const RECORDING: &str = "5a0f2d53-6a55-4a5e-9f0b-2f4f3f1c9e77";

pub(in crate::api) fn session() -> Value {
    json!({
        "mediaSessionId": SESSION,
        "sessionId": "LzEyNy4wLjAuMTo1MDAwMC8xMjcuMC4wLjE6MTkzNQ",
        "name": "camera1",
        "roomName": "court",
        "roomId": "court",
        "protocol": "rtmp",
        "remote": "192.0.2.7:50000",
        "status": "PUBLISHING",
        "tracks": [
            {"kind": "video", "codec": "h264", "width": 1280, "height": 720},
            {"kind": "audio", "codec": "aac", "rate": 48_000, "channels": 2},
        ],
        "bitrate": 2_150_000,
        "frames": 1_204,
        "lost": 0,
        "createdAt": "2026-03-01T12:00:00Z",
        "recordingId": RECORDING,
    })
}

pub(in crate::api) fn recording() -> Value {
    json!({
        "id": RECORDING,
        "status": "completed",
        "degraded": [],
        "roomName": "court",
        "roomId": "court",
        "streamName": "camera1",
        "mediaSessionId": SESSION,
        "sessionId": "LzEyNy4wLjAuMTo1MDAwMC8xMjcuMC4wLjE6MTkzNQ",
        "protocol": "rtmp",
        "container": "mp4",
        "startedAt": "2026-03-01T12:00:00Z",
        "endedAt": "2026-03-01T12:00:10.100Z",
        "startedAtMs": 1_772_366_400_000_i64,
        "durationMs": 10_033,
        "size": 480_123,
        "parts": [part()],
        "lost": {"packets": 0, "frames": 0, "gaps": []},
        "deliveries": [{"kind": "hook", "part": 1, "state": "done", "attempts": 1}],
        "error": null,
    })
}

fn part() -> Value {
    json!({
        "number": 1,
        "file": "/srv/records/camera1.mp4",
        "name": "camera1.mp4",
        "size": 480_123,
        "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "startedAt": "2026-03-01T12:00:00.120Z",
        "durationMs": 10_033,
        "video": {"codec": "h264", "width": 1280, "height": 720, "frames": 301, "keyframes": 11},
        "audio": {"codec": "aac", "rate": 48_000, "channels": 2, "frames": 470},
        "hook": {"exit": 0, "attempts": 1, "output": ""},
        "poster": "/srv/records/camera1.mp4.jpg",
        "lost": {"packets": 0, "frames": 0},
    })
}

pub(in crate::api) fn source() -> Value {
    json!({
        "id": "f3a1f5a0-9d3b-4a53-8d0e-1a4f2a6f5b01",
        "uri": "rtsp://camera.lan/1",
        "stream": "court/cam",
        "roomName": "court",
        "name": "cam",
        "transport": "tcp",
        "record": true,
        "createdAt": "2026-03-01T12:00:00Z",
        "mediaSessionId": SESSION,
        "state": "live",
        "since": "2026-03-01T12:00:01Z",
    })
}

pub(in crate::api) fn page(item: Value) -> Value {
    json!({"items": [item], "nextCursor": null})
}

/// A file in the words of OpenVidu's tutorial.
pub(in crate::api) fn openvidu_file() -> Value {
    json!({
        "id": RECORDING,
        "name": "court-court-2026-03-01T120000.mp4",
        "roomName": "court",
        "roomId": "court",
        "streamName": "camera1",
        "mediaSessionId": SESSION,
        "part": 1,
        "startedAt": 1_772_366_400_000_i64,
        "size": 480_123,
        "durationMs": 10_033,
    })
}

/// `words`: the `type` and the `title`.
pub(super) fn problem(tag: Tag, status: u16, (of_type, title): (&str, &str), path: &str) -> Value {
    let detail = "what is wrong with this request, and what to do";
    if tag == Tag::Flashphoner {
        return json!({"error": detail, "status": status});
    }
    let mut problem =
        json!({"type": of_type, "title": title, "status": status, "detail": detail, "instance": path});
    if tag == Tag::OpenVidu {
        problem["errorMessage"] = json!(detail);
    }
    problem
}
