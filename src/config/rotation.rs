//! When a recording goes on in its next part, and times as the policy and the API write them.

use super::quoted;
use std::{ops::RangeInclusive, time::Duration};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// As disks and upload limits are sold. Flashphoner does not say which megabyte it means; this one is the smaller.
const MEGABYTE: u64 = 1_000_000;
const GIGABYTE: u64 = 1_000 * MEGABYTE;
const MAX_BYTES: u64 = 1_000 * GIGABYTE;

/// When a recording goes on in its next part: whichever limit is reached first. The part ends at the next key frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Media time of a part.
    pub duration: Option<Duration>,
    /// Bytes of a part.
    pub bytes: Option<u64>,
}

/// Where the seams of a rotation by time lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationAlign {
    /// Counted from the beginning of each part.
    Start,
    /// On the multiples of the duration since 1970-01-01 00:00 UTC.
    Clock,
}

impl Rotation {
    pub fn is_off(self) -> bool {
        self == Self::default()
    }

    /// `20` (seconds), `90s`, `10m`, `1h`, `10M` (megabytes), `1G`, one of each as `1h,1G`; `off`, `0` or nothing. The
    /// error says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        if matches!(text.trim().to_ascii_lowercase().as_str(), "" | "0" | "off") {
            return Ok(Self::default());
        }
        let bad = || {
            format!(
                "{} is not a rotation; write seconds like 20, a time like 90s, 10m or 1h, megabytes like 10M, 1G, \
                 a time and a size like 1h,1G, or off",
                quoted(text)
            )
        };
        let mut rotation = Self::default();
        for limit in text.split(',') {
            let first = match parse_limit(limit.trim()).ok_or_else(bad)? {
                Limit::Time(duration) => rotation.duration.replace(duration).is_none(),
                Limit::Size(bytes) => rotation.bytes.replace(bytes).is_none(),
            };
            if !first {
                return Err(bad());
            }
        }
        let in_range = rotation.duration.is_none_or(|d| (1..=7 * DAY).contains(&d.as_secs()))
            && rotation.bytes.is_none_or(|b| (MEGABYTE..=MAX_BYTES).contains(&b));
        match in_range {
            true => Ok(rotation),
            false => Err(format!(
                "{} is out of range; write a time of 1s to 168h, a size of 1M to 1000G",
                quoted(text)
            )),
        }
    }
}

enum Limit {
    Time(Duration),
    Size(u64),
}

/// `None`: neither a time nor a size. `m` are minutes and `M` megabytes, so the case counts.
fn parse_limit(text: &str) -> Option<Limit> {
    let size = [('M', MEGABYTE), ('G', GIGABYTE)]
        .into_iter()
        .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
    match size {
        Some((number, unit)) => whole(number)?.checked_mul(unit).map(Limit::Size),
        None => parse_time(text).map(Limit::Time),
    }
}

/// `20` (seconds), `90s`, `10m` or `1h`.
fn parse_time(text: &str) -> Option<Duration> {
    let (number, unit) = [('s', 1), ('m', MINUTE), ('h', HOUR)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
        .unwrap_or((text, 1));
    whole(number)?.checked_mul(unit).map(Duration::from_secs)
}

/// Digits and nothing else.
fn whole(text: &str) -> Option<u64> {
    let text = text.trim_end();
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A time of whole seconds, as [`Rotation::parse`] takes it: `10`, `10s`, `2m`. The error says what to write.
pub fn parse_seconds(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let time = parse_time(text.trim());
    time.filter(|time| range.contains(time)).ok_or_else(|| {
        let (least, most) = (range.start().as_secs(), range.end().as_secs());
        format!(
            "{} is not a time that works here; write seconds from {least} to {most}, like 10 or 10s",
            quoted(text)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(seconds: Option<u64>, bytes: Option<u64>) -> Rotation {
        Rotation { duration: seconds.map(Duration::from_secs), bytes }
    }

    #[test]
    fn a_rotation_is_a_time_a_size_or_both() {
        for (text, expected) in [
            ("", of(None, None)),
            (" OFF ", of(None, None)),
            ("0", of(None, None)),
            ("20", of(Some(20), None)),
            ("90s", of(Some(90), None)),
            ("10m", of(Some(600), None)),
            ("1 h", of(Some(3600), None)),
            ("168h", of(Some(7 * DAY), None)),
            ("10M", of(None, Some(10_000_000))),
            ("1000G", of(None, Some(1_000_000_000_000))),
            ("1h,1G", of(Some(3600), Some(1_000_000_000))),
            (" 5M , 20 ", of(Some(20), Some(5_000_000))),
        ] {
            assert_eq!(Rotation::parse(text), Ok(expected), "{text}");
            assert_eq!(expected.is_off(), expected == of(None, None));
        }
    }

    #[test]
    fn what_is_none_is_refused_with_words() {
        for text in [
            "x", "-1", "+1", "1.5h", "10K", "10MB", "M", "1h,", "1h,2h", "1h,0", "1M,1G", "1h,1M,1", "1h30m",
            "٣",
        ] {
            let error = Rotation::parse(text).expect_err(text);
            assert!(error.starts_with(&quoted(text)) && error.contains("write seconds like 20"), "{error}");
        }
        for text in ["169h", "0M", "0s", "1001G", "1h,0M", "18446744073709551615"] {
            let error = Rotation::parse(text).expect_err(text);
            assert!(error.contains("1s to 168h") && error.contains("1M to 1000G"), "{error}");
        }
    }

    #[test]
    fn times_are_whole_seconds() {
        let range = || Duration::ZERO..=Duration::from_secs(600);
        for (text, seconds) in [("0", 0), ("10", 10), (" 10s ", 10), ("2m", 120), ("600", 600)] {
            assert_eq!(parse_seconds(text, range()), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "601", "1h", "x", "10ms", "1M", "-1"] {
            let error = parse_seconds(text, range()).expect_err(text);
            assert!(error.contains("write seconds from 0 to 600, like 10 or 10s"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused_without_a_panic(text in "([0-9]{0,20}[smhMG, ]?){0,3}|.{0,20}") {
            let _ = Rotation::parse(&text);
            let _ = parse_seconds(&text, Duration::ZERO..=Duration::from_secs(1));
        }
    }
}
