//! The record policy: Flashphoner's recording keys, in a Java properties file.

use super::properties::{self, Entry};
use super::rotation::{Rotation, RotationAlign, parse_seconds};
use super::{Loaded, NameTemplate, Problem, RecordFormats, nearest, outcome, quoted, read_file};
use crate::media::{HealthChecks, HealthReason};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEFAULT_TEMPLATE: &str = "stream-{sessionId}-{mediaSessionId}";

/// Flashphoner's key comes first, then ours.
const RTMP_KEYS: [&str; 2] = ["record_flash_published_streams", "record_rtmp_streams"];

const KEYS: [&str; 19] = [
    "record_streams",
    RTMP_KEYS[0],
    RTMP_KEYS[1],
    "record_rtsp_streams",
    "record_webrtc_streams",
    "stream_record_policy",
    "stream_record_policy_template",
    "encode_record_name",
    "exclude_record_name_characters",
    "record_rotation",
    "record_rotation_align",
    "record_preroll",
    "record_resume_window",
    "record_formats",
    "record_audio",
    "record_health_checks",
    "on_record_hook_script",
    "file_recorder_error_interval",
    "file_recorder_max_errors_per_interval",
];

const MAX_PREROLL: Duration = Duration::from_secs(10 * 60);
const MAX_RESUME_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// Name of the hook script when the file does not say.
const DEFAULT_HOOK: &str = "on_record_hook.sh";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebrtcRecording {
    /// When the publisher passes `record=true`.
    Asked,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioRule {
    /// AAC in MP4, Vorbis in WebM; transcoded when the publisher sends something else.
    Auto,
    /// Opus stays Opus.
    Passthrough,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameEncoding {
    /// Lower-case digits.
    Hex,
    /// URL-safe alphabet, no padding (RFC 4648 §5).
    Base64,
}

/// How the name of a file is made; `record::naming` applies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRule {
    pub template: NameTemplate,
    /// For the whole name, without its extension.
    pub encoding: Option<NameEncoding>,
    /// Characters removed from the name before it is encoded.
    pub exclude: Vec<char>,
}

/// What is recorded and how, as the properties file says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Master switch: when off, nothing is recorded.
    pub record_streams: bool,
    pub record_rtmp_streams: bool,
    pub record_rtsp_streams: bool,
    pub record_webrtc_streams: WebrtcRecording,
    pub name: NameRule,
    pub formats: RecordFormats,
    pub audio: AudioRule,
    /// As written; `None` means no hook. See [`Policy::hook_in`].
    pub hook_script: Option<PathBuf>,
    /// A recording that meets `max_errors` write errors within this time ends.
    pub error_interval: Duration,
    pub max_errors: u32,
    pub rotation: Rotation,
    pub rotation_align: RotationAlign,
    /// How much from before its start a recording has that is asked for.
    pub preroll: Duration,
    /// How long a recording waits for a publisher that is gone to come back; zero: not at all.
    pub resume_window: Duration,
    /// What is looked for in a recording while it runs.
    pub health_checks: HealthChecks,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            record_streams: true,
            record_rtmp_streams: false,
            record_rtsp_streams: false,
            record_webrtc_streams: WebrtcRecording::Asked,
            name: NameRule {
                template: NameTemplate::parse(DEFAULT_TEMPLATE).expect("the default template is well formed"),
                encoding: None,
                exclude: vec!['/'],
            },
            formats: RecordFormats::default(),
            audio: AudioRule::Auto,
            hook_script: Some(PathBuf::from(DEFAULT_HOOK)),
            error_interval: Duration::from_secs(60 * 60),
            max_errors: 3,
            rotation: Rotation::default(),
            rotation_align: RotationAlign::Start,
            preroll: Duration::ZERO,
            resume_window: Duration::ZERO,
            health_checks: HealthChecks::ALL,
        }
    }
}

impl Policy {
    /// Reads the file. Blocks on the disk.
    pub fn load(path: &Path) -> Loaded<Policy> {
        let bytes = read_file(path).map_err(|problem| vec![problem])?;
        let mut problems = Vec::new();
        let text = properties::decode(&bytes, path, &mut problems);
        read(&text, path, problems)
    }

    /// Reads `text`; `file` is named in the problems.
    pub fn parse(text: &str, file: &Path) -> Loaded<Policy> {
        read(text, file, Vec::new())
    }

    /// The hook script: the absolute path the file gives, or that name in the folder of hooks. The script of the
    /// default name is one that may be missing: then there is no hook. Any other that is missing is a failed hook.
    pub fn hook_in(&self, hooks: &Path) -> Option<PathBuf> {
        let name = self.hook_script.as_deref()?;
        let script = hooks.join(name);
        (name != Path::new(DEFAULT_HOOK) || script.exists()).then_some(script)
    }
}

