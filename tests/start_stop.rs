//! Recording on demand by REST: where it begins, what stop promises, what is refused, and that nothing is left over.

use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use support::{
    daemon::{Daemon, House, SOON, file_of, text},
    flv::{Due, Flv, Kind},
    live::{publish_at_once, send, send_headers},
    media::{Probe, Publisher, av_source, decode},
    rtmp::Client,
    wait::{wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const ON_DEMAND: &str = "stream_record_policy_template={streamName}-{startTime}\n";
const UNKNOWN: &str = "00000000-0000-4000-8000-000000000000";

fn flv() -> Flv {
    Flv::read(&av_source(TMP, 4)).expect("an FLV file")
}

/// A stream that has sent `length`, all of which the daemon has taken, and stays connected.
fn waiting_stream(daemon: &Daemon, name: &str, length: Duration) -> (Client, String) {
    let flv = flv();
    let client = publish_at_once(daemon.publish_options("live", name), &flv, length).expect("all is taken");
    let id = daemon.session_id(name);
    daemon.wait_frames(&id, flv.timeline(length).len() as u64);
    (client, id)
}

fn recording_path(id: &str) -> String {
    format!("/api/v1/sessions/{id}/recording")
}

fn flashphoner(daemon: &Daemon, call: &str, id: &str) -> u16 {
    let answer = daemon.post(&format!("/rest-api/stream/{call}"), &json!({ "mediaSessionId": id }));
    if answer.status == 200 {
        assert_eq!(answer.body, "");
    }
    answer.status
}

fn rest_of(client: &mut Client, flv: &Flv, from_ms: u32, length: Duration) -> usize {
    let timeline = flv.timeline(length);
    let rest: Vec<&Due> = timeline.iter().filter(|due| due.timestamp_ms >= from_ms).collect();
    for due in &rest {
        send(client, due.kind, due.timestamp_ms, due.payload).expect("sent");
    }
    rest.iter().filter(|due| due.kind == Kind::Video).count()
}

#[test]
fn it_begins_at_the_key_frame_already_seen() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    // 1.5 s: the newest key frame is the 31st of 45 pictures.
    let sent = Duration::from_millis(1500);
    for dialect in ["v1", "flashphoner"] {
        let (client, id) = waiting_stream(&daemon, dialect, sent);
        let asked_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as i64;
        match dialect {
            "v1" => {
                let started = daemon.post(&recording_path(&id), &json!({})).expect(201);
                let started_id = text(&started.json(), "id");
                assert!(
                    started.head.contains(&format!("/api/v1/recordings/{started_id}")),
                    "{}",
                    started.head
                );
                let stopped = daemon.delete(&recording_path(&id)).expect(200).json();
                assert_eq!((text(&stopped, "id"), &stopped["status"]), (started_id, &json!("completed")));
            }
            _ => {
                assert_eq!(flashphoner(&daemon, "startRecording", &id), 200);
                assert_eq!(flashphoner(&daemon, "stopRecording", &id), 200);
            }
        }
        // Nothing was sent after the start, and the answer to the stop was enough to wait for.
        let recording = daemon.recordings(dialect).pop().expect("a recording");
        assert_eq!(recording["status"], "completed");
        let file = file_of(&recording);
        let got = Probe::read(&file);
        let pictures = flv().timeline(sent).iter().filter(|due| due.kind == Kind::Video).count();
        assert_eq!(got.video.len(), pictures - 30, "{dialect}: the pictures from the last key frame on");
        assert_eq!(decode(&file), pictures - 30);
        assert!(got.video[0].key && got.video[0].pts_ms <= 40.0, "{dialect}: {:?}", got.video[0]);
        assert!(recording["startedAtMs"].as_i64() <= Some(asked_ms + 1000), "{recording:#}");
        client.unpublish().expect("a good end");
    }
}

#[test]
fn a_start_on_a_recorded_stream_ends_the_file_and_begins_a_new_one() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let (mut client, id) = waiting_stream(&daemon, "cam", Duration::from_millis(500));
    assert_eq!(flashphoner(&daemon, "startRecording", &id), 200);
    let first = daemon.get(&recording_path(&id));
    assert_eq!((&first["on"], first["recordingId"].is_string()), (&json!(true), true), "{first}");
    let more = rest_of(&mut client, &flv(), 500, Duration::from_secs(2));
    daemon.wait_frames(&id, flv().timeline(Duration::from_secs(2)).len() as u64);
    assert!(more > 40);

    assert_eq!(flashphoner(&daemon, "startRecording", &id), 200);
    let second = daemon.get(&recording_path(&id));
    assert_ne!(first["recordingId"], second["recordingId"]);
    let running = daemon.post("/rest-api/recorder/find_all", &json!({})).expect(200).json();
    assert_eq!(running.as_array().map(Vec::len), Some(1), "{running}");
    assert_eq!(running[0]["mediaSessionId"], json!(id));
    let completed = |state: &Value| {
        let path = format!("/api/v1/recordings/{}", text(state, "recordingId"));
        wait_for("it is completed", SOON, || {
            Some(daemon.get(&path)).filter(|recording| recording["status"] == "completed")
        })
    };
    let whole = completed(&first);
    assert_eq!(decode(&file_of(&whole)), 60, "2 s from the first key frame");

    client.unpublish().expect("a good end");
    let last = completed(&second);
    assert_eq!(decode(&file_of(&last)), 30, "from the newest key frame");
    assert_ne!(file_of(&whole), file_of(&last));
}

