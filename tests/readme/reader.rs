//! Somebody who reads README and does what it says: a daemon, a shell in a folder, cameras, streams that are live.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use support::{
    camera::{Auth, Camera, Options},
    daemon::{Daemon, House, SOON, text},
    http::request,
    live::Live,
    media::{self, Publisher, av_source},
    wait::{reached, wait_for, wait_until},
};

use super::{REELD, ROOT, TMP, shape::Shape, text::Command as Example};

pub const ROOM: &str = "court";
const STREAM: &str = "camera1";
const OTHER: &str = "camera2";
/// Media in a recording before something is done with it.
const LEAST_MS: u64 = 1200;
/// Longest time of one command.
const LIMIT_S: &str = "30";
/// How the commands are run where a test differs from a terminal.
const PRELUDE: &str = r#"set -euo pipefail
# The status beside the body; an error is a failure.
curl() { command curl -sS --fail-with-body -w '%{stderr}HTTP %{http_code}\n' "$@"; }
# No screen, no loudspeaker, and an end.
ffplay() { SDL_VIDEODRIVER=dummy SDL_AUDIODRIVER=dummy command ffplay -autoexit -loglevel error "$@"; }
# In a root of its own.
sudo() { "$@"; }
"#;

/// What has to be so before a command makes sense, and whose ids stand in it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// A stream is live.
    Live,
    /// It is live and not recorded.
    NotRecorded,
    /// No stream of the room is recorded.
    RoomNotRecorded,
    /// It is live and recorded: `RECORDING_ID`.
    Recorded,
    Paused,
    /// `RECORDING_ID` is of the one stream, `ID` another one that is live.
    TwoStreams,
    /// A recording with its poster: `RECORDING_ID`, and `NAME` of its file.
    Finished,
    /// `SOURCE_ID` is pulled last, and sends as all others do.
    Source,
}

pub struct Reader {
    // Before its folder, where its log is.
    pub daemon: Daemon,
    pub house: House,
    live: HashMap<&'static str, Live>,
    cameras: [Camera; 2],
    ids: HashMap<&'static str, String>,
}

impl Reader {
    /// The daemon with the policy that is shipped.
    pub fn new() -> Self {
        let policy = fs::read_to_string(root("conf/reeld.properties")).expect("the shipped policy");
        let house = House::new(&policy, "");
        for folder in ["bin", "desk", "copies", "root/usr/bin", "root/etc/systemd/system", "root/var/lib"] {
            fs::create_dir_all(house.path(folder)).expect("a folder");
        }
        fs::write(house.path("s3-secret"), "secret\n").expect("a file");
        std::os::unix::fs::symlink(REELD, house.path("bin/reeld")).expect("a link");
        let film = media::source(
            TMP,
            "film.mp4",
            &[
                &["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30:duration=12"],
                &["-f", "lavfi", "-i", "sine=frequency=440:duration=12"],
                &["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"],
            ],
        );
        std::os::unix::fs::symlink(film, house.path("desk/film.mp4")).expect("a link");
        let auth = Auth::Digest { user: "USER", password: "PASSWORD" };
        let cameras = [auth, Auth::None].map(|auth| Camera::start(Options { auth, ..Options::default() }));
        let daemon = house.start(REELD);
        Self { house, daemon, live: HashMap::new(), cameras, ids: HashMap::new() }
    }

