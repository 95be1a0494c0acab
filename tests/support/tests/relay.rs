//! The lossy relay: a camera watched over UDP, and a browser that publishes to a WHIP endpoint of GStreamer's words.

use std::{path::Path, process::Command};

use support::{
    camera::{Camera, Options},
    media::{Probe, run},
    relay::{Loss, RtspRelay},
};

const TMP: &str = env!("CARGO_TARGET_TMPDIR");

support::camera_process!();

#[test]
fn a_camera_is_watched_through_it_over_both_transports() {
    let camera = Camera::start(Options::default());
    for (transport, percent) in [("tcp", 50.0), ("udp", 0.0), ("udp", 5.0)] {
        let relay = RtspRelay::start(camera.address(), Loss { percent, seed: 1, rtp_only: true });
        let file = Path::new(TMP).join(format!("relay-{transport}-{percent}.mkv"));
        let mut command = Command::new("ffmpeg");
        command.args([
            "-nostdin",
            "-v",
            "fatal",
            "-y",
            "-rtsp_transport",
            transport,
            "-i",
            &relay.url(&camera.url),
        ]);
        run(command.args(["-map", "0", "-c", "copy", "-t", "3"]).arg(&file));
        let probe = Probe::read(&file);
        let counts = relay.counts();
        println!("{transport} {percent}: {counts:?}, {:?}", probe.counts());
        assert!(probe.video.len() > 60 && probe.audio.len() > 100, "{:?}", probe.counts());
        assert_eq!(counts.passed > 0, transport == "udp", "{counts:?}");
        assert_eq!(counts.dropped > 0, transport == "udp" && percent > 0.0, "{counts:?}");
    }
}