#[test]
fn what_cannot_be_done_is_said_with_a_status() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let (_client, id) = waiting_stream(&daemon, "cam", Duration::from_millis(500));
    let mine = recording_path(&id);
    let problem = |method: &str, path: &str, body: &str, status: u16, kind: &str| {
        let answer = daemon.request(method, path, body.as_bytes()).expect(status);
        assert!(answer.head.contains("application/problem+json"), "{answer:?}");
        let json = answer.json();
        assert_eq!((&json["type"], &json["status"]), (&json!(format!("/problems/{kind}")), &json!(status)));
        text(&json, "detail")
    };
    for method in ["POST", "DELETE", "GET"] {
        problem(method, &recording_path(UNKNOWN), "", 404, "unknown-session");
        problem(method, &recording_path("cam"), "", 404, "unknown-session");
    }
    problem("GET", &format!("/api/v1/recordings/{UNKNOWN}"), "", 404, "unknown-recording");
    problem("DELETE", &mine, "", 409, "not-recording");
    let detail = problem("POST", &mine, "{\"fileTemplate\": }", 400, "bad-body");
    assert!(detail.contains("line 1 column 18"), "{detail}");
    let detail = problem("POST", &mine, r#"{"fileTemplate": "{nope}"}"#, 400, "bad-template");
    assert!(detail.contains("nope") && detail.contains("streamName"), "{detail}");
    problem("POST", &mine, &format!("\"{}\"", "x".repeat(64 * 1024)), 413, "body-too-large");
    daemon.post(&mine, &json!({})).expect(201);
    problem("POST", &mine, "", 409, "already-recording");
    daemon.delete(&mine).expect(200);
    problem("DELETE", &mine, "", 409, "not-recording");

    for call in ["startRecording", "stopRecording"] {
        assert_eq!(flashphoner(&daemon, call, UNKNOWN), 404);
        let path = format!("/rest-api/stream/{call}");
        daemon.request("POST", &path, b"{\"mediaSessionId\": ").expect(400);
        daemon.request("POST", &path, b"{}").expect(400);
        daemon.request("POST", &path, "x".repeat(64 * 1024 + 1).as_bytes()).expect(413);
    }
    assert_eq!(flashphoner(&daemon, "stopRecording", &id), 404, "it is not recorded");
    daemon.post("/rest-api/recorder/find_all", &json!({})).expect(404);
}

#[test]
fn the_caller_names_the_file() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let (client, id) = waiting_stream(&daemon, "cam", Duration::from_millis(500));
    let options =
        json!({ "mediaSessionId": id, "config": { "fileTemplate": "{roomName}-{streamName}-{duration}" } });
    daemon.post("/rest-api/recorder/startup", &options).expect(200);
    daemon.post("/rest-api/recorder/terminate", &json!({ "mediaSessionId": id })).expect(200);
    let recording = daemon.completed("cam");
    let duration = recording["parts"][0]["durationMs"].as_u64().expect("ms");
    assert_eq!(text(&recording["parts"][0], "name"), format!("live-cam-{duration}.mp4"));

    let taken = json!({ "fileTemplate": "live-cam" });
    for wanted in ["live-cam.mp4", "live-cam_2.mp4", "live-cam_3.mp4"] {
        daemon.post(&recording_path(&id), &taken).expect(201);
        let stopped = daemon.delete(&recording_path(&id)).expect(200).json();
        assert_eq!(text(&stopped["parts"][0], "name"), wanted);
    }
    client.unpublish().expect("a good end");
}

