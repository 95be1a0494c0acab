//! `reeld record URL`: one source into one file, without a daemon and without a configuration.

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;
use std::{
    fs,
    io::Read,
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};
use support::{
    camera::{Auth, Camera, Options, VideoCodec},
    daemon::{SOON, file_of, text},
    faultfs::FaultFs,
    flv::Flv,
    media::{Packet, Probe, av_source, decode, run, sha256},
    play::{PlayServer, Viewer},
    wait::{wait_for, wait_until},
};
use tempfile::TempDir;

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const PASSWORD: &str = "hunter-2";
const DIGEST: Auth = Auth::Digest { user: "admin", password: PASSWORD };

support::camera_process!();

/// A folder to record in, and what was said there last.
struct Place(TempDir);

/// A run that has ended.
struct Ended {
    status: ExitStatus,
    output: String,
    told: String,
}

/// A run under way; killed when dropped.
struct Recording {
    child: Child,
    told: PathBuf,
}

impl Place {
    fn new() -> Self {
        Self(TempDir::with_prefix("reeld-record-").expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Names in the folder, sorted.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("the folder");
        let mut names: Vec<_> =
            entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.retain(|name| name != "told");
        names.sort();
        names
    }

    /// `reeld record URL ARGUMENTS` in this folder.
    fn start(&self, url: &str, arguments: &[&str]) -> Recording {
        let told = self.path("told");
        let child = Command::new(REELD)
            .args(["record", url])
            .args(arguments)
            .current_dir(self.0.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&told).expect("a file"))
            .spawn()
            .expect("reeld runs");
        Recording { child, told }
    }

    fn run(&self, url: &str, arguments: &[&str]) -> Ended {
        self.start(url, arguments).ended()
    }
}

impl Recording {
    fn told(&self) -> String {
        fs::read_to_string(&self.told).expect("what it told")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }

    fn ended(mut self) -> Ended {
        let status = wait_for("reeld record ends", 3 * SOON, || self.child.try_wait().expect("its state"));
        let mut output = String::new();
        self.child.stdout.take().expect("a pipe").read_to_string(&mut output).expect("its output");
        Ended { status, output, told: self.told() }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("---- told by reeld record\n{}\n----", self.told());
        }
    }
}

impl Ended {
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}: {}\n{}", self.status, self.told, self.output);
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.output).unwrap_or_else(|e| panic!("{e}: {}", self.output))
    }
}

/// Plays `flv` to the next client and ends in good order.
fn play(server: &PlayServer, flv: &Flv) {
    let mut viewer = Viewer::greet(server.accept()).expect("a player");
    viewer.play(flv, 1).expect("played");
    viewer.fin().expect("ended");
}

fn sizes(packets: &[Packet]) -> Vec<usize> {
    packets.iter().map(|p| p.size).collect()
}

fn wait_bytes(file: &Path, bytes: u64) {
    wait_until(&format!("{} bytes in {}", bytes, file.display()), 2 * SOON, || {
        fs::metadata(file).is_ok_and(|m| m.len() >= bytes)
    });
}

#[test]
fn what_a_server_plays_is_in_the_file_frame_by_frame_in_each_container() {
    let input = av_source(TMP, 3);
    let (sent, flv) = (Probe::read(&input), Flv::read(&input).expect("FLV"));
    let server = PlayServer::new().expect("a server");
    let url = format!("rtmp://{}/live/film", server.address());
    let place = Place::new();
    for extension in ["mp4", "mkv", "ts"] {
        let name = format!("my {{film}}.{extension}");
        let recording = place.start(&url, &["-o", &name, "--json"]);
        play(&server, &flv);
        let ended = recording.ended().expect(0);
        let told = ended.json();
        assert_eq!((&told["status"], &told["ended"]), (&"completed".into(), &"source".into()), "{told:#}");
        assert_eq!(file_of(&told), place.path(&name));
        let file = place.path(&name);
        let got = Probe::read(&file);
        assert_eq!(got.counts(), sent.counts(), "{extension}");
        assert_eq!(decode(&file), sent.video.len(), "{extension}");
        let part = &told["parts"][0];
        assert_eq!(part["video"]["frames"], sent.video.len(), "{told:#}");
        assert_eq!(part["audio"]["frames"], sent.audio.len(), "{told:#}");
        assert_eq!(told["lost"]["frames"], 0, "{told:#}");
        assert_eq!(part["sha256"], sha256(&file), "{told:#}");
        assert!((2_900..3_200).contains(&told["durationMs"].as_u64().expect("ms")), "{told:#}");
        assert!(ended.told.contains("recording h264 and aac"), "{}", ended.told);
        assert!(ended.told.contains("90 video and"), "{}", ended.told);
        if extension == "mp4" {
            assert_eq!(sizes(&got.video), sizes(&sent.video));
        }
    }
    let left = place.names();
    assert_eq!(left.len(), 6, "three files and their manifests: {left:?}");
    run(Command::new(REELD).arg("verify").arg(place.0.path()));
}

