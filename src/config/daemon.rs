//! `reeld.toml`: where the daemon listens, where it keeps things, and its limits.

use super::toml_keys::{Known, Settings, count, duration, size, text};
use super::{Loaded, Problem, outcome, quoted, read_file};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use toml::de::DeValue;

const KNOWN: &Known = &[
    ("listen", &["http", "rtmp"]),
    ("paths", &["records", "hooks", "pipelines", "state"]),
    ("policy", &["file"]),
    ("database", &["url"]),
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
        ],
    ),
];

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

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
}

/// Port 0 picks a free port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    pub http: SocketAddr,
    pub rtmp: SocketAddr,
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
    /// RTMP connections at the same time.
    pub max_connections: usize,
    /// Largest RTMP message, bytes.
    pub max_message_bytes: u64,
    /// Bytes a recorder may fall behind its stream.
    pub recorder_queue_bytes: u64,
}

impl Default for Listen {
    fn default() -> Self {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { http: at(9091), rtmp: at(1935) }
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
    DaemonConfig {
        listen: Listen {
            http: settings.get("listen", "http", listen.http, |v| address(v, listen.http)),
            rtmp: settings.get("listen", "rtmp", listen.rtmp, |v| address(v, listen.rtmp)),
        },
        catalog_file: settings
            .get("database", "url", None, |v| database(v).map(|file| file.map(|f| at(base, &f))))
            .unwrap_or(catalog),
        paths,
        policy_file,
        limits: limits(settings),
    }
}

fn limits(settings: &mut Settings) -> Limits {
    let default = Limits::default();
    let mut time = |key, default, range| settings.get("limits", key, default, |v| duration(v, range));
    let publisher_timeout = time("publisher_timeout", default.publisher_timeout, SECOND..=HOUR);
    let handshake_timeout =
        time("handshake_timeout", default.handshake_timeout, Duration::from_millis(100)..=60 * SECOND);
    let shutdown_timeout = time("shutdown_timeout", default.shutdown_timeout, SECOND..=HOUR);
    let hook_timeout = time("hook_timeout", default.hook_timeout, SECOND..=24 * HOUR);
    let mut number = |key, default, range| settings.get("limits", key, default, |v| count(v, range));
    let hook_concurrency = number("hook_concurrency", default.hook_concurrency, 1..=256);
    let max_connections = number("max_connections", default.max_connections, 1..=100_000);
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
        recorder_queue_bytes: bytes("recorder_queue", default.recorder_queue_bytes, MIB..=4 * GIB),
    }
}

