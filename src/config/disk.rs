//! `[limits] disk_*` and `retention_*`: how much room the records folder keeps, and which recordings make room.

use super::daemon::{GIB, HOUR, KIB, SECOND};
use super::quoted;
use super::toml_keys::{Settings, duration, size};
use std::{fmt, time::Duration};
use toml::de::DeValue;

/// Hundredths of a percent.
const WHOLE: u32 = 10_000;
const LARGEST: u64 = 1 << 60;
const YEAR: Duration = Duration::from_secs(31_557_600);

/// So much of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Bytes(u64),
    /// Hundredths of a percent of the disk.
    Share(u32),
    /// Whichever is less: a share that is right for a small disk is far too much of a large one.
    Smaller {
        share: u32,
        bytes: u64,
    },
}

impl Space {
    /// Bytes of a disk of `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        let part = |share: u32| (u128::from(total) * u128::from(share) / u128::from(WHOLE)) as u64;
        match self {
            Space::Bytes(bytes) => bytes,
            Space::Share(share) => part(share),
            Space::Smaller { share, bytes } => part(share).min(bytes),
        }
    }

    /// `"10%"`, `"20GiB"`, or `"10% or 20GiB"`.
    fn parse(value: &DeValue) -> Result<Self, String> {
        let write = "write a share of the disk, a size, or both, of which the smaller holds: \"10%\", \"20GiB\", \
                     \"10% or 20GiB\"";
        let bytes = |value: &DeValue| size(value, 64 * KIB..=LARGEST);
        let Some(text) = value.as_str() else { return bytes(value).map(Space::Bytes) };
        let share = |text: &str| {
            let number = text.trim().strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok());
            let share = number.map(|n| (n * 100.0).round());
            match share.filter(|s| (1.0..=f64::from(WHOLE / 2)).contains(s)) {
                Some(share) => Ok(share as u32),
                None => Err(format!("{} is no share from 0.01% to 50%; {write}", quoted(text))),
            }
        };
        match text.split_once(" or ") {
            Some((one, other)) => {
                let bytes = bytes(&DeValue::String(other.trim().into()))?;
                Ok(Space::Smaller { share: share(one)?, bytes })
            }
            None if text.contains('%') => share(text).map(Space::Share),
            None => bytes(value).map(Space::Bytes).map_err(|e| format!("{e}, or a share, like \"10%\"")),
        }
    }

    /// Whether it is less than `other` on every disk.
    fn is_surely_less(self, other: Self) -> bool {
        match (self, other) {
            (Space::Bytes(one), Space::Bytes(other)) => one < other,
            (Space::Share(one), Space::Share(other)) => one < other,
            (Space::Smaller { share, bytes }, Space::Smaller { share: other, bytes: most }) => {
                share <= other && bytes <= most && (share, bytes) != (other, most)
            }
            (Space::Smaller { bytes, .. }, Space::Bytes(other)) => bytes < other,
            (Space::Smaller { share, .. }, Space::Share(other)) => share < other,
            _ => false,
        }
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: u32| f64::from(share) / 100.0;
        match *self {
            Space::Bytes(bytes) => write!(f, "{}", bytesize::ByteSize(bytes)),
            Space::Share(share) => write!(f, "{}%", percent(share)),
            Space::Smaller { share, bytes } => {
                write!(f, "{}% or {}", percent(share), bytesize::ByteSize(bytes))
            }
        }
    }
}

/// With less free space than each of these the next step is taken (`control::disk`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskRule {
    /// It is told.
    pub warn: Space,
    /// Nothing new is recorded.
    pub refuse: Space,
    /// What is recorded is ended.
    pub end: Space,
}

impl Default for DiskRule {
    fn default() -> Self {
        let smaller = |percent: u32, bytes| Space::Smaller { share: percent * 100, bytes };
        Self { warn: smaller(10, 20 * GIB), refuse: smaller(5, 4 * GIB), end: smaller(2, GIB) }
    }
}

/// Which recordings are deleted to make room. Each rule that is given holds; without any nothing is ever deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionRule {
    /// Those that ended longer ago.
    pub age: Option<Duration>,
    /// The oldest, while all together have more bytes.
    pub bytes: Option<u64>,
    /// The oldest, while less is free.
    pub free: Option<Space>,
}

impl RetentionRule {
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }
}

pub(super) fn disk(settings: &mut Settings) -> DiskRule {
    let default = DiskRule::default();
    let mut space = |key, default| settings.get("limits", key, default, Space::parse);
    DiskRule {
        warn: space("disk_warn", default.warn),
        refuse: space("disk_refuse", default.refuse),
        end: space("disk_end", default.end),
    }
}