    /// What stands in README, and what it is here. The longer ones come first.
    pub fn here(&self, text: &str) -> String {
        let path = |name: &str| self.house.path(name).display().to_string();
        let http = self.daemon.http();
        let camera = |n: usize| self.cameras[n].url_with_credentials();
        let table = [
            ("rtmp://127.0.0.1:1935", format!("rtmp://{}", self.daemon.rtmp())),
            ("rtsp://127.0.0.1:8554", format!("rtsp://{}", self.daemon.rtsp())),
            ("127.0.0.1:9091", http.to_string()),
            ("rtsp://USER:PASSWORD@192.168.1.20/stream1", camera(0)),
            ("rtsp://camera.lan/1", camera(1)),
            ("rtmp://relay.lan/", "rtmp://127.0.0.1:9/".to_owned()),
            ("/usr/local/FlashphonerWebCallServer/records/", path("records/")),
            ("/var/www/html/stream_records/", path("copies/")),
            ("target/release/reeld", REELD.to_owned()),
            ("reeld check", format!("reeld check --config {}", path("root/etc/reeld/reeld.toml"))),
            ("/usr/bin/", path("root/usr/bin/")),
            ("/etc/reeld/s3-secret", path("s3-secret")),
            ("/etc/", path("root/etc/")),
            ("/var/lib/", path("root/var/lib/")),
        ];
        // One pass, so that what is put in is not replaced again.
        let (mut rest, mut told) = (text, String::new());
        while !rest.is_empty() {
            let found = table.iter().find(|(from, _)| rest.starts_with(from));
            let (taken, put) = match found {
                Some((from, to)) => (from.len(), to.as_str()),
                None => {
                    let length = rest.chars().next().map_or(0, char::len_utf8);
                    (length, &rest[..length])
                }
            };
            told.push_str(put);
            rest = &rest[taken..];
        }
        told
    }

    /// Runs a command to its end: what it prints is as its comment says.
    pub fn run(&mut self, example: &Example, given: Option<Given>) -> Result<(), String> {
        self.ids.clear();
        if let Some(given) = given {
            self.bring_about(given);
        }
        let command = self.with_ids(&self.here(&example.text))?;
        if command.starts_with("ffmpeg -re ") || command.starts_with("gst-launch-1.0 ") {
            return self.publish(&command);
        }
        let is_installed = ["sudo ", "reeld check"].iter().any(|begin| example.text.starts_with(begin));
        let folder = if is_installed { root("") } else { self.house.path("desk") };
        let mut shell = self.shell(&command, &folder);
        let output = shell.output().map_err(|e| e.to_string())?;
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let fault =
            |what: &str| Err(format!("{what}\n    {command}\n    {}\n    {}", said.trim(), errors.trim()));
        if !output.status.success() {
            return fault(&output.status.to_string());
        }
        let wanted = good_statuses(&example.comment);
        let got = errors.lines().rev().find_map(|line| line.strip_prefix("HTTP ")?.parse::<u16>().ok());
        if let Some(got) = got
            && !wanted.is_empty()
            && !wanted.contains(&got)
        {
            return fault(&format!("{got}, not one of {wanted:?}"));
        }
        let Some(shape) = Shape::drawn(&example.comment).filter(|_| got.is_some()) else { return Ok(()) };
        match serde_json::from_str(&said).map_err(|e| e.to_string()).and_then(|value| shape.check(&value)) {
            Ok(()) => Ok(()),
            Err(what) => fault(&what),
        }
    }

    fn shell(&self, command: &str, folder: &Path) -> Command {
        let server = format!("http://{}", self.daemon.http());
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("timeout");
        shell.args([LIMIT_S, "bash", "-c", &format!("{PRELUDE}{command}")]).current_dir(folder);
        shell.env("PATH", format!("{}:{path}", self.house.path("bin").display()));
        shell.env("B", &server).env("REELD_SERVER", &server).stdin(Stdio::null());
        shell
    }

    /// A command that publishes until it is told to end: it is live, and recorded by the shipped policy.
    fn publish(&mut self, command: &str) -> Result<(), String> {
        let stream = [STREAM, OTHER].into_iter().find(|name| command.contains(&format!("/{ROOM}/{name}")));
        let stream = stream.ok_or_else(|| format!("{command}: to which stream?"))?;
        self.live.remove(stream);
        let before = self.daemon.recordings(stream).len();
        let mut publisher = Publisher::spawn(
            self.shell(&format!("exec {command}"), &self.house.path("desk")).stdout(Stdio::null()),
        );
        let begun = reached(SOON, || {
            self.daemon.recordings(stream).len() > before && self.recorded_ms(stream) >= Some(LEAST_MS)
        });
        publisher.interrupt();
        let (_, said) = publisher.ended(SOON);
        let ended = || {
            let newest = self.daemon.recordings(stream).into_iter().next();
            newest.is_some_and(|r| r["status"] == "completed" && r["durationMs"].as_u64() >= Some(1000))
        };
        if begun && reached(SOON, ended) {
            Ok(())
        } else {
            Err(format!("not recorded\n    {command}\n{said}"))
        }
    }

