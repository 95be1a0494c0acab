//! `kill -9` costs at most a second of a recording, no hook, and no name.

use serde_json::Value;
use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};
use support::{
    daemon::{House, SOON},
    flv::Flv,
    live::{Live, publish_at_once},
    media::{Probe, av_source, run},
    wait::{wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";
const MAX_LOSS_MS: u64 = 1000;

/// The seed of this run: `REELD_TEST_SEED`, else a new one.
fn seed() -> u64 {
    let given = std::env::var("REELD_TEST_SEED").ok();
    let seed =
        given.map_or_else(|| RandomState::new().build_hasher().finish(), |s| s.parse().expect("a number"));
    eprintln!("REELD_TEST_SEED={seed}");
    seed
}

/// Ten moments, 2 to 5 s into a recording.
fn moments(seed: u64) -> Vec<u64> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        2000 + (state >> 33) % 3000
    };
    (0..10).map(next).collect()
}

/// Pictures and sounds that ffmpeg reads from an unfinished file, and the time of the last of each.
fn playable(part: &Path) -> (usize, u64, u64) {
    let frames = "-show_entries stream=codec_type -show_entries frame=media_type,best_effort_timestamp_time";
    let text =
        run(Command::new("ffprobe").args(["-v", "fatal", "-of", "json"]).args(frames.split(' ')).arg(part));
    let json: Value = serde_json::from_str(&text).expect("JSON of ffprobe");
    let frames = json["frames"].as_array().expect("frames");
    let times = |kind: &str| {
        let of_kind = frames.iter().filter(|f| f["media_type"] == kind);
        let time = |f: &Value| f["best_effort_timestamp_time"].as_str()?.parse::<f64>().ok();
        of_kind.filter_map(time).map(|s| (s * 1000.0) as u64).collect::<Vec<_>>()
    };
    let (video, audio) = (times("video"), times("audio"));
    let last = |times: &[u64]| times.iter().copied().max().unwrap_or(0);
    (video.len(), last(&video), last(&audio))
}

fn kill_at(moment_ms: u64, input: &Path) -> Result<(), String> {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let live = Live::start(daemon.publish_options("live", "cam"), input);
    wait_until("so much is sent", SOON, || live.sent_ms() >= moment_ms);
    let sent_ms = live.sent_ms();
    daemon.kill_9();
    let parts = house.records(".part");
    let [part] = &parts[..] else { return Err(format!("killed at {moment_ms} ms: {parts:?}")) };
    let (pictures, video_ms, audio_ms) = playable(part);
    let least_ms = sent_ms - MAX_LOSS_MS;
    if video_ms < least_ms || audio_ms < least_ms {
        return Err(format!("{sent_ms} ms sent; video plays to {video_ms} ms, audio to {audio_ms} ms"));
    }
    // 30 pictures a second, none missing in between.
    let wanted = (video_ms as f64 * 0.03).round() as usize;
    if pictures + 1 < wanted {
        return Err(format!("{pictures} pictures in {video_ms} ms"));
    }
    Ok(())
}

