//! An IP camera: an RTSP server in a process of its own, which can be killed and started again on its port.
//!
//! Its picture turns white and its sound beeps once a second, see [`crate::avsync`].
//! A test file with cameras has the line `support::camera_process!();`.

mod server;

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use serde_json::json;

use server::run;

/// The arguments of a camera for the process that becomes it.
const ENVIRONMENT: &str = "REELD_TEST_CAMERA";
/// The test of [`camera_process`](crate::camera_process).
const PROCESS: &str = "camera_process";
/// The camera's words on its standard streams.
const LISTENING: &str = "camera listens on port ";
const FRAMES: &str = "camera frames ";
/// For the camera's answers.
const DEADLINE: Duration = Duration::from_secs(20);
/// How late AAC is heard by who follows the RTP timestamps: the encoder's priming of one frame, which RTP cannot
/// tell. The camera beeps as much earlier.
const AAC_LATE_NS: u64 = 1024 * 1_000_000_000 / 48_000;

/// The entry of the camera's process, once in each test file that starts cameras: the test program starts itself
/// with this test alone. A program of its own would not be built by `cargo test --test NAME`.
#[macro_export]
macro_rules! camera_process {
    () => {
        #[test]
        fn camera_process() {
            $crate::camera::run_or_start_one();
        }
    };
}

/// In a process that is to be a camera: the camera. In a test program: a test that one starts and has sent nothing.
pub fn run_or_start_one() {
    match std::env::var_os(ENVIRONMENT) {
        Some(_) => run(),
        None => assert_eq!(Camera::start(Options::default()).frames(), (0, 0)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoCodec {
    H264,
    H265,
    Vp8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AudioCodec {
    Aac,
    Opus,
    Pcma,
}

/// What the camera lets its clients choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    None,
    Basic { user: &'static str, password: &'static str },
    Digest { user: &'static str, password: &'static str },
}

/// What the camera sends: 320x180 at 30 fps.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub video: Option<VideoCodec>,
    pub audio: Option<AudioCodec>,
    /// Pictures from one key frame to the next.
    pub key_frame_every: u32,
    /// B-frames between two others; H.264 only.
    pub bframes: u32,
    pub transport: Transport,
    pub auth: Auth,
    /// 0: any free port.
    pub port: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            video: Some(VideoCodec::H264),
            audio: Some(AudioCodec::Aac),
            key_frame_every: 30,
            bframes: 0,
            transport: Transport::Any,
            auth: Auth::None,
            port: 0,
        }
    }
}

