//! Five percent of RTP is lost: the file decodes cleanly, keeps its time, stays in step, and tells what is missing.

use serde_json::{Value, json};
use std::{fmt, path::PathBuf, process::Command, time::Duration};
use support::{
    avsync::{self, AvSync},
    browser::{Browser, Codec, Publish},
    camera::{Camera, Options, Transport},
    daemon::{Daemon, House, file_of, text},
    media::{AAC, H264, Probe, Publisher, decode, source},
    relay::{Counts, Loss, RtspRelay, WhipRelay},
    wait::wait_until,
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const POLICY: &str =
    "record_rtsp_streams=true\nrecord_webrtc_streams=always\nstream_record_policy=streamName\n";
const LOSS: Loss = Loss { percent: 5.0, seed: 3, rtp_only: true };
const SECONDS: u32 = 12;
const LONGEST: Duration = Duration::from_secs(60);
/// Nothing is lost before this many access units, so that the recording begins where the stream does.
const BEFORE_LOSS: u64 = 30;
/// A key frame with every flash: after a loss there are no pictures before the next one.
const KEY_EVERY: u32 = 15;
const MARK_SLACK_MS: f64 = 80.0;

support::camera_process!();

fn source_with_key_flashes() -> PathBuf {
    let (beeps, length, every) = (avsync::beeps(0), SECONDS.to_string(), KEY_EVERY.to_string());
    let beeps: Vec<_> = beeps.iter().map(String::as_str).collect();
    source(TMP, "packet_loss.flv", &[avsync::FLASHES, &beeps, &["-t", &length], H264, &["-g", &every], AAC])
}

/// What came of a stream through a relay.
struct Outcome {
    name: &'static str,
    recording: Value,
    probe: Probe,
    sync: AvSync,
    relay: Counts,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, probe, sync, relay, recording } = self;
        let (frames, lost) = (probe.counts(), &recording["lost"]);
        let gaps = lost["gaps"].as_array().map_or(0, Vec::len);
        write!(
            f,
            "{name}: {frames:?} frames, {} ms; {relay:?}; lost: {} packets, {} frames, {gaps} gaps; {:+.0} ms, {sync:?}",
            probe.duration_ms,
            lost["packets"],
            lost["frames"],
            sync.median_ms()
        )
    }
}

impl Outcome {
    /// Checks what holds for every way in.
    fn read(daemon: &Daemon, name: &'static str, relay: Counts) -> Self {
        let recording = daemon.completed(name);
        let file = file_of(&recording);
        let (probe, sync) = (Probe::read(&file), AvSync::measure(&file));
        let outcome = Self { name, recording, probe, sync, relay };
        println!("{outcome}");
        let Self { probe, sync, recording, .. } = &outcome;
        assert!(relay.dropped > 20, "{outcome}");
        assert_eq!(decode(&file), probe.video.len(), "{outcome}");
        for (what, packets) in [("video", &probe.video), ("audio", &probe.audio)] {
            // Short blocks of Vorbis share a millisecond of WebM.
            let back = packets.windows(2).find(|pair| pair[1].dts_ms < pair[0].dts_ms);
            assert!(back.is_none(), "{outcome}: {what} goes back: {back:?}");
        }
        assert!(probe.video.first().is_some_and(|packet| packet.key), "{outcome}");
        assert_eq!(recording["degraded"].as_array().map(Vec::len), Some(0), "{outcome}: {recording:#}");
        outcome.assert_time_is_kept("beeps", &avsync::beeps_ms(&file));
        outcome.assert_time_is_kept("flashes", &avsync::flashes_ms(&file));
        assert!(sync.median_ms().abs() <= 60.0, "{outcome}");
        outcome
    }

    /// Marks come every second: whole seconds lie between any two when no time is lost. The first packet of a mark may
    /// be lost, and the mark be seen or heard with its second or third.
    fn assert_time_is_kept(&self, what: &str, marks_ms: &[f64]) {
        let first = marks_ms.first().copied().unwrap_or(f64::NAN);
        for mark in marks_ms {
            let apart = mark - first;
            let off = apart - (apart / 1000.0).round() * 1000.0;
            assert!(off.abs() <= MARK_SLACK_MS, "{self}: {what} at {marks_ms:?}");
        }
    }