#[test]
fn without_a_name_it_is_made_of_url_and_time_and_never_taken_twice() {
    let flv = Flv::read(&av_source(TMP, 2)).expect("FLV");
    let server = PlayServer::new().expect("a server");
    let address = server.address();
    let (url, place) = (format!("rtmp://{address}/live/film?token=s3cret"), Place::new());
    let runs: Vec<_> = (0..2)
        .map(|_| {
            let recording = place.start(&url, &[]);
            play(&server, &flv);
            recording.ended().expect(0)
        })
        .collect();
    let mut files: Vec<_> = runs.iter().map(|ended| PathBuf::from(ended.output.trim_end())).collect();
    let begins = format!("127.0.0.1-{}-live-film_token_xxx-", address.port());
    for file in &files {
        let name = file.file_name().expect("a name").to_str().expect("UTF-8");
        assert!(name.starts_with(&begins) && name.ends_with(".mp4"), "{name}");
        assert_eq!(decode(file), 60);
    }
    files.dedup();
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(runs.iter().all(|ended| !ended.told.contains("s3cret")), "{}", runs[0].told);
}

#[test]
fn a_camera_is_recorded_as_long_as_asked_for() {
    let camera = Camera::start(Options { auth: DIGEST, ..Options::default() });
    let place = Place::new();
    let arguments = ["-o", "cam.mp4", "--duration", "3s", "--json"];
    let ended = place.run(&camera.url_with_credentials(), &arguments).expect(0);
    let told = ended.json();
    assert_eq!((&told["ended"], &told["lost"]["frames"]), (&"duration".into(), &0.into()), "{told:#}");
    let got = Probe::read(&place.path("cam.mp4"));
    assert!((3_000.0..4_500.0).contains(&got.duration_ms), "{} ms", got.duration_ms);
    assert_eq!(decode(&place.path("cam.mp4")), got.video.len());
    assert!(got.is_monotonic() && got.counts().0 >= 88, "{:?}", got.counts());
    assert!(!ended.told.contains(PASSWORD) && !ended.output.contains(PASSWORD), "{}", ended.told);
}

/// Also a terminal that is closed, and a service manager's stop.
#[test]
fn a_signal_ends_it_with_the_file_finished() {
    let camera = Camera::start(Options::default());
    let place = Place::new();
    for (name, signal) in [("int", Signal::INT), ("term", Signal::TERM), ("hup", Signal::HUP)] {
        let file = place.path(&format!("{name}.mp4"));
        let recording = place.start(&camera.url, &["-o", &format!("{name}.mp4"), "--json"]);
        wait_bytes(&place.path(&format!("{name}.mp4.part")), 20_000);
        recording.signal(signal);
        let ended = recording.ended().expect(0);
        assert_eq!(ended.json()["ended"], "interrupted", "{}", ended.told);
        assert_eq!(decode(&file), Probe::read(&file).video.len());
    }
    let left = place.names();
    assert!(left.len() == 6 && !left.iter().any(|n| n.ends_with(".part")), "{left:?}");
}

#[test]
fn what_is_recorded_when_it_is_killed_plays() {
    let camera = Camera::start(Options::default());
    let place = Place::new();
    let mut recording = place.start(&camera.url, &["-o", "cut.mp4"]);
    let part = place.path("cut.mp4.part");
    wait_bytes(&part, 40_000);
    recording.child.kill().expect("kill -9");
    assert_eq!(recording.child.wait().expect("its end").signal(), Some(9));
    assert_eq!(place.names(), ["cut.mp4.part"]);
    assert!(decode(&part) > 15, "what was written plays");
    // It is not written over: neither as it is, nor when the whole file may be.
    let before = sha256(&part);
    for arguments in [vec!["-o", "cut.mp4"], vec!["-o", "cut.mp4", "--overwrite"]] {
        let told = place.run(&camera.url, &arguments).expect(1).told;
        assert!(told.contains("cut.mp4.part exists"), "{told}");
    }
    assert_eq!(sha256(&part), before);
}