fn read(text: &str, file: &Path, mut problems: Vec<Problem>) -> Loaded<Policy> {
    let entries = properties::parse(text, file, &mut problems);
    let mut settings = Settings::new(file, &entries, problems);
    let default = Policy::default();
    let policy = Policy {
        record_streams: settings.get("record_streams", default.record_streams, boolean),
        record_rtmp_streams: settings.rtmp(default.record_rtmp_streams),
        record_rtsp_streams: settings.get("record_rtsp_streams", default.record_rtsp_streams, boolean),
        record_webrtc_streams: settings.get("record_webrtc_streams", default.record_webrtc_streams, |v| {
            use WebrtcRecording::{Always, Asked, Never};
            word(v, &[("asked", Asked), ("always", Always), ("never", Never)])
        }),
        name: settings.name_rule(default.name),
        formats: settings.formats(default.formats),
        audio: settings.get("record_audio", default.audio, |v| {
            word(v, &[("auto", AudioRule::Auto), ("passthrough", AudioRule::Passthrough)])
        }),
        hook_script: settings.get("on_record_hook_script", default.hook_script, hook_script),
        error_interval: settings.get("file_recorder_error_interval", default.error_interval, |v| {
            number(v, 1..=525_600, "minutes").map(|minutes| Duration::from_secs(u64::from(minutes) * 60))
        }),
        max_errors: settings.get("file_recorder_max_errors_per_interval", default.max_errors, |v| {
            number(v, 1..=1_000_000, "errors")
        }),
        rotation: settings.get("record_rotation", default.rotation, Rotation::parse),
        rotation_align: settings.get("record_rotation_align", default.rotation_align, |v| {
            word(v, &[("start", RotationAlign::Start), ("clock", RotationAlign::Clock)])
        }),
        preroll: settings.get("record_preroll", default.preroll, |v| time(v, MAX_PREROLL)),
        resume_window: settings
            .get("record_resume_window", default.resume_window, |v| time(v, MAX_RESUME_WINDOW)),
        health_checks: settings.get("record_health_checks", default.health_checks, health_checks),
    };
    outcome(policy, settings.problems)
}

/// The settings that count, one per key, and what is wrong with the file so far.
struct Settings<'e> {
    file: &'e Path,
    entries: BTreeMap<&'e str, &'e Entry>,
    problems: Vec<Problem>,
}

impl<'e> Settings<'e> {
    fn new(file: &'e Path, all: &'e [Entry], problems: Vec<Problem>) -> Self {
        let mut settings = Self { file, entries: BTreeMap::new(), problems };
        for entry in all {
            let key = entry.key.as_str();
            let earlier = settings.entries.insert(key, entry);
            if !KEYS.contains(&key) {
                if earlier.is_none() {
                    settings.unknown(entry);
                }
                continue;
            }
            if let Some(earlier) = earlier {
                let what =
                    format!("{key}: given on line {} already; this line wins, remove one", earlier.line);
                settings.warn(entry.line, what);
            }
            if let Some(line) = entry.swallowed_line {
                let what = format!(
                    "{key}: the \\ at the end makes line {line} part of this value; write \\\\ for a backslash"
                );
                settings.warn(entry.line, what);
            }
        }
        settings
    }

    fn warn(&mut self, line: usize, what: String) {
        self.problems.push(Problem::warning(self.file, line, what));
    }

    fn error(&mut self, line: usize, what: String) {
        self.problems.push(Problem::error(self.file, line, what));
    }

    fn unknown(&mut self, entry: &Entry) {
        let hint = match nearest(&entry.key, KEYS, 0.85) {
            Some(known) => format!("; did you mean {known}?"),
            None => String::new(),
        };
        self.warn(entry.line, format!("{}: unknown key, it has no effect{hint}", bare(&entry.key)));
    }

    /// The value of `key` without the blanks around it, or `default` when it is not given or wrong.
    fn get<T>(&mut self, key: &str, default: T, read: impl FnOnce(&str) -> Result<T, String>) -> T {
        let Some(entry) = self.entries.get(key).copied() else { return default };
        match read(entry.value.trim()) {
            Ok(value) => value,
            Err(what) => {
                self.error(entry.line, format!("{key}: {what}"));
                default
            }
        }
    }

    fn rtmp(&mut self, default: bool) -> bool {
        let [flash, ours] = RTMP_KEYS.map(|key| {
            let line = self.entries.get(key).map_or(0, |e| e.line);
            self.get(key, None, |v| boolean(v).map(Some)).map(|value| (value, line))
        });
        if let (Some((one, line_one)), Some((other, line_other))) = (flash, ours)
            && one != other
        {
            let [flash_key, our_key] = RTMP_KEYS;
            let what = format!(
                "{our_key} (line {line_other}) and {flash_key} (line {line_one}) are two names of one switch \
                 and differ; keep one"
            );
            self.error(line_one.max(line_other), what);
        }
        flash.or(ours).map_or(default, |(value, _)| value)
    }

