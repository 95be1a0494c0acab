//! `[limits]`: how much is taken on at the same time.

use super::quoted;
use super::toml_keys::{Settings, count, text};
use toml::de::DeValue;

const MOST: usize = 100_000;

/// 0 means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Recordings under way.
    pub max_recordings: usize,
    /// Live streams, of all ways in together.
    pub max_sessions: usize,
    /// Tracks that are decoded and encoded; `None`: by the number of processors.
    pub max_transcodes: Option<usize>,
    /// Percent of the processors above which what has to be transcoded is refused; `None`: never.
    pub max_cpu_percent: Option<u8>,
}

impl Default for Admission {
    fn default() -> Self {
        Self { max_recordings: 0, max_sessions: 0, max_transcodes: None, max_cpu_percent: Some(90) }
    }
}

pub(super) fn admission(settings: &mut Settings) -> Admission {
    let default = Admission::default();
    let mut number = |key, default| settings.get("limits", key, default, |v| count(v, 0..=MOST));
    let max_recordings = number("max_recordings", default.max_recordings);
    let max_sessions = number("max_sessions", default.max_sessions);
    Admission {
        max_recordings,
        max_sessions,
        max_transcodes: settings.get("limits", "max_transcodes", None, |v| count(v, 0..=MOST).map(Some)),
        max_cpu_percent: settings.get("limits", "max_cpu", default.max_cpu_percent, percent_or_off),
    }
}

fn percent_or_off(value: &DeValue) -> Result<Option<u8>, String> {
    let text = text(value, "90%")?;
    if text == "off" {
        return Ok(None);
    }
    let percent = text.strip_suffix('%').and_then(|number| number.trim().parse().ok());
    percent.filter(|p| (10..=99).contains(p)).map(Some).ok_or_else(|| {
        format!("{} is no share of the processors; write \"10%\" to \"99%\", or \"off\"", quoted(&text))
    })
}
