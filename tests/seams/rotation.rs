//! Rotation by time, by size and on the clock's grid.

use super::{REELD, TMP, reel};
use serde_json::Value;
use std::{thread, time::Duration};
use support::{
    daemon::{Daemon, House, SOON, text},
    flv::Kind,
    lab::{Encoder, Reel, Units, compare_whole, decode_faults, part_files, seams_at_key_frames},
    live::{send, send_headers},
    media::{Probe, source},
    rtmp::Client,
    wait::wait_until,
};

const NAMED: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";
/// A group of pictures, and what timestamps in ms are rounded by.
const GOP_MS: i64 = 500 + 50;

/// Publishes so much of the reel as fast as it is taken.
fn send_at_once(daemon: &Daemon, name: &str, reel: &Reel, units: u64) {
    let mut client = Client::publish(daemon.publish_options("live", name)).expect("accepted");
    send_headers(&mut client, reel.headers(), 0).expect("sent");
    for sent in (0..units).map(|n| reel.unit(n)) {
        send(&mut client, sent.kind, sent.at_ms as u32, sent.payload).expect("sent");
    }
    client.unpublish().expect("a good end");
}

/// So many access units as are due within `ms`.
fn units_within(reel: &Reel, ms: u64) -> u64 {
    (0..).find(|n| reel.unit(*n).at_ms >= ms).expect("a reel has no end")
}

/// The parts of a finished recording: they hold what was sent, begin at key frames, decode, and had their hooks.
fn whole_parts(house: &House, daemon: &Daemon, name: &str, reel: &Reel, units: u64) -> (Value, Vec<Units>) {
    let recording = daemon.completed(name);
    let files = part_files(&recording);
    let parts: Vec<_> = files.iter().map(|file| Units::read(file).expect("a file")).collect();
    if let Err(fault) = compare_whole(reel, 0..units, &parts).and_then(|()| seams_at_key_frames(&parts)) {
        panic!("{name}: {fault}\n{recording:#}");
    }
    assert_eq!(files.iter().find_map(|file| decode_faults(file)), None, "{name}");
    assert_eq!(recording["lost"]["frames"], 0, "{name}: {recording:#}");
    assert_eq!(recording["lost"]["gaps"], serde_json::json!([]), "{name}: a seam is no gap");
    let part = |n: usize| &recording["parts"][n];
    for (n, units) in parts.iter().enumerate() {
        assert_eq!(part(n)["number"], n + 1, "{name}");
        assert_eq!(part(n)["video"]["frames"].as_u64().unwrap_or(0), units.video.len() as u64, "{name}");
    }
    wait_until("each part has its hook", SOON, || {
        let calls = house.hook_calls();
        files.iter().all(|file| calls.iter().filter(|call| call.file == *file).count() == 1)
    });
    (recording, parts)
}

/// Length of each part but the last, ms.
fn lengths_ms(recording: &Value) -> Vec<i64> {
    let parts = recording["parts"].as_array().expect("parts");
    let lengths = parts.iter().map(|part| part["durationMs"].as_i64().expect("a length"));
    lengths.take(parts.len() - 1).collect()
}

/// In real time, at once, with B-frames, one kind alone, sound half a second before and behind the pictures.
#[test]
fn each_kind_of_stream_rotates_without_losing_or_doubling_an_access_unit() {
    let house = House::new(&format!("{NAMED}record_rotation=2\n"), "");
    let daemon = house.start(REELD);
    let made = |name: &str, more: &[&str]| Reel::made(TMP, name, 11, 15, more);
    let reels = [
        ("plain", reel()),
        ("bframes", made("seam-b.flv", &["-bf", "2"])),
        ("sound", made("seam-a.flv", &["-map", "1:a"])),
        ("picture", made("seam-v.flv", &["-map", "0:v"])),
        ("sound_ahead", made("seam-ahead.flv", &["-vf", "setpts=PTS+0.5/TB"])),
        ("sound_behind", made("seam-behind.flv", &["-af", "asetpts=PTS+0.5/TB"])),
    ];
    let live: Vec<_> = reels
        .iter()
        .map(|(name, reel)| {
            Encoder::start(daemon.publish_options("live", name), reel, 0).expect("an accepted publish")
        })
        .collect();
    for (name, reel) in &reels {
        let units = units_within(reel, 9_000);
        send_at_once(&daemon, &format!("{name}_at_once"), reel, units);
        let (recording, parts) = whole_parts(&house, &daemon, &format!("{name}_at_once"), reel, units);
        assert!((4..=5).contains(&parts.len()), "{name}: {recording:#}");
        let lengths = lengths_ms(&recording);
        assert!(lengths.iter().all(|ms| (2000 - 50..=2000 + GOP_MS).contains(ms)), "{name}: {lengths:?}");
    }
    wait_until("9 s are sent", SOON, || live.iter().all(|encoder| encoder.sent_ms() >= 9_000));
    for ((name, reel), encoder) in reels.iter().zip(live) {
        let units = encoder.stop().expect("a good end");
        let (recording, parts) = whole_parts(&house, &daemon, name, reel, units);
        assert!(parts.len() >= 4, "{name}: {recording:#}");
    }
}

