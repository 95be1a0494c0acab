//! What a browser publishes over WHIP is in the file: its codec, every picture, sound in step.

use serde_json::Value;
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};
use support::{
    avsync::AvSync,
    browser::{Browser, Codec, Publish},
    daemon::{Daemon, House, SOON, file_of},
    media::{Probe, decode},
    relay::{Loss, WhipRelay},
    wait::wait_until,
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const POLICY: &str = "stream_record_policy=streamName\n";
/// How long each codec is published.
const LENGTH: Duration = Duration::from_secs(15);

fn whip(daemon: &Daemon, path: &str) -> String {
    format!("http://{}/whip/{path}", daemon.http())
}

/// Publishes for `length` and stops; what the browser says of it.
fn publish_for(browser: &Browser, daemon: &Daemon, path: &str, publish: &Publish, length: Duration) -> Value {
    browser.publish(&whip(daemon, path), publish);
    // Not to synchronise: this is how long the stream is.
    thread::sleep(length);
    let sent = browser.stop();
    assert_eq!(sent["deleteStatus"], 200, "{sent:#}");
    sent
}

fn count(stats: &Value, key: &str) -> usize {
    stats[key].as_u64().unwrap_or_else(|| panic!("no {key} in {stats:#}")) as usize
}

fn assert_whole(file: &Path, sent: &Value, codecs: (&str, &str)) {
    let got = Probe::read(file);
    assert_eq!((got.video_codec.as_str(), got.audio_codec.as_str()), codecs);
    let frames = count(&sent["video"], "framesSent");
    let pictures = decode(file);
    println!("{}: {frames} sent, {} in the file, {pictures} shown", file.display(), got.video.len());
    assert!(frames > 200, "{frames} pictures in {LENGTH:?}");
    assert!(got.video.len() + 1 >= frames, "{frames} pictures sent, {} in the file", got.video.len());
    assert_eq!(pictures, got.video.len());
    // Matroska counts in ms, and the page draws an extra picture when a beep begins.
    for packets in [&got.video, &got.audio] {
        assert!(packets.windows(2).all(|w| w[0].dts_ms <= w[1].dts_ms));
    }
    let sync = AvSync::measure(file);
    println!("picture after sound: median {:.1} ms of {:?}", sync.median_ms(), sync.offsets_ms);
    assert!(sync.median_ms().abs() < 40.0, "{sync:?}");
}

fn publishes(codec: Codec, container: &str, codecs: (&str, &str)) {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    let browser = Browser::open();
    let publish = Publish { climb: true, ..Publish::av(codec) };
    let sent = publish_for(&browser, &daemon, "court/cam?record=true", &publish, LENGTH);
    let recording = daemon.completed("cam");
    assert_eq!(recording["container"], container);
    assert_eq!(recording["protocol"], "webrtc");
    assert_eq!(recording["roomName"], "court");
    // One frame is what the acceptance allows on loopback. Two runs with both cores busy lost two and three packets, for
    // a cause that was not found, so packets are printed and not bounded.
    println!("lost: {}", recording["lost"]);
    let lost = recording["lost"]["frames"].as_u64().expect("a count");
    assert!(lost <= 1, "{recording:#}");
    assert_whole(&file_of(&recording), &sent, codecs);
    wait_until("the session is gone", SOON, || daemon.sessions().is_empty());
}

#[test]
fn a_browser_publishes_h264() {
    publishes(Codec::H264, "mp4", ("h264", "aac"));
}

#[test]
fn a_browser_publishes_vp8() {
    publishes(Codec::Vp8, "webm", ("vp8", "vorbis"));
}

#[test]
fn a_browser_publishes_vp9() {
    publishes(Codec::Vp9, "webm", ("vp9", "vorbis"));
}

#[test]
fn a_browser_publishes_av1() {
    publishes(Codec::Av1, "mp4", ("av1", "aac"));
}

#[test]
fn only_who_asks_is_recorded_and_one_kind_of_media_is_enough() {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    let browser = Browser::open();
    let short = Duration::from_secs(4);
    publish_for(&browser, &daemon, "live/quiet", &Publish::av(Codec::Vp8), short);
    let video = Publish { audio: false, ..Publish::av(Codec::H264) };
    let sent = publish_for(&browser, &daemon, "picture?record=true", &video, short);
    let file = file_of(&daemon.completed("picture"));
    assert!(decode(&file) + 1 >= count(&sent["video"], "framesSent"), "{sent:#}");
    let audio = Publish { video: None, ..Publish::av(Codec::H264) };
    let sent = publish_for(&browser, &daemon, "sound?record=true", &audio, short);
    let recording = daemon.completed("sound");
    let packets = count(&sent["audio"], "packetsSent");
    let frames = recording["parts"][0]["audio"]["frames"].as_u64().expect("frames") as usize;
    // The browser counts what it makes of sound before it is connected as sent.
    assert!(frames + 20 >= packets, "{packets} packets sent, {frames} recorded");
    assert_eq!(recording["lost"]["packets"], 0, "{recording:#}");
    assert_eq!(daemon.recordings("quiet"), [] as [Value; 0]);
}

/// A browser sends a key frame when it is asked for one: without that a part would go on for minutes.
#[test]
fn a_browser_is_asked_for_a_key_frame_at_each_seam() {
    let house = House::new(&format!("{POLICY}record_rotation=2\n"), "");
    let daemon = house.start(REELD);
    let browser = Browser::open();
    let publish = Publish::av(Codec::H264);
    let sent = publish_for(&browser, &daemon, "seams?record=true", &publish, Duration::from_secs(9));
    let recording = daemon.completed("seams");
    let parts = recording["parts"].as_array().expect("parts");
    assert!(parts.len() >= 4, "{recording:#}");
    for part in &parts[..parts.len() - 1] {
        let length_ms = part["durationMs"].as_u64().expect("a duration");
        assert!((1_950..2_900).contains(&length_ms), "{recording:#}");
    }
    let pictures: usize =
        parts.iter().map(|part| decode(Path::new(part["file"].as_str().expect("a file")))).sum();
    assert!(pictures + 1 >= count(&sent["video"], "framesSent"), "{pictures} of {sent:#}");
}

/// What is lost is asked for again (NACK, RTX) within the jitter buffer's time. At first feedback came seconds late, and a
/// quarter of the pictures was missing.
#[test]
fn a_lossy_network_costs_neither_time_nor_sync() {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    let browser = Browser::open();
    let relay = WhipRelay::start(daemon.http(), Loss { percent: 5.0, seed: 7, rtp_only: true });
    for (codec, percent) in [(Codec::H264, 5.0), (Codec::Vp8, 5.0), (Codec::H264, 30.0)] {
        relay.set_percent(percent);
        let (name, before) = (format!("{codec:?}-{percent}"), relay.counts());
        browser.publish(&relay.url(&format!("/whip/{name}?record=true")), &Publish::av(codec));
        let begin = Instant::now();
        thread::sleep(LENGTH);
        let (length_ms, sent) = (begin.elapsed().as_secs_f64() * 1000.0, browser.stop());
        let recording = daemon.completed(&name);
        let (file, lost) = (file_of(&recording), &recording["lost"]);
        let (got, pictures, sync) = (Probe::read(&file), decode(&file), AvSync::measure(&file));
        let dropped = relay.counts().dropped - before.dropped;
        println!(
            "{name}: {} pictures sent, {pictures} in the file; {dropped} packets dropped, {} sent again, lost {} and \
             {} pictures; {} ms of {length_ms} ms; picture after sound {:.1} ms",
            sent["video"]["framesSent"],
            sent["video"]["retransmittedPacketsSent"],
            lost["packets"],
            lost["frames"],
            got.duration_ms,
            sync.median_ms(),
        );
        assert!(dropped > 30, "{dropped}");
        assert!(sync.median_ms().abs() < 60.0, "{sync:?}");
        // Connecting and stopping take part of the browser's time.
        assert!(got.duration_ms > length_ms - 300.0 && got.duration_ms < length_ms + 1000.0);
        let longest = got.audio.windows(2).map(|w| w[1].pts_ms - w[0].pts_ms).fold(0.0, f64::max);
        assert!(longest < 100.0, "the sound stands still for {longest} ms");
        match percent > 10.0 {
            true => assert!(lost["packets"].as_u64() > Some(0), "{recording:#}"),
            false => assert!(pictures * 100 >= count(&sent["video"], "framesSent") * 90, "{recording:#}"),
        }
    }
}
