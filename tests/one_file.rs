//! A stream that changes its parameters is one file, and one that was being written when the daemon died is finished at
//! the next start; the real daemon over RTMP.

use serde_json::Value;
use std::{fs, path::Path, time::Duration};
use support::{
    daemon::{Daemon, House, SOON, file_of, text},
    flv::{Due, Flv},
    live::{Live, send},
    media::{AAC, AUDIO, H264, Probe, av_source, decode, source},
    rtmp::Client,
    wait::{wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";
const LENGTH: Duration = Duration::from_secs(2);

/// 2 s of H.264 in this size, with AAC.
fn sized(size: &str) -> Flv {
    let picture = format!("testsrc2=size={size}:rate=30");
    let video: &[&str] = &["-f", "lavfi", "-i", &picture];
    let file = source(TMP, &format!("size{size}.flv"), &[video, AUDIO, &["-t", "2"], H264, AAC]);
    Flv::read(&file).expect("an FLV file")
}

/// Sends 2 s from `at_ms` on, with their sequence headers before them.
fn send_part(client: &mut Client, flv: &Flv, at_ms: u32) {
    client.send_video(at_ms, flv.video_header.as_ref().expect("H.264")).expect("sent");
    client.send_audio(at_ms, flv.audio_header.as_ref().expect("AAC")).expect("sent");
    for Due { kind, timestamp_ms, payload } in flv.timeline(LENGTH) {
        send(client, kind, at_ms + timestamp_ms, payload).expect("sent");
    }
}

#[test]
fn a_stream_that_changes_its_resolution_is_one_file() {
    let (small, large) = (sized("320x180"), sized("640x360"));
    let parts = [&small, &large, &small, &large];
    let sent: usize = parts.iter().map(|flv| flv.timeline(LENGTH).len()).sum();
    for container in ["mp4", "mkv", "ts"] {
        let house = House::new(&format!("{RECORD_ALL}record_formats=h264-{container}\n"), "");
        let daemon = house.start(REELD);
        let mut client = Client::publish(daemon.publish_options("live", "cam")).expect("accepted");
        for (n, flv) in parts.into_iter().enumerate() {
            send_part(&mut client, flv, n as u32 * 2000);
        }
        client.unpublish().expect("a good end");
        let recording = daemon.completed("cam");
        assert_eq!(recording["parts"].as_array().map(Vec::len), Some(1), "{recording:#}");
        let file = file_of(&recording);
        assert_eq!(file.extension().and_then(|e| e.to_str()), Some(container));
        let (video, audio) = Probe::read(&file).counts();
        assert_eq!((video, video + audio), (240, sent), "{container}: access units in the file and sent");
        assert_eq!(decode(&file), 240, "{container}");
        let part = &recording["parts"][0]["video"];
        assert_eq!((part["width"].as_u64(), part["height"].as_u64()), (Some(640), Some(360)), "{container}");
        assert_eq!(recording["lost"]["frames"], 0, "{container}");
    }
}

/// A recording on demand right after a change began with frames that its parameters did not fit, or waited.
#[test]
fn a_recording_that_starts_after_a_change_begins_with_frames_that_fit() {
    let (small, large) = (sized("320x180"), sized("640x360"));
    let house = House::new("record_rtmp_streams=false\nstream_record_policy=streamName\n", "");
    let daemon = house.start(REELD);
    let mut client = Client::publish(daemon.publish_options("live", "cam")).expect("accepted");
    send_part(&mut client, &small, 0);
    let id = daemon.session_id("cam");
    daemon.wait_frames(&id, small.timeline(LENGTH).len() as u64);
    // The header of what follows, and not yet a frame of it.
    client.send_video(2000, large.video_header.as_ref().expect("H.264")).expect("sent");
    wait_until("the session tells the new size", SOON, || {
        daemon.session("cam")["tracks"].to_string().contains("640")
    });
    daemon.post(&format!("/api/v1/sessions/{id}/recording"), &Value::Object(Default::default())).expect(201);
    send_part(&mut client, &large, 2000);
    client.unpublish().expect("a good end");
    let recording = daemon.completed("cam");
    assert_eq!(recording["parts"].as_array().map(Vec::len), Some(1), "{recording:#}");
    // The last second before the change, then all after it.
    assert_eq!(decode(&file_of(&recording)), 30 + 60);
}

fn recovered(daemon: &Daemon, name: &str) -> Value {
    wait_for("the recording is recovered", SOON, || {
        daemon.recordings(name).into_iter().find(|r| r["status"] == "recovered")
    })
}

fn manifest_of(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(format!("{}.json", file.display())).expect("a manifest")).expect("JSON")
}

#[test]
fn a_matroska_file_that_was_being_written_is_finished_at_the_next_start() {
    let house = House::new(&format!("{RECORD_ALL}record_formats=h264-mkv\n"), "");
    let daemon = house.start(REELD);
    let live = Live::start(daemon.publish_options("live", "cam"), &av_source(TMP, 10));
    wait_until("so much is sent", SOON, || live.sent_ms() >= 4_200);
    let sent_ms = live.sent_ms() as f64;
    daemon.kill_9();
    drop(live);
    assert_eq!(house.records(".mkv"), [] as [std::path::PathBuf; 0]);

    let daemon = house.start(REELD);
    let recording = recovered(&daemon, "cam");
    let file = file_of(&recording);
    assert_eq!(file, fs::canonicalize(house.path("records/cam.mkv")).expect("the file"));
    assert_eq!(house.records(".part"), [] as [std::path::PathBuf; 0]);
    let probe = Probe::read(&file);
    let told = recording["durationMs"].as_f64().expect("a duration");
    assert!((probe.duration_ms - told).abs() <= 2.0, "{} ms, {told} ms told", probe.duration_ms);
    assert!(told >= sent_ms - 1_000.0, "at most a second is missing: {sent_ms} ms sent, {told} ms told");
    assert_eq!(decode(&file), probe.video.len());
    let manifest = manifest_of(&file);
    assert_eq!(manifest["video"], recording["parts"][0]["video"]);
    assert_eq!(manifest["video"]["frames"].as_u64(), Some(probe.video.len() as u64));
    assert_eq!(
        (text(&manifest["video"], "codec"), text(&manifest["audio"], "codec")),
        ("h264".into(), "aac".into())
    );
    let call = wait_for("the hook", SOON, || house.hook_calls().into_iter().next());
    assert_eq!((call.stream.as_str(), &call.file), ("cam", &file));
    assert_eq!(recording["error"], Value::Null);
}
