//! Media to publish, and what is in a recorded file; both by ffmpeg.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::wait::wait_for;

pub const VIDEO: &[&str] = &["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30"];
pub const AUDIO: &[&str] = &["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"];
/// A key frame every second.
pub const H264: &[&str] = &["-c:v", "libx264", "-preset", "ultrafast", "-g", "30", "-pix_fmt", "yuv420p"];
pub const AAC: &[&str] = &["-c:a", "aac", "-b:a", "64k"];

/// Makes the file `name` in `folder` with these arguments, unless an earlier run did.
pub fn source(folder: &str, name: &str, arguments: &[&[&str]]) -> PathBuf {
    let path = Path::new(folder).join(name);
    if path.exists() {
        return path;
    }
    // Other tests may make the same file at the same time.
    static MADE: AtomicU32 = AtomicU32::new(0);
    let unique = format!("{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    let unfinished = Path::new(folder).join(format!("{unique}-{name}"));
    run(Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y"])
        .args(arguments.concat())
        .arg(&unfinished));
    fs::rename(&unfinished, &path).expect("a rename");
    path
}

/// `seconds` of 30 fps H.264 with AAC as FLV.
pub fn av_source(folder: &str, seconds: u32) -> PathBuf {
    let length = seconds.to_string();
    source(folder, &format!("av{seconds}.flv"), &[VIDEO, AUDIO, &["-t", &length], H264, AAC])
}

/// Runs to the end, which has to be a good one; hands back standard output.
pub fn run(command: &mut Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().unwrap_or_else(|e| {
        panic!(
            "{program}: {e}; apt-get install ffmpeg gstreamer1.0-tools gstreamer1.0-plugins-{{good,bad,ugly}}"
        )
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A publisher of a real client; killed when dropped.
#[derive(Debug)]
pub struct Publisher(Child);

impl Publisher {
    /// ffmpeg sends `file` as it is; in real time with `live`, else as fast as it is taken.
    pub fn ffmpeg(file: &Path, url: &str, live: bool) -> Self {
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error"]).args(live.then_some("-re")).arg("-i").arg(file);
        command.args(["-map", "0", "-c", "copy", "-flvflags", "no_duration_filesize", "-f", "flv", url]);
        Self::spawn(&mut command)
    }

    pub fn spawn(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        Self(child.unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }

    /// The end of the client, within `limit`, and what it wrote to standard error.
    pub fn ended(&mut self, limit: Duration) -> (ExitStatus, String) {
        let status = wait_for("the publisher ends", limit, || self.0.try_wait().expect("its state"));
        let mut errors = String::new();
        self.0.stderr.take().expect("a pipe").read_to_string(&mut errors).expect("its errors");
        (status, errors)
    }

    /// SIGINT, as ctrl-C sends it.
    pub fn interrupt(&self) {
        let pid = Pid::from_raw(self.0.id().cast_signed()).expect("a process id");
        kill_process(pid, Signal::INT).expect("the publisher runs");
    }

    /// Waits until all is sent.
    pub fn finish(mut self, limit: Duration) {
        let (status, errors) = self.ended(limit);
        assert!(status.success(), "{status}: {errors}");
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One packet of a file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Packet {
    pub pts_ms: f64,
    pub dts_ms: f64,
    pub key: bool,
    /// Where its bytes are in the file.
    pub position: usize,
    pub size: usize,
}

/// What ffprobe finds in a file: packets in decoding order.
#[derive(Debug, Default)]
pub struct Probe {
    pub video: Vec<Packet>,
    pub audio: Vec<Packet>,
    pub video_codec: String,
    pub audio_codec: String,
    pub duration_ms: f64,
}

impl Probe {
    pub fn read(file: &Path) -> Self {
        let text = run(Command::new("ffprobe")
            .args(["-v", "error", "-of", "json", "-show_packets", "-show_streams", "-show_format"])
            .arg(file));
        let json: Value = serde_json::from_str(&text).expect("JSON of ffprobe");
        let mut probe = Self { duration_ms: ms(&json["format"]["duration"]), ..Self::default() };
        for packet in json["packets"].as_array().expect("packets") {
            let packets = match packet["codec_type"].as_str() {
                Some("video") => &mut probe.video,
                Some("audio") => &mut probe.audio,
                _ => continue,
            };
            packets.push(Packet {
                pts_ms: ms(&packet["pts_time"]),
                dts_ms: ms(&packet["dts_time"]),
                key: packet["flags"].as_str().is_some_and(|flags| flags.starts_with('K')),
                position: number(&packet["pos"]) as usize,
                size: number(&packet["size"]) as usize,
            });
        }
        for stream in json["streams"].as_array().expect("streams") {
            let codec = stream["codec_name"].as_str().unwrap_or_default().to_owned();
            match stream["codec_type"].as_str() {
                Some("video") => probe.video_codec = codec,
                Some("audio") => probe.audio_codec = codec,
                _ => {}
            }
        }
        probe
    }

    /// Packets of video and of audio.
    pub fn counts(&self) -> (usize, usize) {
        (self.video.len(), self.audio.len())
    }

    /// How much later the first picture is shown than the first sound is heard.
    pub fn offset_ms(&self) -> f64 {
        self.video.iter().map(|p| p.pts_ms).fold(f64::INFINITY, f64::min) - self.audio[0].pts_ms
    }

    pub fn is_monotonic(&self) -> bool {
        [&self.video, &self.audio].iter().all(|packets| packets.windows(2).all(|w| w[0].dts_ms < w[1].dts_ms))
    }
}

fn number(value: &Value) -> f64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
}

fn ms(seconds: &Value) -> f64 {
    number(seconds) * 1000.0
}

/// Decodes the file to its end, which must not give a single error, and counts the pictures shown.
pub fn decode(file: &Path) -> usize {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-xerror", "-i"]).arg(file);
    let output = command
        .args(["-fps_mode", "passthrough", "-map", "0:v?", "-map", "0:a?", "-f", "framecrc", "-"])
        .output()
        .expect("apt-get install ffmpeg");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{}: {}\n{errors}", file.display(), output.status);
    let lines = String::from_utf8(output.stdout).expect("text");
    let video = lines.lines().find_map(|l| l.strip_prefix("#media_type ")).is_some_and(|l| l == "0: video");
    if video { lines.lines().filter(|line| line.starts_with("0,")).count() } else { 0 }
}

/// Types of the top-level boxes of an MP4 file.
pub fn boxes(file: &Path) -> Vec<String> {
    let bytes = fs::read(file).expect("a file");
    let (mut at, mut types) = (0, Vec::new());
    while at < bytes.len() {
        let header = bytes.get(at..at + 8).expect("a whole box header");
        let mut size = u64::from(u32::from_be_bytes([header[0], header[1], header[2], header[3]]));
        types.push(String::from_utf8_lossy(&header[4..8]).into_owned());
        if size == 1 {
            let large = bytes[at + 8..].first_chunk().expect("a large size");
            size = u64::from_be_bytes(*large);
        }
        assert!(size >= 8, "a box of {size} bytes at {at}");
        at += size as usize;
    }
    assert_eq!(at, bytes.len(), "the last box ends where the file does");
    types
}

/// SHA-256 in lower-case hex.
pub fn sha256(file: &Path) -> String {
    let text = run(Command::new("sha256sum").arg("-b").arg(file));
    text.split(' ').next().expect("a sum").trim_start_matches('\\').to_owned()
}