    /// Every packet that the relay dropped is told, but for those after which no other came.
    fn assert_all_told(&self) {
        let told = self.recording["lost"]["packets"].as_u64().expect("a count");
        let dropped = self.relay.dropped;
        assert!(told <= dropped && told + 4 >= dropped, "{self}");
        let gaps = self.recording["lost"]["gaps"].as_array().expect("gaps");
        assert!(!gaps.is_empty() && gaps.iter().all(|gap| gap["kind"] == "packet-loss"), "{self}: {gaps:#?}");
    }

    /// Pictures that were sent and are not in the file are told, but for a few of which no packet came.
    fn assert_pictures_told(&self, sent: usize) {
        let told = self.recording["lost"]["frames"].as_u64().expect("a count") as usize;
        let missing = sent.checked_sub(self.probe.video.len()).expect("no more pictures than sent");
        assert!(missing.abs_diff(told) <= 8, "{self}: {sent} frames sent");
    }
}

fn begun(daemon: &Daemon, name: &str) {
    daemon.wait_frames(&daemon.session_id(name), BEFORE_LOSS);
}

#[test]
fn ffmpeg_pushes_rtsp_over_udp() {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    let source = source_with_key_flashes();
    let relay = RtspRelay::start(daemon.rtsp(), Loss { percent: 0.0, ..LOSS });
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-re", "-i"]).arg(&source).args(["-map", "0", "-c", "copy"]);
    command.args(["-max_delay", "0", "-f", "rtsp", "-rtsp_transport", "udp"]);
    let publisher = Publisher::spawn(command.arg(relay.url(&daemon.rtsp_url("live/pushed"))));
    begun(&daemon, "pushed");
    relay.set_percent(LOSS.percent);
    publisher.finish(LONGEST);
    let outcome = Outcome::read(&daemon, "pushed", relay.counts());
    outcome.assert_all_told();
    let sent = Probe::read(&source);
    let off = outcome.probe.duration_ms - sent.duration_ms;
    assert!(off.abs() <= 100.0, "{outcome}: {} ms sent", sent.duration_ms);
}

#[test]
fn a_camera_is_pulled_over_udp() {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    let mut camera = Camera::start(Options {
        transport: Transport::Udp,
        key_frame_every: KEY_EVERY,
        ..Options::default()
    });
    let relay = RtspRelay::start(camera.address(), Loss { percent: 0.0, ..LOSS });
    let source = json!({"uri": relay.url(&camera.url), "stream": "live/pulled", "transport": "udp"});
    let id = text(&daemon.post("/api/v1/sources", &source).expect(201).json(), "id");
    begun(&daemon, "pulled");
    relay.set_percent(LOSS.percent);
    wait_until("the camera has sent its seconds", LONGEST, || camera.frames().0 >= u64::from(30 * SECONDS));
    daemon.delete(&format!("/api/v1/sources/{id}")).expect(204);
    let outcome = Outcome::read(&daemon, "pulled", relay.counts());
    outcome.assert_all_told();
    let sent_ms = f64::from(SECONDS) * 1000.0;
    assert!((outcome.probe.duration_ms - sent_ms).abs() <= 150.0, "{outcome}");
}

#[test]
fn a_browser_publishes_and_sends_again_what_was_lost() {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    let browser = Browser::open();
    for (name, codec) in [("h264", Codec::H264), ("vp8", Codec::Vp8)] {
        let relay = WhipRelay::start(daemon.http(), Loss { percent: 0.0, ..LOSS });
        browser.publish(&relay.url(&format!("/whip/live/{name}")), &Publish::av(codec));
        begun(&daemon, name);
        relay.set_percent(LOSS.percent);
        wait_until("the browser has sent its seconds", LONGEST, || {
            browser.stats()["video"]["framesSent"].as_u64() >= Some(u64::from(30 * SECONDS))
        });
        relay.set_percent(0.0);
        let last = browser.stop();
        let outcome = Outcome::read(&daemon, name, relay.counts());
        let told = outcome.recording["lost"]["packets"].as_u64();
        assert!(told <= Some(outcome.relay.dropped), "{outcome}");
        let again = last["video"]["retransmittedPacketsSent"].as_u64();
        assert!(again > Some(0), "the browser was asked for what was lost: {last:#}");
        let sent = last["video"]["framesSent"].as_u64().expect("a count") as usize;
        let recorded = outcome.probe.video.len();
        // What is sent again may be lost too; then pictures are left out up to the next key frame.
        outcome.assert_pictures_told(sent);
        assert!(recorded * 2 >= sent, "{outcome}: {sent} frames sent");
    }
}
