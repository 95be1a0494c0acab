//! The recorders that are compared: how each is found, started and where it leaves stream i.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::process::Owned;

const NGINX_RTMP_MODULE: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// This project's daemon, recording to MP4
    Reeld,
    /// The same, fed by WebRTC publishers; Opus is transcoded to AAC
    ReeldWhip,
    /// The same with Opus kept
    ReeldWhipOpus,
    /// nginx with its RTMP module, recording to FLV
    Nginx,
    /// One ffmpeg for each stream, recording to MP4
    Ffmpeg,
    /// Receive and write, no protocol
    Floor,
}

/// What the peers need that is not on the search path.
pub struct Tools {
    pub reeld: PathBuf,
    pub pipelines: PathBuf,
}

/// A started peer. Dropping it ends all its processes.
pub struct Server {
    processes: Vec<Owned>,
}

impl Server {
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Owned::pid).collect()
    }

    pub fn all_ended(&self) -> bool {
        self.processes.iter().all(Owned::has_ended)
    }
}

impl Drop for Server {
    /// Asks all before waiting for each.
    fn drop(&mut self) {
        self.processes.iter().for_each(Owned::ask_to_end);
    }
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Reeld => "reeld (MP4)",
            Self::ReeldWhip => "reeld (WebRTC to MP4, AAC)",
            Self::ReeldWhipOpus => "reeld (WebRTC to MP4, Opus)",
            Self::Nginx => "nginx-rtmp (FLV)",
            Self::Ffmpeg => "ffmpeg (MP4)",
            Self::Floor => "floor (raw bytes)",
        }
    }

    /// What has to be installed first, or `None` when the peer can run.
    pub fn missing(self, tools: &Tools) -> Option<String> {
        match self {
            Self::Reeld | Self::ReeldWhip | Self::ReeldWhipOpus if !tools.reeld.is_file() => {
                Some(format!("{} is not there (cargo build --release)", tools.reeld.display()))
            }
            Self::Nginx if !Path::new(NGINX_RTMP_MODULE).is_file() || !runs("nginx", "-v") => {
                Some("not installed (apt-get install nginx libnginx-mod-rtmp)".into())
            }
            Self::Ffmpeg if !runs("ffmpeg", "-version") => {
                Some("not installed (apt-get install ffmpeg)".into())
            }
            _ => None,
        }
    }

    /// Whether each stream has a process and a port of its own.
    pub fn is_one_process_per_stream(self) -> bool {
        self == Self::Ffmpeg
    }

    pub fn is_reeld(self) -> bool {
        matches!(self, Self::Reeld | Self::ReeldWhip | Self::ReeldWhipOpus)
    }

    /// Whether the streams come by WebRTC.
    pub fn is_whip(self) -> bool {
        matches!(self, Self::ReeldWhip | Self::ReeldWhipOpus)
    }

    /// Whether the file has other access units of audio than the stream.
    pub fn transcodes(self) -> bool {
        self == Self::ReeldWhip
    }

    /// Whether the streams come without RTMP.
    pub fn is_raw(self) -> bool {
        self == Self::Floor
    }

    /// Where stream `number` is when its recording is final.
    pub fn recording(self, folder: &Path, number: u32) -> PathBuf {
        let extension = match self {
            Self::Reeld | Self::ReeldWhip | Self::ReeldWhipOpus | Self::Ffmpeg => "mp4",
            Self::Nginx => "flv",
            Self::Floor => "raw",
        };
        folder.join("records").join(format!("s{number}.{extension}"))
    }

    /// Starts the peer in `folder`, to listen on `ports`: one, or one for each stream. `spare` is another free port.
    pub fn start(self, tools: &Tools, folder: &Path, ports: &[u16], spare: u16) -> Result<Server> {
        let log = folder.join("server.log");
        fs::create_dir_all(folder.join("records")).context("cannot make the records folder")?;
        let port = ports.first().copied().context("no port")?;
        let processes = match self {
            Self::Reeld => vec![start_reeld(tools, folder, port, spare, "auto", &log)?],
            Self::ReeldWhip => vec![start_reeld(tools, folder, spare, port, "auto", &log)?],
            Self::ReeldWhipOpus => vec![start_reeld(tools, folder, spare, port, "passthrough", &log)?],
            Self::Nginx => vec![start_nginx(folder, port, &log)?],
            Self::Floor => {
                let records = folder.join("records").display().to_string();
                let args = ["floor", "--port", &port.to_string(), "--dir", &records].map(str::to_owned);
                vec![Owned::part(&args, folder, &log)?]
            }
            Self::Ffmpeg => (0..)
                .zip(ports)
                .map(|(number, port)| {
                    start_ffmpeg(&self.recording(folder, number), folder, *port, number, &log)
                })
                .collect::<Result<_>>()?,
        };
        Ok(Server { processes })
    }
}

