//! What is wrong with a recording while it runs is told within two intervals, from its beginning and on a change, and so is
//! that it is over; what is well is never told.

use serde_json::Value;
use std::{
    path::PathBuf,
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use support::{
    daemon::{Daemon, House, SOON},
    flv::{Flv, Kind, Tag},
    live::{Live, send_headers},
    media::{AAC, Publisher, source},
    rtmp::Client,
    wait::{wait_for, wait_until},
    ws::WebSocket,
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const POLICY: &str = "record_rtmp_streams=true\nrecord_rtsp_streams=true\nstream_record_policy=streamName\n";
const LIMITS: &str = "monitor_interval = \"2s\"\nkey_frame_timeout = \"3s\"\npublisher_timeout = \"60s\"\n";
const INTERVAL_MS: u64 = 2_000;
/// What a busy machine adds to two intervals.
const SLACK_MS: u64 = 3_000;
/// Of each scene.
const SCENE_MS: u32 = 10_000;

/// Two tests at a time: their encoders and their looks want processor time.
static PLACES: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];
static NEXT: AtomicUsize = AtomicUsize::new(0);

fn place() -> MutexGuard<'static, ()> {
    let place = &PLACES[NEXT.fetch_add(1, Ordering::Relaxed) % PLACES.len()];
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A scene with sound, 10 s of it; scenes that were made with the same encoder can follow each other.
fn scene(name: &str, picture: &str, sound: &str) -> Flv {
    let h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "15", "-bf", "0", "-pix_fmt", "yuv420p"];
    let (picture, length) = (format!("{picture},fps=15,format=yuv420p"), (SCENE_MS / 1_000).to_string());
    let inputs = ["-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", sound, "-t", &length];
    let file: PathBuf = source(TMP, &format!("truth-{name}.flv"), &[&inputs, &h264, AAC]);
    Flv::read(&file).expect("an FLV file")
}

const MOVING: &str = "testsrc2=size=320x180:rate=15";
/// A scene that stands still in front of a camera that does not.
const STILL: &str =
    "testsrc2=size=320x180:rate=15:duration=0.06,loop=-1:1,setpts=N/15/TB,noise=alls=8:allf=t";
const FROZEN: &str = "testsrc2=size=320x180:rate=15:duration=0.06,loop=-1:1,setpts=N/15/TB";
const BLACK: &str = "color=black:size=320x180:rate=15";
const TONE: &str = "sine=frequency=440:sample_rate=48000";
const SILENCE: &str = "anullsrc=sample_rate=48000:channel_layout=mono";

fn good() -> Flv {
    scene("good", MOVING, TONE)
}

/// One after the other.
fn join(scenes: &[Flv]) -> Flv {
    let mut whole = scenes[0].clone();
    whole.media.clear();
    for (n, scene) in scenes.iter().enumerate() {
        let from_ms = n as u32 * SCENE_MS;
        let shifted = scene.media.iter().filter(|tag| tag.timestamp_ms < SCENE_MS);
        whole
            .media
            .extend(shifted.map(|tag| Tag { timestamp_ms: from_ms + tag.timestamp_ms, ..tag.clone() }));
    }
    whole
}

fn without(scene: Flv, left_out: impl Fn(&Tag) -> bool) -> Flv {
    let mut scene = scene;
    scene.media.retain(|tag| !left_out(tag));
    scene
}

fn is_key(tag: &Tag) -> bool {
    tag.kind == Kind::Video && tag.payload[0] >> 4 == 1
}

/// A recording as it is now, once there is one.
fn recording(daemon: &Daemon, name: &str) -> Option<Value> {
    daemon.recordings(name).pop()
}

fn degraded(daemon: &Daemon, name: &str) -> Vec<String> {
    let reasons = recording(daemon, name).map(|r| r["degraded"].clone());
    reasons
        .iter()
        .flat_map(|r| r.as_array().into_iter().flatten())
        .filter_map(|r| r.as_str().map(str::to_owned))
        .collect()
}

