//! A disk that stands still for 20 s: no publisher is dropped, memory is bounded, and what could not be kept is told.

use serde_json::Value;
use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};
use support::{
    daemon::{Daemon, House, SOON, text},
    faultfs::{FaultFs, Stalled},
    live::Live,
    media::{AAC, AUDIO, Probe, Publisher, decode, source},
    wait::{reached, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str =
    "record_rtmp_streams=true\nrecord_rtsp_streams=true\nstream_record_policy=streamName\n";
const STALL: Duration = Duration::from_secs(20);
/// An answer may take this long while the disk stands still: one that waits for the disk takes longer, and a busy machine
/// does not.
const PROMPT: Duration = Duration::from_secs(8);
/// 3 Mbit/s of noise, which is what a camera in the rain sends.
const RAIN: &[&str] = &["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30,noise=alls=60:allf=t"];
const RAIN_H264: &[&str] = &[
    "-c:v",
    "libx264",
    "-preset",
    "ultrafast",
    "-g",
    "30",
    "-pix_fmt",
    "yuv420p",
    "-b:v",
    "3M",
    "-maxrate",
    "3M",
    "-bufsize",
    "1M",
];

fn rain() -> PathBuf {
    source(TMP, "rain4.flv", &[RAIN, AUDIO, &["-t", "4"], RAIN_H264, AAC])
}

/// Resident memory, bytes.
fn memory(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn is_publishing(daemon: &Daemon, name: &str) -> bool {
    daemon.sessions().iter().any(|s| s["name"] == name && s["status"] == "PUBLISHING")
}

/// Frames in the parts of a recording, and frames told to be missing.
fn kept_and_told(recording: &Value) -> (usize, usize) {
    let parts = recording["parts"].as_array().expect("parts");
    let frames = |part: &Value| {
        let file = PathBuf::from(text(part, "file"));
        decode(&file);
        let (video, audio) = Probe::read(&file).counts();
        video + audio
    };
    let gaps = recording["lost"]["gaps"].as_array().expect("gaps");
    let told: u64 = gaps.iter().map(|gap| gap["frames"].as_u64().expect("a count")).sum();
    (parts.iter().map(frames).sum(), told as usize)
}

/// The only recording of `name`, once it has ended.
fn ended(daemon: &Daemon, name: &str) -> Value {
    let mut seen = Vec::new();
    reached(2 * SOON, || {
        seen = daemon.recordings(name);
        seen.iter().all(|r| matches!(r["status"].as_str(), Some("completed" | "failed")))
    });
    let [recording] = <[Value; 1]>::try_from(seen).unwrap_or_else(|seen| panic!("of {name}: {seen:#?}"));
    assert_eq!(recording["status"], "completed", "{recording:#}");
    recording
}

/// Ends the publisher; all it sent is in the file or told. Hands back how much was told.
fn settle(daemon: &Daemon, name: &str, live: Live) -> usize {
    let sent = live.stop_counting().expect("a good end");
    let recording = ended(daemon, name);
    let (kept, told) = kept_and_told(&recording);
    println!("{name}: {sent} frames sent, {kept} in the file, {told} told");
    assert_eq!(kept + told, sent, "{recording:#}");
    told
}

/// Three publishers over a stall, the third of them new; what was told of each of the two over RTMP.
fn over_a_stall(limits: &str, most_bytes: u64) -> [usize; 2] {
    let house = House::new(RECORD_ALL, limits);
    let fs = FaultFs::under(&house, &["records"]);
    let daemon = house.start(REELD);
    let file = rain();
    let first = Live::start(daemon.publish_options("live", "first"), &file);
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-nostdin", "-v", "error", "-re", "-stream_loop", "-1", "-i"]).arg(&file);
    ffmpeg.args(["-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp", &daemon.rtsp_url("live/pushed")]);
    let mut pushed = Publisher::spawn(&mut ffmpeg);
    wait_until("both are recorded", SOON, || {
        let written =
            |name: &str| fs::metadata(house.path(&format!("records/{name}.mp4.part"))).map_or(0, |m| m.len());
        written("first") > 100_000 && written("pushed") > 100_000
    });

    let before = memory(&daemon);
    let stall = fs.stall(Stalled::Writes);
    let until = Instant::now() + STALL;
    wait_until("the disk stands still", SOON, || fs.held() > 0);
    let mut new = None;
    let mut highest = before;
    while Instant::now() < until {
        let (asked, sent_ms) = (Instant::now(), first.sent_ms());
        daemon.get("/api/v1/recordings");
        assert!(
            is_publishing(&daemon, "first") && is_publishing(&daemon, "pushed"),
            "{:#?}",
            daemon.sessions()
        );
        assert!(asked.elapsed() < PROMPT, "answered after {:?}", asked.elapsed());
        wait_until("the publisher is read", PROMPT, || first.sent_ms() > sent_ms);
        highest = highest.max(memory(&daemon));
        if new.is_none() && until.duration_since(Instant::now()) < STALL / 2 {
            new = Some(Live::start(daemon.publish_options("live", "new"), &file));
            wait_until("a new publisher is taken", PROMPT, || is_publishing(&daemon, "new"));
        }
    }
    let new = new.expect("a new publisher");
    stall.go_on();

    println!("{limits:?}: {} KiB more memory", (highest - before) / 1024);
    assert!(highest - before <= most_bytes, "{} bytes more", highest - before);
    let (first_ms, new_ms) = (first.sent_ms(), new.sent_ms());
    wait_until("both go on", SOON, || first.sent_ms() > first_ms + 3000 && new.sent_ms() > new_ms + 3000);
    let told = [("first", first), ("new", new)].map(|(name, live)| settle(&daemon, name, live));
    pushed.interrupt();
    pushed.ended(SOON);
    let (kept, _) = kept_and_told(&ended(&daemon, "pushed"));
    assert!(kept > 100, "{kept} frames");
    told
}

#[test]
fn what_a_queue_holds_is_not_lost() {
    // 20 s of three streams at 3 Mbit/s are 23 MB.
    assert_eq!(over_a_stall("", 48 << 20), [0, 0]);
}

#[test]
fn what_a_queue_cannot_hold_is_told() {
    let [first, _] = over_a_stall("recorder_queue = \"1MiB\"\nmax_message_size = \"1MiB\"", 24 << 20);
    assert!(first > 0, "20 s fit into 1 MiB");
}
