//! `reeld.toml`: where the daemon listens, where it keeps things, and its limits.

use super::admission::{Admission, admission};
use super::delivery::{self, DELIVERY_KEYS, DeliveryConfig};
use super::disk::{self, DiskRule, RetentionRule};
use super::monitor::{self, MonitorLimits};
use super::reach::DeliveryRules;
use super::storage::{self, STORAGE_KEYS, StoreConfig};
use super::toml_keys::{Known, Settings, count, duration, size, text};
use super::ways_in::{self, SOURCE_KEYS, SourceConfig, SourceRules, TLS_KEYS, Tls, WEBRTC_KEYS, Webrtc};
use super::{Loaded, Problem, outcome, quoted, read_file};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use toml::de::DeValue;

const KNOWN: &Known = &[
    ("listen", &["http", "rtmp", "rtmps", "rtsp"]),
    ("paths", &["records", "hooks", "pipelines", "state"]),
    ("policy", &["file"]),
    ("webrtc", WEBRTC_KEYS),
    ("tls", TLS_KEYS),
    ("source[]", SOURCE_KEYS),
    ("database", &["url"]),
    ("storage", STORAGE_KEYS),
    ("delivery", DELIVERY_KEYS),
    (
        "limits",
        &[
            "publisher_timeout",
            "handshake_timeout",
            "shutdown_timeout",
            "hook_timeout",
            "hook_concurrency",
            "max_connections",
            "max_message_size",
            "recorder_queue",
            "connect_timeout",
            "max_sources",
            "preroll",
            "recorder_memory",
            "preroll_memory",
            "max_part_duration",
            "allow_sources",
            "disk_warn",
            "disk_refuse",
            "disk_end",
            "retention_age",
            "retention_bytes",
            "retention_free",
            "max_recordings",
            "max_sessions",
            "max_transcodes",
            "max_cpu",
            "allow_delivery",
            "monitor_interval",
            "key_frame_timeout",
        ],
    ),
];

pub(super) const SECOND: Duration = Duration::from_secs(1);
/// `[storage] sync_interval` where nothing is said.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(super) const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
pub(super) const GIB: u64 = 1024 * MIB;

/// Everything `reeld.toml` says. Paths are absolute; a path written relative starts at the file's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    pub listen: Listen,
    pub paths: Paths,
    /// The properties file with the record policy.
    pub policy_file: PathBuf,
    /// The SQLite file of the catalog.
    pub catalog_file: PathBuf,
    pub limits: Limits,
    /// How much is taken on at the same time.
    pub admission: Admission,
    pub webrtc: Webrtc,
    /// For RTMPS.
    pub tls: Option<Tls>,
    /// Streams that are pulled from the start on.
    pub sources: Vec<SourceConfig>,
    pub allow_sources: SourceRules,
    pub monitor: MonitorLimits,
    /// Where news and finished files go to.
    pub delivery: DeliveryConfig,
    /// Which hosts they may go to.
    pub allow_delivery: DeliveryRules,
    /// How often what is being written is synced to the disk; zero: after each fragment.
    pub sync_interval: Duration,
    /// Where finished files go; `None`: they stay here.
    pub store: Option<StoreConfig>,
    /// When the disk of the records counts as full.
    pub disk: DiskRule,
    /// Which recordings are deleted to make room.
    pub retention: RetentionRule,
}

/// Port 0 picks a free port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    pub http: SocketAddr,
    pub rtmp: SocketAddr,
    /// RTMP over TLS; `None`: not offered.
    pub rtmps: Option<SocketAddr>,
    pub rtsp: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    pub records: PathBuf,
    pub hooks: PathBuf,
    pub pipelines: PathBuf,
    pub state: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A publisher that sends nothing for this long is ended.
    pub publisher_timeout: Duration,
    /// Time a new connection has to finish its handshake.
    pub handshake_timeout: Duration,
    /// Time that running recordings have to end when the daemon stops.
    pub shutdown_timeout: Duration,
    /// A hook script that runs longer is killed.
    pub hook_timeout: Duration,
    /// Hook scripts that run at the same time.
    pub hook_concurrency: usize,
    /// RTMP and RTSP connections and WHIP sessions at the same time, each counted for itself.
    pub max_connections: usize,
    /// Largest RTMP message, bytes.
    pub max_message_bytes: u64,
    /// Bytes a recorder may fall behind its stream.
    pub recorder_queue_bytes: u64,
    /// Bytes that all recorders together may fall behind.
    pub recorder_memory_bytes: u64,
    /// Time a WebRTC publisher has from its offer to its first packet, and a pulled source from connect to PLAY.
    pub connect_timeout: Duration,
    /// Pulled sources at the same time.
    pub max_sources: usize,
    /// The longest pre-roll that a start may ask for: so much of the past is kept of streams that are not recorded.
    pub preroll: Duration,
    /// Memory of what is kept for pre-roll, of all streams together, bytes.
    pub preroll_memory_bytes: u64,
    /// A recording goes on in its next part when one has come to this: it bounds the memory an MP4's index takes.
    pub max_part_duration: Duration,
}