    fn name_rule(&mut self, default: NameRule) -> NameRule {
        let by_stream_name = self
            .get("stream_record_policy", false, |v| word(v, &[("template", false), ("streamName", true)]));
        let template = self.get("stream_record_policy_template", default.template, |v| {
            NameTemplate::parse(v).map_err(|e| e.to_string())
        });
        let encoding = self.get("encode_record_name", default.encoding, encoding);
        // Encoding and removing are two ways to the same end: a name that is encoded keeps its `/`
        // unless the file says to remove it, or `a/b` and `ab` would get the same name.
        let exclude = match self.entries.get("exclude_record_name_characters") {
            // Blanks count here: they are characters to remove.
            Some(entry) => entry.value.chars().collect(),
            None if encoding.is_some() => Vec::new(),
            None => default.exclude,
        };
        let template = match by_stream_name {
            true => NameTemplate::parse("{streamName}").expect("a single known key is well formed"),
            false => template,
        };
        NameRule { template, encoding, exclude }
    }

    fn formats(&mut self, default: RecordFormats) -> RecordFormats {
        let Some(entry) = self.entries.get("record_formats").copied() else { return default };
        match RecordFormats::parse(&entry.value) {
            Ok(formats) => formats,
            Err(errors) => {
                for e in errors {
                    self.error(entry.line, format!("record_formats: {e}"));
                }
                default
            }
        }
    }
}

/// A key as messages show it: bare, unless it is long or odd.
fn bare(key: &str) -> String {
    let plain = key.len() <= 80 && key.chars().all(|c| !c.is_control() && !c.is_whitespace());
    if plain { key.to_owned() } else { quoted(key) }
}

fn boolean(value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{} is neither true nor false; write one of them", quoted(value))),
    }
}

fn word<T: Copy>(value: &str, known: &[(&str, T)]) -> Result<T, String> {
    let found = known.iter().find(|(word, _)| word.eq_ignore_ascii_case(value));
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
        format!("{} is not known; write {}", quoted(value), words.join(" or "))
    })
}

fn number(value: &str, range: RangeInclusive<u32>, unit: &str) -> Result<u32, String> {
    value.parse().ok().filter(|n| range.contains(n)).ok_or_else(|| {
        let (least, most) = range.into_inner();
        format!("{} is not a number of {unit}; write a whole number from {least} to {most}", quoted(value))
    })
}

/// Nothing is zero, as these keys had it before they did anything.
fn time(value: &str, most: Duration) -> Result<Duration, String> {
    if value.is_empty() { Ok(Duration::ZERO) } else { parse_seconds(value, Duration::ZERO..=most) }
}

fn encoding(value: &str) -> Result<Option<NameEncoding>, String> {
    let compact: String = value.chars().filter(|c| !c.is_whitespace()).collect();
    match compact.to_ascii_uppercase().as_str() {
        "FALSE" => Ok(None),
        "TRUE,HEX" => Ok(Some(NameEncoding::Hex)),
        "TRUE,BASE64" => Ok(Some(NameEncoding::Base64)),
        _ => Err(format!("{} is not known; write false or true,HEX or true,BASE64", quoted(value))),
    }
}

/// `all`, `none`, or reasons with commas between; with a `-` in front, all but that.
fn health_checks(value: &str) -> Result<HealthChecks, String> {
    let words: Vec<_> = value.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    match words[..] {
        ["all"] => return Ok(HealthChecks::ALL),
        ["none"] => return Ok(HealthChecks::NONE),
        _ => {}
    }
    let known = || HealthReason::ALL.map(HealthReason::as_str);
    let write = || {
        format!(
            "write all, none, or some of {} with commas between, or each with - in front for all but those",
            known().join(" ")
        )
    };
    let but = words.iter().filter(|word| word.starts_with('-')).count();
    if words.is_empty() || (but != 0 && but != words.len()) {
        return Err(format!(
            "{} is neither a list of checks nor one of those left out; {}",
            quoted(value),
            write()
        ));
    }
    let named = words.iter().map(|word| {
        let word = word.strip_prefix('-').unwrap_or(word);
        HealthReason::parse(word).ok_or_else(|| match nearest(word, known(), 0.6) {
            Some(meant) => format!("{} is not known; did you mean {meant}?", quoted(word)),
            None => format!("{} is not known; {}", quoted(word), write()),
        })
    });
    let named = named.collect::<Result<Vec<_>, _>>()?;
    let wanted = |reason: &HealthReason| named.contains(reason) == (but == 0);
    Ok(HealthReason::ALL.into_iter().filter(wanted).collect())
}

fn hook_script(value: &str) -> Result<Option<PathBuf>, String> {
    match value {
        "" => Ok(None),
        _ if value.contains('\0') => {
            Err("a path cannot hold a NUL character; write the path of a script".into())
        }
        _ => Ok(Some(PathBuf::from(value))),
    }
}

#[cfg(test)]
mod tests;
