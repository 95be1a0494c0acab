//! The real daemon, on free ports, in a folder of its own.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    http::{self, Answer},
    rtmp::Options,
    wait::{reached, wait_for, wait_until},
};

/// For a state that is reached in milliseconds on an idle machine.
pub const SOON: Duration = Duration::from_secs(20);
/// How much of the log a failed test shows.
const LOG_LINES: usize = 120;

/// A folder with the configuration of one daemon; it may be started there again and again.
///
/// `records/`, `hooks/`, `state/`, `reeld.toml`, `reeld.properties`. The hook script of the default policy notes
/// its calls, see [`House::hook_calls`].
#[derive(Debug)]
pub struct House {
    dir: TempDir,
    starts: AtomicU32,
}

/// One call of the default hook script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCall {
    /// Unix time, ns.
    pub at_ns: u128,
    pub stream: String,
    pub file: PathBuf,
}

impl House {
    /// `properties` is the record policy; `limits` the lines of `[limits]` in the daemon's configuration. The load of the
    /// machine, which other tests make, refuses nothing unless these set `max_cpu`; and test pictures, which are sent again
    /// and again, are not looked at unless these set `monitor_interval`.
    pub fn new(properties: &str, limits: &str) -> Self {
        let dir = TempDir::with_prefix("reeld-test-").expect("a temporary folder");
        let limits = undisturbed(limits);
        let pipelines = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines");
        let toml = format!(
            "[listen]\nhttp = \"127.0.0.1:0\"\nrtmp = \"127.0.0.1:0\"\nrtsp = \"127.0.0.1:0\"\n\
             [paths]\nrecords = \"records\"\nhooks = \"hooks\"\nstate = \"state\"\npipelines = {pipelines:?}\n\
             [policy]\nfile = \"reeld.properties\"\n[limits]\n{limits}\n"
        );
        let house = Self { dir, starts: AtomicU32::new(0) };
        for folder in ["records", "hooks", "state"] {
            fs::create_dir(house.path(folder)).expect("a folder");
        }
        fs::write(house.path("reeld.toml"), toml).expect("reeld.toml");
        fs::write(house.path("reeld.properties"), properties).expect("reeld.properties");
        house.hook(
            "#!/bin/sh\nprintf '%s\\t%s\\t%s\\n' \"$(date +%s%N)\" \"$1\" \"$2\" >> \"${0%/*}/calls\"\n",
        );
        house
    }

    /// `name` within the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Leaves the folder there, for who wants to look at it.
    pub fn keep(self) -> PathBuf {
        self.dir.keep()
    }

    /// Replaces the hook script.
    pub fn hook(&self, script: &str) {
        let path = self.path("hooks/on_record_hook.sh");
        fs::write(&path, script).expect("a hook script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its rights");
    }

    /// What the default hook script was called with so far.
    pub fn hook_calls(&self) -> Vec<HookCall> {
        let text = fs::read_to_string(self.path("hooks/calls")).unwrap_or_default();
        let calls = text.lines().filter_map(|line| {
            let mut words = line.split('\t');
            let (at, stream, file) = (words.next()?, words.next()?, words.next()?);
            Some(HookCall { at_ns: at.parse().ok()?, stream: stream.to_owned(), file: file.into() })
        });
        calls.collect()
    }

    /// Files in `records/` whose names end in `suffix`, sorted; without the room that the daemon keeps there.
    pub fn records(&self, suffix: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("records")).expect("records");
        let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        let kept = |file: &Path| file.ends_with(".reeld-reserve");
        files.retain(|file| file.to_string_lossy().ends_with(suffix) && !kept(file));
        files.sort();
        files
    }

    /// Starts the daemon `program` and waits until it takes streams and calls.
    pub fn start(&self, program: &str) -> Daemon {
        let addresses = self.path("state/addresses.json");
        if let Err(error) = fs::remove_file(&addresses) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
        let log = self.path(&format!("log.{}", self.starts.fetch_add(1, Ordering::Relaxed)));
        let output = fs::File::create(&log).expect("a log file");
        let child = Command::new(program)
            .args(["serve", "--config"])
            .arg(self.path("reeld.toml"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}"));
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut daemon = Daemon { child, log, http: unknown, rtmp: unknown, rtsp: unknown };
        let chosen: Value = wait_for("the daemon is ready", SOON, || {
            let ended = daemon.child.try_wait().expect("its state");
            assert!(ended.is_none(), "the daemon ended at once: {ended:?}");
            serde_json::from_slice(&fs::read(&addresses).ok()?).ok()
        });
        let address = |name: &str| chosen[name].as_str().and_then(|a| a.parse().ok()).expect("an address");
        (daemon.http, daemon.rtmp, daemon.rtsp) = (address("http"), address("rtmp"), address("rtsp"));
        daemon
    }
}

fn undisturbed(limits: &str) -> String {
    let sections = if limits.starts_with('[') { Some(0) } else { limits.find("\n[") };
    let (own, sections) = limits.split_at(sections.unwrap_or(limits.len()));
    let off = [("max_cpu", "off"), ("monitor_interval", "0s")];
    let off = off.iter().filter(|(key, _)| !own.contains(key));
    let off: String = off.map(|(key, value)| format!("{key} = \"{value}\"\n")).collect();
    format!("{own}\n{off}{sections}")
}

