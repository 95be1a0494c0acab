//! The keys of `[limits]` that say how recordings are watched over.

use super::toml_keys::{Settings, duration};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitorLimits {
    /// How often a recording's picture and sound are looked at; zero: not at all.
    pub interval: Duration,
    /// Pictures that go on without a key frame for this long are a trouble.
    pub key_frame_timeout: Duration,
}

impl Default for MonitorLimits {
    fn default() -> Self {
        Self { interval: 10 * SECOND, key_frame_timeout: 20 * SECOND }
    }
}

pub(super) fn monitor(settings: &mut Settings) -> MonitorLimits {
    let default = MonitorLimits::default();
    let interval = settings.get("limits", "monitor_interval", default.interval, |value| {
        let read = duration(value, Duration::ZERO..=HOUR)?;
        match read {
            Duration::ZERO => Ok(read),
            read if read < SECOND => {
                Err("looking more often than once a second is not possible; write \"1s\" or more, or \"0s\" for off"
                .into())
            }
            read => Ok(read),
        }
    });
    let key_frame_timeout = settings
        .get("limits", "key_frame_timeout", default.key_frame_timeout, |v| duration(v, SECOND..=HOUR));
    MonitorLimits { interval, key_frame_timeout }
}
