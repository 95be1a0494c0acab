//! A disk that fills up: recordings end whole, nothing new begins, and all goes on by itself when there is room. And what
//! makes room: retention, from which locks and undelivered files are safe.

use serde_json::Value;
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use support::{
    daemon::{Daemon, House, SOON, text},
    live::Live,
    media::{AAC, AUDIO, Probe, av_source, decode, source},
    small_disk::SmallDisk,
    wait::{wait_for, wait_until},
    ws::WebSocket,
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";
/// Five streams need half a minute to fill the disk.
const FILLED: Duration = Duration::from_secs(120);
const EVENTS: &str = "/api/v1/events";
const DISK: &str = "64m";

/// 4 Mbit/s of noise.
fn noise() -> PathBuf {
    let video = ["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30,noise=alls=60:allf=t"];
    let h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "15", "-pix_fmt", "yuv420p"];
    let rate = ["-b:v", "4M", "-maxrate", "4M", "-bufsize", "1M"];
    source(TMP, "noise4.flv", &[&video, AUDIO, &["-t", "4"], &h264, &rate, AAC])
}

fn publish(daemon: &Daemon, name: &str) -> Live {
    Live::start(daemon.publish_options("live", name), &noise())
}

fn disk(daemon: &Daemon) -> Value {
    daemon.get("/api/v1/server")["disk"].clone()
}

fn is_over(recording: &Value) -> bool {
    matches!(recording["status"].as_str(), Some("completed" | "failed" | "recovered"))
}

/// Each file plays to its end and has what the catalog says. Hands back its access units.
fn check_files(small: &SmallDisk, recording: &Value) -> u64 {
    let parts = recording["parts"].as_array().expect("parts");
    assert!(!parts.is_empty(), "{recording:#}");
    let frames = |part: &Value| {
        let file = small.seen(&PathBuf::from(text(part, "file")));
        decode(&file);
        let (video, audio) = Probe::read(&file).counts();
        let told = |kind: &str| part[kind]["frames"].as_u64().expect("a count") as usize;
        assert_eq!((video, audio), (told("video"), told("audio")), "{part:#}");
        (video + audio) as u64
    };
    parts.iter().map(frames).sum()
}

fn delete(daemon: &Daemon, recording: &Value) {
    daemon.delete(&format!("/api/v1/recordings/{}", text(recording, "id"))).expect(204);
}

/// The marks told until `last`.
fn marks(events: &mut WebSocket, last: &str) -> Vec<String> {
    let (event, mut before) = events.until(|e| e["type"] == last);
    before.push(event);
    let told = before.iter().filter_map(|e| e["type"].as_str()).filter(|t| t.starts_with("disk."));
    told.map(str::to_owned).collect()
}

#[test]
fn five_recordings_fill_the_disk_and_end_whole_and_all_goes_on_when_there_is_room() {
    let small = SmallDisk::start(House::new(RECORD_ALL, ""), REELD, DISK);
    let daemon = &small.daemon;
    let mut events = WebSocket::open(daemon.http(), EVENTS);
    let names = ["one", "two", "three", "four", "five"];
    let mut lives: Vec<_> = names.iter().map(|name| publish(daemon, name)).collect();
    wait_until("the time until the disk is full is told", SOON, || {
        let disk = disk(daemon);
        disk["bytesPerSecond"].as_u64() > Some(500_000) && disk["secondsToFull"].as_u64() < Some(120)
    });

    wait_until("all recordings have ended", FILLED, || {
        names.iter().all(|name| daemon.recordings(name).iter().any(is_over))
    });
    let full = disk(daemon);
    assert!(full["mark"] == "ending" || full["mark"] == "refusing", "{full:#}");
    let (low, refusing) = ("disk.low".to_owned(), "disk.refusing".to_owned());
    let told = marks(&mut events, "disk.ending");
    assert!(told.ends_with(&["disk.ending".to_owned()]) && told.contains(&refusing), "{told:?}");
    assert!(told.iter().position(|t| *t == low) < told.iter().position(|t| *t == refusing), "{told:?}");

    let mut firsts = Vec::new();
    for name in names {
        let [first] = <[Value; 1]>::try_from(daemon.recordings(name)).expect("one");
        assert_eq!(
            (&first["status"], &first["lost"]["frames"]),
            (&"completed".into(), &0.into()),
            "{first:#}"
        );
        let why = first["degraded"][0].as_str();
        assert!(why.is_some_and(|why| why.contains("ends here: the disk had")), "{first:#}");
        assert!(check_files(&small, &first) > 500, "{first:#}");
        firsts.push(first);
    }
    assert_eq!(small.records(".part"), Vec::<PathBuf>::new());

    // The daemon is up, takes streams, and says what it cannot do.
    let session = daemon.session_id("one");
    let start = format!("/api/v1/sessions/{session}/recording");
    let refused = daemon.request("POST", &start, b"").expect(507).json();
    assert_eq!(refused["type"], "/problems/disk-full");
    assert!(text(&refused, "detail").contains("delete recordings"), "{refused:#}");
    daemon.request("GET", "/readyz", b"").expect(503);
    daemon.request("GET", "/healthz", b"").expect(200);
    let late = publish(daemon, "late");
    let (told, _) = events.until(|e| e["type"] == "recording.refused" && e["session"]["name"] == "late");
    assert!(text(&told, "reason").contains("are free"), "{told:#}");
    assert!(daemon.recordings("late").is_empty());

    // Only two go on, so that there is time to look.
    for live in lives.drain(1..) {
        live.stop().expect("a good end");
    }
    firsts[1..4].iter().for_each(|recording| delete(daemon, recording));
    assert!(marks(&mut events, "disk.enough").last().is_some_and(|t| t == "disk.enough"));
    wait_until("what the policy wants is taken up again", SOON, || {
        daemon.recordings("one").len() == 2 && daemon.recordings("late").len() == 1
    });
    daemon.request("DELETE", &start, b"").expect(200);
    daemon.request("POST", &start, b"").expect(201);
    daemon.request("GET", "/readyz", b"").expect(200);
    late.stop().expect("a good end");
    lives.into_iter().for_each(|live| live.stop().expect("a good end"));
    for (name, count) in [("one", 3), ("late", 1), ("five", 1)] {
        let ended = wait_for(&format!("{name} has ended"), SOON, || {
            Some(daemon.recordings(name)).filter(|r| r.len() == count && r.iter().all(is_over))
        });
        for recording in ended {
            assert_eq!(recording["status"], "completed", "{recording:#}");
            check_files(&small, &recording);
        }
    }
    let metrics = daemon.request("GET", "/metrics", b"").expect(200).body;
    assert!(metrics.contains("reeld_disk_full_ended_total 5\n"), "{metrics}");
}