    /// Puts the ids of what was brought about where README has their names.
    fn with_ids(&self, command: &str) -> Result<String, String> {
        if !command.starts_with("curl ") && !command.starts_with("ffplay ") {
            return Ok(command.to_owned());
        }
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut told = String::new();
        for piece in command.split_inclusive(|c| !is_word(c)) {
            let word = piece.trim_end_matches(|c| !is_word(c));
            let is_id = ["ID", "RECORDING_ID", "SOURCE_ID", "NAME"].contains(&word);
            match self.ids.get(word) {
                Some(id) => told.push_str(&piece.replacen(word, id, 1)),
                None if is_id => return Err(format!("{command}: what {word} is, is for GIVEN to say")),
                None => told.push_str(piece),
            }
        }
        Ok(told)
    }

    fn bring_about(&mut self, given: Given) {
        let mut ids = vec![("ID", STREAM)];
        match given {
            Given::Live => self.be_live(STREAM),
            Given::NotRecorded => self.be_not_recorded(STREAM),
            Given::RoomNotRecorded => {
                self.be_live(STREAM);
                let sessions = self.daemon.sessions();
                for session in
                    sessions.iter().filter(|s| s["roomName"] == ROOM && !s["recordingId"].is_null())
                {
                    self.stop_recording(&text(session, "mediaSessionId"));
                }
            }
            Given::Recorded => self.be_recorded(STREAM),
            Given::Paused => {
                self.be_recorded(STREAM);
                let id = self.daemon.session_id(STREAM);
                let path = format!("/api/v1/sessions/{id}/recording/pause");
                self.request("POST", &path, &json!({}), 200);
            }
            Given::TwoStreams => {
                self.be_recorded(STREAM);
                self.be_not_recorded(OTHER);
                ids = vec![("ID", OTHER)];
            }
            Given::Finished => {
                ids.clear();
                let recording = self.finished();
                self.ids.insert("RECORDING_ID", text(&recording, "id"));
                self.ids.insert("NAME", text(&recording["parts"][0], "name"));
            }
            Given::Source => {
                ids.clear();
                let newest = wait_for("all that is pulled sends", SOON, || {
                    let sources = self.daemon.get("/api/v1/sources")["items"].as_array()?.clone();
                    let is_live = |source: &Value| source["state"] == "live";
                    sources.iter().all(is_live).then_some(sources)?.pop()
                });
                self.ids.insert("SOURCE_ID", text(&newest, "id"));
            }
        }
        for (word, stream) in ids {
            self.ids.insert(word, self.daemon.session_id(stream));
        }
        if matches!(given, Given::Recorded | Given::Paused | Given::TwoStreams) {
            self.ids.insert("RECORDING_ID", text(&self.daemon.session(STREAM), "recordingId"));
        }
    }

    fn live_session(&self, stream: &str) -> Option<Value> {
        self.daemon.sessions().into_iter().find(|s| s["name"] == stream && s["status"] == "PUBLISHING")
    }

    /// Publishes it anew where it is not live; the shipped policy records it then.
    fn be_live(&mut self, stream: &'static str) {
        if self.live_session(stream).is_some() {
            return;
        }
        self.live.remove(stream);
        wait_until("the name is free", SOON, || self.daemon.sessions().iter().all(|s| s["name"] != stream));
        let options = self.daemon.publish_options(ROOM, stream);
        self.live.insert(stream, Live::start(options, &av_source(TMP, 4)));
        wait_until("it is recorded", SOON, || self.recorded_ms(stream) > Some(0));
    }

    fn be_not_recorded(&mut self, stream: &'static str) {
        self.be_live(stream);
        if !self.daemon.session(stream)["recordingId"].is_null() {
            self.stop_recording(&self.daemon.session_id(stream));
        }
    }