/// A running daemon; killed when dropped. If the test is failing then, its log is shown.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
    http: SocketAddr,
    rtmp: SocketAddr,
    rtsp: SocketAddr,
}

impl Daemon {
    pub fn rtmp(&self) -> SocketAddr {
        self.rtmp
    }

    pub fn http(&self) -> SocketAddr {
        self.http
    }

    pub fn rtsp(&self) -> SocketAddr {
        self.rtsp
    }

    /// RTSP publish URL of `path`, which may have a query.
    pub fn rtsp_url(&self, path: &str) -> String {
        format!("rtsp://{}/{path}", self.rtsp)
    }

    /// Publish URL of `path`, which may have a query.
    pub fn url(&self, path: &str) -> String {
        format!("rtmp://{}/{path}", self.rtmp)
    }

    /// For a publisher of our own.
    pub fn publish_options(&self, app: &str, name: &str) -> Options {
        Options::new(self.rtmp, app, name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log")
    }

    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        http::request(self.http, method, path, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// The JSON at `path`, which has to be there.
    pub fn get(&self, path: &str) -> Value {
        self.request("GET", path, b"").expect(200).json()
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, body.to_string().as_bytes())
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path, b"")
    }

    /// The live sessions.
    pub fn sessions(&self) -> Vec<Value> {
        self.get("/api/v1/sessions")["items"].as_array().expect("items").clone()
    }

    /// The session of the stream `name` once it is publishing.
    pub fn session(&self, name: &str) -> Value {
        wait_for(&format!("{name} is publishing"), SOON, || {
            self.sessions().into_iter().find(|s| s["name"] == name && s["status"] == "PUBLISHING")
        })
    }

    /// Its `mediaSessionId`.
    pub fn session_id(&self, name: &str) -> String {
        text(&self.session(name), "mediaSessionId")
    }

    /// Waits until the session has received `frames` access units.
    pub fn wait_frames(&self, id: &str, frames: u64) {
        wait_until(&format!("{id} has {frames} frames"), SOON, || {
            self.get(&format!("/api/v1/sessions/{id}"))["frames"].as_u64() >= Some(frames)
        });
    }

    /// All recordings of the stream `name`, newest first.
    pub fn recordings(&self, name: &str) -> Vec<Value> {
        let items = self.get("/api/v1/recordings?limit=1000")["items"].as_array().expect("items").clone();
        items.into_iter().filter(|r| r["streamName"] == name).collect()
    }

    /// The only recording of the stream `name` once it is completed.
    pub fn completed(&self, name: &str) -> Value {
        let mut seen = Vec::new();
        reached(SOON, || {
            seen = self.recordings(name);
            seen.iter().any(|r| r["status"] == "completed" || r["status"] == "failed")
        });
        let [recording] = <[Value; 1]>::try_from(seen).unwrap_or_else(|seen| panic!("of {name}: {seen:#?}"));
        assert_eq!(recording["status"], "completed", "{recording:#}");
        recording
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Threads and open file descriptors of the process.
    pub fn holdings(&self) -> (usize, usize) {
        let count =
            |what: &str| fs::read_dir(format!("/proc/{}/{what}", self.child.id())).expect("proc").count();
        (count("task"), count("fd"))
    }

    /// Open sockets of the process. Unlike its files, they do not depend on how the catalog was asked.
    pub fn sockets(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("proc");
        let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    }

    /// Local ports of its UDP sockets over IPv4, sorted (proc_net_udp).
    pub fn udp_ports(&self) -> Vec<u16> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("proc");
        let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        let own: Vec<_> = links.map(|link| link.to_string_lossy().into_owned()).collect();
        let table = fs::read_to_string("/proc/net/udp").expect("the kernel's table of sockets");
        let ports = table.lines().filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let inode = format!("socket:[{}]", words.get(9)?);
            let (_, port) = words[1].split_once(':')?;
            own.contains(&inode).then(|| u16::from_str_radix(port, 16).ok())?
        });
        let mut ports: Vec<_> = ports.collect();
        ports.sort_unstable();
        ports
    }

    pub fn kill_9(mut self) {
        self.child.kill().expect("kill -9");
        let status = self.child.wait().expect("its end");
        assert_eq!(status.signal(), Some(9), "it ended before it was killed");
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("the daemon runs");
    }

    /// SIGTERM, then the exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        wait_for("the daemon ends after SIGTERM", 2 * SOON, || self.child.try_wait().expect("its state"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("---- log of the daemon\n{}\n----", tail.join("\n"));
        }
    }
}

/// The string `key` of a JSON object.
pub fn text(object: &Value, key: &str) -> String {
    object[key].as_str().unwrap_or_else(|| panic!("no {key} in {object:#}")).to_owned()
}

/// The file of a recording's first part.
pub fn file_of(recording: &Value) -> PathBuf {
    text(&recording["parts"][0], "file").into()
}
