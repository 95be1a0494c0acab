//! What is recorded from before a start, and over the absence of a publisher.

use super::{REELD, TMP, reel};
use serde_json::{Value, json};
use std::{sync::Arc, thread, time::Duration};
use support::{
    daemon::{Daemon, House, SOON, file_of, text},
    flv::Kind,
    lab::{Encoder, Reel, Run, Units, decode_faults, offsets_ms, part_files, recordings, runs},
    rtmp::RtmpError,
    wait::{reached, wait_for, wait_until},
};

const ON_DEMAND: &str = "record_rtmp_streams=false\nstream_record_policy=streamName\n";
const ALWAYS: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";
const MAX_OFFSET_MS: f64 = 40.0;
const AWAY: Duration = Duration::from_secs(1);
/// What a daemon on a busy machine may not have read of a connection that is reset.
const UNREAD_MS: i64 = 1_500;
const UNREAD_PICTURES: u64 = 45;
/// By how much later than it was cut a busy machine may tell that.
const LATE_MS: i64 = 4_000;

fn publish(daemon: &Daemon, name: &str, reel: &Arc<Reel>, first: u64) -> Encoder {
    // A name is free again once the daemon has seen that its publisher is gone.
    wait_for("the publish is accepted", SOON, || {
        match Encoder::start(daemon.publish_options("live", name), reel, first) {
            Err(RtmpError::Refused(_)) => None,
            other => Some(other.expect("a connection")),
        }
    })
}

fn assert_in_step(reel: &Reel, units: &Units) {
    let worst = offsets_ms(reel, units)
        .expect("only what was sent")
        .into_iter()
        .fold(0.0, |worst: f64, offset| worst.max(offset.abs()));
    assert!(worst <= MAX_OFFSET_MS, "sound and picture are {worst} ms apart");
}

#[test]
fn pre_roll_reaches_back_to_a_key_frame_at_least_so_long_before_the_call() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    // A key frame every 7 s.
    let reel = Reel::flashing(TMP, 35, 210);
    let encoder = publish(&daemon, "cam", &reel, 0);
    let id = daemon.session_id("cam");
    wait_until("18 s are sent", 2 * SOON, || encoder.sent_ms() >= 18_500);
    let asked_at_ms = encoder.sent_ms();
    let path = format!("/api/v1/sessions/{id}/recording");
    daemon.post(&path, &json!({ "preroll": 10 })).expect(201);
    wait_until("2 s more are sent", SOON, || encoder.sent_ms() >= asked_at_ms + 2_000);
    let recording = daemon.delete(&path).expect(200).json();
    drop(encoder);
    let file = file_of(&recording);
    assert_eq!(decode_faults(&file), None);
    let units = Units::read(&file).expect("a file");
    assert!(units.video[0].key, "it begins with a key frame");
    let pictures = runs(&reel, Kind::Video, &units.video, 0).expect("only what was sent");
    let [Run { from, count }] = pictures[..] else { panic!("one stretch: {pictures:?}") };
    let begins_ms = reel.of_kind(Kind::Video, from).1;
    // Key frames are at 0, 7 and 14 s: the last one 10 s before the call is the one at 7 s.
    assert_eq!(
        begins_ms / 1000,
        7,
        "it begins {begins_ms} ms into the stream, the call was at {asked_at_ms}"
    );
    assert!(begins_ms + 10_000 <= asked_at_ms);
    let ends_ms = reel.of_kind(Kind::Video, from + count - 1).1;
    assert!(ends_ms >= asked_at_ms + 500, "{ends_ms} ms, the call was at {asked_at_ms}");
    assert_in_step(&reel, &units);
    assert_eq!(recording["degraded"], json!([]), "{recording:#}");
    // A young stream has no 10 s: then all of it is there, and nothing is wrong.
    let young = publish(&daemon, "young", &reel, 0);
    let path = format!("/api/v1/sessions/{}/recording", daemon.session_id("young"));
    wait_until("2 s are sent", SOON, || young.sent_ms() >= 2_000);
    daemon.post(&path, &json!({ "preroll": 10 })).expect(201);
    wait_until("1 s more is sent", SOON, || young.sent_ms() >= 3_000);
    let recording = daemon.delete(&path).expect(200).json();
    let units = Units::read(&file_of(&recording)).expect("a file");
    assert_eq!(runs(&reel, Kind::Video, &units.video, 0).expect("sent").first().map(|run| run.from), Some(0));
    assert_eq!(recording["degraded"], json!([]), "{recording:#}");
}