/// The disk is full from one look to the next: the muxers meet it.
#[test]
fn another_program_takes_all_the_room_at_once() {
    let small = SmallDisk::start(House::new(RECORD_ALL, ""), REELD, DISK);
    let daemon = &small.daemon;
    let names = ["one", "two", "three"];
    let lives: Vec<_> = names.iter().map(|name| publish(daemon, name)).collect();
    wait_until("all are recorded and room is kept", SOON, || {
        let big = |file: &PathBuf| file.metadata().map_or(0, |m| m.len()) > 1_000_000;
        let parts = small.records(".mp4.part");
        parts.len() == 3 && parts.iter().all(big) && disk(daemon)["reservedBytes"].as_u64() >= Some(1 << 20)
    });
    let mut ballast = small.ballast();
    ballast.fill();
    wait_until("all recordings have ended", FILLED, || {
        names.iter().all(|name| daemon.recordings(name).iter().any(is_over))
    });
    for name in names {
        let [recording] = <[Value; 1]>::try_from(daemon.recordings(name)).expect("one");
        assert_eq!(recording["status"], "completed", "{recording:#}");
        assert!(recording["degraded"].to_string().contains("the recording ends here"), "{recording:#}");
        assert!(check_files(&small, &recording) > 50, "{recording:#}");
    }
    assert_eq!(small.records(".part"), Vec::<PathBuf>::new());

    ballast.remove();
    wait_until("all are taken up again", SOON, || names.iter().all(|n| daemon.recordings(n).len() == 2));
    lives.into_iter().for_each(|live| live.stop().expect("a good end"));
    for name in names {
        wait_until("it has ended", SOON, || daemon.recordings(name).iter().all(is_over));
        for recording in daemon.recordings(name) {
            check_files(&small, &recording);
        }
    }
}

/// Another program takes the room that was kept as well: files cannot be ended, and are when there is room, without a
/// restart.
#[test]
fn files_that_found_no_room_for_their_ends_are_finished_when_there_is() {
    let house = House::new(RECORD_ALL, "");
    let small = SmallDisk::start(house, REELD, DISK);
    let daemon = &small.daemon;
    let names = ["one", "two"];
    let lives: Vec<_> = names.iter().map(|name| publish(daemon, name)).collect();
    wait_until("both are recorded", SOON, || {
        let big = |file: &PathBuf| file.metadata().map_or(0, |m| m.len()) > 1_000_000;
        let parts = small.records(".mp4.part");
        parts.len() == 2 && parts.iter().all(big)
    });
    let (mut ballast, greedy) = (small.ballast(), Arc::new(AtomicBool::new(true)));
    let goes_on = greedy.clone();
    let other = thread::spawn(move || {
        while goes_on.load(Ordering::Relaxed) {
            ballast.fill();
        }
        ballast
    });
    wait_until("both recordings have ended", FILLED, || {
        names.iter().all(|name| daemon.recordings(name).iter().any(is_over))
    });
    lives.into_iter().for_each(|live| live.stop().expect("a good end"));
    greedy.store(false, Ordering::Relaxed);
    other.join().expect("no panic").remove();
    for name in names {
        let whole = wait_for("its file is whole", SOON, || {
            let [recording] = <[Value; 1]>::try_from(daemon.recordings(name)).expect("one");
            let whole = matches!(recording["status"].as_str(), Some("completed" | "recovered"));
            whole.then_some(recording)
        });
        assert!(check_files(&small, &whole) > 50, "{whole:#}");
    }
    assert_eq!(small.records(".part"), Vec::<PathBuf>::new());
    wait_until("the hooks of both have run", SOON, || small.house.hook_calls().len() == 2);
}