fn runs(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn start_reeld(tools: &Tools, folder: &Path, port: u16, http: u16, audio: &str, log: &Path) -> Result<Owned> {
    for name in ["hooks", "state"] {
        fs::create_dir_all(folder.join(name)).context("cannot make a folder for reeld")?;
    }
    let quoted = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
    let config = folder.join("reeld.toml");
    let properties = folder.join("reeld.properties");
    let mut text = String::new();
    writeln!(
        text,
        "[listen]\nhttp = \"127.0.0.1:{http}\"\nrtmp = \"127.0.0.1:{port}\"\nrtsp = \"127.0.0.1:0\"\n\n[paths]"
    )?;
    for name in ["records", "hooks", "state"] {
        writeln!(text, "{name} = {}", quoted(&folder.join(name)))?;
    }
    writeln!(text, "pipelines = {}\n\n[policy]\nfile = {}", quoted(&tools.pipelines), quoted(&properties))?;
    // WebRTC publishers connect one after another and begin together. What is measured is not refused.
    writeln!(text, "\n[limits]\nconnect_timeout = \"5m\"\npublisher_timeout = \"2m\"")?;
    writeln!(text, "max_transcodes = 0\nmax_cpu = \"off\"")?;
    fs::write(&config, text).context("cannot write reeld.toml")?;
    let policy = format!(
        "record_flash_published_streams=true\nrecord_webrtc_streams=always\nrecord_audio={audio}\n\
         stream_record_policy=streamName\non_record_hook_script=\n"
    );
    fs::write(&properties, policy).context("cannot write reeld.properties")?;
    let args = ["serve", "--config", &config.display().to_string()].map(str::to_owned);
    let reeld = tools.reeld.canonicalize().context("cannot find reeld")?;
    Owned::program(&reeld.display().to_string(), &args, folder, log)
}

/// One worker; the files are `NAME.flv`.
fn start_nginx(folder: &Path, port: u16, log: &Path) -> Result<Owned> {
    let config = folder.join("nginx.conf");
    let here = folder.display();
    let user = if rustix::process::getuid().is_root() { "user root;\n" } else { "" };
    fs::create_dir_all(folder.join("logs")).context("cannot make a folder for nginx")?;
    let text = format!(
        "load_module {NGINX_RTMP_MODULE};\n{user}daemon off;\nworker_processes 1;\n\
         error_log {here}/logs/error.log error;\npid {here}/nginx.pid;\n\
         events {{ worker_connections 4096; }}\n\
         rtmp {{ access_log off; server {{ listen 127.0.0.1:{port}; chunk_size 4096;\n\
         application live {{ live on; record all; record_path {here}/records; record_unique off; }} }} }}\n"
    );
    fs::write(&config, text).context("cannot write nginx.conf")?;
    let args = ["-p", &here.to_string(), "-c", &config.display().to_string()].map(str::to_owned);
    Owned::program("nginx", &args, folder, log)
}

fn start_ffmpeg(recording: &Path, folder: &Path, port: u16, number: u32, log: &Path) -> Result<Owned> {
    let url = format!("rtmp://127.0.0.1:{port}/live/s{number}");
    let output = recording.display().to_string();
    let args =
        ["-nostdin", "-v", "error", "-y", "-listen", "1", "-i", &url, "-c", "copy", "-f", "mp4", &output];
    Owned::program("ffmpeg", &args.map(str::to_owned), folder, log)
}