#[test]
fn what_is_being_written_plays_after_kill_9() {
    let input = av_source(TMP, 10);
    let results = thread::scope(|scope| {
        let input = &input;
        let runs = moments(seed()).into_iter().map(|ms| scope.spawn(move || kill_at(ms, input)));
        let runs: Vec<_> = runs.collect();
        runs.into_iter().map(|run| run.join().expect("no panic")).collect::<Vec<_>>()
    });
    let faults: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_hook_that_was_not_done_runs_at_the_next_start() {
    let house = House::new(RECORD_ALL, "");
    let noting = "printf '%s\\t%s\\t%s\\n' \"$(date +%s%N)\" \"$1\" \"$2\" >> \"${0%/*}/calls\"\n";
    // The first run holds on to its pipe until the test's end; the daemon is killed meanwhile.
    house.hook(&format!(
        "#!/bin/sh\nif [ ! -e \"${{0%/*}}/entered\" ]; then\n: > \"${{0%/*}}/entered\"\nread forever < \"${{0%/*}}/fifo\"\nfi\n{noting}"
    ));
    run(Command::new("mkfifo").arg(house.path("hooks/fifo")));
    let daemon = house.start(REELD);
    let flv = Flv::read(&av_source(TMP, 2)).expect("an FLV file");
    let length = Duration::from_secs(2);
    let client = publish_at_once(daemon.publish_options("live", "cam"), &flv, length).expect("all is taken");
    client.unpublish().expect("a good end");
    let first = daemon.completed("cam");
    wait_until("the hook runs", SOON, || house.path("hooks/entered").exists());
    daemon.kill_9();
    assert_eq!(house.hook_calls(), []);

    let daemon = house.start(REELD);
    let file = support::daemon::file_of(&first);
    let call = wait_for("the hook runs again", SOON, || house.hook_calls().into_iter().next());
    assert_eq!((call.stream.as_str(), &call.file), ("cam", &file));
    wait_until("its result is kept", SOON, || daemon.completed("cam")["parts"][0]["hook"]["exit"] == 0);
    // Lets the script of the first run go, if it lives: nobody killed its process group.
    drop(
        std::fs::OpenOptions::new().read(true).write(true).open(house.path("hooks/fifo")).expect("the fifo"),
    );
}

#[test]
fn names_stay_taken() {
    let house = House::new(RECORD_ALL, "");
    let flv = Flv::read(&av_source(TMP, 2)).expect("an FLV file");
    let length = Duration::from_secs(2);

    let daemon = house.start(REELD);
    let whole = publish_at_once(daemon.publish_options("live", "cam"), &flv, length).expect("all is taken");
    whole.unpublish().expect("a good end");
    let first = support::daemon::file_of(&daemon.completed("cam"));
    let before = std::fs::read(&first).expect("the file");
    let broken = publish_at_once(daemon.publish_options("live", "cam"), &flv, length).expect("all is taken");
    wait_until("it is being written", SOON, || house.records("cam_2.mp4.part").len() == 1);
    daemon.kill_9();
    drop(broken);

    let daemon = house.start(REELD);
    let third = publish_at_once(daemon.publish_options("live", "cam"), &flv, length).expect("all is taken");
    third.unpublish().expect("a good end");
    let third = wait_for("the third recording", SOON, || house.records("cam_3.mp4").pop());
    assert_eq!(Probe::read(&third).counts(), Probe::read(&first).counts());
    assert_eq!(std::fs::read(&first).expect("the file"), before, "the first is as it was");
    drop(daemon);
}

/// They were told while it ran, and gone after it was recovered: its wall-clock times were wrong and nobody knew.
#[test]
fn what_was_left_out_is_still_told_after_a_crash() {
    let house = House::new(&format!("{RECORD_ALL}record_rotation=2\n"), "");
    let daemon = house.start(REELD);
    let live = Live::start(daemon.publish_options("live", "cam"), &av_source(TMP, 10));
    wait_until("there is a second part", SOON, || live.sent_ms() >= 3000);
    let session = daemon.session_id("cam");
    let ask = |verb: &str| {
        daemon.post(&format!("/api/v1/sessions/{session}/recording/{verb}"), &Value::Null).expect(200)
    };
    ask("pause");
    ask("resume");
    let gaps = || daemon.recordings("cam")[0]["lost"]["gaps"].clone();
    wait_until("the pause is told", SOON, || gaps().as_array().map(Vec::len) == Some(1));
    let told = gaps();
    let sent_ms = live.sent_ms();
    wait_until("it goes on", SOON, || live.sent_ms() >= sent_ms + 1500);
    daemon.kill_9();
    let daemon = house.start(REELD);
    let recording = wait_for("it is recovered", SOON, || {
        daemon.recordings("cam").into_iter().find(|r| r["status"] == "recovered")
    });
    assert_eq!(recording["lost"]["gaps"], told, "{recording:#}");
    let of_parts = recording["parts"].as_array().expect("parts").iter();
    let in_parts: usize = of_parts.filter_map(|part| part["gaps"].as_array().map(Vec::len)).sum();
    assert_eq!(in_parts, 1, "{recording:#}");
}
