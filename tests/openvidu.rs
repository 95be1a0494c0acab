//! The calls of OpenVidu's recording tutorial, each with every status it has.

use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    thread,
    time::Duration,
};
use support::{
    daemon::{Daemon, House, SOON, text},
    flv::Flv,
    http::Answer,
    live::{Live, publish_at_once},
    media::{av_source, decode},
    rtmp::Client,
    wait::{wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const ON_DEMAND: &str = "stream_record_policy_template={streamName}-{startTime}\n";

fn publish(daemon: &Daemon, room: &str, name: &str) -> (Live, String) {
    let flv = Flv::read(&av_source(TMP, 4)).expect("an FLV file");
    let live = Live::start_flv(daemon.publish_options(room, name), flv);
    let id = daemon.session_id(name);
    daemon.wait_frames(&id, 5);
    (live, id)
}

/// A stream that has sent a second and nothing since: a room with it needs no CPU.
fn still(daemon: &Daemon, room: &str, name: &str) -> (Client, String) {
    let flv = Flv::read(&av_source(TMP, 4)).expect("an FLV file");
    let length = Duration::from_secs(1);
    let client = publish_at_once(daemon.publish_options(room, name), &flv, length).expect("all is taken");
    let id = daemon.session_id(name);
    daemon.wait_frames(&id, flv.timeline(length).len() as u64);
    (client, id)
}

fn ask(daemon: &Daemon, verb: &str, room: &str) -> Answer {
    daemon.post(&format!("/recordings/{verb}"), &json!({ "roomName": room }))
}

/// The error of `answer`, which has to have this status; its message for OpenVidu's clients.
fn refused(answer: Answer, status: u16, kind: &str) -> String {
    let answer = answer.expect(status);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["type"], format!("/problems/{kind}"), "{problem}");
    assert_eq!((&problem["status"], &problem["detail"]), (&json!(status), &problem["errorMessage"]));
    text(&problem, "errorMessage")
}

fn listed(daemon: &Daemon, query: &str) -> Vec<Value> {
    let list = daemon.get(&format!("/recordings{query}"));
    assert!(list["nextCursor"].is_null(), "{list}");
    list["recordings"].as_array().expect("recordings").clone()
}

fn names(recordings: &Value) -> Vec<String> {
    recordings.as_array().expect("recordings").iter().map(|r| text(r, "name")).collect()
}

/// `name` as a part of a path.
fn encoded(name: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    name.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn path_of(recording: &Value) -> String {
    format!("/recordings/{}", encoded(&text(recording, "name")))
}

/// Status, head and the bytes of the body.
fn fetch(daemon: &Daemon, method: &str, path: &str, headers: &str) -> (u16, String, Vec<u8>) {
    let mut socket = TcpStream::connect(daemon.http()).expect("a connection");
    socket.set_read_timeout(Some(SOON)).expect("a deadline");
    let request = format!("{method} {path} HTTP/1.1\r\nHost: reeld\r\nConnection: close\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("an answer");
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(answer[..end].to_vec()).expect("text").to_lowercase();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, head, answer.split_off(end + 4))
}

/// The room's name has what has to be encoded in a path.
#[test]
fn a_recording_is_started_stopped_listed_played_and_deleted_as_in_the_tutorial() {
    const ROOM: &str = "court é 1";
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let (live, id) = publish(&daemon, ROOM, "camera");

    let started = ask(&daemon, "start", ROOM).expect(200).json();
    assert_eq!(started["message"], "Recording started");
    let recording = &started["recording"];
    let name = text(recording, "name");
    assert!(name.starts_with("court é 1-court é 1-20") && name.ends_with(".mp4"), "{name}");
    assert_eq!((&started["recordings"], &started["failures"]), (&json!([recording]), &json!([])));
    assert_eq!((&recording["roomName"], &recording["streamName"]), (&json!(ROOM), &json!("camera")));
    assert!(recording["startedAt"].as_i64() > Some(1_700_000_000_000), "{recording}");

    refused(ask(&daemon, "start", ROOM), 409, "already-recording");
    assert_eq!(listed(&daemon, ""), [] as [Value; 0], "its file is not finished");
    let path = path_of(recording);
    refused(daemon.request("GET", &path, b""), 404, "unknown-file");
    refused(daemon.delete(&path), 404, "unknown-file");

    wait_until("2 s are recorded", SOON, || {
        let state = daemon.get(&format!("/api/v1/sessions/{id}/recording"));
        state["totalRunningDurationMs"].as_u64() >= Some(2_000)
    });
    let stopped = ask(&daemon, "stop", ROOM).expect(200).json();
    assert_eq!(
        (&stopped["message"], names(&stopped["recordings"])),
        (&json!("Recording stopped"), vec![name.clone()])
    );
    assert_eq!(stopped["recording"]["startedAt"], recording["startedAt"]);
    refused(ask(&daemon, "stop", ROOM), 409, "not-recording");
    live.stop().expect("a good end");

    let file = house.path("records").join(&name);
    let bytes = fs::read(&file).expect("the file is final when the stop is answered");
    assert!(decode(&file) > 30);
    assert_eq!(stopped["recording"]["size"], bytes.len());
    let room = encoded(ROOM);
    for query in [
        "".to_owned(),
        format!("?roomName={room}"),
        format!("?roomId={room}"),
        format!("?roomId={room}&roomName={room}"),
    ] {
        assert_eq!(listed(&daemon, &query), [stopped["recording"].clone()], "{query}");
    }
    for query in ["?roomName=other", "?roomId=other"] {
        assert_eq!(listed(&daemon, query), [] as [Value; 0], "{query}");
    }
    plays(&daemon, &path, &bytes);

    let deleted = daemon.delete(&path).expect(200).json();
    assert_eq!(deleted, json!({"message": "Recording deleted"}));
    assert_eq!(house.records(""), [] as [PathBuf; 0], "neither the file nor what is beside it");
    refused(daemon.delete(&path), 404, "unknown-file");
    refused(daemon.request("GET", &path, b""), 404, "unknown-file");
    assert_eq!(listed(&daemon, ""), [] as [Value; 0]);
}

fn plays(daemon: &Daemon, path: &str, bytes: &[u8]) {
    let size = bytes.len();
    let ranges = [
        ("", 200, 0..size),
        ("Range: bytes=0-99\r\n", 206, 0..100),
        ("Range: bytes=100-\r\n", 206, 100..size),
        ("Range: bytes=-10\r\n", 206, size - 10..size),
    ];
    for (range, wanted, part) in ranges {
        let (status, head, body) = fetch(daemon, "GET", path, range);
        assert_eq!(status, wanted, "{range}: {head}");
        assert!(body == bytes[part.clone()], "{range}");
        assert!(head.contains("content-type: video/mp4") && head.contains("accept-ranges: bytes"), "{head}");
        let told = format!("content-range: bytes {}-{}/{size}", part.start, part.end - 1);
        assert_eq!(head.contains(&told), wanted == 206, "{head}");
    }
    let (status, head, body) = fetch(daemon, "HEAD", path, "");
    assert_eq!((status, body.len()), (200, 0));
    assert!(head.contains(&format!("content-length: {size}")), "{head}");
    let (status, head, _) = fetch(daemon, "GET", path, &format!("Range: bytes={size}-\r\n"));
    assert_eq!(status, 416);
    assert!(head.contains(&format!("content-range: bytes */{size}")), "{head}");
}

#[test]
fn what_is_wrong_is_said_with_a_status() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    for verb in ["start", "stop"] {
        let path = format!("/recordings/{verb}");
        for body in ["", "{}", r#"{"roomName": ""}"#, r#"{"roomName": null}"#] {
            let message = refused(daemon.request("POST", &path, body.as_bytes()), 400, "bad-body");
            assert!(message.starts_with("roomName is required"), "{message}");
        }
        refused(daemon.request("POST", &path, b"{\"roomName\": "), 400, "bad-body");
        refused(ask(&daemon, verb, "../x"), 400, "bad-name");
        let long = "x".repeat(64 * 1024);
        refused(ask(&daemon, verb, &long), 413, "body-too-large");
        let answer = daemon.request("GET", &path, b"");
        assert_eq!(answer.header("allow"), Some("POST"));
        refused(answer, 405, "method-not-allowed");
    }
    refused(ask(&daemon, "start", "nobody"), 404, "unknown-room");
    refused(ask(&daemon, "stop", "nobody"), 409, "not-recording");
    refused(daemon.request("PUT", "/recordings", b""), 405, "method-not-allowed");
    refused(daemon.request("POST", "/recordings/x.mp4", b""), 405, "method-not-allowed");
    refused(daemon.request("GET", "/recordings?limit=0", b""), 400, "bad-parameter");
    refused(daemon.request("GET", "/recordings?cursor=x", b""), 400, "bad-cursor");
    // Nothing but what the catalog names, and nothing outside of the records folder.
    fs::write(house.path("records/stranger.mp4"), "not ours").expect("a file");
    for name in ["stranger.mp4", "none.mp4", "%2e%2e", "..%2Freeld.toml", "%2Fetc%2Fpasswd", "a%00b"] {
        for method in ["GET", "DELETE"] {
            refused(daemon.request(method, &format!("/recordings/{name}"), b""), 404, "unknown-file");
        }
    }
    assert!(house.path("records/stranger.mp4").is_file() && house.path("reeld.toml").is_file());
}

#[test]
fn of_a_room_with_several_streams_each_is_recorded_and_what_cannot_be_is_told() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let (_one, _) = still(&daemon, "court", "one");
    let (_two, _) = still(&daemon, "court", "two");
    let (_other, other_id) = still(&daemon, "other", "three");
    // It has been let in and has sent nothing.
    let _silent = Client::publish(daemon.publish_options("court", "silent")).expect("accepted");

    let started = ask(&daemon, "start", "court").expect(200).json();
    let streams = |recordings: &Value| -> Vec<String> {
        recordings.as_array().expect("a list").iter().map(|r| text(r, "streamName")).collect()
    };
    assert_eq!(streams(&started["recordings"]), ["one", "two"], "{started:#}");
    assert_eq!(started["recording"], started["recordings"][0]);
    assert_eq!(streams(&started["failures"]), ["silent"]);
    let why = text(&started["failures"][0], "errorMessage");
    assert!(why.contains("not publishing yet"), "{why}");
    for (name, stream) in names(&started["recordings"]).iter().zip(["one", "two"]) {
        assert!(name.starts_with(&format!("court-court-{stream}-20")), "{name}");
    }
    let state = daemon.get(&format!("/api/v1/sessions/{other_id}/recording"));
    assert_eq!(state["on"], false, "it is in another room");

    let stopped = ask(&daemon, "stop", "court").expect(200).json();
    let mut ended = names(&stopped["recordings"]);
    ended.sort();
    assert_eq!(ended, names(&started["recordings"]));
    assert_eq!(house.records(".mp4").len(), 2);

    // Newest first, also over pages.
    let all = listed(&daemon, "?roomName=court");
    let times: Vec<_> = all.iter().map(|r| r["startedAt"].as_i64().expect("ms")).collect();
    assert!(all.len() == 2 && times.is_sorted_by(|a, b| a >= b), "{all:#?}");
    let page = daemon.get("/recordings?roomName=court&limit=1");
    let cursor = text(&page, "nextCursor");
    let rest = listed(&daemon, &format!("?roomName=court&limit=1&cursor={cursor}"));
    assert_eq!([&page["recordings"][0], &rest[0]], [&all[0], &all[1]]);
}