#[test]
fn parts_end_at_their_size_or_their_time_whichever_comes_first() {
    let reel = reel();
    let units = units_within(&reel, 60_000);
    for (rotation, most_ms, most_bytes) in
        [("1M", 60_000, 1_000_000), ("7,1M", 7_000, 1_000_000), ("1h,1M", 60_000, 1_000_000)]
    {
        let house = House::new(&format!("{NAMED}record_rotation={rotation}\n"), "");
        let daemon = house.start(REELD);
        send_at_once(&daemon, "cam", &reel, units);
        let (recording, parts) = whole_parts(&house, &daemon, "cam", &reel, units);
        assert!(parts.len() >= 2, "{rotation}: {recording:#}");
        let sizes: Vec<_> =
            part_files(&recording).iter().map(|f| f.metadata().expect("a file").len()).collect();
        // A group of pictures and the index may come on top.
        let slack = 100_000;
        assert!(sizes.iter().all(|size| *size <= most_bytes + slack), "{rotation}: {sizes:?}");
        let lengths = lengths_ms(&recording);
        assert!(lengths.iter().all(|ms| *ms <= most_ms + GOP_MS), "{rotation}: {lengths:?}");
        let by_size = sizes[..sizes.len() - 1].iter().all(|size| *size >= most_bytes - slack);
        let by_time = lengths.iter().all(|ms| *ms >= most_ms - 50);
        assert!(by_size || by_time, "{rotation}: {sizes:?}, {lengths:?}");
    }
}

/// The first part is shorter; the others begin on even seconds, at the first key frame there.
#[test]
fn seams_lie_on_the_clock() {
    let house = House::new(&format!("{NAMED}record_rotation=2\nrecord_rotation_align=clock\n"), "");
    let daemon = house.start(REELD);
    let reel = reel();
    let encoder = Encoder::start(daemon.publish_options("live", "cam"), &reel, 0).expect("accepted");
    wait_until("7 s are sent", SOON, || encoder.sent_ms() >= 7_000);
    let units = encoder.stop().expect("a good end");
    let (recording, parts) = whole_parts(&house, &daemon, "cam", &reel, units);
    assert!(parts.len() >= 4, "{recording:#}");
    for part in &recording["parts"].as_array().expect("parts")[1..] {
        let started = text(part, "startedAt");
        let started = chrono::DateTime::parse_from_rfc3339(&started).expect("a time").timestamp_millis();
        // The daemon tells the wall clock by when media arrives, on ticks.
        let past = started.rem_euclid(2000);
        assert!(past <= GOP_MS + 300 || past >= 2000 - 300, "{past} ms past the seam: {recording:#}");
    }
}

#[test]
fn other_containers_rotate_as_well() {
    let size: &[&str] = &["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30"];
    let vp8: &[&str] = &["-c:v", "libvpx", "-deadline", "realtime", "-b:v", "300k", "-g", "15"];
    let vp8 = Reel::vp8(&source(TMP, "vp8.ivf", &[size, &["-t", "9"], vp8]));
    for (name, extension, reel) in
        [("matroska", "mkv", reel()), ("webm", "webm", vp8), ("stream", "ts", reel())]
    {
        let container = if extension == "ts" { "h264-ts" } else { "h264-mkv,vp8-webm" };
        let house = House::new(&format!("{NAMED}record_rotation=2\nrecord_formats={container}\n"), "");
        let daemon = house.start(REELD);
        let units = units_within(&reel, 8_900);
        send_at_once(&daemon, name, &reel, units);
        if extension == "ts" {
            // Its access units have start codes and parameter sets there: they are counted.
            assert_counts(&daemon.completed(name), &reel, units);
            continue;
        }
        let (recording, parts) = whole_parts(&house, &daemon, name, &reel, units);
        assert!((4..=5).contains(&parts.len()), "{name}: {recording:#}");
        let files = part_files(&recording);
        assert!(files.iter().all(|file| file.extension().is_some_and(|e| e == extension)), "{files:?}");
    }
}

fn assert_counts(recording: &Value, reel: &Reel, units: u64) {
    let parts: Vec<_> = part_files(recording).iter().map(|file| Probe::read(file).counts()).collect();
    assert!(parts.len() >= 4, "{recording:#}");
    let found = parts.iter().fold((0, 0), |sum, part| (sum.0 + part.0 as u64, sum.1 + part.1 as u64));
    assert_eq!(found, (reel.count(Kind::Video, units), reel.count(Kind::Audio, units)));
}

/// An operator asks for it; the answer comes when the next part is there.
#[test]
fn a_start_call_can_ask_for_rotation_and_splits_come_on_top() {
    let house = House::new("record_rtmp_streams=false\nstream_record_policy=streamName\n", "");
    let daemon = house.start(REELD);
    let reel = reel();
    let encoder = Encoder::start(daemon.publish_options("live", "cam"), &reel, 0).expect("accepted");
    let id = daemon.session_id("cam");
    let path = format!("/api/v1/sessions/{id}/recording");
    daemon.post(&path, &serde_json::json!({ "rotation": 3 })).expect(201);
    wait_until("it has begun", SOON, || daemon.recordings("cam")[0]["status"] == "recording");
    for split in 1..=3 {
        let answer = daemon.request("POST", &format!("{path}/split"), b"").expect(200).json();
        assert_eq!(answer["status"], "recording", "split {split}: {answer:#}");
        thread::sleep(Duration::from_millis(700));
    }
    wait_until("9 s are sent", SOON, || encoder.sent_ms() >= 9_000);
    let recording = daemon.delete(&path).expect(200).json();
    drop(encoder);
    let files = part_files(&recording);
    assert!((5..=7).contains(&files.len()), "{recording:#}");
    let parts: Vec<_> = files.iter().map(|file| Units::read(file).expect("a file")).collect();
    seams_at_key_frames(&parts).expect("key frames");
    let pictures = parts.iter().flat_map(|part| &part.video);
    let runs = support::lab::runs(&reel, Kind::Video, pictures, 0).expect("only what was sent");
    assert_eq!(runs.len(), 1, "no picture is missing or doubled: {runs:?}");
}