    fn stop_recording(&self, id: &str) {
        self.request("DELETE", &format!("/api/v1/sessions/{id}/recording"), &Value::Null, 200);
    }

    fn be_recorded(&mut self, stream: &'static str) {
        self.be_live(stream);
        let path = format!("/api/v1/sessions/{}/recording", self.daemon.session_id(stream));
        if self.daemon.session(stream)["recordingId"].is_null() {
            self.request("POST", &path, &json!({}), 201);
        }
        let id = text(&self.daemon.session(stream), "recordingId");
        // The session names it a moment before the catalog does.
        let status = || {
            let answer = self.daemon.request("GET", &format!("/api/v1/recordings/{id}"), b"");
            (answer.status == 200).then(|| text(&answer.json(), "status"))
        };
        if wait_for("the catalog has it", SOON, status) == "paused" {
            self.request("POST", &format!("{path}/resume"), &json!({}), 200);
        }
        wait_until("it is being written", SOON, || {
            status().as_deref() == Some("recording") && self.recorded_ms(stream) >= Some(LEAST_MS)
        });
    }

    fn recorded_ms(&self, stream: &str) -> Option<u64> {
        let id = text(&self.live_session(stream)?, "mediaSessionId");
        let path = format!("/api/v1/sessions/{id}/recording");
        let answer = request(self.daemon.http(), "GET", &path, b"").ok()?;
        (answer.status == 200).then(|| answer.json()["totalRunningDurationMs"].as_u64())?
    }

    /// A recording that has ended, of one part, with its poster.
    pub fn finished(&mut self) -> Value {
        if self.daemon.recordings(STREAM).iter().all(|r| !is_whole(r)) {
            self.be_recorded(STREAM);
            self.be_not_recorded(STREAM);
        }
        wait_for("a recording with its poster", SOON, || {
            let recordings = self.daemon.recordings(STREAM);
            recordings.into_iter().find(|r| is_whole(r) && !r["parts"][0]["poster"].is_null())
        })
    }

    /// A recording that was begun and ended by now, with its poster.
    pub fn newly_finished(&mut self) -> Value {
        self.be_not_recorded(STREAM);
        self.be_recorded(STREAM);
        let id = text(&self.daemon.session(STREAM), "recordingId");
        self.be_not_recorded(STREAM);
        self.daemon.get(&format!("/api/v1/recordings/{id}"))
    }

    fn request(&self, method: &str, path: &str, body: &Value, status: u16) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.daemon.request(method, path, body.as_bytes()).expect(status).json()
    }

    /// Waits until the stream is live and recorded.
    pub fn wait_recorded(&self, stream: &str) -> bool {
        reached(SOON, || self.recorded_ms(stream) >= Some(LEAST_MS))
    }

    /// What `reeld check` says of the configuration of this daemon with another policy or more lines.
    pub fn check(&self, toml: &str, properties: &str) -> Result<(), String> {
        let own = |name: &str| fs::read_to_string(self.house.path(name)).expect(name);
        let toml = format!("{}\n{toml}", own("reeld.toml").replace("reeld.properties", "checked.properties"));
        fs::write(self.house.path("checked.toml"), toml).expect("a file");
        let properties = format!("{}\n{properties}", own("reeld.properties"));
        fs::write(self.house.path("checked.properties"), properties).expect("a file");
        let output =
            Command::new(REELD).args(["check", "--config"]).arg(self.house.path("checked.toml")).output();
        let output = output.map_err(|e| e.to_string())?;
        let said =
            || [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).join("");
        if output.status.success() { Ok(()) } else { Err(said()) }
    }
}

fn is_whole(recording: &Value) -> bool {
    recording["status"] == "completed" && recording["parts"].as_array().is_some_and(|parts| parts.len() == 1)
}

/// Statuses of success that a comment names; empty when it names none.
fn good_statuses(comment: &str) -> Vec<u16> {
    let words = comment.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .filter(|word| word.len() == 3)
        .filter_map(|word| word.parse().ok())
        .filter(|s| (200..300).contains(s))
        .collect()
}

/// A path of this repository.
pub fn root(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}