#[test]
fn a_room_where_nothing_can_be_recorded_is_refused() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let _silent = Client::publish(daemon.publish_options("court", "silent")).expect("accepted");
    wait_until("it is known", SOON, || !daemon.sessions().is_empty());
    refused(ask(&daemon, "start", "court"), 409, "not-publishing");
    refused(ask(&daemon, "stop", "court"), 409, "not-recording");
    fs::write(house.path("reeld.properties"), "record_streams=false\n").expect("policy");
    let (_camera, _) = still(&daemon, "court", "camera");
    wait_for("recording is switched off", SOON, || {
        let answer = ask(&daemon, "start", "court");
        if answer.status == 200 {
            ask(&daemon, "stop", "court").expect(200);
            return None;
        }
        Some(refused(answer, 409, "recording-off"))
    });
}

/// Whoever began it: the policy, a call on the session, or another start of the room.
#[test]
fn a_room_is_active_while_any_of_its_streams_is_recorded() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let (_one, id) = still(&daemon, "court", "one");
    let (_two, _) = still(&daemon, "court", "two");
    daemon.post(&format!("/api/v1/sessions/{id}/recording"), &json!({})).expect(201);
    refused(ask(&daemon, "start", "court"), 409, "already-recording");
    let stopped = ask(&daemon, "stop", "court").expect(200).json();
    assert_eq!(stopped["recordings"].as_array().map(Vec::len), Some(1), "{stopped:#}");
    assert_eq!(stopped["recording"]["streamName"], "one");

    let mut statuses: Vec<u16> = thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| ask(&daemon, "start", "court").status)).collect();
        starts.into_iter().map(|start| start.join().expect("no panic")).collect()
    });
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409]);
    let stopped = ask(&daemon, "stop", "court").expect(200).json();
    assert_eq!(stopped["recordings"].as_array().map(Vec::len), Some(2), "{stopped:#}");
}