#[test]
fn what_cannot_be_recorded_says_what_to_do_and_leaves_nothing() {
    let camera = Camera::start(Options { auth: DIGEST, ..Options::default() });
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let place = Place::new();
    let wrong = camera.url.replacen("rtsp://", "rtsp://admin:Wr0ng@", 1);
    let (refused, nobody) =
        (format!("rtsp://127.0.0.1:{port}/cam"), format!("rtmp://127.0.0.1:{port}/live/a"));
    for (url, arguments, code, expected) in [
        (refused.as_str(), &[][..], 1, "cannot connect: Connection refused"),
        (&nobody, &["--reconnect"], 1, "check host and port"),
        (&wrong, &[], 1, "refuses this user and password (401)"),
        (&camera.url, &[], 1, "write rtsp://USER:PASSWORD@HOST/PATH"),
        ("http://127.0.0.1/x", &[], 2, "rtsp:// and rtmp:// are"),
        ("camera.lan", &[], 2, "it is no URL"),
        ("rtsps://127.0.0.1/x", &[], 2, "use rtsp:// or rtmp://"),
        (&refused, &["-o", "x.avi"], 2, "write one of .mp4, .webm, .mkv, .ts"),
        (&refused, &["-o", "gone/x.mp4"], 1, "gone does not exist"),
        (&refused, &["--duration", "soon"], 2, "like 10 or 10s"),
        (&refused, &["--config", "gone.toml"], 1, "gone.toml"),
        (&refused, &["-o", "/proc/x.mp4"], 1, "nothing can be written to the folder /proc"),
    ] {
        let ended = place.run(url, arguments).expect(code);
        assert!(ended.told.contains(expected), "{url} {arguments:?}: {}", ended.told);
        assert!(ended.output.is_empty() && !ended.told.contains("Wr0ng"), "{}", ended.told);
    }
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn a_container_that_does_not_take_the_codec_is_told_before_anything_is_written() {
    let camera = Camera::start(Options { video: Some(VideoCodec::Vp8), audio: None, ..Options::default() });
    let place = Place::new();
    fs::write(place.path("x.mp4"), "theirs").expect("written");
    let told = place.run(&camera.url, &["-o", "x.mp4", "--overwrite"]).expect(1).told;
    assert!(told.contains("sends vp8, which mp4 does not take") && told.contains(".webm, .mkv"), "{told}");
    assert_eq!(
        (place.names(), fs::read(place.path("x.mp4")).expect("there")),
        (vec!["x.mp4".into()], b"theirs".into())
    );
    let told = place.run(&camera.url, &["--duration", "1s"]).expect(0);
    let file = PathBuf::from(told.output.trim_end());
    assert_eq!(file.extension().and_then(|e| e.to_str()), Some("webm"));
    assert_eq!(Probe::read(&file).video_codec, "vp8");
}

#[test]
fn a_file_is_overwritten_only_when_asked_and_only_by_a_source_that_sends() {
    let flv = Flv::read(&av_source(TMP, 2)).expect("FLV");
    let server = PlayServer::new().expect("a server");
    let url = format!("rtmp://{}/live/film", server.address());
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let place = Place::new();
    let file = place.path("film.mp4");
    fs::write(&file, "theirs").expect("written");
    let told = place.run(&url, &["-o", "film.mp4"]).expect(1).told;
    assert!(told.contains("film.mp4 exists") && told.contains("--overwrite"), "{told}");
    place.run(&format!("rtmp://127.0.0.1:{port}/live/film"), &["-o", "film.mp4", "--overwrite"]).expect(1);
    assert_eq!(fs::read(&file).expect("there"), b"theirs");
    // Twice: the second time there is a manifest too.
    for _ in 0..2 {
        let recording = place.start(&url, &["-o", "film.mp4", "--overwrite"]);
        play(&server, &flv);
        recording.ended().expect(0);
        assert_eq!(decode(&file), 60);
        assert_eq!(place.names(), ["film.mp4", "film.mp4.json"]);
    }
}

#[test]
fn with_reconnect_a_camera_that_comes_back_is_recorded_on_in_the_same_file() {
    let mut camera = Camera::start(Options::default());
    let place = Place::new();
    let recording = place.start(&camera.url, &["-o", "cam.mp4", "--reconnect", "--json"]);
    let part = place.path("cam.mp4.part");
    wait_bytes(&part, 30_000);
    camera.kill();
    wait_until("it waits", SOON, || recording.told().contains("the source is away ("));
    let before = fs::metadata(&part).expect("there").len();
    camera.restart();
    wait_until("it is back", 2 * SOON, || recording.told().contains("the source is back"));
    wait_bytes(&part, before + 30_000);
    recording.signal(Signal::INT);
    let told = recording.ended().expect(0).json();
    let gaps = told["lost"]["gaps"].as_array().expect("gaps");
    assert!(gaps.iter().any(|gap| text(gap, "kind") == "reconnect"), "{told:#}");
    assert_eq!(place.names(), ["cam.mp4", "cam.mp4.json"]);
    let got = Probe::read(&place.path("cam.mp4"));
    assert_eq!(decode(&place.path("cam.mp4")), got.video.len());
    assert!(got.is_monotonic());
}

#[test]
fn without_reconnect_a_camera_that_dies_ends_it() {
    let mut camera = Camera::start(Options::default());
    let place = Place::new();
    let recording = place.start(&camera.url, &["-o", "cam.mp4", "--json"]);
    wait_bytes(&place.path("cam.mp4.part"), 30_000);
    camera.kill();
    let told = recording.ended().expect(0).json();
    assert_eq!(told["ended"], "source", "{told:#}");
    assert!(!text(&told, "reason").is_empty(), "{told:#}");
    assert_eq!(decode(&place.path("cam.mp4")), Probe::read(&place.path("cam.mp4")).video.len());
}

#[test]
fn on_a_terminal_a_line_tells_every_second_how_far_it_is() {
    let camera = Camera::start(Options::default());
    let place = Place::new();
    let recording = format!("{REELD} record {} -o cam.mp4 --duration 3s", camera.url);
    let shown =
        run(Command::new("script").args(["-qec", &recording, "/dev/null"]).current_dir(place.0.path()));
    let lines: Vec<_> = shown.split("\r\x1b[K").filter(|line| line.contains("Mbit/s")).collect();
    assert!(
        lines.len() >= 2 && lines.iter().all(|line| line.contains("lost 0 frames, 0 packets")),
        "{shown}"
    );
    assert!(lines[1].starts_with("0:00:0") && !lines[1].contains("  0 frames"), "{shown}");
}

#[test]
fn a_disk_that_is_full_ends_it_and_is_told_and_what_was_written_plays() {
    let camera = Camera::start(Options::default());
    let place = Place::new();
    let disk = FaultFs::mount(&place.path("disk"));
    let recording = place.start(&camera.url, &["-o", "disk/cam.mp4"]);
    wait_bytes(&place.path("disk/cam.mp4.part"), 40_000);
    disk.fail_writes(Some(Errno::NOSPC));
    let ended = recording.ended().expect(1);
    disk.fail_writes(None);
    assert!(ended.told.contains("the disk is full"), "{}", ended.told);
    let part = place.path("disk/cam.mp4.part");
    assert!(ended.told.contains(&part.display().to_string()), "{}", ended.told);
    assert!(decode(&part) > 15, "{}", ended.told);
    let entries = fs::read_dir(disk.root()).expect("the disk");
    let names: Vec<_> = entries.map(|e| e.expect("an entry").file_name()).collect();
    assert_eq!(names, ["cam.mp4.part"], "{}", ended.told);
}

#[test]
fn ctrl_c_before_the_source_answers_ends_it_at_once() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let place = Place::new();
    for scheme in ["rtsp", "rtmp"] {
        let url = format!("{scheme}://{}/live/a", mute.local_addr().expect("bound"));
        let recording = place.start(&url, &[]);
        let _connection = mute.accept().expect("it connects");
        recording.signal(Signal::INT);
        let ended = recording.ended().expect(1);
        assert!(ended.told.contains("ended before anything was recorded"), "{}", ended.told);
    }
    assert_eq!(place.names(), [""; 0]);
}
