//! The camera, seen by ffmpeg.

use std::{path::Path, process::Command};

use support::{
    avsync::AvSync,
    camera::{AudioCodec, Auth, Camera, Options, Transport, VideoCodec},
    media::{Probe, run},
};

const TMP: &str = env!("CARGO_TARGET_TMPDIR");

support::camera_process!();

fn watch(camera: &Camera, transport: &str, name: &str) -> std::path::PathBuf {
    let file = Path::new(TMP).join(name);
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-y", "-rtsp_transport", transport, "-i"]);
    run(command.arg(camera.url_with_credentials()).args(["-map", "0", "-c", "copy", "-t", "3"]).arg(&file));
    file
}

#[test]
fn every_codec_can_be_watched() {
    let digest = Auth::Digest { user: "eye", password: "let me see" };
    let basic = Auth::Basic { user: "eye", password: "letmesee" };
    let table = [
        (Some(VideoCodec::H264), Some(AudioCodec::Aac), Auth::None, "tcp", ("h264", "aac")),
        (Some(VideoCodec::H265), Some(AudioCodec::Opus), basic, "udp", ("hevc", "opus")),
        (Some(VideoCodec::Vp8), None, digest, "tcp", ("vp8", "")),
        (None, Some(AudioCodec::Pcma), Auth::None, "udp", ("", "pcm_alaw")),
    ];
    for (video, audio, auth, transport, codecs) in table {
        let only = if transport == "tcp" { Transport::Tcp } else { Transport::Udp };
        let mut camera = Camera::start(Options { video, audio, auth, transport: only, ..Options::default() });
        let file = watch(&camera, transport, &format!("camera-{}-{}.mkv", codecs.0, codecs.1));
        let probe = Probe::read(&file);
        assert_eq!((probe.video_codec.as_str(), probe.audio_codec.as_str()), codecs);
        let (sent_video, sent_audio) = camera.frames();
        // ffmpeg cuts an access unit in two when the first sender report moves its clock.
        let seen = probe.counts();
        let sent = (sent_video as usize + 1, sent_audio as usize);
        assert!(sent.0 >= seen.0 && sent.1 >= seen.1, "{sent:?} sent, {seen:?} seen");
        if video.is_some() && audio.is_some() {
            let measured = AvSync::measure(&file);
            println!("{codecs:?}: {measured:?}");
            // ffmpeg may put AAC up to a frame (21 ms) beside its timestamps.
            assert!(measured.max_ms() <= 30.0, "{codecs:?}: {measured:?}");
        }
    }
}

#[test]
fn a_wrong_password_is_refused() {
    let auth = Auth::Digest { user: "eye", password: "right" };
    let camera = Camera::start(Options { auth, ..Options::default() });
    for url in [camera.url.clone(), camera.url.replace("rtsp://", "rtsp://eye:wrong@")] {
        let output = Command::new("ffprobe").args(["-v", "error", &url]).output().expect("ffprobe");
        assert!(String::from_utf8_lossy(&output.stderr).contains("401"), "{url}: {output:?}");
    }
}

#[test]
fn it_comes_back_on_its_port_and_with_b_frames() {
    let mut camera = Camera::start(Options { bframes: 2, ..Options::default() });
    let (url, pid) = (camera.url.clone(), camera.pid);
    camera.kill();
    camera.restart();
    assert_eq!(camera.url, url);
    assert_ne!(camera.pid, pid);
    let shown = run(Command::new("ffprobe")
        .args(["-v", "error", "-rtsp_transport", "tcp", "-read_intervals", "%+2", "-select_streams", "v"])
        .args(["-show_entries", "frame=pts_time,pict_type", "-of", "csv=p=0", &camera.url]));
    assert!(shown.contains(",B"), "there are B-frames: {shown}");
    let times: Vec<f64> = shown
        .lines()
        .filter_map(|line| line.split_once(',')?.0.parse().ok())
        .map(|s: f64| s * 1000.0)
        .collect();
    assert!(times.len() > 30 && times.windows(2).all(|w| (w[1] - w[0] - 33.3).abs() < 3.0), "{shown}");
}