/// The publisher's network fails; it is back after a second. One recording, one file, and the gap is told.
#[test]
fn a_publisher_that_comes_back_in_time_goes_on_in_the_same_file() {
    let house = House::new(&format!("{ALWAYS}record_resume_window=20\n"), "");
    let daemon = house.start(REELD);
    let reel = reel();
    let first = publish(&daemon, "cam", &reel, 0);
    let before = daemon.session_id("cam");
    wait_until("3 s are sent", SOON, || first.sent_ms() >= 3_000);
    let cut = first.reset().expect("a connection until then");
    wait_until("the daemon has seen it", SOON, || {
        daemon.sessions().iter().all(|s| s["mediaSessionId"] != before.as_str())
    });
    assert_eq!(daemon.recordings("cam")[0]["status"], "recording", "it waits");
    thread::sleep(AWAY);
    let again_at = reel.key_from(cut + 100);
    let second = publish(&daemon, "cam", &reel, again_at);
    wait_until("3 s more are sent", SOON, || second.sent_ms() >= 3_000);
    let session = daemon.session("cam");
    let id = text(&session, "recordingId");
    let end = second.stop().expect("a good end");
    // It waits again; a stop ends that.
    wait_until("the publisher is gone", SOON, || {
        daemon.sessions().iter().all(|s| s["status"] != "PUBLISHING")
    });
    let stopped = stop_recording(&daemon, &text(&session, "mediaSessionId"));
    let [recording] = &recordings(&daemon)[..] else { panic!("one recording: {stopped:#}") };
    assert_eq!((text(recording, "id"), &recording["status"]), (id, &json!("completed")), "{recording:#}");
    let [file] = &part_files(recording)[..] else { panic!("one file: {recording:#}") };
    let units = Units::read(file).expect("a file");
    assert_eq!(decode_faults(file), None);
    assert_in_step(&reel, &units);
    let pictures = runs(&reel, Kind::Video, &units.video, 0).expect("only what was sent");
    let count = |n| reel.count(Kind::Video, n);
    assert_eq!(pictures.len(), 2, "{pictures:?}");
    assert_eq!(pictures[0].from, 0);
    // A reset may throw away what the daemon had not read yet.
    assert!(pictures[0].end() + UNREAD_PICTURES >= count(cut), "{pictures:?}, {} were sent", count(cut));
    assert_eq!((pictures[1].from, pictures[1].end()), (count(again_at), count(end)));
    assert_gap_told(recording, reel.unit(cut).at_ms as i64);
}

/// The end of a recording that waits for its publisher.
fn stop_recording(daemon: &Daemon, session: &str) -> Value {
    let answer = daemon.delete(&format!("/api/v1/sessions/{session}/recording"));
    assert!([200, 404, 409].contains(&answer.status), "{answer:?}");
    // The session may be gone from the list: then the window ends it.
    let ended = reached(2 * SOON, || daemon.recordings("cam")[0]["status"] == "completed");
    assert!(ended, "{:#}", daemon.recordings("cam")[0]);
    assert_eq!(answer.status, 200, "a recording that waits can be stopped: {answer:?}");
    answer.json()
}

/// `cut_ms`: media time when the connection was cut.
fn assert_gap_told(recording: &Value, cut_ms: i64) {
    for gaps in [&recording["lost"]["gaps"], &manifest_of(recording)["gaps"]] {
        let [gap] = &gaps.as_array().expect("gaps")[..] else { panic!("one gap: {recording:#}") };
        assert_eq!((&gap["kind"], &gap["frames"]), (&json!("reconnect"), &json!(0)));
        let (at_ms, by_ms) = (gap["atMs"].as_i64().expect("atMs"), gap["byMs"].as_i64().expect("byMs"));
        assert!((cut_ms - UNREAD_MS..=cut_ms + 100).contains(&at_ms), "cut at {cut_ms}: {gap}");
        assert!((900..=15_000).contains(&by_ms), "{gap}");
        let at = chrono::DateTime::parse_from_rfc3339(&text(gap, "at")).expect("a time");
        let started = recording["startedAtMs"].as_i64().expect("a time");
        let since = at.timestamp_millis() - started;
        assert!(
            (cut_ms - UNREAD_MS..=cut_ms + LATE_MS).contains(&since),
            "{since} ms after the start: {gap}"
        );
    }
}

fn manifest_of(recording: &Value) -> Value {
    let manifest = format!("{}.json", file_of(recording).display());
    serde_json::from_slice(&std::fs::read(manifest).expect("a manifest")).expect("JSON")
}

#[test]
fn a_publisher_that_comes_back_too_late_begins_another_recording() {
    let house = House::new(&format!("{ALWAYS}record_resume_window=1\n"), "");
    let daemon = house.start(REELD);
    let reel = reel();
    let first = publish(&daemon, "cam", &reel, 0);
    daemon.session_id("cam");
    wait_until("2 s are sent", SOON, || first.sent_ms() >= 2_000);
    first.reset().expect("a connection until then");
    let ended = daemon.completed("cam");
    assert_eq!(part_files(&ended).len(), 1);
    assert_eq!(ended["lost"]["gaps"], json!([]), "what never came back is no gap: {ended:#}");
    let second = publish(&daemon, "cam", &reel, 0);
    wait_until("1 s is sent", SOON, || second.sent_ms() >= 1_000);
    wait_until("there are two", SOON, || daemon.recordings("cam").len() == 2);
    second.stop().expect("a good end");
    wait_until("both are whole", SOON + Duration::from_secs(1), || {
        daemon.recordings("cam").iter().all(|r| r["status"] == "completed")
    });
}