/// A short recording; the whole of it is over.
fn record(daemon: &Daemon, name: &str) -> Value {
    let live = Live::start(daemon.publish_options("live", name), &av_source(TMP, 2));
    wait_until("it is recorded", SOON, || daemon.recordings(name).iter().any(|r| r["status"] == "recording"));
    live.stop().expect("a good end");
    daemon.completed(name)
}

fn lock(daemon: &Daemon, recording: &Value) -> Value {
    daemon.request("PUT", &lock_of(recording), b"").expect(200).json()
}

fn lock_of(recording: &Value) -> String {
    format!("/api/v1/recordings/{}/lock", text(recording, "id"))
}

fn is_there(daemon: &Daemon, recording: &Value) -> bool {
    let path = format!("/api/v1/recordings/{}", text(recording, "id"));
    daemon.request("GET", &path, b"").status == 200
}

#[test]
fn old_recordings_go_unless_they_are_locked() {
    let house = House::new(RECORD_ALL, "retention_age = \"10s\"");
    let daemon = house.start(REELD);
    let mut events = WebSocket::open(daemon.http(), EVENTS);
    let live = Live::start(daemon.publish_options("live", "kept"), &av_source(TMP, 2));
    let running = wait_for("it is recorded", SOON, || {
        daemon.recordings("kept").into_iter().find(|r| r["status"] == "recording")
    });
    assert_eq!(lock(&daemon, &running)["locked"], true, "while it is recorded");
    live.stop().expect("a good end");
    let (kept, old) = (daemon.completed("kept"), record(&daemon, "old"));
    assert_eq!((&kept["locked"], &old["locked"]), (&true.into(), &false.into()));

    let (told, _) = events.until(|e| e["type"] == "recording.deleted");
    assert_eq!((&told["recordingId"], &told["reason"]), (&old["id"], &"retention_age".into()));
    assert!(!is_there(&daemon, &old) && is_there(&daemon, &kept));
    let refused = daemon.delete(&format!("/api/v1/recordings/{}", text(&kept, "id"))).expect(409).json();
    assert_eq!(refused["type"], "/problems/recording-locked");
    assert_eq!(daemon.delete(&lock_of(&kept)).expect(200).json()["locked"], false);
    let (told, _) = events.until(|e| e["type"] == "recording.deleted");
    assert_eq!(told["recordingId"], kept["id"]);
    daemon.request("PUT", &lock_of(&kept), b"").expect(404);
    assert_eq!(house.records(""), [] as [PathBuf; 0], "nothing of them is left");
}

#[test]
fn what_is_too_much_goes_unless_it_is_still_to_be_delivered() {
    let house = House::new(RECORD_ALL, "retention_bytes = \"1KiB\"");
    house.hook("#!/bin/sh\ncase \"$1\" in owed) exit 1;; esac\n");
    let daemon = house.start(REELD);
    let mut events = WebSocket::open(daemon.http(), EVENTS);
    let (owed, done) = (record(&daemon, "owed"), record(&daemon, "done"));
    let (told, _) = events.until(|e| e["type"] == "recording.deleted");
    assert_eq!((&told["recordingId"], &told["reason"]), (&done["id"], &"retention_bytes".into()));
    assert!(is_there(&daemon, &owed));
    let metrics = daemon.request("GET", "/metrics", b"").expect(200).body;
    assert!(metrics.contains("reeld_retention_deleted_total 1\n"), "{metrics}");
}

#[test]
fn the_oldest_goes_when_too_little_is_free() {
    // 57.6 MiB are to be free: less than the room of three recordings and what is kept.
    let small = SmallDisk::start(House::new(RECORD_ALL, "retention_free = \"58MiB\""), REELD, DISK);
    let daemon = &small.daemon;
    let mut events = WebSocket::open(daemon.http(), EVENTS);
    let mut recordings = Vec::new();
    for name in ["first", "second", "third"] {
        let live = publish(daemon, name);
        wait_until("it is recorded", SOON, || live.sent_ms() > 4_000);
        live.stop().expect("a good end");
        recordings.push(daemon.completed(name));
    }
    let (told, _) = events.until(|e| e["type"] == "recording.deleted");
    assert_eq!((&told["recordingId"], &told["reason"]), (&recordings[0]["id"], &"retention_free".into()));
    assert!(is_there(daemon, &recordings[2]), "the newest stays");
    assert_eq!(disk(daemon)["mark"], "enough");
}