/// A running camera; killed when dropped.
#[derive(Debug)]
pub struct Camera {
    /// `rtsp://…`, without user and password.
    pub url: String,
    pub pid: u32,
    options: Options,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Camera {
    /// Returns when the camera listens.
    pub fn start(options: Options) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("the test program"))
            .args(["--exact", PROCESS, "--nocapture"])
            .env(ENVIRONMENT, environment(&options))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second test program");
        let stdin = child.stdin.take().expect("a pipe");
        let lines = lines_of(child.stdout.take().expect("a pipe"));
        let pid = child.id();
        let mut camera = Self { url: String::new(), pid, options, child, stdin, lines };
        let port = camera.answer(LISTENING);
        camera.options.port = port.parse().expect("a port");
        camera.url = format!("rtsp://{}/cam", camera.address());
        camera
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.options.port).into()
    }

    /// [`Camera::url`] with user and password, if it wants any.
    pub fn url_with_credentials(&self) -> String {
        match self.options.auth {
            Auth::None => self.url.clone(),
            Auth::Basic { user, password } | Auth::Digest { user, password } => {
                let userinfo = format!("{}:{}", escape(user), escape(password));
                self.url.replacen("rtsp://", &format!("rtsp://{userinfo}@"), 1)
            }
        }
    }

    /// Access units of video and of audio given to the network so far, over all clients and connections.
    pub fn frames(&mut self) -> (u64, u64) {
        writeln!(self.stdin, "frames").expect("the camera runs");
        let answer = self.answer(FRAMES);
        let (video, audio) = answer.split_once(' ').expect("two counts");
        (video.parse().expect("a count"), audio.parse().expect("a count"))
    }

    /// Kills it as a power cut does: no farewell to its clients.
    pub fn kill(&mut self) {
        self.child.kill().expect("a camera");
        self.child.wait().expect("its end");
    }

    /// Starts a killed camera again on the same port.
    pub fn restart(&mut self) {
        assert!(self.child.try_wait().expect("its state").is_some(), "kill it first");
        *self = Self::start(self.options);
    }

    /// The rest of the camera's next line that begins with `what`.
    fn answer(&mut self, what: &str) -> String {
        let lines = std::iter::from_fn(|| self.lines.recv_timeout(DEADLINE).ok());
        let found = lines.into_iter().find_map(|line| line.split_once(what).map(|(_, rest)| rest.to_owned()));
        found.unwrap_or_else(|| {
            panic!("no {what:?} of the camera; is camera_process!() in this test file? {:?}", self.child)
        })
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// For the user and the password of a URL (RFC 3986, section 2.1).
fn escape(text: &str) -> String {
    let escaped = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    escaped.collect()
}

fn lines_of(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn environment(options: &Options) -> String {
    let (auth, user, password) = match options.auth {
        Auth::None => ("none", "", ""),
        Auth::Basic { user, password } => ("basic", user, password),
        Auth::Digest { user, password } => ("digest", user, password),
    };
    let (tcp, udp) = (options.transport != Transport::Udp, options.transport != Transport::Tcp);
    json!({
        "port": options.port, "launch": launch(options), "tcp": tcp, "udp": udp,
        "soundLateNs": if options.audio == Some(AudioCodec::Aac) { AAC_LATE_NS } else { 0 },
        "auth": auth, "user": user, "password": password,
    })
    .to_string()
}

/// The pipeline in the words of `gst-launch-1.0`.
fn launch(options: &Options) -> String {
    let mut branches = Vec::new();
    if let Some(codec) = options.video {
        let every = options.key_frame_every;
        let encoder = match (codec, options.bframes) {
            (VideoCodec::H264, 0) => format!(
                "x264enc tune=zerolatency speed-preset=ultrafast key-int-max={every} option-string=scenecut=0 \
                 ! rtph264pay config-interval=-1"
            ),
            (VideoCodec::H264, bframes) => format!(
                "x264enc speed-preset=ultrafast rc-lookahead=0 sync-lookahead=0 threads=1 b-adapt=false \
                 bframes={bframes} key-int-max={every} option-string=scenecut=0 \
                 ! video/x-h264,profile=main ! rtph264pay config-interval=-1"
            ),
            (VideoCodec::H265, _) => format!(
                "x265enc tune=zerolatency speed-preset=ultrafast key-int-max={every} log-level=none \
                 ! rtph265pay config-interval=-1"
            ),
            (VideoCodec::Vp8, _) => {
                format!("vp8enc deadline=1 cpu-used=8 keyframe-max-dist={every} ! rtpvp8pay")
            }
        };
        branches.push(format!(
            "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width={},height={},framerate=30/1 \
             ! identity name=picture ! {encoder} name=pay0 pt=96",
            server::WIDTH,
            server::HEIGHT
        ));
    }
    if let Some(codec) = options.audio {
        let (rate, encoder) = match codec {
            AudioCodec::Aac => (48_000, "audioconvert ! avenc_aac ! rtpmp4gpay pt=97"),
            AudioCodec::Opus => (48_000, "opusenc ! rtpopuspay pt=97"),
            AudioCodec::Pcma => (8_000, "alawenc ! rtppcmapay pt=8"),
        };
        branches.push(format!(
            "audiotestsrc is-live=true wave=silence samplesperbuffer={} \
             ! audio/x-raw,format=S16LE,layout=interleaved,channels=1,rate={rate} \
             ! identity name=sound ! {encoder} name=pay{}",
            rate / 50,
            branches.len()
        ));
    }
    assert!(!branches.is_empty(), "a camera sends something");
    branches.join(" ")
}
