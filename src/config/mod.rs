//! What the operator writes: `reeld.toml` (the daemon), the properties file (the record policy), and the watch on both.
//!
//! Loading never stops at the first mistake: every [`Problem`] of a file is collected with its line.

mod admission;
mod daemon;
mod delivery;
mod disk;
mod formats;
mod monitor;
mod name_template;
mod policy;
mod properties;
mod reach;
mod rotation;
mod storage;
mod toml_keys;
mod watch;
mod ways_in;

pub use admission::Admission;
pub use daemon::{DaemonConfig, Limits, Listen, Paths, SYNC_INTERVAL};
pub use delivery::{DeliveryConfig, WebhookSecret};
pub use disk::{DiskRule, RetentionRule, Space};
pub use formats::{Container, FormatError, RecordFormats};
pub use monitor::MonitorLimits;
pub use name_template::{NameTemplate, TemplateError, TemplateKey, TemplatePiece};
pub use policy::{AudioRule, NameEncoding, NameRule, Policy, WebrtcRecording};
pub use reach::{AddressKind, DeliveryRefused, DeliveryRules, MAX_DELIVERY_URL};
pub use rotation::{Rotation, RotationAlign, parse_seconds};
pub use storage::{KeepLocal, Secret, StoreConfig, StoreKind};
pub use watch::{WatchError, Watcher, watch};
pub use ways_in::{CREDENTIALS_HINT, HostRule, SourceConfig, SourceRules, Tls, Transport, Webrtc};

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest configuration file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Longest text from a file that is repeated in a message, in characters.
const MAX_QUOTED_CHARS: usize = 80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken; what the line asks for does not happen.
    Warning,
}

/// One thing wrong with a configuration file. Displays as `file:line: what`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    /// Counts from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// What is wrong, and what to write instead.
    pub what: String,
    pub severity: Severity,
}

impl Problem {
    pub fn error(file: &Path, line: usize, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, what: what.into(), severity: Severity::Error }
    }

    pub fn warning(file: &Path, line: usize, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, what: what.into(), severity: Severity::Warning }
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.what),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.what),
        }
    }
}

/// A loaded file with its warnings, or everything that is wrong with it (warnings too), in line order.
pub type Loaded<T> = Result<(T, Vec<Problem>), Vec<Problem>>;

fn outcome<T>(value: T, mut problems: Vec<Problem>) -> Loaded<T> {
    problems.sort_by_key(|p| p.line);
    match problems.iter().any(Problem::is_error) {
        true => Err(problems),
        false => Ok((value, problems)),
    }
}

/// The bytes of a regular file of at most [`MAX_FILE_BYTES`].
fn read_file(path: &Path) -> Result<Vec<u8>, Problem> {
    let unreadable = |e: std::io::Error| {
        Problem::error(path, 0, format!("cannot read it: {e}; check its path and its rights"))
    };
    // A FIFO or a device would block or never end.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(Problem::error(path, 0, "not a regular file; name a text file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Problem::error(path, 0, "larger than 1 MiB; is this the right file?"));
    }
    Ok(bytes)
}

/// The known word most like `word`, when it is alike enough to be a slip of the pen.
fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>, least: f64) -> Option<&'k str> {
    if word.len() > 64 {
        return None;
    }
    let word = word.to_ascii_lowercase();
    known
        .into_iter()
        .map(|k| (strsim::normalized_damerau_levenshtein(&word, &k.to_ascii_lowercase()), k))
        .filter(|(likeness, _)| *likeness >= least)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

/// `text` as a message repeats it: quoted, escaped, bounded.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Where the daemon's configuration is looked for when no `--config` says.
pub const CONFIG_PLACES: [&str; 2] = ["/etc/reeld/reeld.toml", "conf/reeld.toml"];

/// The configuration file: the one given, else the first of [`CONFIG_PLACES`] that exists.
pub fn find(given: Option<&Path>) -> Option<PathBuf> {
    let places = || CONFIG_PLACES.iter().map(PathBuf::from).find(|place| place.is_file());
    given.map(Path::to_owned).or_else(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_files_load_without_a_problem() {
        let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
        let (daemon, warnings) = DaemonConfig::load(&conf.join("reeld.toml")).expect("reeld.toml loads");
        assert_eq!(warnings, []);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().unwrap();
        assert_eq!(daemon.paths.records, root.join("records"));
        assert_eq!(daemon.paths.hooks, root.join("hooks"));
        assert_eq!(daemon.paths.pipelines, root.join("pipelines"));
        assert_eq!(daemon.paths.state, root.join("state"));

        let (policy, warnings) = Policy::load(&daemon.policy_file).expect("reeld.properties loads");
        assert_eq!(warnings, []);
        let expected = Policy { record_rtmp_streams: true, record_rtsp_streams: true, ..Policy::default() };
        assert_eq!(policy, expected, "the shipped file differs from the defaults in these two only");
    }

    /// The commented lines of the shipped files teach the defaults, so they must be the defaults.
    #[test]
    fn the_commented_defaults_are_the_defaults() {
        let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
        let uncomment = |name: &str| {
            let text = std::fs::read_to_string(conf.join(name)).unwrap();
            let lines =
                text.lines().map(|l| l.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(l));
            lines.collect::<Vec<_>>().join("\n")
        };
        let (policy, warnings) =
            Policy::parse(&uncomment("reeld.properties"), Path::new("p")).expect("the properties parse");
        assert_eq!(warnings, []);
        let expected = Policy { record_rtmp_streams: true, record_rtsp_streams: true, ..Policy::default() };
        assert_eq!(policy, expected);

        let dir = tempfile::tempdir().unwrap();
        let shipped = DaemonConfig::load(&conf.join("reeld.toml")).unwrap().0;
        std::fs::write(dir.path().join("reeld.toml"), uncomment("reeld.toml")).unwrap();
        let all = DaemonConfig::load(&dir.path().join("reeld.toml")).unwrap().0;
        assert_eq!((all.listen, all.limits), (shipped.listen, shipped.limits));
        assert_eq!((all.sync_interval, all.disk), (shipped.sync_interval, shipped.disk));
    }

    #[test]
    fn only_a_regular_file_of_reasonable_size_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let what = |p: &Path| read_file(p).unwrap_err().to_string();
        assert!(what(&dir.path().join("gone")).contains("gone: cannot read it: No such file"));
        assert!(what(dir.path()).contains("not a regular file"));
        let big = dir.path().join("big");
        std::fs::File::create(&big).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        assert!(what(&big).contains("larger than 1 MiB"));
    }
}