pub(super) fn retention(settings: &mut Settings) -> RetentionRule {
    RetentionRule {
        age: settings.get("limits", "retention_age", None, |v| duration(v, SECOND..=100 * YEAR).map(Some)),
        bytes: settings.get("limits", "retention_bytes", None, |v| size(v, 1..=LARGEST).map(Some)),
        free: settings.get("limits", "retention_free", None, |v| Space::parse(v).map(Some)),
    }
}

/// Marks in the wrong order can never be met in theirs.
pub(super) fn cross_check(settings: &mut Settings, disk: &DiskRule, retention: &RetentionRule) {
    let marks = [("disk_warn", disk.warn), ("disk_refuse", disk.refuse), ("disk_end", disk.end)];
    for pair in marks.windows(2) {
        let [(above, more), (below, less)] = [pair[0], pair[1]];
        if more.is_surely_less(less) {
            let line = settings.line_of("limits", above).max(settings.line_of("limits", below));
            let what = format!(
                "{above} ({more}) is less than {below} ({less}): warn comes first, then refuse, then end; make {above} larger"
            );
            settings.error(line, what);
        }
    }
    if let Some(free) = retention.free.filter(|free| free.is_surely_less(disk.refuse)) {
        let line = settings.line_of("limits", "retention_free");
        let what = format!(
            "retention_free ({free}) is less than disk_refuse ({}): recordings are refused before any is deleted; make it larger",
            disk.refuse
        );
        settings.warn(line, what);
    }
    if retention.age.is_some_and(|age| age < HOUR) {
        let line = settings.line_of("limits", "retention_age");
        settings.warn(line, "retention_age: recordings are deleted within the hour that they end in".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DaemonConfig;

    fn load(limits: &str) -> Result<DaemonConfig, String> {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("reeld.toml");
        std::fs::write(&file, format!("[limits]\n{limits}\n")).expect("a file");
        match DaemonConfig::load(&file) {
            Ok((config, warnings)) if warnings.is_empty() => Ok(config),
            Ok((_, problems)) | Err(problems) => Err(problems[0].what.clone()),
        }
    }

    #[test]
    fn the_defaults_suit_a_small_disk_and_a_large_one() {
        let DiskRule { warn, refuse, end } = DiskRule::default();
        let small = 64 << 20;
        assert_eq!((warn.of(small), refuse.of(small), end.of(small)), (6_710_886, 3_355_443, 1_342_177));
        let large = 10_000_000_000_000;
        assert_eq!((warn.of(large), refuse.of(large), end.of(large)), (20 * GIB, 4 * GIB, GIB));
        assert!(load("").expect("nothing").retention.is_off());
    }

    #[test]
    fn shares_and_sizes_are_read() {
        let config = load(
            "disk_warn = \"12.5%\"\ndisk_refuse = \"3GiB\"\ndisk_end = \" 1% or 500MiB \"\nretention_age = \"30d\"\n\
             retention_bytes = \"2TiB\"\nretention_free = \"15%\"",
        )
        .expect("a good file");
        let end = Space::Smaller { share: 100, bytes: 500 << 20 };
        assert_eq!(config.disk, DiskRule { warn: Space::Share(1250), refuse: Space::Bytes(3 * GIB), end });
        let retention = RetentionRule {
            age: Some(Duration::from_secs(30 * 86_400)),
            bytes: Some(2 << 40),
            free: Some(Space::Share(1500)),
        };
        assert_eq!(config.retention, retention);
        assert_eq!([config.disk.warn, end].map(|s| s.to_string()), ["12.5%", "1% or 500.0 MiB"]);
    }

    #[test]
    fn what_cannot_be_is_told_with_a_remedy() {
        for (limits, said) in [
            ("disk_warn = \"60%\"", "is no share from 0.01% to 50%; write a share of the disk, a size"),
            ("disk_end = \"1%% or 1GiB\"", "is no share"),
            ("disk_end = \"lots\"", "or a share, like \"10%\""),
            ("disk_refuse = true", "expected a size"),
            ("retention_age = \"500ms\"", "is out of range"),
            ("retention_age = \"10m\"", "within the hour"),
            ("disk_refuse = \"1%\"\ndisk_end = \"3%\"", "disk_refuse (1%) is less than disk_end (3%)"),
            ("disk_warn = \"1GiB\"\ndisk_refuse = \"2GiB\"", "make disk_warn larger"),
            ("disk_end = \"6% or 5GiB\"", "disk_refuse (5% or 4.0 GiB) is less than disk_end"),
            ("retention_free = \"1%\"\ndisk_refuse = \"2%\"\ndisk_end = \"1%\"", "before any is deleted"),
        ] {
            let what = load(limits).expect_err(limits);
            assert!(what.contains(said), "{limits}: {what}");
        }
        load("disk_warn = \"1GiB\"\ndisk_refuse = \"5%\"").expect("which is more depends on the disk");
    }
}