/// The tutorial knows one file for a recording. Deleting one of several must not take the others with it unsaid.
#[test]
fn each_file_of_a_recording_is_listed_and_only_all_are_deleted() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let (live, id) = publish(&daemon, "court", "camera");
    let started = ask(&daemon, "start", "court").expect(200).json();
    let split = daemon.post(&format!("/api/v1/sessions/{id}/recording/split"), &json!({})).expect(200).json();
    wait_until("a part is finished", SOON, || listed(&daemon, "").len() == 1);
    let stopped = ask(&daemon, "stop", "court").expect(200).json();
    live.stop().expect("a good end");
    assert_eq!(names(&stopped["recordings"]).len(), 2, "{stopped:#}");

    let files = listed(&daemon, "");
    let parts: Vec<_> =
        files.iter().map(|f| (f["part"].as_u64(), f["id"] == started["recording"]["id"])).collect();
    assert_eq!(parts, [(Some(2), true), (Some(1), true)], "newest first");
    for file in &files {
        let message = refused(daemon.delete(&path_of(file)), 409, "several-files");
        assert!(message.contains(&format!("DELETE /api/v1/recordings/{}", text(&split, "id"))), "{message}");
        assert_eq!(daemon.request("HEAD", &path_of(file), b"").status, 200);
    }
    daemon.delete(&format!("/api/v1/recordings/{}", text(&split, "id"))).expect(204);
    assert_eq!(listed(&daemon, ""), [] as [Value; 0]);
}