impl Default for Listen {
    fn default() -> Self {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { http: at(9091), rtmp: at(1935), rtmps: None, rtsp: at(8554) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            publisher_timeout: 10 * SECOND,
            handshake_timeout: 5 * SECOND,
            shutdown_timeout: 30 * SECOND,
            hook_timeout: 60 * SECOND,
            hook_concurrency: 4,
            max_connections: 1000,
            max_message_bytes: 8 * MIB,
            recorder_queue_bytes: 32 * MIB,
            recorder_memory_bytes: GIB,
            connect_timeout: 15 * SECOND,
            max_sources: 1000,
            preroll: 30 * SECOND,
            preroll_memory_bytes: 64 * MIB,
            max_part_duration: 12 * HOUR,
        }
    }
}

impl DaemonConfig {
    /// Reads the file. Blocks on the disk.
    pub fn load(path: &Path) -> Loaded<DaemonConfig> {
        let bytes = read_file(path).map_err(|problem| vec![problem])?;
        let text = match str::from_utf8(&bytes) {
            Ok(text) => text,
            Err(e) => {
                let line = bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
                return Err(vec![Problem::error(path, line, "not UTF-8; save the file as UTF-8")]);
            }
        };
        let base = folder_of(path).map_err(|e| {
            vec![Problem::error(
                path,
                0,
                format!("cannot tell which folder it is in: {e}; give an absolute path"),
            )]
        })?;
        let mut settings = Settings::parse(text.strip_prefix('\u{feff}').unwrap_or(text), path, KNOWN);
        let config = read(&mut settings, &base);
        cross_check(&mut settings, &config);
        outcome(config, settings.problems)
    }
}

/// The absolute folder of `path`, symlinks resolved so that `..` can be taken off lexically.
fn folder_of(path: &Path) -> std::io::Result<PathBuf> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    folder.canonicalize()
}

fn read(settings: &mut Settings, base: &Path) -> DaemonConfig {
    let listen = Listen::default();
    let mut path = |section, key, default: &str| {
        settings.get(section, key, at(base, default), |v| path_value(v, default).map(|p| at(base, &p)))
    };
    let paths = Paths {
        records: path("paths", "records", "records"),
        hooks: path("paths", "hooks", "hooks"),
        pipelines: path("paths", "pipelines", "pipelines"),
        state: path("paths", "state", "state"),
    };
    let policy_file = path("policy", "file", "reeld.properties");
    let catalog = paths.state.join("catalog.sqlite");
    let allow_sources = ways_in::allow_sources(settings);
    let allow_delivery = delivery::allow_delivery(settings);
    DaemonConfig {
        listen: Listen {
            http: settings.get("listen", "http", listen.http, |v| address(v, listen.http)),
            rtmp: settings.get("listen", "rtmp", listen.rtmp, |v| address(v, listen.rtmp)),
            rtmps: settings.get("listen", "rtmps", None, |v| {
                address(v, SocketAddr::from((Ipv4Addr::LOCALHOST, 443))).map(Some)
            }),
            rtsp: settings.get("listen", "rtsp", listen.rtsp, |v| address(v, listen.rtsp)),
        },
        catalog_file: settings
            .get("database", "url", None, |v| database(v).map(|file| file.map(|f| at(base, &f))))
            .unwrap_or(catalog),
        paths,
        policy_file,
        limits: limits(settings),
        disk: disk::disk(settings),
        retention: disk::retention(settings),
        admission: admission(settings),
        webrtc: ways_in::webrtc(settings),
        tls: ways_in::tls(settings, base),
        sources: ways_in::sources(settings, &allow_sources),
        allow_sources,
        delivery: delivery::delivery(settings, base, &allow_delivery),
        allow_delivery,
        monitor: monitor::monitor(settings),
        sync_interval: settings
            .get("storage", "sync_interval", SYNC_INTERVAL, |v| duration(v, Duration::ZERO..=10 * MINUTE)),
        store: storage::store(settings, base, &|name| std::env::var_os(name).is_some()),
    }
}