/// What each value allows and two together do not.
fn cross_check(settings: &mut Settings, config: &DaemonConfig) {
    let Listen { http, rtmp } = config.listen;
    if http == rtmp && http.port() != 0 {
        let line = settings.line_of("listen", "http").max(settings.line_of("listen", "rtmp"));
        settings.error(line, format!("http and rtmp both listen on {http}; give one of them another port"));
    }
    let Limits { max_message_bytes, recorder_queue_bytes, .. } = config.limits;
    if recorder_queue_bytes < max_message_bytes {
        let line =
            settings.line_of("limits", "recorder_queue").max(settings.line_of("limits", "max_message_size"));
        let what =
            "recorder_queue is smaller than max_message_size, so one frame can overflow it; make it larger";
        settings.error(line, what.into());
    }
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
fn at(base: &Path, path: &str) -> PathBuf {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn load(text: &str) -> (PathBuf, Loaded<DaemonConfig>) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("reeld.toml");
        std::fs::write(&file, text).unwrap();
        (dir.path().canonicalize().unwrap(), DaemonConfig::load(&file))
    }

    fn clean(text: &str) -> (PathBuf, DaemonConfig) {
        let (dir, loaded) = load(text);
        let (config, warnings) = loaded.unwrap_or_else(|p| panic!("{text}: {p:?}"));
        assert_eq!(warnings, [], "{text}");
        (dir, config)
    }

    fn problems(text: &str) -> Vec<String> {
        let problems = load(text).1.expect_err(text);
        problems.iter().map(|p| format!("{}: {}", p.line, p.what)).collect()
    }

    #[test]
    fn an_empty_file_works() {
        let (dir, config) = clean("");
        assert_eq!(config.listen.http.to_string(), "127.0.0.1:9091");
        assert_eq!(config.listen.rtmp.to_string(), "127.0.0.1:1935");
        assert_eq!(config.paths.records, dir.join("records"));
        assert_eq!(config.policy_file, dir.join("reeld.properties"));
        assert_eq!(config.catalog_file, dir.join("state/catalog.sqlite"));
        assert_eq!(config.limits, Limits::default());
    }

    #[test]
    fn each_key_sets_its_field() {
        let (dir, config) = clean(
            r#"
            [listen]
            http = "[::1]:0"
            rtmp = "0.0.0.0:0"
            [paths]
            records = "/r/./x/../y"
            hooks = "../h"
            pipelines = "p"
            state = "/s"
            [policy]
            file = "/etc/flashphoner.properties"
            [database]
            url = "sqlite://cat.db"
            [limits]
            publisher_timeout = "1m 30s"
            handshake_timeout = "500ms"
            shutdown_timeout = "2m"
            hook_timeout = "1h"
            hook_concurrency = 2
            max_connections = 5
            max_message_size = 65536
            recorder_queue = "1.5 GiB"
            "#,
        );
        assert_eq!(
            (config.listen.http.to_string(), config.listen.rtmp.to_string()),
            ("[::1]:0".into(), "0.0.0.0:0".into())
        );
        let expected = Paths {
            records: "/r/y".into(),
            hooks: dir.parent().unwrap().join("h"),
            pipelines: dir.join("p"),
            state: "/s".into(),
        };
        assert_eq!(config.paths, expected);
        assert_eq!(config.policy_file, Path::new("/etc/flashphoner.properties"));
        assert_eq!(config.catalog_file, dir.join("cat.db"));
        let expected = Limits {
            publisher_timeout: 90 * SECOND,
            handshake_timeout: Duration::from_millis(500),
            shutdown_timeout: 120 * SECOND,
            hook_timeout: HOUR,
            hook_concurrency: 2,
            max_connections: 5,
            max_message_bytes: 65536,
            recorder_queue_bytes: 1536 * MIB,
        };
        assert_eq!(config.limits, expected);
    }

    #[test]
    fn every_known_key_is_read() {
        for (section, keys) in KNOWN {
            for key in *keys {
                let found = problems(&format!("[{section}]\n{key} = true\n"));
                assert!(found.len() == 1 && found[0].starts_with(&format!("2: {key}: ")), "{found:?}");
            }
        }
    }

    #[test]
    fn a_mistake_says_what_to_write_instead() {
        let cases = [
            (
                "[listen]\nhtp = \"\"",
                "2: unknown key in [listen]: \"htp\", did you mean http?; known are http, rtmp",
            ),
            (
                "[listn]",
                "1: unknown section: \"listn\", did you mean listen?; known are listen, paths, policy, database, limits",
            ),
            ("http = \"127.0.0.1:1\"", "1: http belongs to a section; write it under [listen]"),
            ("listen = 1", "1: listen is a section; write [listen] on a line of its own"),
            (
                "[listen]\nhttp = 9091",
                "2: http: expected a text, found integer; write for example \"127.0.0.1:9091\"",
            ),
            (
                "[listen]\nrtmp = \"localhost:1935\"",
                "2: rtmp: \"localhost:1935\" is not ADDRESS:PORT with a numeric address; write for example \"127.0.0.1:1935\"",
            ),
            ("[paths]\nstate = \"\"", "2: state: empty; write a path, for example \"state\""),
            ("[paths]\nstate = \"a\\u0000\"", "2: state: \"a\\0\" holds a control character; remove it"),
            (
                "[database]\nurl = \"postgres://u:p@h/d\"",
                "2: url: only SQLite is supported by this version; write sqlite:///ABSOLUTE/FILE, or \"\" for catalog.sqlite in the state folder",
            ),
            (
                "[limits]\npublisher_timeout = 10",
                "2: publisher_timeout: integer has no unit; write a duration from \"1s\" to \"1h\", like \"10s\" or \"500ms\"",
            ),
            (
                "[limits]\npublisher_timeout = \"10\"",
                "2: publisher_timeout: \"10\" is not a duration; write a duration from \"1s\" to \"1h\", like \"10s\" or \"500ms\"",
            ),
            (
                "[limits]\nhandshake_timeout = \"1h\"",
                "2: handshake_timeout: \"1h\" is out of range; write a duration from \"100ms\" to \"1m\", like \"10s\" or \"500ms\"",
            ),
            (
                "[limits]\nhook_concurrency = 0",
                "2: hook_concurrency: not a number that works here; write a whole number from 1 to 256, without quotes",
            ),
            (
                "[limits]\nmax_message_size = \"17MiB\"",
                "2: max_message_size: \"17MiB\" is out of range; write a size from \"64.0 KiB\" to \"16.0 MiB\", like \"8MiB\"",
            ),
            (
                "[limits]\nrecorder_queue = \"lots\"",
                "2: recorder_queue: \"lots\" is not a size; write a size from \"1.0 MiB\" to \"4.0 GiB\", like \"8MiB\"",
            ),
            (
                "[limits]\nrecorder_queue = \"1MiB\"",
                "2: recorder_queue is smaller than max_message_size, so one frame can overflow it; make it larger",
            ),
            (
                "[listen]\nhttp = \"127.0.0.1:1935\"",
                "2: http and rtmp both listen on 127.0.0.1:1935; give one of them another port",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(problems(text), [expected], "{text}");
        }
    }

    #[test]
    fn all_mistakes_are_collected_in_line_order() {
        let text = "[listen]\nhttp = 127.0.0.1\nx = 1\nrtmp = \"x\"\n[limits]\nhook_timeout = \"0s\"\nhook_timeout = \"1s\"\n[zzz]\n";
        let lines: Vec<String> =
            problems(text).iter().map(|p| p.split(':').next().unwrap().to_owned()).collect();
        assert_eq!(lines, ["2", "3", "4", "6", "7", "8"]);
    }

    #[test]
    fn records_among_state_is_a_warning() {
        let (_, warnings) = load("[paths]\nrecords = \"a\"\nstate = \"./a\"").1.unwrap();
        assert_eq!(
            (warnings.len(), warnings[0].line, warnings[0].severity),
            (1, 3, crate::config::Severity::Warning)
        );
    }

    #[test]
    fn text_that_is_not_utf8_names_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("reeld.toml");
        std::fs::write(&file, b"# a\n# \xff\n").unwrap();
        let problems = DaemonConfig::load(&file).unwrap_err();
        assert_eq!(problems, [Problem::error(&file, 2, "not UTF-8; save the file as UTF-8")]);
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused_without_a_panic(text in "([\\[\\]=\"'\n{}.,#0a]|http|listen|limits|.){0,40}") {
            let mut settings = Settings::parse(&text, Path::new("t"), KNOWN);
            let config = read(&mut settings, Path::new("/b"));
            cross_check(&mut settings, &config);
            prop_assert!(config.paths.records.is_absolute());
        }
    }
}