#[test]
fn a_stop_gives_the_final_file_and_its_hook_in_no_time() {
    const LIMIT_MS: u128 = 200;
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let flv = Flv::read(&av_source(TMP, 10)).expect("an FLV file");
    let length = Duration::from_secs(60);
    let mut client = Client::publish(daemon.publish_options("live", "cam")).expect("accepted");
    send_headers(&mut client, &flv, 0).expect("sent");
    let timeline = flv.timeline(length);
    let send_some = |client: &mut Client, part: &[Due]| {
        for due in part {
            send(client, due.kind, due.timestamp_ms, due.payload).expect("sent");
        }
    };
    let (begin, rest) = timeline.split_at(40);
    send_some(&mut client, begin);
    let id = daemon.session_id("cam");
    daemon.post(&recording_path(&id), &json!({})).expect(201);
    send_some(&mut client, rest);
    daemon.wait_frames(&id, timeline.len() as u64);
    wait_until("60 s are written", SOON, || {
        daemon.get(&recording_path(&id))["totalRunningDurationMs"].as_u64() >= Some(59_900)
    });

    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos();
    let asked_ns = now();
    let stopped = daemon.delete(&recording_path(&id)).expect(200).json();
    let answered_ns = now();
    assert!(file_of(&stopped).is_file(), "the file is final when the stop is answered");
    let call = wait_for("the hook ran", SOON, || house.hook_calls().pop());
    let (final_ms, hook_ms) = ((answered_ns - asked_ns) / 1_000_000, (call.at_ns - asked_ns) / 1_000_000);
    println!("stop to final file {final_ms} ms, to the hook {hook_ms} ms, for 60 s");
    assert!(final_ms < LIMIT_MS && hook_ms < LIMIT_MS, "file after {final_ms} ms, hook after {hook_ms} ms");
    let pictures = timeline.iter().filter(|due| due.kind == Kind::Video).count();
    assert_eq!(Probe::read(&file_of(&stopped)).video.len(), pictures);
}

/// Starts and stops until `cycles` recordings are made; their final objects.
fn hammer(daemon: &Daemon, name: &str, cycles: usize) -> Vec<Value> {
    let id = daemon.session_id(name);
    let path = recording_path(&id);
    let cycle = |index: usize| {
        daemon.post(&path, &json!({})).expect(201);
        // Some are stopped at once, some after a while.
        let least = Some(index as u64 % 4 * 100);
        wait_until("some is written", SOON, || daemon.get(&path)["totalRunningDurationMs"].as_u64() >= least);
        daemon.delete(&path).expect(200).json()
    };
    (0..cycles).map(cycle).collect()
}

#[test]
fn ten_streams_started_and_stopped_two_hundred_times_leave_whole_files_and_nothing_else() {
    let house = House::new(ON_DEMAND, "hook_concurrency = 1");
    // 200 scripts would only measure the forking of this machine.
    std::fs::write(house.path("reeld.properties"), format!("{ON_DEMAND}on_record_hook_script=\n"))
        .expect("policy");
    let daemon = house.start(REELD);
    let input = av_source(TMP, 60);

    let names: Vec<String> = (0..10).map(|n| format!("cam{n}")).collect();
    let publish = |name: &String| Publisher::ffmpeg(&input, &daemon.url(&format!("live/{name}")), true);
    let publishers: Vec<_> = names.iter().map(publish).collect();
    let recordings: Vec<Value> = thread::scope(|scope| {
        let daemon = &daemon;
        let runs: Vec<_> = names.iter().map(|name| scope.spawn(move || hammer(daemon, name, 20))).collect();
        runs.into_iter().flat_map(|run| run.join().expect("no panic")).collect()
    });
    drop(publishers);
    wait_until("all streams are gone", SOON, || daemon.sessions().is_empty());

    assert_eq!(recordings.len(), 200);
    let files: BTreeSet<PathBuf> = recordings.iter().map(file_of).collect();
    assert_eq!(files.len(), 200, "each has a file of its own");
    assert_eq!(house.records(".part"), [] as [PathBuf; 0]);
    thread::scope(|scope| {
        for half in recordings.chunks(100) {
            scope.spawn(|| half.iter().for_each(assert_whole));
        }
    });
    assert_holdings_settle(&daemon);
}

fn assert_whole(recording: &Value) {
    assert_eq!(recording["status"], "completed", "{recording:#}");
    let file: &Path = &file_of(recording);
    let pictures = decode(file);
    assert!(pictures > 0, "{}", file.display());
    assert_eq!(
        recording["parts"][0]["video"]["frames"].as_u64(),
        Some(pictures as u64),
        "{}",
        file.display()
    );
}

/// A later load, stopped and gone, leaves as many threads and file descriptors as there were before it.
fn assert_holdings_settle(daemon: &Daemon) {
    let before = daemon.holdings();
    let load: Vec<_> =
        (0..10).map(|n| waiting_stream(daemon, &format!("again{n}"), Duration::from_secs(2))).collect();
    for (_, id) in &load {
        daemon.post(&recording_path(id), &json!({})).expect(201);
        daemon.delete(&recording_path(id)).expect(200);
    }
    for (client, _) in load {
        client.unpublish().expect("a good end");
    }
    wait_until(&format!("no more than {before:?} threads and files"), SOON, || {
        let now = daemon.holdings();
        now.0 <= before.0 && now.1 <= before.1
    });
}