fn limits(settings: &mut Settings) -> Limits {
    let default = Limits::default();
    let mut time = |key, default, range| settings.get("limits", key, default, |v| duration(v, range));
    let publisher_timeout = time("publisher_timeout", default.publisher_timeout, SECOND..=HOUR);
    let handshake_timeout =
        time("handshake_timeout", default.handshake_timeout, Duration::from_millis(100)..=MINUTE);
    let shutdown_timeout = time("shutdown_timeout", default.shutdown_timeout, SECOND..=HOUR);
    let hook_timeout = time("hook_timeout", default.hook_timeout, SECOND..=24 * HOUR);
    let connect_timeout = time("connect_timeout", default.connect_timeout, SECOND..=5 * MINUTE);
    let preroll = time("preroll", default.preroll, Duration::ZERO..=10 * MINUTE);
    let max_part_duration = time("max_part_duration", default.max_part_duration, MINUTE..=7 * 24 * HOUR);
    let mut number = |key, default, range| settings.get("limits", key, default, |v| count(v, range));
    let hook_concurrency = number("hook_concurrency", default.hook_concurrency, 1..=256);
    let max_connections = number("max_connections", default.max_connections, 1..=100_000);
    let max_sources = number("max_sources", default.max_sources, 0..=100_000);
    let mut bytes = |key, default, range| settings.get("limits", key, default, |v| size(v, range));
    Limits {
        publisher_timeout,
        handshake_timeout,
        shutdown_timeout,
        hook_timeout,
        hook_concurrency,
        max_connections,
        // The length of an RTMP message is a 24-bit field (RTMP 1.0 §5.3.1).
        max_message_bytes: bytes("max_message_size", default.max_message_bytes, 64 * KIB..=16 * MIB),
        connect_timeout,
        max_sources,
        preroll,
        preroll_memory_bytes: bytes("preroll_memory", default.preroll_memory_bytes, MIB..=64 * GIB),
        max_part_duration,
        recorder_queue_bytes: bytes("recorder_queue", default.recorder_queue_bytes, MIB..=4 * GIB),
        recorder_memory_bytes: bytes("recorder_memory", default.recorder_memory_bytes, MIB..=1024 * GIB),
    }
}

/// What each value allows and two together do not.
fn cross_check(settings: &mut Settings, config: &DaemonConfig) {
    let Listen { http, rtmp, rtmps, rtsp } = config.listen;
    let listeners = [("http", Some(http)), ("rtmp", Some(rtmp)), ("rtmps", rtmps), ("rtsp", Some(rtsp))];
    for (n, (one, address)) in listeners.iter().enumerate() {
        let Some(address) = address.filter(|a| a.port() != 0) else { continue };
        for (other, _) in listeners[n + 1..].iter().filter(|(_, b)| *b == Some(address)) {
            let line = settings.line_of("listen", one).max(settings.line_of("listen", other));
            let what = format!("{one} and {other} both listen on {address}; give one of them another port");
            settings.error(line, what);
        }
    }
    if rtmps.is_some() && config.tls.is_none() {
        let line = settings.line_of("listen", "rtmps");
        settings.error(line, "rtmps needs a certificate; write [tls] with certificate and key".into());
    }
    let Limits {
        max_message_bytes, recorder_queue_bytes, recorder_memory_bytes, preroll_memory_bytes, ..
    } = config.limits;
    if recorder_queue_bytes < max_message_bytes {
        let line =
            settings.line_of("limits", "recorder_queue").max(settings.line_of("limits", "max_message_size"));
        let what =
            "recorder_queue is smaller than max_message_size, so one frame can overflow it; make it larger";
        settings.error(line, what.into());
    }
    if recorder_memory_bytes < recorder_queue_bytes {
        let line =
            settings.line_of("limits", "recorder_memory").max(settings.line_of("limits", "recorder_queue"));
        let what = "recorder_memory is smaller than recorder_queue, so that no recorder can use its own; make it larger";
        settings.error(line, what.into());
    }
    if preroll_memory_bytes < max_message_bytes {
        let line =
            settings.line_of("limits", "preroll_memory").max(settings.line_of("limits", "max_message_size"));
        let what =
            "preroll_memory is smaller than max_message_size, so one frame can use it up; make it larger";
        settings.warn(line, what.into());
    }
    disk::cross_check(settings, &config.disk, &config.retention);
    if config.paths.records == config.paths.state {
        let line = settings.line_of("paths", "records").max(settings.line_of("paths", "state"));
        let what =
            "records and state are one folder, so the catalog lies among the recordings; give state its own";
        settings.warn(line, what.into());
    }
}

fn address(value: &DeValue, default: SocketAddr) -> Result<SocketAddr, String> {
    let example = default.to_string();
    let text = text(value, &example)?;
    text.parse().map_err(|_| {
        format!(
            "{} is not ADDRESS:PORT with a numeric address; write for example \"{example}\"",
            quoted(&text)
        )
    })
}

fn path_value(value: &DeValue, example: &str) -> Result<String, String> {
    match text(value, example)? {
        text if text.is_empty() => Err(format!("empty; write a path, for example \"{example}\"")),
        text => Ok(text),
    }
}

/// The file of a `sqlite://` URL; `None` for the default place.
fn database(value: &DeValue) -> Result<Option<String>, String> {
    let url = text(value, "sqlite:///var/lib/reeld/catalog.sqlite")?;
    if url.is_empty() {
        return Ok(None);
    }
    let write = "write sqlite:///ABSOLUTE/FILE, or \"\" for catalog.sqlite in the state folder";
    match url.strip_prefix("sqlite://") {
        // The URL may hold a password, so it is not repeated.
        None => Err(format!("only SQLite is supported by this version; {write}")),
        Some("") => Err(format!("it names no file; {write}")),
        Some(file) if file.contains(['?', '#']) => Err(format!("options are not supported; {write}")),
        Some(file) => Ok(Some(file.to_owned())),
    }
}

/// `path` seen from `base`, without `.` and `..`.
pub(super) fn at(base: &Path, path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in base.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests;