/// When a reason came or went, by what had been sent then, ms.
fn wait_state(daemon: &Daemon, live: &Live, name: &str, reason: &str, holds: bool) -> u64 {
    let what = format!("{name} is {}{reason}", if holds { "" } else { "not " });
    wait_until(&what, Duration::from_secs(30), || {
        degraded(daemon, name).iter().any(|r| r == reason) == holds
    });
    live.sent_ms()
}

/// Bad from its first second, then good, bad and good again: told each time within two intervals.
fn told_and_over(daemon: &Daemon, reason: &str, bad: Flv) {
    let live =
        Live::start_flv(daemon.publish_options("live", reason), join(&[bad.clone(), good(), bad, good()]));
    let scene = u64::from(SCENE_MS);
    for round in 0..2 {
        let begins_ms = 2 * round * scene;
        let told_ms = wait_state(daemon, &live, reason, reason, true);
        assert!(
            told_ms <= begins_ms + 2 * INTERVAL_MS + SLACK_MS,
            "{reason}, round {round}: after {told_ms} ms"
        );
        assert!(told_ms < begins_ms + scene, "{reason}, round {round}: after {told_ms} ms");
        let over_ms = wait_state(daemon, &live, reason, reason, false);
        assert!(
            (begins_ms + scene..begins_ms + 2 * scene).contains(&over_ms),
            "{reason}, round {round}: over after {over_ms} ms"
        );
    }
    live.stop().expect("a farewell");
    let done = daemon.completed(reason);
    let troubles = done["health"].as_array().expect("health");
    assert!(troubles.iter().all(|t| t["until"].is_string()), "{reason}: {troubles:?}");
    // A file begins with a key frame: before that nothing is written, and that is told, too.
    let (own, others): (Vec<_>, Vec<_>) = troubles.iter().partition(|t| t["reason"] == reason);
    let waits = |t: &&Value| reason == "no-video" && t["reason"] == "no-data";
    assert!(own.len() == 2 && others.iter().all(waits), "{reason}: {troubles:?}");
    // What a file's own tracks miss is told beside it.
    assert!(!done["degraded"].as_array().expect("reasons").iter().any(|r| r == reason), "{reason}: {done:#}");
    let manifest: Value = {
        let file = support::daemon::file_of(&done);
        serde_json::from_slice(&std::fs::read(format!("{}.json", file.display())).expect("a manifest"))
            .expect("JSON")
    };
    assert_eq!(manifest["health"], done["health"], "{reason}");
}

/// Publishes all of them side by side.
fn all_told(cases: Vec<(&'static str, Flv)>) {
    let _place = place();
    let house = House::new(POLICY, LIMITS);
    let daemon = house.start(REELD);
    std::thread::scope(|threads| {
        for (reason, bad) in cases {
            let daemon = &daemon;
            threads.spawn(move || told_and_over(daemon, reason, bad));
        }
    });
}

#[test]
fn black_and_frozen_pictures_are_told() {
    all_told(vec![("black", scene("black", BLACK, TONE)), ("frozen", scene("frozen", FROZEN, TONE))]);
}

#[test]
fn silent_and_missing_sound_is_told() {
    all_told(vec![
        ("silent", scene("silent", MOVING, SILENCE)),
        ("no-audio", without(good(), |tag| tag.kind == Kind::Audio)),
    ]);
}

#[test]
fn missing_pictures_and_key_frames_are_told() {
    // No key frame of it is one of the good scene's.
    let other = scene("other", "testsrc=size=320x180:rate=15", TONE);
    let first_key_ms = other.media.iter().find(|tag| is_key(tag)).map_or(0, |tag| tag.timestamp_ms);
    all_told(vec![
        ("no-video", without(good(), |tag| tag.kind == Kind::Video)),
        // Without any it would not begin.
        ("no-key-frame", without(other, move |tag| is_key(tag) && tag.timestamp_ms > first_key_ms)),
    ]);
}

/// Headers, and then nothing; frames after a while.
#[test]
fn a_recording_that_writes_nothing_is_told_from_its_birth() {
    let _place = place();
    let house = House::new(POLICY, LIMITS);
    let daemon = house.start(REELD);
    let mut client = Client::publish(daemon.publish_options("live", "empty")).expect("an accepted publish");
    send_headers(&mut client, &good(), 0).expect("headers");
    wait_for("it is recorded", SOON, || recording(&daemon, "empty"));
    let begun = Instant::now();
    wait_until("it is told", Duration::from_secs(30), || degraded(&daemon, "empty") == ["no-data"]);
    let after_ms = begun.elapsed().as_millis() as u64;
    assert!(after_ms <= 2 * INTERVAL_MS + SLACK_MS, "after {after_ms} ms");
    assert_eq!(recording(&daemon, "empty").expect("it")["status"], "starting");

    // The same on a change: it has a file, and then nothing comes any more.
    let live = Live::start_flv(daemon.publish_options("live", "stops"), join(&[good()]));
    wait_until("it records", SOON, || live.sent_ms() > 3_000);
    assert_eq!(degraded(&daemon, "stops"), [] as [&str; 0]);
    let mut stopped =
        Client::publish(daemon.publish_options("live", "stopped")).expect("an accepted publish");
    let flv = good();
    send_headers(&mut stopped, &flv, 0).expect("headers");
    for tag in flv.media.iter().filter(|tag| tag.timestamp_ms < 2_000) {
        support::live::send(&mut stopped, tag.kind, tag.timestamp_ms, &tag.payload).expect("a frame");
    }
    wait_until("it is told", Duration::from_secs(30), || degraded(&daemon, "stopped") == ["no-data"]);
    wait_until("and so is that of before", Duration::from_secs(30), || {
        let metrics = daemon.request("GET", "/metrics", b"").expect(200).body;
        metrics.contains("reeld_recordings_degraded{reason=\"no-data\"} 2\n")
    });
    stopped.unpublish().expect("a farewell");
    let done = daemon.completed("stopped");
    assert_eq!(done["degraded"], serde_json::json!(["no-data"]), "what was wrong at its end stays");
    assert!(done["health"][0].get("until").is_none(), "{done:#}");
}

/// What a policy does not look for is not told; the others are.
#[test]
fn a_screen_share_may_stand_still_where_the_policy_says_so() {
    let _place = place();
    let house = House::new(&format!("{POLICY}record_health_checks=-frozen\n"), LIMITS);
    let daemon = house.start(REELD);
    let live =
        Live::start_flv(daemon.publish_options("live", "slides"), scene("mute-slides", FROZEN, SILENCE));
    wait_state(&daemon, &live, "slides", "silent", true);
    wait_until("two more looks", SOON, || live.sent_ms() > 9_000);
    assert_eq!(degraded(&daemon, "slides"), ["silent"]);
    live.stop().expect("a farewell");
}

#[test]
fn events_tell_when_it_begins_and_when_it_is_over() {
    let _place = place();
    let house = House::new(POLICY, LIMITS);
    let daemon = house.start(REELD);
    let mut events = WebSocket::open(daemon.http(), "/api/v1/events");
    let scenes = [scene("black", BLACK, TONE), good()];
    let live = Live::start_flv(daemon.publish_options("live", "cam"), join(&scenes));
    let told = events.event("recording.degraded");
    assert_eq!(told["recording"]["degraded"], serde_json::json!(["black"]));
    let over = events.event("recording.healthy");
    assert_eq!(over["recording"]["degraded"], serde_json::json!([]));
    assert_eq!(over["recording"]["health"][0]["reason"], "black");
    let log = daemon.log();
    assert!(log.contains("degraded: black") && log.contains("not any more: black"), "{log}");
    live.stop().expect("a farewell");
}

/// Streams that move, stand still before a real camera, are dark, or have a low sound.
#[test]
fn what_is_well_is_never_told() {
    let _place = place();
    let house = House::new(POLICY, LIMITS);
    let daemon = house.start(REELD);
    let dark = format!("{MOVING},eq=brightness=-0.3:contrast=0.4,noise=alls=6:allf=t");
    let low = "anoisesrc=sample_rate=48000:amplitude=0.006";
    let streams =
        [("moving", good()), ("still", scene("still", STILL, TONE)), ("dark", scene("dark", &dark, low))];
    let lives = streams.map(|(name, flv)| (name, Live::start_flv(daemon.publish_options("live", name), flv)));
    watch(&daemon, &lives.each_ref().map(|(name, _)| *name), Duration::from_secs(12));
    for (name, live) in lives {
        live.stop().expect("a farewell");
        let done = daemon.completed(name);
        assert_eq!(
            (&done["health"], &done["degraded"]),
            (&serde_json::json!([]), &serde_json::json!([])),
            "{name}"
        );
    }
}

/// The same live from encoders of every codec that ffmpeg can send. `scripts/crashlab truth` has it watch for ten minutes, with
/// the default interval.
#[test]
fn what_is_well_is_not_told_of_any_codec() {
    let _place = place();
    let asked = std::env::var("REELD_TRUTH_SECONDS").ok().and_then(|s| s.parse().ok());
    let (seconds, interval) = asked.map_or((12, "2s"), |seconds| (seconds, "10s"));
    let house = House::new(POLICY, &format!("monitor_interval = \"{interval}\""));
    let daemon = house.start(REELD);
    let dark = format!("{MOVING},eq=brightness=-0.3:contrast=0.4,noise=alls=6:allf=t");
    let low = "anoisesrc=sample_rate=48000:amplitude=0.006";
    let (h264, vpx) = ("libx264 -preset ultrafast -bf 0", "-deadline realtime -cpu-used 8 -b:v 400k");
    let encoders = [
        ("h264-still", STILL, TONE, format!("-c:v {h264} -c:a aac -f flv")),
        ("h264-dark", &dark, low, format!("-c:v {h264} -b:v 300k -c:a aac -f rtsp")),
        (
            "h265",
            MOVING,
            TONE,
            "-c:v libx265 -preset ultrafast -x265-params log-level=none -c:a pcm_alaw -ar 8000 -ac 1 -f rtsp"
                .into(),
        ),
        ("vp8", STILL, TONE, format!("-c:v libvpx {vpx} -c:a libopus -f rtsp")),
        ("vp9", MOVING, low, format!("-c:v libvpx-vp9 {vpx} -c:a libopus -strict experimental -f rtsp")),
    ];
    let publishers = encoders.map(|(name, picture, sound, options)| {
        let picture = format!("{picture},fps=15,format=yuv420p");
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error", "-re", "-f", "lavfi", "-i", &picture]);
        command.args(["-re", "-f", "lavfi", "-i", sound, "-g", "30"]).args(options.split(' '));
        let path = format!("live/{name}");
        let url = if options.ends_with("flv") { daemon.url(&path) } else { daemon.rtsp_url(&path) };
        (name, Publisher::spawn(command.arg(url)))
    });
    let names = publishers.each_ref().map(|(name, _)| *name);
    names.iter().for_each(|name| drop(daemon.session(name)));
    watch(&daemon, &names, Duration::from_secs(seconds));
}

/// Nothing is told of any of them all the time, and they are looked at; prints what that took.
fn watch(daemon: &Daemon, names: &[&str], length: Duration) {
    let until = Instant::now() + length;
    while Instant::now() < until {
        for name in names {
            let id = daemon.session_id(name);
            let sent = || daemon.get(&format!("/api/v1/sessions/{id}"))["frames"].as_u64().expect("frames");
            let before = sent();
            wait_until("it goes on", SOON, || sent() > before + 5);
            assert_eq!(
                degraded(daemon, name),
                [] as [&str; 0],
                "{name}, {:?} before the end",
                until.saturating_duration_since(Instant::now())
            );
        }
    }
    let metrics = daemon.request("GET", "/metrics", b"").expect(200).body;
    let number = |name: &str| -> u64 {
        let line = metrics.lines().find(|line| line.starts_with(&format!("reeld_{name} ")));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{name}: {metrics}"))
    };
    let (looks, failed, put_off) = (
        number("monitor_looks_total"),
        number("monitor_looks_failed_total"),
        number("monitor_postponed_total"),
    );
    let (cpu_ms, seconds) = (number("monitor_cpu_ms_total"), length.as_secs());
    println!(
        "{seconds} s, {} streams: {looks} looks, {put_off} times put off, {cpu_ms} ms of the monitor's thread: {:.2} % of one core",
        names.len(),
        cpu_ms as f64 / (seconds * 10) as f64
    );
    assert!(looks >= 6 && failed == 0, "{looks} looks, {failed} of them failed");
}
